"""Filters of the queue and of the ledger as SQL, in the words of each database that keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from relayd.mail.address import spellings
from relayd.mail.envelope import direct_queue
from relayd.spool.sqlite.rows import fold
from relayd.spool.view import FindFilter, QueueFilter

ALL = "true"  # the condition of a filter that asks for nothing

_PLACE = re.compile(r"\A\S+:[0-9]+\Z")
_RECIPIENTS = ("r.mailbox", "coalesce(r.original, '')")
_ACCEPTED = ("a.mailbox", "coalesce(a.original, '')")


_Compare = Callable[[str, str], str]  # of a column, in lower case, with a parameter
_IS: _Compare = "lower({}) = {}".format


class Dialect(NamedTuple):
    """What databases say differently."""

    bound: Callable[[str], str]  # a parameter, by its name
    position: str  # the function that says where in a text another one stands, from 1
    ends: _Compare  # that the one ends with the other


SQLITE = Dialect(":{}".format, "instr", "substr(lower({0}), -length({1})) = {1}".format)
POSTGRESQL = Dialect("%({})s".format, "strpos", "right(lower({0}), length({1})) = {1}".format)


def condition(wanted: QueueFilter, dialect: Dialect) -> tuple[str, dict[str, Any]]:
    """A filter as SQL over `m` (message) and `r` (recipient), with its parameters."""
    bound, position, ends = dialect
    terms = [ALL]
    parameters: dict[str, Any] = {}
    if wanted.ident:
        terms.append(f"m.ident = {bound('ident')}")
        parameters["ident"] = wanted.ident
    if wanted.state is not None:
        terms.append(f"r.state = {bound('state')}")
        parameters["state"] = int(wanted.state)
    if wanted.destination:
        terms.append(
            f"(r.destination IN ({bound('destination')}, {bound('direct')})"
            f" OR {position}(r.destination, {bound('direct')} || ' ') = 1 OR"
            f" {position}(',' || replace(r.next_hop, ' ', '') || ',', {bound('hop')}) > 0)"
        )
        parameters["destination"] = wanted.destination
        parameters["direct"] = direct_queue(spellings(wanted.destination)[0])
        parameters["hop"] = f",{wanted.destination},"
    if wanted.sender == "<>":
        terms.append("m.sender = ''")
    elif wanted.sender:
        named = _named("sender", wanted.sender)
        terms.append(_either(["m.sender"], named, _match(wanted.sender, dialect), bound))
        parameters |= named
    if wanted.recipient:
        named = _named("recipient", wanted.recipient)
        terms.append(_either(_RECIPIENTS, named, _match(wanted.recipient, dialect), bound))
        parameters |= named
    if wanted.domain:
        named = _named("domain", f"@{wanted.domain}")
        terms.append(_either(_RECIPIENTS, named, ends, bound))
        parameters |= named
    if wanted.reply:
        terms.append(f"{position}(coalesce(r.reply, ''), {bound('reply')}) = 1")
        parameters["reply"] = wanted.reply
    if wanted.rule:
        said = "' ' || lower(coalesce(r.reply, '')) || ' '"
        terms.append(f"r.state = 1 AND {position}({said}, {bound('rule')}) > 0")
        parameters["rule"] = rule_words(wanted.rule)
    if wanted.received_before:
        terms.append(f"m.received < {bound('received_before')}")
        parameters["received_before"] = wanted.received_before
    return " AND ".join(terms), parameters


def found_by(wanted: FindFilter, dialect: Dialect) -> tuple[list[str], dict[str, Any]]:
    """Of a question to the ledger what columns answer, in every store: terms, and parameters.

    They are over its rows of a recipient (`a`) and of a message (`f`).
    """
    terms: list[str] = []
    parameters: dict[str, Any] = {}
    bound = dialect.bound
    if wanted.recipient:
        named = _named("recipient", wanted.recipient)
        terms.append(_either(_ACCEPTED, named, _address(wanted.recipient, dialect), bound))
        parameters |= named
    if wanted.sender == "<>":
        terms.append("f.sender = ''")
    elif wanted.sender:
        named = _named("sender", wanted.sender)
        terms.append(_either(["f.sender"], named, _address(wanted.sender, dialect), bound))
        parameters |= named
    for name, compare in (("since", ">="), ("until", "<")):
        if getattr(wanted, name):
            parameters[name] = getattr(wanted, name)
            terms.append(f"f.at {compare} {bound(name)}")
    return terms, parameters


def spelled(text: str) -> tuple[str, ...]:
    """A mailbox, or part of one, as it is compared: with its domain in each spelling."""
    local, at, domain = fold(text).rpartition("@")
    return tuple(f"{local}@{each}" for each in spellings(domain)) if at else (fold(text),)


def _named(name: str, text: str) -> dict[str, str]:
    """The parameters of a mailbox that is asked for."""
    return {f"{name}{number}": each for number, each in enumerate(spelled(text))}


def _either(
    columns: Iterable[str], named: Iterable[str], compare: _Compare, bound: Callable[[str], str]
) -> str:
    terms = [compare(column, bound(name)) for column in columns for name in named]
    return f"({' OR '.join(terms)})"


def _address(text: str, dialect: Dialect) -> _Compare:
    """A mailbox, or all of a domain: "@example.com"."""
    return dialect.ends if text.startswith("@") else _IS


def _match(text: str, dialect: Dialect) -> _Compare:
    """A whole mailbox, or any part of one."""
    local, at, domain = text.rpartition("@")
    return _IS if at and local and domain else (dialect.position + "(lower({}), {}) > 0").format


def rule_words(text: str) -> str:
    """What stands somewhere between blanks, where it is a place: :14 is not that of :140."""
    folded = fold(text)
    return f" {folded} " if _PLACE.search(folded) else folded
