"""Forwarded mail signed by a whole relayd, verified by dkimpy at the next hop; keys that change."""

from __future__ import annotations

import json
import re
from typing import Any

import dkim

from relayd.authentication.dkimsigning import SigningKey, new_private_key, private_key
from relayd.ctl.dkim import zone_lines
from tests.scenarios.harness import Relayd
from tests.scenarios.test_names import Names
from tests.sink import Arrived

ANN = "ann@sender.example"
_STRING = re.compile('"[^"]*"')
LETTER = (
    b"From: Ann <ann@sender.example>\r\nTo: info@example.com\r\nSubject: x\r\n"
    b"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <x@sender.example>\r\n\r\n"
    b"Hello,  you \r\n\r\n.\r\n\r\n"
)
RULES = """\
dkim gateway domain gw.example.com selector r key file {0}/r.pem, selector e key file {0}/e.pem
accept to @example.com
forward info@example.com -> alice@outside.example
sign any with gateway when forwarded
"""


class SigningTests(Names):
    def setUp(self) -> None:
        super().setUp()
        self.keys = self.room("keys")
        self.pems = {name: new_private_key(ed25519=name == "e") for name in ("r", "e")}
        for name in self.pems:
            self.put(name, self.pems[name])
        self.records = "".join(
            f"{key.key_name}. TXT {' '.join(_STRING.findall(text))}\n"
            for key in map(self.in_force, self.pems)
            for text in [" ".join(zone_lines(key.key_name, key.record))]
        )

    def put(self, name: str, pem: bytes) -> None:
        """A key in its file, which only its owner may read."""
        beside = self.keys / f"{name}.new"
        beside.touch(mode=0o600)
        beside.write_bytes(pem)
        beside.replace(self.keys / f"{name}.pem")

    def in_force(self, name: str) -> SigningKey:
        pem = (self.keys / f"{name}.pem").read_bytes()
        return SigningKey("gw.example.com", name, private_key(pem))

    def verified(self, message: Arrived) -> list[bool]:
        """What dkimpy says of the two upper signatures, by the keys that are on disk."""
        records = {key.key_name: key.record.encode() for key in map(self.in_force, self.pems)}

        def record(name: bytes, timeout: int = 5) -> bytes | None:
            return records.get(name.decode().rstrip("."))

        verifier: Any = dkim.DKIM(message.content)
        return [verifier.verify(number, dnsfunc=record) for number in (0, 1)]

    def checked(self, relay: Relayd) -> tuple[int, dict[str, str]]:
        """The exit status of `relayctl dkim check`, and what it says of each key."""
        done = relay.ctl("dkim", "check", "--json", check=False)
        keys = json.loads(done.stdout)["keys"]
        return done.returncode, {key["selector"]: key["state"] for key in keys}

    def test_forwarded_mail_is_signed_and_a_changed_key_is_taken_up_by_a_reload(self) -> None:
        dns = self.zone()
        for workers in (1, 2):
            with self.subTest(workers=workers):
                self.put("r", self.pems["r"])
                relay, sink = self.gateway(dns, RULES.format(self.keys), workers)
                relay.send(ANN, ["info@example.com", "x@example.com"], LETTER)
                copies = {each.recipients[0]: each for each in sink.wait(2)}
                signed, plain = copies["alice@outside.example"], copies["x@example.com"]
                self.assertEqual(self.verified(signed), [True, True])
                self.assertNotIn(b"DKIM-Signature", plain.content)
                self.assertTrue(signed.content.endswith(b"\r\n" + plain.content))
                self.assertEqual(self.checked(relay), (0, {"r": "right", "e": "right"}))

                self.put("r", new_private_key(ed25519=False))
                relay.ctl("reload")
                relay.send(ANN, ["info@example.com"], LETTER)
                self.assertEqual(self.verified(sink.wait(3)[-1]), [True, True])
                self.assertEqual(self.checked(relay), (1, {"r": "wrong", "e": "right"}))
                relay.stop()
