"""Those who are asked about one session: told of it as it goes, and shown the content at its end.

Milters are told live, from when on it is known that they are asked; a policy service is asked about
each recipient; clamd and rspamd see the content only. All of them are asked in the order of the
`ask` rules, and each sees what those before it have made of the message.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from relayd.filters.line import FilterTroubleError
from relayd.filters.milter import FilterVerdict, Word
from relayd.filters.milteredits import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteHeaders,
    DeleteRecipient,
    Field,
    HeaderChange,
    InsertHeader,
    Quarantine,
    ReplaceBody,
    edited,
    section_fields,
)
from relayd.filters.miltertalk import Happening, MilterTalk
from relayd.filters.policy import PolicyAction
from relayd.filters.scanning import ClamdScan
from relayd.intake.checks import NewBody, Objection, ReceivedContent
from relayd.intake.examination import Filtered
from relayd.intake.filterdesk import AskedFilter, FilterDesk
from relayd.intake.filterfacts import (
    AskedAbout,
    connected,
    content_begins,
    instance,
    introduced,
    policy_attributes,
    rspamd_headers,
    sent_from,
    sent_to,
)
from relayd.intake.transaction import Identity, identity
from relayd.mail.address import AddressError, Mailbox, ReversePath, parse_path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.ident import ident_text
from relayd.mail.plan import Step, Verdict
from relayd.mail.reply import Reply, printable
from relayd.rules.conditions.filtering import said_of
from relayd.rules.fact import Fact, Known
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.view import View
from relayd.smtp.events import MailParams, RcptParams

_LATER = Reply.of(451, "4.7.1", "Service unavailable - try again later")
_NOT_NOW = Reply.of(550, "5.7.1", "Service unavailable")
_REJECTED = Reply.of(550, "5.7.1", "Command rejected")
_CLOSING = Reply.of(421, "4.7.0", "Server closing connection")
_GREYLISTED = Reply.of(451, "4.7.1", "Try again later")
_NOT_KNOWN = Reply.of(451, "4.3.0", "Temporary local problem, please try again later")
_GREW = Reply.of(552, "5.3.4", "Message too large once it is completed or rewritten")
_WORDS = {Word.REJECT: "reject", Word.TEMPFAIL: "defer"}
_NOBODY = Subject(Mailbox("", ""))
_NO_PATH = ""
MOST_RECIPIENTS = 1000  # that filters may add to a message
_HEADER_EDITS = (AddHeader, InsertHeader, ChangeHeader, DeleteHeaders)
_EDITS = {
    AddHeader: "added a header field",
    InsertHeader: "added a header field",
    ChangeHeader: "changed a header field",
    DeleteHeaders: "removed header fields",
}


@dataclass(slots=True)
class Wanted:
    """What filters want to become of a message."""

    hold: str = ""  # why
    discard: str = ""  # who says so
    held: dict[Mailbox, str] = field(default_factory=dict)  # ... of single recipients
    thrown_away: dict[Identity, str] = field(default_factory=dict)
    added: list[tuple[Mailbox, str]] = field(default_factory=list)
    sender: ReversePath | str = ""  # "": it stays
    above: list[bytes] = field(default_factory=list)  # fields that policy services put in front
    steps: list[Step] = field(default_factory=list)  # for the trail

    def add(self, mailbox: Mailbox, name: str) -> None:
        """One recipient more: also one that was thrown away before."""
        self.thrown_away.pop(identity(mailbox), None)
        self.added.append((mailbox, name))

    def throw_away(self, mailbox: Mailbox, said: str) -> None:
        """One recipient less: also one that was added before."""
        named = identity(mailbox)
        self.added = [each for each in self.added if identity(each[0]) != named]
        self.thrown_away[named] = said

    def __bool__(self) -> bool:
        return bool(
            self.hold
            or self.discard
            or self.held
            or self.thrown_away
            or self.added
            or self.sender != ""
            or self.steps
        )


class SessionFilters:
    """The filters of one session."""

    def __init__(self, desk: FilterDesk, ruleset: Ruleset) -> None:
        self.wanted = Wanted()
        self.facts: dict[Fact, object] = {}  # what rules may look at, once the content is there
        self.why = ""  # who objected last
        self._desk = desk
        self._ruleset = ruleset
        self._filters = desk.filters(ruleset)
        self._talks: dict[AskedFilter, MilterTalk] = {}
        self._happened: list[Happening] = []
        self._peer = AskedAbout(Client(""), desk.hostname)
        self._sender: ReversePath = None
        self.gathered: Mapping[Fact, object] = {}
        self._in_transaction = False
        self._size = 0  # as MAIL gave it
        self._instance = ""
        self._failed: dict[str, Objection] = {}  # who did not say, in this transaction
        self._early: dict[str, ClamdScan] = {}  # who sees the message while it arrives

    def done(self, verb: str, said: str) -> Step:
        """A step of the trail: what was done to the message, and who (`NAME: why`) wanted it."""
        definition = self._ruleset.filters.get(said.partition(":")[0])
        return Step(verb, str(definition.place) if definition else "", f"{verb} by {said}")

    # the session goes on

    async def connection(self, client: Client, gathered: Mapping[Fact, object]) -> Objection:
        """Somebody has come."""
        self._is(client, "")
        self.gathered = gathered
        self._happened = [connected(self._peer)]
        return await self._tell(Known.CLIENT)

    async def hello(self, client: Client, mechanism: str) -> Objection:
        """He says who he is."""
        self._is(client, mechanism)
        del self._happened[1:]
        self._happened.append(introduced(self._peer))
        return await self._tell(Known.CLIENT)

    async def mail(
        self,
        ruleset: Ruleset,
        client: Client,
        mechanism: str,
        sender: ReversePath,
        params: MailParams,
    ) -> Objection:
        """A transaction begins, under these rules."""
        self.reset()
        self._is(client, mechanism)
        if not self._happened:  # mail that no session brought
            self._happened = [connected(self._peer), introduced(self._peer)]
        if ruleset is not self._ruleset:
            self._ruleset, self._filters = ruleset, self._desk.filters(ruleset)
        self._in_transaction = True
        self._sender, self._size = sender, params.size or 0
        self._happened.append(sent_from(self._peer, sender, params))
        return await self._tell(Known.SENDER)

    async def recipient(
        self, mailbox: Mailbox, params: RcptParams, gathered: Mapping[Fact, object]
    ) -> Objection:
        """One more, whom the rules would take."""
        self.gathered = gathered
        happening = sent_to(mailbox, params)
        self._happened.append(happening)
        objection = await self._tell(Known.RECIPIENT, mailbox)
        happening.refused = objection is not None
        return objection

    async def data(
        self, ident: int, recipients: Sequence[Mailbox], *, as_it_comes: bool
    ) -> Objection:
        """The content is about to come, and is kept as it comes, or is completed first."""
        self._happened.append(content_begins(ident_text(ident)))
        for name, asked in self._in_order():
            if asked.milters is not None and self._asks(name, Known.RECIPIENT, recipients):
                objection = await self._tell_one(name, asked)
                if objection is not None:
                    return objection
        return await self._begin_early(recipients) if as_it_comes else None

    async def _begin_early(self, recipients: Sequence[Mailbox]) -> Objection:
        """A clamd before whom nobody changes the message sees it while it arrives."""
        for name, asked in self._in_order():
            asks = self._asks(name, Known.RECIPIENT, recipients)
            if asked.clamd is None or asks is None or self.wanted.above:
                if asks is False or (self._stage(name) is not Known.CONTENT and asked.policy):
                    continue
                return None
            if asks and name not in self._failed:
                try:
                    scan = await asked.clamd.early()
                except FilterTroubleError as error:
                    return self._in_trouble(name, asked, str(error))
                if scan is not None:
                    self._early[name] = scan
        return None

    @property
    def early(self) -> Collection[ClamdScan]:
        """Who sees the message while it arrives."""
        return self._early.values()

    def reset(self) -> None:
        """The transaction is over, if there was one."""
        if self._in_transaction:
            self._in_transaction = False
            self._happened = [each for each in self._happened[:2] if _of_session(each)]
            self.wanted = Wanted()
            self.facts = {}
            self._failed.clear()
            self._instance = ""
            self._forget_early()

    def _forget_early(self) -> None:
        for scan in self._early.values():
            scan.close()
        self._early.clear()

    def over(self) -> None:
        """The session is."""
        for talk in self._talks.values():
            talk.over()
        self._talks.clear()

    # the content

    async def examine(
        self,
        client: Client,
        envelope: Envelope,
        recipients: Sequence[Mailbox],
        content: ReceivedContent,
        told: Mapping[Fact, object],
    ) -> Filtered:
        """What they say of it, all together; see relayd.intake.examination."""
        objection = await self._shown(content, recipients, told)
        if objection is not None:
            return Filtered(objection, trail=(Step("ask", "", self.why),))
        wanted, verdict, steps = self.wanted, Verdict.ACCEPT, [*self.wanted.steps]
        if wanted.discard:
            verdict = Verdict.DISCARD
            steps.append(self.done("discard", wanted.discard))
        elif wanted.hold:
            verdict = Verdict.HOLD
            steps.append(self.done("hold", wanted.hold))
        return Filtered(None, verdict, self.facts, tuple(steps))

    async def _shown(
        self,
        content: ReceivedContent,
        recipients: Sequence[Mailbox],
        gathered: Mapping[Fact, object],
    ) -> Objection:
        message = _Message(content)
        if content.rewritten:  # what was handed over while it came is another message
            self._forget_early()
        if self.wanted.above:
            section = b"".join(self.wanted.above) + content.section
            try:
                await content.rewrite(section)
            except ValueError:
                self.why = "with what policy services prepend it is too large"
                return _GREW
            message = _Message(content)
        self.gathered = gathered
        for name, asked in self._in_order():
            self._note(name, "", None, frozenset())
            failed = self._failed.get(name)
            if failed is not None or name in self._failed:
                if failed is not None:
                    return failed
                continue
            asks = self._asks(name, Known.CONTENT, recipients)
            if asks is None:
                self.why = f"whether {name} is asked is not known"
                return _NOT_KNOWN
            if not asks or self.wanted.discard:
                continue
            try:
                objection = await self._show(name, asked, message, recipients)
            except FilterTroubleError as error:
                objection = self._in_trouble(name, asked, str(error))
            except ValueError as error:  # what it made of the message is none
                objection = self._in_trouble(name, asked, str(error))
            if objection is not None:
                return objection
        return None

    async def _show(
        self, name: str, asked: AskedFilter, message: _Message, recipients: Sequence[Mailbox]
    ) -> Objection:
        began = self._desk.seconds()
        if asked.milters is not None:
            objection = await self._show_milter(name, asked, message)
        elif asked.clamd is not None:
            scanned = await asked.clamd.scan(message.content.chunks, self._early.get(name))
            objection = self._found(name, asked, scanned.virus)
        elif asked.rspamd is not None:
            objection = await self._show_rspamd(name, asked, message, recipients)
        elif self._stage(name) is Known.CONTENT:
            objection = await self._ask_about_message(name, asked, message, recipients)
        else:
            return None
        self._desk.answered(asked, began)
        return objection

    async def _show_milter(self, name: str, asked: AskedFilter, message: _Message) -> Objection:
        talk = self._talk(asked)
        verdict = await talk.tell(self._happened)
        bodies: list[NewBody] = []

        def replaced(piece: bytes) -> None:
            if not bodies:
                bodies.append(message.content.new_body())
            bodies[0].write(piece)

        if verdict.word is Word.CONTINUE:
            macros = {"i": ident_text(message.content.ident)}
            verdict = await talk.examine(message.shown(), message.content.body, macros, replaced)
        for edit in verdict.edits:
            if isinstance(edit, ReplaceBody):
                replaced(edit.octets)
        refused = verdict.word in _WORDS or verdict.word in (Word.REPLY, Word.SHUT_DOWN)
        changes = [] if refused else [e for e in verdict.edits if isinstance(e, _HEADER_EDITS)]
        if not refused and (changes or bodies):
            body = bodies[0] if bodies else None
            await message.edit(changes, body, leading_space=talk.leading_space)
        return self._verdict(name, asked, verdict, replaced=bool(bodies) and not refused)

    async def _show_rspamd(
        self, name: str, asked: AskedFilter, message: _Message, recipients: Sequence[Mailbox]
    ) -> Objection:
        assert asked.rspamd is not None
        about = rspamd_headers(
            self._peer, self._sender, [*recipients], ident_text(message.content.ident)
        )
        report = await asked.rspamd.check(about, message.content.size, message.content.chunks)
        decides = self._note(name, report.word, report.score, report.symbols)
        said = f"{report.action}, score {report.score:g}"
        self._say(asked, said)
        if decides and report.word in ("reject", "defer"):
            self.why = f"rspamd {name}: {said}"
            text = report.message or "The message was rejected by a filter"
            code, status = (554, "5.7.1") if report.word == "reject" else (451, "4.7.1")
            return Reply.of(code, status, text)
        if decides and report.word == "quarantine":
            self.wanted.hold = f"{name}: {said}"
        if report.changes:
            await message.edit(report.changes, None, leading_space=False)
        return None

    def _found(self, name: str, asked: AskedFilter, virus: str) -> Objection:
        decides = self._note(name, "reject" if virus else "", None, frozenset())
        if not virus:
            return None
        found = printable(virus, 100)
        self._say(asked, f"found {found}")
        if not decides:
            return None
        self.why = f"clamd {name}: {found}"
        return Reply.of(554, "5.7.1", f"The message is infected: {found}")

    async def _ask_about_message(
        self, name: str, asked: AskedFilter, message: _Message, recipients: Sequence[Mailbox]
    ) -> Objection:
        assert asked.policy is not None
        attributes = policy_attributes(
            self._peer,
            "END-OF-MESSAGE",
            self._sender,
            recipients[0] if len(recipients) == 1 else None,
            instance=self._instance_now(),
            size=message.content.size,
            recipients=len(recipients),
            ident=ident_text(message.content.ident),
        )
        action = await asked.policy.ask(attributes)
        if action.word == "PREPEND":
            await message.put_in_front(_prepended(action.text))
        elif action.word in ("HOLD", "DISCARD"):
            said = f"{name}: {action.text or action.word}"
            if action.word == "HOLD":
                self.wanted.hold = said
            else:
                self.wanted.discard = said
        return self._acted(name, asked, action, recipients)

    # asking

    async def _tell(self, known: Known, mailbox: Mailbox | None = None) -> Objection:
        """Whoever is asked from now on."""
        whom = [] if mailbox is None else [mailbox]
        for name, asked in self._in_order():
            policy = asked.policy is not None and mailbox is not None
            if not policy and asked.milters is None:
                continue
            if not self._asks(name, known, whom):
                continue
            if policy and self._stage(name) is Known.CONTENT:
                continue
            objection = self._failed.get(name)
            if objection is None and name not in self._failed:
                if mailbox is not None and policy:
                    objection = await self._ask_about(name, asked, mailbox)
                else:
                    objection = await self._tell_one(name, asked)
            if objection is not None:
                return objection
        return None

    async def _tell_one(self, name: str, asked: AskedFilter) -> Objection:
        began = self._desk.seconds()
        try:
            verdict = await self._talk(asked).tell(self._happened)
        except FilterTroubleError as error:
            return self._in_trouble(name, asked, str(error))
        self._desk.answered(asked, began)
        return self._verdict(name, asked, verdict, live=True)

    async def _ask_about(self, name: str, asked: AskedFilter, mailbox: Mailbox) -> Objection:
        assert asked.policy is not None
        attributes = policy_attributes(
            self._peer,
            "RCPT",
            self._sender,
            mailbox,
            instance=self._instance_now(),
            size=self._size,
        )
        began = self._desk.seconds()
        try:
            action = await asked.policy.ask(attributes)
            if action.word == "PREPEND":
                fresh = _prepended(action.text)
                if fresh not in self.wanted.above:
                    self.wanted.above.append(fresh)
            elif action.word == "HOLD":
                self.wanted.held[mailbox] = f"{name}: {action.text or 'hold'}"
            elif action.word == "DISCARD":
                self.wanted.throw_away(mailbox, f"{name}: {action.text or 'discard'}")
            self._desk.answered(asked, began)
            return self._acted(name, asked, action, [mailbox])
        except (FilterTroubleError, ValueError) as error:
            return self._in_trouble(name, asked, str(error))

    def _acted(
        self, name: str, asked: AskedFilter, action: PolicyAction, about: Sequence[Mailbox]
    ) -> Objection:
        """What is left of a policy service's action."""
        word = action.word
        if word in ("REJECT", "DEFER", "DEFER_IF_PERMIT"):
            self.why = f"policy {name}: {word}"
            return action.reply or _GREYLISTED
        if word in ("WARN", "INFO"):
            self._desk.log.notice("policy", policy=name, says=action.text)
        elif word in ("BCC", "REDIRECT"):
            if word == "REDIRECT":
                for each in about:
                    self.wanted.throw_away(each, f"{name}: redirected")
            self._add(action.text, name)
        elif word == "FILTER":
            raise ValueError("the action FILTER, which relayd does not do")
        if word not in ("OK", "DUNNO", "DEFER_IF_REJECT"):
            self._say(asked, f"{word} {action.text}".strip())
        return None

    # what they say

    def _verdict(
        self,
        name: str,
        asked: AskedFilter,
        verdict: FilterVerdict,
        *,
        live: bool = False,
        replaced: bool = False,
    ) -> Objection:
        word = verdict.word
        if word in _WORDS or word in (Word.REPLY, Word.SHUT_DOWN):
            reply = _reply(verdict)
            said = "reject" if reply.code >= 500 else "defer"
            self.why = f"milter {name}"
            if live or self._note(name, said, None, frozenset()):
                return reply
            self._say(asked, str(reply))
            return None
        if word is Word.DISCARD:
            if self._in_transaction:
                self.wanted.discard = f"{name}: discard"
                self._say(asked, "discard")
            return None
        done = dict.fromkeys(_EDITS[type(e)] for e in verdict.edits if isinstance(e, _HEADER_EDITS))
        if replaced:
            done["replaced the body"] = None
        for edit in verdict.edits:
            if isinstance(edit, Quarantine):
                reason = printable(edit.reason, 200)
                if self._note(name, "quarantine", None, frozenset()):
                    self.wanted.hold = f"{name}: {reason}"
                done[f"quarantine: {reason}"] = None
            elif isinstance(edit, AddRecipient):
                self._add(edit.path, name)
                done[f"added <{printable(edit.path.strip('<>'))}>"] = None
            elif isinstance(edit, DeleteRecipient):
                self._throw_away(edit.path, name)
            elif isinstance(edit, ChangeSender):
                path = self._parsed(edit.path, name, "a sender")
                if path is not _NO_PATH:
                    self.wanted.sender = path
                    done[f"made <{path or ''}> the sender"] = None
        if done:
            self._say(asked, "; ".join(done))
        return None

    def _in_trouble(self, name: str, asked: AskedFilter, why: str) -> Objection:
        """It does not say: its failure word counts, for all of this transaction."""
        self._desk.troubled(asked, why)
        if not self._in_transaction:
            return None  # MAIL tries again
        on_failure = asked.on_failure
        objection: Objection = None
        if on_failure == "hold":
            self.wanted.hold = self.wanted.hold or f"{name}: {printable(why, 100)}"
        elif on_failure in ("defer", "reject"):
            objection = _LATER if on_failure == "defer" else _NOT_NOW
        self.why = f"{asked.definition.kind} {name}: {why}"
        self._say(asked, f"{why}, on failure {on_failure}")
        self._failed[name] = objection
        return objection

    def _note(self, name: str, word: str, score: float | None, symbols: frozenset[str]) -> bool:
        """For the rules that look at it; whether there are none, and its own word counts."""
        said = said_of(self._ruleset.needs, name, word, score, symbols)
        self.facts.update(said)
        return not said

    def _say(self, asked: AskedFilter, what: str) -> None:
        definition = asked.definition
        step = Step("ask", str(definition.place), f"{definition.kind} {definition.name}", what)
        self.wanted.steps.append(step)

    def _add(self, path: str, name: str) -> None:
        mailbox = self._parsed(path, name, "a recipient")
        if not isinstance(mailbox, Mailbox):
            return
        if len(self.wanted.added) >= MOST_RECIPIENTS:
            self._desk.log.trouble("filter", filter=name, why="too many recipients", path=path)
        else:
            self.wanted.add(mailbox, name)

    def _throw_away(self, path: str, name: str) -> None:
        mailbox = self._parsed(path, name, "a recipient")
        if isinstance(mailbox, Mailbox):
            self.wanted.throw_away(mailbox, f"{name}: deleted")

    def _parsed(self, path: str, name: str, what: str) -> ReversePath | str:
        """A path as filters write it; _NO_PATH, and trouble, where it is none."""
        try:
            return parse_path_text(path.strip().removeprefix("<").removesuffix(">"))
        except AddressError:
            why = f"{what} that is none"
            self._desk.log.trouble("filter", filter=name, why=why, path=path)
            return _NO_PATH

    # who is asked

    def _in_order(self) -> list[tuple[str, AskedFilter]]:
        asks = self._ruleset.asks
        return [] if asks is None else [(name, self._filters[name]) for name in asks.order]

    def _stage(self, name: str) -> Known:
        assert self._ruleset.asks is not None
        return self._ruleset.asks.known(name)

    def _asks(self, name: str, known: Known, recipients: Sequence[Mailbox]) -> bool | None:
        """Whether it is asked, about any of these recipients; None: that is not known yet."""
        assert self._ruleset.asks is not None
        unknown = False
        sender = None if self._sender is None else Subject(self._sender)
        gathered = {**self.gathered, **self.facts}
        about = [Subject(each, self._ruleset.subaddress) for each in recipients] or [_NOBODY]
        for subject in about:
            view = View(self._peer.client, sender, subject, gathered)
            asks = self._ruleset.asks.asks(name, view, known)
            if asks:
                return True
            unknown |= asks is None
        return None if unknown else False

    def _talk(self, asked: AskedFilter) -> MilterTalk:
        talk = self._talks.get(asked)
        if talk is None:
            talk = self._talks[asked] = asked.talk()
        return talk

    def _is(self, client: Client, mechanism: str) -> None:
        self._peer = AskedAbout(client, self._desk.hostname, mechanism)

    def _instance_now(self) -> str:
        self._instance = self._instance or instance()
        return self._instance


