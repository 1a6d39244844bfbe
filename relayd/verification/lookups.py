"""How Postfix looks addresses and domains up, each lookup answered by postmap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from relayd.migrate.domains import WHOLE_NAMES
from relayd.migrate.mailboxes import ListError, addresses
from relayd.migrate.maincf import split
from relayd.migrate.mastercf import answering
from relayd.migrate.restrictionwords import OLD, RELAYING
from relayd.migrate.tables import PATTERNS, MapSpec, is_table, maps, uncommented
from relayd.migrate.work import Work
from relayd.verification.postmap import Answers, parameters

_CLASSES = (
    ("mydestination", "local"),
    ("virtual_alias_domains", "virtual"),
    ("virtual_mailbox_domains", "mailbox"),
    ("relay_domains", "relay"),
)


class Unsure(Exception):  # noqa: N818 - an answer, too
    """What Postfix does here hangs on what cannot be asked; `str()` names it."""


class Values:
    """Parameters as Postfix's own postconf(1) has them, taken apart once."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = values
        self._words: dict[str, list[str]] = {}
        self._maps: dict[str, list[MapSpec]] = {}

    def with_(self, overrides: Mapping[str, str]) -> Values:
        """The same for one service, with its `-o name=value`."""
        return Values({**self._values, **overrides}) if overrides else self

    def __getitem__(self, name: str) -> str:
        return self._values.get(name, "")

    def words(self, name: str) -> list[str]:
        """A list's items."""
        if name not in self._words:
            self._words[name] = split(self[name])
        return self._words[name]

    def maps(self, name: str) -> list[MapSpec]:
        """The tables it names."""
        if name not in self._maps:
            self._maps[name] = maps(self[name], self["default_database_type"])
        return self._maps[name]

    def yes(self, name: str) -> bool:
        """Whether it says so."""
        return self[name].lower() == "yes"


