"""What happens to a recipient: the four stages, first match wins, three values."""

from __future__ import annotations

import functools
import unittest
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.mail.plan import Verdict
from relayd.rules.ruleset import Ruleset
from relayd.rules.stage import Stage
from relayd.rules.tables.table import BrokenTable
from tests.unit.rules.sample import outcome, plan, rules, senders, write_site


@functools.cache
def example() -> Ruleset:
    """The rule set of the design's two blocks."""
    with TemporaryDirectory() as folder:
        return config.load(write_site(Path(folder))).ruleset


class ExampleTests(unittest.TestCase):
    def setUp(self) -> None:
        self.rules = example()

    def test_forward_to_two(self) -> None:
        self.assertEqual(
            outcome(self.rules, "Info@Example.COM"),
            "alice@example.net direct, bob@example.org direct",
        )

    def test_the_trail_tells_the_whole_way(self) -> None:
        trail = plan(self.rules, "info@example.com").trail
        self.assertEqual(
            [(step.stage, step.place, step.rule, step.note) for step in trail],
            [
                (
                    "accept",
                    "rules.d/10-site.rules:14",
                    "accept to <ours>",
                    "ours: rules.d/10-site.rules:2",
                ),
                (
                    "forward",
                    "rules.d/10-site.rules:23",
                    "info@example.com -> alice@example.net, bob@example.org",
                    "",
                ),
                ("route", "rules.d/10-site.rules:32", "any direct", "alice@example.net"),
                ("route", "rules.d/10-site.rules:32", "any direct", "bob@example.org"),
            ],
        )

    def test_each_line_of_the_example(self) -> None:
        inside = {"client": "10.1.2.3"}
        for to, facts, expected in (
            ("x@example.com", {"client": "192.0.2.66"}, "reject 550 5.7.1"),
            ("old@example.com", {}, "reject 550 5.1.6"),
            ("x@elsewhere.example", {}, "reject 550 5.7.1"),
            ("x@elsewhere.example", inside, "x@elsewhere.example direct"),
            ("x@elsewhere.example", {"client": "::1"}, "x@elsewhere.example direct"),
            (
                "x@elsewhere.example",
                {"client": "::ffff:10.1.2.3"},
                "x@elsewhere.example direct",
            ),
            ("Joe@legacy.example.com", {}, "Joe@example.com direct"),
            (
                "boss@example.com",
                {},
                "boss@example.com direct, assistant@example.com direct",
            ),
            ("Jane@sales.example.com", {}, "Jane@crm.example.net direct"),
            ("core-team@example.com", {}, "core@teams.example.net direct"),
            ("carol@example.com", {}, "carol@example.net direct"),
            ("postmaster@example.com", {}, "carol@example.net direct"),
            ("carol@example.org", {}, "carol@example.org direct"),
            ("l@lists.example.com", {}, "l@lists.example.com store"),
            ("x@example.org", {"sender": "q@brand.example"}, "x@example.org isp"),
            ("x@a.b.internal.example", inside, "x@a.b.internal.example exchange"),
            ("x@internal.example", inside, "x@internal.example direct"),
        ):
            with self.subTest(to=to, **facts):
                self.assertEqual(outcome(self.rules, to, **facts), expected)

    def test_sender_is_rewritten(self) -> None:
        self.assertEqual(
            senders(self.rules, "x@example.org", sender="J@Intern.example.com"), ["J@example.com"]
        )
        self.assertEqual(senders(self.rules, "x@example.org", sender=""), ["<>"])

    def test_a_list_sends_on_in_its_owners_name(self) -> None:
        self.assertEqual(senders(self.rules, "list@example.com"), ["owner-list@example.com"] * 2)
        self.assertEqual(senders(self.rules, "list@example.com", sender=""), ["<>", "<>"])

    def test_header_rules_go_by_number(self) -> None:
        (destination,) = plan(self.rules, "x@example.org").destinations
        self.assertEqual(destination.header_rules, (0, 1, 2))


