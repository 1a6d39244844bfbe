"""DMARC (RFC 9989): does what authenticates a message belong to the author's domain, and if not,
what does that domain ask for?

The organizational domain is found by a walk up the tree of the DNS, at most eight questions; no
list of public suffixes is looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

from relayd.authentication.asking import Asking, Unanswered, ask
from relayd.authentication.taglist import tag_list
from relayd.mail.value import dataclass

_MOST_LABELS = 8  # a name with as many or more is cut to one label less in the first step up
_KNOWN = 1000  # records that are kept as read
_MOST_KEPT = 2000  # octets of one
_POLICIES = ("none", "quarantine", "reject")
_MILDER = {"reject": "quarantine", "quarantine": "none", "none": "none"}


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """What a domain publishes."""

    domain: str
    policy: str
    subdomains: str | None = None  # sp
    absent: str | None = None  # np: for subdomains that do not exist
    strict_dkim: bool = False
    strict_spf: bool = False
    suffix: str = "u"  # psd: y, n, or unknown
    testing: bool = False


@dataclass(frozen=True, slots=True)
class DmarcResult:
    """What came of it."""

    result: str  # pass, fail, none, temperror, permerror (RFC 8601 section 2.7)
    policy: str = "none"  # what the author's domain asks for, whether or not it passes
    author: str = ""  # RFC5322.From's domain
    organization: str = ""  # its organizational domain
    published: str = ""  # where the policy was found
    aligned: str = ""  # what passed: "dkim" or "spf", and its domain
    why: str = ""

    @property
    def disposition(self) -> str:
        """`pass`, or what the author's domain asks for where it does not pass."""
        return "pass" if self.result == "pass" else self.policy


def dmarc_record(domain: str, text: str) -> DmarcRecord | None:
    """Read a TXT record of `_dmarc.<domain>` (section 4.7); None: it is none."""
    return (_known_record if len(text) <= _MOST_KEPT else _record)(domain, text)


def _record(domain: str, text: str) -> DmarcRecord | None:
    if not _is_dmarc(text):
        return None
    tags = _lenient(text)
    policy = _word(tags.get("p"), _POLICIES)
    if policy is None:
        # without a valid p (or sp, np) the record counts only as one that asks for reports
        if "rua" not in tags and "p" in tags:
            return None
        policy = "none"
    return DmarcRecord(
        domain,
        policy,
        _word(tags.get("sp"), _POLICIES),
        _word(tags.get("np"), _POLICIES),
        strict_dkim=_word(tags.get("adkim"), ("r", "s")) == "s",
        strict_spf=_word(tags.get("aspf"), ("r", "s")) == "s",
        suffix=_word(tags.get("psd"), ("y", "n", "u")) or "u",
        testing=_word(tags.get("t"), ("y", "n")) == "y",
    )


def _is_dmarc(text: str) -> bool:
    """It begins with the version that this is about, whatever follows."""
    return text.partition(";")[0].replace(" ", "").replace("\t", "") == "v=DMARC1"


_known_record = lru_cache(_KNOWN)(_record)


def _lenient(text: str) -> dict[str, str]:
    """Its tags; those that break the grammar are as if they were not there."""
    tags: dict[str, str] = {}
    for part in text.split(";"):
        try:
            for name, value in tag_list(part).items():
                tags.setdefault(name.lower(), value)
        except ValueError:
            continue
    return tags


def _word(value: str | None, known: tuple[str, ...]) -> str | None:
    return value.lower() if value is not None and value.lower() in known else None


def evaluate(
    author: str,
    signed: Iterable[str],
    sender: str | None,
    *,
    later_signed: Iterable[str] = (),
    later_sender: str | None = None,
) -> Asking[DmarcResult]:
    """The result for a message whose author's domain is `author` (folded).

    `signed`: the domains of its signatures that pass. `sender`: the domain that SPF says pass for
    in MAIL (or in HELO where the reverse-path is null); None: it does not. `later_signed`,
    `later_sender`: those of whom nobody could say; where one of them would make it pass, and the
    policy is stricter than none, the result is not known now.
    """
    later = _Vouchers(tuple(dict.fromkeys(later_signed)), later_sender)
    try:
        vouchers = _Vouchers(tuple(dict.fromkeys(signed)), sender)
        return (yield from _evaluate(author, vouchers, later))
    except Unanswered:
        return DmarcResult("temperror", author=author, why="no answer for the policy")


