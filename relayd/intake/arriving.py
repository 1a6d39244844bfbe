"""The message that arrives: from DATA on, until it is taken over or forgotten."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from typing import Protocol, cast

from relayd.intake.checks import Objection, ReceivedContent
from relayd.intake.examination import Examination, Filters
from relayd.intake.gatheredfacts import GatheredFacts
from relayd.intake.header import HeaderSection, front
from relayd.intake.intake import Intake
from relayd.intake.limits import shares
from relayd.intake.policy import ListenerPolicy
from relayd.intake.replies import NO_MEMORY, spool_reply
from relayd.intake.submission import Completion, completed
from relayd.intake.transaction import ReceivedTransaction
from relayd.intake.vouching import Vouched
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.rules.fact import Fact
from relayd.rules.leaving import BREAKS, Foretelling
from relayd.rules.storedfact import kept
from relayd.spool.errors import SpoolError

_FREE = 8192  # octets of a header section that are not counted
_BEHIND = 65536  # octets that a scan may lack and still gets while content arrives
_A_TURNS_OCTETS = 1 << 20  # that are hashed in one turn of the reactor
_HEADER_TOO_LARGE = Reply.of(552, "5.3.4", "Header section too large")


class EarlyScan(Protocol):
    """Who sees content while it arrives (see relayd.filters.scanning)."""

    @property
    def sent(self) -> int:
        """Octets of it so far."""

    @property
    def full(self) -> bool:
        """It takes no more now."""

    @property
    def refused(self) -> bool:
        """It takes no more at all."""

    def push(self, piece: bytes) -> None:
        """More of it."""


class ArrivingMessage:
    """Its content, and what is found out about it. Raises SpoolError if it cannot begin.

    `failure`: it cannot be taken. The rest of its content is swallowed, and the client hears so at
    the end.
    """

    __slots__ = (
        "_beginning",
        "body_hash",
        "clean",
        "completion",
        "draft",
        "eight_bit",
        "examination",
        "failure",
        "filters",
        "gathering",
        "header",
        "held",
        "intake",
        "scans",
        "section",
        "section_size",
        "told",
        "trace",
        "transaction",
        "vouched",
        "why",
    )

    def __init__(
        self,
        intake: Intake,
        transaction: ReceivedTransaction,
        gathering: GatheredFacts | None,
        filters: Filters | None,
        policy: ListenerPolicy,
        *,
        keeps_header: bool,
    ) -> None:
        """`keeps_header`: somebody reads it, also where no rule does."""
        self.intake = intake
        self.transaction = transaction
        self.gathering = gathering
        self.filters = filters
        self.draft = draft = intake.spool.create(pure=True)  # the core lets nothing else by
        self.trace = intake.trace.received(
            transaction.client, draft.ident, transaction.sole_recipient, intake.clock()
        )
        try:
            draft.write(self.trace)
        except SpoolError:
            draft.rollback()
            raise
        ruleset = transaction.ruleset
        self.examination: Examination | None = None  # until it is over
        if ruleset.examined or filters is not None:
            self.examination = Examination(ruleset, intake.gatherer)
        self.header = HeaderSection(
            intake.trace,
            intake.limits.header_size,
            keep=keeps_header
            or transaction.edits_header
            or transaction.signs
            or transaction.copies
            or policy.submission
            or self.examination is not None
            or ruleset.authenticates,
        )
        self.completion = self._completed_for(policy.origin) if policy.submission else None
        self.section = b""  # as it is in the draft, known at the end; empty unless it was kept
        self.section_size = 0  # octets of it, kept or not
        self._beginning = b""  # of content, until it is known whether it has a header section
        self.scans: Collection[EarlyScan] = ()  # who sees it while it arrives
        self.vouched: Vouched | None = None  # what came of the examination
        self.told: Mapping[Fact, object] | None = None  # all that was known at the final dot
        self.clean = False  # nothing in the content speaks in our name that is not ours
        self.eight_bit = False
        self.body_hash = b""  # of what is signed; empty: not made yet
        self.failure: Reply | None = None
        self.why = ""  # it is refused, for the log
        self.held = 0  # octets of the memory that all share

    def _completed_for(self, origin: str) -> Completion:
        intake, ident = self.intake, self.draft.ident
        return Completion(
            self.header,
            lambda section: completed(
                section,
                now=intake.clock(),
                ident=ident,
                hostname=intake.trace.hostname,
                origin=origin,
            ),
        )

    # -- the content arrives -----------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """A piece of content."""
        if self.failure is not None:
            return  # refused already: the rest is swallowed
        header = self.header
        if not header.complete:
            if header.size == 0:
                # the first octets are held back until it is known how they are to stand
                # behind our trace field
                data = self._beginning + data
                before = front(data)
                if before is None:
                    self._beginning = data
                    return
                self._beginning = b""
                data = before + data if before else data
            header.receive(data)
            if header.oversize:
                self.fail(_HEADER_TOO_LARGE)
                return
            if header.size > _FREE and not self._hold(header.held):
                self.fail(NO_MEMORY)
                return
        if self.examination is not None:
            self.examination.receive(header, data)
        if self.completion is not None:
            data = self.completion.receive(data)
            if not data:
                return
        if not self.eight_bit and not data.isascii():
            self.eight_bit = True
        try:
            self.draft.write(data)
        except SpoolError as error:
            self.fail(spool_reply(error))
            return
        for scan in self.scans:
            self._hand_on(scan, data)

    def _hand_on(self, scan: EarlyScan, data: bytes) -> None:
        # what is in the draft may be more than this: its beginning was held back; and who has
        # fallen behind gets the rest when all of it is there
        missing = self.draft.size - len(self.trace) - scan.sent
        if scan.full or scan.refused or not 0 < missing <= len(data) + _BEHIND:
            return
        if missing == len(data):
            scan.push(data)
            return
        with contextlib.suppress(SpoolError):  # of which the commit will hear
            for piece in self.draft.chunks(len(self.trace) + scan.sent):
                scan.push(piece)

    def end(self) -> Reply | None:
        """All of the content is in the draft now; or why it is not."""
        if self._beginning:  # all of the content, and no field
            beginning, self._beginning = self._beginning, b""
            self.receive(b"\r\n" + beginning)
        if self.failure is None:
            header, completion = self.header, self.completion
            if not header.complete:
                header.end()
            self.section, self.section_size = header.octets, header.size
            if completion is not None:
                rest = completion.end()
                self.section = completion.section
                self.section_size = len(completion.section)
                try:
                    if rest:
                        self.draft.write(rest)
                except SpoolError as error:
                    self.fail(spool_reply(error))
        return self.failure

    def fail(self, reply: Reply) -> None:
        """It cannot be taken: forget it, swallow the rest, say so at its end."""
        self.draft.rollback()
        self.header.forget()
        self.completion = None
        self._hold(0)
        self.failure = reply

    def rollback(self) -> None:
        """Forget it altogether."""
        self.draft.rollback()
        if self.held:
            self._hold(0)
        if self.examination is not None:
            self.examination.cancel()
            self.examination = None

    def _hold(self, octets: int) -> bool:
        """The header section has so many.

        The draft holds it too, and so do those who complete it and who examine it.
        """
        others = (self.completion is not None) + (self.examination is not None)
        now = shares(octets * (2 + others))
        if not self.intake.memory.change(self.held, now):
            return False
        self.held = now
        return True

    # -- all of it has arrived ---------------------------------------------------------------------

    def received(self) -> ReceivedContent:
        """All of it, for who wants to read it, or write it anew."""
        return ReceivedContent(
            self.draft,
            self.trace,
            self.section,
            most_section=self.intake.limits.header_size,
            most_size=self.intake.limits.message_size,
            turn=self.intake.turn,
        )

    def rewritten(self, content: ReceivedContent) -> None:
        """It is another content by now; `end` looks at it again."""
        header = HeaderSection(self.intake.trace, self.intake.limits.header_size, keep=True)
        header.receive(content.section)
        self.header, self.completion, self.trace = header, None, content.trace
        self.eight_bit = content.eight_bit

    def examined(self) -> None:
        """The examination is over, in time or not."""
        if self.examination is not None:
            self.vouched = self.examination.vouched
            self.examination = None

    async def hash_body(self) -> Objection:
        """The body as it leaves is in the draft, whoever wrote it: for all signatures of it."""
        # only who signs needs cryptography, which takes its time to load
        from relayd.authentication.canonical import BodyHash

        body = BodyHash(relaxed=True)
        body.of(None)
        hashed = 0
        try:
            for piece in self.draft.chunks(len(self.trace) + self.section_size):
                body.feed(piece)
                hashed += len(piece)
                if hashed >= _A_TURNS_OCTETS:
                    hashed = 0
                    await self.intake.turn()
        except SpoolError as error:
            return spool_reply(error)
        self.body_hash = body.finish()[None]
        return None

    def facts_told(self) -> tuple[Step, ...]:
        """What rules have looked at by now, to be kept with the message."""
        told = self.told
        if told is None and self.gathering is not None:
            told = self.gathering.facts
        elif told is not None and told.get(BREAKS) is not None:
            told = {**told, BREAKS: cast("Foretelling", told[BREAKS]).told}
        of_recipients = self.transaction.told
        return kept({**(told or {}), **of_recipients} if of_recipients else told or {})