class _Message:
    """The content as filters see it, with what they have put above our trace field."""

    def __init__(self, content: ReceivedContent) -> None:
        self.content = content
        self._above: list[Field] = []
        self._ours: Field = ("Received", b"")
        self._fields = section_fields(content.section)

    def shown(self) -> list[tuple[str, bytes]]:
        """Names and values of its fields; ours is no filter's business."""
        return [
            (name, raw[raw.index(b":") + 1 :])
            for name, raw in (*self._above, *self._fields)
            if name
        ]

    async def edit(
        self, changes: Sequence[HeaderChange], body: NewBody | None, *, leading_space: bool
    ) -> None:
        """Apply what a filter wants, whole or not at all. ValueError, SpoolError."""
        before = [*self._above, self._ours, *self._fields]
        own = len(self._above)
        after = edited(before, changes, own=own, leading_space=leading_space)
        if after == before and body is None:
            return
        at = next(number for number, each in enumerate(after) if each is self._ours)
        above, fields = after[:at], after[at + 1 :]
        await self.content.rewrite(_section(fields) + b"\r\n", body, above=_section(above))
        self._above, self._fields = above, fields

    async def put_in_front(self, field: bytes) -> None:
        """A whole field, right below our own. ValueError, SpoolError."""
        fields = [*section_fields(field + b"\r\n"), *self._fields]
        await self.content.rewrite(_section(fields) + b"\r\n")
        self._fields = fields


def _section(fields: Sequence[Field]) -> bytes:
    return b"".join(raw + b"\r\n" for _, raw in fields)


def _of_session(happening: Happening) -> bool:
    return happening.event.name in ("CONNECT", "HELO")


def _reply(verdict: FilterVerdict) -> Reply:
    if verdict.reply is not None:
        return verdict.reply
    if verdict.word is Word.SHUT_DOWN:
        return _CLOSING
    return _REJECTED if verdict.word is Word.REJECT else _LATER


def _prepended(text: str) -> bytes:
    """A policy service's PREPEND as a whole field. ValueError: it is none."""
    field = f"{text}\r\n".encode("utf-8", "surrogateescape")
    found = section_fields(field + b"\r\n")
    if len(found) != 1 or not found[0][0]:
        raise ValueError("it prepends what is no header field")
    return field
