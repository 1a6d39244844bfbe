"""The parts of a message for who may read it: names, types, sizes, and text as text.

It is read by Python's own parser, and only so much of it that nobody else has to wait.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from relayd.mail.content import Content
from relayd.ops.documents import RequestError

LOOKED_AT = 1 << 20  # octets from the beginning
MOST = 100  # parts
SHOWN = 64 << 10  # characters of a part's text


@dataclass(frozen=True, slots=True)
class ShownPart:
    """One part; those that hold others have no size of their own."""

    depth: int
    kind: str
    name: str
    size: int  # octets, decoded
    text: str = ""
    cut: bool = False  # there is more of it than is shown


@dataclass(frozen=True, slots=True)
class Parts:
    """All that was looked at."""

    header: str
    parts: tuple[ShownPart, ...]
    whole: bool  # nothing was left out
    why: str = ""  # there are none


class Beginning:
    """A Stream (relayd.ops.commands) that keeps the beginning of a content."""

    def __init__(self) -> None:
        self.octets = b""
        self.size = 0

    async def send(self, document: object) -> None:
        """Nothing that is asked for."""

    async def send_line(self, line: bytes) -> None:
        """Nothing that is asked for."""

    async def send_content(self, content: Content) -> None:
        """Of a process that holds it itself."""
        self.size = content.size
        for chunk in content.chunks():
            self.octets += chunk[: LOOKED_AT - len(self.octets)]
            if len(self.octets) >= LOOKED_AT:
                return

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """Of a worker: all of it has to be read."""
        self.size = size
        async for piece in pieces:
            self.octets += piece[: LOOKED_AT - len(self.octets)]


def parts_of(octets: bytes, size: int) -> Parts:
    """What is in a message of so many octets in all, of which these are the first."""
    header = octets.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n")
    shown = header[:SHOWN].decode("utf-8", "replace")
    try:
        found = [*_walk(message_from_bytes(octets), 0)][: MOST + 1]
    except (RecursionError, MessageError, ValueError, LookupError) as error:
        # nobody promises that a stranger's message can be read
        return Parts(shown, (), False, f"its parts cannot be told: {type(error).__name__}")
    return Parts(shown, tuple(found[:MOST]), len(octets) >= size and len(found) <= MOST)


def missing(error: RequestError) -> Parts:
    """Why there is nothing to look at."""
    return Parts("", (), False, str(error))


def _walk(message: Message, depth: int) -> Iterator[ShownPart]:
    kind, name = message.get_content_type(), _name(message)
    inner = message.get_payload()
    if message.is_multipart() and isinstance(inner, list):
        yield ShownPart(depth, kind, name, 0)
        for each in inner:
            if isinstance(each, Message):
                yield from _walk(each, depth + 1)
        return
    data = message.get_payload(decode=True)
    octets = data if isinstance(data, bytes) else b""
    if not kind.startswith("text/"):
        yield ShownPart(depth, kind, name, len(octets))
        return
    text = _text(octets, message.get_content_charset("utf-8")).replace("\r\n", "\n")
    yield ShownPart(depth, kind, name, len(octets), text[:SHOWN], len(text) > SHOWN)


def _name(message: Message) -> str:
    # not get_filename: it takes < and > for quotes
    said = message.get_param("filename", None, "content-disposition") or message.get_param("name")
    try:
        name = _decoded(*said) if isinstance(said, tuple) else str(said or "")
    except (LookupError, ValueError):
        return ""
    try:
        return str(make_header(decode_header(name)))
    except (MessageError, ValueError, LookupError):
        return name


def _decoded(charset: str | None, language: str | None, text: str) -> str:
    """A parameter in the form of RFC 2231."""
    return text.encode("latin-1", "replace").decode(charset or "us-ascii", "replace")


def _text(octets: bytes, charset: str) -> str:
    try:
        return octets.decode(charset, "replace")
    except (LookupError, ValueError):  # a charset that nobody knows, or that is no text's
        return octets.decode("utf-8", "replace")
