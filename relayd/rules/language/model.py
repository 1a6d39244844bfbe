"""Statements as values: what the parser makes, what prints itself as valid rule text again.

Equality leaves the place out, so that `parse(str(rule)) == rule` can be a test.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import field

from relayd.mail.address import Mailbox, ReversePath, fold_domain
from relayd.mail.envelope import DIRECT, Direction
from relayd.mail.nexthop import NextHop
from relayd.mail.pacing import MailProvider, PaceLimits, SourceAddress
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.rules.conditions.condition import Condition
from relayd.rules.fact import Known
from relayd.rules.language.directory import DirectoryDef
from relayd.rules.language.lexer import quote, string
from relayd.rules.language.pattern import (
    Final,
    MailboxPattern,
    Replacement,
    Reversible,
    mailbox_text,
)
from relayd.rules.language.source import Place, Source
from relayd.rules.language.words import seconds_of
from relayd.rules.leaving import BREAKS

REWRITTEN = "srs"  # what an `expect` calls a sender that was rewritten: the hash is secret
SEALS = "arc "  # how a signer's name begins that seals a chain
NOWHERE = Place(Source("", "", ()), 0)


@dataclass(frozen=True, slots=True)
class Rule:
    """What all rules have in common."""

    when: tuple[Condition, ...] = field(default=(), kw_only=True)
    place: Place = field(default=NOWHERE, kw_only=True, compare=False)

    @property
    def tests(self) -> tuple[Condition, ...]:
        """Every condition that must hold, those of `when` included."""
        return self.when

    @property
    def examines(self) -> bool:
        """Whether it looks at the content: then it is asked at the final dot, and not at RCPT."""
        return any(each.known is Known.CONTENT for each in self.tests)

    @property
    def of_copies(self) -> bool:
        """Whether it asks how a copy would leave: then it is asked when that is known."""
        return any(BREAKS in each.needs for each in self.tests)

    @property
    def body(self) -> str:
        """The rule without its verb and `when`."""
        raise NotImplementedError

    @property
    def stage(self) -> str:
        """The verb, which names the stage."""
        return type(self).__name__.lower()

    @property
    def text(self) -> str:
        """What a trail shows beside the stage's name."""
        return _when(self.body, self.when)

    def __str__(self) -> str:
        return f"{self.stage} {self.text}"


@dataclass(frozen=True, slots=True)
class AdmissionRule(Rule):
    """`accept`, `reject`, `defer`, `hold` or `discard`: whether the recipient is taken at all."""

    verb: str
    conditions: tuple[Condition, ...]
    reply: Reply | None = None  # only with reject and defer
    reason: str = ""  # for the log, with hold and discard

    @property
    def tests(self) -> tuple[Condition, ...]:
        return self.conditions + self.when

    @property
    def for_all(self) -> bool:
        """Whether, looking at the content, it is about all recipients: SMTP has one answer then."""
        return self.verb in ("accept", "reject", "defer")

    @property
    def stage(self) -> str:
        return self.verb

    @property
    def body(self) -> str:
        words = [spaces(self.conditions)] if self.conditions else []
        if self.reply is not None:
            words += [str(self.reply.code), self.reply.status, string(self.reply.text)]
        elif self.reason:
            words.append(string(self.reason))
        return " ".join(words)

    @property
    def text(self) -> str:
        return f"{self.verb} {_when(self.body, self.when)}".rstrip()

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Rewrite(Rule):
    """`rewrite sender` or `rewrite recipient`: the envelope's addresses, once, before forward."""

    what: str  # "sender" or "recipient"
    patterns: tuple[MailboxPattern, ...]
    replacement: Replacement | None  # None: the table says
    at: tuple[str, ...] = ()  # domains of the table's entries without one

    @property
    def folded_at(self) -> tuple[str, ...]:
        """`at`, as tables compare it."""
        return tuple(map(fold_domain, self.at))

    @property
    def body(self) -> str:
        return f"{self.what} {_replaced(self.patterns, self.replacement, self.at)}"


@dataclass(frozen=True, slots=True)
class HeaderRewrite(Rule):
    """`rewrite header`: addresses in the named fields of the content."""

    fields: tuple[str, ...]
    patterns: tuple[MailboxPattern, ...]
    replacement: Replacement | Reversible | None
    at: tuple[str, ...] = ()

    @property
    def stage(self) -> str:
        return "rewrite"

    @property
    def folded_at(self) -> tuple[str, ...]:
        """`at`, as tables compare it."""
        return tuple(map(fold_domain, self.at))

    @property
    def body(self) -> str:
        what = _replaced(self.patterns, self.replacement, self.at)
        return f"header {commas(self.fields)} {what}"


