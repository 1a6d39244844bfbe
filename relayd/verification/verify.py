"""Asks Postfix's tables and our rules about every address, and lists where they differ."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from relayd.config.settings import Settings
from relayd.mail.address import AddressError, Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Direction
from relayd.mail.plan import Plan, Verdict
from relayd.migrate.domains import network_of
from relayd.migrate.draft import NOT_MOVED
from relayd.migrate.work import Work
from relayd.migrate.write import WrittenFiles
from relayd.ops.text import safe
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact
from relayd.verification.gate import Inquiry
from relayd.verification.postmap import Answers, Missing
from relayd.verification.samples import SOMEBODY, clients, tables, words_of
from relayd.verification.walk import RecipientFate, Walk

OUTSIDE = "203.0.113.1"
STRANGER = "someone@outside.invalid"
MAX_ROUNDS = 2000
MAX_SHOWN = 50
MOST_LOGINS = 8


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
    unsure: dict[str, int] = field(default_factory=dict)  # what cannot be asked, and how often

    @property
    def causes(self) -> dict[str, int]:
        """How many differences each cause has."""
        found: dict[str, int] = {}
        for each in self.differences:
            if each.named:
                found[each.named] = found.get(each.named, 0) + 1
        return found

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
            "causes": self.causes,
            "not asked": self.unsure,
            "notes": [*self.stale, *(f"no address: {text}" for text in self.unasked)],
        }

    def lines(self) -> Iterator[str]:
        """For people: what nobody announced first."""
        yield ""
        yield (
            f"Verified {self.addresses:,} addresses ({self.questions:,} questions) with postmap"
            f" and postconf: {_number(len(self.differences), 'difference')}"
            f" for {_number(len(self.causes), 'cause')} named above,"
            f" {len(self.unnamed):,} without one"
        )
        for why, count in self.unsure.items():
            yield safe(f"  {_number(count, 'question')} that Postfix's tables do not answer: {why}")
        for why, count in self.causes.items():
            yield safe(f"  {_number(count, 'difference')}: {why[:200]}")
        for note in [*self.stale, *(f"no address: {text}" for text in self.unasked)]:
            yield safe(f"  note: {note}")
        shown = [*self.unnamed[:MAX_SHOWN], *self._examples()][: 2 * MAX_SHOWN]
        for each in shown:
            yield safe(f"  {'named   ' if each.named else 'DIFFERS '} {each.question}")
            yield safe(f"            Postfix: {each.postfix}")
            yield safe(f"            relayd:  {each.relayd}")
            if each.named:
                yield safe(f"            because  {each.named[:200]}")
        more = len(self.differences) - len(shown)
        if more:
            yield f"  ... and {more:,} more (--json lists them all)"

    def _examples(self) -> Iterator[Difference]:
        """The first of each cause that is named: the others say the same."""
        causes: set[str] = set()
        for each in self.differences:
            if each.named and each.named not in causes:
                causes.add(each.named)
                yield each


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _shown(asked: Inquiry) -> str:
    where = "from inside" if asked.inside else "from outside"
    if asked.login:
        where += f", logged in as {asked.login}"
    if asked.client not in (OUTSIDE, ""):
        where += f" ({asked.client})"
    if asked.service:
        where += f" at {asked.service}"
    if asked.name != "client.invalid":
        where += f", by the name of {asked.name or 'unknown'}"
    if asked.helo != "client.invalid":
        where += f", HELO {asked.helo}"
    if asked.sender == STRANGER:
        return f"{where} to {asked.recipient}"
    return f"{where}, sender {asked.sender or '<>'}, to {asked.recipient}"


def verify(
    work: Work, written: WrittenFiles, addresses: Sequence[str], *, clients_too: bool = True
) -> Verification:
    """Ask both about all addresses, and about all clients; raises PostmapError."""
    outcome = Verification()
    good = []
    for text in addresses:
        try:
            good.append(str(Mailbox.parse(text)))
        except AddressError as error:
            outcome.unasked.append(f"{text}: {error}")
    good = list(dict.fromkeys(good))
    outcome.addresses = len(good)
    with tempfile.TemporaryDirectory(prefix="relayd-verify-") as scratch:
        answers = Answers(work.main.folder, work.shelf, Path(scratch))
        walk = Walk(work, answers)
        usual = written.settings.ruleset.usual
        questions = list(dict.fromkeys(_questions(work, good, clients_too=clients_too)))
        outcome.questions = len(questions)
        for question, fate in zip(questions, _fates(walk, answers, questions), strict=True):
            if fate.answer.unsure:
                outcome.unsure[fate.answer.unsure] = outcome.unsure.get(fate.answer.unsure, 0) + 1
            difference = _compare(work, written, question, fate, usual)
            if difference is not None:
                outcome.differences.append(difference)
        outcome.stale = list(dict.fromkeys(answers.stale))
        outcome.stale += [
            f"{text}; what hangs on it was not asked" for text in answers.unreadable.values()
        ]
    return outcome


def _questions(work: Work, addresses: Sequence[str], *, clients_too: bool) -> Iterator[Inquiry]:
    """Each address as recipient and as sender, from outside, inside, logged in; and each client."""
    client = inside_client(work)
    ours = next((each for each in addresses if _is_ours(work, each)), STRANGER)
    doors = [("", "")]
    doors += [(str(at[0]), each.title) for each, at in work.listeners if at and each.overrides]
    taken = any(" auth " in statement for statement, _ in work.draft.settings)
    logins = [*words_of(work, "check_sasl_access"), *owners(work)][:MOST_LOGINS]
    for address in addresses:
        for listener, service in doors:
            for asked in (
                Inquiry(address, STRANGER, address, OUTSIDE),
                Inquiry(address, address, ours, OUTSIDE),
                Inquiry(address, address, STRANGER, OUTSIDE, login=SOMEBODY),
                Inquiry(address, STRANGER, address, client, inside=True),
                Inquiry(address, address, STRANGER, client, inside=True),
            ):
                if asked.client and (taken or not asked.login):
                    yield replace(asked, listener=listener, service=service)
        for login in logins if taken else ():
            yield Inquiry(address, address, STRANGER, OUTSIDE, login=login)
    if not clients_too:
        return
    trusted = [ipaddress.ip_network(each) for each in work.trusted.entries]
    spared = [ipaddress.ip_network(each) for each in work.trusted.excepted]
    for text in clients(work):
        place = ipaddress.ip_address(text)
        inside = any(place in net for net in trusted if net.version == place.version)
        inside &= not any(place in net for net in spared if net.version == place.version)
        for recipient in (ours, STRANGER):
            yield Inquiry(text, "a@far.invalid", recipient, text, inside)
    for key in words_of(work, "check_client_access"):
        bare = key.lstrip(".")
        for name in (bare, f"sub.{bare}") if not network_of(key) and bare != "unknown" else [""]:
            yield Inquiry(key, STRANGER, ours, OUTSIDE, name=name)
    for helo in words_of(work, "check_helo_access"):
        for name in (helo.lstrip("."), f"sub.{helo.lstrip('.')}", f"x{helo}"):
            yield Inquiry(helo, STRANGER, ours, OUTSIDE, helo=name)
    yield Inquiry(ours, "", ours, OUTSIDE)


def owners(work: Work) -> list[str]:
    """Logins that own senders."""
    found = [
        word
        for name, table in tables(work)
        if name == "smtpd_sender_login_maps"
        for row in table.rows
        for word in row.value.replace(",", " ").split()
    ]
    return list(dict.fromkeys(found))


def _is_ours(work: Work, address: str) -> bool:
    domain = address.rpartition("@")[2]
    return any(domain in names.entries for names in work.classes())


def _fates(walk: Walk, answers: Answers, questions: Sequence[Inquiry]) -> list[RecipientFate]:
    """Postfix's answers; tables are asked in rounds, for what one answer asks for next."""
    fates: dict[int, RecipientFate] = {}
    left = list(range(len(questions)))
    for _ in range(MAX_ROUNDS):
        again = []
        for number in left:
            each = questions[number]
            try:
                fates[number] = walk.fate(each)
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
    work: Work,
    written: WrittenFiles,
    asked: Inquiry,
    fate: RecipientFate,
    usual: Mapping[Fact, object],
) -> Difference | None:
    settings = written.settings
    facts = Facts(
        Client(
            asked.client,
            helo=asked.helo,
            rdns=asked.name,
            login=asked.login,
            tls="TLSv1.3" if asked.tls else "",
            listener=asked.listener,
        ),
        Mailbox.parse(asked.sender) if asked.sender else None,
        Mailbox.parse(asked.recipient),
        gathered=usual,
    )
    refused = settings.ruleset.send_as.refusal(facts.client, facts.sender)
    plan = evaluate(settings.ruleset, facts)
    if refused is not None:
        plan = Plan(Verdict.REFUSE, refused, (), ())
    answer = fate.answer
    taken = plan.verdict is not Verdict.REFUSE
    if answer.unsure and not taken:
        return None
    theirs, ours = _told(fate), _planned(settings, plan)
    if answer.relaying and not taken:
        return None  # both refuse to relay; relayd does so for good
    if theirs == ours:
        return None
    if not taken:
        named = _closed(written, plan) or _early(work, plan, fate)
        if named is None:
            return None
    elif answer.unsure or answer.refused or answer.elsewhere:
        named = ""  # whatever the report says, this may not be
    else:
        named = next(
            (work.report.named[mark] for mark in sorted(fate.touched) if mark in work.report.named
             and mark.partition(":")[0] in _HARMLESS),
            "",
        )  # fmt: skip
    return Difference(asked.address, _shown(asked), theirs, ours, named)


