"""What a good rule set is warned of: allowed, but hardly meant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from relayd.rules.check.backscatter import backscatter
from relayd.rules.check.deadend import dead_ends
from relayd.rules.check.filtering import never_asked
from relayd.rules.check.habits import habits
from relayd.rules.check.opendoor import open_doors
from relayd.rules.check.selfcaught import self_caught
from relayd.rules.check.shadow import never_held
from relayd.rules.check.signing import never_signing
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset

MAX_TOLD = 5  # of a kind; where there are more, one cause has them all


def cautions(ruleset: Ruleset, listeners: Sequence[str]) -> list[Problem]:
    """All warnings of rules and tables; `listeners`: where strangers may speak without a login."""
    doors = open_doors(ruleset, listeners)
    kinds: list[Iterable[Problem]] = [
        doors,
        backscatter(ruleset, [each.place for each in doors], listeners),
        dead_ends(ruleset),
        never_held(ruleset),
        self_caught(ruleset),
        never_asked(ruleset),
        never_signing(ruleset),
        *_by_kind(habits(ruleset.items, ruleset.tables)),
    ]
    return [each for kind in kinds for each in _few(list(kind))]


def _by_kind(problems: Iterable[Problem]) -> Iterator[list[Problem]]:
    """What is said of different words is the same complaint, in order of their first ones."""
    kinds: dict[str, list[Problem]] = {}
    for each in problems:
        kinds.setdefault(each.what.rpartition('"')[2], []).append(each)
    yield from kinds.values()


def _few(problems: Sequence[Problem]) -> Sequence[Problem]:
    """As they are; or the first, and how many there are."""
    if len(problems) <= MAX_TOLD:
        return problems
    first = problems[0]
    return [replace(first, what=f"{first.what} (the first of {len(problems):,} such)")]
