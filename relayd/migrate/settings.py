"""Parameters that become statements of relayd.conf: name, listeners, limits and times."""

from __future__ import annotations

import contextlib
import ipaddress
import re
import socket
from collections.abc import Iterator

from relayd.config.settings import Settings
from relayd.mail.address import AddressError, check_domain
from relayd.mail.nexthop import HostPort
from relayd.migrate import closings
from relayd.migrate.defaults import DEFAULTS
from relayd.migrate.logins import PostfixLogin
from relayd.migrate.mastercf import Service, behind
from relayd.migrate.restrictionwords import LISTS
from relayd.migrate.work import Work
from relayd.rules.language.lexer import quote
from relayd.spool.schedule import DEFAULT, Schedule

SPOOL = "/var/spool/relayd"
_TIME = re.compile(r"(\d+)([smhdw]?)\Z")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_PORTS = {"smtp": 25, "submission": 587, "submissions": 465, "smtps": 465}
_HUGE = "1024GiB"
_HELO_FIRST = 'reject any 503 5.5.1 "Say HELO or EHLO first"'
_QUIET_OVERRIDES = (
    "smtpd_tls_auth_only",
    "smtpd_sasl_type",
    "smtpd_sasl_path",
    "syslog_name",
    "smtpd_tls_security_level",
    "smtpd_tls_wrappermode",
    "smtpd_sasl_auth_enable",
    "milter_macro_daemon_name",
    "mynetworks",
    "smtpd_sender_login_maps",
    "soft_bounce",
    "smtpd_reject_unlisted_recipient",
)


def settings(work: Work, login: PostfixLogin) -> None:
    """All of relayd.conf but the rules."""
    _hostname(work)
    work.draft.setting(f"spool {SPOOL}", "where accepted mail waits; Postfix's queue stays its own")
    work.draft.setting("workers auto")
    _listeners(work, login)
    _limits(work)
    _times(work)


def _hostname(work: Work) -> None:
    name = work.main["myhostname"]
    try:
        check_domain(name)
    except AddressError as error:
        work.report.lost("myhostname", f'"{name}" is no host name: {error}', "setting:myhostname")
        return
    work.draft.setting(f"hostname {name}")
    work.report.translated("myhostname", f"hostname {name}")
    if work.main.is_given("mydomain"):
        work.report.translated("mydomain", "in the names that are derived from it")
    origin = work.main.myorigin
    raw = work.main["myorigin"]
    how = f"the first line of {raw}, " if raw.startswith("/") else ""
    work.report.translated(
        "myorigin",
        f"{how}{origin}: put behind addresses without a domain, in the tables and from clients",
    )
    if origin != name:
        with contextlib.suppress(AddressError):
            check_domain(origin)
            work.draft.setting(f"origin {origin}")
    if raw.startswith("/") and origin == work.main["myhostname"]:
        work.report.note(f"myorigin: {raw} cannot be read here, or says {origin} too", "myorigin")


# listeners


def _listeners(work: Work, login: PostfixLogin) -> None:
    addresses = list(_addresses(work))
    services = [each for each in work.services if each.type == "inet"]
    ports: list[int] = []
    for service in services:
        if service.command not in ("smtpd", "postscreen"):
            work.report.unneeded(f"master.cf {service.title}", f"{service.command} is not SMTP")
            continue
        _listener(work, service, addresses, ports, login)
    if not work.services:
        work.report.note("there is no master.cf beside main.cf: port 25 is assumed")
        _listen(work, addresses, 25, ports)
    work.report.translated("inet_interfaces", "the addresses of the `listen` statements")
    if work.main.is_given("inet_protocols"):
        work.report.translated(
            "inet_protocols",
            f"{work.main['inet_protocols']}: the `listen` statements. Outgoing mail uses both",
        )
    if work.main.yes("strict_rfc821_envelopes"):
        work.report.translated("strict_rfc821_envelopes", "`strict` at every `listen`")
    if work.main.yes("smtpd_helo_required"):
        work.draft.rule("admission", f"{_HELO_FIRST} when not helo any", "smtpd_helo_required")
        work.report.translated("smtpd_helo_required", f"{_HELO_FIRST} when not helo any")


