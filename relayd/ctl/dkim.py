"""`relayctl dkim`: makes the keys that `dkim` statements name, prints and checks their records."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relayd.ctl.client import Daemon, told
from relayd.ops.text import safe

if TYPE_CHECKING:
    from relayd.authentication.dkimsigning import SigningKey
    from relayd.rules.language.model import DkimDef, KeyFile

_RSA, _ED25519 = "rsa", "ed25519"
_STRING = 255  # octets of one string of a record (RFC 1035 section 3.3)


class DkimFailure(Exception):  # noqa: N818 - as the others of relayctl
    """The command failed; `str(error)` goes to standard error."""


def add_options(to: argparse.ArgumentParser, everywhere: Callable[[], Any]) -> None:
    """What follows `relayctl dkim`."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, number, about in (
        ("make", None, "write the keys that are not there yet, and print the DNS records of all"),
        ("check", "?", "whether the DNS has the records of the keys that sign"),
        ("list", "?", "the keys, and what each is for"),
    ):
        action = actions.add_parser(name, help=about, description=about, parents=[everywhere()])
        action.add_argument("name", nargs=number, metavar="NAME", help="as the `dkim` statement")
        if name == "make":
            action.add_argument(
                "--type", choices=[_RSA, _ED25519], default="",
                help="of new keys; without, the first is RSA and further ones are Ed25519",
            )  # fmt: skip


def run(options: argparse.Namespace, config: Path, daemon: Callable[[], Daemon]) -> int:
    """One command; raises DkimFailure, DaemonError, OSError."""
    if options.action == "check":
        return _check(options, daemon())
    chosen = _chosen(config, options.name or "")
    if options.action == "make":
        return _make(options, chosen[0], config)
    return _list(options, chosen, config)


def _chosen(config: Path, name: str) -> Sequence[DkimDef]:
    """The statements in the files, whether their keys are there or not."""
    from relayd.config.load import readable
    from relayd.rules.language.model import DkimDef
    from relayd.rules.language.source import did_you_mean

    try:
        config.open().close()
    except OSError as error:
        raise DkimFailure(f"{told(error)}; --config names another one") from None
    items, problems = readable(config)
    known = {item.name: item for item in items if isinstance(item, DkimDef)}
    if problems and (name not in known if name else not known):
        shown = "\n".join(map(str, problems))
        raise DkimFailure(f"not all of the configuration can be read\n{shown}")
    if not name:
        return [*known.values()]
    if name not in known:
        hint = did_you_mean(name, known) or (
            f'expected "dkim {name} domain DOMAIN selector SELECTOR key file PATH"'
        )
        raise DkimFailure(f"{config} has no dkim {name}; {hint}")
    return [known[name]]


# keys are made


def _make(options: argparse.Namespace, statement: DkimDef, config: Path) -> int:
    from relayd.authentication.dkimsigning import new_private_key

    made = []
    for named in statement.keys:
        path = _path(named, config)
        if path.exists():
            continue
        if path.is_symlink():
            raise DkimFailure(f"{path}: a link to {path.readlink()}, which is not there")
        kind = options.type or _kind(statement, config)
        try:
            _write(path, new_private_key(ed25519=kind == _ED25519), config)
        except OSError as error:  # whatever the draft is called
            raise DkimFailure(f"{path}: {error.strerror}") from None
        made.append(path)
    rows = [_row(statement, named, config, "signs") for named in statement.keys]
    for row in rows:
        if row["state"] != "signs":
            raise DkimFailure(f"{row['file']}: {row['why']}")
    if options.json:
        print(json.dumps({"made": [str(path) for path in made], "keys": rows}, indent=2))
        return 0
    for path in made:
        print(safe(f"{path} made, for its owner's eyes only"))
    print("The DNS is to have this:")
    for row in rows:
        for line in zone_lines(row["at"], row["record"]):
            print(safe(line))
    print(safe(f"Then: relayctl reload, and relayctl dkim check {statement.name}"))
    return 0


