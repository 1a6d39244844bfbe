"""One suite over the spools on disk, in PostgreSQL and in memory: what a Store does."""

from __future__ import annotations

import json
import random
import unittest
from dataclasses import replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psycopg

from relayd.mail.address import Mailbox
from relayd.mail.content import CHUNK
from relayd.mail.envelope import DIRECT, Envelope, Recipient, is_direct
from relayd.mail.ident import ident_text, shard_of
from relayd.mail.message import RecipientState, Record, Settlement
from relayd.mail.outcome import UNANSWERED, Outcome, failed
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.spool.errors import SpoolError
from relayd.spool.interface import Store
from relayd.spool.memory import MemorySpool
from relayd.spool.postgresql.store import PostgresqlSpool
from relayd.spool.sqlite.bridge import ThreadBridge
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import (
    NEVER_ANSWERED,
    Accepted,
    Envelopes,
    FindFilter,
    FoundRecipient,
    NewMessage,
    QueueFilter,
    Rerouting,
    Summary,
)
from tests.postgresqlserver import empty_spool
from tests.spooling import (
    DONE,
    LATER,
    SENDER,
    TRAIL,
    facts,
    octets,
    plain,
    recipient,
    submission,
    summaries,
)

BODY = b"Subject: hello\r\n\r\nbody\r\n"
DRAFTS = (0, 100, 300_000, 3_000_000)  # octets: in memory, in memory for a file, in a file
EVERYTHING = QueueFilter()
BOUNCE = failed("5.1.1", "no such user")


LOOKED_FOR = (
    FindFilter(),
    FindFilter(sender="<>"),
    FindFilter(recipient="A@corp.example"),
    FindFilter(sender="@source.example", states=frozenset({RecipientState.HELD})),
    FindFilter(states=frozenset({RecipientState.FAILED, RecipientState.REMOVED})),
    FindFilter(states=frozenset({RecipientState.DELIVERED}), subject="hello"),
)


def sift_at_once(test: unittest.TestCase) -> None:
    """A sieve for every few rows of the ledger, and soon: see relayd.spool.sqlite.sieve."""
    for name, value in (("sift.BLOCK", 3), ("store.SIFT_EVERY", 0.0)):
        patching = patch(f"relayd.spool.sqlite.{name}", value)
        patching.start()
        test.addCleanup(patching.stop)


