"""A relayd by fork: of a process that has loaded it, in place of one that loads it each time.

To load is three quarters of what a start costs, and the scenarios start hundreds. A new relayd has
a session, folder, output, environment and arguments of its own, as by exec; so have its workers,
which are forks as well. This file is the program that is forked, too: it has one thread, no
reactor, and loads nothing but what relayd loads.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from twisted.internet.process import Process

WORKER = "relayd.service.worker"
WORKERS_NAME = "relayd worker"  # what the system calls such a process, at most 15 octets
_DESCRIPTORS = 250  # a message has no room for more
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def is_worker(pid: int) -> bool:
    """Whether this process is a relayd's worker, however it was started."""
    try:
        process = Path(f"/proc/{pid}")
        return (
            process.joinpath("comm").read_text() == f"{WORKERS_NAME}\n"
            or WORKER.encode() in process.joinpath("cmdline").read_bytes()
        )
    except OSError:
        return False


class Forked:
    """A relayd that runs; what `subprocess.Popen` is, as far as scenarios need it."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        stdout: IO[bytes],
        cwd: Path | None,
        env: dict[str, str],
        **_: object,
    ) -> None:
        """`arguments`: a command line as Relayd.command has it: Python, -c, a program, its own."""
        self.args = arguments
        self.returncode: int | None = None
        reading, told = os.pipe()
        try:
            message = json.dumps([["twistd", *arguments[3:]], str(cwd or Path.cwd())]).encode()
            server = _loaded(frozenset(env.items()))
            socket.send_fds(server, [message], [told, stdout.fileno()])
        finally:
            os.close(told)
        self._told = os.fdopen(reading, "rb")
        self.pid = int(self._told.readline())

    def poll(self) -> int | None:
        """The exit status, or the negative number of a signal; None if it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Until it has ended. Raises subprocess.TimeoutExpired."""
        if self.returncode is None:
            ready = select.poll()
            ready.register(self._told)
            if not ready.poll(None if timeout is None else timeout * 1000):
                assert timeout is not None
                raise subprocess.TimeoutExpired(list(self.args), timeout)
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)


@functools.lru_cache(maxsize=1)
def _loaded(environment: frozenset[tuple[str, str]]) -> socket.socket:
    """Where to ask a process with this environment; it ends when nobody can ask any more."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    subprocess.Popen(
        [sys.executable, "-P", __file__],  # whose folder Python is not to look into
        stdin=its.fileno(),
        stdout=subprocess.DEVNULL,
        env=dict(environment),
        start_new_session=True,
    )
    its.close()
    return ours


def _become_relayd() -> None:
    """Returns in each process that is to be one; ends this one when nobody can ask any more."""
    requests = socket.socket(fileno=os.dup(0))
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 65536, 2)
        if not message:
            raise SystemExit
        if (keeper := os.fork()) == 0:
            break
        for each in descriptors:
            os.close(each)
        os.waitpid(keeper, 0)
    requests.close()
    told, output = descriptors
    if os.fork():  # a child of nobody: init has it
        os._exit(0)
    if started := os.fork():
        os.close(output)
        status = os.waitstatus_to_exitcode(os.waitpid(started, 0)[1])
        with contextlib.suppress(BrokenPipeError):
            os.write(told, b"%d\n" % status)
        os._exit(0)
    os.setsid()
    os.write(told, b"%d\n" % os.getpid())
    nothing = os.open(os.devnull, os.O_RDONLY)
    for here, there in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(here, there)
    for each in (nothing, output, told):
        os.close(each)
    sys.argv, folder = json.loads(message)
    os.chdir(folder)


def _fork_workers() -> None:
    """Makes this relayd's workers forks of a child that stays as it is now.

    A worker is to be the relayd's own child: a child that made it and ends hands it on to the next
    ancestor who wants such orphans.
    """
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if os.fork() == 0:
        ours.close()
        _become_worker(its)
    its.close()
    by_exec = Process._fork

    def fork(
        self: Process, path: object, uid: object, gid: object, executable: object,
        args: Sequence[bytes | str], environment: Mapping[bytes | str, bytes | str],
        fdmap: dict[int, int],
    ) -> None:  # fmt: skip
        words = [os.fsdecode(each) for each in args]
        if words[1:3] != ["-m", WORKER]:
            by_exec(self, path, uid, gid, executable, args, environment, fdmap=fdmap)
            return
        named = {os.fsdecode(key): os.fsdecode(value) for key, value in environment.items()}
        message = json.dumps([words[3:], named, [*fdmap]]).encode()
        socket.send_fds(ours, [message], [*fdmap.values()])
        self.pid, self.status = int(ours.recv(64)), -1

    Process._fork = fork  # type: ignore[method-assign, assignment]


def _become_worker(requests: socket.socket) -> None:
    """Never returns: each fork runs as a worker, and this process ends with the relayd."""
    while True:
        message, descriptors, *_ = socket.recv_fds(requests, 1 << 17, _DESCRIPTORS)
        if not message:
            os._exit(0)
        reading, told = os.pipe()
        if (between := os.fork()) == 0:
            if started := os.fork():
                os.write(told, b"%d" % started)
                os._exit(0)
            break
        os.waitpid(between, 0)  # whose child is the relayd's from here on
        requests.send(os.read(reading, 64))
        for each in (reading, told, *descriptors):
            os.close(each)
    Path("/proc/self/comm").write_text(WORKERS_NAME)
    arguments, environment, numbers = json.loads(message)
    Process._setupChild(Process.__new__(Process), dict(zip(numbers, descriptors, strict=True)))
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = [WORKER, *arguments]
    runpy.run_module(WORKER, run_name="__main__", alter_sys=True)
    raise SystemExit


if __name__ == "__main__":
    from twisted.scripts.twistd import run

    import relayd.service.app  # noqa: F401 - what a start is about

    _become_relayd()
    _fork_workers()
    run()
