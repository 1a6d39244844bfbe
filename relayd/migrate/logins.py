"""Logins: of clients by Dovecot's socket, and our own at next hops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from relayd.mail.nexthop import SMTP, NextHop
from relayd.mail.security import Level
from relayd.migrate.draft import SECRETS
from relayd.migrate.mastercf import Service
from relayd.migrate.work import Work
from relayd.rules.language.lexer import quote

TABLE = "dovecot-logins"
_BY_HAND = "make accounts with `relayctl user add`, or name Dovecot's socket: see docs/login.md"
_MUST = ("permit_sasl_authenticated", "reject")  # as master.cf's submission has it
_LISTS = ("smtpd_client_restrictions", "smtpd_recipient_restrictions", "smtpd_relay_restrictions")
_QUIET = (
    "smtpd_sasl_security_options",
    "smtpd_sasl_tls_security_options",
    "smtpd_sasl_local_domain",
    "smtpd_sasl_authenticated_header",
    "smtpd_tls_auth_only",
    "broken_sasl_auth_clients",
    "smtp_sasl_security_options",
    "smtp_sasl_tls_security_options",
    "smtp_sasl_type",
)


class PostfixLogin:
    """Where this configuration lets clients log in: in main.cf, or on some listeners only."""

    def __init__(self, work: Work, *, certificate: bool) -> None:
        self._work = work
        self.socket = self._find()
        self.certificate = certificate
        self.used = False

    def _find(self) -> str:
        """Dovecot's socket; empty where there is none that could be used."""
        main = self._work.main
        for said in ({}, *(each.overrides for each in self._work.services)):
            path = said.get("smtpd_sasl_path", main["smtpd_sasl_path"]).removeprefix("unix:")
            kind = said.get("smtpd_sasl_type", main["smtpd_sasl_type"])
            if kind == "dovecot" and path and not path.startswith("inet:"):
                return path if path.startswith("/") else f"{main['queue_directory']}/{path}"
        return ""

    def wanted(self, service: Service) -> bool:
        """Whether clients log in at this service."""
        main = "yes" if self._work.main.yes("smtpd_sasl_auth_enable") else "no"
        return service.overrides.get("smtpd_sasl_auth_enable", main) == "yes"

    def hindrance(self) -> str:
        """Why no listener can have logins, and what is to be done; empty: it can."""
        if not self.socket:
            return f"the passwords of Cyrus SASL are not to be had: {_BY_HAND}"
        if not self.certificate:
            return "logins take TLS, and there is no certificate: write `certificate FILE key FILE`"
        return ""

    def options(self, service: Service) -> str:
        """What stands behind its `listen`; with `submission` where nobody sends without one."""
        self.used = True
        its = self._work.main.overlaid(service.overrides)
        must = any(tuple(its.words(name)[:2]) == _MUST for name in _LISTS)
        return f" auth {TABLE}" + (" submission" if must else "")

    def finish(self) -> None:
        """The statements that all of it needs, and what became of each setting."""
        work, main, report = self._work, self._work.main, self._work.report
        for name in _QUIET:
            if main.is_given(name):
                report.same(name, "logins are offered only under TLS, and strong ones first")
        given = [name for name in main.given if name.startswith("smtpd_sasl_")]
        why = self.hindrance()
        for name in given:
            if not report.has(name) and self.used:
                report.translated(name, f"table {TABLE}, asked for passwords")
            elif not report.has(name) and main.yes("smtpd_sasl_auth_enable"):
                report.lost(name, why or "no listener is left that takes logins")
        if not self.used:
            return
        work.draft.setting(
            f"table {TABLE} dovecot-auth unix:{quote(self.socket)}",
            "relayd's user must be able to open it",
        )


def outgoing(work: Work) -> None:
    """smtp_sasl_password_maps as a secrets file; called when all next hops have their TLS."""
    main, report = work.main, work.report
    enable, setting = "smtp_sasl_auth_enable", "smtp_sasl_password_maps"
    if not main.yes(enable):
        for name in main.given:
            if name.startswith("smtp_sasl_") and name != enable and not report.has(name):
                report.unneeded(name, "logins at next hops are off (smtp_sasl_auth_enable)")
        return
    rows = {row.key.lower(): row.value for table in work.tables(setting) for row in table.rows}
    secrets: list[str] = []
    for name, hop in work.draft.hops.items():
        key = next((key for key in _keys(hop) if key in rows), "")
        user, colon, password = rows.pop(key, "").partition(":")
        if not key or not colon:
            continue
        if len(user.split()) != 1 or password != password.strip() or not password:
            report.lost(setting, f"{key}: blanks around them, or nothing: write it into {SECRETS}")
            continue
        secrets.append(f"{name} {user} {password}")
        work.draft.hops[name] = replace(hop, login=name)
        if hop.tls is None:
            report.note(
                f"next hop {name}: with a login its certificate is verified (`tls {Level.VERIFY}`);"
                " write `tls required` if it has none of a known authority"
            )
    for key in rows:
        report.lost(setting, f"{key}: no next hop of that name takes a login")
    if secrets:
        work.draft.secrets = secrets
        work.draft.setting(f"secrets {SECRETS}", "logins at next hops, mode 0600")
        for name in (enable, setting):
            hops = "1 next hop" if len(secrets) == 1 else f"{len(secrets)} next hops"
            report.translated(name, f"`login` on {hops}, passwords in {SECRETS}")
    else:
        for name in (enable, setting):
            if main.is_given(name):
                report.lost(name, "no next hop has a password: write `login NAME` and `secrets`")


def _keys(hop: NextHop) -> Iterator[str]:
    """As smtp(8) asks for a password: by the next hop as it is written, then by the host."""
    for place in hop.hosts if hop.protocol == SMTP else ():
        host = place.host.lower()
        yield f"[{host}]:{place.port}"
        if place.port == 25:
            yield f"[{host}]"
        yield f"{host}:{place.port}"
        yield host
