"""Patterns: what a rule may say about a mailbox, a client or a name, and how each prints itself."""

from __future__ import annotations

import ipaddress
import re

from relayd.mail.address import Mailbox, fold_domain
from relayd.mail.value import dataclass
from relayd.rules.language.lexer import quote, string
from relayd.rules.language.regex import compiled
from relayd.rules.language.size import size_text

_MARKS = re.compile(r"[#{}\s]|\A\*\Z")  # atext that the language has another use for
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Exact:
    """One mailbox: `info@example.com`."""

    mailbox: Mailbox

    @property
    def probe(self) -> str:
        """The subject's probe that finds it (see relayd.rules.subject)."""
        return self.mailbox.key

    def __str__(self) -> str:
        return mailbox_text(self.mailbox)


@dataclass(frozen=True, slots=True)
class Domain:
    """Every mailbox of a domain: `@example.com`."""

    domain: str

    @property
    def probe(self) -> str:
        """The subject's probe that finds it."""
        return "@" + fold_domain(self.domain)

    def __str__(self) -> str:
        return "@" + self.domain


@dataclass(frozen=True, slots=True)
class SubDomains:
    """Every mailbox of any sub-domain, not of the domain itself: `@.example.com`."""

    domain: str

    @property
    def probe(self) -> str:
        """The subject's probe that finds it."""
        return "@." + fold_domain(self.domain)

    def __str__(self) -> str:
        return "@." + self.domain


@dataclass(frozen=True, slots=True)
class LocalPart:
    """A local part at any domain: `postmaster@`."""

    local: str

    @property
    def probe(self) -> str:
        """The subject's probe that finds it."""
        return self.local.lower() + "@"

    def __str__(self) -> str:
        return mailbox_text(Mailbox(self.local, "")) + "@"


@dataclass(frozen=True, slots=True)
class InTable:
    """Whatever a table holds: `<ours>`."""

    name: str

    def __str__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression, searched in the normalised mailbox."""

    text: str

    @property
    def expression(self) -> re.Pattern[str]:
        """It, compiled."""
        return compiled(self.text)

    def __str__(self) -> str:
        return f"regex {string(self.text)}"


@dataclass(frozen=True, slots=True)
class Null:
    """The null reverse-path, `<>`."""

    def __str__(self) -> str:
        return "null"


@dataclass(frozen=True, slots=True)
class Anything:
    """Matches all: `any`."""

    def __str__(self) -> str:
        return "any"


@dataclass(frozen=True, slots=True)
class Net:
    """A client's address or network: `192.0.2.66`, `2001:db8::/32`."""

    network: Network

    def __str__(self) -> str:
        network = self.network
        whole = network.prefixlen == network.max_prefixlen
        return str(network.network_address if whole else network)


@dataclass(frozen=True, slots=True)
class Text:
    """A name as it stands: a login, a listener, a HELO name."""

    text: str

    def __str__(self) -> str:
        return quote(self.text)


@dataclass(frozen=True, slots=True)
class Template:
    r"""What a regex is replaced by: `"\1@teams.example.net"`."""

    text: str

    def __str__(self) -> str:
        return string(self.text)


@dataclass(frozen=True, slots=True)
class Final:
    r"""A mailbox that no forward rule looks at again: `\name` of aliases(5)."""

    mailbox: Mailbox

    def __str__(self) -> str:
        return "\\" + mailbox_text(self.mailbox)


@dataclass(frozen=True, slots=True)
class Reversible:
    """An address of ours that leads back to the one it stands for: `srs`, of the field From."""

    def __str__(self) -> str:
        return "srs"


@dataclass(frozen=True, slots=True)
class SizeBound:
    """More, or less, than so many octets: `> 20MB`."""

    sign: str  # > or <
    octets: int

    def __str__(self) -> str:
        return f"{self.sign} {size_text(self.octets)}"


@dataclass(frozen=True, slots=True)
class SignedBy:
    """A result of DKIM, of all signatures or of those of a domain: `pass @example.org`."""

    result: str
    domain: Domain | SubDomains | None = None

    def __str__(self) -> str:
        return self.result if self.domain is None else f"{self.result} {self.domain}"


@dataclass(frozen=True, slots=True)
class ListedBy:
    """A list in the DNS that is asked about a name, and whose: `dbl by sender`."""

    name: str
    whose: str

    def __str__(self) -> str:
        return f"{quote(self.name)} by {self.whose}"


@dataclass(frozen=True, slots=True)
class FieldLike:
    """A header field that an expression fits: `Subject "invoice"`."""

    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.name} {string(self.text)}"


ContentPattern = SizeBound | SignedBy | FieldLike
MailboxPattern = Exact | Domain | SubDomains | LocalPart | InTable | Regex | Null | Anything
ClientPattern = Net | InTable | Anything
NamePattern = Text | ListedBy | InTable | Anything
Pattern = MailboxPattern | Net | Text
Replacement = Exact | Domain | SubDomains | LocalPart | Template | Null


def mailbox_text(mailbox: Mailbox) -> str:
    """The mailbox as a word of the language."""
    text = str(mailbox)
    if text.startswith('"') or not _MARKS.search(mailbox.local):
        return text
    return f'"{mailbox.local}"' + (f"@{mailbox.domain}" if mailbox.domain else "")
