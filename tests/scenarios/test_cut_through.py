"""Clients that wait for the next hop's answer, through a whole relayd: refusals become ours."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

from tests.scenarios.harness import Relayd, Scenario, unhurried, wait_until
from tests.sink import STALL, Asked, Sink, cut

ANN = "ann@sender.example"
CONTENT = b"Subject: x\r\n\r\nx\r\n"
NO_SUCH = "550-5.1.1 No such mailbox here\r\n550 5.1.1 See https://one.example/help"
RULES = """\
next-hop one smtp 127.0.0.1:{one}
next-hop two smtp 127.0.0.1:{two}
next-hop back smtp 127.0.0.1:{back}
next-hop gone smtp 127.0.0.1:1
accept from 127.0.0.1
forward info@example.com -> nobody@one.example
route to @sender.example via back
route to @two.example via two cut-through {patience}
route to @gone.example via gone cut-through {patience}
route to @queued.example via one
route any via one cut-through {patience}
"""


LET_GO = threading.Event()  # set, but where a test says otherwise
LET_GO.set()


def words(asked: Asked) -> str | None:
    """By the local part: `nobody` is unknown, `later` greylisted, `slow` waits for a long time."""
    local = asked.argument.partition("@")[0]
    if asked.stage == "rcpt":
        if local == "nobody":
            return NO_SUCH
        if local == "full":
            return "552 5.2.2 The mailbox has its fill"
        if local == "later":
            return "450 4.7.1 Greylisted"
        if local == "slow":
            return STALL
        if local == "awhile":
            time.sleep(2.0)
            LET_GO.wait(60)
            return NO_SUCH
    if asked.stage == "content" and any(each.startswith("spam") for each in asked.recipients):
        return "554 5.7.1 Sp\u00e4m"
    return None


def half_closed(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


class CutThroughCase(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.one, self.two, self.back = Sink(words), Sink(words), Sink()
        for sink in (self.one, self.two, self.back):
            self.addCleanup(sink.stop)

    def gateway(self, *, patience: str = "50s", workers: int = 1, settings: str = "") -> Relayd:
        ports = {name: getattr(self, name).port for name in ("one", "two", "back")}
        rules = RULES.format(patience=patience, **ports)
        relay = self.relayd(rules, settings=settings, name=f"relayd-{workers}", start=False)
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        relay.config.write_text(text)
        return relay.start()

    def said(
        self,
        relay: Relayd,
        *recipients: str,
        sender: str = ANN,
        content: bytes = CONTENT,
        options: tuple[str, ...] = (),
    ) -> tuple[int, str]:
        """What the client hears after the final dot."""
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(sender)
            for each in recipients:
                self.assertEqual(client.rcpt(each, options)[0], 250)
            code, text = client.data(content)
            return code, text.decode()

    def nothing_left(self, relay: Relayd, reports: int = 0) -> None:
        """Nothing waits, and so many reports have come back."""
        relay.wait_empty()
        self.assertEqual(len(self.back.wait(reports)), reports)
        self.assertIn("clean", relay.ctl("audit").stdout)

    def begun(self, relay: Relayd, recipient: str) -> socket.socket:
        """A client that has said all, and now waits for the answer."""
        client = socket.create_connection(relay.address, 60)
        self.addCleanup(client.close)
        said = f"EHLO x\r\nMAIL FROM:<{ANN}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode()
        file = client.makefile("rb", 0)
        file.readline()
        client.sendall(said)
        while not file.readline().startswith(b"354"):
            pass
        file.close()
        client.sendall(CONTENT + b".\r\n")
        return client


class Answers(CutThroughCase):
    def test_a_refusal_after_the_final_dot_becomes_our_answer_and_no_report_exists(self) -> None:
        for workers in (1, 2):
            relay = self.gateway(workers=workers)
            code, text = self.said(relay, "nobody@one.example")
            self.assertEqual(code, 550)
            self.assertEqual(text, "5.1.1 No such mailbox here\n5.1.1 See https://one.example/help")
            self.nothing_left(relay)
            self.assertEqual(self.said(relay, "info@example.com")[0], 550)
            self.assertEqual(self.said(relay, "nobody@one.example", sender="")[0], 550)
            self.assertEqual(self.said(relay, "spam@one.example"), (554, "5.7.1 Sp?m"))
            self.assertEqual(
                self.said(relay, "nobody@one.example", options=("NOTIFY=SUCCESS,FAILURE",))[0], 550
            )
            self.nothing_left(relay)
            refused = 'command="end of content" reply="550 5.1.1 No such mailbox'
            wait_until(lambda: relay.log(400).count(refused) == 4, "the log says so")  # noqa: B023
            self.assertNotIn(" report id=", relay.log(400))
            relay.stop()

    def test_the_ledger_says_that_it_was_refused_at_the_door(self) -> None:
        relay = self.gateway()
        self.said(relay, "info@example.com")
        wait_until(lambda: "refused client" in relay.log(), "the log says so")
        ident = relay.log().partition("accepted id=")[2].partition(" ")[0]
        found = relay.show(ident)["recipients"][0]
        self.assertEqual(found["state"], "failed")
        self.assertIn("refused at the door", found["note"])
        self.assertIn("No such mailbox here", found["reply"])
        self.assertIn("refused at the door", relay.ctl("show", ident).stdout)
        why = relay.ctl("why", ident).stdout
        self.assertIn("refused at the door", why)
        self.assertIn("No such mailbox here", why)

    def test_whoever_is_taken_by_all_hears_250(self) -> None:
        relay = self.gateway()
        self.assertEqual(self.said(relay, "bob@one.example", "bob@two.example")[0], 250)
        relay.wait_empty()  # 250 is said once somebody has taken it
        self.assertEqual((len(self.one.arrived), len(self.two.arrived)), (1, 1))
        self.nothing_left(relay)

    def test_two_recipients_with_two_answers(self) -> None:
        relay = self.gateway()
        code, _ = self.said(relay, "nobody@one.example", "bob@two.example")
        self.assertEqual(code, 250)
        self.nothing_left(relay, reports=1)
        code, text = self.said(relay, "nobody@one.example", "full@two.example")
        self.assertEqual(code, 554)
        self.assertEqual(
            text.splitlines(),
            [
                "5.0.0 <nobody@one.example>: 550 5.1.1 No such mailbox here",
                "5.0.0 See https://one.example/help",
                "5.0.0 <full@two.example>: 552 5.2.2 The mailbox has its fill",
            ],
        )
        code, _ = self.said(relay, "nobody@one.example", "nobody@two.example")
        self.assertEqual(code, 550)
        self.nothing_left(relay, reports=1)

    def test_some_recipients_by_routes_that_do_not_wait(self) -> None:
        relay = self.gateway()
        self.assertEqual(self.said(relay, "nobody@one.example", "x@queued.example")[0], 250)
        self.nothing_left(relay, reports=1)

    def test_greylisted_is_taken_and_tried_again(self) -> None:
        relay = self.gateway(settings="retry 1s*3 1h\n")
        self.assertEqual(self.said(relay, "later@one.example", "nobody@two.example")[0], 250)
        self.back.wait(1)
        self.one.script = None
        self.nothing_left(relay, reports=1)
        self.assertEqual(len(self.one.arrived), 1)

    def test_a_slow_hop_costs_the_client_its_patience_and_no_more(self) -> None:
        relay = self.gateway(patience="1s")
        began = time.monotonic()
        self.assertEqual(self.said(relay, "slow@one.example", "nobody@two.example")[0], 250)
        self.assertGreaterEqual(time.monotonic() - began, 0.9)
        self.one.script = None
        self.one.kill()
        self.one.start()
        self.nothing_left(relay, reports=1)
        self.assertEqual(len(self.one.arrived), 1)

    def test_a_dead_hop_is_no_refusal_and_the_next_client_does_not_wait_for_it(self) -> None:
        relay = self.gateway(settings="retry 1h\n")
        for _ in range(2):
            began = time.monotonic()
            self.assertEqual(self.said(relay, "bob@gone.example")[0], 250)
        self.assertLess(unhurried(began), 5.0)
        self.assertEqual(len(relay.queue()), 2)

    def test_the_report_of_success_is_that_of_any_message(self) -> None:
        self.one.extensions = tuple(each for each in self.one.extensions if each != "DSN")
        relay = self.gateway(settings="reports for strangers as-asked whole\n")
        code, _ = self.said(relay, "bob@one.example", options=("NOTIFY=SUCCESS",))
        self.assertEqual(code, 250)
        self.nothing_left(relay, reports=1)


class Clients(CutThroughCase):
    def test_a_client_that_goes_changes_nothing(self) -> None:
        relay = self.gateway()
        self.addCleanup(LET_GO.set)
        for reports, go in enumerate((socket.socket.close, cut, half_closed), 1):
            LET_GO.clear()
            client = self.begun(relay, "awhile@one.example")
            taken = " accepted id="
            wait_until(lambda: relay.log(400).count(taken) == reports, "it is there")  # noqa: B023
            go(client)
            threading.Timer(1.0, LET_GO.set).start()
            self.nothing_left(relay, reports)
        self.assertEqual(client.recv(100)[:4], b"250 ")

    def test_what_comes_behind_in_the_pipe_waits(self) -> None:
        relay = self.gateway()
        letter = "MAIL FROM:<{}>\r\nRCPT TO:<{}>\r\n"
        with socket.create_connection(relay.address) as client:
            file = client.makefile("rb")
            file.readline()
            one = letter.format(ANN, "awhile@one.example") + "BDAT 3 LAST\r\nx\r\n"
            two = letter.format(ANN, "bob@one.example") + "BDAT 3 LAST\r\ny\r\nQUIT\r\n"
            client.sendall(f"EHLO x\r\n{one}{two}".encode())
            replies = [line for line in file if line[3:4] == b" "]
        self.assertEqual(
            [line[:3] for line in replies],
            [b"250", b"250", b"250", b"550", b"250", b"250", b"250", b"221"],
        )
        self.nothing_left(relay)

    def test_a_stop_ends_the_waiting_with_250(self) -> None:
        relay = self.gateway()
        client = self.begun(relay, "slow@one.example")
        wait_until(relay.queue, "it is in the spool")
        self.assertEqual(relay.stop(), 0)
        said = client.makefile().read()
        self.assertRegex(said, r"^250 .*\n421 .*\n$")
        self.one.script = None
        relay.start()
        self.nothing_left(relay)
        self.assertEqual(len(self.one.arrived), 1)

    def test_a_kill_before_the_answer_leaves_it_to_the_client(self) -> None:
        for workers in (1, 2):
            relay = self.gateway(workers=workers)
            before = len(self.one.arrived)
            client = self.begun(relay, "slow@one.example")
            wait_until(relay.queue, "it is in the spool")
            self.assertIn("Held until its client is answered", relay.ctl("queue").stdout)
            relay.kill()
            with contextlib.suppress(ConnectionError):
                self.assertEqual(client.recv(100), b"")
            self.one.script = None
            relay.start()
            wait_until(lambda: "let go" in relay.log(400), "it is let go")  # noqa: B023
            self.nothing_left(relay)
            self.assertEqual(len(self.one.arrived), before)
            self.one.script = words
            relay.stop()

    def test_only_a_share_of_the_sessions_waits(self) -> None:
        relay = self.gateway(settings="sessions 20\ncut-through-share 20\n")
        clients = [self.begun(relay, "slow@one.example") for _ in range(8)]
        wait_until(lambda: len(select.select(clients, [], [], 1)[0]) == 6, "six hear 250 at once")
        self.assertEqual({each.recv(4) for each in select.select(clients, [], [], 1)[0]}, {b"250 "})
        self.assertEqual(self.said(relay, "nobody@two.example")[0], 550)

    def test_what_is_suspended_is_not_waited_for(self) -> None:
        relay = self.gateway()
        self.assertEqual(self.said(relay, "bob@one.example")[0], 250)
        relay.ctl("suspend", "--destination", "one", "--for", "1h")
        began = time.monotonic()
        self.assertEqual(self.said(relay, "nobody@one.example")[0], 250)
        self.assertLess(unhurried(began), 10)
        self.assertEqual(len(relay.queue()), 1)
