"""The client's side of SMTP and LMTP as a machine without a socket: bytes in, events out."""

from __future__ import annotations

import base64
import binascii
from collections import deque
from itertools import repeat

from relayd.mail.reply import Reply
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
    TransactionStage,
    Unwelcome,
)
from relayd.smtp.extensions import NONE_OFFERED, Extensions
from relayd.smtp.framing import DotStuffer, Purity
from relayd.smtp.progress import Progress
from relayd.smtp.replies import BARE, ReplyError, ReplyReader
from relayd.smtp.transaction import Transaction, commands_for

__all__ = ["SmtpClient", "Transaction"]

MAX_AUTH_COMMAND = 510  # octets of AUTH with an initial response (RFC 4954 section 4)
_UNASKED = "spoke without being asked"
_EARLY = "answered before the end of the content"
_LOGIN_WORDS = {
    421: "service not available",
    432: "a password transition is needed",
    454: "temporary authentication failure",
    500: "authentication exchange line is too long or not understood",
    501: "authentication exchange is malformed or was cancelled",
    502: "AUTH is not implemented",
    503: "AUTH is out of order",
    504: "unrecognized authentication mechanism",
    530: "authentication required",
    534: "authentication mechanism is too weak",
    535: "authentication credentials invalid",
    538: "encryption required",
}  # as RFC 4954 sections 4 and 6 and RFC 5321 section 4.2.3 have it
_NO_SESSION = Reply.of(451, "4.4.2", "The session with the next hop is over")
_MISCOUNTED = Reply.of(451, "4.3.0", "Content does not have the size it should have")


