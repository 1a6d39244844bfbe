"""The settings: their names, how each is read, and what it is when nothing is said."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relayd.config.logins import yes_no
from relayd.config.oauth import oauth
from relayd.config.peers import NOBODY, Peers
from relayd.config.reports import reports, tls_reports
from relayd.config.tls import MINIMUMS, DomainTls, certificate, domain_tls
from relayd.config.values import (
    Options,
    address_port,
    choice,
    domain,
    duration,
    listener,
    networks,
    number,
    or_off,
    path,
    schedule,
    size,
    workers,
)
from relayd.login.initiator import Secret
from relayd.login.oauth import Provider
from relayd.mail.nexthop import HostPort, NextHop
from relayd.report.dsn import MAX_RETURNED
from relayd.report.tlsrpt import TlsReports
from relayd.report.wishes import STRANGERS, TRUSTED, Wishes
from relayd.rules.pattern import Network
from relayd.rules.ruleset import Ruleset
from relayd.rules.source import Problem
from relayd.rules.words import Words
from relayd.spool.schedule import DEFAULT as DEFAULT_SCHEDULE
from relayd.spool.schedule import Schedule
from relayd.tls.files import CertificateFiles

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

    def __str__(self) -> str:
        """As rules name it, and as Client.listener has it."""
        return str(HostPort(self.address, self.port))


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything an administrator decides. Times are seconds, sizes are octets."""

    path: Path | None  # of relayd.conf; None: the embedded default
    ruleset: Ruleset
    next_hops: Mapping[str, NextHop]
    files: tuple[Path, ...] = ()  # everything that was read, to see when it changes
    patterns: tuple[str, ...] = ()  # of `include`: what they find may become more
    warnings: tuple[Problem, ...] = ()

    hostname: str
    spool: Path = Path("/var/spool/relayd")
    control: Path = Path("/var/spool/relayd/control")
    workers: int = 1
    listeners: tuple[Listener, ...] = (Listener("127.0.0.1", 2525),)
    schedule: Schedule = field(default_factory=lambda: Schedule.parse(DEFAULT_SCHEDULE))
    warn_after: float = 4 * 3600.0
    give_up: float = 5 * 86400.0
    resolver: tuple[HostPort, ...] = ()  # empty: the system's

    reports: tuple[tuple[str, Wishes], ...] = ()  # "strangers" or "trusted"; the last one counts
    report_size: int = MAX_RETURNED

    certificates: tuple[CertificateFiles, ...] = ()
    tls_minimum: str = "1.2"
    tls_authorities: Path | None = None  # None: the system's
    tls_reports: TlsReports | None = None
    domain_tls: tuple[DomainTls, ...] = ()

    auth_without_tls: bool = False
    origin: str = ""  # completes what has no domain; empty: the hostname
    secrets_file: Path | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict, repr=False)  # logins at next hops
    oauth: Mapping[str, Provider] = field(default_factory=dict)  # likewise, by tokens

    message_size: int = 50 * _MIB
    recipients: int = 1000
    header_size: int = _MIB
    hops: int = 50
    command_length: int = 2048
    errors_per_session: int = 20
    sessions: int = 12_000
    sessions_per_client: int = 50
    new_sessions_per_minute: int = 0
    bare_newlines: str = "reject"  # or normalise
    command_timeout: float = 300.0
    session_timeout: float = 1800.0
    content_timeout: float = 300.0

    relay_port: int = 25
    internal_destinations: tuple[Network, ...] = ()  # where strangers' DNS may lead us
    deliveries: int = 100
    deliveries_per_destination: int = 20
    connection_messages: int = 100
    connect_timeout: float = 30.0

    content_in_memory: int = 64 * 1024
    free_space: int = 100 * _MIB
    free_inodes: int = 1000
    drop_files: int = 1000
    drop_size: int = 200 * _MIB
    ledger: float = 7 * 86400.0
    journal: float = 7 * 86400.0  # 0: none
    journal_size: int = 64 * _MIB

    watch: float = 0.0  # seconds between two looks at the files; 0: never

    def wishes(self, *, trusted: bool) -> Wishes:
        """How far a client's wishes for reports are honoured."""
        found = dict(self.reports)
        return found.get("trusted", TRUSTED) if trusted else found.get("strangers", STRANGERS)


