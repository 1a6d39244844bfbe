"""The verdicts of one session: takes a message over only after the spool has committed it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, cast

from relayd.authentication.results import without_forged
from relayd.intake.checks import MESSAGE_GREW, Checks, Objection, ReceivedContent, at_once
from relayd.intake.counting import take_back
from relayd.intake.cutthrough import AwaitedAttempt, CutThrough, refusal
from relayd.intake.deadlines import SessionPhase
from relayd.intake.examination import Examination, Filtered, Filters
from relayd.intake.filterdesk import FilterDesk
from relayd.intake.gatheredfacts import GatheredFacts, Gatherer
from relayd.intake.header import HeaderSection, front
from relayd.intake.limits import Memory, client_key
from relayd.intake.pending import Pending
from relayd.intake.policy import RELAY, ListenerPolicy
from relayd.intake.submission import Completion, completed
from relayd.intake.trace import LoopLimits, TraceField, loop, protocol_keyword
from relayd.intake.transaction import (
    Addressee,
    ContentFacts,
    ReceivedTransaction,
    identity,
    merge_notify,
)
from relayd.intake.vouching import Vouched, results_field
from relayd.login.guesses import Guesses
from relayd.mail.address import Mailbox, ReversePath, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.ident import ident_text
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Submission
from relayd.mail.plan import Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.report.bounce import expand
from relayd.report.wishes import STRANGERS, TRUSTED, Wishes
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.evaluate import Facts, evaluate, examine
from relayd.rules.fact import Fact, Known
from relayd.rules.header import TooManyFieldsError, edit_header
from relayd.rules.language.model import SEALS
from relayd.rules.leaving import BREAKS, UNFORETOLD, Foretelling
from relayd.rules.ruleset import Ruleset
from relayd.rules.srsstage import FORGED
from relayd.rules.storedfact import kept
from relayd.rules.view import Unasked
from relayd.smtp import events
from relayd.spool.errors import SpoolError, SpoolFull
from relayd.spool.interface import AnyDraft

if TYPE_CHECKING:  # what verifies takes its time to load, and its memory
    from relayd.authentication.arc import ArcResult

_MAIL_OK = Reply.of(250, "2.1.0", "Ok")
_HELLO_OK = Reply.bare(250)
LATE = Reply.of(451, "4.3.0", "It took too long to decide, try again later")
_GO_AHEAD = Reply.bare(354, "End data with <CR><LF>.<CR><LF>")
_TROUBLE = Reply.of(451, "4.3.0", "Local trouble, try again later")
_FULL = Reply.of(452, "4.3.1", "Insufficient system storage, try again later")
_TOO_MANY = Reply.of(452, "4.5.3", "Too many recipients")
_ASKED_BY_NOW = Reply.of(421, "4.3.2", "The rules have changed, please connect again")
_NOT_VERIFIED = Reply.of(252, "2.5.0", "Cannot verify, but will take mail for it if the rules do")
_NOT_OFFERED = Reply.of(502, "5.5.1", "Not offered")
_LOGIN_FIRST = Reply.of(530, "5.7.0", "Authentication required")  # RFC 6409 section 4.3
_TOO_MANY_HASHES = Reply.of(450, "4.7.1", "Too many wrong SRS addresses, try again later")
_NO_MEMORY = Reply.of(452, "4.3.1", "Too much mail at once, try again later")
_FREE = 8192  # octets of a header section that are not counted
_FREE_RECIPIENTS = 8  # final ones of a transaction, likewise
_RECIPIENT = 2000  # octets that one costs, with a long address and an ORCPT
_SHARE = 16384  # octets of memory that are taken at a time
_A_TURNS_RECIPIENTS = 50  # decided about again in one turn of the reactor
_A_TURNS_OCTETS = 1 << 20  # that are hashed in one turn of the reactor
_MOST_TOLD = 100  # refusals of one session that have a line in the log; the rest is counted
_HEADER_TOO_LARGE = Reply.of(552, "5.3.4", "Header section too large")
_TOO_MANY_FIELDS = Reply.of(552, "5.3.4", "Too many header fields of one kind")
_HEADER_GREW = Reply.of(552, "5.3.4", "Header section too large once it is completed or rewritten")


class ClientNaming(Protocol):
    """A client's name while it is looked up (relayd.dns.reverse)."""

    @property
    def name(self) -> str | None:
        """Folded; "": there is none; None: not known, or not yet."""

    @property
    def over(self) -> bool:
        """Nothing more will be known."""

    @property
    def worth_waiting(self) -> bool:
        """It may yet come in time."""

    async def wait(self) -> None:
        """Until it is over, or too late."""

    def cancel(self) -> None:
        """The client has gone."""


class ClientNames(Protocol):
    """Who knows the names of clients, or looks them up."""

    def known(self, address: str) -> str | None:
        """What needs no question; "": there is none."""

    def look_up(self, address: str) -> ClientNaming:
        """Begin to ask."""


class DraftStore(Protocol):
    """What reception needs of a relayd.spool.interface.Store."""

    @property
    def healthy(self) -> bool:
        """False while the store cannot record."""

    def room(self, size: int) -> bool:
        """Whether this many octets fit above the floor of free bytes and inodes."""

    def create(self, *, pure: bool = False) -> AnyDraft:
        """Begin a message."""


