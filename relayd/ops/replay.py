"""`relayctl replay`: what other rules would make of the envelopes that relayd has really seen."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from relayd.mail.address import ReversePath, path_text
from relayd.mail.envelope import Direction
from relayd.mail.nexthop import NextHop
from relayd.mail.plan import Plan, Step, Verdict
from relayd.mail.reply import Severity
from relayd.ops.text import moment, safe
from relayd.rules.check.check import used_tables
from relayd.rules.evaluate import LOOPED, Facts, evaluate
from relayd.rules.fact import Known
from relayd.rules.ruleset import Ruleset
from relayd.rules.storedfact import recalled
from relayd.spool.envelopes import Dropped, Seen

SAME, CHANGED, TROUBLE = 0, 1, 2  # exit statuses
EXAMPLES = 1  # of each kind, unless all are wanted

# in the order they are told: of one recipient, of several, the heading of its examples
KINDS: Mapping[str, tuple[str, str, str]] = {
    "route": ("changes route", "change route", "another route"),
    "mailbox": ("goes to other mailboxes", "go to other mailboxes", "other mailboxes"),
    "sender": ("changes its reverse-path", "change their reverse-path", "another reverse-path"),
    "header": ("gets another header", "get another header", "another header"),
    "copy": ("is copied elsewhere", "are copied elsewhere", "other copies"),
    "refused": ("would be refused", "would be refused", "refused"),
    "loop": ("loops", "loop", "loops"),
    "unknown": ("would be put off", "would be put off", "put off: unknown now"),
    "unstored": (
        "depends on what was not stored",
        "depend on what was not stored",
        "unknown, for it was not stored then",
    ),
    "accepted": ("would be accepted", "would be accepted", "accepted"),
    "held": ("would be held", "would be held", "held"),
    "discarded": ("would be discarded", "would be discarded", "discarded"),
    "passed": ("would no longer be kept back", "would no longer be kept back", "not kept back"),
    "reply": ("would hear another refusal", "would hear another refusal", "another refusal"),
}

_STAGES = {"route": "route", "held": "hold", "discarded": "discard"}

# SRS0=hash=day=..., SRS1=hash=...: hash and day are never the same twice
_STAMP = re.compile(r"^(srs0[=+-])[^=]*=[^=]*=|^(srs1[=+-])[^=]*=", re.IGNORECASE)


@dataclass(slots=True)
class ReplayDifference:
    """One recipient that fares otherwise, with the first envelope that showed it."""

    kind: str
    recipient: str
    then: str
    now: str
    place: str  # of the rule: file:line
    rule: str
    at: float
    client: str
    sender: str
    count: int = 1  # envelopes

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass
class Replay:
    """Compares envelope by envelope.

    `hops_then`: the next hops as they were defined then; `rules_then`: what was done to headers and
    said of logins' senders, for neither ledger nor journal tells of them.
    """

    ruleset: Ruleset
    hops_then: Mapping[str, NextHop] | None = None
    rules_then: Ruleset | None = None
    envelopes: int = 0  # recipients looked at
    dropped: int = 0  # refusals that the journal only counted
    changes: dict[tuple[str, str], ReplayDifference] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)  # by place: rules that had a say
    _moved: dict[str, bool] = field(default_factory=dict)

    def feed(self, seen: Seen | Dropped) -> None:
        """One more."""
        if isinstance(seen, Dropped):
            self.dropped += seen.count
            return
        self.envelopes += 1
        plan = self._plan(seen)
        self.hits.update({step.place for step in plan.trail if step.place})
        kind = self._kind(seen, plan)
        if not kind:
            return
        recipient = str(seen.recipient)
        known = self.changes.get((kind, recipient.lower()))
        if known is not None:
            known.count += 1
            return
        step = _deciding(kind, seen, plan)
        self.changes[kind, recipient.lower()] = ReplayDifference(
            kind,
            recipient,
            _then(seen),
            "unknown" if kind == "unstored" else _now(plan),
            step.place,
            step.rule if step.rule.startswith(step.stage) else f"{step.stage} {step.rule}".strip(),
            seen.at,
            seen.client.address,
            path_text(seen.sender) or "<>",
        )

    def _plan(self, seen: Seen) -> Plan:
        """What the new rules say: at MAIL about a login's sender, then at RCPT."""
        then, refusal = self.rules_then, None
        if then is not None and then.send_as.refusal(seen.client, seen.sender) is None:
            refusal = self.ruleset.send_as.refusal(seen.client, seen.sender)
        if refusal is not None:
            note = f"login {seen.client.login} as {path_text(seen.sender)}"
            return Plan(Verdict.REFUSE, refusal, (), (Step("may-send-as", "", note),))
        return evaluate(self.ruleset, _facts(self.ruleset, seen))

    def _kind(self, seen: Seen, plan: Plan) -> str:
        """What changes first and most; empty: nothing."""
        then, now = seen.verdict, plan.verdict
        if plan.trail and plan.trail[-1].stage == "unknown" and _not_stored(self.ruleset, seen):
            return "unstored"
        if now is Verdict.REFUSE:
            if then is Verdict.REFUSE:
                return "" if str(plan.reply) == seen.reply else "reply"
            if plan.reply is LOOPED:
                return "loop"
            return "unknown" if plan.reply.severity is Severity.TRANSIENT else "refused"
        if then is Verdict.REFUSE:
            return "accepted"
        if now is not then:
            return {Verdict.HOLD: "held", Verdict.DISCARD: "discarded"}.get(now, "passed")
        return self._kind_of_ways(seen, plan) or (
            "copy" if self._has_other_copies(seen, plan) else ""
        )

    def _kind_of_ways(self, seen: Seen, plan: Plan) -> str:
        was = {(mailbox.key, hop) for mailbox, hop, _ in seen.destinations}
        will = {
            way
            for each in plan.destinations
            if (way := (each.mailbox.key, each.next_hop)) in was or way not in seen.elsewhere
        }
        if {mailbox for mailbox, _ in was} != {mailbox for mailbox, _ in will}:
            return "mailbox"
        if was != will or any(self._is_moved(hop) for _, hop in was):
            return "route"
        before = {stampless(path) for _, _, path in seen.destinations}
        after = {
            stampless(each.reverse_path)
            for each in plan.destinations
            if (each.mailbox.key, each.next_hop) in was
        }
        if before != after:
            return "sender"
        return "header" if self._has_another_header(seen, plan) else ""

    def _has_another_header(self, seen: Seen, plan: Plan) -> bool:
        then = self.rules_then
        if then is None or not (then.headers.entries or self.ruleset.headers.entries):
            return False
        before = _header_rules(then, evaluate(then, _facts(then, seen)))
        return before != _header_rules(self.ruleset, plan)

    def _has_other_copies(self, seen: Seen, plan: Plan) -> bool:
        """Of what `copy` rules send no ledger says for whom it was: the rules of then do."""
        then = self.rules_then
        if then is None or (then.bcc is None and self.ruleset.bcc is None):
            return False
        return _copies(evaluate(then, _facts(then, seen))) != _copies(plan)

    def _is_moved(self, names: str) -> bool:
        """The next hop has kept its name, but leads elsewhere."""
        if self.hops_then is None:
            return False
        known = self._moved.get(names)
        if known is None:
            then, now = self.hops_then, self.ruleset.next_hops
            each = Direction.parse(names).names
            known = any(name in then and then[name] != now.get(name) for name in each)
            self._moved[names] = known
        return known

    @property
    def status(self) -> int:
        """The exit status."""
        return CHANGED if self.changes else SAME

    def document(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            "envelopes": self.envelopes,
            "not_journalled": self.dropped,
            "summary": {kind: len(changes) for kind, changes in self._by_kind()},
            "changes": [change.document() for _, changes in self._by_kind() for change in changes],
        }

    def lines(self, most: int | None = EXAMPLES) -> Iterator[str]:
        """All of it for people; `most` examples of each kind, None: all."""
        yield self.summary()
        for kind, changes in self._by_kind():
            yield ""
            yield f"{KINDS[kind][2]}:"
            for change in changes[:most]:
                yield from _example(change)
            more = len(changes) - len(changes[:most])
            if more:
                yield f"  ... and {more:,} more (--all names them)"
        if self.dropped:
            yield ""
            yield f"{self.dropped:,} refused recipients were too many for the journal"

    def summary(self) -> str:
        """`214 recipients change route, 3 would be refused, 1 loops`."""
        parts: list[str] = []
        for kind, changes in self._by_kind():
            count = len(changes)
            one, several, _ = KINDS[kind]
            noun = "" if parts else (" recipient" if count == 1 else " recipients")
            parts.append(f"{count:,}{noun} {one if count == 1 else several}")
        seen = f"{self.envelopes:,} envelope{'' if self.envelopes == 1 else 's'}"
        return f"{', '.join(parts) or 'nothing changes'} ({seen} looked at)"

    def _by_kind(self) -> Iterator[tuple[str, Sequence[ReplayDifference]]]:
        for kind in KINDS:
            found = [change for (each, _), change in self.changes.items() if each == kind]
            if found:
                yield kind, sorted(found, key=lambda change: (-change.count, change.recipient))


