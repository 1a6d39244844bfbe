"""Tables: named lists and maps, loaded whole, never changed; a lookup is a dictionary look-up."""

from __future__ import annotations

import functools
from collections.abc import Iterable

from relayd.mail.address import AddressError, Mailbox, check_domain
from relayd.mail.nexthop import NextHop
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.rules.language.pattern import Final
from relayd.rules.language.source import Place, Source
from relayd.rules.subject import NetIndex, Subject, client_number


class Unknown(Exception):  # noqa: N818 - an answer, not an error: neither yes nor no
    """A condition that cannot be decided now; `str()` is the private reason."""

    place = ""  # of the rule that asked


class NoMailbox(Unknown):
    """What a rule makes of an address is no address, today and tomorrow; `str()` says why."""


@dataclass(frozen=True, slots=True)
class FoundEntry:
    """An entry of a map that fits, and what stands behind it."""

    targets: tuple[Mailbox | Final, ...]
    note: str
    owner: Mailbox | None = None  # the reverse-path of what a list sends on: owner-NAME


@dataclass(frozen=True, slots=True)
class MapTransport:
    """Where a transport map sends mail: a next hop, direct, or nowhere."""

    next_hop: NextHop | None = None
    reply: Reply | None = None
    discard: bool = False


class Table:
    """What every kind of table can be asked. Lookups may raise Unknown."""

    kind = "list"

    def __init__(self, name: str, place: str) -> None:
        self.name = name
        self.place = place  # where its entries stand: a file's name, or file:line of a list
        self.digest = ""  # of what it was loaded from; part of the rule set's hash
        self.source: Source | None = None  # its text, while it is being checked

    def place_of(self, line: int) -> Place | None:
        """Where a line of its text stands."""
        if self.source is None:
            return None
        words = self.source.line(line).split()
        return Place(self.source, line, width=len(words[0]) if words else 1)

    @property
    def size(self) -> int:
        """How many entries it has."""
        return 0

    @property
    def named(self) -> int:
        """How many names and addresses stand in its entries."""
        return self.size

    def mailbox(self, subject: Subject) -> str:
        """Whether it holds the mailbox: a note that says where, or empty."""
        return ""

    def client(self, address: str) -> str:
        """Whether it holds the client's address: a note, or empty."""
        return ""

    def word(self, text: str) -> str:
        """Whether it holds the name: a note, or empty."""
        return ""

    @property
    def has_no_network(self) -> bool:
        """Whether no client's address can ever be in it."""
        return False

    def owns(self, key: str) -> bool:
        """Whether it has an entry of its own for exactly this mailbox (its normalised form)."""
        return False

    def find(self, subject: Subject, at: Iterable[str] = ()) -> FoundEntry | None:
        """What the mailbox becomes; `at`: folded domains of entries without one."""
        return None

    def transport(self, subject: Subject) -> tuple[MapTransport, str] | None:
        """Where the mailbox goes, and a note."""
        return None


class BrokenTable(Table):
    """A table whose source cannot be read now: every question is answered with Unknown."""

    def __init__(self, name: str, place: str, why: str) -> None:
        super().__init__(name, place)
        self.why = why

    def _unknown(self) -> Unknown:
        return Unknown(f"table {self.name} cannot be read: {self.why}")

    def mailbox(self, subject: Subject) -> str:
        raise self._unknown()

    def client(self, address: str) -> str:
        raise self._unknown()

    def word(self, text: str) -> str:
        raise self._unknown()

    def owns(self, key: str) -> bool:
        return False

    def find(self, subject: Subject, at: Iterable[str] = ()) -> FoundEntry | None:
        raise self._unknown()

    def transport(self, subject: Subject) -> tuple[MapTransport, str] | None:
        raise self._unknown()


class ListTable(Table):
    """Networks, addresses, domains, mailboxes and names."""

    def __init__(self, name: str, place: str, *, lines: bool) -> None:
        super().__init__(name, place)
        self._lines = lines  # whether a note can tell the entry's line
        self.probes: dict[str, int] = {}
        self.networks = NetIndex()
        self.words: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.words)

    @property
    def size(self) -> int:
        """See Table."""
        return len(self.words)

    def _note(self, line: int) -> str:
        return f"{self.name}: {self.place}" + (f":{line}" if self._lines else "")

    def mailbox(self, subject: Subject) -> str:
        probes = self.probes
        for probe in subject.probes:
            line = probes.get(probe)
            if line is not None:
                return self._note(line)
        for probe in subject.wide:
            line = probes.get(probe)
            if line is not None:
                return self._note(line)
        return ""

    def client(self, address: str) -> str:
        lines = self.networks.find(client_number(address))
        return self._note(lines[0]) if lines else ""

    def word(self, text: str) -> str:
        line = self.words.get(text.lower())
        return "" if line is None else self._note(line)

    @property
    def has_no_network(self) -> bool:
        return bool(len(self)) and not len(self.networks)

    def owns(self, key: str) -> bool:
        return key in self.probes


@dataclass(slots=True)
class MapEntry:
    """One line of a map: what stands behind the key."""

    line: int
    values: tuple[str, ...]


