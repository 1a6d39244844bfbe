"""SPF, DKIM and DMARC of one message, the DNS in the cache: CPU, and dkimpy's beside it.

    python -m tests.bench.vouching [--seconds N]

What a session does for a rule that looks at `dmarc`, from the first octet of the content to the
Authentication-Results field; dkimpy verifies the same signature and nothing else.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import dkim
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from twisted.internet.task import Clock

from relayd.authentication.spf import SpfResult
from relayd.dns.answer import Answer, NxDomain
from relayd.intake.lookups import sender_policy, spf_domain
from relayd.intake.vouching import Vouching, results_field
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.reactor.coroutine import promise

SIZES = (5_000, 50_000, 1_000_000)  # octets of body
PIECE = 65_536  # octets that come at a time
SENDER = Mailbox("bounce", "mail.example.com")
CLIENT = Client("192.0.2.7", helo="mail.example.com")
HEADER = b"""\
From: Ann <ann@example.com>
To: bob@example.org
Subject: as usual
Date: Sat, 22 Nov 2025 05:04:00 +0000
Message-ID: <1@example.com>
MIME-Version: 1.0
Content-Type: text/plain

""".replace(b"\n", b"\r\n")
LINE = b"Some  text in a line of about sixty octets, with  blanks. \r\n"


class Cache:
    """A resolver that has it all."""

    def __init__(self, records: dict[tuple[str, str], str]) -> None:
        self._known: dict[tuple[str, str], Any] = {
            (name, rdtype): Answer(name, name, (text,), secure=False, ttl=3600)
            for (name, rdtype), text in records.items()
        }

    def known(self, name: str, rdtype: str) -> Any:
        found = self._known.get((name, rdtype))
        return NxDomain(name, rdtype, "there is none") if found is None else found

    async def query(self, name: str, rdtype: str) -> Answer[Any]:
        raise AssertionError("it is in the cache")


class Signed:
    """A message of this size, and what the DNS has about it."""

    def __init__(self, size: int, form: bytes) -> None:
        key = generate_private_key(65537, 2048)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.record = b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])
        content = HEADER + LINE * (size // len(LINE))
        field = bytes(
            dkim.sign(content, b"sel", b"example.com", secret, canonicalize=(b"relaxed", form))
        )
        self.content = field.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + content
        end = self.content.index(b"\r\n\r\n") + 4
        self.section, self.body = self.content[:end], self.content[end:]
        self.dns = Cache(
            {
                ("sel._domainkey.example.com", "TXT"): self.record.decode(),
                ("_dmarc.example.com", "TXT"): "v=DMARC1; p=reject",
                ("mail.example.com", "TXT"): "v=spf1 ip4:192.0.2.0/24 -all",
            }
        )

    def ours(self) -> None:
        """All that a session does."""
        result: list[bytes] = []
        promise(self._ours()).addCallback(result.append)
        assert b"dmarc=pass" in result[0], result

    async def _ours(self) -> bytes:
        envelope = Envelope(SENDER)
        spf = sender_policy(CLIENT, SENDER, "gw.example.com", 2e9, self.dns)
        if not isinstance(spf, SpfResult):
            spf = await spf
        vouching = Vouching(Clock(), self.dns, lambda: 2e9, 20.0, dmarc=True)
        vouching.begin(self.section)
        for at in range(0, len(self.body), PIECE):
            vouching.feed(self.body[at : at + PIECE])
        vouched = await vouching.finish(spf.result, spf_domain(CLIENT, envelope))
        return results_field("gw.example.com", CLIENT, envelope, spf.result, vouched)

    def dkimpys(self) -> None:
        """The signature alone."""
        assert dkim.verify(self.content, dnsfunc=lambda name, timeout=5: self.record)


def milliseconds(work: Callable[[], object], seconds: float) -> float:
    """CPU of one."""
    work()
    began, count = time.process_time(), 0
    while time.process_time() - began < seconds:
        work()
        count += 1
    return (time.process_time() - began) / count * 1000


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of CPU for each figure")
    seconds = parser.parse_args(arguments).seconds
    print("| body | canonical form | SPF, DKIM, DMARC | dkimpy, DKIM alone | ratio |")
    print("|---:|---|---:|---:|---:|")
    for size in SIZES:
        for form in (b"simple", b"relaxed"):
            signed = Signed(size, form)
            ours, theirs = (milliseconds(each, seconds) for each in (signed.ours, signed.dkimpys))
            print(
                f"| {size:,} | {form.decode()} | {ours:.3f} ms | {theirs:.3f} ms "
                f"| {theirs / ours:.1f} |"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
