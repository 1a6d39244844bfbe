"""Where mail goes that relayd writes itself."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

from relayd import config
from relayd.mail.message import RecipientState
from relayd.relay.lost import POSTMASTER
from relayd.report.bounce import Action, Report
from relayd.service.ownmail import report_for
from relayd.spool.view import NewMessage
from tests.unit.report.examples import message, recipient, reports, settlement

HERE = "postmaster@gw.example.com"


class RoutingTests(unittest.TestCase):
    def letter(self, rules: str, *, lost: bool = False) -> NewMessage:
        (report,) = reports(message(), settlement(recipient()))
        if lost:
            report = Report(report.about, POSTMASTER, Action.FAILED, report.entries, lost=True)
        settings = config.load_text(f"hostname gw.example.com\n{rules}", Path("/nowhere"))
        spool = SimpleNamespace(new_ident=lambda: 7)
        return report_for(report, spool, settings)

    def told(self, rules: str) -> list[tuple[str, str, frozenset[str]]]:
        letter = self.letter(rules, lost=True)
        return [
            (str(each.mailbox), each.next_hop, each.notify) for each in letter.submission.recipients
        ]

    def test_a_lost_report_goes_to_the_postmaster_of_the_rules(self) -> None:
        never = frozenset({"NEVER"})
        hop = "next-hop boss smtp 127.0.0.1:2626\n"
        for rules, expected in (
            ("forward postmaster@ -> ann@example.com\n", [("ann@example.com", "direct")]),
            (f"{hop}route to {HERE} via boss\n", [(HERE, "boss")]),
            ("accept to @example.com\n", [("postmaster@example.com", "direct")]),
            (
                "accept to @example.com\nforward postmaster@example.com -> ann@example.net\n",
                [("ann@example.net", "direct")],
            ),
            (
                "accept to @example.com\nforward postmaster@gw.example.com -> ann@example.net\n",
                [("ann@example.net", "direct")],
            ),
            ("", [(HERE, "direct")]),
        ):
            self.assertEqual(self.told(rules), [(*each, never) for each in expected], rules)
        letter = self.letter("forward postmaster@ -> ann@example.com\n", lost=True)
        self.assertIn(f"To: <{HERE}>\r\n".encode(), letter.content)

    def test_nobody_is_asked_about_mail_of_our_own(self) -> None:
        rules = (
            "limit l 5/1h per client\nnext-hop boss smtp 127.0.0.1:2626\ndnsbl zen zen.test\n"
            "route any via boss when listed zen\nroute any via boss when over l\n"
            "route any via boss when first-seen 5m\nroute any via boss when unknown at boss\n"
        )
        (told,) = self.told(f"accept to @example.com\n{rules}")
        self.assertEqual(told[:2], ("postmaster@example.com", "direct"))
        (letter,) = self.letter(rules).submission.recipients
        self.assertEqual(letter.next_hop, "direct")

    def test_a_report_to_a_sender_whose_mail_is_thrown_away_is_thrown_away(self) -> None:
        with TemporaryDirectory() as folder:
            table = Path(folder) / "transport"
            table.write_text("sender.example discard:\n")
            letter = self.letter(f"table t transport file {table}\nroute <t>\n")
        self.assertIs(letter.submission.state, RecipientState.DISCARDED)
        self.assertIs(self.letter("").submission.state, RecipientState.QUEUED)
