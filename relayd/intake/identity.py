"""Whom a session is with after XCLIENT."""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.client import Client
from relayd.smtp.events import XClient


def introduced(client: Client, event: XClient) -> Client:
    """The client that the peer speaks for.

    What it did not say of an address stays as it was. A login or a certificate is never carried
    over: they were another's. TLS is the connection's, and stays.
    """
    if event.address is not None:
        client = replace(client, address=event.address, port=0, rdns=None)
    if event.name is not None:
        client = replace(client, rdns=event.name)
    return replace(
        client,
        port=client.port if event.port is None else event.port,
        helo=event.helo or "",
        protocol="SMTP",
        login=event.login or "",
        certificate="",
    )
