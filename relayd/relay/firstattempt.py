"""The first attempt of a message whose client waits for how it ends (`cut-through`).

Theory of operation. The message is in the spool, where its recipients are on hold until the client
is answered: should relayd die before, they are let go, for the client has the message still. What
the attempt brings is not recorded as long as the answer is open. Refused for all: recorded without
a report, and only then told to the client. Anything else: the recipients are queued, and only then
250 is said; from there on it is a message like any other, and what was held back follows.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.settling import Settling

AT_THE_DOOR = "refused at the door: its client was told, and nobody else"
COMES_AGAIN = "its client was told to come again, and has it still"


class ClientHears(enum.Enum):
    """What the client hears."""

    OPEN = "open"
    TAKEN = "250"
    REFUSED = "5xx"
    COME_AGAIN = "4xx"


class FirstAttempt:
    """From the commit to the answer; one of `refuse`, `take` and `come_again` ends it."""

    def __init__(
        self,
        message: Message,
        records: Sequence[Record],
        clock: IReactorTime,
        patience: float,
        attempts: FirstAttempts,
    ) -> None:
        self.message = message
        self.records = records
        self.refusals: list[Settlement] = []  # as long as nothing else was heard
        self.answer = ClientHears.OPEN
        self._attempts = attempts
        self.copies = [each for each in records if each.recipient.bcc]  # nobody waits for these
        self._unheard = len(records) - len(self.copies)
        self._refused: Deferred[bool] = Deferred()
        self._waiting: list[Deferred[None]] = []  # deliveries, for the answer
        self._timer = clock.callLater(patience, self.hurry)

    # for the client

    def refused_by_all(self) -> Awaitable[bool]:
        """Whether all are refused for good; known at the end of the patience, or at `hurry`."""
        return self._refused

    def hurry(self) -> None:
        """Nobody waits any longer."""
        self._decide(refused=False)

    async def refuse(self) -> bool:
        """Record the refusals. False: that is not done yet, and 5xx may not be said."""
        done = await self._attempts.refused(self)
        self._end(ClientHears.REFUSED)
        return done

    async def report(self) -> None:
        """After `refuse`: nobody was there to be told."""
        await self._attempts.untold(self)

    def take(self) -> None:
        """The client hears 250; the spool knows it."""
        self._attempts.taken(self)
        self._end(ClientHears.TAKEN)

    def come_again(self) -> None:
        """The client hears 4xx, for the spool does not know it."""
        self._attempts.untaken(self)
        self._end(ClientHears.COME_AGAIN)

    # for the dispatcher

    async def heard(
        self, delivery: Delivery, settlements: Sequence[Settlement]
    ) -> Sequence[Settlement]:
        """A delivery has brought these; what of them is to be recorded and reported as usual."""
        recipients = delivery.records
        states = {each.state for each in settlements}
        if self.answer is ClientHears.OPEN:
            self._unheard -= len(recipients)
            if len(settlements) == len(recipients) and states == {RecipientState.FAILED}:
                self.refusals += settlements
                if not self._unheard:
                    self._decide(refused=True)
            else:
                self._decide(refused=False)
        # what was delivered is recorded at once: it would be delivered twice
        if self.answer is ClientHears.OPEN and states != {RecipientState.DELIVERED}:
            answered: Deferred[None] = Deferred()
            self._waiting.append(answered)
            await answered
        if self.answer is ClientHears.REFUSED:
            return []
        if self.answer is ClientHears.COME_AGAIN:
            return [each for each in settlements if each.state is RecipientState.DELIVERED]
        return settlements

    def _decide(self, *, refused: bool) -> None:
        if not self._refused.called:
            if self._timer.active():
                self._timer.cancel()
            self._refused.callback(refused)

    def _end(self, answer: ClientHears) -> None:
        self.answer = answer
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)


class FirstAttempts:
    """Those of one dispatcher, by message.

    `accept` says whether all of a message is in memory, and so is attempted without a look at the
    table; `look_for` looks there. `forget` takes what has not started out of memory, `under_way`
    says how many deliveries of a message have. `report` stores the reports that outcomes owe.
    """

    def __init__(
        self,
        clock: IReactorTime,
        settling: Settling,
        log: MailLog,
        *,
        accept: Callable[[Message, Sequence[Record]], bool],
        look_for: Callable[[Iterable[str]], None],
        forget: Callable[[Sequence[int]], None],
        under_way: Callable[[int], int],
        report: Callable[[Message, Sequence[Settlement]], Awaitable[None]],
    ) -> None:
        self._clock = clock
        self._settling = settling
        self._log = log
        self._accept = accept
        self._look_for = look_for
        self._forget = forget
        self._under_way = under_way
        self._report = report
        self.open: dict[int, FirstAttempt] = {}

    def begin(self, message: Message, records: Sequence[Record], patience: float) -> FirstAttempt:
        """Attempt what is on hold for its client, who waits for at most so many seconds."""
        queued = [replace(each, state=RecipientState.QUEUED, last=None) for each in records]
        first = FirstAttempt(message, queued, self._clock, patience, self)
        self.open[message.ident] = first
        asked = [each for each in queued if not each.recipient.bcc] if first.copies else queued
        if not self._accept(message, asked):
            first.hurry()
        return first

    def stop(self) -> None:
        """Nobody waits any longer."""
        for first in [*self.open.values()]:
            first.hurry()

    async def heard(
        self, delivery: Delivery, settlements: Sequence[Settlement]
    ) -> Sequence[Settlement]:
        """What is to be recorded and reported as usual; once the client is answered."""
        ident = delivery.message.ident
        first = self.open.get(ident)
        if first is None:
            return settlements
        left = await first.heard(delivery, settlements)
        if first.answer is ClientHears.COME_AGAIN and self._under_way(ident) <= 1:
            self.open.pop(ident, None)
        return left

    # the client's answer

    async def refused(self, first: FirstAttempt) -> bool:
        """Record its refusals, of which nobody but the client is told; whether that is done."""
        del self.open[first.message.ident]
        settlements = [replace(each, note=AT_THE_DOOR) for each in first.refusals]
        settlements += [
            Settlement(each, RecipientState.REMOVED, attempted=False, note=AT_THE_DOOR)
            for each in first.copies
        ]
        if await self._settling.record_now(settlements):
            return True
        self._record_in_time(settlements)
        return False

    async def untold(self, first: FirstAttempt) -> None:
        """They are recorded, and the client was not there to be told: report them after all."""
        await self._report(first.message, first.refusals)

    def taken(self, first: FirstAttempt) -> None:
        """It is queued: what is not in memory is to be found in the table."""
        del self.open[first.message.ident]
        self._look_for(dict.fromkeys(each.recipient.destination for each in first.records))

    def untaken(self, first: FirstAttempt) -> None:
        """Nothing of it may start any more."""
        ident = first.message.ident
        self._forget((ident,))
        if not self._under_way(ident):
            del self.open[ident]
        self._record_in_time(
            [
                Settlement(each, RecipientState.REMOVED, attempted=False, note=COMES_AGAIN)
                for each in first.records
            ]
        )

    def _record_in_time(self, settlements: Sequence[Settlement]) -> None:
        """The spool is in trouble: as soon as it can."""
        spawn(self._recorded(settlements), partial(log_bug, self._log, "bug"))

    async def _recorded(self, settlements: Sequence[Settlement]) -> None:
        await self._settling.record(settlements)
