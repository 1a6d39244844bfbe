"""The HTTP API: `/api/1/`, the answers of `relayctl --json` for whoever shows a token.

Only a token counts here, also at a unix socket: no cookie does, and so no page of a stranger can
make a browser ask anything.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from http import HTTPStatus

from relayd.intake.limits import client_key
from relayd.login.apitokens import ApiToken
from relayd.login.guesses import Guesses
from relayd.ops.commands import Operations
from relayd.web.catalogue import API, find_call, from_query, request_of
from relayd.web.exchange import (
    JSON,
    PROBLEM,
    TurnedAwayError,
    WebAnswer,
    WebRequest,
    document,
    problem,
    read_json,
)
from relayd.web.forwards import DOMAINS, ForwardsApi
from relayd.web.openapi import described
from relayd.web.operations import carried_out
from relayd.web.scope import scoped, within

DESCRIPTION = "/openapi.json"
_CHALLENGE = [("WWW-Authenticate", 'Bearer realm="relayd"')]  # RFC 6750 section 3


class Api:
    """Answers requests below `/api/1/`."""

    def __init__(
        self,
        commands: Operations,
        find_token: Callable[[str], ApiToken | None],
        guesses: Guesses,
        forwards: ForwardsApi | None = None,
    ) -> None:
        self._commands = commands
        self._find_token = find_token
        self._guesses = guesses
        self._forwards = forwards

    async def answer(self, asked: WebRequest) -> WebAnswer:
        """The answer; raises TurnedAwayError."""
        token = self._token(asked)
        if self._forwards is not None and asked.path.startswith(DOMAINS):
            return await self._forwards.answer(asked, token)
        if not _takes_json(asked.header("accept")):
            raise TurnedAwayError(HTTPStatus.NOT_ACCEPTABLE, f"answers are {JSON}")
        path = asked.path.removeprefix(API)
        if path == DESCRIPTION and asked.method != "POST":
            return WebAnswer(HTTPStatus.OK, JSON, _description())
        call, said = find_call(asked.method, path)
        if token.role < call.role:
            why = f"{call.path} is for {call.role}; the token {token.name} is {token.role}'s"
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, why)
        fields = _body(asked) if call.method == "POST" else from_query(call, asked.fields())
        request = {**request_of(call, fields), **said}
        who, asked_of = f"token:{token.name}", scoped(call, request, token)
        found = await carried_out(self._commands, call, asked_of, who)
        return document(within(call, found, token))

    def _token(self, asked: WebRequest) -> ApiToken:
        scheme, _, shown = asked.header("authorization").partition(" ")
        if not shown or scheme.lower() != "bearer":
            raise TurnedAwayError(HTTPStatus.UNAUTHORIZED, "show a token", _CHALLENGE)
        token = self._find_token(shown.strip())
        if token is not None:
            return token
        # counted with all other guesses of this address; a right token is never kept waiting
        if self._guesses.begin(client_key(asked.client)) is None:
            raise TurnedAwayError(
                HTTPStatus.TOO_MANY_REQUESTS, "too many wrong tokens", [("Retry-After", "60")]
            )
        raise TurnedAwayError(HTTPStatus.UNAUTHORIZED, "no such token", _CHALLENGE)


def told(error: TurnedAwayError) -> WebAnswer:
    """What goes wrong is a document, too."""
    return problem(error.status, str(error), *error.fields)


_UNWANTED = re.compile(r"\s*q=0(\.0{0,3})?\s*")  # RFC 9110 section 12.4.2


def _takes_json(accept: str) -> bool:
    """Whether a client may be answered so (RFC 9110 section 12.5.1)."""
    kinds = [each.split(";") for each in accept.lower().split(",")]
    wanted = [kind.strip() for kind, *more in kinds if not any(map(_UNWANTED.fullmatch, more))]
    return not accept or any(kind in ("*/*", "application/*", JSON, PROBLEM) for kind in wanted)


def _body(asked: WebRequest) -> dict[str, object]:
    if asked.header("content-type").partition(";")[0].strip().lower() != JSON:
        raise TurnedAwayError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"expected {JSON}")
    found = read_json(asked.body or b"{}")
    if not isinstance(found, dict):
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
    return found


@functools.cache
def _description() -> bytes:
    return json.dumps(described()).encode() + b"\n"