def _listener(
    work: Work, service: Service, addresses: list[str], ports: list[int], login: PostfixLogin
) -> None:
    title = f"master.cf {service.title}"
    host, _, port_name = service.name.rpartition(":")
    port = int(port_name) if port_name.isdigit() else _PORTS.get(port_name) or _by_name(port_name)
    if port is None:
        work.report.lost(title, f"no port is known for {port_name}")
        return
    chosen = [host.strip("[]")] if host else addresses
    service = behind(service, work.services)
    wrapped = service.overrides.get("smtpd_tls_wrappermode") == "yes" or port == 465
    options = " tls implicit" if wrapped else ""
    wanted = login.wanted(service)
    why = login.hindrance() if wanted else ""
    if wrapped and not login.certificate:
        why = (
            why or "TLS from the first octet takes a certificate: write `certificate FILE key FILE`"
        )
    if why and (wrapped or "smtpd_sasl_auth_enable" in service.overrides):
        work.report.lost(
            title,
            f"{why}; the listener stands in relayd.conf as a comment, without the rules that were"
            " its own: import again when that is done",
        )
        for address in chosen:
            line = f"# listen {HostPort(address, port)}{options}{' auth TABLE' if wanted else ''}"
            work.draft.setting(line, f"{service.title}: see docs/migrate-postfix.md")
        return
    if wanted and not why:
        options += login.options(service)
    work.listeners.append((service, [HostPort(address, port) for address in chosen]))
    _listen(work, chosen, port, ports, options)
    work.report.translated(title, f"listen on port {port}{f':{options}' if options else ''}")
    if service.command == "postscreen":
        work.report.lost(
            title, "postscreen's tests of how a client speaks are not carried over; its lists are"
        )
    for name, value in service.overrides.items():
        if name in LISTS or name in closings.names():
            work.report.translated(title, f"-o {name}: rules for this listener")
        elif name not in _QUIET_OVERRIDES and name in DEFAULTS:
            work.report.lost(
                title,
                f"-o {name}={value}: relayd's limits are the same for all listeners",
            )


def _listen(
    work: Work, addresses: list[str], port: int, ports: list[int], options: str = ""
) -> None:
    if port in ports:
        return
    ports.append(port)
    if work.main.yes("strict_rfc821_envelopes"):
        options += " strict"
    for address in addresses:
        work.draft.setting(f"listen {HostPort(address, port)}{options}")


def _by_name(name: str) -> int | None:
    try:
        return socket.getservbyname(name, "tcp")
    except OSError:
        return None


def _addresses(work: Work) -> Iterator[str]:
    """The addresses to listen on."""
    protocols = work.main["inet_protocols"]
    versions = {"ipv4": (4,), "ipv6": (6,)}.get(protocols, (4, 6))
    for word in work.main.words("inet_interfaces"):
        names = {"all": ["0.0.0.0", "::"], "loopback-only": ["127.0.0.1", "::1"]}.get(word)
        for address in names or _resolved(work, word):
            if ipaddress.ip_address(address).version in versions:
                yield address


def _resolved(work: Work, name: str) -> list[str]:
    bare = name.strip("[]")
    try:
        return [str(ipaddress.ip_address(bare))]
    except ValueError:
        pass
    if name == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        found = socket.getaddrinfo(name, 25, type=socket.SOCK_STREAM)
    except OSError:
        work.report.lost(
            "inet_interfaces", f"{name} has no address here: write `listen ADDRESS:25`"
        )
        return []
    return list(dict.fromkeys(str(each[4][0]) for each in found))


# limits


def _limits(work: Work) -> None:
    _size(work)
    for setting, statement, attribute, most in (
        ("smtpd_recipient_limit", "recipients", "recipients", 1_000_000),
        (
            "default_destination_concurrency_limit",
            "deliveries-per-destination",
            "deliveries_per_destination",
            10_000,
        ),
        (
            "smtpd_client_connection_count_limit",
            "sessions-per-client",
            "sessions_per_client",
            10**6,
        ),
        (
            "smtpd_client_connection_rate_limit",
            "new-sessions-per-minute",
            "new_sessions_per_minute",
            10**6,
        ),
        ("smtpd_hard_error_limit", "errors-per-session", "errors_per_session", 10_000),
        ("hopcount_limit", "hops", "hops", 1000),
    ):
        text = work.main[setting]
        value = int(text) if text.isdigit() else -1
        least = 0 if "sessions" in attribute else 1
        if not least <= value <= most:
            work.report.lost(setting, f"{text}: {statement} goes from {least} to {most}")
        elif value == getattr(Settings, attribute):
            work.report.same(setting, f"{statement} {value}")
        else:
            work.draft.setting(f"{statement} {value}")
            work.report.translated(setting, f"{statement} {value}")
    if work.main.is_given("line_length_limit"):
        value = max(512, int(work.main["line_length_limit"] or 0))
        work.draft.setting(f"command-length {value}")
        work.report.translated("line_length_limit", f"command-length {value}")
    _bare_newlines(work)


