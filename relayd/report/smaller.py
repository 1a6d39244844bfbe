"""A report that was refused for its form or size, once more in a form that the way back carries.

The message that it is about is gone by then, so it is made out of the report itself: first in
7 bits, with the header section of the message; then without anything of the message; at last with
as many of its recipients as fit into a few kilobytes, each with what RFC 3464 wants of it.
"""

from __future__ import annotations

import quopri
import re
from collections.abc import Sequence
from dataclasses import dataclass

from relayd.mail.client import Client
from relayd.mail.content import Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Settlement, Submission
from relayd.mail.reply import Reply
from relayd.report.encoding import returned_head
from relayd.report.fields import enquoted

MAX_HEADER = 4 * 1024  # octets of a returned header section
MAX_STATUS = 8 * 1024  # octets of delivery status with all that the servers said
MAX_BRIEF = 6 * 1024  # octets of each of the two parts that are left at last
_MOST = 8 * 1024 * 1024  # octets: ours are smaller

_BOUNDARY = re.compile(rb'\r\n boundary="(=[0-9a-f]{24})"\r\n')
_UTF8_ADDRESS = re.compile(r"((?:Final|Original)-Recipient: *utf-8; *)(.*)", re.IGNORECASE)
# RFC 3464 section 2.3: the fields that each recipient must have, and by which a sender knows him
_NEEDED = ("final-recipient:", "original-recipient:", "action:", "status:")
_NAMES_ALL = re.compile(rb"the next part names them all\.")
_NO_REQUIRETLS = "5.7.30"  # RFC 8689 section 4.2.1


@dataclass(frozen=True, slots=True)
class Smaller:
    """A report that is to be sent again to these of its recipients."""

    about: Message  # the report in the form that was refused
    recipients: tuple[Recipient, ...]
    content: bytes
    require_tls: bool

    @property
    def to(self) -> str:
        """For the log."""
        return ", ".join(str(each.mailbox) for each in self.recipients[:3])

    @property
    def kind(self) -> str:
        """For the log."""
        return "smaller"

    @property
    def submission(self) -> Submission:
        """How it is sent: as the report was, but in 7 bits."""
        return Submission(
            Envelope(None, require_tls=self.require_tls),
            Client("", helo=self.about.client.helo),
            self.recipients,
            header_size=self.content.index(b"\r\n\r\n") + 4,
            eight_bit=False,
            utf8_header=False,
        )


def is_report(message: Message) -> bool:
    """Whether it is a report that we wrote: other mail has a client with an address."""
    return message.envelope.reverse_path is None and not message.client.address


def smaller(message: Message, settlements: Sequence[Settlement]) -> Smaller | None:
    """The report once more for recipients whose next hops would not have it in this form.

    `settlements` failed alike (see `wants`). None: there is no smaller form, or what is refused
    is not the form.
    """
    if not wants(message, settlements[0]):
        return None
    without_tls = _demanded_tls(message, settlements[0])
    content = _read(message.content)
    found = reduced(content, bare=without_tls)
    if found == content:
        found = reduced(content, bare=True)
    if found == content:
        found = brief(content)
    if found is None or (found == content and not without_tls):
        return None
    recipients = tuple(each.record.recipient for each in settlements)
    return Smaller(message, recipients, found, message.envelope.require_tls and not without_tls)


def wants(message: Message, settlement: Settlement) -> bool:
    """Whether a smaller form may be taken where this one was not."""
    if _demanded_tls(message, settlement):
        return True
    outcome = settlement.outcome
    return (
        settlement.state is RecipientState.FAILED
        and outcome is not None
        and _of_form(outcome.reply)
    )


def in_seven_bits(message: Message) -> bytes:
    """All of a report that somebody else is to see, in 7 bits; empty where it cannot be read."""
    content = _read(message.content)
    return content if content.isascii() else reduced(content, bare=False) or b""


def reduced(content: bytes, *, bare: bool) -> bytes | None:
    """The report in 7 bits with the header section of its message; `bare`: without even that.

    None: we did not write it.
    """
    taken = _taken_apart(content)
    if taken is None:
        return None
    head, mark, (text, status, *returned) = taken
    kept = [text, _status(status)]
    if returned and not bare:
        kept.append(_head(returned[0]))
    return _put_together(head, mark, kept)


def brief(content: bytes) -> bytes | None:
    """The report without its message and, where it is long, without some of its recipients.

    How many are not named is said. None: we did not write it.
    """
    taken = _taken_apart(content)
    if taken is None:
        return None
    head, mark, (text, status, *_) = taken
    status, named, missing = _brief_status(_status(status))
    if missing:
        text = _NAMES_ALL.sub(b"the next part names the first %d of all." % named, text)
    return _put_together(head, mark, [_brief_text(text, missing), status])


