"""`relayctl explain`: what the rules make of one recipient, told by the code that delivers."""

from __future__ import annotations

import difflib
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from relayd.ops.text import safe

if TYPE_CHECKING:  # relayctl starts without them where it can
    from relayd.mail.address import Mailbox
    from relayd.mail.plan import Plan
    from relayd.rules.conditions.signatures import SignedResult
    from relayd.rules.evaluate import Facts
    from relayd.rules.fact import Fact
    from relayd.rules.leaving import Foretelling
    from relayd.rules.ruleset import Ruleset

# Somebody out there, when the question does not say who (addresses of RFC 5737).
STRANGER = "203.0.113.1"
STRANGER_SENDER = "someone@outside.invalid"
STRANGER_HELO = "outside.invalid"

ACCEPTED, REFUSED, UNKNOWN = 0, 1, 2  # exit statuses
_STATUS = {"accept": ACCEPTED, "hold": ACCEPTED, "discard": ACCEPTED}

_RULE_COLUMN = 30  # columns for the rule at least, so that short trails line up with each other
_WIDE = 60  # a rule longer than this pushes its note out of line alone
_INDENT = " " * 11
_LINE = 100

Question = Mapping[str, object]
Describe = Callable[[str, "Mailbox"], Awaitable[Sequence[str]]]
"""What a next hop's name leads to for a mailbox, a line for each host."""
ReverseName = Callable[[str], Awaitable["str | None"]]
"""The name of a client's address; empty: it has none, None: nobody could say."""
Gather = Callable[["Ruleset", "Fact", "Facts"], Awaitable[object]]
"""Asks others for one fact; nothing is counted for a question, and nobody noted."""


Foretell = Callable[["Ruleset", bytes, "Sequence[SignedResult] | None"], "Foretelling"]
"""Of a header section, and what is said of its signatures; None: that they pass."""


class QuestionError(Exception):
    """The question makes no sense; `str(error)` is for the one who typed it."""


async def explain(
    ruleset: Ruleset,
    question: Question,
    describe: Describe,
    reverse_name: ReverseName,
    gather: Gather,
    foretell: Foretell | None = None,
) -> dict[str, Any]:
    """The answer with the facts that are looked up, and the hosts of each destination."""
    from relayd.intake.recipientfacts import would_be_taken
    from relayd.rules.conditions.reversename import REVERSE_NAME
    from relayd.rules.evaluate import evaluate
    from relayd.rules.fact import Known
    from relayd.rules.leaving import BREAKS
    from relayd.rules.view import Unasked

    _all_defined(ruleset, question)
    found: list[dict[str, str]] = []
    asked = facts(question)
    if REVERSE_NAME in ruleset.needs and asked.client.rdns is None:
        began = time.monotonic()
        name = await reverse_name(asked.client.address)
        asked = replace(asked, client=asked.client.with_(rdns=name))
        found.append(_fact(REVERSE_NAME, name, _cost(began, known=name is not None)))
    given = asked.gathered or {}
    gathered = dict(given)
    asked = replace(asked, gathered=gathered, asks=True)

    async def add(fact: Fact) -> None:
        began = time.monotonic()
        value = gathered[fact] = await gather(ruleset, fact, asked)
        cost = _cost(began, known=value is not None)
        if fact.about and value is False and not would_be_taken(ruleset, fact, asked):
            value, cost = None, "not asked for: it is refused in any case"
        found.append(_fact(fact, value, cost))

    for fact in sorted(ruleset.asked - given.keys(), key=str):
        if fact.known < Known.RECIPIENT:
            await add(fact)
    while True:  # of the recipient only what a rule is about to decide by
        try:
            evaluate(ruleset, asked)
            break
        except Unasked as unasked:
            await add(unasked.fact)
    if ruleset.foretells and foretell is not None and BREAKS not in gathered:
        await _foretold(ruleset, question, asked, foretell, found)
    answer = _decided(ruleset, question, replace(asked, asks=False), found)
    for destination in (*answer["destinations"], *answer["copies"]):
        mailbox = _mailbox(destination["mailbox"])
        destination["hosts"] = list(await describe(destination["next_hop"], mailbox))
    return answer


