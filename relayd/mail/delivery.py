"""One delivery: one message, one next hop, some of its recipients, one attempt."""

from __future__ import annotations

from relayd.mail.address import ReversePath
from relayd.mail.content import Content
from relayd.mail.message import Message, Record
from relayd.mail.value import dataclass


@dataclass(frozen=True, slots=True)
class Delivery:
    """What a courier carries out. All records share reverse-path and header section."""

    message: Message
    records: tuple[Record, ...]
    verifies: bool = False  # nothing is delivered: it is only asked whether these would be taken

    @property
    def reverse_path(self) -> ReversePath:
        """MAIL FROM at the next hop."""
        return self.records[0].recipient.reverse_path

    @property
    def content(self) -> Content:
        """The content as these recipients are to see it."""
        header = self.records[0].recipient.header
        return self.message.content_for(header) if header else self.message.content
