"""A small real next hop: takes mail by SMTP and stores it in a Maildir before it says 250."""

from __future__ import annotations

import mailbox
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Protocol, ServerFactory
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from relayd.mail.address import path_text
from relayd.mail.reply import Reply
from relayd.smtp.events import (
    Chunk,
    ContentRefused,
    Data,
    EndOfContent,
    Event,
    Hello,
    Mail,
    Rcpt,
    Rset,
)
from relayd.smtp.extensions import Offer
from relayd.smtp.server import ServerLimits, SmtpServer

_GO_ON = Reply.bare(354, "Go on")
_OK = Reply.of(250, "2.0.0", "Ok")
_NO = Reply.of(502, "5.5.1", "Not here")
_STORE_TROUBLE = Reply.of(451, "4.3.0", "Could not store it")


@dataclass(frozen=True, slots=True)
class Stored:
    """One message that now lies in the Maildir."""

    path: Path
    sender: str
    recipients: tuple[str, ...]
    content: bytes  # as received, CRLF


class MaildirSession(Protocol):
    """One SMTP session around relayd's own protocol core."""

    def __init__(self, folder: Path, on_stored: Callable[[Stored], None]) -> None:
        self._folder = folder
        self._box = mailbox.Maildir(folder, create=True)
        self._on_stored = on_stored
        self._core = SmtpServer("nexthop.example", ServerLimits(), Offer())
        self._forget()

    def _forget(self) -> None:
        self._sender = ""
        self._recipients: list[str] = []
        self._chunks: list[bytes] = []

    def connectionMade(self) -> None:
        """Greet."""
        self._core.greet()
        self._go_on()

    def dataReceived(self, data: bytes) -> None:
        """Take in what the client sent."""
        self._core.receive_data(data)
        self._go_on()

    def _go_on(self) -> None:
        while (event := self._core.next_event()) is not None:
            self._take(event)
        if self.transport is None:
            return
        self.transport.write(self._core.data_to_send())
        if self._core.closed:
            self.transport.loseConnection()

    def _take(self, event: Event) -> None:
        if isinstance(event, Chunk):
            self._chunks.append(event.data)
        elif isinstance(event, EndOfContent):
            self._store()
        elif isinstance(event, (Rset, ContentRefused)):
            self._forget()
        elif self._core.awaiting_verdict:
            self._core.answer(self._verdict(event))

    def _verdict(self, event: Event) -> Reply:
        if isinstance(event, Mail):
            self._forget()
            self._sender = path_text(event.path)
        elif isinstance(event, Rcpt):
            self._recipients.append(str(event.path))
        elif isinstance(event, Data):
            return _GO_ON
        elif not isinstance(event, Hello):
            return _NO
        return _OK

    def _store(self) -> None:
        sender, recipients = self._sender, tuple(self._recipients)
        content = b"".join(self._chunks)
        self._forget()

        def add() -> Stored:
            # a Maildir keeps lines the local way; the trace of final delivery: RFC 5321, 4.4
            text = f"Return-Path: <{sender}>\n".encode() + content.replace(b"\r\n", b"\n")
            key = self._box.add(text)  # written, synced and then renamed into new/
            return Stored(self._folder / "new" / key, sender, recipients, content)

        deferToThread(add).addCallbacks(self._stored, self._not_stored)

    def _stored(self, stored: Stored) -> None:
        self._core.answer(Reply.of(250, "2.0.0", f"Stored as {stored.path.name}"))
        self._go_on()
        self._on_stored(stored)

    def _not_stored(self, failure: Failure) -> None:
        self._core.answer(_STORE_TROUBLE)
        self._go_on()


class MaildirFactory(ServerFactory):
    """Makes sessions that store below one folder."""

    noisy = False

    def __init__(self, folder: Path, on_stored: Callable[[Stored], None]) -> None:
        self._folder = folder
        self._on_stored = on_stored

    def buildProtocol(self, addr: IAddress | None) -> MaildirSession:
        """A session for a new connection."""
        return MaildirSession(self._folder, self._on_stored)
