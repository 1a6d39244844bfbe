"""What is counted and remembered of clients in all nodes that share a spool."""

from __future__ import annotations

import unittest

import psycopg

from relayd.spool.postgresql.session import DatabaseSession
from relayd.spool.postgresql.tally import SharedTally, forget_in
from relayd.spool.sqlite.bridge import ThreadBridge
from tests.postgresqlserver import empty_spool

HOUR = 3600.0


class TallyTests(unittest.TestCase):
    def setUp(self) -> None:
        self.where = empty_spool()
        self.bridge = ThreadBridge()

    def node(self, where: str = "") -> SharedTally:
        tally = SharedTally(
            lambda: DatabaseSession(where or self.where, "tally"), self.bridge, well=lambda: True
        )
        self.addCleanup(tally.stop)
        return tally

    def count(self, tally: SharedTally, key: str = "ann", seconds: float = HOUR) -> int | None:
        found: int | None = self.bridge.wait(tally.count("few", key, seconds))
        return found

    def sql(self, text: str) -> None:
        with psycopg.connect(self.where, autocommit=True) as connection:
            connection.execute(text.encode())

    def test_all_nodes_count_the_same(self) -> None:
        one, two = self.node(), self.node()
        assert [self.count(each) for each in (one, two, one, two)] == [1, 2, 3, 4]
        assert self.count(two, "bob") == 1

    def test_what_comes_at_the_same_time_is_counted_one_by_one(self) -> None:
        nodes = [self.node(), self.node()]
        promises = [each.count("few", key, HOUR) for _ in range(50) for each in nodes
                    for key in ("a", "b")]  # fmt: skip
        found = sorted(self.bridge.wait(each) or 0 for each in promises)
        assert found == sorted([*range(1, 101)] * 2)

    def test_what_did_not_happen_counts_no_more(self) -> None:
        one, two = self.node(), self.node()
        for _ in range(3):
            self.count(one)
        one.give_back("few", "ann", 2)
        assert self.count(one) == 2
        assert self.count(two) == 3

    def test_what_is_older_than_the_window_counts_no_more_and_is_dropped(self) -> None:
        one = self.node()
        self.count(one)
        self.count(one)
        self.sql("UPDATE relayd.counted SET cell = cell - 64, ends = ends - 3600")
        assert self.count(one) == 3  # never too few
        self.sql("UPDATE relayd.counted SET cell = cell - 1, ends = ends - 100 WHERE count = 2")
        assert self.count(one) == 2
        self.count(self.node(), "bob")  # the first question clears away
        with psycopg.connect(self.where) as connection:
            found = connection.execute("SELECT sum(count) FROM relayd.counted").fetchone()
        assert found == (3,)

    def test_it_is_counted_anew_where_an_operator_says_so(self) -> None:
        one = self.node()
        self.count(one)
        forget_in(self.where, "few", "ann")
        assert self.count(one) == 1

    def test_who_comes_back_to_another_node_is_known_to_all(self) -> None:
        one, two = self.node(), self.node()
        meet = lambda node, errand, patience: self.bridge.wait(  # noqa: E731
            node.meet("192.0.2.0/24", errand, patience)
        )
        assert meet(one, "<ann> <bob>", 60.0) is True
        assert meet(two, "<ann> <bob>", 60.0) is True  # too soon
        assert meet(two, "<ann> <bob>", 0.0) is False  # soon enough for this rule
        assert meet(one, "<ann> <eve>", 60.0) is False
        self.sql("UPDATE relayd.sight SET ends = 0")
        assert meet(one, "<ann> <eve>", 60.0) is True

    def test_a_database_that_is_away_says_nothing_and_is_asked_again(self) -> None:
        one = self.node()
        self.count(one)
        self.sql("ALTER TABLE relayd.counted RENAME TO elsewhere")
        assert self.count(one) is None
        self.sql("ALTER TABLE relayd.elsewhere RENAME TO counted")
        one._away_until = float("-inf")
        assert self.count(one) == 2

    def test_who_counts_nothing_has_neither_thread_nor_session(self) -> None:
        one = self.node(where="host=/nowhere")
        one.give_back("few", "ann", 1)
        assert one._thread is None
