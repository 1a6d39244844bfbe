"""`relayctl spool`: works on a spool, or makes one, while no relayd has it."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relayd.config.settings import Settings
    from relayd.spool.copy import MovingEnd


class SpoolFailure(Exception):  # noqa: N818 - as the others of relayctl
    """The command failed; `str(error)` goes to standard error."""


def add_options(to: argparse.ArgumentParser) -> None:
    """What follows `relayctl spool`."""
    actions = to.add_subparsers(dest="action", required=True, metavar="ACTION")
    about = "a copy of the spool in an older format, for an older relayd; stop relayd first"
    action = actions.add_parser("export", help=about, description=about)
    add = action.add_argument
    add("folder", type=Path, metavar="DIR", help="where the copy goes: new, or empty")
    add("--format", type=int, metavar="N", help="default: the one before this relayd's")
    add("--spool", type=Path, metavar="DIR", help="the spool, unless the configuration says it")
    about = "make the tables of a spool in PostgreSQL, in the database that the configuration names"
    actions.add_parser("create", help=about, description=about)
    about = "move what waits between a folder and a database; may be told again when interrupted"
    action = actions.add_parser("copy", help=about, description=about)
    place = "a folder, or a connection such as service=relayd"
    action.add_argument("source", metavar="FROM", help=place)
    action.add_argument("target", metavar="TO", help="likewise")
    about = "bring these tables up to date, while nodes of the version before go on beside them"
    actions.add_parser("upgrade", help=about, description=about)


def run(options: argparse.Namespace, config: Path) -> int:
    """One command; raises SpoolFailure."""
    # sqlite3 takes its time to load, and no other command needs it
    if options.action == "create":
        return _create(options, config)
    if options.action == "copy":
        return _copy(options)
    if options.action == "upgrade":
        return _upgrade(options, config)
    from relayd.spool.errors import SpoolError
    from relayd.spool.export import export
    from relayd.spool.formats import OLDEST, VERSION

    wanted = options.format or max(VERSION - 1, OLDEST)
    try:
        done = export(options.spool or _spool_of(config), options.folder, wanted)
    except SpoolError as error:
        raise SpoolFailure(error.reason) from None
    if options.json:
        print(json.dumps({"messages": done.messages, "shards": done.shards}))
    else:
        print(f"{done.messages:,} messages in format {wanted} in {options.folder}")
    return 0


def _create(options: argparse.Namespace, config: Path) -> int:
    from relayd.spool.errors import SpoolError
    from relayd.spool.postgresql.schema import VERSION
    from relayd.spool.postgresql.session import create_in

    try:
        made = create_in(_database_of(config))
    except SpoolError as error:
        raise SpoolFailure(error.reason) from None
    if options.json:
        print(json.dumps({"made": made, "version": VERSION}))
    else:
        print(f"the spool is {'made' if made else 'there already'}, in version {VERSION}")
    return 0


def _upgrade(options: argparse.Namespace, config: Path) -> int:
    from relayd.spool.errors import SpoolError
    from relayd.spool.postgresql.schema import VERSION
    from relayd.spool.postgresql.session import upgrade_in

    try:
        before = upgrade_in(_database_of(config))
    except SpoolError as error:
        raise SpoolFailure(error.reason) from None
    if before is None:
        raise SpoolFailure('there is no spool in this database: "relayctl spool create" makes it')
    if options.json:
        print(json.dumps({"before": before, "version": max(before, VERSION)}))
    elif before < VERSION:
        print(f"the spool was in version {before}, and is in version {VERSION} now")
    else:
        print(f"the spool is in version {before} already")
    return 0


def _copy(options: argparse.Namespace) -> int:
    import sqlite3

    from relayd.spool.copy import Copied, copy
    from relayd.spool.disk.rights import rights_of
    from relayd.spool.errors import SpoolError

    def told(done: Copied) -> None:
        if not options.json and sys.stderr.isatty():
            print(f"\r{done.messages:,} messages", end="", file=sys.stderr, flush=True)

    folders = [Path(each) for each in (options.source, options.target) if not _is_database(each)]
    owner = next((each.stat() for each in folders if each.is_dir()), None)
    try:
        with contextlib.ExitStack() as held:
            if owner is not None:
                held.enter_context(rights_of(owner))
            source = held.enter_context(contextlib.closing(_end_of(options.source, target=False)))
            target = held.enter_context(contextlib.closing(_end_of(options.target, target=True)))
            done = copy(source, target, told)
    except SpoolError as error:
        raise SpoolFailure(error.reason) from None
    except (OSError, sqlite3.Error) as error:
        raise SpoolFailure(str(error)) from None
    except Exception as error:
        from relayd.spool.postgresql.session import trouble_of

        trouble = trouble_of(error)
        if trouble is None:
            raise
        raise SpoolFailure(f"{trouble.reason}; say the same again") from None
    if options.json:
        print(json.dumps({"messages": done.messages, "damaged": done.damaged}))
    else:
        print(f"{done.messages:,} messages are in {options.target} now")
        if done.damaged:
            print(f"{done.damaged:,} damaged ones are where they were")
    return 1 if done.damaged else 0


def _is_database(place: str) -> bool:
    return "://" in place or ("=" in place and "/" not in place.partition("=")[0])


def _end_of(place: str, *, target: bool) -> MovingEnd:
    from relayd.spool.copy import FolderEnd

    if not _is_database(place):
        return FolderEnd(Path(place), make=target)
    from relayd.spool.postgresql.moving import DatabaseEnd

    return DatabaseEnd(place, alone=not target)


def _database_of(config: Path) -> str:
    database = _settings_of(config).place.database
    if not database:
        raise SpoolFailure(
            f'{config} names no database: expected e.g. spool postgresql "service=relayd"'
        )
    return database


def _settings_of(config: Path) -> Settings:
    from relayd.config import ConfigErrors, load

    try:
        return load(config)
    except ConfigErrors as errors:
        raise SpoolFailure(f"the configuration has errors\n{errors}") from None


def _spool_of(config: Path) -> Path:
    from relayd.config import ConfigErrors, load

    try:
        return load(config).spool
    except ConfigErrors as errors:
        raise SpoolFailure(f"the configuration has errors (or give --spool)\n{errors}") from None
