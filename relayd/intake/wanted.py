"""What filters want to become of a message's envelope, and the plans that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from relayd.intake.transaction import Addressee, Identity, ReceivedTransaction, identity
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.plan import Plan, Step, Verdict
from relayd.rules.evaluate import Facts, copies_from, plan_own
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

_KEPT = (Verdict.ACCEPT, Verdict.HOLD)


@dataclass(slots=True)
class Wanted:
    """What filters want to become of a message."""

    hold: str = ""  # why
    discard: str = ""  # who says so
    held: dict[Mailbox, str] = field(default_factory=dict)  # ... of single recipients
    thrown_away: dict[Identity, str] = field(default_factory=dict)
    added: list[tuple[Mailbox, str]] = field(default_factory=list)
    sender: ReversePath | str = ""  # "": it stays
    above: list[bytes] = field(default_factory=list)  # fields that policy services put in front
    steps: list[Step] = field(default_factory=list)  # for the trail

    def add(self, mailbox: Mailbox, name: str) -> None:
        """One recipient more: also one that was thrown away before."""
        self.thrown_away.pop(identity(mailbox), None)
        self.added.append((mailbox, name))

    def throw_away(self, mailbox: Mailbox, said: str) -> None:
        """One recipient less: also one that was added before."""
        named = identity(mailbox)
        self.added = [each for each in self.added if identity(each[0]) != named]
        self.thrown_away[named] = said

    def __bool__(self) -> bool:
        return bool(
            self.hold
            or self.discard
            or self.held
            or self.thrown_away
            or self.added
            or self.sender != ""
        )


def done(ruleset: Ruleset, verb: str, said: str) -> Step:
    """A step of the trail: what was done to the message, and who (`NAME: why`) wanted it."""
    definition = ruleset.filters.get(said.partition(":")[0])
    return Step(verb, str(definition.place) if definition else "", f"{verb} by {said}")


def wanted_plans(
    wanted: Wanted, transaction: ReceivedTransaction, told: Mapping[Fact, object]
) -> list[Plan] | None:
    """Those of its addressees, who may be more by now; None: where mail goes is not known now."""
    ruleset = transaction.ruleset
    if not isinstance(wanted.sender, str):
        transaction.envelope = replace(transaction.envelope, reverse_path=wanted.sender)
    held = {identity(each): why for each, why in wanted.held.items()}
    plans = []
    for named, addressee in transaction.addressees.items():
        plan = addressee.plan
        if not isinstance(wanted.sender, str) and plan.verdict in _KEPT:
            fresh = _planned(transaction, addressee.original, told)
            if fresh is None:
                return None
            plan = replace(plan, destinations=fresh.destinations)
        if not isinstance(wanted.sender, str) and plan.bcc:  # of what is discarded as well
            copies = copies_from(ruleset, _facts(transaction, addressee.original, told), plan.bcc)
            if copies is None:
                return None
            plan = replace(plan, bcc=copies)
        if named in wanted.thrown_away:
            step = done(ruleset, "discard", wanted.thrown_away[named])
            trail = (*plan.trail, step)
            plan = replace(plan, verdict=Verdict.DISCARD, destinations=(), trail=trail)
        elif named in held and plan.verdict is Verdict.ACCEPT:
            step = done(ruleset, "hold", held[named])
            plan = replace(plan, verdict=Verdict.HOLD, trail=(*plan.trail, step))
        plans.append(plan)
    verdict = Verdict.HOLD if wanted.hold else Verdict.ACCEPT
    for mailbox, name in () if wanted.discard else wanted.added:
        if identity(mailbox) in transaction.addressees:
            continue
        planned = _planned(transaction, mailbox, told)
        if planned is None:
            return None
        step = done(ruleset, "add", f"{name}: <{mailbox}>")
        planned = replace(planned, trail=(step, *planned.trail))
        if planned.verdict is Verdict.ACCEPT:
            planned = replace(planned, verdict=verdict)
        transaction.add(identity(mailbox), Addressee(mailbox, "", frozenset(), planned))
        plans.append(planned)
    return plans


def _planned(
    transaction: ReceivedTransaction, mailbox: Mailbox, told: Mapping[Fact, object]
) -> Plan | None:
    """Where mail goes that no rule needs to let in; None: that is not known now."""
    plan = plan_own(transaction.ruleset, _facts(transaction, mailbox, told))
    return None if plan.verdict is Verdict.REFUSE else plan


def _facts(
    transaction: ReceivedTransaction, mailbox: Mailbox, told: Mapping[Fact, object]
) -> Facts:
    path = transaction.envelope.reverse_path
    return Facts(transaction.client, path, mailbox, transaction.started, told)
