"""Forwarding repeats until nothing matches; loops end, and the same address is one delivery."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.rules.forward import MAX_LEVELS
from tests.unit.rules.sample import outcome, plan, problems, rules


class ForwardTests(unittest.TestCase):
    def test_a_chain_is_followed(self) -> None:
        one = rules(
            "accept any\nforward a@x.example -> b@x.example\nforward b@x.example -> c@y.example\n"
        )
        self.assertEqual(outcome(one, "a@x.example"), "c@y.example direct")
        self.assertEqual([s.stage for s in plan(one, "a@x.example").trail],
                         ["accept", "forward", "forward", "route"])  # fmt: skip

    def test_the_same_address_twice_is_one_delivery(self) -> None:
        one = rules("accept any\nforward a@x.example -> b@x.example, B@X.example, c@x.example\n"
                    "forward c@x.example -> b@x.example\n")  # fmt: skip
        self.assertEqual(outcome(one, "a@x.example"), "b@x.example direct")

    def test_an_address_that_names_itself_stops_there(self) -> None:
        one = rules("accept any\nforward boss@x.example -> aide@x.example, boss@x.example\n"
                    "forward aide@x.example -> boss@x.example\n")  # fmt: skip
        self.assertEqual(outcome(one, "boss@x.example"), "boss@x.example direct")
        self.assertEqual(outcome(one, "aide@x.example"), "boss@x.example direct")

    def test_catch_all_keeps_the_local_part_or_not(self) -> None:
        one = rules(
            "accept any\nforward a@x.example -> a@y.example\nforward @x.example -> all@y.example\n"
        )
        self.assertEqual(outcome(one, "a@x.example"), "a@y.example direct")
        self.assertEqual(outcome(one, "b@x.example"), "all@y.example direct")

    def test_domain_to_itself_is_where_it_stops(self) -> None:
        one = rules("accept any\nforward @x.example -> @x.example, archive@y.example\n")
        self.assertEqual(
            outcome(one, "b@x.example"), "b@x.example direct, archive@y.example direct"
        )

    def test_a_loop_that_only_some_facts_close_is_refused(self) -> None:
        one = rules("accept any\nforward a@x.example -> b@x.example\n"
                    "forward b@x.example -> a@x.example when sender @loop.example\n")  # fmt: skip
        self.assertEqual(outcome(one, "a@x.example", sender="q@loop.example"), "reject 554 5.4.6")
        self.assertEqual(outcome(one, "a@x.example"), "b@x.example direct")

    def test_levels_are_bounded(self) -> None:
        def chain(length: int) -> str:
            return "".join(f"forward a{n}@x.example -> a{n + 1}@x.example\n" for n in range(length))

        fine = rules("accept any\n" + chain(MAX_LEVELS))
        self.assertEqual(outcome(fine, "a0@x.example"), f"a{MAX_LEVELS}@x.example direct")
        self.assertIn("more than 50 forwards", problems("accept any\n" + chain(60))[0])
        late = "accept any\n" + chain(60).replace("\n", " when from 203.0.113.9\n")
        self.assertEqual(outcome(rules(late), "a0@x.example"), "reject 554 5.4.6")

    def test_patterns_that_breed_are_stopped(self) -> None:
        breeds = 'forward regex "^([ab]*)@x\\.example$" -> "\\1a@x.example", "\\1b@x.example"'
        self.assertIn("more than 50 forwards", problems(f"accept any\n{breeds}\n")[0])
        one = rules(f"accept any\n{breeds} when from 203.0.113.9\n")
        self.assertIn(outcome(one, "a@x.example"), ("reject 554 5.4.6", "reject 451 4.3.0"))

    def test_loops_are_errors_before(self) -> None:
        self.assertIn(
            "mail goes in circles: somebody@a.example -> somebody@b.example -> somebody@a.example",
            problems("forward @a.example -> @b.example\nforward @b.example -> @a.example\n")[0],
        )

    def test_a_null_sender_stays_null(self) -> None:
        one = rules("accept any\nforward a@x.example -> b@y.example\n")
        self.assertIsNone(plan(one, "a@x.example", sender="").destinations[0].reverse_path)


class SubaddressTests(unittest.TestCase):
    def setUp(self) -> None:
        self.one = rules(
            "subaddress +\naccept to info@example.com, own+tag@example.com\n"
            "forward info@example.com -> alice@example.net\n"
            "forward info+special@example.com -> bob@example.net\n"
            "forward @example.com -> catchall@example.net\n"
        )

    def test_the_tag_is_carried_on(self) -> None:
        self.assertEqual(
            outcome(self.one, "info+news@example.com"), "alice+news@example.net direct"
        )

    def test_unless_it_has_a_rule_of_its_own(self) -> None:
        self.assertEqual(outcome(self.one, "info+special@example.com"), "bob@example.net direct")

    def test_in_whatever_order_that_rule_says_it(self) -> None:
        for tests in ("to own+x@example.com login bob", "login bob to own+x@example.com"):
            one = rules(
                f"subaddress +\naccept {tests}\nreject to own@example.com\naccept to @example.com\n"
            )
            self.assertEqual(outcome(one, "own+x@example.com"), "own+x@example.com direct", tests)
            self.assertEqual(outcome(one, "own+y@example.com"), "reject 550 5.7.1", tests)

    def test_without_the_setting_a_plus_is_a_letter(self) -> None:
        one = rules("accept to info@example.com\n")
        self.assertEqual(outcome(one, "info+news@example.com"), "reject 550 5.7.1")

    def test_keeping_a_copy_keeps_the_tag(self) -> None:
        one = rules("subaddress +-\naccept any\nforward b@x.example -> b@x.example, c@x.example\n")
        self.assertEqual(
            outcome(one, "b-t@x.example"), "b-t@x.example direct, c-t@x.example direct"
        )

    def test_in_alias_tables_too(self) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "aliases").write_text("info: alice@example.net\ninfo+x: bob@example.net\n")
            one = rules(
                "subaddress +\ntable people aliases file aliases\naccept any\n"
                "forward <people> at @example.com\n",
                folder,
            )
        self.assertEqual(outcome(one, "info+y@example.com"), "alice+y@example.net direct")
        self.assertEqual(outcome(one, "info+x@example.com"), "bob@example.net direct")
