r"""The mail log: one line per event, `key=value`, in Postfix's words for what became of mail.

Whom a line is for decides its level, and where its event stands in the line:

    info     support, who asks "where is this mail?": session, refused, accepted, attempt, report
    notice   the operator, who asks "what has it been doing?": notice
    warning  the operator, who is to do something: trouble

A line is the event's word, then `key=value` with a space between. A value with a space, a quote
or an equals sign in it stands in double quotes, with `\"` and `\\` inside. What is not printable
(control characters, line ends, text direction marks) is shown as `\x1b` or `\u202e`, so that no
peer can end a line, colour a terminal or write a line of its own. The exception is Postfix's:
`status=sent (250 2.0.0 Ok)` ends an attempt's line, the remote server's words in parentheses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import Content
from relayd.mail.ident import ident_text
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Outcome

MAX_VALUE = 512  # characters of one value
MAX_BUFFERED = 1000  # lines kept for one write

_INFO, _NOTICE, _WARNING = "<6>", "<5>", "<4>"  # syslog's numbers, as sd-daemon(3) wants them

STATUS = {
    RecipientState.QUEUED: "deferred",
    RecipientState.HELD: "held",
    RecipientState.DELIVERED: "sent",
    RecipientState.FAILED: "bounced",
    RecipientState.EXPIRED: "expired",
    RecipientState.DISCARDED: "discarded",
    RecipientState.REMOVED: "removed",
}

# Printable ASCII without space, quote, equals sign and backslash: needs no quotes.
_BARE = r"[!#-<>-\[\]-~]"
_PATH = rf"<{_BARE}{{0,{MAX_VALUE - 2}}}>"
_bare = re.compile(f"{_BARE}+").fullmatch
_bare_paths = re.compile(f"to={_PATH}(?: orig_to={_PATH})?").fullmatch
_plain = re.compile(r"[ -\[\]-~]*").fullmatch  # without backslash, which escapes start with
_MESSAGE_ID = re.compile(rb"\nmessage-id:[ \t\r\n]*(<[!-=?-~]{1,250}>)", re.IGNORECASE)
_USUAL_IDS = (b"\nMessage-ID: <", b"\nMessage-Id: <")


class LineLog:
    """Implements relayd.mail.log.MailLog. To be called in the reactor's thread only.

    Lines are gathered and written at the end of the reactor's iteration: `later(flush)` is to
    call `flush` then (relayd.reactor.lean.soon). `write` takes whole lines in UTF-8.
    `journal` leaves time stamps to journald and tells it the level instead.
    """

    def __init__(
        self,
        write: Callable[[bytes], object],
        *,
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
        journal: bool = False,
    ) -> None:
        self._write = write
        self._clock = clock
        self._later = later
        self._journal = journal
        self.taps: tuple[MailLog, ...] = ()  # who else is to hear it
        self._lines: list[str] = []
        self._second = -1
        self._stamp = ""

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        """An SMTP session ended."""
        for tap in self.taps:
            tap.session(client, messages=messages, refused=refused, seconds=seconds, end=end)
        tls = f" tls={value(client.tls)}" if client.tls else ""
        login = f" login={value(client.login)}" if client.login else ""
        self._put(
            _INFO,
            f"session client={_client(client)} helo={value(client.helo)}"
            f" proto={client.protocol}{tls}{login} messages={messages} refused={refused}"
            f" seconds={seconds:.1f} end={value(end)}",
        )

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        """A command was refused."""
        for tap in self.taps:
            tap.refused(client, command, reply, why)
        because = f" why={value(why)}" if why else ""
        self._put(
            _INFO,
            f"refused client={_client(client)} helo={value(client.helo)}"
            f" command={value(command)} reply={value(reply)}{because}",
        )

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        """A message is on stable storage."""
        for tap in self.taps:
            tap.accepted(message, records, seconds)
        client = message.client
        login = f" login={value(client.login)}" if client.login else ""
        self._put(
            _INFO,
            f"accepted id={ident_text(message.ident)} from={_path(message.envelope.reverse_path)}"
            f" size={message.content.size} nrcpt={len(records)}"
            f" message-id={message_id(message.content, message.header_size)}"
            f" client={_client(client)} helo={value(client.helo)} proto={client.protocol or 'own'}"
            f"{login}"
            f" delay={seconds:.2f}",
        )

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        """A line for each recipient: what an attempt, the operator or age made of it."""
        for tap in self.taps:
            tap.attempted(message, settlements, seconds)
        ident = ident_text(message.ident)
        delay = max(self._clock() - message.received_at, 0.0)
        delays = f"delay={delay:.2f} delays={max(delay - seconds, 0.0):.2f}/{seconds:.2f}"
        told: object = None
        lines = []
        for each in settlements:
            became = each.outcome, each.state, each.note
            if became != told:  # most have the same story as the one before
                told, relay, story = became, _relay(each.outcome), _story(each)
            to, original = each.record.recipient.mailbox, each.record.recipient.original
            renamed = original is not to and original != to
            whom = f"to=<{to}> orig_to=<{original}>" if renamed else f"to=<{to}>"
            if renamed and not (original.local or original.domain):  # Recipient.bcc
                renamed, whom = False, f"to=<{to}> copy=yes"
            if not _bare_paths(whom):
                whom = f"to={_path(to)} orig_to={_path(original)}" if renamed else f"to={_path(to)}"
            lines.append(
                f"attempt id={ident} {whom} relay={relay}"
                f" attempts={each.record.attempts + each.attempted} {delays} {story}"
            )
        if lines:
            self._put(_INFO, *lines)

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        """A report was queued."""
        for tap in self.taps:
            tap.report(about, report, to, kind)
        self._put(
            _INFO,
            f"report id={ident_text(about.ident)} report={value(report)} to={value(f'<{to}>')}"
            f" kind={value(kind)}",
        )

    def notice(self, event: str, **facts: object) -> None:
        """Something an operator should know."""
        for tap in self.taps:
            tap.notice(event, **facts)
        self._put(_NOTICE, f"notice event={value(event)}{_facts(facts)}")

    def trouble(self, event: str, **facts: object) -> None:
        """Something an operator should look at; handed on at once."""
        for tap in self.taps:
            tap.trouble(event, **facts)
        self._put(_WARNING, f"trouble event={value(event)}{_facts(facts)}")
        self.flush()

    def flush(self) -> None:
        """Write what was gathered; app calls it once more at the very end."""
        lines = self._lines
        if lines:
            try:
                text = "".join(lines).encode("utf-8", "backslashreplace")
            finally:
                # else nobody would ask for this again: `_put` asks with the first line only
                lines.clear()
            self._write(text)

    def line(self, event: str, *, trouble: bool, **facts: object) -> bytes:
        """A line for who writes it himself, at once; any thread may ask for it."""
        text = f"{'trouble' if trouble else 'notice'} event={value(event)}{_facts(facts)}\n"
        if self._journal:
            return f"{_WARNING if trouble else _NOTICE}{text}".encode("utf-8", "backslashreplace")
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="milliseconds")
        return f"{now.removesuffix('+00:00')}Z {text}".encode("utf-8", "backslashreplace")

    def dropped(self, count: int) -> bytes:
        """The line about so many that found no room; any thread may ask for it."""
        return self.line("log lines dropped", trouble=True, lines=count)

    def _put(self, level: str, *lines: str) -> None:
        if self._journal:
            before = level
        else:
            now = self._clock()
            second = int(now)
            if second != self._second:
                self._second = second
                self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            before = f"{self._stamp}.{int((now - second) * 1000):03d}Z "
        gathered = self._lines
        if not gathered:
            self._later(self.flush)  # first: where there is no memory for it, no line waits
        for line in lines:
            gathered.append(f"{before}{line}\n")
        if len(gathered) > MAX_BUFFERED:
            self.flush()


def value(text: object) -> str:
    """The text as a value: as it is where that is safe, else escaped and in double quotes."""
    text = str(text)
    if _bare(text) and len(text) <= MAX_VALUE:
        return text
    return '"' + _safe(text).replace('"', '\\"') + '"'


def message_id(content: Content, header_size: int) -> str:
    """The Message-ID field's value if it is a decent one, else `none`; costs about 1 us."""
    try:
        head = next(iter(content.chunks()), b"")[:header_size]
    except OSError:
        return "none"
    for usual in _USUAL_IDS:
        start = head.find(usual)
        if start >= 0:
            break
    else:
        start = 0
    match = _MESSAGE_ID.search(head, start)
    return value(match.group(1).decode("ascii")) if match else "none"