async def _foretold(
    ruleset: Ruleset,
    question: Question,
    asked: Facts,
    foretell: Foretell,
    found: list[dict[str, str]],
) -> None:
    """What becomes of copies, if there is a header section or something is said of signatures."""
    from relayd.mail.address import path_text
    from relayd.rules.conditions.signatures import DKIM
    from relayd.rules.evaluate import evaluate
    from relayd.rules.fact import Known
    from relayd.rules.leaving import BREAKS, UNFORETOLD
    from relayd.rules.ruleset import without_unknown
    from relayd.rules.view import Unasked

    gathered = cast("dict[Fact, object]", asked.gathered)
    signed = cast("Sequence[SignedResult] | None", gathered.get(DKIM))
    section = str(question.get("header") or "").encode("latin-1", "replace")
    if not section:
        if signed is None:
            return
        section = f"From: <{path_text(asked.sender)}>\r\n\r\n".encode()
    foretelling = gathered[BREAKS] = foretell(ruleset, section, signed)
    told = {**_fields(ruleset, question), **gathered}
    known = replace(asked, gathered=told, known=Known.CONTENT)
    began = time.monotonic()
    while True:
        try:
            evaluate(without_unknown(ruleset, told), known)
            break
        except Unasked as unasked:
            if unasked.fact is not UNFORETOLD:
                raise
            await foretelling.look_up()
    if foretelling.told != ():
        cost = _cost(began, known=True)
        found.append(
            _fact(BREAKS, foretelling.told, cost if signed else f"{cost}; if it passes here")
        )


def _cost(began: float, *, known: bool) -> str:
    cost = f"looked up in {(time.monotonic() - began) * 1000:.0f} ms"
    return cost if known else f"{cost}: nobody could say"


def decide(ruleset: Ruleset, question: Question) -> dict[str, Any]:
    """The answer by the rules alone; next hops with names are shown as they are defined.

    `question`: recipient, and optionally from (IP address), sender, helo, login, listener, header
    (a section, see relayd.ctl.headersection), size (octets of the whole message), with (facts in
    the words of conditions). What is not given and would have to be looked up is not known here.
    Raises QuestionError.
    """
    _all_defined(ruleset, question)
    asked = facts(question)
    answer = _decided(ruleset, question, asked)
    if exit_status(answer) == UNKNOWN:
        why = "nobody is asked offline; --with says it"
        unsaid = sorted(_asked_of_others(ruleset, asked), key=str)
        answer["facts"] += [_fact(fact, None, why) for fact in unsaid]
    return answer


def _asked_of_others(ruleset: Ruleset, asked: Facts) -> Set[Fact]:
    """What rules look at that a session would ask for, and nobody has said."""
    from relayd.rules.conditions.reversename import REVERSE_NAME
    from relayd.rules.tables.live import LIVE

    nameless = {REVERSE_NAME} & ruleset.needs if asked.client.rdns is None else set()
    of_tables = {fact for fact in ruleset.asked if fact.spelled == LIVE}  # the trail has those
    return (ruleset.asked | nameless) - of_tables - (asked.gathered or {}).keys()


