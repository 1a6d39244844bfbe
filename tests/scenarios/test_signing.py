"""Forwarded mail signed by a whole relayd, verified by dkimpy at the next hop; keys that change."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import dkim

from relayd.authentication.dkimsigning import SigningKey, new_private_key, private_key
from relayd.ctl.dkim import zone_lines
from tests.scenarios.corpus import corpus
from tests.scenarios.harness import Relayd, program
from tests.scenarios.mailauth import Received, mailauth
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

    def verified(
        self, message: Arrived, pems: dict[str, bytes] | None = None, signatures: int = 2
    ) -> list[bool]:
        """What dkimpy says of the upper signatures, by the keys that are on disk, or by these."""
        keys = [
            self.in_force(name)
            if pems is None
            else SigningKey("gw.example.com", name, private_key(pems[name]))
            for name in self.pems
        ]
        records = {key.key_name: key.record.encode() for key in keys}

        def record(name: bytes, timeout: int = 5) -> bytes | None:
            return records.get(name.decode().rstrip("."))

        verifier: Any = dkim.DKIM(message.content)
        return [verifier.verify(number, dnsfunc=record) for number in range(signatures)]

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

    def test_keys_are_read_once_and_trouble_with_one_leaves_those_in_force(self) -> None:
        relay, sink = self.gateway(self.zone(), RULES.format(self.keys), workers=2)
        path = self.keys / "r.pem"
        sent = 0

        def signs() -> None:
            """What leaves is signed by both keys, as they were at the start."""
            nonlocal sent
            for _ in range(3):
                relay.send(ANN, ["info@example.com"], LETTER)
            sent += 3
            for message in sink.wait(sent)[-3:]:
                self.assertEqual(self.verified(message, self.pems), [True, True])

        def as_folder() -> None:
            path.unlink()
            path.mkdir(0o700)

        def as_fifo() -> None:
            path.rmdir()
            os.mkfifo(path, 0o600)

        genrsa = [program("openssl"), "genrsa", "1024"]
        small = subprocess.run(genrsa, capture_output=True, check=True).stdout
        broken: Callable[[], object]
        for broken, why in (
            (path.unlink, "No such file"),
            (partial(path.write_bytes, b""), "there is no private key in it"),
            (partial(path.write_bytes, small), "has 1024 bits"),
            (partial(path.chmod, 0o644), "is open to others"),
            (as_folder, "Is a directory"),
            (as_fifo, "is no file"),
        ):
            broken()
            signs()  # nobody has looked at the file again
            done = relay.ctl("reload", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn(why, done.stderr)
            self.assertIn("r.pem", done.stderr)
            self.assertNotIn("PRIVATE", done.stderr)
            signs()
            if not path.is_dir() and not path.is_fifo():
                self.put("r", self.pems["r"])
        path.unlink()
        self.put("r", self.pems["r"])
        relay.ctl("reload")
        signs()
        # what is retired signs no more, and its file may go
        text = relay.config.read_text()
        first, second = f"selector r key file {path}", f"selector e key file {self.keys}/e.pem"
        relay.config.write_text(text.replace(f"{first}, {second}", f"{second} retired {first}"))
        path.unlink()
        relay.ctl("reload")
        relay.send(ANN, ["info@example.com"], LETTER)
        last = sink.wait(sent + 1)[-1]
        self.assertEqual(last.content.count(b"DKIM-Signature"), 1)
        self.assertEqual(self.verified(last, self.pems, 1), [True])


class CorpusTests(SigningCase):
    """Both kinds at once over the corpus: three who share no code say that they are good."""

    needs = ("opendkim", "mailauth")

    def test_dkimpy_opendkim_and_mailauth_verify_both_kinds_over_the_corpus(self) -> None:
        relay, sink = self.gateway(self.zone(), RULES.format(self.keys))
        samples = [each.content for each in corpus() if each.longest_line < 998]
        letters = [*LETTERS, *(each for each in samples if len(each) < 10 << 20)]
        for letter in letters:
            header = letter.partition(b"\r\n\r\n")[0]
            options = [] if letter.isascii() else ["BODY=8BITMIME"]
            options += [] if header.isascii() else ["SMTPUTF8"]
            relay.send(ANN, ["info@example.com"], letter, mail_options=options)
        arrived = sink.wait(len(letters))
        self.assertGreater(len(arrived), 90)
        for message in arrived:
            self.assertEqual(message.content.count(b"\r\nDKIM-Signature: v=1; a=ed25519"), 1)
        contents = [message.content for message in arrived]
        # dkimpy takes a second for each MiB, and knows no obsolete fields (RFC 5322 section 4.5)
        for message in arrived:
            if len(message.content) < 100_000 and b"\r\nlist-ID :" not in message.content:
                self.assertEqual(self.verified(message), [True, True], message.content[:2000])
        records = {key.key_name: {"TXT": [key.record]} for key in map(self.in_force, self.pems)}
        said = mailauth([Received(content) for content in contents], records)
        for content, found in zip(contents, said, strict=True):
            if b"\xa0" in content.partition(b"\r\n\r\n")[0]:
                continue  # an octet of UTF-8 that it takes for a blank
            ours = [(one.algorithm, one.result) for one in found.dkim[:2]]
            wanted = [("rsa-sha256", "pass"), ("ed25519-sha256", "pass")]
            self.assertEqual(ours, wanted, content[:2000])
        self.check_opendkim(contents)

    def check_opendkim(self, contents: list[bytes]) -> None:
        """2.11 of Debian verifies Ed25519 as well; it does not sign with it."""
        folder = self.room("opendkim")
        files = []
        for number, content in enumerate(contents):
            files.append(folder / f"{number}.eml")
            files[-1].write_bytes(content)
        keys = map(self.in_force, self.pems)
        (folder / "dns").write_text("".join(f"{key.key_name} {key.record}\n" for key in keys))
        (folder / "conf").write_text(f"Syslog no\nMode v\nTestDNSData {folder / 'dns'}\n")
        words = [program("opendkim"), "-x", str(folder / "conf"), "-vvv", "-t"]
        done = subprocess.run(
            [*words, ",".join(map(str, files))],
            capture_output=True, text=True, timeout=300, check=True,
        )  # fmt: skip
        said = done.stdout + done.stderr
        for kind in ("rsa", "ed25519"):
            passed = re.findall(rf"dkim=(\w+)[^;]*header\.d=gw\.[^;]*header\.a={kind}-sha256", said)
            self.assertEqual(len(passed), len(contents), said[-2000:])
            self.assertEqual(set(passed), {"pass"})
