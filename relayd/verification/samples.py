"""All addresses that a configuration's tables speak of, to ask both sides about each."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from relayd.migrate.domains import network_of
from relayd.migrate.draft import is_mailbox
from relayd.migrate.expressions import carried
from relayd.migrate.restrictionwords import LISTS, takes_argument
from relayd.migrate.tables import PATTERNS, MapSpec, MapText, is_table, maps
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
_NO_ADDRESSES = (
    "smtp_tls_policy_maps",
    "smtp_sasl_password_maps",
    "header_checks",
    "virtual_uid_maps",
    "virtual_gid_maps",
)


def samples(work: Work) -> list[str]:
    """Every address once: whole keys and their neighbours, targets, somebody of each domain."""
    found: dict[str, None] = {}
    for address in _all(work):
        text = address.lower()
        if is_mailbox(text) and text not in found:
            found[text] = None
    delimiter = work.draft.subaddress[:1]
    if delimiter:
        for address in list(found):
            local, _, domain = address.rpartition("@")
            if delimiter not in local and not local.startswith('"'):
                found[f"{local}{delimiter}tag@{domain}"] = None
    return list(found)


def tables(work: Work) -> Iterator[tuple[str, MapText]]:
    """Every table that the configuration names, with the check or the parameter that asks it."""
    main, default = work.main, work.main["default_database_type"]
    for setting in main.given.keys() | set(ADDRESS_MAPS):
        if setting.endswith("_maps") and setting not in ("alias_maps", *_NO_ADDRESSES):
            for spec in maps(main[setting], default):
                yield setting, work.shelf.read(spec)
    mains = [main, *(main.overlaid(each.overrides) for each in work.services)]
    for its in mains:
        for setting in (*LISTS, *its.words("smtpd_restriction_classes")):
            yield from _checked(work, its.words(setting), LISTS.get(setting, ""))


def _checked(work: Work, words: Sequence[str], kind: str) -> Iterator[tuple[str, MapText]]:
    """The access maps that a list of restrictions asks."""
    default = work.main["default_database_type"]
    asked = [
        word for before, word in itertools.pairwise(["", *words]) if not takes_argument(before)
    ]
    for word, name in itertools.pairwise([*words, ""]):
        if word.startswith("check_") and word.endswith("_access") and name:
            yield word, work.shelf.read(MapSpec.parse(name, default))
        elif is_table(word) and word in asked:
            yield f"check_{kind}_access", work.shelf.read(MapSpec.parse(word, default))


def clients(work: Work) -> list[str]:
    """An address of every network that is named, and one just outside."""
    texts = [*work.trusted.entries, *work.trusted.excepted]
    for check, table in tables(work):
        if check == "check_client_access":
            texts += [row.key for row in table.rows]
            texts += [row.expression.text for row in table.patterns if table.spec.type == "cidr"]
    found: dict[str, None] = {}
    for text in texts:
        network = ipaddress.ip_network(network_of(text) or "192.0.2.1/32")
        first, last = network[0], network[-1]
        for address in (first, last):
            found[str(address)] = None
        for step, address in ((-1, first), (1, last)):
            with contextlib.suppress(ipaddress.AddressValueError, ValueError):
                found[str(address + step)] = None
    return list(found)


def words_of(work: Work, check: str) -> list[str]:
    """The keys of all maps that a check asks, for names that are no addresses."""
    found = [row.key for name, table in tables(work) if name == check for row in table.rows]
    return list(dict.fromkeys(found))


def _all(work: Work) -> Iterator[str]:
    for names in work.classes():
        for entry in names.entries:
            yield f"{SOMEBODY}@{'sub' if entry.startswith('.') else ''}{entry}"
    for check, table in tables(work):
        if check not in ("check_client_access", "check_helo_access", "check_sasl_access"):
            yield from _of_table(work, table)
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
        yield f"{SOMEBODY}@sub.{key[1:]}"
    elif "@" in key:
        yield key if not key.endswith("@") else f"{key}elsewhere.invalid"
        if not key.endswith("@"):  # its neighbours
            domain = key.rpartition("@")[2]
            yield f"{SOMEBODY}@{domain}"
            yield f"{SOMEBODY}@sub.{domain}"
        elif work.bare_domains:
            yield f"{key}{work.bare_domains[0]}"
    elif key.startswith("."):
        yield f"{SOMEBODY}@sub{key}"
    elif "." in key:
        yield f"{SOMEBODY}@{key}"
        yield f"{SOMEBODY}@sub.{key}"
        yield f"{SOMEBODY}@x{key}"
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