def _decided(
    ruleset: Ruleset, question: Question, asked: Facts, found: Sequence[dict[str, str]] = ()
) -> dict[str, Any]:
    from relayd.mail.envelope import Direction
    from relayd.rules.conditions.headerfield import FIELD
    from relayd.rules.evaluate import evaluate_aloud
    from relayd.rules.fact import Known
    from relayd.rules.ruleset import without_unknown

    told = {**_fields(ruleset, question), **(asked.gathered or {})}
    unknown = ruleset.examined - told.keys()
    if ruleset.examined:  # rules about what nobody has said are left out
        asked = replace(asked, gathered=told, known=Known.CONTENT)
        plan = evaluate_aloud(without_unknown(ruleset, told), asked)
    else:
        plan = evaluate_aloud(ruleset, asked)
    if question.get("sender"):
        # MAIL comes before RCPT: who may not use the sender is not asked for recipients
        plan = _at_mail(ruleset, asked) or plan
    answer = document(plan)
    for fact, value in _given(question).items():
        answer["facts"].append(_fact(fact, value, "given"))
    for fact, value in _fields(ruleset, question).items():
        where = "in the header" if fact.spelled == FIELD else "of the message"
        answer["facts"].append(_fact(fact, value, where))
    answer["facts"] += found
    for fact in sorted(unknown, key=str):
        why = "known when the content is there; rules that look at it are left out here"
        answer["facts"].append(_fact(fact, None, why))
    for destination in (*answer["destinations"], *answer["copies"]):
        names = Direction.parse(destination["next_hop"]).names
        hops = [ruleset.next_hops[name] for name in names if name in ruleset.next_hops]
        destination["hosts"] = [str(hop) for hop in hops]
    if ruleset.asks is not None and plan.verdict.value != "refuse":
        answer["asks"] = _asks(ruleset, asked)
    if question.get("header"):
        answer["header"] = header_changes(ruleset, plan, str(question["header"]))
    return answer


def _asks(ruleset: Ruleset, asked: Facts) -> list[dict[str, str]]:
    """Which filters are asked about it, and by which rule."""
    from relayd.rules.subject import Subject
    from relayd.rules.view import View

    assert ruleset.asks is not None
    sender = None if asked.sender is None else Subject(asked.sender)
    recipient = Subject(asked.recipient, ruleset.subaddress)
    view = View(asked.client, sender, recipient, asked.gathered)
    return [
        {
            "stage": "ask",
            "place": str(rule.place),
            "rule": f"{ruleset.filters[name].kind} {name}",
            "note": "" if fits else "or not: its rule looks at what is not known here",
        }
        for name, rule, fits in ruleset.asks.fitting(view)
    ]


def _fact(fact: Fact, value: object, source: str) -> dict[str, str]:
    from relayd.rules.tables.live import LIVE

    if fact.spelled == LIVE:
        source = f"{fact.about}: {source}"
    return {"fact": str(fact), "value": fact.said(value), "source": source}


def _given(question: Question) -> dict[Fact, object]:
    """The facts that the question states."""
    from relayd.rules.language.statedfact import stated_facts

    given = question.get("with") or ()
    stated: dict[Fact, object] = {}
    for text in given if isinstance(given, (list, tuple)) else [given]:
        try:
            stated |= stated_facts(str(text))
        except ValueError as error:
            raise QuestionError(f"--with {text!r} states no fact: {error}") from None
    return stated


def _all_defined(ruleset: Ruleset, question: Question) -> None:
    """Raises QuestionError for a fact about somebody whom no statement names."""
    from relayd.rules.language.source import did_you_mean

    filters = ("filter", ruleset.filters)
    defined: dict[str, tuple[str, Mapping[str, object]]] = {
        "listed": ("list", ruleset.lists),
        "over": ("limit", ruleset.limits),
        "unknown at": ("next hop", ruleset.next_hops),
        **dict.fromkeys(("score", "says", "symbol"), filters),
    }
    for fact in _given(question):
        what, names = defined.get(fact.spelled, ("", {}))
        name = fact.of.partition(" ")[0]
        if what and name not in names:
            hint = did_you_mean(name, names) or "expected a name that the rules define"
            raise QuestionError(f"--with {fact.condition!r}: there is no {what} {name}; {hint}")


def _fields(ruleset: Ruleset, question: Question) -> dict[Fact, object]:
    """What rules look at in the message that is given, and not stated otherwise."""
    from relayd.mime.headertext import field_texts
    from relayd.rules.conditions.headerfield import FIELD, bounded
    from relayd.rules.conditions.size import SIZE

    if not question.get("header"):
        return {}
    section = str(question["header"]).encode("latin-1", "replace")
    given = _given(question)
    found: dict[Fact, object] = {
        fact: bounded(field_texts(section, fact.of))
        for fact in sorted(ruleset.examined, key=str)
        if fact.spelled == FIELD and fact not in given
    }
    size = question.get("size")
    if isinstance(size, int) and size and SIZE in ruleset.examined and SIZE not in given:
        found[SIZE] = size
    return found


