"""Filters of the queue and of the ledger as SQL, in the words of each database that keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from relayd.mail.envelope import direct_queue
from relayd.spool.sqlite.rows import fold
from relayd.spool.view import FindFilter, QueueFilter

ALL = "true"  # the condition of a filter that asks for nothing

_PLACE = re.compile(r"\A\S+:[0-9]+\Z")
_RECIPIENTS = ("r.mailbox", "coalesce(r.original, '')")
_ACCEPTED = ("a.mailbox", "coalesce(a.original, '')")


class Dialect(NamedTuple):
    """What databases say differently."""

    bound: Callable[[str], str]  # a parameter, by its name
    position: str  # the function that says where in a text another one stands, from 1
    ends: Callable[[str, str], str]  # that a column, in lower case, ends with a parameter


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
        parameters["direct"] = direct_queue(wanted.destination.lower())
        parameters["hop"] = f",{wanted.destination},"
    if wanted.sender == "<>":
        terms.append("m.sender = ''")
    elif wanted.sender:
        terms.append(_match("m.sender", "sender", wanted.sender, dialect))
        parameters["sender"] = fold(wanted.sender)
    if wanted.recipient:
        terms.append(
            _either(_match(each, "recipient", wanted.recipient, dialect) for each in _RECIPIENTS)
        )
        parameters["recipient"] = fold(wanted.recipient)
    if wanted.domain:
        terms.append(_either(ends(each, bound("domain")) for each in _RECIPIENTS))
        parameters["domain"] = f"@{fold(wanted.domain)}"
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
    if wanted.recipient:
        parameters["recipient"] = fold(wanted.recipient)
        terms.append(
            _either(_address(each, "recipient", wanted.recipient, dialect) for each in _ACCEPTED)
        )
    if wanted.sender == "<>":
        terms.append("f.sender = ''")
    elif wanted.sender:
        parameters["sender"] = fold(wanted.sender)
        terms.append(_address("f.sender", "sender", wanted.sender, dialect))
    for name, compare in (("since", ">="), ("until", "<")):
        if getattr(wanted, name):
            parameters[name] = getattr(wanted, name)
            terms.append(f"f.at {compare} {dialect.bound(name)}")
    return terms, parameters


def _address(column: str, name: str, text: str, dialect: Dialect) -> str:
    """A mailbox, or all of a domain: "@example.com"."""
    if text.startswith("@"):
        return dialect.ends(column, dialect.bound(name))
    return f"lower({column}) = {dialect.bound(name)}"


def _either(terms: Iterable[str]) -> str:
    return f"({' OR '.join(terms)})"


def _match(column: str, name: str, text: str, dialect: Dialect) -> str:
    local, at, domain = text.rpartition("@")
    if at and local and domain:
        return f"lower({column}) = {dialect.bound(name)}"
    return f"{dialect.position}(lower({column}), {dialect.bound(name)}) > 0"


def rule_words(text: str) -> str:
    """What stands somewhere between blanks, where it is a place: :14 is not that of :140."""
    folded = fold(text)
    return f" {folded} " if _PLACE.search(folded) else folded
