"""The rows of `queue` as objects, with their columns' names: for `--json` and over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from relayd.mail.ident import ident_text
from relayd.ops.text import STATES


def queue_messages(documents: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """The messages of each piece of the answer."""
    columns: list[str] = []
    recipient_columns: list[str] = []
    lanes: dict[str, float] = {}
    behind: dict[str, str] = {}
    for document in documents:
        columns = document.get("columns", columns)
        recipient_columns = document.get("recipient_columns", recipient_columns)
        lanes = document.get("lanes", lanes)
        behind = document.get("behind", behind)
        messages = []
        for row in document.get("rows", ()):
            message = dict(zip(columns, row, strict=True))
            recipients = [
                dict(zip(recipient_columns, each, strict=True)) for each in message["recipients"]
            ]
            for recipient in recipients:
                if not recipient["state"] and recipient["destination"] in lanes:
                    due = max(recipient["next_attempt"], lanes[recipient["destination"]])
                    recipient["next_attempt"] = due
                if not recipient["state"] and recipient["destination"] in behind:
                    recipient["last_reply"] = behind[recipient["destination"]]
                recipient["state"] = STATES[recipient["state"]]
            message["recipients"] = recipients
            messages.append({"id": ident_text(message.pop("ident")), **message})
        yield messages
