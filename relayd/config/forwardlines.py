"""The forwards in the text of a scoped file: to be read, set and removed, one line each.

What else stands there, comments too, stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from relayd.mail.address import Mailbox
from relayd.rules.conditions.mailbox import ToRecipient
from relayd.rules.language.grammar import VERBS, read_statement
from relayd.rules.language.lexer import lex
from relayd.rules.language.model import AdmissionRule, Forward, Item
from relayd.rules.language.pattern import Exact
from relayd.rules.language.source import Complaint, Source


def forwards(text: str) -> dict[Mailbox, list[str]]:
    """What each mailbox that a `forward` names becomes; conditions are left out."""
    found: dict[str, tuple[Mailbox, list[str]]] = {}
    for _, _, item in _items(text):
        if isinstance(item, Forward) and not item.when:
            for pattern in item.patterns:
                if isinstance(pattern, Exact):
                    mailbox = pattern.mailbox
                    found.setdefault(mailbox.key, (mailbox, [*map(str, item.targets)]))
    return dict(found.values())


def with_forward(text: str, mailbox: Mailbox, targets: Sequence[Mailbox]) -> str:
    """The text in which the mailbox becomes these."""
    rule = str(Forward((Exact(mailbox),), tuple(map(Exact, targets))))
    lines = _lines(text)
    for begins, ends, item in _items(text):
        if _names(item, mailbox):
            # of a rule that is about others as well only this one is taken away: the first one wins
            until = ends if _only(item, mailbox) else begins
            return _text([*lines[:begins], rule, *lines[until:]])
    at = next((begins for begins, _, item in _items(text) if _is_wide(item)), len(lines))
    return _text([*lines[:at], rule, *lines[at:]])


def with_accept(text: str, mailbox: Mailbox) -> str:
    """The text in which the mailbox is accepted, above what is said of it."""
    rule = str(AdmissionRule("accept", (ToRecipient((Exact(mailbox),)),)))
    lines = _lines(text)
    at = next((begins for begins, _, item in _items(text) if _names(item, mailbox)), len(lines))
    return _text([*lines[:at], rule, *lines[at:]])


def without_forward(text: str, mailbox: Mailbox) -> str:
    """The text in which no line says what becomes of it, nor accepts it alone."""
    lines = _lines(text)
    for begins, ends, item in reversed([*_items(text)]):
        alone = isinstance(item, AdmissionRule) and item == AdmissionRule(
            "accept", (ToRecipient((Exact(mailbox),)),)
        )
        if alone or _only(item, mailbox):
            del lines[begins:ends]
        elif isinstance(item, Forward) and _names(item, mailbox):
            others = tuple(each for each in item.patterns if not _is(each, mailbox))
            lines[begins:ends] = [str(replace(item, patterns=others))]
    return _text(lines)


def _names(item: Item, mailbox: Mailbox) -> bool:
    return (
        isinstance(item, Forward)
        and not item.when
        and any(_is(each, mailbox) for each in item.patterns)
    )


def _is(pattern: object, mailbox: Mailbox) -> bool:
    return isinstance(pattern, Exact) and pattern.mailbox.key == mailbox.key


def _is_wide(item: Item) -> bool:
    """Whether it is about mailboxes that it does not name, so that nothing below is reached."""
    return (
        isinstance(item, Forward)
        and not item.when
        and not all(isinstance(each, Exact) for each in item.patterns)
    )


def _only(item: Item, mailbox: Mailbox) -> bool:
    return isinstance(item, Forward) and len(item.patterns) == 1 and _names(item, mailbox)


def _items(text: str) -> Iterator[tuple[int, int, Item]]:
    """The statements that can be read: the first line of each, the one behind it, and the item."""
    for statement in lex(Source.of(text, "")).statements:
        try:
            item = read_statement(statement, VERBS)
        except Complaint:
            continue
        yield statement.verb.place.line - 1, statement.tokens[-1].place.line, item


def _lines(text: str) -> list[str]:
    return text.removesuffix("\n").split("\n") if text else []


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
