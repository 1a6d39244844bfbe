"""Somebody is asked at the connection, at MAIL, at RCPT and at the final dot: he takes his time."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from tests.certs import Authority
from tests.scenarios.harness import Relayd, Scenario, free_port, unhurried, wait_until
from tests.scenarios.test_sessions import Line
from tests.sink import Sink

RULES = "accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:{}\n"
LINE = b"x" * 76 + b"\r\n"
MANY = 30_000  # of them are more than is kept in memory
EHLO = b"EHLO client.example\r\n"


def letter(number: int, *, fields: bytes = b"", sender: str = "a", lines: int = 1) -> bytes:
    """All commands of a transaction, in one piece: one recipient in three is refused."""
    commands = (
        f"MAIL FROM:<{sender}@example.org>\r\nRCPT TO:<b{number}@example.com>\r\n"
        "RCPT TO:<no@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\n"
    )
    content = b"Subject: %d\r\n%s\r\n%s.\r\n" % (number, fields, LINE * lines)
    return commands.encode() + content


class SlowVerdicts(Scenario):
    def asking(self, sink: Sink, settings: str = "") -> Relayd:
        relay = self.relayd(RULES.format(sink.address[1]), settings=settings, start=False)
        config = relay.config.read_text("utf-8").replace("workers 1\n", "workers 2\n")
        relay.config.write_text(config, "utf-8")
        relay.path = [str(Path(__file__).parent / "asking")]
        return relay.start()

    def begun(self, relay: Relayd, octets: bytes) -> Line:
        """A client who has said hello, and this."""
        line = Line(relay)
        self.assertEqual(line.say(b"")[:4], b"220 ")
        line.say(EHLO)
        line.socket.sendall(octets)
        return line

    def kept(self, relay: Relayd) -> list[Path]:
        """Files of content."""
        return [path for path in relay.folder.glob("spool/*/content/*/*") if path.is_file()]

    def test_two_workers_many_clients_all_in_one_piece(self) -> None:
        with Sink() as sink:
            relay = self.asking(sink)
            heard: list[bytes] = []

            def client(number: int) -> None:
                line = self.begun(relay, letter(number) + letter(number, lines=MANY) + b"QUIT\r\n")
                heard.append(line.rest())

            began = time.monotonic()
            threads = [threading.Thread(target=client, args=(number,)) for number in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            self.assertLess(unhurried(began), 40)  # side by side
            one = [b"250", b"250", b"550", b"250", b"354", b"250"]
            for each in heard:
                self.assertEqual([line[:3] for line in each.splitlines()], [*one, *one, b"221"])
            self.assertEqual(len(heard), 12)
            wait_until(lambda: len(sink.arrived) == 24, "all have arrived", 120)
            for arrived in sink.arrived:
                head, _, body = arrived.content.partition(b"\r\n\r\n")
                self.assertIn(b"\r\nX-Looked-At: yes\r\nSubject: ", head)
                self.assertTrue(body.startswith(b"Looked at.\r\n" + LINE))
            wait_until(lambda: not self.kept(relay), "no file of content is left")

    def test_under_tls_and_half_closed(self) -> None:
        chain, key = Authority().issue("gw.example.com").write(self.room("tls"), "gw")
        port = free_port()
        listen = f"listen 127.0.0.1:{port} tls implicit"
        with Sink() as sink:
            relay = self.asking(sink, f"certificate {chain} key {key}\n{listen}\n")
            line = Line(relay, port=port)
            line.secure()
            self.assertEqual(line.say(b"")[:4], b"220 ")
            line.say(EHLO)
            line.socket.sendall(letter(1))
            line.socket.say_goodbye()
            self.assertRegex(line.rest().splitlines()[-1], rb"^250 2\.0\.0 queued as ")
            wait_until(lambda: len(sink.arrived) == 1, "it has arrived")

    def test_who_goes_leaves_nothing_and_who_stops_does_not_wait(self) -> None:
        with Sink() as sink:
            relay = self.asking(sink)
            slow = letter(1, fields=b"X-Slow: yes\r\n", lines=MANY)
            for octets in (letter(1, sender="slow"), slow):
                for _ in range(4):
                    line = self.begun(relay, octets)
                    time.sleep(0.1)
                    line.socket.close()
            stays = self.begun(relay, slow)
            wait_until(lambda: len(self.kept(relay)) >= 2, "content and its other body are there")
            gone = lambda: len(self.kept(relay)) == 2  # noqa: E731  # those of the one who stays
            wait_until(gone, "nothing is left of those who went")
            began = time.monotonic()
            self.assertEqual(relay.stop(), 0)
            self.assertLess(unhurried(began), 20)
            self.assertEqual(stays.rest().splitlines()[-1][:9], b"421 4.3.2")
            self.assertEqual(self.kept(relay), [])
            self.assertEqual(sink.arrived, [])
            self.assertNotIn("session failed", relay.log(500))
