"""header_checks: those that remove or replace a whole field become `header` rules."""

from __future__ import annotations

import re

from relayd.migrate.tables import MapText, PatternRow
from relayd.migrate.work import Work
from relayd.rules.language.lexer import string

SETTING = "header_checks"
# "/^X-Internal:/", perhaps with ".*" or "$" behind: every field of that name
_WHOLE_FIELD = re.compile(r"\^([A-Za-z0-9-]+)(?:\\?:)(?:\\s\*| |\[\[:space:\]\]\*)?(?:\.\*)?\$?\Z")


def header_checks(work: Work) -> None:
    """The rules that can be carried over; each of the others is named."""
    tables = work.tables(SETTING)
    for table in tables:
        for row in table.rows:
            work.report.lost(SETTING, f"{table.where(row.line)}: not an expression")
        for pattern in table.patterns:
            why = _check(work, table, pattern)
            if why:
                work.report.lost(
                    SETTING,
                    f"{table.where(pattern.line)}: /{pattern.expression.text}/ {pattern.value}:"
                    f" {why}",
                )


def _check(work: Work, table: MapText, row: PatternRow) -> str:
    """Write one rule; or why there is none."""
    action, _, text = row.value.partition(" ")
    if row.guards or row.expression.negated:
        return "`if` and `!` are not carried over here"
    match = _WHOLE_FIELD.match(row.expression.text)
    if match is None:
        return (
            'write it as a rule, such as `reject when field Subject "..."`, or have a filter asked'
        )
    name = match.group(1)
    if name.lower() == "received":
        return "Received fields are how mail loops are found; relayd leaves them alone"
    if action.upper() == "IGNORE":
        rule = f"header remove {name}"
    elif action.upper() == "REPLACE" and text.lower().startswith(f"{name.lower()}:"):
        rule = f"header replace {name} {string(text.partition(':')[2].strip())}"
    else:
        return f"{action} is no action of relayd's; filter in front, or between two relays"
    work.draft.rule("rewrite", rule, f"{SETTING}: {table.where(row.line)}")
    work.report.translated(SETTING, f"{table.where(row.line)}: {rule}")
    return ""
