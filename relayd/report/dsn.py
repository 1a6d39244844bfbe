"""Writes a report that is owed as the multipart/report message of RFC 6522 and RFC 3464."""

from __future__ import annotations

import hashlib
import quopri
import re
from collections.abc import Callable
from dataclasses import dataclass
from email import header as rfc2047
from email import message as parsed
from email.errors import MessageError
from email.parser import BytesHeaderParser

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.ident import ident_text
from relayd.mail.message import Message, Submission
from relayd.mail.reply import printable
from relayd.report.bounce import Action, Report
from relayd.report.fields import stamp, status_fields
from relayd.report.wording import SUBJECT, human_text

MAX_RETURNED = 50 * 1024  # octets of a message returned whole; of a larger one, its header section
MAX_HEADER = 32 * 1024  # octets of a returned header section
MAX_LINE = 998  # octets without CRLF, RFC 5322 section 2.1.1

# Fields by which the sender knows the message again.
_KNOWN_BY = ("Subject", "Date", "Message-ID")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,250}>\Z")


@dataclass(frozen=True, slots=True)
class Written:
    """A report as a message: what the spool stores, in one piece."""

    content: bytes
    submission: Submission


@dataclass(frozen=True, slots=True)
class _Part:
    """One MIME part: its octets are already in the encoding that they claim."""

    kind: str
    encoding: str
    data: bytes
    description: str

    def wire(self) -> bytes:
        return (
            f"Content-Type: {self.kind}\r\n"
            f"Content-Description: {self.description}\r\n"
            f"Content-Transfer-Encoding: {self.encoding}\r\n\r\n"
        ).encode() + self.data


def write(
    report: Report,
    *,
    ident: int,
    hostname: str,
    now: float,
    route: Callable[[Mailbox], tuple[Recipient, ...]],
) -> Written:
    """The report as the message `ident`, with its envelope; `now` in seconds since the epoch.

    `route` asks the rules where mail of our own for this mailbox goes. The report is in 7 bits,
    unless the reverse-path itself needs SMTPUTF8 (then RFC 6533's types and UTF-8 are used) or an
    8-bit original that came by 8BITMIME is returned whole.
    """
    about = report.about
    utf8 = report.to.needs_smtputf8
    head = _beginning(about)
    fields = BytesHeaderParser().parsebytes(head)
    parts = [
        _text_part(human_text(report, hostname, _known(fields))),
        _status_part(report, hostname, utf8),
    ]
    returned = _returned(report, head, utf8)
    if returned is not None:
        parts.append(returned)
    top = _top(report, ident, hostname, now, fields, utf8)
    content = _assembled(top, parts, ident)
    eight_bit = not content.isascii()
    header_size = content.index(b"\r\n\r\n") + 4
    return Written(
        content,
        Submission(
            Envelope(None, body="8BITMIME" if eight_bit else "", smtputf8=utf8),
            Client("", helo=hostname),
            route(report.to) or (Recipient(report.to, report.to),),
            header_size=header_size,
            eight_bit=eight_bit,
            utf8_header=not content[:header_size].isascii(),
        ),
    )


def _top(
    report: Report, ident: int, hostname: str, now: float, fields: parsed.Message, utf8: bool
) -> list[str]:
    kind = "global-delivery-status" if utf8 else "delivery-status"
    top = [
        f"Date: {stamp(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{report.to if utf8 else report.to.ascii}>",
        f"Subject: {SUBJECT[report.action]}",
        f"Message-ID: <{ident_text(ident)}.{report.action.value}@{hostname}>",
    ]
    message_id = str(fields.get("Message-ID", "")).strip()
    if _MESSAGE_ID.match(message_id):
        top += [f"In-Reply-To: {message_id}", f"References: {message_id}"]
    return [
        *top,
        "Auto-Submitted: auto-replied",  # RFC 3834 section 5
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind};\r\n boundary="{{boundary}}"',
    ]


def _assembled(top: list[str], parts: list[_Part], ident: int) -> bytes:
    body = [part.wire() for part in parts]
    mark = 0
    while True:  # the first one serves, unless somebody knew our ident beforehand
        seed = hashlib.sha256(b"%d %d" % (ident, mark) + body[-1][-4096:]).hexdigest()[:24]
        boundary = f"={seed}".encode()
        if not any(boundary in part for part in body):
            break
        mark += 1
    header = "\r\n".join(top).replace("{boundary}", boundary.decode()).encode()
    preamble = b"This is a report about your message, in MIME format.\r\n"
    opening = b"\r\n--" + boundary + b"\r\n"
    return b"".join(
        [header, b"\r\n\r\n", preamble]
        + [piece for part in body for piece in (opening, part)]
        + [b"\r\n--", boundary, b"--\r\n"]
    )