async def all_found(store: Store, wanted: FindFilter, limit: int = 1000) -> list[FoundRecipient]:
    """Piece by piece, as a reader takes it."""
    found: list[FoundRecipient] = []
    before: int | None = 1 << 62
    while before is not None:
        page = await store.find(wanted, before, limit)
        assert all(each.ident < before for each in page.found)
        found, before = found + page.found, page.before
    return found


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class StoreContract:
    """Mixed into a TestCase; `store()` gives an open one."""

    clock: Clock
    bridge: ThreadBridge
    store: Any
    assertRaises: Any  # noqa: N815  # of the TestCase

    def put(self, *to: Recipient, content: bytes = BODY, **more: Any) -> Accepted:
        draft = self.store.create()
        draft.write(content)
        accepted: Accepted = self.wait(draft.commit(submission(*to, **more)))
        return accepted

    def wait(self, awaitable: Any) -> Any:
        return self.bridge.wait(awaitable)

    def trouble(self) -> None:
        """The store cannot record any more."""
        raise NotImplementedError

    def reopen(self) -> None:
        """It ends, and begins anew."""
        raise NotImplementedError

    def settle(self, *settlements: Settlement, reports: Any = ()) -> list[Accepted]:
        result: list[Accepted] = self.wait(self.store.settle(settlements, reports))
        return result

    def report(self, content: bytes = b"Subject: failed\r\n\r\n") -> NewMessage:
        to = replace(recipient("sender"), reverse_path=None)
        return NewMessage(self.store.new_ident(), content, submission(to, sender=None))

    def all_queued(self) -> list[Any]:
        found = []
        for name, _ in self.wait(self.store.destinations()):
            found += plain(self.wait(self.store.due(name, self.clock.now + 1e9, 1000)))
        return found

    # acceptance

    def test_what_is_committed_is_due_at_once_and_comes_back_whole(self) -> None:
        to = (
            recipient(
                "anna", original=Mailbox("o@dd", "xn--bcher-kva.example"), orcpt="rfc822;a@b"
            ),
            recipient("böb", path=Mailbox("srs0=x", "relay.example"), notify=frozenset({"NEVER"})),
            recipient("c", path=None, notify=frozenset({"SUCCESS", "DELAY"}), header=1),
            replace(recipient("d"), mailbox=Mailbox("Postmaster", ""), next_hop="a,b"),
        )
        envelope = Envelope(Mailbox('s "q"', "[192.0.2.1]"), "8BITMIME", True, "HDRS", "id 1", True)
        message, records = self.put(
            *to, envelope=envelope, utf8_header=True, headers=(b"Subject: other\r\n\r\n",)
        )
        assert message.received_at == self.clock.now
        assert [record.recipient for record in records] == list(to)
        loaded = self.wait(self.store.load(message.ident))
        assert facts(loaded[0]) == facts(message)
        assert loaded[1] == records
        due = self.wait(self.store.due("inside", self.clock.now, 10))
        assert plain(due) == [(facts(message), records[:3])]
        assert octets(due[0][0].content_for(1)) == b"Subject: other\r\n\r\n" + BODY[10:]

    def looked_for(self, limit: int = 1000, **wanted: Any) -> list[str]:
        """The mailboxes of those that are found, as they come."""

        async def asked() -> list[FoundRecipient]:
            return await all_found(self.store, FindFilter(**wanted), limit)

        return [each.mailbox.partition("@")[0] for each in self.wait(asked())]

    def test_mail_is_found_by_each_key_waiting_or_finished(self) -> None:
        content = (
            b"Received: from a\r\n\tby b\r\nMESSAGE-ID:\r\n <One.1@Mail.example>\r\n"
            b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from\r\n Invoices, 2026\r\n\r\nbody\r\n"
        )
        envelope = Envelope(Mailbox("Ann", "Source.example"), envid="QQ+314")
        moved = Mailbox("list", "lists.example")
        _, records = self.put(
            recipient("first"),
            recipient("second", original=moved),
            content=content,
            header_size=len(content) - 6,
            envelope=envelope,
        )
        self.put(recipient("other"), sender=None)
        self.look_for_them()
        self.settle(*[Settlement(each, RecipientState.DELIVERED, DONE) for each in records])
        self.look_for_them()

    def look_for_them(self) -> None:
        pair, everybody = ["first", "second"], ["other", "first", "second"]
        now = self.clock.now
        for wanted, found in (
            ({"sender": "ann@source.EXAMPLE"}, pair),
            ({"sender": "@source.example", "subject": "invoices"}, pair),
            ({"message_id": "<one.1@mail.example>"}, pair),
            ({"message_id": "One.1@Mail.example"}, pair),
            ({"envid": "qq+314"}, pair),
            ({"subject": "gr\u00fc\u00dfe"}, pair),
            ({"subject": "2026 GR\u00dc\u00dfE"}, pair),
            ({"until": now + 1, "envid": "QQ+314"}, pair),
            ({"recipient": "@LISTS.example"}, ["second"]),
            ({"recipient": "list@lists.example"}, ["second"]),
            ({"recipient": "second@corp.example"}, ["second"]),
            ({"sender": "<>"}, ["other"]),
            ({}, everybody),
            ({"client": "192.0.2.7"}, everybody),
            ({"login": "JOE"}, everybody),
            ({"recipient": "@corp.example"}, everybody),
            ({"sender": "nn@source.example"}, []),
            ({"sender": "@example"}, []),
            ({"subject": "invoice"}, []),
            ({"since": now + 1}, []),
            ({"until": now}, []),
            ({"client": "192.0.2.70"}, []),
            ({"message_id": "one"}, []),
        ):
            named: dict[str, Any] = dict(wanted)
            assert self.looked_for(**named) == found, wanted
        assert self.looked_for(1) == everybody

    def test_mail_is_found_by_its_state_as_that_changes(self) -> None:
        states = {state.name: state for state in RecipientState}

        def by(*names: str) -> list[str]:
            return self.looked_for(states=frozenset(states[name] for name in names))

        _, (first, second, _) = self.put(recipient("a"), recipient("b"), recipient("c"))
        assert by("QUEUED") == ["a", "b", "c"]
        self.settle(Settlement(first, RecipientState.FAILED, BOUNCE))
        self.settle(Settlement(second, RecipientState.DELIVERED, DONE))
        self.wait(self.store.hold(EVERYTHING))
        assert by("QUEUED") == []
        assert by("HELD") == ["c"]
        assert by("FAILED", "EXPIRED") == ["a"]
        assert by("DELIVERED") == ["b"]
        self.wait(self.store.remove(EVERYTHING))
        assert by("REMOVED", "DELIVERED") == ["b", "c"]
        assert by("HELD", "DISCARDED") == []

    def test_destinations_name_the_earliest_attempt_of_each(self) -> None:
        first, _ = self.put(recipient("a", "one"), recipient("b", "two"))
        self.clock.now += 5
        self.put(recipient("c", "two"), replace(recipient("d"), next_hop="direct"))
        at = first.received_at
        expected = [("direct corp.example", at + 5), ("one", at), ("two", at)]
        assert sorted(self.wait(self.store.destinations())) == expected

    def test_idents_grow_even_if_the_clock_is_set_back(self) -> None:
        idents = [self.store.new_ident()]
        for step in (0.0, -100.0, 1e-6, 50.0):
            self.clock.now += step
            idents.append(self.store.create().ident)
        assert idents == sorted(set(idents))
        assert {shard_of(ident) for ident in idents} == {0}

    def test_nothing_of_a_draft_that_was_rolled_back_remains(self) -> None:
        draft = self.store.create()
        draft.write(BODY)
        draft.rollback()
        assert self.wait(self.store.load(draft.ident)) is None
        assert self.wait(self.store.history(draft.ident)) is None
        assert self.wait(self.store.counts()).messages == 0

    def draft(self, size: int, seed: int = 0) -> tuple[Any, bytes]:
        """A draft of so many octets, written in pieces."""
        body = random.Random(size + seed).randbytes(size)
        draft = self.store.create()
        for at in range(0, size, 50_000):
            draft.write(body[at : at + 50_000])
        return draft, body

    def test_a_draft_is_read_back_from_any_octet_as_often_as_one_likes(self) -> None:
        for size in DRAFTS:
            draft, body = self.draft(size)
            for start in {0, 1, 70_000, size - 1, size, size + 1}:
                if start >= 0:
                    assert b"".join(draft.chunks(start)) == body[start:]
            assert max((len(each) for each in draft.chunks()), default=0) <= max(CHUNK, 50_000)
            draft.write(b"more")
            assert b"".join(draft.chunks(size)) == b"more"
            message, _ = self.wait(draft.commit(submission()))
            assert octets(message.content) == body + b"more"

    def test_a_draft_becomes_another_whatever_the_size_of_either(self) -> None:
        for before, after in product(DRAFTS, DRAFTS):
            draft, _ = self.draft(before)
            fresh = draft.anew()
            body = random.Random(after + 1).randbytes(after)
            for at in range(0, after, 50_000):
                fresh.write(body[at : at + 50_000])
            draft.become(fresh)
            fresh.rollback()  # harmless
            assert (draft.size, b"".join(draft.chunks())) == (after, body)
            draft.write(b"more")
            message, _ = self.wait(draft.commit(submission()))
            assert message.ident == draft.ident
            loaded, _ = self.wait(self.store.load(message.ident))
            assert octets(message.content) == octets(loaded.content) == body + b"more"

    def test_a_draft_that_becomes_nothing_stays_what_it_was(self) -> None:
        for size in DRAFTS:
            draft, body = self.draft(size)
            fresh = draft.anew()
            fresh.write(b"x" * 3_000_000)
            fresh.rollback()
            message, _ = self.wait(draft.commit(submission()))
            assert octets(message.content) == body

    def test_a_draft_that_is_over_takes_and_gives_nothing_any_more(self) -> None:
        for size in DRAFTS:
            draft, _ = self.draft(size)
            fresh, other = draft.anew(), draft.anew()
            other.rollback()
            for act, *given in (
                (draft.become, other),
                (other.become, fresh),
                (other.write, b"x"),
                (lambda over: list(over.chunks()), other),
                (other.anew,),
            ):
                with self.assertRaises(SpoolError):
                    act(*given)
            draft.rollback()
            with self.assertRaises(SpoolError):
                draft.become(fresh)
            fresh.rollback()
        assert self.wait(self.store.counts()).messages == 0

    def test_content_of_every_size_is_kept_byte_for_byte(self) -> None:
        for size in (0, 1, 65535, 65536, 65537, 200_000):
            body = random.Random(size).randbytes(size)
            draft = self.store.create()
            for at in range(0, size, 10_000):
                draft.write(body[at : at + 10_000])
            assert draft.size == size
            message, _ = self.wait(draft.commit(submission()))
            loaded, _ = self.wait(self.store.load(message.ident))
            assert octets(message.content) == octets(loaded.content) == body
            assert loaded.content.size == size
            for start in (0, 1, size // 2, max(0, size - 1), size):
                assert b"".join(loaded.content.chunks(start)) == body[start:]

    def test_held_mail_waits_but_is_not_due(self) -> None:
        message, records = self.put(state=RecipientState.HELD)
        assert records[0].state is RecipientState.HELD
        assert self.wait(self.store.destinations()) == []
        assert self.wait(self.store.load(message.ident))[1] == records
        counts = self.wait(self.store.counts())
        assert (counts.messages, counts.queued, counts.held) == (1, 0, 1)

    def test_who_is_not_answered_is_on_hold_and_due_with_the_answer(self) -> None:
        message, records = self.put(
            recipient("a"), recipient("b"), state=RecipientState.HELD, unanswered=True
        )
        other, _ = self.put(state=RecipientState.HELD)
        assert {record.last for record in records} == {UNANSWERED}
        assert self.wait(self.store.destinations()) == []
        self.settle(Settlement(records[0], RecipientState.DELIVERED, DONE))
        self.clock.now += 7
        self.wait(self.store.answered(message.ident))
        _, (left,) = self.wait(self.store.load(message.ident))
        assert left == replace(
            records[1], state=RecipientState.QUEUED, next_attempt=self.clock.now, last=None
        )
        _, (held,) = self.wait(self.store.load(other.ident))
        assert held.state is RecipientState.HELD
        self.wait(self.store.answered(other.ident))
        self.wait(self.store.answered(1))
        assert self.wait(self.store.load(other.ident))[1] == (held,)

    def test_what_no_client_was_answered_about_is_let_go_at_the_next_start(self) -> None:
        message, _ = self.put(state=RecipientState.HELD, unanswered=True)
        big, _ = self.put(state=RecipientState.HELD, unanswered=True, content=b"z" * 100_000)
        taken, _ = self.put(state=RecipientState.HELD, unanswered=True)
        self.wait(self.store.answered(taken.ident))
        held, _ = self.put(state=RecipientState.HELD)
        queued, _ = self.put()
        self.wait(self.store.hold(QueueFilter(ident=queued.ident), "450 4.7.0 the operator"))
        self.reopen()
        self.put()
        for gone in (message, big):
            assert self.wait(self.store.load(gone.ident)) is None
            (entry,) = self.wait(self.store.history(gone.ident)).entries
            assert (entry.state, entry.note) == (RecipientState.REMOVED, NEVER_ANSWERED)
        for kept in (taken, held, queued):
            assert self.wait(self.store.load(kept.ident)) is not None

    def test_what_a_client_waits_for_is_released_by_nobody(self) -> None:
        message, (record,) = self.put(state=RecipientState.HELD, unanswered=True)
        held, _ = self.put(state=RecipientState.HELD)
        assert self.wait(self.store.release(EVERYTHING)) == 1
        assert self.wait(self.store.release(QueueFilter(ident=message.ident))) == 0
        assert self.wait(self.store.load(message.ident))[1] == (record,)
        assert self.wait(self.store.load(held.ident))[1][0].state is RecipientState.QUEUED
        self.reopen()  # it is the client's still
        self.put()
        assert self.wait(self.store.load(message.ident)) is None

    def test_no_peer_s_words_let_go_what_the_operator_holds(self) -> None:
        message, records = self.put()
        self.wait(self.store.hold(EVERYTHING))
        said = Outcome(UNANSWERED.reply, "mx.example.net", "192.0.2.1:25")
        self.settle(Settlement(records[0], RecipientState.QUEUED, said, 7.0))
        self.wait(self.store.answered(message.ident))
        self.reopen()
        self.put()
        assert self.wait(self.store.load(message.ident))[1][0].state is RecipientState.HELD

    def test_of_discarded_mail_only_the_ledger_knows(self) -> None:
        message, records = self.put(recipient("a"), recipient("b"), state=RecipientState.DISCARDED)
        assert [record.state for record in records] == [RecipientState.DISCARDED] * 2
        assert self.wait(self.store.load(message.ident)) is None
        history = self.wait(self.store.history(message.ident))
        assert [entry.state for entry in history.entries] == [RecipientState.DISCARDED] * 2
        assert self.wait(self.store.counts()).messages == 0

    # outcomes

    def test_a_postponed_recipient_waits_with_its_last_outcome(self) -> None:
        message, (record,) = self.put()
        at = self.clock.now + 60
        self.settle(Settlement(record, RecipientState.QUEUED, LATER, at))
        assert self.wait(self.store.due("inside", self.clock.now, 10)) == []
        ((_, (later,)),) = self.wait(self.store.due("inside", at, 10))
        assert later == replace(record, attempts=1, next_attempt=at, last=LATER)
        self.settle(
            Settlement(later, RecipientState.QUEUED, None, at + 1, attempted=False, warned=True)
        )
        (loaded,) = self.wait(self.store.load(message.ident))[1]
        assert loaded == replace(later, next_attempt=at + 1, warned=True)

    def test_the_end_of_the_last_recipient_is_the_end_of_the_message(self) -> None:
        message, (one, two) = self.put(recipient("a"), recipient("b"), headers=(b"x",))
        self.settle(Settlement(one, RecipientState.DELIVERED, DONE))
        assert self.wait(self.store.load(message.ident))[1] == (two,)
        self.clock.now += 9
        self.settle(Settlement(two, RecipientState.FAILED, BOUNCE, note="because"))
        assert self.wait(self.store.load(message.ident)) is None
        assert self.wait(self.store.counts()).octets == 0
        history = self.wait(self.store.history(message.ident))
        assert history.client == message.client
        assert history.envelope == message.envelope
        assert (history.rules, history.trail, history.size) == ("c0ffee", TRAIL, len(BODY))
        ends = [(entry.state, entry.outcome, entry.attempts) for entry in history.entries]
        assert ends == [(RecipientState.DELIVERED, DONE, 1), (RecipientState.FAILED, BOUNCE, 1)]
        assert history.entries[1].note == "because"
        assert history.entries[1].ended_at == self.clock.now
        assert self.wait(self.store.audit(0, 100)).discrepancies == []

    def test_reports_are_stored_with_the_outcome(self) -> None:
        message, (record,) = self.put()
        report = self.report()
        ((new, records),) = self.settle(
            Settlement(record, RecipientState.FAILED, BOUNCE), reports=[report]
        )
        assert new.ident == report.ident
        assert self.wait(self.store.load(message.ident)) is None
        loaded = self.wait(self.store.load(new.ident))
        assert facts(loaded[0]) == facts(new)
        assert loaded[1] == records
        assert loaded[0].envelope.reverse_path is None

    def test_a_report_that_is_thrown_away_is_known_to_the_ledger_alone(self) -> None:
        _, (record,) = self.put()
        report = self.report()
        report = replace(
            report, submission=replace(report.submission, state=RecipientState.DISCARDED)
        )
        ((new, records),) = self.settle(
            Settlement(record, RecipientState.FAILED, BOUNCE), reports=[report]
        )
        assert [each.state for each in records] == [RecipientState.DISCARDED]
        assert self.wait(self.store.load(new.ident)) is None

    def test_the_first_end_state_wins_and_a_report_is_not_sent_twice(self) -> None:
        message, (record,) = self.put()
        assert (
            len(
                self.settle(
                    Settlement(record, RecipientState.FAILED, BOUNCE), reports=[self.report()]
                )
            )
            == 1
        )
        again = self.settle(
            Settlement(record, RecipientState.EXPIRED, BOUNCE), reports=[self.report()]
        )
        assert again == []
        (entry,) = self.wait(self.store.history(message.ident)).entries
        assert entry.state is RecipientState.FAILED
        counts = self.wait(self.store.counts())
        assert (counts.messages, counts.queued) == (1, 1)
        assert self.wait(self.store.audit(0, 100)).discrepancies == []

    def test_no_report_is_sent_twice_where_another_recipient_still_waits(self) -> None:
        message, (one, two) = self.put(recipient("a"), recipient("b"))
        outcome = (
            Settlement(one, RecipientState.FAILED, BOUNCE),
            Settlement(two, RecipientState.QUEUED, LATER, 5.0),
        )
        report = self.report()
        assert len(self.settle(*outcome, reports=[report])) == 1
        # a COMMIT that was reported as failed may have reached the disk: the very same again
        assert self.settle(*outcome, reports=[report]) == []
        assert [each.state for each in self.wait(self.store.load(message.ident))[1]] == [
            RecipientState.QUEUED
        ]
        assert self.wait(self.store.counts()).messages == 2
        assert self.wait(self.store.audit(0, 100)).discrepancies == []

    def test_each_recipient_of_a_settlement_keeps_its_own_outcome(self) -> None:
        message, records = self.put(*(recipient(name) for name in "abcd"))
        taken = Outcome(Reply.parse("250 2.0.0 Ok"), "mx1.example.net", "198.51.100.7:25")
        refused = replace(taken, reply=Reply.parse("250 2.1.5 That one, too"))
        outcomes = (taken, taken, refused, taken)
        self.settle(
            *(
                Settlement(record, RecipientState.DELIVERED, outcome)
                for record, outcome in zip(records, outcomes, strict=True)
            )
        )
        history = self.wait(self.store.history(message.ident))
        assert tuple(entry.outcome for entry in history.entries) == outcomes

    def test_two_settlements_at_once_are_as_good_as_one(self) -> None:
        _, (record,) = self.put()
        settlement = Settlement(record, RecipientState.FAILED, BOUNCE)
        promises = [self.store.settle([settlement], [self.report()]) for _ in range(3)]
        assert sum(len(self.wait(promise)) for promise in promises) == 1
        assert self.wait(self.store.counts()).messages == 1

    def test_a_warning_is_stored_once(self) -> None:
        _, (record,) = self.put()
        warning = Settlement(record, RecipientState.QUEUED, LATER, 1.0, warned=True)
        assert len(self.settle(warning, reports=[self.report()])) == 1
        assert self.settle(warning, reports=[self.report()]) == []

    def test_outcome_of_a_removed_recipient_changes_nothing(self) -> None:
        message, (record,) = self.put()
        assert self.wait(self.store.remove(QueueFilter(ident=message.ident), "spam")) == 1
        self.settle(Settlement(record, RecipientState.QUEUED, LATER, 5.0))
        assert (
            self.settle(Settlement(record, RecipientState.DELIVERED, DONE), reports=[self.report()])
            == []
        )
        (entry,) = self.wait(self.store.history(message.ident)).entries
        assert (entry.state, entry.note) == (RecipientState.REMOVED, "spam")

    def test_a_postponement_does_not_undo_a_hold(self) -> None:
        message, (record,) = self.put()
        assert self.wait(self.store.hold(QueueFilter())) == 1
        self.settle(Settlement(record, RecipientState.QUEUED, LATER, 5.0))
        (held,) = self.wait(self.store.load(message.ident))[1]
        assert (held.state, held.attempts) == (RecipientState.HELD, 1)
        self.settle(Settlement(held, RecipientState.DELIVERED, DONE))
        assert self.wait(self.store.load(message.ident)) is None

    def test_settling_nothing_is_allowed(self) -> None:
        assert self.settle() == []
        assert len(self.settle(reports=[self.report()])) == 1

    # questions

    def test_due_gives_the_earliest_first_and_keeps_a_message_together(self) -> None:
        accepted = []
        for n in range(5):
            accepted.append(self.put(recipient("a"), recipient("b"), recipient("c", "other")))
            self.clock.now += 1
            del n
        first = accepted[0][1]
        self.settle(
            *(Settlement(each, RecipientState.QUEUED, LATER, self.clock.now) for each in first)
        )
        due = self.wait(self.store.due("inside", self.clock.now, 3))
        assert [message.ident for message, _ in due] == [each[0].ident for each in accepted[1:4]]
        assert [len(records) for _, records in due] == [2, 2, 2]
        everything = self.wait(self.store.due("inside", self.clock.now, 100))
        assert everything[-1][0].ident == accepted[0][0].ident
        assert self.wait(self.store.due("nowhere", self.clock.now, 100)) == []

    def test_due_finds_what_waits_for_the_time_of_a_clock_that_was_set_back(self) -> None:
        (_, (near,)), (_, (far,)) = self.put(), self.put()
        now = self.clock.now
        self.settle(Settlement(near, RecipientState.QUEUED, LATER, now + 60))
        self.settle(Settlement(far, RecipientState.QUEUED, LATER, now + 3600))
        assert self.wait(self.store.due("inside", now, 9)) == []
        assert self.wait(self.store.due("inside", now, 9, longest=3600)) == []
        ((_, (found,)),) = self.wait(self.store.due("inside", now, 9, longest=300))
        assert found.message == far.message

    def test_aged_walks_by_ident_and_can_leave_out_who_was_warned(self) -> None:
        accepted = [self.put(recipient("a"), recipient("b")) for _ in range(4)]
        self.clock.now += 100
        young = self.put()
        before = self.clock.now - 50
        page = self.wait(self.store.aged(before, 0, 3))
        assert [message.ident for message, _ in page] == [each[0].ident for each in accepted[:3]]
        (rest,) = self.wait(self.store.aged(before, page[-1][0].ident, 3))
        assert plain([rest]) == plain([accepted[3]])
        for record in accepted[0][1]:
            self.settle(Settlement(record, RecipientState.QUEUED, None, 1.0, warned=True))
        self.settle(Settlement(accepted[1][1][0], RecipientState.QUEUED, None, 1.0, warned=True))
        self.wait(self.store.hold(QueueFilter(ident=accepted[2][0].ident)))
        unwarned = self.wait(self.store.aged(self.clock.now, 0, 9, unwarned=True))
        expected = [accepted[1], accepted[3], young]
        assert [message.ident for message, _ in unwarned] == [each[0].ident for each in expected]

    def listed(self, wanted: QueueFilter = EVERYTHING, limit: int = 2) -> list[Summary]:
        found: list[Summary] = []
        after: int | None = 0
        while after is not None:
            page = self.wait(self.store.listing(wanted, after, limit))
            assert page.messages <= limit
            found += summaries(page)
            after = page.after
        return found

    def test_a_listing_shows_every_text_as_it_is(self) -> None:
        names = [
            'a"b',
            "back\\slash",
            "tab\tbell\x07\x7f",
            "gr\u00fc\u00df\u2028\U0001f4ee",
            "[],{}",
        ]
        _, records = self.put(*(recipient(name, f"hop {name}") for name in names))
        reply = Reply(450, 4, 2, ('it\'s "full" \\ here', "\u00fcber"))
        self.settle(*(Settlement(each, RecipientState.QUEUED, Outcome(reply)) for each in records))
        (summary,) = self.listed()
        found = [(each.mailbox, each.next_hop, each.last_reply) for each in summary.recipients]
        expected = [(f"{name}@corp.example", f"hop {name}", str(reply)) for name in names]
        assert found == expected

    def test_a_page_that_is_just_full_is_followed_by_the_rest(self) -> None:
        idents = [self.put()[0].ident for _ in range(4)]
        for limit in (1, 2, 3, 4, 5):
            for wanted in (QueueFilter(), QueueFilter(recipient="user")):
                assert [each.ident for each in self.listed(wanted, limit)] == idents

    def test_listing_filters_and_pages(self) -> None:
        one, _ = self.put(recipient("anna", "one"), recipient("bert", "two, three"))
        self.clock.now += 10
        two, _ = self.put(recipient("Berta", "direct"), sender=None)
        three, _ = self.put(
            recipient("x", original=Mailbox("ann", "old.example")), state=RecipientState.HELD
        )
        cases: list[tuple[QueueFilter, list[tuple[int, int]]]] = [
            (QueueFilter(), [(one.ident, 2), (two.ident, 1), (three.ident, 1)]),
            (QueueFilter(ident=two.ident), [(two.ident, 1)]),
            (QueueFilter(ident=5), []),
            (QueueFilter(state=RecipientState.HELD), [(three.ident, 1)]),
            (QueueFilter(destination="three"), [(one.ident, 1)]),
            (QueueFilter(destination="CORP.example"), [(two.ident, 1)]),
            (QueueFilter(destination="direct corp.example"), [(two.ident, 1)]),
            (QueueFilter(recipient="bert"), [(one.ident, 1), (two.ident, 1)]),
            (QueueFilter(recipient="BERT@corp.example"), [(one.ident, 1)]),
            (QueueFilter(recipient="@old.ex"), [(three.ident, 1)]),
            (QueueFilter(sender="<>"), [(two.ident, 1)]),
            (QueueFilter(sender="source"), [(one.ident, 2), (three.ident, 1)]),
            (QueueFilter(received_before=one.received_at + 1), [(one.ident, 2)]),
            (QueueFilter(recipient="b", state=RecipientState.HELD), []),
        ]
        for wanted, expected in cases:
            found = [(each.ident, len(each.recipients)) for each in self.listed(wanted)]
            assert found == expected, wanted
        summary = self.listed(QueueFilter(ident=three.ident))[0]
        assert (summary.size, summary.sender) == (len(BODY), f"{SENDER}")
        assert summary.recipients[0].original == "ann@old.example"
        assert summary.recipients[0].state == RecipientState.HELD

    def test_a_listing_shows_the_last_reply(self) -> None:
        _, (record,) = self.put()
        self.settle(Settlement(record, RecipientState.QUEUED, LATER, 77.0))
        (summary,) = self.listed()
        (shown,) = summary.recipients
        expected = ("451 4.4.2 try again", 1, 77.0)
        assert (shown.last_reply, shown.attempts, shown.next_attempt) == expected

    def test_counts(self) -> None:
        self.put(recipient("a", "one"), recipient("b", "two"))
        self.put(recipient("c", "two"))
        self.put(recipient("d", "two"), state=RecipientState.HELD)
        counts = self.wait(self.store.counts())
        assert (counts.messages, counts.octets) == (3, 3 * len(BODY))
        assert (counts.queued, counts.held, counts.damaged) == (3, 1, 0)
        assert counts.destinations == {"one": 1, "two": 2}

    def test_the_oldest_of_each_next_hop_however_much_waits_elsewhere(self) -> None:
        for to, hop in (("a", "one"), ("b", "one"), ("c", "two"), ("d", "two"), ("e", "three")):
            self.clock.now += 10
            self.put(recipient(to, hop))
        with patch("relayd.spool.sqlite.search.OLDEST", 2):
            backlog = self.wait(self.store.backlog())
        began = self.clock.now
        assert (backlog.messages, backlog.octets) == (5, 5 * len(BODY))
        assert backlog.oldest == {"one": began - 40, "two": began - 20, "three": began}

    def test_the_oldest_that_goes_direct_whatever_waits_before_it(self) -> None:
        self.put(recipient("a", "one"))
        began = self.clock.now
        for number in range(3):
            self.clock.now += 10
            away = Mailbox("x", f"d{9 - number}.example")
            self.put(replace(recipient("x", "direct"), mailbox=away))
        with patch("relayd.spool.sqlite.search.OLDEST", 1):
            oldest = self.wait(self.store.backlog()).oldest
        assert oldest.pop("one") == began
        assert min(oldest.values()) == began + 10
        assert all(is_direct(each) for each in oldest), oldest

    # the operator

    def test_retry_hold_release_remove(self) -> None:
        seen: list[tuple[str, list[tuple[int, int]]]] = []
        self.store.on_change = lambda verb, met: seen.append((verb, list(met)))
        message, (one, _) = self.put(recipient("a", "one"), recipient("b", "two"))
        self.settle(Settlement(one, RecipientState.QUEUED, LATER, self.clock.now + 500))
        self.clock.now += 5
        assert self.wait(self.store.retry(QueueFilter(destination="one"))) == 1
        ((_, (record,)),) = self.wait(self.store.due("one", self.clock.now, 9))
        assert record.next_attempt == self.clock.now
        assert self.wait(self.store.hold(QueueFilter(recipient="b@corp.example"))) == 1
        assert self.wait(self.store.hold(QueueFilter(recipient="b@corp.example"))) == 0
        assert self.wait(self.store.release(QueueFilter())) == 1
        assert self.wait(self.store.remove(QueueFilter(recipient="nobody"))) == 0
        assert self.wait(self.store.remove(QueueFilter())) == 2
        assert self.wait(self.store.load(message.ident)) is None
        a, b = (message.ident, 0), (message.ident, 1)
        assert seen == [("retry", [a]), ("hold", [b]), ("release", [b]), ("remove", [a, b])]
        assert self.wait(self.store.audit(0, 100)).discrepancies == []

    def test_what_has_two_ways_is_found_by_either_and_by_what_was_said(self) -> None:
        _, (one, _) = self.put(recipient("a", "direct,isp"), recipient("b", "direct from bulk"))
        for destination, count in (
            *(("corp.example", 2), ("isp", 1), ("direct corp.example via isp", 1)),
            *(("bulk", 0), ("orp.example", 0), ("direct corp.example", 0)),
        ):
            wanted = QueueFilter(destination=destination)
            assert self.wait(self.store.retry(wanted)) == count, destination
        ((_, (due,)),) = self.wait(
            self.store.due("direct corp.example via isp", self.clock.now + 1, 9)
        )
        assert due.number == 0
        self.settle(Settlement(one, RecipientState.QUEUED, LATER, self.clock.now + 500))
        for reply, count in ((str(LATER.reply), 1), (str(LATER.reply)[:5], 1), ("5", 0)):
            assert self.wait(self.store.retry(QueueFilter(reply=reply))) == count, reply

    def envelopes(self, **wanted: Any) -> list[Envelopes]:
        found, after = self.wait(self.store.envelopes(QueueFilter(**wanted), 0, 100))
        assert after is None
        return list(found)

    def test_what_waits_is_told_without_its_content(self) -> None:
        done, (end, _) = self.put(recipient("a", "one"), recipient("b", "two"))
        self.settle(Settlement(end, RecipientState.DELIVERED, DONE))
        other, _ = self.put(recipient("c", "one"), trail=TRAIL)
        first, second = self.envelopes()
        assert (first.ident, [each.number for each in first.records]) == (done.ident, [1])
        assert (first.meant, first.next_number) == (frozenset({1}), 2)
        assert [(str(to), note) for to, note in first.ended] == [("a@corp.example", "")]
        assert (second.trail, second.client) == (TRAIL, other.client)
        assert second.received_at == other.received_at
        assert [each.ident for each in self.envelopes(destination="one")] == [other.ident]
        assert [each.ident for each in self.envelopes(ident=done.ident)] == [done.ident]
        page, after = self.wait(self.store.envelopes(QueueFilter(destination="one"), 0, 1))
        assert (page, after) == ([], done.ident)
        page, after = self.wait(self.store.envelopes(QueueFilter(), done.ident, 9))
        assert ([each.ident for each in page], after) == ([other.ident], None)

    def test_what_waits_goes_another_way(self) -> None:
        message, (one, two, three) = self.put(*(recipient(to, "one") for to in "abc"))
        self.settle(Settlement(one, RecipientState.QUEUED, LATER, self.clock.now + 500))
        found = self.envelopes()[0].records
        moved = replace(
            found[0],
            recipient=replace(found[0].recipient, next_hop="two", reverse_path=None),
            attempts=0,
            next_attempt=self.clock.now,
            last=None,
        )
        more = replace(two, number=3, recipient=recipient("d", "direct"))
        kept = replace(three, state=RecipientState.HELD, last=LATER)
        changed = ((found[0], moved), (found[2], kept))
        rerouting = Rerouting(message.ident, changed, (more,), ((found[1], "goes to d"),))
        assert self.wait(self.store.reroute([rerouting])) == [message.ident]
        _, records = self.wait(self.store.load(message.ident))
        assert list(records) == [moved, kept, more]
        ((_, due),) = self.wait(self.store.due("two", self.clock.now, 9))
        assert due == (moved,)
        history = self.wait(self.store.history(message.ident))
        entries = {each.number: each for each in history.entries}
        ways = [(str(each.mailbox), each.next_hop, each.state) for each in entries.values()]
        assert ways == [
            ("a@corp.example", "two", None),
            ("b@corp.example", "one", RecipientState.REMOVED),
            ("c@corp.example", "one", None),
            ("d@corp.example", "direct", None),
        ]
        assert entries[1].note == "goes to d"
        assert self.wait(self.store.audit(0, 100)).discrepancies == []
        assert self.wait(self.store.counts()).queued == 2
        # once more: it is not as it was
        assert self.wait(self.store.reroute([rerouting])) == []
        assert list(self.wait(self.store.load(message.ident))[1]) == [moved, kept, more]

    def test_what_has_changed_meanwhile_is_not_sent_another_way(self) -> None:
        message, (one,) = self.put(recipient("a", "one"))
        moved = replace(one, recipient=recipient("a", "two"))
        rerouting = Rerouting(message.ident, ((one, moved),))
        self.wait(self.store.hold(QueueFilter(ident=message.ident)))
        assert self.wait(self.store.reroute([rerouting])) == []
        self.wait(self.store.remove(QueueFilter(ident=message.ident)))
        assert self.wait(self.store.reroute([rerouting])) == []
        assert self.wait(self.store.load(message.ident)) is None

    def test_the_last_one_whose_mail_others_have_got_ends_the_message(self) -> None:
        message, (one,) = self.put(recipient("a", "one"))
        rerouting = Rerouting(message.ident, ended=((one, "went to b"),))
        assert self.wait(self.store.reroute([rerouting])) == [message.ident]
        assert self.wait(self.store.load(message.ident)) is None
        assert self.wait(self.store.counts()).messages == 0

    def held_because(self, ident: int) -> list[str]:
        """What `queue` and `show` say of this message's recipients: the same."""
        _, records = self.wait(self.store.load(ident))
        listed = json.loads(self.wait(self.store.listing(QueueFilter(), 0, 100)).rows)
        replies = [each[8] for row in listed if row[0] == ident for each in row[4]]
        assert replies == [str(each.last.reply) if each.last else "" for each in records]
        return replies

    def test_mail_that_is_held_says_why_and_by_whom(self) -> None:
        trail = (
            Step("hold", "rules.d/10.rules:3", "hold to @corp.example"),
            Step("accept", "rules.d/10.rules:5", "accept any"),
        )
        by_rule, _ = self.put(recipient("a"), state=RecipientState.HELD, trail=trail)
        assert self.held_because(by_rule.ident) == [
            "450 4.7.0 Held by rule rules.d/10.rules:3 hold to @corp.example"
        ]
        by_hand, _ = self.put(recipient("b"))
        assert self.held_because(by_hand.ident) == [""]
        wanted = QueueFilter(ident=by_hand.ident)
        self.wait(self.store.hold(wanted, "the operator (uid=0 pid=7): spam?"))
        assert self.held_because(by_hand.ident) == [
            "450 4.7.0 Held by the operator (uid=0 pid=7): spam?"
        ]
        self.wait(self.store.release(wanted))
        assert self.held_because(by_hand.ident) == [""]

    def test_a_domain_is_that_of_a_recipient_and_no_other_like_it(self) -> None:
        names = (
            "bob@example.com",
            "ann@EXAMPLE.com",
            "x@example.com.evil.org",
            "y@sub.example.com",
            '"z@example.com"@other.org',
            "w@notexample.com",
        )
        boxes = [Mailbox.parse(each) for each in names]
        self.put(*(Recipient(box, box, "exchange") for box in boxes))
        wanted = QueueFilter(domain="example.com")
        found = [each.mailbox for message in self.listed(wanted) for each in message.recipients]
        assert found == ["bob@example.com", "ann@EXAMPLE.com"], found
        assert self.wait(self.store.hold(wanted, "why")) == 2
        assert self.wait(self.store.release(wanted)) == 2
        narrow = QueueFilter(domain="example.com", recipient="bob")
        assert self.wait(self.store.remove(narrow)) == 1
        assert self.wait(self.store.remove(QueueFilter(domain="evil.com"))) == 0

    def test_an_internationalized_domain_is_one_in_either_spelling(self) -> None:
        names = ("a@b\u00fccher.example", "b@XN--bcher-kva.example", "c@BU\u0308CHER.Example")
        boxes = [Mailbox.parse(each) for each in (*names, "d@bucher.example")]
        sender = Mailbox.parse("ann@B\u00fccher.example")
        self.put(*(Recipient(each, each, "out") for each in boxes), sender=sender)
        for domain in ("b\u00fccher.example", "xn--bcher-kva.example", "B\u00dcCHER.example"):
            for wanted, count in (
                (QueueFilter(domain=domain), 3),
                (QueueFilter(recipient=f"@{domain}"), 3),
                (QueueFilter(recipient=f"b@{domain}"), 1),
                (QueueFilter(sender=f"@{domain}"), 4),
            ):
                found = [len(each.recipients) for each in self.listed(wanted)]
                assert found == [count], (wanted, found)
                assert self.wait(self.store.hold(wanted)) == count
                assert self.wait(self.store.release(wanted)) == count
            assert self.looked_for(recipient=f"@{domain}") == ["a", "b", "c"]
            assert self.looked_for(recipient=f"A@{domain}") == ["a"]
            assert self.looked_for(sender=f"ann@{domain}") == ["a", "b", "c", "d"]
            assert len(self.wait(self.store.envelopes(QueueFilter(domain=domain), 0, 9))[0]) == 1
        direct = self.put(replace(recipient("x"), mailbox=boxes[0], next_hop=DIRECT))[0]
        for domain in ("b\u00fccher.example", "xn--bcher-kva.example"):
            found = [each.ident for each in self.listed(QueueFilter(destination=domain))]
            assert found == [direct.ident]

    def test_each_recipient_says_which_rule_holds_it_and_is_released_by_it(self) -> None:
        steps = [
            Step("hold", f"rules.conf:{line}", f'hold to {name}@corp.example "Why {name}"')
            for line, name in ((14, "a"), (140, "b"))
        ]
        held = RecipientState.HELD
        message, _ = self.put(
            *(recipient(name) for name in "abc"),
            states=(held, held, RecipientState.QUEUED),
            trail=tuple(steps),
            holding=((steps[0],), (steps[1],), ()),
        )
        assert self.held_because(message.ident) == [
            '450 4.7.0 Held by rule rules.conf:14 hold to a@corp.example "Why a"',
            '450 4.7.0 Held by rule rules.conf:140 hold to b@corp.example "Why b"',
            "",
        ]
        for rule, numbers in (
            ("rules.conf:14", [0]),
            ("RULES.conf:140", [1]),
            ("why b", [1]),
            ("hold to", [0, 1]),
            ("conf:14", []),
            ("%", []),
        ):
            found = [
                each.number
                for message in self.listed(QueueFilter(rule=rule))
                for each in message.recipients
            ]
            assert found == numbers, rule
        assert self.wait(self.store.release(QueueFilter(rule="rules.conf:14"))) == 1
        assert self.held_because(message.ident)[0] == ""
        assert self.wait(self.store.release(QueueFilter(rule="rules.conf:14"))) == 0
        assert self.wait(self.store.remove(QueueFilter(rule="rules.conf:140"))) == 1
        states = {each.number: each.state for each in self.wait(self.store.load(message.ident))[1]}
        assert states == dict.fromkeys((0, 2), RecipientState.QUEUED), states

    def test_held_mail_is_released_with_another_header_section(self) -> None:
        message, _ = self.put(
            *(recipient("a"), recipient("b", header=1), recipient("c"), recipient("d", header=2)),
            content=b"X: 1\r\n\r\nbody",
            header_size=8,
            headers=(b"X: 2\r\n\r\n", b"X: 3\r\n\r\n"),
            states=(RecipientState.HELD,) * 3 + (RecipientState.QUEUED,),
        )
        wanted = QueueFilter(ident=message.ident)
        plain, second = b"T: ham\r\nX: 1\r\n\r\n", b"T: ham\r\nX: 2\r\n\r\n"
        first = replace(wanted, recipient="a@corp.example")
        assert self.wait(self.store.release(first, {0: plain})) == 1
        assert self.wait(self.store.release(wanted, {0: plain, 1: second, 2: b"nobody's"})) == 2
        message, records = self.wait(self.store.load(message.ident))
        seen = [octets(message.content_for(each.recipient.header)) for each in records]
        told = (plain, second, plain, b"X: 3\r\n\r\n")
        assert seen == [section + b"body" for section in told], seen
        assert {each.state for each in records} == {RecipientState.QUEUED}
        assert len(message.headers) == 4, message.headers
        self.wait(self.store.remove(wanted))
        assert self.wait(self.store.load(message.ident)) is None
        assert self.wait(self.store.audit(0, 100)).discrepancies == []

    def test_a_change_reaches_all_of_a_long_queue(self) -> None:
        drafts = []
        for _ in range(30):
            draft = self.store.create()
            draft.write(BODY)
            to = [recipient(f"u{n}") for n in range(60)]
            drafts.append(draft.commit(submission(*to)))
        for each in drafts:
            self.wait(each)
        assert self.wait(self.store.hold(QueueFilter(recipient="u1"))) == 30 * 11
        assert self.wait(self.store.remove(QueueFilter())) == 1800
        assert self.wait(self.store.counts()).messages == 0

    def test_a_message_can_be_set_aside(self) -> None:
        message, _ = self.put()
        assert self.wait(self.store.set_aside(message.ident, "content file is damaged"))
        assert not self.wait(self.store.set_aside(message.ident, "again"))
        assert self.wait(self.store.load(message.ident)) is None
        counts = self.wait(self.store.counts())
        assert (counts.messages, counts.octets, counts.damaged) == (0, 0, 1)

    def test_in_trouble_it_is_read_by_the_operator_only(self) -> None:
        message, _ = self.put()
        self.trouble()
        for question in (
            self.store.destinations,
            lambda: self.store.due("inside", 1e12, 10),
            lambda: self.store.earliest("inside", 0.0),
            lambda: self.store.aged(1e12, 0, 10),
        ):
            with self.assertRaises(SpoolError):
                self.wait(question())
        assert self.wait(self.store.load(message.ident)) is not None
        assert self.wait(self.store.counts()).messages == 1
        assert self.wait(self.store.listing(QueueFilter(), 0, 10)).messages == 1

    def test_a_closed_store_refuses(self) -> None:
        draft = self.store.create()
        self.wait(self.store.close())
        assert not self.store.healthy
        with self.assertRaises(SpoolError):
            self.wait(draft.commit(submission()))
        with self.assertRaises(SpoolError):
            self.wait(self.store.settle([]))


class MemoryStoreTests(StoreContract, unittest.TestCase):
    def setUp(self) -> None:
        self.clock, self.bridge = Clock(), ThreadBridge()
        self.store = MemorySpool(self.bridge, clock=self.clock)
        self.store.open()

    def trouble(self) -> None:
        self.store.healthy = False

    def reopen(self) -> None:
        self.wait(self.store.close())
        self.store.open()


class DiskStoreTests(StoreContract, unittest.TestCase):
    def setUp(self) -> None:
        sift_at_once(self)
        self.directory = TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.clock, self.bridge = Clock(), ThreadBridge()
        self.store = self.make()
        self.store.open()
        self.addCleanup(lambda: self.bridge.wait(self.store.close()))

    def make(self) -> Spool:
        return Spool(Path(self.directory.name), self.bridge, clock=self.clock)

    def trouble(self) -> None:
        self.store.health(SpoolError("disk on fire"))
        self.bridge.until(lambda: not self.store.healthy)

    def reopen(self) -> None:
        self.bridge.wait(self.store.close())
        self.store = self.make()
        self.store.open()

    def test_all_of_it_outlives_a_restart(self) -> None:
        message, records = self.put(recipient("a"), recipient("b"))
        big, _ = self.put(content=b"z" * 100_000)
        self.settle(Settlement(records[0], RecipientState.QUEUED, LATER, 7.0))
        before = (self.all_queued(), self.wait(self.store.counts()))
        ident = self.store.new_ident()
        self.reopen()
        assert (self.all_queued(), self.wait(self.store.counts())) == before
        assert self.wait(self.store.history(message.ident)) is not None
        self.clock.now -= 1000
        assert self.store.new_ident() > big.ident
        del ident


class PostgresqlStoreTests(StoreContract, unittest.TestCase):
    def setUp(self) -> None:
        self.where = empty_spool()
        self.clock, self.bridge = Clock(), ThreadBridge()
        self.store = self.make()
        self.store.open()
        self.addCleanup(lambda: self.bridge.wait(self.store.close()))

    def make(self) -> PostgresqlSpool:
        return PostgresqlSpool(self.where, self.bridge, node="gw1", clock=self.clock)

    def trouble(self) -> None:
        self.store.health(SpoolError("disk on fire"))
        self.bridge.until(lambda: not self.store.healthy)

    def reopen(self) -> None:
        self.bridge.wait(self.store.close())
        self.store = self.make()
        self.store.open()


class BothAlikeTests(unittest.TestCase):
    """Whatever is done to both, in whatever order and with restarts, both hold the same mail."""

    def test_random_lives(self) -> None:
        sift_at_once(self)
        for seed in range(25):
            with self.subTest(seed=seed), TemporaryDirectory() as directory:
                Life(seed, Path(directory)).live()

    def test_random_lives_in_postgresql(self) -> None:
        for seed in range(6):
            with self.subTest(seed=seed):
                PostgresqlLife(seed, Path(empty_spool())).live()


class Life:
    def __init__(self, seed: int, directory: Path) -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.clock, self.bridge = Clock(), ThreadBridge()
        self.disk: Any = self.open_disk()
        self.memory = MemorySpool(self.bridge, clock=self.clock)
        self.memory.open()
        assert self.memory.new_ident() == self.disk.new_ident()
        self.records: list[Record] = []

    def open_disk(self) -> Any:
        spool = Spool(
            self.directory, self.bridge, clock=self.clock, memory_threshold=1000, floor_bytes=0
        )
        spool.open()
        return spool

    def both(self, act: Any) -> Any:
        stores: tuple[Store, Store] = (self.disk, self.memory)
        results = [self.bridge.wait(act(store)) for store in stores]
        assert results[0] == results[1]
        return results[0]

    def live(self) -> None:
        acts = [self.accept, self.settle, self.settle, self.settle, self.operate, self.pass_time]
        for step in range(60):
            self.random.choice(acts)()
            if step % 20 == 19:
                self.compare()
        self.bridge.wait(self.disk.close())
        self.disk = self.open_disk()
        self.compare()
        assert self.both(lambda store: store.audit(0, 10_000)).discrepancies == []
        self.bridge.wait(self.disk.close())
        waiting = {
            str(message) for message, _ in self.bridge.wait(self.memory.aged(1e12, 0, 10_000))
        }
        assert self.left() <= waiting

    def left(self) -> set[str]:
        """Whose content is there still."""
        content = self.directory / "shard-0" / "content"
        return {path.name for path in content.rglob("*") if path.is_file()}

    def pass_time(self) -> None:
        self.clock.now += self.random.choice((-30, 0.5, 10, 4000))

    def accept(self) -> None:
        size = self.random.choice((0, 10, 1000, 1001, 5000))
        content = self.random.randbytes(size)
        names = self.random.sample("abcdefgh", self.random.randint(1, 4))
        hops = ("one", "two", "direct")
        to = [recipient(name, self.random.choice(hops)) for name in names]
        states = (RecipientState.QUEUED,) * 5 + (RecipientState.HELD, RecipientState.DISCARDED)
        state = self.random.choice(states)

        def act(store: Store) -> Any:
            draft = store.create()
            draft.write(content[:600])
            draft.write(content[600:])
            return self.plain(draft.commit(submission(*to, state=state)))

        self.records += self.both(act)[1]

    async def plain(self, promise: Any) -> Any:
        message, records = await promise
        kept = any(record.state.waiting for record in records)
        return facts(message) if kept else message.ident, records

    def settle(self) -> None:
        if not self.records:
            return
        chosen = self.random.sample(self.records, min(len(self.records), self.random.randint(1, 3)))
        states = (
            RecipientState.QUEUED,
            RecipientState.QUEUED,
            RecipientState.DELIVERED,
            RecipientState.FAILED,
            RecipientState.EXPIRED,
        )
        settlements = []
        for record in chosen:
            state = self.random.choice(states)
            outcome = self.random.choice((None, LATER, BOUNCE))
            warned = self.random.random() < 0.2
            at = self.clock.now + self.random.choice((0, 60, 3600))
            settlements.append(Settlement(record, state, outcome, at, warned=warned))
        reports: list[NewMessage] = []
        if self.random.random() < 0.4:
            ident = self.disk.new_ident()
            assert self.memory.new_ident() == ident
            reports.append(NewMessage(ident, b"report", submission(sender=None)))

        async def act(store: Store) -> Any:
            return plain(await store.settle(settlements, reports))

        for _, records in self.both(act):
            self.records += records

    def operate(self) -> None:
        wanted = self.random.choice(
            (
                QueueFilter(destination="one"),
                QueueFilter(recipient="a@corp.example"),
                QueueFilter(sender="<>"),
                QueueFilter(state=RecipientState.HELD),
                QueueFilter(received_before=self.clock.now - 100),
            )
        )
        verb = self.random.choice(("retry", "hold", "release", "remove"))
        self.both(lambda store: getattr(store, verb)(wanted))

    def compare(self) -> None:
        async def everything(store: Store) -> Any:
            found: list[Any] = [sorted(await store.destinations())]
            for name, _ in found[0]:
                found.append(sorted(plain(await store.due(name, self.clock.now + 60, 1000))))
            # later than any clock here: idents from before it was set back are found late
            found.append(plain(await store.aged(2e9, 0, 1000)))
            found.append(plain(await store.aged(2e9, 0, 1000, unwarned=True)))
            found.append(summaries(await store.listing(QueueFilter(), 0, 1000)))
            found.append(await store.counts())
            for record in self.records:
                found.append(await store.history(record.message))
            for wanted in LOOKED_FOR:
                found.append(await all_found(store, wanted))
            return found

        self.both(everything)


class PostgresqlLife(Life):
    """The path is no path, but tells how to reach the database."""

    def open_disk(self) -> Any:
        spool = PostgresqlSpool(
            str(self.directory), self.bridge, node="gw1", clock=self.clock, memory_threshold=1000
        )
        spool.open()
        return spool

    def left(self) -> set[str]:
        with psycopg.connect(str(self.directory)) as connection:
            rows = connection.execute(
                "SELECT ident FROM relayd.message UNION SELECT message FROM relayd.content"
            )
            return {ident_text(ident) for (ident,) in rows}
