"""One request and its answer, as values: what pages and API see of HTTP."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from ipaddress import ip_address
from urllib.parse import parse_qsl

from relayd.config.values import ConsolePlace

HTML = "text/html; charset=utf-8"
JSON = "application/json"
PROBLEM = "application/problem+json"  # RFC 9457
FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 100  # of one query, or one form


class TurnedAwayError(Exception):
    """The request is not carried out; `str(error)` is for who sent it."""

    def __init__(self, status: int, why: str, fields: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(why)
        self.status = status
        self.fields = tuple(fields)


@dataclass(frozen=True, slots=True)
class WebRequest:
    """A request. Names of header fields are in lower case."""

    method: str
    path: str  # as it came: nothing is decoded, for none of our paths needs it
    place: ConsolePlace  # where it came in
    address: str  # the client's IP address; empty at a unix socket
    user: str  # who opened the unix socket, as the kernel knows him: "uid=0 pid=1"; else empty
    secure: bool = False  # by TLS
    query: str = ""
    headers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    body: bytes = b""

    def header(self, name: str) -> str:
        """A field that stands there once, or empty; twice is nobody's honest request."""
        found = self.headers.get(name, ())
        if len(found) > 1:
            raise TurnedAwayError(HTTPStatus.BAD_REQUEST, f"{name} stands there more than once")
        return found[0] if found else ""

    @property
    def client(self) -> str:
        """Whose guesses these are: an IP address, or "unix".

        At a unix socket a proxy says it, the nearest one last; who can open the socket and says
        something else may guess faster, but at one account no faster than all others.
        """
        if self.address:
            return self.address
        said = ",".join(self.headers.get("x-forwarded-for", ())).rpartition(",")[2].strip()
        try:
            return str(ip_address(said))
        except ValueError:
            return "unix"

    def fields(self) -> dict[str, str]:
        """What the query says; each name once."""
        return _fields(self.query)

    def form(self) -> dict[str, str]:
        """What a form of ours says."""
        if self.header("content-type").partition(";")[0].strip().lower() != FORM:
            raise TurnedAwayError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "this is no form of ours")
        return _fields(self.body.decode("ascii", "replace"))

    def cookie(self, name: str) -> str:
        """The cookie of this name, or empty; of two of one name, neither."""
        found = [
            value.strip()
            for line in self.headers.get("cookie", ())
            for key, _, value in (each.partition("=") for each in line.split(";"))
            if key.strip() == name
        ]
        return found[0] if len(found) == 1 else ""


def _fields(text: str) -> dict[str, str]:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "too many fields") from None
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "a field stands there more than once")
    return found


@dataclass(frozen=True, slots=True)
class WebAnswer:
    """What is sent back."""

    status: int
    kind: str
    body: bytes
    fields: tuple[tuple[str, str], ...] = ()


def read_json(body: bytes) -> object:
    """What a body says (RFC 8259): in UTF-8, and each name once; raises TurnedAwayError."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_named_once)
    except (ValueError, RecursionError):
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "the body is no JSON") from None


def _named_once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "a field stands there more than once")
    return found


def document(found: object, status: int = HTTPStatus.OK) -> WebAnswer:
    """An answer in JSON."""
    return WebAnswer(status, JSON, json.dumps(found).encode() + b"\n")


def problem(status: int, why: str, *fields: tuple[str, str]) -> WebAnswer:
    """Why there is no answer (RFC 9457); `error` is as in the answers of `relayctl --json`."""
    said = {"title": HTTPStatus(status).phrase, "status": int(status), "detail": why, "error": why}
    return WebAnswer(status, PROBLEM, json.dumps(said).encode() + b"\n", fields)


def redirect(to: str, *fields: tuple[str, str]) -> WebAnswer:
    """The browser is to GET another page of ours (RFC 9110 section 15.4.4)."""
    return WebAnswer(HTTPStatus.SEE_OTHER, HTML, b"", (("Location", to), *fields))
