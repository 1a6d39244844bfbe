"""What a session waits for, and who looks whether it has waited long enough."""

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

    @property
    def first_looks(self) -> FirstLooks:
        """At the sessions that have just begun."""


class FirstLooks:
    """The first look at each session, in the order in which they began: one timer for all.

    Most sessions are over before theirs is due, and so never have a timer of their own.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._due: dict[SessionDeadlines, float] = {}  # in the clock's seconds, never falling
        self._latest = 0.0
        self._timer: IDelayedCall | None = None

    def add(self, session: SessionDeadlines, seconds: float) -> float:
        """Have it looked at after so many seconds; when that is, or 0.0 if it is not to be had."""
        now = self._clock.seconds()
        due = now + seconds
        if due < self._latest and self._due:
            return 0.0  # deadlines have become shorter: those before it are due later
        self._latest = self._due[session] = due
        if self._timer is None:
            self._timer = self._clock.callLater(seconds, self._look)
        return due

    def forget(self, session: SessionDeadlines) -> None:
        """It needs none."""
        self._due.pop(session, None)
        if not self._due and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._due:
            session, due = next(iter(self._due.items()))
            if due > now:
                self._timer = self._clock.callLater(due - now, self._look)
                return
            del self._due[session]
            session.look_for_itself(0.0)


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
        self._rings = 0.0  # when it is looked at; 0: not any more, or not yet

    @property
    def seconds(self) -> float:
        """How long the session has lasted."""
        return max(self._reactor.seconds() - self._began, 0.0)

    def begin(self) -> None:
        """From now on it is watched."""
        soon = self._watch.deadlines.shortest
        self._rings = self._watch.first_looks.add(self, soon)
        if not self._rings:
            self.look_for_itself(soon)

    def look_for_itself(self, seconds: float) -> None:
        """After so many seconds, with a timer of its own."""
        self._timer = self._reactor.callLater(seconds, self._tick)
        self._rings = self._reactor.seconds() + seconds

    def end(self) -> None:
        """It is over."""
        self._late = _nobody  # or session and deadlines would hold each other
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        else:
            self._watch.first_looks.forget(self)
        self._rings = 0.0

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
        if deadline >= self._rings:
            return
        left = max(deadline - self._reactor.seconds(), 0.0)
        if self._timer is None:
            self._watch.first_looks.forget(self)
            self.look_for_itself(left)
        else:
            self._timer.reset(left)
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
        self.look_for_itself(self._soon(deadlines))
