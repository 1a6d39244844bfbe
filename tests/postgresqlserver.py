"""A PostgreSQL of the test's own: an ordinary user's, on a socket in a folder that goes with it."""

from __future__ import annotations

import atexit
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import psycopg

from relayd.spool.postgresql import schema

# Debian's, a folder for each version, and the newest is taken; they are in nobody's PATH
PROGRAMS = os.environ.get("RELAYD_POSTGRESQL", "/usr/lib/postgresql")
PATIENCE = 180.0  # seconds
SOCKET = ".s.PGSQL.5432"


def _programs() -> Path:
    found = sorted(Path(PROGRAMS).glob("*/bin"), key=lambda each: float(each.parent.name))
    if not found:
        raise FileNotFoundError("PostgreSQL (apt-get install postgresql)")
    return found[-1]


def _user() -> dict[str, Any]:
    """Whose its processes are: PostgreSQL refuses to be root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


def _folder(prefix: str) -> Path:
    made = Path(tempfile.mkdtemp(prefix=prefix))
    _give(made)
    return made


def _give(folder: Path) -> None:
    if _user():
        there = pwd.getpwnam("postgres")
        os.chown(folder, there.pw_uid, there.pw_gid)


def _run(*words: object) -> None:
    subprocess.run([*map(str, words)], check=True, capture_output=True, cwd="/", **_user())


@lru_cache(1)
def _empty() -> Path:
    """A database with nothing in it, to be copied: to make one takes ten times as long."""
    folder = _folder("pg-empty-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _run(_programs() / "initdb", "-D", folder / "data", "-A", "trust", "-U", "relayd", "-E", "UTF8",
         "-N", "--locale=C", "--wal-segsize=1")  # fmt: skip
    return folder / "data"


class PostgresqlServer:
    """Runs from its making until `stop`. It writes nothing to the disk before it has to."""

    def __init__(
        self,
        *settings: str,
        inside: Path | None = None,
        behind: PostgresqlServer | None = None,
        name: str = "",
    ) -> None:
        """`inside`: a folder for its data. `behind`: it follows that one, there known by `name`."""
        self.programs = _programs()
        self.folder = _folder("pg-")
        self.data = (inside or self.folder) / "data"
        self._settings = settings
        if inside is not None:
            inside.mkdir(exist_ok=True)
            _give(inside)
        if behind is None:
            _run("cp", "-a", _empty(), self.data)
        else:
            primary = f"host={behind.folder} user=relayd application_name={name}"
            _run(self.programs / "pg_basebackup", "-D", self.data, "-R", "-c", "fast",
                 "--no-sync", "-d", primary)  # fmt: skip
        self.where = f"host={self.folder} user=relayd dbname=postgres"
        self.start()

    def start(self) -> None:
        """Run it, and wait until it answers."""
        settings = (
            "listen_addresses=",
            f"unix_socket_directories={self.folder}",
            "fsync=off",
            "shared_buffers=16MB",
            "max_connections=40",
            *self._settings,
        )
        words = [word for each in settings for word in ("-c", each)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.data), *words],
                stdout=log,
                stderr=log,
                cwd="/",
                **_user(),
            )
        ready = [str(self.programs / "pg_isready"), "-q", "-h", str(self.folder)]
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(ready, cwd="/").returncode != 0:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def halt(self, how: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT in order, SIGQUIT as if the power were cut."""
        self.process.send_signal(how)
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        """SIGKILL for all of it at once, as when its machine has lost its power."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait(PATIENCE)

    def promote(self) -> None:
        """A standby takes the place of its primary."""
        _run(self.programs / "pg_ctl", "promote", "-D", self.data)

    def stop(self) -> None:
        """End it for good."""
        if self.process.poll() is None:
            self.halt(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)


@lru_cache(1)
def _shared() -> PostgresqlServer:
    """One for all tests of a process that break nothing in it: it takes seconds to begin."""
    server = PostgresqlServer()
    atexit.register(server.stop)
    return server


def empty_spool(server: PostgresqlServer | None = None) -> str:
    """How to reach a spool with nothing in it."""
    where = (server or _shared()).where
    with psycopg.connect(where, autocommit=True) as connection:
        connection.execute("SET client_min_messages TO warning")
        connection.execute("DROP SCHEMA IF EXISTS relayd CASCADE")
        assert schema.create(connection)
    return where


class Wire:
    """Stands between a node and its database, and cuts the line at a COMMIT when told to.

    While `flowing` is not set nothing passes, either way; while `up` is not, nothing to the
    database, and while `down` is not, nothing from it. It comes late.
    """

    def __init__(self, folder: Path, server: PostgresqlServer) -> None:
        self.where = f"host={folder} user=relayd dbname=postgres"
        self.cut = ""  # "before": the next COMMIT does not arrive; "after": its answer does not
        self.cuts = 0
        self.flowing = threading.Event()
        self.up, self.down = threading.Event(), threading.Event()
        for each in (self.flowing, self.up, self.down):
            each.set()
        self._unheard: set[socket.socket] = set()
        self._behind = str(server.folder / SOCKET)
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / SOCKET))
        self._listening.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                far = socket.socket(socket.AF_UNIX)
                try:
                    far.connect(self._behind)
                except OSError:  # it is away
                    near.close()
                    far.close()
                    continue
                for way in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(*way, near), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if self.cut == "answer":  # also where COMMIT is a prepared statement
                    if source is not near and b"COMMIT\0" in data:
                        self.cut = ""
                        break
                elif self.cut and source is near and b"COMMIT" in data:
                    how, self.cut = self.cut, ""
                    self.cuts += 1
                    if how == "before":
                        break
                    self._unheard.add(target)
                elif source in self._unheard:  # the answer
                    break
                self.flowing.wait()
                (self.up if source is near else self.down).wait()
                target.sendall(data)
        for each in (source, target):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
