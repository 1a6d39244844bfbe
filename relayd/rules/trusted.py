"""Who is a trusted client: who has logged in, and whom a rule that accepts names.

By address, login or certificate. Everybody else is a stranger: to be one of all (`from any`, `from
::/0`), or not to be kept out (`when not from ...`), is no name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relayd.rules.check import conditions_of
from relayd.rules.model import AdmissionRule, Condition
from relayd.rules.pattern import Anything, Net
from relayd.rules.stage import Test, compile_condition
from relayd.rules.table import Table


def names_client(rule: AdmissionRule) -> bool:
    """Whether the rule says who the clients are that it holds for."""
    return any(map(_names, conditions_of(rule)))


def introductions(
    rules: Sequence[AdmissionRule], tables: Mapping[str, Table]
) -> Iterator[tuple[Test, ...]]:
    """Of each rule that accepts clients by name, all that it wants to see of them."""
    for rule in rules:
        if rule.verb == "accept" and names_client(rule):
            yield tuple(
                compile_condition(each, tables)
                for each in conditions_of(rule)
                if each.kind not in ("to", "sender")
            )


def _names(condition: Condition) -> bool:
    if condition.negated or condition.kind not in ("from", "login", "certificate"):
        return False
    return condition.kind != "from" or not any(map(_everybody, condition.operands))


def _everybody(operand: object) -> bool:
    return isinstance(operand, Anything) or (
        isinstance(operand, Net) and operand.network.prefixlen == 0
    )
