"""What is written for those whose file it is: it does what was asked for, and nothing else."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from relayd import config
from relayd.mail.address import Mailbox
from relayd.mail.plan import Plan
from relayd.ops.forwardsdesk import STRANGER, ForwardsDesk, told
from relayd.rules.check.expect import SOMEBODY
from relayd.rules.evaluate import Facts, evaluate

INCLUDE = "include customers/*.rules scoped\n"
INFO = Mailbox.parse("info@example.com")


class ForwardsDeskTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "customers").mkdir()
        self.file = self.folder / "customers" / "example.com.rules"
        self.main(INCLUDE)

    def main(self, text: str) -> None:
        path = self.folder / "relayd.conf"
        path.write_text(f"hostname gw.example.com\nspool {self.folder}/spool\n{text}")
        self.desk = ForwardsDesk(lambda: config.load(path))

    def load(self) -> config.Settings:
        return config.load(self.folder / "relayd.conf")

    def set(self, *targets: str) -> str:
        """What stands in the file then."""
        self.load()
        mailboxes = [*map(Mailbox.parse, targets)] or [Mailbox.parse("ann@example.net")]
        self.desk.set(self.desk.find("example.com"), INFO, mailboxes)
        return self.file.read_text("latin-1")

    def plan(self) -> Plan:
        rules = self.load().ruleset
        return evaluate(rules, Facts(STRANGER, SOMEBODY, INFO, gathered=rules.usual))

    def becomes(self) -> list[str]:
        plan = self.plan()
        return [str(plan.reply.code), *(str(each.mailbox) for each in plan.destinations)]

    def test_it_is_accepted_where_rules_below_the_include_refuse_what_is_left(self) -> None:
        self.main(f'{INCLUDE}reject to @example.com 550 5.1.1 "Nobody"\n')
        self.set()
        self.assertEqual(self.becomes(), ["250", "ann@example.net"])

    def test_it_is_accepted_where_rules_above_ask_others_about_a_client(self) -> None:
        for asking in (
            "dnsbl zen zen.example\nreject when listed zen\n",
            "limit few 5/1h per sender\ndefer when over few\n",
            "reject when rdns none\n",
        ):
            with self.subTest(asking):
                self.file.unlink(missing_ok=True)
                self.main(asking + INCLUDE)
                self.set()
                self.assertEqual(self.becomes(), ["250", "ann@example.net"])

    def test_it_is_accepted_by_name_where_the_domain_is_not_enough(self) -> None:
        self.file.write_text("accept to @example.com\n")
        routed = Mailbox.parse("a%b@example.com")
        self.load()
        self.desk.set(self.desk.find("example.com"), routed, [Mailbox.parse("ann@example.net")])
        self.assertIn("accept to a%b@example.com\n", self.file.read_text())

    def test_a_file_that_refuses_it_by_itself_goes_on_to(self) -> None:
        self.file.write_text("reject to @example.com\n")
        self.assertNotIn("accept", self.set())
        self.assertEqual(self.becomes(), ["550"])

    def test_it_wins_over_a_rule_for_the_whole_domain(self) -> None:
        for wide in (
            "forward @example.com -> all@example.net\n",
            "table t { info@example.com }\nforward <t> -> all@example.net\n",
            'forward regex "^.+@example\\.com$" -> all@example.net\n',
        ):
            with self.subTest(wide):
                self.file.write_text(f"# mine\naccept to @example.com\n{wide}")
                self.set()
                self.assertEqual(self.becomes(), ["250", "ann@example.net"])
                self.desk.unset(self.desk.find("example.com"), INFO)
                self.assertEqual(self.file.read_text(), f"# mine\naccept to @example.com\n{wide}")

    def test_a_comment_in_another_code_stays_as_it_was(self) -> None:
        before = "# M\xfcller\r\naccept to @example.com\r\n"
        self.file.write_bytes(before.encode("latin-1"))
        self.set()
        rule = b"forward info@example.com -> ann@example.net\n"
        self.assertEqual(self.file.read_bytes(), before.encode("latin-1") + rule)

    def test_of_a_rule_about_several_the_one_is_taken_away_that_was_meant(self) -> None:
        self.file.write_text(
            "accept to @example.com\nforward info@example.com, bob@example.com -> x@example.net\n"
        )
        self.set()
        self.assertEqual(told(self.desk.find("example.com"))["info"], ["ann@example.net"])
        self.desk.unset(self.desk.find("example.com"), INFO)
        self.assertEqual(
            self.file.read_text(),
            "accept to @example.com\nforward bob@example.com -> x@example.net\n",
        )

    def test_a_name_with_a_space_of_another_script_is_no_other_name(self) -> None:
        for local in ("\u00a0ann", "ann\u3000x", "ann\u2003"):
            with self.subTest(local):
                self.file.write_text("accept to @example.com\n")
                self.load()
                mailbox, target = Mailbox(local, "example.com"), Mailbox.parse("x@example.net")
                self.desk.set(self.desk.find("example.com"), mailbox, [target])
                found = self.desk.find("example.com")
                self.assertEqual(told(found), {local: ["x@example.net"]})
                self.desk.unset(found, mailbox)
                self.assertEqual(told(self.desk.find("example.com")), {})
