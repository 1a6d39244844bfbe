"""What everybody on this machine may ask: what waits, without who writes to whom."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

from relayd.mail.content import Content
from relayd.ops.commands import Operations, Stream
from relayd.ops.documents import Request, RequestError

MOST = 1000  # messages that are shown: everybody can ask, as often as he likes
MAX_SESSIONS = 4  # at a time, beside those of operators
_ROWS = b'{"rows":'  # how a page of a queue begins
_CODE = re.compile(r"\d{3}(?: \d\.\d{1,3}\.\d{1,3})?")
_FILTERS = ("sender", "recipient", "destination", "state", "older_than")


class PublicQueue:
    """Operations of which only `queue` is left, with local parts and words of replies hidden.

    A filter would tell by what it finds what the listing hides, so it takes none.
    """

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    async def run(self, request: Request, stream: Stream, who: str) -> None:
        """Answer one request; raises RequestError."""
        if request.get("command") != "queue" or any(request.get(name) for name in _FILTERS):
            raise RequestError("only root and relayd's own user may ask that")
        limit = request.get("limit")
        most = min(limit, MOST) if isinstance(limit, int) and limit > 0 else MOST
        await self._operations.run({"command": "queue", "limit": most}, _Hiding(stream), who)


class _Hiding:
    """A stream on which nobody is named."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    async def send(self, document: object) -> None:
        """What comes before the rows: their columns, and when next hops are tried."""
        await self._stream.send(document)

    async def send_line(self, line: bytes) -> None:
        """A page of rows, or what comes before them."""
        if line.startswith(_ROWS):
            rows = [_hidden(row) for row in json.loads(line)["rows"]]
            line = json.dumps({"rows": rows}).encode() + b"\n"
        await self._stream.send_line(line)

    async def send_content(self, content: Content) -> None:
        """No listing has any."""
        raise RequestError("no content is for everybody")

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """No listing has any."""
        raise RequestError("no content is for everybody")


def _hidden(row: list[Any]) -> list[Any]:
    """A row as relayd.spool.view.Summary has it."""
    ident, received_at, size, sender, recipients = row
    shown = [
        [number, _domain(mailbox), _domain(original), *rest, _code(reply)]
        for number, mailbox, original, *rest, reply in recipients
    ]
    return [ident, received_at, size, _domain(sender), shown]


def _domain(mailbox: str) -> str:
    _, at, domain = mailbox.rpartition("@")
    return f"...@{domain}" if at else mailbox and "..."


def _code(reply: str) -> str:
    found = _CODE.match(reply)
    return found[0] if found else ""
