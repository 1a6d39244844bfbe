"""Asks Postfix's own postmap(1) what its tables hold, many keys at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from relayd.migrate.tables import PATTERNS, TEXTS, MapSpec, PostfixTables

_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")
_ENDINGS = {
    "hash": (".db",),
    "btree": (".db",),
    "lmdb": (".lmdb",),
    "cdb": (".cdb",),
    "dbm": (".dir",),
    "sdbm": (".dir",),
}
TIMEOUT = 300
NO_ANSWER = 5  # seconds for a server of our own; postmap itself would try for half a minute


class PostmapError(Exception):
    """postmap is missing, or cannot read a table; `str()` is for the one who asked."""


class Missing(Exception):  # noqa: N818 - not an error: ask again when it has been looked up
    """An answer that has not been fetched yet."""


def program(name: str) -> str:
    """The path of one of Postfix's commands; raises PostmapError."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *_SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise PostmapError(
            f"{name} is not installed here, so Postfix cannot be asked: do this on the old machine,"
            " or install Debian's postfix package beside a copy of its configuration"
        )
    return found


def parameters(folder: Path, *options: str) -> dict[str, str]:
    """Every parameter of the configuration in `folder`, expanded; raises PostmapError."""
    done = subprocess.run(
        [program("postconf"), "-c", str(folder), *options, "-x"],
        capture_output=True,
        timeout=TIMEOUT,
    )
    text = done.stdout.decode("utf-8", "surrogateescape")
    if done.returncode:
        errors = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise PostmapError(f"postconf cannot read {folder}: {errors[-1] if errors else 'no word'}")
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


class Answers:
    """What postmap said. What is not known yet is collected, and fetched table by table."""

    def __init__(self, folder: Path, shelf: PostfixTables, scratch: Path) -> None:
        self._folder = folder
        self._shelf = shelf
        self._scratch = scratch
        self._postmap = program("postmap")
        self._known: dict[tuple[MapSpec, bool], dict[str, str | None]] = {}
        self._wanted: dict[tuple[MapSpec, bool], dict[str, None]] = {}
        self._asked_as: dict[tuple[MapSpec, bool], str] = {}
        self.stale: list[str] = []  # compiled tables older than their text
        self.unreadable: dict[MapSpec, str] = {}  # asked in vain, and why

    def ask(self, spec: MapSpec, key: str, *, aliases: bool = False) -> str | None:
        """The value of a key, None where there is none; raises Missing."""
        known = self._known.setdefault((spec, aliases), {})
        if key not in known:
            self._wanted.setdefault((spec, aliases), {})[key] = None
            raise Missing
        return known[key]

    def expect(self, specs: Sequence[MapSpec], keys: Iterable[tuple[str, bool]]) -> None:
        """Have all these keys looked up at once; raises Missing unless all are known.

        With each key: whether it is a whole address, which expressions are matched with.
        """
        missing = False
        for spec in specs:
            known = self._known.setdefault((spec, False), {})
            expressions = spec.type in PATTERNS
            for key, whole in keys:
                if key and (whole or not expressions) and key not in known:
                    self._wanted.setdefault((spec, False), {})[key] = None
                    missing = True
        if missing:
            raise Missing

    def fetch(self) -> bool:
        """Look up all that is wanted; whether there was anything. Raises PostmapError."""
        wanted, self._wanted = self._wanted, {}
        for table, keys in wanted.items():
            found = self._found(table, list(keys))
            self._known[table].update({key: found.get(key) for key in keys})
        return bool(wanted)

    def _found(self, table: tuple[MapSpec, bool], keys: Sequence[str]) -> dict[str, str]:
        """A table that postmap cannot read holds nothing; that it is so is remembered."""
        if table[0] in self.unreadable:
            return {}
        try:
            return self._query(self._name(*table), keys)
        except (PostmapError, OSError, subprocess.TimeoutExpired) as error:
            self.unreadable[table[0]] = str(error)
            return {}

    def _query(self, table: str, keys: Sequence[str]) -> dict[str, str]:
        done = subprocess.run(
            [self._postmap, "-c", str(self._folder), "-q", "-", table],
            input="".join(f"{key}\n" for key in keys).encode("utf-8", "surrogateescape"),
            capture_output=True,
            timeout=TIMEOUT if "socketmap:" not in table and "tcp:" not in table else NO_ANSWER,
        )
        errors = done.stderr.decode("utf-8", "replace")
        if "fatal:" in errors or "error:" in errors:
            raise PostmapError(f"postmap cannot read {table}: {errors.strip().splitlines()[-1]}")
        lines = done.stdout.decode("utf-8", "surrogateescape").splitlines()
        return {key: value for key, _, value in (line.partition("\t") for line in lines)}

    def _name(self, spec: MapSpec, aliases: bool) -> str:
        """The table as postmap can open it here."""
        known = self._asked_as.get((spec, aliases))
        if known is None:
            known = self._asked_as[spec, aliases] = self._find(spec, aliases)
        return known

    def _find(self, spec: MapSpec, aliases: bool) -> str:
        if spec.type in (*PATTERNS, "cidr"):
            return f"{spec.type}:{self._shelf.locate(spec.name)}"
        if spec.type not in TEXTS:
            return str(spec)
        path = self._shelf.locate(spec.name)
        for ending in _ENDINGS.get(spec.type, ()):
            compiled = path.with_name(path.name + ending)
            if compiled.exists():
                if path.exists() and compiled.stat().st_mtime < path.stat().st_mtime:
                    self.stale.append(f"{compiled} is older than its text: run postmap {spec}")
                return f"{spec.type}:{path}"
        if not aliases:
            return f"texthash:{path}"
        copy = self._scratch / f"{len(self._asked_as)}-{path.name}"
        shutil.copyfile(path, copy)
        subprocess.run(
            [program("postalias"), "-c", str(self._folder), f"hash:{copy}"],
            check=False,
            capture_output=True,
            timeout=TIMEOUT,
        )
        return f"hash:{copy}"
