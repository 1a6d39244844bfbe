"""One connection to a next hop: a thin Twisted rim around the sans-I/O client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.mail.content import CHUNK, Content
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome
from relayd.mail.reply import Reply
from relayd.reactor.coroutine import Awaited, promise
from relayd.reactor.wire import Wire
from relayd.relay.limits import NextHopDeadlines
from relayd.relay.logins import Conversation, Login, LoginEvent
from relayd.relay.survey import ON_ANY, Endpoint, Terms
from relayd.relay.trouble import (
    SessionError,
    lacks_address,
    nonsense,
    not_connected,
    unsecured,
    unwelcome,
)
from relayd.smtp.client import SmtpClient, Transaction
from relayd.smtp.events import (
    ClientEvent,
    End,
    LoggedIn,
    LoginChallenge,
    LoginRefused,
    ProtocolTrouble,
    Ready,
    SendContent,
    TlsReady,
    TlsRefused,
    TransactionDone,
    TransactionStage,
    Unwelcome,
)
from relayd.smtp.extensions import Extensions
from relayd.tls.binding import channel_bindings
from relayd.tls.words import reason as words

BURST = 16  # pieces of content sent in one turn; then others have theirs

_LOGIN_BUG = Reply.of(451, "4.3.0", "Login failed by a fault of ours")
_UNREADABLE = Reply.of(451, "4.3.0", "content of ours cannot be read")


class OutboundTransport(Shape):
    """What a connection uses of Twisted's transports, as types."""

    def write(self, data: bytes) -> None:
        """Send, by and by."""

    def loseConnection(self) -> None:
        """Close when all is sent."""

    def abortConnection(self) -> None:
        """Close now."""

    def setTcpNoDelay(self, enabled: bool) -> None:
        """Send small pieces at once."""

    def registerProducer(self, producer: object, streaming: bool) -> None:
        """Ask the producer when all is sent."""

    def unregisterProducer(self) -> None:
        """Ask it no more."""

    def getHandle(self) -> object:
        """The connection under TLS."""

    def getHost(self) -> object:
        """Our own address."""


class Security(Shape):
    """What TLS has to be like on one connection; `relayd.relay.security` is the real one."""

    endpoint: Endpoint

    @property
    def implicit(self) -> bool:
        """TLS from the first octet."""

    @property
    def wanted(self) -> bool:
        """Say STARTTLS where it is offered."""

    @property
    def creator(self) -> object:
        """An IOpenSSLClientConnectionCreator for one handshake."""

    def missing(self, why: str) -> Reply | None:
        """There will be no TLS: None to go on in the clear, or the reply to fail with."""

    def broken(self, why: str) -> Reply:
        """The handshake failed: the reply to fail with."""

    def proven(self, handle: object) -> str | Reply:
        """The handshake is done: what the log says of it, or the reply to fail with."""

    def keep(self, handle: object) -> None:
        """The server has spoken under TLS: its session may be resumed."""


class Dialled(Shape):
    """What opens the socket, or has."""

    def disconnect(self) -> object:
        """Stop it."""


class Tenure(Shape):
    """Says for how long our mail is ours; `relayd.spool.lease` is the real one."""

    def may_go_on(self) -> bool:
        """What has begun may come to the final dot."""


class ConnectionWatch(Shape):
    """Who looks at the deadlines of connections, and hears of their end."""

    tenure: Tenure | None  # None: for ever

    @property
    def seconds(self) -> Callable[[], float]:
        """Tells the time, on the clock of deadlines."""

    def opened(self, connection: Connection) -> None:
        """A socket is open."""

    def ended(self, connection: Connection) -> None:
        """It is of no use any more."""

    def lost(self, connection: Connection) -> None:
        """Its socket is closed."""


