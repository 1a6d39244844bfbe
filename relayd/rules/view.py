"""What conditions look at: the facts about one recipient, as rules have rewritten them so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from relayd.mail.client import Client
from relayd.rules.fact import Fact
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Unknown

if TYPE_CHECKING:
    from relayd.rules.leaving import LeavingCopies


class Unasked(Unknown):
    """Somebody can say, and has not been asked yet."""

    def __init__(self, fact: Fact) -> None:
        super().__init__(f"{fact} is not known")
        self.fact = fact


class View:
    """What the conditions look at. Stages change sender and recipient as they rewrite them."""

    __slots__ = ("client", "copies", "gathered", "named", "notes", "recipient", "sender")

    def __init__(
        self,
        client: Client,
        sender: Subject | None,
        recipient: Subject,
        gathered: Mapping[Fact, object] | None = None,
    ) -> None:
        self.client = client
        self.sender = sender
        self.recipient = self.named = recipient  # ... as RCPT named it
        self.gathered = gathered  # what others were asked for
        self.notes: list[str] = []  # where tables held what they were asked
        self.copies: LeavingCopies | None = None  # as they would leave, where rules look at that

    def told(self, fact: Fact, about: Fact | None = None) -> object:
        """What was gathered about a fact, or about it of one mailbox.

        Raises Unknown where nobody could say, Unasked where nobody was asked.
        """
        gathered = self.gathered or {}
        if about is not None and fact not in gathered:
            fact = about
        if fact not in gathered:
            raise Unasked(fact)
        value = gathered[fact]
        if value is None:
            raise Unknown(f"{fact} is not known")
        return value