def _kind(statement: DkimDef, config: Path) -> str:
    """Verifiers that know no Ed25519 need an RSA key: one of the keys is."""
    for named in statement.keys:
        with contextlib.suppress(OSError, ValueError):
            if _key(statement, named, config).algorithm.startswith(_RSA):
                return _ED25519
    return _RSA


def _write(path: Path, octets: bytes, config: Path) -> None:
    """A new file of its own; raises OSError. One that is there is never overwritten."""
    from relayd.ctl.users import owner_of

    owner = owner_of(config)
    missing = [each for each in path.parents if not each.exists()]
    for folder in reversed(missing):
        folder.mkdir(0o700)
        if owner is not None:
            os.chown(folder, *owner)
    handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            if owner is not None:
                os.fchown(handle, *owner)
            file.write(octets)
            file.flush()
            os.fsync(handle)
        path.hardlink_to(draft)  # whole or not at all; fails where there is one
    finally:
        Path(draft).unlink()


def _path(named: KeyFile, config: Path) -> Path:
    from relayd.ctl.users import place_of

    return place_of(named.file, named.place, config)


# ... and told


def _list(options: argparse.Namespace, chosen: Sequence[DkimDef], config: Path) -> int:
    rows = [
        _row(statement, named, config, state)
        for statement in chosen
        for state, keys in (("signs", statement.keys), ("retired", statement.retired))
        for named in keys
    ]
    if options.json:
        print(json.dumps(rows, indent=2))
    else:
        for row in rows:
            what = " ".join(filter(None, (row["algorithm"], row["file"])))
            state = f"{row['state']}: {row['why']}" if row["why"] else row["state"]
            print(safe(f"{row['name']}  {row['at']}  {what}  {state}"))
        if not rows:
            print('no "dkim" statement in the configuration')
    return 0 if all(row["state"] != "unusable" for row in rows) else 1


def _row(statement: DkimDef, named: KeyFile, config: Path, state: str) -> dict[str, Any]:
    path = _path(named, config)
    row: dict[str, Any] = {
        "name": statement.name,
        "domain": statement.domain,
        "selector": named.selector,
        "at": f"{named.selector}._domainkey.{statement.domain}",
        "file": str(path),
        "algorithm": "",
        "record": "",
        "state": state,
        "why": "",
    }
    try:
        key = _key(statement, named, config)
    except OSError as error:
        return row | {"state": "unusable", "why": error.strerror or str(error)}
    except ValueError as error:
        return row | {"state": "unusable", "why": str(error)}
    return row | {"algorithm": key.algorithm, "record": key.record}


def _key(statement: DkimDef, named: KeyFile, config: Path) -> SigningKey:
    """As relayd reads it. Raises OSError, ValueError."""
    from relayd.config.dkim import read_key
    from relayd.rules.language.source import Complaint

    path = _path(named, config)
    path.stat()
    try:
        return read_key(statement.domain, named, path)
    except Complaint as complaint:
        problem = complaint.problem
        what = problem.what.removeprefix(f"{named.file}: ")
        raise ValueError(f"{what}; {problem.expected}") from None


def zone_lines(name: str, record: str) -> Iterator[str]:
    """A record as a zone file has it, in strings that are short enough."""
    strings = [record[at : at + _STRING] for at in range(0, len(record), _STRING)]
    if len(strings) == 1:
        yield f'{name}. IN TXT "{record}"'
        return
    yield f"{name}. IN TXT ("
    for string in strings:
        yield f'    "{string}"'
    yield ")"


# ... and looked for in the DNS


def _check(options: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.answer("dkim", name=options.name or "")
    keys: list[dict[str, Any]] = answer["keys"]
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        for key in keys:
            why = f": {key['why']}" if key["why"] else ""
            print(safe(f"{key['name']}  {key['at']}  {key['algorithm']}  {key['state']}{why}"))
            if key["state"] in ("missing", "wrong"):
                for line in zone_lines(key["at"], key["record"]):
                    print(safe(f"    {line}"))
        if not keys:
            print('no "dkim" statement in the configuration in force')
    return 0 if all(key["state"] == "right" for key in keys) else 1
