"""What all sessions of one process share, and what is done to all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from relayd.intake.deadlines import FirstLooks
from relayd.intake.intake import Intake
from relayd.intake.limits import NORMAL, STRESSED, Admission, Deadlines
from relayd.intake.policy import ListenerPolicy
from relayd.smtp.server import SmtpServer


class OpenSession(Protocol):
    """A session, or what may become one, as the service sees it."""

    def tighten(self) -> None:
        """Deadlines have become shorter."""

    def shut_down(self) -> None:
        """Say 421 and close: now, or after the reply to the commit under way."""

    def retire(self) -> None:
        """Say 421 and close as soon as no transaction is open."""

    def abort(self) -> None:
        """Close without another word."""


@dataclass
class SmtpService:
    """What all sessions of this process share."""

    reactor: IReactorTime
    hostname: str
    intake: Intake
    admission: Admission
    make_server: Callable[[ListenerPolicy], SmtpServer]
    policies: Mapping[str, ListenerPolicy]  # by listener, for sessions to come
    normal: Deadlines = NORMAL
    stressed: Deadlines = STRESSED
    sessions: set[OpenSession] = field(default_factory=set)
    count: Callable[[int], None] = lambda change: None  # one more, or one less to take care of
    on_empty: Callable[[], None] = lambda: None  # the last session has ended
    first_looks: FirstLooks = field(init=False)

    def __post_init__(self) -> None:
        """For sessions to come."""
        self.first_looks = FirstLooks(self.reactor)

    @property
    def deadlines(self) -> Deadlines:
        """Those now in force."""
        return self.stressed if self.admission.stressed else self.normal

    def tighten(self) -> None:
        """Deadlines have become shorter: for sessions already open, too."""
        for session in tuple(self.sessions):
            session.tighten()

    def close(self) -> None:
        """Every session ends: at once, or as soon as its commit is done (promise 10)."""
        for session in tuple(self.sessions):
            session.shut_down()

    def retire(self) -> None:
        """Every session ends with the transaction it is in."""
        for session in tuple(self.sessions):
            session.retire()
