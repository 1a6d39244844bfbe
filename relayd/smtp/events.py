"""What the protocol cores report: one event per thing that happened on the wire."""

from __future__ import annotations

import enum
from dataclasses import field

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.smtp.extensions import Extensions


@dataclass(frozen=True, slots=True)
class MailParams:
    """Parameters of MAIL as given; what was not given has the default."""

    size: int | None = None  # octets, RFC 1870
    body: str = ""  # "", "7BIT" or "8BITMIME", RFC 6152
    smtputf8: bool = False  # RFC 6531
    ret: str = ""  # "", "FULL" or "HDRS", RFC 3461 section 4.3
    envid: str = ""  # xtext-decoded, printable ASCII, RFC 3461 section 4.4
    auth: str | None = None  # xtext-decoded, "" for <>, RFC 4954 section 5
    require_tls: bool = False  # RFC 8689


@dataclass(frozen=True, slots=True)
class RcptParams:
    """Parameters of RCPT as given."""

    notify: frozenset[str] = frozenset()  # of NEVER SUCCESS FAILURE DELAY, RFC 3461 section 4.1
    orcpt: str = ""  # "rfc822;user@example.com", xtext-decoded, RFC 3461 section 4.2


# -- the server's events ---------------------------------------------------------------------


class NeedsVerdict:
    """An event after which the server core stands still until `Server.answer` is called."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Hello(NeedsVerdict):
    """HELO or EHLO. The core adds host name and extensions to a positive answer.

    A positive answer ends an open transaction: the core then reports Rset.
    """

    name: str  # made printable, never empty, not checked further (RFC 5321 section 4.1.4)
    esmtp: bool


@dataclass(frozen=True, slots=True)
class Mail(NeedsVerdict):
    """MAIL FROM: a transaction opens when the answer is positive."""

    path: ReversePath
    params: MailParams


@dataclass(frozen=True, slots=True)
class Rcpt(NeedsVerdict):
    """RCPT TO; a source route has been dropped (RFC 5321 section 4.1.1.3)."""

    path: Mailbox
    params: RcptParams


@dataclass(frozen=True, slots=True)
class Data(NeedsVerdict):
    """DATA, or the first BDAT. Answer 354 to go on (never sent for BDAT), or refuse.

    Content already under way behind a refused BDAT is swallowed.
    """

    bdat: bool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of content: dots unstuffed, CRLF intact, never empty."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfContent(NeedsVerdict):
    """The content is complete. Whatever the answer, the transaction is over."""


@dataclass(frozen=True, slots=True)
class ContentRefused:
    """The core refuses the content (over-size, bare CR or LF, NUL): roll back now.

    No Chunk and no EndOfContent follow. The client hears `reply` when it has sent everything.
    """

    reply: Reply


@dataclass(frozen=True, slots=True)
class Rset:
    """The open transaction, if any, is over without a message: roll back."""


@dataclass(frozen=True, slots=True)
class Vrfy(NeedsVerdict):
    """VRFY; RFC 5321 section 3.5.3 allows a plain 252."""

    text: str


@dataclass(frozen=True, slots=True)
class StartTls(NeedsVerdict):
    """STARTTLS. After a 220: send it, start TLS, then call `Server.tls_established`."""


@dataclass(frozen=True, slots=True)
class Auth(NeedsVerdict):
    """AUTH, only under TLS and when offered. Answer 235, 334 with a challenge, or refuse."""

    mechanism: str  # upper-case
    initial: bytes | None = field(repr=False)  # decoded initial response


@dataclass(frozen=True, slots=True)
class AuthResponse(NeedsVerdict):
    """The decoded line after a 334; None when the client cancelled with `*` (answer 501)."""

    response: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class XClient(NeedsVerdict):
    """XCLIENT of a peer that may: whom it speaks for. After a 220 the session begins anew.

    None: the peer did not say; it may also say that it does not know.
    """

    address: str | None = None  # "0.0.0.0": unknown
    port: int | None = None  # 0: unknown
    helo: str | None = None  # "": unknown
    login: str | None = None  # "": nobody has logged in
    name: str | None = None  # the reverse name; "": there is none


@dataclass(frozen=True, slots=True)
class Quit:
    """QUIT; 221 is on its way and the core is closed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """For the log: the core itself refused a command (syntax, order, limits)."""

    command: str  # the verb, or its size; whole only where it can hold nothing private
    reply: Reply


