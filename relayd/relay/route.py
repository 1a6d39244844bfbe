"""From the names that the rules gave a recipient to the hop as it is defined now."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from relayd.mail.envelope import Direction, Recipient
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import NOT_CONFIGURED, Outcome, postponed
from relayd.mail.pacing import SourceAddress
from relayd.relay.courier import Hop


def route(
    recipient: Recipient,
    next_hops: Mapping[str, NextHop],
    sources: Mapping[str, SourceAddress] = MappingProxyType({}),
) -> Hop | Outcome:
    """Where the recipient goes; an Outcome when none of its names is defined (a transient one).

    The names are looked up at each attempt, so that mending a next hop mends queued mail. Of
    several (`via a, b`) those that are still defined are tried, in order.
    """
    only = next_hops.get(recipient.next_hop)
    if only is not None:
        return Hop(next_hops=(only,))
    direction = Direction.parse(recipient.next_hop)
    if direction.direct:
        source = sources.get(direction.source)
        if direction.source and source is None:
            return postponed(NOT_CONFIGURED, f"Source {direction.source} is not defined")
        behind = tuple(next_hops[name] for name in direction.names if name in next_hops)
        return Hop(behind, recipient.mailbox.domain_key, source)
    if direction.refusal is not None:  # by our rules, when there was nobody to hear it
        return Outcome(direction.refusal)
    defined = tuple(next_hops[name] for name in direction.names if name in next_hops)
    if defined:
        return Hop(next_hops=defined)
    return postponed(NOT_CONFIGURED, f"Next hop {', '.join(direction.names)} is not defined")
