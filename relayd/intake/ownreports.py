"""Reports of our own, shown to filters where a rule says `ask NAME sender null`.

A report is stored in one commit with the outcome that it is about, which waits for nobody. So it is
stored held, by that rule, and shown as soon as it is there, or when we are back: what filters make
of its header is what leaves. Nobody could be told of a report that is refused: it stays held.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from relayd.intake.checks import ReceivedContent, at_once
from relayd.intake.examination import Filtered
from relayd.intake.filterdesk import FilterDesk
from relayd.intake.sessionfilters import SessionFilters
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.ident import ident_text
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.outcome import held
from relayd.mail.plan import Step, Verdict
from relayd.reactor.coroutine import log_bug, spawn
from relayd.rules.askstage import AskStage
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.view import View
from relayd.smtp.events import MailParams, RcptParams
from relayd.spool.errors import SpoolError
from relayd.spool.interface import Store
from relayd.spool.view import QueueFilter

OURSELVES = Client("127.0.0.1")
AT_A_TIME = 5  # reports that are shown
AGAIN = 60.0  # seconds until one is shown again, where a filter does not say
_A_PAGE = 100
_MOST_SECTION = 1 << 20  # octets
_WAITING = re.compile(r"450 4\.7\.0 Held by rule \S+ ask ")


def held_for_filters(ruleset: Ruleset, submission: Submission) -> Submission:
    """A report as it is to be stored: held, if a rule says that somebody is to see it."""
    asks = _asks_of(ruleset)
    if asks is None:
        return submission
    for each in submission.recipients:
        view = View(OURSELVES, None, Subject(each.mailbox, ruleset.subaddress), ruleset.usual)
        for _, rule, _ in asks.fitting(view):
            step = Step("hold", str(rule.place), str(rule))
            return replace(submission, state=RecipientState.HELD, trail=(step,))
    return submission


class OwnReports:
    """Shows those of one spool to filters, some at a time."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of several interfaces
        desk: FilterDesk,
        store: Store,
        rules: Callable[[], Ruleset],
        log: MailLog,
    ) -> None:
        self._reactor = reactor
        self._desk = desk
        self._store = store
        self._rules = rules
        self._log = log
        self._waiting: deque[int] = deque()
        self._shown = 0  # at the moment
        self._timer: Any = None  # a delayed call
        self._stopped = False
        self._derived: tuple[Ruleset | None, Ruleset | None] = None, None

    def show(self, message: Message) -> None:
        """One that has just been stored, held."""
        self._waiting.append(message.ident)
        self._go_on()

    def start(self) -> None:
        """Those of before, and those about which a filter has not said: from now on."""
        self._timer = None
        spawn(self._find(), partial(log_bug, self._log, "reports not looked for"))

    def stop(self) -> None:
        """No more; what was not shown stays held until we are back."""
        self._stopped = True
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _find(self) -> None:
        wanted = QueueFilter(state=RecipientState.HELD, sender="<>", rule="ask ")
        after: int | None = 0
        while after is not None and not self._stopped:
            page = await self._store.listing(wanted, after, _A_PAGE)
            self._waiting += [int(row[0]) for row in json.loads(page.rows)]
            after = page.after
        self._go_on()

    def _go_on(self) -> None:
        while self._waiting and self._shown < AT_A_TIME and not self._stopped:
            self._shown += 1
            spawn(self._show(self._waiting.popleft()), self._failed)

    def _failed(self, failure: Any) -> None:  # noqa: ANN401  # a Failure
        self._over()
        if failure.check(SpoolError):
            self._later()
        else:
            log_bug(self._log, "report not shown", failure)

    def _over(self) -> None:
        self._shown -= 1
        self._go_on()

    def _later(self) -> None:
        if self._timer is None and not self._stopped:
            self._timer = self._reactor.callLater(AGAIN, self.start)

    async def _show(self, ident: int) -> None:
        found = await self._store.load(ident)
        if found is not None:
            message, records = found
            records = tuple(each for each in records if _waits(each))
            if records:  # nobody has let it go, or ended it, meanwhile
                await self._shown_to(message, records)
        self._over()

    async def _shown_to(self, message: Message, records: Sequence[Record]) -> None:
        rules, wanted = self._own_rules(), QueueFilter(ident=message.ident)
        if rules is None:  # they ask nobody any more
            await self._store.release(wanted)
            return
        octets = b"".join(message.content.chunks())
        section, body = octets[: message.header_size], octets[message.header_size :]
        draft = self._store.create()
        content = ReceivedContent(
            draft, b"", section, most_section=_MOST_SECTION, most_size=1 << 62, turn=at_once
        )
        try:
            draft.write(octets)
            said, undone = await self._asked(rules, records, content)
            above = content.trace + content.section
            same = b"".join(content.body()) == body
        finally:
            content.close()
            draft.rollback()
        if undone:
            self._log.trouble("filter", report=ident_text(message.ident), why=undone)
        reply = said.objection
        if reply is not None and reply.code < 500:
            self._later()
        elif said.verdict is Verdict.DISCARD:
            await self._end(records, RecipientState.DISCARDED, said)
        elif reply is not None or said.verdict is Verdict.HOLD:
            await self._end(records, RecipientState.HELD, said)
        elif not same or not above.isascii():
            why = "of a report nothing but the header can be changed, in ASCII"
            self._log.trouble("filter", report=ident_text(message.ident), why=why)
            await self._store.release(wanted)
        else:
            await self._store.release(wanted, {0: above} if above != section else {})

    async def _asked(
        self, rules: Ruleset, records: Sequence[Record], content: ReceivedContent
    ) -> tuple[Filtered, str]:
        """What they say, and what they want that cannot be done."""
        session = SessionFilters(self._desk, rules)
        named: list[Mailbox] = [each.recipient.mailbox for each in records]
        told = rules.usual
        try:
            objection = await session.mail(rules, OURSELVES, "", None, MailParams())
            for each in named:
                objection = objection or await session.recipient(each, RcptParams(), told)
            objection = objection or await session.data(content.ident, named, as_it_comes=False)
            if objection is not None:
                return Filtered(objection, trail=(Step("ask", "", session.why),)), ""
            said = await session.examine(OURSELVES, Envelope(None), named, content, told)
            wanted = session.wanted
            other = wanted.added or wanted.thrown_away or wanted.sender != ""
            return said, "of a report no recipient or sender can be changed" if other else ""
        finally:
            session.reset()
            session.over()

    async def _end(self, records: Sequence[Record], state: RecipientState, said: Filtered) -> None:
        who = next((step.rule for step in reversed(said.trail) if step.rule), "a filter")
        who = who.removeprefix(f"{said.trail[-1].stage} by ") if said.trail else who
        await self._store.settle(
            [Settlement(each, state, held(who), attempted=False, note=who) for each in records]
        )

    def _own_rules(self) -> Ruleset | None:
        """Those in force, that ask only who is to see reports; what they say counts by itself."""
        rules = self._rules()
        if self._derived[0] is not rules:
            asks = _asks_of(rules)
            own = None if asks is None else replace(rules, asks=asks, needs=frozenset())
            self._derived = rules, own
        return self._derived[1]


def _asks_of(ruleset: Ruleset) -> AskStage | None:
    return None if ruleset.asks is None else ruleset.asks.of_reports


def _waits(record: Record) -> bool:
    said = "" if record.last is None else str(record.last.reply)
    return record.state is RecipientState.HELD and _WAITING.match(said) is not None
