"""Filters that are dead, hang, are slow, babble or are cut off: the failure word counts."""

from __future__ import annotations

import smtplib
import socket
import struct
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.scenarios.filterpeers import (
    Listening,
    Milter,
    Policy,
    answer_to,
    body,
    insert,
    packet,
    packets,
)
from tests.scenarios.harness import Relayd, Scenario, free_port, patience, unhurried, wait_until
from tests.sink import Sink

Serve = Callable[[socket.socket], None]
WORDS = {"accept": "250", "defer": "451", "reject": "550", "hold": "250"}
LETTER = b"From: a@example.org\r\nSubject: x\r\n\r\nhello\r\n"
AGREED = packet(b"O", struct.pack("!III", 6, 0x1FF, 0))
CLEAN = b"stream: OK\0"
REPORT = b'HTTP/1.1 200 OK\r\nContent-Length: 34\r\n\r\n{"action":"no action","score":1.5}'


def hang(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def babble(connection: socket.socket) -> None:
    connection.recv(1)
    for _ in range(200):
        connection.sendall(b"\0\0\0\x05zzzz\n" * 1000)


def cut(connection: socket.socket) -> None:
    connection.recv(65536)


def edit_and_cut(connection: socket.socket) -> None:
    """Half edited before it breaks off."""
    for letter, _ in packets(connection):
        if letter == b"O":
            connection.sendall(AGREED)
        elif letter == b"E":
            half = [body(b"of another body\r\n"), insert(1, "X-Half", "done")]
            connection.sendall(b"".join(packet(*each) for each in half) + b"\0\0\1")
            return
        elif letter not in b"DAQ":
            connection.sendall(packet(b"c"))


def wrong_edit(connection: socket.socket) -> None:
    """An edit that was not asked for, with others before it."""
    for letter, _ in packets(connection):
        if letter == b"O":
            connection.sendall(packet(b"O", struct.pack("!III", 6, 1, 0)))
        elif letter == b"E":
            connection.sendall(packet(*insert(1, "X-Half", "done")) + packet(*body(b"x")))
            connection.sendall(packet(b"c"))
        elif letter not in b"DAQ":
            connection.sendall(packet(b"c"))


def slow_clamd(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(0.5)
    connection.sendall(CLEAN)


def slow_rspamd(connection: socket.socket) -> None:
    connection.recv(65536)
    time.sleep(0.5)
    for at in range(0, len(REPORT), 7):  # in pieces
        connection.sendall(REPORT[at : at + 7])


def slow_answer(asked: dict[str, str]) -> str:
    time.sleep(0.5)
    return "DUNNO"


class FilterFaults(Scenario):
    def test_the_failure_word_counts_whatever_is_wrong(self) -> None:
        rules, expected = "", dict[str, str]()
        limit = round(patience(2))
        for kind, faults in self.faults().items():
            for fault, where in faults.items():
                for word, code in WORDS.items():
                    name = f"{kind}-{fault}-{word}"
                    scheme = "http://" if kind == "rspamd" else ""
                    rules += f"{kind} {name} {scheme}{where} on failure {word} timeout {limit}s\n"
                    rules += f"ask {name} to {name}@example.com\n"
                    expected[name] = "250" if fault.startswith("slow") else code
        rules += "accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:{}\n"
        with Sink() as sink, ThreadPoolExecutor(12) as clients:
            relay = self.relayd(rules.format(sink.port))
            said = [*clients.map(lambda to: self.said(relay, to)[:3], expected)]
            self.assertEqual(dict(zip(expected, said, strict=True)), expected)
            held = {name for name in expected if name.endswith("hold") and "slow" not in name}
            kept = [name for name, code in expected.items() if code == "250" and name not in held]
            wait_until(lambda: len(sink.arrived) >= len(kept), "what was taken arrives")
            self.assertEqual(
                sorted(each.recipients[0].partition("@")[0] for each in sink.arrived), sorted(kept)
            )
            for each in sink.arrived:  # as it came
                self.assertTrue(each.content.endswith(b"\r\n" + LETTER), each.content)
            self.assertEqual(relay.ctl("queue").stdout.count(" held "), len(held))
            self.assertIn("hold by milter-dead-hold: no connection", relay.ctl("queue").stdout)
            failing = [name for name in expected if "slow" not in name]
            told = " trouble event=filter"
            trouble = [
                line for line in relay.logged(told, len(failing)).splitlines() if told in line
            ]
            self.assertEqual(len(trouble), len(failing), "\n".join(trouble))
            self.assertNotIn("unhandled", relay.log(2000))
            self.assertNotIn("session failed", relay.log(2000))

    def faults(self) -> dict[str, dict[str, str]]:
        """For each kind of filter those that are not as they should be."""
        common: dict[str, Serve] = {"hanging": hang, "babbling": babble, "cut": cut}
        milters: dict[str, Serve] = {"half": edit_and_cut, "wrong": wrong_edit}
        found: dict[str, dict[str, str]] = {}
        for kind in ("milter", "policy", "clamd", "rspamd"):
            wrong = {**common, **(milters if kind == "milter" else {})}
            found[kind] = {name: Listening(self, serve).where for name, serve in wrong.items()}
            found[kind]["dead"] = f"127.0.0.1:{free_port()}"
        found["milter"]["slow"] = Milter(self, pause=lambda letter: 0.2).where
        found["policy"]["slow"] = Policy(self, slow_answer).where
        found["clamd"]["slow"] = Listening(self, slow_clamd).where
        found["rspamd"]["slow"] = Listening(self, slow_rspamd).where
        return found

    def said(self, relay: Relayd, to: str) -> str:
        """The reply to the first command that is refused, or to the final dot."""
        with smtplib.SMTP(*relay.address, timeout=60) as client:
            client.ehlo("client.example")
            code, reply = answer_to(client, f"{to}@example.com", LETTER)
        return f"{code} {reply!r}"

    def test_a_filter_that_takes_a_second_holds_its_sessions_and_nobody_else(self) -> None:
        slow = Milter(self, pause=lambda letter: 1.0 if letter == b"R" else 0.0)
        with Sink() as sink:
            relay = self.relayd(
                f"milter slow {slow.where}\nask slow to slow@example.com\naccept to @example.com\n"
                f"route any via out\nnext-hop out smtp 127.0.0.1:{sink.port}\n",
                settings="sessions-per-client 600\n",
            )
            lines = [socket.create_connection(relay.address, 60) for _ in range(500)]
            began = time.monotonic()
            commands = b"EHLO x\r\nMAIL FROM:<a@example.org>\r\nRCPT TO:<slow@example.com>\r\n"
            for each in lines:
                each.recv(512)
                each.sendall(commands + b"QUIT\r\n")
            asked = time.monotonic()
            self.assertEqual(self.said(relay, "quick")[:3], "250")
            quick = time.monotonic() - asked
            for each in lines:
                said = each.makefile("rb").read()
                self.assertIn(b"250 2.1.5", said)
                each.close()
            self.assertLess(quick, 5)
            self.assertLess(unhurried(began), 40)

    def test_clamd_sees_a_message_while_it_arrives(self) -> None:
        heard: list[bytes] = []

        def serve(connection: socket.socket) -> None:
            stream = connection.makefile("rb")
            stream.read(len(b"zINSTREAM\0"))
            while length := struct.unpack("!I", stream.read(4))[0]:
                heard.append(stream.read(length))
            connection.sendall(CLEAN)

        line = b"x" * 76 + b"\r\n"
        with Sink() as sink:
            relay = self.relayd(
                f"clamd virus {Listening(self, serve).where}\nask virus\naccept to @example.com\n"
                f"route any via out\nnext-hop out smtp 127.0.0.1:{sink.port}\n"
            )
            with socket.create_connection(relay.address, 60) as client:
                replies = client.makefile("rb")
                for command in (b"", b"EHLO x\r\n", b"MAIL FROM:<a@example.org>\r\n",
                                b"RCPT TO:<b@example.com>\r\n", b"DATA\r\n"):  # fmt: skip
                    client.sendall(command)
                    while replies.readline()[3:4] == b"-":
                        pass
                client.sendall(LETTER + line * 100)
                wait_until(lambda: line * 99 in b"".join(heard), "it has what came so far")
                client.sendall(line * 2000 + b"..dot\r\n.\r\n")
                self.assertEqual(replies.readline()[:3], b"250")
            content = LETTER + line * 2100 + b".dot\r\n"
            self.assertEqual(b"".join(heard), content)
            self.assertTrue(sink.wait(1)[0].content.endswith(content))
