"""What TLS the hosts of a survey would have to show, in words for `relayctl explain`."""

from __future__ import annotations

from relayd.mail.nexthop import NextHop
from relayd.mail.security import Level
from relayd.relay.protection import Protection
from relayd.relay.survey import Endpoint, Host, Survey
from relayd.relay.trouble import SessionError
from relayd.tls.demand import Demand
from relayd.tls.flaw import PolicyKind

MOST = 5  # hosts that are looked at


async def tls_lines(protection: Protection, where: NextHop | str, survey: Survey) -> list[str]:
    """One line where all hosts are alike, else one for each; none for sockets of this machine."""
    usable = [host for host in survey.hosts if not host.note and host.addresses][:MOST]
    if isinstance(where, NextHop) and where.unix:
        return []
    found = [await _words(protection, where, host) for host in usable]
    if len(set(found)) == 1:
        return [f"TLS {found[0]}"]
    return [f"TLS of {host.name}: {text}" for host, text in zip(usable, found, strict=True)]


async def _words(protection: Protection, where: NextHop | str, host: Host) -> str:
    endpoint = Endpoint(host.name, host.addresses[0], host.port, host.secure, host.canonical)
    try:
        demand = await protection.demand(where, endpoint)
    except SessionError as error:
        return f"cannot be had: {error.outcome.reply}"
    why = _why(demand)
    if demand.denied:
        why = f"{why}, {demand.denied}"
    return f"{demand.level} ({why})"


def _why(demand: Demand) -> str:
    policy = demand.policy
    if demand.source:
        return f"by {demand.source}"
    if policy is not None and policy.kind is PolicyKind.STS:
        return f"the MTA-STS policy of {policy.domain} is in mode testing"
    return "no policy" if demand.level is Level.OPTIONAL else "no reason"
