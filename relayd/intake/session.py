"""One SMTP session on a Twisted transport: the protocol core outside, the reception inside.

What arrives in one piece is answered in one piece. While a verdict is pending, or while the peer
does not take our replies, input waits; above a high-water mark the transport waits too. One timer
a connection watches a deadline that belongs to the phase, not to the last octet.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from socket import socket
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.intake.authentication import Authentication, Said
from relayd.intake.deadlines import SessionDeadlines, SessionPhase
from relayd.intake.identity import introduced
from relayd.intake.pending import Pending
from relayd.intake.policy import ListenerPolicy
from relayd.intake.receptions import reception_of
from relayd.intake.smtpservice import SmtpService
from relayd.intake.transport import Transport, has_ended, is_unread
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.reactor.coroutine import Hold, spawn
from relayd.reactor.wire import Wire
from relayd.smtp.events import (
    Auth,
    AuthResponse,
    Chunk,
    EndOfContent,
    Quit,
    StartTls,
    XClient,
)
from relayd.smtp.state import SessionState
from relayd.tls.binding import channel_bindings
from relayd.tls.words import reason as words

SIP = 65536  # octets of one read, as Twisted has it
GULP = 4 * SIP  # ... while content comes faster than that
HIGH_WATER = SIP  # octets of input held back
MOMENT = 0.2  # seconds for the end of what came before the greeting
TURN = 64  # lines and pieces of content read in one turn of the reactor; then others have theirs
LONGEST_TURN = 0.005  # seconds; and so it is when these are over, as we see ...
STEP = 4  # ... every so many of them

_READY_FOR_TLS = Reply.of(220, "2.0.0", "Ready to start TLS")
_NO_LOGIN = Reply.of(502, "5.5.1", "Not offered")
_BUG = Reply.of(421, "4.3.0", "Local trouble, try again later")
# between DATA or the first BDAT and the end of the content, or of what is swallowed instead
_CONTENT = frozenset({SessionState.RECEIVING, SessionState.CHUNKING, SessionState.SPOILED})
# every command asks for these: to look one up in an Enum takes as long as a call
_COMMAND, _CLOSING = SessionPhase.COMMAND, SessionPhase.CLOSING
_LISTENING = frozenset({_COMMAND, SessionPhase.CONTENT})


def _place(error: BaseException | None) -> str:
    """Where it was raised: the file, and the line."""
    if error is None or error.__traceback__ is None:
        return "unknown"
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}"


@implementer(IPushProducer, IHandshakeListener, IHalfCloseableProtocol)
class Session(Protocol):
    """One connection from greeting to close."""

    transport: Transport  # type: ignore[assignment]  # narrower than Twisted's

    def __init__(
        self, service: SmtpService, policy: ListenerPolicy, client: Client, early: bytes = b""
    ) -> None:
        self._service = service
        self._early = early  # what was there before the session
        self._policy = policy
        self._server = service.make_server(policy)
        self._reception = reception_of(service.intake, client, policy)
        self._deadlines = SessionDeadlines(service, self._late)
        self._server.origin, self._server.strict = policy.origin, policy.strict
        self._login: Authentication | None = None
        if policy.login is not None:
            self._login = Authentication(policy.login, client.address)
            self._offer_login(self._login)
        if policy.xclient is not None:
            offered = policy.xclient(client.address)
            self._server.offer = replace(self._server.offer, xclient=offered)
        self._end = "lost"  # how the session will have ended, for the log
        self._last_reply: Reply | None = None  # a 421 to be said after the commit
        self._pending: Pending[Any] | None = None  # the verdict that input waits for
        self._asked: Hold | None = None  # ... where it can be cancelled
        self._counted = False  # as one of those that are there
        self._pumping = False
        self._share = 0  # lines and pieces of content left of this turn
        self._turn_ends = 0.0  # seconds of the reactor's clock
        self._unread = False  # our replies pile up: the peer does not take them
        self._paused = False
        self._heard_out = False  # the peer has shut its sending side
        self._next_turn: IDelayedCall | None = None  # there is more to read than one turn's share

    # -- Twisted's side --------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet."""
        self._wire = Wire(self.transport)
        self._service.sessions.add(self)
        self._counted = True
        self._service.count(1)
        self.transport.registerProducer(self, True)
        self._deadlines.begin()
        early, self._early = self._early, b""
        if self._policy.implicit:
            self._start_tls()
            if early:
                self.transport.protocol.dataReceived(early)
        else:
            self._greet(early or self._unread_yet())

    def dataReceived(self, data: bytes) -> None:
        """Octets from the peer, as many as there were."""
        if self._deadlines.phase is _CLOSING:
            return
        self._deadlines.octets += len(data)
        self._server.receive_data(data)
        if not self._unread:
            self._pump()
        if self._paused or self._unread or self._pending or self._next_turn:
            self._regulate()
        # each read has its price; only content may come in gulps, for only that is not held back
        gulp = len(data) >= SIP and self._deadlines.phase is SessionPhase.CONTENT
        self.transport.bufferSize = GULP if gulp else SIP

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The session is over.

        What others count on it for comes first, and each on its own: whatever breaks here, for
        want of memory, it is over.
        """
        service, deadlines = self._service, self._deadlines
        service.sessions.discard(self)
        try:
            service.admission.leave(self._reception.client.address)
            if deadlines.phase is SessionPhase.HANDSHAKE:
                self._end = f"handshake failed: {words(reason and reason.value)}"
        finally:
            try:
                if deadlines.phase is not _CLOSING:
                    deadlines.phase = _CLOSING
                    self._take_leave()
                if self._pending is not None:
                    self._give_up()
                if self._login is not None:
                    self._login.abandon()
            finally:
                try:
                    if self._next_turn is not None:
                        self._next_turn.cancel()
                        self._next_turn = None
                    self._reception.rollback()
                finally:
                    deadlines.end()
        self._log_session(self._end)
        if not service.sessions:
            service.on_empty()

    def _log_session(self, end: str) -> None:
        self._reception.leave()
        self._service.intake.log.session(
            self._reception.client,
            messages=self._reception.messages,
            refused=self._reception.refused,
            seconds=self._deadlines.seconds,
            end=end,
        )

    def handshakeCompleted(self) -> None:
        """TLS is up: all that was said in the clear is forgotten."""
        tls = self._policy.tls
        if self._deadlines.phase is not SessionPhase.HANDSHAKE or tls is None:
            return
        self._server.tls_established()
        self._reception.secured(*tls.describe(self.transport.getHandle()))
        if self._login is not None:
            self._login.secured(channel_bindings(self.transport.getHandle()))
            self._offer_login(self._login)
        self._deadlines.enter(_COMMAND)
        if self._policy.implicit:
            self._greet(tls.early(self.transport.getHandle()))
        self._pump()

    def readConnectionLost(self) -> None:
        """The peer says no more. What it has said is answered, and then it is over."""
        self._heard_out = True
        self._reception.nobody_waits()  # he may have gone altogether
        if self._deadlines.phase is SessionPhase.HANDSHAKE:
            self._close("handshake failed: the connection ended")
        else:
            self._end_if_all_is_answered()

    def writeConnectionLost(self) -> None:
        """It was not us: nobody shuts our sending side alone."""

    def pauseProducing(self) -> None:
        """Our replies pile up: do not make more of them."""
        self._unread = True
        self._regulate()

    def resumeProducing(self) -> None:
        """The peer has taken our replies."""
        self._unread = False
        if self._deadlines.phase is not _CLOSING:
            self._pump()
        self._regulate()

    def stopProducing(self) -> None:
        """The connection is going; connectionLost says the rest."""

    # -- from outside ----------------------------------------------------------------------------

    def tighten(self) -> None:
        """Deadlines have become shorter."""
        self._deadlines.look()

    def shut_down(self) -> None:
        """Say 421 and close: now, or after the reply to the commit under way."""
        self._last_reply = self._farewell()
        self._reception.nobody_waits()
        if self._deadlines.phase is not SessionPhase.COMMIT:
            self._dismiss(self._last_reply, "shutdown")

    def retire(self) -> None:
        """Say 421 and close as soon as a message was taken and no transaction is open.

        A session that has just begun has its first one: its client shall not notice.
        """
        self._last_reply = self._farewell()
        self._dismiss_at_rest()

    def _farewell(self) -> Reply:
        return Reply.of(421, "4.3.2", f"{self._service.hostname} is shutting down")

    def _dismiss_at_rest(self) -> None:
        if (
            self._last_reply is not None
            and self._deadlines.phase is _COMMAND
            and self._reception.messages
            and not self._reception.in_transaction
        ):
            self._dismiss(self._last_reply, "shutdown")

    def abort(self) -> None:
        """Close without another word. A commit under way goes on, its reply is lost."""
        self.transport.abortConnection()

    # -- the loop --------------------------------------------------------------------------------

    def _pump(self) -> None:
        """Answer what has arrived, up to a slow verdict, the end of input, or a turn's share."""
        if self._pumping or self._pending is not None or self._next_turn is not None:
            return
        self._pumping = True
        self._server.allowance = STEP
        self._share = TURN
        self._turn_ends = self._service.reactor.seconds() + LONGEST_TURN
        try:
            self._answer_all()
        except Exception as error:
            self._break_off(error)
        finally:
            self._pumping = False

    def _answer_all(self) -> None:
        server, reception = self._server, self._reception
        while not server.hungry and self._deadlines.phase is not _CLOSING:
            event = server.next_event()
            if event is None:
                if server.allowance <= 0 and self._turn_goes_on():
                    continue
                break
            if type(event) is Chunk:
                if reception.arriving is not None:
                    reception.arriving.receive(event.data)
                continue
            verdict: Reply | Pending[Any] | None
            if type(event) is EndOfContent:
                verdict = reception.end_of_content()
                if isinstance(verdict, Reply):
                    self._deadlines.phase = SessionPhase.EXAMINATION
                    self._conclude(verdict)
                    continue
            elif type(event) is Auth or type(event) is AuthResponse:
                verdict = self._log_in(event)
            elif type(event) is StartTls and self._policy.tls is not None:
                server.answer(_READY_FOR_TLS)
                self._flush()
                self._start_tls()
                break
            elif type(event) is XClient:
                verdict = self._introduce(event)
            else:
                verdict = reception.receive(event)
            if isinstance(verdict, Pending):
                self._wait(verdict)
                if self._pending is not None:
                    break
                continue
            if verdict is not None:
                server.answer(verdict)
            elif type(event) is Quit:
                self._end = "quit"
            if server.out_of_step:
                self._dismiss(server.too_early(), "synchronisation")
        self._flush()
        if self._last_reply is not None:
            self._dismiss_at_rest()
        if server.allowance <= 0 and not server.hungry and self._deadlines.phase in _LISTENING:
            self._next_turn = self._service.reactor.callLater(0, self._take_turn)
        if self._heard_out:
            self._end_if_all_is_answered()

    def _turn_goes_on(self) -> bool:
        """Whether neither the turn's share nor its time is used up."""
        self._share -= STEP
        if self._share <= 0 or self._service.reactor.seconds() >= self._turn_ends:
            return False
        self._server.allowance = STEP
        return True

    def _take_turn(self) -> None:
        """Go on with what was left when others had their turn."""
        self._next_turn = None
        if not self._unread:
            self._pump()
            self._regulate()

    def _end_if_all_is_answered(self) -> None:
        """Nothing more will come."""
        if not self._unread and self._next_turn is None and self._deadlines.phase in _LISTENING:
            self._reception.rollback()
            self._close(self._end)

    def _greet(self, early: bytes) -> None:
        """Say 220; or 421 to who has spoken by now (RFC 5321 section 4.3.1)."""
        if not early:
            self._welcome()
        elif ITCPTransport.providedBy(self.transport) and not self._policy.implicit:
            # whoever sends all he has and no more (`nc -N`) waits for nobody: his end comes with it
            self._paused = True
            self.transport.pauseProducing()
            self._next_turn = self._service.reactor.callLater(MOMENT, self._greet_late, early)
        else:
            self._dismiss(self._server.too_early(), "synchronisation")

    def _welcome(self) -> None:
        """Say 220, or what the verdict on the connection makes of it."""
        try:
            verdict = self._reception.connected(self._server.greeting)
        except Exception as error:
            self._break_off(error)
            return
        if isinstance(verdict, Pending):
            self._wait(verdict)
        else:
            self._server.greet(verdict)
            self._flush()

    def _greet_late(self, early: bytes) -> None:
        self._next_turn = None
        if self._deadlines.phase is _CLOSING:
            return
        if has_ended(self.transport.getHandle()):
            self._welcome()
            self.dataReceived(early)
        else:
            self._dismiss(self._server.too_early(), "synchronisation")

    def _unread_yet(self) -> bytes:
        """What waits in the socket, where there is one, taken from it."""
        if not ITCPTransport.providedBy(self.transport):
            return b""
        connection = self.transport.getHandle()
        if not is_unread(connection):
            return b""  # as it should be; or it is the end, of which we shall hear
        assert isinstance(connection, socket)
        try:
            return connection.recv(SIP)
        except OSError:
            return b""

    # -- verdicts that take their time -----------------------------------------------------------

    def _wait(self, pending: Pending[Any]) -> None:
        """Input is held back until the verdict has come, or has taken too long."""
        self._pending = pending
        self._deadlines.enter(pending.phase)
        if pending.phase is SessionPhase.COMMIT:
            spawn(self._hear(pending), self._answer_failed)
            return
        asked = Hold()
        spawn(self._hear(pending), self._answer_failed, asked)
        if self._pending is pending:
            self._asked = asked
            self._deadlines.look()  # sooner than the command's deadline

    async def _hear(self, pending: Pending[Any]) -> None:
        try:
            result = await pending.coming
        except Exception as error:
            if self._pending is pending:
                self._break_off(error)
            elif not isinstance(error, CancelledError):
                self._failed(error)
        else:
            if self._pending is pending:  # else the peer has gone, or has had its answer
                self._heard(pending, result)

    def _heard(self, pending: Pending[Any], result: object) -> None:
        try:
            verdict = pending.then(result)
        except Exception as error:
            self._break_off(error)
            return
        if isinstance(verdict, Pending):
            self._wait(verdict)
        else:
            self._conclude(verdict)

    def _conclude(self, reply: Reply) -> None:
        """The answer to what stood between the session and its next command."""
        deadlines, server = self._deadlines, self._server
        phase = deadlines.phase
        self._pending = self._asked = None
        if server.state is not SessionState.NEW:
            server.answer(reply)
        elif server.buffered:  # who did not wait for the greeting (RFC 5321 section 4.3.1)
            self._dismiss(server.too_early(), "synchronisation")
            return
        else:
            server.greet(reply)
        if phase is not SessionPhase.VERDICT:
            deadlines.bore_fruit()
        deadlines.enter(_COMMAND)
        if phase is SessionPhase.COMMIT and self._last_reply is not None:
            self._dismiss(self._last_reply, "shutdown")
        elif server.out_of_step:
            self._dismiss(server.too_early(), "synchronisation")
        elif not self._pumping:
            self._pump()
            self._regulate()

    def _give_up(self) -> None:
        """Nobody waits for the verdict any more. A commit goes on: it may be durable already."""
        asked = self._asked
        self._pending = self._asked = None
        if asked is not None:
            asked.cancel()

    def _break_off(self, error: BaseException) -> None:
        """Say 421 and close; where there is no memory for that, close."""
        self._failed(error)
        try:
            self._dismiss(_BUG, "bug")
        except Exception as again:
            self._failed(again)
            self.abort()

    def _failed(self, error: BaseException | None) -> None:
        """A bug, for the log: its name and place, for its words may hold the peer's secrets."""
        with suppress(MemoryError):
            self._service.intake.log.trouble(
                "session failed", error=type(error).__name__, at=_place(error)
            )

    def _answer_failed(self, failure: Failure) -> None:
        """Better no word than a wrong one: the message may be ours."""
        self._failed(failure.value)
        self.abort()

    def _offer_login(self, login: Authentication) -> None:
        self._server.offer = replace(
            self._server.offer, auth=login.mechanisms, auth_in_clear=login.in_clear
        )

    def _log_in(self, event: Auth | AuthResponse) -> Reply | Pending[Said]:
        login = self._login
        if login is None:  # the core does not offer it then
            return _NO_LOGIN
        client = self._reception.client
        coming = login.receive(event, client)
        return Pending(coming, self._logged_in, lambda: login.too_late(client))

    def _logged_in(self, said: Said) -> Reply:
        if said.name and self._login is not None:
            self._reception.logged_in(said.name, self._login.mechanism)
        return said.reply

    def _introduce(self, event: XClient) -> Reply | Pending[Any]:
        """From now on the peer speaks for another client, with what that one may and must."""
        reception, service = self._reception, self._service
        before = reception.client
        client = introduced(before, event)
        reply = service.admission.move(before.address, client.address)
        if reply is not None:
            service.intake.log.refused(client, "XCLIENT", str(reply))
            return reply
        if reception.messages or reception.refused:
            self._log_session("xclient")
        reception.introduced(client)
        if self._login is not None:
            self._login.moved(client.address)
        return reception.connected(self._server.greeting)

    def _start_tls(self) -> None:
        self._deadlines.enter(SessionPhase.HANDSHAKE)
        self._deadlines.look()  # sooner than the command's deadline
        self._wire.start_tls(self._policy.tls)

    def _flush(self) -> None:
        """One write for all replies; they show that a command was complete."""
        server = self._server
        replies = server.data_to_send()
        if replies:
            self._wire.write(replies)
        if server.state is SessionState.CLOSED:
            self._close(self._end if self._end != "lost" else "421")
        elif self._deadlines.phase is _COMMAND:
            if server.state in _CONTENT:
                self._deadlines.enter(SessionPhase.CONTENT)
            elif replies:
                self._deadlines.answered()
        elif self._deadlines.phase is SessionPhase.CONTENT and server.state not in _CONTENT:
            # the core refused it, and has swallowed it to its end
            self._deadlines.bore_fruit()
            self._deadlines.enter(_COMMAND)

    def _regulate(self) -> None:
        """Stop reading while input waits for a verdict, or our replies for the peer."""
        pause = self._unread or self._server.buffered > HIGH_WATER
        closing = self._deadlines.phase is _CLOSING
        if pause is not self._paused and not closing and not self._heard_out:
            self._paused = pause
            if pause:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # -- the end ---------------------------------------------------------------------------------

    def _late(self) -> None:
        if self._deadlines.phase is _CLOSING:
            self.transport.abortConnection()
            return
        if self._deadlines.phase is SessionPhase.HANDSHAKE:
            self._close("timeout")  # there is no one to say 421 to yet
            return
        pending = self._pending
        if pending is not None:  # it is not the peer who is late
            self._give_up()
            self._heard(pending, pending.late())
            return
        self._dismiss(
            Reply.of(421, "4.4.2", f"{self._service.hostname} timed out waiting for you"), "timeout"
        )

    def _dismiss(self, reply: Reply, end: str) -> None:
        """Say 421, whatever the peer is doing, and close."""
        if self._deadlines.phase is _CLOSING:
            return
        self._give_up()
        self._reception.rollback()
        self._server.fail(reply)
        self._end = end
        self._flush()
        self._close(end)

    def _close(self, end: str) -> None:
        """Close when the last reply is out; at the latest when the peer has had its time."""
        if self._deadlines.phase is _CLOSING:
            return
        self._end = end
        self._take_leave()
        self._deadlines.enter(_CLOSING)
        # a producer left in place would keep a slow transport from ever closing
        self.transport.unregisterProducer()
        closed = self._wire.close()
        if self._heard_out:
            self._wire.close_below()
        if not closed:
            self._deadlines.look()

    def _take_leave(self) -> None:
        """Before the peer knows that it is over, and comes again; once."""
        if self._counted:
            self._counted = False
            self._service.count(-1)
