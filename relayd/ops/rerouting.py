"""`relayctl reroute`: what waits goes the way that the rules of now say."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from relayd.intake.transaction import Identity, identity
from relayd.mail.address import Mailbox, path_text
from relayd.mail.envelope import Direction, Recipient
from relayd.mail.ident import ident_text
from relayd.mail.log import MailLog
from relayd.mail.message import RecipientState, Record, held_by_rules
from relayd.mail.outcome import UNANSWERED
from relayd.mail.plan import FACT, Destination, Plan, Verdict
from relayd.mail.reply import Severity
from relayd.ops.documents import MOST_REROUTED, Document, Request, text_of
from relayd.ops.replay import stampless
from relayd.rules.evaluate import LOOPED, Facts, evaluate, plan_own, plan_route
from relayd.rules.fact import Known
from relayd.rules.ruleset import Ruleset
from relayd.rules.storedfact import recalled
from relayd.spool.interface import Store
from relayd.spool.queue import Key
from relayd.spool.view import Envelopes, QueueFilter, Rerouting

PAGE = 100  # messages looked at between two turns of the reactor, and in one transaction

ELSEWHERE = "by relayctl reroute: no rule leads there any more, or others have got it"

Borrow = Callable[[Iterable[Collection[Key]]], list[bool]]
BringBack = Callable[[Collection[Key], Iterable[str]], None]
"""See relayd.relay.dispatch.Dispatcher."""


class Lender(Protocol):
    """Where mail waits, and who delivers it."""

    @property
    def store(self) -> Store:
        """The spool."""

    @property
    def borrow(self) -> Borrow:
        """Keeps recipients from being delivered, if they are not already."""

    @property
    def bring_back(self) -> BringBack:
        """Lets them go again."""


@dataclass
class Decided:
    """What the rules of now make of one message."""

    rerouting: Rerouting | None = None  # None: nothing changes
    changed: list[tuple[str, Record, Recipient | None]] = field(default_factory=list)  # and how
    left: list[tuple[str, Record]] = field(default_factory=list)  # as it is, and why


class ReroutingDesk:
    """Carries the command out for one process."""

    def __init__(
        self, ruleset: Callable[[], Ruleset], log: MailLog, clock: Callable[[], float]
    ) -> None:
        self._ruleset = ruleset
        self._log = log
        self._clock = clock

    async def run(self, request: Request, waiting: Lender, wanted: QueueFilter) -> Document:
        """Page by page; deliveries, and mail that comes in, go on meanwhile. Raises SpoolError."""
        ruleset = self._ruleset()  # one for all of it, whatever is loaded meanwhile
        route_only = request.get("route_only") is True
        dry = request.get("dry_run") is True
        told = Told()
        after: int | None = 0
        while after is not None:
            page, after = await waiting.store.envelopes(wanted, after, PAGE)
            found = [reroute(ruleset, each, self._clock(), route_only=route_only) for each in page]
            told.recipients += sum(len(each.meant) for each in page)
            kept = [True for _ in found] if dry else await self._change(waiting, found)
            for each, done in zip(found, kept, strict=True):
                told.add(each, done=done)
        document = told.document()
        if document["changed"] and not dry:
            self._log.notice(
                "operator", command="reroute", by=text_of(request, "by"), **document["changed"]
            )
        return document

    async def _change(self, waiting: Lender, found: Sequence[Decided]) -> list[bool]:
        """Which of them are as decided now; the others are under way, or have changed."""
        reroutings = [
            one for each in found if (one := each.rerouting) is not None and not _awaited(one)
        ]
        keys = [[(each.message, each.number) for each in one.before] for one in reroutings]
        free = waiting.borrow(keys)
        ours = [one for one, mine in zip(reroutings, free, strict=True) if mine]
        if not ours:
            return [each.rerouting is None for each in found]
        done: set[int] = set()
        try:
            done.update(await waiting.store.reroute(ours))
        finally:
            waiting.bring_back(
                [(each.message, each.number) for one in ours for each in one.before],
                # where they were, too: it may be that nothing was changed
                {each.recipient.destination for one in ours for each in (*one.before, *one.after)},
            )
        return [each.rerouting is None or each.rerouting.message in done for each in found]


class Told:
    """What is said of it in the end."""

    def __init__(self) -> None:
        self.recipients = 0  # looked at
        self._under_way = 0
        self._changed: dict[str, int] = {}
        self._left: dict[str, int] = {}
        self._changes: list[Document] = []

    def add(self, decided: Decided, *, done: bool) -> None:
        """One more message; `done`: it is so now, or would be."""
        for kind, record in decided.left:
            self._left[kind] = self._left.get(kind, 0) + 1
            self._name(kind, record, record.recipient, left=True)
        if not done:
            self._under_way += len(decided.changed)
            return
        for kind, record, to in decided.changed:
            self._changed[kind] = self._changed.get(kind, 0) + 1
            self._name(kind, record, to, left=False)

    def _name(self, kind: str, record: Record, to: Recipient | None, *, left: bool) -> None:
        if len(self._changes) < MOST_REROUTED:
            self._changes.append(
                {
                    "id": ident_text(record.message),
                    "recipient": str(record.recipient.original),
                    "kind": kind,
                    "left": left,
                    "then": _way(record.recipient),
                    "now": "" if to is None else _way(to),
                }
            )

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "recipients": self.recipients,
            "under_way": self._under_way,
            "changed": self._changed,
            "left": self._left,
            "changes": self._changes,
        }


def _awaited(rerouting: Rerouting) -> bool:
    """Whether the message's client waits for its first attempt, the way that it has."""
    return any(record.last == UNANSWERED for record in rerouting.before)


