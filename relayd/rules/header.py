"""Header rules at work on a header section: the named fields change, every other octet is kept."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from email.header import Header

from relayd.mail.address import Mailbox
from relayd.rules.addrspec import (
    MAX_ADDRESSES,
    MAX_OCTETS,
    addresses,
    folded,
    named_addresses,
)
from relayd.rules.author import ORIGINAL, Author, reversible_from
from relayd.rules.language.model import HeaderEdit, HeaderRewrite
from relayd.rules.language.pattern import Exact, Final, Reversible
from relayd.rules.replace import replace
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Unknown

# a field of one of these names, with the lines that it is folded into
# (nothing possessive: Python before 3.11.5 gets that wrong; and there is one way only to match);
# some parsers take more than the blanks of RFC 5322 section 4.5 before the colon
_NAMED = rb"(?:^|(?<=\r\n))(%s)[ \t\v\f]*:[^\r]*(?:\r(?!\n(?![ \t]))[^\r]*)*(?:\r\n|\Z)"


_AUTHORS = {b"from", b"reply-to"}
MAX_FIELDS = 5000  # that rules name: each has its price, however small it is


class TooManyFieldsError(Exception):
    """Of the fields that rules name there are more than MAX_FIELDS.

    The mail is refused: what a rule is to remove must not get by behind a crowd of others.
    """


@dataclass(slots=True)
class _Field:
    name: bytes  # folded to lower case; empty: any number of fields that no rule names
    raw: bytes  # with every fold and the last CRLF
    ours: bool = False  # a rule has added it


def edit_header(
    ruleset: Ruleset, header_rules: tuple[int, ...], section: bytes, now: float = 0.0
) -> bytes:
    """The header section after the rules of these numbers (Destination.header_rules).

    `section` reaches up to and including the empty line. Addresses are rewritten first (of several
    rules the first that fits an address), then whole fields are added, removed and replaced, in
    the order of the rules. What is added stands in front of all that the sender wrote: behind a
    line that is no field other parsers see no header any more. Last of all an author gets a
    reversible address, which has an age: `now` is in seconds since the epoch. A table that cannot
    be read leaves an address as it is; so do those after the first MAX_ADDRESSES and those in
    fields after the first MAX_OCTETS. Raises TooManyFieldsError.
    """
    rules = [ruleset.headers.entry(number).rule for number in header_rules]
    rewrites: dict[bytes, list[HeaderRewrite]] = {}
    reversing: list[HeaderRewrite] = []
    for rule in rules:
        if not isinstance(rule, HeaderRewrite):
            continue
        if isinstance(rule.replacement, Reversible):
            reversing.append(rule)
            continue
        for name in {each.lower().encode("ascii") for each in rule.fields}:
            rewrites.setdefault(name, []).append(rule)
    edits = [rule for rule in rules if isinstance(rule, HeaderEdit)]
    names = {*rewrites, *(each.name.lower().encode() for each in edits)}
    fields, rest = _split(section, names | _AUTHORS if reversing else names)
    left = iter(range(MAX_ADDRESSES))
    octets = 0
    for field in fields:
        if field.name in rewrites and (octets := octets + len(field.raw)) <= MAX_OCTETS:
            field.raw = _rewritten(ruleset, rewrites[field.name], field.raw, left)
    for edit in edits:
        fields = _edited(edit, fields)
    if reversing:
        fields = _reversible(ruleset, reversing, fields, now)
    return b"".join(field.raw for field in fields) + rest


def _split(section: bytes, names: Set[bytes]) -> tuple[list[_Field], bytes]:
    """The fields of these names, what lies between them, and the empty line with all behind it."""
    end = 0 if section.startswith(b"\r\n") else section.find(b"\r\n\r\n") + 2
    if end == 1:  # there is no empty line
        end = len(section)
    fields: list[_Field] = []
    at = 0
    named = b"|".join(map(re.escape, sorted(names)))
    found = re.finditer(_NAMED % named, section[:end], re.IGNORECASE)
    for number, match in enumerate(found):
        if number == MAX_FIELDS:
            raise TooManyFieldsError
        if match.start() > at:
            fields.append(_Field(b"", section[at : match.start()]))
        at = match.end()
        fields.append(_Field(match.group(1).lower(), match.group()))
    if at < end:
        fields.append(_Field(b"", section[at:end]))
    return fields, section[end:]


def _rewritten(
    ruleset: Ruleset, rules: Sequence[HeaderRewrite], raw: bytes, left: Iterator[int]
) -> bytes:
    start = raw.index(b":") + 1
    body, pieces, at = raw[start:], [raw[:start]], 0
    for (local, domain, mailbox), _ in zip(addresses(body), left, strict=False):
        became = _became(ruleset, rules, mailbox)
        if became is None:
            continue
        # A-labels: the field may go to a next hop without SMTPUTF8
        new = became.ascii.encode("utf-8")
        name = new.rindex(b"@")
        # what stays the same stays as it was written, and so does what stands around the @
        if became.local != mailbox.local:
            pieces += [body[at : local[0]], new[:name]]
            at = local[1]
        if became.domain != mailbox.domain:
            pieces += [body[at : domain[0]], new[name + 1 :]]
            at = domain[1]
    if at == 0:
        return raw
    return folded(b"".join([*pieces, body[at:]]))


def _became(ruleset: Ruleset, rules: Sequence[HeaderRewrite], mailbox: Mailbox) -> Mailbox | None:
    subject = Subject(mailbox)
    for rule in rules:
        assert not isinstance(rule.replacement, Reversible)
        targets = () if rule.replacement is None else (rule.replacement,)
        try:
            became = replace(rule.patterns, targets, subject, ruleset.tables, rule.folded_at)
        except Unknown:
            return None
        if became is not None:
            target = became.targets[0]
            return target.mailbox if isinstance(target, Final) else target
    return None


def _reversible(
    ruleset: Ruleset, rules: Sequence[HeaderRewrite], fields: list[_Field], now: float
) -> list[_Field]:
    """One From, in our domain, if a rule names one of the authors; the old ones stay as notes."""
    authors: list[Author] = []
    octets = 0
    for field in fields:
        if field.name == b"from" and (octets := octets + len(field.raw)) <= MAX_OCTETS:
            found = zip(named_addresses(_body(field)), range(MAX_ADDRESSES), strict=False)
            authors += [author for author, _ in found]
    named = any(_names(ruleset, rules, mailbox) for _, mailbox in authors)
    if ruleset.srs is None or not named:
        return fields
    new = reversible_from(authors, ruleset.srs.scheme, now)
    if new is None:
        return fields
    old = [field for field in fields if field.name == b"from"]
    answers = [field for field in fields if field.name == b"reply-to"]
    answered = any(any(addresses(_body(field))) for field in answers)
    before = sum(field.ours for field in fields)
    made = []
    if not answered:
        lists = [_list(field) for field in old if any(addresses(_body(field)))]
        made.append(_Field(b"reply-to", b"Reply-To:" + b",".join(lists)))
    made += [_Field(b"", ORIGINAL.encode() + b":" + _body(field)) for field in old]
    kept = []
    for field in fields:
        if field is old[0]:
            kept.append(_Field(b"from", new))
        elif field.name != b"from" and (answered or field.name != b"reply-to"):
            kept.append(field)
    return [*kept[:before], *(_whole(field) for field in made), *kept[before:]]


def _names(ruleset: Ruleset, rules: Sequence[HeaderRewrite], mailbox: Mailbox) -> bool:
    """Whether a rule is about this author; what a table does not say, no rule is about."""
    subject = Subject(mailbox)
    try:
        return any(
            replace(rule.patterns, (Exact(mailbox),), subject, ruleset.tables) is not None
            for rule in rules
        )
    except Unknown:
        return False


def _body(field: _Field) -> bytes:
    """All behind the colon."""
    return field.raw.partition(b":")[2]


def _list(field: _Field) -> bytes:
    """A field's body as part of a list: its last line ends where the next one goes on."""
    return _body(field).rstrip(b"\r\n")


def _whole(field: _Field) -> _Field:
    """It ends in CRLF, whatever it was made of."""
    return _Field(field.name, field.raw.rstrip(b"\r\n") + b"\r\n", ours=True)


def _edited(rule: HeaderEdit, fields: list[_Field]) -> list[_Field]:
    name = rule.name.lower().encode("ascii")
    if rule.action == "add":
        before = sum(field.ours for field in fields)
        field = _Field(name, field_of(rule.name, rule.value), ours=True)
        return [*fields[:before], field, *fields[before:]]
    kept: list[_Field] = []
    replaced = rule.action == "remove"
    for field in fields:
        if field.name != name:
            kept.append(field)
        elif not replaced:
            kept.append(_Field(name, field_of(rule.name, rule.value), field.ours))
            replaced = True
    return kept


def field_of(name: str, value: str) -> bytes:
    """A whole field, folded (RFC 5322 section 2.2.3), in encoded words where it is not ASCII."""
    charset = "us-ascii" if value.isascii() else "utf-8"
    body = Header(value, charset, header_name=name).encode(linesep="\r\n")
    return f"{name}: {body}\r\n".encode("ascii")
