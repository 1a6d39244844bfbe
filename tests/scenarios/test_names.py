"""Names of clients and of next hops, and addresses that are not there yet, in a whole relayd."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import time
import unittest
from pathlib import Path

from tests.ports import free_port
from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.sink import Sink

ANN = "ann@sender.example"
ZONE = """\
7.2.0.192.in-addr.arpa. PTR mail.client.example.
mail.client.example. A 192.0.2.7
8.2.0.192.in-addr.arpa. PTR liar.example.
liar.example. A 192.0.2.9
host.corp.example. A 127.0.0.1
"""


class Names(Scenario):
    records = ZONE

    def zone(self) -> int:
        """A name server with the zone; its port."""
        folder, port = self.room("dns"), free_port()
        (folder / "zone").write_text(self.records)
        words = ["-m", "tests.dnsserver", "127.0.0.1", str(port), str(folder / "zone")]
        served = self.launch([sys.executable, *words], "dns")
        wait_until(lambda: "listening" in served.log(), "the name server listens")
        return port

    def silent(self) -> int:
        """A name server that never answers; its port."""
        deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.addCleanup(deaf.close)
        deaf.bind(("127.0.0.1", 0))
        return int(deaf.getsockname()[1])

    def gateway(self, dns: int, rules: str, workers: int = 1) -> tuple[Relayd, Sink]:
        """One that believes XCLIENT of loopback."""
        sink = Sink()
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{sink.port}\n{rules}\nroute any via out\n",
            name=f"relayd-{workers}",
            settings=f"resolver 127.0.0.1:{dns}\n",
            start=False,
        )
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        text = re.sub(r"^listen .*$", r"\g<0> xclient 127.0.0.0/8", text, flags=re.MULTILINE)
        relay.config.write_text(text)
        return relay.start(), sink

    def said(self, relay: Relayd, xclient: str, recipient: str = "bob@example.com") -> int:
        """The reply to RCPT, or to the content, for a client that is introduced so."""
        with relay.session() as client:
            client.ehlo("client.example")
            self.assertEqual(client.docmd("XCLIENT", xclient)[0], 220)
            client.ehlo("client.example")
            client.mail(ANN)
            code = client.rcpt(recipient)[0]
            return client.data(b"Subject: x\r\n\r\nx\r\n")[0] if code == 250 else code


class OfClients(Names):
    def test_the_received_field_and_rules_know_them(self) -> None:
        dns = self.zone()
        for workers in (1, 2):
            rules = "reject to no@example.com rdns none\naccept to @example.com"
            relay, sink = self.gateway(dns, rules, workers)
            for number, (client, name) in enumerate(
                (
                    ("ADDR=192.0.2.7", "mail.client.example [192.0.2.7]"),
                    ("ADDR=192.0.2.8", "unknown [192.0.2.8]"),
                    ("ADDR=192.0.2.9", "unknown [192.0.2.9]"),
                    ("ADDR=192.0.2.9 NAME=given.example", "given.example [192.0.2.9]"),
                    ("HELO=x", "localhost [127.0.0.1]"),
                ),
                1,
            ):
                self.assertEqual(self.said(relay, client), 250)
                arrived = sink.wait(number)[-1].content.decode()
                self.assertIn(f"Received: from client.example ({name})\r\n", arrived)
            self.assertEqual(self.said(relay, "ADDR=192.0.2.8", "no@example.com"), 550)
            self.assertEqual(self.said(relay, "ADDR=192.0.2.7", "no@example.com"), 250)
            shown = relay.ctl("explain", "--from", "192.0.2.7", "no@example.com").stdout
            self.assertRegex(shown, r"fact  rdns mail\.client\.example   \(looked up in \d+ ms\)")
            for words, status in (
                (["--from", "192.0.2.8"], 1),
                (["--from", "192.0.2.8", "--with", "rdns a.example"], 0),
                (["--with", "rdns none"], 1),
                (["--offline"], 2),
                (["--offline", "--with", "rdns a.example"], 0),
            ):
                done = relay.ctl("explain", *words, "no@example.com", check=False)
                self.assertEqual(done.returncode, status, (words, done.stdout, done.stderr))
            relay.stop()

    def test_nobody_is_asked_where_the_administrator_says_so(self) -> None:
        relay, sink = self.gateway(self.zone(), "accept to @example.com", 2)
        text = relay.config.read_text()
        for number, (more, name) in enumerate(
            (("client-names no\n", "unknown"), ("", "mail.client.example")), 1
        ):
            relay.config.write_text(text + more)
            relay.ctl("reload")
            self.assertEqual(self.said(relay, "ADDR=192.0.2.7"), 250)
            self.assertIn(f"({name} [".encode(), sink.wait(number)[-1].content)

    def test_nobody_waits_for_a_name_server_that_is_silent(self) -> None:
        relay, _ = self.gateway(
            self.silent(), "reject to no@example.com rdns none\naccept to @example.com"
        )
        began = time.monotonic()
        self.assertEqual(self.said(relay, "ADDR=192.0.2.7", "no@example.com"), 451)
        self.assertEqual(self.said(relay, "ADDR=192.0.2.7"), 250)
        self.assertLess(unhurried(began), 3.5)


class OfNextHops(Names):
    def test_in_etc_hosts_and_in_search_domains(self) -> None:
        if os.geteuid() != 0:
            raise unittest.SkipTest("root, for a mount namespace")
        folder = self.room("etc")
        (folder / "hosts").write_text("127.0.0.1 store.corp.example store\n")
        (folder / "resolv.conf").write_text("search corp.example\n")
        sink = Sink()
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop a smtp store:{sink.port}\nnext-hop b smtp host:{sink.port}\n"
            f"next-hop c smtp nowhere:{sink.port}\naccept to @example.com\n"
            "route to a@example.com via a\nroute to b@example.com via b\nroute any via c\n",
            settings=f"resolver 127.0.0.1:{self.zone()}\n",
            start=False,
        )
        binds = "".join(
            f"mount --bind {folder / name} /etc/{name} && " for name in ("hosts", "resolv.conf")
        )
        relay.enter = ["unshare", "-m", "sh", "-c", f'{binds}exec "$@"', "sh"]
        relay.own_mounts = True
        relay.start()
        for number, name in enumerate("ab", 1):
            relay.send(ANN, [f"{name}@example.com"])
            self.assertEqual(sink.wait(number)[-1].recipients, (f"{name}@example.com",))
        ident = relay.send(ANN, ["c@example.com"])
        self.assertIn("4.4.4 Next hop c has no address", relay.settled(ident)["reply"])
        relay.logged(r"no address of nowhere\.corp\.example, nowhere")


class NotThereYet(Names):
    def status(self, relay: Relayd) -> list[str]:
        found: list[str] = json.loads(relay.ctl("status", "--json").stdout)["not_listening"]
        return found

    def check(self, workers: int) -> None:
        holder = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(holder.close)
        port = holder.getsockname()[1]
        relay = self.relayd(
            "accept from 127.0.0.0/8\n",
            settings=f"listen 127.0.0.1:{port}\nlisten 192.0.2.77:{port}\n",
            start=False,
        )
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        relay.config.write_text(text)
        relay.start()
        absent = f"192.0.2.77:{port}: Cannot assign requested address"
        taken = f"127.0.0.1:{port}: Address already in use"
        self.assertEqual(self.status(relay), [taken, absent])
        self.assertIn("NOT LISTENING", relay.ctl("status").stdout)
        relay.ctl("reload")
        time.sleep(6)  # longer than until it is tried again
        self.assertEqual(relay.logged("cannot listen", 2).count("cannot listen"), 2)
        holder.close()
        wait_until(lambda: self.status(relay) == [absent], "it listens")

        def greets() -> bool:
            with socket.create_connection(("127.0.0.1", port), 60) as client:
                client.settimeout(60)
                return client.recv(4) == b"220 "

        wait_until(greets, "somebody serves it")
        self.assertEqual(relay.stop(), 0)

    def test_a_port_that_another_has_is_had_when_it_is_free(self) -> None:
        self.check(1)

    def test_by_two_workers_likewise(self) -> None:
        self.check(2)

    def test_where_none_can_be_had_it_says_so_and_ends(self) -> None:
        holder = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(holder.close)
        relay = self.relayd("accept any\n", port=holder.getsockname()[1], start=False)
        process = self.launch(relay.command, "second")
        wait_until(lambda: not process.running, "it ends")
        self.assertIn("Address already in use", process.log())
        self.assertTrue(Path(relay.config).exists())
