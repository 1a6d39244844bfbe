"""DKIM signatures of a message, verified while it arrives (RFC 6376, RFC 8301, RFC 8463).

The header section comes first and whole, then the body in pieces; at its end each signature has
one verdict, for which its key is asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from relayd.authentication.asking import Asking, Unanswered, ask
from relayd.authentication.canonical import BodyHash, Field, fields, relaxed_field
from relayd.authentication.dkimkey import NARROWED, DkimKey, dkim_key
from relayd.authentication.dkimsignature import (
    Signature,
    SignatureError,
    domain_of,
    signature,
    signing_domain,
)
from relayd.mail.value import dataclass

MOST_SIGNATURES = 8  # of one message: those further down are older, and not looked at
_NO_ANSWER = "no answer for its key"
RESULTS = ("none", "pass", "fail", "neutral", "temperror", "permerror")


@dataclass(frozen=True, slots=True)
class DkimResult:
    """What came of one signature."""

    result: str  # one of RESULTS (RFC 8601 section 2.7.1)
    why: str = ""
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    signature: bytes = b""  # the value of b=: its first octets tell signatures apart (RFC 6008)
    partial: bool = False  # more body came than it signs
    testing: bool = False  # the domain says that it tries it out
    disputed: bool = False  # others who verify it may come to another result


class DkimVerifier:
    """All signatures of one message."""

    def __init__(self, section: bytes) -> None:
        self._fields = fields(section)
        self._signatures: list[Signature | DkimResult] = []
        self._bodies: dict[bool, BodyHash] = {}  # by whether the form is relaxed
        self._digests: dict[bool, dict[int | None, bytes]] = {}
        for field in self._fields:
            if field.name == b"dkim-signature" and len(self._signatures) < MOST_SIGNATURES:
                self._signatures.append(self._read(field))

    def _read(self, field: Field) -> Signature | DkimResult:
        try:
            found = signature(field)
        except SignatureError as error:
            return DkimResult("permerror", str(error), signing_domain(field), disputed=True)
        relaxed = found.relaxed_body
        if relaxed not in self._bodies:
            self._bodies[relaxed] = BodyHash(relaxed)
        self._bodies[relaxed].of(found.length)
        return found

    def bodies(self, name: bytes) -> Iterator[bytes]:
        """What stands behind the colon of all fields of this name (in lower case)."""
        return (field.body for field in self._fields if field.name == name)

    @property
    def key_names(self) -> list[str]:
        """Where the keys are in the DNS that its signatures need."""
        return [each.key_name for each in self._signatures if isinstance(each, Signature)]

    @property
    def signatures(self) -> list[Signature | None]:
        """What can be verified, in the order of the verdicts; None: this one cannot."""
        return [each if isinstance(each, Signature) else None for each in self._signatures]

    def signs_body(self, signed: Signature | None) -> bool:
        """Whether the body, as it was seen last, is the one that it signs."""
        if signed is None:
            return False
        return self._digests[signed.relaxed_body][signed.length] == signed.body_hash

    def begin_again(self) -> None:
        """Another body has taken the place of the one that was verified: feed it."""
        for relaxed, digests in self._digests.items():
            self._bodies[relaxed] = again = BodyHash(relaxed)
            for length in digests:
                again.of(length)

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        for body in self._bodies.values():
            body.feed(piece)

    def finish(self) -> None:
        """That was all of it."""
        self._digests = {relaxed: body.finish() for relaxed, body in self._bodies.items()}

    def verdicts(self, now: float) -> Sequence[Asking[DkimResult]]:
        """One evaluation for each signature, in their order; they may go side by side."""
        return [self._verdict(each, now) for each in self._signatures]

    def unanswered(self, number: int) -> DkimResult:
        """The verdict on the signature of this number where nobody says in time what its key is."""
        found = self._signatures[number]
        if isinstance(found, DkimResult):
            return found
        return _result("temperror", _NO_ANSWER, found)

    def _verdict(self, found: Signature | DkimResult, now: float) -> Asking[DkimResult]:
        if isinstance(found, DkimResult):
            return found
        relaxed, length = found.relaxed_body, found.length
        over = 0 if length is None else self._bodies[relaxed].octets - length
        if over < 0:
            return _disputed("it signs more body than there is", found)
        if found.expires is not None and found.expires < now:
            return _result("fail", "it has expired", found)
        if self._digests[relaxed][length] != found.body_hash:
            return _result("fail", "the body has changed", found)
        try:
            records = yield from ask(found.key_name, "TXT")
        except Unanswered:
            return _result("temperror", _NO_ANSWER, found)
        result = self._by_key(found, _key(found, records), over)
        # which of several keys is meant nobody knows (section 3.6.2.2)
        return replace(result, disputed=True) if len(records) > 1 else result

    def _by_key(self, found: Signature, key: DkimKey | DkimResult, over: int) -> DkimResult:
        """The verdict on one whose body is right, and has so many more octets than it signs."""
        if not isinstance(key, DkimKey):
            return key
        if key.kind != found.kind:
            return _result("permerror", "the key is of another kind", found)
        if key.strict and domain_of(found.identity) != found.domain:
            return _disputed("the key is not for subdomains", found)
        if not key.verifies(found.value, header_hash(self._fields, found)):
            return _result("fail", "the signature does not fit", found, key.testing)
        return _result("pass", "", found, key.testing, over > 0)


def header_hash(present: Iterable[Field], signed: Signature) -> bytes:
    """The header hash (section 3.7): the fields named, each time the next from below."""
    below: dict[bytes, list[Field]] = {}
    for field in present:
        below.setdefault(field.name, []).append(field)
    form = relaxed_field if signed.relaxed_header else bytes
    hashed = []
    for name in signed.names:
        left = below.get(name)
        if left:
            hashed.append(form(left.pop().octets) + b"\r\n")
    hashed.append(signed.itself())
    return hashlib.sha256(b"".join(hashed)).digest()


def _key(found: Signature, records: Iterable[str]) -> DkimKey | DkimResult:
    """The key, or what comes of there being none."""
    why = "there is no key"
    for text in records:
        key = dkim_key(text)
        if isinstance(key, DkimKey):
            return key
        why = key
    return _disputed(why, found) if why in NARROWED else _result("permerror", why, found)


def _disputed(why: str, found: Signature) -> DkimResult:
    return replace(_result("permerror", why, found), disputed=True)


def _result(
    result: str, why: str, found: Signature, testing: bool = False, partial: bool = False
) -> DkimResult:
    return DkimResult(
        result,
        why,
        found.domain,
        found.selector,
        found.identity,
        found.algorithm,
        found.value,
        partial,
        testing,
    )