def _taken_apart(content: bytes) -> tuple[bytes, bytes, list[bytes]] | None:
    """All before the parts, what stands before each of them, and the parts, two or three."""
    header, gap, body = content.partition(b"\r\n\r\n")
    match = _BOUNDARY.search(header + b"\r\n")
    if not gap or match is None:
        return None
    mark = b"\r\n--" + match[1]
    preamble, *parts = body.split(mark)
    if len(parts) not in (3, 4) or parts[-1] != b"--\r\n":
        return None
    return _top(header) + gap + preamble, mark, parts[:-1]


def _put_together(head: bytes, mark: bytes, parts: Sequence[bytes]) -> bytes:
    return head + b"".join(mark + part for part in (*parts, b"--\r\n"))


def _brief_status(part: bytes) -> tuple[bytes, int, int]:
    """The part with those recipients who fit, how many these are, and how many are left out."""
    head, gap, data = part.partition(b"\r\n\r\n")
    about, *groups = data.decode("ascii").strip("\r\n").split("\r\n\r\n")
    kept, size = [about], len(about)
    for group in groups:
        lines = [each for each in group.split("\r\n") if each.lower().startswith(_NEEDED)]
        size += sum(len(each) + 2 for each in lines) + 2
        if size > MAX_BRIEF:
            break
        kept.append("\r\n".join(lines))
    named = len(kept) - 1
    body = "\r\n\r\n".join(kept) + "\r\n"
    return head + gap + body.encode("ascii"), named, len(groups) - named


def _brief_text(part: bytes, missing: int) -> bytes:
    """The part with the paragraphs that fit, and a word on what is left out."""
    if len(part) > MAX_BRIEF:
        # a paragraph goes whole, or else it would begin or end within an encoded octet
        part = part[: part.rfind(b"\r\n\r\n", 0, MAX_BRIEF - 200)] + b"\r\n\r\n[...]\r\n"
    if missing:
        words = b"This report had to be short: %d recipients are named nowhere in it." % missing
        part = part.removesuffix(b"\r\n") + b"\r\n\r\n" + words + b"\r\n"
    return part


def _of_form(reply: Reply) -> bool:
    """RFC 3463: 5.6.x is about the form, 5.3.4 and 5.2.3 about the size, as is 552 alone."""
    if reply.status == "5.6.7":  # an address needs SMTPUTF8, whatever the content
        return False
    return reply.code == 552 or reply.subject == 6 or reply.status in ("5.3.4", "5.2.3")


def _demanded_tls(message: Message, settlement: Settlement) -> bool:
    """RFC 8689 section 5: a report goes on where its way back offers no REQUIRETLS, redacted."""
    outcome = settlement.outcome
    return message.envelope.require_tls and (
        settlement.state is RecipientState.EXPIRED
        or (outcome is not None and outcome.reply.status == _NO_REQUIRETLS)
    )


def _top(header: bytes) -> bytes:
    header = header.replace(b"report-type=global-delivery-status", b"report-type=delivery-status")
    return b"\r\n".join(
        # as RFC 6857 has it: a group may stand where the address cannot
        line if line.isascii() else line.partition(b":")[0] + b": Internationalized address:;"
        for line in header.split(b"\r\n")
    )


def _status(part: bytes) -> bytes:
    head, gap, data = part.partition(b"\r\n\r\n")
    kind = head.replace(b"message/global-delivery-status", b"message/delivery-status")
    kind = kind.replace(b"Encoding: 8bit", b"Encoding: 7bit")
    lines = data.decode("utf-8", "replace").split("\r\n")
    if len(data) > MAX_STATUS:
        lines = [line for line in lines if not line.startswith(" ")]
    return kind + gap + "\r\n".join(map(_seven_bit_field, lines)).encode("ascii")


def _seven_bit_field(line: str) -> str:
    if line.isascii():
        return line
    match = _UTF8_ADDRESS.match(line)
    if match is not None:
        return match[1] + enquoted(match[2])
    return line.encode("ascii", "backslashreplace").decode()


def _head(part: bytes) -> bytes:
    fields, _, data = part.partition(b"\r\n\r\n")
    if b"quoted-printable" in fields:
        data = quopri.decodestring(data)
        if b"\r\n" not in data:
            data = data.replace(b"\n", b"\r\n")
    section, gap, _ = data.partition(b"\r\n\r\n")
    section += gap
    if len(section) > MAX_HEADER:
        section = section[:MAX_HEADER]
        section = section[: section.rfind(b"\r\n") + 2]
    return b"\r\n" + returned_head(section).wire()


def _read(content: Content) -> bytes:
    try:
        data = b"".join(content.chunks()) if content.size <= _MOST else b""
    except OSError:
        return b""
    return data