@dataclass(frozen=True, slots=True)
class ReceptionLimits:
    """What one transaction may hold."""

    recipients: int = 1000  # RCPTs accepted
    destinations: int = 10_000  # final recipients after forwarding
    header_size: int = 1 << 20  # octets of the header section, as it comes and as it leaves
    message_size: int = sys.maxsize  # octets, as it leaves
    loop: LoopLimits = field(default_factory=LoopLimits)


@dataclass(slots=True)
class Intake:
    """What all receptions share: where mail goes, and what decides about it.

    `limits` may be replaced at any time: what is received next is held to them.
    """

    trace: TraceField
    rules: Callable[[], Ruleset]  # the snapshot now in force
    spool: DraftStore
    accept: Callable[[Message, tuple[Record, ...]], None]  # the dispatcher takes it from memory
    log: MailLog
    clock: Callable[[], float]  # seconds since the epoch
    limits: ReceptionLimits = field(default_factory=ReceptionLimits)
    memory: Memory = field(default_factory=Memory)
    expanded: Callable[[Message, tuple[Recipient, ...]], None] = lambda message, aliases: None
    # ^ the sender asked to hear of success at these, which became several addresses
    untold: Callable[[Client, ReversePath, Mailbox, Plan, str], None] = lambda *decision: None
    # ^ for the journal, what the ledger does not tell: client, sender, a recipient that was refused
    # or has no delivery of its own, what was decided about it, the hash of the rule set
    foretold: Callable[[int, tuple[Step, ...]], None] = lambda ident, trail: None
    # ^ of a message that was taken: the trail has what was foreseen of its copies
    expect: Callable[[int], None] = lambda change: None  # so many more (-1: less) may soon commit
    guesses: Guesses | None = None  # who guesses at the hashes of SRS addresses
    decide: Callable[[Ruleset, Facts], Plan] = evaluate
    examine: Callable[[Ruleset, Facts], Plan] = examine
    edit: Callable[[Ruleset, tuple[int, ...], bytes, float], bytes] = edit_header
    sign: Callable[[tuple[str, ...], bytes, bytes], bytes] = lambda names, section, body: b""
    # ^ the fields that sign, in these names, a header section and a body by its hash
    seal: Callable[[str, bytes, bytes, ArcResult, bytes], bytes] = lambda *of: b""
    # ^ ... those that seal the chain that it came with, with our results
    wishes: Callable[[Ruleset, Client], Wishes] = lambda ruleset, client: (
        TRUSTED if ruleset.trusts(client) else STRANGERS
    )  # for reports, honoured from a client
    gatherer: Gatherer | None = None  # for what rules look at and others know; None: no rule does
    cut_through: CutThrough | None = None  # for clients that may wait for the first attempt
    names: ClientNames | None = None  # of clients; None: nobody looks them up
    checks: Checks | None = None  # who else is asked before mail is taken
    filters: Filters | None = None  # who else reads the content; None: no rule asks any
    desk: FilterDesk | None = None  # ... where each session has its own
    turn: Callable[[], Awaitable[None]] = at_once  # let others have theirs


