"""Header rules at work on a header section: the named fields change, every other octet is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from email.header import Header

from relayd.mail.address import Mailbox
from relayd.rules.addrspec import addresses
from relayd.rules.model import HeaderEdit, HeaderRewrite
from relayd.rules.pattern import Final
from relayd.rules.replace import replace
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.table import Unknown

MAX_LINE = 998  # octets without CRLF, RFC 5322 section 2.1.1


@dataclass(slots=True)
class _Field:
    name: bytes  # folded to lower case; empty: a line that is no field
    raw: bytes  # with every fold and the last CRLF


def edit_header(ruleset: Ruleset, header_rules: tuple[int, ...], section: bytes) -> bytes:
    """The header section after the rules of these numbers (Destination.header_rules).

    `section` reaches up to and including the empty line. Addresses are rewritten first (of several
    rules the first that fits an address), then whole fields are added, removed and replaced, in
    the order of the rules. A table that cannot be read leaves an address as it is.
    """
    rules = [ruleset.headers.entries[number].rule for number in header_rules]
    fields, rest = _split(section)
    rewrites = [rule for rule in rules if isinstance(rule, HeaderRewrite)]
    if rewrites:
        for field in fields:
            named = [rule for rule in rewrites if field.name.decode("latin-1") in _names(rule)]
            if named:
                field.raw = _rewritten(ruleset, named, field.raw)
    for rule in rules:
        if isinstance(rule, HeaderEdit):
            fields = _edited(rule, fields)
    return b"".join(field.raw for field in fields) + rest


def _split(section: bytes) -> tuple[list[_Field], bytes]:
    """The fields, and the empty line with whatever follows it."""
    fields: list[_Field] = []
    at = 0
    while at < len(section):
        end = section.find(b"\r\n", at)
        end = len(section) if end < 0 else end + 2
        line = section[at:end]
        if line == b"\r\n":
            break
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1].raw += line
        else:
            name, colon, _ = line.partition(b":")
            fields.append(_Field(name.strip().lower() if colon else b"", line))
        at = end
    return fields, section[at:]


def _names(rule: HeaderRewrite) -> set[str]:
    return {name.lower() for name in rule.fields}


def _rewritten(ruleset: Ruleset, rules: Sequence[HeaderRewrite], raw: bytes) -> bytes:
    start = raw.index(b":") + 1
    body, pieces, at = raw[start:], [raw[:start]], 0
    for begin, end, mailbox in addresses(body):
        became = _became(ruleset, rules, mailbox)
        if became is not None:
            # A-labels: the field may go to a next hop without SMTPUTF8
            pieces += [body[at:begin], became.ascii.encode("utf-8")]
            at = end
    if at == 0:
        return raw
    new = b"".join([*pieces, body[at:]])
    if any(len(line) > MAX_LINE for line in new.split(b"\r\n")):
        new = new.replace(b", ", b",\r\n ")
    return new


def _became(ruleset: Ruleset, rules: Sequence[HeaderRewrite], mailbox: Mailbox) -> Mailbox | None:
    subject = Subject(mailbox)
    for rule in rules:
        targets = () if rule.replacement is None else (rule.replacement,)
        try:
            became = replace(rule.patterns, targets, subject, ruleset.tables, rule.folded_at)
        except Unknown:
            return None
        if became is not None:
            target = became.targets[0]
            return target.mailbox if isinstance(target, Final) else target
    return None


def _edited(rule: HeaderEdit, fields: list[_Field]) -> list[_Field]:
    name = rule.name.lower().encode("ascii")
    if rule.action == "add":
        if fields and not fields[-1].raw.endswith(b"\r\n"):
            fields[-1].raw += b"\r\n"
        return [*fields, _Field(name, field_of(rule.name, rule.value))]
    kept: list[_Field] = []
    replaced = rule.action == "remove"
    for field in fields:
        if field.name != name:
            kept.append(field)
        elif not replaced:
            kept.append(_Field(name, field_of(rule.name, rule.value)))
            replaced = True
    return kept


def field_of(name: str, value: str) -> bytes:
    """A whole field, folded (RFC 5322 section 2.2.3), in encoded words where it is not ASCII."""
    charset = "us-ascii" if value.isascii() else "utf-8"
    body = Header(value, charset, header_name=name).encode(linesep="\r\n")
    return f"{name}: {body}\r\n".encode("ascii")
