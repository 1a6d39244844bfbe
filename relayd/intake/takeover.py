"""From the final dot to its reply: a message is taken over when the spool has committed it."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Protocol

from relayd.intake.arriving import ArrivingMessage
from relayd.intake.checks import MESSAGE_GREW
from relayd.intake.counting import take_back
from relayd.intake.cutthrough import AwaitedAttempt, refusal
from relayd.intake.deadlines import SessionPhase
from relayd.intake.intake import Intake
from relayd.intake.pending import Pending
from relayd.intake.replies import TROUBLE, spool_reply
from relayd.intake.trace import NOWHERE_YET, loop
from relayd.intake.transaction import ContentFacts, ReceivedTransaction
from relayd.intake.vouching import results_field
from relayd.mail.ident import ident_text
from relayd.mail.message import Message, RecipientState, Record, Submission
from relayd.mail.reply import Reply
from relayd.report.bounce import expand
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.header import TooManyFieldsError
from relayd.rules.language.model import SEALS
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft

END_OF_CONTENT = "end of content"  # for the log, where others have their command
_TOO_MANY_FIELDS = Reply.of(552, "5.3.4", "Too many header fields of one kind")
_HEADER_GREW = Reply.of(552, "5.3.4", "Header section too large once it is completed or rewritten")


class WaitingClient(Protocol):
    """Who hears the reply, as his session knows him."""

    messages: int  # accepted in this session
    attended: bool  # he is there to hear what we say
    first: AwaitedAttempt | None  # that he waits for

    def refuse(self, command: str, reply: Reply, why: str = "") -> Reply:
        """He is to hear this; it is counted and told."""


def submission_of(message: ArrivingMessage) -> Submission | Reply:
    """What to commit, or why not."""
    intake, transaction, header = message.intake, message.transaction, message.header
    limits, ruleset, size = intake.limits, transaction.ruleset, message.section_size
    reason = loop(header.hops, limits.loop, transaction.sole_recipient)
    if reason:
        return Reply.of(554, "5.4.6", reason)
    facts = ContentFacts(
        trace=message.trace,
        section=message.section,
        header_size=len(message.trace) + size,
        eight_bit=message.eight_bit,
        utf8_header=header.eight_bit,
        told=() if message.gathering is None and message.told is None else message.facts_told(),
        results=_results(message) if ruleset.authenticates else b"",
        authserv="" if message.clean else intake.trace.hostname,
        passed=intake.trace.passed(message.section) if transaction.copies else NOWHERE_YET,
    )
    try:
        submission = transaction.submission(
            facts,
            lambda rules, section: intake.edit(ruleset, rules, section, transaction.started),
            lambda names, section: _signed(message, names, section, facts.results),
        )
    except TooManyFieldsError:
        return _TOO_MANY_FIELDS
    grown = size
    if submission.headers:
        grown = max(grown, transaction.longest_section)
    if grown > header.size:
        # what came was within the limits; what leaves is to be so as well
        if grown > limits.header_size:
            return _HEADER_GREW
        if message.draft.size - len(message.trace) - size + grown > limits.message_size:
            return MESSAGE_GREW
    return submission


def _signed(
    message: ArrivingMessage, names: tuple[str, ...], section: bytes, results: bytes
) -> bytes:
    """The fields that sign a header section in these names; one of them may seal it."""
    intake, body = message.intake, message.body_hash
    signers = tuple([name for name in names if not name.startswith(SEALS)])
    signed = intake.sign(signers, section, body) if signers else b""
    chain = None if message.vouched is None else message.vouched.arc
    if chain is None or len(signers) == len(names):
        return signed
    sealer = next(name for name in names if name.startswith(SEALS)).removeprefix(SEALS)
    return intake.seal(sealer, signed + section, body, chain, results) + signed


def _results(message: ArrivingMessage) -> bytes:
    """What was found out about who vouches for it, for those who read it after us."""
    transaction, gathering = message.transaction, message.gathering
    return results_field(
        message.intake.trace.hostname,
        transaction.client,
        transaction.envelope,
        None if gathering is None else gathering.facts.get(SENDER_POLICY),
        message.vouched,
    )


def taken_over(
    message: ArrivingMessage, submission: Submission, waiting: WaitingClient
) -> Pending[Reply]:
    """The reply that is to come. All is the commit's from now on: the session may end before."""
    intake, transaction = message.intake, message.transaction
    cut_through, places = intake.cut_through, None
    if transaction.patience and cut_through is not None and waiting.attended:
        places = cut_through.place(submission)
        if places is not None:
            submission = replace(submission, state=RecipientState.HELD, unanswered=True)
    held = message.held + transaction.held
    reply = _committed(intake, transaction, message.draft, submission, held, waiting)
    if places is not None and cut_through is not None:
        reply = cut_through.until(reply, places)
    return Pending(reply, phase=SessionPhase.COMMIT)


