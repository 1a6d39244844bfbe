"""A hundred messages through relayd from every kind of client arrive byte for byte."""

from __future__ import annotations

import re
import smtplib
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.scenarios import peers
from tests.scenarios.corpus import Sample, corpus
from tests.scenarios.harness import Relayd, Scenario, program, run
from tests.sink import EXTENSIONS, Sink

SENDER, RECIPIENT = "ann@example.net", "bob@example.com"

# what may stand before the original: trace fields, and nothing else
_TRACE = re.compile(rb"(?:(?:Received|Return-Path):[^\r\n]*\r\n(?:[ \t][^\r\n]*\r\n)*)*\Z")
_NAME = re.compile(rb"^X-Corpus: (.*)\r$", re.MULTILINE)
_SAMPLES: list[Sample] = []


def samples() -> list[Sample]:
    """The corpus, made once."""
    if not _SAMPLES:
        _SAMPLES.extend(corpus())
    return _SAMPLES


class Client(Scenario):
    """Sends the corpus through a relayd into a sink and compares."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink(extensions=(*EXTENSIONS, "CHUNKING"))
        self.addCleanup(self.sink.stop)
        self.relay = self.front()

    def front(self) -> Relayd:
        """What the clients speak to."""
        return self.relayd(
            f"next-hop sink smtp 127.0.0.1:{self.sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via sink\n"
        )

    @property
    def port(self) -> int:
        """Where the clients connect."""
        return self.relay.port

    def compare(self, expected: dict[str, bytes], seconds: float = 120.0) -> None:
        """Exactly these arrived, each behind nothing but trace fields."""
        try:
            arrived = self.sink.wait(len(expected), seconds)
        except AssertionError as error:
            self.fail(f"{error}\n{self.relay.log(400)}")
        wrong = []
        for message in arrived:
            found = _NAME.search(message.content)
            name = found.group(1).decode() if found else "?"
            original = expected.pop(name, None)
            if original is None:
                wrong.append(f"{name}: not sent, or sent once and arrived twice")
            elif not message.content.endswith(original):
                wrong.append(f"{name}: changed; {difference(message.content, original)}")
            elif not _TRACE.match(message.content[: len(message.content) - len(original)]):
                wrong.append(f"{name}: more than trace fields was added")
            elif not message.content.startswith(b"Received: "):
                wrong.append(f"{name}: no trace field")
        self.assertEqual(wrong, [])
        self.assertEqual(sorted(expected), [], "never arrived")

    def files(self, convert: Callable[[bytes], bytes] = bytes) -> list[Path]:
        """The corpus as files."""
        folder = self.room("corpus")
        result = []
        for sample in samples():
            path = folder / sample.name
            path.write_bytes(convert(sample.content))
            result.append(path)
        return result

    def each(self, command: Callable[[Path], Sequence[str]], files: list[Path]) -> None:
        """Run a client program for every file, two at a time, then compare."""
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda path: run(command(path)), files))
        self.compare({sample.name: sample.content for sample in samples()})


def difference(content: bytes, original: bytes) -> str:
    """Where the end of the one first differs from the other, going backwards."""
    step = 0
    while step < min(len(content), len(original)) and content[-1 - step] == original[-1 - step]:
        step += 1
    return (
        f"{step} octets from the end: {content[-1 - step - 20 : len(content) - step + 20]!r}"
        f" instead of {original[-1 - step - 20 : len(original) - step + 20]!r}"
    )


class Smtplib(Client):
    def test_hundred_messages_in_one_session(self) -> None:
        with smtplib.SMTP("127.0.0.1", self.port, timeout=60) as client:
            client.ehlo()
            for sample in samples():
                options = ["BODY=8BITMIME"] if sample.eight_bit else []
                options += ["SMTPUTF8"] if sample.utf8_header else []
                client.sendmail(SENDER, [RECIPIENT], sample.content, mail_options=options)
        self.compare({sample.name: sample.content for sample in samples()})


class Bdat(Client):
    """By RFC 3030 in chunks of any size; every second message without its final CRLF."""

    def test_hundred_messages_by_bdat(self) -> None:
        expected = {}
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        self.addCleanup(connection.close)
        replies = connection.makefile("rb")
        self.expect(replies.readline(), b"220")
        connection.sendall(b"EHLO bdat.example\r\n")
        while (line := replies.readline())[3:4] == b"-":
            self.expect(line, b"250")
        for number, sample in enumerate(samples()):
            content = sample.content[:-2] if number % 2 else sample.content
            expected[sample.name] = content
            utf8 = " SMTPUTF8" if sample.utf8_header else ""
            command = f"MAIL FROM:<{SENDER}> BODY=8BITMIME{utf8}\r\nRCPT TO:<{RECIPIENT}>\r\n"
            connection.sendall(command.encode())
            for chunk, last in self.chunks(content, 1 + number * 997):
                verb = b"BDAT %d%s\r\n" % (len(chunk), b" LAST" if last else b"")
                connection.sendall(verb + chunk)
                if last:
                    connection.sendall(b"NOOP\r\n")
            while not (line := replies.readline()).startswith(b"250 2.0.0 Ok\r"):
                self.expect(line, b"250")  # MAIL, RCPT, every BDAT; the last one is NOOP's
                if not line:
                    break
        self.compare(expected)

    def expect(self, line: bytes, code: bytes) -> None:
        self.assertTrue(line.startswith(code), line)

    @staticmethod
    def chunks(content: bytes, size: int) -> list[tuple[bytes, bool]]:
        """At most fifty chunks, the last one sometimes empty."""
        size = max(size, len(content) // 49 + 1)
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        if size % 3 == 0:
            pieces.append(b"")
        return [(piece, number == len(pieces) - 1) for number, piece in enumerate(pieces)]


class Swaks(Client):
    needs = ("swaks",)

    def test_hundred_messages(self) -> None:
        base = [program("swaks"), "--silent", "1", "--server", f"127.0.0.1:{self.port}"]
        base += ["--from", SENDER, "--to", RECIPIENT, "--no-data-fixup", "--data"]

        def wire(content: bytes) -> bytes:
            # its own preparation adds an empty line to every message; so it gets the wire's form
            return (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"

        self.each(lambda path: [*base, f"@{path}"], self.files(wire))


class Curl(Client):
    needs = ("curl",)

    def test_hundred_messages(self) -> None:
        base = [
            program("curl"),
            "--silent",
            "--show-error",
            f"smtp://127.0.0.1:{self.port}/c.example",
        ]
        base += ["--mail-from", SENDER, "--mail-rcpt", RECIPIENT, "--upload-file"]
        self.each(lambda path: [*base, str(path)], self.files())


class Msmtp(Client):
    needs = ("msmtp",)

    def test_hundred_messages(self) -> None:
        base = [program("msmtp"), "--file=/dev/null", "--host=127.0.0.1", f"--port={self.port}"]
        base += ["--auth=off", "--tls=off", "--domain=msmtp.example", f"--from={SENDER}"]
        for header in ("from", "date", "msgid"):
            base.append(f"--set-{header}-header=off")
        for path in self.files(lambda content: content.replace(b"\r\n", b"\n")):
            run([*base, "--", RECIPIENT], data=path.read_bytes())
        self.compare({sample.name: sample.content for sample in samples()})


class PostfixClient(Client):
    needs = ("postfix",)

    def test_hundred_messages_with_a_relayhost(self) -> None:
        postfix = peers.Postfix(self, relayhost=f"[127.0.0.1]:{self.port}")
        for sample in samples():
            postfix.submit(SENDER, [RECIPIENT], sample.content)
        self.compare({sample.name: sample.content for sample in samples()})


class EximClient(Client):
    needs = ("exim",)

    def test_hundred_messages_with_a_smarthost(self) -> None:
        exim = peers.Exim(self, self.port)
        for sample in samples():
            exim.submit(SENDER, [RECIPIENT], sample.content)
        self.compare({sample.name: sample.content for sample in samples()})

    def test_hundred_messages_by_bdat(self) -> None:
        exim = peers.Exim(self, self.port, chunking=True)
        for sample in samples():
            exim.submit(SENDER, [RECIPIENT], sample.content)
        self.compare({sample.name: sample.content for sample in samples()})