@dataclass(frozen=True, slots=True)
class HeaderEdit(Rule):
    """`header add`, `header remove` or `header replace`: whole fields of the content."""

    action: str
    name: str
    value: str = ""

    @property
    def stage(self) -> str:
        return "header"

    @property
    def body(self) -> str:
        words = f"{self.action} {self.name}"
        return words if self.action == "remove" else f"{words} {string(self.value)}"


@dataclass(frozen=True, slots=True)
class Forward(Rule):
    """`forward`: one recipient becomes others."""

    patterns: tuple[MailboxPattern, ...]
    targets: tuple[Replacement | Final, ...]  # empty: the table says
    at: tuple[str, ...] = ()  # domains of the table's entries without one

    @property
    def folded_at(self) -> tuple[str, ...]:
        """`at`, as tables compare it."""
        return tuple(map(fold_domain, self.at))

    @property
    def body(self) -> str:
        return _replaced(self.patterns, commas(self.targets) or None, self.at)


@dataclass(frozen=True, slots=True)
class Route(Rule):
    """`route`: where a final recipient goes next."""

    conditions: tuple[Condition, ...]
    hops: tuple[str, ...]  # names in order; empty: direct, or as the transport table says
    table: str = ""  # a transport table
    direct_first: bool = False  # the domain's exchangers before the hops
    source: str = ""  # whose address the way to them begins at
    patience: str = ""  # as it is written: how long the client waits for the first attempt

    @property
    def tests(self) -> tuple[Condition, ...]:
        return self.conditions + self.when

    @property
    def cut_through(self) -> float:
        """Seconds; 0: the client does not wait."""
        return (seconds_of(self.patience) or 0.0) if self.patience else 0.0

    @property
    def next_hop(self) -> str:
        """What Recipient.next_hop is to be."""
        if self.direct_first or self.source:
            return str(Direction(self.hops, exchangers=self.direct_first, source=self.source))
        return ",".join(self.hops) or DIRECT

    @property
    def body(self) -> str:
        words = [f"<{self.table}>"] if self.table else []
        words += [spaces(self.conditions)] if self.conditions else []
        if self.hops or not self.table:
            words.append(Direction.parse(self.next_hop).words)
        if self.patience:
            words.append(f"cut-through {self.patience}")
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Copy(Rule):
    """`copy`: whose mail goes to one more place, seen by nobody."""

    conditions: tuple[Condition, ...]
    target: Mailbox | None = None  # None: the recipient itself, by these next hops
    hops: tuple[str, ...] = ()  # names in order; empty: as mail for the target goes

    @property
    def tests(self) -> tuple[Condition, ...]:
        return self.conditions + self.when

    @property
    def next_hop(self) -> str:
        """What Recipient.next_hop is to be; empty: as the other rules say."""
        return ",".join(self.hops)

    @property
    def body(self) -> str:
        words = [spaces(self.conditions)]
        words += [f"to {mailbox_text(self.target)}"] if self.target is not None else []
        words += [f"via {commas(self.hops)}"] if self.hops else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Expected:
    """One destination that an `expect` names; an empty next hop is not looked at."""

    mailbox: Mailbox
    next_hop: str = ""

    def __str__(self) -> str:
        where = Direction.parse(self.next_hop).words if self.next_hop else ""
        return f"{mailbox_text(self.mailbox)} {where}".rstrip()


@dataclass(frozen=True, slots=True)
class Expect(Rule):
    """`expect`: a test inside the rules; a set in which one fails never goes live."""

    recipient: Mailbox
    client: str = ""  # empty: OUTSIDER
    sender: ReversePath | str = ""  # "": some sender of no domain that has a rule
    login: str = ""
    listener: str = ""
    helo: str = ""
    verdict: str = "accept"  # or reject, defer, hold, discard
    code: int = 0  # with reject; 0: any
    status: str = ""
    destinations: tuple[Expected, ...] = ()  # with accept and hold; empty: any
    new_sender: ReversePath | str = ""  # reverse-path of all; "": any, REWRITTEN: by SRS
    stated: tuple[Condition, ...] = ()  # facts that others would be asked for
    rdns: str = ""  # "none": there is none; "": some name of no domain that has a rule
    copies: tuple[Expected, ...] = ()  # where `copy` rules send it; empty: any

    @property
    def body(self) -> str:
        words = []
        for name, value in (("from", self.client), ("login", self.login), ("helo", self.helo)):
            words += [name, quote(value)] if value else []
        words += ["listener", self.listener] if self.listener else []
        words += ["rdns", quote(self.rdns)] if self.rdns else []
        words += ["sender", _path(self.sender)] if self.sender != "" else []
        words += ["to", mailbox_text(self.recipient)]
        words += ["when", " and ".join(map(str, self.stated))] if self.stated else []
        words.append("->")
        if self.verdict in ("reject", "defer"):
            words += [self.verdict, *([str(self.code)] if self.code else []), self.status]
        elif self.verdict != "accept" or not self.destinations:
            words += [self.verdict, commas(self.destinations)]
        else:
            words.append(commas(self.destinations))
        words += ["sender", _path(self.new_sender)] if self.new_sender != "" else []
        words += ["copy", commas(self.copies)] if self.copies else []
        return " ".join(word for word in words if word)


