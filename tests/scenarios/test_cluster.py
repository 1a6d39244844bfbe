"""Gateways whose mail waits in one PostgreSQL: each delivers its own, and all survive it."""

from __future__ import annotations

import json
import signal

from tests.postgresqlserver import PostgresqlServer
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Sink

ANN = "ann@sender.example"


class Cluster(Scenario):
    needs = ("postgresql",)

    def setUp(self) -> None:
        super().setUp()
        self.database = PostgresqlServer()
        self.addCleanup(self.database.stop)
        self.sink = Sink()
        self.addCleanup(self.sink.stop)

    def gateway(self, name: str) -> Relayd:
        """A node, not yet started."""
        relayd = self.relayd(
            f"next-hop out smtp 127.0.0.1:{self.sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via out\n",
            name=name,
            start=False,
        )
        folder = relayd.folder / "spool"
        text = relayd.config.read_text()
        place = f'spool postgresql "{self.database.where}" folder {folder}\nnode {name}'
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
