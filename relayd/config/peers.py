"""Peers that a listener believes: balancers with a PROXY header, and who may say XCLIENT."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from relayd.rules.check.check import word_at
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.pattern import Anything, InTable, Net
from relayd.rules.language.patternreader import client_pattern
from relayd.rules.language.source import Place, Problem, did_you_mean
from relayd.rules.language.words import Words
from relayd.rules.subject import client_number
from relayd.rules.tables.table import Table

PROXY, XCLIENT = "proxy", "xclient"  # options of listeners that name peers
XCLIENT_LOGIN = "xclient-login"  # stands alone

_WIDE = 8  # bits of a prefix; what is wider names nobody


@dataclass(frozen=True, slots=True)
class Peers:
    """`<balancers>, 192.0.2.0/28`."""

    patterns: tuple[Net | InTable, ...] = ()

    def hold(self, address: str, tables: Mapping[str, Table]) -> bool:
        """Whether the address is one of theirs; raises relayd.rules.tables.table.Unknown."""
        return any(_fits(pattern, address, tables) for pattern in self.patterns)

    @property
    def tables(self) -> tuple[str, ...]:
        """The tables that are named."""
        return tuple(each.name for each in self.patterns if isinstance(each, InTable))

    def __str__(self) -> str:
        return ", ".join(map(str, self.patterns))


NOBODY = Peers()


def _fits(pattern: Net | InTable, address: str, tables: Mapping[str, Table]) -> bool:
    if isinstance(pattern, InTable):
        table = tables.get(pattern.name)
        return table is not None and bool(table.client(address))
    number = client_number(address)
    network = pattern.network
    if number is None or number[0] != network.version:
        return False
    shift = network.max_prefixlen - network.prefixlen
    return number[1] >> shift == int(network.network_address) >> shift


def listener_peers(words: Words) -> Peers:
    """What stands behind `proxy` or `xclient`: addresses, networks and tables."""
    return Peers(words.commas(lambda: _peer(words)))


def _peer(words: Words) -> Net | InTable:
    token = words.peek()
    if token is None or token.kind is TokenKind.MARK:
        raise words.missing("a peer's address or network, or <table>")
    pattern = client_pattern(words)
    if isinstance(pattern, Anything) or (
        isinstance(pattern, Net) and pattern.network.prefixlen < _WIDE
    ):
        what = f'"{pattern}" names no peer: who is believed could be any client it likes'
        raise words.complain(what, "expected the peers' own addresses, or a table of them")
    return pattern


def peer_problems(
    given: Iterable[tuple[Peers, Place]], tables: Mapping[str, Table], known: Iterable[str]
) -> list[Problem]:
    """Tables that are not there or hold no network; `known`: all that a statement names."""
    problems = []
    names = set(known)
    for peers, place in given:
        for name in dict.fromkeys(peers.tables):
            at = word_at(place, name)
            if name not in names:
                hint = did_you_mean(name, names) or f'expected a statement "table {name} ..."'
                problems.append(Problem(at, f"there is no table {name}", hint))
            elif name in tables and tables[name].has_no_network:
                what = f"table {name} holds no network, and so no peer"
                problems.append(Problem(at, what, "expected addresses or networks in it"))
    return problems
