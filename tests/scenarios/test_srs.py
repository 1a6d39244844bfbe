"""Rewritten senders on the wire, and PostSRSd on the other side of the same key."""

from __future__ import annotations

from pathlib import Path

from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario
from tests.sink import Asked, Sink

KEY = "correct horse battery staple"
BOB = "bob@sender.example"
LONG = "bounces+1234567-0abc-alice=example.com-and-more-of-the-same-kind" + "@em.sender.example"
SENDERS = (
    BOB,
    "Bob.MIXED@Sender.Example",
    "u=v@sender.example",
    "bob+tag@sender.example",
    "SRS0xyz@sender.example",
    "SRS0=abcd=AA=x.example=u@forwarder.example",
    "srs0+abcd=AA=x.example=u@forwarder.example",
    LONG,
)


class Forwarder(Scenario):
    """A relayd that forwards to outside, the server of the outside, and the sender's own."""

    def setUp(self) -> None:
        super().setUp()
        self.outside, self.senders = Sink(self.answer), Sink()
        for sink in (self.outside, self.senders):
            self.addCleanup(sink.stop)
        self.refuses = ""
        self.relay = self.forwarder("srs.example.com", KEY)

    def answer(self, asked: Asked) -> str | None:
        """The outside refuses one recipient, if any."""
        no = asked.stage == "rcpt" and asked.argument == self.refuses
        return "550 5.1.1 nobody of that name" if no else None

    def keys(self, *keys: str) -> Path:
        """A keys file that only its owner may read."""
        path = self.folder / f"keys-{len(list(self.folder.glob('keys-*')))}"
        path.touch(mode=0o600)
        path.write_text("".join(f"{key}\n" for key in keys))
        return path

    def forwarder(self, domain: str, *keys: str, back: int = 0) -> Relayd:
        """A relayd with an SRS domain; what is for nobody it knows goes to port `back`."""
        return self.relayd(
            f"srs domain {domain} keys file {self.keys(*keys)}\n"
            "accept to @example.com\n"
            "forward info@example.com -> alice@outside.example\n"
            f"next-hop out smtp 127.0.0.1:{self.outside.port}\n"
            f"next-hop back smtp 127.0.0.1:{back or self.senders.port}\n"
            "route to @outside.example via out\nroute any via back\n",
            name=domain,
        )

    def forwarded(self, sender: str, relay: Relayd | None = None) -> str:
        """The sender that the outside sees of a message that is forwarded."""
        before = len(self.outside.arrived)
        (relay or self.relay).send(sender, ["info@example.com"])
        message = self.outside.wait(before + 1)[-1]
        self.assertEqual(message.recipients, ("alice@outside.example",))
        return message.sender

    def returned(self, recipient: str, relay: Relayd | None = None) -> str:
        """Whom a report to a rewritten sender reaches in the end."""
        before = len(self.senders.arrived)
        (relay or self.relay).send("", [recipient])
        message = self.senders.wait(before + 1)[-1]
        self.assertEqual(message.sender, "")
        (reached,) = message.recipients
        return reached

    def refused(self, recipient: str) -> tuple[int, bytes]:
        """What RCPT is answered with."""
        with self.relay.session() as client:
            client.ehlo("client.example")
            client.mail("")
            return client.rcpt(recipient)


class PostSrsd(Forwarder):
    needs = ("postsrsd",)

    def test_it_reverses_ours_and_we_reverse_its(self) -> None:
        other = peers.PostSrsd(self, "srs.example.com", self.keys(KEY))
        for sender in SENDERS:
            ours, theirs = self.forwarded(sender), other.forward(sender)
            self.assertEqual(ours.lower(), theirs.lower())
            first = sender.replace("srs0", "SRS0")  # the tag's case is not kept by anybody
            self.assertEqual(other.reverse(ours), first)
            self.assertEqual(self.returned(theirs), first)
            self.assertEqual(self.returned(ours.lower()).lower(), sender.lower())

    def test_behind_it_and_before_it(self) -> None:
        """Sender, relayd, PostSRSd with a key of its own, recipient; and the way back."""
        other = peers.PostSrsd(self, "srs.other.example", self.keys("its own"))
        once = self.forwarded(BOB)
        twice = other.forward(once)
        self.assertTrue(twice.startswith("SRS1="), twice)
        self.assertEqual(other.reverse(twice), once)
        self.assertEqual(self.returned(once), BOB)
        # and the other way round
        once = other.forward(BOB)
        twice = self.forwarded(once)
        self.assertTrue(twice.startswith("SRS1="), twice)
        self.assertEqual(self.returned(twice), once)
        self.assertEqual(other.reverse(once), BOB)

    def test_keys_change_hands(self) -> None:
        """The second key still verifies, on both sides."""
        older = self.forwarded(BOB)
        newer = self.forwarder("srs2.example.com", "new", KEY)
        renamed = older.replace("@srs.", "@srs2.")
        self.assertEqual(self.returned(renamed, newer), BOB)
        other = peers.PostSrsd(self, "srs2.example.com", self.keys("new", KEY))
        self.assertEqual(other.reverse(renamed), BOB)
        self.assertEqual(other.reverse(self.forwarded(BOB, newer)), BOB)

    def test_what_one_refuses_the_other_does_too(self) -> None:
        other = peers.PostSrsd(self, "srs.example.com", self.keys(KEY))
        good = self.forwarded(BOB)
        for bad in (
            good.replace("=bob@", "=eve@"),
            good.replace("=sender.", "=vendor."),
            good.replace("SRS0=", "SRS0=A", 1),
            "SRS0=AAAA=AA=sender.example=bob@srs.example.com",
            "SRS1=AAAA=sender.example==AA=bob@srs.example.com",
        ):
            self.assertRaises(AssertionError, other.reverse, bad)
            code, text = self.refused(bad)
            self.assertEqual((code, text[:4]), (550, b"5.1."), (bad, text))

    def test_a_key_with_longer_hashes_is_the_same_key_to_it(self) -> None:
        """The old key stands below: what it made, here or there, stays good."""
        older, new = self.forwarded(BOB), "hash-length-8:another horse"
        newer = self.forwarder("srs2.example.com", new, KEY)
        other = peers.PostSrsd(self, "srs2.example.com", self.keys(new, KEY))
        ours = self.forwarded(BOB, newer)
        self.assertEqual(len(ours.split("=")[1]), 8)
        self.assertEqual(other.reverse(ours), BOB)
        self.assertEqual(self.returned(older.replace("@srs.", "@srs2."), newer), BOB)


