"""Next hops that want less, at a pace that suits them; hosts that never answer, beside others."""

from __future__ import annotations

import json
import os
import re
import resource
import socket
import threading
import time
from typing import Any

import dns.message
import dns.rdatatype
import dns.rrset

from tests.bench.throttle import Throttle
from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.scenarios.injector import inject
from tests.scenarios.network import Network
from tests.sink import CLOSE, STALL, Asked, Sink, listener

ANN = "ann@sender.example"
RULES = "accept from 127.0.0.0/8\nroute any via out\n"


class Doorkeeper:
    """A script that serves so many sessions at a time and turns the others away."""

    def __init__(self, most: int, reply: str, seconds: float) -> None:
        self.most = most
        self.reply = reply
        self.seconds = seconds  # that a message takes
        self.refused = 0
        self.sink: Sink
        self._lock = threading.Lock()

    def __call__(self, asked: Asked) -> str | None:
        if asked.stage == "content":
            time.sleep(self.seconds)
        if asked.stage != "connect":
            return None
        with self._lock:
            if len(self.sink.open) > self.most:
                self.refused += 1
                return self.reply
            return None


class Slower(Scenario):
    """One next hop that wants less than it is offered."""

    def status(self, relay: Relayd) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(relay.ctl("status", "--json").stdout)
        (lane,) = [each for each in found["destinations"] if each["destination"] == "out"]
        return dict(lane)

    def check_few_connections(self, reply: str, word: str) -> None:
        """`word`: what must not be in the log."""
        keeper = Doorkeeper(2, reply, 0.1)
        sink = Sink(keeper)
        keeper.sink = sink
        self.addCleanup(sink.stop)
        # who met the end of a connection, before anything had gone well, waits as ever
        retry = "retry 5s 5m" if reply == CLOSE else "retry 1m 5m"
        relay = self.relayd(f"next-hop out smtp 127.0.0.1:{sink.port}\n{RULES}", settings=retry)
        began = time.monotonic()
        inject(relay.port, 40)
        sink.wait(40, 120)
        self.assertLess(unhurried(began), 30)
        self.assertLessEqual(keeper.refused, 10)
        if word:
            self.assertNotIn(word, relay.log(1000))
        relay.wait_empty()

    def test_a_next_hop_that_takes_two_connections(self) -> None:
        self.check_few_connections("421 4.7.0 Too many connections", word="next hop down")

    def test_a_next_hop_that_hangs_up_on_the_third_connection(self) -> None:
        self.check_few_connections(CLOSE, word="")

    def check_throttled(self, stage: str) -> None:
        throttle = Throttle(stage, 10, 3.0)
        sink = Sink(throttle)
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{sink.port}\n{RULES}", settings="retry 1m 5m"
        )
        began = time.monotonic()
        inject(relay.port, 90)
        sink.wait(40, 120)
        lane = self.status(relay)
        self.assertEqual(lane["standing"], "slowed", lane)
        self.assertIn("421 4.7.28", lane["trouble"])
        self.assertIn("slowed to ", relay.ctl("status").stdout)
        sink.wait(90, 120)
        # without a pace it was more than half, and took minutes; the first burst counts for most
        self.assertLess(throttle.share, 0.3)
        self.assertLess(unhurried(began), 90)
        self.assertNotIn("next hop down", relay.log(1000))
        relay.wait_empty()

    def test_a_provider_that_limits_the_rate_at_mail(self) -> None:
        self.check_throttled("mail")

    def test_a_provider_that_limits_the_rate_at_rcpt(self) -> None:
        self.check_throttled("rcpt")

    def test_a_provider_that_limits_the_rate_at_the_end(self) -> None:
        self.check_throttled("content")


