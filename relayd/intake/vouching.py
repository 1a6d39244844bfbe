"""Who vouches for one message: its DKIM signatures, verified while it arrives, and DMARC.

What its keys and its author's domains say is asked for as soon as the header section is there, side
by side with the body; what nobody answers in time is `temperror`.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from relayd.authentication.asking import Asking, RecordQuery
from relayd.authentication.dmarc import DmarcResult, evaluate, policy_names
from relayd.authentication.results import ResultsField, without_comments
from relayd.authentication.spf import SpfResult
from relayd.intake.lookups import Records, answered, at_once
from relayd.mail.address import AddressError, fold_domain, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.reactor.coroutine import promise
from relayd.rules.addrspec import addresses
from relayd.rules.conditions.signatures import ARC_WORDS, SignedResult

if TYPE_CHECKING:  # what verifies takes its time to load, and its memory
    from relayd.authentication.arc import ArcResult, ArcVerifier
    from relayd.authentication.dkim import DkimResult, DkimVerifier
    from relayd.authentication.dkimsignature import Signature

MOST_AUTHORS = 10  # domains in From that are asked about
_A_TURNS_OCTETS = 1 << 20  # that are hashed in one turn of the reactor
MOST_FROM = 16_384  # octets of From that are looked at
# what nearly every From is, so that it need not be taken apart: one address, perhaps with a name
_PLAIN = re.compile(rb'(?:(?:[A-Za-z0-9 _-]*|"[^"\\@]*" ?)<[A-Za-z0-9._+-]+@([A-Za-z0-9.-]+)>)\Z')
# where no address can be read: what somebody may take for the domain of one all the same
_DOMAIN = re.compile(r"@[ \t\r\n]*([^\s@<>()\[\]\",:;\\]+)")
_AROUND_DOT = re.compile(r"(?<![ \t\r\n])[ \t\r\n]*\.[ \t\r\n]*")
_TOO_MANY = "more authors than a message has"
_STRICT = {"pass": 0, "none": 1, "quarantine": 2, "reject": 3}
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vouched:
    """What was found out."""

    dkim: tuple[DkimResult, ...]
    dmarc: tuple[DmarcResult, ...] = ()  # for each author's domain; empty: nobody asked
    arc: ArcResult | None = None  # None: nobody asked

    @property
    def signed(self) -> tuple[SignedResult, ...]:
        """As rules look at it."""
        return tuple(SignedResult(each.result, each.domain) for each in self.dkim)

    @property
    def asks_for(self) -> str | None:
        """`pass`, or what the author's domain asks for; of several the strictest. None: unknown."""
        words = ["none"]
        for each in self.dmarc:
            if each.result == "temperror" and not (each.published and each.policy == "none"):
                return None
            words.append(each.disposition)
        return max(words[1:] or words, key=_STRICT.__getitem__)


