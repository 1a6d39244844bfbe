"""What holds until a restart, as text: a worker starts with what its master has started with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from relayd.config.settings import SPECS, Effect, Listener
from relayd.config.spoolplace import Away, SpoolPlace
from relayd.config.values import ConsolePlace, MayEdit, MetricsPlace, NameOrder
from relayd.rules.language.lexer import lex, quote
from relayd.rules.language.source import Source
from relayd.rules.language.words import Words


def statements_of(fixed: Mapping[str, Any]) -> str:
    """The statements that a file would have for these values (see Settings.fixed)."""
    return "".join(f"{each}\n" for each in _statements(fixed))


def _statements(fixed: Mapping[str, Any]) -> Iterator[str]:
    for name, spec in SPECS.items():
        value = fixed.get(spec.attribute, ())
        for each in value if isinstance(value, tuple) else (value,):
            whole = isinstance(
                each,
                (Listener, MetricsPlace, ConsolePlace, MayEdit, NameOrder, SpoolPlace, Away),
            )
            yield f"{name} {each.statement if whole else quote(str(each))}"


def fixed_of(statements: str) -> dict[str, Any]:
    """The inverse of statements_of."""
    read: dict[str, list[object]] = {}
    for statement in lex(Source.of(statements, "(the master's)")).statements:
        name = statement.verb.text
        read.setdefault(name, []).append(SPECS[name].read(Words(statement)))
    return {
        spec.attribute: tuple(read.get(name, ())) if spec.repeatable else read[name][0]
        for name, spec in SPECS.items()
        if read and spec.effect is Effect.RESTART
    }
