"""The turn-taking of an SMTP session, below its commands: one question, one answer, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from relayd.mail.reply import Reply
from relayd.smtp import replies
from relayd.smtp.events import EndOfContent, Event, NeedsVerdict
from relayd.smtp.extensions import Offer
from relayd.smtp.framing import Lines
from relayd.smtp.grammar import RemoteProtocolError
from relayd.smtp.state import ALLOWED, MOVES, Command, SessionState


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What one session may ask of us."""

    line: int = 2048  # octets of a command line with its CRLF
    recipients: int = 1000  # accepted ones of one transaction (RFC 5321 section 4.5.3.1.8)
    errors: int = 20  # commands that the core refused; the next one hears 421
    refusals: int = 100  # of every kind between two messages, a 4xx being a hundredth of one
    idle: int = 100  # commands between two messages that bring none nearer
    normalise: bool = False  # mend bare CR, bare LF and NUL in content instead of refusing it


_TRANSIENT, _PERMANENT = 1, 100  # what a refusal weighs: our own trouble cuts off nobody soon
_TOO_MANY = 3  # recipients: the client's doing; RFC 5321 section 4.5.3.1.10 lets it go on for some
_POLICY = 7  # of an enhanced status code (RFC 3463 section 3.8): a 4.7.x is no trouble of ours
_NO_END = 1 << 62

_SHUT = frozenset({SessionState.HANDSHAKE, SessionState.CLOSED})
_DEAF = _SHUT | {SessionState.NEW}


def _nothing() -> None:
    """Nobody is heard any more."""


