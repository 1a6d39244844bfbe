"""What a spool in PostgreSQL promises beyond the contract: its nodes, and a database that fails."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
import unittest
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import psycopg

from relayd.mail.ident import shard_of
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import UNANSWERED
from relayd.spool.errors import SpoolError, SpoolLocked
from relayd.spool.lease import Lease
from relayd.spool.postgresql import schema
from relayd.spool.postgresql.batch import SharedBatch
from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.postgresql.store import PostgresqlSpool
from relayd.spool.postgresql.takeover import _NODES, Neighbours
from relayd.spool.postgresql.writes import SharedWrite
from relayd.spool.sqlite.bridge import ThreadBridge
from relayd.spool.sqlite.rows import outcome_text
from relayd.spool.view import Accepted, NewMessage, QueueFilter
from tests.postgresqlserver import PostgresqlServer, Wire, empty_spool
from tests.scenarios.harness import patience
from tests.spooling import DONE, LATER, octets, recipient, submission

BIG = b"0123456789abcdef" * (200_000)  # three megabytes and a bit: four chunks


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.bridge = ThreadBridge()
        self.where = empty_spool(self.server())

    def server(self) -> PostgresqlServer | None:
        return None

    def node(self, name: str = "gw1", where: str = "") -> PostgresqlSpool:
        spool = PostgresqlSpool(where or self.where, self.bridge, node=name)
        spool.open()
        self.addCleanup(lambda: self.bridge.wait(spool.close()))
        return spool

    def begin(self, spool: PostgresqlSpool, content: bytes = b"x", **more: Any) -> Any:
        draft = spool.create()
        draft.write(content)
        return draft.commit(submission(**more))

    def put(self, spool: PostgresqlSpool, content: bytes = b"x", **more: Any) -> Accepted:
        accepted: Accepted = self.bridge.wait(self.begin(spool, content, **more))
        return accepted

    def sql(self, text: str, *values: object) -> list[Any]:
        with psycopg.connect(self.where, autocommit=True) as connection:
            connection.execute("SET search_path TO relayd")
            done = connection.execute(text.encode(), values)
            return done.fetchall() if done.description else []

    def number(self, text: str, *values: object) -> int:
        ((found,),) = self.sql(text, *values)
        return int(found)

    def loaded(self, spool: PostgresqlSpool, message: Message) -> Message:
        found = self.bridge.wait(spool.load(message.ident))
        assert found is not None
        return found[0]

    def records(self, spool: PostgresqlSpool, message: Message) -> tuple[Record, ...]:
        found = self.bridge.wait(spool.load(message.ident))
        return () if found is None else found[1]

    def until(self, condition: Callable[[], bool]) -> None:
        """As the bridge's, of what the database is asked: a few times a second."""
        due = 0.0

        def seen() -> bool:
            nonlocal due
            if time.monotonic() < due:
                return False
            due = time.monotonic() + 0.2
            return condition()

        self.bridge.until(seen)

    def silence(self, spool: PostgresqlSpool) -> threading.Event:
        """Its writer gets no further until the event, as when the process is frozen."""
        begun, on = threading.Event(), threading.Event()

        class Stuck(SharedWrite):
            def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
                begun.set()
                on.wait(90)

        spool._writer.put(Stuck())
        assert begun.wait(60)
        self.addCleanup(on.set)
        return on

    def meanwhile(self, spool: PostgresqlSpool, happens: Callable[[], object]) -> None:
        """In the middle of the transaction in which is what was asked for last."""

        class Meanwhile(SharedWrite):
            def enter(self, batch: SharedBatch, session: DatabaseSession) -> None:
                happens()

        spool._writer.put(Meanwhile())

    def accounted_for(self, spool: PostgresqlSpool) -> None:
        assert self.bridge.wait(spool.audit(0, 10_000)).discrepancies == []


