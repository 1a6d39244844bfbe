"""An author in our domain: answers and reports find the way back, and nobody else's mail does."""

from __future__ import annotations

import re
import smtplib
from email import message_from_bytes, policy
from email.utils import parseaddr

from tests.scenarios.harness import Relayd
from tests.scenarios.test_names import Names
from tests.sink import Arrived, Sink

ANN, BOB = "ann@sender.example", "bob@outside.example"
LETTER = (
    b"From: =?utf-8?q?Ann_Lee=2C_J=C3=BCrgen?= <ann@sender.example>\r\nTo: info@example.com\r\n"
    b"Subject: x\r\n\r\nHello\r\n"
)
RULES = """\
accept  to @example.com
srs     domain gw.example.com keys file {keys}/srs
forward info@example.com -> bob@outside.example
rewrite header From any -> srs when breaks dmarc
"""


class Reversible(Names):
    records = (
        '_dmarc.sender.example. TXT "v=DMARC1; p=reject"\n'
        '_dmarc.outside.example. TXT "v=DMARC1; p=quarantine"\n'
        'gw.example.com. A 127.0.0.1\ngw.example.com. TXT "v=spf1 a -all"\n'
    )

    def key(self, *keys: str) -> None:
        path = self.keys / "srs"
        path.touch(mode=0o600)
        path.write_text("".join(f"{key}\n" for key in keys))

    def forwarded(self, relay: Relayd, sink: Sink, count: int) -> Arrived:
        relay.send(ANN, ["info@example.com"], LETTER)
        found = sink.wait(count)[-1]
        self.assertEqual(found.recipients, (BOB,))
        return found

    def code(self, relay: Relayd, recipient: str, sender: str = BOB) -> int:
        """To RCPT."""
        with relay.session() as client:
            client.ehlo("outside.example")
            client.mail(sender)
            return client.rcpt(recipient)[0]

    def test_there_and_back(self) -> None:
        self.keys = self.room("keys")
        dns = self.zone()
        for workers in (1, 2):
            with self.subTest(workers=workers):
                self.key("first")
                relay, sink = self.gateway(dns, RULES.format(keys=self.keys), workers)
                copy = self.forwarded(relay, sink, 1)
                fields = message_from_bytes(copy.content, policy=policy.default)
                name, address = parseaddr(str(fields["From"]))
                self.assertEqual(name, "Ann Lee, J\xfcrgen (via gw.example.com)")
                self.assertEqual(
                    str(fields["Reply-To"]), '"Ann Lee, J\xfcrgen" <ann@sender.example>'
                )
                self.assertIn("ann@sender.example", str(fields["X-Original-From"]))
                self.assertRegex(copy.sender, r"\ASRS0=.*=ann@gw\.example\.com\Z")

                # Bob's answer goes to Ann, and hers to it comes back to Bob: both are ours by then
                relay.send(BOB, [address], b"From: <bob@outside.example>\r\n\r\nHello Ann\r\n")
                answer = sink.wait(2)[-1]
                self.assertEqual(answer.recipients, (ANN,))
                self.assertRegex(answer.sender, r"\ASRS0=.*=bob@gw\.example\.com\Z")
                again = re.search(rb"<(SRSF=[^>]*=bob@gw\.example\.com)>", answer.content)
                assert again is not None
                relay.send(ANN, [again[1].decode()], b"From: <ann@sender.example>\r\n\r\nx\r\n")
                self.assertEqual(sink.wait(3)[-1].recipients, (BOB,))

                # a report about the copy goes to its reverse-path, one about an answer likewise
                for number, (to, whose) in enumerate(((copy.sender, ANN), (answer.sender, BOB)), 4):
                    relay.send("", [to], b"From: <>\r\nSubject: failed\r\n\r\nx\r\n")
                    self.assertEqual(sink.wait(number)[-1].recipients, (whose,))

                given = address.split("=")[1]
                for forged in (
                    address.replace("=ann@", "=eve@"),
                    address.replace("sender.example", "victim.example"),
                    address.replace(given, "AAAAAAAA"),
                    address.replace(given, given[:4]),
                    copy.sender.replace("SRS0", "SRSF"),
                    address.replace("SRSF", "SRS0"),
                ):
                    self.assertEqual(self.code(relay, forged), 550, forged)
                self.assertEqual(self.code(relay, address.upper()), 250)

                self.key("second", "first")
                relay.ctl("reload")
                self.assertEqual(self.code(relay, address), 250)
                self.key("second")
                relay.ctl("reload")
                self.assertEqual(self.code(relay, address), 550)
                relay.stop()

    def test_who_guesses_is_soon_told_nothing_more(self) -> None:
        self.keys = self.room("keys")
        self.key("first")
        relay, _ = self.gateway(self.zone(), RULES.format(keys=self.keys))
        codes = []
        with relay.session() as client:
            client.ehlo("guesser.example")
            for number in range(40):
                try:
                    client.mail(BOB)
                    guess = f"SRSF=AAAA{number:04}=JL=sender.example=ann@gw.example.com"
                    codes.append(client.rcpt(guess)[0])
                    client.rset()
                except smtplib.SMTPServerDisconnected:
                    client.connect(*relay.address)
                    client.ehlo("guesser.example")
        self.assertEqual({*codes[:10]}, {550})
        self.assertEqual(codes[-1], 450)