@implementer(IPullProducer, IHandshakeListener)
class Connection(Protocol):
    """Carries transactions one after the other.

    `deadline` is when the present state has taken too long: the watch calls `expire` then. It
    moves only when the state changes or content is taken, so a peer gains nothing by dripping.
    """

    def __init__(
        self,
        watch: ConnectionWatch,
        endpoint: Endpoint,
        hello: str,
        deadlines: NextHopDeadlines,
        *,
        target: NextHop | str,
        lmtp: bool = False,
        security: Security | None = None,
        login: Login | None = None,
        terms: Terms = ON_ANY,
    ) -> None:
        self.endpoint = endpoint
        self.target = target  # what led there
        self.opened: Deferred[None] = Deferred(lambda _: self.cut("stopped"))
        self.connector: Dialled | None = None
        self.transactions = 0  # begun
        self.lmtp = lmtp
        self.tls = ""
        self.waived = False  # one message's sender was content with less TLS than is usual here
        self.serves_us = False  # the next hop has lately taken mail from us
        self.terms = terms
        self.local = ""  # our own address
        self.born = watch.seconds()
        self.deadline = self.born + deadlines.greeting
        self._watch = watch
        self._deadlines = deadlines
        self._seconds = deadlines.by_stage()  # that each stage may take
        self._security = security
        self._secured = False  # all is decided: the next Ready opens
        self._securing = False  # from STARTTLS on to the answer to the EHLO under TLS
        self._shaking = False  # hands
        self._login = login  # to be done before the first transaction
        self._talk: Conversation | None = None
        self._core = SmtpClient(hello, lmtp=lmtp)
        self._stage = TransactionStage.GREETING
        self._limit = 0.0  # the end of CONTENT, however it flows
        self._content: Content | None = None
        self._chunks: Iterator[bytes] | None = None
        self._pure = False  # they were looked through when they came
        self._asked = False  # the transport has asked for chunks
        self._carried: Deferred[TransactionDone] | None = None
        self._failure: Reply | None = None  # our own words for the end
        self._connected = False
        self._over = False

    @property
    def usable(self) -> bool:
        """Another transaction may be sent."""
        return not self._over and not self._core.closed and self._carried is None

    @property
    def extensions(self) -> Extensions:
        """What the server offers."""
        return self._core.extensions

    # what the courier does

    def carry(self, transaction: Transaction, content: Content) -> Deferred[TransactionDone]:
        """Send one transaction; only while `usable`. Never fails; a cancel cuts the connection."""
        done: Awaited[TransactionDone] = Awaited(lambda _: self.cut("stopped"))
        self._carried = done
        self._content = content
        recipients = len(transaction.recipients) * self._deadlines.recipient
        self._seconds[TransactionStage.RCPT] = self._deadlines.envelope + recipients
        self.transactions += 1
        self._stage = TransactionStage.IDLE
        self._wire.drained()  # or the transaction before would not be over
        self._core.send(transaction)
        self._turn()
        return done

    def quit(self) -> None:
        """Say goodbye and close, without waiting for the answer."""
        if not self._over:
            self._core.quit()
            self._turn()
            self._finish()

    def cut(self, reason: str) -> None:
        """End it now, whatever is going on."""
        if not self._connected:
            self._over = True
            if self.connector is not None:
                self.connector.disconnect()
            return
        self._fail(Reply.of(451, "4.4.2", f"Connection {reason}"))

    def withdraw(self) -> None:
        """End it now, unless the next hop may already have what it carries."""
        if self._carried is not None and self._core.waiting_for is not TransactionStage.END:
            self.cut("withdrawn")

    def expire(self) -> None:
        """The deadline has passed."""
        if self._over:
            self._abort()  # it did not even take our last words
        elif self._core.waiting_for is TransactionStage.IDLE and self._carried is None:
            self.quit()
        elif self._securing and self._security is not None:
            self._fail(self._security.broken("timed out"))
        else:
            self._fail(Reply.of(451, "4.4.2", f"Connection timed out ({self._core.waiting_for})"))

    # what Twisted does

    def connectionMade(self) -> None:
        """The greeting comes first; nothing is said before it."""
        self._connected = True
        self._wire = Wire(self.transport)
        self.deadline = self._watch.seconds() + self._deadlines.greeting
        self._watch.opened(self)
        if self._over:
            self._abort()
        elif not self.endpoint.unix:
            self._transport.setTcpNoDelay(True)
            self.local = str(getattr(self._transport.getHost(), "host", ""))
        if self._security is not None and self._security.implicit and not self._over:
            self._secured = True
            self._start_tls(self._security)

    def dataReceived(self, data: bytes) -> None:
        """Everything the server says goes through the core."""
        self._core.receive_data(data)
        self._turn()

    def handshakeCompleted(self) -> None:
        """TLS stands. What was said before is void (RFC 3207 section 4.2), and EHLO comes anew."""
        security = self._security
        if not self._shaking or security is None or self._over:
            return
        self._shaking = False
        self._securing = not security.implicit
        proof = security.proven(self._transport.getHandle())
        if isinstance(proof, Reply):
            self._fail(proof)
            return
        self.tls = proof
        if not security.implicit:
            self._core.tls_established()
        self._turn()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """By whomever."""
        lost = Reply.of(451, "4.4.2", "Connection lost")
        if self._securing and not self._over and self._security is not None:
            lost = self._security.broken(words(reason.value))
        if not self._over:
            self._over = True
            self._watch.ended(self)
        self._fail(lost)
        self._watch.lost(self)

    def goes_to(self, endpoint: Endpoint) -> None:
        """It is another address of the same host that has answered."""
        self.endpoint = endpoint
        if self._security is not None:
            self._security.endpoint = endpoint

    def failed(self, error: BaseException | None) -> None:
        """There was no connection."""
        self._over = True
        if not self.opened.called:
            outcome = not_connected(self.endpoint, error)
            self.opened.errback(SessionError(outcome, no_address=lacks_address(error)))

    # content that is too large for one write

    def resumeProducing(self) -> None:
        """The transport has sent what it had: as many pieces as the socket takes, within reason."""
        wire = self._wire
        if not self._asked:  # that we are registered; what is read from now on is as it is now
            self._pure = self._content is not None and self._content.pure
        elif not wire.secure:
            wire.drained()
        self._asked = True
        for _ in range(BURST - 1):
            self._send_chunk()
            # TLS asks and asks, and waits itself for the transport
            if self._chunks is None or wire.secure or not wire.at_once:
                return
        wire.through_buffer()
        self._send_chunk()

    def _send_chunk(self) -> None:
        """The next piece of content, or its end."""
        chunks = self._chunks
        if chunks is None:
            return
        tenure = self._watch.tenure
        if tenure is not None and not tenure.may_go_on():
            self.cut("withdrawn")
            return
        try:
            chunk = next(chunks, None)
        except OSError:
            self._fail(_UNREADABLE, End.UNSENDABLE)
            return
        if chunk is None:
            self._end_chunks()
            self._core.end_content()
        else:
            self._core.send_content(chunk, pure=self._pure)
            now = self._watch.seconds()
            self.deadline = min(now + self._deadlines.block, self._limit)
        self._turn()

    def stopProducing(self) -> None:
        """The connection is lost; connectionLost follows."""
        self._chunks = None

    def _end_chunks(self) -> None:
        if self._chunks is not None:
            self._chunks = None
            self._transport.unregisterProducer()

    def _send_content(self) -> None:
        content = self._content
        assert content is not None
        tenure = self._watch.tenure
        if tenure is not None and not tenure.may_go_on():
            self.cut("withdrawn")  # another node may be sending the same by now
            return
        if content.size > CHUNK:
            self._chunks = content.chunks()
            self._asked = False
            self._limit = self._watch.seconds() + self._deadlines.content
            return  # the producer is registered when BDAT's own line is out
        try:
            for chunk in content.chunks():
                self._core.send_content(chunk, pure=content.pure)
        except OSError:
            self._fail(_UNREADABLE, End.UNSENDABLE)
        else:
            self._core.end_content()

    # the core and the wire

    @property
    def _transport(self) -> OutboundTransport:
        transport: OutboundTransport = self.transport  # type: ignore[assignment]  # Twisted says less
        return transport

    def _turn(self) -> None:
        """All events, then one write; then whoever waits for an end of something hears of it."""
        core = self._core
        producing = self._chunks is not None
        tell: list[Callable[[], None]] = []
        while (event := core.next_event()) is not None:
            if type(event) is SendContent:
                self._send_content()
            else:
                self._take(event, tell)
        data = core.data_to_send()
        if data and not self._over:
            self._wire.write(data)
        stage = core.waiting_for
        if stage is not self._stage:
            self._stage = stage
            self.deadline = self._watch.seconds() + self._seconds[stage]
        if core.closed:
            self._finish()
        if self._chunks is not None and not producing:
            self._transport.registerProducer(self, False)
        for each in tell:
            each()

    def _take(self, event: ClientEvent, tell: list[Callable[[], None]]) -> None:
        if isinstance(event, TransactionDone):
            if self._chunks is not None:
                self._end_chunks()
            done, self._carried, self._content = self._carried, None, None
            if done is not None:
                tell.append(partial(done.callback, event))
        elif isinstance(event, Ready):
            self._ready(event, tell)
        elif isinstance(event, LoginChallenge | LoggedIn | LoginRefused):
            tell.append(lambda: self._talk_on(event))
        elif isinstance(event, TlsReady):
            assert self._security is not None
            self._start_tls(self._security)
        elif isinstance(event, TlsRefused):
            assert self._security is not None
            self._without_tls(self._security, f"STARTTLS was refused: {event.reply}", tell)
        elif not self.opened.called:
            assert isinstance(event, Unwelcome | ProtocolTrouble), event
            outcome = self._turned_away(event)
            tell.append(lambda: self.opened.errback(SessionError(outcome)))

    def _turned_away(self, event: Unwelcome | ProtocolTrouble) -> Outcome:
        """There will be no transaction."""
        endpoint, security = self.endpoint, self._security
        if isinstance(event, ProtocolTrouble):
            if self._securing and security is not None:
                return unsecured(endpoint, security.broken(event.reason))
            return nonsense(endpoint, event.reason)
        spoken = event.reply is not self._failure
        if spoken and self._securing and security is not None:
            why = f"{event.reply} to {event.stage}"
            if event.stage is TransactionStage.STARTTLS:
                return unsecured(endpoint, security.broken(why))
            # it has welcomed us in the clear: under TLS it cannot, unless it is only too busy
            if event.reply.code != 421:
                security.broken(why)
        provider = self.terms.provider if isinstance(self.target, str) else None
        return unwelcome(endpoint, event, spoken=spoken, provider=provider)

    def _ready(self, event: Ready, tell: list[Callable[[], None]]) -> None:
        security = self._security
        self._securing = False
        if security is not None and not self._secured:
            self._secured = True
            if security.wanted and event.extensions.starttls:
                self._securing = True
                self._core.starttls()
            elif security.wanted:
                self._without_tls(security, "STARTTLS is not offered", tell)
            else:
                tell.append(self._open)
            return
        if self.tls and security is not None:
            security.keep(self._transport.getHandle())
        tell.append(self._open)

    def _without_tls(self, security: Security, why: str, tell: list[Callable[[], None]]) -> None:
        self._securing = False
        reply = security.missing(why)
        tell.append(self._open if reply is None else lambda: self._fail(reply))

    def _start_tls(self, security: Security) -> None:
        self._shaking = self._securing = True
        self.deadline = self._watch.seconds() + self._deadlines.handshake
        self._wire.start_tls(security.creator)

    def _open(self) -> None:
        login, self._login = self._login, None
        if login is not None:
            handle = self._transport.getHandle() if self.tls else None
            bindings = {} if handle is None else channel_bindings(handle)
            self._talk = Conversation(login, self._core, self._turn, self._logged_in)
            self._talk.begin(bindings, tls=bool(self.tls))
        elif not self.opened.called:
            self.opened.callback(None)

    def _talk_on(self, event: LoginEvent) -> None:
        if self._talk is not None:
            said = promise(self._talk.take(event))
            said.addErrback(lambda _: self._fail(_LOGIN_BUG))

    def _logged_in(self, refusal: Reply | None) -> None:
        self._talk = None
        if refusal is None:
            self._open()
        else:
            self._fail(refusal)

    def _fail(self, reply: Reply, end: End = End.LOST) -> None:
        """What is not answered gets this reply, and nothing more is said."""
        self._failure = reply
        self._core.fail(reply, end)
        over, self._over = self._over, True  # from here on nothing is written
        self._turn()
        if not over:
            self._end_chunks()
            self._abort()
            self._watch.ended(self)

    def _finish(self) -> None:
        """Close when what is written is out; the watch sees to it that this comes to an end."""
        if not self._over:
            self._over = True
            self.deadline = self._watch.seconds() + self._deadlines.quit
            self._end_chunks()
            self._transport.loseConnection()
            self._watch.ended(self)

    def _abort(self) -> None:
        self._transport.abortConnection()
