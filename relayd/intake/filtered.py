"""A reception whose rules ask filters: each has its say where a session comes to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from relayd.intake.asking import LATE_AT_THE_DOOR, answered, followed, unless
from relayd.intake.intake import Intake
from relayd.intake.pending import Pending
from relayd.intake.policy import ListenerPolicy
from relayd.intake.reception import Reception, mail_text, rcpt_text
from relayd.intake.sessionfilters import SessionFilters
from relayd.intake.transaction import ReceivedTransaction, identity
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.rules.fact import Fact
from relayd.smtp import events


class FilteringReception(Reception):
    """Asks filters from the connection to the final dot."""

    def __init__(
        self, intake: Intake, client: Client, policy: ListenerPolicy, filters: SessionFilters
    ) -> None:
        super().__init__(intake, client, policy)
        self._session = self._filters = filters
        self._mechanism = ""

    # the session

    def connected(self, greeting: Reply) -> Reply | Pending[Any]:
        """The greeting of a client who has just come, or why he is not welcome."""
        naming = self._naming
        if naming is not None:
            if naming.worth_waiting:
                return self._once_named(naming, lambda: self.connected(greeting))
            self._take_name(naming)
        asked = self._session.connection(self.client, self._known_by_now())
        return unless(asked, greeting, self._turn_away, LATE_AT_THE_DOOR)

    def logged_in(self, name: str, mechanism: str = "") -> None:
        """AUTH succeeded."""
        super().logged_in(name, mechanism)
        self._mechanism = mechanism

    def receive(self, event: events.Event) -> Reply | Pending[Any] | None:
        """The verdict on any event but EndOfContent."""
        asks = _ASKED.get(type(event))
        if asks is None:
            return super().receive(event)
        transaction, again = self._transaction, False
        if type(event) is events.Rcpt and transaction is not None:
            again = identity(event.path) in transaction.addressees
        verdict = super().receive(event)
        return None if verdict is None else followed(verdict, partial(asks, self, event, again))

    def leave(self) -> None:
        """The session is over, or another client's."""
        self._session.over()
        super().leave()

    def _over(self) -> None:
        super()._over()
        self._session.reset()

    def _turn_away(self, objection: Reply) -> Reply:
        # RFC 5321 section 3.1 knows these two
        code, status = (554, "5.7.1") if objection.code >= 500 else (421, "4.7.1")
        return self.refuse("connection", Reply.of(code, status, objection.text))

    def _known_by_now(self) -> Mapping[Fact, object]:
        return {} if self._gathering is None else self._gathering.facts

    # commands

    def _heard_hello(self, event: events.Hello, again: bool, reply: Reply) -> Reply | Pending[Any]:
        if reply.code >= 400:
            return reply
        asked = self._session.hello(self.client, self._mechanism)
        name = "EHLO" if event.esmtp else "HELO"
        return unless(asked, reply, partial(self._object, name))

    def _heard_mail(self, event: events.Mail, again: bool, reply: Reply) -> Reply | Pending[Any]:
        transaction = self._transaction
        if transaction is None:
            return reply
        asked = self._session.mail(
            transaction.ruleset, transaction.client, self._mechanism, event.path, event.params
        )

        def refused(objection: Reply) -> Reply:
            refusal = self._object(mail_text(event), objection)
            self.rollback()
            return refusal

        return unless(asked, reply, refused)

    def _heard_rcpt(self, event: events.Rcpt, again: bool, reply: Reply) -> Reply | Pending[Any]:
        transaction = self._transaction
        if transaction is None:
            return reply
        if reply.code >= 400:
            if not self._session.hear_refusals:
                return reply
            told = self._session.refused(event.path, event.params, reply)
            return answered(told, lambda _: reply)
        asked = self._session.recipient(event.path, event.params, self._known_by_now())

        def refused(objection: Reply) -> Reply:
            if not again:
                self._untold_of(transaction, event.path, objection)
                transaction.drop(identity(event.path))
            return self._object(rcpt_text(event.path), objection)

        return unless(asked, reply, refused)

    def _heard_data(self, event: events.Data, again: bool, reply: Reply) -> Reply | Pending[Any]:
        message = self.arriving
        if message is None or reply.code >= 400:
            return reply
        message.scans = self._session.early
        named = [each.original for each in message.transaction.addressees.values()]

        def refused(objection: Reply) -> Reply:
            message.fail(objection)
            return self._object("DATA", objection)

        as_it_comes = message.completion is None
        asked = self._session.data(message.draft.ident, named, as_it_comes=as_it_comes)
        return unless(asked, reply, refused)

    def _object(self, command: str, objection: Reply) -> Reply:
        return self.refuse(command, objection, self._session.why)

    def _untold_of(
        self, transaction: ReceivedTransaction, mailbox: Mailbox, objection: Reply
    ) -> None:
        plan = transaction.addressees[identity(mailbox)].plan
        step = Step("ask", "", self._session.why, str(objection))
        plan = Plan(Verdict.REFUSE, objection, (), (*plan.trail, step))
        path, rules = transaction.envelope.reverse_path, transaction.ruleset.hash
        self._intake.untold(transaction.client, path, mailbox, plan, rules)


_ASKED: Mapping[type, Callable[..., Reply | Pending[Any]]] = {
    events.Hello: FilteringReception._heard_hello,
    events.Mail: FilteringReception._heard_mail,
    events.Rcpt: FilteringReception._heard_rcpt,
    events.Data: FilteringReception._heard_data,
}
