"""SPF and DKIM beside others who read the same RFCs: pyspf and dkimpy, over generated cases.

`python -m tests.fuzz.authentication 10000` takes some minutes; CI takes a few hundred.
"""

from __future__ import annotations

import random
import re
import socket
import sys
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from typing import Any

import dkim
import spf  # type: ignore[import-untyped]
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from relayd.authentication.dkim import DkimVerifier
from relayd.authentication.spf import check_host, spf_client
from tests.unit.authentication import Zone, drive

NAMES = ("example.com", "a.example.com", "b.example.com", "other.test", "mail.other.test")
ADDRESSES = ("192.0.2.7", "192.0.2.200", "198.51.100.9", "203.0.113.1")
SIXES = ("2001:db8::7", "2001:db8:1::9")


class SpfCase:
    """A zone of a few names that refer to each other, and a client."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.zone: dict[tuple[str, str], tuple[Any, ...] | None] = {}
        for name in NAMES:
            if self._often(0.9):
                self.zone[name, "TXT"] = (self._record(),)
            if self._often(0.1):
                self.zone[name, "TXT"] = (*(self.zone.get((name, "TXT")) or ()), "v=spf1 ?all")
            if self._often(0.7):
                self.zone[name, "A"] = tuple(self._some(ADDRESSES))
            if self._often(0.4):
                self.zone[name, "AAAA"] = tuple(self._some(SIXES))
            if self._often(0.5):
                self.zone[name, "MX"] = tuple((10, each) for each in self._some(NAMES))
            if self._often(0.03):
                self.zone[name, self._one(("A", "MX", "TXT"))] = None
        self.address = self._one((*ADDRESSES, *SIXES))
        if self._often(0.5):
            reverse = spf_client(self.address, "", "x.test").address.reverse_pointer
            self.zone[reverse, "PTR"] = tuple(self._some(NAMES))
        self.sender = self._one(("ann@", "o.b-c@", "")) + self._one(NAMES[:3])
        if self._often(0.1):
            self.sender = ""
        self.helo = self._one(NAMES)

    def _often(self, share: float) -> bool:
        return self._random.random() < share

    def _one(self, choices: Sequence[str]) -> str:
        return self._random.choice(choices)

    def _some(self, choices: Sequence[str]) -> list[str]:
        return self._random.sample(choices, self._random.randint(1, min(3, len(choices))))

    def _record(self) -> str:
        terms = [self._term() for _ in range(self._random.randint(0, 5))]
        if self._often(0.6):
            terms.append(self._one(("-all", "~all", "?all", "all")))
        elif self._often(0.4):
            terms.append("redirect=" + self._domain())
        return " ".join(["v=spf1", *terms])

    def _term(self) -> str:
        sign = self._one(("", "", "+", "-", "~", "?"))
        kind = self._one(
            (
                "a",
                "a:",
                "mx",
                "mx:",
                "include:",
                "include:",
                "exists:",
                "ip4:",
                "ip6:",
                "ptr",
                "ptr:",
                "wrong",
                "mod=",
            )
        )
        if kind == "wrong":
            return (
                self._one(("moo", "a:/", "ip4:1.2.3", "a/33", "include", "ip6:::g", "%", "a:%{x}"))
                if self._often(0.1)
                else sign + "a"
            )
        if kind == "ip4:":
            return sign + kind + self._one(ADDRESSES) + self._one(("", "/24", "/32", "/0", "/25"))
        if kind == "ip6:":
            return sign + kind + self._one(SIXES) + self._one(("", "/32", "/128", "/0", "/48"))
        if kind == "mod=":
            return f"m{self._random.randrange(1000)}=" + self._domain()
        if kind in ("a", "mx"):
            return sign + kind + self._one(("", "/24", "//64", "/24//64"))
        if kind in ("a:", "mx:"):
            return sign + kind + self._domain() + self._one(("", "/24", "//64", "/25//48"))
        if kind == "ptr":
            return sign + kind
        return sign + kind + self._domain()

    def _domain(self) -> str:
        return self._one(
            (
                *NAMES,
                *NAMES,
                "%{d}",
                "%{o}",
                "%{h}",
                "%{d2}",
                "a.%{d2}",
                "%{l}.%{o}",
                "%{ir}.%{v}.%{d}",
                "none.test",
            )
        )

    def ours(self) -> str:
        """relayd's result."""
        client = spf_client(self.address, self.sender, self.helo)
        return drive(check_host(client), self.zone).result

    def theirs(self) -> tuple[str, str]:
        """pyspf's, and why it is so."""
        spf.DNSLookup = self._look_up
        query = spf.query(self.address, self.sender, self.helo, strict=True)
        result, _, why = query.check()
        return result, why

    def _look_up(
        self, name: str, rdtype: str, *_: object, **__: object
    ) -> Iterator[tuple[tuple[str, str], Any]]:
        records = self.zone.get((name.lower().rstrip("."), rdtype), ())
        if records is None:
            raise spf.TempError("no answer")
        for record in records:
            if rdtype == "TXT":
                yield (name, rdtype), (record.encode(),)
            elif rdtype == "AAAA":
                yield (name, rdtype), socket.inet_pton(socket.AF_INET6, record)
            else:
                yield (name, rdtype), record


