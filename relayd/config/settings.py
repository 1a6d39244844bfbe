"""The settings: each is declared once, with its default, how it is read and when it holds."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relayd.config.hooks import Hook, hook
from relayd.config.logins import SUBMISSION, yes_no
from relayd.config.oauth import oauth
from relayd.config.peers import NOBODY, XCLIENT_LOGIN, Peers
from relayd.config.reports import OF_BUDGET, OF_SUCCESS, reports, tls_reports
from relayd.config.spoolplace import Away, SpoolPlace, away, node, spool_place
from relayd.config.texts import Texts
from relayd.config.tls import MINIMUMS, DomainTls, certificate, domain_tls
from relayd.config.values import (
    STRICT,
    ConsolePlace,
    MayEdit,
    MetricsPlace,
    NameOrder,
    Options,
    choice,
    console,
    domain,
    duration,
    listener,
    metrics,
    name_order,
    networks,
    number,
    or_off,
    resolver,
    schedule,
    size,
    workers,
)
from relayd.config.values import path as path_of
from relayd.login.initiator import Secret
from relayd.login.oauth import Provider
from relayd.mail.client import Client
from relayd.mail.nexthop import HostPort, NextHop
from relayd.report.backscatter import DEFAULT_BUDGET, ReportBudget
from relayd.report.dsn import MAX_RETURNED
from relayd.report.tlsrpt import TlsReports
from relayd.report.wishes import STRANGERS, TRUSTED, Wishes
from relayd.rules.language.pattern import Network
from relayd.rules.language.source import Problem
from relayd.rules.language.words import Words
from relayd.rules.ruleset import Ruleset
from relayd.rules.tables.table import Unknown
from relayd.spool.schedule import DEFAULT as DEFAULT_SCHEDULE
from relayd.spool.schedule import Schedule
from relayd.tls.files import CertificateFiles

if TYPE_CHECKING:
    from relayd.authentication.dkimsigning import SigningKey

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """One `listen` statement."""

    address: str  # an IP address
    port: int  # 0: any free one
    options: Options = ()  # each name with its value

    def option(self, name: str) -> str:
        """The value of an option, or empty."""
        value = dict(self.options).get(name, "")
        return value if isinstance(value, str) else ""

    def peers(self, name: str) -> Peers:
        """The peers that an option names, or nobody."""
        value = dict(self.options).get(name, NOBODY)
        return value if isinstance(value, Peers) else NOBODY

    @property
    def statement(self) -> str:
        """What stands behind `listen`."""
        options = [f"{name} {self._words(name)}".rstrip() for name, _ in self.options]
        return " ".join([str(self), *options])

    def _words(self, name: str) -> str:
        return (
            ""
            if name in (SUBMISSION, STRICT, XCLIENT_LOGIN)
            else str(self.peers(name)) or self.option(name)
        )

    def __str__(self) -> str:
        """As rules name it, and as Client.listener has it."""
        return str(HostPort(self.address, self.port))


class Effect(enum.Enum):
    """When what is new of a setting holds."""

    RELOAD = "reload"
    RESTART = "restart"  # of the whole of relayd; until then what it started with is in force


@dataclass(frozen=True, slots=True)
class Spec:
    """What one setting is declared to be; its default is the field's."""

    read: Callable[[Words], object]
    unit: str  # what its value is, in words for the manual
    effect: Effect = Effect.RELOAD
    word: str = ""  # in the file; the field's name where that is the same
    repeatable: bool = False
    attribute: str = ""  # of Settings


RESTART = Effect.RESTART


def setting(
    read: Callable[[Words], object],
    unit: str,
    effect: Effect = Effect.RELOAD,
    *,
    default: object = MISSING,
    make: Callable[[], object] | None = None,
    word: str = "",
    repeatable: bool = False,
) -> Any:  # noqa: ANN401 - as dataclasses.field has it
    """A field of Settings that the file may set; its default, or what makes it."""
    metadata = {"spec": Spec(read, unit, effect, word, repeatable)}
    if make is not None:
        return field(default_factory=make, metadata=metadata)
    return field(default=default, metadata=metadata)


