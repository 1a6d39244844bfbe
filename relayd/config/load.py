"""Files to Settings: reads relayd.conf, what it includes and its tables; collects every error."""

from __future__ import annotations

import glob
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from relayd.config.files import COMMENT, read_text, short_name, similar_file
from relayd.config.hooks import Hook, with_keys
from relayd.config.hostname import hostname_cautions
from relayd.config.keys import keys_path, read_keys
from relayd.config.lastgood import LastGoodError, last_good
from relayd.config.listeners import listener_name_problems, open_to_strangers, reached_by_others
from relayd.config.logins import (
    AUTH,
    MECHANISMS,
    LoginOptions,
    console_problems,
    listener_problems,
    read_secrets,
)
from relayd.config.logins import hop_problems as unknown_logins
from relayd.config.oauth import with_secrets
from relayd.config.peers import PROXY, XCLIENT, Peers, peer_problems
from relayd.config.reports import checked
from relayd.config.scopedfiles import Main, ScopedFiles, ScopedInclude, read_files
from relayd.config.settings import (
    SPECS,
    Listener,
    Settings,
    Spec,
    cores,
    default_of,
    still_listening,
    system_hostname,
)
from relayd.config.shortnames import unfindable
from relayd.config.spoolplace import Away, SpoolPlace
from relayd.config.tables import TableLoader
from relayd.config.texts import Texts
from relayd.config.tls import certificate_problems, open_keys, resolved
from relayd.config.values import ConsolePlace, name_order
from relayd.login.initiator import Secret
from relayd.login.oauth import Provider
from relayd.mail.nexthop import NextHop
from relayd.mail.security import IMPLICIT
from relayd.report.tlsrpt import TlsReports
from relayd.rules.check.caution import cautions
from relayd.rules.check.check import (
    content_problems,
    hop_problems,
    name_problems,
    table_problems,
    unanswered,
    used_tables,
    word_at,
)
from relayd.rules.check.expect import outcomes
from relayd.rules.check.filtering import filter_problems
from relayd.rules.check.loops import loops
from relayd.rules.check.scope import Shared
from relayd.rules.check.shadow import shadowed
from relayd.rules.check.signing import forwarding_problems
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.fact import Fact
from relayd.rules.language.grammar import VERBS, Reader, read_statement
from relayd.rules.language.lexer import Statement, lex
from relayd.rules.language.model import (
    AdmissionRule,
    DkimDef,
    Forward,
    HeaderEdit,
    HeaderRewrite,
    HopDef,
    Include,
    Item,
    Rule,
    TableDef,
)
from relayd.rules.language.source import Complaint, Place, Problem, Source
from relayd.rules.language.unseen import unseen
from relayd.rules.language.words import Words
from relayd.rules.ruleset import Ruleset, build
from relayd.rules.srsrule import SrsDomain, srs_problems
from relayd.rules.tables.snapshot import FOLDER as SNAPSHOTS
from relayd.rules.tables.table import Table
from relayd.tls.files import CertificateFiles

if TYPE_CHECKING:
    from relayd.authentication.dkimsigning import SigningKey

MAX_FILES = 1000
MAX_SHOWN = 100
_ONCE = "expected each file once"