class _SilentNames(threading.Thread):
    """A resolver on UDP that has no answer for some names, as for those of dead name servers."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]

    def run(self) -> None:
        while True:
            try:
                data, peer = self.socket.recvfrom(4096)
            except OSError:
                return
            query = dns.message.from_wire(data)
            name = query.question[0].name.to_text().lower()
            if "silent" in name:
                continue
            tarpit = re.match(r"(?:mx\.)?tarpit(\d+)\.", name)
            reply = dns.message.make_response(query)
            rdtype = dns.rdatatype.to_text(query.question[0].rdtype)
            if name.startswith("mx."):
                address = "127.0.0.2" if tarpit is None else loopback(int(tarpit[1]))
                if rdtype == "A":
                    reply.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
            elif rdtype == "MX":
                host = "mx.silent.example." if name.startswith("host") else f"mx.{name}"
                reply.answer.append(dns.rrset.from_text(name, 60, "IN", "MX", f"10 {host}"))
            self.socket.sendto(reply.to_wire(), peer)


def loopback(number: int) -> str:
    """An address of its own for each tarpit."""
    return f"127.9.{number // 250}.{number % 250 + 1}"


class Tarpits(Scenario):
    """Domains whose hosts accept connections and never speak, and such whose DNS is silent.

    A tenth of what is promised; the whole: RELAYD_TARPITS=5000 python -m tests.runner
    tests.scenarios.test_pace
    """

    seconds = 900
    count = int(os.environ.get("RELAYD_TARPITS", "500"))

    def rate(self, relay: Relayd, sink: Sink, recipients: list[str]) -> float:
        """Messages a second, from the first one accepted to the last one delivered."""
        before, began = len(sink.arrived), time.monotonic()
        with relay.session() as client:
            for recipient in recipients:
                client.sendmail(ANN, [recipient], b"Subject: x\r\n\r\nx\r\n")
        sink.wait(before + len(recipients), 120)
        return len(recipients) / (time.monotonic() - began)

    def test_a_next_hop_and_proven_domains_keep_their_rate_beside_them(self) -> None:
        names = _SilentNames()
        names.start()
        self.addCleanup(names.socket.close)
        good = Sink(bind=lambda: listener(socket.AF_INET, ("127.0.0.2", 0)), keep_content=False)
        inside = Sink(keep_content=False)
        for sink in (good, inside):
            self.addCleanup(sink.stop)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < self.count + 1000:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(self.count + 1000, hard), hard))
            self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(self.count):
            # the kernel accepts, and nobody says anything
            mute = listener(socket.AF_INET, (loopback(number), good.port))
            self.addCleanup(mute.close)
        relay = self.relayd(
            f"next-hop inside smtp localhost:{inside.port}\naccept from 127.0.0.0/8\n"
            "route to @inside.example via inside\nroute any direct\n",
            settings=f"resolver 127.0.0.1:{names.port}\nrelay-port {good.port}\n"
            "internal-destinations 127.0.0.0/8\nretry 1m 5m",
        )
        ways = (
            (inside, ["bob@inside.example"] * 300),
            (good, [f"bob@good{number % 20}.example" for number in range(300)]),
        )
        for sink, recipients in ways:
            self.rate(relay, sink, recipients)  # proven from here on
        alone = [max(self.rate(relay, *way) for _ in range(3)) for way in ways]
        with relay.session() as client:
            for number in range(self.count):
                client.sendmail(ANN, [f"bob@tarpit{number}.example"], b"Subject: x\r\n\r\n")
                if number % 5 == 0:
                    client.sendmail(ANN, [f"bob@silent{number}.example"], b"Subject: x\r\n\r\n")
        # beside other tests a rate says little, but one that is held up is near nothing
        least = 0.8 if "RELAYD_TARPITS" in os.environ else 0.2
        beside = [0.0, 0.0]
        for _ in range(12):  # other tests take the machine for seconds on end
            beside = [
                max(best, self.rate(relay, *way)) for best, way in zip(beside, ways, strict=True)
            ]
            if all(now > least * before for before, now in zip(alone, beside, strict=True)):
                break
        if "RELAYD_TARPITS" in os.environ:
            print(f"\nmessages a second: alone {alone}, beside {beside}")
        for before, now in zip(alone, beside, strict=True):
            self.assertGreater(now, least * before, (alone, beside))
        waiting = len(relay.queue())
        self.assertGreaterEqual(waiting, self.count, "the others are still there")
        relay.send("eve@elsewhere.example", ["bob@good99.example"])  # new, and another's
        good.wait(len(good.arrived) + 1)


class SilentNames(Scenario):
    """Domains whose name servers, or those of whose exchangers, do not answer."""

    def test_others_beside_silent_name_servers(self) -> None:
        names = _SilentNames()
        names.start()
        self.addCleanup(names.socket.close)
        good = Sink(bind=lambda: listener(socket.AF_INET, ("127.0.0.2", 0)))
        inside = Sink()
        for sink in (good, inside):
            self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop inside smtp localhost:{inside.port}\naccept from 127.0.0.0/8\n"
            "route to @inside.example via inside\nroute any direct\n",
            settings=f"resolver 127.0.0.1:{names.port}\nrelay-port {good.port}\ndeliveries 40\n"
            "internal-destinations 127.0.0.0/8\n"
            "retry 1m 5m",
        )
        with relay.session() as client:
            for number in range(100):
                for name in ("silent", "host"):
                    client.sendmail(
                        ANN, [f"bob@{name}{number}.example"], b"Subject: x\r\n\r\nx\r\n"
                    )
        for number in range(3):
            began = time.monotonic()
            relay.send(ANN, ["bob@inside.example"])
            inside.wait(number + 1)
            self.assertLess(unhurried(began), 3)
        relay.send(ANN, ["bob@good.example"])  # new, and behind some of the silent ones
        good.wait(1)
        began = time.monotonic()
        relay.send(ANN, ["bob@good.example"])
        good.wait(2)
        self.assertLess(unhurried(began), 3)


class Silent(Scenario):
    """Domains whose hosts take connections and say nothing, beside what works."""

    needs = ("netns", "nsd", "unbound")

    def setUp(self) -> None:
        super().setUp()
        net = Network()
        self.addCleanup(net.close)
        self.gw = net.host("gw", "192.0.2.1/24", "2001:db8::1/64")
        dns = net.host("dns", "192.0.2.53/24")
        mx = net.host("mx", "192.0.2.10/24", "2001:db8::26/64")
        self.mute = [f"192.0.2.{100 + number}" for number in range(40)]
        silent = net.host("silent", *(f"{each}/24" for each in self.mute), "2001:db8::99/64")
        zone = ["good MX 10 mx", "mx A 192.0.2.10", "six MX 10 mx6", "mx6 AAAA 2001:db8::26"]
        for number, address in enumerate(self.mute):
            zone += [f"mute{number} MX 10 host{number}", f"host{number} A {address}"]
            zone += [f"shared{number} MX 10 shared", f"many{number} MX 10 shared6"]
        zone += ["shared A 192.0.2.100", "shared6 AAAA 2001:db8::99"]
        peers.NameServer(self, {"example": "\n".join(zone)}, address="192.0.2.53", enter=dns.enter)
        stall = lambda asked: STALL if asked.stage == "connect" else None  # noqa: E731
        for address in (*self.mute, "2001:db8::99"):
            sink = Sink(stall, bind=silent.bind(address, 25))
            self.addCleanup(sink.stop)
        self.good = Sink(bind=mx.bind("192.0.2.10", 25))
        self.six = Sink(bind=mx.bind("2001:db8::26", 25))
        self.next_hop = Sink(bind=mx.bind("192.0.2.10", 2500))
        for sink in (self.good, self.six, self.next_hop):
            self.addCleanup(sink.stop)
        self.relay = self.relayd(
            "next-hop inside smtp 192.0.2.10:2500\naccept from 192.0.2.0/24\n"
            "route to @inside.example via inside\nroute any direct\n",
            hostname="gw.example",
            host=self.gw,
            address="192.0.2.1",
            port=2525,
            settings="resolver 192.0.2.53:53\ndeliveries 40\n",
        )

    def stuff(self, *names: str) -> None:
        """Four messages for each domain, in one session."""
        with self.relay.session() as client:
            for number in range(len(self.mute)):
                for name in names:
                    client.sendmail(
                        ANN, [f"bob@{name}{number}.example"], b"Subject: x\r\n\r\nx\r\n"
                    )

    def test_a_next_hop_and_good_domains_beside_silent_hosts(self) -> None:
        self.relay.send(ANN, ["bob@good.example"])
        self.good.wait(1)
        self.stuff("mute", "shared", "many")
        wait_until(lambda: "sessions" in self.relay.ctl("status").stdout, "status answers")
        for number in range(5):
            began = time.monotonic()
            self.relay.send(ANN, ["bob@inside.example"])
            self.next_hop.wait(number + 1)
            self.relay.send(ANN, ["bob@good.example"])
            self.good.wait(number + 2)
            self.assertLess(unhurried(began), 10)
        # never reached before: behind strangers, but not for long
        self.relay.send(ANN, ["bob@six.example"])
        self.six.wait(1, 120)
