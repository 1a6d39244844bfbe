"""What the ledger does not tell goes to the journal: refusals, and recipients that share a fate."""

from __future__ import annotations

import unittest
from pathlib import Path

from relayd.config import load_text
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.plan import Plan
from relayd.rules.evaluate import evaluate
from relayd.rules.header import edit_header
from relayd.spool.memory import MemorySpool
from tests.unit.intake.scene import CONTENT, Scene, message
from tests.unit.intake.test_end_to_end import Immediate

RULES = """
hostname gw.example.com
accept to @example.com
forward info@example.com -> alice@example.net
forward sales@example.com -> alice@example.net
forward boss@example.com -> alice@example.net, bob@example.net
"""


class UntoldTest(unittest.TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        spool = MemorySpool(Immediate(), clock=self.scene.clock.seconds)
        spool.open()
        self.noted: list[tuple[str, str]] = []
        self.ruleset = load_text(RULES, Path("/")).ruleset
        self.scene.change(
            rules=lambda: self.ruleset,
            decide=evaluate,
            edit=edit_header,
            spool=spool,
            untold=self.note,
        )

    def note(
        self, client: Client, sender: ReversePath, recipient: Mailbox, plan: Plan, rules: str
    ) -> None:
        self.assertEqual((client.address, str(sender)), ("192.0.2.1", "s@example.org"))
        self.assertEqual(rules, self.ruleset.hash)
        self.noted.append((str(recipient), plan.verdict.value))

    def send(self, *recipients: str) -> list[tuple[str, str]]:
        peer = self.scene.greeted()
        peer.say(*message(*recipients))
        peer.say(*CONTENT)
        peer.leave()
        noted, self.noted = self.noted, []
        return noted

    def test_a_refusal(self) -> None:
        noted = self.send("info@example.com", "x@elsewhere.example")
        self.assertEqual(noted, [("x@elsewhere.example", "refuse")])

    def test_a_recipient_whose_delivery_is_anothers_as_well(self) -> None:
        noted = self.send("info@example.com", "sales@example.com")
        self.assertEqual(noted, [("sales@example.com", "accept")])

    def test_who_has_a_delivery_of_his_own_is_in_the_ledger(self) -> None:
        self.assertEqual(self.send("info@example.com", "boss@example.com"), [])
        self.assertEqual(self.send("info@example.com"), [])
        self.assertEqual(self.send("info@example.com", "info@example.com"), [])
