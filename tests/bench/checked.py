"""What checks cost: relayd bare, and with SPF, DKIM and one milter on a unix socket, in turns.

    python -m tests.bench.checked [--messages N] [--pairs N]

Each sends the same signed message of 5,000 octets; the name server is a real one, and what it says
is in the cache after the first message. The milters: one of these tests' that wants to hear all
and has nothing to say, and OpenDKIM, which verifies the signature once more. The figure that
counts is the ratio to the bare relayd within a pair. What the milters themselves take is part of
the rate, for they run on the same machine, and not of the CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import dkim
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.bench.jobs import Job
from tests.bench.relay_bench import bench, table
from tests.bench.servers import Relayd, Server
from tests.scenarios.harness import CHECKOUT, Process, free_port, program, wait_until

SENDER = "source.example"  # the domain of the job's sender
KEY = f"s._domainkey.{SENDER}"
_RULES = """\
resolver 127.0.0.1:{dns}
milter asked unix:{socket}
ask asked
header add X-Forged "yes" when spf fail
header add X-Broken "yes" when dkim fail
"""
_LINE = b"Some text in a line of about sixty octets, with a few words.\n"


class Letter:
    """A signed message in a file, and what the DNS has about it."""

    def __init__(self, folder: Path, size: int = 5000) -> None:
        key = generate_private_key(65537, 2048)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.record = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
        header = f"From: ann@{SENDER}\nTo: user@example.com\nSubject: as usual\n\n".encode()
        content = header + _LINE * ((size - len(header)) // len(_LINE))
        field = dkim.sign(
            content.replace(b"\n", b"\r\n"), b"s", SENDER.encode(), secret,
            canonicalize=(b"relaxed", b"relaxed"),
        )  # fmt: skip
        self.file = folder / "letter"
        self.file.write_bytes(field.replace(b"\r\n", b"\n") + content)

    @property
    def zone(self) -> str:
        """A key is longer than one string of a TXT record may be."""
        strings = " ".join(f'"{self.record[at : at + 250]}"' for at in range(0, 1000, 250))
        policy = '"v=spf1 ip4:127.0.0.0/8 -all"'
        return f"{SENDER}. 3600 TXT {policy}\n{KEY}. 3600 TXT {strings}\n"


class Quiet(asyncio.Protocol):
    """A milter that hears everything and says nothing but that it may go on."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A session."""
        self._transport = transport
        self._data = b""

    def data_received(self, data: bytes) -> None:
        """Answer each packet that wants one."""
        data, answers = self._data + data, []
        while len(data) >= 4:
            (length,) = struct.unpack_from("!I", data)
            if len(data) < 4 + length:
                break
            letter, data = data[4:5], data[4 + length :]
            if letter == b"O":
                answers.append(struct.pack("!IcIII", 13, b"O", 6, 0, 0))
            elif letter not in b"DAQ":
                answers.append(b"\0\0\0\1c")
        self._data = data
        self._transport.write(b"".join(answers))  # type: ignore[attr-defined]


async def quiet(path: str) -> None:
    """Serve until killed."""
    server = await asyncio.get_running_loop().create_unix_server(Quiet, path, backlog=600)
    await server.serve_forever()


class Witnesses:
    """A name server, a milter that has nothing to say, and the rules that have them asked."""

    def __init__(self, folder: Path, letter: Letter) -> None:
        self._folder = folder
        self._letter = letter
        self._processes: list[Process] = []
        self._dns, self._socket = free_port(), folder / "milter"
        self.rules = _RULES.format(dns=self._dns, socket=self._socket)

    def __enter__(self) -> Witnesses:
        """Start them."""
        zone = self._folder / "zone"
        zone.write_text(self._letter.zone)
        try:
            served = self._start_ours("tests.dnsserver", "127.0.0.1", str(self._dns), str(zone))
            wait_until(lambda: "listening" in served.log(), "the name server listens")
            self._start_milter()
            wait_until(self._socket.exists, "the milter listens")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        """End them."""
        for each in self._processes:
            each.kill()

    def _start_milter(self) -> None:
        self._start_ours("tests.bench.checked", "--milter", str(self._socket))

    def _start_ours(self, *words: str) -> Process:
        return self._start([sys.executable, "-m", *words], words[0])

    def _start(self, command: list[str], name: str) -> Process:
        process = Process(
            command,
            self._folder / name,
            cwd=self._folder,
            environment={"PYTHONPATH": str(CHECKOUT)},
        )
        self._processes.append(process)
        return process


class WithOpendkim(Witnesses):
    """The same with Debian's OpenDKIM as the milter."""

    def _start_milter(self) -> None:
        keys, conf = self._folder / "keys", self._folder / "opendkim.conf"
        keys.write_text(f"{KEY} {self._letter.record}\n")
        conf.write_text(
            f"Syslog no\nMode v\nUMask 000\nSocket local:{self._socket}\n"
            f"TestPublicKeys {keys}\nInternalHosts 192.0.2.1\nRequireSafeKeys no\n"
        )
        self._start([program("opendkim"), "-f", "-x", str(conf)], "opendkim")


class Checked(Relayd):
    """relayd that looks at SPF and DKIM, and asks a milter."""

    name = "quiet-milter"
    letter: Letter
    witnesses: type[Witnesses] = Witnesses

    def start(self) -> None:
        """With those whom it asks before it."""
        self._witnesses = self.witnesses(self.folder, self.letter)
        self._witnesses.__enter__()
        try:
            super().start()
        except BaseException:
            self._witnesses.__exit__()
            raise

    def stop(self) -> None:
        """All of them."""
        super().stop()
        self._witnesses.__exit__()

    def _rules(self) -> Iterator[str]:
        yield from super()._rules()
        yield self._witnesses.rules


class CheckedByOpendkim(Checked):
    """The same with Debian's OpenDKIM as the milter."""

    name = "opendkim"
    witnesses = WithOpendkim

    @classmethod
    def missing(cls) -> str:
        """Its program."""
        try:
            program("opendkim")
        except FileNotFoundError:
            return "opendkim (Debian: apt-get install opendkim)"
        return ""


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=3000)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--milter", default="", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.milter:
        asyncio.run(quiet(options.milter))
        return 0
    kinds: list[type[Server]] = [Relayd, Checked]
    lacking = CheckedByOpendkim.missing()
    if lacking:
        print(f"left out: {CheckedByOpendkim.name}, which needs {lacking}")
    else:
        kinds.append(CheckedByOpendkim)
    with tempfile.TemporaryDirectory(prefix="checked-", dir="/var/tmp") as name:
        base = Path(name)
        base.chmod(0o755)
        Checked.letter = Letter(base)
        Checked.letter.file.chmod(0o644)
        job = Job("5k-signed", options.messages, file=Checked.letter.file)
        runs = bench(job, kinds, options.pairs, base)
    print(table(runs, {}, Relayd.name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
