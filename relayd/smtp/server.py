"""The server's side of SMTP as a machine without a socket: bytes in, events and bytes out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from relayd.mail.reply import Reply, printable
from relayd.smtp import grammar, replies
from relayd.smtp.content import IncomingContent
from relayd.smtp.events import (
    Auth,
    AuthResponse,
    Data,
    EndOfContent,
    Event,
    Hello,
    Mail,
    Quit,
    Rcpt,
    Refused,
    Rset,
    StartTls,
    Vrfy,
    XClient,
)
from relayd.smtp.exchange import ServerLimits, out_of_order
from relayd.smtp.extensions import DSN_RCPT, Offer, ehlo_lines, mail_keywords
from relayd.smtp.framing import LineTooLong, TornLine
from relayd.smtp.grammar import RemoteProtocolError
from relayd.smtp.receiving import Receiving
from relayd.smtp.state import IN_TRANSACTION, MOVES, Command, SessionState
from relayd.smtp.xclient import parse_xclient

__all__ = ["Offer", "ServerLimits", "SmtpServer"]

MAX_AUTH_LINE = 12288  # octets, RFC 4954 section 4

_NONE: frozenset[str] = frozenset()
_NUL, _CR = b"\0\r"  # as numbers: to ask for an octet that is given as bytes costs an exception
_VERB = re.compile(rb"[\s\0]*([A-Za-z]*)")  # whatever stands before it, and whatever ends it
_BLANKS = re.compile(rb"[ \t]*([A-Za-z]+)(?:[ \t]|\Z)")
# a field of a header section (RFC 5322 section 2.2), with what is obsolete about it (4.5)
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")
# what no line of mail and no password begins with
_SHOWN = re.compile(rb"MAIL FROM:|RCPT TO:|(?:EHLO|HELO) ", re.IGNORECASE)
# accepted, these change what the octets behind them mean
_TURNING = {b"DATA": Command.DATA, b"AUTH": Command.AUTH, b"STARTTLS": Command.STARTTLS}


class SmtpServer(Receiving):
    """One SMTP session.

    Call `receive_data`, then `next_event` until it returns None, and write `data_to_send`. After
    an event that needs a verdict (see `NeedsVerdict`) nothing goes on, and pipelined input is
    held back, until `answer`. Nothing a peer sends raises.
    """

    def answer(self, reply: Reply) -> None:
        """The verdict on the event last returned. Without one awaited, it is dropped."""
        event = self._asked
        if event is None:
            return
        self._asked = None
        if type(event) is Rcpt:
            if reply.code < 300:
                self._recipients += 1
            self._reply(reply, Command.RCPT)
        elif type(event) is EndOfContent:
            self._read = self._read_command
            self._reply(reply, self._ended_by)
            self._reset_transaction()
            if reply.code < 300:
                self._got_on()
        elif type(event) is Data:
            self._answer_data(reply, event)
        elif type(event) is Hello:
            self._answer_hello(reply, event)
        elif type(event) is Mail:
            if reply.code < 300:
                self._recipients = 0
                self._smtputf8 = event.params.smtputf8
                self.doubted = None
            self._reply(reply, Command.MAIL)
        elif type(event) is Vrfy:
            self._reply(reply)
        elif type(event) is StartTls:
            self._reply(reply, Command.STARTTLS)
            if self.state is SessionState.HANDSHAKE:
                self._input.clear()
            else:
                self._doubt(Command.STARTTLS)
        elif type(event) is XClient:
            self._answer_xclient(reply, event)
        else:
            self.authenticated = reply.code == 235
            self._reply(reply, Command.AUTH)
            # a name and a password may follow, but commands do where all was said in one line
            self.doubted = Command.AUTH if reply.code >= 400 else None
            self._read = (
                self._read_login if self.state is SessionState.LOGIN else self._read_command
            )

    def tls_established(self) -> None:
        """TLS stands: what was known and what was buffered is void (RFC 3207 section 4.2).

        Before `greet` for a listener that speaks TLS from the first byte.
        """
        self.tls = True
        self.authenticated = False
        self.state = MOVES.get((self.state, Command.TLS, 2), SessionState.GREETED)
        self._input.clear()
        self._events.clear()
        self._asked = None
        self.doubted = None
        self._read = self._read_command
        self._reset_transaction()

    def _answer_hello(self, reply: Reply, event: Hello) -> None:
        if reply.code >= 300:
            self._reply(reply, Command.HELO)
            return
        first = f"{self.hostname} {reply.text}".rstrip()
        lines = ehlo_lines(self.offer, self.tls) if event.esmtp else ()
        if self.state in IN_TRANSACTION:
            self._events.append(Rset())
            self.hungry = False
        self._reset_transaction()
        self.doubted = None
        self._reply(Reply.bare(250, first, *lines), Command.HELO)

    def _answer_xclient(self, reply: Reply, event: XClient) -> None:
        if reply.code < 300:
            self.authenticated = bool(event.login)
            self._reset_transaction()
            self._got_on()  # what another client did is not this one's
            if not self.tls:
                # RFC 3207 section 4.2 would have us forget whom the peer speaks for
                self.offer = replace(self.offer, starttls=False)
                self._introduced = True
        self._reply(reply, Command.XCLIENT)

    # -- commands ----------------------------------------------------------------------------

    def _read_command(self) -> Event | None:
        try:
            line = self._input.line(self.limits.line)
        except LineTooLong as error:
            return self._refuse(error.beginning, replies.LINE_TOO_LONG)
        except TornLine as error:
            return self._refuse_torn(error)
        if line is None:
            self.hungry = True
            return None
        self.hungry = self._input.at == len(self._input.data)
        verb, _, argument = line.partition(b" ")
        read = _COMMANDS.get(verb) or _COMMANDS.get(verb.upper(), SmtpServer._unknown)
        if _CR in line or _NUL in line:
            return self._refuse(line, replies.LINE_BROKEN)
        if read is SmtpServer._unknown and not (self.strict or self.doubted):
            read, argument = self._sloppy(line)
        if self.state is SessionState.UNWELCOME and read is not SmtpServer._quit:
            return self._refuse(line, replies.OUT_OF_ORDER)
        try:
            return read(self, argument)
        except RemoteProtocolError as error:
            return self._refuse(line, error.reply)

    def _sloppy(self, line: bytes) -> tuple[_Read, bytes]:
        """The command and its argument where blanks or tabs stand before or behind the verb.

        Only where it does not matter whether others take it for one: what follows stays commands.
        """
        match = _BLANKS.match(line)
        verb = match[1].upper() if match else b""
        read = None if verb in _TURNING or verb == b"BDAT" else _COMMANDS.get(verb)
        return (read, line[match.end() :]) if match and read else (SmtpServer._unknown, b"")

    def _refuse_torn(self, torn: TornLine) -> Event | None:
        """What a bare LF ends is answered, for its sender waits; what hides behind it is not run.

        The end of a torn line has had its answer with the beginning, unless it would be a command.
        """
        match = _VERB.match(torn.line)
        if torn.complete and not (match and match[1].upper() in _COMMANDS):
            return None
        return self._refuse(torn.line, replies.LINE_BROKEN)

    def _refuse(self, line: bytes, reply: Reply) -> Event:
        """Answer a command that the core itself refuses, and count it."""
        match = _VERB.match(line)
        verb = match[1].upper() if match else b""
        shown = self._shown(verb, line, reply)
        reply = self._counted(reply)
        if reply.code == 421:
            pass
        elif verb == b"BDAT":
            reply = self._no_size()
        elif _FIELD.match(line) or (self.doubted is Command.DATA and verb not in _COMMANDS):
            # content: none of what follows may run, for it was not meant to
            text = f"{self.hostname} This is not a command, and what follows may be none"
            reply = Reply.of(421, "4.5.0", text)
        elif self.doubted is not None and reply.code != 503:  # whose text quotes nothing
            reply = Reply(reply.code, reply.subject, reply.detail, ("Command refused",))
        if verb in _TURNING:
            self._doubt(_TURNING[verb])
        return Refused(shown, self._reply(reply))

    def _shown(self, verb: bytes, line: bytes, reply: Reply) -> str:
        """What the log may show of a refused command: never a password, nor a line of mail."""
        too_long = reply is replies.LINE_TOO_LONG
        if verb not in _COMMANDS:
            return "unknown, too long" if too_long else f"unknown, {len(line)} octets"
        broken = too_long or reply is replies.LINE_BROKEN
        if broken or self.doubted is not None or not _SHOWN.match(line):
            return verb.decode("ascii")
        return printable(line[:200].decode("utf-8", "replace"), 200)

    def _no_size(self) -> Reply:
        """How many octets of content follow is unknown, so nothing can be read any more."""
        text = f"{self.hostname} BDAT without a readable size, cannot find the next command"
        return Reply.of(421, "4.5.4", text)

    def _helo(self, argument: bytes) -> Event:
        self._idled()
        return Hello(grammar.parse_hello(argument, strict=self.strict), esmtp=False)

    def _ehlo(self, argument: bytes) -> Event:
        self._idled()
        return Hello(grammar.parse_hello(argument, strict=self.strict), esmtp=True)

    def _mail(self, argument: bytes) -> Event:
        self._require(Command.MAIL)
        if self.strict:
            if self.state is SessionState.GREETED:
                raise RemoteProtocolError(replies.HELLO_FIRST)
            grammar.require_letter(argument)
        path, params = grammar.parse_mail(
            argument, mail_keywords(self.offer, self.tls, self.strict), self.origin
        )
        if params.size and 0 < self.offer.size < params.size:
            raise RemoteProtocolError(replies.TOO_BIG)
        return Mail(path, params)

    def _rcpt(self, argument: bytes) -> Event:
        self._require(Command.RCPT)
        if self.strict:
            grammar.require_letter(argument)
        keywords = DSN_RCPT if self.offer.dsn else _NONE
        path, params = grammar.parse_rcpt(argument, keywords, self._smtputf8, self.origin)
        if self._recipients >= self.limits.recipients:
            raise RemoteProtocolError(replies.TOO_MANY_RECIPIENTS)
        return Rcpt(path, params)

    def _data(self, argument: bytes) -> Event:
        if argument:
            _require_blank(argument)
        self._require(Command.DATA)
        self._content = IncomingContent(self.offer.size, self.limits.normalise)
        return Data(bdat=False)

    def _bdat(self, argument: bytes) -> Event | None:
        parsed = grammar.parse_bdat(argument)
        if parsed is None:
            raise RemoteProtocolError(self._no_size())
        self._octets, last = parsed
        if not self._octets and not last:
            self._idled()
        self._bdat_command = Command.LAST if last else Command.BDAT
        self._bdat_size = self._octets
        self._swallow = None
        self._read = self._read_octets
        self.hungry = False  # there may be none
        if not self.offer.chunking:
            self._swallow = self._counted(replies.NOT_IMPLEMENTED)
        elif self.state is SessionState.ADDRESSED:
            self._content = IncomingContent(self.offer.size, self.limits.normalise)
            return Data(bdat=True)
        elif self.state is SessionState.CHUNKING:
            return self._begin_octets()
        else:
            self._swallow = self._counted(out_of_order(self.state, self._bdat_command))
        return None

    def _rset(self, argument: bytes) -> Event:
        if argument:
            _require_blank(argument)
        self._idled()
        self._reset_transaction()
        self.doubted = None
        self._reply(replies.OK, Command.RSET)
        return Rset()

    def _noop(self, argument: bytes) -> None:
        self._idled()
        self._reply(replies.OK)

    def _help(self, argument: bytes) -> None:
        self._idled()
        self._reply(replies.HELP)

    def _vrfy(self, argument: bytes) -> Event:
        text = printable(grammar.text_of(argument))
        if not text:
            raise RemoteProtocolError(replies.NEEDS_ARGUMENT)
        self._idled()
        return Vrfy(text)

    def _quit(self, argument: bytes) -> Event:
        if argument and self.strict:
            _require_blank(argument)
        self._reply(Reply(221, 0, 0, (f"{self.hostname} closing connection",)))
        self._close()
        return Quit()

    def _xclient(self, argument: bytes) -> Event:
        if not self.offer.xclient:
            raise RemoteProtocolError(replies.NOT_A_PROXY)
        self._require(Command.XCLIENT)
        return parse_xclient(argument, self.offer.xclient)

    def _starttls(self, argument: bytes) -> Event:
        if self._introduced:
            raise RemoteProtocolError(replies.TLS_BEFORE_XCLIENT)
        if not self.offer.starttls or self.tls:
            raise RemoteProtocolError(replies.NOT_IMPLEMENTED)
        _require_blank(argument)
        self._require(Command.STARTTLS)
        return StartTls()

    def _auth(self, argument: bytes) -> Event:
        if not self.offer.auth:
            raise RemoteProtocolError(replies.NOT_IMPLEMENTED)
        if not (self.tls or self.offer.auth_in_clear):
            raise RemoteProtocolError(replies.ENCRYPT_FIRST)
        self._require(Command.AUTH)
        if self.authenticated:
            raise RemoteProtocolError(replies.LOGGED_IN)
        self._idled()
        mechanism, initial = grammar.parse_auth(argument)
        if mechanism not in self.offer.auth:
            raise RemoteProtocolError(replies.NO_MECHANISM)
        return Auth(mechanism, initial)

    def _not_implemented(self, argument: bytes) -> Event:
        raise RemoteProtocolError(replies.NOT_IMPLEMENTED)

    def _not_smtp(self, argument: bytes) -> Event:
        text = f"{self.hostname} This is a mail server"
        raise RemoteProtocolError(Reply.of(421, "4.7.0", text))

    def _unknown(self, argument: bytes) -> Event:
        raise RemoteProtocolError(replies.UNKNOWN)

    # -- what is not commands ----------------------------------------------------------------

    def _read_login(self) -> Event | None:
        """A line of SASL after our 334 (RFC 4954 section 4)."""
        self._read = self._read_command
        try:
            line = self._input.line(MAX_AUTH_LINE)
            if line is None:
                self._read = self._read_login
                self.hungry = True
                return None
            response = None if line == b"*" else grammar.parse_base64(line)
        except LineTooLong:
            reply = replies.LINE_TOO_LONG
        except TornLine:
            reply = replies.LINE_BROKEN
        except RemoteProtocolError as error:
            reply = error.reply
        else:
            return AuthResponse(response)
        self.state = SessionState.READY
        return self._refuse(b"AUTH ", reply)


def _require_blank(argument: bytes) -> None:
    if argument.strip(b" \t"):
        raise RemoteProtocolError(replies.NO_ARGUMENT)


_Read = Callable[[SmtpServer, bytes], "Event | None"]
_COMMANDS: Mapping[bytes, _Read] = (
    {
        b"HELO": SmtpServer._helo,
        b"EHLO": SmtpServer._ehlo,
        b"MAIL": SmtpServer._mail,
        b"RCPT": SmtpServer._rcpt,
        b"DATA": SmtpServer._data,
        b"BDAT": SmtpServer._bdat,
        b"RSET": SmtpServer._rset,
        b"NOOP": SmtpServer._noop,
        b"HELP": SmtpServer._help,
        b"VRFY": SmtpServer._vrfy,
        b"QUIT": SmtpServer._quit,
        b"STARTTLS": SmtpServer._starttls,
        b"AUTH": SmtpServer._auth,
        b"XCLIENT": SmtpServer._xclient,
    }
    | dict.fromkeys(
        # of RFC 5321, RFC 1985 and RFC 821: known, and not for us
        (b"EXPN", b"ETRN", b"TURN", b"SEND", b"SOML", b"SAML"),
        SmtpServer._not_implemented,
    )
    | dict.fromkeys(
        # a browser made to speak to us by a hostile page: its next lines are not ours to answer
        (b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE"),
        SmtpServer._not_smtp,
    )
)