def _way(to: Recipient) -> str:
    path = path_text(to.reverse_path) or "<>"
    return f"{to.mailbox} {Direction.parse(to.next_hop).words} from {path}"


def reroute(
    ruleset: Ruleset, envelopes: Envelopes, now: float, *, route_only: bool = False
) -> Decided:
    """All stages anew for each recipient as the client named it, or only the route. Pure.

    What was accepted is neither refused nor thrown away for it: such a recipient is left as it is.
    What is held stays held, until somebody releases it. Header sections stay as they were made.
    """
    decided = Decided()
    if route_only:
        _routes(ruleset, envelopes, now, decided)
    else:
        _plans(ruleset, envelopes, now, decided)
    return decided


def _facts(ruleset: Ruleset, envelopes: Envelopes, recipient: Mailbox) -> Facts:
    """What was known then, at the time of then: SRS addresses come out as they did."""
    stored = {step.place: step.note for step in envelopes.trail if step.stage == FACT}
    told = recalled(ruleset.gathered, stored)
    sender = envelopes.envelope.reverse_path
    at = envelopes.received_at
    return Facts(envelopes.client, sender, recipient, at, told, Known.CONTENT)


def _routes(ruleset: Ruleset, envelopes: Envelopes, now: float, decided: Decided) -> None:
    changed = []
    for record in _meant(envelopes):
        to = record.recipient
        facts = _facts(ruleset, envelopes, to.original)
        next_hop = plan_route(ruleset, facts, to.mailbox)
        if next_hop is None:
            decided.left.append(("unknown", record))
        elif next_hop != to.next_hop:
            new = replace(to, next_hop=next_hop)
            changed.append((record, _moved(record, new, now)))
            decided.changed.append(("route", record, new))
    if changed:
        decided.rerouting = Rerouting(envelopes.ident, tuple(changed))


def _plans(ruleset: Ruleset, envelopes: Envelopes, now: float, decided: Decided) -> None:
    groups: dict[Identity, list[Record]] = {}
    for record in _meant(envelopes):
        groups.setdefault(identity(record.recipient.original), []).append(record)
    plans = []
    for records in groups.values():
        plan = _plan(ruleset, envelopes, records[0].recipient.original)
        why = _left(plan)
        if why:
            decided.left += [(why, record) for record in records]
        else:
            plans.append((records, plan))
    has_it = {identity(mailbox) for mailbox, note in envelopes.ended if note != ELSEWHERE}
    staying = [each.recipient for each in envelopes.records if each.number not in envelopes.meant]
    changed: list[tuple[Record, Record]] = []
    added: list[Record] = []
    ended: list[tuple[Record, str]] = []
    for records, plan in plans:
        original = identity(records[0].recipient.original)
        beside = {identity(to.mailbox) for to in staying if identity(to.original) == original}
        ways = {identity(way.mailbox): way for way in plan.destinations}
        wanted = [way for to, way in ways.items() if to not in has_it and to not in beside]
        pairs, gone, more = _paired(records, wanted)
        for was, way in pairs:
            new = _anew(was, way, plan, now)
            if new != was:
                changed.append((was, new))
                decided.changed.append((_kind(was, new), was, new.recipient))
        for was in gone:
            ended.append((was, ELSEWHERE))
            decided.changed.append(("mailbox", was, None))
        for way in more:
            number = envelopes.next_number + len(added)
            added.append(_anew(replace(records[0], number=number), way, plan, now))
            decided.changed.append(("mailbox", records[0], added[-1].recipient))
    if changed or added or ended:
        decided.rerouting = Rerouting(envelopes.ident, tuple(changed), tuple(added), tuple(ended))


