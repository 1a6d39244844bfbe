"""A listener's statement as the manners of its sessions: TLS, balancers, peers with XCLIENT."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from relayd.config import Listener
from relayd.config.peers import PROXY, XCLIENT, XCLIENT_LOGIN
from relayd.intake.door import Door, ServerSide
from relayd.mail.security import IMPLICIT
from relayd.rules.table import Table, Unknown
from relayd.smtp.xclient import ATTRIBUTES, LOGIN


def door_of(listener: Listener, tls: ServerSide, tables: Callable[[], Mapping[str, Table]]) -> Door:
    """The listener's door; `tables` are those now in force."""
    balancers, peers = listener.peers(PROXY), listener.peers(XCLIENT)
    login = (LOGIN,) if listener.option(XCLIENT_LOGIN) else ()

    def xclient(address: str) -> tuple[str, ...]:
        try:
            return (*ATTRIBUTES, *login) if peers.hold(address, tables()) else ()
        except Unknown:
            return ()

    said = listener.option("tls")
    return Door(
        tls if said != "none" else None,
        implicit=said == IMPLICIT,
        balancer=lambda address: balancers.hold(address, tables()),
        xclient=xclient,
    )
