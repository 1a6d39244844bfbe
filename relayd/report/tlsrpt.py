"""TLS reports (RFC 8460): what a domain asks for, the JSON, and the mail around it."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from base64 import encodebytes
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from relayd.mail.address import Mailbox
from relayd.mail.value import dataclass

GZIP = "application/tlsrpt+gzip"
_RECORD = re.compile(r"v=TLSRPTv1\s*;(.*)\Z", re.DOTALL)
MOST_URIS = 5


@dataclass(frozen=True, slots=True)
class TlsReports:
    """The setting: from whom, and how mail is signed."""

    address: Mailbox
    selector: str = ""  # of DKIM
    key: Path | None = None  # a private key, PEM; None: not signed

    def signed(self, letter: bytes) -> bytes:
        """With a DKIM-Signature, which section 3 wants.

        Raises OSError, ValueError for the key, ImportError without dkimpy.
        """
        if self.key is None:
            return letter
        import dkim  # only who signs needs it

        try:
            signature = dkim.sign(
                letter,
                self.selector.encode(),
                self.address.domain_key.encode(),
                self.key.read_bytes(),
                canonicalize=(b"relaxed", b"relaxed"),
            )
        except dkim.DKIMException as error:
            raise ValueError(f"{self.key}: {error}") from None
        return bytes(signature) + letter


@dataclass(frozen=True, slots=True)
class TlsReportRow:
    """So many sessions of one day that ended alike. An empty `flaw` is success."""

    kind: str  # of the policy: "tlsa", "sts" or "no-policy-found"
    strings: tuple[str, ...]
    mx: tuple[str, ...]
    flaw: str
    host: str
    address: str
    sender: str
    why: str
    sessions: int


def uris(texts: Sequence[str]) -> tuple[str, ...]:
    """Where the domain wants reports, from the TXT records of _smtp._tls.DOMAIN (section 3).

    Empty: nowhere; also when there are two such records. Only mailto: and https: are taken.
    """
    records = [match for match in map(_RECORD.match, texts) if match]
    if len(records) != 1:
        return ()
    for field in records[0][1].split(";"):
        name, _, value = field.strip().partition("=")
        if name.strip() == "rua":
            found = [each.strip() for each in value.split(",")]
            return tuple(each for each in found if _known(each))[:MOST_URIS]
    return ()


def mailbox_of(uri: str) -> str:
    """The address in a mailto: URI; empty: it is another."""
    scheme, _, rest = uri.partition(":")
    return unquote(rest.partition("?")[0]) if scheme.lower() == "mailto" else ""


def _known(uri: str) -> bool:
    if not uri.isascii() or not uri.isprintable():
        return False
    if mailbox_of(uri):
        return True
    try:
        parts = urlsplit(uri)
        return parts.scheme == "https" and bool(parts.hostname)
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class TlsReport:
    """What one domain is told of one day (UTC)."""

    domain: str
    day: str  # 2026-11-22
    submitter: str  # our hostname
    contact: str  # the address that it is from
    rows: tuple[TlsReportRow, ...]

    @property
    def ident(self) -> str:
        """The same for the same day and domain: who gets it twice can tell."""
        return f"{self.day}T00:00:00Z_{self.domain}@{self.submitter}"

    def document(self) -> Mapping[str, object]:
        """The JSON object of section 4.4."""
        policies: dict[tuple[Any, ...], list[TlsReportRow]] = {}
        for row in self.rows:
            policies.setdefault((row.kind, row.strings, row.mx), []).append(row)
        return {
            "organization-name": self.submitter,
            "date-range": {
                "start-datetime": f"{self.day}T00:00:00Z",
                "end-datetime": f"{self.day}T23:59:59Z",
            },
            "contact-info": self.contact,
            "report-id": self.ident,
            "policies": [_policy(self.domain, rows) for rows in policies.values()],
        }

    def compressed(self) -> bytes:
        """The document as it travels, the same octets every time."""
        return gzip.compress(json.dumps(self.document(), indent=1).encode(), mtime=0)

    @property
    def filename(self) -> str:
        """Section 5.1: submitter, domain, beginning and end in seconds since the epoch."""
        begin = _seconds(self.day)
        unique = f"{zlib.crc32(self.ident.encode()):08x}"
        end = begin + 86399
        return f"{self.submitter}!{self.domain}!{begin}!{end}!{unique}.json.gz"

    def letter(self, to: str, now: float) -> bytes:
        """The mail of section 5.3, header section and body."""
        boundary = f"=_{zlib.crc32(self.compressed()):08x}_tlsrpt"
        failed = sum(row.sessions for row in self.rows if row.flaw)
        sessions = sum(row.sessions for row in self.rows)
        header = [
            f"From: {self.contact}",
            f"To: {to}",
            f"Date: {formatdate(now)}",
            f"Message-ID: <{zlib.crc32(to.encode()):08x}.{self.ident.replace(':', '')}>",
            f"Subject: Report Domain: {self.domain} Submitter: {self.submitter}",
            f" Report-ID: <{self.ident}>",
            f"TLS-Report-Domain: {self.domain}",
            f"TLS-Report-Submitter: {self.submitter}",
            "TLS-Required: No",  # RFC 8689 section 5: just what it tells of may be in its way
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            'Content-Type: multipart/report; report-type="tlsrpt";',
            f' boundary="{boundary}"',
        ]
        body = [
            "",
            f"--{boundary}",
            "Content-Type: text/plain; charset=us-ascii",
            "",
            f"This is a TLS report (RFC 8460) about mail to {self.domain}",
            f"on {self.day} (UTC): {sessions} sessions, {failed} of them with failures.",
            "",
            f"--{boundary}",
            f"Content-Type: {GZIP}",
            "Content-Transfer-Encoding: base64",
            "Content-Disposition: attachment;",
            f' filename="{self.filename}"',
            "",
            *encodebytes(self.compressed()).decode("ascii").split(),
            f"--{boundary}--",
            "",
        ]
        return "\r\n".join([*header, *body]).encode("ascii")


def _seconds(day: str) -> int:
    return int(datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp())


def _policy(domain: str, rows: Sequence[TlsReportRow]) -> Mapping[str, object]:
    first = rows[0]
    policy: dict[str, object] = {"policy-type": first.kind, "policy-domain": domain}
    if first.strings:
        policy["policy-string"] = list(first.strings)
    if first.mx:
        policy["mx-host"] = list(first.mx)
    failures = [row for row in rows if row.flaw]
    found: dict[str, object] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": _sum(row for row in rows if not row.flaw),
            "total-failure-session-count": _sum(failures),
        },
    }
    if failures:
        found["failure-details"] = [_failure(row) for row in failures]
    return found


def _sum(rows: Iterable[TlsReportRow]) -> int:
    return sum(row.sessions for row in rows)


def _failure(row: TlsReportRow) -> Mapping[str, object]:
    found: dict[str, object] = {"result-type": row.flaw}
    if row.sender:
        found["sending-mta-ip"] = row.sender
    if row.host:
        found["receiving-mx-hostname"] = row.host
    if row.address:
        found["receiving-ip"] = row.address
    found["failed-session-count"] = row.sessions
    if row.why:
        found["failure-reason-code"] = row.why
    return found
