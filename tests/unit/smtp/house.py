"""A rim for the server core without a socket: it answers as the dialogues' house does."""

from __future__ import annotations

from relayd.mail.reply import Reply
from relayd.smtp.events import (
    Auth,
    AuthResponse,
    Chunk,
    ContentRefused,
    Data,
    EndOfContent,
    Event,
    Hello,
    Mail,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from relayd.smtp.server import Offer, ServerLimits, SmtpServer

HOST = "mx.example"
_REFUSED = Reply(554, 7, 1, ("Refused where it goes:", "see https://one.example/spam"))
GO_AHEAD = Reply.bare(354, "End data with <CR><LF>.<CR><LF>")


class House:
    """Answers every verdict at once, or with `slow` only when `decide` is called."""

    def __init__(self, settings: dict[str, str] | None = None, *, slow: bool = False) -> None:
        given = settings or {}
        self.server = SmtpServer(
            HOST,
            ServerLimits(
                line=int(given.get("line", 2048)),
                recipients=int(given.get("recipients", 1000)),
                errors=int(given.get("errors", 20)),
                refusals=int(given.get("refusals", 100)),
                idle=int(given.get("idle", 100)),
                normalise="normalise" in given,
            ),
            Offer(
                size=int(given.get("size", 1 << 20)),
                starttls="starttls" in given,
                auth=("PLAIN",) if "auth" in given else (),
                auth_in_clear="auth-in-clear" in given,
                chunking="no-chunking" not in given,
                smtputf8="no-smtputf8" not in given,
                dsn="no-dsn" not in given,
                require_tls=True,
            ),
        )
        self.server.strict = "strict" in given
        self.server.origin = str(given.get("origin", ""))
        self.messages: list[bytes] = []
        self.events: list[Event] = []  # neighbouring chunks joined
        self._heard = bytearray()
        self._slow = slow
        self._lost = False
        self._refused = False
        self._content = bytearray()
        self._wants: Event | None = None
        if "tls" in given:
            self.server.tls_established()
        self.server.greet()

    @property
    def closed(self) -> bool:
        return self.server.closed

    def send(self, data: bytes) -> None:
        self.server.receive_data(data)
        self.run()

    def receive(self) -> bytes:
        self._heard += self.server.data_to_send()
        heard, self._heard = bytes(self._heard), bytearray()
        return heard

    def start_tls(self) -> None:
        self.server.tls_established()

    def run(self) -> None:
        """Take events until there is none."""
        while (event := self.server.next_event()) is not None:
            self._take(event)
            if self.server.awaiting_verdict:
                self._wants = event
                if self._slow:
                    return
                self.decide()
        self._heard += self.server.data_to_send()

    def decide(self) -> bool:
        """Give the verdict that is awaited; returns whether one was."""
        event, self._wants = self._wants, None
        if event is None:
            return False
        self.server.answer(self._verdict(event))
        if self._slow:
            self.run()
        return True

    def _take(self, event: Event) -> None:
        last = self.events[-1] if self.events else None
        if isinstance(event, Chunk):
            assert event.data
            self._content += event.data
            if isinstance(last, Chunk):
                self.events[-1] = Chunk(last.data + event.data)
                return
        elif isinstance(event, ContentRefused):
            # how much came before it is noticed depends on how the input was cut
            if isinstance(last, Chunk):
                self.events.pop()
            self._content = bytearray()
        elif isinstance(event, Mail | Rset):
            self._content = bytearray()
            self._lost = isinstance(event, Mail) and str(event.path or "").startswith("lost@")
            self._refused = isinstance(event, Mail) and str(event.path or "").startswith("spam@")
        self.events.append(event)

    def _verdict(self, event: Event) -> Reply:
        match event:
            case Hello():
                return Reply.bare(250, "at your service")
            case Mail(path=path):
                if path is not None and path.local == "refused":
                    return Reply.of(550, "5.7.1", "Not from you")
                return Reply.of(250, "2.1.0", "Sender ok")
            case Rcpt(path=mailbox):
                if mailbox.domain == "elsewhere.example":
                    return Reply.of(550, "5.7.1", "Relaying denied")
                if mailbox.local == "later":
                    return Reply.of(451, "4.3.0", "Try again later")
                return Reply.of(250, "2.1.5", "Recipient ok")
            case Data():
                return GO_AHEAD
            case EndOfContent():
                content, self._content = bytes(self._content), bytearray()
                if self._lost:
                    return Reply.of(452, "4.3.1", "No room")
                if self._refused:
                    return _REFUSED
                self.messages.append(content)
                return Reply.of(250, "2.0.0", "Accepted")
            case Vrfy():
                return Reply.of(252, "2.5.0", "Send some mail, I will try my best")
            case StartTls():
                return Reply.of(220, "2.0.0", "Ready to start TLS")
            case Auth(initial=None):
                return Reply.bare(334, "")
            case Auth(initial=secret) | AuthResponse(response=secret):
                if secret is None:
                    return Reply.of(501, "5.7.0", "Cancelled")
                if secret == b"\0user\0secret":
                    return Reply.of(235, "2.7.0", "Welcome")
                return Reply.of(535, "5.7.8", "Wrong")
        raise AssertionError(f"no verdict for {event}")
