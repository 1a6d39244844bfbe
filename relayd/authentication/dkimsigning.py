"""DKIM signatures that we make: relaxed/relaxed, of the whole body, by one or more keys at once.

What is signed follows RFC 6376 section 5.4.1. A field that a reader sees or that says how to read
the body is named once more than it is there (section 8.15), so that nobody can add another.
"""

from __future__ import annotations

import hashlib
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import field
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from relayd.authentication.canonical import BodyHash, Field, fields, relaxed_field
from relayd.authentication.dkimkey import MOST_BITS, key_record
from relayd.mail.value import dataclass

# what a signer should have at least (RFC 8301 section 3.2); a record of more is too long for some
LEAST_BITS = 2048
MOST_NAMES = 500  # in h=: a message with more of such fields is made to annoy
_WIDTH = 76  # columns of a line of the field
_PADDING = PKCS1v15()
_DIGEST = Prehashed(SHA256())

# once more than they are there, be it not at all
_SEALED = (
    b"from", b"reply-to", b"subject", b"to", b"cc", b"in-reply-to", b"references",
    b"content-type", b"content-transfer-encoding",
)  # fmt: skip
# so too, but only where there is one: a hop behind us may add what is missing (RFC 6409 section 8)
_SEALED_IF_PRESENT = (b"sender", b"date", b"message-id", b"mime-version")
# as often as they are there: the next forwarder or list adds its own
_AS_PRESENT = (
    b"resent-from", b"resent-sender", b"resent-to", b"resent-cc", b"resent-date",
    b"resent-message-id", b"list-id", b"list-help", b"list-unsubscribe",
    b"list-unsubscribe-post", b"list-subscribe", b"list-post", b"list-owner", b"list-archive",
)  # fmt: skip


class Hash(Protocol):
    """What hashlib gives."""

    def update(self, octets: bytes, /) -> None:
        """More of it."""

    def copy(self) -> Hash:
        """Another one that has seen the same."""

    def digest(self) -> bytes:
        """The hash of what it has seen."""


class PrivateKeyError(ValueError):
    """What a file holds is no key to sign with; `str()` shows nothing of it."""


class UnsignableError(ValueError):
    """Nobody should vouch for this message as it is (RFC 6376 section 5.3)."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One key, and where the DNS has its other half; one selector has one key (section 3.6.2.2)."""

    domain: str  # folded: SDID
    selector: str  # folded
    key: RSAPrivateKey | Ed25519PrivateKey = field(repr=False)

    @property
    def algorithm(self) -> str:
        """The tag a=."""
        return "rsa-sha256" if isinstance(self.key, RSAPrivateKey) else "ed25519-sha256"

    @property
    def key_name(self) -> str:
        """Where its other half is in the DNS."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """What is to be there."""
        return key_record(self.key.public_key())

    def sign(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 digest (RFC 8463 section 3: Ed25519 signs the digest, too)."""
        if isinstance(self.key, RSAPrivateKey):
            return self.key.sign(digest, _PADDING, _DIGEST)
        return self.key.sign(digest)