def _safe(text: str) -> str:
    """One printable line, bounded; what cannot be shown is escaped (not the double quote)."""
    text = text[:MAX_VALUE]
    if _plain(text):
        return text
    return "".join(
        character
        if character.isprintable() and character != "\\"
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _path(path: Mailbox | None) -> str:
    text = "<>" if path is None else f"<{path}>"
    return text if _bare(text) and len(text) <= MAX_VALUE else value(text)


def _client(client: Client) -> str:
    if not client.address:
        return "local"
    return f"[{value(client.address)}]:{client.port}"


def _relay(outcome: Outcome | None) -> str:
    """`host[address]:port` as Postfix has it; `none` if nobody was asked."""
    if outcome is None:
        return "none"
    host, address = outcome.remote_mta, outcome.remote_address
    if not address:
        return value(host) if host else "none"
    if address.startswith("unix:"):
        return value(f"{host}[{address[5:]}]")
    number, _, port = address.rpartition(":")
    number = number.strip("[]")
    return value(f"{host or number}[{number}]:{port}")


def _story(settlement: Settlement) -> str:
    """What became of the recipient, and in whose words."""
    outcome, status = settlement.outcome, STATUS[settlement.state]
    if outcome is None:
        return f"status={status} ({_safe(settlement.note)})"
    tls = f" tls={value(outcome.tls)}" if outcome.tls else ""
    why = f" why={value(outcome.why)}" if outcome.why else ""
    reply = outcome.reply
    return f"dsn={reply.status}{tls}{why} status={status} ({_safe(str(reply))})"


def _facts(facts: dict[str, object]) -> str:
    return "".join(f" {name}={value(fact)}" for name, fact in facts.items())
