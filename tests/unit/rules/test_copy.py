"""`copy`: where else mail goes, seen by nobody."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.mail.address import Mailbox, parse_path_text, path_text
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.rules.evaluate import Facts, evaluate, plan_copy, plan_own
from relayd.rules.fact import Known
from relayd.rules.language.grammar import VERBS, read_statement
from relayd.rules.language.lexer import lex
from relayd.rules.language.source import Complaint, Source
from relayd.rules.ruleset import Ruleset
from tests.unit.rules.sample import problems, rules

HOPS = """\
next-hop main smtp 127.0.0.1:2601
next-hop journal smtp 127.0.0.1:2602
next-hop second smtp 127.0.0.1:2603
"""
IN = "accept to @example.com\n"
OUT = "route any via main\n"


def site(*lines: str, accept: str = IN) -> Ruleset:
    return rules(HOPS + accept + "\n".join(lines) + "\n" + OUT)


def decided(
    ruleset: Ruleset,
    to: str = "info@example.com",
    sender: str = "ann@sender.example",
    client: str = "192.0.2.1",
    known: Known = Known.CONTENT,
) -> Plan:
    path = parse_path_text(sender)
    return evaluate(ruleset, Facts(Client(client), path, Mailbox.parse(to), known=known))


def copies(plan: Plan) -> list[str]:
    return [f"{each.mailbox} {each.next_hop}" for each in plan.bcc]


class GrammarTests(unittest.TestCase):
    def read(self, text: str) -> object:
        [statement] = lex(Source.of(text, "r")).statements
        return read_statement(statement, VERBS)

    def test_a_copy_rule_prints_as_it_is_read(self) -> None:
        for text in (
            "copy any to archive@example.com",
            "copy to @example.com via journal",
            "copy to @example.com to archive@example.com via journal, second",
            "copy from 192.0.2.0/24 to @example.com to archive@example.com when not login any",
            "copy to boss@example.com via journal when dkim fail",
            "copy sender @example.com to archive@example.com when size > 1MiB",
        ):
            with self.subTest(text):
                rule = self.read(text)
                self.assertEqual(str(rule), text)
                self.assertEqual(self.read(str(rule)), rule)

    def test_an_expected_copy_prints_as_it_is_read(self) -> None:
        for text in (
            "expect to a@example.com -> a@example.com via main copy x@example.net via journal",
            "expect to a@example.com -> discard copy x@example.net",
            "expect to a@example.com -> hold copy x@example.net direct",
            "expect to a@example.com -> a@example.com sender null copy x@example.net, y@example.net",
            "expect to a@example.com -> a@example.com via copy",
        ):
            with self.subTest(text):
                rule = self.read(text)
                self.assertEqual(str(rule), text)
                self.assertEqual(self.read(str(rule)), rule)

    def test_the_first_to_is_never_where_the_copy_goes(self) -> None:
        ruleset = site("copy to boss@example.com via journal")
        plan = decided(ruleset, "boss@example.com")
        self.assertEqual(copies(plan), ["boss@example.com journal"])
        self.assertEqual(copies(decided(ruleset)), [])

    def test_what_says_no_place_is_refused(self) -> None:
        for text in (
            "copy any",
            "copy to @example.com",
            "copy to a@example.com",
            "copy any direct",
        ):
            with self.subTest(text), self.assertRaises(Complaint):
                self.read(text)


class CopyTests(unittest.TestCase):
    def with_ways(self, entry: str, rule: str) -> Ruleset:
        """A rule set with a transport table of one entry."""
        with TemporaryDirectory() as folder:
            Path(folder, "ways").write_text(f"{entry}\n")
            lines = f"table ways transport file ways\n{rule}\nroute <ways>\n"
            return rules(HOPS + IN + lines + OUT, Path(folder))

    def test_by_the_targets_own_way(self) -> None:
        plan = decided(site("copy any to archive@vault.example"))
        self.assertEqual(copies(plan), ["archive@vault.example main"])
        self.assertEqual([str(each.mailbox) for each in plan.destinations], ["info@example.com"])
        self.assertEqual(path_text(plan.bcc[0].reverse_path), "ann@sender.example")

    def test_to_the_recipient_itself_by_another_hop(self) -> None:
        plan = decided(site("copy to @example.com via journal, second"))
        self.assertEqual(copies(plan), ["info@example.com journal,second"])

    def test_to_the_target_by_that_hop(self) -> None:
        ruleset = site("copy to @example.com to archive@example.com via journal")
        self.assertEqual(copies(decided(ruleset)), ["archive@example.com journal"])

    def test_all_rules_that_hold_are_followed_and_each_place_is_one(self) -> None:
        ruleset = site(
            "copy to info@example.com to archive@example.com via journal",
            "copy any to archive@example.com via journal",
            "copy to @example.com via second",
        )
        found = copies(decided(ruleset))
        self.assertEqual(found, ["archive@example.com journal", "info@example.com second"])

    def test_the_target_is_forwarded_as_its_own_mail_is(self) -> None:
        ruleset = site(
            "copy any to archive@example.com",
            "forward archive@example.com -> one@vault.example, two@vault.example",
        )
        self.assertEqual(
            copies(decided(ruleset)), ["one@vault.example main", "two@vault.example main"]
        )

    def test_it_sees_the_recipient_as_forward_does(self) -> None:
        ruleset = site(
            "rewrite recipient old@example.com -> new@example.com",
            "forward new@example.com -> far@away.example",
            "copy to new@example.com via journal",
        )
        plan = decided(ruleset, "old@example.com")
        self.assertEqual(copies(plan), ["new@example.com journal"])
        self.assertEqual([str(each.mailbox) for each in plan.destinations], ["far@away.example"])

    def test_held_and_discarded_mail_is_copied_and_refused_mail_is_not(self) -> None:
        rule = "copy any to archive@vault.example via journal"
        for verb, verdict, count in (
            ("hold to info@example.com", Verdict.HOLD, 1),
            ("discard to info@example.com", Verdict.DISCARD, 1),
            ("reject to info@example.com", Verdict.REFUSE, 0),
            ("defer to info@example.com", Verdict.REFUSE, 0),
        ):
            with self.subTest(verb):
                plan = decided(site(rule, accept=f"{verb}\n{IN}"))
                self.assertEqual((plan.verdict, len(plan.bcc)), (verdict, count))

    def test_what_a_transport_table_throws_away_is_copied(self) -> None:
        ruleset = self.with_ways(
            "info@example.com discard:", "copy any to archive@vault.example via journal"
        )
        plan = decided(ruleset)
        self.assertEqual((plan.verdict, len(plan.bcc)), (Verdict.DISCARD, 1))

    def test_a_copy_without_a_way_is_451(self) -> None:
        for line in ("archive@vault.example error:no", "archive@vault.example discard:"):
            with self.subTest(line):
                ruleset = self.with_ways(line, "copy any to archive@vault.example")
                plan = decided(ruleset)
                self.assertEqual((plan.verdict, plan.reply.code), (Verdict.REFUSE, 451))
                self.assertEqual(plan.bcc, ())

    def test_an_unknown_condition_is_451(self) -> None:
        ruleset = site("copy any to archive@vault.example when spf fail")
        plan = decided(ruleset)
        self.assertEqual(plan.reply.code, 451)

    def test_content_is_looked_at_when_it_is_there(self) -> None:
        ruleset = site("copy any to archive@vault.example when size > 1KiB")
        self.assertEqual(copies(decided(ruleset, known=Known.RECIPIENT)), [])
        self.assertTrue(ruleset.plans_anew)

    def test_our_own_mail_is_not_copied(self) -> None:
        ruleset = site("copy any to archive@vault.example")
        own = plan_own(ruleset, Facts(Client(""), None, Mailbox.parse("ann@sender.example")))
        self.assertEqual(own.bcc, ())

    def test_a_report_that_comes_in_is_copied_from_nobody(self) -> None:
        plan = decided(site("copy any to archive@vault.example"), sender="")
        self.assertIsNone(plan.bcc[0].reverse_path)

    def test_under_srs_the_copy_is_sent_by_nobody(self) -> None:
        with TemporaryDirectory() as folder:
            keys = Path(folder, "keys")
            keys.write_text("secret\n")
            keys.chmod(0o600)
            lines = (
                "srs domain example.com keys file keys\n"
                "copy any to archive@vault.example\ncopy any to archive@example.com\n"
            )
            ruleset = rules(HOPS + IN + lines + OUT, Path(folder))
            paths = [path_text(each.reverse_path) for each in decided(ruleset).bcc]
            self.assertEqual(paths, ["", "ann@sender.example"])

    def test_header_rules_of_the_recipient_are_the_copys(self) -> None:
        ruleset = site('header add X-Seen "yes"', "copy any to archive@vault.example")
        plan = decided(ruleset)
        self.assertEqual(plan.bcc[0].header_rules, plan.destinations[0].header_rules)

    def test_the_trail_says_so(self) -> None:
        ruleset = site("copy to @example.com to archive@example.com via journal")
        steps = [each for each in decided(ruleset).trail if each.stage == "copy"]
        [step] = steps
        self.assertEqual(step.rule, "to @example.com to archive@example.com via journal")
        self.assertEqual(step.note, "info@example.com -> archive@example.com")

    def test_where_a_copy_goes_by_now(self) -> None:
        ruleset = site(
            "copy any to archive@example.com via journal",
            "copy to info@example.com via second",
            "copy any to else@example.com",
        )
        for mailbox, hop in (
            ("archive@example.com", "journal"),
            ("info@example.com", "second"),
            ("else@example.com", "main"),
            ("nobody@example.com", None),
        ):
            with self.subTest(mailbox):
                facts = Facts(Client("192.0.2.1"), None, Mailbox.parse(mailbox))
                self.assertEqual(plan_copy(ruleset, facts), hop)


class ExpectTests(unittest.TestCase):
    def test_an_expected_copy_is_looked_at(self) -> None:
        rule = "copy to @example.com to archive@vault.example via journal"
        good = "expect to a@example.com -> a@example.com via main copy archive@vault.example"
        self.assertTrue(site(rule, f"{good} via journal").expects)
        for wrong in (f"{good} via second", good.replace("archive@", "else@")):
            with self.subTest(wrong):
                [problem] = problems(HOPS + IN + f"{rule}\n{wrong}\n" + OUT)
                self.assertIn(
                    "comes out as a@example.com via main copy archive@vault.example via journal",
                    problem,
                )

    def test_a_discarded_mail_has_its_copy_expected(self) -> None:
        text = f"{HOPS}discard any\ncopy any to x@vault.example via journal\n{OUT}"
        rules(f"{text}expect to a@example.com -> discard copy x@vault.example via journal\n")
        [problem] = problems(f"{text}expect to a@example.com -> hold copy x@vault.example\n")
        self.assertIn("discard copy x@vault.example via journal", problem)