def _size(work: Work) -> None:
    text = work.main["message_size_limit"]
    octets = int(text) if text.isdigit() else -1
    if octets < 0:
        work.report.lost("message_size_limit", f'"{text}" is no size')
    elif octets == 0:
        work.draft.setting(f"message-size {_HUGE}", "Postfix had no limit")
        work.report.translated("message_size_limit", f"message-size {_HUGE}: as good as none")
    else:
        work.draft.setting(f"message-size {max(octets, 1024)}")
        work.report.translated("message_size_limit", f"message-size {max(octets, 1024)}")


def _bare_newlines(work: Work) -> None:
    setting = "smtpd_forbid_bare_newline"
    value = work.main[setting].lower()
    if value in ("normalize", "yes"):
        work.draft.setting("bare-newlines normalise")
        work.report.translated(setting, "bare-newlines normalise")
    elif work.main.is_given(setting):
        work.report.same(setting, "refused; bare-newlines normalise would mend them")


# times


def seconds(text: str, unit: str) -> int | None:
    """A time of main.cf; `unit` is the parameter's own; None: it is none."""
    match = _TIME.match(text)
    return int(match.group(1)) * _UNITS[match.group(2) or unit] if match else None


def written(span: int) -> str:
    """Seconds as relayd writes them: `5d`, `1h6m40s`."""
    parts = []
    for letter, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, span = divmod(span, size)
        parts += [f"{count}{letter}"] if count else []
    return "".join(parts) or "0s"


def _times(work: Work) -> None:
    _schedule(work)
    main, report = work.main, work.report
    life = seconds(main["maximal_queue_lifetime"], "d")
    if life is None or life > 366 * 86400:
        report.lost("maximal_queue_lifetime", "relayd gives up after at most 366 days")
        life = int(Settings.give_up)
    life = max(life, 60)
    if life == Settings.give_up:
        report.same("maximal_queue_lifetime", f"give-up {written(life)}")
    else:
        work.draft.setting(f"give-up {written(life)}")
        report.translated("maximal_queue_lifetime", f"give-up {written(life)}")
    _warning(work, life)
    bounces = seconds(main["bounce_queue_lifetime"], "d")
    if main.is_given("bounce_queue_lifetime"):
        if bounces == life:
            report.translated("bounce_queue_lifetime", "reports wait as long as other mail")
        else:
            report.lost("bounce_queue_lifetime", "reports wait as long as other mail (give-up)")
    connect = seconds(main["smtp_connect_timeout"], "s")
    if main.is_given("smtp_connect_timeout"):
        if connect and connect != Settings.connect_timeout:
            work.draft.setting(f"connect-timeout {written(connect)}")
        report.translated("smtp_connect_timeout", f"connect-timeout {written(connect or 30)}")
    command = seconds(main["smtpd_timeout"], "s")
    if main.is_given("smtpd_timeout") and command:
        work.draft.setting(f"command-timeout {written(command)}")
        report.translated("smtpd_timeout", f"command-timeout {written(command)}")


def _warning(work: Work, life: int) -> None:
    setting = "delay_warning_time"
    after = seconds(work.main[setting], "h")
    default = min(int(Settings.warn_after), life // 2)
    if after and after < life:
        work.draft.setting(f"warn-after {written(after)}")
        work.report.translated(setting, f"warn-after {written(after)}")
    elif after:
        work.report.lost(setting, "later than give-up: nobody would be warned")
    else:
        text = f"relayd always warns the sender of late mail once, after {written(default)}"
        if work.main.is_given(setting):
            work.report.lost(setting, f"0: {text}")
        else:
            work.report.note(f"delay_warning_time: Postfix's default is never; {text}")
    if not after and default != Settings.warn_after:
        work.draft.setting(f"warn-after {written(default)}")


def _schedule(work: Work) -> None:
    """Postfix waits as long as a message is old, but between the two bounds."""
    least = seconds(work.main["minimal_backoff_time"], "s")
    most = seconds(work.main["maximal_backoff_time"], "s")
    names = ("minimal_backoff_time", "maximal_backoff_time")
    if not any(work.main.is_given(name) for name in names):
        for name in names:
            work.report.same(name, f"relayd's own schedule: {DEFAULT}")
        return
    if least is None or most is None or not 0 < least <= most <= 30 * 86400:
        for name in names:
            work.report.lost(name, f"write a schedule: retry {DEFAULT}")
        return
    delays, age = [least], least
    while delays[-1] < most and len(delays) < 50:
        delays.append(min(max(age, least), most))
        age += delays[-1]
    text = " ".join(written(each) if _simple(each) else f"{each}s" for each in delays)
    Schedule.parse(text)
    work.draft.setting(f"retry {text}")
    for name in names:
        work.report.translated(name, f"retry {quote(text)}")


def _simple(span: int) -> bool:
    return bool(re.fullmatch(r"\d+[smhd]", written(span)))
