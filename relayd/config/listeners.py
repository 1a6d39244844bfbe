"""Listeners as rules know them: their names in conditions, and who reaches them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

from relayd.config.logins import AUTH, SUBMISSION
from relayd.config.settings import Listener
from relayd.rules.check.check import word_at
from relayd.rules.conditions.name import AtListener
from relayd.rules.language.model import Item, Rule
from relayd.rules.language.pattern import Text
from relayd.rules.language.source import Problem, did_you_mean, one_of

_MOST_SHOWN = 5
# loopback, link-local and private networks (RFC 1122, RFC 3927, RFC 1918, RFC 6598; RFC 4291, RFC
# 4193): who listens there has chosen who reaches him
_OWN = tuple(
    map(
        ipaddress.ip_network,
        (
            *("127.0.0.0/8", "169.254.0.0/16", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"),
            *("100.64.0.0/10", "::1/128", "fe80::/10", "fc00::/7"),
        ),
    )
)


def open_to_strangers(listeners: Iterable[Listener]) -> list[str]:
    """The names of those at which somebody from anywhere may send without a login."""
    return [
        str(each)
        for each in listeners
        if not {AUTH, SUBMISSION} <= {name for name, _ in each.options}
        and not _is_own(ipaddress.ip_address(each.address))
    ]


def reached_by_others(listeners: Iterable[object]) -> bool:
    """Whether somebody on another host speaks to one of them."""
    return any(
        isinstance(each, Listener) and not ipaddress.ip_address(each.address).is_loopback
        for each in listeners
    )


def _is_own(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    return any(address in network for network in _OWN)


def listener_name_problems(
    items: Iterable[Item], listeners: Sequence[str], broken: Iterable[str]
) -> list[Problem]:
    """`when listener` with what no `listen` says; a `broken` statement may have said it."""
    names = list(dict.fromkeys(listeners))
    known = {name.lower() for name in (*names, *broken)}
    problems = []
    for item in items:
        if not isinstance(item, Rule):
            continue
        for each in item.tests:
            for operand in each.operands if isinstance(each, AtListener) else ():
                if isinstance(operand, Text) and operand.text.lower() not in known:
                    shown = [f'"{name}"' for name in names[:_MOST_SHOWN]]
                    hint = did_you_mean(operand.text, names) or f"expected {one_of(shown)}"
                    what = f"there is no listener {operand.text}"
                    problems.append(Problem(word_at(item.place, operand.text), what, hint))
    return problems
