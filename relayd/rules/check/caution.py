"""What a good rule set is warned of: allowed, but hardly meant."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.rules.check.backscatter import backscatter
from relayd.rules.check.deadend import dead_ends
from relayd.rules.check.habits import habits
from relayd.rules.check.opendoor import open_doors
from relayd.rules.check.selfcaught import self_caught
from relayd.rules.check.shadow import never_held
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset


def cautions(ruleset: Ruleset, listeners: Sequence[str]) -> list[Problem]:
    """All warnings of rules and tables; `listeners`: where strangers may speak without a login."""
    doors = open_doors(ruleset, listeners)
    return [
        *doors,
        *backscatter(ruleset, [each.place for each in doors]),
        *dead_ends(ruleset),
        *never_held(ruleset),
        *self_caught(ruleset),
        *habits(ruleset.items, ruleset.tables),
    ]
