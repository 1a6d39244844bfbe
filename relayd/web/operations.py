"""Asks the commands what the control socket asks them, and gathers the answer."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

from relayd.mail.content import Content
from relayd.ops.commands import Operations
from relayd.ops.documents import BusyError, ConflictError, OffError, RequestError
from relayd.ops.queuerows import queue_messages
from relayd.spool.errors import SpoolError
from relayd.web.catalogue import Call
from relayd.web.exchange import TurnedAwayError


class Gathered:
    """A Stream that keeps what is sent: every answer asked for by it is bounded."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    async def send(self, document: object) -> None:
        """See relayd.ops.commands.Stream."""
        assert isinstance(document, dict)
        self.documents.append(document)

    async def send_line(self, line: bytes) -> None:
        """See relayd.ops.commands.Stream."""
        self.documents.append(json.loads(line))

    async def send_content(self, content: Content) -> None:
        """No call asks for it."""
        raise RequestError("no content here")

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """No call asks for it."""
        raise RequestError("no content here")


def _status(call: Call, error: RequestError) -> int:
    if isinstance(error, ConflictError):
        return HTTPStatus.CONFLICT
    if isinstance(error, BusyError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, OffError) or "{id}" in call.path:
        return HTTPStatus.NOT_FOUND
    return HTTPStatus.BAD_REQUEST


async def carried_out(
    commands: Operations, call: Call, request: dict[str, object], who: str
) -> dict[str, Any]:
    """The answer to a call's request; raises TurnedAwayError. `who` is for the log."""
    gathered = Gathered()
    try:
        await commands.run(request, gathered, who)
    except RequestError as error:
        raise TurnedAwayError(_status(call, error), str(error)) from None
    except SpoolError as error:
        why = f"the spool is in trouble: {error.reason}"
        raise TurnedAwayError(HTTPStatus.SERVICE_UNAVAILABLE, why) from None
    if request["command"] == "queue":
        found = [each for piece in queue_messages(gathered.documents) for each in piece]
        return {call.many or "messages": found}
    if call.many:
        pieces = [document[call.many] for document in gathered.documents]
        return {call.many: [each for piece in pieces for each in piece]}
    answer: dict[str, Any] = gathered.documents[-1]["answer"]
    return answer