def _facts(ruleset: Ruleset, seen: Seen) -> Facts:
    """What was known then. Who was refused at RCPT has shown us no content."""
    told = recalled(ruleset.gathered, seen.facts)
    content = seen.verdict is not Verdict.REFUSE or bool(ruleset.examined & told.keys())
    known = Known.CONTENT if content else Known.RECIPIENT
    return Facts(seen.client, seen.sender, seen.recipient, seen.at, told, known)


def _not_stored(ruleset: Ruleset, seen: Seen) -> bool:
    return any(fact.condition not in seen.facts for fact in ruleset.gathered)


def _header_rules(ruleset: Ruleset, plan: Plan) -> list[tuple[str, tuple[str, ...]]]:
    """The rules for the header, and what their tables hold; without any destination: none."""
    numbers = plan.destinations[0].header_rules if plan.destinations else ()
    rules = [ruleset.headers.entry(number).rule for number in numbers]
    return [
        (str(rule), tuple(ruleset.tables[name].digest for name in used_tables(rule)))
        for rule in rules
    ]


def _copies(plan: Plan) -> set[tuple[str, str]]:
    return {(each.mailbox.key, each.next_hop) for each in plan.bcc}


def stampless(path: ReversePath) -> str:
    """A reverse-path without what is another in each SRS address for the same sender."""
    return _STAMP.sub(r"\1\2", path_text(path))