class SmtpClient:
    """One session with a next hop.

    Call `receive_data`, then `next_event` until it returns None, and write `data_to_send`, also
    after every other call. When `closed`, write what is left and drop the connection.
    """

    def __init__(self, hello: str, *, lmtp: bool = False) -> None:
        self.closed = False
        self.extensions = NONE_OFFERED
        self._hello = hello.encode("ascii", "replace")
        self._lmtp = lmtp
        self._reader = ReplyReader()
        self._output: list[bytes] = []
        self._events: deque[ClientEvent] = deque()
        self._expected: deque[TransactionStage] = deque(
            [TransactionStage.GREETING]
        )  # commands without a reply yet
        self._unsent: deque[tuple[TransactionStage, bytes]] = (
            deque()
        )  # ... and those that wait for one
        self._helo = False  # EHLO was refused, HELO is tried
        self._handshake = False  # TLS is being set up
        self._progress: Progress | None = None
        self._sending: DotStuffer | int | None = None  # the content: DATA, or octets due by BDAT
        self._purity = Purity()
        self._reset_due = False  # the server still holds a failed transaction
        self._initial: bytes | None = None  # AUTH's first word, too long for its own line
        self._tried_login = False

    # -- the rim's side ----------------------------------------------------------------------

    @property
    def waiting_for(self) -> TransactionStage:
        """What the rim's timer is for (RFC 5321 section 4.5.3.2)."""
        if self._expected:
            return self._expected[0]
        if self._sending is not None:
            return TransactionStage.CONTENT
        return TransactionStage.STARTTLS if self._handshake else TransactionStage.IDLE

    def receive_data(self, data: bytes) -> None:
        """Take in what the server sent."""
        if self.closed:
            return
        self._reader.append(data)

    def next_event(self) -> ClientEvent | None:
        """The next event, or None: something must be received or done first."""
        events, reader = self._events, self._reader
        while not events:
            if self.closed or not reader.pending:
                return None
            if self._handshake:
                self._trouble("spoke in the clear after STARTTLS")
                continue
            try:
                reply = reader.next()
            except ReplyError as error:
                self._trouble(str(error))
                continue
            if reply is None:
                return None
            progress, expected = self._progress, self._expected
            if progress is None or not expected or reply.code == 421:
                self._take(reply)
            elif expected[0] is not TransactionStage.RCPT or reply.code // 100 == 3:
                self._take_in_transaction(progress, reply, expected.popleft())
            else:  # there may be many
                expected.popleft()
                progress.take_rcpt(reply)
                if not expected:
                    self._advance(progress)
        return events.popleft()

    def data_to_send(self) -> bytes:
        """What is to be written to the server now; empty when there is nothing."""
        output = self._output
        if not output:
            return b""
        data = output[0] if len(output) == 1 else b"".join(output)
        output.clear()
        return data

    def send(self, transaction: Transaction) -> None:
        """Begin a transaction; only after Ready, TlsRefused or a reusable TransactionDone."""
        commands = commands_for(transaction, self.extensions)
        progress = Progress(len(transaction.recipients), transaction.size, commands)
        self._progress = progress
        if self.closed:
            progress.abandon(_NO_SESSION, TransactionStage.IDLE, End.LOST)
            self._finish(progress)
            return
        if self._out_of_turn():
            return
        if not commands.rcpt:
            self._finish(progress)
            return
        queue = self._unsent
        if self._reset_due:
            self._reset_due = False
            queue.append((TransactionStage.RSET, b"RSET\r\n"))
        queue.append((TransactionStage.MAIL, commands.mail))
        queue.extend(zip(repeat(TransactionStage.RCPT), commands.rcpt, strict=False))
        if not (commands.bdat or commands.verifies):
            queue.append((TransactionStage.DATA, b"DATA\r\n"))
        self._send_queue()

    def send_content(self, chunk: bytes, *, pure: bool = False) -> None:
        """Content after SendContent; without effect once the transaction is over.

        `pure`: somebody has looked for bare CR, bare LF and NUL already (see Content).
        """
        progress, sending = self._progress, self._sending
        if progress is None or sending is None or not chunk:
            return
        if not pure and self._purity.offence(chunk) is not None:
            self._spoiled(progress, BARE, "content of ours with a bare CR, a bare LF or a NUL")
        elif isinstance(sending, DotStuffer):
            self._output.append(sending.feed(chunk))
        elif len(chunk) <= sending:
            self._sending = sending - len(chunk)
            self._output.append(chunk)
        else:
            self._spoiled(progress, _MISCOUNTED, "content of ours is longer than announced")

    def end_content(self) -> None:
        """The content is complete; without effect once the transaction is over."""
        progress, sending = self._progress, self._sending
        # a reply that is here already cannot be the one to what we send now
        if progress is None or sending is None or self._out_of_turn():
            return
        if self._purity.unfinished:
            self._spoiled(progress, BARE, "content of ours ends in a bare CR")
            return
        if isinstance(sending, DotStuffer):
            self._output.append(sending.finish())
        elif sending:
            self._spoiled(progress, _MISCOUNTED, "content of ours is shorter than announced")
            return
        self._sending = None
        self._expected.extend(
            [TransactionStage.END] * (len(progress.accepted) if self._lmtp else 1)
        )

    def quit(self) -> None:
        """End the session politely; `closed` once the server has answered."""
        self._command(TransactionStage.QUIT, b"QUIT\r\n")

    def starttls(self) -> None:
        """Ask for TLS, after Ready."""
        self._command(TransactionStage.STARTTLS, b"STARTTLS\r\n")

    def tls_established(self) -> None:
        """TLS stands, after TlsReady: what is known of the server is void (RFC 3207 4.2)."""
        self._handshake = False
        self._reader.clear()
        self._say_hello()

    def login(self, mechanism: str, initial: bytes | None) -> None:
        """Begin AUTH (RFC 4954), after Ready; `initial` is the mechanism's first word, if any."""
        self._tried_login = True
        line = b"AUTH " + mechanism.encode("ascii")
        self._initial = initial
        if initial is not None:
            whole = line + b" " + (base64.b64encode(initial) or b"=")
            if len(whole) <= MAX_AUTH_COMMAND:
                line, self._initial = whole, None
        self._command(TransactionStage.AUTH, line + b"\r\n")

    def respond(self, response: bytes) -> None:
        """Answer a LoginChallenge."""
        self._command(TransactionStage.AUTH, base64.b64encode(response) + b"\r\n")

    def cancel_login(self) -> None:
        """Give AUTH up after a LoginChallenge; the server answers 501."""
        self._command(TransactionStage.AUTH, b"*\r\n")

    def fail(self, reply: Reply, end: End = End.LOST) -> None:
        """The connection is lost or took too long: what is not answered gets this reply.

        Outside a transaction it is reported as Unwelcome. Call `next_event` afterwards.
        """
        if self.closed:
            return
        if self._progress is not None:
            self._abandon(self._progress, reply, end, reply.text)
        else:
            stage = self.waiting_for
            self._close()
            if stage is not TransactionStage.QUIT:
                self._events.append(Unwelcome(reply, stage))

    # -- sending -----------------------------------------------------------------------------

    def _command(self, stage: TransactionStage, line: bytes) -> None:
        """Send one command, the only one in flight."""
        if not self._out_of_turn():
            self._output.append(line)
            self._expected.append(stage)

    def _say_hello(self) -> None:
        verb = b"LHLO " if self._lmtp else b"HELO " if self._helo else b"EHLO "
        self._command(TransactionStage.HELLO, verb + self._hello + b"\r\n")

    def _send_queue(self) -> None:
        """All that may go out now: everything by PIPELINING (RFC 2920), else one command."""
        queue = self._unsent
        if self.extensions.pipelining:
            stages, lines = zip(*queue, strict=True)
            self._output.append(b"".join(lines))
            self._expected.extend(stages)
            queue.clear()
        else:
            stage, line = queue.popleft()
            self._output.append(line)
            self._expected.append(stage)

    def _out_of_turn(self) -> bool:
        """The server has spoken before we did: what it said must not pass for an answer."""
        if self.closed:
            return True
        if not self._expected and self._reader.pending:
            self._trouble(_EARLY if self._sending is not None else _UNASKED)
            return True
        return False

    # -- receiving ---------------------------------------------------------------------------

    def _take(self, reply: Reply) -> None:
        stage = self._expected.popleft() if self._expected else None
        if self._tried_login and self._progress is None and reply.code >= 400:
            reply = _in_our_words(reply)
        if stage is TransactionStage.QUIT:
            self._close()
        elif reply.code == 421:
            self._shut_down(reply, stage or self.waiting_for)
        elif stage is None:
            self._take_unasked(reply)
        elif stage is TransactionStage.GREETING or stage is TransactionStage.HELLO:
            self._take_welcome(reply, stage)
        elif stage is TransactionStage.AUTH:
            self._take_login(reply)
        elif reply.code == 220:  # to STARTTLS
            self._handshake = True
            if not self._reader.pending:
                self._events.append(TlsReady())
        elif self._reader.pending:
            self._trouble(_UNASKED)
        else:
            self._events.append(TlsRefused(reply))

    def _take_welcome(self, reply: Reply, stage: TransactionStage) -> None:
        digit = reply.code // 100
        if digit == 3:
            self._trouble(f"said {reply.code} to {stage}")
        elif digit == 2 and stage is TransactionStage.GREETING:
            self._say_hello()
        elif digit == 2:
            self.extensions = NONE_OFFERED if self._helo else Extensions.parse(reply.lines)
            self._events.append(Ready(self.extensions))
        elif digit == 5 and stage is TransactionStage.HELLO and not self._helo and not self._lmtp:
            self._helo = True  # RFC 5321 section 3.2
            self._say_hello()
        else:
            self._output.append(b"QUIT\r\n")
            self._close()
            self._events.append(Unwelcome(reply, stage))

    def _take_login(self, reply: Reply) -> None:
        initial, self._initial = self._initial, None
        if reply.code == 334:
            try:
                challenge = base64.b64decode(reply.text, validate=True)
            except (binascii.Error, ValueError):
                self._trouble("sent a challenge that is not base64")
                return
            if initial is not None and not challenge:
                self.respond(initial)
            else:
                self._events.append(LoginChallenge(challenge))
        elif reply.code == 235:
            self._events.append(LoggedIn())
        elif reply.code >= 400:
            self._events.append(LoginRefused(reply))
        else:
            self._trouble(f"said {reply.code} to AUTH")

    def _take_unasked(self, reply: Reply) -> None:
        if self._sending is None:
            self._trouble(_UNASKED)
        elif reply.code >= 400 and not self._lmtp and self._progress is not None:
            # against the book, but some servers refuse in mid-content; success is never believed
            self._abandon(self._progress, reply, End.ANSWERED, _EARLY)
        else:
            self._trouble(_EARLY)

    def _take_in_transaction(
        self, progress: Progress, reply: Reply, stage: TransactionStage
    ) -> None:
        digit = reply.code // 100
        if digit == (2 if stage is TransactionStage.DATA else 3):
            self._trouble(f"said {reply.code} to {stage}", stage)
        elif stage is TransactionStage.END:
            if not self._lmtp:
                progress.take_end(reply)
                self._finish(progress)
            elif progress.take_lmtp_end(reply):
                self._finish(progress)
        elif stage is TransactionStage.DATA:
            if digit == 3:
                self._begin_content(progress)
            else:
                progress.refuse_data(reply)
                self._finish(progress)
        elif stage is TransactionStage.MAIL:
            progress.take_mail(reply)
            if not progress.opened:
                self._unsent.clear()
            if not self._expected:
                self._advance(progress)
        elif digit != 2:
            self._trouble(f"said {reply.code} to {stage}", stage)
        elif not self._expected:
            self._advance(progress)

    def _advance(self, progress: Progress) -> None:
        """The envelope goes on: the next command, or the content, or nobody is left."""
        asking = self._unsent and self._unsent[0][0] is not TransactionStage.DATA
        if not asking and (progress.verifies or not progress.accepted):
            self._unsent.clear()
            self._finish(progress)
        elif not self._unsent:
            self._begin_content(progress)
        elif self._reader.pending:
            self._trouble(_UNASKED)
        else:
            self._send_queue()

    def _begin_content(self, progress: Progress) -> None:
        self._purity.unfinished = False
        if progress.accepted:
            if progress.bdat:
                self._output.append(b"BDAT %d LAST\r\n" % progress.size)
                self._sending = progress.size
            else:
                self._sending = DotStuffer()
            self._events.append(SendContent())
        elif self._lmtp:
            # RFC 2033 section 4.2 wants 503 here, and has no reply to the dot of nobody
            self._trouble("accepted DATA without recipients")
        else:
            # RFC 2920 section 3.1: all RCPT failed and yet DATA was accepted
            self._command(TransactionStage.END, b".\r\n")

    # -- the end of it -----------------------------------------------------------------------

    def _finish(self, progress: Progress, trouble: str = "") -> None:
        self._progress = None
        self._sending = None
        self._reset_due = progress.opened
        if not self.closed and self._reader.pending:
            trouble = _UNASKED
            self._close()
        self._events.append(progress.done(not self.closed, trouble))

    def _abandon(
        self,
        progress: Progress,
        reply: Reply,
        end: End,
        trouble: str = "",
        stage: TransactionStage | None = None,
    ) -> None:
        """Give up the transaction, and the connection with it."""
        progress.abandon(reply, stage or self.waiting_for, end)
        self._close()
        self._finish(progress, trouble)

    def _spoiled(self, progress: Progress, reply: Reply, why: str) -> None:
        """What we were given to send is not what it was said to be."""
        self._abandon(progress, reply, End.UNSENDABLE, why)

    def _shut_down(self, reply: Reply, stage: TransactionStage) -> None:
        """421: the server closes, whatever was going on (RFC 5321 section 3.8)."""
        progress = self._progress
        if progress is None:
            self._close()
            self._events.append(Unwelcome(reply, stage))
        else:
            self._abandon(progress, reply, End.SHUT_DOWN, stage=stage)

    def _trouble(self, reason: str, stage: TransactionStage | None = None) -> None:
        """The server broke the protocol: nothing it says can be trusted any more."""
        progress = self._progress
        if progress is not None:
            reply = Reply.of(451, "4.5.0", f"Next hop {reason}")
            self._abandon(progress, reply, End.LOST, reason, stage)
        else:
            self._close()
            self._events.append(ProtocolTrouble(reason))

    def _close(self) -> None:
        self.closed = True
        self._reader.clear()
        self._expected.clear()
        self._unsent.clear()
        self._sending = None


def _in_our_words(reply: Reply) -> Reply:
    """Code and enhanced status only: some servers repeat the line they refuse, password and all."""
    words = _LOGIN_WORDS.get(reply.code, "refused")
    return Reply(reply.code, reply.subject, reply.detail, (words,))
