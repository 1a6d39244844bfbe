"""The way of one message through the code: files, functions and calls, station by station.

    python -m tests.bench.way [--recipients N] [--files] [--checked]

A relayd in this very process, with one worker; on loopback a client that says one command at a
time, and a sink with PIPELINING. After a warm-up message `sys.setprofile` counts each call of a
function of ours, in the reactor's thread and in the spool's. A coroutine or generator that goes on
counts as a call. Counts, and no time: so no machine distorts them.

With `--checked` the message is signed, and relayd looks at it as in tests/bench/checked.py: SPF,
DKIM and a milter on a unix socket that hears all and has nothing to say.
"""

from __future__ import annotations

import argparse
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, FrameType
from typing import IO

from relayd.reactor.lean import own_reactor
from relayd.service import app

ROOT = Path(app.__file__).resolve().parents[1]
STATIONS = ("accept to EHLO", "MAIL", "RCPT", "content", "commit", "dispatch to sent", "settle")
BEATS = (  # they go on, message or no message
    "/ops/watchdog.py",
    "/reactor/lean.py",
    "/relay/tokens.py",
    "/service/watch.py",
    "/tls/renewal.py",
)
QUIET = 0.3  # seconds without a call of ours: the message is through

CONFIG = """\
hostname gw.example.net
spool    {folder}/spool
listen   127.0.0.1:{port}
workers  1
accept   from 127.0.0.1
next-hop sink smtp 127.0.0.1:{sink}
forward  @example.com -> @example.net
route    any via sink
"""


class Way:
    """Counts of one message. The client says when a station begins; two begin by themselves."""

    def __init__(self) -> None:
        self.station: str | None = None
        self.calls: Counter[tuple[str, CodeType]] = Counter()
        self.below = 0  # calls of Twisted's own
        self.at = 0.0  # when the last call was counted

    def profile(self, frame: FrameType, event: str, _argument: object) -> None:
        """For sys.setprofile."""
        if event != "call" or self.station is None:
            return
        code = frame.f_code
        if not code.co_filename.startswith(f"{ROOT}/") or code.co_filename.endswith(BEATS):
            self.below += "/twisted/" in code.co_filename
            return
        begins = _BEGINS.get((Path(code.co_filename).stem, code.co_name))
        if begins is not None:
            self.station = begins
        self.calls[self.station, code] += 1
        self.at = time.monotonic()

    def files(self) -> Iterator[str]:
        """What the message visits, below relayd/."""
        found = {Path(code.co_filename) for _, code in self.calls}
        yield from sorted(str(path.relative_to(ROOT)) for path in found)


# entered in the same turn in which the station before ends
_BEGINS = {
    ("dispatch", "accept"): "dispatch to sent",
    ("settling", "record"): "settle",
}


def main(arguments: Sequence[str] = sys.argv[1:]) -> int:
    """Send one message and tell its way."""
    parser = argparse.ArgumentParser(prog="way", description=__doc__)
    parser.add_argument("--recipients", type=int, default=20, help="of the second message")
    parser.add_argument("--files", action="store_true", help="each file, with its calls")
    parser.add_argument("--checked", action="store_true", help="with SPF, DKIM and a milter")
    options = parser.parse_args(arguments)
    one, many = measured(1, options.recipients, checked=options.checked)
    print("| station | files | functions | calls |\n|---|---:|---:|---:|")
    for station in STATIONS:
        codes = {code: count for (at, code), count in one.calls.items() if at == station}
        files = {code.co_filename for code in codes}
        print(f"| {station} | {len(files)} | {len(codes)} | {sum(codes.values())} |")
    visited, calls = len(set(one.files())), one.calls.total()
    print(f"| **all** | {visited} | {_functions(one)} | **{calls}** |")
    if options.recipients > 1:
        further = (many.calls.total() - calls) / (options.recipients - 1)
        print(f"| each further recipient | | | **{further:.0f}** |")
    if options.checked:
        print(f"| Twisted's own, beside them | | | {one.below} |")
    if options.files:
        by_file: Counter[str] = Counter()
        for (_, code), count in one.calls.items():
            by_file[str(Path(code.co_filename).relative_to(ROOT))] += count
        for name, count in by_file.most_common():
            print(f"{count:5} {name}")
    return 0


