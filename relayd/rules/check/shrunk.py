"""Tables that have lost most of what they held: more likely by an accident than by intent.

An export that failed, a file being written, a mount that is away: they leave little or nothing,
and all mail for what is missing would be refused for good.
"""

from __future__ import annotations

from collections.abc import Iterator

from relayd.rules.language.model import TableDef
from relayd.rules.ruleset import Ruleset


def shrunk(before: Ruleset, now: Ruleset) -> list[str]:
    """A line for each table from a file that has lost more than half: how much is left."""
    return list(_told(before, now))


def _told(before: Ruleset, now: Ruleset) -> Iterator[str]:
    known = {item.name: item for item in before.items if isinstance(item, TableDef)}
    for item in now.items:
        if not isinstance(item, TableDef) or not item.file:
            continue
        same = known.get(item.name)
        if same is None or same.kind != item.kind or not same.file:
            continue  # the statement itself was changed
        old, new = before.tables[item.name], now.tables[item.name]
        for had, has, what in ((old.size, new.size, "entries"), (old.named, new.named, "names")):
            if has * 2 < had:
                left = f"has {has:,} of {had:,} {what} left"
                if not has:
                    left = f"has lost all {had:,} {what}"
                yield f"table {item.name} ({new.place}) {left}"
                break
