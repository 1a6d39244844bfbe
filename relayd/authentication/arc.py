"""Authenticated Received Chain (RFC 8617): read, verified, and sealed once more.

What each forwarder found is handed on by a set of three fields: its results, a signature of the
message as it left, and a seal over all sets so far.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import replace

from relayd.authentication.asking import Asking, Unanswered, ask
from relayd.authentication.canonical import BodyHash, Field, fields, relaxed_field
from relayd.authentication.dkim import header_hash
from relayd.authentication.dkimkey import DkimKey, dkim_key
from relayd.authentication.dkimsignature import (
    ALGORITHMS,
    Signature,
    SignatureError,
    message_signature,
    octets_of,
    without_value,
)
from relayd.authentication.dkimsigning import SigningKey, completed, folded, named_fields
from relayd.authentication.taglist import tag_list, without_space
from relayd.mail.address import AddressError, fold_domain
from relayd.mail.value import dataclass

MOST_SETS = 50  # section 4.2.1
UNANSWERED = "temperror"  # as a result: nobody says what a key is

_RESULTS, _MESSAGE, _SEAL = (
    b"arc-authentication-results", b"arc-message-signature", b"arc-seal",
)  # fmt: skip
_NAMES = (_RESULTS, _MESSAGE, _SEAL)
_INSTANCE = re.compile(
    rb"(?:[^;]*;)*?[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*0*([0-9]{1,2})[ \t\r\n]*(?:;|\Z)"
)
_ALSO = (b"dkim-signature",)  # is signed (section 4.1.2)


@dataclass(frozen=True, slots=True)
class ArcResult:
    """What came of a chain."""

    result: str  # none, pass, fail, or UNANSWERED
    why: str = ""
    sets: int = 0  # the number of the last
    sealer: str = ""  # who made it: its domain
    over: bool = False  # somebody before us has found that it fails: nobody seals any more
    before: tuple[bytes, ...] = ()  # the fields of all sets, canonical, in the order of the seals


@dataclass(frozen=True, slots=True)
class _Seal:
    field: Field
    domain: str
    selector: str
    kind: str
    verdict: str  # cv=
    value: bytes

    @property
    def key_name(self) -> str:
        return f"{self.selector}._domainkey.{self.domain}"


class _ChainError(ValueError):
    """It fails, for this reason."""


class ArcVerifier:
    """The chain of one message: its header section first, then its body in pieces."""

    def __init__(self, section: bytes) -> None:
        self._fields = fields(section)
        self._seals: list[_Seal] = []
        self._signature: Signature | None = None
        self._body: BodyHash | None = None
        self._digest = b""
        self._found = self._read()

    @property
    def key_names(self) -> list[str]:
        """Where the keys are in the DNS that it needs."""
        signed = [self._signature.key_name] if self._signature is not None else []
        return [*signed, *(seal.key_name for seal in reversed(self._seals))]

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        if self._body is not None:
            self._body.feed(piece)

    def finish(self) -> None:
        """That was all of it."""
        if self._body is not None and self._signature is not None:
            self._digest = self._body.finish()[self._signature.length]

    def unanswered(self) -> ArcResult:
        """The verdict where nobody says in time what its keys are."""
        return self._failed(UNANSWERED, "no answer for a key")

    def verdict(self, now: float) -> Asking[ArcResult]:
        """The evaluation of section 5.2; `now` in seconds since the epoch."""
        if self._found.result != "pass":
            return self._found
        try:
            yield from self._verified(now)
        except Unanswered:
            return self.unanswered()
        except _ChainError as error:
            return self._failed("fail", str(error))
        return self._found

    def _failed(self, result: str, why: str) -> ArcResult:
        return self._found if self._found.result != "pass" else replace(
            self._found, result=result, why=why
        )  # fmt: skip

    def _read(self) -> ArcResult:
        """What can be said without any key; `pass` stands for that nothing speaks against it."""
        mine = [field for field in self._fields if field.name in _NAMES]
        if not mine:
            return ArcResult("none")
        sets: dict[int, dict[bytes, Field]] = {}
        problem = ""
        for field in mine:
            number = _instance(field)
            if not 1 <= number <= MOST_SETS:
                problem = problem or "a field has no number from 1 to 50"
                continue
            fields_of = sets.setdefault(number, {})
            if field.name in fields_of:
                problem = problem or f"i={number} has two fields of a kind"
            fields_of[field.name] = field
        last = max(sets, default=0)
        ordered = [sets.get(number, {}) for number in range(1, last + 1)]
        if not problem and not all(len(each) == len(_NAMES) for each in ordered):
            problem = "a set is not whole"
        if problem:
            return ArcResult("fail", problem, last)
        before = tuple(relaxed_field(each[name].octets) for each in ordered for name in _NAMES)
        try:
            self._seals = [_seal(each[_SEAL]) for each in ordered]
            sealer = self._seals[-1].domain
            if self._seals[-1].verdict == "fail":
                return ArcResult("fail", "it failed before us", last, sealer, True, before)
            for number, seal in enumerate(self._seals, 1):
                if seal.verdict != ("none" if number == 1 else "pass"):
                    raise SignatureError(f"i={number} says cv={seal.verdict}")
            signed = ordered[-1][_MESSAGE]
            self._signature = message_signature(signed, tag_list(signed.body.decode("utf-8")))
        except (SignatureError, ValueError) as error:
            self._seals = []
            return ArcResult("fail", str(error), last, before=before)
        self._body = BodyHash(self._signature.relaxed_body)
        self._body.of(self._signature.length)
        return ArcResult("pass", "", last, sealer, False, before)

    def _verified(self, now: float) -> Asking[None]:
        signed, body = self._signature, self._body
        assert signed is not None
        assert body is not None
        if signed.expires is not None and signed.expires < now:
            raise _ChainError("the last signature has expired")
        if signed.length is not None and signed.length != body.octets:
            raise _ChainError("the last signature is of another length")
        if self._digest != signed.body_hash:
            raise _ChainError("the body has changed")
        key = yield from _key(signed.key_name, signed.kind)
        if not key.verifies(signed.value, header_hash(self._fields, signed)):
            raise _ChainError("the last signature does not fit")
        for number, (seal, digest) in reversed([*enumerate(self._sealed(), 1)]):
            key = yield from _key(seal.key_name, seal.kind)
            if not key.verifies(seal.value, digest):
                raise _ChainError(f"the seal of i={number} does not fit")

    def _sealed(self) -> Iterable[tuple[_Seal, bytes]]:
        """Each seal, and the digest that it is over (section 5.1.1)."""
        so_far = hashlib.sha256()
        before = self._found.before
        for number, seal in enumerate(self._seals):
            results, message, whole = before[3 * number : 3 * number + 3]
            so_far.update(results + b"\r\n" + message + b"\r\n")
            digest = so_far.copy()
            digest.update(relaxed_field(without_value(seal.field)))
            yield seal, digest.digest()
            so_far.update(whole + b"\r\n")


def _instance(field: Field) -> int:
    """The number of the set that a field is of; 0: that cannot be read."""
    match = _INSTANCE.match(field.body)
    return 0 if match is None else int(match[1])


def _seal(field: Field) -> _Seal:
    """Read an ARC-Seal (section 4.1.3). Raises SignatureError, ValueError."""
    tags = tag_list(field.body.decode("utf-8"))
    missing = [name for name in ("a", "b", "cv", "d", "i", "s") if not tags.get(name)]
    if missing:
        raise SignatureError(f"the tag {missing[0]} of a seal is missing")
    if "h" in tags or "bh" in tags:
        raise SignatureError("a seal has no tag h or bh")
    algorithm = tags["a"].lower()
    if algorithm not in ALGORITHMS:
        raise SignatureError(f"algorithm {tags['a'][:20]!r}")
    try:
        domain, selector = fold_domain(without_space(tags["d"])), fold_domain(tags["s"])
    except AddressError as error:
        raise SignatureError(f"a seal: {error}") from None
    kind = algorithm.partition("-")[0]
    return _Seal(field, domain, selector, kind, tags["cv"].lower(), octets_of(tags, "b"))


def _key(name: str, kind: str) -> Asking[DkimKey]:
    """Raises _ChainError, Unanswered."""
    records = yield from ask(name, "TXT")
    why = "there is no key"
    for text in records:
        key = dkim_key(text)
        if isinstance(key, DkimKey) and key.kind == kind:
            return key
        why = key if isinstance(key, str) else "the key is of another kind"
    raise _ChainError(f"{name}: {why}")


def sealed(
    section: bytes,
    body: bytes,
    keys: Sequence[SigningKey],
    now: int,
    chain: ArcResult,
    results: bytes,
) -> bytes:
    """The three fields of one more set (section 5.1), to stand above the section.

    `body` is the body_hash(), `results` our Authentication-Results field. Empty: the chain has
    ended, or nobody knows what it is. Raises UnsignableError.
    """
    number = chain.sets + 1
    if chain.over or number > MOST_SETS or chain.result == UNANSWERED or not keys:
        return b""
    # not every verifier of chains knows Ed25519
    key = next((each for each in keys if each.algorithm.startswith("rsa")), keys[0])
    told = results.partition(b":")[2].strip(b"\r\n") or b" unknown; none"
    first = b"ARC-Authentication-Results: i=%d;" % number + told
    names, hashed = named_fields(section, _ALSO)
    ours = [b"i=%d;" % number, f"a={key.algorithm};".encode()]
    by = [f"d={key.domain};".encode(), f"s={key.selector};".encode(), b"t=%d;" % now]
    signed = [b"c=relaxed/relaxed;", *by, b"h=" + b":".join(names) + b";"]
    signed += [b"bh=" + b64encode(body) + b";", b"b="]
    message = completed(
        key, folded(b"ARC-Message-Signature:", [*ours, *signed]), hashlib.sha256(hashed)
    )
    verdict = f"cv={chain.result};".encode()
    # of a chain that fails only what is ours is sealed (section 5.1.2)
    before = () if chain.result == "fail" else chain.before
    scope = [*before, relaxed_field(first), relaxed_field(message[:-2])]
    whole = hashlib.sha256(b"".join([octets + b"\r\n" for octets in scope]))
    seal = completed(key, folded(b"ARC-Seal:", [*ours, verdict, *by, b"b="]), whole)
    return seal + message + first + b"\r\n"