@dataclass(frozen=True, slots=True)
class Spec:
    """How one setting is read."""

    attribute: str
    read: Callable[[Words], object]
    repeatable: bool = False


def _listener(words: Words) -> Listener:
    address, port, options = listener(words)
    return Listener(address, port, options)


SPECS: dict[str, Spec] = {
    "hostname": Spec("hostname", domain),
    "spool": Spec("spool", path),
    "control": Spec("control", path),
    "workers": Spec("workers", workers),
    "listen": Spec("listeners", _listener, repeatable=True),
    "retry": Spec("schedule", schedule),
    "warn-after": Spec("warn_after", duration()),
    "give-up": Spec("give_up", duration(1)),
    "reports": Spec("reports", reports, repeatable=True),
    "report-size": Spec("report_size", size(0)),
    "resolver": Spec("resolver", address_port, repeatable=True),
    "certificate": Spec("certificates", certificate, repeatable=True),
    "tls-minimum": Spec("tls_minimum", choice(*MINIMUMS)),
    "tls-authorities": Spec("tls_authorities", path),
    "tls": Spec("domain_tls", domain_tls, repeatable=True),
    "tls-reports": Spec("tls_reports", tls_reports),
    "auth-without-tls": Spec("auth_without_tls", yes_no),
    "origin": Spec("origin", domain),
    "secrets": Spec("secrets_file", path),
    "oauth": Spec("oauth", oauth, repeatable=True),
    "message-size": Spec("message_size", size(1024)),
    "recipients": Spec("recipients", number(1, 1_000_000)),
    "header-size": Spec("header_size", size(1024)),
    "hops": Spec("hops", number(1, 1000)),
    "command-length": Spec("command_length", size(512)),
    "errors-per-session": Spec("errors_per_session", number(1, 10_000)),
    "sessions": Spec("sessions", number(0, 1_000_000)),
    "sessions-per-client": Spec("sessions_per_client", number(0, 1_000_000)),
    "new-sessions-per-minute": Spec("new_sessions_per_minute", number(0, 1_000_000)),
    "bare-newlines": Spec("bare_newlines", choice("reject", "normalise")),
    "command-timeout": Spec("command_timeout", duration(1)),
    "session-timeout": Spec("session_timeout", duration(1)),
    "content-timeout": Spec("content_timeout", duration(1)),
    "relay-port": Spec("relay_port", number(1, 65535)),
    "internal-destinations": Spec("internal_destinations", networks),
    "deliveries": Spec("deliveries", number(1, 100_000)),
    "deliveries-per-destination": Spec("deliveries_per_destination", number(1, 10_000)),
    "connection-messages": Spec("connection_messages", number(1, 1_000_000)),
    "connect-timeout": Spec("connect_timeout", duration(1)),
    "content-in-memory": Spec("content_in_memory", size(0)),
    "free-space": Spec("free_space", size(0)),
    "free-inodes": Spec("free_inodes", number(0, 1_000_000_000)),
    "drop-files": Spec("drop_files", number(0, 1_000_000)),
    "drop-size": Spec("drop_size", size(0)),
    "ledger": Spec("ledger", duration()),
    "journal": Spec("journal", or_off(duration(60))),
    "journal-size": Spec("journal_size", size(1024 * 1024)),
    "watch": Spec("watch", or_off(duration(1))),
}
"""Every setting by its name; etc/relayd/relayd.conf documents each (a test compares)."""


def system_hostname() -> str:
    """The host's own name, fully qualified where the system knows it."""
    name = socket.gethostname()
    if "." not in name:
        name = socket.getfqdn(name)
    return name if name and not name.startswith("localhost") else socket.gethostname()


def cores() -> int:
    """How many this process may use: `workers auto`."""
    return max(1, len(os.sched_getaffinity(0)))