class Reception:
    """Answers the events of one session; holds at most one transaction and its draft.

    Remember, then speak: only the commit is worth waiting for, and everything else is answered on
    the spot from snapshots; unless others are to be asked (see relayd.intake.asking).
    """

    _keeps_header = False  # also where no rule edits it

    def __init__(self, intake: Intake, client: Client, policy: ListenerPolicy = RELAY) -> None:
        self.client = client
        self._naming: ClientNaming | None = None  # for the client's reverse name
        self._gathering: GatheredFacts | None = None
        self.messages = 0  # accepted in this session
        self.refused = 0  # commands and contents refused
        self._intake = intake
        self._ruleset: Ruleset | None = None  # of the transaction: taken at MAIL
        self._transaction: ReceivedTransaction | None = None
        self._draft: AnyDraft | None = None
        self._header: HeaderSection | None = None
        self._trace = b""
        self._beginning = b""  # of content, until it is known whether it has a header section
        self._policy = policy
        self._completion: Completion | None = None
        self._examination: Examination | None = None
        self._filters = intake.filters
        self._vouched: Vouched | None = None  # what came of it
        self._told: Mapping[Fact, object] | None = None  # all that was known at the final dot
        self._clean = False  # nothing in the content speaks in our name that is not ours
        self._eight_bit = False
        self._body_hash = b""  # of what is signed; empty: not made yet
        self._why = ""  # the content is refused, for the log
        self._failure: Reply | None = None  # known before the end of content
        self._wishes = STRANGERS
        self._wishing: tuple[Ruleset, Client] | None = None  # whose `_wishes` are
        self._attended = True  # the client is there to hear what we say
        self._first: AwaitedAttempt | None = None  # that he waits for
        self._held_header = self._held_recipients = 0  # octets of the memory that all share
        self._expected = False
        self._expect(soon=True)
        if client.rdns is None:
            self._look_up_name()
        if intake.gatherer is not None:
            self._ask_about_client(intake.gatherer)

    @property
    def in_transaction(self) -> bool:
        """MAIL was accepted, and its transaction is not over."""
        return self._transaction is not None

    def connected(self, greeting: Reply) -> Reply | Pending[Any]:
        """The greeting of a client who has just come, or why he is not welcome."""
        return greeting

    def receive(self, event: events.Event) -> Reply | Pending[Any] | None:
        """The verdict on any event but EndOfContent; None where none is needed."""
        return _VERDICTS[type(event)](self, event)

    def content(self, data: bytes) -> None:
        """A piece of content."""
        header, draft = self._header, self._draft
        if header is None or draft is None:
            return  # refused already: the rest is swallowed
        if not header.complete:
            if header.size == 0:
                data = self._begin(data)
                if not data:
                    return
            header.receive(data)
            if header.oversize:
                self._fail(_HEADER_TOO_LARGE)
                return
            if header.size > _FREE and not self._hold_header(header.held):
                self._fail(_NO_MEMORY)
                return
        if self._examination is not None:
            self._examination.receive(header, data)
        if self._completion is not None:
            data = self._completion.receive(data)
            if not data:
                return
        if not self._eight_bit and not data.isascii():
            self._eight_bit = True
        try:
            draft.write(data)
        except SpoolError as error:
            self._fail(self._spool_reply(error))

    def _begin(self, data: bytes) -> bytes:
        """The first octets, as they are to stand behind our trace field; held back until known."""
        beginning = self._beginning + data
        before = front(beginning)
        if before is None:
            self._beginning = beginning
            return b""
        self._beginning = b""
        return before + beginning if before else beginning

    def end_of_content(self) -> Reply | Pending[Any]:
        """The verdict on the content; a commit, unless something speaks against it."""
        examination = self._examination
        if examination is not None and self._end() is None:
            asked = self._examined(examination)
            return Pending(asked, self._verdict_on_content, lambda: LATE, SessionPhase.EXAMINATION)
        transaction, draft = self._transaction, self._draft
        signs = transaction is not None and transaction.signs and not self._body_hash
        if signs and self._end() is None:
            hashed = self._hash_body()
            return Pending(hashed, self._verdict_on_content, lambda: LATE, SessionPhase.EXAMINATION)
        submission = self._submission()
        if isinstance(submission, Reply):
            why, self._why = self._why, ""
            self.rollback()
            return self._refuse("end of content", submission, why)
        assert draft is not None
        assert transaction is not None
        # the commit's from now on: the session may end before that does
        self._draft = self._transaction = None
        held = self._held_header + self._held_recipients
        self._held_header = self._held_recipients = 0
        self.rollback()
        cut_through = self._intake.cut_through
        if transaction.patience and cut_through is not None and self._attended:
            places = cut_through.place(submission)
            if places is not None:
                submission = replace(submission, state=RecipientState.HELD, unanswered=True)
                waiting = self._commit(transaction, draft, submission, held)
                return Pending(cut_through.until(waiting, places), phase=SessionPhase.COMMIT)
        commit = self._commit(transaction, draft, submission, held)
        return Pending(commit, phase=SessionPhase.COMMIT)

    async def _commit(
        self, transaction: ReceivedTransaction, draft: AnyDraft, submission: Submission, held: int
    ) -> Reply:
        """Commit the message, and only then say 250 (promise 1). `held`: memory to give back."""
        intake = self._intake
        recipients, aliases = expand(submission.recipients)
        if aliases:
            submission = replace(submission, recipients=recipients)
        try:
            message, records = await draft.commit(submission)
        except SpoolError as error:
            take_back(transaction.counted)
            return self._refuse("end of content", self._spool_reply(error), error.reason)
        except Exception as error:  # a bug of ours must not bounce anybody's mail
            take_back(transaction.counted)
            intake.log.trouble("commit failed", error=repr(error))
            return self._refuse("end of content", _TROUBLE, repr(error))
        finally:
            if held:
                intake.memory.change(held, 0)
        if transaction.foretold:
            with contextlib.suppress(MemoryError):
                intake.foretold(message.ident, submission.trail)
        if submission.unanswered:
            refused = await self._after_first_attempt(transaction, message, records)
            if refused is not None:
                return refused
        self.messages += 1
        reply = Reply(250, 0, 0, (f"queued as {ident_text(message.ident)}",))
        # it is ours: whatever goes wrong from here on, the client hears so
        if not submission.unanswered:
            with contextlib.suppress(MemoryError):
                intake.log.accepted(message, records, max(intake.clock() - transaction.started, 0))
            with contextlib.suppress(MemoryError):
                self._hand_over(message, records, submission)
        try:
            for each in transaction.shadows(records):
                path = submission.envelope.reverse_path
                intake.untold(message.client, path, each.original, each.plan, submission.rules)
            if aliases:
                intake.expanded(message, aliases)
        except Exception as error:
            intake.log.trouble("after the commit", id=str(message), error=repr(error))
        return reply

    async def _after_first_attempt(
        self, transaction: ReceivedTransaction, message: Message, records: tuple[Record, ...]
    ) -> Reply | None:
        """Why it is not taken after all; None: it is (see relayd.relay.firstattempt).

        The spool always knows before the client what he is about to hear.
        """
        intake = self._intake
        cut_through, now = intake.cut_through, intake.clock()
        assert cut_through is not None
        intake.log.accepted(message, records, max(now - transaction.started, 0.0))
        first = self._first = cut_through.attempt(message, records, transaction.patience)
        if not self._attended:
            first.hurry()
        refused = await first.refused_by_all()
        self._first = None
        reply: Reply | None = None
        why = f"{message}: refused where it goes"
        if refused and self._attended:
            if not await first.refuse():
                reply, why = _TROUBLE, f"{message}: its outcome cannot be recorded"
            elif self._attended:
                reply = refusal(first.refusals, utf8=transaction.envelope.smtputf8)
            else:
                await first.report()
        else:
            try:
                await cut_through.answered(message.ident)
                first.take()
            except SpoolError as error:
                first.come_again()
                reply, why = self._spool_reply(error), error.reason
        if reply is None:
            return None
        take_back(transaction.counted)
        return self._refuse("end of content", reply, why)

    def nobody_waits(self) -> None:
        """The client has gone, or is to go: what is under way for him ends as it stands."""
        self._attended = False
        if self._first is not None:
            self._first.hurry()

    def leave(self) -> None:
        """The session is over, or another client's: tell of the refusals that have no line."""
        self.nobody_waits()
        if self._naming is not None:
            self._naming.cancel()
            self._naming = None
        if self._gathering is not None:
            self._gathering.cancel()
        untold = self.refused - _MOST_TOLD
        if untold > 0:
            self._intake.log.refused(self.client, f"and {untold} more", "not told one by one")

    def rollback(self) -> None:
        """The transaction, if there is one, ends without a message."""
        if self._draft is not None:
            self._draft.rollback()
        if self._transaction is not None and self._transaction.counted:
            take_back(self._transaction.counted)
        if self._expected:
            self._expect(soon=False)
        if self._held_header or self._held_recipients:
            self._hold_header(0)
            self._hold_recipients(0)
        if self._examination is not None:
            self._examination.cancel()
            self._examination = None
        self._vouched = self._told = None
        self._clean = False
        self._draft = self._transaction = self._header = self._failure = self._completion = None

    def _hold_header(self, octets: int) -> bool:
        """The header section has so many.

        The draft holds it too, and so do those who complete it and who examine it.
        """
        others = (self._completion is not None) + (self._examination is not None)
        now = _shares(octets * (2 + others))
        if not self._intake.memory.change(self._held_header, now):
            return False
        self._held_header = now
        return True

    def _hold_recipients(self, recipients: int) -> bool:
        """So many final recipients are remembered."""
        now = _shares(recipients * _RECIPIENT)
        if not self._intake.memory.change(self._held_recipients, now):
            return False
        self._held_recipients = now
        return True

    def _expect(self, *, soon: bool) -> None:
        """A new session, and then one with a transaction, is about to commit something."""
        if soon is not self._expected:
            self._expected = soon
            self._intake.expect(1 if soon else -1)

    def secured(self, tls: str, certificate: str = "") -> None:
        """TLS is up: `tls` says how. All that was said before is forgotten (RFC 3207 4.2)."""
        self.rollback()
        self.client = self.client.with_(login="")
        self.client = self.client.with_(tls=tls, certificate=certificate, helo="", protocol="SMTP")

    def introduced(self, client: Client) -> None:
        """XCLIENT: another client speaks from now on, as in a session of its own."""
        self.rollback()
        self.client = client
        self.messages = self.refused = 0
        self._attended = True
        if self._naming is not None:  # another one's
            self._naming.cancel()
            self._naming = None
        if client.rdns is None:
            self._look_up_name()
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering.about_client(self._intake.rules(), client)

    def logged_in(self, name: str, mechanism: str = "") -> None:
        """AUTH succeeded."""
        keyword = protocol_keyword(True, bool(self.client.tls), True, False)
        self.client = self.client.with_(login=name, protocol=keyword)

    # -- the client's name -----------------------------------------------------------------------

    def _look_up_name(self) -> None:
        """Begin; it goes on side by side with the session."""
        names = self._intake.names
        if names is not None:
            name = names.known(self.client.address)
            if name is None:
                self._naming = names.look_up(self.client.address)
            else:
                self.client = self.client.with_(rdns=name)

    def _once_named(
        self, naming: ClientNaming, then: Callable[[], Reply | Pending[Any]]
    ) -> Pending[Any]:
        """What needs the name, when it is there or too late."""
        return Pending(naming.wait(), lambda _: then(), lambda: None)

    def _take_name(self, naming: ClientNaming) -> None:
        if not naming.over:
            return
        self._naming = None
        if naming.name is not None:
            self.client = self.client.with_(rdns=naming.name)
            if self._transaction is not None:
                client = self._transaction.client
                self._transaction.client = client.with_(rdns=naming.name)

    # -- what others know --------------------------------------------------------------------

    def _ask_about_client(self, gatherer: Gatherer) -> GatheredFacts:
        gathering = self._gathering = gatherer.gathering()
        gathering.about_client(self._intake.rules(), self.client)
        return gathering

    # -- verdicts --------------------------------------------------------------------------------

    def _hello(self, event: events.Hello) -> Reply:
        client = self.client
        keyword = protocol_keyword(event.esmtp, bool(client.tls), bool(client.login), False)
        self.client = client.with_(helo=event.name, protocol=keyword)
        return _HELLO_OK

    def _mail(self, event: events.Mail) -> Reply | Pending[Any]:
        if self._transaction is not None:
            self.rollback()
        naming = self._naming
        if naming is not None:
            if naming.worth_waiting and REVERSE_NAME in self._intake.rules().needs:
                return self._once_named(naming, lambda: self._mail(event))
            self._take_name(naming)
        intake, params, client = self._intake, event.params, self.client
        if intake.desk is not None and self._filters is None:
            return self._refuse(mail_text(event), _ASKED_BY_NOW, "the rules ask filters by now")
        if self._policy.login_required and not client.login:
            return self._refuse(mail_text(event), _LOGIN_FIRST)
        ruleset = intake.rules()
        if client.login:
            reply = ruleset.send_as.refusal(client, event.path)
            if reply is not None:
                return self._refuse(mail_text(event), reply, f"login {client.login}")
        if not intake.spool.healthy:
            return self._refuse(mail_text(event), _TROUBLE, "spool unhealthy")
        if not intake.spool.room(params.size or 0):
            return self._refuse(mail_text(event), _FULL, "no room in the spool")
        if params.smtputf8:
            keyword = protocol_keyword(True, bool(client.tls), bool(client.login), True)
            client = client.with_(protocol=keyword)
        self._note_wishes(ruleset)
        ret = self._wishes.ret(params.ret)
        envelope = Envelope(
            event.path, params.body, params.smtputf8, ret, params.envid, params.require_tls
        )
        self._ruleset = ruleset
        self._transaction = ReceivedTransaction(envelope, client, intake.clock())
        if intake.gatherer is not None:
            gathering = self._gathering or self._ask_about_client(intake.gatherer)
            gathering.about_sender(ruleset, client, event.path)
        if not self._expected:
            self._expect(soon=True)
        return _MAIL_OK

    def _note_wishes(self, ruleset: Ruleset) -> None:
        """Once for all messages of a client, unless the rules change."""
        known, client = self._wishing, self.client
        if known is None or known[0] is not ruleset or known[1] is not client:
            self._wishing = ruleset, client
            self._wishes = self._intake.wishes(ruleset, client)

    def _rcpt(self, event: events.Rcpt) -> Reply | Pending[Any]:
        gathering = self._gathering
        if gathering is not None and not gathering.complete:
            return Pending(gathering.wait(), lambda _: self._rcpt(event), lambda: None)
        transaction, limits = self._transaction, self._intake.limits
        if transaction is None or self._ruleset is None:  # the core does not let it happen
            return Reply.of(503, "5.5.1", "MAIL first")
        mailbox, params = event.path, event.params
        notify = self._wishes.notify(params.notify) if params.notify else params.notify
        named = identity(mailbox)
        known = transaction.addressees.get(named)
        if known is not None:
            known.notify = merge_notify(known.notify, notify)
            return known.plan.reply
        recipients = len(transaction.addressees)
        if recipients >= limits.recipients:
            transaction.full = _TOO_MANY
        if transaction.full is not None:  # to decide again what cannot be taken would be dear
            return self._refuse(rcpt_text(mailbox), transaction.full)
        srs, guesses = self._ruleset.srs, self._intake.guesses
        guessable = guesses if srs is not None and srs.holds(mailbox) else None
        if guessable is not None and guessable.too_many_hashes(client_key(self.client.address)):
            return self._refuse(rcpt_text(mailbox), _TOO_MANY_HASHES, "guesses at SRS addresses")
        facts = Facts(
            transaction.client,
            transaction.envelope.reverse_path,
            mailbox,
            transaction.started,
            None if gathering is None else gathering.facts,
            asks=gathering is not None,
        )
        try:
            plan = self._intake.decide(self._ruleset, facts)
        except Unasked as unasked:
            assert gathering is not None
            gathering.about_recipient(self._ruleset, unasked.fact, facts, transaction.counted)
            return self._rcpt(event)
        if plan.verdict is Verdict.REFUSE:
            if guessable is not None and plan.reply is FORGED:
                guessable.wrong_hash(client_key(self.client.address))
            sender = transaction.envelope.reverse_path
            if gathering is not None:
                plan = replace(plan, trail=(*kept(gathering.facts), *plan.trail))
            self._intake.untold(transaction.client, sender, mailbox, plan, self._ruleset.hash)
            return self._refuse_recipient(mailbox, plan.reply, _why(plan))
        total = transaction.destinations + len(plan.destinations)
        if total > limits.destinations and recipients:
            transaction.full = _TOO_MANY
            return self._refuse_recipient(mailbox, _TOO_MANY, f"{total} final recipients")
        held = max(total, recipients + 1)  # what is thrown away has no destination
        much = held > _FREE_RECIPIENTS and held * _RECIPIENT > self._held_recipients
        if much and not self._hold_recipients(held):
            transaction.full = _NO_MEMORY
            return self._refuse_recipient(mailbox, _NO_MEMORY)
        told = None
        if gathering is not None and self._ruleset.examined:  # it may be decided again
            told = dict(gathering.facts)
        transaction.add(named, Addressee(mailbox, params.orcpt, notify, plan, told))
        if gathering is not None:
            transaction.note(gathering.of_recipient, gathering.recipient_decided(taken=True))
        return plan.reply

    def _refuse_recipient(self, mailbox: Mailbox, reply: Reply, why: str = "") -> Reply:
        """After it was decided about: nothing of it is counted."""
        if self._gathering is not None:
            self._gathering.recipient_decided(taken=False)
        return self._refuse(rcpt_text(mailbox), reply, why)

    def _data(self, event: events.Data) -> Reply | Pending[Any]:
        naming = self._naming
        if naming is not None:
            if naming.worth_waiting:
                return self._once_named(naming, lambda: self._data(event))
            self._take_name(naming)
        intake, transaction = self._intake, self._transaction
        if transaction is None:  # the core does not let it happen
            return Reply.of(503, "5.5.1", "MAIL first")
        self._failure = None
        self._eight_bit = False
        self._beginning = self._body_hash = b""
        try:
            draft = self._draft = intake.spool.create(pure=True)  # the core lets nothing else by
            self._trace = intake.trace.received(
                transaction.client, draft.ident, transaction.sole_recipient, intake.clock()
            )
            draft.write(self._trace)
        except SpoolError as error:
            reply = self._spool_reply(error)
            self._fail(reply)
            return self._refuse("DATA", reply, error.reason)
        if self._ruleset is not None and (self._ruleset.examined or self._filters is not None):
            self._examination = Examination(self._ruleset, intake.gatherer)
        self._header = HeaderSection(
            intake.trace,
            intake.limits.header_size,
            keep=self._keeps_header
            or transaction.edits_header
            or transaction.signs
            or self._policy.submission
            or self._examination is not None
            or (self._ruleset is not None and self._ruleset.authenticates),
        )
        self._completion = self._complete_with(draft.ident) if self._policy.submission else None
        return _GO_AHEAD

    def _complete_with(self, ident: int) -> Completion:
        assert self._header is not None
        intake, origin = self._intake, self._policy.origin
        return Completion(
            self._header,
            lambda section: completed(
                section,
                now=intake.clock(),
                ident=ident,
                hostname=intake.trace.hostname,
                origin=origin,
            ),
        )

    def _chunk(self, event: events.Chunk) -> None:
        self.content(event.data)

    def _content_refused(self, event: events.ContentRefused) -> None:
        self.rollback()
        self._refuse("content", event.reply)

    def _rset(self, event: events.Rset | events.Quit) -> None:
        self.rollback()

    def _core_refused(self, event: events.Refused) -> None:
        self._refuse(event.command, event.reply)

    def _vrfy(self, event: events.Vrfy) -> Reply:
        return _NOT_VERIFIED

    def _not_offered(self, event: events.Event) -> Reply:
        return _NOT_OFFERED

    # -- the examination of the content ----------------------------------------------------------

    async def _examined(self, examination: Examination) -> Objection:
        """Gather what is to be known of it, ask who else reads it, then ask the rules again."""
        transaction, ruleset, header = self._transaction, self._ruleset, self._header
        filters = self._filters
        assert transaction is not None
        assert ruleset is not None
        assert header is not None
        content = self._received_content()
        found = Filtered()
        try:
            told: dict[Fact, object] = dict(self._gathering.facts) if self._gathering else {}
            told |= await examination.facts(
                header, content, transaction.client, transaction.envelope, told
            )
            if filters is not None:
                if ruleset.authenticates:
                    await self._without_forged(content)
                named = [each.original for each in transaction.addressees.values()]
                found = await filters.examine(
                    transaction.client, transaction.envelope, named, content, told
                )
                if found.objection is not None:
                    self._why = " ".join(step.rule for step in found.trail)
                    return found.objection
                told |= found.facts
            if content.rewritten:
                self._content_rewritten(content)
                told |= examination.fields(content.section)
            if ruleset.foretells:
                told[BREAKS] = await self._foretelling(
                    ruleset, examination, transaction, content, header
                )
        except SpoolError as error:
            return self._spool_reply(error)
        finally:
            content.close()
        return await self._decided_again(ruleset, transaction, told, found)

    async def _foretelling(
        self,
        ruleset: Ruleset,
        examination: Examination,
        transaction: ReceivedTransaction,
        content: ReceivedContent,
        arrived: HeaderSection,
    ) -> Foretelling | None:
        """Who foretells what becomes of its copies. Raises SpoolError."""
        intake, vouched = self._intake, examination.vouched
        if intake.gatherer is None or vouched is None:
            return None
        section = content.whole_section
        if not self._clean:
            section = without_forged(section, intake.trace.hostname)
        results = b"Authentication-Results: ours\r\n" if ruleset.authenticates else b""
        return intake.gatherer.forecasting(
            ruleset,
            arrived=arrived.octets,
            section=section,
            above=results + content.trace,
            signatures=await examination.signatures(content, intake.turn),
            vouched=vouched,
            edit=lambda rules, octets: intake.edit(ruleset, rules, octets, transaction.started),
        )

    async def _without_forged(self, content: ReceivedContent) -> None:
        """Who reads it after us believes our name: nobody is to see what only claims it.

        What filters of ours write in our name from now on stays.
        """
        section = content.whole_section
        clean = without_forged(section, self._intake.trace.hostname)
        if clean != section:
            await content.rewrite(clean)
        self._clean = True

    async def _decided_again(
        self,
        ruleset: Ruleset,
        transaction: ReceivedTransaction,
        told: Mapping[Fact, object],
        found: Filtered,
    ) -> Objection:
        """What the rules say now that the content is known: of all recipients, then of each."""
        foretelling = cast("Foretelling | None", told.get(BREAKS))
        transaction.foretold = foretelling is not None
        self._told = told
        client, sender = transaction.client, transaction.envelope.reverse_path
        started = transaction.started
        nobody = Mailbox("", "")
        plan = self._intake.examine(
            ruleset, Facts(client, sender, nobody, started, told, Known.CONTENT)
        )
        if plan.verdict is Verdict.REFUSE:
            return self._refused_by(plan, ruleset, transaction)
        told_of_content = {fact: told[fact] for fact in ruleset.examined if fact in told}
        if foretelling is not None:
            told_of_content[BREAKS] = foretelling
        plans = []
        for number, each in enumerate(transaction.addressees.values(), 1):
            fresh = each.plan
            if ruleset.plans_anew or plan.trail:
                gathered = {**(each.gathered or {}), **told_of_content}
                facts = Facts(client, sender, each.original, started, gathered, Known.CONTENT)
                fresh = await self._decided_asking(ruleset, transaction, facts, foretelling)
                if fresh.verdict is Verdict.REFUSE:
                    return self._refused_by(fresh, ruleset, transaction)
            if found.verdict is not Verdict.ACCEPT and fresh.verdict is not Verdict.DISCARD:
                fresh = replace(fresh, verdict=found.verdict)
            plans.append(replace(fresh, trail=(*fresh.trail, *found.trail)))
            if number % _A_TURNS_RECIPIENTS == 0:
                await self._intake.turn()
        return self._planned_anew(transaction, plans)

    async def _decided_asking(
        self,
        ruleset: Ruleset,
        transaction: ReceivedTransaction,
        facts: Facts,
        foretelling: Foretelling | None,
    ) -> Plan:
        """What they say of one recipient, about whom others may still have to be asked."""
        gathering = self._gathering
        if gathering is None:
            return self._intake.decide(ruleset, facts)
        facts = replace(facts, asks=True)
        while True:
            try:
                plan = self._intake.decide(ruleset, facts)
            except Unasked as unasked:
                fact = unasked.fact
                if fact is UNFORETOLD and foretelling is not None:
                    await foretelling.look_up()
                    continue
                gathering.about_recipient(ruleset, fact, facts, transaction.counted)
                await gathering.wait()
                known = {**(facts.gathered or {}), fact: gathering.facts[fact]}
                facts = replace(facts, gathered=known)
            else:
                transaction.note(gathering.of_recipient, gathering.recipient_decided(taken=True))
                return plan

    def _planned_anew(self, transaction: ReceivedTransaction, plans: Sequence[Plan]) -> Objection:
        total = sum(len(plan.destinations) for plan in plans)
        if total > self._intake.limits.destinations and len(plans) > 1:
            return _TOO_MANY
        held = max(total, len(plans))
        if held > _FREE_RECIPIENTS and not self._hold_recipients(held):
            return _NO_MEMORY
        transaction.plan_anew(plans)
        return None

    def _refused_by(
        self, plan: Plan, ruleset: Ruleset, transaction: ReceivedTransaction
    ) -> Objection:
        """None of the recipients is taken: SMTP has one answer for all."""
        self._why = _why(plan)
        plan = replace(plan, trail=(*self._facts_told(), *plan.trail))
        path = transaction.envelope.reverse_path
        for each in transaction.addressees.values():
            self._intake.untold(transaction.client, path, each.original, plan, ruleset.hash)
        return plan.reply

    def _verdict_on_content(self, objection: Objection) -> Reply | Pending[Any]:
        """What others say was heard before (AskingReception); what is left is ours."""
        if self._examination is not None:
            self._vouched = self._examination.vouched
            self._examination = None
        if objection is not None:
            self._fail(objection)
        return Reception.end_of_content(self)

    def _received_content(self) -> ReceivedContent:
        """All of it, for who wants to read it, or write it anew."""
        assert self._draft is not None
        assert self._header is not None
        return ReceivedContent(
            self._draft,
            self._trace,
            self._header.octets if self._completion is None else self._completion.section,
            most_section=self._intake.limits.header_size,
            most_size=self._intake.limits.message_size,
            turn=self._intake.turn,
        )

    def _content_rewritten(self, content: ReceivedContent) -> None:
        header = HeaderSection(self._intake.trace, self._intake.limits.header_size, keep=True)
        header.receive(content.section)
        self._header, self._completion, self._trace = header, None, content.trace
        self._eight_bit = content.eight_bit

    # -- the end of content ----------------------------------------------------------------------

    def _end(self) -> Reply | None:
        """All of the content is in the draft now; or why it is not."""
        if self._beginning:  # all of the content, and no field
            beginning, self._beginning = self._beginning, b""
            self.content(b"\r\n" + beginning)
        if self._failure is None and self._header is not None:
            self._header.end()
            if self._completion is not None:
                try:
                    self._write(self._completion.end())
                except SpoolError as error:
                    self._fail(self._spool_reply(error))
        return self._failure

    def _submission(self) -> Submission | Reply:
        """What to commit, or why not."""
        failure = self._end()
        if failure is not None:
            return failure
        transaction, header, ruleset = self._transaction, self._header, self._ruleset
        limits, edit = self._intake.limits, self._intake.edit
        if transaction is None or header is None or ruleset is None:
            return _TROUBLE
        section, size = header.octets, header.size
        if self._completion is not None:
            section, size = self._completion.section, len(self._completion.section)
        reason = loop(header.hops, limits.loop, transaction.sole_recipient)
        if reason:
            return Reply.of(554, "5.4.6", reason)
        facts = ContentFacts(
            trace=self._trace,
            section=section,
            header_size=len(self._trace) + size,
            eight_bit=self._eight_bit,
            utf8_header=header.eight_bit,
            told=() if self._gathering is None and self._told is None else self._facts_told(),
            results=self._results(ruleset, transaction) if ruleset.authenticates else b"",
            authserv="" if self._clean else self._intake.trace.hostname,
        )
        try:
            submission = transaction.submission(
                facts,
                ruleset.hash,
                lambda rules, section: edit(ruleset, rules, section, transaction.started),
                lambda names, section: self._signed(names, section, facts.results),
            )
        except TooManyFieldsError:
            return _TOO_MANY_FIELDS
        grown = size
        if submission.headers:
            grown = max(grown, transaction.longest_section)
        if grown > header.size and self._draft is not None:
            # what came was within the limits; what leaves is to be so as well
            if grown > limits.header_size:
                return _HEADER_GREW
            if self._draft.size - len(self._trace) - size + grown > limits.message_size:
                return MESSAGE_GREW
        return submission

    def _signed(self, names: tuple[str, ...], section: bytes, results: bytes) -> bytes:
        """The fields that sign a header section in these names; one of them may seal it."""
        signers = tuple([name for name in names if not name.startswith(SEALS)])
        body = self._body_hash
        signed = self._intake.sign(signers, section, body) if signers else b""
        chain = None if self._vouched is None else self._vouched.arc
        if chain is None or len(signers) == len(names):
            return signed
        sealer = next(name for name in names if name.startswith(SEALS)).removeprefix(SEALS)
        return self._intake.seal(sealer, signed + section, body, chain, results) + signed

    async def _hash_body(self) -> Objection:
        """The body as it leaves is in the draft, whoever wrote it: for all signatures of it."""
        # only who signs needs cryptography, which takes its time to load
        from relayd.authentication.canonical import BodyHash

        draft, header = self._draft, self._header
        assert draft is not None
        assert header is not None
        size = header.size if self._completion is None else len(self._completion.section)
        body = BodyHash(relaxed=True)
        body.of(None)
        hashed = 0
        try:
            for piece in draft.chunks(len(self._trace) + size):
                body.feed(piece)
                hashed += len(piece)
                if hashed >= _A_TURNS_OCTETS:
                    hashed = 0
                    await self._intake.turn()
        except SpoolError as error:
            return self._spool_reply(error)
        self._body_hash = body.finish()[None]
        return None

    def _facts_told(self) -> tuple[Step, ...]:
        """What rules have looked at by now, to be kept with the message."""
        told = self._told
        if told is None and self._gathering is not None:
            told = self._gathering.facts
        elif told is not None and told.get(BREAKS) is not None:
            told = {**told, BREAKS: cast("Foretelling", told[BREAKS]).told}
        transaction = self._transaction
        of_recipients = {} if transaction is None else transaction.told
        return kept({**(told or {}), **of_recipients} if of_recipients else told or {})

    def _results(self, ruleset: Ruleset, transaction: ReceivedTransaction) -> bytes:
        """What was found out about who vouches for it, for those who read it after us."""
        told = {} if self._gathering is None else self._gathering.facts
        return results_field(
            self._intake.trace.hostname,
            transaction.client,
            transaction.envelope,
            told.get(SENDER_POLICY),
            self._vouched,
        )

    def _write(self, data: bytes) -> None:
        if data and self._draft is not None:
            self._draft.write(data)

    def _fail(self, reply: Reply) -> None:
        """The content cannot be taken: forget it, swallow the rest, say so at its end."""
        if self._draft is not None:
            self._draft.rollback()
        self._draft = self._header = self._completion = None
        self._hold_header(0)
        self._failure = reply

    def _hand_over(
        self, message: Message, records: tuple[Record, ...], submission: Submission
    ) -> None:
        waiting = records
        if submission.states or submission.state is not RecipientState.QUEUED:
            waiting = tuple(each for each in records if each.state is RecipientState.QUEUED)
            if not waiting:
                return
        try:
            self._intake.accept(message, waiting)
        except Exception as error:
            # it is in the spool, and the queue finds it there: the client hears 250
            self._intake.log.trouble("dispatch failed", id=str(message), error=repr(error))

    def _spool_reply(self, error: SpoolError) -> Reply:
        """Trouble of our own is never the sender's fault (promise 4): 4xx."""
        return _FULL if isinstance(error, SpoolFull) else _TROUBLE

    def _refuse(self, command: str, reply: Reply, why: str = "") -> Reply:
        self.refused += 1
        if self._expected and self._transaction is None:
            self._expect(soon=False)  # it may try again, but who knows when
        if self.refused <= _MOST_TOLD:
            self._intake.log.refused(self.client, command, str(reply), why)
        return reply


