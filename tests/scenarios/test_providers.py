"""Providers with many domains behind their exchangers: the pace is found, a block goes around."""

from __future__ import annotations

import contextlib
import json
import re
import smtplib
import subprocess
import threading
import time
from typing import Any

from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.scenarios.network import Network
from tests.sink import Asked, Script, Sink

DOMAINS = 40
ZONE = "\n".join(
    [
        *(f"d{number} MX 10 mx{number % 2 + 1}.big" for number in range(DOMAINS)),
        *("mx1.big A 192.0.2.10", "mx2.big A 192.0.2.11", "well MX 10 mx.well"),
        *("mx.well A 192.0.2.12", "gw A 192.0.2.1", "isp A 192.0.2.13"),
        *("six MX 10 mx.six", "mx.six AAAA 2001:db8::26", "gone MX 10 mx.well"),
    ]
)
BIG = "provider big mx .big.example\naccept from 192.0.2.0/24\n"
BLOCKED = "550 5.7.1 part of their network is on our block list (S3150)"


class Providers(Scenario):
    needs = ("netns", "nsd", "unbound")

    def setUp(self) -> None:
        super().setUp()
        net = Network()
        self.addCleanup(net.close)
        self.gw = net.host("gw", "192.0.2.1/24", "192.0.2.2/24", "2001:db8::1/64", "2001:db8::2/64")
        dns = net.host("dns", "192.0.2.53/24")
        self.mx = net.host(
            *("mx", "192.0.2.10/24", "192.0.2.11/24", "192.0.2.12/24", "192.0.2.13/24"),
            "2001:db8::26/64",
        )
        peers.NameServer(self, {"example": ZONE}, address="192.0.2.53", enter=dns.enter)

    def sink(self, address: str, script: Script | None = None) -> Sink:
        sink = Sink(script, bind=self.mx.bind(address, 25), keep_content=False)
        self.addCleanup(sink.stop)
        return sink

    def relay(self, rules: str, settings: str = "", workers: int = 1) -> Relayd:
        relay = self.relayd(
            rules,
            hostname="gw.example",
            host=self.gw,
            address="192.0.2.1",
            port=2525,
            settings=f"resolver 192.0.2.53:53\n{settings}",
            start=False,
        )
        text = relay.config.read_text()
        relay.config.write_text(re.sub("workers .*", f"workers {workers}", text))
        return relay.start()

    def status(self, relay: Relayd, command: str = "status") -> dict[str, Any]:
        found: dict[str, Any] = json.loads(relay.ctl(command, "--json").stdout)
        return found

    def test_a_block_goes_around_and_comes_back(self) -> None:
        self.check_block(1)

    def test_a_block_goes_around_all_workers_and_comes_back_for_all(self) -> None:
        self.check_block(2)

    def check_block(self, workers: int) -> None:
        blocked = threading.Event()

        def script(asked: Asked) -> str | None:
            return BLOCKED if asked.stage == "mail" and blocked.is_set() else None

        rules = BIG.replace("big", "microsoft").replace(".microsoft.", ".big.")
        one, isp = self.sink("192.0.2.10", script), self.sink("192.0.2.13")
        relay = self.relay(
            f"next-hop isp smtp isp.example:25\n{rules}route any direct, via isp\n",
            workers=workers,
        )
        for turn in range(2):
            before, around = len(one.arrived), len(isp.arrived)
            relay.send("ann@gw.example", ["bob@d0.example"])
            one.wait(before + 1)
            blocked.set()
            began = time.monotonic()
            for number in range(6):
                relay.send("ann@gw.example", [f"bob@d{2 * number}.example"])
            isp.wait(around + 6, 120)
            self.assertLess(unhurried(began), 60)
            self.assertIn("BLOCKED", relay.ctl("status").stdout)
            relay.logged("provider blocks us")
            sessions = one.sessions
            relay.send("ann@gw.example", ["bob@d0.example"])
            isp.wait(around + 7)
            self.assertEqual(one.sessions, sessions, "nobody asks before the hour is up")
            if turn:
                break
            relay.stop()
            relay.start()
            relay.send("ann@gw.example", ["bob@d4.example"])
            isp.wait(around + 8)
            self.assertEqual(one.sessions, sessions, "nor after a restart")
            blocked.clear()
            self.unblock(relay)
            relay.send("ann@gw.example", ["bob@d4.example"])
            one.wait(before + 2)
            wait_until(lambda: "takes our mail again" in relay.log(2000), "the end of the block")
        relay.wait_empty()

    def unblock(self, relay: Relayd) -> None:
        """The hour is up: what is kept of it says so, and relayd reads that."""
        relay.stop()
        for path in relay.folder.glob("spool/shard-*/paces"):
            kept = json.loads(path.read_text())
            kept["microsoft"]["probe_at"] = time.time() - 1
            path.write_text(json.dumps(kept))
        relay.start()

    def test_suspended_by_provider_it_waits_and_says_so(self) -> None:
        one = self.sink("192.0.2.10")
        relay = self.relay(BIG + "route any direct\n")
        relay.send("ann@gw.example", ["bob@d0.example"])
        one.wait(1)
        relay.ctl("suspend", "--provider", "big", "--for", "1h", "--reason", "so they asked")
        for number in range(3):
            relay.send("ann@gw.example", [f"bob@d{2 * number}.example"])
        wait_until(lambda: "so they asked" in relay.ctl("queue").stdout, "the reason")
        self.assertIn("provider big", relay.ctl("suspended").stdout)
        self.assertIn("suspended", relay.ctl("status").stdout)
        relay.kill()
        relay.start()
        relay.send("ann@gw.example", ["bob@d0.example"])
        time.sleep(1)
        self.assertEqual(len(one.arrived), 1)
        relay.ctl("resume", "--provider", "big")
        one.wait(5)
        relay.wait_empty()
        self.assertIn("Nothing", relay.ctl("suspended").stdout)

    def test_connections_and_messages_on_one_are_as_configured(self) -> None:
        most: list[int] = []
        busy: list[int] = []
        under_way: set[int] = set()
        sinks: list[Sink] = []

        def script(asked: Asked) -> str | None:
            thread = threading.get_ident()  # each session has one
            if asked.stage == "mail":
                under_way.add(thread)
                busy.append(len(under_way))
                most.append(sum(len(sink.open) for sink in sinks))
                time.sleep(0.02)
            elif asked.stage == "content":
                under_way.discard(thread)
            return None

        sinks += [self.sink("192.0.2.10", script), self.sink("192.0.2.11", script)]
        limits = "pace provider big connections 3 messages 2\n"
        relay = self.relay(f"{BIG}{limits}route any direct\n")
        session = relay.session()
        for number in range(60):
            recipient = f"bob@d{number % 10}.example"
            session.sendmail("ann@gw.example", [recipient], b"Subject: x\r\n\r\nx\r\n")
        relay.wait_empty()
        arrived = [(sink, each.session) for sink in sinks for each in sink.arrived]
        self.assertEqual(len(arrived), 60)
        self.assertLessEqual(max(map(arrived.count, arrived)), 2)
        self.assertLessEqual(max(busy), 3)
        self.assertLessEqual(max(most), 6)  # they may not have read our QUIT yet

    def test_by_two_workers_likewise(self) -> None:
        one = self.sink("192.0.2.10")
        relay = self.relayd(
            BIG + "pace provider big connections 1\nroute any direct\n",
            hostname="gw.example",
            host=self.gw,
            address="192.0.2.1",
            port=2525,
            settings="resolver 192.0.2.53:53\n",
            start=False,
        )
        text = relay.config.read_text()
        relay.config.write_text(re.sub("workers .*", "workers 2", text))
        relay.start()
        relay.ctl("suspend", "--provider", "big", "--for", "1h", "--reason", "both")
        for number in range(8):
            relay.send("ann@gw.example", [f"bob@d{2 * number}.example"])
        wait_until(lambda: relay.ctl("queue").stdout.count("both") == 8, "the reason")
        self.assertEqual(relay.ctl("suspended").stdout.count("provider big"), 1)
        self.assertEqual(one.sessions, 0)
        relay.ctl("resume", "--all")
        one.wait(8)
        relay.wait_empty()
        (site,) = self.status(relay, "pace")["sites"]
        self.assertEqual((site["taken"], site["connections"]), (8, 1))

    def test_suspended_by_sender_and_login_what_waits_is_released(self) -> None:
        well = self.sink("192.0.2.12")
        relay = self.relay(BIG + "route any direct\n")
        relay.ctl("suspend", "--sender", "@gw.example", "--for", "1h")
        relay.send("ann@gw.example", ["bob@well.example"])
        relay.send("ann@other.example", ["bob@well.example"])
        well.wait(1)
        wait_until(lambda: "Suspended (sender" in relay.ctl("queue").stdout, "the reason")
        relay.ctl("resume", "--sender", "@gw.example")
        well.wait(2)
        refused = relay.ctl("suspend", "--provider", "bigg", "--for", "1h", check=False)
        self.assertIn('no provider bigg; did you mean "big"?', refused.stderr)

    def test_of_fifty_forward_rules_the_one_that_brings_spam_is_slowed_alone(self) -> None:
        self.check_blame(1)

    def test_of_fifty_forward_rules_two_workers_find_the_one_as_soon(self) -> None:
        self.check_blame(2)

    def check_blame(self, workers: int) -> None:
        count = []

        def script(asked: Asked) -> str | None:
            if asked.stage != "rcpt" or not asked.argument.startswith("bob7@"):
                return None
            count.append(asked)
            return "550 5.7.1 Our system has detected the very low reputation of this mail"

        sinks = [self.sink("192.0.2.10", script), self.sink("192.0.2.11", script)]
        forwards = "".join(
            f"forward club{each}@gw.example -> bob{each}@d{each % DOMAINS}.example\n"
            for each in range(50)
        )
        relay = self.relay(
            "provider google mx .big.example\naccept from 192.0.2.0/24\n"
            f"accept to @gw.example\n{forwards}route any direct\n",
            workers=workers,
        )
        rounds, began = 12, time.monotonic()
        for _ in range(rounds):
            for each in range(50):
                with contextlib.suppress(smtplib.SMTPException), relay.session() as session:
                    to = [f"club{each}@gw.example"]
                    session.sendmail("ann@out.example", to, b"Subject: x\r\n\r\nx\r\n")
        wait_until(
            lambda: sum(len(sink.arrived) for sink in sinks) >= 49 * rounds, "all of the others"
        )
        (found,) = self.status(relay, "blame")["origins"]
        self.assertEqual(found["origin"], "forward club7@gw.example")
        self.assertGreater(found["rate"], 0)
        self.assertIn("forward club7@gw.example", relay.ctl("blame").stdout)
        self.assertEqual(self.status(relay, "pace")["sites"], [])
        wait_until(lambda: "Slowed (forward club7" in relay.ctl("queue").stdout, "the reason")
        waiting = {each["original"] for row in relay.queue() for each in row["recipients"]}
        self.assertEqual(waiting, {"club7@gw.example"})
        # five, three of which it was heard too late, and what the pace of three a minute lets go
        self.assertLessEqual(len(count), 8 + 3 * (time.monotonic() - began) / 60)

    def test_each_source_says_its_own_name_in_its_own_family(self) -> None:
        one, six, well = self.sink("192.0.2.10"), self.sink("2001:db8::26"), self.sink("192.0.2.12")
        relay = self.relay(
            BIG
            + "source bulk 192.0.2.2, 2001:db8::2 helo bulk.gw.example\n"
            + "source lost 192.0.2.77 helo lost.gw.example\n"
            + "source four 192.0.2.2 helo four.gw.example\n"
            + "route to @gone.example direct from lost\n"
            + "route sender @four.example direct from four\n"
            + "route sender @bulk.example direct from bulk\nroute any direct\n"
        )
        relay.send("ann@gw.example", ["bob@d0.example"])
        (plain,) = one.wait(1)
        self.assertEqual((plain.hello, plain.peer.split(":")[0]), ("gw.example", "192.0.2.1"))
        relay.send("ann@bulk.example", ["bob@d0.example", "bob@six.example"])
        bulk, far = one.wait(2)[-1], six.wait(1)[-1]
        self.assertEqual((bulk.hello, bulk.peer.split(":")[0]), ("bulk.gw.example", "192.0.2.2"))
        self.assertEqual(far.hello, "bulk.gw.example")
        self.assertIn("2001:db8::2", far.peer)
        ident = relay.send("ann@gw.example", ["bob@gone.example"])
        recipient = relay.settled(ident)
        self.assertEqual(recipient["state"], "queued", recipient)
        self.assertIn("192.0.2.77 is no address of this host", recipient["reply"])
        self.assertIn("Source lost", relay.ctl("status").stdout)
        ident = relay.send("ann@four.example", ["bob@six.example"])
        recipient = relay.settled(ident)
        self.assertIn("Source four has no IPv6 address", recipient["reply"])
        self.assertEqual(recipient["state"], "queued", recipient)
        adding = ("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
        subprocess.run([*self.gw.enter, *adding], check=True)
        relay.ctl("retry", "--all")
        self.assertEqual(well.wait(1)[-1].hello, "lost.gw.example")
