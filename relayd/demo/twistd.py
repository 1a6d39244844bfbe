"""A twistd as a child process: its output line by line, its end, and a clean stop."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IProcessTransport, IReactorProcess
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import relayd


class Twistd(ProcessProtocol):
    """Starts once; every line it writes is kept in `log` and told to `on_line`."""

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.log = log
        self.on_line: Callable[[str], None] = lambda line: None
        self.on_end: Callable[[str], None] = lambda status: None
        self._command = [_twistd(), *arguments]
        self._rest = b""
        self._lines: list[str] = []
        self._process: IProcessTransport | None = None
        self._ended: Deferred[None] = Deferred()

    @property
    def shown(self) -> str:
        """The command line as one would type it."""
        program = os.path.relpath(self._command[0])
        return " ".join([program, *(word for word in self._command[1:] if word != "--pidfile=")])

    def start(self, reactor: IReactorProcess) -> None:
        """Start the process."""
        self.log.write_bytes(b"")
        # the plugin is found beside this very relayd, installed or not
        found = [str(Path(relayd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        self._process = reactor.spawnProcess(
            self,
            sys.executable,
            [sys.executable, *self._command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, found))},
        )

    def outReceived(self, data: bytes) -> None:
        """Standard output."""
        with self.log.open("ab") as file:
            file.write(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            text = line.decode("utf-8", "replace")
            self._lines = [*self._lines[-49:], text]
            self.on_line(text)

    errReceived = outReceived

    def processEnded(self, reason: Failure) -> None:
        """It is gone."""
        self._process = None
        self.on_end(reason.getErrorMessage())
        self._ended.callback(None)

    def tail(self) -> str:
        """The last lines it wrote."""
        return "\n".join(self._lines[-15:])

    def stop(self) -> Deferred[None]:
        """SIGTERM; fires when it has ended."""
        if self._process is None:
            return succeed(None)
        self._process.signalProcess("TERM")
        waiting: Deferred[None] = Deferred()
        self._ended.chainDeferred(waiting)
        return waiting


def _twistd() -> str:
    """The twistd of this Python; Debian calls its own twistd3."""
    beside = Path(sys.executable).with_name("twistd")
    return str(beside) if beside.exists() else shutil.which("twistd3") or "twistd"
