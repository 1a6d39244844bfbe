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


HeaderChange = AddHeader | InsertHeader | ChangeHeader
Edit = HeaderChange | ReplaceBody | AddRecipient | DeleteRecipient | ChangeSender | Quarantine


def edited(
    fields: list[tuple[str, bytes]], changes: Iterable[HeaderChange], *, leading_space: bool
) -> list[tuple[str, bytes]]:
    """Header fields (name, whole field without its last CRLF), our Received first, after changes.

    `leading_space`: the filter says itself what stands behind the colon.
    """
    fields = list(fields)
    for change in changes:
        if not _NAME.match(change.name):
            continue  # no field can be made of it, as in Postfix
        if isinstance(change, AddHeader):
            fields.append(_field(change.name, change.value, leading_space))
        elif isinstance(change, InsertHeader):
            at = min(change.index, len(fields))
            fields.insert(at, _field(change.name, change.value, leading_space))
        else:
            _change(fields, change, leading_space)
    return fields


def _change(fields: list[tuple[str, bytes]], change: ChangeHeader, leading_space: bool) -> None:
    wanted, left = change.name.lower(), max(change.index, 1)
    for at, (name, _) in enumerate(fields):
        if at == 0 or name.lower() != wanted:
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


def _field(name: str, value: str, leading_space: bool) -> tuple[str, bytes]:
    """A field whose lines end in CRLF, each but the first with white space in front."""
    first, *more = _LINE_END.split(value.replace("\0", ""))
    lines = [first, *(line if line[:1] in (" ", "\t") else f"\t{line}" for line in more if line)]
    space = "" if leading_space else " "
    whole = f"{name}:{space}" + "\r\n".join(lines)
    return name, whole.encode("utf-8", "surrogateescape")
