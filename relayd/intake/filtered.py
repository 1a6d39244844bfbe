"""A reception whose rules ask filters: each has its say where a session comes to it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from relayd.filters.scanning import ClamdScan
from relayd.intake.asking import LATE_AT_THE_DOOR, answered, followed
from relayd.intake.checks import Finding, Objection
from relayd.intake.examination import Filtered
from relayd.intake.pending import Pending
from relayd.intake.policy import ListenerPolicy
from relayd.intake.reception import Intake, Reception, mail_text, rcpt_text
from relayd.intake.sessionfilters import SessionFilters
from relayd.intake.transaction import Addressee, ReceivedTransaction, identity
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.rules.evaluate import TROUBLE, Facts, plan_own
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset
from relayd.smtp import events
from relayd.spool.errors import SpoolError
from relayd.spool.interface import AnyDraft

_BEHIND = 65536  # octets


class FilteringReception(Reception):
    """Asks filters from the connection to the final dot."""

    _keeps_header = True

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
        return answered(
            self._session.connection(self.client, self._known_by_now()),
            lambda objection: greeting if objection is None else self._turn_away(objection),
            LATE_AT_THE_DOOR,
        )

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
        if verdict is None:
            return None
        return followed(verdict, partial(asks, self, event, again))

    def leave(self) -> None:
        """The session is over, or another client's."""
        self._session.over()
        super().leave()

    def rollback(self) -> None:
        """The transaction, if there is one, ends without a message."""
        super().rollback()
        self._session.reset()

    def _turn_away(self, objection: Reply) -> Reply:
        # RFC 5321 section 3.1 knows these two
        code, status = (554, "5.7.1") if objection.code >= 500 else (421, "4.7.1")
        return self._refuse("connection", Reply.of(code, status, objection.text))

    def _known_by_now(self) -> Mapping[Fact, object]:
        return {} if self._gathering is None else self._gathering.facts

    # commands

    def _heard_hello(self, event: events.Hello, again: bool, reply: Reply) -> Reply | Pending[Any]:
        if reply.code >= 400:
            return reply
        asked = self._session.hello(self.client, self._mechanism)
        name = "EHLO" if event.esmtp else "HELO"
        return self._asked(asked, reply, lambda objection: self._object(name, objection))

    def _heard_mail(self, event: events.Mail, again: bool, reply: Reply) -> Reply | Pending[Any]:
        transaction, ruleset = self._transaction, self._ruleset
        if transaction is None or ruleset is None:
            return reply
        asked = self._session.mail(
            ruleset, transaction.client, self._mechanism, event.path, event.params
        )

        def refused(objection: Reply) -> Reply:
            refusal = self._object(mail_text(event), objection)
            self.rollback()
            return refusal

        return self._asked(asked, reply, refused)

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

        return self._asked(asked, reply, refused)

    def _heard_data(self, event: events.Data, again: bool, reply: Reply) -> Reply | Pending[Any]:
        transaction, draft = self._transaction, self._draft
        if transaction is None or draft is None or reply.code >= 400:
            return reply
        named = [each.original for each in transaction.addressees.values()]

        def refused(objection: Reply) -> Reply:
            self._fail(objection)
            return self._object("DATA", objection)

        asked = self._session.data(draft.ident, named, as_it_comes=self._completion is None)
        return self._asked(asked, reply, refused)

    def _asked(
        self, asked: Finding, reply: Reply, refused: Callable[[Reply], Reply]
    ) -> Reply | Pending[Any]:
        return answered(asked, lambda objection: reply if objection is None else refused(objection))

    def _object(self, command: str, objection: Reply) -> Reply:
        return self._refuse(command, objection, self._session.why)

    def _untold_of(
        self, transaction: ReceivedTransaction, mailbox: Mailbox, objection: Reply
    ) -> None:
        plan = transaction.addressees[identity(mailbox)].plan
        step = Step("ask", "", self._session.why, str(objection))
        plan = Plan(Verdict.REFUSE, objection, (), (*plan.trail, step))
        rules = "" if self._ruleset is None else self._ruleset.hash
        path = transaction.envelope.reverse_path
        self._intake.untold(transaction.client, path, mailbox, plan, rules)

    # the content

    def content(self, data: bytes) -> None:
        """A piece of content: for who sees it while it arrives, too."""
        super().content(data)
        draft = self._draft
        if draft is not None and self._session.early:
            with contextlib.suppress(SpoolError):  # of which the commit will hear
                for scan in self._session.early:
                    self._hand_over_early(scan, draft, data)

    def _hand_over_early(self, scan: ClamdScan, draft: AnyDraft, data: bytes) -> None:
        # what is in the draft may be more than this, or less: its beginning is held back; and who
        # has fallen behind gets the rest when all of it is there
        missing = draft.size - len(self._trace) - scan.sent
        if scan.full or scan.refused or not 0 < missing <= len(data) + _BEHIND:
            return
        if missing == len(data):
            scan.push(data)
            return
        for piece in draft.chunks(len(self._trace) + scan.sent):
            scan.push(piece)

    async def _decided_again(
        self,
        ruleset: Ruleset,
        transaction: ReceivedTransaction,
        told: Mapping[Fact, object],
        found: Filtered,
    ) -> Objection:
        """What the rules say, then what filters want of the envelope."""
        objection = await super()._decided_again(ruleset, transaction, told, found)
        if objection is None and self._session.wanted:
            return self._as_wanted(ruleset, transaction)
        return objection

    def _as_wanted(self, ruleset: Ruleset, transaction: ReceivedTransaction) -> Objection:
        wanted = self._session.wanted
        if not isinstance(wanted.sender, str):
            transaction.envelope = replace(transaction.envelope, reverse_path=wanted.sender)
        held = {identity(each): why for each, why in wanted.held.items()}
        plans = []
        for named, addressee in transaction.addressees.items():
            plan = addressee.plan
            if not isinstance(wanted.sender, str) and plan.verdict in _KEPT:
                fresh = self._planned(ruleset, transaction, addressee.original)
                if fresh is None:
                    return TROUBLE
                plan = replace(
                    plan,
                    destinations=fresh.destinations,
                    bcc=tuple(replace(each, reverse_path=wanted.sender) for each in plan.bcc),
                )
            if named in wanted.thrown_away:
                step = self._session.done("discard", wanted.thrown_away[named])
                trail = (*plan.trail, step)
                plan = replace(plan, verdict=Verdict.DISCARD, destinations=(), trail=trail)
            elif named in held and plan.verdict is Verdict.ACCEPT:
                step = self._session.done("hold", held[named])
                plan = replace(plan, verdict=Verdict.HOLD, trail=(*plan.trail, step))
            plans.append(plan)
        verdict = Verdict.HOLD if wanted.hold else Verdict.ACCEPT
        for mailbox, name in () if wanted.discard else wanted.added:
            if identity(mailbox) in transaction.addressees:
                continue
            planned = self._planned(ruleset, transaction, mailbox)
            if planned is None:
                return TROUBLE
            step = self._session.done("add", f"{name}: <{mailbox}>")
            planned = replace(planned, trail=(step, *planned.trail))
            if planned.verdict is Verdict.ACCEPT:
                planned = replace(planned, verdict=verdict)
            transaction.add(identity(mailbox), Addressee(mailbox, "", frozenset(), planned))
            plans.append(planned)
        return self._planned_anew(transaction, plans)

    def _planned(
        self, ruleset: Ruleset, transaction: ReceivedTransaction, mailbox: Mailbox
    ) -> Plan | None:
        """Where mail goes that no rule needs to let in; None: that is not known now."""
        path = transaction.envelope.reverse_path
        facts = Facts(
            transaction.client, path, mailbox, transaction.started, self._session.gathered
        )
        plan = plan_own(ruleset, facts)
        return None if plan.verdict is Verdict.REFUSE else plan


_KEPT = (Verdict.ACCEPT, Verdict.HOLD)
_ASKED: Mapping[type, Callable[..., Reply | Pending[Any]]] = {
    events.Hello: FilteringReception._heard_hello,
    events.Mail: FilteringReception._heard_mail,
    events.Rcpt: FilteringReception._heard_rcpt,
    events.Data: FilteringReception._heard_data,
}
