"""`from`: the client's address."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relayd.rules.conditions.condition import Condition, Operand, Test, always, noting
from relayd.rules.conditions.index import Index, Key
from relayd.rules.fact import ADDRESS
from relayd.rules.language.pattern import Anything, ClientPattern, InTable, Net
from relayd.rules.language.patternreader import client_pattern
from relayd.rules.language.words import Words
from relayd.rules.subject import NetIndex, client_number
from relayd.rules.tables.table import Table
from relayd.rules.view import View


class ClientIndex(Index):
    """By network."""

    __slots__ = ("_networks",)

    def __init__(self) -> None:
        super().__init__()
        self._networks = NetIndex()

    def add(self, key: Key, number: int) -> None:
        """File a rule."""
        if not isinstance(key, str):
            self._networks.add(key, number)

    def at(self, key: Key) -> Sequence[int]:
        """The rules filed under networks that hold this one's first address."""
        return () if isinstance(key, str) else self._found(str(key.network_address))

    def collect(self, view: View, found: list[int]) -> None:
        """Add the rules whose condition holds."""
        found += self._networks.find(client_number(view.client.address))

    def _found(self, address: str) -> list[int]:
        return self._networks.find(client_number(address))


class FromClient(Condition):
    """`from 192.0.2.0/24, 2001:db8::1`, `from <inside>`."""

    __slots__ = ()
    word = "from"
    facts = frozenset({ADDRESS})
    index = ClientIndex

    @classmethod
    def operand(cls, words: Words) -> ClientPattern:
        """One operand."""
        return client_pattern(words)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        if isinstance(operand, InTable):
            table = tables[operand.name]
            return noting(lambda view: table.client(view.client.address))
        if not isinstance(operand, Net):
            return always
        networks = NetIndex()
        networks.add(operand.network, 0)
        return lambda view: bool(networks.find(client_number(view.client.address)))

    @property
    def keys(self) -> tuple[Key, ...]:
        """What the index files it under."""
        networks = tuple(each.network for each in self.operands if isinstance(each, Net))
        return networks if len(networks) == len(self.operands) else ()

    @property
    def above(self) -> tuple[Key, ...]:
        """What another one is filed under that holds wherever this one does."""
        first = self.operands[0]
        return (first.network,) if isinstance(first, Net) else ()

    def misused(self, tables: Mapping[str, Table]) -> Iterator[tuple[str, str, str]]:
        """Tables without an address."""
        for name in self.tables:
            if tables[name].has_no_network:
                yield (
                    name,
                    f'table {name} holds no network: "from" would never hold',
                    'expected addresses or networks in it, or "to" or "sender" here',
                )

    @property
    def everything(self) -> bool:
        """Whether it holds always."""
        return not self.negated and Anything() in self.operands

    @property
    def names_client(self) -> bool:
        """Whether it holds only for clients that the rule knows."""
        return not self.negated and not any(map(_everybody, self.operands))

    limits = names_client


def _everybody(operand: Operand) -> bool:
    return isinstance(operand, Anything) or (
        isinstance(operand, Net) and not operand.network.prefixlen
    )
