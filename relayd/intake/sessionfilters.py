"""Those who are asked about one session: told of it as it goes, and shown the content at its end.

Milters are told live, from when on it is known that they are asked; a policy service is asked about
each recipient; clamd and rspamd see the content only. All of them are asked in the order of the
`ask` rules, and each sees what those before it have made of the message. What they say is folded in
filterverdicts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from relayd.filters.line import FilterTroubleError
from relayd.filters.milter import Word
from relayd.filters.milteredits import HeaderChange, ReplaceBody
from relayd.filters.miltertalk import Happening, MilterTalk
from relayd.filters.scanning import ClamdScan
from relayd.intake.checks import MESSAGE_GREW, NewBody, Objection, ReceivedContent
from relayd.intake.editedcontent import EditedContent, prepended
from relayd.intake.examination import Filtered
from relayd.intake.filterdesk import EXAMINATION, RESERVED, VERDICT, AskedFilter, FilterDesk
from relayd.intake.filterfacts import (
    AskedAbout,
    connected,
    content_begins,
    instance,
    introduced,
    policy_attributes,
    refused,
    rspamd_headers,
    sent_from,
    sent_to,
)
from relayd.intake.filterverdicts import REFUSING, FilterVerdicts
from relayd.intake.wanted import Wanted
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.ident import ident_text
from relayd.mail.reply import Reply
from relayd.rules.evaluate import TROUBLE
from relayd.rules.fact import Fact, Known
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.view import View
from relayd.smtp.events import MailParams, RcptParams

_NOBODY = Subject(Mailbox("", ""))


class SessionFilters:
    """The filters of one session."""

    def __init__(self, desk: FilterDesk, ruleset: Ruleset) -> None:
        self._desk = desk
        self._ruleset = ruleset
        self._order = desk.order(ruleset)
        self._verdicts = FilterVerdicts(desk, ruleset)
        self._talks: dict[AskedFilter, MilterTalk] = {}
        self._happened: list[Happening] = []
        self._peer = AskedAbout(Client(""), desk.hostname)
        self._sender: ReversePath = None
        self.gathered: Mapping[Fact, object] = {}
        self._size = 0  # as MAIL gave it
        self._instance = ""
        self._early: dict[str, ClamdScan] = {}  # who sees the message while it arrives
        self._phase = 0.0, 0.0  # when all must have answered, in the reactor's seconds; its length

    @property
    def wanted(self) -> Wanted:
        """What they want to become of the message, so far."""
        return self._verdicts.wanted

    @property
    def why(self) -> str:
        """Who objected last."""
        return self._verdicts.why

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
            self._ruleset, self._order = ruleset, self._desk.order(ruleset)
            self._verdicts.ruleset = ruleset
        self._verdicts.in_transaction = True
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

    @property
    def hear_refusals(self) -> bool:
        """Whether any of them wants to be told of recipients that we refuse."""
        return any(talk.hears_refusals for talk in self._talks.values())

    async def refused(self, mailbox: Mailbox, params: RcptParams, reply: Reply) -> Objection:
        """One whom the rules do not take: told to who wants to hear of it, whatever he says."""
        happening = refused(mailbox, params, reply)
        self._happened.append(happening)
        self._begin(VERDICT)
        for asked, talk in self._talks.items():
            if talk.hears_refusals and asked.definition.name not in self._verdicts.failed:
                try:
                    await talk.tell(self._happened, self._by(asked))
                except FilterTroubleError as error:
                    self._desk.troubled(asked, str(error))
        happening.refused = True
        return None

    async def data(
        self, ident: int, recipients: Sequence[Mailbox], *, as_it_comes: bool
    ) -> Objection:
        """The content is about to come, and is kept as it comes, or is completed first."""
        self._happened.append(content_begins(ident_text(ident)))
        self._begin(VERDICT)
        for name, asked in self._order:
            if asked.milters is not None and self._asks(name, Known.RECIPIENT, recipients):
                objection = await self._tell_one(asked)
                if objection is not None:
                    return objection
        return await self._begin_early(recipients) if as_it_comes else None

    async def _begin_early(self, recipients: Sequence[Mailbox]) -> Objection:
        """A clamd before whom nobody changes the message sees it while it arrives."""
        for name, asked in self._order:
            asks = self._asks(name, Known.RECIPIENT, recipients)
            if asked.clamd is None or asks is None or self.wanted.above:
                if asks is False or (self._stage(name) is not Known.CONTENT and asked.policy):
                    continue
                return None
            if asks and name not in self._verdicts.failed:
                try:
                    scan = await asked.clamd.early(self._by(asked))
                except FilterTroubleError as error:
                    return self._verdicts.trouble(asked, str(error))
                if scan is not None:
                    self._early[name] = scan
        return None

    @property
    def early(self) -> Collection[ClamdScan]:
        """Who sees the message while it arrives."""
        return self._early.values()

    def reset(self) -> None:
        """The transaction is over, if there was one."""
        if self._verdicts.in_transaction:
            self._verdicts.reset()
            self._happened = [each for each in self._happened[:2] if _of_session(each)]
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
        self._begin(EXAMINATION)
        return self._verdicts.filtered(await self._shown(content, recipients, told))

    async def _shown(
        self,
        content: ReceivedContent,
        recipients: Sequence[Mailbox],
        gathered: Mapping[Fact, object],
    ) -> Objection:
        if content.rewritten:  # what was handed over while it came is another message
            self._forget_early()
        if self.wanted.above:
            section = b"".join(self.wanted.above) + content.whole_section
            try:
                await content.rewrite(section)
            except ValueError:
                self._verdicts.why = "with what policy services prepend it is too large"
                return MESSAGE_GREW
        message = EditedContent(content)
        self.gathered = gathered
        for name, asked in self._order:
            self._verdicts.note(asked)
            failed = self._verdicts.failed.get(name)
            if failed is not None:
                return failed
            if name in self._verdicts.failed:
                continue
            asks = self._asks(name, Known.CONTENT, recipients)
            if asks is None:
                self._verdicts.why = f"whether {name} is asked is not known"
                return TROUBLE
            if not asks or self.wanted.discard:
                continue
            try:
                objection = await self._show(name, asked, message, recipients)
            except FilterTroubleError as error:
                objection = self._verdicts.trouble(asked, str(error))
            except ValueError as error:  # what it made of the message is none
                objection = self._verdicts.trouble(asked, str(error))
            if objection is not None:
                return objection
            self._verdicts.heard(asked)
        return None

    async def _show(
        self, name: str, asked: AskedFilter, message: EditedContent, recipients: Sequence[Mailbox]
    ) -> Objection:
        began = self._desk.seconds()
        if asked.milters is not None:
            objection = await self._show_milter(asked, message)
        elif asked.clamd is not None:
            early, by = self._early.get(name), self._by(asked)
            scanned = await asked.clamd.scan(message.content.chunks, early, by)
            objection = self._verdicts.clamd(asked, scanned.virus)
        elif asked.rspamd is not None:
            objection = await self._show_rspamd(asked, message, recipients)
        elif self._stage(name) is Known.CONTENT:
            objection = await self._ask_about_message(asked, message, recipients)
        else:
            return None
        self._desk.answered(asked, began)
        return objection

    async def _show_milter(self, asked: AskedFilter, message: EditedContent) -> Objection:
        talk = self._talk(asked)
        verdict = await talk.tell(self._happened, self._by(asked))
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
        refused = verdict.word in REFUSING
        changes = [] if refused else [e for e in verdict.edits if isinstance(e, HeaderChange)]
        if not refused and (changes or bodies):
            body = bodies[0] if bodies else None
            await message.edit(changes, body, leading_space=talk.leading_space)
        return self._verdicts.milter(asked, verdict, replaced=bool(bodies) and not refused)

    async def _show_rspamd(
        self, asked: AskedFilter, message: EditedContent, recipients: Sequence[Mailbox]
    ) -> Objection:
        assert asked.rspamd is not None
        about = rspamd_headers(
            self._peer, self._sender, [*recipients], ident_text(message.content.ident)
        )
        report = await asked.rspamd.check(
            about, message.content.size, message.content.chunks, self._by(asked)
        )
        objection = self._verdicts.rspamd(asked, report)
        if objection is None and report.changes:
            await message.edit(report.changes, None, leading_space=False)
        return objection

    async def _ask_about_message(
        self, asked: AskedFilter, message: EditedContent, recipients: Sequence[Mailbox]
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
        action = await asked.policy.ask(attributes, self._by(asked))
        if action.word == "PREPEND":
            await message.put_in_front(prepended(action.text))
        return self._verdicts.policy_on_message(asked, action, recipients)

    # asking

    def _begin(self, seconds: float) -> None:
        """All that are asked from now on have so long, together: the session waits no longer."""
        self._phase = self._desk.seconds() + seconds, seconds

    def _by(self, asked: AskedFilter) -> float:
        """When it must have answered: whoever comes after it still has time to."""
        until, length = self._phase
        place = self._order.index((asked.definition.name, asked))
        behind = len(self._order) - 1 - place
        return until - behind * min(RESERVED, length / len(self._order))

    async def _tell(self, known: Known, mailbox: Mailbox | None = None) -> Objection:
        """Whoever is asked from now on."""
        whom = [] if mailbox is None else [mailbox]
        self._begin(VERDICT)
        for name, asked in self._order:
            policy = asked.policy is not None and mailbox is not None
            if not policy and asked.milters is None:
                continue
            if not self._asks(name, known, whom):
                continue
            if policy and self._stage(name) is Known.CONTENT:
                continue
            objection = self._verdicts.failed.get(name)
            if objection is None and name not in self._verdicts.failed:
                if mailbox is not None and policy:
                    objection = await self._ask_about(asked, mailbox)
                else:
                    objection = await self._tell_one(asked)
            if objection is not None:
                return objection
        return None

    async def _tell_one(self, asked: AskedFilter) -> Objection:
        began = self._desk.seconds()
        try:
            verdict = await self._talk(asked).tell(self._happened, self._by(asked))
        except FilterTroubleError as error:
            return self._verdicts.trouble(asked, str(error))
        self._desk.answered(asked, began)
        return self._verdicts.milter(asked, verdict, live=True)

    async def _ask_about(self, asked: AskedFilter, mailbox: Mailbox) -> Objection:
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
            action = await asked.policy.ask(attributes, self._by(asked))
            self._desk.answered(asked, began)
            return self._verdicts.policy_on_recipient(asked, action, mailbox)
        except (FilterTroubleError, ValueError) as error:
            return self._verdicts.trouble(asked, str(error))

    # who is asked

    def _stage(self, name: str) -> Known:
        assert self._ruleset.asks is not None
        return self._ruleset.asks.known(name)

    def _asks(self, name: str, known: Known, recipients: Sequence[Mailbox]) -> bool | None:
        """Whether it is asked, about any of these recipients; None: that is not known yet."""
        assert self._ruleset.asks is not None
        if name in self._ruleset.asks.always:
            return True
        unknown = False
        sender = None if self._sender is None else Subject(self._sender)
        gathered = {**self.gathered, **self._verdicts.facts}
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
        if client is not self._peer.client or mechanism != self._peer.mechanism:
            self._peer = AskedAbout(client, self._desk.hostname, mechanism)

    def _instance_now(self) -> str:
        self._instance = self._instance or instance()
        return self._instance


def _of_session(happening: Happening) -> bool:
    return happening.event.name in ("CONNECT", "HELO")