_HARMLESS = (
    "entry",
    "owner",
    "alias-extension",
    "sender-extension",
    "masquerade-header",
    "refused-earlier",
    "map",
)
"""What the report may announce of mail that both take."""


def _closed(written: WrittenFiles, plan: Plan) -> str:
    """The cause for which relayd asks to come later, as it stands above the rule; empty: none."""
    if NOT_MOVED not in str(plan.reply):
        return ""
    step = plan.trail[-1]
    path, _, line = step.place.rpartition(":")
    for relative, lines in written.files.items():
        if path.endswith(str(relative)) and line.isdigit():
            above = lines[int(line) - 2] if int(line) >= 2 else ""
            if above.startswith("# closed: "):
                return above.removeprefix("# ")
            return f"{lines[int(line) - 1]} {step.note}".strip()
    return f"{step.rule} {step.note}".strip()


def _early(work: Work, plan: Plan, fate: RecipientFate) -> str | None:
    """A refusal of what Postfix takes, and then bounces or puts off; None: it comes to the same."""
    hows = set(fate.goals.values())
    if not hows & {"error", "retry"}:
        return ""
    if hows <= {"error", "retry"}:
        same = {"error": 5, "retry": 4}[next(iter(fate.goals.values()))]
        if plan.reply.code // 100 == same:
            return None  # refused at once, where Postfix would send a report
    return work.report.named.get("refused-earlier", "")


