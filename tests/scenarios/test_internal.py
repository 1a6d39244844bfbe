"""Nothing that strangers publish in the DNS leads a whole relayd to an internal host."""

from __future__ import annotations

import socket
import sys

from tests.scenarios.harness import CHECKOUT, Process, Relayd, Scenario, free_port, wait_until
from tests.sink import Sink

ZONE = """\
loop.test. MX 10 mx.loop.test.
mx.loop.test. A 127.0.0.9
six.test. MX 10 mx.six.test.
mx.six.test. AAAA ::1
mapped.test. AAAA ::ffff:127.0.0.9
bare.test. A 127.0.0.9
private.test. MX 10 mx.private.test.
mx.private.test. A 10.0.0.1
mx.private.test. A 169.254.169.254
_mta-sts.loop.test. TXT "v=STSv1; id=1;"
mta-sts.loop.test. A 127.0.0.8
"""


class Internal(Scenario):
    def setUp(self) -> None:
        super().setUp()
        port = free_port()
        self.inside = Sink(bind=lambda: socket.create_server(("127.0.0.9", port)))
        self.reports = Sink()
        for sink in (self.inside, self.reports):
            self.addCleanup(sink.stop)
        self.port = free_port()
        zone = self.folder / "zone"
        zone.write_text(ZONE)
        command = [sys.executable, "-m", "tests.dnsserver", "127.0.0.1", str(self.port), str(zone)]
        self.names = Process(
            command, self.folder / "names.log", environment={"PYTHONPATH": str(CHECKOUT)}
        )
        self.addCleanup(self.names.kill)
        wait_until(lambda: "listening" in self.names.log(), "the name server listens")

    def started(self, more: str = "") -> Relayd:
        return self.relayd(
            "accept from 127.0.0.0/8\n"
            f"next-hop reports smtp 127.0.0.1:{self.reports.port}\n"
            "route to @sender.test via reports\nroute any direct\n",
            settings=f"resolver 127.0.0.1:{self.port}\nrelay-port {self.inside.port}\n{more}",
        )

    def test_nothing_leads_inside_until_a_setting_says_so(self) -> None:
        relay = self.started()
        domains = ("loop.test", "six.test", "mapped.test", "bare.test", "private.test")
        for number, domain in enumerate(domains, 1):
            relay.send("bob@sender.test", [f"x@{domain}"])
            report = self.reports.wait(number)[-1]
            self.assertEqual(report.recipients, ("bob@sender.test",))
            self.assertIn(b"5.4.4", report.content, domain)
        self.assertEqual(self.inside.arrived, [])
        self.assertEqual(self.inside.sessions, 0)
        shown = relay.ctl("explain", "--from", "127.0.0.1", "x@loop.test", check=False).stdout
        self.assertIn("127.0.0.9 is an internal address", shown)
        # a reload is enough
        text = relay.config.read_text("utf-8")
        relay.config.write_text(f"internal-destinations 127.0.0.0/8\n{text}", "utf-8")
        relay.ctl("reload")
        for number, domain in enumerate(("loop.test", "bare.test"), 1):
            relay.send("bob@sender.test", [f"x@{domain}"])
            self.assertEqual(self.inside.wait(number)[-1].recipients, (f"x@{domain}",))

    def test_no_policy_is_fetched_from_an_internal_host(self) -> None:
        relay = self.started("internal-destinations 127.0.0.9\n")
        relay.send("bob@sender.test", ["x@loop.test"])
        self.inside.wait(1)
        said = "mta-sts.loop.test: 127.0.0.8 is an internal address"
        wait_until(lambda: said in relay.log(), f"the log says: {said}\n{relay.log()}")
