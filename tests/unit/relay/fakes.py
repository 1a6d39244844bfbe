"""A spool's table, a courier and a log, small enough to see through."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from zope.interface import implementer

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import BytesContent
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.mail.reply import Reply
from relayd.relay.courier import Hop, ICourier
from relayd.relay.limits import RelayLimits
from relayd.report.bounce import Report
from relayd.report.smaller import Smaller
from relayd.spool.errors import SpoolError
from relayd.spool.view import Accepted, NewMessage

T = TypeVar("T")
Key = tuple[int, int]

DELIVERED = Outcome(Reply.of(250, "2.0.0", "queued"), remote_mta="mx.example")
REFUSED = Outcome(Reply.of(550, "5.1.1", "no such user"), remote_mta="mx.example")
BUSY = Outcome(Reply.of(450, "4.2.1", "mailbox busy"), remote_mta="mx.example")
DEAD = postponed("4.4.1", "connection refused")
DENIED = postponed("4.7.1", "does not serve us: 554 5.7.1 Relay access denied", blame=Blame.SERVICE)
TOO_MANY = postponed("4.7.0", "too many connections", code=421).but(remote_mta="mx.example")
TOO_FAST = postponed("4.7.28", "unusual rate", code=421).but(remote_mta="mx.example")


def a_message(
    ident: int,
    recipients: Sequence[Recipient] | int = 1,
    *,
    received_at: float = 0.0,
    sender: str = "alice@example.org",
    content: bytes = b"Subject: x\r\n\r\nhello\r\n",
    client: str = "192.0.2.1",
    eight_bit: bool = False,
    require_tls: bool = False,
) -> Accepted:
    if isinstance(recipients, int):
        recipients = [a_recipient(f"user{n}@example.com") for n in range(recipients)]
    message = Message(
        ident,
        received_at,
        Envelope(Mailbox.parse(sender) if sender else None, require_tls=require_tls),
        Client(client),
        BytesContent(content),
        header_size=content.find(b"\r\n\r\n") + 4,
        eight_bit=eight_bit,
        utf8_header=False,
    )
    return message, tuple(
        Record(ident, number, recipient, next_attempt=received_at)
        for number, recipient in enumerate(recipients)
    )


def a_recipient(
    mailbox: str, next_hop: str = "sink", *, header: int = 0, notify: Sequence[str] = ()
) -> Recipient:
    parsed = Mailbox.parse(mailbox)
    return Recipient(
        parsed,
        parsed,
        next_hop,
        reverse_path=Mailbox.parse("alice@example.org"),
        notify=frozenset(notify),
        header=header,
    )


class Table:
    """The spool as the dispatcher sees it.

    With `slow`, a call takes two steps: its effect (what the database does), then its answer.
    Writes have effects and answers in order, reads too; else the order is the test's.
    """

    def __init__(self) -> None:
        self.slow = False
        self.healthy = True
        self.rows: dict[Key, Record] = {}
        self.messages: dict[int, Message] = {}
        self.known: set[Key] = set()
        self.ended: dict[Key, Settlement] = {}
        self.settled: list[Settlement] = []
        self.reports: list[Report] = []
        self.smaller: list[Smaller] = []
        self.calls: list[str] = []
        self._queues: dict[str, deque[Callable[[], None]]] = defaultdict(deque)
        self._written: dict[int, Report | Smaller] = {}

    # what the test does

    def add(self, accepted: Accepted) -> Accepted:
        message, records = accepted
        self.messages[message.ident] = message
        for record in records:
            self.rows[message.ident, record.number] = record
            self.known.add((message.ident, record.number))
        return accepted

    @property
    def steps(self) -> list[deque[Callable[[], None]]]:
        return [queue for queue in self._queues.values() if queue]

    def step(self, number: int = 0) -> None:
        queues = self.steps
        queues[number % len(queues)].popleft()()

    def write_report(self, report: Report | Smaller) -> NewMessage:
        ident = 1_000_000 + len(self._written)
        self._written[ident] = report
        if isinstance(report, Smaller):
            return NewMessage(ident, report.content, report.submission)
        notify = frozenset({"NEVER"} if report.lost else ())
        recipient = Recipient(report.to, report.to, "sink", notify=notify)
        return NewMessage(
            ident,
            b"\r\n\r\nreport",
            Submission(Envelope(None), Client(""), (recipient,), 4, False, False),
        )

    def state(self, ident: int, number: int = 0) -> RecipientState:
        key = ident, number
        return self.ended[key].state if key in self.ended else self.rows[key].state

    # what the dispatcher does

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Deferred[list[Accepted]]:
        return self._call("settle", lambda: self._settle(settlements, reports))

    def destinations(self) -> Deferred[list[tuple[str, float]]]:
        return self._call("destinations", self._destinations)

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> Deferred[list[Accepted]]:
        return self._call("due", lambda: self._due(destination, now, limit, longest))

    def earliest(self, destination: str, after: float) -> Deferred[float | None]:
        return self._call(
            "earliest",
            lambda: min(
                (
                    record.next_attempt
                    for record in self._queued(destination)
                    if record.next_attempt > after
                ),
                default=None,
            ),
        )

    def aged(
        self, received_before: float, after: int, limit: int, *, unwarned: bool = False
    ) -> Deferred[list[Accepted]]:
        return self._call("aged", lambda: self._aged(received_before, after, limit, unwarned))

    def load(self, ident: int) -> Deferred[Accepted | None]:
        raise NotImplementedError

    # how

    def _call(self, name: str, effect: Callable[[], Any]) -> Deferred[Any]:
        self.calls.append(name)
        deferred: Deferred[Any] = Deferred()
        if self.slow:
            kind = "write" if name == "settle" else "read"
            self._queues[kind].append(lambda: self._effect(kind, effect, deferred))
            return deferred
        try:
            return succeed(self._checked(effect))
        except SpoolError as error:
            deferred.errback(error)
            return deferred

    def _checked(self, effect: Callable[[], T]) -> T:
        if not self.healthy:
            raise SpoolError("disk on fire")
        return effect()

    def _effect(self, kind: str, effect: Callable[[], Any], deferred: Deferred[Any]) -> None:
        answers = self._queues[f"{kind} answer"]
        try:
            result = self._checked(effect)
        except SpoolError as error:
            failure = error
            answers.append(lambda: deferred.errback(failure))
        else:
            answers.append(lambda: deferred.callback(result))

    def _settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage]
    ) -> list[Accepted]:
        self.settled += settlements
        for settlement in settlements:
            key = settlement.record.message, settlement.record.number
            record = self.rows.get(key)
            assert record is not None, f"settled after its end: {key}"
            if settlement.state is not RecipientState.QUEUED:
                self.ended[key] = settlement
                del self.rows[key]
            elif record.state is RecipientState.QUEUED:
                self.rows[key] = replace(
                    record,
                    attempts=record.attempts + settlement.attempted,
                    last=settlement.outcome or record.last,
                    next_attempt=settlement.next_attempt,
                    warned=record.warned or settlement.warned,
                )
        stored = []
        for new in reports:
            report = self._written[new.ident]
            if isinstance(report, Smaller):
                self.smaller.append(report)
            else:
                self.reports.append(report)
            accepted = a_message(
                new.ident,
                new.submission.recipients,
                sender="",
                content=new.content,
                client=new.submission.client.address,
                eight_bit=new.submission.eight_bit,
                require_tls=new.submission.envelope.require_tls,
            )
            stored.append(self.add(accepted))
        return stored

    def _destinations(self) -> list[tuple[str, float]]:
        earliest: dict[str, float] = {}
        for record in self.rows.values():
            if record.state is RecipientState.QUEUED:
                name = record.recipient.destination
                earliest[name] = min(earliest.get(name, record.next_attempt), record.next_attempt)
        return list(earliest.items())

    def _queued(self, destination: str) -> list[Record]:
        return [
            record
            for record in self.rows.values()
            if record.state is RecipientState.QUEUED and record.recipient.destination == destination
        ]

    def _due(self, destination: str, now: float, limit: int, longest: float) -> list[Accepted]:
        due = [
            record
            for record in self._queued(destination)
            if not now < record.next_attempt <= now + longest
        ]
        due.sort(key=lambda record: record.next_attempt)
        return self._grouped(due)[:limit]

    def _aged(self, before: float, after: int, limit: int, unwarned: bool) -> list[Accepted]:
        records = [
            record
            for key, record in sorted(self.rows.items())
            if key[0] > after and self.messages[key[0]].received_at < before
        ]
        if unwarned:
            records = [record for record in records if not record.warned]
        return self._grouped(records)[:limit]

    def _grouped(self, records: Sequence[Record]) -> list[Accepted]:
        groups: dict[int, list[Record]] = {}
        for record in records:
            groups.setdefault(record.message, []).append(record)
        return [(self.messages[ident], tuple(each)) for ident, each in groups.items()]


@implementer(ICourier)
class Courier:
    """Answers when the test says so, or at once with `reply`."""

    def __init__(self) -> None:
        self.reply: Callable[[Record], Outcome] | None = None
        self.under_way: list[tuple[Delivery, Deferred[tuple[Outcome, ...]]]] = []
        self.started: list[Delivery] = []
        self.taken: set[Key] = set()  # delivered with success
        self.closed = False

    def deliver(self, delivery: Delivery, hop: Hop) -> Deferred[tuple[Outcome, ...]]:
        keys = keys_of(delivery)
        assert not keys & self.taken, f"delivered twice: {keys & self.taken}"
        for other, _ in self.under_way:
            assert not keys & keys_of(other), f"delivered twice at a time: {keys}"
        self.started.append(delivery)
        if self.reply is not None:
            outcomes = tuple(self.reply(record) for record in delivery.records)
            self._note(delivery, outcomes)
            return succeed(outcomes)
        deferred: Deferred[tuple[Outcome, ...]] = Deferred()
        self.under_way.append((delivery, deferred))
        return deferred

    def finish(self, outcome: Outcome | Sequence[Outcome], number: int = 0) -> Delivery:
        """End one delivery that is under way."""
        delivery, deferred = self.under_way.pop(number % len(self.under_way))
        outcomes = (
            (outcome,) * len(delivery.records) if isinstance(outcome, Outcome) else tuple(outcome)
        )
        self._note(delivery, outcomes)
        deferred.callback(outcomes)
        return delivery

    def _note(self, delivery: Delivery, outcomes: Sequence[Outcome]) -> None:
        for record, outcome in zip(delivery.records, outcomes, strict=True):
            if outcome.reply.code == 250:
                self.taken.add((delivery.message.ident, record.number))

    def apply(self, limits: RelayLimits) -> None:
        self.limits = limits

    def close(self) -> None:
        self.closed = True

    def withdraw(self) -> None:
        """What is under way is cut off."""
        self.abort()

    def abort(self) -> None:
        while self.under_way:
            self.finish(postponed("4.4.2", "cut off", blame=Blame.DESTINATION))


def keys_of(delivery: Delivery) -> set[Key]:
    return {(delivery.message.ident, record.number) for record in delivery.records}


class Log:
    """Keeps the lines."""

    def __init__(self) -> None:
        self.attempts: list[Settlement] = []
        self.reports: list[tuple[str, str, str]] = []
        self.notices: list[str] = []
        self.troubles: list[tuple[str, dict[str, object]]] = []

    def session(self, client: Client, **facts: object) -> None:
        pass

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        pass

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        pass

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        self.attempts.extend(settlements)

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        self.reports.append((report, to, kind))

    def notice(self, event: str, **facts: object) -> None:
        self.notices.append(event)

    def trouble(self, event: str, **facts: object) -> None:
        self.troubles.append((event, facts))
