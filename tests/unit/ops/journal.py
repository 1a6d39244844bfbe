"""A mail log that remembers what it was told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from relayd.mail.client import Client
from relayd.mail.message import Message, Record, Settlement


class Journal:
    """Implements MailLog; only notices and troubles are kept."""

    def __init__(self) -> None:
        self.notices: list[tuple[str, dict[str, Any]]] = []
        self.troubles: list[tuple[str, dict[str, Any]]] = []

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        pass

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        pass

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        pass

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        pass

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        pass

    def notice(self, event: str, **facts: object) -> None:
        self.notices.append((event, facts))

    def trouble(self, event: str, **facts: object) -> None:
        self.troubles.append((event, facts))
