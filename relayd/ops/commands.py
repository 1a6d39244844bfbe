"""What an operator can ask of a running relayd, command by command, over all shards."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from relayd.mail.content import Content
from relayd.mail.envelope import DIRECT, is_direct
from relayd.mail.ident import ident_text, shard_of
from relayd.mail.log import MailLog
from relayd.mail.message import RecipientState
from relayd.ops.answers import FiguresAnswer
from relayd.ops.documents import (
    COLUMNS,
    Document,
    OffError,
    Request,
    RequestError,
    add_figures,
    blamed,
    down,
    filter_of,
    ident_of,
    idents_of,
    lane_document,
    lost_addresses,
    no_figures,
    number_of,
    once_each,
    paces,
    provider_figures,
    rerouted,
    set_up_troubles,
    story,
    text_of,
    totals,
)
from relayd.ops.explain import QuestionError
from relayd.ops.finding import find_filter_of, found_in, newest_first
from relayd.ops.following import Events
from relayd.ops.rerouting import Borrow, BringBack, ReroutingDesk
from relayd.ops.suspending import SuspendingDesk
from relayd.ops.training import WORDS, trained
from relayd.spool.interface import Store
from relayd.spool.queue import LaneView, Standing
from relayd.spool.view import AS_THEY_ARE, Accepted, Backlog, QueueFilter

BESIDE = "beside"  # in a request: another process tells of what several share
NOTHING: Request = {}
PAGE = 1000  # messages in one piece of a listing: some 200 KB
AUDITED = 2000  # recipients in one piece of an audit
MAX_DESTINATIONS = 100  # lanes told by `status`, those in trouble first

Explain = Callable[[Request], Awaitable[Document]]
Complaint = Callable[[], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Backend:
    """One shard as the operator reaches it: here, or later in a worker of its own."""

    shard: int
    store: Store
    lanes: Callable[[], Iterable[LaneView]]
    figures: Callable[[], Mapping[str, object]]  # sessions, deliveries in flight, ...
    sites: Callable[[], Iterable[Mapping[str, object]]] = tuple  # that have a pace, or are blocked
    origins: Callable[[], Iterable[Mapping[str, object]]] = tuple  # whose mail is complained about
    borrow: Borrow = lambda messages: [True for _ in messages]  # from deliveries, to change them
    bring_back: BringBack = lambda keys, destinations: None
    lost: Callable[[], Iterable[Mapping[str, object]]] = tuple  # addresses that sources lack
    provider_of: Callable[[str], str] = lambda destination: ""
    full: Callable[[], Iterable[str]] = tuple  # limits of the configuration that are reached
    cluster: Callable[[], Awaitable[Document]] | None = None  # of the nodes that share the store


class Stream(Protocol):
    """Where an answer goes, piece by piece; each call waits while the reader is slow."""

    async def send(self, document: object) -> None:
        """One line of JSON."""

    async def send_line(self, line: bytes) -> None:
        """One line of JSON, written already, with its end."""

    async def send_content(self, content: Content) -> None:
        """A line that tells the size, then these octets."""

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """The same for octets that are still on their way."""


class Operations(Protocol):
    """What the control socket hands its requests to."""

    async def run(self, request: Request, stream: Stream, who: str) -> None:
        """Answer one request; raises RequestError. `who` is for the log."""


class Oauth(Protocol):
    """Who answers `relayctl oauth`; `others` are the commands that release mail."""

    async def run(self, request: Request, stream: Stream, who: str, others: Operations) -> None:
        """Answer one request; raises RequestError."""


class Rules(Protocol):
    """Who answers what the console asks about the files with the rules."""

    async def answer(self, request: Request, who: str) -> Document:
        """The answer to one request; raises RequestError."""


class CountsDesk(Protocol):
    """Who answers `relayctl limits`, `relayctl backscatter`, or `relayctl table`."""

    def answer(self, request: Request, who: str) -> Document:
        """The answer to one request; raises RequestError."""


class OperatorCommands:
    """Carries out requests. Anything a command needs beyond the spool is a plain callable.

    `about` gives what `status` tells of the process; `explain` answers a request (see
    relayd.ops.explain), `check` and `reload` give the complaint about the configuration on disk,
    empty when it is good (then `reload` has put it in force); `warnings` tells what is to be said
    of it all the same.
    """

    def __init__(
        self,
        backends: Sequence[Backend],
        *,
        about: Callable[[], Mapping[str, object]],
        explain: Explain,
        check: Complaint,
        reload: Complaint,
        log: MailLog,
        oauth: Oauth | None = None,
        suspending: SuspendingDesk | None = None,
        rerouting: ReroutingDesk | None = None,
        limits: CountsDesk | None = None,
        backscatter: CountsDesk | None = None,
        dkim: Explain | None = None,
        tables: CountsDesk | None = None,
        tokens: CountsDesk | None = None,
        rules: Rules | None = None,
        events: Events | None = None,
        said: Callable[[], Document] = dict,
        filters: Callable[[], Sequence[Document]] = tuple,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._suspending = suspending
        self._rerouting = rerouting
        self._backends = backends
        self._oauth = oauth
        self._limits = limits
        self._backscatter = backscatter
        self._dkim = dkim
        self._tables = tables
        self._tokens = tokens
        self._rules = rules
        self._events = events
        self._said = said
        self._filters = filters
        self._about = about
        self._explain = explain
        self._complaints = {"check": check, "reload": reload}
        self._log = log
        self._clock = clock
        self._commands: dict[str, Callable[[Request, Stream], Awaitable[None]]] = {
            "status": self._status,
            "queue": self._queue,
            "find": self._find,
            "figures": self._figures,
            "show": self._show,
            "why": self._show,
            "audit": self._audit,
            "cluster": self._cluster,
            "filters": self._tell_filters,
            "content": self._content,
            "explain": self._answer_explain,
            "check": self._answer_complaint,
            "reload": self._answer_complaint,
            **dict.fromkeys(("retry", "hold", "release", "remove"), self._change),
            "reroute": self._reroute,
            "pace": self._pace,
            "blame": self._blame,
            **dict.fromkeys(("suspend", "resume", "suspended"), self._suspend),
        }

    async def run(self, request: Request, stream: Stream, who: str) -> None:
        """Answer one request; raises RequestError. `who` is for the log."""
        name = text_of(request, "command")
        if name == "oauth" and self._oauth is not None:
            await self._oauth.run(request, stream, who, self)
            return
        if name == "limits" and self._limits is not None:
            await stream.send({"answer": self._limits.answer(request, who)})
            return
        if name == "backscatter" and self._backscatter is not None:
            await stream.send({"answer": self._backscatter.answer(request, who)})
            return
        if name == "table" and self._tables is not None:
            await stream.send({"answer": self._tables.answer(request, who)})
            return
        if name == "token":
            await stream.send({"answer": token_answer(self._tokens, request, who)})
            return
        if name == "rules":
            await stream.send({"answer": await rules_answer(self._rules, request, who)})
            return
        if name == "dkim" and self._dkim is not None:
            await stream.send({"answer": await self._dkim(request)})
            return
        if name == "follow" and self._events is not None:
            await self._events.follow(request, stream)
            return
        command = self._commands.get(name)
        if command is None:
            raise RequestError(f"no command {name!r}")
        if name == "reload" and request.get(BESIDE) is not True:  # whose master has said by whom
            self._log.notice("operator", command=name, by=who)
        await command({"by": who, **request}, stream)  # a master says who asked it

    def _telling(self, request: Request) -> list[Backend]:
        """Those that tell of what waits: of a store that several share one alone.

        None of them where another process does it (BESIDE).
        """
        shared = [backend for backend in self._backends if backend.cluster is not None]
        silent = shared if request.get(BESIDE) is True else shared[1:]
        return [backend for backend in self._backends if backend not in silent]

    async def _cluster(self, request: Request, stream: Stream) -> None:
        for backend in self._backends:
            if backend.cluster is not None:
                await stream.send({"answer": await backend.cluster()})
                return
        raise RequestError("mail waits in a folder here, which no other node shares")

    async def _status(self, request: Request, stream: Stream) -> None:
        counts = [await backend.store.counts() for backend in self._telling(request)]
        waiting = totals(counts)
        destinations: dict[str, int] = waiting.pop("destinations")
        lanes = [lane_document(view) for backend in self._backends for view in backend.lanes()]
        for lane in lanes:
            lane["waiting"] = destinations.pop(lane["destination"], 0)
        lanes += [
            {"destination": destination, "standing": "waiting", "waiting": count}
            for destination, count in destinations.items()
        ]
        oldest: dict[str, float] = {}
        for backend in self._telling(request):
            for name, at in (await backend.store.backlog()).oldest.items():
                oldest[name] = min(oldest.get(name, at), at)
        for lane in lanes:
            if lane["destination"] in oldest:
                lane["oldest"] = oldest[lane["destination"]]
        lanes.sort(key=lambda lane: (lane["standing"] == "open", -lane["waiting"]))
        await stream.send(
            {
                "answer": {
                    **self._about(),
                    "waiting": waiting,
                    "shards": [
                        {
                            "shard": backend.shard,
                            "healthy": backend.store.healthy,
                            **backend.figures(),
                        }
                        for backend in self._backends
                    ],
                    "destinations": lanes[:MAX_DESTINATIONS],
                    "more_destinations": max(len(lanes) - MAX_DESTINATIONS, 0),
                    "sites": [site for site in self._sites() if site["trouble"]],
                    "lost_addresses": lost_addresses(
                        dict(each) for backend in self._backends for each in backend.lost()
                    ),
                    "set_up": once_each(
                        each
                        for backend in self._backends
                        for each in set_up_troubles(backend.lanes())
                    ),
                    "full": [each for backend in self._backends for each in backend.full()],
                    "suspended": self._suspending.documents() if self._suspending else [],
                }
            }
        )

    async def figures(self, request: Request = NOTHING) -> FiguresAnswer:
        """What is known without counting."""
        total = no_figures()
        telling = self._telling(request)
        for backend in self._backends:
            backlog = await backend.store.backlog() if backend in telling else Backlog(0, 0, {})
            now = backend.figures()
            oldest: dict[str, float] = {}
            for destination, at in backlog.oldest.items():
                name = DIRECT if is_direct(destination) else destination
                oldest[name] = min(oldest.get(name, at), at)
            add_figures(
                total,
                {
                    "messages": backlog.messages,
                    "octets": backlog.octets,
                    "oldest": oldest,
                    "providers": provider_figures(
                        backlog.oldest, backend.provider_of, backend.sites()
                    ),
                    "sessions": int(str(now.get("sessions", 0))),
                    "deliveries": int(str(now.get("deliveries", 0))),
                    "healthy": backend.store.healthy,
                },
            )
        return total

    async def _figures(self, request: Request, stream: Stream) -> None:
        await stream.send({"answer": await self.figures(request)})

    def _sites(self) -> list[Document]:
        return paces([dict(site) for backend in self._backends for site in backend.sites()])

    async def _pace(self, request: Request, stream: Stream) -> None:
        await stream.send({"answer": {"sites": self._sites()}})

    async def _blame(self, request: Request, stream: Stream) -> None:
        found = [dict(each) for backend in self._backends for each in backend.origins()]
        await stream.send({"answer": {"origins": blamed(found)}})

    async def _suspend(self, request: Request, stream: Stream) -> None:
        if self._suspending is None:
            raise RequestError("nothing is suspended here")

        async def retry(wanted: QueueFilter) -> int:
            telling = self._telling(request)
            return sum([await backend.store.retry(wanted) for backend in telling])

        await stream.send({"answer": await self._suspending.run(request, retry)})

    async def _reroute(self, request: Request, stream: Stream) -> None:
        if self._rerouting is None:
            raise RequestError("there are no rules here")
        wanted = filter_of(request, self._clock())
        idents = idents_of(request)
        answers = [
            await self._rerouting.run(request, backend, replace(wanted, ident=ident))
            for ident in idents or [0]
            for backend in (self._holding(ident, request) if ident else self._telling(request))
        ]
        await stream.send({"answer": rerouted(answers)})

    async def _queue(self, request: Request, stream: Stream) -> None:
        wanted = filter_of(request, self._clock())
        left = int(number_of(request, "limit")) or -1
        head: Document = dict(COLUMNS)
        said: dict[str, float] = {}
        for backend in self._telling(request):
            # when those behind are tried, whatever their rows say
            views = down(backend.lanes()).values()
            lanes = {view.destination: view.probe_at for view in views}
            if head or lanes != said:
                behind = {
                    view.destination: str(view.trouble.reply)
                    for view in views
                    if view.trouble is not None and view.standing is not Standing.DOWN
                }
                await stream.send({**head, "lanes": lanes, "behind": behind})
            head, said = {}, lanes
            after: int | None = 0
            while after is not None and left:
                limit = min(PAGE, left) if left > 0 else PAGE
                page = await backend.store.listing(wanted, after, limit)
                after = page.after
                if page.messages:
                    left -= page.messages if left > 0 else 0
                    await stream.send_line(b'{"rows":%b}\n' % page.rows.encode())

    async def _find(self, request: Request, stream: Stream) -> None:
        wanted, most = find_filter_of(request), int(number_of(request, "limit"))
        sources = [found_in(backend.store, wanted, most) for backend in self._telling(request)]
        async for found in newest_first(sources, most):
            await stream.send({"found": found})

    async def _show(self, request: Request, stream: Stream) -> None:
        ident = ident_of(text_of(request, "id"))
        accepted = history = None
        lanes: dict[str, LaneView] = {}
        for backend in self._holding(ident, request):
            if accepted is None:
                accepted, lanes = await backend.store.load(ident), down(backend.lanes())
            history = history or await backend.store.history(ident)
        document = story(accepted, history, lanes)
        if document is None:
            raise RequestError(f"no message {ident_text(ident)}: not waiting, nor in the ledger")
        await stream.send({"answer": document})

    async def _audit(self, request: Request, stream: Stream) -> None:
        for backend in self._telling(request):
            after: int | None = 0
            while after is not None:
                audit = await backend.store.audit(after, AUDITED)
                after = audit.after
                found = [[ident_text(ident), *rest] for ident, *rest in audit.discrepancies]
                await stream.send({"audited": audit.accepted, "discrepancies": found})

    async def _tell_filters(self, request: Request, stream: Stream) -> None:
        await stream.send({"answer": {"filters": [*self._filters()]}})

    async def _content(self, request: Request, stream: Stream) -> None:
        ident = ident_of(text_of(request, "id"))
        found: Accepted | None = None
        for backend in self._holding(ident, request):
            found = found or await backend.store.load(ident)
        if found is None:
            raise RequestError(f"no message {ident_text(ident)} is waiting")
        await stream.send_content(found[0].content)

    async def _answer_explain(self, request: Request, stream: Stream) -> None:
        await stream.send({"answer": await explained(self._explain, request)})

    async def _answer_complaint(self, request: Request, stream: Stream) -> None:
        name = text_of(request, "command")
        answer: Document = {"complaint": await self._complaints[name]()}
        if not answer["complaint"]:
            answer |= self._said()
        if name == "reload" and not answer["complaint"]:
            answer["restart"] = self._about().get("restart", [])
        await stream.send({"answer": answer})

    async def _change(self, request: Request, stream: Stream) -> None:
        wanted = filter_of(request, self._clock())
        idents = idents_of(request)
        named = idents or replace(wanted, domain="") != QueueFilter()
        if not named and request.get("all") is not True:
            raise RequestError("nothing named: give message IDs, a filter, or --all")
        count = 0
        for ident in idents or [0]:
            for backend in self._holding(ident, request) if ident else self._telling(request):
                count += await self._change_in(backend.store, request, replace(wanted, ident=ident))
        if count:
            self._log.notice(
                "operator",
                command=text_of(request, "command"),
                by=text_of(request, "by"),
                recipients=count,
                asked=_asked(request),
            )
        await stream.send({"answer": {"recipients": count}})

    async def _change_in(self, store: Store, request: Request, wanted: QueueFilter) -> int:
        name = text_of(request, "command")
        if name == "remove":
            return await store.remove(wanted, text_of(request, "note") or "by the operator")
        if name == "hold":
            by, note = text_of(request, "by"), text_of(request, "note")
            return await store.hold(wanted, f"the operator ({by}){f': {note}' if note else ''}")
        if name == "retry":
            return await store.retry(wanted)
        return await store.release(wanted, await _trained(store, request, wanted))

    def _holding(self, ident: int, request: Request) -> list[Backend]:
        """The backends that may know a message: its shard's, or all when that one is gone."""
        telling = self._telling(request)
        own = [
            backend
            for backend in telling
            if backend.shard == shard_of(ident) and backend.cluster is None
        ]
        return own or telling


