"""sendmail(8) for local programs: makes a message of what it is given and leaves it for relayd.

Every message goes into the drop folder of the spool, whether relayd runs or not: one way, which
is durable, needs no connection, no set-uid and no set-gid bit (so it also works for services that
systemd runs with NoNewPrivileges), and lets the kernel say who sent it. relayd takes it up within
a second (intake/pickup.py). Nothing but the standard library, and little of that: it starts in a
blink.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from relayd.ops.drop import Drop, Site

MAX_RECIPIENTS = 500  # in one file; more are spread over several
MAX_LINE = 1 << 20  # octets; a longer one is cut
MAX_SECTION = 1 << 20  # octets of a header section

OK, USAGE, DATA_ERROR, NO_INPUT, CANNOT_CREATE, TRY_AGAIN = 0, 64, 65, 66, 73, 75  # sysexits.h

_FIELD = re.compile(rb"([!-9;-~]+)[ \t]*:")
_LINE_END = re.compile(rb"\r\n|\r|\n")
_BARE = re.compile(r"\s*([A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+)(\s*\([^()]*\))?\s*\Z")
_TO_QUOTE = re.compile(r"[^A-Za-z0-9 !#$%&\'*+/=?^_`{|}~-]")
_ADDRESS_FIELDS = (b"from", b"sender", b"reply-to", b"to", b"cc", b"bcc")
_RECIPIENT_FIELDS = (b"to", b"cc", b"bcc")


class UsageError(Exception):
    """What was asked cannot be done; `status` is the exit status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Order:
    """The command line."""

    mode: str = "m"  # m: a message; p: the queue; s: SMTP; i: newaliases; d, q, v ...
    sender: str | None = None
    name: str = ""  # full name, -F
    from_header: bool = False  # -t
    dots: bool = True  # a line with a dot alone ends the message
    recipients: list[str] = field(default_factory=list)
    body: str = ""
    ret: str = ""
    envid: str = ""
    notify: list[str] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run as sendmail, mailq or newaliases, by the name it is called; returns the exit status."""
    called = os.path.basename(sys.argv[0])  # noqa: PTH119 - pathlib takes half of our start time
    try:
        order = read_order(sys.argv[1:] if arguments is None else arguments)
        mode = {"mailq": "p", "newaliases": "i"}.get(called, order.mode)
        return _MODES.get(mode, _unsupported)(order)
    except UsageError as error:
        sys.stderr.write(f"{called or 'sendmail'}: {error}\n")
        return error.status
    except OSError as error:
        sys.stderr.write(f"{called or 'sendmail'}: cannot leave the message for relayd: {error}\n")
        return TRY_AGAIN


# the command line: sendmail's own, not getopt's

_WITH_VALUE = "BCDdFfhLNOoRrVXM"
_ATTACHED = "Aeq"  # a value only if it is attached
_ALONE = "GimntUvIxJ"


def read_order(arguments: list[str]) -> Order:
    """What the command line asks for; raises UsageError."""
    order = Order()
    words = iter(arguments)
    for word in words:
        if word == "--":
            order.recipients += words
        elif len(word) > 1 and word[0] == "-":
            _option(order, word[1], word[2:], words)
        else:
            order.recipients.append(word)
    return order


def _option(order: Order, letter: str, rest: str, words: Iterator[str]) -> None:
    if letter == "b":
        order.mode = rest[:1] or "m"
    elif letter == "q":
        order.mode = "q"
    elif letter == "o":  # -oi, -oem and the like; of all of them only -oi matters
        order.dots = order.dots and rest != "i"
    elif letter in _WITH_VALUE:
        value = rest or next(words, None)
        if value is None and letter not in "d":
            raise UsageError(USAGE, f"option -{letter} wants a value")
        _valued(order, letter, value or "")
    elif letter in _ALONE:
        for each in letter + rest:  # -ti
            if each == "t":
                order.from_header = True
            elif each == "i":
                order.dots = False
            elif each == "I":
                order.mode = "i"
            elif each not in _ALONE:
                raise UsageError(USAGE, f"unknown option -{each}")
    elif letter not in _ATTACHED:
        raise UsageError(USAGE, f"unknown option -{letter}")


def _valued(order: Order, letter: str, value: str) -> None:
    if letter in "fr":
        order.sender = value.strip().removeprefix("<").removesuffix(">")
    elif letter == "F":
        order.name = value
    elif letter == "B":
        order.body = value.upper() if value.upper() in ("7BIT", "8BITMIME") else ""
    elif letter == "R":
        order.ret = {"full": "FULL", "hdrs": "HDRS"}.get(value.lower(), "")
    elif letter == "V":
        order.envid = "".join(each for each in value if " " <= each <= "~")[:100]
    elif letter == "N":
        known = {"never": "NEVER", "success": "SUCCESS", "failure": "FAILURE", "delay": "DELAY"}
        order.notify = [known[each] for each in value.lower().split(",") if each in known]
        if "NEVER" in order.notify:
            order.notify = ["NEVER"]


# what to do


def _message(order: Order) -> int:
    site = Site.here()
    reader = _Lines(sys.stdin.buffer, order.dots)
    recipients = order.recipients
    section = _section(reader)
    if order.from_header:
        # with -t, what the command line names is added (Postfix, exim's default differs)
        recipients = [*recipients, *_named(section)]
        section = [each for each in section if _name(each) != b"bcc"]
    recipients = list(dict.fromkeys(site.qualified(each) for each in _cleaned(recipients)))
    if not recipients:
        raise UsageError(USAGE, "no recipients")
    sender = order.sender
    if sender is None:
        sender = site.user
    sender = site.qualified(sender) if sender else ""
    head = b"".join([*_added(section, site, order), *(_whole(each, site) for each in section)])
    slips = [
        {
            "relayd": 1,
            "sender": sender,
            "recipients": recipients[start : start + MAX_RECIPIENTS],
            "body": order.body,
            "ret": order.ret,
            "envid": order.envid,
            "notify": order.notify,
        }
        for start in range(0, len(recipients), MAX_RECIPIENTS)
    ]
    drops = [Drop(site.folder, slip) for slip in slips]
    try:
        _pour(drops, head + b"\r\n")
        for chunk in reader.rest():
            _pour(drops, chunk)
        for drop in drops:
            drop.commit()
    finally:
        for drop in drops:
            drop.rollback()
    return OK


def _pour(drops: list[Drop], data: bytes) -> None:
    for drop in drops:
        drop.write(data)


def _queue(_order: Order) -> int:
    from relayd.ops.relayctl import main as relayctl

    return relayctl(["queue"])


def _aliases(_order: Order) -> int:
    """There is no database to make: a running relayd reads its tables again."""
    from relayd.ops.client import Daemon, DaemonError, NotRunningError
    from relayd.ops.relayctl import DEFAULT_CONFIG, FailureError, socket_of

    try:
        Daemon(socket_of(DEFAULT_CONFIG)).answer("reload")
    except (NotRunningError, FailureError):
        return OK  # it reads them when it starts
    except DaemonError as error:
        raise UsageError(CANNOT_CREATE, str(error)) from None
    return OK


def _smtp(_order: Order) -> int:
    from relayd.ops.dialogue import converse

    site = Site.here()
    return converse(sys.stdin.fileno(), sys.stdout.fileno(), site.folder, site.domain)


def _nothing(_order: Order) -> int:
    return OK  # -q: relayd minds its queue by itself


def _unsupported(order: Order) -> int:
    raise UsageError(USAGE, f"mode -b{order.mode} is not relayd's: it runs as a service")


_MODES = {"m": _message, "p": _queue, "i": _aliases, "s": _smtp, "q": _nothing}


# the message


class _Lines:
    """Standard input as lines that end in CRLF, whatever ended them."""

    def __init__(self, file: BinaryIO, dots: bool) -> None:
        self._file = file
        self._dots = dots
        self._pushed: bytes | None = None

    def line(self) -> bytes:
        """The next line; empty at the end of the message."""
        if self._pushed is not None:
            line, self._pushed = self._pushed, None
            return line
        line = self._file.readline(MAX_LINE)
        if not line or (self._dots and line in (b".\n", b".\r\n", b".")):
            return b""
        whole = line if line[-1:] == b"\n" else line + b"\n"
        return _LINE_END.sub(b"\r\n", whole.replace(b"\0", b""))

    def push(self, line: bytes) -> None:
        """Give one back."""
        self._pushed = line

    def rest(self) -> Iterator[bytes]:
        """All that is left, in pieces."""
        held: list[bytes] = []
        size = 0
        while line := self.line():
            held.append(line)
            size += len(line)
            if size > 1 << 16:
                yield b"".join(held)
                held, size = [], 0
        yield b"".join(held)


def _section(reader: _Lines) -> list[bytes]:
    """The fields of the header section, each with its CRLF, as far as there is one."""
    fields: list[bytes] = []
    size = 0
    first = True
    while line := reader.line():
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
            reader.push(line)
            break
        size += len(line)
        if size > MAX_SECTION:
            raise UsageError(DATA_ERROR, "the header section is too large")
    return fields


def _name(line: bytes) -> bytes:
    match = _FIELD.match(line)
    return match.group(1).lower() if match else b""


def _named(section: list[bytes]) -> list[str]:
    """The recipients that the header section names; resent fields go before others."""
    from email.utils import getaddresses

    resent = any(_name(each).startswith(b"resent-") for each in section)
    names = [b"resent-" + each for each in _RECIPIENT_FIELDS] if resent else _RECIPIENT_FIELDS
    values = [
        each.partition(b":")[2].decode("utf-8", "surrogateescape").replace("\r\n", "")
        for each in section
        if _name(each) in names
    ]
    return [address for _, address in getaddresses(values) if address]


def _cleaned(recipients: list[str]) -> Iterator[str]:
    """Addresses as mailx and others pass them: `a, b`, `<a>`."""
    for each in recipients:
        parts = [each] if '"' in each else each.split(",")
        for part in parts:
            address = part.strip().removeprefix("<").removesuffix(">")
            if not address:
                continue
            try:
                address.encode()
            except UnicodeEncodeError:
                raise UsageError(DATA_ERROR, f"{address!a} is not UTF-8") from None
            yield address


def _added(section: list[bytes], site: Site, order: Order) -> Iterator[bytes]:
    """The fields that every message has (RFC 5322 section 3.6) and this one lacks."""
    names = {_name(each) for each in section}
    now = time.time()
    if b"from" not in names:
        address = site.qualified(order.sender or site.user)
        name = order.name or ("" if order.sender else site.name)
        if not name.isascii():
            from email.header import Header

            name = Header(name, "utf-8").encode()
        elif _TO_QUOTE.search(name):
            name = '"' + re.sub(r'(["\\])', r"\\\1", re.sub(r"[\x00-\x1f\x7f]", " ", name)) + '"'
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


def _whole(line: bytes, site: Site) -> bytes:
    """The field with our domain behind names that have none, where that is all it holds."""
    if _name(line).removeprefix(b"resent-") not in _ADDRESS_FIELDS:
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
    return name + b": " + ", ".join(whole).encode() + b"\r\n"


if __name__ == "__main__":
    sys.exit(main())