async def _committed(
    intake: Intake,
    transaction: ReceivedTransaction,
    draft: AnyDraft,
    submission: Submission,
    held: int,
    waiting: WaitingClient,
) -> Reply:
    """Commit the message, and only then say 250 (promise 1). `held`: memory to give back."""
    recipients, aliases = expand(submission.recipients)
    if aliases:
        submission = replace(submission, recipients=recipients)
    try:
        message, records = await draft.commit(submission)
    except SpoolError as error:
        take_back(transaction.counted)
        return waiting.refuse(END_OF_CONTENT, spool_reply(error), error.reason)
    except Exception as error:  # a bug of ours must not bounce anybody's mail
        take_back(transaction.counted)
        intake.log.trouble("commit failed", error=repr(error))
        return waiting.refuse(END_OF_CONTENT, TROUBLE, repr(error))
    finally:
        if held:
            intake.memory.change(held, 0)
    if transaction.foretold:
        with contextlib.suppress(MemoryError):
            intake.foretold(message.ident, submission.trail)
    if submission.unanswered:
        refused = await _after_first_attempt(intake, transaction, message, records, waiting)
        if refused is not None:
            return refused
    waiting.messages += 1
    reply = Reply(250, 0, 0, (f"queued as {ident_text(message.ident)}",))
    # it is ours: whatever goes wrong from here on, the client hears so
    if not submission.unanswered:
        with contextlib.suppress(MemoryError):
            intake.log.accepted(message, records, max(intake.clock() - transaction.started, 0))
        with contextlib.suppress(MemoryError):
            _hand_over(intake, message, records, submission)
    try:
        for each in transaction.shadows(records):
            path = submission.envelope.reverse_path
            intake.untold(message.client, path, each.original, each.plan, submission.rules)
        if aliases:
            intake.expanded(message, aliases)
    except Exception as error:
        intake.log.trouble("after the commit", id=str(message), error=repr(error))
    return reply


async def _after_first_attempt(
    intake: Intake,
    transaction: ReceivedTransaction,
    message: Message,
    records: tuple[Record, ...],
    waiting: WaitingClient,
) -> Reply | None:
    """Why it is not taken after all; None: it is (see relayd.relay.firstattempt).

    The spool always knows before the client what he is about to hear.
    """
    cut_through, now = intake.cut_through, intake.clock()
    assert cut_through is not None
    intake.log.accepted(message, records, max(now - transaction.started, 0.0))
    first = waiting.first = cut_through.attempt(message, records, transaction.patience)
    if not waiting.attended:
        first.hurry()
    refused = await first.refused_by_all()
    waiting.first = None
    reply: Reply | None = None
    why = f"{message}: refused where it goes"
    if refused and waiting.attended:
        if not await first.refuse():
            reply, why = TROUBLE, f"{message}: its outcome cannot be recorded"
        elif waiting.attended:
            reply = refusal(first.refusals, utf8=transaction.envelope.smtputf8)
        else:
            await first.report()
    else:
        try:
            await cut_through.answered(message.ident)
            first.take()
        except SpoolError as error:
            first.come_again()
            reply, why = spool_reply(error), error.reason
    if reply is None:
        return None
    take_back(transaction.counted)
    return waiting.refuse(END_OF_CONTENT, reply, why)


def _hand_over(
    intake: Intake, message: Message, records: tuple[Record, ...], submission: Submission
) -> None:
    ready = records
    if submission.states or submission.state is not RecipientState.QUEUED:
        ready = tuple(each for each in records if each.state is RecipientState.QUEUED)
        if not ready:
            return
    try:
        intake.accept(message, ready)
    except Exception as error:
        # it is in the spool, and the queue finds it there: the client hears 250
        intake.log.trouble("dispatch failed", id=str(message), error=repr(error))