class Guessing(Forwarder):
    def test_guesses_count_over_sessions_and_workers(self) -> None:
        good = self.forwarded(BOB)
        relay = self.relayd(
            f"srs domain srs.example.com keys file {self.keys(KEY)}\n"
            f"next-hop back smtp 127.0.0.1:{self.senders.port}\nroute any via back\n",
            name="two",
            start=False,
        )
        text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
        relay.config.write_text(text)
        relay.start()
        said = []
        for number in range(60):
            with relay.session() as client:
                client.ehlo("client.example")
                client.mail("")
                said.append(client.rcpt(f"SRS0=AB{number:02}=AA=x.example=u@srs.example.com")[0])
        self.assertEqual(said, [550] * 20 + [450] * 40)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("")
            self.assertEqual(client.rcpt(good)[0], 450)

    def test_a_sender_is_refused_whether_the_address_is_good_or_not(self) -> None:
        good = self.forwarded(BOB)
        for address in (good, good.replace("=bob@", "=eve@")):
            with self.relay.session() as client:
                client.ehlo("client.example")
                client.mail("spam@spam.example")
                self.assertEqual(
                    client.rcpt(address), (550, b"5.7.1 This address takes reports only")
                )


class Wire(Forwarder):
    def test_our_own_report_goes_to_the_real_sender(self) -> None:
        self.refuses = "alice@outside.example"
        self.relay.send(BOB, ["info@example.com"])
        (report,) = self.senders.wait(1)
        self.assertEqual((report.sender, report.recipients), ("", (BOB,)))
        self.assertIn(b"Final-Recipient: rfc822; alice@outside.example\r\n", report.content)
        self.assertNotIn(b"SRS0=", report.content)

    def test_two_of_us_in_a_row_and_the_report_back(self) -> None:
        second = self.forwarder("srs.second.example", "other", back=self.relay.port)
        once = self.forwarded(BOB)
        twice = self.forwarded(once, second)
        self.assertTrue(twice.endswith("@srs.second.example"), twice)
        self.assertEqual(self.returned(twice, second), BOB)

    def test_forged_and_malformed_hear_550_and_nothing_is_taken(self) -> None:
        good = self.forwarded(BOB)
        for bad, status in (
            (good.replace("=bob@", "=eve@"), b"5.1.1"),
            ("SRS0=AAAA=AA=sender.example=bob@SRS.example.com", b"5.1.1"),
            ("SRS0=x@srs.example.com", b"5.1.3"),
            ("SRS0=AAAA=AA=sender.example=bob@srs.other.example", b"5.7.1"),
        ):
            code, text = self.refused(bad)
            self.assertEqual((code, text[:5]), (550, status), (bad, text))
        self.assertEqual(self.senders.arrived, [])
        self.assertNotIn(KEY, self.relay.log(1000))

    def test_explain_tells_the_way_out_and_the_way_back(self) -> None:
        out = self.relay.ctl("explain", "--sender", BOB, "info@example.com").stdout
        self.assertRegex(
            out,
            r"(?m)^srs +relayd\.conf:\d+ +domain srs\.example\.com .*bob@sender\.example -> SRS0=",
        )
        back = self.relay.ctl("explain", "--sender", "<>", self.forwarded(BOB)).stdout
        self.assertRegex(back, r"(?m)^srs .* -> bob@sender\.example$")
        self.assertNotIn(KEY, out + back)

    def test_smtputf8_sender(self) -> None:
        with self.relay.session() as client:
            client.ehlo("client.example")
            client.mail("jürgen@sender.example", ["SMTPUTF8"])
            client.rcpt("info@example.com")
            self.assertEqual(client.data(b"Subject: x\r\n\r\nx\r\n")[0], 250)
            message = self.outside.wait(1)[-1]
            self.assertTrue(message.sender.endswith("=sender.example=jürgen@srs.example.com"))
            self.assertIn("SMTPUTF8", message.sender_parameters)
            client.mail("", ["SMTPUTF8"])
            code, text = client.rcpt(message.sender)
            self.assertEqual(code, 250, text)
            self.assertEqual(client.data(b"Subject: x\r\n\r\nx\r\n")[0], 250)
        self.assertEqual(self.senders.wait(1)[0].recipients, ("jürgen@sender.example",))