def measured(*recipients: int, checked: bool = False) -> list[Way]:
    """The way of a message to so many recipients, for each number given."""
    ways: list[Way] = []
    with ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="relayd-way-"))
        sink = stack.enter_context(_sink())
        content, rules = _content(), ""
        if checked:
            content, rules = stack.enter_context(_checks(Path(name)))
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port: int = probe.getsockname()[1]
        config = Path(name, "relayd.conf")
        config.write_text(CONFIG.format(folder=name, port=port, sink=sink) + rules)
        counting = Way()
        relay = _Relay(config, counting)

        def client() -> None:
            try:
                for _ in range(2):
                    _send(port, content, 1, lambda _station: None)
                time.sleep(QUIET)
                for count in recipients:
                    counting.calls, counting.below = Counter(), 0

                    def enter(station: str | None) -> None:
                        counting.station = station

                    _send(port, content, count, enter)
                    while time.monotonic() < counting.at + QUIET:
                        time.sleep(0.01)
                    counting.station = None
                    way = Way()
                    way.calls, way.below = counting.calls, counting.below
                    ways.append(way)
            finally:
                relay.stop()

        relay.run(client)
    return ways


class _Relay:
    """relayd in this process: the reactor of this thread, profiled."""

    def __init__(self, config: Path, way: Way) -> None:
        self._way = way
        threading.setprofile(way.profile)  # for the threads that the spool starts
        log = app.Options()
        log.parseOptions(["--config", str(config)])
        twistd = {"logfile": str(config.with_name("log")), "nodaemon": True}
        log.parent = twistd  # type: ignore[assignment]  # as twistd has it
        self._service = app.makeService(log)
        self._reactor = own_reactor()

    def run(self, client: Callable[[], None]) -> None:
        """Until `stop`; `client` runs in a thread of its own, which is not counted."""
        service = self._service
        service.privilegedStartService()
        service.startService()
        threading.setprofile(None)
        threading.Thread(target=client, daemon=True).start()
        sys.setprofile(self._way.profile)
        try:
            self._reactor.run(installSignalHandlers=False)
        finally:
            sys.setprofile(None)

    def stop(self) -> None:
        """From another thread."""
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        stopped = self._service.stopService()
        assert stopped is not None
        stopped.addBoth(lambda _: self._reactor.stop())


def _functions(way: Way) -> int:
    return len({code for _, code in way.calls})


def _content() -> bytes:
    return b"Subject: way\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 76 + b"\r\n") * 62  # 5 KB


@contextmanager
def _checks(folder: Path) -> Iterator[tuple[bytes, str]]:
    """A signed message, and rules that look at it: with who is asked, in processes."""
    from tests.bench.checked import Letter, Witnesses  # with a cryptography that others need not

    letter = Letter(folder)
    with Witnesses(folder, letter) as witnesses:
        yield letter.file.read_bytes().replace(b"\n", b"\r\n"), witnesses.rules


def _send(port: int, content: bytes, recipients: int, enter: Callable[[str | None], None]) -> None:
    """One message in a session of its own, a command at a time."""
    enter(STATIONS[0])
    with socket.create_connection(("127.0.0.1", port)) as connection:
        replies = connection.makefile("rb")
        _hear(replies)
        _ask(connection, replies, b"EHLO client.example.net")
        enter("MAIL")
        _ask(connection, replies, b"MAIL FROM:<a@source.example>")
        enter("RCPT")
        for number in range(recipients):
            _ask(connection, replies, b"RCPT TO:<b%d@example.com>" % number)
        enter("content")
        _ask(connection, replies, b"DATA")
        connection.sendall(content)
        time.sleep(0.05)  # so that the content is not read with its end
        enter("commit")
        connection.sendall(b".\r\n")
        _hear(replies)
        time.sleep(0.05)
        _ask(connection, replies, b"QUIT")


def _ask(connection: socket.socket, replies: IO[bytes], command: bytes) -> None:
    connection.sendall(command + b"\r\n")
    _hear(replies)


def _hear(replies: IO[bytes]) -> None:
    while (line := replies.readline())[3:4] == b"-":
        pass
    if line[:1] not in b"23":
        raise AssertionError(line)


@contextmanager
def _sink() -> Iterator[int]:
    """A next hop that takes everything, in threads that are not counted; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening,), daemon=True).start()
        yield listening.getsockname()[1]


def _accept(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    """With PIPELINING: what was read together is answered together (RFC 2920 section 3.2)."""
    content = False
    held = b""
    with connection:
        connection.sendall(b"220 sink\r\n")
        while data := connection.recv(65536):
            *lines, held = (held + data).split(b"\r\n")
            replies = []
            for line in lines:
                verb = line[:4].upper()
                if content:
                    content = line != b"."
                    replies += [] if content else [b"250 taken\r\n"]
                elif verb == b"EHLO":
                    replies.append(b"250-sink\r\n250-PIPELINING\r\n250 8BITMIME\r\n")
                elif verb == b"DATA":
                    content = True
                    replies.append(b"354 go on\r\n")
                else:
                    replies.append(b"250 so be it\r\n")
            connection.sendall(b"".join(replies))


if __name__ == "__main__":
    sys.exit(main())
