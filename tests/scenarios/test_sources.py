"""Addresses to send from, in network namespaces: each of its family, under its name, or not at all.

The second machine is the world: it sees from where mail comes, and under what name.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from typing import Any

from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.scenarios.network import Network
from tests.sink import Arrived, Sink

FOUR, SIX = "192.0.2.2", "2001:db8::2"
OTHER_FOUR = "192.0.2.3"
BULK = f"source bulk {FOUR}, {SIX} helo bulk.example\n"
ROUTES = "accept from 192.0.2.0/24\nroute sender @news.example direct from bulk\nroute any direct\n"
ZONE = """
four MX 10 mx.four
mx.four A 192.0.2.12
six MX 10 mx.six
mx.six AAAA 2001:db8::26
both MX 10 mx.both
mx.both A 192.0.2.13
mx.both AAAA 2001:db8::27
gw A 192.0.2.1
bulk A 192.0.2.2
bulk AAAA 2001:db8::2
"""


class Sources(Scenario):
    needs = ("netns", "nsd", "unbound")

    def setUp(self) -> None:
        super().setUp()
        net = Network()
        self.addCleanup(net.close)
        self.gw = net.host("gw", "192.0.2.1/24", "2001:db8::1/64", f"{FOUR}/24", f"{SIX}/64")
        dns = net.host("dns", "192.0.2.53/24")
        self.mx = net.host(
            *("mx", "192.0.2.12/24", "192.0.2.13/24", "2001:db8::26/64", "2001:db8::27/64")
        )
        peers.NameServer(self, {"example": ZONE}, address="192.0.2.53", enter=dns.enter)
        self.sinks = {
            address: self.sink(address)
            for address in ("192.0.2.12", "192.0.2.13", "2001:db8::26", "2001:db8::27")
        }

    def sink(self, address: str) -> Sink:
        sink = Sink(bind=self.mx.bind(address, 25), keep_content=False)
        self.addCleanup(sink.stop)
        return sink

    def relay(self, rules: str = BULK + ROUTES, *, workers: int = 1) -> Relayd:
        relay = self.relayd(
            rules,
            hostname="gw.example",
            host=self.gw,
            address="192.0.2.1",
            port=2525,
            settings="resolver 192.0.2.53:53\nretry 1h\n",  # nothing here goes by the schedule
            start=False,
        )
        text = relay.config.read_text()
        relay.config.write_text(re.sub("workers .*", f"workers {workers}", text))
        relay.start()
        return relay

    def address(self, verb: str, address: str) -> None:
        """`ip address add` or `del` on the gateway."""
        wide, extra = ("64", ["nodad"] if verb == "add" else []) if ":" in address else ("24", [])
        words = ["ip", "address", verb, f"{address}/{wide}", "dev", "eth0", *extra]
        subprocess.run([*self.gw.enter, *words], check=True)

    def arrived(self) -> list[Arrived]:
        return [each for sink in self.sinks.values() for each in sink.arrived]

    def seen(self, sink: str, count: int = 1) -> tuple[str, str]:
        """The name and the address of the last one that came there."""
        last = self.sinks[sink].wait(count)[-1]
        return last.hello, last.peer

    def status(self, relay: Relayd) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(relay.ctl("status", "--json").stdout)
        return found

    def test_each_family_leaves_from_its_own_address_under_the_name_of_its_source(self) -> None:
        relay = self.relay()
        relay.send("ann@news.example", ["bob@four.example", "bob@six.example"])
        self.assertEqual(self.seen("192.0.2.12"), ("bulk.example", FOUR))
        self.assertEqual(self.seen("2001:db8::26"), ("bulk.example", SIX))
        relay.send("ann@gw.example", ["bob@four.example", "bob@six.example"])
        self.assertEqual(self.seen("192.0.2.12", 2)[0], "gw.example")
        self.assertEqual(self.seen("2001:db8::26", 2)[0], "gw.example")
        # of a host with both, one is used, and it is the right one
        relay.send("ann@news.example", ["bob@both.example"])
        wait_until(lambda: len(self.arrived()) == 5, "the last one")
        (both,) = self.sinks["192.0.2.13"].arrived + self.sinks["2001:db8::27"].arrived
        self.assertEqual((both.hello, both.peer in (FOUR, SIX)), ("bulk.example", True))

    def test_a_missing_ipv4_address_waits_and_is_said_and_goes_on_when_it_is_back(self) -> None:
        self.missing(FOUR, "four", "192.0.2.12")

    def test_a_missing_ipv6_address_waits_and_is_said_and_goes_on_when_it_is_back(self) -> None:
        self.missing(SIX, "six", "2001:db8::26")

    def missing(self, address: str, domain: str, sink: str) -> None:
        relay = self.relay()
        self.address("del", address)
        idents = [
            relay.send("ann@news.example", [f"bob{number}@{domain}.example"]) for number in range(3)
        ]
        recipient = relay.settled(idents[0])
        self.assertEqual(recipient["state"], "queued", recipient)
        self.assertIn(f"{address} is no address of this host", recipient["reply"])
        status = relay.ctl("status").stdout
        self.assertRegex(status, rf"NO ADDRESS +source bulk: {address} is no address")
        (lost,) = self.status(relay)["lost_addresses"]
        self.assertEqual((lost["source"], lost["address"]), ("bulk", address))
        relay.logged("source address lost")
        time.sleep(1)
        self.assertEqual(self.sinks[sink].sessions, 0, "from nowhere else, either")
        self.address("add", address)
        self.assertEqual(self.seen(sink, 3), ("bulk.example", address))
        relay.wait_empty()
        wait_until(lambda: "NO ADDRESS" not in relay.ctl("status").stdout, "the end of it")
        relay.logged("source address is back")

    def test_a_host_of_both_families_is_reached_by_the_one_that_is_left(self) -> None:
        relay = self.relay()
        self.address("del", FOUR)
        relay.send("ann@news.example", ["bob@both.example"])
        self.assertEqual(self.seen("2001:db8::27"), ("bulk.example", SIX))
        self.assertIn(f"source bulk: {FOUR} is no address", relay.ctl("status").stdout)

    def test_without_an_address_of_a_family_it_is_not_tried_from_another(self) -> None:
        relay = self.relay(BULK.replace(f", {SIX}", "") + ROUTES)
        ident = relay.send("ann@news.example", ["bob@six.example"])
        recipient = relay.settled(ident)
        self.assertIn("Source bulk has no IPv6 address", recipient["reply"])
        self.assertEqual((recipient["state"], self.sinks["2001:db8::26"].sessions), ("queued", 0))

    def test_reload_with_another_address(self) -> None:
        """What waited for the old one leaves from the new one, at once."""
        self.address("add", OTHER_FOUR)
        relay = self.relay()
        relay.send("ann@news.example", ["bob@four.example"])
        self.assertEqual(self.seen("192.0.2.12"), ("bulk.example", FOUR))
        self.address("del", FOUR)
        ident = relay.send("ann@news.example", ["ann@four.example"])
        wait_until(lambda: "NO ADDRESS" in relay.ctl("status").stdout, "the loss")
        text = relay.config.read_text()
        relay.config.write_text(
            text.replace(
                f"source bulk {FOUR}, {SIX} helo bulk", f"source bulk {OTHER_FOUR} helo new"
            )
        )
        relay.ctl("reload")
        self.assertEqual(self.seen("192.0.2.12", 2), ("new.example", OTHER_FOUR))
        relay.settled(ident)
        relay.send("ann@news.example", ["carl@four.example"])
        self.assertEqual(self.seen("192.0.2.12", 3), ("new.example", OTHER_FOUR))
        self.assertNotIn("NO ADDRESS", relay.ctl("status").stdout)
        # one that is taken out while mail waits for it, and is back
        self.address("del", OTHER_FOUR)
        ident = relay.send("ann@news.example", ["dora@four.example"])
        relay.settled(ident)
        good = relay.config.read_text()
        relay.config.write_text(
            "".join(line for line in good.splitlines(True) if "bulk" not in line)
        )
        relay.ctl("reload")
        wait_until(
            lambda: "Source bulk is not defined" in relay.ctl("status").stdout, "no such source"
        )
        self.address("add", OTHER_FOUR)
        relay.config.write_text(good)
        relay.ctl("reload")
        self.assertEqual(self.seen("192.0.2.12", 4), ("new.example", OTHER_FOUR))

    def test_with_two_workers_each_waits_and_goes_on(self) -> None:
        relay = self.relay(workers=2)
        self.address("del", FOUR)
        idents = []
        for number in range(8):
            idents.append(relay.send("ann@news.example", [f"bob{number}@four.example"]))
        wait_until(lambda: "NO ADDRESS" in relay.ctl("status").stdout, "the loss")
        self.assertEqual(relay.ctl("status").stdout.count("NO ADDRESS"), 1)
        self.address("add", FOUR)
        self.assertEqual(self.seen("192.0.2.12", 8), ("bulk.example", FOUR))
        self.assertEqual({each.peer for each in self.arrived()}, {FOUR})
        relay.wait_empty()