def policy_names(author: str) -> list[str]:
    """Where its policy is looked for: all names that the walk may ask for."""
    return [f"_dmarc.{name}" for name in _names(author)]


class _Vouchers(NamedTuple):
    """Domains that vouch for a message."""

    signed: tuple[str, ...]
    sender: str | None


def _evaluate(author: str, vouchers: _Vouchers, later: _Vouchers) -> Asking[DmarcResult]:
    walked = yield from _walk(author)
    organization = _organization(author, walked)
    record = _policy(author, organization, walked)
    if record is None:
        return DmarcResult(
            "none", author=author, organization=organization, why="no policy is published"
        )
    policy = yield from _asked_for(record, author)
    result, why, aligned = "pass", "", ""
    try:
        aligned = yield from _aligned(record, author, organization, vouchers)
        if not aligned:
            result, why = "fail", "nothing that passes is of the author's domain"
            if policy != "none" and (yield from _aligned(record, author, organization, later)):
                raise Unanswered
    except Unanswered:
        result, why = "temperror", "no answer for what may be of the author's domain"
    return DmarcResult(result, policy, author, organization, record.domain, aligned, why)


def _aligned(
    record: DmarcRecord, author: str, organization: str, vouchers: _Vouchers
) -> Asking[str]:
    """One that is of the author's domain: how, and its domain; empty: there is none.

    The author's own needs no question. Where nobody says whose one of the others is, another may
    still be found. Raises Unanswered.
    """
    named = (
        ("dkim", vouchers.signed, record.strict_dkim),
        ("spf", (vouchers.sender,) if vouchers.sender else (), record.strict_spf),
    )
    for how, domains, _ in named:
        if author in domains:
            return f"{how} {author}"
    unanswered = False
    for how, domains, strict in named:
        for domain in () if strict else domains:
            try:
                if (yield from _organization_of(domain)) == organization:
                    return f"{how} {domain}"
            except Unanswered:
                unanswered = True
    if unanswered:
        raise Unanswered
    return ""


def _names(domain: str) -> Iterator[str]:
    """Where the walk asks: the domain, then up to its last label (section 4.10)."""
    yield domain
    labels = domain.split(".")
    above = labels[1:] if len(labels) < _MOST_LABELS else labels[-(_MOST_LABELS - 1) :]
    while above:
        yield ".".join(above)
        above = above[1:]


def _walk(domain: str) -> Asking[list[DmarcRecord]]:
    """The records on the way up, the lowest first; one that says where it stands ends it."""
    found: list[DmarcRecord] = []
    for name in _names(domain):
        records = yield from ask(f"_dmarc.{name}", "TXT")
        ours = [text for text in records if _is_dmarc(text)]
        record = dmarc_record(name, ours[0]) if len(ours) == 1 else None  # several are none
        if record is None:
            continue
        found.append(record)
        if record.suffix != "u":
            break
    return found


def _organization(domain: str, walked: list[DmarcRecord]) -> str:
    """The organizational domain (section 4.10.2)."""
    if not walked:
        return domain
    last = walked[-1]
    if last.suffix == "y" and last.domain != domain:
        return ".".join(domain.split(".")[-(last.domain.count(".") + 2) :])
    return last.domain


def _organization_of(domain: str) -> Asking[str]:
    return _organization(domain, (yield from _walk(domain)))


def _policy(author: str, organization: str, walked: list[DmarcRecord]) -> DmarcRecord | None:
    """The record that counts: the author's domain's own, its organization's, its suffix's."""
    by_name = {record.domain: record for record in walked}
    for name in (author, organization):
        if name in by_name:
            return by_name[name]
    return walked[-1] if walked and walked[-1].suffix == "y" else None


def _asked_for(record: DmarcRecord, author: str) -> Asking[str]:
    """What the record asks for about this domain: p, or sp and np for those below it."""
    policy = record.policy
    if record.domain != author:
        policy = record.subdomains or policy
        if record.absent is not None and not (yield from _exists(author)):
            policy = record.absent
    return _MILDER[policy] if record.testing else policy


def _exists(domain: str) -> Asking[bool]:
    """It has an address or an exchanger (section 3.2, non-existent domain)."""
    for rdtype in ("A", "AAAA", "MX"):
        if (yield from ask(domain, rdtype)):
            return True
    return False
