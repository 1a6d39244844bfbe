"""Signatures that we make: CPU, the calls of Python that each costs, and dkimpy's beside it.

    python -m tests.bench.signing [--seconds N] [--size OCTETS]

All that a signed copy costs beside what the relay does anyway: its body hashed, its header section
taken apart, one signature by each key; and a set of ARC, with the verdict on a chain of one. A key
is read once for all of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import dkim
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relayd.authentication.arc import ArcResult, ArcVerifier, sealed
from relayd.authentication.dkimsigning import (
    SigningKey,
    body_hash,
    new_private_key,
    private_key,
    signature_fields,
)
from tests.bench.vouching import HEADER, LINE, milliseconds
from tests.unit.authentication import drive

LIMITS = {"RSA 2048": 0.6, "Ed25519": 0.15}
"""Milliseconds of CPU for each, at 5 KB, on a machine that does nothing else."""
NOW = 1_750_000_000
RESULTS = b"Authentication-Results: gw.example.com; spf=none\r\n"


def calls(work: Callable[[], object]) -> int:
    """Functions of Python that it calls; those of C are not counted."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    work()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


class Copy:
    """One copy that is signed."""

    def __init__(self, size: int) -> None:
        self.section, self.body = HEADER, LINE * (size // len(LINE))
        self.pem = new_private_key(ed25519=False)
        self.rsa = SigningKey("gw.example.com", "r", private_key(self.pem))
        self.ed = SigningKey("gw.example.com", "e", private_key(new_private_key(ed25519=True)))

    def signed(self, *keys: SigningKey) -> bytes:
        """The fields in front of it."""
        return signature_fields(self.section, body_hash([self.body]), keys, NOW)

    def sealed(self) -> bytes:
        """A set of ARC."""
        body = body_hash([self.body])
        return sealed(self.section, body, [self.rsa], NOW, ArcResult("none"), RESULTS)

    def verified(self, chain: bytes) -> None:
        """... judged."""
        verifier = ArcVerifier(chain + self.section)
        verifier.feed(self.body)
        verifier.finish()
        zone = {(self.rsa.key_name, "TXT"): (self.rsa.record,)}
        assert drive(verifier.verdict(NOW), zone).result == "pass"

    def by_dkimpy(self, pem: bytes) -> None:
        """The same as our RSA signature."""
        forms = (b"relaxed", b"relaxed")
        dkim.sign(self.section + self.body, b"r", b"gw.example.com", pem, canonicalize=forms)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="of CPU for each")
    parser.add_argument("--size", type=int, default=5_000, help="octets of body")
    options = parser.parse_args(arguments)
    copy = Copy(options.size)
    chain = copy.sealed()
    pem = copy.rsa.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    print(f"{options.size} octets of body   CPU, ms   calls   at most, ms")
    slow = False
    works: tuple[tuple[str, Callable[[], object]], ...] = (
        ("RSA 2048", lambda: copy.signed(copy.rsa)),
        ("Ed25519", lambda: copy.signed(copy.ed)),
        ("both", lambda: copy.signed(copy.rsa, copy.ed)),
        ("a set of ARC", copy.sealed),
        ("a chain of one judged", lambda: copy.verified(chain)),
        ("dkimpy, RSA 2048", lambda: copy.by_dkimpy(pem)),
    )
    for name, work in works:
        took = milliseconds(work, options.seconds)
        most = LIMITS.get(name, 0.0) if options.size <= 5_000 else 0.0
        slow = slow or 0 < most < took
        print(f"{name:22} {took:10.3f} {calls(work):7} {most or '':>10}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
