"""Fetches MTA-STS policies over HTTPS (RFC 8461 section 3.3)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from relayd.relay.hosts import Hosts, Leads
from relayd.relay.https import HTTPS, HttpError, Https
from relayd.tls.flaw import Flaw
from relayd.tls.sts import MAX_SIZE

PATIENCE = 60.0  # seconds: section 3.3


class FetchError(Exception):
    """There is no policy to be had now; the text says why."""

    def __init__(self, why: str, flaw: Flaw = Flaw.STS_FETCH) -> None:
        super().__init__(why)
        self.flaw = flaw


class StsFetch:
    """Asks the policy host of a domain, at the addresses that our own resolver finds."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of many interfaces
        hosts: Hosts,
        *,
        authorities: Path | None = None,
        leads: Leads = None,  # whether a policy host may have an address
        port: int = HTTPS,
    ) -> None:
        self._web = Https(
            reactor,
            hosts,
            authorities=authorities,
            leads=leads,
            patience=PATIENCE,
            most=MAX_SIZE,
        )
        self._port = port

    async def __call__(self, domain: str) -> str:
        """The policy's text; raises FetchError."""
        host = f"mta-sts.{domain}"
        try:
            # no redirect is followed, and nothing is cached: section 3.3 forbids both
            answer = await self._web.get(f"https://{host}/.well-known/mta-sts.txt", self._port)
        except HttpError as error:
            flaw = Flaw.STS_WEBPKI if error.unproven else Flaw.STS_FETCH
            raise FetchError(str(error), flaw) from None
        if answer.status != 200:
            raise FetchError(f"{host} said {answer.status}")
        if answer.kind != "text/plain":
            raise FetchError(f"{host} sent no text/plain")
        return answer.body.decode("utf-8", "replace")