class AdmissionTests(unittest.TestCase):
    def test_nothing_is_accepted_by_default(self) -> None:
        decided = plan(rules(""), "x@example.com")
        self.assertEqual(str(decided.reply), "550 5.7.1 Relaying denied")
        self.assertEqual(decided.destinations, ())

    def test_first_match_wins(self) -> None:
        either = rules(
            "reject to a@example.com 550\naccept to @example.com\n"
            "reject from 192.0.2.0/24 450 4.7.0\n"
        )
        self.assertEqual(outcome(either, "a@example.com"), "reject 550 5.7.1")
        self.assertEqual(
            outcome(either, "b@example.com", client="192.0.2.1"), "b@example.com direct"
        )
        self.assertEqual(outcome(either, "b@x.example", client="192.0.2.1"), "reject 450 4.7.0")

    def test_a_helo_name_below_a_domain(self) -> None:
        below = rules("reject helo .bad.example 550\naccept to @example.com\n")
        for helo, wanted in (
            ("mx.Bad.example", "reject 550 5.7.1"),
            ("bad.example", "a@example.com direct"),
            ("notbad.example", "a@example.com direct"),
        ):
            self.assertEqual(outcome(below, "a@example.com", helo=helo), wanted)
        both = rules(
            "reject helo .bad.example 550 when not helo good.bad.example\naccept to @example.com\n"
        )
        self.assertEqual(
            outcome(both, "a@example.com", helo="good.bad.example"), "a@example.com direct"
        )

    def test_a_hold_accepts_nothing_by_itself(self) -> None:
        held = rules('hold sender @odd.example "looks odd"\naccept to @example.com\n')
        odd = {"sender": "x@odd.example"}
        self.assertEqual(outcome(held, "a@example.com", **odd), "hold a@example.com direct")
        self.assertEqual(outcome(held, "a@else.example", **odd), "reject 550 5.7.1")
        self.assertEqual(outcome(held, "a@example.com"), "a@example.com direct")
        self.assertIn("looks odd", plan(held, "a@example.com", **odd).trail[0].rule)

    def test_discard(self) -> None:
        trap = rules('discard to trap@example.com "spam trap"\naccept to @example.com\n')
        self.assertEqual(outcome(trap, "trap@example.com"), "discard")
        self.assertEqual(plan(trap, "trap@example.com").reply.code, 250)

    def test_every_condition(self) -> None:
        for text, facts in (
            ("from 203.0.113.0/24", {"client": "203.0.113.9"}),
            ("to @example.com", {}),
            ("to @example.org, x@example.com", {}),
            ("sender null", {"sender": ""}),
            ('sender regex "^bounce-[0-9]+@"', {"sender": "bounce-12@list.example"}),
            ("login Alice", {"login": "alice"}),
            ("login any", {"login": "bob"}),
            ("listener 127.0.0.1:587", {"listener": "127.0.0.1:587"}),
            ("helo mx.partner.example", {"helo": "MX.partner.example"}),
            ("tls", {"tls": "TLSv1.3"}),
            ("any when not to @example.org", {}),
            ("any when tls and login any", {"tls": "TLSv1.3", "login": "x"}),
        ):
            with self.subTest(text):
                one = rules(f"listen 127.0.0.1:587\naccept {text}\n")
                self.assertEqual(outcome(one, "x@example.com", **facts), "x@example.com direct")
                if facts:
                    self.assertEqual(outcome(one, "x@example.com"), "reject 550 5.7.1"
                                     if text != "from 203.0.113.0/24" else "x@example.com direct")  # fmt: skip
                    test = text.partition(" when ")[0]
                    negated = rules(f"listen 127.0.0.1:587\naccept any when not {test}\n")
                    if text.startswith(("sender", "login", "listener", "helo", "tls")):
                        self.assertEqual(outcome(negated, "x@example.com"), "x@example.com direct")

    def test_dots_that_need_quotes_are_found_however_they_are_written(self) -> None:
        for written in ("A..b@docomo.example", '"a..b"@docomo.example', "a..b@docomo.example."):
            for text in (
                f"accept to {written}\nforward a..b@ -> .x@new.example\n",
                f'accept to {written}\nforward "a..b"@ -> ".x"@new.example\n',
                f"table some {{ {written} }}\naccept to <some>\nforward any -> .x@new.example\n",
                f"accept any\nrewrite recipient {written} -> .x@new.example\n",
            ):
                ruled = rules(text)
                for given in ("a..b@docomo.example", '"A..B"@docomo.example'):
                    with self.subTest(text, given=given):
                        self.assertEqual(outcome(ruled, given), '".x"@new.example direct')
                if "accept any" not in text:
                    self.assertEqual(outcome(ruled, "a.b@docomo.example"), "reject 550 5.7.1")

    def test_the_bare_postmaster_is_ours(self) -> None:
        post = rules("accept to postmaster@gw.example.com\nforward postmaster@ -> a@b.example\n")
        self.assertEqual(outcome(post, "Postmaster"), "a@b.example direct")


