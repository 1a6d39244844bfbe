"""Which reports strangers get: as many as the budget has room for, the others are kept.

A stranger is a sender of whom nothing is known: the client has not logged in, no rule names it,
and SPF does not say that it may send for this address. SPF is asked for here alone, after the
fact: where there is no room left, before the report is kept; where there is, beside sending it,
so that a sender who is vouched for takes no room from others.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.mail.message import Settlement
from relayd.mail.pacing import Rate
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.keptreports import FOLDER, KeptReports
from relayd.report.backscatter import KeptReport, ReportBudget
from relayd.report.bounce import Report
from relayd.shared.slidingcounts import SlidingCounts

ASKED = 10  # questions about SPF at a time, of one process
MOST_WAITING = 200  # ... and those that wait for their turn: they take memory
PATIENCE = (
    3600.0  # seconds of a message's age in which an answer that is not to be had is waited for
)
ADDRESSES = 100_000  # that are counted at a time
KEPT_NOTE = "not reported: a stranger, and the budget of reports is spent"
UNANSWERED = "temperror"  # what SPF says where nobody answers
_IN_ALL = "all"  # a key of the counts, of which there is no other


class ReportFate(enum.Enum):
    """What becomes of a report."""

    SENT = "sent"
    KEPT = "kept"
    LATER = "later"  # it cannot be said now; the recipients wait as they did before


Policy = Callable[[Client, Mailbox], Deferred[object]]
"""The result of SPF, a word of RFC 7208 section 2.6."""


@dataclass(frozen=True, slots=True)
class _Room:
    """What was counted for a report, and where: to take it back."""

    taken: tuple[tuple[SlidingCounts, str, int], ...]

    def give_back(self) -> None:
        for counts, key, slot in self.taken:
            counts.take_back(key, slot)


class _Counts:
    """Of one budget. Each method may raise OSError."""

    def __init__(self, folder: Path, budget: ReportBudget) -> None:
        self.budget = budget
        folder.mkdir(mode=0o700, exist_ok=True)
        self._in_all = _counts(folder / "all", budget.in_all, 16)
        self._each = _counts(folder / "address", budget.each, ADDRESSES)

    def close(self) -> None:
        for counts in (self._in_all, self._each):
            if counts is not None:
                counts.close()

    def room(self, address: str, now: float) -> _Room | None:
        """Room for one more report; None: there is none."""
        if self.budget.never:
            return None
        room = _Room(())
        # what the others have used up is not counted for this address
        for counts, rate, key in (
            (self._in_all, self.budget.in_all, _IN_ALL),
            (self._each, self.budget.each, address),
        ):
            if counts is None or rate is None:
                continue
            count, slot = counts.add(key, now)
            room = _Room((*room.taken, (counts, key, slot)))
            if count > rate.messages:
                room.give_back()
                return None
        return room


def _counts(path: Path, rate: Rate | None, keys: int) -> SlidingCounts | None:
    if rate is None:
        return None
    # each window has files of its own: a change of the setting counts anew, and no row is misread
    path = path.with_name(f"{path.name}-{rate.seconds}")
    return SlidingCounts(path, rate.messages, rate.seconds, keys)


class Strangers:
    """One of each process, for all its shards; the counts and what is kept are of all processes.

    `knows` says that a client is no stranger, by login or by the rules. `now` is in seconds since
    the epoch.
    """

    def __init__(
        self,
        spool: Path,
        log: MailLog,
        now: Callable[[], float],
        *,
        budget: Callable[[], ReportBudget],
        knows: Callable[[Client], bool],
        policy: Policy,
        in_thread: Callable[..., Awaitable[Any]],
    ) -> None:
        self.kept = KeptReports(spool)
        self.count = 0  # reports kept since the start
        self._folder = spool / FOLDER
        self._log = log
        self._now = now
        self._budget = budget
        self._knows = knows
        self._policy = policy
        self._in_thread = in_thread
        self._counts: _Counts | None = None
        self._questions: deque[tuple[Client, Mailbox, Deferred[object]]] = deque()
        self._asked: set[Deferred[object]] = set()
        self._asking = False
        self._to_keep: list[tuple[KeptReport, Deferred[OSError | None]]] = []
        self._keeping = False
        self._stopped = False

    def stop(self) -> None:
        """Nobody is asked any more: what needs an answer is left as it was."""
        self._stopped = True
        while self._questions:
            self._questions.popleft()[-1].callback(UNANSWERED)
        for asked in list(self._asked):
            asked.cancel()

    def concerns(self, reports: Sequence[Report]) -> bool:
        """Whether some of these reports, all about one message, would go to a stranger."""
        about = reports[0].about
        path = about.envelope.reverse_path
        # somebody whom the rules put in the sender's place is known to them
        return any(each.to == path for each in reports) and not self._known(about.client)

    async def sift(
        self,
        settlements: Sequence[Settlement],
        reports: Sequence[Report],
        *,
        recorded: bool = False,
    ) -> tuple[list[Settlement], tuple[Report, ...], list[Settlement]]:
        """What is to be recorded, the reports that go out, and what has to be left for later.

        `recorded`: it is recorded, and nothing can be left.
        """
        sent: list[Report] = []
        fates: dict[int, ReportFate] = {}  # of those whose report is not sent
        for report in reports:
            fate = await self.fate(report, recorded=recorded)
            if fate is ReportFate.SENT:
                sent.append(report)
            else:
                fates.update((id(each.recipient), fate) for each in report.entries)
        told: list[Settlement] = []
        later: list[Settlement] = []
        for each in settlements:
            found = fates.get(id(each.record.recipient))
            if found is ReportFate.LATER:
                later.append(each)
            elif found is ReportFate.KEPT and not each.state.waiting:
                told.append(replace(each, note=KEPT_NOTE))
            else:
                told.append(each)
        return told, tuple(sent), later

    async def fate(self, report: Report, *, recorded: bool = False) -> ReportFate:
        """What becomes of one; if it is kept, that is on stable storage.

        `recorded`: nobody waits any more of whom it speaks.
        """
        message, waits = report.about, _can_wait(report) and not recorded
        if report.to != message.envelope.reverse_path or self._known(message.client):
            return ReportFate.SENT
        try:
            room = self._counted().room(_key(report.to), self._now())
        except OSError as error:
            return self._trouble(report, error, waits=waits)
        if room is not None:
            self._vouch_later(message.client, report.to, room)
            return ReportFate.SENT
        found = await self._answer(message.client, report.to)
        if found == "pass":
            return ReportFate.SENT
        young = self._now() - message.received_at < PATIENCE
        if found == UNANSWERED and waits and (young or self._stopped):
            return ReportFate.LATER
        return await self._keep(report, waits=waits)

    def _known(self, client: Client) -> bool:
        return not client.address or self._knows(client)

    def _counted(self) -> _Counts:
        budget = self._budget()
        if self._counts is None or self._counts.budget != budget:
            if self._counts is not None:
                self._counts.close()
                self._counts = None
            self._counts = _Counts(self._folder, budget)
        return self._counts

    # who may send for whom

    def _answer(self, client: Client, sender: Mailbox) -> Deferred[object]:
        answer: Deferred[object] = Deferred()
        if self._stopped or len(self._questions) >= MOST_WAITING:
            answer.callback(UNANSWERED)
        else:
            self._questions.append((client, sender, answer))
            self._ask()
        return answer

    def _ask(self) -> None:
        """As many as may be asked now; one after the other, however quickly they are answered."""
        if self._asking:
            return
        self._asking = True
        while self._questions and len(self._asked) < ASKED:
            client, sender, answer = self._questions.popleft()
            asked = self._policy(client, sender)
            self._asked.add(asked)
            asked.addBoth(self._answered, asked, answer)
        self._asking = False

    def _answered(self, found: object, asked: Deferred[object], answer: Deferred[object]) -> None:
        self._asked.discard(asked)
        answer.callback(UNANSWERED if isinstance(found, Failure) else found)
        self._ask()

    def _vouch_later(self, client: Client, sender: Mailbox, room: _Room) -> None:
        if room.taken:
            spawn(
                self._vouch(client, sender, room), partial(log_bug, self._log, "report not counted")
            )

    async def _vouch(self, client: Client, sender: Mailbox, room: _Room) -> None:
        if await self._answer(client, sender) == "pass":
            try:
                room.give_back()
            except OSError as error:  # it counts: the setting may have changed meanwhile
                self._log.notice("report counted all the same", to=sender, why=str(error))

    # what is kept

    async def _keep(self, report: Report, *, waits: bool) -> ReportFate:
        first = report.entries[0]
        kept = KeptReport(
            report.about.ident,
            self._now(),
            report.kind,
            str(report.to),
            report.about.client.address,
            str(first.recipient.original),
            len(report.entries),
            str(first.outcome.reply) if first.outcome is not None else "",
        )
        told: Deferred[OSError | None] = Deferred()
        self._to_keep.append((kept, told))
        if not self._keeping:
            self._keeping = True
            spawn(self._keep_all(), partial(log_bug, self._log, "report not kept"))
        error = await told
        if error is not None:
            return self._trouble(report, error, waits=waits)
        self.count += 1
        self._log.notice(
            "report kept back",
            id=str(report.about),
            to=f"<{report.to}>",
            kind=report.kind,
            recipients=len(report.entries),
        )
        return ReportFate.KEPT

    async def _keep_all(self) -> None:
        """In one transaction those that have come while the last one ran."""
        try:
            while self._to_keep:
                batch, self._to_keep = self._to_keep, []
                error: OSError | None = None
                try:
                    await self._in_thread(self.kept.add, [kept for kept, _ in batch])
                except OSError as trouble:
                    error = trouble
                for _, told in batch:
                    told.callback(error)
        finally:
            self._keeping = False

    def _trouble(self, report: Report, error: OSError, *, waits: bool) -> ReportFate:
        """Our own is nobody's fault; but whom we have told of success must not hear it twice."""
        self._log.trouble("reports to strangers not counted", id=str(report.about), why=str(error))
        if waits:
            return ReportFate.LATER
        # of a failure nobody would hear otherwise
        return ReportFate.SENT if _can_wait(report) else ReportFate.KEPT


def _can_wait(report: Report) -> bool:
    """It is about mail that may be tried again."""
    return report.kind in ("failed", "delayed")


def _key(mailbox: Mailbox) -> str:
    """The same for all spellings of an address that a server may take for one."""
    return f"{mailbox.local.lower()}@{mailbox.domain_key}"
