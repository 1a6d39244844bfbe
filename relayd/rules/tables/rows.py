"""Rows of a database or directory as the lines of a table: a key, and what it becomes."""

from __future__ import annotations

from collections.abc import Sequence


def cell(value: object) -> str:
    """What stands in one column, on one line."""
    if isinstance(value, bytes):
        text = value.decode("utf-8", "surrogateescape")
    else:
        text = "" if value is None else str(value)
    return " ".join(text.split())


def line(row: Sequence[object]) -> str:
    """The row as a line of a file, for people to recognise."""
    return " ".join(filter(None, map(cell, row))).encode("utf-8", "replace").decode()


def wrong(row: Sequence[object]) -> str:
    """Why the row could not be told from others, or from none, once it is a line."""
    key = cell(row[0])
    if not key:
        return "there is no address in it" if len(row) > 1 else "there is nothing in it"
    if any(not each.isascii() and not _is_text(each) for each in map(cell, row)):
        return "it is not UTF-8"
    if key[0] == "#" or (" " in key and key[0] != '"'):
        return f'"{key}" is no address'
    return ""


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