Event = (
    Hello
    | Mail
    | Rcpt
    | Data
    | Chunk
    | EndOfContent
    | ContentRefused
    | Rset
    | Vrfy
    | StartTls
    | Auth
    | AuthResponse
    | XClient
    | Quit
    | Refused
)


# -- the client's events ---------------------------------------------------------------------


class TransactionStage(enum.StrEnum):
    """What the client is waiting for, or where a reply came from (RFC 5321 section 4.5.3.2)."""

    GREETING = "greeting"
    HELLO = "hello"  # EHLO, HELO, LHLO
    STARTTLS = "starttls"
    AUTH = "auth"
    IDLE = "idle"  # for us: nothing is asked of the server
    OFFER = "offer"  # nothing was sent: the server's extensions rule it out
    RSET = "rset"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"  # for us: the content is being sent
    END = "end"  # the reply to the final dot or BDAT LAST
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class Ready:
    """The session is open for `send`, `starttls` or `quit`."""

    extensions: Extensions


@dataclass(frozen=True, slots=True)
class Unwelcome:
    """The server does not want us: greeting or EHLO refused, or 421 while idle. Over."""

    reply: Reply
    stage: TransactionStage


@dataclass(frozen=True, slots=True)
class TlsReady:
    """The server said 220 to STARTTLS: start TLS, then call `Client.tls_established`."""


@dataclass(frozen=True, slots=True)
class TlsRefused:
    """The server did not want STARTTLS; the session in the clear is still usable."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class LoginChallenge:
    """The server asks in the course of AUTH: call `Client.respond` or `Client.cancel_login`."""

    octets: bytes = field(repr=False)  # decoded


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """AUTH succeeded; the session is open for `send`."""


@dataclass(frozen=True, slots=True)
class LoginRefused:
    """AUTH failed, or was cancelled by us; the session stands as before it.

    Code and enhanced status are the server's, the words are ours: its own may repeat our secret.
    """

    reply: Reply


@dataclass(frozen=True, slots=True)
class SendContent:
    """At least one recipient was accepted: call `send_content` and `end_content`."""


class End(enum.Enum):
    """How a transaction came to its end, and so whose the last words are."""

    ANSWERED = "answered"  # every reply is the server's
    SHUT_DOWN = "shut down"  # the server's 421 stands for the answers that it still owed
    LOST = "lost"  # ... words of ours do: the connection is gone, or nothing it says can be trusted
    UNSENDABLE = "unsendable"  # ... words of ours do: what we were given to send is spoiled


@dataclass(frozen=True, slots=True)
class TransactionDone:
    """The transaction is over; also when the connection failed in the middle of it."""

    replies: tuple[Reply, ...]  # one per recipient, in order
    stages: tuple[TransactionStage, ...]  # where each reply came from
    reusable: bool  # another transaction may follow on this connection
    end: End = End.ANSWERED
    last: Reply | None = None  # whoever has this very reply was not answered: see `end`
    trouble: str = ""  # what the server (or the connection) did wrong; for the log

    def ending(self, number: int) -> End:
        """How it came to an end for this recipient."""
        return self.end if self.replies[number] is self.last else End.ANSWERED


@dataclass(frozen=True, slots=True)
class ProtocolTrouble:
    """Outside a transaction the server talked nonsense: drop the connection."""

    reason: str


ClientEvent = (
    Ready
    | Unwelcome
    | TlsReady
    | TlsRefused
    | LoginChallenge
    | LoggedIn
    | LoginRefused
    | SendContent
    | TransactionDone
    | ProtocolTrouble
)
