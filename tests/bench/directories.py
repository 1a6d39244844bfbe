"""Tables from directories and files of many people, in numbers.

    python -m tests.bench.directories snapshot --rows 1000000
    python -m tests.bench.directories live --keys 100000
    python -m tests.bench.directories scoped --files 10000

`snapshot`: how long a reactor that looks entries up stands still while a directory is read and
taken up, and what that costs; `live`: RCPTs a second whose answers are remembered; `scoped`: how
long it takes to read many files, and one that was changed.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from twisted.internet import reactor as the_reactor
from twisted.internet.task import LoopingCall

from relayd.config import load
from relayd.directories.refresher import Refresher
from relayd.directories.source import TableOrder
from relayd.mail.address import Mailbox
from relayd.rules.language.directory import DirectoryDef
from relayd.rules.subject import Subject
from relayd.rules.tables.snapshot import SnapshotTable
from tests.ports import free_port
from tests.unit.ops.journal import Journal

reactor: Any = the_reactor
BEAT = 0.001  # seconds
BATCH = 100  # recipients of a message
TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"


def _database(path: Path, rows: int, more: int = 0) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    database = sqlite3.connect(fresh)
    database.execute("CREATE TABLE f (alias TEXT PRIMARY KEY, target TEXT)")
    database.executemany(
        "INSERT INTO f VALUES (?, ?)",
        ((f"user{n}@example.com", f"box{n + more}@mail.example.net") for n in range(rows)),
    )
    database.commit()
    database.close()
    fresh.replace(path)


def _resident() -> int:
    """Octets of ours in memory; what is read of the file is the page cache's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


class _Journal(Journal):
    """Knows when a table was taken up."""

    taken = 0

    def notice(self, event: str, **facts: object) -> None:
        """See MailLog."""
        self.taken += event == "table taken up"

    def trouble(self, event: str, **facts: object) -> None:
        """See MailLog."""
        sys.stderr.write(f"{event} {facts}\n")