class ConfigErrors(Exception):  # noqa: N818 - many errors in one
    """Everything that is wrong with a configuration; `str()` shows each with line and caret."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(f"{len(problems)} problems")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        shown = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        more = len(self.problems) - len(shown)
        return "\n".join([*shown, f"... and {more} more"] if more else shown)


@dataclass(frozen=True, slots=True)
class Setting:
    """One settings statement, read."""

    name: str
    value: object
    place: Place


def load(
    path: Path | str, fixed: Mapping[str, Any] | None = None, texts: Texts | None = None
) -> Settings:
    """The settings that the file and all it names make; raises ConfigErrors.

    `fixed`: what holds until a restart, whatever the file says (see Settings.fixed). `texts`: where
    the text files are, if not on disk as they are; databases, keys and secrets are.
    """
    path = Path(path)
    loader = _Loader(path, texts)
    loader.read(path, str(path), None)
    loader.refuse_silence(str(path))
    return loader.settings(path, fixed or {})


def _kept(spool: Path, path: Path) -> Texts | None:
    """The texts that were in force the last time; None: nothing is known of them."""
    try:
        found = last_good(spool, path.absolute(), os.geteuid())
    except (LastGoodError, OSError):
        return None
    return None if found is None else found.texts


def load_text(
    text: str,
    folder: Path,
    name: str = "(embedded)",
    fixed: Mapping[str, Any] | None = None,
) -> Settings:
    """The same from a text; relative paths in it start at `folder`; raises ConfigErrors."""
    loader = _Loader(folder / name)
    loader.take(Source.of(text, name), folder)
    return loader.settings(None, fixed or {})


def statements(path: Path) -> list[Item]:
    """The rules and definitions in a file and all it includes, as far as they can be read.

    For who makes a file that they name: as long as it is missing, nothing loads.
    """
    return readable(path)[0]


def readable(path: Path) -> tuple[list[Item], list[Problem]]:
    """The same, and why the others cannot be read."""
    loader = _Loader(path)
    loader.read(path, str(path), None)
    return loader.items, loader.problems


class _Loader:
    def __init__(
        self,
        path: Path,
        texts: Texts | None = None,
    ) -> None:
        self._folder = path.parent
        self._scoped: list[tuple[Include, str, str]] = []  # with its folder, and how it is spelled
        self._read: list[Source] = []
        self._sources: dict[str, Path] = {}
        self._given, self._texts = texts, texts or Texts()
        self._items: list[Item] = []
        self._settings: dict[str, list[Setting]] = {}
        self._problems: list[Problem] = []
        self._broken: list[Statement] = []  # they may define what others name
        self._open: list[Path] = []  # files being read, for include loops
        self._files: dict[Path, Place | None] = {}
        self._patterns: list[str] = []
        self._unseen: list[Problem] = []
        self._verbs: Mapping[str, Reader[Item | Setting]] = {
            **VERBS,
            **{name: _reader(name, spec) for name, spec in SPECS.items()},
        }

    def read(self, path: Path, shown: str, place: Place | None) -> None:
        """Read one file as if its text stood at `place`."""
        real = Path(os.path.realpath(path))
        if real in self._open:
            chain = " -> ".join(each.name for each in [*self._open, real])
            self._complain(place, shown, f"{shown} includes itself: {chain}", _ONCE)
            return
        if real in self._files:
            first = self._files[real]
            self._complain(place, shown, f"{shown} is included already" + _by(first), _ONCE)
            return
        if len(self._files) >= MAX_FILES:
            self._complain(place, shown, f"more than {MAX_FILES} files", "expected fewer")
            return
        self._files[real] = place
        try:
            text = read_text(path, shown, texts=self._texts)
        except OSError as error:
            self._complain(
                place, shown, f"cannot read {shown}: {error.strerror or error}", similar_file(path)
            )
            return
        except Complaint as complaint:
            self._problems.append(complaint.problem)
            return
        self._open.append(real)
        name = short_name(path, self._folder)
        self._sources[name] = path.absolute()
        self.take(Source.of(text, shown, name), path.parent)
        self._open.pop()

    @property
    def items(self) -> list[Item]:
        """What was read, in order, but for the settings."""
        return self._items

    @property
    def problems(self) -> list[Problem]:
        """What could not be read, and why."""
        return self._problems

    def refuse_silence(self, shown: str) -> None:
        """A file without a statement is one that is being written, or was emptied by accident."""
        if not (self._items or self._settings or self._problems or self._broken):
            self._complain(None, shown, "there is no statement in it", "expected at least one")

    def take(self, source: Source, folder: Path) -> None:
        """Read a text's statements, and what they include, in order."""
        self._read.append(source)
        self._unseen += unseen(source, COMMENT)
        lexed = lex(source)
        self._problems += lexed.problems
        self._broken += lexed.broken
        for statement in lexed.statements:
            try:
                value = read_statement(statement, self._verbs)
            except Complaint as complaint:
                self._problems.append(complaint.problem)
                self._broken.append(statement)
                continue
            if isinstance(value, Setting):
                self._settings.setdefault(value.name, []).append(value)
            elif isinstance(value, Include):
                if value.scoped:
                    self._include_scoped(value, source, folder)
                else:
                    self._include(value, source, folder)
            else:
                self._items.append(value)

    def _include(self, include: Include, source: Source, folder: Path) -> None:
        pattern = os.path.join(folder, include.pattern)  # noqa: PTH118 - glob's own spelling
        magic = glob.has_magic(include.pattern)
        if magic:
            self._patterns.append(pattern)
        paths = self._texts.find(pattern) if magic else [pattern]
        for each in paths:
            shown = each
            if not Path(include.pattern).is_absolute():
                shown = str(Path(source.path).parent / os.path.relpath(each, folder))
            self.read(Path(each), shown, include.place)

    def _include_scoped(self, include: Include, source: Source, folder: Path) -> None:
        """They are read when it is known what of the main set is shared."""
        pattern = os.path.abspath(os.path.join(folder, include.pattern))  # noqa: PTH100, PTH118
        self._patterns.append(pattern)
        shown = str(Path(include.pattern).parent)
        if not Path(include.pattern).is_absolute():
            shown = str(Path(source.path).parent / shown)
        self._scoped.append((include, pattern, shown))
        self._items.append(include)

    def _scoped_files(
        self,
        main: Ruleset,
        names: Sequence[str],
        spool: Path,
        path: Path | None,
        not_asked: frozenset[Fact],
    ) -> ScopedFiles:
        """Each for itself; what is wrong is told of that one."""
        found: list[tuple[ScopedInclude, list[str]]] = []
        for number, (include, pattern, shown) in enumerate(self._scoped):
            above = self._items[: next(n for n, each in enumerate(self._items) if each is include)]
            before = max(
                sum(isinstance(each, kind) for each in above)
                for kind in (AdmissionRule, HeaderRewrite | HeaderEdit, Forward)
            )
            folder = os.path.dirname(pattern)  # noqa: PTH120 - as glob has it
            place = ScopedInclude(number, before, folder, shown)
            found.append((place, self._texts.find(pattern)))
        given = Main(
            main,
            Shared.of(self._items),
            tuple(names),
            not_asked,
            self._folder,
            tuple(self._read),
        )
        return read_files(
            found, given, self._texts, lambda: None if path is None else _kept(spool, path)
        )

    @property
    def spool(self) -> Path:
        """Where mail lies, as far as it is said."""
        given = self._settings.get("spool")
        place = given[0].value if given else Settings.place
        assert isinstance(place, SpoolPlace)
        return self._folder / place.folder

    def _complain(self, place: Place | None, path: str, what: str, expected: str) -> None:
        where = place or Place(Source(path, path, ()), 1)
        self._problems.append(Problem(where, what, expected))

    def settings(self, path: Path | None, fixed: Mapping[str, Any]) -> Settings:
        """Everything put together and checked; raises ConfigErrors."""
        values = self._values()
        problems = self._problems
        given = {each.tokens[1].text for each in self._broken if len(each.tokens) > 1}
        problems += name_problems(self._items, given)
        problems += filter_problems(self._items)
        not_asked = frozenset(() if values.get("client_names", True) else {REVERSE_NAME})
        problems += unanswered(self._items, not_asked)
        problems += content_problems(self._items)
        problems += forwarding_problems(self._items)
        place = values.get("place", Settings.place)
        assert isinstance(place, SpoolPlace)
        snapshots = self._folder / place.folder / SNAPSHOTS
        loader = TableLoader(self._folder, problems, self._texts, snapshots)
        tables = loader.load_all(self._items)
        problems += self._listeners(tables, given)
        if not any(each.verb.is_word("srs") for each in self._broken):
            problems += srs_problems(self._items, tables)
        keys = self._keys()
        values["signing"] = self._signing()
        hostname = str(values.setdefault("hostname", system_hostname()))
        # what is sound is looked at even where something else is not: every error at once
        sound = [item for item in self._items if _sound(item, tables)]
        wrong = table_problems(sound, tables)
        problems += wrong
        if wrong:
            raise self._errors(problems)
        origin = str(values.get("origin", ""))
        ruleset = build(sound, tables, hostname, keys, origin)
        places = {item.hop.name: item.place for item in self._items if isinstance(item, HopDef)}
        listeners = self._values_of("listen")
        own = [(each.address, each.port) for each in listeners if isinstance(each, Listener)]
        problems += self._certificates(values)
        problems += self._tls_reports(values)
        problems += self._hooks(values)
        problems += self._away(place)
        problems += hop_problems(ruleset.next_hops, places, own, hostname)
        problems += self._logins(values, ruleset.next_hops, places, tables)
        problems += [*shadowed(ruleset), *loops(ruleset)]
        failed, failing_now = outcomes(ruleset) if not problems else ([], [])
        problems += failed
        if problems:
            raise self._errors(problems)
        reached = [each for each in listeners or Settings.listeners if isinstance(each, Listener)]
        names = [str(each) for each in listeners] or list(map(str, Settings.listeners))
        scoped = self._scoped_files(ruleset, names, place.folder, path, not_asked)
        if wrong := scoped.drafted(self._texts.draft):
            raise ConfigErrors(wrong)
        warnings = (
            *self._hostname(path, hostname),
            *self._unseen,
            *scoped.warnings(),
            *failing_now,
            *cautions(ruleset, open_to_strangers(reached)),
            *open_keys(self._private_keys()),
            *unfindable(ruleset.next_hops, places, name_order(self._values_of("resolver"))),
            *loader.warnings,
        )
        for table in tables.values():
            table.source = None
        values.setdefault("node", str(fixed.get("hostname", hostname)))  # with that till a restart
        waiting = _hold(values, fixed)
        if "hostname" in waiting:
            ruleset = build(sound, tables, str(values["hostname"]), keys, origin)
            scoped = self._scoped_files(ruleset, names, place.folder, path, not_asked)
        ruleset = scoped.rules
        return Settings(
            path=path,
            ruleset=ruleset,
            waiting=waiting,
            next_hops=ruleset.next_hops,
            files=(*self._files, *loader.files, *(each.path for each in scoped.files.values())),
            patterns=tuple(self._patterns),
            warnings=warnings,
            sources={**self._sources, **scoped.sources},
            texts=self._given,
            **values,  # type: ignore[arg-type]  # each read by its own Spec
        )

    def _hooks(self, values: dict[str, object]) -> list[Problem]:
        """The keys of `hook` statements, and names that are given twice."""
        problems: list[Problem] = []
        found: dict[str, Hook] = {}
        for each in self._settings.get("hook", ()):
            if not isinstance(each.value, Hook):
                continue
            path = keys_path(str(each.value.secret), each.place, self._folder)
            self._files.setdefault(path, each.place)
            try:
                given = with_keys(each.value, path, each.place)
            except Complaint as complaint:
                problems.append(complaint.problem)
                continue
            if given.name in found and given != found[given.name]:  # else it is told already
                what = f"there is a hook {given.name} already"
                problems.append(Problem(each.place, what, "expected another name"))
            found[given.name] = given
        values["hooks"] = tuple(found.values())
        return problems

    def _values_of(self, name: str) -> list[object]:
        """What the statements of a setting say, in order."""
        return [each.value for each in self._settings.get(name, ())]

    def _errors(self, problems: list[Problem]) -> ConfigErrors:
        """All of them, and in the same lines what cannot be seen, which may be their cause."""
        lines = set(map(_line_of, problems))
        hidden = [each for each in self._unseen if _line_of(each) in lines]
        return ConfigErrors(_sorted([*hidden, *problems]))

    def _hostname(self, path: Path | None, hostname: str) -> list[Problem]:
        given = self._settings.get("hostname")
        if given:
            return hostname_cautions(hostname, word_at(given[0].place, hostname), given=True)
        listeners = [each.value for each in self._settings.get("listen", ())]
        if path is None or not reached_by_others(listeners or Settings.listeners):
            return []  # a first look, or nobody is greeted by it
        nowhere = Place(Source(str(path), path.name, ()), 1)
        return hostname_cautions(hostname, nowhere, given=False)

    def _listeners(self, tables: Mapping[str, Table], broken: Set[str]) -> list[Problem]:
        """Names that listeners, and conditions about them, use and nobody gave."""
        given = [
            (each.value, each.place)
            for each in self._settings.get("listen", ())
            if isinstance(each.value, Listener)
        ]
        known = {item.name for item in self._items if isinstance(item, TableDef)} | broken
        peers = [(each.peers(name), place) for each, place in given for name in (PROXY, XCLIENT)]
        peers += [
            (each.value[1], each.place)
            for each in self._settings.get("reports", ())
            if isinstance(each.value, tuple) and isinstance(each.value[1], Peers)
        ]
        names = [str(each) for each, _ in given] or list(map(str, Settings.listeners))
        return [
            *peer_problems(peers, tables, known),
            *listener_name_problems(self._items, names, broken),
        ]

    def _certificates(self, values: dict[str, object]) -> list[Problem]:
        """Their paths made absolute, and what is wrong with them or with who is to serve them."""
        pairs = [
            (resolved(each.value, self._folder), each.place)
            for each in self._settings.get("certificate", ())
            if isinstance(each.value, CertificateFiles)
        ]
        if pairs:
            values["certificates"] = tuple(files for files, _ in pairs)
        listeners = [
            (str(each.value), each.value.option("tls"), each.place)
            for each in self._settings.get("listen", ())
            if isinstance(each.value, Listener)
        ]
        listeners += [
            (str(each.value), IMPLICIT, each.place)
            for each in self._settings.get("console", ())
            if isinstance(each.value, ConsolePlace) and each.value.place.path is None
        ]
        return certificate_problems(pairs, listeners)

    def _private_keys(self) -> list[tuple[Path, Place]]:
        """The keys that settings name, and where they do."""
        given = [
            (value.key, each.place)
            for name in ("certificate", "tls-reports")
            for each in self._settings.get(name, ())
            if isinstance(value := each.value, CertificateFiles | TlsReports)
        ]
        return [((self._folder / key).absolute(), place) for key, place in given if key]

    def _away(self, spool: SpoolPlace) -> list[Problem]:
        """`away keep` is for a database that may be away."""
        return [
            Problem(
                each.place,
                f"away {each.value}, but there is no database that could be away",
                'expected a spool such as postgresql "service=relayd"',
            )
            for each in self._settings.get("away", ())
            if each.value != Away() and not spool.database
        ]

    def _tls_reports(self, values: dict[str, object]) -> list[Problem]:
        """The key of the setting `tls-reports`."""
        for each in self._settings.get("tls-reports", ()):
            if isinstance(each.value, TlsReports):
                try:
                    values["tls_reports"] = checked(each.value, self._folder, each.place)
                except Complaint as complaint:
                    return [complaint.problem]
        return []

    def _logins(
        self,
        values: dict[str, object],
        hops: Mapping[str, NextHop],
        places: Mapping[str, Place],
        tables: Mapping[str, Table],
    ) -> list[Problem]:
        """Logins at our listeners and at next hops: what is missing for them."""
        given = [
            LoginOptions(
                str(each.value),
                each.value.option(AUTH),
                each.value.option("tls"),
                each.value.option(MECHANISMS),
                each.place,
            )
            for each in self._settings.get("listen", ())
            if isinstance(each.value, Listener)
        ]
        in_clear = bool(values.get("auth_without_tls"))
        pairs = [
            each.value
            for each in self._settings.get("certificate", ())
            if isinstance(each.value, CertificateFiles)
        ]
        consoles = [
            (each.value.table, each.place)
            for each in self._settings.get("console", ())
            if isinstance(each.value, ConsolePlace) and each.value.table
        ]
        problems = listener_problems(given, tables, pairs, in_clear=in_clear)
        problems += console_problems(consoles, tables)
        problems += self._edits_nowhere()
        secrets: dict[str, Secret] | None = None
        setting = next(iter(self._settings.get("secrets", ())), None)
        if setting is not None:
            path = self._folder / str(setting.value)
            values["secrets_file"] = path
            self._files.setdefault(path, setting.place)
            try:
                values["secrets"] = secrets = read_secrets(path, str(setting.value), setting.place)
            except Complaint as complaint:
                return [*problems, complaint.problem]
        providers, wrong = with_secrets(
            [
                (each.value, each.place)
                for each in self._settings.get("oauth", ())
                if isinstance(each.value, Provider)
            ],
            secrets,
        )
        values["oauth"] = providers
        broken = [each.tokens[1].text for each in self._broken if _is_oauth(each)]
        known = [*providers, *broken]
        return [*problems, *wrong, *unknown_logins(hops, places, secrets, known)]

    def _edits_nowhere(self) -> list[Problem]:
        """Of `console may edit` where there is no console."""
        given = self._settings.get("console", ())
        if any(isinstance(each.value, ConsolePlace) for each in given):
            return []
        hint = 'expected "console listen unix:/run/relayd/console.sock" as well'
        return [Problem(each.place, "there is no console to edit at", hint) for each in given]

    def _keys(self) -> tuple[bytes, ...]:
        """The keys of sender rewriting; none: there is no `srs domain`."""
        statement = next((item for item in self._items if isinstance(item, SrsDomain)), None)
        if statement is None:
            return ()
        path = keys_path(statement.keys_file, statement.place, self._folder)
        self._files.setdefault(path, statement.place)
        try:
            return read_keys(statement, path)
        except Complaint as complaint:
            self._problems.append(complaint.problem)
            return ()

    def _signing(self) -> dict[str, tuple[SigningKey, ...]]:
        """The keys of each `dkim` statement that sign."""
        statements = [item for item in self._items if isinstance(item, DkimDef)]
        if not statements:
            return {}
        # only who signs needs cryptography, which takes its time to load
        from relayd.config.dkim import read_key

        found: dict[str, tuple[SigningKey, ...]] = {}
        for statement in statements:
            for named in statement.keys:  # those that are retired are not needed
                path = keys_path(named.file, named.place, self._folder)
                self._files.setdefault(path, named.place)
                try:
                    key = read_key(statement.domain, named, path)
                except Complaint as complaint:
                    self._problems.append(complaint.problem)
                else:
                    found[statement.name] = (*found.get(statement.name, ()), key)
        return found

    def _values(self) -> dict[str, object]:
        values: dict[str, object] = {}
        for name, given in self._settings.items():
            spec = SPECS[name]
            if spec.repeatable:
                values[spec.attribute] = tuple(each.value for each in given)
                self._repeats(name, given, all_of_them=False)
            else:
                values[spec.attribute] = given[0].value
                self._repeats(name, given, all_of_them=True)
        for name in ("control", "tls_authorities"):
            if name in values:
                values[name] = self._absolute(Path(str(values[name])))
        place = values.get("place")
        if isinstance(place, SpoolPlace):
            place = values["place"] = replace(place, folder=self._absolute(place.folder))
            values.setdefault("control", place.folder / "control")
        values["workers"] = values.get("workers", Settings.workers) or cores()
        warn, give_up = self._settings.get("warn-after"), values.get("give_up", Settings.give_up)
        if warn and isinstance(give_up, float) and float(str(warn[0].value)) >= give_up:
            self._problems.append(
                Problem(
                    warn[0].place,
                    "mail is given up before the warning is due",
                    f'expected less than "give-up" ({_hours(give_up)})',
                )
            )
        return values

    def _absolute(self, path: Path) -> Path:
        return Path(os.path.abspath(self._folder / path))  # noqa: PTH100 - symlinks stay

    def _repeats(self, name: str, given: list[Setting], *, all_of_them: bool) -> None:
        for number, each in enumerate(given):
            for earlier in given[:number]:
                if all_of_them or earlier.value == each.value:
                    what = f'"{name}" is set already, at {earlier.place}'
                    self._problems.append(Problem(each.place, what, "expected it once"))
                    break


