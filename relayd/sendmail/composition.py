"""A local program's message: its lines, and a header section that lacks nothing."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from typing import BinaryIO

from relayd.sendmail.drop import Site
from relayd.sendmail.order import DATA_ERROR, USAGE, Order, UsageError, fit

MAX_LINE = 1 << 20  # octets; a longer one is cut
_FOLD = 900  # octets of a header line; the wire takes 998

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BARE = re.compile(r"\s*([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+)(\s*\([^()]*\))?\s*\Z")
_TO_QUOTE = re.compile(r"[^A-Za-z0-9 !#$%&\'*+/=?^_`{|}~-]")
_ADDRESS_FIELDS = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")
_ATOMS = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_USUAL = re.compile(
    rf"(?=.{{1,250}}\Z)(?=.{{1,64}}@){_ATOMS}(?:\.{_ATOMS})*@{_LABEL}(?:\.{_LABEL})*\Z"
)
# name-addr of RFC 5322 section 3.4: a name in words or in quotes, and the address
_NAME_ADDR = re.compile(r'(?:"(?:[^"\\\r\n]|\\[^\r\n])*"|[^"<>@\\\r\n\0]+)[ \t]*<([^<>]*)>\Z')
_NOBODY = re.compile(r'[^:;<>@",]*:\s*;\s*\Z')  # an empty group, as "undisclosed-recipients:;"


class InputLines:
    """Standard input as lines, and the end of the message in it."""

    def __init__(self, file: BinaryIO, dots: bool) -> None:
        self._file = file
        self._dots = dots
        self._pushed: bytes | None = None

    def line(self) -> bytes:
        """The next line, up to its LF; empty at the end of the message."""
        if self._pushed is not None:
            line, self._pushed = self._pushed, None
            return line
        line = self._file.readline(MAX_LINE)
        if not line or (self._dots and line in (b".\n", b".\r\n", b".")):
            return b""
        return (line if line[-1:] == b"\n" else line + b"\n").replace(b"\0", b"")

    def push(self, line: bytes) -> None:
        """Give one back."""
        self._pushed = line

    def rest(self) -> Iterator[bytes]:
        """All that is left, in pieces, every line ending in CRLF, whatever ended it."""
        held: list[bytes] = []
        size = 0
        while line := self.line():
            line = _LINE_END.sub(b"\r\n", line)
            held.append(line)
            size += len(line)
            if size > 1 << 16:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join(held)


def section_of(reader: InputLines, most: int) -> list[bytes]:
    """The fields of the header section, each with its CRLF, as far as there is one.

    A CR within a line is a blank: who put it into a subject shall make no field of its rest.
    Raises UsageError if it has more than `most` octets.
    """
    fields: list[bytes] = []
    size = 0
    first = True
    while raw := reader.line():
        line = raw.rstrip(b"\r\n").replace(b"\r", b" ") + b"\r\n"
        if first and line.startswith((b"From ", b">From ")):  # an mbox's separator
            continue
        first = False
        if line == b"\r\n":
            break
        if line[:1] in b" \t" and fields:
            fields[-1] += line
        elif _FIELD.match(line):
            fields.append(line)
        else:  # the body begins without an empty line
            reader.push(raw)
            break
        size += len(line)
        if size > most:
            raise UsageError(DATA_ERROR, f"the header section is larger than {most} octets")
    return fields


def name_of(line: bytes) -> bytes:
    """The name of a field, in small letters; empty: the line is none."""
    match = _FIELD.match(line)
    return match.group(1).lower() if match else b""


def named(section: list[bytes]) -> list[str]:
    """The recipients that the header section names; resent fields go before others."""
    from email.utils import getaddresses

    resent = any(name_of(each).startswith(b"resent-") for each in section)
    names = [b"resent-" + each for each in _RECIPIENT_FIELDS] if resent else _RECIPIENT_FIELDS
    found = []
    for each in section:
        if name_of(each) not in names:
            continue
        name, _, text = each.decode("utf-8", "surrogateescape").replace("\r\n", "").partition(":")
        value = text.strip()
        addresses = [address for _, address in getaddresses([value]) if address]
        plain = not any(mark in value for mark in '<>"():;')
        broken = plain and any(len(item.split()) > 1 for item in value.split(","))
        if broken or (value and not addresses and not _NOBODY.match(value)):
            raise UsageError(DATA_ERROR, f"cannot read the recipients in {name}: {value[:100]!a}")
        found += addresses
    return found


def cleaned(recipients: list[str]) -> Iterator[str]:
    """Addresses as mailx and others pass them: `a, b`, `<a>`, `Ann Other <a>`."""
    for each in recipients:
        parts = [each] if '"' in each else each.split(",")
        for part in parts:
            if address := bare(part):
                yield address


def bare(text: str) -> str:
    """The address alone of `a`, `<a>`, `Ann Other <a>`."""
    text = text.strip(" \t")
    match = _NAME_ADDR.match(text)
    return match[1] if match else text.removeprefix("<").removesuffix(">")


def mailbox(address: str, site: Site, status: int) -> str:
    """The address with our domain if it has none, in the spelling of the book.

    UsageError if relayd could not read it.
    """
    whole = site.qualified(address)
    if not _USUAL.match(whole):
        # only who has one that is out of the ordinary waits for the parser to be loaded
        from relayd.mail.address import Mailbox

        try:
            whole.encode()
            return str(Mailbox.parse(whole))
        except ValueError as error:
            why = "not UTF-8" if isinstance(error, UnicodeError) else str(error)
            raise UsageError(status, f"{address[:300]!a} is no address: {why}") from None
    return whole


def added(section: list[bytes], site: Site, order: Order) -> Iterator[bytes]:
    """The fields that every message has (RFC 5322 section 3.6) and this one lacks."""
    names = {name_of(each) for each in section}
    now = time.time()
    if b"from" not in names:
        address = mailbox(order.sender or site.user, site, USAGE)
        name = order.name or ("" if order.sender else fit(site.name))
        if not name.isascii():
            from email.header import Header

            name = Header(name, "utf-8").encode()
        elif _TO_QUOTE.search(name):
            name = '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
        yield (f"From: {name} <{address}>" if name else f"From: {address}").encode() + b"\r\n"
    if b"date" not in names:
        zone = time.strftime("%z", time.localtime(now))
        at = time.localtime(now)
        day = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")[at.tm_wday]
        months = "JanFebMarAprMayJunJulAugSepOctNovDec"
        month = months[at.tm_mon * 3 - 3 : at.tm_mon * 3]
        clock = f"{at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02}"
        yield f"Date: {day}, {at.tm_mday:02} {month} {at.tm_year} {clock} {zone}\r\n".encode()
    if b"message-id" not in names:
        yield f"Message-ID: <{int(now):x}.{os.urandom(8).hex()}@{site.domain}>\r\n".encode()


def whole(line: bytes, site: Site) -> bytes:
    """The field with our domain behind names that have none, where that is all it holds."""
    if name_of(line).removeprefix(b"resent-") not in _ADDRESS_FIELDS:
        return line
    name, _, value = line.partition(b":")
    try:
        items = [_BARE.match(each) for each in value.decode("ascii").split(",")]
    except UnicodeDecodeError:
        return line
    if not any(items) or b'"' in value or b"<" in value:
        return line
    texts = value.decode("ascii").strip().split(",")
    whole = [
        f"{item[1]}@{site.domain}{item[2] or ''}" if item else text.strip()
        for item, text in zip(items, texts, strict=True)
    ]
    size = sum(map(len, whole)) + 2 * len(whole)
    return name + b": " + (", " if size < _FOLD else ",\r\n ").join(whole).encode() + b"\r\n"
