"""Takes up the mail that local programs have left in the drop folder (see ops/sendmail.py).

Nothing in the folder is trusted. Any local user may put files there, nobody but us may list or
read them: the folder is ours, mode 3733, so that files in it get our group and only we and who
made one may remove it. The kernel says who made it; all else a file says is parsed strictly.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.intake.reception import Premises, Reception
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import REFUSED
from relayd.mail.plan import Destination, Plan, Verdict
from relayd.mail.reply import Reply, Severity
from relayd.rules.evaluate import WELCOME, Facts, evaluate
from relayd.rules.ruleset import Ruleset
from relayd.smtp import events

FOLDER = "drop"
SET_ASIDE = "drop-damaged"  # beside it; for inspection
READY = ".mail"  # how the name of a whole file ends
PERIOD = 1.0  # seconds between two looks
AFTER_TROUBLE = 10.0  # ... when mail has to wait
BATCH = 50  # files taken up in one look
MAX_ENVELOPE = 1 << 20  # octets
MAX_RECIPIENTS = 1000
_CHUNK = 1 << 16  # octets read at a time
_BREATH = 1 << 20  # octets after which others get a turn
_UNLIMITED = 1 << 30
_OFFENCE = re.compile(rb"\r(?!\n)|(?<!\r)\n|\0")
_NAMES = {"relayd", "sender", "recipients", "body", "ret", "envid", "notify"}
_NOTIFY = {"NEVER", "SUCCESS", "FAILURE", "DELAY"}
_ENVID = re.compile(r"[ -~]{0,100}\Z")


class DamagedError(Exception):
    """The file cannot become a message, now or ever."""


class LaterError(Exception):
    """We cannot take it now."""


@dataclass(frozen=True, slots=True)
class Slip:
    """The envelope on the first line of a file."""

    sender: ReversePath
    recipients: tuple[Mailbox, ...]
    params: events.MailParams
    notify: frozenset[str]


def read_slip(line: bytes, hostname: str) -> Slip:
    """The envelope as JSON; what has no domain gets `hostname`. Raises DamagedError."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict) or not found.keys() <= _NAMES or found["relayd"] != 1:
            raise DamagedError("the first line is no envelope")
        sender, recipients = found["sender"], found["recipients"]
        texts = [found.get(name, "") for name in ("body", "ret", "envid")]
        notify = found.get("notify", [])
        if not isinstance(recipients, list) or not isinstance(notify, list):
            raise DamagedError("recipients or notify is no list")
        if not all(isinstance(each, str) for each in [sender, *recipients, *texts, *notify]):
            raise DamagedError("the envelope holds something else than text")
        path = _mailbox(sender, hostname) if sender else None
        mailboxes = tuple(dict.fromkeys(_mailbox(each, hostname) for each in recipients))
    except (ValueError, KeyError, RecursionError) as error:  # AddressError is a ValueError
        raise DamagedError(f"unreadable envelope: {error}") from None
    body, ret, envid = texts
    if body not in ("", "7BIT", "8BITMIME") or ret not in ("", "FULL", "HDRS"):
        raise DamagedError("unknown body or ret")
    if not set(notify) <= _NOTIFY or ("NEVER" in notify and len(set(notify)) > 1):
        raise DamagedError("unknown notify")
    if not _ENVID.match(envid):
        raise DamagedError("malformed envid")
    if not 0 < len(mailboxes) <= MAX_RECIPIENTS:
        raise DamagedError(f"{len(mailboxes)} recipients, expected 1 to {MAX_RECIPIENTS}")
    utf8 = any(each.needs_smtputf8 for each in (*mailboxes, *([path] if path else [])))
    params = events.MailParams(body=body, ret=ret, envid=envid, smtputf8=utf8)
    return Slip(path, mailboxes, params, frozenset(notify))


def _mailbox(text: str, hostname: str) -> Mailbox:
    text.encode()  # half of a surrogate pair, which JSON can spell, is a ValueError
    return Mailbox.parse(text if "@" in text else f"{text}@{hostname}")


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """The content from here on, ending in CRLF; raises DamagedError for other line ends."""
    held, last = b"", b""
    while chunk := file.read(_CHUNK):
        data = held + chunk
        held = b"\r" if data.endswith(b"\r") else b""
        data = data[: len(data) - len(held)]
        if _OFFENCE.search(data):
            raise DamagedError("a bare CR, a bare LF or a NUL in the content")
        last = data[-2:] or last
        yield data
    if held:
        raise DamagedError("a bare CR at the end of the content")
    if last != b"\r\n":
        yield b"\r\n"


def admit(ruleset: Ruleset, facts: Facts) -> Plan:
    """As the rules decide; but there is no client to hear 5xx, so a report will tell the sender.

    The recipient is taken over with the refusal as its fate: it is written down in the same
    transaction as the message, and goes the way of every failed delivery.
    """
    plan = evaluate(ruleset, facts)
    if plan.verdict is not Verdict.REFUSE or plan.reply.severity is not Severity.PERMANENT:
        return plan
    nowhere = Destination(facts.recipient, f"{REFUSED}{plan.reply}", facts.sender)
    return Plan(Verdict.ACCEPT, WELCOME, (nowhere,), plan.trail)


