"""All addresses that a configuration's tables speak of, to ask both sides about each."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from relayd.migrate.draft import is_mailbox
from relayd.migrate.expressions import carried
from relayd.migrate.tables import PATTERNS, MapText, maps
from relayd.migrate.work import Work
from relayd.rules.language.regex import search

from re import _constants as op  # type: ignore[attr-defined]  # isort: skip
from re import _parser  # type: ignore[attr-defined]  # isort: skip

ADDRESS_MAPS = (
    "virtual_alias_maps",
    "canonical_maps",
    "sender_canonical_maps",
    "recipient_canonical_maps",
    "transport_maps",
    "sender_dependent_relayhost_maps",
    "sender_dependent_default_transport_maps",
    "relocated_maps",
    "relay_recipient_maps",
    "virtual_mailbox_maps",
)
SOMEBODY = "somebody"


def samples(work: Work) -> list[str]:
    """Every address, each once: whole keys, targets, and somebody of each domain."""
    found: dict[str, None] = {}
    for address in _all(work):
        text = address.lower()
        if is_mailbox(text) and text not in found:
            found[text] = None
    delimiter = work.draft.subaddress[:1]
    if delimiter:
        for address in list(found):
            local, _, domain = address.rpartition("@")
            if delimiter not in local:
                found[f"{local}{delimiter}tag@{domain}"] = None
    return list(found)


def _all(work: Work) -> Iterator[str]:
    for names in work.classes():
        for entry in names.entries:
            yield f"{SOMEBODY}@{'sub' if entry.startswith('.') else ''}{entry}"
    for setting in ADDRESS_MAPS:
        for spec in maps(work.main[setting], work.main["default_database_type"]):
            yield from _of_table(work, work.shelf.read(spec))
    for setting in (
        "smtpd_sender_restrictions",
        "smtpd_recipient_restrictions",
        "smtpd_relay_restrictions",
    ):
        words = work.main.words(setting)
        for word, name in itertools.pairwise(words):
            if word in ("check_sender_access", "check_recipient_access"):
                yield from _of_table(work, work.shelf.read(maps(name)[0]))
    for spec in maps(work.main["alias_maps"], work.main["default_database_type"]):
        for row in work.shelf.read(spec, aliases=True).rows:
            for domain in work.bare_domains[:2]:
                yield f"{row.key}@{domain}"
    for domain in work.bare_domains[:2]:
        yield f"postmaster@{domain}"
    yield f"{SOMEBODY}@elsewhere.invalid"


def _of_table(work: Work, table: MapText) -> Iterator[str]:
    for row in table.rows:
        yield from _of_key(work, row.key)
        if "@" in row.value:
            yield from work.targets(row.value)[0]
    for pattern in table.patterns:
        if table.spec.type not in PATTERNS or not pattern.expression.text:
            continue
        text = carried(pattern.expression, table.spec.type).text
        made = example(text) if text else ""
        if made and search(text, made):
            yield made


def _of_key(work: Work, key: str) -> Iterator[str]:
    if key.startswith("@"):
        yield SOMEBODY + key
    elif "@" in key:
        yield key if not key.endswith("@") else f"{key}elsewhere.invalid"
    elif key.startswith("."):
        yield f"{SOMEBODY}@sub{key}"
    elif "." in key:
        yield f"{SOMEBODY}@{key}"
    elif key != "*":
        yield f"{SOMEBODY}@{key}"
        for domain in work.bare_domains[:2]:
            yield f"{key}@{domain}"


def example(text: str) -> str:
    """A text that the expression finds, or something close."""
    made = _made(list(_parser.parse(text)))
    if "@" not in made:
        return f"{made}@elsewhere.invalid"
    made = SOMEBODY + made if made.startswith("@") else made
    return made if made.rpartition("@")[2] else f"{made}elsewhere.invalid"


def _made(parsed: list[Any]) -> str:
    out = ""
    for code, value in parsed:
        if code is op.LITERAL:
            out += chr(value)
        elif code in (op.MAX_REPEAT, op.MIN_REPEAT):
            out += _made(list(value[2])) * max(value[0], 1)
        elif code is op.SUBPATTERN:
            out += _made(list(value[-1]))
        elif code is op.BRANCH:
            out += _made(list(value[1][0]))
        elif code is op.IN:
            out += next((letter for letter in "ax1-._" if _within(value, letter)), "")
        elif code in (op.ANY, op.NOT_LITERAL):
            out += "a"
    return out


def _within(members: Any, letter: str) -> bool:  # noqa: ANN401 - the parser's own tuples
    """Whether a set of letters holds this one."""
    held, negated = False, False
    for kind, value in members:
        if kind is op.NEGATE:
            negated = True
        elif kind is op.LITERAL:
            held = held or value == ord(letter)
        elif kind is op.RANGE:
            held = held or value[0] <= ord(letter) <= value[1]
        elif value in (op.CATEGORY_WORD, op.CATEGORY_DIGIT):
            held = held or (letter.isalnum() if value is op.CATEGORY_WORD else letter.isdigit())
    return held is not negated
