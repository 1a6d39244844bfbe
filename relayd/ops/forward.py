"""The master's side of the control socket: asks every worker, and makes one answer of theirs."""

from __future__ import annotations

import json
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from relayd.mail.content import CHUNK
from relayd.mail.ident import shard_of
from relayd.mail.log import MailLog
from relayd.ops.answers import EventAnswer, FiguresAnswer
from relayd.ops.commands import (
    BESIDE,
    MAX_DESTINATIONS,
    Complaint,
    CountsDesk,
    Explain,
    Oauth,
    Rules,
    Stream,
    explained,
    rules_answer,
    token_answer,
)
from relayd.ops.documents import (
    BusyError,
    Document,
    Request,
    RequestError,
    add_figures,
    blamed,
    ident_of,
    lost_addresses,
    no_figures,
    number_of,
    once_each,
    paces,
    rerouted,
    text_of,
)
from relayd.ops.finding import FoundPieces, newest_first
from relayd.ops.following import Events, GoneError, MergedEvents, WantedEvents
from relayd.reactor.coroutine import log_bug, spawn
from relayd.reactor.workerpipe import Reactor

RELOAD_TIME = 60.0  # seconds for a worker to read the configuration; hundred thousands take one
CONNECT_TIME = 5.0  # seconds; a worker that is starting takes less
_TRIES = 50
_PAUSE = 0.1  # seconds between two of them
_OWN = ""  # whose events are the master's own
_ROWS = b'{"rows":'  # how a page of a queue begins
_HIGH_WATER = 16 * CHUNK  # octets of an answer held back for a slow reader

Workers = Callable[[], Mapping[Path, Sequence[int]]]
"""The control sockets of the workers, and which shards each one holds."""


class _Answer(Protocol):
    """A worker's answer as it comes in; paused while nobody takes it."""

    def __init__(self, request: Mapping[str, object]) -> None:
        self._request = request
        self._buffer = bytearray()
        self._waiting: Deferred[None] | None = None
        self._open = True

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(json.dumps(self._request).encode() + b"\n")

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        if len(self._buffer) > _HIGH_WATER:
            self.transport.pauseProducing()  # type: ignore[union-attr]  # a TCP-like transport
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        self._wake()

    def close(self) -> None:
        if self._open and self.transport is not None:
            self.transport.loseConnection()

    async def line(self) -> bytes:
        """The next line; raises RequestError when the worker has hung up."""
        while (end := self._buffer.find(b"\n")) < 0:
            await self._more()
        return self._take(end + 1)

    async def pieces(self, size: int) -> AsyncIterator[bytes]:
        """So many octets, as they come in."""
        while size:
            while not self._buffer:
                await self._more()
            piece = self._take(min(size, len(self._buffer)))
            size -= len(piece)
            yield piece

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        if self._open and len(self._buffer) <= _HIGH_WATER:
            self.transport.resumeProducing()  # type: ignore[union-attr]
        return taken

    async def _more(self) -> None:
        if not self._open:
            raise BusyError("a worker hung up; it may be starting again, try once more")
        self._waiting = Deferred()
        await self._waiting

    def _wake(self) -> None:
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(None)