def _hold(values: dict[str, Any], fixed: Mapping[str, Any]) -> tuple[str, ...]:
    """Put what holds until a restart in the place of what is new; the names of what is."""
    waiting = []
    for name, spec in SPECS.items():
        if spec.attribute not in fixed:
            continue
        held, wanted = fixed[spec.attribute], values.get(spec.attribute, default_of(spec))
        if name == "listen":  # the addresses are held, their options are not
            held = still_listening(held, wanted)
            changed = set(map(str, held)) != set(map(str, wanted))
        else:
            changed = held != wanted
        if changed:
            waiting.append(name)
        values[spec.attribute] = held
    return tuple(waiting)


def _sound(item: Item, tables: Mapping[str, Table]) -> bool:
    return not isinstance(item, Rule) or all(name in tables for name in used_tables(item))


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g}h" if seconds % 3600 == 0 else f"{seconds:g}s"


def _reader(name: str, spec: Spec) -> Reader[Item | Setting]:
    def read(words: Words) -> Setting:
        return Setting(name, spec.read(words), words.verb.place)

    return read


def _by(place: Place | None) -> str:
    return f", at {place}" if place is not None else " (it is where everything begins)"


def _line_of(problem: Problem) -> tuple[str, int]:
    return problem.place.source.path, problem.place.line


def _sorted(problems: list[Problem]) -> list[Problem]:
    """As the files are read: by file in order of appearance, then by line; each once."""
    order = {each.place.source.path: number for number, each in reversed(list(enumerate(problems)))}
    unique = dict.fromkeys(problems)
    return sorted(unique, key=lambda p: (order[p.place.source.path], p.place.line, p.place.column))


def _is_oauth(statement: Statement) -> bool:
    return statement.verb.is_word("oauth") and len(statement.tokens) > 1
