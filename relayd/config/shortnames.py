"""Hosts of next hops that are named by a word without a dot, and that nobody would find."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from relayd.config.values import NameOrder
from relayd.dns.localnames import LocalNames
from relayd.mail.nexthop import NextHop
from relayd.rules.language.source import Place, Problem


def unfindable(
    hops: Mapping[str, NextHop], places: Mapping[str, Place], order: NameOrder
) -> Iterator[Problem]:
    """What is to be said of each: the DNS alone has hardly any such name."""
    local: LocalNames | None = None
    for hop in hops.values():
        place = places.get(hop.name)
        for host in dict.fromkeys(each.host for each in hop.hosts):
            if place is None or "." in host or ":" in host or host.lower() == "localhost":
                continue
            if not order.hosts or hop.mx:
                why = "the DNS alone is asked for it"
            else:
                local = local or LocalNames(time.monotonic)
                if local.addresses(host) or len(local.candidates(host)) > 1:
                    continue
                why = "it is not in /etc/hosts, and the system has no search domain"
            yield Problem(
                place,
                f'next hop {hop.name} will not find "{host}": {why}',
                f"its whole name, such as {host}.example.com",
            )
