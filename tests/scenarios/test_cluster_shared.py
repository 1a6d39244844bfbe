"""What nodes that share a PostgreSQL count together, and how they are brought up to date."""

from __future__ import annotations

import smtplib
import threading
import time
from collections import Counter

from relayd.spool.postgresql import schema
from tests.postgresqlserver import PostgresqlServer
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import Sink

ANN = "ann@sender.example"
CONTENT = b"Subject: x\r\n\r\nx\r\n"
LIMITED = """\
limit   few 10/1h per client
defer   when over few "Slow down"
accept  to @example.com
"""
GREY = """\
defer   to @example.com when first-seen 2s
accept  to @example.com
"""
NEWER = f"""\
from relayd.spool.postgresql import schema
schema.VERSION = {schema.VERSION + 1}
schema.BESIDE = {schema.VERSION}
schema.LATER[schema.VERSION] = (
    "ALTER TABLE message ADD COLUMN more text",
    "ALTER TABLE damaged_message ADD COLUMN more text",
    "CREATE TABLE newer(name text)",
)
"""


class Shared(Scenario):
    needs = ("postgresql",)

    def setUp(self) -> None:
        super().setUp()
        self.database = PostgresqlServer()
        self.addCleanup(self.database.stop)
        self.sink = Sink()
        self.addCleanup(self.sink.stop)

    def nodes(self, rules: str, *names: str) -> list[Relayd]:
        """Not yet started; the spool is there."""
        found = []
        for name in names:
            node = self.relayd(
                f"next-hop out smtp 127.0.0.1:{self.sink.port}\n{rules}route any via out\n",
                name=name,
                start=False,
            )
            folder = node.folder / "spool"
            place = f'spool postgresql "{self.database.where}" folder {folder}\nnode {name}'
            node.config.write_text(node.config.read_text().replace(f"spool {folder}", place))
            found.append(node)
        found[0].ctl("spool", "create")
        return found

    def sent(self, node: Relayd, to: str, refused: list[smtplib.SMTPException]) -> bool:
        """Whether it is taken; goodbye may be said to QUIT already, which is no refusal."""
        taken = False
        try:
            with smtplib.SMTP(*node.address, timeout=30) as client:
                client.sendmail(ANN, [to], CONTENT)
                taken = True
        except smtplib.SMTPResponseException as error:
            if error.smtp_code != 421:
                refused.append(error)
        except smtplib.SMTPRecipientsRefused as error:
            if any(code != 421 for code, _ in error.recipients.values()):
                refused.append(error)
        except OSError:  # smtplib's own, of a lost connection, among them
            pass
        return taken

    def said(self, node: Relayd, to: str = "bob@example.com") -> int:
        """The code that a message gets from this node."""
        with node.session() as client:
            client.ehlo()
            client.mail(ANN)
            code, _ = client.rcpt(to)
            return client.data(CONTENT)[0] if code == 250 else code

    def test_a_limit_counts_over_nodes_that_come_go_and_die(self) -> None:
        one, two, three = self.nodes(LIMITED, "gw1", "gw2", "gw3")
        for each in (one, two):
            each.start()
        codes = [self.said(node) for node in (one, two, one, one, two, one, one, one)]
        self.assertEqual(codes, [250] * 8)
        three.start()  # one joins
        self.assertEqual([self.said(three), self.said(two)], [250, 250])
        self.assertEqual({self.said(each) for each in (one, two, three)}, {451})
        self.assertIn("127.0.0.1", three.ctl("limits").stdout)
        one.kill()  # ... one dies, and one leaves
        two.stop()
        one.start()
        self.assertEqual({self.said(each) for each in (one, three)}, {451})
        one.ctl("limits", "few", "--forget", "127.0.0.1")
        wait_until(lambda: self.said(three) == 250, "all nodes count anew")
        self.assertEqual(self.said(one), 250)

    def test_who_was_put_off_by_one_node_is_known_to_the_other(self) -> None:
        one, two = self.nodes(GREY, "gw1", "gw2")
        for each in (one, two):
            each.start()
        self.assertEqual([self.said(one), self.said(two)], [451, 451])
        time.sleep(2.1)
        self.assertEqual(self.said(two), 250)
        self.assertEqual(self.said(one, "eve@example.com"), 250)

    def test_one_node_after_the_other_is_brought_up_to_date_under_load(self) -> None:
        nodes = self.nodes("accept to @example.com\n", "gw1", "gw2")
        for each in nodes:
            each.start()
        taken: list[str] = []
        refused: list[smtplib.SMTPException] = []
        over = threading.Event()

        def send(number: int) -> None:
            count = 0
            while not over.is_set():
                count += 1
                to = f"m{number}-{count}@example.com"
                for node in nodes[number:] + nodes[:number]:  # who does not answer is passed over
                    if self.sent(node, to, refused):
                        taken.append(to)
                        break

        clients = [threading.Thread(target=send, args=(n,), daemon=True) for n in range(2)]
        self.addCleanup(over.set)
        for client in clients:
            client.start()
        wait_until(lambda: len(taken) > 10, "a load")
        newer = self.room("newer")
        (newer / "sitecustomize.py").write_text(NEWER)
        for n, node in enumerate(nodes):
            node.path = [str(newer)]
            if n == 0:
                said = node.ctl("spool", "upgrade").stdout
                self.assertIn(str(schema.VERSION + 1), said)
            before = len(taken)
            wait_until(lambda before=before: len(taken) > before + 5, "it goes on")  # type: ignore[misc]
            self.assertEqual(node.stop(), 0)
            node.start()
        before = len(taken)
        wait_until(lambda: len(taken) > before + 5, "it goes on with all of them")
        over.set()
        for client in clients:
            client.join(60)
        self.assertEqual(refused, [])
        arrived = lambda: Counter(to for mail in self.sink.arrived for to in mail.recipients)  # noqa: E731
        wait_until(lambda: set(taken) <= set(arrived()), "all has arrived")
        nodes[0].wait_empty()
        self.assertEqual([to for to, times in arrived().items() if times > 1], [])
        self.assertIn("clean", nodes[1].ctl("audit", "--cluster").stdout)