async def _trained(store: Store, request: Request, wanted: QueueFilter) -> Mapping[int, bytes]:
    word = text_of(request, "training")
    if not word:
        return AS_THEY_ARE
    if word not in WORDS:
        raise RequestError(f"{word!r} is no training: {' or '.join(WORDS)}")
    if not wanted.ident:
        raise RequestError("only messages that are named by ID are taught from")
    found = await store.load(wanted.ident)
    if found is None:
        return AS_THEY_ARE
    message, records = found
    held = {each.recipient.header for each in records if each.state is RecipientState.HELD}
    try:
        return {header: trained(message, header, word) for header in held}
    except OSError as error:
        raise RequestError(f"{message} is not released: its content: {error}") from error


def token_answer(tokens: CountsDesk | None, request: Request, who: str) -> Document:
    """The answer to `token`; raises RequestError."""
    if tokens is None:
        raise RequestError('there is no HTTP API: say "console listen unix:/..." for one')
    return tokens.answer(request, who)


async def rules_answer(rules: Rules | None, request: Request, who: str) -> Document:
    """The answer to `rules`; raises RequestError."""
    if rules is None:
        raise OffError('the files are not changed from here: "console may edit" allows it')
    return await rules.answer(request, who)


async def explained(explain: Explain, request: Request) -> Document:
    """The answer to `explain`; raises RequestError where the question makes no sense."""
    try:
        return await explain(request)
    except QuestionError as error:
        raise RequestError(str(error)) from error


def _asked(request: Request) -> str:
    """What a request named, for the log: `ids=1K7QJ4V8Z0G0 state=held`."""
    return " ".join(
        f"{name}={','.join(map(str, asked)) if isinstance(asked, list) else asked}"
        for name, asked in request.items()
        if asked and name not in ("command", "by")
    )
