"""Forwarded mail signed by a whole relayd, verified by dkimpy at the next hop; keys that change."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import dkim

from relayd.authentication.dkimsigning import SigningKey, new_private_key, private_key
from relayd.ctl.dkim import zone_lines
from tests.scenarios.harness import Relayd, program
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


LETTERS = (
    LETTER,
    b"From: a@sender.example\r\n\r\n",
    b"From: a@sender.example\r\nSubject: one \t two\r\n\t three \r\n\r\n \t\r\n\r\n",
    b"From: a@sender.example\r\nTo: b@x.example\r\nTo: c@x.example\r\nlist-ID : <l.example>\r\n"
    b"Resent-To: d@x.example\r\nResent-To: e@x.example\r\n\r\n\tx \r\n\r\n  y\t\tz",
    "From: M\xfcller <m@sender.example>\r\nSubject: \u2603\r\n\r\nGr\xfc\xdfe\r\n".encode(),
)


class SigningCase(Names):
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


class SigningTests(SigningCase):
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


class OpendkimTests(SigningCase):
    needs = ("opendkim",)

    def test_opendkim_verifies_both_kinds(self) -> None:
        relay, sink = self.gateway(self.zone(), RULES.format(self.keys))
        for letter in LETTERS:
            options = [] if letter.isascii() else ["BODY=8BITMIME", "SMTPUTF8"]
            relay.send(ANN, ["info@example.com"], letter, mail_options=options)
        folder = self.room("opendkim")
        files = []
        for number, message in enumerate(sink.wait(len(LETTERS))):
            files.append(folder / f"{number}.eml")
            files[-1].write_bytes(message.content)
        keys = map(self.in_force, self.pems)
        (folder / "dns").write_text("".join(f"{key.key_name} {key.record}\n" for key in keys))
        (folder / "conf").write_text(f"Syslog no\nMode v\nTestDNSData {folder / 'dns'}\n")
        words = [program("opendkim"), "-x", str(folder / "conf"), "-vvv", "-t"]
        done = subprocess.run(
            [*words, ",".join(map(str, files))],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        for kind in ("rsa", "ed25519"):
            passed = re.findall(rf"dkim=(\w+)[^;]*header\.a={kind}-sha256", said)
            self.assertEqual(passed, ["pass"] * len(LETTERS))