class MapTable(Table):
    """What addresses become: aliases(5), and Postfix's virtual and canonical maps.

    Keys are probes: `info@example.com`, `@example.com`, and `info@` for a name without a domain.
    """

    def __init__(self, name: str, kind: str, place: str) -> None:
        super().__init__(name, place)
        self.kind = kind
        self.entries: dict[str, MapEntry] = {}
        self.domains: dict[str, int] = {}  # "example.com anything" of a virtual map
        self.bare = False  # some keys have no domain

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def size(self) -> int:
        """See Table."""
        return len(self.entries) + len(self.domains)

    @property
    def named(self) -> int:
        """See Table: the targets behind each."""
        return len(self.domains) + sum(len(each.values) for each in self.entries.values())

    def _note(self, line: int) -> str:
        return f"{self.name}: {self.place}:{line}"

    def owns(self, key: str) -> bool:
        return key in self.entries

    def mailbox(self, subject: Subject) -> str:
        entries = self.entries
        for key in (subject.key, *subject.wide[:1], "@" + subject.domain):
            entry = entries.get(key)
            if entry is not None:
                return self._note(entry.line)
        line = self.domains.get(subject.domain)
        return "" if line is None else self._note(line)

    def word(self, text: str) -> str:
        entry = self.entries.get(text.lower() if "@" in text else text.lower() + "@")
        return "" if entry is None else self._note(entry.line)

    def find(self, subject: Subject, at: Iterable[str] = ()) -> FoundEntry | None:
        entries, wide = self.entries, subject.wide
        bare = self.bare and subject.domain in at
        entry, tag = entries.get(subject.key), ""
        if entry is None and bare:
            entry = entries.get(subject.local + "@")
        if entry is None and wide:
            tag = subject.tag
            entry = entries.get(wide[0]) or (entries.get(wide[1]) if bare else None)
        if entry is None:
            tag = ""
            entry = entries.get("@" + subject.domain)
            if entry is None:
                return None
        here = subject.mailbox
        targets = tuple(target_mailbox(value, here, tag) for value in entry.values)
        return FoundEntry(targets, self._note(entry.line), self._owner(subject, bare))

    def _owner(self, subject: Subject, bare: bool) -> Mailbox | None:
        if self.kind != "aliases":
            return None
        key = "owner-" + subject.key
        if key in self.entries or (bare and f"owner-{subject.local}@" in self.entries):
            return Mailbox("owner-" + subject.mailbox.local, subject.mailbox.domain)
        return None


class TransportTable(Table):
    """Postfix's transport(5) map: keys `info@example.com`, `@example.com`, `@.example.com`, `*`.

    None in place of a transport is an entry `:`: as if this table did not exist.
    """

    kind = "transport"

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, place)
        self.entries: dict[str, tuple[int, MapTransport | None]] = {}

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def size(self) -> int:
        """See Table."""
        return len(self.entries)

    @property
    def next_hops(self) -> dict[str, NextHop]:
        """Every next hop that an entry names; its name is the entry's text."""
        hops = [each.next_hop for _, each in self.entries.values() if each is not None]
        return {hop.name: hop for hop in hops if hop is not None}

    def owns(self, key: str) -> bool:
        return key in self.entries

    def mailbox(self, subject: Subject) -> str:
        found = self._entry(subject)
        return "" if found is None else self._note(found[0])

    def transport(self, subject: Subject) -> tuple[MapTransport, str] | None:
        found = self._entry(subject)
        if found is None or found[1] is None:
            return None
        return found[1], self._note(found[0])

    def _entry(self, subject: Subject) -> tuple[int, MapTransport | None] | None:
        for probe in (subject.key, *subject.wide[:1], *subject.probes[1:-1], "*"):
            entry = self.entries.get(probe)
            if entry is not None:
                return entry
        return None

    def _note(self, line: int) -> str:
        return f"{self.name}: {self.place}:{line}"


def target_mailbox(value: str, here: Mailbox, tag: str = "") -> Mailbox | Final:
    """A map's value, read where `here` was looked up; raises Unknown if it makes no mailbox."""
    if value.startswith("\\"):
        return Final(Mailbox(value[1:], here.domain))
    if value.startswith("@"):
        return Mailbox(here.local, value[1:])
    mailbox = _parsed(value) if "@" in value else Mailbox(value.strip('"'), here.domain)
    return tagged(mailbox, tag) if tag else mailbox


def tagged(mailbox: Mailbox, tag: str) -> Mailbox:
    """The mailbox with a sub-address tag behind its local part, where that still fits."""
    local = mailbox.local + tag
    return Mailbox(local, mailbox.domain) if len(local.encode()) <= 64 else mailbox


@functools.lru_cache(maxsize=4096)
def _parsed(value: str) -> Mailbox:
    try:
        return Mailbox.parse(value)
    except AddressError as error:
        raise Unknown(f"{value!r} is no mailbox: {error}") from None


def is_domain(text: str) -> bool:
    """Whether the text is a domain name."""
    try:
        check_domain(text)
    except AddressError:
        return False
    return True
