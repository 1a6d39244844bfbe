"""Asks Postfix's tables and our rules about every address, and lists where they differ."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from relayd.config.settings import Settings
from relayd.mail.address import AddressError, Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import DIRECT
from relayd.mail.plan import Plan, Verdict
from relayd.migrate.postmap import Answers, Missing
from relayd.migrate.walk import RecipientFate, Walk
from relayd.migrate.work import Work
from relayd.ops.text import safe
from relayd.rules.evaluate import Facts, evaluate

OUTSIDE = "203.0.113.1"
STRANGER = "someone@outside.invalid"
MAX_ROUNDS = 2000
MAX_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Difference:
    """One address that fares otherwise; `named`: the words of the report that said so."""

    address: str
    question: str
    postfix: str
    relayd: str
    named: str = ""


@dataclass
class Verification:
    """What a verification found."""

    addresses: int = 0
    questions: int = 0
    differences: list[Difference] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
    unasked: list[str] = field(default_factory=list)

    @property
    def unnamed(self) -> list[Difference]:
        """Those that the report did not announce."""
        return [each for each in self.differences if not each.named]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "addresses": self.addresses,
            "questions": self.questions,
            "differences": [
                {
                    "address": each.address,
                    "question": each.question,
                    "postfix": each.postfix,
                    "relayd": each.relayd,
                    "named": each.named,
                }
                for each in self.differences
            ],
            "unnamed": len(self.unnamed),
            "notes": [*self.stale, *(f"no address: {text}" for text in self.unasked)],
        }

    def lines(self) -> Iterator[str]:
        """For people: what nobody announced first."""
        yield ""
        yield (
            f"Verified {self.addresses:,} addresses ({self.questions:,} questions) with postmap:"
            f" {len(self.differences):,} differences, {len(self.unnamed):,} of them not named above"
        )
        for note in [*self.stale, *(f"no address: {text}" for text in self.unasked)]:
            yield safe(f"  note: {note}")
        named = [each for each in self.differences if each.named]
        for each in [*self.unnamed[:MAX_SHOWN], *named[:MAX_SHOWN]]:
            yield safe(f"  {'named   ' if each.named else 'DIFFERS '} {each.question}")
            yield safe(f"            Postfix: {each.postfix}")
            yield safe(f"            relayd:  {each.relayd}")
            if each.named:
                yield safe(f"            because  {each.named[:200]}")
        more = (
            len(self.differences) - min(len(self.unnamed), MAX_SHOWN) - min(len(named), MAX_SHOWN)
        )
        if more:
            yield f"  ... and {more:,} more (--json lists them all)"


@dataclass(frozen=True, slots=True)
class _Question:
    address: str  # the one it is about
    sender: str
    recipient: str
    inside: bool

    def __str__(self) -> str:
        where = "from inside" if self.inside else "from outside"
        if self.sender == STRANGER:
            return f"{where} to {self.recipient}"
        return f"{where}, sender {self.sender}, to {self.recipient}"


def verify(work: Work, settings: Settings, addresses: Sequence[str]) -> Verification:
    """Ask both about all addresses; raises PostmapError."""
    outcome = Verification()
    good = []
    for text in addresses:
        try:
            good.append(str(Mailbox.parse(text)))
        except AddressError as error:
            outcome.unasked.append(f"{text}: {error}")
    good = list(dict.fromkeys(good))
    outcome.addresses = len(good)
    client = inside_client(work)
    with tempfile.TemporaryDirectory(prefix="relayd-verify-") as scratch:
        answers = Answers(work.main.folder, work.shelf, Path(scratch))
        walk = Walk(work, answers)
        questions = list(_questions(good, inside=bool(client)))
        outcome.questions = len(questions)
        for question, fate in zip(questions, _fates(walk, answers, questions), strict=True):
            difference = _compare(work, settings, question, fate, client)
            if difference is not None:
                outcome.differences.append(difference)
        outcome.stale = list(dict.fromkeys(answers.stale))
        outcome.stale += [
            f"{text}; asked as if it were empty" for text in answers.unreadable.values()
        ]
    return outcome


def _questions(addresses: Sequence[str], *, inside: bool) -> Iterator[_Question]:
    """Each address as a recipient from outside and inside, and as a sender."""
    for address in addresses:
        yield _Question(address, STRANGER, address, inside=False)
        if inside:
            yield _Question(address, STRANGER, address, inside=True)
            yield _Question(address, address, STRANGER, inside=True)


def _fates(walk: Walk, answers: Answers, questions: Sequence[_Question]) -> list[RecipientFate]:
    """Postfix's answers; tables are asked in rounds, for what one answer asks for next."""
    fates: dict[int, RecipientFate] = {}
    left = list(range(len(questions)))
    for _ in range(MAX_ROUNDS):
        again = []
        for number in left:
            each = questions[number]
            try:
                fates[number] = walk.fate(each.sender, each.recipient, inside=each.inside)
            except Missing:
                again.append(number)
        left = again
        if not answers.fetch():
            break
    return [fates[number] for number in range(len(questions))]


