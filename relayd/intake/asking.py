"""A reception that asks others before it decides. Where nobody is to be asked there is none."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from relayd.intake.arriving import ArrivingMessage
from relayd.intake.checks import Checks, Finding, Objection, ReceivedContent
from relayd.intake.deadlines import SessionPhase
from relayd.intake.intake import Intake
from relayd.intake.pending import Pending
from relayd.intake.policy import ListenerPolicy
from relayd.intake.reception import Reception, mail_text, rcpt_text
from relayd.intake.replies import LATE, spool_reply
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.smtp import events
from relayd.spool.errors import SpoolError

LATE_AT_THE_DOOR = Reply.of(421, "4.3.0", "It took too long to decide, try again later")


class AskingReception(Reception):
    """Waits for others at the connection, at MAIL, at RCPT and at the final dot."""

    _keeps_header = True

    def __init__(
        self, intake: Intake, client: Client, policy: ListenerPolicy, checks: Checks
    ) -> None:
        super().__init__(intake, client, policy)
        self._checks = checks

    def connected(self, greeting: Reply) -> Reply | Pending[Any]:
        """The greeting of a client who has just come, or why he is not welcome."""
        asked = self._checks.connection(self.client)
        return unless(asked, greeting, partial(self.refuse, "connection"), LATE_AT_THE_DOOR)

    def receive(self, event: events.Event) -> Reply | Pending[Any] | None:
        """The verdict on any event but EndOfContent."""
        transaction = self._transaction
        if type(event) is events.Rcpt and transaction is not None:
            asked = self._checks.recipient(transaction.client, transaction.envelope, event.path)
            return answered(asked, partial(self._recipient_asked, event))
        verdict = super().receive(event)
        if type(event) is events.Mail and verdict is not None:
            return followed(verdict, partial(self._heard_mail, event))
        return verdict

    def end_of_content(self) -> Reply | Pending[Any]:
        """The verdict on the content."""
        message = self.arriving
        if message is None or message.end() is not None:
            return super().end_of_content()
        content, transaction = message.received(), message.transaction
        asked = self._checks.content(transaction.client, transaction.envelope, content)
        if asked is not None and not isinstance(asked, Reply):
            asked = _asked_about(content, asked)
        return answered(
            asked, partial(self._content_asked, message, content), phase=SessionPhase.EXAMINATION
        )

    def _heard_mail(self, event: events.Mail, reply: Reply) -> Reply | Pending[Any]:
        """Others are asked about a sender whom we would take."""
        transaction = self._transaction
        if transaction is None:
            return reply

        def refused(objection: Reply) -> Reply:
            self.rollback()
            return self.refuse(mail_text(event), objection)

        asked = self._checks.mail(transaction.client, transaction.envelope)
        return unless(asked, reply, refused)

    def _recipient_asked(self, event: events.Rcpt, objection: Objection) -> Reply | Pending[Any]:
        if objection is None:
            return self._rcpt(event)
        return self.refuse(rcpt_text(event.path), objection)

    def _content_asked(
        self, message: ArrivingMessage, content: ReceivedContent, objection: Objection
    ) -> Reply | Pending[Any]:
        content.close()
        if objection is not None:
            message.fail(objection)
        elif content.rewritten:
            message.rewritten(content)
        return super().end_of_content()


async def _asked_about(
    content: ReceivedContent, asked: Coroutine[Any, Any, Objection]
) -> Objection:
    try:
        return await asked
    except SpoolError as error:
        return spool_reply(error)
    finally:
        content.close()


def followed(
    verdict: Reply | Pending[Any], then: Callable[[Reply], Reply | Pending[Any]]
) -> Reply | Pending[Any]:
    """What becomes of a reply that is there, or that is to come."""
    if isinstance(verdict, Reply):
        return then(verdict)
    before = verdict.then
    return Pending(
        verdict.coming,
        lambda result: followed(before(result), then),
        verdict.late,
        verdict.phase,
    )


def answered(
    asked: Finding,
    then: Callable[[Objection], Reply | Pending[Any]],
    late: Reply = LATE,
    phase: SessionPhase = SessionPhase.VERDICT,
) -> Reply | Pending[Any]:
    """What becomes of a finding that is there, or that is to come."""
    if asked is None or isinstance(asked, Reply):
        return then(asked)
    return Pending(asked, then, lambda: late, phase)


def unless(
    asked: Finding, reply: Reply, refused: Callable[[Reply], Reply], late: Reply = LATE
) -> Reply | Pending[Any]:
    """The reply, unless somebody objects: what `refused` makes of that."""
    return answered(
        asked, lambda objection: reply if objection is None else refused(objection), late
    )
