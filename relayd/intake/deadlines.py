"""What a session waits for, and the one timer that says when it has waited long enough."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.intake.limits import Deadlines


class SessionPhase(enum.Enum):
    """What the session waits for."""

    COMMAND = "command"  # the next command line
    CONTENT = "content"
    VERDICT = "verdict"  # somebody who is asked, the accounts at a login among them
    EXAMINATION = "examination"  # ... with the content at hand
    COMMIT = "commit"  # the spool: nothing a peer does shortens or prolongs it
    HANDSHAKE = "handshake"  # STARTTLS was answered
    CLOSING = "closing"  # for the peer to take the last reply


class Watch(Protocol):
    """As much of relayd.intake.smtpservice.SmtpService as the deadlines need."""

    @property
    def reactor(self) -> IReactorTime:
        """The clock."""

    @property
    def deadlines(self) -> Deadlines:
        """Those now in force."""


def _nobody() -> None:
    """There is nobody left who could be late."""


class SessionDeadlines:
    """Watches one session. A deadline belongs to the phase, not to the last octet.

    `late` is called when a phase has lasted too long. The timer is most often too early, because
    the session has moved on since it was set: setting it anew each time would cost more than to
    look once in vain.
    """

    def __init__(self, watch: Watch, late: Callable[[], None]) -> None:
        self.phase = SessionPhase.COMMAND
        self.octets = 0  # of content in this window
        self._watch = watch
        self._reactor = watch.reactor
        self._late = late
        self._began = self._since = self._fruitful = self._reactor.seconds()
        self._timer: IDelayedCall | None = None
        self._rings = 0.0  # when the timer is due

    @property
    def seconds(self) -> float:
        """How long the session has lasted."""
        return max(self._reactor.seconds() - self._began, 0.0)

    def begin(self) -> None:
        """From now on it is watched."""
        deadlines = self._watch.deadlines
        soon = min(deadlines.command, deadlines.barren, deadlines.content)
        self._timer = self._reactor.callLater(soon, self._tick)
        self._rings = self._reactor.seconds() + soon

    def end(self) -> None:
        """It is over."""
        self._late = _nobody  # or session and deadlines would hold each other
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def enter(self, phase: SessionPhase) -> None:
        """The session waits for something else."""
        self.phase = phase
        self._since = self._reactor.seconds()
        self.octets = 0

    def answered(self) -> None:
        """A command was complete: the time for the next one begins."""
        self._since = self._reactor.seconds()

    def bore_fruit(self) -> None:
        """A message was taken, or refused at its end."""
        self._fruitful = self._reactor.seconds()

    def look(self) -> None:
        """The deadline may have come nearer than the timer knows."""
        deadline = self._deadline(self._watch.deadlines)
        if self._timer is not None and deadline < self._rings:
            self._timer.reset(max(deadline - self._reactor.seconds(), 0.0))
            self._rings = deadline

    def _soon(self, deadlines: Deadlines) -> float:
        """Seconds until the deadline, or until one of a phase that may begin meanwhile."""
        left = max(self._deadline(deadlines) - self._reactor.seconds(), 0.0)
        return min(left, deadlines.command, deadlines.content)

    def _deadline(self, deadlines: Deadlines) -> float:
        """When this phase has lasted too long, in the reactor's seconds."""
        since = self._since
        if self.phase is SessionPhase.COMMAND:
            return min(since + deadlines.command, self._fruitful + deadlines.barren)
        if self.phase is SessionPhase.CONTENT:
            return since + deadlines.content
        if self.phase is SessionPhase.HANDSHAKE:
            return since + deadlines.handshake
        if self.phase is SessionPhase.CLOSING:
            return since + deadlines.close
        if self.phase is SessionPhase.VERDICT:
            return since + deadlines.verdict
        if self.phase is SessionPhase.EXAMINATION:
            return since + deadlines.examination
        return self._reactor.seconds() + deadlines.command  # COMMIT: only looks in

    def _tick(self) -> None:
        self._timer = None
        deadlines = self._watch.deadlines
        if self._reactor.seconds() >= self._deadline(deadlines):
            enough = deadlines.content * deadlines.content_rate
            if self.phase is SessionPhase.CONTENT and self.octets >= enough:
                self.enter(SessionPhase.CONTENT)
            elif self.phase is SessionPhase.CLOSING:
                self._late()
                return
            else:
                self._late()
        soon = self._soon(deadlines)
        self._timer = self._reactor.callLater(soon, self._tick)
        self._rings = self._reactor.seconds() + soon
