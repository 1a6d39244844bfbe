"""What looks at the address that an expression of a canonical map makes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relayd.migrate.expressions import apart_from_references, carried, refers
from relayd.migrate.follow import Keyed, Masquerade, end, passed
from relayd.migrate.tables import MapText, PatternRow

MOST_APART = 100  # addresses with a rule of their own before that of the expression
_WHOLE_LOCAL = re.compile(r"\^\(([^()]+)\)(@.*)\Z")  # an expression whose first group is that


@dataclass(frozen=True)
class MadeByExpression:
    """An expression of a map, and what looks at what it makes."""

    keyed: Keyed
    then: Sequence[Keyed]
    hidden: Masquerade
    source: MapText
    row: PatternRow

    @property
    def chain(self) -> tuple[Keyed, ...]:
        """The maps that are asked for what it makes, its own first."""
        return (self.keyed, *self.then)

    def _others(self) -> Iterator[tuple[MapText, PatternRow]]:
        for each in self.chain:
            yield from (pair for pair in each.patterns if pair[1] is not self.row)

    def onward(self, expression: str, value: str) -> tuple[str, list[tuple[str, str]], str]:
        """The value at its end; what has another end, each with its expression; or why not."""
        local, _, domain = value.rpartition("@")
        domain = domain.lower()
        if not any((*self._keys(), *self._others(), *self.hidden.domains)):
            return value, [], ""
        again = "what it makes may have an entry of its own"
        if not local or refers(domain) or any(_may_fit(*pair, domain) for pair in self._others()):
            return "", [], again
        if not refers(local):
            return end(value, *self._rest), [], ""
        path = passed(domain, *self._rest[:2])
        last = end(f"@{domain}", *self._rest)
        shape = re.compile(f"(?:{'.*'.join(map(re.escape, apart_from_references(local)))})@")
        special = [
            key
            for key in self._keys()
            if key.rpartition("@")[2] in path and (key[0] == "@" or shape.match(key))
        ]
        found = _WHOLE_LOCAL.match(expression) if local in ("$1", "${1}") else None
        if found is None and (special or not last.startswith("@") or self.hidden.exceptions):
            return "", [], again
        apart = []
        names = [key.rpartition("@")[0] for key in special]
        for name in dict.fromkeys([*names, *self.hidden.exceptions]) if found is not None else ():
            address = f"{name}@{domain}"
            if re.fullmatch(found[1], name):  # type: ignore[index]
                apart.append((f"^{re.escape(name)}{found[2]}", end(address, *self._rest)))  # type: ignore[index]
        if len(apart) > MOST_APART:
            return "", [], again
        return f"{local}{last}" if last.startswith("@") else last, apart, ""

    @property
    def _rest(self) -> tuple[Keyed, Sequence[Keyed], Masquerade]:
        return self.keyed, self.then, self.hidden

    def _keys(self) -> list[str]:
        return [
            key for each in self.chain for key in (*each.exact, *map("@{}".format, each.domains))
        ]


def _may_fit(source: MapText, row: PatternRow, domain: str) -> bool:
    """Whether an expression may find some address of a domain."""
    text = carried(row.expression, source.spec.type).text
    if row.expression.negated or "@" not in text:
        return True
    try:
        return re.search("@" + text.rpartition("@")[2], "@" + domain) is not None
    except re.error:
        return True
