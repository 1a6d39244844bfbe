"""What other languages mean by something else: `$1`, `*@example.com`, `rewrite sender any`.

It is valid here, and says what it says; but hardly what was meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from relayd.mail.address import Mailbox
from relayd.rules.check.check import word_at
from relayd.rules.conditions.mailbox import FromSender
from relayd.rules.language.model import (
    Expect,
    Forward,
    HeaderRewrite,
    Item,
    Rewrite,
    Rule,
    TableDef,
)
from relayd.rules.language.pattern import Anything, Exact, LocalPart, Null, Regex, Template, Text
from relayd.rules.language.source import Place, Problem
from relayd.rules.tables.table import ListTable, MapTable, Table, TransportTable

# a name of several labels behind an @, or at the beginning; its dots with or without a backslash
_NAME = re.compile(r"(?:@|\^)([A-Za-z0-9-]+(?:\\?\.[A-Za-z0-9-]+)+)(?![*+?{\\])")
_BARE_DOT = re.compile(r"(?<!\\)\.")
_GROUP = re.compile(r"\$(?:\{\w+\}|\(\w+\)|\d|&)")


def habits(items: Sequence[Item], tables: Mapping[str, Table]) -> list[Problem]:
    """A warning for each."""
    problems: list[Problem] = []
    reports_stay = False  # a rule before has said what becomes of the null sender
    for item in items:
        if isinstance(item, TableDef):
            problems += _of_list(item)
        elif isinstance(item, Rule) and not isinstance(item, Expect):
            problems += _of_rule(item, reports_stay=reports_stay)
            reports_stay |= isinstance(item, Rewrite) and Null() in item.patterns and not item.when
    for table in tables.values():
        problems += _of_table(table)
    return problems


def _of_rule(rule: Rule, *, reports_stay: bool) -> Iterator[Problem]:
    if isinstance(rule, Rewrite) and not reports_stay and _gives_reports_a_sender(rule):
        yield Problem(
            word_at(rule.place, "any"),
            "this gives reports, whose sender is null, a sender: those about them go in circles",
            'expected "when not sender null" behind it',
        )
    patterns: Sequence[object] = getattr(rule, "patterns", ())
    targets: Sequence[object] = ()
    if isinstance(rule, Forward):
        targets = rule.targets
    elif isinstance(rule, Rewrite | HeaderRewrite):
        targets = (rule.replacement,)
    for target in targets:
        text = target.text if isinstance(target, Template) else str(target)
        group = _GROUP.search(text)
        if group is not None and not isinstance(target, Null):
            yield _no_group(word_at(rule.place, group.group()), group.group())
    named = [*patterns, *targets, *(one for each in rule.tests for one in each.operands)]
    for one in dict.fromkeys(named):
        if isinstance(one, Exact | LocalPart) and "*" in str(one):
            plain = f"{one.local}@" if isinstance(one, LocalPart) else _plain(one.mailbox)
            place = word_at(rule.place, plain)
            if place != rule.place:  # written so, and not in quotes
                yield _no_wildcard(place, plain)
        elif isinstance(one, Text) and "*" in one.text:
            yield _no_wildcard(word_at(rule.place, one.text), one.text)
        elif isinstance(one, Regex):
            yield from _bare_dots(rule.place, one.text)


def _plain(mailbox: Mailbox) -> str:
    return f"{mailbox.local}@{mailbox.domain}"


def _gives_reports_a_sender(rule: Rewrite) -> bool:
    return (
        rule.what == "sender"
        and Anything() in rule.patterns
        and Null() not in rule.patterns
        and isinstance(rule.replacement, Exact)
        and not any(isinstance(each, FromSender) and _not_null(each) for each in rule.when)
    )


def _not_null(condition: FromSender) -> bool:
    """Whether it never holds for the null sender."""
    takes_null = bool({Null(), Anything()} & {*condition.operands})
    return takes_null == condition.negated


def _of_list(item: TableDef) -> Iterator[Problem]:
    """A table whose entries stand in the rules."""
    for text, place in zip(item.entries, item.entry_places, strict=False):
        if "*" in text and not item.file and text[0] != '"':
            yield _no_wildcard(place, text)


def _of_table(table: Table) -> Iterator[Problem]:
    if isinstance(table, ListTable):
        for key, line in table.words.items():
            if "*" in key and key[0] != '"':
                place = table.place_of(line)
                if place is not None:
                    yield _no_wildcard(place, key)
    elif isinstance(table, MapTable | TransportTable):
        for key in table.entries:
            if "*" in key[:-1]:
                place = table.place_of(_line_of(table, key))
                if place is not None and not place.source.line(place.line).startswith('"'):
                    yield _no_wildcard(place, key.removesuffix("@"))
    if isinstance(table, MapTable):
        for entry in table.entries.values():
            for value in entry.values:
                place = table.place_of(entry.line)
                if value.startswith("*@") and place is not None:
                    yield _no_wildcard(_at(place, value), value)
                group = _GROUP.search(value) if "$" in value else None
                if group is not None and place is not None:
                    yield _no_group(_at(place, group.group()), group.group())


def _line_of(table: MapTable | TransportTable, key: str) -> int:
    if isinstance(table, MapTable):
        return table.entries[key].line
    return table.entries[key][0]


def _at(place: Place, word: str) -> Place:
    """The word in the same line, or else the place."""
    at = place.source.line(place.line).find(word)
    return place if at < 0 else Place(place.source, place.line, at + 1, len(word))


def _bare_dots(place: Place, expression: str) -> Iterator[Problem]:
    """A name whose dots were hardly meant to be any letter."""
    for match in _NAME.finditer(expression):
        name = match[1]
        if _BARE_DOT.search(name) is not None:
            meant = _BARE_DOT.sub(r"\.", name)
            other = _BARE_DOT.sub("x", name).replace("\\", "")
            what = f'"{other}" fits, too: a dot of a regex is any letter, as in "{name}" here'
            yield Problem(_at(place, name), what, f'did you mean "{meant}"?')


def _no_group(place: Place, written: str) -> Problem:
    digits = re.sub(r"\D", "", written)
    hint = f'expected "\\{digits}", behind a regex' if digits else 'expected "\\1", behind a regex'
    return Problem(place, f'"{written}" is no group of a regex: it stays as it is', hint)


def _no_wildcard(place: Place, written: str) -> Problem:
    domain = written.rpartition("@")[2]
    meant = f'"@{domain}" for all mailboxes' if "@" in written else "the whole name"
    return Problem(
        place,
        f'"{written}" is one name, with an asterisk in it: there are no wildcards',
        f"expected {meant}, or quotes around it",
    )
