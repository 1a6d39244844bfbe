"""What receivers will make of each copy of one message, foreseen before it is sent.

What they will see is known: which signatures have passed here, which octets of them we change, by
whose name and from which address the copy leaves, and what the DNS says of all that today.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.authentication.asking import Asking, RecordQuery, Unanswered, ask
from relayd.authentication.dmarc import DmarcResult, evaluate
from relayd.authentication.spf import check_host, spf_client
from relayd.intake.lookups import Records, answered, at_once
from relayd.intake.vouching import Vouched, author_domains
from relayd.mail.address import AddressError, fold_domain, path_text
from relayd.mail.pacing import SourceAddress
from relayd.reactor.coroutine import promise
from relayd.rules.header import TooManyFieldsError
from relayd.rules.leaving import AT_RISK, FAILS, PASS, UNFORETOLD, CopyAnswer, Forecast, LeavingCopy
from relayd.rules.view import Unasked

if TYPE_CHECKING:  # what verifies takes its time to load, and its memory
    from relayd.authentication.canonical import Field
    from relayd.authentication.dkim import DkimResult
    from relayd.authentication.dkimsignature import Signature
    from relayd.authentication.dkimsigning import SigningKey

RETRIES = 5 * 86400  # seconds for which a copy may have to be sent again
CLOCKS = 60  # seconds that the clock of a signer may be ahead: what receivers let pass
_PATIENCE = 20.0  # seconds for all that the DNS is asked about one copy
_STRICT = {"pass": 0, "none": 1, "quarantine": 2, "reject": 3}
Edit = Callable[[tuple[int, ...], bytes], bytes]
Keys = Callable[[], "Mapping[str, tuple[SigningKey, ...]]"]
"""The keys in force, by the names of `dkim` statements."""


class StandingSignature(NamedTuple):
    """A signature that passed here, or may yet, and that our edits leave whole."""

    domain: str
    risk: str = ""  # why not everybody will believe it


class _Left(NamedTuple):
    """What is left of the signatures in a copy."""

    whole: tuple[StandingSignature, ...]
    broken: tuple[str, ...]  # domains of those that we break
    later: tuple[str, ...]  # of those whose key nobody has told
    authors: tuple[str, ...] | None  # domains in From; None: more than anybody looks at
    froms: int  # fields From
    signable: bool  # by us
    uncounted: bool  # there are more signatures than are verified


class SendingSide(NamedTuple):
    """Ourselves, as receivers will see us."""

    hostname: str
    sources: Mapping[str, SourceAddress]
    keys: Keys


class Forecasting:
    """Of one message (relayd.rules.leaving.Foretelling)."""

    def __init__(
        self,
        reactor: IReactorTime,
        records: Records,
        gateway: SendingSide,
        now: float,
        *,
        arrived: bytes,
        section: bytes,
        above: bytes,
        signatures: Sequence[tuple[Signature | None, bool]],
        vouched: Vouched,
        edit: Edit,
    ) -> None:
        """`arrived` is the header section that was verified, `section` the one that leaves, but
        for what `edit` does; `above`: fields of ours in front of it. `signatures`: one for each of
        `vouched`, and whether the body that leaves is the one that it signs; None is not looked at.
        """
        self._reactor = reactor
        self._records = records
        self._gateway = gateway
        self._now = int(now)
        self._arrived = arrived
        self._section = section
        self._above = above
        self._signatures = signatures
        self._vouched = vouched
        self._edit = edit
        self._left: dict[tuple[tuple[int, ...], bool], _Left] = {}
        self._known: dict[tuple[object, ...], Forecast] = {}
        self._missed: tuple[tuple[object, ...], Asking[Forecast], RecordQuery] | None = None
        self._told: dict[str, bool] = {}
        self._changing: dict[int, bool] = {}  # header rules, by their number

    # relayd.rules.leaving.Foretelling

    def forecast(self, copy: LeavingCopy) -> Forecast:
        """Raises Unasked of UNFORETOLD where the DNS is to be asked first."""
        sender = None if copy.reverse_path is None else copy.reverse_path.domain_key
        key = (sender, copy.header_rules, copy.signed_by, copy.source)
        known = self._known.get(key)
        if known is not None:
            return known
        asking = self._foretold(copy)
        found = at_once(asking, self._records)
        if isinstance(found, RecordQuery):
            self._missed = key, asking, found
            raise Unasked(UNFORETOLD)
        self._known[key] = found
        return found

    def breaks(self, copy: LeavingCopy) -> bool | None:
        """The same of a copy that no rule about it has changed; it is remembered for `told`."""
        answer = self.forecast(copy).breaks
        if answer is not None:
            self._told[copy.recipient.key] = answer
        return answer

    def changing(self, copy: LeavingCopy) -> tuple[int, ...]:
        """Which of its header rules change something."""
        known = self._changing
        for rule in copy.header_rules:
            if rule not in known:
                known[rule] = self._edited((rule,)) != self._section
        return tuple(rule for rule in copy.header_rules if known[rule])

    async def look_up(self) -> None:
        """Ask for what it has missed."""
        if self._missed is None:
            return
        key, asking, query = self._missed
        self._missed = None
        coming: Deferred[Forecast] = promise(answered(asking, self._records, query))
        coming.addTimeout(_PATIENCE, self._reactor)
        late = Forecast(AT_RISK, None, "no answer of the DNS in time")
        self._known[key] = await coming.addErrback(lambda failure: late)

    @property
    def told(self) -> object:
        """What `breaks` has said: an answer for all where it is one, else for each."""
        answers = {*self._told.values()}
        if len(answers) == 1:
            return answers.pop()
        return tuple(CopyAnswer(*each) for each in sorted(self._told.items()))

    # how

    def _foretold(self, copy: LeavingCopy) -> Asking[Forecast]:
        left = self._left_of(copy)
        if left.authors is None:
            return Forecast(FAILS, True, "From has more domains than anybody looks at")
        if not left.authors:
            return Forecast(AT_RISK, False, "From has no address")
        vouchers = list(left.whole)
        later = list(left.later)
        if left.signable:
            ours = yield from self._ours(copy)
            vouchers += ours
        host, spf, why_not = yield from self._spf(copy)
        results: list[DmarcResult] = []
        risks: list[str] = []
        for author in left.authors:
            found = yield from evaluate(
                author,
                [each.domain for each in vouchers if not each.risk],
                host if spf == "pass" else None,
                later_signed=later,
                later_sender=host if spf == "temperror" else None,
            )
            for each in vouchers if found.result == "fail" else ():
                if each.risk and not risks:
                    doubtful = yield from evaluate(author, [each.domain], None)
                    if doubtful.result == "pass":
                        found = doubtful
                        risks.append(f"signed by {each.domain}, but {each.risk}")
            results.append(found)
        worst = max(results, key=lambda each: _STRICT[each.disposition])
        unsure = next((each for each in results if each.result == "temperror"), None)
        if unsure is not None:
            breaks = None if unsure.policy != "none" or not unsure.published else False
            return Forecast(AT_RISK, breaks, f"DMARC of {unsure.author}: {unsure.why}")
        odd = worst.disposition in ("pass", "none") and (left.froms > 1 or len(left.authors) > 1)
        if odd:  # some look at the first, some at all, some refuse it for that
            return Forecast(AT_RISK, False, "From names several domains, or is there twice")
        if worst.result == "none":
            return _without_policy(worst, vouchers, host, spf)
        if worst.result != "pass":
            return self._failing(worst, left, why_not)
        if risks:
            return Forecast(AT_RISK, False, risks[0])
        how, _, domain = worst.aligned.partition(" ")
        by = f"SPF of {domain}" if how == "spf" else f"signed by {domain}"
        return Forecast(PASS, False, f"{by}, for {worst.author}")

    def _failing(self, worst: DmarcResult, left: _Left, why_not: str) -> Forecast:
        asked = f"{worst.author} asks for {worst.policy}"
        if worst.policy == "none":
            asked = f"{worst.author} asks for nothing"
        whys = [f"what we change breaks the signature of {domain}" for domain in left.broken]
        partial_ = [
            each.domain
            for each in self._vouched.dkim
            if each.result == "neutral" and each.partial and _near(each.domain, worst.author)
        ]
        disputed = [
            each.domain
            for each in self._vouched.dkim
            if each.disputed and _near(each.domain, worst.author)
        ]
        whys += [f"the signature of {domain} leaves out the end of the body" for domain in partial_]
        whys += [
            f"its signature of {each.domain} has failed: {each.why}"
            for each in self._vouched.dkim
            if each.result in ("fail", "permerror") and _near(each.domain, worst.author)
        ]
        if not whys:
            whys.append(f"no signature of {worst.author}")
        whys.append(why_not)
        strict = worst.policy != "none"
        if left.uncounted:
            whys.append("it has more signatures than are verified")
        doubts = partial_ or disputed or left.uncounted
        outcome = FAILS if strict and not doubts else AT_RISK
        return Forecast(outcome, strict, f"{asked}; {'; '.join(filter(None, whys))}")

    def _left_of(self, copy: LeavingCopy) -> _Left:
        """Which signatures the header rules leave whole."""
        signs = bool(copy.signed_by)
        key = (copy.header_rules, signs)
        known = self._left.get(key)
        if known is None:
            known = self._left[key] = self._compared(copy.header_rules, signs=signs)
        return known

    def _compared(self, header_rules: tuple[int, ...], *, signs: bool) -> _Left:
        from relayd.authentication.canonical import fields
        from relayd.authentication.dkim import MOST_SIGNATURES, header_hash

        section = self._edited(header_rules)
        # a signature may be over fields that we put in front, too: by their names, once too often
        before = self._above + (b"DKIM-Signature: ours\r\n" if signs else b"")
        arrived, leaving = fields(self._arrived), fields(before + section)
        whole: list[StandingSignature] = []
        broken: list[str] = []
        later: list[str] = []
        for (signed, body), result in zip(self._signatures, self._vouched.dkim, strict=False):
            if result.result not in ("pass", "temperror"):
                continue
            if not body or (
                signed is not None and header_hash(arrived, signed) != header_hash(leaving, signed)
            ):
                broken.append(result.domain)
            elif result.result == "temperror":
                later.append(result.domain)
            else:
                risk = self._risk(signed, result)
                whole.append(StandingSignature(result.domain, risk))
        froms = [field for field in leaving if field.name == b"from"]
        authors = author_domains(field.body for field in froms)
        return _Left(
            tuple(whole),
            tuple(dict.fromkeys(broken)),
            tuple(later),
            authors,
            len(froms),
            signs and _signable(section, leaving),
            sum(field.name == b"dkim-signature" for field in arrived) > MOST_SIGNATURES,
        )

    def _edited(self, header_rules: tuple[int, ...]) -> bytes:
        try:
            return self._edit(header_rules, self._section) if header_rules else self._section
        except TooManyFieldsError:  # it will be refused
            return self._section

    def _risk(self, signed: Signature | None, result: DkimResult) -> str:
        expires = None if signed is None else signed.expires
        if expires is not None and expires < self._now + RETRIES:
            hours = max(expires - self._now, 0) // 3600
            return f"that expires in {hours} h"
        made = None if signed is None else signed.made
        if made is not None and made > self._now + CLOCKS:
            return "that is dated in the future"
        if result.disputed:
            return "the DNS has several keys of that name"
        return "its domain says that it is only tried out" if result.testing else ""

    def _ours(self, copy: LeavingCopy) -> Asking[list[StandingSignature]]:
        """Signatures that we make, where the DNS has their keys."""
        found: list[StandingSignature] = []
        known = self._gateway.keys() if copy.signed_by else {}
        for name in copy.signed_by:
            risks = set()
            for key in known.get(name, ()):
                risks.add((yield from _published(key)))
            if risks:
                # two keys are for receivers who know only one kind of them
                domain = known[name][0].domain
                found.append(StandingSignature(domain, "" if "" in risks else sorted(risks)[0]))
        return found

    def _spf(self, copy: LeavingCopy) -> Asking[tuple[str, str, str]]:
        """The domain that the next hop asks SPF about, the result, and why it is not aligned."""
        source = self._gateway.sources.get(copy.source)
        helo = self._gateway.hostname if source is None else source.helo
        try:
            domain = (
                fold_domain(helo) if copy.reverse_path is None else copy.reverse_path.domain_key
            )
        except AddressError:
            return "", "none", ""
        addresses = [] if source is None else list(source.addresses)
        try:
            if source is None:
                addresses += yield from ask(helo, "A")
                addresses += yield from ask(helo, "AAAA")
        except Unanswered:
            return domain, "temperror", f"no answer for the address of {helo}"
        if not addresses:
            return domain, "none", f"our name {helo} has no address"
        for address in addresses:
            client = spf_client(
                str(address), path_text(copy.reverse_path), helo, self._gateway.hostname, self._now
            )
            found = yield from check_host(client)
            if found.result != "pass":
                return domain, found.result, f"SPF of {domain} says {found.result} of {address}"
        return domain, "pass", f"SPF passes for {domain}"


def _without_policy(
    found: DmarcResult, vouchers: Sequence[StandingSignature], host: str, spf: str
) -> Forecast:
    """Nothing is asked for: that somebody answers for it is what large receivers want to see."""
    none = f"{found.author} has no DMARC policy"
    sound = next((each for each in vouchers if not each.risk), None)
    if sound is not None:
        return Forecast(PASS, False, f"{none}; signed by {sound.domain}")
    if spf == "pass":
        return Forecast(PASS, False, f"{none}; SPF of {host}")
    return Forecast(AT_RISK, False, f"{none}, and nobody answers for it")


def _signable(section: bytes, leaving: Sequence[Field]) -> bool:
    """Whether our signatures come to stand there (relayd.authentication.dkimsigning)."""
    from relayd.authentication.dkimsigning import signable

    return signable(section, leaving)


def _published(key: SigningKey) -> Asking[str]:
    """Why receivers may not find the other half of a key; empty: they will."""
    from relayd.authentication.dkimkey import dkim_key, key_record

    missing = f"the DNS does not have our key {key.key_name}"
    try:
        texts = yield from ask(key.key_name, "TXT")
    except Unanswered:
        return f"no answer for our key {key.key_name}"
    if len(texts) != 1:
        return missing
    public = dkim_key(texts[0])
    if isinstance(public, str) or key_record(public.key) != key.record:
        return missing
    return ""


def _near(domain: str, author: str) -> bool:
    """Whether a signature could be meant for this author."""
    return domain == author or domain.endswith(f".{author}") or author.endswith(f".{domain}")