def _listener(words: Words) -> Listener:
    address, port, options = listener(words)
    return Listener(address, port, options)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything an administrator decides. Times are seconds, sizes are octets.

    A field with a `setting` is one of the file's, and declared here alone: the reader, what is
    known to take a restart, the manual and the tests go by it.
    """

    path: Path | None  # of relayd.conf; None: the embedded default
    ruleset: Ruleset
    next_hops: Mapping[str, NextHop]
    files: tuple[Path, ...] = ()  # everything that was read, to see when it changes
    patterns: tuple[str, ...] = ()  # of `include`: what they find may become more
    sources: Mapping[str, Path] = field(default_factory=dict)  # with statements in them, by name
    warnings: tuple[Problem, ...] = ()
    waiting: tuple[str, ...] = ()  # settings for which the files have something new at a restart
    texts: Texts | None = field(default=None, compare=False, repr=False)  # given to `load`

    hostname: str = setting(domain, "a host name", RESTART)
    place: SpoolPlace = setting(
        spool_place,
        "a path, or postgresql and a connection",
        RESTART,
        default=SpoolPlace(Path("/var/spool/relayd")),
        word="spool",
    )
    node: str = setting(node, "a name", RESTART, default="")  # empty: the hostname
    away: Away = setting(away, "defer, or keep and a path", RESTART, default=Away())
    control: Path = setting(path_of, "a path", RESTART, default=Path("/var/spool/relayd/control"))
    metrics: tuple[MetricsPlace, ...] = setting(
        metrics, "listen, and an address or unix socket", RESTART, default=(), repeatable=True
    )
    console: tuple[ConsolePlace | MayEdit, ...] = setting(
        console,
        "listen, unix socket or address, auth; or may edit",
        RESTART,
        default=(),
        repeatable=True,
    )
    hooks: tuple[Hook, ...] = setting(
        hook, "name, URL, events and a key", default=(), word="hook", repeatable=True
    )
    workers: int = setting(workers, "processes, or auto", RESTART, default=0)  # 0: auto
    listeners: tuple[Listener, ...] = setting(
        _listener,
        "address, port and options",
        RESTART,
        default=(Listener("127.0.0.1", 2525),),
        word="listen",
        repeatable=True,
    )

    schedule: Schedule = setting(
        schedule, "delays", make=lambda: Schedule.parse(DEFAULT_SCHEDULE), word="retry"
    )
    warn_after: float = setting(duration(), "time", default=4 * 3600.0)
    give_up: float = setting(duration(1), "time", default=5 * 86400.0)
    resolver: tuple[HostPort | NameOrder, ...] = setting(
        resolver, "address and port, hosts dns, or dns", RESTART, default=(), repeatable=True
    )  # no address: the system's

    client_names: bool = setting(yes_no, "yes or no", default=True)

    reports: tuple[tuple[str, Wishes | ReportBudget | Peers], ...] = setting(
        reports, "whose wishes, and which", default=(), repeatable=True
    )  # by whom it is about; the last one counts
    report_size: int = setting(size(0), "size", default=MAX_RETURNED)

    certificates: tuple[CertificateFiles, ...] = setting(
        certificate, "a certificate and its key", default=(), word="certificate", repeatable=True
    )
    tls_minimum: str = setting(choice(*MINIMUMS), "a version", default="1.2")
    tls_authorities: Path | None = setting(path_of, "a path", default=None)  # None: the system's
    tls_reports: TlsReports | None = setting(tls_reports, "sender, and key", default=None)
    domain_tls: tuple[DomainTls, ...] = setting(
        domain_tls, "domains and how much TLS", default=(), word="tls", repeatable=True
    )

    auth_without_tls: bool = setting(yes_no, "yes or no", default=False)
    origin: str = setting(
        domain, "a domain", default=""
    )  # completes what has none; empty: the hostname
    secrets_file: Path | None = setting(path_of, "a path", default=None, word="secrets")
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)  # in that file
    # by the names of `dkim` statements: the keys that sign
    signing: Mapping[str, tuple[SigningKey, ...]] = field(default_factory=dict, repr=False)
    oauth: Mapping[str, Provider] = setting(
        oauth, "a provider of tokens", make=dict, repeatable=True
    )  # logins at next hops

    message_size: int = setting(size(1024), "size", default=50 * _MIB)
    recipients: int = setting(number(1, 1_000_000), "number", default=1000)
    header_size: int = setting(size(1024), "size", default=_MIB)
    hops: int = setting(number(1, 1000), "number", default=50)
    command_length: int = setting(size(512), "size", default=2048)
    errors_per_session: int = setting(number(1, 10_000), "number", default=20)
    sessions: int = setting(number(0, 1_000_000), "number, 0: any", default=12_000)
    sessions_per_client: int = setting(number(0, 1_000_000), "number, 0: any", default=50)
    cut_through_share: int = setting(number(0, 100), "percent of sessions", default=20)
    new_sessions_per_minute: int = setting(number(0, 1_000_000), "number, 0: any", default=0)
    bare_newlines: str = setting(
        choice("reject", "normalise"), "reject or normalise", default="reject"
    )
    command_timeout: float = setting(duration(1), "time", default=300.0)
    session_timeout: float = setting(duration(1), "time", default=1800.0)
    content_timeout: float = setting(duration(1), "time", default=300.0)

    relay_port: int = setting(number(1, 65535), "a port", RESTART, default=25)
    internal_destinations: tuple[Network, ...] = setting(
        networks, "networks, or none", default=()
    )  # where strangers' DNS may lead us
    deliveries: int = setting(number(1, 100_000), "number", default=100)
    deliveries_per_destination: int = setting(number(1, 10_000), "number", default=20)
    connection_messages: int = setting(number(1, 1_000_000), "number", default=100)
    connect_timeout: float = setting(duration(1), "time", default=30.0)

    content_in_memory: int = setting(size(0), "size", default=64 * 1024)
    free_space: int = setting(size(0), "size", default=100 * _MIB)
    free_inodes: int = setting(number(0, 1_000_000_000), "number", default=1000)
    drop_files: int = setting(number(0, 1_000_000), "number, 0: any", default=1000)
    drop_size: int = setting(size(0), "size, 0: any", default=200 * _MIB)
    ledger: float = setting(duration(), "time", default=7 * 86400.0)
    journal: float = setting(or_off(duration(60)), "time, or off", default=7 * 86400.0)  # 0: none
    journal_size: int = setting(size(1024 * 1024), "size", default=64 * _MIB)

    watch: float = setting(
        or_off(duration(1)), "time, or off", default=0.0
    )  # seconds between two looks at the files; 0: never

    @property
    def dns_servers(self) -> list[tuple[str, int]]:
        """Whom to ask; empty: those of the system."""
        return [(each.host, each.port) for each in self.resolver if isinstance(each, HostPort)]

    @property
    def name_order(self) -> NameOrder:
        """How the hosts of next hops are looked up; the last one counts."""
        return name_order(self.resolver)

    @property
    def console_places(self) -> list[ConsolePlace]:
        """Where the console is."""
        return [each for each in self.console if isinstance(each, ConsolePlace)]

    @property
    def console_edits(self) -> bool:
        """Whether the files with the rules may be changed there."""
        return MayEdit() in self.console

    @property
    def spool(self) -> Path:
        """The folder with the spool, or with what this node has beside a spool in a database."""
        return self.place.folder

    @property
    def fixed(self) -> dict[str, object]:
        """What holds until a restart, by field."""
        specs = SPECS.values()
        return {
            each.attribute: getattr(self, each.attribute)
            for each in specs
            if each.effect is Effect.RESTART
        }

    def wishes(self, client: Client) -> Wishes:
        """How far a client's wishes for reports are honoured."""
        found = dict(self.reports)
        peers = found.get(OF_SUCCESS)
        if isinstance(peers, Peers):
            trusted = bool(client.login) or self._among(peers, client)
        else:
            trusted = self.ruleset.trusts(client)
        wishes = found.get("trusted", TRUSTED) if trusted else found.get("strangers", STRANGERS)
        assert isinstance(wishes, Wishes)
        return wishes

    def knows(self, client: Client) -> bool:
        """Whether a client is no stranger to reports: by login, by address, by a rule's word."""
        peers = dict(self.reports).get(OF_SUCCESS)
        return self.ruleset.trusts(client) or (
            isinstance(peers, Peers) and self._among(peers, client)
        )

    def _among(self, peers: Peers, client: Client) -> bool:
        try:
            return peers.hold(client.address, self.ruleset.tables)
        except Unknown:
            return False

    @property
    def report_budget(self) -> ReportBudget:
        """How many reports strangers get."""
        budget = dict(self.reports).get(OF_BUDGET, DEFAULT_BUDGET)
        assert isinstance(budget, ReportBudget)
        return budget


