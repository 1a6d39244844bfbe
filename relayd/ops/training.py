"""The field with which what was held is released, for whoever teaches a spam filter behind us."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # relayctl names the words, and starts without them
    from relayd.mail.message import Message

FIELD = "X-Spam-Training"
WORDS = ("ham", "spam")
"""As what a message is to be learnt: rspamc and sa-learn call them so."""


def trained(message: Message, header: int, word: str) -> bytes:
    """A header section of a message (Recipient.header) with the field; raises OSError.

    It stands in front, and alone: whatever the sender has written in its name goes.
    """
    from relayd.authentication.canonical import without

    section = message.headers[header - 1] if header else _own_section(message)
    mine = FIELD.lower().encode("ascii")
    return f"{FIELD}: {word}\r\n".encode("ascii") + without(section, lambda each: each.name == mine)


def _own_section(message: Message) -> bytes:
    octets = bytearray()
    for chunk in message.content.chunks():
        octets += chunk
        if len(octets) >= message.header_size:
            break
    return bytes(octets[: message.header_size])