class SchemaTests(Case):
    def test_the_tables_are_made_once_whoever_else_makes_them(self) -> None:
        with psycopg.connect(self.where, autocommit=True) as connection:
            assert not schema.create(connection)

    def test_a_database_without_a_spool_says_how_one_is_made(self) -> None:
        self.sql("DROP SCHEMA relayd CASCADE")
        with self.assertRaisesRegex(SpoolError, "relayctl spool create"):
            self.node()

    def test_a_spool_of_a_newer_relayd_is_left_alone(self) -> None:
        self.sql("UPDATE meta SET value = '99' WHERE name IN ('version', 'beside')")
        with self.assertRaisesRegex(SpoolError, "newer relayd, in version 99"):
            self.node()

    def test_a_node_goes_on_beside_tables_of_the_version_after_its_own(self) -> None:
        spool = self.node()
        message, (record,) = self.put(spool)
        newer = patch.multiple(
            schema,
            VERSION=schema.VERSION + 1,
            BESIDE=schema.VERSION,
            LATER={
                **schema.LATER,
                schema.VERSION + 1: (
                    "ALTER TABLE message ADD COLUMN more text",
                    "ALTER TABLE damaged_message ADD COLUMN more text",
                    "CREATE TABLE newer(name text)",
                ),
            },
        )
        with newer, psycopg.connect(self.where, autocommit=True) as connection:
            assert schema.upgrade(connection) == schema.VERSION - 1
            assert schema.upgrade(connection) == schema.VERSION  # once is enough
        self.put(spool)
        self.bridge.wait(spool.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
        other = self.node("gw2")  # one that is started again, too
        self.put(other, BIG)
        assert self.records(other, message) == ()
        self.accounted_for(other)

    def test_tables_of_an_earlier_version_are_brought_up_to_date_beside_nodes(self) -> None:
        self.sql("DROP SCHEMA relayd CASCADE")
        first = patch.multiple(schema, VERSION=1, BESIDE=1, LATER={})
        with psycopg.connect(self.where, autocommit=True) as connection:
            with first:
                assert schema.create(connection)
            with self.assertRaisesRegex(SpoolError, "in version 1, .*relayctl spool upgrade"):
                self.node()
            busy = psycopg.connect(self.where)  # in the way for a while, as a long question is
            busy.execute("SELECT count(*) FROM relayd.node")
            ending = threading.Timer(0.5, busy.close)
            ending.start()
            assert schema.upgrade(connection) == 1
            ending.join()
        spool = self.node()
        self.put(spool)
        assert self.bridge.wait(spool.cluster())["database"]["spool_version"] == schema.VERSION

    def test_the_server_compiles_nothing_of_what_it_is_asked(self) -> None:
        """What it thinks of as dear is done in a millisecond, and took 100 to compile."""
        spool = self.node()
        session = spool._session("x")()
        self.addCleanup(session.close)
        assert session.ask("SHOW jit").fetchone() == ("off",)
        found = session.ask(f"EXPLAIN {_NODES}", (1,)).fetchall()
        assert not [line for (line,) in found if "JIT" in line]

    def test_without_the_driver_it_says_what_to_install(self) -> None:
        spool = PostgresqlSpool(self.where, self.bridge, node="gw1")
        without = patch.dict("sys.modules", {"psycopg": None})
        with without, self.assertRaisesRegex(SpoolError, "python3-psycopg"):
            spool.open()

    def test_a_database_out_of_reach_is_said_in_its_own_words(self) -> None:
        with self.assertRaisesRegex(SpoolError, "^database: .*: No such file"):
            self.node(where="host=/nowhere dbname=postgres")


class NodeTests(Case):
    def test_a_name_is_one_process_s_at_a_time(self) -> None:
        first = self.node()
        soon = patch("relayd.spool.postgresql.node.ENDING", 0.2)
        with soon, self.assertRaisesRegex(SpoolLocked, "another process is node gw1"):
            self.node()
        self.bridge.wait(first.close())
        self.node()

    def test_each_node_sends_its_own_and_sees_all(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        (first, _), (second, _) = self.put(one), self.put(two)
        assert shard_of(first.ident) != shard_of(second.ident)
        for spool, own in ((one, first), (two, second)):
            due = self.bridge.wait(spool.due("inside", time.time() + 1, 9))
            assert [message.ident for message, _ in due] == [own.ident]
            assert self.bridge.wait(spool.counts()).messages == 2
            for message in (first, second):
                assert self.bridge.wait(spool.load(message.ident)) is not None
        assert self.bridge.wait(two.hold(QueueFilter())) == 2
        assert self.bridge.wait(one.destinations()) == []

    def test_what_a_node_had_before_it_was_started_again_is_its_own(self) -> None:
        one = self.node()
        message, (record,) = self.put(one)
        self.bridge.wait(one.close())
        again = self.node()
        ((_, due),) = self.bridge.wait(again.due("inside", time.time() + 1, 9))
        assert due == (record,)
        self.bridge.wait(again.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
        assert self.bridge.wait(again.load(message.ident)) is None

    def test_an_outcome_of_mail_that_was_taken_over_changes_nothing(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        message, (record,) = self.put(one)
        self.sql(
            "UPDATE recipient SET (owner, epoch) = (SELECT id, epoch FROM node WHERE name = 'gw2')"
        )
        self.bridge.wait(one.settle([Settlement(record, RecipientState.QUEUED, LATER, 7.0)]))
        self.bridge.wait(one.settle([Settlement(record, RecipientState.FAILED, LATER)]))
        assert self.records(one, message) == (record,)
        self.bridge.wait(two.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
        history = self.bridge.wait(two.history(message.ident))
        assert history is not None
        (entry,) = history.entries
        assert entry.state is RecipientState.DELIVERED
        self.accounted_for(one)

    def test_mail_that_came_back_in_a_later_epoch_is_not_settled_by_an_earlier(self) -> None:
        one = self.node("gw1")
        message, (record,) = self.put(one)
        self.sql("UPDATE recipient SET epoch = epoch + 1")
        self.bridge.wait(one.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
        assert self.records(one, message) == (record,)


class LeaseTests(Case):
    """A node that is silent for a lease is a node no more, and the others have its mail."""

    def setUp(self) -> None:
        super().setUp()
        # where others compute as well a node may be kept from its database for seconds on end
        self.sql(f"INSERT INTO meta VALUES ('lease', '{min(patience(4.0), 12.0):.0f}')")

    def own(self, spool: PostgresqlSpool) -> list[int]:
        found = self.bridge.wait(spool.due("inside", time.time() + 1, 999))
        return sorted(message.ident for message, _ in found)

    def test_mail_of_a_silent_node_is_the_others_after_a_lease_and_not_before(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        idents = [self.put(one)[0].ident for _ in range(5)]
        on = self.silence(one)
        self.bridge.until(lambda: not one.healthy)
        self.bridge.until(lambda: not one.lease.may_go_on())
        assert self.own(two) == []
        self.until(lambda: self.own(two) == idents)
        lost: list[int] = []
        one.lease.on_lost = lambda: lost.append(1)
        on.set()
        self.bridge.until(lambda: bool(lost) and one.healthy)
        assert self.own(one) == []
        assert self.own(two) == idents
        self.accounted_for(one)

    def test_who_saw_nobody_for_a_while_waits_for_a_whole_lease(self) -> None:
        """The database was away, or we were: the others may be about to show a sign of life."""
        self.sql("INSERT INTO node VALUES (7, 'gw7', 1, now())")
        now = 0.0
        neighbours = Neighbours(Lease(lambda: now))
        session = DatabaseSession(self.where, "looking")
        self.addCleanup(session.close)
        for now in (0.0, 5.0, 20.0, 100.0, 105.0, 110.0, 115.0, 120.0, 125.0, 130.0):
            neighbours.look(session, 0)
            assert [*neighbours.gone()] == [], now
            assert neighbours.others == ("gw7",), now
        now = 135.0
        neighbours.look(session, 0)
        assert [name for _, name, _ in neighbours.gone()] == ["gw7"]
        assert neighbours.others == ()

    def test_an_outcome_of_a_node_that_wakes_too_late_changes_nothing(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        message, (record,) = self.put(one)
        on = self.silence(one)
        promise = one.settle([Settlement(record, RecipientState.FAILED, LATER)])
        self.until(lambda: self.own(two) == [message.ident])
        on.set()
        with contextlib.suppress(SpoolError):
            self.bridge.wait(promise)
        self.bridge.until(lambda: one.healthy)
        self.bridge.wait(one.settle([Settlement(record, RecipientState.FAILED, LATER)]))
        assert self.records(two, message) == (record,)
        self.accounted_for(two)

    def test_two_deliveries_that_a_change_of_hands_has_left_make_one_report(self) -> None:
        """The second one knows more of another recipient, and nothing new of who has failed."""
        one = self.node()
        draft = one.create()
        draft.write(b"x")
        _, (first, second) = self.bridge.wait(
            draft.commit(submission(recipient("a"), recipient("b")))
        )

        def report() -> NewMessage:
            return NewMessage(one.new_ident(), b"report", submission(recipient("s"), sender=None))

        failed = Settlement(first, RecipientState.FAILED, LATER)
        cut_off = Settlement(second, RecipientState.QUEUED, LATER, 7.0)
        done = Settlement(second, RecipientState.DELIVERED, DONE)
        assert len(self.bridge.wait(one.settle([failed, cut_off], [report()]))) == 1
        assert self.bridge.wait(one.settle([failed, done], [report()])) == []
        self.accounted_for(one)

    def test_who_is_taken_over_while_his_report_is_written_is_not_reported(self) -> None:
        """A transaction may stand still between the question whose he is and the last word."""
        one = self.node("gw1")
        message, (record,) = self.put(one)
        report = NewMessage(one.new_ident(), b"report", submission(recipient("s"), sender=None))
        on = self.silence(one)
        promise = one.settle([Settlement(record, RecipientState.FAILED, LATER)], [report])
        self.meanwhile(one, lambda: self.sql("UPDATE recipient SET owner = owner + 1"))
        on.set()
        assert self.bridge.wait(promise) == []
        assert self.records(one, message) == (record,)
        assert self.number("SELECT count(*) FROM message") == 1

    def test_what_was_delivered_too_late_is_told_as_perhaps_twice(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        records = [self.put(one)[1][0] for _ in range(2)]
        on = self.silence(one)
        self.until(lambda: len(self.own(two)) == 2)
        self.bridge.wait(two.settle([Settlement(records[0], RecipientState.DELIVERED, DONE)]))
        on.set()
        self.bridge.until(lambda: one.healthy)
        for _ in range(2):  # however often it is told
            done = [Settlement(each, RecipientState.DELIVERED, DONE) for each in records]
            self.bridge.wait(one.settle(done))  # a next hop may say the same to both
        assert self.bridge.wait(two.cluster())["late"] == 2
        assert self.records(two, self.loaded_message(two, records[1])) == (records[1],)

    def loaded_message(self, spool: PostgresqlSpool, record: Record) -> Message:
        found = self.bridge.wait(spool.load(record.message))
        assert found is not None
        return found[0]

    def test_each_living_node_has_its_part_of_what_is_for_all(self) -> None:
        one = self.node("gw1")
        told: list[tuple[int, int]] = []
        one.on_nodes = lambda nodes, machines: told.append((nodes, machines))
        two = self.node("gw2")
        self.bridge.until(lambda: told[-1:] == [(2, 2)])
        self.node("gw2/1")  # a worker of the same machine
        self.bridge.until(lambda: told[-1:] == [(3, 2)])
        self.bridge.wait(two.close())
        self.bridge.until(lambda: told[-1:] == [(2, 2)])

    def test_what_is_told_to_wait_is_known_to_nodes_that_have_not_heard_it(self) -> None:
        one = self.node("gw1")
        begun = {"kind": "destination", "whom": "a.example", "until": 2e9, "reason": "é" * 9000}
        self.bridge.wait(one.suspend(begun))  # too long for a notice
        two = PostgresqlSpool(self.where, self.bridge, node="gw2")
        known: list[Any] = []
        two.on_suspended = known.append
        two.open()
        self.addCleanup(lambda: self.bridge.wait(two.close()))
        self.bridge.until(lambda: known == [[begun]])
        assert self.bridge.wait(two.resume("destination", "b.example")) == []
        ended: list[Any] = []
        seen: list[Any] = []
        one.on_suspended = seen.append
        one.on_suspending = lambda more, less: ended.append((more, less))
        assert self.bridge.wait(two.resume("destination", "a.example")) == [begun]
        # it hears of it, or it has begun anew meanwhile and sees that there is nothing
        heard: Any = ([], [["destination", "a.example"]])
        self.bridge.until(lambda: heard in ended or seen[-1:] == [[]])
        self.bridge.until(lambda: known[-1] == [])

    def test_rule_sets_that_differ_for_long_and_long_transactions_are_told(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        one.rules, two.rules = "a", "b"
        told = lambda: self.bridge.wait(one.cluster())  # noqa: E731
        self.until(lambda: {each["rules"] for each in told()["nodes"]} == {"a", "b"})
        assert told()["warnings"] == []
        self.sql("UPDATE node SET rules_since = now() - interval '2 minutes'")
        assert told()["warnings"] == ["rule sets differ: gw1 a, gw2 b"]
        with psycopg.connect(self.where, application_name="a dump") as other:
            other.execute("SELECT 1")
            oldest = told()["database"]["oldest_transaction"]
            assert (oldest["of"], oldest["state"]) == ("a dump", "idle in transaction")

    def test_a_node_that_leaves_in_order_is_not_waited_for(self) -> None:
        self.sql("UPDATE meta SET value = '30' WHERE name = 'lease'")
        one, two = self.node("gw1"), self.node("gw2")
        idents = [self.put(one)[0].ident for _ in range(3)]
        self.bridge.wait(one.close())
        began = time.monotonic()
        self.until(lambda: self.own(two) == idents)
        assert time.monotonic() - began < 28

    def test_what_is_on_hold_goes_along_and_who_was_not_answered_is_let_go(self) -> None:
        one, two = self.node("gw1"), self.node("gw2")
        held, unanswered = self.put(one)[0], self.put(one)[0]
        self.bridge.wait(one.hold(QueueFilter(ident=held.ident), "ann"))
        waits = "UPDATE recipient SET state = 1, outcome = %s WHERE message = %s"
        self.sql(waits, outcome_text(UNANSWERED), unanswered.ident)
        on = self.silence(one)
        self.until(lambda: self.records(two, unanswered) == ())
        on.set()
        self.bridge.until(lambda: one.healthy)
        with self.assertRaises(SpoolError):  # its client may not be told that it is taken
            self.bridge.wait(one.answered(unanswered.ident))
        assert self.bridge.wait(two.release(QueueFilter(ident=held.ident))) == 1
        assert self.own(two) == [held.ident]
        self.accounted_for(two)

    def test_a_node_hears_of_what_operators_change_by_way_of_others(self) -> None:
        self.sql("UPDATE meta SET value = '12' WHERE name = 'lease'")
        one, two = self.node("gw1"), self.node("gw2")
        message, _ = self.put(one)
        heard: list[tuple[str, list[tuple[int, int]]]] = []
        one.on_change = lambda verb, keys: heard.append((verb, [*keys]))
        for verb in ("hold", "release", "retry", "remove"):
            assert self.bridge.wait(getattr(two, verb)(QueueFilter())) == 1
            self.bridge.until(lambda: bool(heard))
            assert heard == [(verb, [(message.ident, 0)])]
            heard.clear()

    def test_all_of_a_message_goes_to_one_node(self) -> None:
        one, two, three = self.node("gw1"), self.node("gw2"), self.node("gw3")
        for _ in range(30):
            self.bridge.wait(self.many(one))
        self.silence(one)
        of_one = "SELECT count(*) FROM recipient JOIN node ON owner = id WHERE name = 'gw1'"
        self.until(lambda: self.number(of_one) == 0)
        split = "SELECT message FROM recipient GROUP BY 1 HAVING count(DISTINCT owner) > 1"
        assert self.sql(split) == []
        assert len({*self.own(two), *self.own(three)}) == 30

    def many(self, spool: PostgresqlSpool) -> Any:
        draft = spool.create()
        draft.write(b"x")
        return draft.commit(submission(*(recipient(f"u{n}") for n in range(40))))

    def test_a_node_that_is_started_again_in_time_has_its_own(self) -> None:
        one = self.node("gw1")
        message, _ = self.put(one)
        self.bridge.wait(one.close())
        again, two = self.node("gw1"), self.node("gw2")
        deadline = time.monotonic() + 5
        self.bridge.until(lambda: time.monotonic() > deadline)
        assert self.own(again) == [message.ident]
        assert self.own(two) == []


class WayTests(Case):
    def test_mail_that_is_delivered_at_once_updates_no_row(self) -> None:
        spool = self.node()
        for n in range(20):
            _, records = self.put(spool, b"y" * 5000 * n)
            self.bridge.wait(
                spool.settle([Settlement(each, RecipientState.DELIVERED, DONE) for each in records])
            )
        self.bridge.wait(spool.close())
        deadline = time.monotonic() + 60
        counted = "SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname = 'message'"
        while self.number(f"SELECT coalesce(({counted}), 0)") < 20:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rows = self.sql("SELECT relname, n_tup_upd FROM pg_stat_user_tables WHERE n_tup_upd > 0")
        assert {name for name, _ in rows} <= {"node"}, rows

    def test_large_content_is_in_chunks_that_go_with_it(self) -> None:
        spool = self.node()
        message, (record,) = self.put(spool, BIG)
        assert self.number("SELECT count(*) FROM content") == 4
        loaded = self.loaded(spool, message)
        for content in (message.content, loaded.content):
            assert octets(content) == BIG
            assert b"".join(content.chunks(2_000_000)) == BIG[2_000_000:]
        self.bridge.wait(spool.settle([Settlement(record, RecipientState.DELIVERED, DONE)]))
        assert self.number("SELECT count(*) FROM content") == 0

    def test_content_of_up_to_a_megabyte_is_in_the_row(self) -> None:
        spool = self.node()
        for size in (65_537, 1 << 20):
            message, _ = self.put(spool, BIG[:size])
            loaded = self.loaded(spool, message)
            assert octets(loaded.content) == BIG[:size]
        assert self.number("SELECT count(*) FROM content") == 0

    def test_chunks_of_what_was_never_accepted_go_at_the_next_start(self) -> None:
        spool = self.node()
        message, _ = self.put(spool, BIG)
        lost = spool.new_ident()
        self.sql("INSERT INTO content VALUES (%s, 0, 'x')", lost)
        self.bridge.wait(spool.close())
        self.put(self.node())
        found = self.sql("SELECT DISTINCT message FROM content")
        assert found == [(message.ident,)]

    def test_content_that_lacks_a_chunk_is_set_aside(self) -> None:
        spool = self.node()
        message, _ = self.put(spool, BIG)
        self.sql("DELETE FROM content WHERE number = 2")
        assert self.bridge.wait(spool.load(message.ident)) is None
        self.put(spool)
        assert self.bridge.wait(spool.counts()).damaged == 1


class FailingTests(Case):
    """Each with a server of its own, for they do not treat it well."""

    own: PostgresqlServer

    def server(self) -> PostgresqlServer | None:
        self.own = PostgresqlServer()
        self.addCleanup(self.own.stop)
        return self.own

    def wire(self) -> Wire:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        wire = Wire(Path(folder.name), self.own)
        self.addCleanup(wire.close)
        return wire

    def test_a_commit_whose_answer_is_lost_is_asked_for_and_never_guessed(self) -> None:
        wire = self.wire()
        spool = self.node(where=wire.where)
        accepted = [self.put(spool)]
        for turn in range(4):
            wire.cut = "before" if turn % 2 else "after"
            promises = [self.begin(spool) for _ in range(3)]
            for promise in promises:  # who came too late for that COMMIT may hear of trouble
                with contextlib.suppress(SpoolError):
                    accepted.append(self.bridge.wait(promise))
            self.bridge.until(lambda: spool.healthy)
            accepted.append(self.put(spool))
        assert wire.cuts == 4
        idents = sorted(message.ident for message, _ in accepted)
        assert [ident for (ident,) in self.sql("SELECT ident FROM message ORDER BY 1")] == idents
        assert self.bridge.wait(spool.counts()).messages == len(idents)
        self.accounted_for(spool)

    def test_an_outcome_whose_commit_got_no_answer_counts_once_with_its_report(self) -> None:
        wire = self.wire()
        spool = self.node(where=wire.where)
        for how in ("before", "after"):
            _, (record,) = self.put(spool)
            report = self.report(spool)
            wire.cut = how
            promise = spool.settle([Settlement(record, RecipientState.FAILED, LATER)], [report])
            assert len(self.bridge.wait(promise)) == 1
            self.bridge.until(lambda: spool.healthy)
        assert wire.cuts == 2
        assert self.bridge.wait(spool.counts()).messages == 2  # the reports
        self.accounted_for(spool)

    def test_what_an_unanswered_commit_has_stored_is_forgotten_if_it_may_be_others(self) -> None:
        """Its client hears 250, and it is sent by whoever has it now."""
        wire = self.wire()
        spool = self.node(where=wire.where)

        def ousted() -> None:
            self.sql("UPDATE node SET epoch = epoch + 1")
            wire.cut = "after"

        answered: list[bool] = []
        on = self.silence(spool)
        promise = self.begin(spool)
        spool.lease.on_lost = lambda: answered.append(promise.fired)
        self.meanwhile(spool, ousted)
        on.set()
        self.bridge.wait(promise)
        self.bridge.until(lambda: spool.healthy)
        assert wire.cuts == 1
        assert answered == [True]

    def report(self, spool: PostgresqlSpool) -> NewMessage:
        return NewMessage(spool.new_ident(), b"report", submission(recipient("s"), sender=None))

    def test_a_database_that_dies_and_comes_back_has_all_that_was_accepted(self) -> None:
        spool = self.node()
        said: list[str] = []
        spool.on_trouble = said.append
        accepted = [self.put(spool)[0].ident for _ in range(5)]
        self.own.halt(signal.SIGQUIT)
        with self.assertRaises(SpoolError):
            self.put(spool)
        self.bridge.until(lambda: not spool.healthy)
        assert said
        with self.assertRaises(SpoolError):
            self.put(spool, BIG)
        self.own.start()
        self.bridge.until(lambda: spool.healthy)
        accepted.append(self.put(spool)[0].ident)
        found = self.bridge.wait(spool.due("inside", time.time() + 1, 99))
        assert sorted(message.ident for message, _ in found) == accepted
        self.accounted_for(spool)

    def test_a_commit_that_may_not_be_on_the_other_machine_is_no_answer_yet(self) -> None:
        self.sql("ALTER ROLE relayd SET client_min_messages TO error")  # it is heard all the same
        spool = self.node()
        self.put(spool)
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
        self.sql("SELECT pg_reload_conf()")
        waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        named = "SELECT count(*) FROM pg_settings WHERE setting = 'nobody'"
        self.until(lambda: self.number(named) > 0)
        time.sleep(0.2)  # each process of the server hears of it by itself
        promise = self.begin(spool)
        for _ in range(2):  # the server gives up waiting, once for the mail and once for the proof
            self.until(lambda: self.number(waits) > 0)
            self.sql(cancel)
            self.bridge.pump(0.2)
            assert not promise.fired
        assert not spool.healthy
        self.sql("ALTER SYSTEM RESET synchronous_standby_names")
        self.sql("SELECT pg_reload_conf()")
        self.bridge.wait(promise)
        self.bridge.until(lambda: spool.healthy)
        assert self.number("SELECT count(*) FROM message") == 2
        self.accounted_for(spool)
