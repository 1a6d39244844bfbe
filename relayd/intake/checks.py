"""Who is asked before mail is taken: about a client, a sender, a recipient and a content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any, Protocol

from relayd.intake.header import front
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.reply import Reply
from relayd.smtp.framing import Normaliser
from relayd.spool.interface import AnyDraft

MESSAGE_GREW = Reply.of(552, "5.3.4", "Message too large once it is completed or rewritten")
Objection = Reply | None
"""The reply that refuses; None: there is nothing to say against it."""

Finding = Objection | Coroutine[Any, Any, Objection]
"""What is known at once is a plain value. A coroutine is cancelled when nobody waits any more."""


class Checks(Protocol):
    """Each is asked at its place in the session: before the rules are, and about nothing else."""

    def connection(self, client: Client) -> Finding:
        """Before the greeting, or when XCLIENT has named another client."""

    def mail(self, client: Client, envelope: Envelope) -> Finding:
        """At MAIL."""

    def recipient(self, client: Client, envelope: Envelope, mailbox: Mailbox) -> Finding:
        """At RCPT, before the rules decide."""

    def content(self, client: Client, envelope: Envelope, content: ReceivedContent) -> Finding:
        """At the final dot, before the commit: it may be read, and be written anew.

        What it raises is trouble of our own: the client hears 4xx.
        """


async def at_once() -> None:
    """There are no others to have a turn."""


_TURN = 1 << 20  # octets that are copied in one turn of the reactor


class ReceivedContent:
    """All of a message behind our trace field, not yet committed."""

    def __init__(
        self,
        draft: AnyDraft,
        trace: bytes,
        section: bytes,
        *,
        most_section: int,
        most_size: int,
        turn: Callable[[], Awaitable[None]],
    ) -> None:
        self.section = section  # the header section, its empty line included
        self.trace = trace  # what stands in front of it: our trace field, others perhaps above it
        self._ours = trace
        self._draft = draft
        self._before = len(section)  # octets of the section in the draft
        self._most_section = most_section  # octets
        self._most_size = most_size  # octets, our trace field not counted
        self._turn = turn
        self._bodies: list[NewBody] = []
        self.rewritten = False
        self.eight_bit = False  # ... and holds more than ASCII

    @property
    def ident(self) -> int:
        """The message's."""
        return self._draft.ident

    @property
    def size(self) -> int:
        """Octets of it."""
        return self._draft.size - len(self.trace)

    @property
    def whole_section(self) -> bytes:
        """The section as `rewrite` wants it: it ends in an empty line even where none came."""
        section = self.section
        if section.endswith(b"\r\n\r\n") or section == b"\r\n":
            return section
        return section.removesuffix(b"\r\n") + b"\r\n\r\n" if section else b"\r\n"

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """Header section and body, in pieces, from an octet on; raises SpoolError."""
        return self._draft.chunks(len(self.trace) + start)

    def body(self) -> Iterator[bytes]:
        """The body, in pieces; raises SpoolError."""
        return self._draft.chunks(len(self.trace) + self._before)

    def new_body(self) -> NewBody:
        """To be written, and given to `rewrite`; until then the message is as it came."""
        body = NewBody(self._draft.anew(), self._most_size)
        self._bodies.append(body)
        return body

    async def rewrite(
        self,
        section: bytes | None = None,
        body: NewBody | None = None,
        above: bytes | None = None,
    ) -> None:
        """Another header section, another body, or both, in one step.

        `above`: whole fields, all that are to stand above our trace field.

        ValueError: it cannot be one, or is too large; SpoolError: there is no room.
        """
        section = self.section if section is None else _whole(section, self._most_section)
        if body is not None:
            body.end()
        size = self.size - self._before if body is None else body.size
        trace = self.trace
        if above is not None:
            trace = _whole(above + b"\r\n", self._most_section)[:-2] + self._ours
        if len(trace) - len(self._ours) + len(section) + size > self._most_size:
            raise ValueError("the message is too large once it is rewritten")
        fresh = self._draft.anew()
        try:
            fresh.write(trace)
            fresh.write(section)
            eight_bit = not section.isascii()
            copied = 0
            for piece in self.body() if body is None else body.chunks():
                fresh.write(piece)
                eight_bit = eight_bit or not piece.isascii()
                copied += len(piece)
                if copied >= _TURN:
                    copied = 0
                    await self._turn()
            self._draft.become(fresh)
        finally:
            fresh.rollback()
        self.trace, self.section, self._before = trace, section, len(section)
        self.rewritten, self.eight_bit = True, eight_bit

    def close(self) -> None:
        """It is not looked at any more: what was written for it and not used is forgotten."""
        for body in self._bodies:
            body.close()


class NewBody:
    """A body that may take the place of one that came. It is made clean as it is written."""

    def __init__(self, draft: AnyDraft, most: int) -> None:
        self._draft = draft
        self._most = most  # octets
        self._clean = Normaliser()  # no bare CR, bare LF or NUL of anybody's gets in

    @property
    def size(self) -> int:
        """Octets so far."""
        return self._draft.size

    def write(self, data: bytes) -> None:
        """More of it. ValueError: it is too large; SpoolError: there is no room."""
        self._keep(self._clean.feed(data))

    def end(self) -> None:
        """That was all of it."""
        self._keep(self._clean.finish())

    def chunks(self) -> Iterator[bytes]:
        """What was written, in pieces; raises SpoolError."""
        return self._draft.chunks()

    def close(self) -> None:
        """Forget it."""
        self._draft.rollback()

    def _keep(self, data: bytes) -> None:
        if self._draft.size + len(data) > self._most:
            raise ValueError("the body is too large once it is rewritten")
        if data:
            self._draft.write(data)


def _whole(section: bytes, most: int) -> bytes:
    """A header section that is one, and ends where it says."""
    clean = Normaliser()
    section = clean.feed(section) + clean.finish()
    empty = section == b"\r\n"
    if not empty and (section.find(b"\r\n\r\n") != len(section) - 4 or front(section) != b""):
        raise ValueError("a header section is fields, and an empty line at its end")
    if len(section) > most:
        raise ValueError("the header section is too large once it is rewritten")
    return section
