"""Where a recipient goes: the text that the spool keeps, and back."""

from __future__ import annotations

import unittest

from relayd.mail.envelope import Direction, direct_queue, domain_of, is_direct, source_of
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.reply import Reply
from relayd.mail.security import Level


class Directions(unittest.TestCase):
    def test_every_direction_comes_back_from_its_text(self) -> None:
        for direction, text in (
            (Direction(), "direct"),
            (Direction(("a",)), "a"),
            (Direction(("a", "b")), "a,b"),
            (Direction(refusal=Reply.of(550, "5.7.1", "Go, away")), "refused 550 5.7.1 Go, away"),
        ):
            self.assertEqual((str(direction), Direction.parse(text)), (text, direction))

    def test_the_text_of_0_1_0_and_of_people_is_read(self) -> None:
        self.assertEqual(Direction.parse("down, spare"), Direction(("down", "spare")))

    def test_only_what_has_neither_names_nor_a_refusal_is_direct(self) -> None:
        self.assertEqual(
            [Direction.parse(text).direct for text in ("direct", "a", "refused 550 5.7.1 no")],
            [True, False, False],
        )

    def test_a_next_hop_s_name_is_no_domain_s_queue(self) -> None:
        self.assertTrue(is_direct(direct_queue("example.com")))
        self.assertFalse(is_direct("direct-to-them"))


class NextHopText(unittest.TestCase):
    def test_it_prints_the_statement_that_defines_it(self) -> None:
        hop = NextHop("isp", hosts=(HostPort("mx.isp.example", 587),))
        for fields, words in (
            ({}, ""),
            ({"level": Level.NONE}, " tls none"),
            ({"level": Level.REQUIRED, "implicit_tls": True}, " tls required implicit"),
            ({"login": "tls"}, " login tls"),
            ({"login": "x", "login_without_tls": True}, " login x without-tls"),
            ({"level": Level.VERIFY, "login": "x"}, " tls verify login x"),
        ):
            made = NextHop(hop.name, hosts=hop.hosts, **fields)
            self.assertEqual(str(made), f"next-hop isp smtp mx.isp.example:587{words}")

    def test_where_there_is_a_login_it_is_verified(self) -> None:
        for fields, level in (
            ({}, None),
            ({"login": "x"}, Level.VERIFY),
            ({"login": "x", "login_without_tls": True}, None),
            ({"login": "x", "level": Level.NONE}, Level.NONE),
            ({"login": "x", "level": Level.DANE}, Level.DANE),
        ):
            self.assertIs(NextHop("isp", **fields).tls, level)


class TwoWays(unittest.TestCase):
    def test_the_direct_way_from_a_source_and_with_another_behind_it(self) -> None:
        for direction, text, words in (
            (Direction(source="bulk"), "direct from bulk", "direct from bulk"),
            (Direction(("isp",), exchangers=True), "direct,isp", "direct, via isp"),
            (
                Direction(("isp", "b"), exchangers=True, source="bulk"),
                "direct from bulk,isp,b",
                "direct from bulk, via isp, b",
            ),
        ):
            self.assertEqual((str(direction), Direction.parse(text)), (text, direction))
            self.assertEqual(direction.words, words)
            self.assertTrue(direction.direct)

    def test_ways_that_differ_wait_in_queues_of_their_own(self) -> None:
        queues = [
            direct_queue("example.com", text)
            for text in ("direct", "direct,isp", "direct from bulk", "direct from bulk,isp")
        ]
        self.assertEqual(
            queues,
            [
                "direct example.com",
                "direct example.com via isp",
                "direct example.com from bulk",
                "direct example.com from bulk, via isp",
            ],
        )
        for queue in queues:
            self.assertTrue(is_direct(queue))
            self.assertEqual(domain_of(queue), "example.com")
        self.assertEqual([source_of(queue) for queue in queues], ["", "", "bulk", "bulk"])