def _deciding(kind: str, seen: Seen, plan: Plan) -> Step:
    """The rule that makes the difference; the last one that had a say where it is not clear."""
    if kind == "mailbox":
        stages: tuple[str, ...] = ("forward", "rewrite")
    elif kind == "sender":
        stages = ("srs", "rewrite")
    elif kind == "copy":
        stages = ("copy",)
    elif kind == "loop":
        stages = ("forward",)
    elif kind in ("accepted", "passed"):
        stages = ("accept", "srs")
    elif kind in _STAGES:
        stages = (_STAGES[kind],)
    elif kind == "unstored":
        return Step("", plan.trail[-1].place, plan.trail[-1].note)
    elif kind == "header":
        return Step("header", "", "rules for the header", "")
    else:
        stages = ()
    found = [step for step in plan.trail if step.stage in stages]
    if kind == "route":
        then = seen.elsewhere | {(mailbox.key, hop) for mailbox, hop, _ in seen.destinations}
        for step, way in zip(found, plan.destinations, strict=False):
            if (way.mailbox.key, way.next_hop) not in then:
                return step
    if kind == "loop":
        found = [step for step in found if step.place] or found
    choice = found or list(plan.trail)
    return choice[-1] if choice else Step("", "", "")


def _then(seen: Seen) -> str:
    if seen.verdict is Verdict.REFUSE:
        return f"refused: {seen.reply}"
    return _ways(
        seen.verdict, [(str(mailbox), hop, path) for mailbox, hop, path in seen.destinations]
    )


def _now(plan: Plan) -> str:
    if plan.verdict is Verdict.REFUSE:
        return f"refused: {plan.reply}"
    ways = [(str(each.mailbox), each.next_hop, each.reverse_path) for each in plan.destinations]
    copied = ", ".join(
        f"{each.mailbox} {Direction.parse(each.next_hop).words}" for each in plan.bcc
    )
    return _ways(plan.verdict, ways) + (f", copied to {copied}" if copied else "")


def _ways(verdict: Verdict, ways: Sequence[tuple[str, str, ReversePath]]) -> str:
    if verdict is Verdict.DISCARD:
        return "discarded"
    kept = "held, " if verdict is Verdict.HOLD else ""
    paths = {path_text(path) or "<>" for _, _, path in ways}
    routed = ", ".join(f"{mailbox} {Direction.parse(hop).words}" for mailbox, hop, _ in ways)
    return f"{kept}{routed} from {' '.join(sorted(paths))}"


def _example(change: ReplayDifference) -> Iterator[str]:
    times = "" if change.count == 1 else f", {change.count:,} envelopes"
    yield safe(f"  {change.recipient}{times}")
    yield safe(f"    then  {change.then}")
    yield safe(f"    now   {change.now}")
    yield safe(f"    by    {change.place or '(built in)'}   {change.rule}".rstrip())
    yield safe(f"    seen  {moment(change.at)} from {change.sender}, client {change.client}")
