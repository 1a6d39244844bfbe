"""Direct delivery by MX, with real name servers and hosts of their own on port 25."""

from __future__ import annotations

from tests.scenarios import peers
from tests.scenarios.harness import Scenario
from tests.scenarios.network import Network
from tests.sink import Sink

ZONE = """
pref        MX 20 mxb
pref        MX 10 mxa
failover    MX 10 quiet
failover    MX 15 dead
failover    MX 20 mxb
equal       MX 10 mxa
equal       MX 10 mxb
implicit    A 192.0.2.10
null        MX 0 .
alias       CNAME pref
self        MX 10 gw
cut         MX 10 quiet
cut         MX 20 gw
cut         MX 30 mxb
six         MX 10 mx6
dual        MX 10 both
quietonly   MX 10 quiet
deadonly    MX 10 dead
back        A 192.0.2.12
gw          A 192.0.2.1
mxa         A 192.0.2.10
mxb         A 192.0.2.11
both        A 192.0.2.11
both        AAAA 2001:db8::99
mx6         AAAA 2001:db8::26
quiet       A 192.0.2.98
dead        A 192.0.2.99
"""


class Direct(Scenario):
    """gw is the relayd under test; quiet has no mail server, dead does not exist."""

    needs = ("netns", "nsd", "unbound")

    def setUp(self) -> None:
        super().setUp()
        net = Network()
        self.addCleanup(net.close)
        gw = net.host("gw", "192.0.2.1/24", "2001:db8::1/64")
        dns = net.host("dns", "192.0.2.53/24")
        mx = net.host("mx", "192.0.2.10/24", "192.0.2.11/24", "192.0.2.12/24", "2001:db8::26/64")
        net.host("quiet", "192.0.2.98/24")
        self.dns = peers.NameServer(
            self,
            {"example": ZONE, "broken.example": None},
            address="192.0.2.53",
            enter=dns.enter,
        )
        self.mxa = Sink(bind=mx.bind("192.0.2.10", 25))
        self.mxb = Sink(bind=mx.bind("192.0.2.11", 25))
        self.back = Sink(bind=mx.bind("192.0.2.12", 25))
        self.mx6 = Sink(bind=mx.bind("2001:db8::26", 25))
        for sink in (self.mxa, self.mxb, self.mx6, self.back):
            self.addCleanup(sink.stop)
        self.relay = self.relayd(
            "accept from 192.0.2.0/24\nroute any direct\n",
            hostname="gw.example",
            host=gw,
            address="192.0.2.1",
            port=2525,
            settings="resolver 192.0.2.53:53\n",
        )

    def send(self, domain: str) -> str:
        return self.relay.send("ann@back.example", [f"bob@{domain}"])

    def assert_delivered(self, domain: str, sink: Sink, address: str) -> None:
        ident = self.send(domain)
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "delivered", recipient)
        self.assertEqual(recipient["remote_address"], address)
        self.assertEqual(sink.wait(1)[-1].recipients, (f"bob@{domain}",))

    def assert_failed(self, domain: str, code: str, status: str) -> None:
        """A permanent outcome, and the report of it at the sender's."""
        ident = self.send(domain)
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "failed", recipient)
        self.assertTrue(recipient["reply"].startswith(f"{code} {status} "), recipient)
        (report,) = self.back.wait(1)
        self.assertEqual(report.sender, "")
        self.assertEqual(report.recipients, ("ann@back.example",))
        self.assertIn(f"Status: {status}\r\n".encode(), report.content)

    def assert_postponed(self, domain: str, status: str) -> dict[str, object]:
        """A transient outcome: the message waits, and nobody is told."""
        ident = self.send(domain)
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "queued", recipient)
        self.assertRegex(recipient["reply"], rf"^4\d\d {status} ")
        self.assertEqual(self.back.arrived, [])
        self.assertEqual([each["id"] for each in self.relay.queue()], [ident])
        return recipient

    def test_lowest_preference_first(self) -> None:
        self.assert_delivered("pref.example", self.mxa, "192.0.2.10:25")
        self.assertEqual(self.mxb.sessions, 0)

    def test_next_preference_when_the_first_are_refused_and_dead(self) -> None:
        self.assert_delivered("failover.example", self.mxb, "192.0.2.11:25")

    def test_next_preference_when_the_first_puts_off(self) -> None:
        for stage in ("mail", "rcpt", "data", "content"):
            self.mxa.script = lambda asked, stage=stage: (
                "451 4.3.0 not now" if asked.stage == stage else None
            )
            self.assert_delivered("pref.example", self.mxb, "192.0.2.11:25")
        self.assertEqual(self.mxa.arrived, [])

    def test_equal_preferences_share(self) -> None:
        idents = [self.send("equal.example") for _ in range(4)]
        for ident in idents:
            self.assertEqual(self.relay.settled(ident)["state"], "delivered")
        self.assertEqual(len(self.mxa.arrived) + len(self.mxb.arrived), 4)

    def test_address_as_implicit_mx(self) -> None:
        self.assert_delivered("implicit.example", self.mxa, "192.0.2.10:25")

    def test_alias_is_followed(self) -> None:
        self.assert_delivered("alias.example", self.mxa, "192.0.2.10:25")

    def test_ipv6_only_exchanger(self) -> None:
        self.assert_delivered("six.example", self.mx6, "[2001:db8::26]:25")

    def test_both_families_are_tried(self) -> None:
        self.assert_delivered("dual.example", self.mxb, "192.0.2.11:25")

    def test_null_mx(self) -> None:
        self.assert_failed("null.example", "556", "5.1.10")

    def test_domain_that_does_not_exist(self) -> None:
        self.assert_failed("nowhere.example", "550", "5.1.2")

    def test_own_name_first_in_the_list_is_a_loop(self) -> None:
        ident = self.send("self.example")
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "failed", recipient)
        self.assertRegex(recipient["reply"], r"^55\d 5\.4\.6 ")
        self.back.wait(1)

    def test_own_name_cuts_the_list(self) -> None:
        self.assert_postponed("cut.example", r"4\.4\.\d")
        self.assertEqual(self.mxb.sessions, 0)

    def test_server_failure_is_temporary(self) -> None:
        self.assert_postponed("broken.example", r"4\.4\.3")

    def test_nobody_listens(self) -> None:
        self.assert_postponed("quietonly.example", r"4\.4\.1")

    def test_dead_host(self) -> None:
        self.assert_postponed("deadonly.example", r"4\.4\.1")

    def test_dead_name_server_is_temporary_and_mail_flows_when_it_is_back(self) -> None:
        self.dns.unbound.kill()
        ident = self.send("pref.example")
        recipient = self.relay.settled(ident, seconds=60)
        self.assertEqual(recipient["state"], "queued", recipient)
        self.dns.start_resolver()
        self.assertEqual(self.mxa.wait(1, 60)[0].recipients, ("bob@pref.example",))


