"""A DKIM-Signature field, read (RFC 6376 sections 3.5 and 6.1.1)."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode

from relayd.authentication.canonical import Field, relaxed_field
from relayd.authentication.taglist import tag_list, without_space
from relayd.mail.address import AddressError, fold_domain
from relayd.mail.value import dataclass

# the value of b=, which is empty while the field itself is hashed (section 3.7)
_SIGNATURE_VALUE = re.compile(rb"([:;][ \t\r\n]*b[ \t\r\n]*=)[^;]*")
_DIGITS = re.compile(r"[0-9]{1,12}\Z")
_MOST_DIGITS = re.compile(r"[0-9]{1,76}\Z")
ALGORITHMS = ("rsa-sha256", "ed25519-sha256")


class SignatureError(ValueError):
    """The field is not one that can be verified: `permerror`."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What a signature says of itself."""

    field: Field
    algorithm: str  # one of ALGORITHMS
    domain: str  # SDID, folded
    selector: str
    identity: str  # AUID, as it is written; else "@" and the domain
    names: tuple[bytes, ...]  # of the signed fields, lower-case, in order
    relaxed_header: bool
    relaxed_body: bool
    length: int | None  # octets of the body that are signed; None: all
    made: int | None  # seconds since the epoch
    expires: int | None
    body_hash: bytes
    value: bytes

    @property
    def kind(self) -> str:
        """Of key: rsa or ed25519."""
        return self.algorithm.partition("-")[0]

    @property
    def key_name(self) -> str:
        """Where its key is in the DNS."""
        return f"{self.selector}._domainkey.{self.domain}"

    def itself(self) -> bytes:
        """Its own field as it was signed: canonical, the value of b= empty."""
        unsigned = without_value(self.field)
        return relaxed_field(unsigned) if self.relaxed_header else unsigned


def without_value(field: Field) -> bytes:
    """Its octets, with nothing behind b=."""
    return _SIGNATURE_VALUE.sub(rb"\1", field.octets, count=1)


def signature(field: Field) -> Signature:
    """Read one. Raises SignatureError."""
    try:
        tags = tag_list(field.body.decode("utf-8"))
        return _signature(field, tags)
    except SignatureError:
        raise
    except (UnicodeDecodeError, AddressError) as error:
        raise SignatureError(f"signature: {error}") from None
    except ValueError as error:
        raise SignatureError(str(error)) from None


def signing_domain(field: Field) -> str:
    """The SDID of one that cannot be read otherwise, folded; empty: not even that."""
    try:
        return fold_domain(without_space(tag_list(field.body.decode("utf-8"))["d"]))
    except (ValueError, KeyError, AddressError):
        return ""


def message_signature(field: Field, tags: dict[str, str]) -> Signature:
    """Read an ARC-Message-Signature (RFC 8617 section 4.1.2): its i= is a number, v= is not there.

    Raises SignatureError.
    """
    if "v" in tags:
        raise SignatureError("the tag v does not belong there")
    try:
        # all that make such fields, and verify them, take another form for granted than DKIM does
        given = {"c": "relaxed/relaxed", **tags, "v": "1", "i": "@" + tags.get("d", "")}
        found = _signature(field, given)
    except SignatureError:
        raise
    except (AddressError, ValueError) as error:
        raise SignatureError(f"signature: {error}") from None
    if b"arc-seal" in found.names:
        raise SignatureError("a seal is signed")
    return found


def _signature(field: Field, tags: dict[str, str]) -> Signature:
    missing = [name for name in ("v", "a", "b", "bh", "d", "h", "s") if not tags.get(name)]
    if missing:
        raise SignatureError(f"the tag {missing[0]} is missing")
    if tags["v"] != "1":
        raise SignatureError(f"signature of version {tags['v'][:20]!r}")
    algorithm = tags["a"].lower()
    if algorithm not in ALGORITHMS:  # rsa-sha1 too: RFC 8301 section 3.1
        raise SignatureError(f"algorithm {tags['a'][:20]!r}")
    if "q" in tags and "dns/txt" not in [each.strip().lower() for each in tags["q"].split(":")]:
        raise SignatureError("its key is not in the DNS")
    header, _, body = tags.get("c", "simple").lower().partition("/")
    if {header, body or "simple"} - {"simple", "relaxed"}:
        raise SignatureError(f"canonical form {tags['c'][:20]!r}")
    names = tuple(name.strip().lower().encode() for name in tags["h"].split(":"))
    if b"from" not in names:
        raise SignatureError("From is not signed")
    domain, selector = fold_domain(without_space(tags["d"])), fold_domain(tags["s"])
    identity = without_space(tags.get("i", "@" + domain))
    if not within(domain_of(identity), domain):
        raise SignatureError(f"{identity[:80]!r} is not in {domain}")
    made, expires = _number(tags, "t"), _number(tags, "x")
    if made is not None and expires is not None and expires < made:
        raise SignatureError("it expires before it is made")
    length = tags.get("l")
    if length is not None and _MOST_DIGITS.match(length) is None:
        raise SignatureError("the tag l is no number")
    return Signature(
        field,
        algorithm,
        domain,
        selector,
        identity,
        names,
        header == "relaxed",
        body == "relaxed",
        None if length is None else int(length),
        made,
        expires,
        octets_of(tags, "bh"),
        octets_of(tags, "b"),
    )


def within(name: str, domain: str) -> bool:
    """The name is the domain, or below it."""
    return name == domain or name.endswith("." + domain)


def domain_of(identity: str) -> str:
    """The domain of an AUID, folded. Raises SignatureError."""
    _, at, domain = identity.rpartition("@")
    if not at:
        raise SignatureError("the tag i has no domain")
    return fold_domain(domain)


def _number(tags: dict[str, str], name: str) -> int | None:
    value = tags.get(name)
    if value is None:
        return None
    if _DIGITS.match(value) is None:
        raise SignatureError(f"the tag {name} is no number")
    return int(value)


def octets_of(tags: dict[str, str], name: str) -> bytes:
    """What a tag has in base64. Raises SignatureError."""
    try:
        return b64decode(without_space(tags[name]), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureError(f"the tag {name} is not base64") from None
