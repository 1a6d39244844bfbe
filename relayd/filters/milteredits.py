"""What a milter does to a message, as values, and how a header section comes out of it.

Numbers are Postfix's: what changes or deletes a field counts from 1 among those of its name, our
own Received not among them; what inserts counts all fields, our Received the first of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

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
    lines = section.removesuffix(b"\r\n").split(b"\r\n")[:-1] if section != b"\r\n" else []
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
    fields = list(fields)
    received = fields[own]
    for change in changes:
        if not _NAME.match(change.name):
            continue  # no field can be made of it, as in Postfix
        if isinstance(change, DeleteHeaders):
            name = change.name.lower()
            fields = [each for each in fields if each is received or each[0].lower() != name]
        elif isinstance(change, AddHeader):
            fields.append(_field(change.name, change.value, leading_space))
        elif isinstance(change, InsertHeader):
            at = min(change.index, len(fields))
            fields.insert(at, _field(change.name, change.value, leading_space))
        else:
            _change(fields, change, received, leading_space)
    return fields


def _change(
    fields: list[Field], change: ChangeHeader, received: Field, leading_space: bool
) -> None:
    wanted, left = change.name.lower(), max(change.index, 1)
    for at, field in enumerate(fields):
        if field is received or field[0].lower() != wanted:
            continue
        left -= 1
        if left:
            continue
        if change.value:
            fields[at] = _field(change.name, change.value, leading_space)
        else:
            del fields[at]
        return
    if change.value:
        fields.append(_field(change.name, change.value, leading_space))


def _field(name: str, value: str, leading_space: bool) -> Field:
    """A field whose lines end in CRLF, each but the first with white space in front."""
    first, *more = _LINE_END.split(value.replace("\0", ""))
    lines = [first, *(line if line[:1] in (" ", "\t") else f"\t{line}" for line in more if line)]
    space = "" if leading_space else " "
    whole = f"{name}:{space}" + "\r\n".join(lines)
    return name, whole.encode("utf-8", "surrogateescape")
