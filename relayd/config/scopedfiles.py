"""Scoped files: each is read, checked and compiled by itself, and again only when it has changed.

What is wrong with one harms nobody else: its last good version stays in force, or it is left out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from relayd.config.files import read_text, short_name
from relayd.config.listeners import listener_name_problems
from relayd.config.tables import TableLoader
from relayd.config.texts import Texts
from relayd.mail.address import AddressError
from relayd.mail.value import dataclass
from relayd.rules.check.check import content_problems, name_problems, table_problems, unanswered
from relayd.rules.check.expect import failures
from relayd.rules.check.loops import loops
from relayd.rules.check.scope import Shared, domain_of_file, read_scoped
from relayd.rules.check.shadow import shadowed
from relayd.rules.check.signing import forwarding_problems
from relayd.rules.fact import Fact
from relayd.rules.language.lexer import lex
from relayd.rules.language.model import TableDef
from relayd.rules.language.source import Complaint, Place, Problem, Source
from relayd.rules.ruleset import Ruleset
from relayd.rules.scoped import MOST_RULES, CustomerRules, alone, part_of, place_of, with_parts

MOST_OCTETS = 1 << 20  # of a file
YOUNG = 0.5  # seconds in which a file may change again and look the same
_EXPECTED = "expected the name of a domain: customers/example.com.rules"


@dataclass(frozen=True, slots=True)
class ScopedInclude:
    """An `include` of such files."""

    number: int
    before: int  # rules above it in a stage
    folder: str  # of the include: no link leads out of it
    shown: str  # how the folder is spelled


@dataclass(frozen=True, slots=True)
class Main:
    """What the files stand in."""

    rules: Ruleset
    shared: Shared
    listeners: tuple[str, ...]
    not_asked: frozenset[Fact]  # what is not looked up
    folder: Path
    texts: tuple[Source, ...]  # of the main files

    def same(self, other: Main | None) -> bool:
        """Whether what was compiled beside the other is as if it were beside this one."""
        return (
            other is not None
            and self.rules.hash == other.rules.hash
            and (self.texts, self.listeners) == (other.texts, other.listeners)
            and (self.not_asked, self.folder) == (other.not_asked, other.folder)
            and not any(isinstance(item, TableDef) and item.includes for item in self.rules.items)
        )


@dataclass(frozen=True, slots=True)
class ScopedFile:
    """A file as it was found, and what is in force of it."""

    include: ScopedInclude
    path: Path
    name: str  # that its rules go by
    seen: object  # how it looked on disk; None: it is to be read again
    octets: bytes | None  # in force; None: nothing of it is
    part: CustomerRules | None
    problems: tuple[Problem, ...]  # why it is not what stands on disk

    def warnings(self) -> list[Problem]:
        """As `check` and `status` name it."""
        force = "it is left out" if self.part is None else "its last good version stays in force"
        return [
            Problem(each.place, f"{each.what} ({force})", each.expected) for each in self.problems
        ]


@dataclass(frozen=True, slots=True)
class ScopedFiles:
    """All of a configuration."""

    main: Main
    files: dict[str, ScopedFile]

    @property
    def rules(self) -> Ruleset:
        """The set of the main files and these."""
        parts = [each.part for each in self.files.values() if each.part is not None]
        return with_parts(self.main.rules, parts)

    @property
    def sources(self) -> dict[str, Path]:
        """The files by the names that their rules go by."""
        return {each.name: each.path for each in self.files.values()}

    def drafted(self, draft: str | None) -> list[Problem]:
        """What is wrong with the one that somebody is writing."""
        found = self.files.get(draft) if draft is not None else None
        return [] if found is None else list(found.problems)

    def warnings(self) -> list[Problem]:
        """What is wrong with some."""
        return [one for each in self.files.values() if each.problems for one in each.warnings()]


_last: dict[Path, ScopedFiles] = {}  # by the folder of the configuration: as it was read last


def read_files(
    found: Sequence[tuple[ScopedInclude, Sequence[str]]],
    main: Main,
    texts: Texts,
    kept: Callable[[], Texts | None],
) -> ScopedFiles:
    """What the files make; raises nothing on their account. `kept`: as they were last in force."""
    before = _last.get(main.folder)
    if before is not None and main.same(before.main):
        main = before.main
    reader = _Reader(main, texts, kept, before)
    files: dict[str, ScopedFile] = {}
    for include, paths in found:
        for path in paths:
            files[path] = reader.read(include, path)
    read = ScopedFiles(main, files)
    if texts.draft is None:  # a draft was never in force
        _last.pop(main.folder, None)
        if found:
            _last[main.folder] = read
        if len(_last) > 1:  # whoever reads others in turn has time
            del _last[next(iter(_last))]
    return read


class _Reader:
    def __init__(
        self,
        main: Main,
        texts: Texts,
        kept: Callable[[], Texts | None],
        before: ScopedFiles | None,
    ) -> None:
        self._main, self._texts, self._kept = main, texts, kept
        self._same = before is not None and before.main is main
        self._before = before.files if before is not None else {}
        self._domains: dict[str, str] = {}
        self._kept_texts: tuple[Texts | None] | None = None
        self._tables: TableLoader | None = None

    def read(self, include: ScopedInclude, path: str) -> ScopedFile:
        """One file, as it is now."""
        known = self._before.get(path)
        seen = self._texts.look(path)
        good = known is not None and self._same and known.include == include
        if known is not None and good and seen is not None and known.seen == seen:
            part = known.part
            if part is not None and self._domains.setdefault(part.domain, path) == path:
                return self._taken(path, known)
        return self._taken(path, self._anew(include, path, known, seen, good=good))

    def _taken(self, path: str, file: ScopedFile) -> ScopedFile:
        if file.octets is not None:
            self._texts.keep(path, file.octets)
        return file

    def _anew(
        self,
        include: ScopedInclude,
        name: str,
        known: ScopedFile | None,
        seen: object,
        *,
        good: bool,
    ) -> ScopedFile:
        path = Path(name) if known is None else known.path
        shown = _plain(os.path.join(include.shown, path.name))  # noqa: PTH118 - as it was spelled
        source = Source(shown, _plain(short_name(path, self._main.folder)), ())
        octets: bytes | None = None
        try:
            domain = domain_of_file(path)
            first = self._domains.setdefault(domain, name)
            if first != name:
                raise AddressError(f"{_plain(first)} is about {domain} already")
            octets = self._octets(include, name, seen)
            if good and known is not None and known.part is not None and octets == known.octets:
                return replace(known, seen=_settled(seen), problems=())
            part, problems = self._compiled(include, domain, octets, source)
        except AddressError as error:
            part, problems = None, [Problem(Place(source, 1), _plain(str(error)), _EXPECTED)]
            return ScopedFile(include, path, source.name, None, None, part, tuple(problems))
        except OSError as error:
            what = f"cannot read {shown}: {error.strerror or error}"
            part, problems = None, [Problem(Place(source, 1), what, "expected a file of rules")]
        if part is not None:
            return ScopedFile(include, path, source.name, _settled(seen), octets, part, ())
        if good and known is not None and known.part is not None:
            return replace(known, seen=None, problems=tuple(problems))
        instead = known.octets if known is not None else self._last_good(path)
        if instead is not None and instead != octets:
            part, _ = self._compiled(include, domain, instead, source)
        octets = instead if part else None
        return ScopedFile(include, path, source.name, None, octets, part, tuple(problems))

    def _octets(self, include: ScopedInclude, path: str, seen: object) -> bytes:
        """What stands in it; raises OSError. `seen`: None of a link."""
        if seen is None and os.path.islink(path):  # noqa: PTH114 - of thousands
            real = os.path.realpath(path)
            if not real.startswith(os.path.realpath(include.folder) + os.sep):
                raise OSError(0, "it is a link that leads out of the folder")
        octets = self._texts.piece(Path(path), MOST_OCTETS + 1)
        if len(octets) > MOST_OCTETS:
            raise OSError(0, f"it has more than {MOST_OCTETS:,} octets")
        return octets

    def _last_good(self, path: Path) -> bytes | None:
        if self._kept_texts is None:
            self._kept_texts = (self._kept(),)
        texts = self._kept_texts[0]
        try:
            return None if texts is None else texts.octets(path)
        except OSError:
            return None

    def _compiled(
        self, include: ScopedInclude, domain: str, octets: bytes, source: Source
    ) -> tuple[CustomerRules | None, list[Problem]]:
        """The rules; None: there are problems."""
        main = self._main
        try:
            text = read_text(Path(source.path), source.path, texts=_Given(octets))
        except Complaint as complaint:
            return None, [complaint.problem]
        lexed = lex(Source.of(text, source.path, source.name))
        items, problems = read_scoped(lexed.statements, domain, main.shared)
        problems = [*lexed.problems, *problems]
        if len(items) >= MOST_RULES:
            what = f"there are more than {MOST_RULES:,} rules"
            problems.append(Problem(Place(source, 1), what, "expected fewer"))
        if problems:
            return None, _sorted(problems)
        names = main.shared.tables | main.shared.next_hops
        problems += name_problems(items, names)
        problems += unanswered(items, main.not_asked)
        problems += content_problems(items)
        problems += forwarding_problems(items)
        problems += listener_name_problems(items, main.listeners, ())
        tables = TableLoader(main.folder, problems, self._texts).load_all(items)
        if not problems:
            known = {**main.rules.tables, **tables} if tables else main.rules.tables
            problems += table_problems(items, known)
        if problems:
            return None, _sorted(problems)
        for table in tables.values():
            table.source = None
        part = part_of(
            domain,
            items,
            tables,
            main.rules,
            place_of(include.number, include.before, domain),
        )
        own = alone(part, main.rules)
        problems += shadowed(own)
        if part.forward.entries or part.expects:
            whole = with_parts(main.rules, [part])
            problems += loops(own, whole)
            if part.expects and not problems:
                problems += failures(replace(whole, expects=part.expects))
        return (None, _sorted(problems)) if problems else (part, [])


class _Given(Texts):
    """One that was read already."""

    def __init__(self, octets: bytes) -> None:
        self._octets = octets

    def octets(self, path: Path) -> bytes:
        """See Texts."""
        return self._octets


def _settled(seen: object) -> object:
    """How it looked; None where it may have changed since and look the same."""
    if isinstance(seen, tuple):
        return None if time.time() - seen[0] / 1e9 < YOUNG else seen
    return seen


def _plain(text: str) -> str:
    """A name that somebody has given, as it may be shown."""
    return "".join(each if each.isprintable() else f"\\x{ord(each) & 0xFF:02x}" for each in text)


def _sorted(problems: list[Problem]) -> list[Problem]:
    return sorted(dict.fromkeys(problems), key=lambda each: (each.place.line, each.place.column))


def examine(folder: Path, path: Path, octets: bytes) -> tuple[Ruleset | None, list[Problem]]:
    """What a file would make beside the main files of now; or what is wrong with it.

    `folder`: of a configuration that was read before. Nothing is put in force.
    """
    last = _last.get(folder)
    if last is None:
        nothing = Problem(Place(Source(str(path), path.name, ()), 1), "no file is included", "")
        return None, [nothing]
    include = ScopedInclude(0, 0, str(path.parent), str(path.parent))
    reader = _Reader(last.main, Texts(), lambda: None, last)
    source = Source(str(path), short_name(path, folder), ())
    try:
        domain = domain_of_file(path)
    except AddressError as error:
        return None, [Problem(Place(source, 1), str(error), _EXPECTED)]
    part, problems = reader._compiled(include, domain, octets, source)
    return (None if part is None else with_parts(last.main.rules, [part])), problems
