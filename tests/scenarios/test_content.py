"""Rules that look at the content, in a whole relayd: mail signed by dkimpy, a real name server."""

from __future__ import annotations

import json
import re
import unittest
from base64 import b64encode

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.scenarios.harness import Relayd
from tests.scenarios.test_names import Names

try:
    import dkim
except ImportError:
    dkim = None

HEADER = b"""\
From: Joe <joe@author.example>
To: Info <info@example.com>
Subject:  spaces  stay
 and so do folds
Date: Sat, 22 Nov 2025 05:04:00 +0000
Message-ID: <1@author.example>

""".replace(b"\n", b"\r\n")
BODY = b"A  line \r\n.dots\r\n\r\n\r\n"
RULES = """\
accept  to @example.com
reject  when dmarc reject 550 5.7.1 "DMARC says no"
defer   when dkim temperror
discard to news@example.com when size > 20kB
hold    to held@example.com when field Subject "spaces" and dkim pass @author.example
header  add X-Unsigned "yes" when dkim none
expect  to info@example.com when dmarc reject -> reject 550
"""
ZONE = """\
author.example. TXT "v=spf1 ip4:192.0.2.0/24 -all"
_dmarc.author.example. TXT "v=DMARC1; p=reject"
"""
GOOD, BAD = "192.0.2.7", "203.0.113.6"


class Content(Names):
    def setUp(self) -> None:
        super().setUp()
        if dkim is None:
            raise unittest.SkipTest("dkimpy (pip install dkimpy, apt-get install python3-dkim)")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.rsa = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        text = b"".join(public.splitlines()[1:-1]).decode()
        self.key_record = f"v=DKIM1; k=rsa; p={text}"
        halves = f'"{self.key_record[:200]}" "{self.key_record[200:]}"'
        self.records = f"{ZONE}sel._domainkey.author.example. TXT {halves}\n"

    def signed(self, body: bytes = BODY) -> bytes:
        content = HEADER + body
        field = bytes(dkim.sign(content, b"sel", b"author.example", self.rsa))
        return field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + content

    def told(
        self, relay: Relayd, content: bytes, address: str = BAD, to: str = "info@example.com"
    ) -> str:
        """The reply to the final dot."""
        with relay.session() as client:
            client.ehlo("client.example")
            client.docmd("XCLIENT", f"ADDR={address}")
            client.ehlo("client.example")
            client.mail("bounce@author.example")
            self.assertEqual(client.rcpt(to)[0], 250)
            code, text = client.data(content)
            return f"{code} {text.decode()}"

    def test_signed_mail_passes_and_forged_mail_does_not(self) -> None:
        dns = self.zone()
        for workers in (1, 2):
            relay, sink = self.gateway(dns, RULES, workers)
            signed = self.signed()
            taken = self.told(relay, signed)
            self.assertEqual(taken[:4], "250 ")
            sink.wait(1)  # another worker's may be faster
            forged = signed.replace(b"A  line", b"Another")
            self.assertEqual(self.told(relay, forged), "550 5.7.1 DMARC says no")
            self.assertEqual(self.told(relay, HEADER + BODY), "550 5.7.1 DMARC says no")
            self.assertEqual(self.told(relay, HEADER + BODY, GOOD)[:4], "250 ")
            first, second = sink.wait(2)
            results, received, rest = self.parted(first.content)
            self.assertEqual(rest, signed)
            self.assertTrue(dkim.verify(first.content, dnsfunc=self.answer))
            self.assertRegex(
                results,
                r"Authentication-Results: \S+; spf=fail smtp.mailfrom=bounce@author.example; "
                r"dkim=pass header.d=author.example header.s=sel header.a=rsa-sha256 "
                r"header.b=\S+; dmarc=pass \(p=reject\) header.from=author.example$",
            )
            self.assertIn("by ", received)
            results, _, rest = self.parted(second.content)
            self.assertIn("spf=pass", results)
            self.assertIn("dkim=none", results)
            self.assertEqual(rest, b"X-Unsigned: yes\r\n" + HEADER + BODY)
            self.kept(relay, taken.split()[-1])
            relay.stop()

    def parted(self, content: bytes) -> tuple[str, str, bytes]:
        """Authentication-Results and Received, unfolded, and what the client sent."""
        fields = re.match(rb"((?:.*\r\n)(?:[ \t].*\r\n)*)((?:.*\r\n)(?:[ \t].*\r\n)*)", content)
        assert fields is not None
        first, second = (" ".join(each.decode().split()) for each in fields.groups())
        return first, second, content[fields.end() :]

    def answer(self, name: bytes, timeout: int = 5) -> bytes:
        return self.key_record.encode()

    def kept(self, relay: Relayd, message: str) -> None:
        """What was found is told by `why`, and `replay` decides by it."""
        why = relay.ctl("why", message).stdout
        self.assertIn("fact  dmarc pass   (as stored)", why)
        self.assertIn("fact  dkim pass @author.example   (as stored)", why)
        stricter = relay.config.parent / "stricter.conf"
        text = relay.config.read_text()
        stricter.write_text(text.replace("defer   when", "reject  when dkim none\ndefer   when"))
        done = relay.ctl("replay", "--json", str(stricter), check=False)
        answer = json.loads(done.stdout)
        self.assertEqual(answer["summary"], {"refused": 1}, answer)

    def test_each_recipient_has_what_is_meant_for_it(self) -> None:
        relay, sink = self.gateway(self.zone(), RULES)
        large = self.signed(b"x" * 70 + b"\r\n" + b"y\r\n" * 10_000)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail("bounce@author.example")
            for name in ("news", "held", "info"):
                self.assertEqual(client.rcpt(f"{name}@example.com")[0], 250)
            self.assertEqual(client.data(large)[0], 250)
        (arrived,) = sink.wait(1)
        self.assertEqual(arrived.recipients, ("info@example.com",))
        held = relay.ctl("queue").stdout
        self.assertIn("450 4.7.0 Held by rule relayd.conf:14 hold to held@example.com when", held)

    def test_ed25519_and_several_signatures(self) -> None:
        key = Ed25519PrivateKey.generate()
        public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        raw = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
        self.records += (
            "ed._domainkey.author.example. TXT "
            f'"v=DKIM1; k=ed25519; p={b64encode(public).decode()}"\n'
        )
        relay, sink = self.gateway(self.zone(), RULES)
        content = self.signed()
        field: bytes = dkim.sign(
            content, b"ed", b"author.example", b64encode(raw), signature_algorithm=b"ed25519-sha256"
        )
        twice = field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + content
        self.assertEqual(self.told(relay, twice)[:4], "250 ")
        (arrived,) = sink.wait(1)
        results, _, rest = self.parted(arrived.content)
        self.assertEqual(results.count("dkim=pass"), 2, results)
        self.assertEqual(rest, twice)
