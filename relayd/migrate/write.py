"""Writes the draft, loads it as relayd would, and mends it until it loads."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.config import ConfigErrors, load
from relayd.config.settings import Settings
from relayd.migrate.draft import CONF, PRIVATE, RULES
from relayd.migrate.work import Work
from relayd.rules.language.source import Problem

MAX_ROUNDS = 40
_OPENING = ("accept", "may-send-as", "expect", "header", "subaddress")  # without it less is open


class WriteError(Exception):
    """The files cannot be written, or do not load; `str()` is for the one who asked."""


@dataclass
class WrittenFiles:
    """The files' lines, and what they load as."""

    files: dict[Path, list[str]]
    settings: Settings


def settle(work: Work) -> WrittenFiles:
    """Load the draft from a scratch folder; what relayd refuses is left out and reported."""
    with tempfile.TemporaryDirectory(prefix="relayd-import-") as name:
        scratch = Path(name)
        dropped: dict[Path, set[int]] = {}
        for _ in range(MAX_ROUNDS):
            files = _without(work.draft.files(), dropped)
            put(scratch, files)
            try:
                return WrittenFiles(files, load(scratch / CONF))
            except ConfigErrors as errors:
                before, shut = len(work.draft.later), work.draft.shut
                if not _drop(work, scratch, files, dropped, errors):
                    raise WriteError(f"the result does not load:\n{errors}") from None
                if len(work.draft.later) != before or work.draft.shut != shut:
                    dropped.pop(RULES, None)  # its lines have moved
    raise WriteError("the result does not load, whatever is left out")


def put(folder: Path, files: Mapping[Path, list[str]]) -> None:
    """Write all files below the folder."""
    for relative, lines in files.items():
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        if relative in PRIVATE:
            path.unlink(missing_ok=True)
            path.touch(0o600)
        path.write_text("\n".join(lines) + "\n", "utf-8", "backslashreplace")


def publish(output: Path, written: WrittenFiles, *, force: bool = False) -> list[str]:
    """Write the result for good; raises WriteError where it would overwrite something."""
    try:
        there = [
            str(path)
            for path, lines in written.files.items()
            if (output / path).exists() and _differs(output / path, lines)
        ]
        if there and not force:
            raise WriteError(
                f"{output} has another {', '.join(there[:3])} already; name another folder with"
                " --output, or say --force"
            )
        put(output, written.files)
        for secret in PRIVATE if os.geteuid() == 0 else ():
            with contextlib.suppress(LookupError):  # there is no such user yet
                if secret in written.files:
                    shutil.chown(output / secret, "relayd")
    except OSError as error:
        raise WriteError(f"{error.filename}: {error.strerror}") from None
    return [str(output / path) for path in written.files]


def _differs(path: Path, lines: Sequence[str]) -> bool:
    return path.read_text("utf-8", "replace") != "\n".join(lines) + "\n"


def _without(
    files: dict[Path, list[str]], dropped: Mapping[Path, set[int]]
) -> dict[Path, list[str]]:
    """The files with the dropped statements as comments."""
    for path, numbers in dropped.items():
        lines = files.get(path, [])
        for number in numbers:
            at = number - 1
            while at < len(lines) and (at == number - 1 or lines[at][:1] in (" ", "\t")):
                lines[at] = f"# not imported: {lines[at].strip()}"
                at += 1
    return files


def _drop(
    work: Work,
    scratch: Path,
    files: Mapping[Path, list[str]],
    dropped: dict[Path, set[int]],
    errors: ConfigErrors,
) -> bool:
    """Mark what the problems point at; whether there was something."""
    found = False
    tables = scratch / "tables"
    # an entry of a table first: what is wrong with rules may come of it
    entries = [each for each in errors.problems if Path(each.place.source.path).parent == tables]
    for problem in entries or errors.problems:
        # what an earlier rule leaves nothing to may go; never that one, which may be what closes
        for place in problem.idle or (problem.place, *problem.also):
            try:
                path = Path(place.source.path).relative_to(scratch)
            except ValueError:
                continue
            number = place.line
            lines = files.get(path, [])
            if not 0 < number <= len(lines) or number in dropped.get(path, ()):
                continue
            dropped.setdefault(path, set()).add(number)
            found = True
            _tell(work, path, lines[number - 1], problem)
    return found


def _tell(work: Work, path: Path, line: str, problem: Problem) -> None:
    """Report a statement that relayd would not take."""
    if problem.idle:
        work.report.note(f"left out, for an earlier rule takes all of it: {line.strip()}")
        return
    key = line.split()[0].rstrip(":").lower() if line.split() else ""
    table = next((each for each in work.draft.tables.values() if each.path == path), None)
    why = f"{problem.what}" + (f"; {problem.expected}" if problem.expected else "")
    if table is None:
        text = f"{line.strip()}: {why}"
        work.report.note(f"NOT translated: {text}", f"rule:{line.strip()}")
        if path == RULES and key not in _OPENING:  # it decided something, nobody knows now what
            work.draft.shut = work.draft.shut or text
        return
    work.refuse_later(key)
    marks = [f"entry:{spec} {key}" for spec in (table.spec, table.origin.split(",")[0])]
    work.report.note(
        f"NOT translated: {table.origin}: {line.strip()}: {why}; mail for it is asked to"
        " come later",
        *marks,
    )