def _at_mail(ruleset: Ruleset, asked: Facts) -> Plan | None:
    """What a login hears at MAIL when the sender is not its own."""
    from relayd.mail.plan import Plan, Step, Verdict

    refusal = ruleset.send_as.refusal(asked.client, asked.sender)
    if refusal is None:
        return None
    step = Step("may-send-as", "", str(refusal), f"login {asked.client.login}, at MAIL")
    return Plan(Verdict.REFUSE, refusal, (), (step,))


def header_changes(ruleset: Ruleset, plan: Plan, text: str) -> dict[str, Any]:
    """What becomes of a header section (an octet a character): the rules, and a unified diff."""
    from relayd.rules.header import MAX_FIELDS, TooManyFieldsError, edit_header

    section, now = text.encode("latin-1", "replace"), time.time()
    ways = plan.destinations or plan.bcc
    rules = ways[0].header_rules if ways else ()
    try:
        edited = edit_header(ruleset, rules, section, now)
    except TooManyFieldsError:
        why = f"more than {MAX_FIELDS} fields that header rules name: refused with 552 5.3.4"
        raise QuestionError(why) from None
    steps = [ruleset.headers.entry(number).step for number in rules]
    at_work = [
        {"stage": "header", "place": step.place, "rule": step.rule, "note": ""}
        for number, step in zip(rules, steps, strict=True)
        if edit_header(ruleset, (number,), section, now) != section
    ]
    before, after = (_shown(octets) for octets in (section, edited))
    diff = difflib.unified_diff(before, after, "as received", "as sent on", lineterm="")
    return {"rules": at_work, "diff": list(diff)}


def _shown(section: bytes) -> list[str]:
    return section.decode("utf-8", "backslashreplace").replace("\r\n", "\n").split("\n")[:-2]


def facts(question: Question) -> Facts:
    """The facts that a question describes; raises QuestionError."""
    from relayd.dns.hostname import LOCALHOST, is_loopback
    from relayd.mail.address import AddressError, Mailbox
    from relayd.mail.client import Client
    from relayd.rules.conditions.reversename import REVERSE_NAME
    from relayd.rules.evaluate import Facts

    address = str(question.get("from") or STRANGER)
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise QuestionError(f"{address!r} is no IP address") from None
    helo = question.get("helo")
    client = Client(
        address,
        listener=str(question.get("listener") or ""),
        helo=STRANGER_HELO if helo is None else str(helo),
        protocol="ESMTPA" if question.get("login") else "ESMTP",
        login=str(question.get("login") or ""),
        rdns=LOCALHOST if is_loopback(address) else None,
    )
    given = _given(question)
    if REVERSE_NAME in given:
        client = client.with_(rdns=str(given.pop(REVERSE_NAME)))
    text = str(question.get("recipient") or "")
    recipient = Mailbox(text, "") if text.lower() == "postmaster" else _mailbox(text)
    sender = question.get("sender")
    if sender is None:
        sender = STRANGER_SENDER
    if sender in ("", "<>", "null"):
        return Facts(client, None, recipient, time.time(), given)
    try:
        return Facts(client, Mailbox.parse(str(sender)), recipient, time.time(), given)
    except AddressError as error:
        raise QuestionError(f"sender {sender!r}: {error}") from None


def _mailbox(text: str) -> Mailbox:
    from relayd.mail.address import AddressError, Mailbox

    try:
        return Mailbox.parse(text)
    except AddressError as error:
        raise QuestionError(f"recipient {text!r}: {error}") from None


