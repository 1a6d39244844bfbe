"""Whether mailboxes exist at next hops: asked there by RCPT, as a report would be sent, and kept.

One transaction at a time asks each next hop, on a connection that is kept for the next, and about
all mailboxes that wait by then. What is known is remembered in a file that all workers share; it
is asked for anew when it is old, and believed for longer while the next hop does not answer.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import BytesContent
from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, Record
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.reply import Severity
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.courier import Hop
from relayd.relay.dial import IReactor
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.smtpout import Courier
from relayd.shared.keytable import KeyTable
from relayd.shared.seldom import Seldom

DAY = 86400.0
FRESH = {True: DAY, False: 3600.0}  # seconds for which nobody asks again: it exists, it does not
STALE = {True: 31 * DAY, False: DAY}  # ... for which it is believed while nobody answers
REMEMBERED = 200_000  # mailboxes, over all next hops
AT_A_TIME = 20  # mailboxes in one transaction
PAUSE = 0.1  # seconds between two of them at one next hop
WAITING = 1000  # mailboxes at one next hop; about more nobody can say
DOWN = 30.0  # seconds for which a next hop that did not answer is not asked
FOLDER = "mailboxes"  # below the spool
LIMITS = RelayLimits(connect=5.0, attempt=15.0, idle_seconds=30.0)
DEADLINES = NextHopDeadlines(
    greeting=10.0, hello=10.0, handshake=10.0, envelope=15.0, recipient=0.5, quit=2.0
)

_ROW = struct.Struct("<d?")  # when, in seconds since the epoch, and whether it exists
_NOBODY = Client("127.0.0.1", protocol="ESMTP")
_NOTHING = BytesContent(b"", pure=True)
_Answer = bool | None


class _Line:
    """Who waits for an answer of one next hop."""

    def __init__(self) -> None:
        self.waiting: dict[Mailbox, list[Deferred[_Answer]]] = {}
        self.asking = False
        self.down_until = 0.0


class MailboxVerification:
    """For all sessions of a process. The courier is for this alone, with LIMITS and DEADLINES."""

    def __init__(
        self,
        reactor: IReactor,
        courier: Courier,
        spool: Path,
        log: MailLog,
        clock: Callable[[], float] = time.time,
        seldom: Seldom | None = None,
    ) -> None:
        self._reactor = reactor
        self._seldom = seldom or Seldom(reactor.seconds)  # who tells of trouble
        self._courier = courier
        self._folder = spool / FOLDER
        self._log = log
        self._clock = clock  # seconds since the epoch
        self._table: KeyTable | None = None
        self._lines: dict[NextHop, _Line] = {}

    def apply(self, hops: Sequence[NextHop]) -> None:
        """These are in force: the others are asked no more, and all may have been mended."""
        gone = self._lines.keys() - set(hops)
        for hop in gone:
            self._answer(self._lines.pop(hop), {})
        for line in self._lines.values():
            line.down_until = 0.0

    def stop(self) -> None:
        """Nobody asks any more."""
        self._courier.abort()
        for line in self._lines.values():
            self._answer(line, {})
        if self._table is not None:
            self._table.close()

    async def exists(self, hop: NextHop, mailbox: Mailbox) -> bool | None:
        """Whether it does; None: nobody can say now."""
        known, age = self._remembered(hop, mailbox)
        if known is not None and age < FRESH[known]:
            return known
        line = self._lines.setdefault(hop, _Line())
        if self._reactor.seconds() >= line.down_until and len(line.waiting) < WAITING:
            said = await self._asked(hop, line, mailbox)
            if said is not None:
                return said
        return known if known is not None and age < STALE[known] else None

    async def _asked(self, hop: NextHop, line: _Line, mailbox: Mailbox) -> bool | None:
        answer: Deferred[_Answer] = Deferred()
        line.waiting.setdefault(mailbox, []).append(answer)
        if not line.asking:
            line.asking = True
            spawn(self._take_turns(hop, line), lambda why: log_bug(self._log, "bug", why))
        return await answer

    async def _take_turns(self, hop: NextHop, line: _Line) -> None:
        try:
            while line.waiting:
                asked = list(line.waiting)[:AT_A_TIME]
                said = await self._courier.verify(_delivery(hop, asked), Hop((hop,)))
                answers: dict[Mailbox, _Answer] = {}
                for mailbox, found in zip(asked, said, strict=True):
                    if isinstance(found, Outcome):
                        answers[mailbox] = None
                        self._look_at(hop, line, found)
                    else:
                        answers[mailbox] = found
                        self._remember(hop, mailbox, found)
                self._answer(line, answers)
                if self._reactor.seconds() < line.down_until:
                    return
                await deferLater(self._reactor, PAUSE)
        finally:
            line.asking = False
            self._answer(line, {})

    def _look_at(self, hop: NextHop, line: _Line, outcome: Outcome) -> None:
        """Why something is not known: what nobody but an operator can mend is told.

        What speaks of the next hop, and not of one mailbox, keeps us from asking it for a while.
        """
        now = self._reactor.seconds()
        of_hop = outcome.blame is not Blame.RECIPIENT
        if of_hop:
            line.down_until = now + DOWN
        mendable = of_hop or outcome.severity is Severity.PERMANENT
        if mendable and self._seldom.times(f"mailboxes {hop.name}"):
            self._log.trouble("mailboxes not verified", next_hop=hop.name, why=outcome.reply)

    def _answer(self, line: _Line, answers: dict[Mailbox, _Answer]) -> None:
        """Tell those who wait for one of these; for none: all, that nobody can say."""
        for mailbox in list(answers or line.waiting):
            for answer in line.waiting.pop(mailbox, ()):
                if not answer.called:  # he may have gone
                    answer.callback(answers.get(mailbox))

    # what is remembered

    def _remembered(self, hop: NextHop, mailbox: Mailbox) -> tuple[bool | None, float]:
        """Whether it exists, and for how many seconds that is known."""
        try:
            row = self._rows().look(_key(hop, mailbox))
        except OSError:  # told when it is to be written
            row = None
        if row is None:
            return None, 0.0
        when, exists = _ROW.unpack(row)
        age = self._clock() - when
        return (exists, age) if age >= 0 else (None, 0.0)

    def _remember(self, hop: NextHop, mailbox: Mailbox, exists: bool) -> None:
        now = self._clock()
        row = _ROW.pack(now, exists)
        try:
            self._rows().change(_key(hop, mailbox), now, lambda _: row)
        except OSError as error:
            if self._seldom.times("mailboxes not remembered"):
                self._log.trouble("mailboxes not remembered", why=error)

    def _rows(self) -> KeyTable:
        if self._table is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._table = KeyTable(self._folder / "verified", _ROW.size, REMEMBERED)
        return self._table


def _key(hop: NextHop, mailbox: Mailbox) -> str:
    return f"{hop}\n{mailbox.local}@{mailbox.domain_key}"


def _delivery(hop: NextHop, mailboxes: Sequence[Mailbox]) -> Delivery:
    """A message of nothing from nobody, which is not sent."""
    message = Message(0, 0.0, Envelope(None), _NOBODY, _NOTHING, 0, False, False)
    records = tuple(
        Record(0, number, Recipient(each, each, hop.name, None))
        for number, each in enumerate(mailboxes)
    )
    return Delivery(message, records, verifies=True)
