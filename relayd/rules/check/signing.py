"""What is wrong with rules about signatures and forwarded mail, and keys that nobody signs with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from relayd.rules.check.check import looking_at, word_at
from relayd.rules.fact import FORWARDED, Fact
from relayd.rules.language.model import (
    AdmissionRule,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    Item,
    Route,
    Sign,
)
from relayd.rules.language.source import Problem
from relayd.rules.leaving import BREAKS
from relayd.rules.ruleset import Ruleset


def forwarding_problems(items: Sequence[Item]) -> list[Problem]:
    """Rules that ask whether it is forwarded before `forward` has had its say."""
    return [
        Problem(
            word_at(item.place, condition.word),
            f'"{condition.word}" is not known here: whom it goes to is decided later',
            _EXPECTED[fact],
        )
        for item, condition, fact in looking_at(items, {FORWARDED, BREAKS})
        if not isinstance(item, _KNOWN[fact])
    ]


_KNOWN: Mapping[Fact, tuple[type[Item], ...]] = {
    FORWARDED: (Route, Sign),
    BREAKS: (AdmissionRule, HeaderEdit, HeaderRewrite, Forward, Route, Sign),
}
_EXPECTED = {
    FORWARDED: "expected it with route or sign",
    BREAKS: "expected it with reject, defer, hold, discard, forward, header, route or sign",
}


def never_signing(ruleset: Ruleset) -> list[Problem]:
    """A warning for each `dkim` statement whose keys sign no mail."""
    used = {item.name for item in ruleset.items if isinstance(item, Sign)}
    return [
        Problem(
            each.place,
            f"nothing is signed with {each.name}",
            f'expected "sign any with {each.name}"',
        )
        for each in ruleset.dkim.values()
        if each.name not in used
    ]
