"""From the names that the rules gave a recipient to the hop as it is defined now."""

from __future__ import annotations

from collections.abc import Mapping

from relayd.mail.envelope import DIRECT, REFUSED, Recipient
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome, postponed
from relayd.mail.reply import Reply
from relayd.relay.courier import Hop


def route(recipient: Recipient, next_hops: Mapping[str, NextHop]) -> Hop | Outcome:
    """Where the recipient goes; an Outcome when none of its names is defined (a transient one).

    The names are looked up at each attempt, so that mending a next hop mends queued mail. Of
    several (`via a, b`) those that are still defined are tried, in order.
    """
    if recipient.next_hop == DIRECT:
        return Hop(domain=recipient.mailbox.domain_key)
    if recipient.next_hop.startswith(REFUSED):  # by our rules, when there was nobody to hear it
        return Outcome(Reply.parse(recipient.next_hop.removeprefix(REFUSED)))
    names = [name.strip() for name in recipient.next_hop.split(",")]
    defined = tuple(next_hops[name] for name in names if name in next_hops)
    if defined:
        return Hop(next_hops=defined)
    # 4.3.5, system incorrectly configured (RFC 3463 section 3.4)
    return postponed("4.3.5", f"Next hop {', '.join(names)} is not defined")
