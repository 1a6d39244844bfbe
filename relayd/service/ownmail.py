"""Mail that relayd writes itself: reports on deliveries, and reports on TLS."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from relayd.config import Settings
from relayd.intake.intake import DraftStore
from relayd.intake.ownreports import OURSELVES, held_for_filters
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, Record, Submission
from relayd.mail.plan import Plan, Verdict
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.lost import POSTMASTER
from relayd.relay.strangers import ReportFate, Strangers
from relayd.report.backscatter import KeptSummary, digest
from relayd.report.bounce import Report, expanded
from relayd.report.dsn import Written, write
from relayd.report.smaller import Smaller
from relayd.rules.evaluate import Facts, plan_own, plan_postmaster
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft, Store
from relayd.spool.view import NewMessage

Accept = Callable[[Message, tuple[Record, ...]], None]
"""What is done with a message that is on stable storage."""


def report_for(report: Report | Smaller, spool: Store, settings: Settings) -> NewMessage:
    """A report that a settlement owes, for the transaction that records it."""
    ident = spool.new_ident()
    if isinstance(report, Smaller):
        submission = held_for_filters(settings.ruleset, report.submission)
        return NewMessage(ident, report.content, submission)
    written = _written(report, ident, settings)
    submission = held_for_filters(settings.ruleset, written.submission)
    return NewMessage(ident, written.content, submission)


class OwnMail:
    """Stores mail of our own in one spool and hands it on."""

    def __init__(
        self,
        spool: DraftStore,
        settings: Callable[[], Settings],
        accept: Accept,
        log: MailLog,
        strangers: Strangers,
    ) -> None:
        self._strangers = strangers
        self._spool = spool
        self._settings = settings
        self._accept = accept
        self._log = log

    def expanded(self, message: Message, aliases: tuple[Recipient, ...]) -> None:
        """Tell a sender who asked for it that these became several (RFC 3461 section 5.2.7)."""
        for report in expanded(message, aliases):
            spawn(self._tell(report), partial(log_bug, self._log, "report not written"))

    async def _tell(self, report: Report) -> None:
        """Store a report that no settlement owes."""
        if await self._strangers.fate(report) is not ReportFate.SENT:
            return
        draft = self._spool.create()
        written = _written(report, draft.ident, self._settings())
        draft.write(written.content)
        submission = held_for_filters(self._settings().ruleset, written.submission)
        letter, records = await draft.commit(submission)
        self._log.report(report.about, str(letter), str(report.to), report.kind)
        self._accept(letter, records)

    async def submit(self, sender: Mailbox, to: Mailbox, content: bytes) -> None:
        """Store a message to one; raises OSError, which a SpoolError is made into."""
        recipients = tuple(
            replace(each, notify=frozenset({"NEVER"}), reverse_path=sender)
            for each in _recipients(to, self._settings()) or (Recipient(to, to),)
        )
        try:
            await self._store(self._spool.create(), content, sender, recipients)
        except SpoolError as error:
            raise OSError(0, str(error)) from None

    async def tell_kept(self, kept: Sequence[KeptSummary]) -> None:
        """Tell the postmaster of reports that were not sent; raises OSError likewise."""
        settings = self._settings()
        recipients = _postmaster(POSTMASTER, settings)
        if not recipients:  # a rule throws his mail away
            return
        try:
            draft = self._spool.create()
            content = digest(
                kept,
                ident=draft.ident,
                hostname=settings.hostname,
                to=recipients[0].original.ascii,
                now=time.time(),
                budget=str(settings.report_budget),
            )
            await self._store(draft, content, None, recipients)
        except SpoolError as error:
            raise OSError(0, str(error)) from None

    async def _store(
        self, draft: AnyDraft, content: bytes, sender: ReversePath, to: tuple[Recipient, ...]
    ) -> None:
        draft.write(content)
        submission = Submission(
            Envelope(sender),
            Client(""),
            to,
            header_size=content.index(b"\r\n\r\n") + 4,
            eight_bit=False,
            utf8_header=False,
        )
        letter, records = await draft.commit(submission)
        self._accept(letter, records)


def _written(report: Report, ident: int, settings: Settings) -> Written:
    return write(
        report,
        ident=ident,
        hostname=settings.hostname,
        now=time.time(),
        route=partial(_postmaster if report.lost else _recipients, settings=settings),
        whole=settings.report_size,
    )


def _recipients(mailbox: Mailbox, settings: Settings) -> tuple[Recipient, ...]:
    """Where mail that we write ourselves goes: by the same rules, but nobody is asked in."""
    facts = Facts(OURSELVES, None, mailbox, time.time(), settings.ruleset.usual)
    return _planned(plan_own(settings.ruleset, facts), mailbox)


def _postmaster(mailbox: Mailbox, settings: Settings) -> tuple[Recipient, ...]:
    """Who our postmaster is by the rules. Nobody is to hear when he cannot be told."""
    here = replace(mailbox, domain=settings.hostname)
    facts = Facts(OURSELVES, None, here, time.time(), settings.ruleset.usual)
    found = _planned(plan_postmaster(settings.ruleset, facts), here)
    return tuple(replace(each, notify=frozenset({"NEVER"})) for each in found)


def _planned(plan: Plan, mailbox: Mailbox) -> tuple[Recipient, ...]:
    """Nobody: a rule throws it away."""
    if plan.verdict is Verdict.DISCARD:
        return ()
    if plan.verdict is Verdict.REFUSE or not plan.destinations:
        return (Recipient(mailbox, mailbox),)
    return tuple(Recipient(each.mailbox, mailbox, each.next_hop) for each in plan.destinations)
