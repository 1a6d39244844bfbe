"""A spool that promises nothing past the end of the process: the model that tests compare with."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from relayd.mail.content import BytesContent, from_octet
from relayd.mail.ident import make_ident
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.naming import names_of
from relayd.mail.outcome import UNANSWERED, held
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft
from relayd.spool.lease import Lease
from relayd.spool.sqlite.bridge import Bridge, Promise
from relayd.spool.sqlite.matching import (
    found_in,
    matches,
    recipient_summary_of,
    summary_of,
)
from relayd.spool.view import (
    AS_THEY_ARE,
    NEVER_ANSWERED,
    Accepted,
    Audit,
    Backlog,
    Counts,
    Envelopes,
    FindFilter,
    FoundPage,
    FoundRecipient,
    History,
    LedgerEntry,
    NewMessage,
    Page,
    QueueFilter,
    Rerouting,
    Summary,
)


class MemoryDraft:
    """A draft of a MemorySpool."""

    def __init__(self, ident: int, spool: MemorySpool) -> None:
        self.ident = ident
        self.size = 0
        self._spool = spool
        self._pieces: list[bytes] = []
        self._done = False

    def write(self, data: bytes) -> None:
        """More content."""
        self._require_open()
        self._pieces.append(bytes(data))
        self.size += len(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """What was written, from `start` on."""
        self._require_open()
        return from_octet(start, self._pieces)

    def anew(self) -> MemoryDraft:
        """An empty draft for what may take the place of this content."""
        self._require_open()
        return self._spool.create()

    def become(self, fresh: AnyDraft) -> None:
        """Have the content of `fresh` instead."""
        assert isinstance(fresh, MemoryDraft)
        self._require_open()
        fresh._require_open()
        self._pieces, self.size = fresh._pieces, fresh.size
        fresh.rollback()

    def _require_open(self) -> None:
        if self._done:
            raise SpoolError("the draft is over")

    def commit(self, submission: Submission) -> Awaitable[Accepted]:
        """Keep it."""
        self._done = True
        new = NewMessage(self.ident, b"".join(self._pieces), submission)
        return self._spool.record(lambda: self._spool.accept(new))

    def rollback(self) -> None:
        """Forget it."""
        self._done = True
        self._pieces = []


class MemorySpool:
    """A Store in memory; the contract of each method is Store's. Tests may set `healthy`."""

    def __init__(
        self, bridge: Bridge, *, shard: int = 0, clock: Callable[[], float] = time.time
    ) -> None:
        self.on_trouble: Callable[[str], None] = lambda reason: None
        self.lease: Lease | None = None
        self.on_recovery: Callable[[], None] = lambda: None
        self.on_change: Callable[[str, Sequence[tuple[int, int]]], None] = lambda verb, met: None
        self.healthy = False
        self.full = False  # for tests: room() says no
        self._bridge = bridge
        self._shard = shard
        self._clock = clock
        self._last_us = 0
        self._messages: dict[int, Message] = {}
        self._records: dict[int, dict[int, Record]] = {}
        self._histories: dict[int, History] = {}
        self._damaged: set[int] = set()

    def open(self) -> None:
        """Begin."""
        self.healthy = True
        for record in self._unanswered(list(self._records)):
            let_go = Settlement(
                record, RecipientState.REMOVED, attempted=False, note=NEVER_ANSWERED
            )
            self._end(record, let_go, record.attempts)

    def close(self) -> Awaitable[None]:
        """End; what is in it stays for another open."""
        self.healthy = False
        promise: Promise[None] = self._bridge.promise()
        self._bridge.call(promise.callback, None)
        return promise

    def room(self, size: int) -> bool:
        """Always, unless a test said otherwise."""
        return not self.full

    def new_ident(self) -> int:
        """An identifier never given before."""
        self._last_us = max(self._last_us + 1, int(self._clock() * 1e6))
        return make_ident(self._last_us, self._shard)

    def create(self, *, pure: bool = False) -> MemoryDraft:
        """Begin to take in a message."""
        return MemoryDraft(self.new_ident(), self)

    def record(self, act: Callable[[], object]) -> Awaitable[Any]:
        """Do it now, tell it later, as a real spool would."""
        promise: Promise[Any] = self._bridge.promise()
        if self.healthy:
            self._bridge.call(promise.callback, act())
        else:
            self._bridge.call(promise.errback, SpoolError("the spool cannot record"))
        return promise

    def _ask(self, value: object, *, to_act: bool = False) -> Awaitable[Any]:
        if to_act:
            return self.record(lambda: value)
        promise: Promise[Any] = self._bridge.promise()
        self._bridge.call(promise.callback, value)
        return promise

    def accept(self, new: NewMessage) -> Accepted:
        """Store a message."""
        now = float(self._clock())
        submission = new.submission
        message = Message(
            new.ident,
            now,
            submission.envelope,
            submission.client,
            BytesContent(new.content),
            submission.header_size,
            submission.eight_bit,
            submission.utf8_header,
            submission.headers,
        )
        records = tuple(
            Record(
                new.ident,
                number,
                recipient,
                submission.state_of(number),
                0,
                now,
                submission.first_word(number),
            )
            for number, recipient in enumerate(submission.recipients)
        )
        entries = []
        for number, recipient in enumerate(submission.recipients):
            entry = LedgerEntry(
                number, recipient.mailbox, recipient.original, recipient.next_hop, None
            )
            state = submission.state_of(number)
            if not state.waiting:
                entry = replace(entry, state=state, ended_at=now)
            entries.append(entry)
        self._histories[new.ident] = History(
            new.ident,
            now,
            len(new.content),
            submission.envelope,
            submission.client,
            submission.rules,
            submission.trail,
            names_of(message.content, submission.header_size),
            tuple(entries),
        )
        waiting = {record.number: record for record in records if record.state.waiting}
        if waiting:
            self._messages[new.ident] = message
            self._records[new.ident] = waiting
        return message, records

    def settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage] = ()
    ) -> Awaitable[list[Accepted]]:
        """Record outcomes and reports."""
        return self.record(lambda: self._settle(settlements, reports))

    def _settle(
        self, settlements: Sequence[Settlement], reports: Sequence[NewMessage]
    ) -> list[Accepted]:
        effects = [self._settle_one(settlement) for settlement in settlements]
        if effects and not any(effects):
            return []
        return [self.accept(report) for report in reports]

    def _settle_one(self, settlement: Settlement) -> bool:
        ident, number = settlement.record.message, settlement.record.number
        record = self._records.get(ident, {}).get(number)
        if record is None:
            return False
        attempts = settlement.record.attempts + settlement.attempted
        if not settlement.state.waiting:
            self._end(record, settlement, attempts)
            return True
        self._records[ident][number] = replace(
            record,
            state=max(record.state, settlement.state),
            attempts=attempts,
            next_attempt=settlement.next_attempt,
            last=settlement.outcome or record.last,
            warned=record.warned or settlement.warned,
        )
        return settlement.warned and not record.warned

    def _end(self, record: Record, settlement: Settlement, attempts: int) -> None:
        ident = record.message
        history = self._histories[ident]
        entries = tuple(
            replace(
                entry,
                state=settlement.state,
                ended_at=float(self._clock()),
                attempts=attempts,
                outcome=settlement.outcome,
                note=settlement.note,
            )
            if entry.number == record.number
            else entry
            for entry in history.entries
        )
        self._histories[ident] = replace(history, entries=entries)
        del self._records[ident][record.number]
        if not self._records[ident]:
            del self._records[ident], self._messages[ident]

    def answered(self, ident: int) -> Awaitable[None]:
        """Its client hears 250."""

        def act() -> None:
            for record in self._unanswered([ident]):
                fresh = replace(
                    record,
                    state=RecipientState.QUEUED,
                    next_attempt=float(self._clock()),
                    last=None,
                )
                self._records[ident][record.number] = fresh

        return self.record(act)

    def _unanswered(self, idents: list[int]) -> list[Record]:
        return [
            record
            for ident in idents
            for record in self._records.get(ident, {}).values()
            if record.state is RecipientState.HELD and record.last == UNANSWERED
        ]

    # questions

    def _waiting(self) -> list[tuple[Message, Record]]:
        return [
            (self._messages[ident], record)
            for ident in sorted(self._messages)
            for _, record in sorted(self._records[ident].items())
        ]

    def destinations(self) -> Awaitable[list[tuple[str, float]]]:
        """Every destination with queued mail, and its earliest next_attempt."""
        found: dict[str, float] = {}
        for _, record in self._waiting():
            if record.state is RecipientState.QUEUED:
                name, at = record.recipient.destination, record.next_attempt
                found[name] = min(at, found.get(name, at))
        return self._ask(sorted(found.items()), to_act=True)

    def due(
        self, destination: str, now: float, limit: int, *, longest: float = math.inf
    ) -> Awaitable[list[Accepted]]:
        """Up to `limit` messages with their due records."""
        due = [
            record
            for _, record in self._waiting()
            if record.state is RecipientState.QUEUED
            and record.recipient.destination == destination
            and not now < record.next_attempt <= now + longest
        ]
        due.sort(key=lambda record: (record.next_attempt, record.message))
        found: dict[int, list[Record]] = {}
        for record in due:
            if record.message not in found and len(found) == limit:
                break
            found.setdefault(record.message, []).append(record)
        for records in found.values():
            records.sort(key=lambda record: record.number)
        accepted = [(self._messages[ident], tuple(each)) for ident, each in found.items()]
        return self._ask(accepted, to_act=True)

    def earliest(self, destination: str, after: float) -> Awaitable[float | None]:
        """The earliest next_attempt later than `after`."""
        times = (
            record.next_attempt
            for _, record in self._waiting()
            if record.state is RecipientState.QUEUED
            and record.recipient.destination == destination
            and record.next_attempt > after
        )
        return self._ask(min(times, default=None), to_act=True)

    def aged(
        self, received_before: float, after: int, limit: int, *, unwarned: bool = False
    ) -> Awaitable[list[Accepted]]:
        """Waiting messages by ident with all their waiting records."""
        found = (
            (self._messages[ident], tuple(records.values()))
            for ident, records in sorted(self._records.items())
            if ident > after
            and self._messages[ident].received_at <= received_before
            and any(
                not unwarned or (record.state is RecipientState.QUEUED and not record.warned)
                for record in records.values()
            )
        )
        return self._ask(list(islice(found, limit)), to_act=True)

    def load(self, ident: int) -> Awaitable[Accepted | None]:
        """One waiting message with all its waiting records."""
        message = self._messages.get(ident)
        if message is None:
            return self._ask(None)
        return self._ask((message, tuple(self._records[ident].values())))

    def history(self, ident: int) -> Awaitable[History | None]:
        """What the ledger knows of a message."""
        return self._ask(self._histories.get(ident))

    def listing(self, wanted: QueueFilter, after: int, limit: int) -> Awaitable[Page]:
        """Waiting messages by ident."""
        summaries: list[Summary] = []
        for message, record in self._waiting():
            if message.ident <= after or not matches(wanted, message, record):
                continue
            if not summaries or summaries[-1].ident != message.ident:
                if len(summaries) == limit:
                    return self._ask(Page(json.dumps(summaries), limit, summaries[-1].ident))
                summaries.append(summary_of(message))
            summaries[-1].recipients.append(recipient_summary_of(record))
        return self._ask(Page(json.dumps(summaries), len(summaries), None))

    def find(self, wanted: FindFilter, before: int, limit: int) -> Awaitable[FoundPage]:
        """Recipients of waiting and of finished mail, the newest message first."""
        found: list[FoundRecipient] = []
        for ident in sorted(self._histories, reverse=True):
            if ident < before:
                if len(found) >= limit:
                    return self._ask(FoundPage(found, ident + 1))
                history = self._histories[ident]
                found += found_in(wanted, history, self._records.get(ident, {}))
        return self._ask(FoundPage(found, None))

    def counts(self) -> Awaitable[Counts]:
        """Totals."""
        records = [record for _, record in self._waiting()]
        queued = [record for record in records if record.state is RecipientState.QUEUED]
        return self._ask(
            Counts(
                len(self._messages),
                sum(message.content.size for message in self._messages.values()),
                len(queued),
                len(records) - len(queued),
                dict(Counter(record.recipient.destination for record in queued)),
                len(self._damaged),
            )
        )

    def backlog(self) -> Awaitable[Backlog]:
        """How much waits, and how old it is."""
        oldest: dict[str, float] = {}
        for message, record in self._waiting():
            oldest.setdefault(record.recipient.destination, message.received_at)
        octets = sum(message.content.size for message in self._messages.values())
        return self._ask(Backlog(len(self._messages), octets, oldest))

    def audit(self, after: int, limit: int) -> Awaitable[Audit]:
        """All is well by construction."""
        accepted = sum(len(history.entries) for history in self._histories.values())
        return self._ask(Audit(accepted if not after else 0, [], None))

    # the operator

    def retry(self, wanted: QueueFilter) -> Awaitable[int]:
        """Make queued recipients due now."""
        return self.record(lambda: self._put_back("retry", wanted, RecipientState.QUEUED))

    def hold(self, wanted: QueueFilter, by: str = "") -> Awaitable[int]:
        """Keep queued recipients out of the queue."""

        def act() -> int:
            met = [each for each in self._met(wanted) if each.state is RecipientState.QUEUED]
            for record in met:
                word = held(by or "the operator")
                kept = replace(record, state=RecipientState.HELD, last=word)
                self._records[record.message][record.number] = kept
            return self._changed("hold", met)

        return self.record(act)

    def release(
        self, wanted: QueueFilter, sections: Mapping[int, bytes] = AS_THEY_ARE
    ) -> Awaitable[int]:
        """Put held recipients back, due now."""
        return self.record(lambda: self._put_back("release", wanted, RecipientState.HELD, sections))

    def _put_back(
        self,
        verb: str,
        wanted: QueueFilter,
        state: RecipientState,
        sections: Mapping[int, bytes] = AS_THEY_ARE,
    ) -> int:
        met = [each for each in self._met(wanted) if each.state is state]
        if verb == "release":  # not what a client is about to be answered about
            met = [each for each in met if each.last != UNANSWERED]
        if sections:
            met = [self._with_section(each, sections) for each in met]
        for record in met:
            last = None if verb == "release" else record.last  # it said why it was held
            self._records[record.message][record.number] = replace(
                record, state=RecipientState.QUEUED, next_attempt=float(self._clock()), last=last
            )
        return self._changed(verb, met)

    def _with_section(self, record: Record, sections: Mapping[int, bytes]) -> Record:
        section = sections.get(record.recipient.header)
        if section is None:
            return record
        message = self._messages[record.message]
        headers = message.headers
        if section not in headers:
            headers = (*headers, section)
            self._messages[record.message] = replace(message, headers=headers)
        header = headers.index(section) + 1
        return replace(record, recipient=replace(record.recipient, header=header))

    def remove(self, wanted: QueueFilter, note: str = "") -> Awaitable[int]:
        """End waiting recipients as REMOVED."""

        def act() -> int:
            met = self._met(wanted)
            for record in met:
                removal = Settlement(record, RecipientState.REMOVED, note=note)
                self._end(record, removal, record.attempts)
            return self._changed("remove", met)

        return self.record(act)

    def envelopes(
        self, wanted: QueueFilter, after: int, limit: int
    ) -> Awaitable[tuple[list[Envelopes], int | None]]:
        """Waiting messages by ident that the filter means."""
        page = [ident for ident in sorted(self._messages) if ident > after][:limit]
        found = []
        for ident in page:
            message, history = self._messages[ident], self._histories[ident]
            records = tuple(each for _, each in sorted(self._records[ident].items()))
            meant = frozenset(each.number for each in records if matches(wanted, message, each))
            if meant:
                found.append(
                    Envelopes(
                        ident,
                        message.received_at,
                        message.envelope,
                        message.client,
                        history.trail,
                        records,
                        meant,
                        tuple(
                            (each.mailbox, each.note)
                            for each in history.entries
                            if each.state is not None
                        ),
                        len(history.entries),
                    )
                )
        return self._ask((found, None if len(page) < limit else page[-1]), to_act=True)

    def reroute(self, reroutings: Sequence[Rerouting]) -> Awaitable[list[int]]:
        """Send waiting recipients another way."""
        return self.record(lambda: [each.message for each in reroutings if self._reroute(each)])

    def _reroute(self, rerouting: Rerouting) -> bool:
        records = self._records.get(rerouting.message, {})
        if any(records.get(each.number) != each for each in rerouting.before):
            return False
        history = self._histories[rerouting.message]
        entries = {entry.number: entry for entry in history.entries}
        for record in rerouting.after:
            to = record.recipient
            records[record.number] = record
            entries[record.number] = LedgerEntry(
                record.number, to.mailbox, to.original, to.next_hop, None
            )
        self._histories[history.ident] = replace(history, entries=tuple(entries.values()))
        for record, note in rerouting.ended:
            removal = Settlement(record, RecipientState.REMOVED, note=note)
            self._end(record, removal, record.attempts)
        return True

    def set_aside(self, ident: int, reason: str) -> Awaitable[bool]:
        """Take a damaged message out of the queue."""

        def act() -> bool:
            there = self._messages.pop(ident, None) is not None
            self._records.pop(ident, None)
            if there:
                self._damaged.add(ident)
            return there

        return self.record(act)

    def _met(self, wanted: QueueFilter) -> list[Record]:
        return [each for message, each in self._waiting() if matches(wanted, message, each)]

    def _changed(self, verb: str, met: list[Record]) -> int:
        if met:
            keys = [(record.message, record.number) for record in met]
            self._bridge.call(lambda: self.on_change(verb, keys))
        return len(met)
