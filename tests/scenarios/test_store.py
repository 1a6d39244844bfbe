"""A local domain in Dovecot: in by LMTP, read back by IMAP and POP3, unknown ones reported."""

from __future__ import annotations

from email import message_from_bytes, policy

from flufl.bounce import all_failures

from tests.scenarios import peers
from tests.scenarios.corpus import corpus
from tests.scenarios.harness import Scenario, wait_until

ANN, BOB, EVE = "ann@example.com", "bob@example.com", "eve@example.com"


class Dovecot(Scenario):
    needs = ("dovecot",)

    def setUp(self) -> None:
        super().setUp()
        self.dovecot = peers.Dovecot(self, [ANN, BOB, EVE])
        self.relay = self.relayd(
            f"next-hop store lmtp unix:{self.dovecot.socket}\n"
            "accept from 127.0.0.0/8\nroute to @example.com via store\nroute any direct\n"
        )

    def stored(self, user: str, count: int = 1) -> list[bytes]:
        """The mailbox by IMAP, once it has so many messages."""

        def enough() -> list[bytes]:
            found = self.dovecot.by_imap(user)
            return found if len(found) >= count else []

        try:
            return wait_until(enough, f"{count} messages for {user}")
        except AssertionError as error:
            self.fail(f"{error}\n{self.relay.log()}\n{self.dovecot.log()}")

    def test_message_is_read_back_by_imap_and_pop3(self) -> None:
        samples = corpus()[:15] + [s for s in corpus() if s.utf8_header]
        for sample in samples:
            self.relay.send("a@b.example", [ANN], sample.content, mail_options=["BODY=8BITMIME"])
        by_imap = self.stored(ANN, len(samples))
        by_pop3 = self.dovecot.by_pop3(ANN)
        self.assertEqual(len(by_pop3), len(samples))
        for sample in samples:
            mark = b"\r\nX-Corpus: " + sample.name.encode() + b"\r\n"
            for kept in (by_imap, by_pop3):
                (found,) = [content for content in kept if mark in content]
                self.assertTrue(found.endswith(sample.content), (sample.name, found[-300:]))
                self.assertIn(b"Received: from client.example", found)
        self.relay.wait_empty()

    def test_several_recipients_in_one_transaction(self) -> None:
        ident = self.relay.send("a@b.example", [ANN, BOB, EVE])
        for user in (ANN, BOB, EVE):
            self.assertEqual(len(self.stored(user)), 1)
        for number in range(3):
            self.assertEqual(self.relay.settled(ident, number)["state"], "delivered")

    def test_unknown_mailbox_becomes_a_report_to_the_sender(self) -> None:
        ident = self.relay.send(ANN, [BOB, "nobody@example.com"])
        (report,) = self.stored(ANN)
        self.assertEqual(len(self.stored(BOB)), 1)
        self.assertEqual(self.relay.settled(ident, 1)["state"], "failed")
        parsed = message_from_bytes(report, policy=policy.compat32)
        temporary, permanent = all_failures(parsed)
        self.assertEqual((set(temporary), set(permanent)), (set(), {b"nobody@example.com"}))
        self.assertEqual(parsed["Return-Path"], "<>")

    def test_stopped_store_delays_and_loses_nothing(self) -> None:
        self.dovecot.stop()
        ident = self.relay.send("x@y.example", [ANN])
        self.assertEqual(self.relay.settled(ident)["state"], "queued")
        self.dovecot.start()
        self.assertEqual(len(self.stored(ANN)), 1)
        self.relay.wait_empty()
