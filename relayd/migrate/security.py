"""TLS parameters: certificates, what listeners demand, and what next hops have to offer."""

from __future__ import annotations

import os
import pwd
from dataclasses import replace
from pathlib import Path

from relayd.config.tls import certificate_problems
from relayd.mail.nexthop import SMTP
from relayd.mail.security import Level
from relayd.migrate.draft import pattern
from relayd.migrate.maincf import readable
from relayd.migrate.nexthops import hosts_of
from relayd.migrate.work import Work
from relayd.rules.language.lexer import quote
from relayd.rules.language.source import Place, Problem, Source
from relayd.tls.files import CertificateFiles

_LEVELS = {
    "none": Level.NONE,
    "may": Level.AUTO,
    "encrypt": Level.REQUIRED,
    "dane": Level.AUTO,
    "dane-only": Level.DANE,
    "fingerprint": None,
    "verify": Level.VERIFY,
    "secure": Level.VERIFY,
}
_QUIET = (
    "session_cache",
    "loglevel",
    "received_header",
    "note_starttls",
    "connection_reuse",
    "dh1024",
    "dh512",
    "random_",
    "fast_shutdown",
    "preempt",
    "eecdh",
    "session_id",
)
_SYSTEM = ("/etc/ssl/certs", "/etc/ssl/certs/ca-certificates.crt")


def inbound(work: Work) -> bool:
    """Certificates and what clients must do; whether there is a certificate to show."""
    main, report = work.main, work.report
    setting = "smtpd_tls_security_level"
    level = main[setting].lower()
    level = level or {True: "may", False: ""}[main.yes("smtpd_use_tls")]
    wrapped = any("smtpd_tls_wrappermode" in each.overrides for each in work.services)
    if level in ("", "none") and not wrapped:
        for name in ("smtpd_tls_cert_file", "smtpd_tls_key_file", "smtpd_tls_chain_files", setting):
            if main.is_given(name):
                report.unneeded(name, "TLS is off for clients (smtpd_tls_security_level)")
        return False
    shown = _certificates(work)
    if main.is_given(setting):
        if level == "encrypt":
            report.translated(setting, "clients without TLS are refused at RCPT")
        elif shown:
            report.same(setting, "STARTTLS is offered wherever there is a certificate")
        else:
            report.lost(
                setting,
                "without a certificate relayd offers no STARTTLS: write"
                " `certificate FILE key FILE`",
            )
    return shown


