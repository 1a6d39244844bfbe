"""Postfix's lookup tables, read from the text that they are made of."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relayd.migrate.draft import foreign
from relayd.migrate.maincf import logical_lines, readable, split

TEXTS = ("hash", "btree", "lmdb", "cdb", "dbm", "sdbm", "texthash")
"""Types whose name is the path of a text file (beside which the compiled one may stand)."""
PATTERNS = ("regexp", "pcre")
COMPILED = (".db", ".lmdb", ".cdb", ".dir")
_TYPE = re.compile(r"(?:[a-z]+:)+(?!//)")
_QUOTED = re.compile(r'("(?:[^"\\]|\\.)*"\S*)\s*(.*)', re.DOTALL)
_FLAGS = re.compile(r"([A-Za-z]*)(?:\s+(.*))?\Z|()(.*)\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class MapSpec:
    """One `type:name`."""

    type: str
    name: str

    @classmethod
    def parse(cls, text: str, default: str = "hash") -> MapSpec:
        """`proxy:` in front says only through whom Postfix asks."""
        while text.startswith("proxy:"):
            text = text.removeprefix("proxy:")
        kind, colon, name = text.partition(":")
        return cls(kind, name) if colon and kind.isalnum() else cls(default, text)

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"


@dataclass(frozen=True, slots=True)
class PostfixRow:
    """A key and what stands behind it."""

    key: str
    value: str
    line: int


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression as a pattern table writes it."""

    text: str
    flags: str
    negated: bool


@dataclass(frozen=True, slots=True)
class PatternRow:
    """An expression with the `if` blocks around it, and what stands behind it."""

    expression: Expression
    guards: tuple[Expression, ...]
    value: str
    line: int


@dataclass
class MapText:
    """A table's text, taken apart; `trouble` says why there is none, or not all of it."""

    spec: MapSpec
    path: Path | None = None
    rows: list[PostfixRow] = field(default_factory=list)
    patterns: list[PatternRow] = field(default_factory=list)
    trouble: str = "not understood"  # until a reader has understood it
    repeated: list[PostfixRow] = field(default_factory=list)  # Postfix keeps the first of a key
    plain: bool = True  # the text is as relayd's own readers know it
    continued: bool = False  # some entry goes on in an indented line

    def __len__(self) -> int:
        return len(self.rows) + len(self.patterns)

    def where(self, line: int) -> str:
        """`virtual:12`."""
        return f"{self.path.name}:{line}" if self.path else str(self.spec)


def maps(value: str, default: str = "hash") -> list[MapSpec]:
    """The tables that a `..._maps` parameter names, in order."""
    return [MapSpec.parse(word, default) for word in split(value)]


def uncommented(words: Sequence[str]) -> list[str]:
    """The items of a list before a `#`, with which Postfix stops reading."""
    return list(itertools.takewhile(lambda word: not word.startswith("#"), words))


def is_table(word: str) -> bool:
    """Whether an item of a list of domains or networks is a table."""
    return bool(_TYPE.match(word)) and not word.startswith("[")


