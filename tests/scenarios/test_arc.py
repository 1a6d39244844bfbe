"""Chains of ARC through one whole relayd, and through two: verified by dkimpy and by mailauth."""

from __future__ import annotations

from typing import Any

import dkim

from tests.scenarios.harness import Relayd
from tests.scenarios.mailauth import Received, Seal, mailauth
from tests.scenarios.test_signing import ANN, LETTER, RULES, SigningCase
from tests.sink import Arrived, Sink

SEALING = RULES + "arc seal with gateway when forwarded\n"


class ArcCase(SigningCase):
    needs = ("mailauth",)

    def by_dkimpy(self, content: bytes) -> str:
        records = {key.key_name: key.record.encode() for key in map(self.in_force, self.pems)}

        def record(name: bytes, timeout: int = 5) -> bytes | None:
            return records.get(name.decode().rstrip("."))

        result: Any = dkim.ARC(content).verify(dnsfunc=record)
        return result[0].decode() if result[0] else ""

    def table(self) -> dict[str, dict[str, list[str]]]:
        return {key.key_name: {"TXT": [key.record]} for key in map(self.in_force, self.pems)}

    def by_mailauth(self, content: bytes) -> str:
        (said,) = mailauth([Received(content, sender=ANN)], self.table())
        return said.arc

    def forwarded(self, relay: Relayd, sink: Sink, letter: bytes) -> bytes:
        before = len(sink.arrived)
        relay.send(ANN, ["info@example.com"], letter)
        return sink.wait(before + 1)[-1].content


class Chains(ArcCase):
    def test_forwarded_mail_is_sealed_and_what_others_sealed_is_sealed_on(self) -> None:
        relay, sink = self.gateway(self.zone(), SEALING.format(self.keys))
        first = self.forwarded(relay, sink, LETTER)
        self.assertTrue(first.startswith(b"ARC-Seal: i=1;"))
        self.assertIn(b"cv=none;", first)
        self.assertIn(b"\r\nARC-Authentication-Results: i=1; gw.example.com;\r\n spf=none", first)
        self.assertEqual((self.by_dkimpy(first), self.by_mailauth(first)), ("pass", "pass"))
        self.assertTrue(first.endswith(b"\r\n" + LETTER))
        self.assertEqual(self.verified_below(first), [True, True])
        # by us once more
        second = self.forwarded(relay, sink, first)
        self.assertTrue(second.startswith(b"ARC-Seal: i=2;"))
        self.assertRegex(second, rb"\r\nAuthentication-Results: gw\.example\.com;[^:]* arc=pass")
        self.assertEqual((self.by_dkimpy(second), self.by_mailauth(second)), ("pass", "pass"))
        # by mailauth, then by us
        key = self.in_force("r")
        seal = Seal(key.domain, key.selector, self.pems["r"])
        (said,) = mailauth([Received(LETTER, sender=ANN)], self.table(), seal=seal)
        third = self.forwarded(relay, sink, said.fields + LETTER)
        self.assertTrue(third.startswith(b"ARC-Seal: i=2;"))
        self.assertEqual((self.by_dkimpy(third), self.by_mailauth(third)), ("pass", "pass"))

    def verified_below(self, content: bytes) -> list[bool]:
        """What dkimpy says of our DKIM signatures below the set."""
        at = content.index(b"DKIM-Signature:")
        return self.verified(Arrived("", (), (), (), content[at:], "", 0, "", ""))

    def test_a_chain_that_fails_is_said_once(self) -> None:
        rules = SEALING + 'header add X-Chain "fail" when arc fail\n'
        relay, sink = self.gateway(self.zone(), rules.format(self.keys))
        broken = self.forwarded(relay, sink, LETTER).replace(b"Hello", b"Hullo")
        self.assertEqual(self.by_mailauth(broken), "fail")
        sealed = self.forwarded(relay, sink, broken)
        self.assertTrue(sealed.startswith(b"ARC-Seal: i=2; a=rsa-sha256; cv=fail;"))
        self.assertIn(b"arc=fail (the body has changed)", sealed)
        self.assertIn(b"\r\nX-Chain: fail\r\n", sealed)
        self.assertNotEqual(self.by_dkimpy(sealed), "pass")
        self.assertEqual(self.by_mailauth(sealed), "fail")
        again = self.forwarded(relay, sink, sealed)
        self.assertNotIn(b"i=3;", again)

    def test_off_by_default_and_only_where_the_rule_holds(self) -> None:
        relay, sink = self.gateway(self.zone(), RULES.format(self.keys))
        self.assertNotIn(b"ARC-", self.forwarded(relay, sink, LETTER))
        relay.stop()
        relay.config.write_text(relay.config.read_text() + "arc seal with gateway when forwarded\n")
        relay.start()
        relay.send(ANN, ["x@example.com"], LETTER)
        plain = sink.wait(2)[-1].content
        self.assertNotIn(b"ARC-", plain)
        self.assertIn(b"ARC-Seal", self.forwarded(relay, sink, LETTER))
        shown = relay.ctl("explain", "info@example.com").stdout
        self.assertRegex(shown, r"\narc +relayd\.conf:\d+ +seal with gateway when forwarded")
