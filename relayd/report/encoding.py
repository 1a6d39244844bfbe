"""The parts of a report as octets that every hop takes: 7 bits, short lines, nothing bare."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.mail.content import BARE, MAX_LINE
from relayd.mail.quotedprintable import quoted_printable

DESCRIPTION = "Header section of your message"


@dataclass(frozen=True, slots=True)
class Part:
    """One MIME part: its octets are already in the encoding that they claim."""

    kind: str
    encoding: str
    data: bytes
    description: str

    def wire(self) -> bytes:
        """The part as it stands between two boundaries."""
        return (
            f"Content-Type: {self.kind}\r\n"
            f"Content-Description: {self.description}\r\n"
            f"Content-Transfer-Encoding: {self.encoding}\r\n\r\n"
        ).encode() + self.data


def returned_head(head: bytes) -> Part:
    """The header section of the message, in 7 bits whatever is in it."""
    if head.isascii() and fits(head):
        return Part("text/rfc822-headers; charset=us-ascii", "7bit", head, DESCRIPTION)
    charset = "utf-8" if is_utf8(head) else "unknown-8bit"
    kind = f"text/rfc822-headers; charset={charset}"
    return Part(kind, "quoted-printable", quoted_printable(head), DESCRIPTION)


def fits(data: bytes) -> bool:
    """Whether it can be sent as it is, to who takes its octets above 127."""
    return max(map(len, data.split(b"\r\n"))) <= MAX_LINE and BARE.search(data) is None


def is_utf8(data: bytes) -> bool:
    """Whether all of it is UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