def _text_part(text: str) -> _Part:
    if text.isascii():
        data = text.replace("\n", "\r\n").encode("ascii")
        return _Part("text/plain; charset=us-ascii", "7bit", data, "What happened")
    data = _quoted_printable(text.encode("utf-8", "replace"))
    return _Part("text/plain; charset=utf-8", "quoted-printable", data, "What happened")


def _status_part(report: Report, hostname: str, utf8: bool) -> _Part:
    text = status_fields(report, hostname, utf8=utf8).replace("\n", "\r\n")
    if utf8:
        return _Part("message/global-delivery-status", "8bit", text.encode(), "Delivery report")
    return _Part("message/delivery-status", "7bit", text.encode("ascii"), "Delivery report")


def _returned(report: Report, head: bytes, utf8: bool) -> _Part | None:
    """The message that the report is about, or its header section (RFC 3461 section 4.3)."""
    about = report.about
    # RET speaks of failures only; a report of anything else returns the header section
    if report.action is Action.FAILED and about.envelope.ret != "HDRS":
        whole = _whole(about, utf8)
        if whole is not None:
            return whole
    if not head:
        return None  # unreadable: the report goes out all the same
    description = "Header section of your message"
    if head.isascii() and _lines_fit(head):
        return _Part("text/rfc822-headers; charset=us-ascii", "7bit", head, description)
    if utf8 and _is_utf8(head) and _lines_fit(head):
        return _Part("message/global-headers", "8bit", head, description)
    charset = "utf-8" if _is_utf8(head) else "unknown-8bit"
    return _Part(
        f"text/rfc822-headers; charset={charset}",
        "quoted-printable",
        _quoted_printable(head.replace(b"\r\n", b"\n")),
        description,
    )


def _whole(about: Message, utf8: bool) -> _Part | None:
    """The whole message, if it is small and can be sent back as it is, else None.

    RFC 2046 section 5.2.1 allows no encoding inside message/rfc822, so an 8-bit message needs an
    8-bit path: we count on one only where the message came over one.
    """
    if about.content.size > MAX_RETURNED or (about.utf8_header and not utf8):
        return None
    if about.eight_bit and not utf8 and about.envelope.body != "8BITMIME":
        return None
    data = _read(about.content, MAX_RETURNED)
    if not data or not _lines_fit(data):
        return None
    kind = "message/global" if about.utf8_header else "message/rfc822"
    return _Part(kind, "7bit" if data.isascii() else "8bit", data, "Your message")


def _beginning(about: Message) -> bytes:
    """The header section; the whole lines of its beginning, where it is larger than MAX_HEADER."""
    head = _read(about.content, min(about.header_size, MAX_HEADER))
    if about.header_size > MAX_HEADER:
        head = head[: head.rfind(b"\r\n") + 2]
    return head


def _read(content: Content, limit: int) -> bytes:
    """The first `limit` octets; empty when the file is gone or damaged."""
    pieces: list[bytes] = []
    size = 0
    try:
        for chunk in content.chunks():
            pieces.append(chunk)
            size += len(chunk)
            if size >= limit:
                break
    except OSError:
        return b""
    return b"".join(pieces)[:limit]


def _known(fields: parsed.Message) -> list[tuple[str, str]]:
    known = []
    for name in _KNOWN_BY:
        value = fields.get(name)
        if value is not None:
            known.append((name, printable(_decoded(str(value)), 200)))
    return known


def _decoded(value: str) -> str:
    """Encoded words made readable (RFC 2047); as they stand where that fails."""
    try:
        text = str(rfc2047.make_header(rfc2047.decode_header(value)))
    except (ValueError, LookupError, MessageError):
        text = value
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _lines_fit(data: bytes) -> bool:
    return max(map(len, data.split(b"\r\n"))) <= MAX_LINE


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _quoted_printable(data: bytes) -> bytes:
    """LF line ends in, CRLF out."""
    return quopri.encodestring(data).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
