"""The vocabulary of the mail log, as an interface: who writes a line, and with what in it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from relayd.mail.client import Client
from relayd.mail.message import Message, Record, Settlement


class MailLog(Protocol):
    """One call per event; `relayd.ops.maillog`, the real one, writes a line for each."""

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        """An SMTP session ended; `end` says how: quit, lost, timeout, "421 ...", ..."""

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        """A command was refused; `command` is the peer's text, made safe by the log."""

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        """A message is on stable storage."""

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        """One line for each: status=sent, deferred, bounced or expired, as Postfix says it."""

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        """A report was queued: kind is failed, delayed, delivered or relayed."""

    def notice(self, event: str, **facts: object) -> None:
        """Something an operator should know: started, reloaded, next hop down, ..."""

    def trouble(self, event: str, **facts: object) -> None:
        """Something an operator should look at: disk full, damaged entry, broken table, bug."""