class Pickup:
    """Looks into the folder every second, and takes up one file after the other.

    A file goes after its message is committed: if we die in between it is taken up twice.
    """

    def __init__(
        self, reactor: IReactorTime, spool: Path, premises: Premises, hostname: str, size: int
    ) -> None:
        self._reactor = reactor
        self._folder = spool / FOLDER
        self._aside = spool / SET_ASIDE
        limits = replace(premises.limits, recipients=_UNLIMITED, destinations=_UNLIMITED)
        self._premises = replace(premises, decide=admit, limits=limits)
        self._log = premises.log
        self._hostname = hostname
        self.size = size  # octets that a message may have
        self._stuck: set[str] = set()  # what can be neither taken nor moved, and was logged
        self._call: IDelayedCall | None = None
        self._looking: Deferred[None] | None = None
        self._stopping = False

    def start(self) -> None:
        """From now on. Without the folder (made by whoever installs us) there is nothing to do."""
        if self._folder.is_dir():
            self._call = self._reactor.callLater(0, self._look)

    async def stop(self) -> None:
        """The file in hand is finished, the others wait for the next start."""
        self._stopping = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        if self._looking is not None:
            await self._looking

    def _look(self) -> None:
        self._looking = Deferred.fromCoroutine(self._take_all())
        self._looking.addErrback(lambda why: self._log.trouble("drop folder", why=str(why.value)))

    async def _take_all(self) -> None:
        pause = PERIOD
        try:
            for name in self._names():
                if self._stopping:
                    return
                await self._take(name)
        except (LaterError, OSError) as error:
            self._log.trouble("drop folder", why=str(error))
            pause = AFTER_TROUBLE
        finally:
            if not self._stopping:
                self._call = self._reactor.callLater(pause, self._look)

    def _names(self) -> list[str]:
        found = []
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if entry.name.endswith(READY) and entry.name not in self._stuck:
                    found.append(entry.name)
                    if len(found) >= BATCH:
                        break
        return sorted(found)

    async def _take(self, name: str) -> None:
        path = self._folder / name
        try:
            with self._opened(path) as file:
                await self._receive(file, os.fstat(file.fileno()).st_uid)
            path.unlink()
        except FileNotFoundError:
            return  # its owner has thought better of it
        except DamagedError as error:
            self._set_aside(path, str(error))

    def _opened(self, path: Path) -> BinaryIO:
        try:
            # not through a link, and not waiting for the other end of a pipe
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file = os.fdopen(os.open(path, flags), "rb")
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENXIO):
                raise DamagedError(f"cannot be read: {error.strerror}") from None
            raise
        found = os.fstat(file.fileno())
        ours = found.st_gid == self._folder.stat().st_gid  # so it was made here, not linked
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or not ours:
            file.close()
            raise DamagedError("no plain file that was made here")
        if found.st_size > self.size + MAX_ENVELOPE:
            file.close()
            raise DamagedError(f"larger than message-size ({self.size} octets)")
        return file

    async def _receive(self, file: BinaryIO, uid: int) -> None:
        """The message as any other, from this host; when it returns it is committed."""
        slip = read_slip(file.readline(MAX_ENVELOPE), self._hostname)
        client = Client("127.0.0.1", listener=FOLDER, helo=f"uid-{uid}.localhost", protocol="ESMTP")
        reception = Reception(self._premises, client)
        try:
            _check(reception.receive(events.Mail(slip.sender, slip.params)))
            for mailbox in slip.recipients:
                _check(reception.receive(events.Rcpt(mailbox, events.RcptParams(slip.notify))))
            _check(reception.receive(events.Data(bdat=False)))
            size = breath = 0
            for piece in pieces(file):
                reception.content(piece)
                size += len(piece)
                if size > self.size:
                    raise DamagedError(f"larger than message-size ({self.size} octets)")
                if size - breath >= _BREATH:
                    breath = size
                    await self._turn()
            _check(await reception.end_of_content())
        finally:
            reception.rollback()

    def _turn(self) -> Deferred[None]:
        turn: Deferred[None] = Deferred()
        self._reactor.callLater(0, turn.callback, None)
        return turn

    def _set_aside(self, path: Path, why: str) -> None:
        try:
            self._aside.mkdir(mode=0o700, exist_ok=True)
            path.rename(self._aside / path.name)
        except OSError as error:  # another user's folder, say
            self._stuck.add(path.name)
            why = f"{why}; and it cannot be set aside: {error.strerror}"
        owner = ""
        with contextlib.suppress(OSError):
            owner = str((self._aside / path.name).lstat().st_uid)
        self._log.trouble("drop set aside", file=path.name, uid=owner, why=why)


def _check(reply: Reply | None) -> None:
    if reply is None or reply.code < 400:
        return
    if reply.severity is Severity.PERMANENT:
        raise DamagedError(str(reply))
    raise LaterError(str(reply))
