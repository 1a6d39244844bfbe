"""Guesses at the hash of an SRS address count against the client, whatever sessions it makes."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import TestCase

from relayd import config
from relayd.login.guesses import HASHES_LAST, WRONG_HASHES, Guesses
from relayd.mail.address import Mailbox
from relayd.rules.evaluate import evaluate
from relayd.rules.srs import Scheme
from tests.unit.intake.scene import Peer, Scene

KEY = "hash-length-8:secret"
BAD = "SRS0=AAAAAAA%s=AA=evil.example=x@srs.example.com"


class Guesses(TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        keys = Path(folder.name) / "keys"
        keys.touch(mode=0o600)
        keys.write_text(f"{KEY}\n")
        text = "hostname gw.example.com\nsrs domain srs.example.com keys file keys\n"
        ruleset = config.load_text(text + "accept to @example.com\n", Path(folder.name)).ruleset
        self.scene = Scene()
        guesses = Guesses(self.scene.clock.seconds)
        self.scene.change(rules=lambda: ruleset, decide=evaluate, guesses=guesses)
        bob = Mailbox("bob", "partner.example")
        scheme = Scheme("srs.example.com", (KEY.encode(),))
        self.good = str(scheme.forward(bob, self.scene.clock.seconds()))

    def greeted(self, address: str) -> Peer:
        peer = self.scene.greeted(address)
        peer.say("MAIL FROM:<>")
        return peer

    def guess(self, address: str, number: int) -> set[str]:
        """So many guesses, each in a session of its own, in every case of letters."""
        said = set()
        for each in range(number):
            text = BAD % "ABCDEFGH"[each % 8]
            [reply] = self.greeted(address).say(f"RCPT TO:<{text if each % 2 else text.lower()}>")
            said.add(reply)
        return said

    def test_after_twenty_the_client_learns_nothing_more_of_any_srs_address(self) -> None:
        self.assertEqual(
            self.guess("192.0.2.1", WRONG_HASHES), {"550 5.1.1 This SRS address is not one of ours"}
        )
        peer = self.greeted("192.0.2.1")
        later = "450 4.7.1 Too many wrong SRS addresses, try again later"
        self.assertEqual(peer.say(f"RCPT TO:<{BAD % 'X'}>"), [later])
        self.assertEqual(peer.say(f"RCPT TO:<{self.good}>"), [later])
        # other mail of this client, and other clients, are not touched by it
        self.assertEqual(peer.say("RCPT TO:<info@example.com>")[0][:3], "250")
        self.assertEqual(self.greeted("192.0.2.2").say(f"RCPT TO:<{self.good}>")[0][:3], "250")
        self.scene.clock.advance(HASHES_LAST)
        self.assertEqual(self.greeted("192.0.2.1").say(f"RCPT TO:<{self.good}>")[0][:3], "250")

    def test_an_ipv6_network_is_one_client(self) -> None:
        for number in range(WRONG_HASHES):
            self.guess(f"2001:db8::{number + 1:x}", 1)
        self.assertEqual(self.greeted("2001:db8::ffff").say(f"RCPT TO:<{self.good}>")[0][:3], "450")
        self.assertEqual(self.greeted("2001:db8:1::1").say(f"RCPT TO:<{self.good}>")[0][:3], "250")

    def test_srs1_is_guessed_at_in_the_same_way(self) -> None:
        for _ in range(WRONG_HASHES):
            self.greeted("192.0.2.1").say(
                "RCPT TO:<SRS1+AAAAAAAA=x.example==a=b=c=d@srs.example.com>"
            )
        self.assertEqual(self.greeted("192.0.2.1").say(f"RCPT TO:<{self.good}>")[0][:3], "450")

    def test_what_is_only_old_or_not_for_its_sender_is_no_guess(self) -> None:
        for _ in range(WRONG_HASHES * 2):
            peer = self.scene.greeted("192.0.2.1")
            peer.say("MAIL FROM:<x@example.org>")
            self.assertEqual(peer.say(f"RCPT TO:<{BAD % 'X'}>")[0][:9], "550 5.7.1")
            peer.leave()
        self.assertEqual(self.greeted("192.0.2.1").say(f"RCPT TO:<{self.good}>")[0][:3], "250")
        self.scene.clock.advance(30 * 86400)
        for _ in range(WRONG_HASHES * 2):
            peer = self.greeted("192.0.2.1")
            reply = peer.say(f"RCPT TO:<{self.good}>")
            peer.leave()
            self.assertEqual(reply, ["550 5.1.1 This SRS address has expired"])

    def test_a_session_that_goes_on_is_ended(self) -> None:
        self.guess("192.0.2.1", WRONG_HASHES)
        peer = self.greeted("192.0.2.1")
        said = [peer.say(f"RCPT TO:<{self.good}>")[0][:3] for _ in range(100)]
        self.assertEqual(set(said), {"450"})
        self.assertEqual(peer.say(f"RCPT TO:<{self.good}>")[0][:3], "421")