def _told(fate: RecipientFate) -> str:
    if fate.answer.unsure:
        return f"cannot be asked: {fate.answer.unsure}"
    if fate.answer.refused:
        return f"refused, {fate.answer.refused}xx"
    if fate.answer.elsewhere:
        return f"goes on by {fate.answer.elsewhere}"
    if fate.answer.discarded or (
        fate.goals and all(how == "discard" for how in fate.goals.values())
    ):
        return "discarded"
    if not fate.goals:
        return "deferred: it expands in circles"
    goals = ", ".join(f"{_plain(goal)} {how}" for goal, how in sorted(fate.goals.items()))
    return f"{goals} (sender {', '.join(sorted(fate.senders))})"


def _plain(address: str) -> str:
    """The address without quotes that it does not need."""
    try:
        return str(Mailbox.parse(address)).lower()
    except AddressError:
        return address


def _planned(settings: Settings, plan: Plan) -> str:
    if plan.verdict is Verdict.REFUSE:
        return f"refused, {plan.reply.code // 100}xx"
    if plan.verdict is Verdict.DISCARD:
        return "discarded"
    goals = ", ".join(
        sorted(
            f"{str(each.mailbox).lower()} {_how(settings, each.mailbox, each.next_hop)}"
            for each in plan.destinations
        )
    )
    senders = {path_text(each.reverse_path).lower() for each in plan.destinations}
    return f"{goals} (sender {', '.join(sorted(senders))})"


def _how(settings: Settings, mailbox: Mailbox, next_hop: str) -> str:
    if Direction.parse(next_hop).direct:
        return f"smtp mx:{mailbox.domain_key}:25"
    parts, protocol = [], ""
    for name in next_hop.split(","):
        hop = settings.next_hops[name]
        protocol = hop.protocol
        if hop.unix:
            return f"lmtp unix:{hop.unix}"
        parts += [f"{'mx:' if hop.mx else ''}{each.host.lower()}:{each.port}" for each in hop.hosts]
    return f"{protocol} {','.join(parts)}"
