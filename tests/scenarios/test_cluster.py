"""Gateways whose mail waits in one PostgreSQL: each delivers its own, and all survive it."""

from __future__ import annotations

import json
import re
import signal
import smtplib
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import psycopg

from tests.postgresqlserver import PostgresqlServer, Wire
from tests.scenarios.harness import Relayd, Scenario, patience, unhurried, wait_until
from tests.sink import Asked, Sink

ANN = "ann@sender.example"


def _json(node: Relayd, *words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(node.ctl(words[0], "--json", *words[1:]).stdout)
    return found


class Load:
    """Clients that send one message after the other, to one node after the other."""

    def __init__(self, nodes: list[Relayd], count: int, size: int) -> None:
        self.taken: set[str] = set()  # answered with 250
        self.unsure: set[str] = set()  # ... or with nothing: the client would come again
        self._nodes = nodes
        self._content = b"Subject: x\r\n\r\n" + b"x" * size + b"\r\n"
        self._threads = [
            threading.Thread(target=self._send, args=(n, count // 3), daemon=True) for n in range(3)
        ]
        for each in self._threads:
            each.start()

    def _send(self, number: int, count: int) -> None:
        for n in range(count):
            node = self._nodes[(number + n) % len(self._nodes)]
            to = f"m{number}-{n}@example.com"
            try:
                with smtplib.SMTP(*node.address, timeout=20) as client:
                    client.sendmail(ANN, [to], self._content)
                self.taken.add(to)
            except (OSError, smtplib.SMTPException):
                self.unsure.add(to)
                time.sleep(0.1)

    def end(self) -> None:
        """All has been sent."""
        for each in self._threads:
            each.join(120)


class Cluster(Scenario):
    needs = ("postgresql",)

    def setUp(self) -> None:
        super().setUp()
        self.wires: dict[str, Wire] = {}
        self.database = PostgresqlServer()
        self.addCleanup(self.database.stop)
        self.sink = Sink()
        self.addCleanup(self.sink.stop)
        self.answering = threading.Event()  # the next hop does, but where a test says otherwise
        self.answering.set()

    def wire(self, name: str) -> Wire:
        """The way from this node to the database, if it is made before the node."""
        wire = self.wires[name] = Wire(self.room(f"wire-{name}"), self.database)
        self.addCleanup(wire.close)
        self.addCleanup(wire.flowing.set)
        return wire

    def gateway(self, name: str, *settings: str) -> Relayd:
        """A node, not yet started. In `settings`, FOLDER is a place of its own."""
        relayd = self.relayd(
            f"next-hop out smtp 127.0.0.1:{self.sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via out\n",
            name=name,
            start=False,
        )
        folder = relayd.folder / "spool"
        text = relayd.config.read_text()
        where = self.wires[name].where if name in self.wires else self.database.where
        place = f'spool postgresql "{where}" folder {folder}\nnode {name}\n'
        place += "".join(f"{each}\n" for each in settings).replace("FOLDER", str(folder))
        if any(each.startswith("workers") for each in settings):
            text = re.sub("^workers .*\n", "", text, flags=re.MULTILINE)
        relayd.config.write_text(text.replace(f"spool {folder}", place))
        return relayd

    def arrived(self) -> list[str]:
        return sorted(to for mail in self.sink.arrived for to in mail.recipients)

    def test_two_nodes_share_a_spool_that_outlives_them(self) -> None:
        one, two = self.gateway("gw1"), self.gateway("gw2")
        said = one.ctl("spool", "create").stdout
        self.assertIn("is made", said)
        self.assertIn("there already", two.ctl("spool", "create").stdout)
        for each in (one, two):
            each.start()
            each.send(ANN, [f"{each.folder.name}@example.com"])
        self.sink.wait(2)
        one.wait_empty()  # of both
        self.sink.kill()
        for each in (one, two):
            each.send(ANN, [f"later-{each.folder.name}@example.com"])
        for each in (one, two):  # each sees all
            lines = each.ctl("queue", "--json").stdout.splitlines()
            self.assertEqual(len([*map(json.loads, lines)]), 2, lines)
        one.kill()
        one.start()
        self.sink.start()
        self.sink.wait(4)
        wait_until(lambda: len(self.arrived()) == 4, "all has arrived")
        one.wait_empty()
        self.assertEqual(
            self.arrived(),
            sorted(f"{how}{n}@example.com" for how in ("", "later-") for n in ("gw1", "gw2")),
        )

    # ownership

    def cluster(self, *names: str, lease: float = 0.0) -> list[Relayd]:
        """Nodes that run; a short lease, so that a test need not wait for long.

        On a machine that is busy a node may be kept from its database for seconds on end.
        """
        lease = lease or patience(3.0)
        nodes = [self.gateway(name) for name in names]
        nodes[0].ctl("spool", "create")
        with psycopg.connect(self.database.where, autocommit=True) as connection:
            row = "INSERT INTO relayd.meta VALUES ('lease', %s)"
            connection.execute(row, (str(lease),))
        for each in nodes:
            each.start()
        return nodes

    def load(self, nodes: list[Relayd], count: int, size: int = 0) -> Load:
        load = Load(nodes, count, size)
        self.addCleanup(load.end)
        return load

    def all_has_arrived(self, load: Load, node: Relayd, at_risk: set[str]) -> None:
        """What was answered with 250 is there, once unless it was `at_risk`; and accounted for."""
        load.end()
        self.assertGreater(len(load.taken), 10)
        missing = lambda: load.taken - set(self.arrived())  # noqa: E731
        wait_until(lambda: not missing(), f"all has arrived\n{node.log()}", 180)
        node.wait_empty()
        twice = {to for to, times in Counter(self.arrived()).items() if times > 1}
        self.assertLessEqual(twice - load.unsure, at_risk)
        said = node.ctl("audit", "--cluster").stdout
        self.assertIn("clean", said)
        late = int(said.split()[0].replace(",", ""))
        self.assertLessEqual(late, len(at_risk), said)

    def test_mail_of_a_node_that_is_killed_under_load_is_sent_by_the_others(self) -> None:
        one, two, three = self.cluster("gw1", "gw2", "gw3")
        slow = self.sink_that_waits(0.02)
        load = self.load([one, two, three], 150)
        wait_until(lambda: len(load.taken) > 40, "a load")
        self.answering.clear()  # so that there is mail of its own
        wait_until(lambda: len(load.taken) > 52, "each has some that waits")
        one.kill()
        at_risk = self.under_way(slow)
        self.answering.set()
        self.all_has_arrived(load, two, at_risk)
        taken = "took over the mail of a node that is gone"
        wait_until(lambda: taken in two.log(1000) + three.log(1000), "its mail is taken over")

    def test_a_node_that_sleeps_past_its_lease_sends_nothing_that_is_others(self) -> None:
        one, two = self.cluster("gw1", "gw2")
        slow = self.sink_that_waits(0.05)
        load = self.load([one, two], 120)
        wait_until(lambda: len(load.taken) > 30, "a load")
        one.signal(signal.SIGSTOP)
        at_risk = self.under_way(slow)
        taken = "took over the mail of a node that is gone"
        wait_until(lambda: taken in two.log(1000), "its mail is taken over")
        one.signal(signal.SIGCONT)
        self.all_has_arrived(load, two, at_risk)
        wait_until(lambda: "silent for too long" in one.log(1000), "it knows")
        self.sent_in_time(one, "awake@example.com")  # and goes on in a new epoch
        wait_until(lambda: "awake@example.com" in self.arrived(), "it sends again")

    def test_a_node_cut_off_from_the_database_sends_nothing_that_is_others(self) -> None:
        wire = self.wire("gw1")
        one, two = self.cluster("gw1", "gw2")
        slow = self.sink_that_waits(0.05)
        load = self.load([one, two], 120)
        wait_until(lambda: len(load.taken) > 30, "a load")
        wire.flowing.clear()
        at_risk = self.under_way(slow)
        taken = "took over the mail of a node that is gone"
        wait_until(lambda: taken in two.log(1000), "its mail is taken over")
        wire.flowing.set()  # what it had said comes late
        self.all_has_arrived(load, two, at_risk)
        self.sent_in_time(one, "back@example.com")
        wait_until(lambda: "back@example.com" in self.arrived(), "it sends again")

    def test_answers_to_commit_that_are_lost_under_load_lose_nothing(self) -> None:
        wire = self.wire("gw1")
        (one,) = self.cluster("gw1", lease=30.0)
        load = self.load([one], 300)
        wait_until(lambda: len(load.taken) > 10, "a load")
        for _ in range(5):
            wire.cut = "answer"
            wait_until(lambda: not wire.cut, "a COMMIT is cut off")
        self.all_has_arrived(load, one, set())

    def sent_in_time(self, node: Relayd, to: str) -> None:
        """It is taken once the node has its place again."""

        def taken() -> bool:
            try:
                with smtplib.SMTP(*node.address, timeout=20) as client:
                    client.sendmail(ANN, [to], b"Subject: x\r\n\r\nx\r\n")
            except (OSError, smtplib.SMTPException):
                return False
            return True

        wait_until(taken, "it takes mail again")

    def test_a_node_that_stops_in_order_hands_its_mail_over_at_once(self) -> None:
        one, two = self.cluster("gw1", "gw2", lease=30.0)
        self.sink.kill()
        for n in range(5):
            one.send(ANN, [f"u{n}@example.com"])
        self.sink.start()
        self.assertEqual(one.stop(), 0)
        began = time.monotonic()
        two.wait_empty()
        self.assertLess(unhurried(began), 25)
        self.assertEqual(self.arrived(), [f"u{n}@example.com" for n in range(5)])

    def test_a_database_that_dies_under_load_and_comes_back_has_lost_nothing(self) -> None:
        one, two = self.cluster("gw1", "gw2", lease=30.0)
        load = self.load([one, two], 150)
        wait_until(lambda: len(load.taken) > 40, "a load")
        self.database.halt(signal.SIGQUIT)
        self.database.start()
        self.all_has_arrived(load, two, set())

    def sink_that_waits(self, seconds: float) -> list[str]:
        """Takes its time over each message; who is asked about, in order."""
        asked: list[str] = []

        def script(step: Asked) -> str | None:
            if step.stage == "content":
                asked.extend(step.recipients)
                time.sleep(seconds)
                self.answering.wait(60)
            return None

        self.sink.script = script
        return asked

    def under_way(self, asked: list[str]) -> set[str]:
        """Of whom the next hop knows, and perhaps not yet the database that it does."""
        known = len(asked)
        time.sleep(patience(1.0))  # what was on its way to the next hop gets there
        return set(asked[max(known - 60, 0) :])

    def test_while_the_database_is_away_clients_are_asked_to_come_again(self) -> None:
        gateway = self.gateway("gw1")
        gateway.ctl("spool", "create")
        gateway.start()
        gateway.send(ANN, ["a@example.com"])
        self.sink.wait(1)
        gateway.wait_empty()
        self.database.halt(signal.SIGQUIT)
        with gateway.session() as client:
            client.ehlo()
            codes = [client.mail(ANN)[0]]
            if codes[-1] == 250:
                client.rcpt("b@example.com")
                codes.append(client.data(b"Subject: x\r\n\r\nx\r\n")[0])
        self.assertIn(codes[-1], (451, 452, 421), codes)
        self.database.start()

        def taken() -> bool:
            with gateway.session() as client:
                client.ehlo()
                return client.mail(ANN)[0] == 250

        wait_until(taken, "it takes mail again")
        gateway.send(ANN, ["c@example.com"])
        self.sink.wait(2)
        gateway.wait_empty()

    def test_mail_that_comes_while_the_database_is_away_is_kept_here_and_sent(self) -> None:
        gateway = self.gateway("gw1", "away keep FOLDER")
        gateway.ctl("spool", "create")
        gateway.start()
        self.database.halt(signal.SIGQUIT)
        taken: list[str] = []

        def send(name: str) -> bool:
            """Whether it is taken: nothing less than 250 counts."""
            try:
                with smtplib.SMTP(*gateway.address, timeout=20) as client:
                    client.sendmail(ANN, [name], b"Subject: x\r\n\r\nx\r\n")
            except (OSError, smtplib.SMTPException):
                return False
            taken.append(name)
            return True

        wait_until(lambda: send("first@example.com"), "it takes mail without the database")
        wait_until(lambda: "first@example.com" in self.arrived(), "and sends it")
        self.sink.kill()
        for n in range(5):
            self.assertTrue(send(f"kept{n}@example.com"))
        gateway.kill()
        gateway.start()  # without the database, too
        self.assertTrue(send("after@example.com"))
        self.sink.start()
        wait_until(lambda: set(taken) == set(self.arrived()), "all that was taken arrives")
        self.database.start()
        wait_until(lambda: "spool records again" in gateway.log(1000), "the database is back")
        self.assertTrue(send("again@example.com"))
        wait_until(lambda: len(self.arrived()) == len(taken), "it goes on")
        gateway.wait_empty()
        with psycopg.connect(self.database.where, autocommit=True) as connection:
            found = connection.execute("SELECT mailbox FROM relayd.ledger WHERE ended = 0")
            self.assertEqual([to for (to,) in found], ["again@example.com"])
        self.assertEqual(self.arrived(), sorted(taken))
        self.assertEqual(gateway.ctl("audit").returncode, 0)

    def test_make_cluster_plays_once(self) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "tests.playground", "--once"],
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("gw3 (here)  alive", done.stdout)

    def test_any_node_tells_of_all_and_steers_all(self) -> None:
        one = self.gateway("gw1")
        two = self.gateway("gw2", "workers 2")
        one.ctl("spool", "create")
        self.sink.kill()
        for each in (one, two):
            each.start()
            each.send(ANN, [f"{each.folder.name}@example.com"])

        def rows(node: Relayd, *words: str) -> list[dict[str, object]]:
            lines = node.ctl("queue", "--json", *words).stdout.splitlines()
            return [json.loads(line) for line in lines]

        wait_until(lambda: len(rows(one)) == len(rows(two)) == 2, "each sees both, once")
        (found,) = rows(two, "--recipient", "gw1@example.com")
        ident = str(found["id"])
        for node in (one, two):
            self.assertEqual(
                len(node.ctl("find", "--json", "--recipient", "@example.com").stdout.splitlines()),
                2,
            )
            wait_until(
                lambda: _json(node, "status")["waiting"]["messages"] == 2,  # noqa: B023
                "both are counted",
            )
            self.assertIn("gw1@example.com", node.ctl("why", ident).stdout)
            self.assertEqual(node.ctl("audit", "--cluster").returncode, 0)
        self.assertEqual(_json(two, "hold", ident)["recipients"], 1)
        wait_until(lambda: len(rows(one, "--state", "held")) == 1, "the other one sees it")
        self.assertEqual(_json(one, "release", "--all")["recipients"], 1)
        # what is told to wait waits everywhere, whoever was not there to hear it
        two.stop()
        one.ctl("suspend", "--destination", "example.com", "--for", "1h", "--reason", "mending")
        two.start()
        told = lambda node: [each["whom"] for each in _json(node, "suspended")["suspended"]]  # noqa: E731
        wait_until(lambda: told(two) == ["example.com"], "the one that was away knows, too")
        self.sink.start()
        two.send(ANN, ["suspended@example.com"])
        time.sleep(1.0)
        self.assertEqual(self.arrived(), [])
        self.assertEqual(_json(two, "resume", "--destination", "example.com")["resumed"][0]["whom"],
                         "example.com")  # fmt: skip
        wait_until(lambda: told(one) == [], "and ends everywhere")
        self.assertEqual(_json(one, "retry", "--all")["recipients"] >= 0, True)
        wait_until(lambda: len(self.arrived()) == 3, "all goes on")
        one.wait_empty()
        nodes = {each["node"]: each for each in _json(one, "cluster")["nodes"]}
        self.assertEqual([*nodes], ["gw1", "gw2", "gw2/1"])
        self.assertEqual({each["state"] for each in nodes.values()}, {"alive"})
        self.assertEqual(len({each["rules"] for each in nodes.values()}), 1)
        self.assertIn("gw1 (here)  alive", one.ctl("cluster").stdout)
        self.assertEqual(one.ctl("audit", "--cluster").returncode, 0)
