"""Writes a report that is owed as the multipart/report message of RFC 6522 and RFC 3464."""

from __future__ import annotations

import hashlib
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
from relayd.mail.message import Message, RecipientState, Submission
from relayd.mail.quotedprintable import quoted_printable
from relayd.mail.reply import printable
from relayd.report.bounce import Action, Report
from relayd.report.encoding import DESCRIPTION, Part, fits, is_utf8, returned_head
from relayd.report.fields import stamp, status_fields
from relayd.report.wording import human_text, subject

MAX_RETURNED = 50 * 1024  # octets of a message returned whole; of a larger one, its header section
MAX_HEADER = 16 * 1024  # octets of a returned header section

# Fields by which the sender knows the message again.
_KNOWN_BY = ("Subject", "Date", "Message-ID")
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,250}>\Z")


@dataclass(frozen=True, slots=True)
class Written:
    """A report as a message: what the spool stores, in one piece."""

    content: bytes
    submission: Submission


def write(
    report: Report,
    *,
    ident: int,
    hostname: str,
    now: float,
    route: Callable[[Mailbox], tuple[Recipient, ...]],
    whole: int = MAX_RETURNED,
) -> Written:
    """The report as the message `ident`, with its envelope; `now` in seconds since the epoch.

    `route` asks the rules where mail of our own for this mailbox goes (nowhere: it is thrown away,
    the ledger knows); a message of up to `whole` octets is returned whole. The report is in 7 bits,
    unless the reverse-path itself needs SMTPUTF8 (then RFC 6533's types and UTF-8 are used) or an
    8-bit original that came by 8BITMIME is returned whole. Where the way back cannot carry that,
    see relayd.report.smaller.
    """
    about = report.about
    routed = route(report.to)
    recipients = routed or (Recipient(report.to, report.to),)
    to = recipients[0].original
    utf8 = to.needs_smtputf8
    head = _beginning(about)
    fields = BytesHeaderParser().parsebytes(head)
    # what requires TLS is told in the last part alone, which can be left out
    known = [] if about.envelope.require_tls else _known(fields)
    parts = [
        _text_part(human_text(report, hostname, known)),
        _status_part(report, hostname, utf8),
    ]
    # what is lost says only there which mail it is about
    most = max(whole, MAX_RETURNED) if report.lost else whole
    returned = _returned(report, head, utf8, most)
    if returned is not None:
        parts.append(returned)
    top = _top(report, to, ident, hostname, now, fields)
    content = _assembled(top, parts, ident)
    eight_bit = not content.isascii()
    header_size = content.index(b"\r\n\r\n") + 4
    return Written(
        content,
        Submission(
            Envelope(
                None,
                body="8BITMIME" if eight_bit else "",
                smtputf8=utf8,
                require_tls=about.envelope.require_tls,  # RFC 8689 section 5
            ),
            Client("", helo=hostname),
            recipients,
            header_size=header_size,
            eight_bit=eight_bit,
            utf8_header=not content[:header_size].isascii(),
            state=RecipientState.QUEUED if routed else RecipientState.DISCARDED,
        ),
    )


def _top(
    report: Report, to: Mailbox, ident: int, hostname: str, now: float, fields: parsed.Message
) -> list[str]:
    utf8 = to.needs_smtputf8
    kind = "global-delivery-status" if utf8 else "delivery-status"
    top = [
        f"Date: {stamp(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{to if utf8 else to.ascii}>",
        f"Subject: {subject(report)}",
        f"Message-ID: <{ident_text(ident)}.{report.kind}@{hostname}>",
    ]
    if not report.about.envelope.require_tls:  # else nothing here tells of the message
        message_id = str(fields.get("Message-ID", "")).strip()
        if _MESSAGE_ID.match(message_id):
            top += [f"In-Reply-To: {message_id}", f"References: {message_id}"]
        if _waives_tls(fields):
            top.append("TLS-Required: No")  # RFC 8689 section 3: this sender wants it to arrive
    return [
        *top,
        "Auto-Submitted: auto-replied",  # RFC 3834 section 5
        "MIME-Version: 1.0",
        f'Content-Type: multipart/report; report-type={kind};\r\n boundary="{{boundary}}"',
    ]


def _assembled(top: list[str], parts: list[Part], ident: int) -> bytes:
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


def _text_part(text: str) -> Part:
    if text.isascii():
        data = text.replace("\n", "\r\n").encode("ascii")
        return Part("text/plain; charset=us-ascii", "7bit", data, "What happened")
    data = quoted_printable(text.encode("utf-8", "replace"))
    return Part("text/plain; charset=utf-8", "quoted-printable", data, "What happened")


def _status_part(report: Report, hostname: str, utf8: bool) -> Part:
    text = status_fields(report, hostname, utf8=utf8).replace("\n", "\r\n")
    if utf8:
        return Part("message/global-delivery-status", "8bit", text.encode(), "Delivery report")
    return Part("message/delivery-status", "7bit", text.encode("ascii"), "Delivery report")


def _returned(report: Report, head: bytes, utf8: bool, most: int) -> Part | None:
    """The message that the report is about, or its header section (RFC 3461 section 4.3)."""
    envelope = report.about.envelope
    # RET speaks of failures only; a report of anything else returns the header section, and so
    # does one about a message that requires TLS (RFC 8689 section 5)
    if report.action is Action.FAILED and envelope.ret != "HDRS" and not envelope.require_tls:
        whole = _whole(report.about, utf8, most)
        if whole is not None:
            return whole
    if not head:
        return None  # unreadable: the report goes out all the same
    if utf8 and not head.isascii() and is_utf8(head) and fits(head):
        return Part("message/global-headers", "8bit", head, DESCRIPTION)
    return returned_head(head)


def _whole(about: Message, utf8: bool, most: int) -> Part | None:
    """The whole message, if it is small and can be sent back as it is, else None.

    RFC 2046 section 5.2.1 allows no encoding inside message/rfc822, so an 8-bit message needs an
    8-bit path: we count on one only where the message came over one.
    """
    if about.content.size > most or (about.utf8_header and not utf8):
        return None
    if about.eight_bit and not utf8 and about.envelope.body != "8BITMIME":
        return None
    data = _read(about.content, most)
    if not data or not fits(data):
        return None
    kind = "message/global" if about.utf8_header else "message/rfc822"
    return Part(kind, "7bit" if data.isascii() else "8bit", data, "Your message")


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


def _waives_tls(fields: parsed.Message) -> bool:
    return str(fields.get("TLS-Required", "")).strip().lower() == "no"


def _known(fields: parsed.Message) -> list[tuple[str, str]]:
    known = []
    first = {name.lower(): value for name, value in reversed(list(fields.raw_items()))}
    for name in _KNOWN_BY:
        value = first.get(name.lower())
        if value is not None:
            text = str(value).encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            known.append((name, printable(_decoded(text), 200)))
    return known


def _decoded(value: str) -> str:
    """Encoded words made readable (RFC 2047); as they stand where that fails."""
    try:
        text = str(rfc2047.make_header(rfc2047.decode_header(value)))
    except (ValueError, LookupError, MessageError):
        text = value
    return " ".join(text.encode("utf-8", "replace").decode().split())
