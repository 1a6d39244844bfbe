"""The verb `expect`: how a test inside the rules is read."""

from __future__ import annotations

import re

from relayd.mail.address import Mailbox, ReversePath
from relayd.rules.conditions.condition import Condition, Operand
from relayd.rules.conditions.registry import CONDITIONS, when
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.model import REWRITTEN, Expect, Expected
from relayd.rules.language.pattern import Net, Text
from relayd.rules.language.sentences import STATUS
from relayd.rules.language.source import one_of
from relayd.rules.language.words import Words


def read_expect(words: Words) -> Expect:
    """`expect`."""
    facts: dict[str, str] = {}
    sender: ReversePath | str = ""
    recipient: Mailbox | None = None
    names = ("from", "sender", "login", "listener", "helo", "rdns", "to")
    stated: tuple[Condition, ...] = ()
    while not words.skip_mark("->"):
        if words.at_word("when") and not stated:
            stated = _stated(words)
            continue
        if not words.at_word(*names):
            token = words.peek()
            if token is not None and "@" in token.text:
                raise words.missing(f'what it is before it: "to {token.text}"')
            raise words.missing(one_of([*names, '"->"']))
        name = words.word("a fact").text.lower()
        if name in facts or (name == "to" and recipient) or (name == "sender" and sender != ""):
            raise words.complain(f'"{name}" was said already', "expected it once")
        if name == "to":
            recipient = words.mailbox()
        elif name == "sender":
            sender = _path(words)
        else:
            facts[name] = _one_value(words, CONDITIONS[name].read(words).operands)
    if recipient is None:
        raise words.complain("the test has no recipient", 'expected "to MAILBOX" before "->"')
    verdict, code, status, goals = _expected(words)
    new_sender: ReversePath | str = ""
    if words.skip_word("sender"):
        new_sender = REWRITTEN if words.skip_word(REWRITTEN) else _path(words)
    copies = _goals(words) if words.skip_word("copy") else ()
    return Expect(
        recipient,
        facts.get("from", ""),
        sender,
        facts.get("login", ""),
        facts.get("listener", ""),
        facts.get("helo", ""),
        verdict,
        code,
        status,
        goals,
        new_sender,
        stated,
        facts.get("rdns", ""),
        copies,
        place=words.verb.place,
    )


def _stated(words: Words) -> tuple[Condition, ...]:
    """`when FACT and FACT ...`: what others would say."""
    start = words.place
    facts = when(words)
    for fact in facts:
        try:
            fact.stated()
        except ValueError as error:
            raise words.complain(f'"{fact}" is no fact to state', str(error), start) from None
    return facts


def _one_value(words: Words, operands: tuple[Operand, ...]) -> str:
    """What a test says of a client, a name: one, and no table."""
    if len(operands) == 1:
        operand = operands[0]
        if isinstance(operand, Text):
            return operand.text
        if isinstance(operand, Net) and operand.network.num_addresses == 1:
            return str(operand)
    raise words.complain("a test is about one client", "expected a single value")


def _path(words: Words) -> ReversePath:
    if words.skip_word("null"):
        return None
    return words.mailbox("a mailbox or null")


def _expected(words: Words) -> tuple[str, int, str, tuple[Expected, ...]]:
    if words.at_word("reject", "defer"):
        verb = words.word("a verdict").text.lower()
        code, status = 0, ""
        token = words.peek()
        if token is not None:
            known, most = (r"4\d\d", 499) if verb == "defer" else (r"[45]\d\d", 599)
            code = int(token.text) if re.fullmatch(known, token.text) else 0
            if not code:
                raise words.missing(f"a reply code from 400 to {most}")
            words.next("a code")
            status = words.next("a status code").text if words.peek() is not None else ""
            if status and not STATUS.match(status):
                raise words.complain(f'"{status}" is no status code', "expected e.g. 5.7.1")
        return verb, code, status, ()
    if words.skip_word("discard"):
        return "discard", 0, "", ()
    verdict = "accept"
    if words.at_word("hold", "accept"):
        verdict = words.word("a verdict").text.lower()
        if words.peek() is None or words.at_word("sender", "copy"):
            return verdict, 0, "", ()
    return verdict, 0, "", _goals(words)


def _goals(words: Words) -> tuple[Expected, ...]:
    goals: list[Expected] = []
    expected = "a mailbox with its next hop, reject, defer, hold or discard"
    while True:
        mailbox = words.mailbox(expected)
        hops: list[str] = []
        expected = "a mailbox, or the name of a next hop"
        named = words.skip_word("via")
        more = False
        while (token := words.peek()) is not None and token.kind is TokenKind.WORD:
            if "@" in token.text or token.is_word("sender"):
                break
            if token.is_word("copy") and not named:
                break
            named = False
            hops.append(words.next(expected).text)
            more = words.skip_mark(",")
            if not more:
                break
        goals.append(Expected(mailbox, ",".join(hops)))
        if not more and not words.skip_mark(","):
            return tuple(goals)