def unreadable(path: Path, user: str = "relayd") -> str:
    """Why relayd's own user cannot read what we can; empty: it can, or there is no such user."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return ""
    groups = os.getgrouplist(user, entry.pw_gid)
    for each in (*reversed(path.resolve().parents), path.resolve()):
        status = each.stat()
        shift = 6 if status.st_uid == entry.pw_uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & (4 if each == path.resolve() else 1):
            return f"{each} is closed to the user {user}, and {path} with it"
    return ""


def _certificates(work: Work) -> bool:
    main = work.main
    pairs = [
        (
            main[f"smtpd_tls_{kind}cert_file"],
            main[f"smtpd_tls_{kind}key_file"],
            f"smtpd_tls_{kind}cert_file",
            f"smtpd_tls_{kind}key_file",
        )
        for kind in ("", "ec")
    ]
    chain = "smtpd_tls_chain_files"
    pairs += [(path, path, chain, chain) for path in main.words(chain)]
    shown = False
    for certificate, key, first, second in pairs:
        if not certificate or certificate == "none":
            continue
        files = CertificateFiles(Path(certificate), Path(key or certificate))
        place = Place(Source("", "", ("",)), 1)
        problems = certificate_problems([(files, place)], [])
        secret = "" if problems else unreadable(files.key)
        if secret:
            problems = [Problem(place, secret, "")]
        statement = f"certificate {quote(certificate)} key {quote(key or certificate)}"
        for name in dict.fromkeys((first, second)):
            if problems:
                work.report.lost(
                    name, f"{problems[0].what}: write `certificate FILE key FILE` when it is there"
                )
            elif main.is_given(name):
                work.report.translated(name, statement)
        if not problems:
            work.draft.setting(statement)
            shown = True
    return shown


def outbound(work: Work) -> None:
    """What connections to others have to offer; called when all next hops are known."""
    main, report = work.main, work.report
    setting = "smtp_tls_security_level"
    text = main[setting].lower()
    if not text:
        text = (
            "encrypt" if main.yes("smtp_enforce_tls") else "may" if main.yes("smtp_use_tls") else ""
        )
    level = _LEVELS.get(text) if text else Level.AUTO
    if level is None:
        work.close((), setting, f"{text}: write `tls to any LEVEL`, and `tls LEVEL` on next hops")
        level = Level.AUTO
    elif level is not Level.AUTO:
        work.draft.setting(f"tls to any {level.value}", f"{setting} = {text}")
        _on_hops(work, level)
        report.translated(setting, f"tls to any {level.value}, and on the next hops")
        if any(table.kind == "transport" for table in work.draft.tables.values()):
            report.note(
                f"{setting} = {text} does not reach the hosts that a transport table names:"
                " write a next-hop with `tls` for those that need it"
            )
    elif main.is_given(setting):
        report.same(
            setting, "DANE or MTA-STS where the domain publishes it, else TLS if there is any"
        )
    if not text and not main.is_given(setting):
        report.note("relayd uses TLS with any next hop that offers it; Postfix did not")
    _policies(work)
    _authorities(work)
    _others(work)


def _on_hops(work: Work, level: Level) -> None:
    wrapped = work.main.yes("smtp_tls_wrappermode")
    for name, hop in work.draft.hops.items():
        if hop.protocol == SMTP:
            work.draft.hops[name] = replace(hop, level=level, implicit_tls=wrapped)
    if work.main.is_given("smtp_tls_wrappermode"):
        work.report.translated("smtp_tls_wrappermode", "tls implicit on the next hops")


def _policies(work: Work) -> None:
    setting = "smtp_tls_policy_maps"
    count = 0
    for table in work.tables(setting):
        for row in table.rows:
            words = row.value.lower().split()
            level = _LEVELS.get(words[0])
            if level in (Level.AUTO, Level.NONE):
                work.report.lost(
                    setting,
                    f"{table.where(row.line)}: {row.key} {row.value}: DANE or MTA-STS where the"
                    " domain publishes it, else TLS if there is any",
                )
                continue
            if level is not None and not words[1:] and _one_hop(work, row.key, level):
                count += 1
                continue
            try:
                domain = pattern(f"@{row.key}")
            except ValueError:
                domain = ""
            if not domain or level is None or words[1:]:
                work.close(
                    (f"to {domain}",) if domain else (),
                    setting,
                    f"{table.where(row.line)}: {row.key} {row.value}: write `tls"
                    " to @domain LEVEL`, or `tls LEVEL` on a next hop",
                )
                continue
            work.draft.setting(f"tls to {domain} {level.value}")
            count += 1
        for pattern_row in table.patterns:
            where = table.where(pattern_row.line)
            work.close((), setting, f"{where}: expressions name no domain")
    if count:
        work.report.translated(setting, f"{count:,} domains: tls to @domain LEVEL")


def _one_hop(work: Work, key: str, level: Level) -> bool:
    """`[host]:port` of a next hop that has a name here."""
    found = hosts_of(key)
    if not key.startswith("[") or isinstance(found, str):
        return False
    wanted = found[0].hosts[0]
    names = [name for name, hop in work.draft.hops.items() if wanted in hop.hosts]
    for name in names:
        work.draft.hops[name] = replace(work.draft.hops[name], level=level)
    tables = [each for each in work.draft.tables.values() if each.kind == "transport"]
    return bool(names) and not any(
        f"[{wanted.host}]" in line for each in tables for line in each.lines
    )


def _authorities(work: Work) -> None:
    for name in ("smtp_tls_CAfile", "smtp_tls_CApath"):
        value = work.main[name]
        if value in _SYSTEM:
            work.report.same(name, "the system's authorities")
        elif value and name.endswith("file") and readable(Path(value)):
            work.draft.setting(f"tls-authorities {quote(value)}")
            work.report.translated(name, f"tls-authorities {value}")
        elif value:
            work.report.lost(name, "write `tls-authorities FILE`")


def _others(work: Work) -> None:
    for name in work.main.given:
        if "_tls_" not in name or work.report.has(name):
            continue
        value = work.main[name]
        if any(word in name for word in _QUIET):
            work.report.unneeded(name, "relayd keeps its own counsel about this")
        elif name.endswith("_protocols"):
            new = value.replace(" ", "") in (">=TLSv1.2", "!SSLv2,!SSLv3,!TLSv1,!TLSv1.1")
            (work.report.same if new else work.report.lost)(
                name, "TLS 1.2 and later; `tls-minimum` says otherwise"
            )
