"""A house with a clock that stands still, a spool that waits to be told, and clients to talk."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from relayd.intake.factory import SessionFactory
from relayd.intake.intake import Intake, ReceptionLimits
from relayd.intake.limits import Admission, SessionLimits
from relayd.intake.policy import ListenerPolicy
from relayd.intake.smtpservice import SmtpService
from relayd.intake.trace import TraceField
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import BytesContent
from relayd.mail.envelope import DIRECT
from relayd.mail.ident import make_ident
from relayd.mail.log import MailLog
from relayd.mail.message import Message, Record, Settlement, Submission
from relayd.mail.plan import Destination, Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.rules.evaluate import Facts
from relayd.rules.ruleset import Ruleset, build
from relayd.smtp.exchange import ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft

HOST = "gw.example.com"
RULES = build((), {}, HOST)
STEP = Step("accept", "test.rules:1", "accept any")


def accepted(facts: Facts, *destinations: Destination, verdict: Verdict = Verdict.ACCEPT) -> Plan:
    """A plan that takes the recipient; without destinations to itself, by MX."""
    return Plan(
        verdict,
        Reply.of(250, "2.1.5", "Ok"),
        destinations or (Destination(facts.recipient, DIRECT, facts.sender),),
        (STEP,),
    )


def decide(ruleset: Ruleset, facts: Facts) -> Plan:
    """What the local part asks for: refuse@, later@, hold@, discard@, alias@; else accept."""
    local = facts.recipient.local
    if local.startswith("refuse"):
        step = Step("reject", "test.rules:9", "reject to refuse@")
        return Plan(Verdict.REFUSE, Reply.of(550, "5.7.1", "Go away"), (), (STEP, step))
    if local == "later":
        return Plan(Verdict.REFUSE, Reply.of(451, "4.3.0", "Table unreadable"), (), (STEP,))
    if local == "hold":
        return accepted(facts, verdict=Verdict.HOLD)
    if local == "discard":
        return Plan(Verdict.DISCARD, Reply.of(250, "2.1.5", "Ok"), (), (STEP,))
    if local == "alias":
        return accepted(
            facts,
            Destination(Mailbox("alice", "example.net"), DIRECT, facts.sender),
            Destination(Mailbox("bob", "example.net"), "store", facts.sender, (1,)),
        )
    if local == "rewritten":
        destination = Destination(facts.recipient, DIRECT, facts.sender, (1, 2))
        return accepted(facts, destination)
    return accepted(facts)


def edit(ruleset: Ruleset, rules: tuple[int, ...], section: bytes, now: float) -> bytes:
    """Adds a field that tells which rules ran; a section with `X-Keep` stays as it is."""
    if b"X-Keep" in section:
        return section
    return b"X-Rules: %s\r\n" % ",".join(map(str, rules)).encode() + section


@dataclass
class FakeLog:
    """Remembers what was logged, as (kind, text)."""

    lines: list[tuple[str, str]] = field(default_factory=list)

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        text = f"{client.address} messages={messages} refused={refused} {seconds:g}s {end}"
        self.lines.append(("session", text))

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        self.lines.append(("refused", f"{command} -> {reply} ({why})"))

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        self.lines.append(("accepted", f"{message} {len(records)}"))

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        raise AssertionError("reception delivers nothing")

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        raise AssertionError("reception reports nothing")

    def notice(self, event: str, **facts: object) -> None:
        self.lines.append(("notice", f"{event} {facts}"))

    def trouble(self, event: str, **facts: object) -> None:
        self.lines.append(("trouble", f"{event} {facts}"))

    def of(self, kind: str) -> list[str]:
        return [text for a_kind, text in self.lines if a_kind == kind]


_log: MailLog = FakeLog()  # for the type checker: it is one


class FakeDraft:
    """Takes content in memory; commits when its spool says."""

    def __init__(self, spool: FakeSpool, ident: int) -> None:
        self.ident = ident
        self.size = 0
        self.content = b""
        self.rolled_back = False
        self._spool = spool

    def write(self, data: bytes) -> None:
        if self._spool.write_error is not None:
            raise self._spool.write_error
        self.content += data
        self.size += len(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        if self._spool.read_error is not None:
            raise self._spool.read_error
        return BytesContent(self.content).chunks(start)

    def anew(self) -> FakeDraft:
        return self._spool.create()

    def become(self, fresh: AnyDraft) -> None:
        assert isinstance(fresh, FakeDraft)
        assert not self.rolled_back
        assert not fresh.rolled_back
        self.content, self.size = fresh.content, fresh.size

    def rollback(self) -> None:
        self.rolled_back = True

    def commit(self, submission: Submission) -> Deferred[tuple[Message, tuple[Record, ...]]]:
        done: Deferred[tuple[Message, tuple[Record, ...]]] = Deferred()
        self._spool.waiting.append((self, submission, done))
        if not self._spool.slow:
            self._spool.finish()
        return done


class FakeSpool:
    """A spool whose commits finish when the test says so."""

    def __init__(self) -> None:
        self.healthy = True
        self.free = 1 << 40
        self.slow = False
        self.write_error: SpoolError | None = None
        self.read_error: SpoolError | None = None
        self.commit_error: Exception | None = None
        self.drafts: list[FakeDraft] = []
        self.waiting: list[
            tuple[FakeDraft, Submission, Deferred[tuple[Message, tuple[Record, ...]]]]
        ] = []
        self.stored: list[tuple[Message, Submission]] = []
        self._idents = itertools.count(1)

    def room(self, size: int) -> bool:
        return size < self.free

    def create(self, *, pure: bool = False) -> FakeDraft:
        self.drafts.append(FakeDraft(self, make_ident(next(self._idents), 0)))
        return self.drafts[-1]

    def finish(self) -> None:
        """Commit the oldest that waits (or fail it)."""
        draft, submission, done = self.waiting.pop(0)
        if self.commit_error is not None:
            done.errback(self.commit_error)
            return
        message = Message(
            draft.ident,
            0.0,
            submission.envelope,
            submission.client,
            BytesContent(draft.content),
            submission.header_size,
            submission.eight_bit,
            submission.utf8_header,
            submission.headers,
        )
        self.stored.append((message, submission))
        records = tuple(
            Record(draft.ident, number, recipient, submission.state_of(number))
            for number, recipient in enumerate(submission.recipients)
        )
        done.callback((message, records))


class Peer:
    """A client of the house, line by line."""

    def __init__(self, protocol: Protocol, transport: StringTransport) -> None:
        self._first = protocol
        self.transport = transport
        self.writes = 0
        write = transport.write

        def counted(data: bytes) -> None:
            self.writes += 1
            write(data)

        transport.write = counted  # type: ignore[method-assign]
        # StringTransport closes nothing; a peer that is told to go, goes
        self.closing = False

    @property
    def protocol(self) -> Protocol:
        """Whom the transport belongs to by now."""
        owner: Protocol = self.transport.__dict__.get("protocol", self._first)
        return owner

    def replies(self) -> list[str]:
        """What was said since we last asked."""
        said: str = self.transport.value().decode()
        self.transport.clear()
        return said.splitlines()

    def say(self, *lines: str | bytes) -> list[str]:
        """Send these lines as one piece."""
        octets = b"".join(
            (line.encode() if isinstance(line, str) else line) + b"\r\n" for line in lines
        )
        self.protocol.dataReceived(octets)
        return self.replies()

    def send(self, octets: bytes) -> list[str]:
        """Send these octets as one piece."""
        self.protocol.dataReceived(octets)
        return self.replies()

    def leave(self) -> None:
        """The connection is lost."""
        self.protocol.connectionLost(Failure(ConnectionDone()))

    @property
    def told_to_go(self) -> bool:
        return self.transport.disconnecting


class Scene:
    """One house, its spool and its log."""

    def __init__(
        self,
        *,
        sessions: SessionLimits | None = None,
        limits: ReceptionLimits | None = None,
        offer: Offer | None = None,
        session: ServerLimits | None = None,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_763_787_840)
        self.log = FakeLog()
        self.spool = FakeSpool()
        self.handed_over: list[tuple[Message, tuple[Record, ...]]] = []
        self.admission = Admission(sessions or SessionLimits(), self.clock.seconds)
        self.intake = Intake(
            trace=TraceField(HOST),
            rules=lambda: RULES,
            spool=self.spool,
            accept=lambda message, records: self.handed_over.append((message, records)),
            log=self.log,
            clock=self.clock.seconds,
            limits=limits or ReceptionLimits(),
            decide=decide,
            edit=edit,
        )
        self.service = SmtpService(
            reactor=self.clock,
            hostname=HOST,
            intake=self.intake,
            admission=self.admission,
            make_server=lambda _: SmtpServer(HOST, session or ServerLimits(), offer or Offer()),
            policies=defaultdict(ListenerPolicy),
        )
        self.factory = SessionFactory(self.service, "127.0.0.1:2525")

    def change(self, **intake: object) -> None:
        """Other premises for sessions to come."""
        self.service.intake = replace(self.intake, **intake)  # type: ignore[arg-type]

    def listen(self, **policy: object) -> None:
        """Another policy of the listener for sessions to come, but for what was said before."""
        changed = replace(self.service.policies[""], **policy)  # type: ignore[arg-type]
        self.service.policies = defaultdict(lambda: changed)

    def connect(self, address: str = "192.0.2.1") -> Peer:
        """A new client; its greeting is still unread."""
        protocol = self.factory.buildProtocol(IPv4Address("TCP", address, 40000))
        assert protocol is not None
        transport = StringTransport()
        peer = Peer(protocol, transport)
        protocol.makeConnection(transport)
        return peer

    def greeted(self, address: str = "192.0.2.1", helo: str = "EHLO client.example") -> Peer:
        """A client past EHLO."""
        peer = self.connect(address)
        peer.say(helo)
        return peer


def message(*recipients: str, sender: str = "s@example.org") -> tuple[str, ...]:
    """The commands of one transaction, up to DATA."""
    return (
        f"MAIL FROM:<{sender}>",
        *(f"RCPT TO:<{recipient}>" for recipient in recipients or ("alice@example.com",)),
        "DATA",
    )


CONTENT = ("Subject: test", "", "Hello.", ".")


def until(condition: Callable[[], bool], clock: Clock, step: float, limit: float) -> float:
    """Advance the clock until the condition holds; seconds it took, or `limit`."""
    passed = 0.0
    while not condition() and passed < limit:
        clock.advance(step)
        passed += step
    return passed