def private_key(pem: bytes) -> RSAPrivateKey | Ed25519PrivateKey:
    """The key in a PEM file; takes about 50 ms with RSA, which is checked. Raises PrivateKeyError.

    To be called once for each file.
    """
    try:
        key = load_pem_private_key(pem, None)
    except TypeError:
        raise PrivateKeyError("the key has a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise PrivateKeyError("there is no private key in it") from None
    if isinstance(key, Ed25519PrivateKey):
        return key
    if not isinstance(key, RSAPrivateKey):
        raise PrivateKeyError("the key is neither RSA nor Ed25519")
    if not LEAST_BITS <= key.key_size <= MOST_BITS:
        raise PrivateKeyError(f"the RSA key has {key.key_size} bits, not {LEAST_BITS} or more")
    return key


def new_private_key(*, ed25519: bool) -> bytes:
    """A new key as PEM; `private_key` reads it."""
    key = Ed25519PrivateKey.generate() if ed25519 else generate_private_key(65537, LEAST_BITS)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def body_hash(pieces: Iterable[bytes]) -> bytes:
    """The hash of a body, for bh= of all signatures of it: one run over its octets."""
    body = BodyHash(relaxed=True)
    body.of(None)
    for piece in pieces:
        body.feed(piece)
    return body.finish()[None]


def signature_fields(section: bytes, body: bytes, keys: Sequence[SigningKey], now: int) -> bytes:
    """A DKIM-Signature field by each key, each with its CRLF, to stand above the section.

    `body` is the body_hash(), `now` in seconds since the epoch. Raises UnsignableError.
    """
    names, hashed = named_fields(section)
    signed = hashlib.sha256(hashed)
    return b"".join([completed(key, _field(key, names, body, now), signed) for key in keys])


def completed(key: SigningKey, unsigned: bytes, signed: Hash) -> bytes:
    """A field whose last tag is an empty b=, with its value and its CRLF.

    `signed` is the hash of all that stands before the field itself.
    """
    digest = signed.copy()
    digest.update(relaxed_field(unsigned))
    value = b64encode(key.sign(digest.digest()))
    # white space in b= says nothing (section 3.5), and it is empty while it is hashed
    lines = [value[at : at + _WIDTH - 1] for at in range(0, len(value), _WIDTH - 1)]
    return unsigned + b"\r\n " + b"\r\n ".join(lines) + b"\r\n"


def named_fields(section: bytes, also: Sequence[bytes] = ()) -> tuple[list[bytes], bytes]:
    """The names for h=, and the canonical octets that they stand for.

    `also`: further names, as often as they are there. Raises UnsignableError.
    """
    present: dict[bytes, list[bytes]] = {}
    for each in fields(section):
        present.setdefault(each.name, []).append(each.octets)
    if len(present.get(b"from", ())) != 1:
        raise UnsignableError("it has not one From field")
    names: list[bytes] = []
    for name in _SEALED:
        names += [name] * (len(present.get(name, ())) + 1)
    for name in _SEALED_IF_PRESENT:
        if name in present:
            names += [name] * (len(present[name]) + 1)
    for name in (*_AS_PRESENT, *also):
        if name in present:
            names += [name] * len(present[name])
    if len(names) > MOST_NAMES:
        raise UnsignableError("it has too many header fields")
    hashed = []
    for name in Counter(names):
        # the lowest first (section 5.4.2); the one too many is of nothing
        hashed += [relaxed_field(octets) for octets in reversed(present.get(name, ()))]
    return names, b"".join([octets + b"\r\n" for octets in hashed])


def signable(section: bytes, present: Sequence[Field]) -> bool:
    """Whether `signature_fields` signs this section, of which these are the fields, or more."""
    if len(present) <= MOST_NAMES // 2:  # then there are not too many, with those of nothing
        return sum(field.name == b"from" for field in present) == 1
    try:
        named_fields(section)
    except UnsignableError:
        return False
    return True


def _field(key: SigningKey, names: Iterable[bytes], body: bytes, now: int) -> bytes:
    """The field without its value, which is to follow: b= is its last tag."""
    tags = [
        b"v=1;",
        f"a={key.algorithm};".encode(),
        b"c=relaxed/relaxed;",
        f"d={key.domain};".encode(),
        f"s={key.selector};".encode(),
        f"t={now};".encode(),
        b"h=" + b":".join(names) + b";",
        b"bh=" + b64encode(body) + b";",
        b"b=",
    ]
    return folded(b"DKIM-Signature:", tags)


def folded(line: bytes, tags: Iterable[bytes]) -> bytes:
    """A field that begins so, in lines that are short where that can be; without its CRLF."""
    lines = []
    for tag in tags:
        if len(line) + 1 + len(tag) <= _WIDTH:
            line += b" " + tag
            continue
        lines.append(line)
        line = b" " + tag
        while len(line) > _WIDTH and b":" in line[:_WIDTH]:  # h=, before a colon (section 3.5)
            at = line.rindex(b":", 0, _WIDTH)
            lines.append(line[:at])
            line = b" " + line[at:]
    return b"\r\n".join([*lines, line])
