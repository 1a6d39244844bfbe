"""A fact in words, as tests of rules and questions about them state it: `listed zen`."""

from __future__ import annotations

from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.registry import when
from relayd.rules.fact import Fact
from relayd.rules.language.lexer import lex
from relayd.rules.language.source import Complaint, Source
from relayd.rules.language.words import Words


def stated_facts(text: str) -> dict[Fact, object]:
    """`FACT and not FACT ...` as values; raises ValueError."""
    lexed = lex(Source("", "", (f"expect when {text.strip().rstrip('.')}",)))
    if lexed.problems or len(lexed.statements) != 1:
        raise ValueError("expected one fact in the words of a condition")
    try:
        words = Words(lexed.statements[0])
        conditions: tuple[Condition, ...] = when(words)
        words.end()
        return dict(each.stated() for each in conditions)
    except Complaint as complaint:
        raise ValueError(complaint.problem.headline.partition(": ")[2]) from None
