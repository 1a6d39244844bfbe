"""What the operator has told to wait: a destination, a provider, a sender, a login.

A destination or a provider is a matter of lanes: nothing in them is touched until the time is up,
however much waits, or comes meanwhile. A sender or a login is one of messages: each is put off to
that time when its turn comes. All workers of a relayd hold the same list, which is kept in the
spool.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from relayd.mail.address import AddressError, Mailbox, fold_domain
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import domain_of, is_direct
from relayd.mail.log import MailLog
from relayd.mail.message import Record
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Reply, printable
from relayd.mail.value import dataclass
from relayd.relay.sites import SendingSite

DESTINATION, PROVIDER, SENDER, LOGIN = "destination", "provider", "sender", "login"
KINDS = (DESTINATION, PROVIDER, SENDER, LOGIN)
FILE = "suspended"
_MOST = 1000


@dataclass(frozen=True, slots=True)
class Suspension:
    """One of them. Times are seconds since the epoch."""

    kind: str
    whom: str
    until: float
    reason: str = ""
    by: str = ""
    since: float = 0.0

    @property
    def outcome(self) -> Outcome:
        """What is said of the mail that waits."""
        reason = f": {self.reason}" if self.reason else ""
        text = printable(f"{self._front}by the operator{reason}")
        return Outcome(Reply.of(450, "4.7.0", text), blame=Blame.RECIPIENT)

    @property
    def said(self) -> str:
        """How each reply begins that it has left in the queue."""
        return f"450 4.7.0 {self._front}"

    @property
    def _front(self) -> str:
        return printable(f"Suspended ({self.kind} {self.whom}) ", 300) + " "

    def document(self) -> dict[str, object]:
        """For the operator, and for the file."""
        return {
            "kind": self.kind,
            "whom": self.whom,
            "until": self.until,
            "reason": self.reason,
            "by": self.by,
            "since": self.since,
        }


class Suspensions:
    """All that are in force. `told` are called when something has changed."""

    def __init__(self, folder: Path | None, log: MailLog, now: Callable[[], float]) -> None:
        """`folder`: the spool's; None: they do not outlive a restart."""
        self._path = folder / FILE if folder is not None else None
        self._log = log
        self._now = now
        self._known: dict[tuple[str, str], Suspension] = {}
        self.ended = 0  # how many an operator has, before their time
        self.of_messages = False  # some are not a matter of lanes alone
        self.told: list[Callable[[], None]] = []

    def load(self) -> None:
        """What was in force before the restart."""
        if self._path is None:
            return
        try:
            found = json.loads(self._path.read_text())
            for each in found:
                one = Suspension(**{str(name): each[name] for name in each})
                one = replace(one, until=float(one.until))
                if one.kind in KINDS and self._now() < one.until:
                    self._known[one.kind, one.whom] = one
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            self._log.trouble("suspensions not read", file=str(self._path), why=str(error))
        self._changed()

    def suspend(self, one: Suspension) -> None:
        """From now on; raises ValueError and OSError."""
        key = one.kind, _folded(one.kind, one.whom)
        if key not in self._known and len(self._known) >= _MOST:
            raise ValueError(f"{_MOST} are suspended already")
        before = dict(self._known)
        self._known[key] = Suspension(key[0], key[1], one.until, one.reason, one.by, one.since)
        self._kept_or(before)

    def resume(self, kind: str = "", whom: str = "") -> list[Suspension]:
        """End these (of no kind: all), and say which they were; raises OSError."""
        ended = [
            one
            for key, one in self._known.items()
            if not kind or key == (kind, _folded(kind, whom))
        ]
        before = dict(self._known)
        for one in ended:
            del self._known[one.kind, one.whom]
        self._kept_or(before)
        self.ended += len(ended)
        return ended

    def begin(self, found: Mapping[str, Any]) -> None:
        """`suspend`, for who has it as a document."""
        self.suspend(Suspension(**found))

    def end(self, kind: str, whom: str) -> list[dict[str, object]]:
        """`resume`, likewise."""
        return [one.document() for one in self.resume(kind, whom)]

    def said_of(self, found: Mapping[str, Any]) -> str:
        """How the replies begin that it has left in the queue."""
        return Suspension(**found).said

    def documents(self) -> list[dict[str, object]]:
        """Those in force."""
        return [one.document() for one in self.all()]

    def all(self) -> Iterator[Suspension]:
        """Those whose time is not up."""
        now = self._now()
        for key, one in list(self._known.items()):
            if now < one.until:
                yield one
            else:
                del self._known[key]

    def of_lane(self, destination: str, site: SendingSite | None) -> Suspension | None:
        """What holds a whole queue."""
        if not self._known:
            return None
        if is_direct(destination):
            names = [(DESTINATION, domain_of(destination))]
        else:
            names = _hops(destination)
        if site is not None and site.provider:
            names.append((PROVIDER, site.provider))
        return self._longest(names)

    def of_way_around(self, destination: str) -> Suspension | None:
        """What holds the other way of a direct queue."""
        return self._longest(_hops(destination.partition(" via ")[2])) if self._known else None

    def of_record(self, delivery: Delivery, record: Record) -> Suspension | None:
        """What holds one recipient of a message, whichever way it goes."""
        message = delivery.message
        names = [(DESTINATION, record.recipient.mailbox.domain_key)]
        path = message.envelope.reverse_path
        if path is None:
            names.append((SENDER, "<>"))
        else:
            names += [(SENDER, _address(path)), (SENDER, f"@{path.domain_key}")]
        if message.client.login:
            names.append((LOGIN, message.client.login.lower()))
        return self._longest(names)

    def _longest(self, names: list[tuple[str, str]]) -> Suspension | None:
        now = self._now()
        found = [one for key in names if (one := self._known.get(key)) and now < one.until]
        return max(found, key=lambda one: one.until, default=None)

    def _kept_or(self, before: dict[tuple[str, str], Suspension]) -> None:
        """On disk, or as it was."""
        try:
            self._save()
        except OSError:
            self._known = before
            raise
        self._changed()

    def _changed(self) -> None:
        self.of_messages = any(kind != PROVIDER for kind, _ in self._known)
        for each in self.told:
            each()

    def _save(self) -> None:
        if self._path is None:
            return
        text = json.dumps([one.document() for one in self.all()], indent=1) + "\n"
        # several workers write the same
        part = self._path.with_suffix(f".{os.getpid()}")
        try:
            with part.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            part.replace(self._path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise


def _hops(names: str) -> list[tuple[str, str]]:
    """Of several next hops, each holds them all: another one is for when it is down."""
    return [(DESTINATION, name.strip().lower()) for name in names.split(",")]


def _address(mailbox: Mailbox) -> str:
    return f"{mailbox.local.lower()}@{mailbox.domain_key}"


def _folded(kind: str, whom: str) -> str:
    """As it is compared; raises ValueError for what no mail can have."""
    whom = whom.strip()
    if kind == PROVIDER:
        return whom
    if kind == DESTINATION:
        with contextlib.suppress(AddressError):
            return fold_domain(whom.removeprefix("@").removesuffix("."))
    if kind == SENDER:
        return _sender(whom)
    return whom.lower()


def _sender(whom: str) -> str:
    if whom.lower() in ("<>", "null", ""):
        return "<>"
    try:
        bare = whom[1:-1] if whom.startswith("<") and whom.endswith(">") else whom
        mailbox = Mailbox.parse(f"x{bare}" if bare.startswith("@") else bare)
    except AddressError:
        raise ValueError(f"no sender is {whom}: give ADDRESS, @DOMAIN, or <>") from None
    return f"@{mailbox.domain_key}" if bare.startswith("@") else _address(mailbox)
