"""`find` and `queue` as comma-separated values, a row for each recipient, as they come in."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from relayd.ops.text import safe

FOUND = (
    *("id", "received_at", "size", "sender", "message_id", "subject", "recipient", "original"),
    *("next_hop", "state", "attempts", "ended_at", "reply"),
)
QUEUED = (
    *("id", "received_at", "size", "sender", "mailbox", "original", "next_hop", "destination"),
    *("state", "attempts", "next_attempt", "last_reply"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def queued_recipients(messages: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each recipient of messages as `queue --json` has them."""
    for message in messages:
        for recipient in message["recipients"]:
            yield {**message, **recipient}


def write_head(columns: Iterable[str]) -> None:
    """The names of the columns, once."""
    csv.writer(sys.stdout, lineterminator="\n").writerow(columns)


def write_rows(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> None:
    """Some rows more."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerows([_cell(row[name], name) for name in columns] for row in rows)


def _cell(value: object, name: str) -> str:
    """As a spreadsheet takes it: no time as a number, and no text of strangers as a formula.

    Subjects, addresses and replies are others' words, and a cell that begins like a formula is one
    to whoever opens the file: an apostrophe before it makes it text. JSON is as it is.
    """
    if isinstance(value, float) and (name.endswith("_at") or name == "next_attempt"):
        at = datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
        return at.replace("+00:00", "Z") if value else ""
    text = safe(str(value))
    return f"'{text}" if str(value).startswith(_FORMULA) else text