@dataclass(frozen=True, slots=True)
class TableDef:
    """`table NAME [KIND] { entries }` or `table NAME [KIND] file PATH`."""

    name: str
    kind: str  # a key of relayd.rules.tables.tablefile.READERS
    entries: tuple[str, ...] = ()
    file: str = ""  # relative to the file it is written in
    includes: str = ""  # folder below which aliases(5) may :include:
    query: str = ""  # with sqlite
    socket: str = ""  # with dovecot-auth: an absolute path
    directory: DirectoryDef | None = None  # a snapshot of it
    shared: bool = False  # scoped files may name it
    place: Place = field(default=NOWHERE, compare=False)
    entry_places: tuple[Place, ...] = field(default=(), compare=False, repr=False)

    def __str__(self) -> str:
        text = self._text()
        return f"{text} shared" if self.shared else text

    def _text(self) -> str:
        if self.directory is not None:
            return f"table {self.name} {self.directory}"
        words = ["table", self.name, *([self.kind] if self.kind != "list" else [])]
        if self.socket:
            words.append(quote(f"unix:{self.socket}"))
        elif self.file:
            words += ["file", quote(self.file)]
        else:
            words.append(f"{{ {commas(map(quote, self.entries))} }}" if self.entries else "{ }")
        words += ["include", quote(self.includes)] if self.includes else []
        words += ["query", string(self.query)] if self.query else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class HopDef:
    """`next-hop NAME smtp|lmtp WHERE`."""

    hop: NextHop
    shared: bool = False  # scoped files may name it
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"{self.hop} shared" if self.shared else str(self.hop)


@dataclass(frozen=True, slots=True)
class Subaddress:
    """`subaddress +`: what separates a local part from its tag."""

    separators: str
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"subaddress {quote(self.separators)}"


@dataclass(frozen=True, slots=True)
class Include:
    """`include PATTERN`: files read as if they stood here, in name order."""

    pattern: str
    scoped: bool = False  # each is about the domain that it is named after
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"include {quote(self.pattern)}{' scoped' if self.scoped else ''}"


@dataclass(frozen=True, slots=True)
class DnsListDef:
    """`dnsbl NAME ZONE [ANSWERS]` or `dnswl NAME ZONE [ANSWERS]`: a list in the DNS (RFC 5782)."""

    kind: str  # dnsbl or dnswl
    name: str
    zone: str  # may hold a key: it is never shown but in the file that has it
    answers: tuple[str, ...] = ()  # that count; empty: those that mean a listing everywhere
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return f"{self.kind} {self.name} {self.zone} {commas(self.answers)}".rstrip()


@dataclass(frozen=True, slots=True)
class ProviderDef:
    """`provider NAME mx SUFFIX, ...`."""

    provider: MailProvider
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return str(self.provider)


@dataclass(frozen=True, slots=True)
class PaceDef:
    """`pace provider NAME | to @DOMAIN | via NEXT-HOP`, and what is the most there."""

    pace: PaceLimits
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return str(self.pace)


@dataclass(frozen=True, slots=True)
class SourceDef:
    """`source NAME ADDRESS[, ADDRESS] helo NAME`."""

    source: SourceAddress
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        return str(self.source)


@dataclass(frozen=True, slots=True)
class FilterDef:
    """`milter NAME WHERE [on failure WORD] [timeout TIME]`; so too `rspamd`, `clamd`, `policy`."""

    kind: str  # the verb
    name: str
    where: str  # unix:/path, host:port; with rspamd http://host:port
    on_failure: str = ""  # accept, defer, reject or hold; empty: defer
    timeout: int = 0  # seconds; 0: as is usual for what it is told
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        words = [self.kind, self.name, quote(self.where)]
        words += ["on failure", self.on_failure] if self.on_failure else []
        words += [f"timeout {self.timeout}s"] if self.timeout else []
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class Ask(Rule):
    """`ask NAME, NAME [conditions]`: who is asked about a message, in this order."""

    names: tuple[str, ...]
    conditions: tuple[Condition, ...] = ()

    @property
    def tests(self) -> tuple[Condition, ...]:
        return self.conditions + self.when

    @property
    def body(self) -> str:
        words = [commas(self.names), *([spaces(self.conditions)] if self.conditions else [])]
        return " ".join(words)


