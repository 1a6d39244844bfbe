"""What a milter does to a message, as values, and how a header section comes out of it.

Numbers are Postfix's: what changes or deletes a field counts from 1 among those of its name, our
own Received not among them; what inserts counts all fields, our Received the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from relayd.mail.value import dataclass

_NAME = re.compile(r"[!-9;-~]+\Z")
_LINE_END = re.compile(r"\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class AddHeader:
    """A field at the end of the section."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class InsertHeader:
    """A field in front of the one that has this number, counted from 0; our Received is 0."""

    index: int
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ChangeHeader:
    """Another value for the field of this name and number; an empty one deletes it."""

    index: int
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class DeleteHeaders:
    """No field of this name is left, but ours."""

    name: str


@dataclass(frozen=True, slots=True)
class ReplaceBody:
    """More of a body that takes the place of the one that came."""

    octets: bytes


@dataclass(frozen=True, slots=True)
class AddRecipient:
    """A further recipient, a path in angle brackets or bare."""

    path: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class DeleteRecipient:
    """One recipient less."""

    path: str


@dataclass(frozen=True, slots=True)
class ChangeSender:
    """Another reverse-path."""

    path: str
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The message is to be held."""

    reason: str


HeaderChange = AddHeader | InsertHeader | ChangeHeader | DeleteHeaders
Edit = HeaderChange | ReplaceBody | AddRecipient | DeleteRecipient | ChangeSender | Quarantine


Field = tuple[str, bytes]
"""A header field's name, and the whole field without its last CRLF; the name is empty for a line
that is no field."""


def section_fields(section: bytes) -> list[Field]:
    """The fields of a header section, which ends in an empty line or where it ends."""
    text = section.removesuffix(b"\r\n").removesuffix(b"\r\n")  # content may be fields alone
    lines = text.split(b"\r\n") if text else []
    found: list[list[bytes]] = []
    for line in lines:
        if found and line[:1] in (b" ", b"\t"):
            found[-1].append(line)
        else:
            found.append([line])
    return [(_name_of(each[0]), b"\r\n".join(each)) for each in found]


def _name_of(line: bytes) -> str:
    name, colon, _ = line.partition(b":")
    text = name.rstrip(b" \t").decode("latin-1")
    return text if colon and _NAME.match(text) else ""


def edited(
    fields: list[Field], changes: Iterable[HeaderChange], *, own: int = 0, leading_space: bool
) -> list[Field]:
    """Header fields, our Received the one of number `own`, after changes.

    `leading_space`: the filter says itself what stands behind the colon.
    """
    section = _Section(fields, own)
    for change in changes:
        if not _NAME.match(change.name):
            continue  # no field can be made of it, as in Postfix
        if isinstance(change, DeleteHeaders):
            section.delete_all(change.name)
            continue
        field = _field(change.name, change.value, leading_space)
        if isinstance(change, AddHeader):
            section.append(field)
        elif isinstance(change, InsertHeader):
            section.insert(change.index, field)
        else:
            section.change(max(change.index, 1), field, delete=not change.value)
    return section.fields()


class _Section:
    """Fields that are changed one after the other: each by its name, without a look at all."""

    def __init__(self, fields: list[Field], own: int) -> None:
        self._places: list[Field | None] = [*fields]  # None: it was deleted
        self._received = fields[own]
        self._by_name: dict[str, list[int]] | None = None  # places, without our own

    def fields(self) -> list[Field]:
        return [each for each in self._places if each is not None]

    def append(self, field: Field) -> None:
        if self._by_name is not None:
            self._by_name.setdefault(field[0].lower(), []).append(len(self._places))
        self._places.append(field)

    def insert(self, index: int, field: Field) -> None:
        if self._by_name is not None:  # which may have deleted some, and all places are others
            self._places, self._by_name = [*self.fields()], None
        self._places.insert(min(index, len(self._places)), field)

    def change(self, number: int, field: Field, *, delete: bool) -> None:
        named = self._named(field[0])
        if number <= len(named):
            self._places[named[number - 1]] = None if delete else field
            if delete:
                del named[number - 1]
        elif not delete:
            self.append(field)

    def delete_all(self, name: str) -> None:
        named = self._named(name)
        for place in named:
            self._places[place] = None
        named.clear()

    def _named(self, name: str) -> list[int]:
        if self._by_name is None:
            self._by_name = {}
            for place, field in enumerate(self._places):
                if field is not None and field is not self._received:
                    self._by_name.setdefault(field[0].lower(), []).append(place)
        return self._by_name.setdefault(name.lower(), [])


def _field(name: str, value: str, leading_space: bool) -> Field:
    """A field whose lines end in CRLF, each but the first with white space in front."""
    first, *more = _LINE_END.split(value.replace("\0", ""))
    lines = [first, *(line if line[:1] in (" ", "\t") else f"\t{line}" for line in more if line)]
    space = "" if leading_space else " "
    whole = f"{name}:{space}" + "\r\n".join(lines)
    return name, whole.encode("utf-8", "surrogateescape")
