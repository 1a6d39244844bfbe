"""Signatures over forwarded mail: what no rule names is the same octet for octet."""

from __future__ import annotations

import re
import unittest

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.scenarios.harness import Scenario
from tests.sink import Sink

try:
    import dkim
except ImportError:
    dkim = None

# what a gateway may be tempted to touch: folding, spaces, repeated fields, case, 8-bit, dots
HEADER = b"""\
from:   "Joe,  at work"\t<joe@intern.example.com> (that is me)
To: Info <info@example.com>,
\t=?utf-8?q?B=C3=B6b?= <x@y.example>
Subject:  spaces  stay
 and so do\x20
\tfolds
X-Internal-Host: pc17
x-internal-host:pc18
Date: Sat, 22 Nov 2025 05:04:00 +0000
Message-ID: <1@intern.example.com>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit
""".replace(b"\n", b"\r\n")
BODY = b".\r\n..two\r\nna\xc3\xafve  \r\n\r\nFrom the start\r\n\r\n\r\n"
RULES = """\
next-hop sink smtp 127.0.0.1:{}
accept to @example.com
forward info@example.com -> alice@example.net
route any via sink
"""
EDITS = """\
rewrite header From @intern.example.com -> @example.com
header remove X-Internal-Host
header add X-Gateway "gw.example.com"
"""
SIGNED = (b"from", b"to", b"subject", b"date", b"message-id", b"x-internal-host")


class DkimTest(Scenario):
    def setUp(self) -> None:
        super().setUp()
        if dkim is None:
            raise unittest.SkipTest("dkimpy (pip install dkimpy, apt-get install python3-dkim)")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.secret = key.private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])

    def signed(self, canonicalization: bytes) -> bytes:
        content = HEADER + b"\r\n" + BODY
        both = (canonicalization, canonicalization)
        signature: bytes = dkim.sign(
            content, b"sel", b"intern.example.com", self.secret,
            canonicalize=both, include_headers=SIGNED,
        )  # fmt: skip
        return signature.replace(b"\n", b"\r\n").replace(b"\r\r", b"\r") + content

    def verifies(self, content: bytes) -> bool:
        return bool(dkim.verify(content, dnsfunc=lambda name, timeout=5: self.record))

    def forwarded(self, content: bytes, edits: str = "") -> bytes:
        """The content as the next hop gets it, without our trace field."""
        with Sink() as sink:
            name = f"relayd{len(list(self.folder.iterdir()))}"
            relay = self.relayd(RULES.format(sink.port) + edits, name=name)
            relay.send("joe@intern.example.com", ["info@example.com"], content,
                       mail_options=["BODY=8BITMIME"])  # fmt: skip
            (arrived,) = sink.wait(1)
            self.assertEqual(arrived.recipients, ("alice@example.net",))
            relay.stop()
        self.assertTrue(arrived.content.startswith(b"Received: "))
        return re.sub(rb"\AReceived: .*\r\n(?:[ \t].*\r\n)*", b"", arrived.content)

    def test_without_a_header_rule_every_octet_stays(self) -> None:
        for canonicalization in (b"simple", b"relaxed"):
            content = self.signed(canonicalization)
            self.assertTrue(self.verifies(content))
            came = self.forwarded(content)
            self.assertEqual(came, content)
            self.assertTrue(self.verifies(came))

    def test_with_header_rules_only_the_named_fields_differ(self) -> None:
        content = self.signed(b"simple")
        came = self.forwarded(content, EDITS)
        wanted = content.replace(b"<joe@intern.example.com> (that", b"<joe@example.com> (that")
        wanted = wanted.replace(b"X-Internal-Host: pc17\r\nx-internal-host:pc18\r\n", b"")
        wanted = b"X-Gateway: gw.example.com\r\n" + wanted
        self.assertEqual(came, wanted)
        self.assertFalse(self.verifies(came), "the signature was over what the rules changed")

    def test_a_rule_for_fields_that_are_not_signed_leaves_the_signature_good(self) -> None:
        content = self.signed(b"relaxed")
        came = self.forwarded(content, 'header add X-Gateway "gw.example.com"\n')
        self.assertEqual(came.count(b"X-Gateway"), 1)
        self.assertTrue(self.verifies(came))
