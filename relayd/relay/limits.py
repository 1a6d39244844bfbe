"""How much goes out at a time: the bounds of couriers and lanes."""

from __future__ import annotations

from dataclasses import field

from relayd.mail.value import dataclass
from relayd.smtp.events import TransactionStage
from relayd.spool.queue import Bounds


@dataclass(frozen=True, slots=True)
class RelayLimits:
    """Settings of the relay manager. Times are seconds."""

    deliveries: int = 100  # at a time, over all destinations
    window: int = 20  # at a time to one destination
    first_window: int = 5  # ... before it has shown what it can take (as Postfix)
    looks: int = 8  # looks at the spool's table at a time
    bounds: Bounds = field(default_factory=Bounds)
    connection_messages: int = 100  # after so many a connection is given back
    connection_seconds: float = 300.0  # ... or when it is so old
    idle_seconds: float = 5.0  # how long a connection waits for the next message
    idle_connections: int = 100  # waiting so, over all destinations
    connect: float = 30.0  # one address; as Postfix: the RFC names no limit
    attempt: float = 300.0  # then no further address is tried; they come again next time
    shy: float = 60.0  # so long an address that did not answer is tried after the others

    @property
    def share(self) -> int:
        """Of `deliveries`, how many may go to all destinations of a kind that may not answer.

        The kinds are next hops in trouble, domains in trouble, and domains never reached.
        """
        return max(self.deliveries // 4, 1)

    @property
    def direct(self) -> int:
        """Of `deliveries`, how many may go to domains: the others are for named next hops."""
        return max(self.deliveries - self.deliveries // 10, 1)

    @property
    def opening(self) -> int:
        """The window of a destination of which nothing is known."""
        return min(self.first_window, self.window)


@dataclass(frozen=True, slots=True)
class NextHopDeadlines:
    """Total seconds for each state of a session, by RFC 5321 section 4.5.3.2.

    Total, not idle: a peer that sends an octet now and then gains nothing.
    """

    greeting: float = 300.0  # 4.5.3.2.1
    hello: float = 300.0
    handshake: float = 60.0  # of TLS
    envelope: float = 300.0  # 4.5.3.2.2 and .3: from the last command sent to its reply
    recipient: float = 5.0  # ... and for each RCPT of a transaction on top of that
    data: float = 120.0  # 4.5.3.2.4
    block: float = 180.0  # 4.5.3.2.5: until the peer has taken some of the content
    content: float = 7200.0  # the whole content, so that a drip ends
    end_of_data: float = 600.0  # 4.5.3.2.6
    quit: float = 5.0

    def by_stage(self) -> dict[TransactionStage, float]:
        """The same for each stage that a client can wait in, RCPT without its recipients."""
        seconds = dict.fromkeys(TransactionStage, self.hello)
        seconds[TransactionStage.MAIL] = seconds[TransactionStage.RSET] = self.envelope
        seconds[TransactionStage.RCPT] = self.envelope
        seconds[TransactionStage.DATA] = self.data
        seconds[TransactionStage.CONTENT] = self.block
        seconds[TransactionStage.END] = self.end_of_data
        seconds[TransactionStage.QUIT] = self.quit
        return seconds
