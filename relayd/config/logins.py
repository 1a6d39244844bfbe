"""The statements about logins: who may log in at a listener, and what we say at next hops."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from relayd.config.files import read_text, require_private, similar_file
from relayd.login.initiator import Secret
from relayd.login.mechanisms import MECHANISMS as KNOWN
from relayd.login.mechanisms import SHOWING
from relayd.login.secrets import SecretsError, parse
from relayd.mail.nexthop import NextHop
from relayd.rules.language.source import Complaint, Place, Problem, did_you_mean, one_of
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table
from relayd.rules.tables.userstable import DovecotTable, UsersTable
from relayd.tls.files import CertificateFiles

# options of listeners
AUTH, MECHANISMS, SUBMISSION = "auth", "mechanisms", "submission"


@dataclasses.dataclass(frozen=True)
class LoginOptions:
    """What a listener statement says about logins, and where."""

    listener: str
    table: str
    tls: str
    mechanisms: str  # empty: those that are offered by default
    place: Place


def listener_auth(words: Words) -> str:
    """The table behind `listen ADDRESS:PORT auth`."""
    return words.name("the table of those who may log in")


def listener_mechanisms(words: Words) -> str:
    """`SCRAM-SHA-256, PLAIN`: what is offered, in this order."""

    def mechanism() -> str:
        token = words.word("a mechanism such as SCRAM-SHA-256")
        name = token.text.upper()
        if name not in KNOWN:
            hint = did_you_mean(name, KNOWN) or f"expected {one_of(tuple(KNOWN))}"
            raise words.complain(f'there is no mechanism "{token.text}"', hint)
        return name

    return ", ".join(dict.fromkeys(words.commas(mechanism)))


def yes_no(words: Words) -> bool:
    """`yes` or `no`."""
    return words.choice(("yes", "no"), "yes or no") == "yes"


def listener_problems(
    given: Iterable[LoginOptions],
    tables: Mapping[str, Table],
    certificates: Iterable[CertificateFiles],
    *,
    in_clear: bool,
) -> list[Problem]:
    """Tables that are not there or hold no passwords, and logins that TLS would have to protect."""
    problems = []
    served = list(certificates)
    for each in given:
        secured = each.tls != "none" and any(
            not files.listeners or each.listener in files.listeners for files in served
        )
        if each.table and not secured and not in_clear:
            what = f"{each.listener} has no certificate, and so offers no login"
            hint = 'expected "certificate FILE key FILE", or "auth-without-tls yes" if you mean it'
            problems.append(Problem(each.place, what, hint))
        table = tables.get(each.table)
        said = each.mechanisms.replace(",", " ").split()
        if isinstance(table, DovecotTable) and said and not set(said) & set(SHOWING):
            what = f"Dovecot looks at passwords, and {each.mechanisms} shows none"
            problems.append(Problem(each.place, what, f"expected {one_of(SHOWING)} among them"))
        if not each.table or isinstance(table, UsersTable | DovecotTable):
            continue
        if table is None:
            what = f"there is no table {each.table}"
            hint = f'expected a statement "table {each.table} users file PATH"'
            hint = did_you_mean(each.table, tables) or hint
        else:
            what = f"table {each.table} holds no passwords"
            hint = 'expected a table of kind "users" or "dovecot-auth"'
        problems.append(Problem(each.place, what, hint))
    return problems


def console_problems(
    given: Iterable[tuple[str, Place]], tables: Mapping[str, Table]
) -> list[Problem]:
    """Consoles at which nobody could log in: only users files say what somebody may do there."""
    problems = []
    for name, place in given:
        table = tables.get(name)
        if table is None:
            hint = f'expected a statement "table {name} users file PATH"'
            hint = did_you_mean(name, tables) or hint
            problems.append(Problem(place, f"there is no table {name}", hint))
        elif not isinstance(table, UsersTable):
            what = f"table {name} says of nobody what he may do at the console"
            problems.append(Problem(place, what, 'expected a table of kind "users"'))
    return problems


def read_secrets(path: Path, name: str, place: Place) -> dict[str, Secret]:
    """The logins at next hops; raises Complaint, which never shows a line of the file."""
    try:
        require_private(path, name, place, group=False)
        text = read_text(path, name)
    except OSError as error:
        what = f"cannot read {name}: {error.strerror or error}"
        raise Complaint(place, what, similar_file(path)) from None
    except Complaint as complaint:
        # of text that is not UTF-8: the line shown would be a secret
        if complaint.problem.place is place:
            raise
        raise Complaint(place, f"{name} is not UTF-8", "expected NAME USER PASSWORD") from None
    try:
        return parse(text.split("\n"))
    except SecretsError as error:
        what = f"line {error.line} of {name}: {error}"
        raise Complaint(place, what, "expected lines NAME USER PASSWORD") from None


def hop_problems(
    hops: Mapping[str, NextHop],
    places: Mapping[str, Place],
    secrets: Mapping[str, Secret] | None,
    tokens: Collection[str],
) -> list[Problem]:
    """Next hops whose login nobody knows; `secrets`: None where there is no such setting.

    `tokens`: the logins of `oauth` statements.
    """
    problems = []
    for name, hop in hops.items():
        login, place = hop.login, places.get(name)
        if not login or place is None or login in tokens or login in (secrets or ()):
            continue
        close = did_you_mean(login, [*(secrets or ()), *tokens])
        if secrets is None and not tokens:
            what, hint = f"next hop {name} has a login", 'expected a statement "secrets FILE"'
        else:
            what = f"there is no secret {'or oauth ' if tokens else ''}{login}"
            hint = close or f'expected a line "{login} USER PASSWORD"'
        problems.append(Problem(place, what, hint))
    return problems