class RewriteTests(unittest.TestCase):
    def test_the_part_not_named_is_kept(self) -> None:
        for rule, expected in (
            ("@example.com -> @new.example", "Joe@new.example"),
            ("Joe@example.com -> jim@", "jim@example.com"),
            ("joe@ -> jim@", "jim@example.com"),
            ("joe@example.com -> @new.example", "Joe@new.example"),
            ("any -> all@new.example", "all@new.example"),
            ('regex "^(j)oe@(.*)$" -> "\\2.\\1@new.example"', "example.com.J@new.example"),
        ):
            with self.subTest(rule):
                one = rules(f"accept any\nrewrite recipient {rule}\n")
                self.assertEqual(outcome(one, "Joe@example.com"), f"{expected} direct")

    def test_groups_keep_octets_and_case_and_are_quoted_again(self) -> None:
        for verb in ("rewrite recipient", "forward", "rewrite sender"):
            one = rules(f'accept any\n{verb} regex "^(.+)@cap\\.test$" -> "\\1@new.test"\n')
            for local in (
                *('"a b"', '"x@y"', '"x@evil.test"', '"q\\"q"', '"b\\\\s"', '"a..b"', '"\\"q\\""'),
                *("Joe.DOE", "jÜrgen", "İIß", "x" * 250, "SRS0=AAAA=7C=b.test=u", "a%b", "a!b"),
            ):
                given = f"{local}@CAP.test"
                with self.subTest(verb, local=local):
                    if verb.endswith("sender"):
                        self.assertEqual(
                            senders(one, "x@y.test", sender=given), [f"{local}@new.test"]
                        )
                    else:
                        self.assertEqual(outcome(one, given), f"{local}@new.test direct")

    def test_what_a_template_says_is_the_rules_and_what_a_group_holds_is_the_peers(self) -> None:
        for template, given, expected in (
            ('"\\"\\1\\"@new.test"', '"a b"@cap.test', '"a b"@new.test'),
            ('"\\"\\1\\"@new.test"', "Joe@cap.test", "Joe@new.test"),
            ('"\\"\\1 x\\"@new.test"', '"q\\"q"@cap.test', '"q\\"q x"@new.test'),
            ('"pre.\\1@new.test"', '"x@evil.test"@cap.test', '"pre.x@evil.test"@new.test'),
            ('"\\g<0>.new.test"', '"a@b"@cap.test', '"a@b"@cap.test.new.test'),
            ('"\\g<0>"', "Joe@cap.test", "Joe@cap.test"),
            ('"x@\\1.test"', "Joe@cap.test", "x@Joe.test"),
            ('"x@\\1.test"', "jürgen@cap.test", "x@jürgen.test"),
        ):
            one = rules(f'accept any\nrewrite recipient regex "^(.+)@cap\\.test$" -> {template}\n')
            with self.subTest(template, given=given):
                self.assertEqual(outcome(one, given), f"{expected} direct")

    def test_a_local_part_never_says_where_mail_goes(self) -> None:
        """A template without @ takes the domain from the address, not out of a local part."""
        one = rules('accept any\nrewrite recipient regex "^(.+)@cap\\.test$" -> "\\1"\n')
        for local in ('"x@evil.test"', '"\\"x\\"@evil.test"', "plain"):
            self.assertEqual(outcome(one, f"{local}@cap.test"), "reject 550 5.1.0", local)
        one = rules('accept any\nrewrite recipient regex "^x-(.+)$" -> "\\1"\n')
        self.assertEqual(outcome(one, '"x-A@evil.test"@cap.test'), '"A@evil.test"@cap.test direct')

    def test_results_that_are_too_long_are_refused_for_good(self) -> None:
        regex = 'regex "^(.+)@(.+)\\.test$"'
        for rule, given in (
            (f'{regex} -> "\\1\\1@new.test"', "x" * 126 + "@cap.test"),
            (f'{regex} -> "x@\\1.test"', "x" * 64 + "@cap.test"),
            (f'{regex} -> "x@\\2.\\2.test"', "x@" + "a." * 80 + "test"),
            (f"@.sub.test -> @.{'long.' * 20}test", "x@" + "a." * 90 + "sub.test"),
        ):
            one = rules(f"accept any\nrewrite recipient {rule}\n")
            with self.subTest(rule):
                self.assertEqual(outcome(one, given), "reject 550 5.1.0")

    def test_no_address_gets_round_a_regex_by_its_length(self) -> None:
        one = rules('reject to regex "@evil\\." 550 5.7.1 "No"\naccept any\n')
        long = "x" * 250 + "@evil." + "a" * 60 + ".b" * 80 + ".test"
        self.assertEqual(outcome(one, long), "reject 550 5.7.1")

    def test_a_domain_for_a_domain_keeps_a_quoted_local_part(self) -> None:
        for rule in ("@cap.test -> @new.test", "@.cap.test -> @.new.test"):
            one = rules(f"accept any\nrewrite recipient {rule}\n")
            for local in ('"a b"', '"x@y"', '"q\\"q"', "Joe"):
                sub = "s." if "@." in rule else ""
                self.assertEqual(
                    outcome(one, f"{local}@{sub}cap.test"), f"{local}@{sub}new.test direct"
                )

    def test_sub_domains_keep_their_label(self) -> None:
        one = rules("accept any\nrewrite recipient @.old.example -> @.new.example\n")
        self.assertEqual(outcome(one, "x@a.b.old.example"), "x@a.b.new.example direct")
        self.assertEqual(outcome(one, "x@old.example"), "x@old.example direct")

    def test_rewriting_comes_before_forwarding_and_routing(self) -> None:
        one = rules(
            "next-hop isp smtp isp.example\naccept any\n"
            "rewrite recipient @old.example -> @new.example\n"
            "rewrite sender a@old.example -> b@brand.example\n"
            "forward x@new.example -> y@new.example\nroute sender @brand.example via isp\n"
        )
        self.assertEqual(outcome(one, "x@old.example", sender="a@old.example"), "y@new.example isp")

    def test_null_sender(self) -> None:
        one = rules("accept any\nrewrite sender null -> bounces@example.com\n")
        self.assertEqual(senders(one, "x@y.example", sender=""), ["bounces@example.com"])
        two = rules("accept any\nrewrite sender auto@ -> null\n")
        self.assertEqual(senders(two, "x@y.example", sender="auto@x.example"), ["<>"])

    def test_only_the_first_rule_rewrites(self) -> None:
        one = rules(
            "accept any\nrewrite recipient a@x.example -> b@x.example\n"
            "rewrite recipient b@x.example -> c@x.example\n"
        )
        self.assertEqual(outcome(one, "a@x.example"), "b@x.example direct")