def _meant(envelopes: Envelopes) -> list[Record]:
    return [each for each in envelopes.records if each.number in envelopes.meant]


def _plan(ruleset: Ruleset, envelopes: Envelopes, recipient: Mailbox) -> Plan:
    facts = _facts(ruleset, envelopes, recipient)
    if envelopes.client.address:  # else it is a report of ours: nobody had to let it in
        plan = evaluate(ruleset, facts)
        if plan.verdict is not Verdict.REFUSE or plan.reply.severity is not Severity.TRANSIENT:
            return plan
    # it has been let in, whatever the rules for that cannot say, or would put off
    return plan_own(ruleset, facts)


def _left(plan: Plan) -> str:
    """Why recipients stay as they are; empty: they do not."""
    if plan.verdict is Verdict.DISCARD:
        return "discarded"
    if plan.verdict is not Verdict.REFUSE:
        return ""
    if plan.reply is LOOPED:
        return "loop"
    return "unknown" if plan.reply.severity is Severity.TRANSIENT else "refused"


def _paired(
    records: Sequence[Record], wanted: Sequence[Destination]
) -> tuple[list[tuple[Record, Destination]], list[Record], list[Destination]]:
    """Who was there with where it goes: the same mailbox first, then as they come; the rest."""
    gone = list(records)
    more = []
    pairs = []
    for way in wanted:
        same = identity(way.mailbox)
        found = next((each for each in gone if identity(each.recipient.mailbox) == same), None)
        if found is None:
            more.append(way)
        else:
            gone.remove(found)
            pairs.append((found, way))
    several = min(len(gone), len(more))
    pairs += zip(gone[:several], more[:several], strict=True)
    return pairs, gone[several:], more[several:]


def _anew(record: Record, way: Destination, plan: Plan, now: float) -> Record:
    """The record of this number on its new way."""
    old = record.recipient
    path = way.reverse_path
    if stampless(path) == stampless(old.reverse_path):
        path = old.reverse_path
    orcpt = old.orcpt
    same = identity(way.mailbox) == identity(old.mailbox)
    if not (orcpt or same or identity(way.mailbox) == identity(old.original)):
        # RFC 3461 section 5.2.1: an ORCPT of our own names the RCPT that we were given
        text = str(old.original)
        orcpt = f"{'rfc822' if text.isascii() else 'utf-8'};{text}"
    mailbox = old.mailbox if same else way.mailbox
    to = replace(old, mailbox=mailbox, next_hop=way.next_hop, reverse_path=path, orcpt=orcpt)
    new = _moved(record, to, now)
    if plan.verdict is Verdict.HOLD and record.state is RecipientState.QUEUED:
        new = replace(new, state=RecipientState.HELD, last=held_by_rules(plan.trail))
    return new


def _moved(record: Record, to: Recipient, now: float) -> Record:
    """Where it goes elsewhere it is due now, and its schedule begins anew."""
    if (to.mailbox, to.next_hop) == (record.recipient.mailbox, record.recipient.next_hop):
        return replace(record, recipient=to)
    last = record.last if record.state is RecipientState.HELD else None
    return replace(record, recipient=to, attempts=0, next_attempt=now, last=last)


def _kind(old: Record, new: Record) -> str:
    """What changes most, in the words of relayd.ops.replay.KINDS."""
    if new.state is not old.state:
        return "held"
    if identity(new.recipient.mailbox) != identity(old.recipient.mailbox):
        return "mailbox"
    return "route" if new.recipient.next_hop != old.recipient.next_hop else "sender"
