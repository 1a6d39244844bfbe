"""What a configuration was read from, for `check` to say: so that what was not read is missed."""

from __future__ import annotations

from relayd.config.settings import Settings
from relayd.rules.language.model import Expect, Rule
from relayd.rules.tables.live import LiveTable
from relayd.rules.tables.snapshot import SnapshotTable
from relayd.rules.tables.table import Table


def contents(settings: Settings) -> dict[str, object]:
    """Files, rules and tests by number, tables by name with their entries."""
    rules = [item for item in settings.ruleset.items if isinstance(item, Rule)]
    tests = sum(isinstance(item, Expect) for item in rules)
    return {
        "files": [str(each) for each in settings.files],
        "rules": len(rules) - tests,
        "tables": {
            name: table.size for name, table in settings.ruleset.tables.items() if _read(table)
        },
        "tests": tests,
    }


def _read(table: Table) -> bool:
    """Not one that is asked instead, nor one whose directory has said nothing yet."""
    if isinstance(table, SnapshotTable):
        return table.head is not None
    return not isinstance(table, LiveTable)
