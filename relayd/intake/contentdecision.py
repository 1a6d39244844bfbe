"""What is decided of a message when all of its content is there: asked once more, who is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from relayd.authentication.results import without_forged
from relayd.intake.arriving import ArrivingMessage
from relayd.intake.checks import Objection, ReceivedContent
from relayd.intake.examination import Examination, Filtered
from relayd.intake.replies import NO_MEMORY, TOO_MANY, spool_reply
from relayd.intake.transaction import FREE_RECIPIENTS
from relayd.intake.wanted import wanted_plans
from relayd.mail.address import Mailbox
from relayd.mail.plan import Plan, Verdict
from relayd.rules.evaluate import TROUBLE, Facts
from relayd.rules.fact import Fact, Known
from relayd.rules.leaving import BREAKS, UNFORETOLD, Foretelling
from relayd.rules.view import Unasked
from relayd.spool.errors import SpoolError

_A_TURNS_RECIPIENTS = 50  # decided about again in one turn of the reactor


class ContentDecision:
    """One message's: facts are gathered, filters asked, then the rules, of all and of each."""

    def __init__(self, message: ArrivingMessage, examination: Examination) -> None:
        self._message = message
        self._examination = examination
        self._intake = message.intake
        self._transaction = message.transaction
        self._ruleset = message.transaction.ruleset
        self._foretells: Foretelling | None = None  # if a rule asks

    async def made(self) -> Objection:
        """What speaks against it; None: it goes as the plans of its addressees say by now."""
        message, examination, arrived = self._message, self._examination, self._message.header
        gathering, transaction = message.gathering, self._transaction
        content = message.received()
        try:
            told: dict[Fact, object] = dict(gathering.facts) if gathering else {}
            told |= await examination.facts(
                arrived, content, transaction.client, transaction.envelope, told
            )
            found = await self._filtered(content, told)
            if found.objection is not None:
                message.why = " ".join(step.rule for step in found.trail)
                return found.objection
            told |= found.facts
            if content.rewritten:
                message.rewritten(content)
                told |= examination.fields(content.section)
            if self._ruleset.foretells:
                self._foretells = await self._foretelling(content, arrived.octets)
                told[BREAKS] = self._foretells
        except SpoolError as error:
            return spool_reply(error)
        finally:
            content.close()
        message.told = told
        return await self._decided_again(told, found) or self._as_filters_want(told, found)

    async def _filtered(self, content: ReceivedContent, told: Mapping[Fact, object]) -> Filtered:
        """What those say who read it and are not us."""
        filters = self._message.filters
        if filters is None:
            return Filtered()
        if self._ruleset.authenticates:
            await self._without_forged(content)
        transaction = self._transaction
        named = [each.original for each in transaction.addressees.values()]
        return await filters.examine(transaction.client, transaction.envelope, named, content, told)

    async def _without_forged(self, content: ReceivedContent) -> None:
        """Who reads it after us believes our name: nobody is to see what only claims it.

        What filters of ours write in our name from now on stays.
        """
        section = content.whole_section
        clean = without_forged(section, self._intake.trace.hostname)
        if clean != section:
            await content.rewrite(clean)
        self._message.clean = True

    async def _foretelling(self, content: ReceivedContent, arrived: bytes) -> Foretelling | None:
        """Who foretells what becomes of its copies. Raises SpoolError."""
        intake, ruleset, vouched = self._intake, self._ruleset, self._examination.vouched
        if intake.gatherer is None or vouched is None:
            return None
        section, started = content.whole_section, self._transaction.started
        if not self._message.clean:
            section = without_forged(section, intake.trace.hostname)
        results = b"Authentication-Results: ours\r\n" if ruleset.authenticates else b""
        return intake.gatherer.forecasting(
            ruleset,
            arrived=arrived,
            section=section,
            above=results + content.trace,
            signatures=await self._examination.signatures(content, intake.turn),
            vouched=vouched,
            edit=lambda rules, octets: intake.edit(ruleset, rules, octets, started),
        )

    # -- the rules, once more ----------------------------------------------------------------------

    async def _decided_again(self, told: Mapping[Fact, object], found: Filtered) -> Objection:
        """What they say now that the content is known: of all recipients, then of each."""
        ruleset, transaction = self._ruleset, self._transaction
        client, sender = transaction.client, transaction.envelope.reverse_path
        started, nobody = transaction.started, Mailbox("", "")
        transaction.foretold = self._foretells is not None
        of_all = self._intake.examine(
            ruleset, Facts(client, sender, nobody, started, told, Known.CONTENT)
        )
        if of_all.verdict is Verdict.REFUSE:
            return self._refused_by(of_all)
        told_of_content = {fact: told[fact] for fact in ruleset.examined if fact in told}
        if self._foretells is not None:
            told_of_content[BREAKS] = self._foretells
        plans = []
        for number, each in enumerate(transaction.addressees.values(), 1):
            fresh = each.plan
            if ruleset.plans_anew or of_all.trail:
                gathered = {**(each.gathered or {}), **told_of_content}
                facts = Facts(client, sender, each.original, started, gathered, Known.CONTENT)
                fresh = await self._decided_asking(facts)
                if fresh.verdict is Verdict.REFUSE:
                    return self._refused_by(fresh)
            if found.verdict is not Verdict.ACCEPT and fresh.verdict is not Verdict.DISCARD:
                fresh = replace(fresh, verdict=found.verdict)
            plans.append(replace(fresh, trail=(*fresh.trail, *found.trail)))
            if number % _A_TURNS_RECIPIENTS == 0:
                await self._intake.turn()
        return self._planned_anew(plans)

    async def _decided_asking(self, facts: Facts) -> Plan:
        """What they say of one recipient, about whom others may still have to be asked."""
        gathering, transaction = self._message.gathering, self._transaction
        if gathering is None:
            return self._intake.decide(self._ruleset, facts)
        facts = replace(facts, asks=True)
        while True:
            try:
                plan = self._intake.decide(self._ruleset, facts)
            except Unasked as unasked:
                fact = unasked.fact
                if fact is UNFORETOLD and self._foretells is not None:
                    await self._foretells.look_up()
                    continue
                gathering.about_recipient(self._ruleset, fact, facts, transaction.counted)
                await gathering.wait()
                known = {**(facts.gathered or {}), fact: gathering.facts[fact]}
                facts = replace(facts, gathered=known)
            else:
                transaction.note(gathering.of_recipient, gathering.recipient_decided(taken=True))
                return plan

    def _as_filters_want(self, told: Mapping[Fact, object], found: Filtered) -> Objection:
        """Then what filters want of the envelope."""
        if not found.wanted:
            return None
        plans = wanted_plans(found.wanted, self._transaction, told)
        return TROUBLE if plans is None else self._planned_anew(plans)

    def _planned_anew(self, plans: Sequence[Plan]) -> Objection:
        intake, transaction = self._intake, self._transaction
        total = sum(len(plan.destinations) for plan in plans)
        if total > intake.limits.destinations and len(plans) > 1:
            return TOO_MANY
        held = max(total, len(plans))
        if held > FREE_RECIPIENTS and not transaction.hold(intake.memory, held):
            return NO_MEMORY
        transaction.plan_anew(plans)
        return None

    def _refused_by(self, plan: Plan) -> Objection:
        """None of the recipients is taken: SMTP has one answer for all."""
        message, transaction = self._message, self._transaction
        message.why = refused_by(plan)
        plan = replace(plan, trail=(*message.facts_told(), *plan.trail))
        path, rules = transaction.envelope.reverse_path, self._ruleset.hash
        for each in transaction.addressees.values():
            self._intake.untold(transaction.client, path, each.original, plan, rules)
        return plan.reply


def refused_by(plan: Plan) -> str:
    """The rule that refused, for the log."""
    step = plan.trail[-1] if plan.trail else None
    if step is None:
        return ""
    built_in = step.rule == str(plan.reply)  # its words stand in the reply already
    return f"{step.place} {(built_in and step.note) or step.rule}".strip()
