"""Table files to tables: lists, aliases(5), and Postfix's virtual, canonical and transport maps."""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from relayd.mail.address import AddressError, Mailbox, check_domain, fold_domain
from relayd.rules.language.source import Complaint, Place, Problem, Source
from relayd.rules.language.words import domain_of, local_of, network_of
from relayd.rules.tables.addresslist import addresses
from relayd.rules.tables.table import ListTable, MapEntry, MapTable, Table, is_domain
from relayd.rules.tables.transport import transport_table
from relayd.rules.tables.userstable import hidden, users_table

# what needs no second look; everything else is parsed by the book
_PLAIN_MAILBOX = re.compile(r"[a-z0-9_+=\-]+(?:\.[a-z0-9_+=\-]+)*@[a-z0-9]+(?:[.\-][a-z0-9]+)*\Z")
_PLAIN_DOMAIN = re.compile(r"[a-z0-9]+(?:[.\-][a-z0-9]+)*\Z")
_PLAIN_NAME = re.compile(r"[a-z0-9_+=\-]+(?:\.[a-z0-9_+=\-]+)*\Z")
_NUMERIC = re.compile(r"[0-9.]+(?:/[0-9.]+)?\Z|[0-9a-fA-F:.\[\]]*:[0-9a-fA-F:.\[\]]*(?:/\d+)?\Z")
_COMMENT = re.compile(r"(?:^|\s)#.*")
# how Exim's redirect and others' aliases say that there is no mailbox, and what says it here
_ELSEWHERE = re.compile(r'"?(:(?:fail|blackhole|defer|unknown):|/dev/null\b)', re.IGNORECASE)
_HERE = {
    ":fail:": 'reject to {} 550 5.1.1 "No such user"',
    ":unknown:": 'reject to {} 550 5.1.1 "No such user"',
    ":defer:": 'reject to {} 451 4.2.1 "Not now"',
    ":blackhole:": "discard to {}",
    "/dev/null": "discard to {}",
}
MAX_INCLUDED = 8  # :include: files inside :include: files

ReadFile = Callable[[str], Source]
"""Reads a file named in a table, by its path; raises OSError or ValueError (not allowed)."""


@dataclass
class Reading:
    """One table being read: where complaints go, and how further files are reached."""

    source: Source
    problems: list[Problem]
    include: ReadFile | None = None
    joins: bool = False  # a key with several entries has what stands behind all of them

    def place(self, line: int, text: str = "") -> Place:
        """Where `text` stands in a line, or the line's first word."""
        whole = self.source.line(line)
        at = whole.find(text) if text else len(whole) - len(whole.lstrip())
        width = len(text) or len(whole.strip())
        return Place(self.source, line, max(at, 0) + 1, max(width, 1))

    def complain(self, line: int, text: str, what: str, expected: str = "") -> None:
        """Collect a problem."""
        self.problems.append(Problem(self.place(line, text), what, expected))


def list_table(
    name: str,
    place: str,
    entries: Sequence[tuple[str, Place]],
    problems: list[Problem],
    *,
    lines: bool = False,
) -> ListTable:
    """A table from entries and where each stands."""
    table = ListTable(name, place, lines=lines)
    for text, where in entries:
        try:
            _add(table, text, where, where.line)
        except Complaint as complaint:
            problems.append(complaint.problem)
    table.digest = _digest(text for text, _ in entries)
    return table


def read_table(
    name: str, kind: str, source: Source, problems: list[Problem], include: ReadFile | None = None
) -> Table:
    """The table that a file makes; complaints are collected."""
    reading = Reading(source, problems, include)
    table = READERS[kind](name, reading)
    table.digest = _digest(source.lines)
    table.source = hidden(source) if kind == "users" else source
    return table


