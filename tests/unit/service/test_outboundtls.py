"""What domains publish about policies and reports leads a whole relayd to no internal host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from relayd import config
from relayd.dns.resolver import Resolver
from relayd.mail.address import Mailbox
from relayd.relay.https import HttpError
from relayd.relay.stsfetch import FetchError
from relayd.service.outboundtls import OutboundTls
from tests.ports import free_port
from tests.support import TestCase
from tests.unit.intake.scene import FakeLog
from tests.unit.relay.test_resolve import FakeDns


class Leads(TestCase):
    def trust(self, more: str = "") -> OutboundTls:
        folder = Path(self.mktemp())
        folder.mkdir()
        settings = config.load_text(f"hostname gw.example.com\nspool {folder}\n{more}", folder)
        zone: Any = {
            ("mta-sts.evil.test", "A"): ["127.0.0.1"],
            ("reports.evil.test", "A"): ["10.0.0.1", "127.0.0.1"],
        }

        async def submit(sender: Mailbox, to: Mailbox, content: bytes) -> None:
            raise AssertionError("no report is sent")

        resolver = Resolver(None, ask=FakeDns(zone).ask)
        return OutboundTls(reactor, lambda: settings, FakeLog(), resolver, submit)

    async def test_tls_reports_and_policies_go_to_no_internal_host(self) -> None:
        trust = self.trust()
        for url in ("https://reports.evil.test/", "https://127.0.0.1/", "https://[::1]/"):
            asked: Deferred[Any] = Deferred.fromCoroutine(trust.reporter._web().hand(url, b"", {}))
            self.assertIn("an internal address", str(await self.assertFailure(asked, HttpError)))
        with self.assertRaises(FetchError) as caught:
            await trust._policies.fetch("evil.test")
        self.assertIn("an internal address", str(caught.exception))

    async def test_they_may_where_a_setting_says_so(self) -> None:
        web = self.trust("internal-destinations 127.0.0.0/8\n").reporter._web()
        url = f"https://reports.evil.test:{free_port()}/"
        asked: Deferred[Any] = Deferred.fromCoroutine(web.hand(url, b"", {}))
        said = str(await self.assertFailure(asked, HttpError))
        self.assertIn("refused", said)  # by nobody who listens there