class Exchange:
    """Input and output of one session, and whose turn it is; `Server` adds the commands."""

    def __init__(self, hostname: str, limits: ServerLimits, offer: Offer) -> None:
        self.hostname = hostname
        self.limits = limits
        self.offer = offer
        self.state = SessionState.NEW
        self.errors = 0  # commands refused by the core
        self.allowance = _NO_END  # lines and pieces of content that may be read in this turn
        self.doubted: Command | None = None  # was refused: what comes may be meant for it
        self.out_of_step = False  # ... and has come before the refusal was said
        self._refusals = 0  # weight of all since the last message
        self._idle = 0  # commands since then that brought none nearer
        self.tls = False
        self.authenticated = False
        self._introduced = False  # by XCLIENT in the clear
        self.origin = ""  # completes paths without a domain
        self.strict = False  # the letter of RFC 5321, on listeners that ask for it
        self._input = Lines()
        self._output: list[bytes] = []
        self._asked: Event | None = None  # it needs a verdict
        self._events: deque[Event] = deque()
        self.hungry = False  # nothing can be done before more input
        self._read: Callable[[], Event | None] = self._read_command  # what comes next
        self._smtputf8 = False  # the open transaction is a SMTPUTF8 one

    # -- the rim's side ----------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """The session is over: write what there is to send, then close the connection."""
        return self.state is SessionState.CLOSED

    @property
    def awaiting_verdict(self) -> bool:
        """An event waits for `answer`."""
        return self._asked is not None

    @property
    def buffered(self) -> int:
        """Octets of input held back."""
        return len(self._input.data) - self._input.at

    @property
    def greeting(self) -> Reply:
        """The 220 that opens a session."""
        return Reply.bare(220, f"{self.hostname} ESMTP relayd")

    def greet(self, reply: Reply | None = None) -> None:
        """Open the session with 220, or with a refusal: 421 closes it, 554 waits for QUIT."""
        self._reply(reply or self.greeting, Command.GREET)

    def too_early(self) -> Reply:
        """Why the session ends, to who did not wait where he must (RFC 2920 section 3.1)."""
        return Reply.of(421, "4.5.0", f"{self.hostname} You must wait for answers")

    def receive_data(self, data: bytes) -> None:
        """Take in what the client sent."""
        if self.state in _SHUT:
            return  # RFC 3207: a byte in the clear behind STARTTLS is an attacker's
        self._input.append(data)
        self.hungry = False

    def next_event(self) -> Event | None:
        """The next event; None: more input or a verdict is needed first, or all is over."""
        if self._events:
            return self._next_queued()
        while not self.hungry and self._asked is None and self.state not in _DEAF:
            if self.allowance <= 0:
                return None
            self.allowance -= 1
            event = self._read()
            if event is not None:
                if isinstance(event, NeedsVerdict):
                    self._asked = event
                return event
            if self._events:
                return self._next_queued()
        return None

    def _next_queued(self) -> Event:
        event = self._events.popleft()
        if type(event) is EndOfContent:
            self._asked = event
        return event

    def data_to_send(self) -> bytes:
        """What is to be written to the client now; empty when there is nothing."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def fail(self, reply: Reply) -> None:
        """Close the session with an unsolicited 421 (timeout, shutdown), whatever it is at."""
        if self.state is not SessionState.CLOSED:
            self._reply(reply)
            self._close()
            self._events.clear()

    # -- what `Server` builds on -----------------------------------------------------------------

    def _read_command(self) -> Event | None:
        raise NotImplementedError

    def _reply(self, reply: Reply, command: Command | None = None) -> Reply:
        """Say it; or what refused too often hears instead, which is returned."""
        if reply.code >= 400:
            reply = self._weighed(reply)
        self._output.append(replies.encode(reply, self._smtputf8))
        if reply.code == 421:
            self._close()
        elif command is not None:
            self.state = MOVES.get((self.state, command, reply.code // 100), self.state)
        return reply

    def _close(self) -> None:
        self.state = SessionState.CLOSED
        self._read = _nothing  # a method of ours would hold us for the garbage collector
        self._asked = None
        self._input.clear()

    def _counted(self, reply: Reply) -> Reply:
        """The same reply, or 421 when there have been too many errors."""
        if reply.code >= 500:
            self.errors += 1
            if self.errors > self.limits.errors:
                return Reply.of(421, "4.7.0", f"{self.hostname} Too many errors")
        return reply

    def _weighed(self, reply: Reply) -> Reply:
        """The same refusal, whoever decided it, or 421 when there have been too many."""
        if reply.code >= 500 or reply.subject == _POLICY:
            self._refusals += _PERMANENT
        else:
            self._refusals += _TOO_MANY if reply.status == "4.5.3" else _TRANSIENT
        if self._refusals > self.limits.refusals * _PERMANENT:
            return Reply.of(421, "4.7.0", f"{self.hostname} Too many refused commands")
        return reply

    def _doubt(self, command: Command) -> None:
        """Refused was what would have changed the meaning of the octets behind it."""
        self.doubted = command
        self.out_of_step = len(self._input) > 0

    def _idled(self) -> None:
        """A command that brings no message nearer; of these, too, there are only so many."""
        self._idle += 1
        if self._idle > self.limits.idle:
            text = f"{self.hostname} Too many commands without a message"
            raise RemoteProtocolError(Reply.of(421, "4.7.0", text))

    def _got_on(self) -> None:
        """A message was taken."""
        self._refusals = self._idle = 0

    def _require(self, command: Command) -> None:
        if (self.state, command) not in ALLOWED:
            raise RemoteProtocolError(out_of_order(self.state, command))


def out_of_order(state: SessionState, command: Command) -> Reply:
    """Why `command` cannot come now, in words that help."""
    if state is SessionState.GREETED:
        return replies.HELLO_FIRST
    if state is SessionState.READY and command is not Command.AUTH:
        return replies.MAIL_FIRST
    if state is SessionState.OPENED and command in (Command.DATA, Command.BDAT, Command.LAST):
        return replies.NO_RECIPIENTS  # RFC 5321 section 3.3
    if state is SessionState.CHUNKING and command is Command.DATA:
        return replies.MIXED
    if command is Command.MAIL:
        return replies.NESTED_MAIL
    return replies.OUT_OF_ORDER