class Vouching:
    """Of one message while it arrives."""

    def __init__(
        self,
        reactor: IReactorTime,
        records: Records,
        clock: Callable[[], float],
        patience: float,
        *,
        dmarc: bool,
        arc: bool = False,
    ) -> None:
        self._reactor = reactor
        self._records = records
        self._early: list[Deferred[object]] = []  # look-ups begun before they are needed
        self._clock = clock  # seconds since the epoch
        self._patience = patience  # seconds for each question, with all that follows from it
        self._dmarc = dmarc
        self._arc = arc
        self._chain: ArcVerifier | None = None
        self._verifier: DkimVerifier | None = None
        self._authors: tuple[str, ...] | None = ()  # None: more than anybody looks at

    @property
    def begun(self) -> bool:
        """The header section was there."""
        return self._verifier is not None

    def begin(self, section: bytes) -> None:
        """The whole header section, its empty line included."""
        from relayd.authentication.dkim import DkimVerifier

        self._verifier = DkimVerifier(section)
        self._ask_early(self._verifier.key_names)
        if self._arc:
            from relayd.authentication.arc import ArcVerifier

            self._chain = ArcVerifier(section)
            self._ask_early(self._chain.key_names)
        if self._dmarc:
            self._authors = author_domains(self._verifier.bodies(b"from"))
            for author in self._authors or ():
                self._ask_early(policy_names(author))

    def _ask_early(self, names: Iterable[str]) -> None:
        """What is answered before it is needed, the cache has then."""
        for name in names:
            if self._records.known(name, "TXT") is None:
                asked = promise(self._records.query(name, "TXT"))
                self._early.append(asked.addErrback(lambda failure: None))

    async def signatures(
        self, body: Iterable[bytes] | None, turn: Callable[[], Awaitable[None]]
    ) -> list[tuple[Signature | None, bool]]:
        """Each signature that was found, and whether it is of the body that leaves.

        `body`: another one than came; None: it is the same. Raises what `body` raises. `turn` is
        awaited now and then.
        """
        verifier = self._verifier
        assert verifier is not None
        if body is not None:
            verifier.begin_again()
            hashed = 0
            for piece in body:
                verifier.feed(piece)
                hashed += len(piece)
                if hashed >= _A_TURNS_OCTETS:
                    hashed = 0
                    await turn()
            verifier.finish()
        return [(each, verifier.signs_body(each)) for each in verifier.signatures]

    def feed(self, piece: bytes) -> None:
        """More of the body."""
        assert self._verifier is not None
        self._verifier.feed(piece)
        if self._chain is not None:
            self._chain.feed(piece)

    async def finish(self, spf: str, sender: str) -> Vouched:
        """That was all of it. `spf`: its result for the domain `sender` (folded)."""
        verifier = self._verifier
        assert verifier is not None
        verifier.finish()
        until = self._reactor.seconds() + self._patience
        found = []
        for number, verdict in enumerate(verifier.verdicts(self._clock())):
            unanswered = partial(verifier.unanswered, number)
            found.append(_whole(await self._in_time(verdict, unanswered, until)))
        dkim = tuple(found)
        passing = [each.domain for each in dkim if each.result == "pass"]
        later = [each.domain for each in dkim if each.result == "temperror" and each.domain]
        dmarc = []
        if self._authors is None:  # an eleventh is not to stand behind ten that pass
            dmarc.append(DmarcResult("permerror", "reject", why=_TOO_MANY))
        for author in self._authors or ():
            asking = evaluate(
                author,
                passing,
                sender if spf == "pass" else None,
                later_signed=later,
                later_sender=sender if spf == "temperror" else None,
            )
            dmarc.append(await self._in_time(asking, partial(_no_policy, author), until))
        chain = None
        if self._chain is not None:
            self._chain.finish()
            judging = self._chain.verdict(self._clock())
            chain = await self._in_time(judging, self._chain.unanswered, until)
        self.cancel()
        return Vouched(dkim, tuple(dmarc), chain)

    async def _in_time(self, asking: Asking[T], otherwise: Callable[[], T], until: float) -> T:
        """Its result; `otherwise` where that takes too long."""
        found = at_once(asking, self._records)
        if not isinstance(found, RecordQuery):
            return found
        coming = promise(answered(asking, self._records, found))
        coming.addTimeout(max(until - self._reactor.seconds(), 0.0), self._reactor)
        return await coming.addErrback(_late, otherwise)

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        early, self._early = self._early, []
        for each in early:
            each.cancel()


def _late(failure: Failure, otherwise: Callable[[], T]) -> T:
    failure.trap(TimeoutError)  # type: ignore[no-untyped-call]
    return otherwise()


def _no_policy(author: str) -> DmarcResult:
    return DmarcResult("temperror", author=author, why="no answer in time")


def _whole(found: DkimResult) -> DkimResult:
    """A signature that leaves out the end of the body vouches for no body (RFC 6376 8.2)."""
    if found.result == "pass" and found.partial:
        return replace(found, result="neutral", why="more body came than it signs")
    return found


def results_field(
    authserv: str, client: Client, envelope: Envelope, spf: object, vouched: Vouched | None
) -> bytes:
    """Authentication-Results (RFC 8601) for what was checked; `spf`: its result, if there is one.

    Empty: nothing was.
    """
    if spf is None and vouched is None:
        return b""
    field = ResultsField(authserv)
    if spf is not None:
        field.spf(SpfResult(str(spf)), path_text(envelope.reverse_path), client.helo)
    if vouched is not None:
        field.dkim(vouched.dkim)
        for each in vouched.dmarc:
            field.dmarc(each)
        if vouched.arc is not None and vouched.arc.result in ARC_WORDS:
            field.arc(vouched.arc)
    return bytes(field)


def author_domains(bodies: Iterable[bytes]) -> tuple[str, ...] | None:
    """The domains in From, each once, folded: one, in what is a message (RFC 5322 section 3.6).

    None: there are more than anybody looks at.
    """
    found: dict[str, None] = {}
    octets = 0
    for body in bodies:
        octets += len(body)
        if octets > MOST_FROM:
            return None
        for written in _domains(body.strip(b" \t\r\n")):
            try:
                domain = fold_domain(written.rstrip("."))
            except AddressError:
                continue
            if domain[:1] != "[":
                found[domain] = None
                if len(found) > MOST_AUTHORS:
                    return None
    return tuple(found)


def _domains(body: bytes) -> Iterator[str]:
    plain = _PLAIN.match(body)
    if plain is not None:
        yield plain[1].decode("ascii")
        return
    bare = without_comments(body.decode("utf-8", "replace"))
    some = False
    # white space may stand around the dots of a domain too (RFC 5322 section 4.4)
    for _, _, mailbox in addresses(_AROUND_DOT.sub(".", bare).encode()):
        some = True
        yield mailbox.domain
    if not some:
        for match in _DOMAIN.finditer(body.decode("utf-8", "replace")):
            yield match[1]