RSA = generate_private_key(65537, 2048)
ED = Ed25519PrivateKey.generate()
RSA_PEM = RSA.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
ED_SEED = b64encode(ED.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption()))
KEYS: Zone = {
    ("rsa._domainkey.example.com", "TXT"): (
        "v=DKIM1; p="
        + b64encode(
            RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        ).decode(),
    ),
    ("ed._domainkey.example.com", "TXT"): (
        "v=DKIM1; k=ed25519; p="
        + b64encode(ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)).decode(),
    ),
}
BODY_PIECES = (
    b" ",
    b"\t",
    b"  ",
    b"a",
    b"b\tc ",
    b"\r\n",
    b"\r\n",
    b" \r\n",
    b".",
    b"\xc3\xa9",
    b"x" * 80,
)
HEADER = (
    b"From: a@example.com",
    b"To:\tb@example.com",
    b"Subject: x  y\t\r\n  z ",
    b"Date: now ",
    b"X-A:",
    b"x-a: two",
    b"Subject: again",
)


class DkimCase:
    """A message that dkimpy signed, and that somebody may have changed on its way."""

    def __init__(self, seed: int) -> None:
        chance = self._random = random.Random(seed)
        body = b"".join(chance.choice(BODY_PIECES) for _ in range(chance.randint(0, 30)))
        header = chance.sample(HEADER, chance.randint(3, len(HEADER)))
        if HEADER[0] not in header:
            header.append(HEADER[0])
        message = b"\r\n".join(header) + b"\r\n\r\n" + (body + b"\r\n" if body else b"")
        rsa = chance.random() < 0.25
        signed = [field.partition(b":")[0].lower() for field in header if chance.random() < 0.7]
        field = dkim.sign(
            message,
            b"rsa" if rsa else b"ed",
            b"example.com",
            RSA_PEM if rsa else ED_SEED,
            canonicalize=(
                chance.choice((b"simple", b"relaxed")),
                chance.choice((b"simple", b"relaxed")),
            ),
            signature_algorithm=b"rsa-sha256" if rsa else b"ed25519-sha256",
            include_headers=[*signed, b"from", *([b"subject"] if chance.random() < 0.3 else [])],
            length=chance.random() < 0.2,
        )
        self.message = _as_it_arrives(self._changed(field + message))

    def _changed(self, message: bytes) -> bytes:
        chance = self._random
        how = chance.random()
        if how < 0.5:
            return message
        if how < 0.8:
            at = chance.randrange(len(message))
            put = chance.choice((b" ", b"\t", b"x", b"\r\n", b";", b"="))
            return message[:at] + put + message[at + chance.randint(0, 1) :]
        return message + chance.choice((b"more\r\n", b"\r\n", b" ", b"\r\n \r\n"))

    def ours(self) -> list[bool]:
        """Whether each signature passes, the body cut anyhow."""
        header, _, body = self.message.partition(b"\r\n\r\n")
        verifier = DkimVerifier(header + b"\r\n\r\n")
        while body:
            cut = self._random.randint(1, len(body))
            verifier.feed(body[:cut])
            body = body[cut:]
        verifier.finish()
        verdicts = [drive(each, KEYS) for each in verifier.verdicts(time.time())]
        return [verdict.result == "pass" for verdict in verdicts]

    def theirs(self) -> list[bool] | None:
        """What dkimpy says; None: it reads no message here."""
        try:
            reader = dkim.DKIM(self.message)
        except (dkim.MessageFormatError, IndexError):
            return None
        count = sum(name.lower() == b"dkim-signature" for name, _ in reader.headers)
        return [self._theirs(reader, number) for number in range(count)]

    def _theirs(self, reader: Any, number: int) -> bool:  # noqa: ANN401
        try:
            return bool(reader.verify(number, dnsfunc=_key))
        except (dkim.DKIMException, ValueError, KeyError):
            return False


def _key(name: bytes, timeout: int = 5) -> bytes:  # as dkimpy calls it
    records = KEYS.get((name.decode().rstrip("."), "TXT"), ())
    return records[0].encode() if records else b""


def _as_it_arrives(message: bytes) -> bytes:
    """Lines end as a relay has them, the last one too."""
    clean = message.replace(b"\r\n", b"\n").replace(b"\r", b"").replace(b"\n", b"\r\n")
    return clean if clean.endswith(b"\r\n") else clean + b"\r\n"


# pyspf refuses a record that names itself before it looks whether it would come to that
_RECURSION = "trivial recursion"
# pyspf looks up every exchanger of an mx before it compares one, and every name of a ptr, where we
# ask for no more than decides; and a name of a ptr whose server does not answer is passed over
# (RFC 7208 section 5.5), which ends the check for pyspf
_ASKS_MORE = re.compile("Void lookup limit|no answer")
# pyspf counts a redirect as a look-up where a mechanism matches before it as well
_TOO_MANY = "Too many DNS lookups"


def _explained(case: SpfCase, why: str) -> bool:
    """What pyspf does otherwise, and why."""
    records = (found for key, found in case.zone.items() if key[1] == "TXT")
    texts = " ".join(text for found in records for text in found or ())
    several = "ptr" in texts or "mx" in texts
    return (
        _RECURSION in why
        or (several and _ASKS_MORE.search(why) is not None)
        or ("redirect=" in texts and _TOO_MANY in why)
    )


def differences(count: int, seed: int) -> Iterator[str]:
    """What others say otherwise, over so many cases of each."""
    for number in range(seed, seed + count):
        policy = SpfCase(number)
        ours, (theirs, why) = policy.ours(), policy.theirs()
        if ours != theirs and not _explained(policy, why):
            yield (
                f"SPF case {number}: {ours}, pyspf {theirs} ({why}): {policy.address} "
                f"{policy.sender!r} {policy.helo} {policy.zone}"
            )
        message = DkimCase(number)
        others = message.theirs()
        if others is not None and others != (found := message.ours()):
            yield f"DKIM case {number}: {found}, dkimpy {others}: {message.message!r}"


def main() -> int:
    """So many cases as the command line says."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    found = 0
    for text in differences(count, seed=0):
        found += 1
        print(text)
    print(f"{count} cases of each, {found} differences")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
