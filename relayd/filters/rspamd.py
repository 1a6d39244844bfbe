"""rspamd's /checkv2 as a core without sockets: a request's head out, one report in.

HTTP is as much of RFC 9112 as rspamd speaks: an answer ends with its length, its last chunk, or
the connection.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from relayd.filters.milteredits import (
    AddHeader,
    ChangeHeader,
    DeleteHeaders,
    HeaderChange,
    InsertHeader,
)
from relayd.mail.reply import printable

MOST = 4 << 20  # octets of an answer
MOST_SYMBOLS = 1000
MOST_CHANGES = 1000  # of the header section
MOST_HEAD = 64 << 10  # octets of an answer's head
_SIZE_LINE = 256  # octets of a line with the length of a chunk
_LENGTH = re.compile(rb"[0-9]{1,10}\Z")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?\Z", re.DOTALL)
_UNSAFE = re.compile(r"[^\x20-\x7e]+")
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})(?: |\Z)")


class RspamdError(Exception):
    """It answers what nobody understands, or that it cannot say."""


@dataclass(frozen=True, slots=True)
class RspamdReport:
    """What it found."""

    action: str  # "no action", "greylist", "add header", "rewrite subject", "soft reject", "reject"
    score: float
    symbols: frozenset[str]
    message: str = ""  # its own words for a refusal
    changes: tuple[HeaderChange, ...] = ()

    @property
    def word(self) -> str:
        """As a filter's word: reject, defer, quarantine, or nothing."""
        return {
            "reject": "reject",
            "discard": "reject",
            "soft reject": "defer",
            "greylist": "defer",
            "quarantine": "quarantine",
        }.get(self.action, "")


def check_request(host: str, about: Sequence[tuple[str, str]], size: int) -> bytes:
    """The head of a question about a message of so many octets."""
    lines = ["POST /checkv2 HTTP/1.1", f"Host: {host}", f"Content-Length: {size}"]
    lines += [f"{name}: {_UNSAFE.sub('?', value)}" for name, value in about if value]
    return ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode("ascii")


class RspamdAnswer:
    """Reads the one answer of a connection; each octet once, however it comes."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._looked = 0  # octets in which the head does not end
        self._status: bytes | None = None  # the first line, once the head is whole
        self._fields: Mapping[bytes, bytes] = {}
        self._body = 0  # where the body, or its next chunk, begins
        self._chunks: list[bytes] = []

    def feed(self, data: bytes) -> RspamdReport | None:
        """The report, once it is whole. Raises RspamdError."""
        self._data += data
        if len(self._data) > MOST:
            raise RspamdError("an answer without an end")
        return self._report(over=False)

    def ended(self) -> RspamdReport | None:
        """The connection is over: the report, if that was all of it. Raises RspamdError."""
        return self._report(over=True)

    def _report(self, *, over: bool) -> RspamdReport | None:
        if self._status is None:
            self._read_head()
        status = self._status
        if status is None:
            return None
        whole = self._whole(over=over)
        if b" 200" not in status[:12]:
            if whole is None and not over:
                return None
            raise RspamdError(printable((status + b" " + (whole or b"")).decode("latin-1"), 200))
        return None if whole is None else report_of(whole)

    def _read_head(self) -> None:
        end = self._data.find(b"\r\n\r\n", self._looked)
        self._looked = max(len(self._data) - 3, 0)
        if end < 0:
            if len(self._data) > MOST_HEAD:
                raise RspamdError("a head without an end")
            return
        status, *lines = bytes(self._data[:end]).split(b"\r\n")
        if _STATUS.match(status) is None:
            raise RspamdError(f"it says {printable(status.decode('latin-1'), 80)!r}")
        self._fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(b":") for line in lines)
        }
        self._status, self._body = status, end + 4

    def _whole(self, *, over: bool) -> bytes | None:
        """The whole body; None: there is more to come."""
        if self._fields.get(b"transfer-encoding", b"").lower() == b"chunked":
            return self._unchunked()
        length = self._fields.get(b"content-length")
        if length is None:
            return bytes(self._data[self._body :]) if over else None
        if _LENGTH.match(length) is None:
            raise RspamdError("a length that is no number")
        end = self._body + int(length)
        return bytes(self._data[self._body : end]) if len(self._data) >= end else None

    def _unchunked(self) -> bytes | None:
        while True:
            end = self._data.find(b"\r\n", self._body, self._body + _SIZE_LINE)
            if end < 0:
                if len(self._data) - self._body >= _SIZE_LINE:
                    raise RspamdError("a chunk without a length")
                return None
            size = _CHUNK_SIZE.match(self._data, self._body, end)
            if size is None:
                raise RspamdError("a chunk without a length")
            octets = int(size[1], 16)
            if octets == 0:
                return b"".join(self._chunks)
            start = end + 2
            if len(self._data) < start + octets + 2:
                return None
            self._chunks.append(bytes(self._data[start : start + octets]))
            self._body = start + octets + 2


def report_of(body: bytes) -> RspamdReport:
    """What the JSON says. Raises RspamdError."""
    try:
        said = json.loads(body)
        score = float(said.get("score", 0.0))
        symbols = [str(each) for each in said.get("symbols") or {}][:MOST_SYMBOLS]
        messages = said.get("messages")
        message = messages.get("smtp_message", "") if isinstance(messages, dict) else ""
        if not math.isfinite(score) or not isinstance(said["action"], str):
            raise ValueError
        changes = tuple(islice(_changes(said), MOST_CHANGES + 1))
        if len(changes) > MOST_CHANGES:
            raise ValueError
        return RspamdReport(
            printable(said["action"], 40),
            score,
            frozenset(symbols),
            printable(str(message), 400),
            changes,
        )
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        raise RspamdError(f"it says {printable(body[:80].decode('latin-1'))!r}") from None


def _changes(said: Mapping[str, Any]) -> Iterator[HeaderChange]:
    milter = said.get("milter") or {}
    for name, which in (milter.get("remove_headers") or {}).items():
        for number in which if isinstance(which, list) else [which]:
            if int(number) > 0:
                yield ChangeHeader(int(number), str(name), "")
            else:
                yield DeleteHeaders(str(name))
    for name, values in (milter.get("add_headers") or {}).items():
        for each in values if isinstance(values, list) else [values]:
            value, order = (
                (each["value"], each.get("order")) if isinstance(each, dict) else (each, None)
            )
            if order is None or int(order) < 0:
                yield AddHeader(str(name), str(value))
            else:
                yield InsertHeader(int(order) + 1, str(name), str(value))  # ours is the first
    if said.get("action") == "rewrite subject" and isinstance(said.get("subject"), str):
        yield ChangeHeader(1, "Subject", said["subject"])
    signature = said.get("dkim-signature")
    for value in [signature] if isinstance(signature, str) else signature or []:
        yield InsertHeader(1, "DKIM-Signature", str(value))