def _specs() -> Iterator[tuple[str, Spec]]:
    for each in fields(Settings):
        if "spec" in each.metadata:
            spec: Spec = each.metadata["spec"]
            word = spec.word or each.name.replace("_", "-")
            yield word, replace(spec, word=word, attribute=each.name)


SPECS: dict[str, Spec] = dict(_specs())
"""Every setting by its name; etc/relayd/relayd.conf documents each (a test compares)."""


def default_of(spec: Spec) -> object:
    """What it is when nothing is said; None where that is found out."""
    (found,) = (each for each in fields(Settings) if each.name == spec.attribute)
    if found.default_factory is not MISSING:
        return found.default_factory()
    return None if found.default is MISSING else found.default


def still_listening(
    running: Iterable[Listener], wanted: Iterable[Listener]
) -> tuple[Listener, ...]:
    """Where relayd goes on to listen: with the options that are said now where any are said."""
    said = {(each.address, each.port): each for each in wanted}
    return tuple(said.get((each.address, each.port), each) for each in running)


def system_hostname() -> str:
    """The host's own name, fully qualified where the system knows it."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    return name if name and not name.startswith("localhost") else socket.gethostname()


def cores() -> int:
    """How many this process may use: `workers auto`."""
    return max(1, len(os.sched_getaffinity(0)))
