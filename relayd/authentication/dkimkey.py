"""Public keys as the DNS has them (RFC 6376 section 3.6.1, RFC 8463), and what they verify."""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
)

from relayd.authentication.taglist import tag_list, without_space

_KNOWN = 1000  # keys that are kept as read, so that each is read once
_MOST_KEPT = 2000  # octets of a record: 8,192 bits are 1,400
_LEAST_BITS = 1024  # RFC 8301 section 3.2
MOST_BITS = 8192  # more takes longer than a relay should let a stranger make it work
_OTHER_VERSION = "key record of another version"
_OTHER_HASH = "the key is not for sha256"
_OTHER_USE = "the key is not for mail"
NARROWED = frozenset({_OTHER_VERSION, _OTHER_HASH, _OTHER_USE})
"""Why a key is none to use that others may use all the same."""
_PADDING = PKCS1v15()
_DIGEST = Prehashed(SHA256())


@dataclass(frozen=True, slots=True)
class DkimKey:
    """One key record."""

    key: RSAPublicKey | Ed25519PublicKey
    strict: bool  # the flag `s`: who signs for a subdomain is not vouched for
    testing: bool  # the flag `y`

    @property
    def kind(self) -> str:
        """As a signature names it in front of its hash."""
        return "rsa" if isinstance(self.key, RSAPublicKey) else "ed25519"

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """The signature is of this key and of this SHA-256 digest."""
        try:
            if isinstance(self.key, RSAPublicKey):
                self.key.verify(signature, digest, _PADDING, _DIGEST)
            else:
                self.key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True


def key_record(key: RSAPublicKey | Ed25519PublicKey) -> str:
    """The record of a key, for the DNS: `dkim_key` reads it."""
    if isinstance(key, RSAPublicKey):
        kind, form = "rsa", (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    else:  # RFC 8463 section 4.2: its 32 octets, nothing around them
        kind, form = "ed25519", (Encoding.Raw, PublicFormat.Raw)
    return f"v=DKIM1; k={kind}; p={b64encode(key.public_bytes(*form)).decode()}"


def dkim_key(text: str) -> DkimKey | str:
    """Read a record: the key, or in words why it is none to use."""
    return _known_key(text) if len(text) <= _MOST_KEPT else _key_of(text)


def _key_of(text: str) -> DkimKey | str:
    try:
        tags = tag_list(text)
    except ValueError as error:
        return f"key record: {error}"
    if tags.get("v", "DKIM1") != "DKIM1" or ("v" in tags and next(iter(tags)) != "v"):
        return _OTHER_VERSION
    if "p" not in tags:
        return "key record without a key"
    if not tags["p"]:
        return "the key was revoked"
    if not _has(tags.get("h", "sha256"), "sha256"):
        return _OTHER_HASH
    if not {"*", "email"} & set(_list(tags.get("s", "*"))):
        return _OTHER_USE
    key = _public_key(tags.get("k", "rsa"), without_space(tags["p"]))
    if isinstance(key, str):
        return key
    flags = _list(tags.get("t", ""))
    return DkimKey(key, strict="s" in flags, testing="y" in flags)


_known_key = lru_cache(_KNOWN)(_key_of)


def _public_key(kind: str, encoded: str) -> RSAPublicKey | Ed25519PublicKey | str:
    try:
        octets = b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        return "the key is not base64"
    if kind == "ed25519":
        if len(octets) != 32:
            return "an Ed25519 key has 32 octets"
        return Ed25519PublicKey.from_public_bytes(octets)
    if kind != "rsa":
        return "a key of an unknown kind"
    try:
        key = load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        return "the key is no RSA key"
    if not isinstance(key, RSAPublicKey):
        return "the key is no RSA key"
    if not _LEAST_BITS <= key.key_size <= MOST_BITS:
        return f"an RSA key of {key.key_size} bits"
    return key


def _list(value: str) -> list[str]:
    return [each.strip() for each in value.split(":")]


def _has(value: str, wanted: str) -> bool:
    return wanted in _list(value)
