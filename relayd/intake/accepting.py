"""Which of several workers takes the next connection; all of them wait at the same sockets.

Left to chance, sessions that shared a COMMIT and come back together would be scattered over the
workers, and two workers would cost a quarter more than one. Here a worker takes as many as it
lacks of its share, so what leaves it together comes back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.shared.sessioncounts import SessionCounts

PATIENCE = 0.1  # seconds a connection waits at most for a worker that hangs
WINDOW = 1.0  # seconds; a share is one of the most sessions of the last two of these
_MANY = 1000  # connections taken in one go by whoever may take all


class AcceptBalancer:
    """Takes connections for this worker, or leaves them to one that has fewer sessions.

    A worker's share is its part of the most sessions there have lately been in all. Up to it the
    worker listens; beyond, only when no other has fewer. Somebody always listens: who steps back
    makes sure of another first, and looks again when PATIENCE is over, for that one may hang. Who
    takes more than its share calls one that has fewer and may not know.
    """

    def __init__(self, reactor: Any, session_counts: SessionCounts) -> None:  # noqa: ANN401 - time and readers
        self.sessions = 0
        self._reactor = reactor
        self._session_counts = session_counts
        self._gates: list[_Gate] = []
        self._bell = _Bell(session_counts, self._called)
        self._listening = False
        self._look_again: IDelayedCall | None = None
        self._most = self._most_before = 0  # sessions in all, in this window and in the last
        self._window = 0.0  # when it began

    def open(self, ports: list[Any]) -> None:
        """Take connections from these (twisted.internet.tcp.Port), which listen already."""
        for port in ports:
            port.stopReading()
            self._gates.append(_Gate(port, self._knocked))
        self._reactor.addReader(self._bell)
        self._listen()

    def close(self) -> None:
        """Take no more."""
        self._set_readers(reading=False)
        self._reactor.removeReader(self._bell)
        self._gates.clear()
        self._listening = False
        self._session_counts.clear()
        if self._look_again is not None:
            self._look_again.cancel()
            self._look_again = None

    def count(self, change: int) -> None:
        """So many more sessions of this worker, or (negative) fewer."""
        self.sessions += change
        if self._gates:
            self._session_counts.tell(self.sessions, listening=self._listening)
            if change < 0:
                self._called()

    def _called(self) -> None:
        """Perhaps it is our turn."""
        if not self._listening and self._room():
            self._listen()

    def _knocked(self, gate: _Gate) -> None:
        """A connection waits, if no other worker has it by now."""
        room = self._room()
        if room or not self._step_back():
            gate.take(room or 1)

    def _room(self) -> int:
        """How many connections are ours to take."""
        others = self._session_counts.others()
        if not others:
            return _MANY
        most = self._most_lately(self.sessions + sum(others))
        share = -(-most // (len(others) + 1))
        return max(share - self.sessions, int(self.sessions <= min(others)))

    def _most_lately(self, sessions: int) -> int:
        """The most there were in all; `sessions` there are now."""
        now = self._reactor.seconds()
        if now - self._window > WINDOW:
            self._most_before = self._most if now - self._window <= 2 * WINDOW else 0
            self._window, self._most = now, 0
        self._most = max(self._most, sessions)
        return max(self._most, self._most_before)

    def _step_back(self) -> bool:
        """Leave what comes to another, if there is one."""
        if not self._session_counts.someone_listens_below(self.sessions):
            self._session_counts.call_the_fewest()
            return False
        self._session_counts.tell(self.sessions, listening=False)
        if not self._session_counts.someone_listens_below(
            self.sessions
        ):  # it counted on us just now
            self._session_counts.tell(self.sessions, listening=True)
            return False
        self._listening = False
        self._set_readers(reading=False)
        if self._look_again is None:
            self._look_again = self._reactor.callLater(PATIENCE, self._look)
        return True

    def _listen(self) -> None:
        self._listening = True
        self._session_counts.tell(self.sessions, listening=True)
        self._set_readers(reading=True)

    def _look(self) -> None:
        """What waits although others should have taken it is served here."""
        self._look_again = None
        if self._listening:
            return
        if not self._session_counts.someone_is_due():
            for gate in self._gates:
                gate.take(_MANY)
        if self._room():
            self._listen()
        else:
            self._look_again = self._reactor.callLater(PATIENCE, self._look)

    def _set_readers(self, *, reading: bool) -> None:
        change = self._reactor.addReader if reading else self._reactor.removeReader
        for gate in self._gates:
            change(gate)


@implementer(IReadDescriptor)
class _Gate:
    """Stands at the reactor in a listening port's place."""

    def __init__(self, port: Any, knocked: Callable[[_Gate], None]) -> None:  # noqa: ANN401
        self._port = port
        self._knocked = knocked

    def take(self, most: int) -> None:
        """Accept so many of the connections that wait, if there are as many."""
        self._port.numberAccepts = most
        self._port.doRead()

    def fileno(self) -> int:
        """The listening socket."""
        descriptor: int = self._port.fileno()
        return descriptor

    def logPrefix(self) -> str:
        """For Twisted's log."""
        prefix: str = self._port.logPrefix()
        return prefix

    def doRead(self) -> None:
        """A connection waits."""
        self._knocked(self)

    def connectionLost(self, reason: Failure) -> None:
        """The socket is gone."""
        self._port.connectionLost(reason)


@implementer(IReadDescriptor)
class _Bell:
    """Rings when another worker has more than its share."""

    def __init__(self, session_counts: SessionCounts, called: Callable[[], None]) -> None:
        self._session_counts = session_counts
        self._called = called

    def fileno(self) -> int:
        """What is readable when it rings."""
        return self._session_counts.bell

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return "bell"

    def doRead(self) -> None:
        """It rings."""
        self._session_counts.heard()
        self._called()

    def connectionLost(self, reason: Failure) -> None:
        """Only if this breaks; there is no other end."""