class Lookups:
    """Postfix's tables and lists. Methods raise postmap.Missing; `touched` grows with each hit."""

    def __init__(self, work: Work, answers: Answers) -> None:
        self.work = work
        self.main, self._services = asked(work.main.folder)
        if not any(self.main[each] for each in RELAYING):
            self.main = self.main.with_({RELAYING[1]: OLD})
        self.answers = answers
        self.touched: set[str] = set()
        self._classes: dict[str, tuple[str, set[str]]] = {}
        self._delimiters = self.main["recipient_delimiter"]
        self.origin = work.main.myorigin.lower()

    def of_service(self, service: str) -> Values:
        """The parameters that a service of master.cf goes by; its name and type, or nothing."""
        found = next((each for each in self.work.services if each.title == service), None)
        title = answering(found, self.work.services).title if found is not None else service
        return self._services.get(title, self.main)

    def ask(self, spec: MapSpec, key: str, *, aliases: bool = False) -> str | None:
        """One key in one table; PostSRSd's have become `srs`, whose addresses change by the day."""
        if spec in self.work.elsewhere:
            if key.lower().startswith(("srs0", "srs1")):
                raise Unsure(f"{spec} makes another address every day")
            return None
        value = self.answers.ask(spec, key, aliases=aliases)
        if spec in self.answers.unreadable:
            raise Unsure(f"{spec} cannot be asked")
        if value is not None:
            self.touched |= {f"map:{spec}", f"entry:{spec} {key.lower()}"}
        return value

    def search(
        self, specs: Sequence[MapSpec], key: str, *, full: bool, aliases: bool = False
    ) -> str | None:
        """One key in all tables; expressions see whole addresses only."""
        for spec in specs:
            if not full and spec.type in PATTERNS:
                continue
            value = self.ask(spec, key, aliases=aliases and spec.type not in PATTERNS)
            if value is not None:
                return value
        return None

    def stripped(self, address: str) -> tuple[str, str]:
        """Without its sub-address, and that."""
        local, at, domain = address.rpartition("@")
        for n in range(1, len(local)):
            if local[n] in self._delimiters:
                return f"{local[:n]}{at}{domain}", local[n:]
        return "", ""

    def find(self, setting: str, address: str) -> tuple[str, str] | None:
        """mail_addr_find(3): the value, and the sub-address that had to go."""
        specs = self.main.maps(setting)
        if not specs:
            return None
        bare, extension = self.stripped(address)
        tries = [(address, "", True), (bare, extension, False)]
        local, _, domain = address.rpartition("@")
        if domain.lower() == self.origin or self.is_local(domain):
            tries += [(local, "", False), (bare.rpartition("@")[0], extension, False)]
        self.answers.expect(
            specs, [(key, full) for key, _, full in [*tries, (f"@{domain}", "", False)]]
        )
        for key, cut, full in tries:
            if key:
                value = self.search(specs, key, full=full)
                if value is not None:
                    return value, cut
        value = self.search(specs, f"@{domain}", full=False)
        return None if value is None else (value, "")

    def map(self, setting: str, address: str) -> list[str] | None:
        """What the address becomes, completed, sub-address carried on."""
        found = self.find(setting, address)
        if found is None:
            return None
        value, extension = found
        if value.startswith("@"):
            local = address.rpartition("@")[0].removesuffix(extension)
            value = local + value
        made = []
        try:
            words = addresses(value)
        except ListError as error:
            raise Unsure(f"{setting}: {error}") from None
        for word in words:
            local, _, domain = self.work.complete(word).rpartition("@")
            made.append(f"{local}{extension}@{domain}")
        return made

    def listed(self, setting: str, domain: str) -> bool:
        """Whether a list of domains holds it."""
        parents = None
        if setting not in WHOLE_NAMES:
            parents = setting in self.main.words("parent_domain_matches_subdomains")
        return self._in_list(self.main.words(setting), domain.lower(), parents)

    def _in_list(self, words: Sequence[str], domain: str, parents: bool | None) -> bool:
        for word in uncommented(words):
            wanted = not word.startswith("!")
            word = word.lstrip("!")
            if word.startswith("/"):
                hit = self._in_list(self.work.shelf.lines(word) or [], domain, parents)
            elif is_table(word):
                spec = MapSpec.parse(word)
                keys = [domain]
                if spec.type not in PATTERNS and parents is not None:
                    keys += list(parents_of(domain, parents))
                hit = any(self.ask(spec, key) is not None for key in keys)
            else:
                name = word.lower()
                hit = (
                    name == domain
                    or (parents and domain.endswith("." + name))
                    or (parents is False and name.startswith(".") and domain.endswith(name))
                )
            if hit:
                return wanted
        return False

    def is_local(self, domain: str) -> bool:
        """Whether it is in mydestination."""
        return self.class_of(domain) == "local"

    def class_of(self, domain: str) -> str:
        """local, virtual, mailbox, relay, or empty: none of ours."""
        domain = domain.lower()
        if domain not in self._classes:
            before, self.touched = self.touched, set()
            try:
                found = next(
                    (name for setting, name in _CLASSES if self.listed(setting, domain)), ""
                )
                self._classes[domain] = found, self.touched
            finally:
                self.touched = before
        name, touched = self._classes[domain]
        self.touched |= touched
        return name


def parents_of(domain: str, parents: bool) -> Iterator[str]:
    """`b.c` and `c`, or `.b.c` and `.c`, for `a.b.c`."""
    while "." in domain:
        domain = domain.partition(".")[2]
        yield domain if parents else f".{domain}"


def asked(folder: Path) -> tuple[Values, dict[str, Values]]:
    """What the configuration in `folder` says, and what each service of it says besides."""
    main = Values(parameters(folder))
    services: dict[str, dict[str, str]] = {}
    for name, value in parameters(folder, "-P").items():
        service, _, parameter = name.rpartition("/")
        services.setdefault(service, {})[parameter] = value
    return main, {name: main.with_(overrides) for name, overrides in services.items()}