class Chain(Scenario):
    """Two relayds: the first has the second as its next hop, the second delivers by MX."""

    needs = ("netns", "nsd", "unbound")

    def test_message_carries_both_trace_fields(self) -> None:
        net = Network()
        self.addCleanup(net.close)
        inner = net.host("inner", "192.0.2.1/24")
        outer = net.host("outer", "192.0.2.2/24")
        dns = net.host("dns", "192.0.2.53/24")
        mx = net.host("mx", "192.0.2.10/24")
        peers.NameServer(
            self,
            {"example": "pref MX 10 mxa\nmxa A 192.0.2.10\n"},
            address="192.0.2.53",
            enter=dns.enter,
        )
        sink = Sink(bind=mx.bind("192.0.2.10", 25))
        self.addCleanup(sink.stop)
        second = self.relayd(
            "accept from 192.0.2.1\nroute any direct\n",
            name="second",
            hostname="outer.example",
            host=outer,
            address="192.0.2.2",
            port=25,
            settings="resolver 192.0.2.53:53\n",
        )
        first = self.relayd(
            "next-hop outer smtp 192.0.2.2:25\naccept from 192.0.2.0/24\nroute any via outer\n",
            name="first",
            hostname="inner.example",
            host=inner,
            address="192.0.2.1",
            port=2525,
        )
        content = b"Subject: chain\r\n\r\n.\r\n..\r\nend\r\n"
        ident = first.send("ann@pref.example", ["bob@pref.example", "eve@pref.example"], content)
        (message,) = sink.wait(1)
        self.assertEqual(set(message.recipients), {"bob@pref.example", "eve@pref.example"})
        self.assertTrue(message.content.endswith(content))
        added = message.content[: -len(content)]
        self.assertEqual(added.count(b"Received: "), 2)
        self.assertLess(added.index(b"outer.example"), added.index(b"by inner.example"))
        self.assertIn(ident.encode(), added)
        self.assertEqual(first.settled(ident)["state"], "delivered")
        first.wait_empty()
        second.wait_empty()
