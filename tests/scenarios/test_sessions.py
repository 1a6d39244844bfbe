"""Clients that do not keep to turns: who shuts his side, who never stops, who does not wait."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.certs import Authority
from tests.scenarios.harness import Relayd, Scenario, free_port, unhurried

RULES = "accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:1\n"
HELLO = b"EHLO client.example\r\n"
ENVELOPE = b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n"
CONTENT = b"Subject: x\r\n\r\nHello.\r\n.\r\n"
PROXY = b"PROXY TCP4 192.0.2.1 192.0.2.2 40000 25\r\n"
INNER = (
    b"Subject: outer\r\n\r\nMAIL FROM:<inner@example.org>\r\nRCPT TO:<b@example.com>\r\n"
    b"DATA\r\nSubject: inner\r\n\r\nx\r\n.\r\nQUIT\r\n"
)


class Secured:
    """A socket under TLS that may say goodbye and still listen, unlike ssl.SSLSocket."""

    def __init__(self, below: socket.socket, first: bytes = b"") -> None:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.below = below
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out)
        while not self._done():
            self._flush()
            self._in.write(self.below.recv(65536))
        self.sendall(first)  # in one piece with the last of the handshake

    def _done(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    def sendall(self, octets: bytes) -> None:
        self._tls.write(octets)
        self.below.sendall(self._out.read())

    def recv(self, most: int) -> bytes:
        return self._until_done(lambda: self._tls.read(most)) or b""

    def say_goodbye(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        self.below.sendall(self._out.read())

    def _until_done(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                self._flush()
                octets = self.below.recv(65536)
                if not octets:
                    return None
                self._in.write(octets)
            except ssl.SSLZeroReturnError:
                return None
            finally:
                self._flush()

    def _flush(self) -> None:
        if self._out.pending:
            self.below.sendall(self._out.read())


class Line:
    """A client by hand."""

    socket: Any

    def __init__(self, relay: Relayd, *, port: int = 0, first: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port or relay.port), 60)
        if first:
            self.socket.sendall(first)

    def secure(self, first: bytes = b"") -> None:
        self.socket = Secured(self.socket, first)

    def say(self, octets: bytes) -> bytes:
        """The reply to them, up to the end of its last line."""
        self.socket.sendall(octets)
        heard = b""
        while not (heard.endswith(b"\r\n") and heard.split(b"\r\n")[-2][3:4] == b" "):
            piece = self.socket.recv(65536)
            if not piece:
                break
            heard += piece
        return heard

    def rest(self) -> bytes:
        """All that is said until the other side closes."""
        heard = b""
        try:
            while piece := self.socket.recv(65536):
                heard += piece
        except ConnectionResetError:
            pass
        return heard


class HalfClosed(Scenario):
    """What was received is answered, though the client has shut its sending side (`nc -N`)."""

    def greeted(self, relay: Relayd, *, port: int = 0, tls: bool = False) -> Line:
        line = Line(relay, port=port)
        if tls:
            line.secure()
        self.assertEqual(line.say(b"")[:4], b"220 ")
        return line

    def assert_answered(self, heard: bytes) -> None:
        self.assertRegex(heard.splitlines()[-1], rb"^250 2\.0\.0 queued as ")

    def test_content_and_then_the_end(self) -> None:
        relay = self.relayd(RULES)
        line = self.greeted(relay)
        line.say(HELLO)
        line.say(ENVELOPE)
        line.socket.sendall(CONTENT)
        line.socket.shutdown(socket.SHUT_WR)
        self.assert_answered(line.rest())

    def test_all_in_one_piece_and_then_the_end(self) -> None:
        relay = self.relayd(RULES)
        line = self.greeted(relay)
        line.socket.sendall(HELLO + (ENVELOPE + CONTENT) * 30)
        line.socket.shutdown(socket.SHUT_WR)
        self.assertEqual(line.rest().count(b"\r\n250 2.0.0 queued as "), 30)

    def test_an_unfinished_transaction_ends_at_once(self) -> None:
        relay = self.relayd(RULES)
        for last in (b"", ENVELOPE[:30], ENVELOPE, ENVELOPE + CONTENT[:-3]):
            line = self.greeted(relay)
            line.say(HELLO)
            line.socket.sendall(last)
            began = time.monotonic()
            line.socket.shutdown(socket.SHUT_WR)
            self.assertNotIn(b"queued", line.rest())
            self.assertLess(unhurried(began), 5.0)  # and not after a deadline

    def test_under_tls_with_and_without_its_goodbye(self) -> None:
        chain, key = Authority().issue("gw.example.com").write(self.room("tls"), "gw")
        relay = self.relayd(RULES, settings=f"certificate {chain} key {key}\n")
        for goodbye in (True, False):
            line = self.greeted(relay)
            line.say(HELLO)
            self.assertEqual(line.say(b"STARTTLS\r\n")[:4], b"220 ")
            line.secure()
            line.say(HELLO)
            line.say(ENVELOPE)
            line.socket.sendall(CONTENT)
            began = time.monotonic()
            if goodbye:
                line.socket.say_goodbye()
            else:
                line.socket.below.shutdown(socket.SHUT_WR)
            self.assert_answered(line.rest())
            self.assertLess(unhurried(began), 5.0)

    def test_behind_a_balancer(self) -> None:
        port = free_port()
        relay = self.relayd(RULES, settings=f"listen 127.0.0.1:{port} proxy 127.0.0.1\n")
        line = Line(relay, port=port, first=PROXY)
        self.assertEqual(line.say(b"")[:4], b"220 ")
        line.say(HELLO)
        line.say(ENVELOPE)
        line.socket.sendall(CONTENT)
        line.socket.shutdown(socket.SHUT_WR)
        self.assert_answered(line.rest())


class OutOfTurn(Scenario):
    """What nobody meant as a command is not run as one."""

    def setUp(self) -> None:
        super().setUp()
        self.balanced = free_port()
        self.relay = self.relayd(
            RULES, settings=f"listen 127.0.0.1:{self.balanced} proxy 127.0.0.1\n"
        )

    def test_content_in_the_same_packet_as_a_refused_data(self) -> None:
        for recipient in (b"nobody@elsewhere.example", b"<", b"b@example.com> BAD=1"):
            for data in (b"DATA", b"data", b"DATA now"):
                line = Line(self.relay)
                line.say(b"")
                line.say(HELLO)
                line.socket.sendall(
                    b"MAIL FROM:<a@example.org>\r\nRCPT TO:<%b>\r\n%b\r\n" % (recipient, data)
                    + INNER
                )
                self.assertIn(b"\r\n421 4.5.0 ", line.rest())
        self.assertEqual(self.relay.queue(), [])

    def test_content_some_time_after_a_refused_data(self) -> None:
        for content in (
            INNER,
            INNER.partition(b"\r\n\r\n")[2].replace(b"MAIL", b"Hello\r\nMAIL", 1),
        ):
            line = Line(self.relay)
            line.say(b"")
            line.say(HELLO)
            self.assertEqual(line.say(b"DATA\r\n")[:4], b"503 ")
            line.socket.sendall(content)
            self.assertRegex(line.rest(), rb"^421 4\.5\.0 [^\n]*\n\Z")
        self.assertEqual(self.relay.queue(), [])

    def test_commands_before_the_greeting_behind_a_balancer(self) -> None:
        line = Line(self.relay, port=self.balanced, first=PROXY + HELLO + ENVELOPE + CONTENT)
        self.assertRegex(line.rest(), rb"^421 4\.5\.0 [^\n]*\n\Z")
        self.assertEqual(self.relay.queue(), [])

    def test_commands_before_the_greeting(self) -> None:
        """Whoever goes on speaking without an ear for us is cut off."""
        with self.asleep():
            line = Line(self.relay, first=HELLO + ENVELOPE + CONTENT)
        self.assertRegex(line.rest(), rb"^421 4\.5\.0 [^\n]*\n\Z")
        self.assertEqual(self.relay.queue(), [])

    def test_everything_and_the_end_before_the_greeting(self) -> None:
        """As `nc -N` with a file: nothing can follow, and what is there is answered."""
        with self.asleep():
            line = Line(self.relay, first=HELLO + ENVELOPE + CONTENT)
            line.socket.shutdown(socket.SHUT_WR)
        said = line.rest()
        self.assertEqual(said[:4], b"220 ")
        self.assertRegex(said, rb"250 2\.0\.0 [^\n]*\n\Z")
        self.assertEqual(len(self.relay.queue()), 1)

    @contextlib.contextmanager
    def asleep(self) -> Iterator[None]:
        """relayd does not notice yet what the kernel takes for it."""
        os.kill(self.relay.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.relay.pid, signal.SIGCONT)

    def test_commands_before_the_greeting_under_tls(self) -> None:
        chain, key = Authority().issue("gw.example.com").write(self.room("tls"), "gw")
        port = free_port()
        relay = self.relayd(
            RULES,
            name="secure",
            settings=f"certificate {chain} key {key}\nlisten 127.0.0.1:{port} tls implicit\n",
        )
        line = Line(relay, port=port)
        line.secure(HELLO + ENVELOPE + CONTENT)
        self.assertRegex(line.rest(), rb"^421 4\.5\.0 [^\n]*\n\Z")
        line = Line(relay, port=port)
        line.secure()
        self.assertEqual(line.say(b"")[:4], b"220 ")
        self.assertEqual(line.say(HELLO)[:4], b"250-")
        self.assertEqual(relay.queue(), [])


class Floods(Scenario):
    """One client's flood is cut off, and others hardly notice."""

    def test_commands_that_achieve_nothing(self) -> None:
        relay = self.relayd(RULES)
        for flood in (
            b"NOOP\r\n",
            b"RSET\r\n",
            HELLO,
            b"VRFY b\r\n",
            b"HELP\r\n",
            b"MAIL FROM:<a@example.org>\r\nRSET\r\n",
            b"MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.com>\r\nRSET\r\n",
            b"MAIL FROM:<a@example.org>\r\nRCPT TO:<x@elsewhere.example>\r\nRSET\r\n",
            b"MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nBDAT 0\r\nRSET\r\n",
            b"NOOP " + b"x" * 2000 + b"\r\n",
        ):
            with self.subTest(flood=flood[:60]):
                self.assertRegex(self.longest_wait(relay, flood), "421 4.7.0")

    def longest_wait(self, relay: Relayd, flood: bytes) -> str:
        """What the flood heard last, and nobody else waited."""
        bad = self.greeted(relay)
        heard = self.beside(relay, bad, flood * (3_000_000 // len(flood)))
        return heard.decode().splitlines()[-1]

    def test_chunks_of_one_octet_share_the_reactor(self) -> None:
        relay = self.relayd(RULES)
        bad = self.greeted(relay)
        bad.say(ENVELOPE[:-6])
        content = b"Subject: x\r\n\r\n" + b"y" * 40_000
        octets = b"".join(b"BDAT 1\r\n%c" % each for each in content)
        heard = self.beside(relay, bad, octets + b"BDAT 0 LAST\r\nQUIT\r\n")
        self.assertIn(b"queued as", heard)

    def greeted(self, relay: Relayd) -> Line:
        line = Line(relay)
        line.say(b"")
        line.say(HELLO)
        return line

    def beside(self, relay: Relayd, bad: Line, flood: bytes) -> bytes:
        """What the flood hears; somebody else is answered in good time all the while."""
        good = self.greeted(relay)
        heard: list[bytes] = []

        def pour() -> None:
            with contextlib.suppress(OSError):  # it is cut off
                bad.socket.sendall(flood)

        threads = [
            threading.Thread(target=pour),
            threading.Thread(target=lambda: heard.append(bad.rest())),
        ]
        for thread in threads:
            thread.start()
        longest = 0.0  # seconds of CPU: it is relayd that may not be busy, others may be
        for _ in range(50):
            began = relay.processor_time()
            good.say(b"NOOP\r\n")
            longest = max(longest, relay.processor_time() - began)
            if not any(thread.is_alive() for thread in threads):
                break
        for thread in threads:
            thread.join()
        self.assertLess(longest, 0.5)
        return heard[0]


class Memory(Scenario):
    """What all sessions hold together has one bound."""

    def test_unfinished_header_sections(self) -> None:
        relay = self.relayd(RULES + "header add X-Seen yes\n")
        before = relay.memory()
        lines = []
        for _ in range(48):
            line = Line(relay)
            line.say(b"")
            line.say(HELLO)
            self.assertIn(b"354", line.say(ENVELOPE))
            line.socket.sendall(b"X: " + b"y" * 90 + b"\r\n")
            line.socket.sendall((b"X-Long: " + b"y" * 90 + b"\r\n") * 10_000)
            lines.append(line)
        good = Line(relay)
        good.say(b"")
        good.say(HELLO)
        good.say(ENVELOPE)
        self.assertEqual(good.say(CONTENT)[:4], b"250 ")
        self.assertLess(relay.memory() - before, 80 << 20)
        replies = [line.say(b"\r\n.\r\n")[:9] for line in lines]
        self.assertEqual(set(replies), {b"250 2.0.0", b"452 4.3.1"})
        self.assertGreater(replies.count(b"250 2.0.0"), 10)
        # all is given back
        for line in lines[:10]:
            line.say(ENVELOPE)
            line.socket.sendall((b"X-Long: " + b"y" * 90 + b"\r\n") * 10_000)
            self.assertEqual(line.say(b"\r\n.\r\n")[:4], b"250 ")