class ForwardedCommands:
    """What Commands is to one process, over all workers; the same requests, the same answers."""

    def __init__(
        self,
        reactor: Reactor,
        workers: Workers,
        *,
        about: Callable[[], Mapping[str, object]],
        explain: Explain,
        check: Complaint,
        reload: Callable[[], Awaitable[str]],
        restart: Callable[[], Awaitable[str]],
        log: MailLog,
        oauth: Oauth | None = None,
        limits: CountsDesk | None = None,
        backscatter: CountsDesk | None = None,
        dkim: Explain | None = None,
        tables: CountsDesk | None = None,
        tokens: CountsDesk | None = None,
        rules: Rules | None = None,
        events: Events | None = None,
        said: Callable[[], Document] = dict,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._reactor = reactor
        self._workers = workers
        self._about = about
        self._explain = explain
        self._check = check
        self._reload = reload
        self._restart = restart
        self._log = log
        self._oauth = oauth
        self._limits = limits
        self._backscatter = backscatter
        self._dkim = dkim
        self._tables = tables
        self._tokens = tokens
        self._rules = rules
        self._events = events
        self._said = said

    async def run(self, request: Request, stream: Stream, who: str) -> None:
        """Answer one request; raises RequestError. `who` is for the log."""
        name = text_of(request, "command")
        if name == "queue":
            await self._queue(request, stream)
        elif name == "find":
            await self._find(request, stream)
        elif name == "follow" and self._events is not None:
            await self._follow(request, stream, self._events)
        elif name == "figures":
            await stream.send({"answer": await self.figures()})
        elif name == "status":
            await self._status(request, stream)
        elif name == "filters":
            await self._filters(request, stream)
        elif name in ("show", "why", "content"):
            await self._one(request, stream)
        elif name == "audit":
            await self._audit(request, stream)
        elif name == "cluster":
            await self._first(request, stream)
        elif name == "explain":
            await stream.send({"answer": await explained(self._explain, request)})
        elif name == "check":
            await stream.send({"answer": self._warned({"complaint": await self._check()})})
        elif name == "reload":
            self._log.notice("operator", command=name, by=who)
            answer: Document = {"complaint": await self._reload()}
            if not answer["complaint"]:
                answer["restart"] = self._about().get("restart", [])
            await stream.send({"answer": self._warned(answer)})
        elif name == "restart":
            self._log.notice("operator", command=name, by=who)
            complaint = await self._restart()
            if complaint:
                raise RequestError(f"no worker was stopped: {complaint}")
            await stream.send({"answer": {}})
        elif name == "pace":
            answers = await self._answers(request)
            sites = paces([site for answer in answers for site in answer["sites"]])
            await stream.send({"answer": {"sites": sites}})
        elif name == "blame":
            answers = await self._answers(request)
            found = blamed([each for answer in answers for each in answer["origins"]])
            await stream.send({"answer": {"origins": found}})
        elif name == "reroute":
            await stream.send({"answer": rerouted(await self._answers({**request, "by": who}))})
        elif name in ("suspend", "resume", "suspended"):
            # until the same moment in all of them
            seconds = number_of(request, "seconds")
            until = {"until": self._clock() + seconds} if seconds else {}
            answers = await self._answers({**request, **until, "by": who})
            # one that did not answer the last time may know more of them, or fewer, than the others
            await stream.send(
                {"answer": max(answers, key=lambda each: sum(map(len, each.values())))}
            )
        elif name in ("retry", "hold", "release", "remove"):
            await self._change({**request, "by": who}, stream)
        elif name == "oauth" and self._oauth is not None:
            await self._oauth.run(request, stream, who, self)
        elif name == "limits" and self._limits is not None:
            await stream.send({"answer": self._limits.answer(request, who)})
        elif name == "backscatter" and self._backscatter is not None:
            await stream.send({"answer": self._backscatter.answer(request, who)})
        elif name == "table" and self._tables is not None:
            await stream.send({"answer": self._tables.answer(request, who)})
        elif name == "token":
            await stream.send({"answer": token_answer(self._tokens, request, who)})
        elif name == "rules":
            await stream.send({"answer": await rules_answer(self._rules, request, who)})
        elif name == "dkim" and self._dkim is not None:
            await stream.send({"answer": await self._dkim(request)})
        else:
            raise RequestError(f"no command {name!r}")

    def _warned(self, answer: Document) -> Document:
        return answer if answer["complaint"] else {**answer, **self._said()}

    async def reload_workers(self) -> str:
        """Tell every worker to read the configuration again; the first complaint.

        There is an answer whatever becomes of a worker: one that dies meanwhile is asked once
        more when it is back, one that hangs is waited for RELOAD_TIME at most.
        """
        complaints = [await self._reload_worker(path) for path in self._workers()]
        return next(filter(None, complaints), "")

    async def _reload_worker(self, path: Path) -> str:
        latest = self._reactor.seconds() + RELOAD_TIME
        try:
            try:
                return await self._reloaded(path, latest)
            except RequestError:
                return await self._reloaded(path, latest)
        except RequestError as error:
            return f"in force, but perhaps not in the worker at {path}: {error}"

    async def _reloaded(self, path: Path, latest: float) -> str:
        answer = await self._ask(path, {"command": "reload", BESIDE: True})
        left = max(latest - self._reactor.seconds(), 0.0)
        deadline = self._reactor.callLater(left, answer.close)
        try:
            document = _parsed(await answer.line())
            return str(document.get("answer", {}).get("complaint", ""))
        finally:
            if deadline.active():
                deadline.cancel()
            answer.close()

    async def _documents(
        self, path: Path, request: Request
    ) -> AsyncGenerator[dict[str, Any], None]:
        async with aclosing(self._lines(path, request)) as lines:
            async for line in lines:
                yield _parsed(line)

    async def _lines(self, path: Path, request: Request) -> AsyncGenerator[bytes, None]:
        """A worker's answer up to the line that ends it; long rows of a queue are not looked at."""
        answer = await self._ask(path, request)
        try:
            while (line := await answer.line()).startswith(_ROWS) or "done" not in _parsed(line):
                yield line
        finally:
            answer.close()

    async def _ask(self, path: Path, request: Request) -> _Answer:
        """The answer of one worker; one that is starting is waited for."""
        for _ in range(_TRIES):
            answer = _Answer(request)
            endpoint: Any = UNIXClientEndpoint(  # type: ignore[no-untyped-call]  # Twisted's own
                self._reactor, str(path), timeout=CONNECT_TIME
            )
            try:
                await connectProtocol(endpoint, answer)  # type: ignore[no-untyped-call]
                return answer
            except ConnectError:
                pause: Deferred[None] = Deferred()
                self._reactor.callLater(_PAUSE, pause.callback, None)
                await pause
        raise BusyError("a worker does not answer; try once more")

    async def _queue(self, request: Request, stream: Stream) -> None:
        left = int(number_of(request, "limit")) or -1
        told = False
        for path, asked in self._asking(request):
            if not left:
                return
            async for line in self._lines(path, {**asked, "limit": max(left, 0)}):
                if line.startswith(_ROWS):
                    if left > 0:
                        left -= len(_parsed(line)["rows"])
                    await stream.send_line(line)
                    continue
                document = _parsed(line)
                if told and "columns" in document:
                    # its own, for its rows
                    document = {
                        name: document[name] for name in ("lanes", "behind") if name in document
                    }
                told = True
                await stream.send(document)

    async def _find(self, request: Request, stream: Stream) -> None:
        sources = [self._found(path, asked) for path, asked in self._asking(request)]
        async for found in newest_first(sources, int(number_of(request, "limit"))):
            await stream.send({"found": found})

    async def _found(self, path: Path, request: Request) -> FoundPieces:
        async with aclosing(self._documents(path, request)) as documents:
            async for document in documents:
                yield document["found"]

    async def _follow(self, request: Request, stream: Stream, own: Events) -> None:
        WantedEvents(request)  # what is wrong with it is said once
        merged = MergedEvents()

        async def follow_own() -> None:
            with suppress(GoneError):
                await own.follow(request, merged.source(_OWN))

        spawn(follow_own(), self._broken)
        for path in self._workers():
            spawn(self._follow_worker(path, request, merged), self._broken)
        cursors: dict[str, str] = {}
        try:
            while True:
                name, event = await merged.get()
                cursors[name] = event["cursor"]
                if event["event"] != "alive" or name == _OWN:
                    await stream.send({**event, "cursor": ",".join(cursors.values())})
        finally:
            merged.close()

    async def _follow_worker(self, path: Path, request: Request, merged: MergedEvents) -> None:
        """What happens in one worker, and in those that take its place."""
        source, cursor = merged.source(str(path)), text_of(request, "cursor")
        with suppress(GoneError):
            while True:
                try:
                    async with aclosing(
                        self._documents(path, {**request, "cursor": cursor})
                    ) as events:
                        async for event in events:
                            cursor = event["cursor"]
                            await source.send(cast(EventAnswer, event))
                except RequestError:  # it is gone, and will be back
                    await source.send(
                        {"event": "missed", "at": self._clock(), "cursor": cursor, "count": 0}
                    )
                    pause: Deferred[None] = Deferred()
                    self._reactor.callLater(_PAUSE, pause.callback, None)
                    await pause

    def _broken(self, failure: Failure) -> None:
        log_bug(self._log, "bug in a control command", failure)

    async def _status(self, request: Request, stream: Stream) -> None:
        answers = await self._answers(request)
        about = self._about()
        dropped = sum(each.get("log_dropped", 0) for each in (about, *answers))
        await stream.send({"answer": {**_summed(answers), **about, "log_dropped": dropped}})

    async def figures(self) -> FiguresAnswer:
        """What is known without counting, of all workers that are there."""
        total = no_figures()
        for path, asked in self._asking({"command": "figures"}):
            with suppress(RequestError):
                async for document in self._documents(path, asked):
                    add_figures(total, document["answer"])
        return total

    async def _answers(self, request: Request) -> list[Document]:
        """Of all workers."""
        return [
            document["answer"]
            for path, asked in self._asking(request)
            async for document in self._documents(path, asked)
        ]

    def _asking(self, request: Request) -> list[tuple[Path, Request]]:
        """Whom, and what: the first tells of what all share, if there is such a thing."""
        beside = {**request, BESIDE: True}
        return [(path, beside if n else request) for n, path in enumerate(self._workers())]

    async def _first(self, request: Request, stream: Stream) -> None:
        for path in self._workers():
            async for document in self._documents(path, request):
                await stream.send(document)
            return

    async def _filters(self, request: Request, stream: Stream) -> None:
        filters: dict[str, Document] = {}
        for path in self._workers():
            async for document in self._documents(path, request):
                for each in document["answer"]["filters"]:
                    add_filter(filters.setdefault(each["name"], {}), each)
        await stream.send({"answer": {"filters": [*filters.values()]}})

    async def _one(self, request: Request, stream: Stream) -> None:
        """About one message: ask the worker that holds its shard, then the others."""
        shard = shard_of(ident_of(text_of(request, "id")))
        order = sorted(self._workers().items(), key=lambda item: shard not in item[1])
        complaint: RequestError | None = None
        for path, _ in order:
            answer = await self._ask(path, request)
            try:
                first = _parsed(await answer.line())
                if "octets" in first:
                    size = int(first["octets"])
                    await stream.send_pieces(size, answer.pieces(size))
                    return
                await stream.send(first)
                return
            except RequestError as error:
                # that it is not there, one that cannot tell has not said
                complaint = complaint if isinstance(complaint, BusyError) else error
            finally:
                answer.close()
        raise complaint or BusyError("no worker is up; try once more")

    async def _audit(self, request: Request, stream: Stream) -> None:
        for path, asked in self._asking(request):
            async for document in self._documents(path, asked):
                await stream.send(document)

    async def _change(self, request: Request, stream: Stream) -> None:
        count = 0
        for path, asked in self._asking(request):
            async for document in self._documents(path, asked):
                count += int(document.get("answer", {}).get("recipients", 0))
        await stream.send({"answer": {"recipients": count}})


def _parsed(line: bytes) -> dict[str, Any]:
    document = json.loads(line)
    if "error" in document:
        kind = BusyError if document.get("busy") else RequestError
        raise kind(str(document["error"]))
    assert isinstance(document, dict)
    return document


def _summed(answers: Sequence[Document]) -> Document:
    """One status of all workers': numbers added up, shards in a row, lanes of one name as one."""
    total: Document = {}
    waiting: dict[str, int] = {}
    shards: list[Document] = []
    lanes: dict[str, Document] = {}
    more = 0
    for answer in answers:
        total |= answer
        more += answer["more_destinations"]
        shards += answer["shards"]
        for name, number in answer["waiting"].items():
            waiting[name] = waiting.get(name, 0) + number
        for lane in answer["destinations"]:
            known = lanes.setdefault(lane["destination"], lane)
            if known is not lane:
                _join(known, lane)
    order = sorted(lanes.values(), key=lambda lane: (lane["standing"] == "open", -lane["waiting"]))
    return {
        **total,
        "waiting": waiting,
        "shards": shards,
        "destinations": order[:MAX_DESTINATIONS],
        "more_destinations": more + max(len(order) - MAX_DESTINATIONS, 0),
        "sites": paces([site for answer in answers for site in answer["sites"]]),
        "set_up": once_each(each for answer in answers for each in answer["set_up"]),
        "live_tables": _live(each for answer in answers for each in answer.get("live_tables", ())),
        "full": list(dict.fromkeys(each for answer in answers for each in answer["full"])),
        "lost_addresses": lost_addresses(
            each for answer in answers for each in answer.get("lost_addresses", ())
        ),
    }


def _live(tables: Iterable[Document]) -> list[Document]:
    """One of each name: in trouble where a worker has had no answer the last time."""
    found: dict[str, Document] = {}
    for each in tables:
        known = found.setdefault(each["name"], each)
        if known is not each:
            for name in ("remembered", "asked"):
                known[name] += each[name]
            if each["trouble"] and (not known["trouble"] or each["since"] < known["since"]):
                known["trouble"], known["since"] = each["trouble"], each["since"]
    return [*found.values()]


def add_filter(known: Document, told: Document) -> None:
    """What one more worker tells of a filter."""
    for name in ("connections", "asked", "seconds", "trouble"):
        told[name] = known.get(name, 0) + told[name]
    told["slowest"] = max(known.get("slowest", 0.0), told["slowest"])
    if known.get("last_trouble_at", 0.0) > told["last_trouble_at"]:
        del told["last_trouble"], told["last_trouble_at"]
    known.update(told)


_WORSE = "waiting open slowed refusing blocked probing down suspended"


def _join(known: Document, lane: Document) -> None:
    for name in ("waiting", "in_flight", "window"):
        known[name] = known.get(name, 0) + lane.get(name, 0)
    if "oldest" in lane:
        known["oldest"] = min(known.get("oldest", lane["oldest"]), lane["oldest"])
    if _WORSE.find(lane["standing"]) > _WORSE.find(known["standing"]):
        for name in ("standing", "trouble", "probe_at", "failures", "interval"):
            known[name] = lane.get(name, known.get(name))