_VERDICTS: Mapping[type, Callable[..., Reply | Pending[Any] | None]] = {
    events.Hello: Reception._hello,
    events.Mail: Reception._mail,
    events.Rcpt: Reception._rcpt,
    events.Data: Reception._data,
    events.Chunk: Reception._chunk,
    events.ContentRefused: Reception._content_refused,
    events.Rset: Reception._rset,
    events.Quit: Reception._rset,
    events.Refused: Reception._core_refused,
    events.Vrfy: Reception._vrfy,
    events.StartTls: Reception._not_offered,
    events.Auth: Reception._not_offered,
    events.AuthResponse: Reception._not_offered,
    events.XClient: Reception._not_offered,
}


def _shares(octets: int) -> int:
    """Octets of memory for so many: whole shares."""
    return -(-octets // _SHARE) * _SHARE


def mail_text(event: events.Mail) -> str:
    """The command, for the log."""
    return f"MAIL FROM:<{path_text(event.path)}>"


def rcpt_text(mailbox: Mailbox) -> str:
    """The command, for the log."""
    return f"RCPT TO:<{mailbox}>"


def _why(plan: Plan) -> str:
    """The rule that refused, for the log."""
    step = plan.trail[-1] if plan.trail else None
    if step is None:
        return ""
    built_in = step.rule == str(plan.reply)  # its words stand in the reply already
    return f"{step.place} {(built_in and step.note) or step.rule}".strip()