class PostfixTables:
    """Finds and reads tables; each is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[MapSpec, bool], MapText] = {}
        self.paths: list[Path] = []  # everything that was read

    def read(self, spec: MapSpec, *, aliases: bool = False) -> MapText:
        """The table; `aliases`: its text is written as in aliases(5)."""
        known = self._read.get((spec, aliases))
        if known is None:
            known = self._read[spec, aliases] = self._text(spec, aliases)
        return known

    def locate(self, name: str) -> Path:
        """A file that the configuration names. One of /etc/postfix is looked for in the folder."""
        path = Path(name)
        here = [self._folder / path] if not path.is_absolute() else []
        if path.is_relative_to("/etc/postfix"):
            here.append(self._folder / path.relative_to("/etc/postfix"))
        here += [path, self._folder / path.name]
        found = next((each for each in here if readable(each)), None)
        return found or next((each for each in here if _compiled(each)), path)

    def lines(self, name: str) -> list[str] | None:
        """A list in a file, one or more items a line; None: it cannot be read."""
        try:
            text = decoded(self.locate(name).read_bytes())
        except OSError:
            return None
        return [word for line in text.split("\n") for word in uncommented(split(line))]

    def texts(self, name: str) -> list[str]:
        """The lines of a file of addresses, each alone, without comments."""
        try:
            text = decoded(self.locate(name).read_bytes())
        except OSError:
            return []
        lines = (line.strip() for line in text.split("\n"))
        return [line for line in lines if line and not line.startswith("#")]

    def _text(self, spec: MapSpec, aliases: bool) -> MapText:
        made = MapText(spec)
        if spec.type == "static":
            value = spec.name.strip("{} ") if spec.name.startswith("{") else spec.name
            made.patterns = [PatternRow(Expression("", "", False), (), value, 0)]
            made.trouble = ""
        elif spec.type == "inline":
            _settle(made, list(_inline(spec.name)))
            made.trouble = ""
        elif spec.type in (*TEXTS, *PATTERNS, "cidr"):
            self._file(made, aliases)
        else:
            made.trouble = f"relayd has no access to {spec.type} tables"
        return made

    def _file(self, made: MapText, aliases: bool) -> None:
        path = made.path = self.locate(made.spec.name)
        try:
            text = decoded(path.read_bytes())
        except OSError as error:
            made.trouble = f"cannot read {path}: {error.strerror or error}"
            if _compiled(path):
                made.trouble += (
                    f"; only its compiled form is there: postmap -s {made.spec} > {path.name}"
                )
            return
        self.paths.append(path)
        made.trouble = ""
        try:
            if made.spec.type in PATTERNS:
                made.patterns = list(_patterns(text))
            elif made.spec.type == "cidr":
                made.patterns = list(_networks(text))
            else:
                rows = list(_alias_rows(text) if aliases else _rows(text))
                _settle(made, rows)
        except ValueError as error:
            made.patterns, made.trouble = [], f"{path.name}{error}"
        made.plain = made.plain and not foreign(text)
        made.plain = made.plain and "\r" not in text
        made.continued = re.search(r"^[ \t]+[^\s#]", text, re.MULTILINE) is not None


def decoded(text: bytes) -> str:
    """UTF-8; a line of another kind keeps its octets as they are, which no address can hold."""
    return text.decode("utf-8", "surrogateescape")


def _compiled(path: Path) -> bool:
    """Whether a compiled table of this name is there."""
    return any(path.with_name(path.name + end).exists() for end in COMPILED)


def _settle(made: MapText, rows: list[PostfixRow]) -> None:
    """Keep the first row of each key, as postmap(1) does."""
    seen: set[str] = set()
    for row in rows:
        if row.key in seen:
            made.repeated.append(row)
        elif not row.value:
            made.plain = False  # Postfix warns and goes on
        else:
            seen.add(row.key)
            made.rows.append(row)


def _rows(text: str) -> Iterator[PostfixRow]:
    for line, logical in logical_lines(text):
        if logical.startswith('"'):
            match = _QUOTED.match(logical)
            key, value = match.groups() if match else (logical, "")
        else:
            key, value = [*logical.split(None, 1), ""][:2]
        yield PostfixRow(key.lower(), value.strip(), line)


def _alias_rows(text: str) -> Iterator[PostfixRow]:
    for line, logical in logical_lines(text):
        if logical.startswith('"'):
            match = re.match(r'"((?:[^"\\]|\\.)*)"\s*:(.*)', logical, re.DOTALL)
            key, value = match.groups() if match else (logical, "")
        else:
            key, _, value = logical.partition(":")
        yield PostfixRow(key.strip().lower(), value.strip(), line)


def _inline(name: str) -> Iterator[PostfixRow]:
    body = name.strip()
    body = body[1:-1] if body.startswith("{") and body.endswith("}") else body
    for word in split(body):
        inner = word[1:-1] if word.startswith("{") and word.endswith("}") else word
        key, _, value = inner.partition("=")
        yield PostfixRow(key.strip().lower(), value.strip(), 0)


def _patterns(text: str) -> Iterator[PatternRow]:
    """regexp_table(5) and pcre_table(5): `/re/flags value`, `!`, `if`, `endif`.

    Raises ValueError for a line that is none of these.
    """
    guards: list[Expression] = []
    for line, logical in logical_lines(text):
        if logical.lower().startswith("endif"):
            guards = guards[:-1]
            continue
        if re.match(r"if\b", logical, re.IGNORECASE):
            expression, rest = _expression(logical[2:].strip(), line)
            if rest:
                raise ValueError(f":{line}: something stands behind `if`")
            guards.append(expression)
            continue
        expression, value = _expression(logical, line)
        yield PatternRow(expression, tuple(guards), value, line)


def _expression(text: str, line: int) -> tuple[Expression, str]:
    """The expression between its delimiters, and what stands behind it."""
    negated = text.startswith("!")
    text = text[1:].lstrip() if negated else text
    delimiter, at = text[:1], 1
    if not delimiter or delimiter.isalnum() or delimiter == "\\":
        raise ValueError(f":{line}: no expression begins here")
    while at < len(text) and text[at] != delimiter:
        at += 2 if text[at] == "\\" else 1
    if at >= len(text):
        raise ValueError(f":{line}: the expression has no end")
    pattern, rest = text[1:at], text[at + 1 :]
    match = _FLAGS.match(rest)
    assert match is not None
    if delimiter != "/":
        pattern = pattern.replace("\\" + delimiter, delimiter)
    expression = Expression(pattern.replace("\\/", "/"), match.group(1) or "", negated)
    return expression, (match.group(2) or match.group(4) or "").strip()


def _networks(text: str) -> Iterator[PatternRow]:
    """cidr_table(5): the same shape, with networks in place of expressions."""
    guards: list[Expression] = []
    for line, logical in logical_lines(text):
        words = logical.split(None, 1)
        if words[0].lower() == "endif":
            guards = guards[:-1]
        elif words[0].lower() == "if" and len(words) > 1:
            guards.append(_network(words[1]))
        elif len(words) == 2:
            yield PatternRow(_network(words[0]), tuple(guards), words[1].strip(), line)
        else:
            raise ValueError(f":{line}: a network without a result")


def _network(text: str) -> Expression:
    return Expression(text.lstrip("! "), "", text.startswith("!"))