def inside_client(work: Work) -> str:
    """A client that may relay; empty: there is none."""
    for entry in work.trusted.entries:
        network = ipaddress.ip_network(entry)
        address = network[1] if network.num_addresses > 1 else network[0]
        if not any(
            address in ipaddress.ip_network(each)
            for each in work.trusted.excepted
            if ipaddress.ip_network(each).version == network.version
        ):
            return str(address)
    return ""


def _compare(
    work: Work, settings: Settings, question: _Question, fate: RecipientFate, client: str
) -> Difference | None:
    facts = Facts(
        Client(client if question.inside else OUTSIDE, helo="client.invalid"),
        Mailbox.parse(question.sender),
        Mailbox.parse(question.recipient),
    )
    plan = evaluate(settings.ruleset, facts)
    theirs, ours = _told(fate), _planned(settings, plan)
    if fate.answer.relaying and plan.verdict is Verdict.REFUSE:
        return None  # both refuse to relay; relayd does so for good
    if theirs == ours:
        return None
    marks = set(fate.touched)
    if plan.verdict is Verdict.REFUSE and any(
        how in ("error", "retry") for how in fate.goals.values()
    ):
        if all(how in ("error", "retry") for how in fate.goals.values()):
            same = {"error": 5, "retry": 4}[next(iter(fate.goals.values()))]
            if plan.reply.code // 100 == same:
                return None  # refused at once, where Postfix would send a report
        marks.add("refused-earlier")
    named = next(
        (work.report.named[mark] for mark in sorted(marks) if mark in work.report.named), ""
    )
    return Difference(question.address, str(question), theirs, ours, named)


def _told(fate: RecipientFate) -> str:
    if fate.answer.refused:
        return f"refused, {fate.answer.refused}xx"
    if fate.answer.discarded or (
        fate.goals and all(how == "discard" for how in fate.goals.values())
    ):
        return "discarded"
    if not fate.goals:
        return "deferred: it expands in circles"
    goals = ", ".join(f"{goal} {how}" for goal, how in sorted(fate.goals.items()))
    return f"{goals} (sender {', '.join(sorted(fate.senders))})"


def _planned(settings: Settings, plan: Plan) -> str:
    if plan.verdict is Verdict.REFUSE:
        return f"refused, {plan.reply.code // 100}xx"
    if plan.verdict is Verdict.DISCARD:
        return "discarded"
    goals = ", ".join(
        sorted(
            f"{each.mailbox.key} {_how(settings, each.mailbox, each.next_hop)}"
            for each in plan.destinations
        )
    )
    senders = {path_text(each.reverse_path).lower() for each in plan.destinations}
    return f"{goals} (sender {', '.join(sorted(senders))})"


def _how(settings: Settings, mailbox: Mailbox, next_hop: str) -> str:
    if next_hop == DIRECT:
        return f"smtp mx:{mailbox.domain_key}:25"
    parts, protocol = [], ""
    for name in next_hop.split(","):
        hop = settings.next_hops[name]
        protocol = hop.protocol
        if hop.unix:
            return f"lmtp unix:{hop.unix}"
        parts += [f"{'mx:' if hop.mx else ''}{each.host.lower()}:{each.port}" for each in hop.hosts]
    return f"{protocol} {','.join(parts)}"
