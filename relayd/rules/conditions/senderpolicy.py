"""`spf`: whether the client may use the sender's domain (RFC 7208), or that of HELO."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.pattern import Text
from relayd.rules.language.source import one_of
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table

RESULTS = ("none", "neutral", "pass", "fail", "softfail", "temperror", "permerror")
SENDER_POLICY = Fact(
    "the result of SPF",
    Known.SENDER,
    asked=True,
    spelled="spf",
    unanswered="temperror",
    values=RESULTS,
)
"""One of RESULTS: of the sender's domain, of HELO where the reverse-path is null."""


class BySenderPolicy(Condition):
    """`spf pass`, `spf fail, softfail`."""

    __slots__ = ()
    word = "spf"
    facts = frozenset({SENDER_POLICY})

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.choice(RESULTS, f"a result of SPF: {one_of(list(RESULTS))}"))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, Text)
        result = operand.text
        return lambda view: view.told(SENDER_POLICY) == result

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: its one result."""
        (operand,) = self.operands if len(self.operands) == 1 else (None,)
        if self.negated or not isinstance(operand, Text):
            raise ValueError('expected one result: "spf pass"')
        return SENDER_POLICY, operand.text
