"""Tests inside the rules: each `expect` is evaluated, and one that fails is a problem."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.dns.hostname import host_name
from relayd.mail.address import Mailbox, ReversePath, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import DIRECT, Direction
from relayd.mail.plan import Destination, Plan, Verdict
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.evaluate import Facts, evaluate_aloud
from relayd.rules.fact import Known
from relayd.rules.language.model import REWRITTEN, Expect, Expected
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.tables.live import LiveTable
from relayd.rules.tables.snapshot import SnapshotTable, nothing_read

OUTSIDER = "192.0.2.1"  # who asks when an `expect` names no client (RFC 5737)
SOMEBODY = Mailbox("somebody", "outside.invalid")
_VERDICTS = {
    Verdict.ACCEPT: "accept",
    Verdict.HOLD: "hold",
    Verdict.DISCARD: "discard",
    Verdict.REFUSE: "reject",
}


def failures(ruleset: Ruleset) -> list[Problem]:
    """A problem for each `expect` that fails, whatever directories hold."""
    return outcomes(ruleset)[0]


def outcomes(ruleset: Ruleset) -> tuple[list[Problem], list[Problem]]:
    """What comes out instead of what an `expect` says, and by which rules.

    The others are of those that fail by what a directory holds now. It changes without a word in
    the files, and must not keep them from being read: not when relayd starts, either.
    """
    failed: list[Problem] = []
    now: list[Problem] = []
    tables = ruleset.tables.values()
    live = any(isinstance(each, LiveTable) for each in tables)
    read = any(isinstance(each, SnapshotTable) for each in tables)
    unknown = live or any(isinstance(each, SnapshotTable) and not each.known for each in tables)
    for expect in ruleset.expects:
        facts = facts_of(ruleset, expect)
        plan = evaluate_aloud(ruleset, facts)
        if met(expect, plan) or (unknown and _put_off(plan)):
            continue
        what = f"the test fails: it comes out as {described(plan)}"
        found = failed
        if read:
            with nothing_read():
                if _put_off(evaluate_aloud(ruleset, facts)):
                    found, what = now, f"{what}, by what a directory holds now"
        found.append(Problem(expect.place, what, _cause(plan)))
    return failed, now


def _put_off(plan: Plan) -> bool:
    return plan.verdict is Verdict.REFUSE and plan.reply.code < 500


def facts_of(ruleset: Ruleset, expect: Expect) -> Facts:
    """The facts that the test stands for; what it does not state is as of anybody."""
    client = Client(
        expect.client or OUTSIDER,
        listener=expect.listener,
        helo=expect.helo or "outside.invalid",
        login=expect.login,
        rdns=_reverse_name(expect),
    )
    sender: ReversePath = SOMEBODY if isinstance(expect.sender, str) else expect.sender
    gathered = ruleset.usual | dict(condition.stated() for condition in expect.stated)
    return Facts(client, sender, expect.recipient, gathered=gathered, known=Known.CONTENT)


def _reverse_name(expect: Expect) -> str:
    stated = dict(condition.stated() for condition in expect.stated)
    if REVERSE_NAME in stated:
        return str(stated[REVERSE_NAME])
    return "" if expect.rdns == "none" else host_name(expect.rdns) or str(REVERSE_NAME.usual)


def met(expect: Expect, plan: Plan) -> bool:
    """Whether the plan is what the test expects."""
    if expect.verdict == "defer":
        if plan.verdict is not Verdict.REFUSE or plan.reply.code >= 500:
            return False
    elif _VERDICTS[plan.verdict] != expect.verdict:
        return False
    if expect.verdict in ("reject", "defer"):
        code_fits = expect.code in (0, plan.reply.code)
        return code_fits and expect.status in ("", plan.reply.status)
    if expect.new_sender == REWRITTEN:
        if not all(each.srs for each in plan.destinations):
            return False
    elif expect.new_sender != "":
        wanted = None if isinstance(expect.new_sender, str) else expect.new_sender
        if any(_key(each.reverse_path) != _key(wanted) for each in plan.destinations):
            return False
    return _reached(expect.destinations, plan.destinations) and _reached(expect.copies, plan.bcc)


def _reached(goals: Sequence[Expected], found: Sequence[Destination]) -> bool:
    if not goals:
        return True
    hops = {each.mailbox.key: each.next_hop for each in found}
    wanted_hops = {goal.mailbox.key: goal.next_hop for goal in goals}
    return hops.keys() == wanted_hops.keys() and all(
        hop in ("", hops[key]) or (hop == DIRECT and Direction.parse(hops[key]).direct)
        for key, hop in wanted_hops.items()
    )


def described(plan: Plan) -> str:
    """The plan in the words of an `expect`."""
    if plan.verdict is Verdict.REFUSE:
        return f"reject {plan.reply}"
    copies = f" copy {_goals(plan.bcc)}" if plan.bcc else ""
    if plan.verdict is Verdict.DISCARD:
        return f"discard{copies}"
    paths = {
        REWRITTEN if each.srs else path_text(each.reverse_path) or "null"
        for each in plan.destinations
    }
    paths.discard(str(SOMEBODY))
    sender = f" sender {', '.join(sorted(paths))}" if paths else ""
    hold = "hold " if plan.verdict is Verdict.HOLD else ""
    return f"{hold}{_goals(plan.destinations)}{sender}{copies}"


def _goals(found: Sequence[Destination]) -> str:
    return ", ".join(f"{each.mailbox} {_way(Direction.parse(each.next_hop))}" for each in found)


def _way(direction: Direction) -> str:
    """A test says of the direct way no more than that."""
    return DIRECT if direction.direct else direction.words


def _cause(plan: Plan) -> str:
    steps = [step for step in plan.trail if step.place]
    if not steps:
        return plan.trail[-1].note if plan.trail else ""
    return "by " + ", ".join(dict.fromkeys(step.place for step in steps))


def _key(path: ReversePath) -> str:
    return "" if path is None else path.key
