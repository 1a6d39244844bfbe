"""The jobs of the benchmark, and how one is sent and counted: smtp-source and smtp-sink."""

from __future__ import annotations

import subprocess
import time
from dataclasses import dataclass, replace
from pathlib import Path

from tests.scenarios.harness import Process, free_port, port_is_open, program, wait_until

LIMIT = 180.0  # seconds until a job has failed


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be relayed."""

    name: str
    messages: int
    size: int = 5000  # octets
    recipients: int = 1
    sessions: int = 20
    reuse: bool = False  # many messages in a session, else one
    aliases: int = 0  # entries of an alias table that every recipient is looked up in
    rewrite: bool = False  # SRS, and a domain rewritten in From: and Reply-To:
    tls: bool = False  # on both sides
    file: Path | None = None  # the message itself, with LF line ends; None: one of `size` octets

    def quick(self) -> Job:
        """A tenth of it, to see that all works."""
        return replace(self, messages=max(self.messages // 10, 20))


JOBS = (
    Job("5k", 5000),
    Job("5k-reuse", 5000, reuse=True),
    Job("5k-200", 4000, sessions=200),
    Job("5k-20rcpt", 1500, recipients=20),
    Job("50k", 1500, size=50_000),
    Job("1m", 300, size=1_000_000),
    Job("aliases", 4000, aliases=100_000),
    Job("rewrite", 4000, rewrite=True),
    Job("tls", 2000, tls=True),
    Job("tls-reuse", 3000, reuse=True, tls=True),
)


class Sink:
    """smtp-sink: takes everything, and counts."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._counts = folder / "sink"
        command = [program("smtp-sink"), "-c", f"127.0.0.1:{self.port}", "1000"]
        self._process = Process(
            [command[0], "-u", "nobody", *command[1:]] if _is_root() else command, self._counts
        )
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), "smtp-sink listens")

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.popen.pid

    @property
    def messages(self) -> int:
        """How many have arrived."""
        with self._counts.open("rb") as file:
            file.seek(max(self._counts.stat().st_size - 200, 0))
            _, found, count = file.read().rpartition(b"mesg=")
        digits = count.partition(b"\r")[0].strip()
        return int(digits) if found and digits.isdigit() else 0

    def wait(self, messages: int, until: float) -> bool:
        """Whether so many have arrived before the time (of time.monotonic)."""
        while self.messages < messages:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def stop(self) -> None:
        """End it."""
        self._process.kill()


def _is_root() -> bool:
    import os

    return os.geteuid() == 0


def send(job: Job, port: int, sink: Sink) -> float:
    """Do the job; seconds from its start to its last message at the sink."""
    before = sink.messages
    options = ["-s", str(job.sessions), "-m", str(job.messages)]
    options += ["-l", str(job.size)] if job.file is None else ["-F", str(job.file)]
    if job.reuse:
        options.append("-d")
    if job.recipients > 1:
        options += ["-r", str(job.recipients)]
    if job.aliases:
        options.append("-N")
    options += ["-f", "sender@source.example", "-t", "user@example.com", f"127.0.0.1:{port}"]
    began = time.monotonic()
    source = subprocess.Popen([program("smtp-source"), *options], stderr=subprocess.PIPE)
    arrived = False
    while not arrived and not source.poll() and time.monotonic() < began + LIMIT:
        arrived = sink.wait(before + job.messages, time.monotonic() + 1.0)
    seconds = time.monotonic() - began
    if source.poll() is None:
        try:
            source.wait(10)
        except subprocess.TimeoutExpired:
            source.kill()
    _, complaints = source.communicate()
    if not arrived or source.returncode != 0:
        raise RuntimeError(
            f"{job.name}: {sink.messages - before} of {job.messages} arrived: "
            + complaints.decode("utf-8", "replace")[-500:]
        )
    return seconds