def document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON."""
    from relayd.mail.address import path_text

    return {
        "verdict": plan.verdict.value,
        "reply": str(plan.reply),
        "trail": [
            {"stage": step.stage, "place": step.place, "rule": step.rule, "note": step.note}
            for step in plan.trail
        ],
        "facts": [],
        "destinations": [
            {
                "mailbox": str(destination.mailbox),
                "next_hop": destination.next_hop,
                "reverse_path": path_text(destination.reverse_path),
                "signed_by": list(destination.signed_by),
                "cut_through": destination.cut_through,
                "hosts": [],
            }
            for destination in plan.destinations
        ],
        "copies": [
            {
                "mailbox": str(copy.mailbox),
                "next_hop": copy.next_hop,
                "reverse_path": path_text(copy.reverse_path),
                "signed_by": list(copy.signed_by),
                "hosts": [],
            }
            for copy in plan.bcc
        ],
    }


def exit_status(answer: Mapping[str, Any]) -> int:
    """0 accepted, 1 refused, 2 unknown now."""
    if answer["verdict"] in _STATUS:
        return _STATUS[answer["verdict"]]
    unknown = any(step["stage"] == "unknown" for step in answer["trail"])
    return UNKNOWN if unknown else REFUSED


def lines(answer: Mapping[str, Any]) -> Iterator[str]:
    """The answer for people: a line for each rule that had a say, hosts below their route.

    Filters that would be asked follow, then header rules.
    """
    hosts = {each["mailbox"]: each["hosts"] for each in answer["destinations"]}
    waits = min((each.get("cut_through", 0) for each in answer["destinations"]), default=0)
    header = answer.get("header") or {"rules": [], "diff": []}
    for fact in answer.get("facts", ()):
        yield safe(f"fact  {fact['value']}   ({fact['source']})")
    shown = trail_rows([*answer["trail"], *answer.get("asks", ()), *header["rules"]])
    for step, line in zip(answer["trail"], shown, strict=False):
        yield line
        if step["stage"] == "route":
            yield from _host_lines(hosts.pop(step["note"].partition(";")[0], []))
    for left in hosts.values():  # routes that left no step of their own
        yield from _host_lines(left)
    yield from _copy_lines(answer.get("copies", ()))
    if waits and answer["verdict"] == "accept":
        yield f"the client waits up to {waits:g} seconds for how the first attempt ends"
    if answer["verdict"] == "refuse":
        yield safe(f"refused: {answer['reply']}")
    elif answer["verdict"] != "accept":
        yield f"accepted, then: {answer['verdict']}"
    yield from shown[len(answer["trail"]) :]
    for line in header["diff"]:
        yield safe(line)
    if "header" in answer and answer["destinations"] and not header["diff"]:
        yield "the header stays as it is"


def _copy_lines(copies: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    from relayd.mail.envelope import Direction

    for copy in copies:
        way = Direction.parse(copy["next_hop"]).words
        yield safe(f"a copy, seen by nobody: {copy['mailbox']} {way} from <{copy['reverse_path']}>")
        yield from _host_lines(copy["hosts"])


def trail_rows(trail: Sequence[Mapping[str, str]]) -> list[str]:
    """The columns `stage  place  rule  note`, a line for each step."""
    if not trail:
        return []
    stage = max(len(step["stage"]) for step in trail)
    place = max(len(step["place"] or "(built in)") for step in trail)
    noted = [len(step["rule"]) for step in trail if step["note"] and len(step["rule"]) <= _WIDE]
    rule = max([_RULE_COLUMN, *noted])
    return [
        safe(
            f"{step['stage']:{stage}}  {step['place'] or '(built in)':{place}}"
            f"   {step['rule']:{rule}}   {step['note']}".rstrip()
        )
        for step in trail
    ]


def _host_lines(hosts: Sequence[str]) -> Iterator[str]:
    """All on one line where they fit."""
    joined = _INDENT + "   ".join(hosts)
    if not hosts:
        return
    if len(joined) <= _LINE:
        yield safe(joined)
        return
    for host in hosts:
        yield safe(_INDENT + host)