class RouteTests(unittest.TestCase):
    def test_several_next_hops_go_by_name_and_in_order(self) -> None:
        one = rules(
            "next-hop a smtp a.example\nnext-hop b smtp b.example\naccept any\n"
            "route to @example.com via a, b\n"
        )
        self.assertEqual(outcome(one, "x@example.com"), "x@example.com a,b")
        self.assertEqual(outcome(one, "x@example.org"), "x@example.org direct")

    def test_by_every_fact(self) -> None:
        one = rules(
            "next-hop a smtp a.example\nnext-hop b smtp b.example\nnext-hop c smtp c.example\n"
            "accept any\n"
            "listen 127.0.0.1:25\nroute login alice via a\nroute listener 127.0.0.1:25 via b\nroute from 10.0.0.0/8 via c\n"
        )
        self.assertEqual(outcome(one, "x@y.example", login="alice"), "x@y.example a")
        self.assertEqual(outcome(one, "x@y.example", listener="127.0.0.1:25"), "x@y.example b")
        self.assertEqual(outcome(one, "x@y.example", client="10.9.9.9"), "x@y.example c")


class UnknownTests(unittest.TestCase):
    """A broken table never opens a relay and never bounces mail."""

    def setUp(self) -> None:
        good = rules(
            "table t { example.com }\naccept to a@example.com\naccept to <t>\nreject any 550 5.7.1\n"
        )
        tables = {"t": BrokenTable("t", "x", "disk gone")}
        stage = Stage(
            [entry.rule for entry in good.admission.entries],
            lambda rule: rule.conditions + rule.when,
            tables,
        )
        self.broken = replace(good, admission=stage, tables=tables)

    def test_unknown_ends_the_walk(self) -> None:
        decided = plan(self.broken, "x@example.com")
        self.assertEqual(decided.verdict, Verdict.REFUSE)
        self.assertEqual(decided.reply.code, 451)
        self.assertEqual(decided.reply.status, "4.3.0")
        self.assertIn("disk gone", decided.trail[-1].note)

    def test_what_is_decided_before_is_decided(self) -> None:
        self.assertEqual(outcome(self.broken, "a@example.com"), "a@example.com direct")

    def test_no_wins_over_unknown_inside_one_rule(self) -> None:
        good = rules("table t { example.com }\naccept from 10.0.0.1 to <t>\n")
        tables = {"t": BrokenTable("t", "x", "disk gone")}
        stage = Stage(
            [entry.rule for entry in good.admission.entries],
            lambda rule: rule.conditions + rule.when,
            tables,
        )
        broken = replace(good, admission=stage, tables=tables)
        self.assertEqual(outcome(broken, "x@example.com"), "reject 550 5.7.1")
        self.assertEqual(outcome(broken, "x@example.com", client="10.0.0.1"), "reject 451 4.3.0")

    def test_what_a_template_makes_no_mailbox_of_is_refused_for_good(self) -> None:
        """It would not come out otherwise later, and its sender is to hear of it."""
        for verb in ("forward", "rewrite recipient", "rewrite sender"):
            one = rules(f'accept any\n{verb} regex "^(.*)@x\\.example$" -> "a@\\1.example"\n')
            bad = '"a b"@x.example'
            facts = {"sender": bad} if verb.endswith("sender") else {}
            to = "z@z.example" if facts else bad
            with self.subTest(verb):
                self.assertEqual(outcome(one, to, **facts), "reject 550 5.1.0")
                self.assertIn("malformed domain", plan(one, to, **facts).trail[-1].note)