def _digest(lines: Iterator[str] | Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _read_list(name: str, reading: Reading) -> ListTable:
    table = ListTable(name, reading.source.name, lines=True)
    for number, line in enumerate(reading.source.lines, 1):
        text = (_COMMENT.sub("", line) if "#" in line else line).strip()
        if not text:
            continue
        if _PLAIN_MAILBOX.match(text):  # the common case of long lists
            table.probes.setdefault(text, number)
            table.words.setdefault(text, number)
            continue
        try:
            if len(text.split()) > 1 and not text.startswith('"'):
                raise Complaint(
                    reading.place(number, text.split()[1]),
                    f'unexpected "{text.split()[1]}"',
                    "expected one entry a line",
                )
            _add(table, text, reading.place(number, text), number)
        except Complaint as complaint:
            reading.problems.append(complaint.problem)
    return table


_FINGERPRINT = re.compile(r"[0-9A-Fa-f]{64}\Z")  # of a client certificate: too long for a domain


def _add(table: ListTable, text: str, place: Place, line: int) -> None:
    """Understand one entry: a mailbox pattern, a network, a sub-domain mark or a domain."""
    if _FINGERPRINT.match(text):
        pass
    elif "@" in text:
        table.probes.setdefault(_probe(text, place), line)
    elif _NUMERIC.match(text):
        table.networks.add(network_of(text, place), line)
    elif text.startswith("."):
        table.probes.setdefault("@." + fold_domain(domain_of(text[1:], place)), line)
    else:
        table.probes.setdefault("@" + fold_domain(domain_of(text, place)), line)
    table.words.setdefault(text.lower(), line)


def _probe(text: str, place: Place) -> str:
    if text.startswith("@."):
        return "@." + fold_domain(domain_of(text[2:], place))
    if text.startswith("@"):
        return "@" + fold_domain(domain_of(text[1:], place))
    if text.endswith("@"):
        return local_of(text[:-1], place).lower() + "@"
    try:
        return Mailbox.parse(text).key
    except AddressError as error:
        raise Complaint(
            place, f'"{text}" is no mailbox: {error}', "expected local@domain"
        ) from None


def _logical_lines(reading: Reading) -> Iterator[tuple[int, str]]:
    """Lines with what continues them (a line that begins with space), comments left out."""
    pending, start = "", 0
    for number, line in enumerate(reading.source.lines, 1):
        if not line or line[0] == "#" or line.isspace():
            continue
        if line[0] in " \t":
            stripped = line.strip()
            if stripped[0] == "#":
                continue
            if not start:
                reading.complain(
                    number,
                    "",
                    "an indented line continues an entry, but there is none before it",
                    "expected an entry at the start of the line",
                )
            pending += " " + stripped
            continue
        if start:
            yield start, pending
        pending, start = line.rstrip(), number
    if start:
        yield start, pending


def _read_aliases(name: str, reading: Reading) -> MapTable:
    table = MapTable(name, "aliases", reading.source.name)
    for number, line in _logical_lines(reading):
        key, colon, value = _alias_key(line)
        if not colon:
            reading.complain(number, "", "an alias has no colon", 'expected "name: address, ..."')
            continue
        before = len(reading.problems)
        values = tuple(_alias_values(value, number, reading, key))
        if len(reading.problems) == before:
            _put(table, key, values, number, reading)
    return table


def _alias_key(line: str) -> tuple[str, str, str]:
    if line.startswith('"'):
        match = re.match(r'("(?:[^"\\]|\\.)*"[^:\s]*)\s*(:)(.*)', line)
        return (match.group(1), ":", match.group(3)) if match else (line, "", "")
    key, colon, value = line.partition(":")
    return key.rstrip(), colon, value


def _alias_values(
    value: str, line: int, reading: Reading, key: str, depth: int = 0
) -> Iterator[str]:
    if _foreign(value, line, reading, key):
        return
    for item in addresses(value):
        bare = item.strip('"')
        if _foreign(item, line, reading, key):
            return
        if bare.startswith(("|", "/")):
            _complain_of_action(item, bare, line, reading)
        elif bare.startswith(":include:"):
            yield from _included(bare[9:].strip(' "'), line, item, reading, key, depth)
        elif _PLAIN_MAILBOX.match(item) or _good_target(item, line, reading):
            yield item


def _complain_of_action(item: str, bare: str, line: int, reading: Reading) -> None:
    what = "runs a command" if bare[0] == "|" else "writes to a file"
    reading.complain(line, item, f"this alias {what}: relayd only forwards", "expected addresses")


def _foreign(value: str, line: int, reading: Reading, key: str) -> bool:
    """Complain of what other systems write in place of addresses, and say what to write here."""
    match = _ELSEWHERE.match(value.lstrip())
    if match is None:
        return False
    word = match.group(1)
    name = key if "@" in key else f"{key}@example.com"
    # a catch-all is for what the other entries leave
    where = "behind the accepts of its mailboxes" if key[:1] == "@" else "before any accept"
    reading.complain(
        line,
        word,
        f'"{word}" is no address: what is not forwarded, a rule says',
        f"expected among the rules, {where}: {_HERE[word.lower()].format(name)}",
    )
    return True


def _included(
    path: str, line: int, item: str, reading: Reading, key: str, depth: int
) -> Iterator[str]:
    if reading.include is None:
        reading.complain(
            line,
            item,
            ":include: is not allowed in this table",
            'expected "include FOLDER" in its table statement',
        )
        return
    if depth >= MAX_INCLUDED:
        reading.complain(line, item, "too many :include: files inside each other", "a loop?")
        return
    try:
        source = reading.include(path)
    except OSError as error:
        reading.complain(
            line, item, f"cannot read {path}: {error.strerror or error}", "expected a file"
        )
        return
    except ValueError as error:
        reading.complain(line, item, str(error), "expected a text file below it")
        return
    inner = Reading(source, reading.problems, reading.include)
    for number, text in enumerate(source.lines, 1):  # each stands alone, indented or not
        text = text.strip()
        if text and text[0] != "#":
            yield from _alias_values(text, number, inner, key, depth + 1)


def _good_target(item: str, line: int, reading: Reading) -> bool:
    """Complain unless the item can stand behind a key."""
    if _PLAIN_NAME.match(item):
        return True
    name = item.removeprefix("\\")
    try:
        if name.startswith("@"):
            check_domain(name[1:])
        elif "@" in name:
            Mailbox.parse(name)
        else:
            local_of(name, reading.place(line, item))
    except AddressError as error:
        reading.complain(line, item, f'"{item}" is no address: {error}', "expected name@domain")
        return False
    except Complaint as complaint:
        reading.problems.append(complaint.problem)
        return False
    return True


def _put(table: MapTable, key: str, values: tuple[str, ...], line: int, reading: Reading) -> None:
    if not values:
        reading.complain(line, key, f'"{key}" has nothing behind it', "expected an address")
        return
    probe = key.lower()
    if not _PLAIN_MAILBOX.match(probe):
        if _PLAIN_NAME.match(probe):
            table.bare = True
            probe += "@"
        else:
            try:
                place = reading.place(line, key)
                if "@" in key:
                    probe = _probe(key, place)
                else:
                    probe = local_of(key, place).lower() + "@"
                    table.bare = True
            except Complaint as complaint:
                reading.problems.append(complaint.problem)
                return
    first = table.entries.setdefault(probe, MapEntry(line, values))
    if first.line == line:
        return
    if reading.joins:
        table.entries[probe] = MapEntry(first.line, (*dict.fromkeys(first.values + values),))
    else:
        reading.complain(
            line,
            key,
            f'"{key}" has an entry already, in line {first.line}',
            "expected one for each",
        )


def _read_postfix_map(name: str, reading: Reading, kind: str) -> MapTable:
    table = MapTable(name, kind, reading.source.name)
    for number, line in _logical_lines(reading):
        if line.startswith('"'):
            match = re.match(r'("(?:[^"\\]|\\.)*"\S*)\s*(.*)', line)
            key, value = (match.group(1), match.group(2)) if match else (line, "")
        else:
            key, value = [*line.split(None, 1), ""][:2]
        if kind == "virtual" and _declares_domain(key, value):
            table.domains.setdefault(fold_domain(key), number)
            continue
        before = len(reading.problems)
        values = tuple(_map_values(value, number, reading, key))
        if len(reading.problems) > before:
            continue
        if kind == "canonical" and len(values) > 1:
            reading.complain(number, value, "an address becomes one other", "expected one address")
        _put(table, key, values, number, reading)
    return table


def _declares_domain(key: str, value: str) -> bool:
    """`example.com anything`: virtual(5)'s way to say that a domain is ours."""
    if "@" in key or "@" in value or "," in value or "." not in key or not is_domain(key):
        return False
    return len(value.split()) == 1


def _map_values(value: str, line: int, reading: Reading, key: str) -> Iterator[str]:
    if _foreign(value, line, reading, key):
        return
    for item in addresses(value, blanks=True):
        if item[0] == "#":
            reading.complain(
                line, item, "here no comment begins", "expected it on a line of its own"
            )
            return
        if "@" not in item and item.startswith(("|", "/", '"|', '"/')):
            _complain_of_action(item, item.strip('"'), line, reading)
        elif item.startswith(":include:"):
            reading.complain(
                line, item, "only aliases have :include:", "expected a table of kind aliases"
            )
        elif _PLAIN_MAILBOX.match(item) or _good_target(item, line, reading):
            yield item


def _read_virtual(name: str, reading: Reading) -> MapTable:
    return _read_postfix_map(name, reading, "virtual")


def _read_canonical(name: str, reading: Reading) -> MapTable:
    return _read_postfix_map(name, reading, "canonical")


def _read_transport(name: str, reading: Reading) -> Table:
    return transport_table(name, reading.source, reading.problems)


def _read_users(name: str, reading: Reading) -> Table:
    return users_table(name, reading.source, reading.problems)


def _read_rows(name: str, reading: Reading) -> MapTable:
    """Of a database, which has a row for each target."""
    reading.joins = True
    return _read_virtual(name, reading)


READERS: dict[str, Callable[[str, Reading], Table]] = {
    "users": _read_users,
    "list": _read_list,
    "aliases": _read_aliases,
    "virtual": _read_virtual,
    "rows": _read_rows,
    "canonical": _read_canonical,
    "transport": _read_transport,
}


def is_network(text: str) -> bool:
    """Whether the text is an IP address or network."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True