class _Snapshot:
    """A reactor that looks entries up while they are read and taken up."""

    def __init__(self, folder: Path, rows: int) -> None:
        self.database, self.rows = folder / "mail.db", rows
        directory = DirectoryDef(
            "sqlite", str(self.database), query="SELECT alias, target FROM f", refresh=1.0
        )
        path = folder / "tables" / "people"
        self.order = TableOrder("people", directory, (str(folder),), str(path))
        self.table = SnapshotTable("people", "virtual", path, 1e9)
        self.log = _Journal()
        self.refresher = Refresher(reactor, self.log, time.time)
        self.last = self.longest = self.used = self.busiest = 0.0
        self.number = self.looked = 0

    def beat(self) -> None:
        """Some look-ups; and how long it was since the last time."""
        now = time.perf_counter()
        self.longest = max(self.longest, now - self.last)
        self.busiest = max(self.busiest, time.thread_time() - self.used)
        for _ in range(10):
            self.number = (self.number + 7919) % self.rows
            key = Subject(Mailbox(f"user{self.number}", "example.com"))
            self.looked += self.table.known and self.table.find(key) is not None
        self.last, self.used = time.perf_counter(), time.thread_time()

    def until(self, done: Callable[[], bool], seconds: float) -> None:
        """Run, and measure."""
        self.last, self.longest = time.perf_counter(), 0.0
        self.used, self.busiest = time.thread_time(), 0.0
        begun = time.monotonic()

        def look() -> None:
            if done() or time.monotonic() - begun > seconds:
                reactor.crash()

        calls = [LoopingCall(self.beat), LoopingCall(look)]
        calls[0].start(BEAT)
        calls[1].start(0.05)
        reactor.run(installSignalHandlers=True)
        for each in calls:
            each.stop()

    def told(self, what: str, begun: float, before: float) -> None:
        """One row."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = used.ru_utime + used.ru_stime - before
        print(
            f"| {what} | {time.monotonic() - begun:.1f} s | {cpu:.2f} s | "
            f"{self.longest * 1000:.1f} ms | {self.busiest * 1000:.1f} ms | "
            f"{_resident() / 2**20:.0f} MB |",
            flush=True,
        )


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def snapshot(folder: Path, rows: int) -> None:
    """Read; unchanged; another in its place."""
    bench = _Snapshot(folder, rows)
    print("| | took | CPU of the reader | longest stop | ... at work | memory of ours |")
    print("|---|---|---|---|---|---|")
    bench.until(lambda: False, 2.0)
    bench.told("nothing", time.monotonic(), _children())
    for what, more in (("first", 0), ("another", 1)):
        _database(bench.database, rows, more)
        begun, before, taken = time.monotonic(), _children(), bench.log.taken
        if not more:
            bench.refresher.apply([bench.order])
            bench.refresher.start()
        bench.until(lambda taken=taken: bench.log.taken > taken, 600.0)  # type: ignore[misc]
        bench.told(f"{what}: read", begun, before)
        bench.until(lambda: False, 2.0)  # it is noticed within a second
        bench.told(f"{what}: taken up", time.monotonic(), _children())
        begun, before = time.monotonic(), _children()
        bench.until(lambda before=before: _children() > before, 600.0)  # type: ignore[misc]
        bench.told(f"{what}: unchanged", begun, before)
    bench.refresher.stop()
    print(f"{bench.looked:,} entries were looked up")


def live(folder: Path, keys: int) -> None:
    """All keys twice: asked for, and remembered; and the same of a table in a file."""
    _database(folder / "mail.db", keys)
    lines = (f"user{n}@example.com box{n}@mail.example.net\n" for n in range(keys))
    (folder / "people").write_text("".join(lines))
    print("| | RCPTs a second | CPU of relayd for a RCPT |\n|---|---|---|", flush=True)
    asked = 'sqlite file mail.db query "SELECT target FROM f WHERE alias = $1" live cache 1h'
    for table, rounds in ((asked, ("asked for", "remembered")),
                          ("virtual file people", ("a table in a file", "... again"))):  # fmt: skip
        port = free_port()
        config = folder / "relayd.conf"
        config.write_text(
            f"hostname gw.example.com\nspool {folder}/spool\nlisten 127.0.0.1:{port}\n"
            f"workers 1\ntable people {table}\naccept to <people>\nforward <people>\n"
            "route any direct\n"
        )
        server = _started(config)
        try:
            _wait(port)
            for what in rounds:
                begun, before = time.monotonic(), _cpu(server)
                _ask(port, keys)
                used = (_cpu(server) - before) / keys
                rate = keys / (time.monotonic() - begun)
                print(f"| {what} | {rate:,.0f} | {used * 1000:.2f} ms |", flush=True)
        finally:
            server.terminate()
            server.wait()


def _started(config: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", TWISTD, "-n", "--pidfile=", "relayd", "--config", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def _cpu(server: subprocess.Popen[bytes]) -> float:
    """Seconds that it has used."""
    used = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def _greet(line: socket.socket, said: BinaryIO) -> None:
    said.readline()
    line.sendall(b"EHLO client.example\r\n")
    while said.readline()[3:4] == b"-":
        pass


def _wait(port: int) -> None:
    for _ in range(3000):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit("relayd does not listen")


def _ask(port: int, keys: int) -> None:
    """Each address in a RCPT, so many a message, none of which is sent."""
    for first in range(0, keys, 20 * BATCH):
        with socket.create_connection(("127.0.0.1", port)) as line, line.makefile("rb") as said:
            _greet(line, said)
            for begins in range(first, min(first + 20 * BATCH, keys), BATCH):
                numbers = range(begins, min(begins + BATCH, keys))
                text = "".join(f"RCPT TO:<user{number}@example.com>\r\n" for number in numbers)
                line.sendall(f"MAIL FROM:<a@b.example>\r\n{text}RSET\r\n".encode())
                replies = {said.readline()[:3] for _ in range(len(numbers) + 2)}
                if replies != {b"250"}:
                    raise SystemExit(f"{replies}")


def scoped(folder: Path, files: int) -> None:
    """All of them, and then one that was changed."""
    customers = folder / "customers"
    customers.mkdir()
    for number in range(files):
        domain = f"customer{number}.example"
        (customers / f"{domain}.rules").write_text(
            f"table team {{ ann@{domain}, bob@{domain} }}\n"
            f"accept to <team>, info@{domain}\n"
            f'reject to old@{domain} 550 5.1.6 "Moved"\n'
            f"forward info@{domain} -> ann@{domain}, office@example.net\n"
            f'header add X-Customer "{domain}" when to @{domain}\n'
            f"expect to info@{domain} -> ann@{domain}, office@example.net\n"
        )
    (folder / "relayd.conf").write_text(
        f"hostname gw.example.com\nspool {folder}/spool\nnext-hop sink smtp 127.0.0.1:1\n"
        "include customers/*.rules scoped\nroute any via sink\n"
    )
    print("| | took | CPU |\n|---|---|---|")
    for what in ("all", "one of them was changed", "another"):
        begun, cpu = time.monotonic(), time.process_time()
        rules = load(folder / "relayd.conf").ruleset
        print(
            f"| {what} | {time.monotonic() - begun:.2f} s | {time.process_time() - cpu:.2f} s |",
            flush=True,
        )
        changed = customers / f"customer{len(what)}.example.rules"
        changed.write_text(f"accept to {len(what)}@customer{len(what)}.example\n")
    print(f"{len(rules.items):,} statements")
    _running(folder, files)


def _running(folder: Path, files: int) -> None:
    """The same of a relayd that runs, from the word to reload to the answer of a RCPT."""
    port, config = free_port(), folder / "relayd.conf"
    more = f"workers 1\nlisten 127.0.0.1:{port}\ncontrol {folder}/control\n"
    config.write_text(more + config.read_text())
    server = _started(config)
    try:
        _wait(port)
        while not (folder / "control").exists():  # it comes a little later
            time.sleep(0.1)
        for number in range(5):
            domain = f"customer{number * 7 % files}.example"
            (folder / "customers" / f"{domain}.rules").write_text(f"accept to x{number}@{domain}\n")
            begun, before = time.monotonic(), _cpu(server)
            with socket.socket(socket.AF_UNIX) as control:
                control.connect(str(folder / "control"))
                control.sendall(b'{"command": "reload"}\n')
                control.makefile("rb").readline()
            with socket.create_connection(("127.0.0.1", port)) as line, line.makefile("rb") as said:
                _greet(line, said)
                asked = f"MAIL FROM:<a@b.example>\r\nRCPT TO:<x{number}@{domain}>\r\n"
                line.sendall(asked.encode())
                if [said.readline()[:3] for _ in range(2)] != [b"250", b"250"]:
                    raise SystemExit("it is not in force")
            took = time.monotonic() - begun
            time.sleep(1)  # what is kept for the next start is written meanwhile
            print(
                f"| running: one changed | {took:.2f} s | {_cpu(server) - before:.2f} s |",
                flush=True,
            )
    finally:
        server.terminate()
        server.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.bench.directories", description=__doc__)
    parser.add_argument("what", choices=("snapshot", "live", "scoped"))
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--files", type=int, default=10_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "snapshot":
            snapshot(Path(folder), options.rows)
        elif options.what == "live":
            live(Path(folder), options.keys)
        else:
            scoped(Path(folder), options.files)


if __name__ == "__main__":
    main()
