"""The machine-readable part of a report: the fields of RFC 3464, RFC 6533 for UTF-8 addresses."""

from __future__ import annotations

import ipaddress
import re
from datetime import UTC, datetime

from relayd.mail.address import AddressError, Mailbox, check_domain
from relayd.mail.envelope import Recipient
from relayd.mail.outcome import Outcome
from relayd.mail.reply import printable
from relayd.report.bounce import Action, Report, ReportedRecipient

MAX_DIAGNOSTIC = 1024  # characters of a remote server's words
MAX_DIAGNOSTICS = 96 * 1024  # ... of all that one report quotes
_FOLD = 76  # columns after which a long field is folded at a space
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9\-]{1,32}\Z")
# QCHAR of RFC 6533 section 3: what a 7-bit UTF-8 address may hold as it is
_QCHAR_NOT = re.compile(r"[^!-*,-<>-\[\]-~]")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def stamp(seconds: float) -> str:
    """A date-time of RFC 5322 section 3.3, in UTC; `seconds` since the epoch."""
    at = datetime.fromtimestamp(seconds, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day} {_MONTHS[at.month - 1]} {at:%Y %H:%M:%S} +0000"


def status_fields(report: Report, hostname: str, *, utf8: bool) -> str:
    """The whole part: one group about the message, then one for each recipient, LF line ends."""
    about = report.about
    message = [f"Reporting-MTA: dns; {hostname}"]
    if about.envelope.envid:
        message.insert(0, f"Original-Envelope-Id: {_safe(about.envelope.envid, utf8)}")
    message.append(f"X-Relayd-ID: {about}")
    message.append(f"Arrival-Date: {stamp(about.received_at)}")
    groups = ["\n".join(message)]
    most = min(MAX_DIAGNOSTIC, MAX_DIAGNOSTICS // len(report.entries))
    groups += ["\n".join(_entry_fields(report, entry, utf8, most)) for entry in report.entries]
    return "\n\n".join(groups) + "\n"


def _entry_fields(report: Report, entry: ReportedRecipient, utf8: bool, most: int) -> list[str]:
    fields = []
    original = original_recipient(entry.recipient, utf8=utf8)
    if original:
        fields.append(f"Original-Recipient: {original}")
    fields.append(f"Final-Recipient: {typed_address(entry.recipient.mailbox, utf8=utf8)}")
    fields.append(f"Action: {report.action.value}")
    fields.append(f"Status: {status(report.action, entry)}")
    outcome = entry.outcome
    if outcome is not None and report.action is not Action.EXPANDED:
        host = remote_name(outcome)
        if host:
            fields.append(f"Remote-MTA: dns; {host}")
        # our own words are no SMTP reply: nobody sent them
        kind = "smtp" if host else "X-Relayd"
        words = _safe(str(outcome.reply), utf8, most)
        fields.append(_folded(f"Diagnostic-Code: {kind}; {words}"))
    if entry.attempted_at:
        fields.append(f"Last-Attempt-Date: {stamp(entry.attempted_at)}")
    if report.retry_until:
        fields.append(f"Will-Retry-Until: {stamp(report.retry_until)}")
    return fields


def status(action: Action, entry: ReportedRecipient) -> str:
    """The Status field (RFC 3464 section 2.3.4): its class always fits the action."""
    if entry.expired:
        return "4.4.7"  # RFC 3463: delivery time expired
    wanted = {Action.FAILED: "5", Action.DELAYED: "4"}.get(action, "2")
    if entry.outcome is None:
        return f"{wanted}.1.5" if wanted == "2" else f"{wanted}.0.0"
    return wanted + entry.outcome.reply.status[1:]


def typed_address(mailbox: Mailbox, *, utf8: bool) -> str:
    """`rfc822; user@example.com`, or the `utf-8` type where ASCII does not do."""
    if not mailbox.needs_smtputf8:
        return f"rfc822; {_ascii(mailbox)}"
    text = printable(str(mailbox))
    return f"utf-8; {text if utf8 else enquoted(text)}"


def original_recipient(recipient: Recipient, *, utf8: bool) -> str:
    """The ORCPT that the client gave; else the address it gave, where rules changed that."""
    kind, semicolon, address = recipient.orcpt.partition(";")
    if semicolon and address and _ADDRESS_TYPE.match(kind):
        safe = printable(address)
        if not utf8 and not safe.isascii():
            safe = enquoted(safe) if kind.lower() == "utf-8" else _safe(safe, utf8)
        return f"{kind};{safe}"
    if recipient.original != recipient.mailbox and not recipient.bcc:
        return typed_address(recipient.original, utf8=utf8)
    return ""


def remote_name(outcome: Outcome) -> str:
    """The remote server's name if it is one that the outside may see, else empty."""
    name = outcome.remote_mta
    try:
        number = ipaddress.ip_address(name)
        return f"[IPv6:{number}]" if number.version == 6 else f"[{number}]"
    except ValueError:
        pass
    try:
        check_domain(name)
    except AddressError:
        return ""  # nobody spoke, or a socket of ours
    return name


def _ascii(mailbox: Mailbox) -> str:
    try:
        return mailbox.ascii
    except AddressError:
        return str(mailbox).encode("ascii", "replace").decode()


def enquoted(address: str) -> str:
    """utf-8-addr-xtext of RFC 6533 section 3."""
    return _QCHAR_NOT.sub(lambda match: f"\\x{{{ord(match.group()):02X}}}", address)


def _safe(text: str, utf8: bool, limit: int = 512) -> str:
    """One line of text, in ASCII unless UTF-8 is allowed."""
    text = printable(text, limit)
    if utf8:
        return text.encode("utf-8", "replace").decode()
    return text.encode("ascii", "backslashreplace").decode()


def _folded(field: str) -> str:
    """Folded at spaces (RFC 5322 section 2.2.3); a word longer than a line may be is broken."""
    lines, line = [], ""
    for word in field.split():
        while len(word) > 900:
            lines.append(line or word[:900])
            line, word = ("", word) if line else ("", word[900:])
        if line and len(line) + 1 + len(word) > _FOLD:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    return "\n ".join(lines)