@dataclass(frozen=True, slots=True)
class KeyFile:
    """`selector S key file PATH`: a key to sign with."""

    selector: str  # folded
    file: str  # relative to the file it is written in
    place: Place = field(default=NOWHERE, compare=False, repr=False)  # of the path

    def __str__(self) -> str:
        return f"selector {self.selector} key file {quote(self.file)}"


@dataclass(frozen=True, slots=True)
class DkimDef:
    """`dkim NAME domain DOMAIN selector S key file PATH, ... [retired selector ...]`."""

    name: str
    domain: str  # folded
    keys: tuple[KeyFile, ...]  # all of them sign
    retired: tuple[KeyFile, ...] = ()  # published still, for the mail that is on its way
    place: Place = field(default=NOWHERE, compare=False)

    def __str__(self) -> str:
        words = f"dkim {self.name} domain {self.domain} {commas(self.keys)}"
        return f"{words} retired {commas(self.retired)}" if self.retired else words


@dataclass(frozen=True, slots=True)
class Sign(Rule):
    """`sign CONDITIONS with NAME [when ...]`: in whose name a copy is signed when it leaves."""

    conditions: tuple[Condition, ...]
    name: str

    @property
    def tests(self) -> tuple[Condition, ...]:
        return self.conditions + self.when

    @property
    def body(self) -> str:
        return f"{spaces(self.conditions)} with {self.name}"

    @property
    def signer(self) -> str:
        """As a destination keeps it (Destination.signed_by)."""
        return self.name


@dataclass(frozen=True, slots=True)
class ArcSeal(Sign):
    """`arc seal with NAME [when ...]`: whose chain a copy takes along (RFC 8617)."""

    @property
    def examines(self) -> bool:
        return True  # what is handed on is what was found out about the content

    @property
    def stage(self) -> str:
        return "arc"

    @property
    def body(self) -> str:
        return f"seal with {self.name}"

    @property
    def signer(self) -> str:
        return f"{SEALS}{self.name}"


class Counted(enum.Enum):
    """By what a limit counts."""

    LOGIN = "login"
    CLIENT = "client"  # an IPv4 address, or an IPv6 /64
    SENDER = "sender"
    SENDER_DOMAIN = "sender-domain"
    RECIPIENT = "recipient"
    RECIPIENT_DOMAIN = "recipient-domain"
    LISTENER = "listener"


@dataclass(frozen=True, slots=True)
class LimitDef:
    """`limit NAME N/TIME [messages] per WHOM`: how much of them is taken in any such time."""

    name: str
    most: int
    time: str  # as it is written
    per: Counted
    messages: bool = False  # else recipients
    place: Place = field(default=NOWHERE, compare=False)

    @property
    def seconds(self) -> float:
        """The length of the window."""
        return seconds_of(self.time) or 0.0

    @property
    def what(self) -> str:
        """What it counts."""
        return "messages" if self.messages else "recipients"

    def __str__(self) -> str:
        words = f"limit {self.name} {self.most}/{self.time}"
        return f"{words}{' messages' if self.messages else ''} per {self.per.value}"


Item = (
    Rule
    | TableDef
    | HopDef
    | DnsListDef
    | FilterDef
    | DkimDef
    | LimitDef
    | Subaddress
    | Include
    | ProviderDef
    | PaceDef
    | SourceDef
)


def commas(items: Iterable[object]) -> str:
    """`a, b`."""
    return ", ".join(map(str, items))


def spaces(items: Iterable[object]) -> str:
    """`a b`."""
    return " ".join(map(str, items))


def _when(body: str, when: tuple[Condition, ...]) -> str:
    return f"{body} when {' and '.join(map(str, when))}".lstrip() if when else body


def _replaced(
    patterns: tuple[MailboxPattern, ...], targets: object | None, at: tuple[str, ...]
) -> str:
    words = commas(patterns)
    words += f" at {commas('@' + domain for domain in at)}" if at else ""
    return words if targets is None else f"{words} -> {targets}"


def _path(path: ReversePath | str) -> str:
    if path is None:
        return "null"
    return path if isinstance(path, str) else mailbox_text(path)
