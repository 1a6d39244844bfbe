"""`relayctl user`: keeps a users file, without a password ever on a command line."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import getpass
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from relayd.login import users
from relayd.login.roles import NO_ROLE, ROLES
from relayd.login.saslprep import PrepareError
from relayd.login.scram import Verifier
from relayd.login.totp import address_of, new_secret

if TYPE_CHECKING:
    from relayd.rules.language.source import Place

MIN_PASSWORD = 1  # characters; how good it is to be is the site's business
_DONE = {
    "add": "added to",
    "passwd": "changed in",
    "remove": "removed from",
}


class UsersFailure(Exception):  # noqa: N818 - as the others of relayctl
    """The command failed; `str(error)` goes to standard error."""


def run(options: argparse.Namespace, config: Path) -> int:
    """One command; raises UsersFailure."""
    path = options.file or file_of(config)
    try:
        if options.action == "list":
            return _list(path, as_json=options.json)
        with _alone(path):
            return _change(options, path, config)
    except OSError as error:
        raise UsersFailure(f"{error.filename or path}: {error.strerror}") from None


def file_of(config: Path) -> Path:
    """The one users file that the configuration names, there or not; raises UsersFailure."""
    from relayd.config import statements
    from relayd.rules.language.model import TableDef

    if not os.access(config, os.R_OK):
        raise UsersFailure(f"{config}: cannot be read; or say --file FILE")
    items = [item for item in statements(config) if isinstance(item, TableDef)]
    found = {place_of(each.file, each.place, config) for each in items if each.kind == "users"}
    if len(found) != 1:
        number = "no users file" if not found else f"{len(found)} users files"
        raise UsersFailure(f"{config} names {number}: say which with --file FILE")
    return found.pop()


def place_of(name: str, named: Place, config: Path) -> Path:
    """Where a file is, as the configuration is read; where it is to be, if it is not there."""
    beside = Path(named.source.path).parent / name
    elsewhere = config.parent / name
    return elsewhere if elsewhere.exists() and not beside.exists() else beside


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Two who change the file at a time must not undo each other."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _list(path: Path, *, as_json: bool) -> int:
    found, problems = users.parse(path.read_text("utf-8").splitlines())
    for problem in problems:
        print(f"relayctl: {path}:{problem.line}: {problem}", file=sys.stderr)
    if as_json:
        print(json.dumps(sorted(found.verifiers)))
    else:
        for name in sorted(found.verifiers):
            seat = found.seats.get(name)
            said = "" if seat is None else f"  {seat.role}{' with codes' if seat.totp else ''}"
            print(f"{name}{said}")
    return 1 if problems else 0


def _change(options: argparse.Namespace, path: Path, config: Path) -> int:
    try:
        name = users.checked_name(options.name)
    except ValueError as error:
        raise UsersFailure(str(error)) from None
    lines = users.read(path)
    known = users.parse(lines)[0]
    there = name in known.verifiers
    if options.action == "add" and there:
        raise UsersFailure(f"{name} is in {path} already; change the password with passwd")
    if options.action != "add" and not there:
        raise UsersFailure(f"{name} is not in {path}")
    seat = known.seats.get(name)
    if options.action == "totp" and seat is None:
        raise UsersFailure(f"{name} has no role: first relayctl user role {name} viewer")
    verifier: Verifier | None
    if options.action in ("role", "totp"):
        verifier = known.verifiers[name]
        seat = _new_seat(options, seat)
    else:
        verifier = None if options.action == "remove" else _verifier()
    users.write(path, users.with_user(lines, name, verifier, seat), owner_of(config))
    asked = options.action == "totp" and seat is not None and bool(seat.totp)
    code = address_of(seat.totp, name, "relayd") if asked and seat else ""
    if options.json:
        document = {"name": name, "file": str(path), "done": options.action}
        print(json.dumps({**document, "address": code} if code else document))
    else:
        if code:
            print(f"for the authenticator, once: {code}")
        print(f"{name} {_done(options)} {path}; put it in force with: relayctl reload")
    return 0


def _done(options: argparse.Namespace) -> str:
    if options.action == "role":
        return "has no role in" if options.role == NO_ROLE else f"has the role {options.role} in"
    if options.action == "totp":
        return "has no secret for codes in" if options.off else "has a new secret for codes in"
    return _DONE[options.action]


def _new_seat(options: argparse.Namespace, seat: users.Seat | None) -> users.Seat | None:
    if options.action == "totp":
        assert seat is not None
        return replace(seat, totp=b"" if options.off else new_secret())
    if options.role == NO_ROLE:
        return None
    return users.Seat(ROLES[options.role], b"" if seat is None else seat.totp)


def _verifier() -> Verifier:
    password = _password()
    if len(password) < MIN_PASSWORD:
        raise UsersFailure("an empty password")
    try:
        return Verifier.of(password)
    except PrepareError as error:
        raise UsersFailure(f"the password cannot be used: {error}") from None


def _password() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Once more: ") != password:
        raise UsersFailure("the two are not the same")
    return password


def owner_of(config: Path) -> tuple[int, int] | None:
    """Whoever relayd runs as must read a new file: the owner of its spool, if we are root."""
    if os.geteuid() != 0:
        return None
    from relayd.ctl.socketpath import FailureError, socket_of

    try:
        status = socket_of(config).parent.stat()
    except (OSError, FailureError):
        return None
    return status.st_uid, status.st_gid
