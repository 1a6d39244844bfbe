"""Postfix's main.cf, read as postconf(5) says: continued lines, defaults, and `$name` expanded."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from relayd.migrate.defaults import DEFAULTS

MAX_DEPTH = 50  # $a in $b in $c ...
_ASSIGNMENT = re.compile(r"([^\s=]+)\s*=\s*(.*)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_]+")
_COMPARISON = re.compile(r"(<=|>=|==|!=|<|>)(level)?\Z")


class MainCfError(Exception):
    """The file cannot be read at all; `str()` is for the one who asked."""


@dataclass(frozen=True, slots=True)
class Given:
    """One parameter as main.cf gives it."""

    name: str
    raw: str
    line: int


class MainCf:
    """All parameters: those given, Postfix's defaults behind them."""

    def __init__(
        self,
        folder: Path,
        lines: list[Given],
        *,
        hostname: Callable[[], str] | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self.repeated = [
            each
            for number, each in enumerate(lines)
            if any(later.name == each.name for later in lines[number + 1 :])
        ]
        self.given = {each.name: each for each in lines}  # the last one counts
        self.undefined: set[str] = set()  # names in $name that nobody gave
        self.used: set[str] = set()  # names that others' values refer to
        self._hostname = hostname or own_hostname
        self._defaults = dict(DEFAULTS)

    @classmethod
    def read(cls, folder: Path, *, hostname: Callable[[], str] | None = None) -> MainCf:
        """Read `folder`/main.cf; raises MainCfError."""
        path = folder / "main.cf"
        try:
            text = path.read_bytes().decode("utf-8", "surrogateescape")
        except OSError as error:
            raise MainCfError(f"cannot read {path}: {error.strerror or error}") from None
        given = []
        for line, logical in logical_lines(text):
            match = _ASSIGNMENT.match(logical)
            if match is not None:
                given.append(Given(match.group(1), match.group(2).strip(), line))
        return cls(folder, given, hostname=hostname)

    def overlaid(self, overrides: Mapping[str, str]) -> MainCf:
        """The same as one service of master.cf sees it, with its `-o name=value`."""
        if not overrides:
            return self
        made = MainCf(self.folder, list(self.given.values()), hostname=self._hostname)
        made.given |= {name: Given(name, value, 0) for name, value in overrides.items()}
        made.undefined, made.used, made._defaults = self.undefined, self.used, self._defaults
        return made

    def is_given(self, name: str) -> bool:
        """Whether main.cf itself gives it."""
        return name in self.given

    def __getitem__(self, name: str) -> str:
        """The value with everything expanded; a default, or empty, where nothing is given."""
        return self.expand(self._raw(name), 0).strip()

    def expand(self, text: str, depth: int = 0) -> str:
        """The text with every `$name` in it replaced."""
        if "$" not in text or depth > MAX_DEPTH:
            return text
        out, at = [], 0
        while at < len(text):
            dollar = text.find("$", at)
            if dollar < 0 or dollar + 1 >= len(text):
                out.append(text[at:])
                break
            out.append(text[at:dollar])
            at = dollar + 1
            if text[at] == "$":
                out.append("$")
                at += 1
            elif text[at] in "{(":
                end = _closing(text, at)
                out.append(self._braced(text[at + 1 : end], depth))
                at = end + 1
            elif match := _NAME.match(text, at):
                out.append(self._named(match.group(), depth))
                at = match.end()
            else:
                out.append("$")
        return "".join(out)

    def _named(self, name: str, depth: int) -> str:
        self.used.add(name)
        return self.expand(self._raw(name), depth + 1)

    def _raw(self, name: str) -> str:
        given = self.given.get(name)
        if given is not None:
            return given.raw
        if name == "config_directory":
            return str(self.folder)
        if name == "myhostname":
            return self._hostname()
        if name == "mydomain":
            return self["myhostname"].partition(".")[2] or "localdomain"
        if name not in self._defaults:
            self.undefined.add(name)
        return self._defaults.get(name, "")

    def default(self, name: str, value: str) -> None:
        """Another default, where Postfix's own depends on the machine."""
        self._defaults[name] = value

    def _braced(self, inner: str, depth: int) -> str:
        """`name`, `name?text`, `name:text`, `name?{text}:{text}`, `{a} == {b} ? {x} : {y}`."""
        stripped = inner.strip()
        if stripped.startswith("{"):
            return self._compared(stripped, depth)
        match = _NAME.match(stripped)
        if match is None:
            return ""
        name, rest = match.group(), stripped[match.end() :].lstrip()
        if not rest:
            return self._named(name, depth)
        value = self._named(name, depth)
        return self._chosen(bool(value), rest, depth, plain=True)

    def _compared(self, text: str, depth: int) -> str:
        end = _closing(text, 0)
        left = self.expand(text[1:end].strip(), depth + 1)
        operator, _, rest = text[end + 1 :].lstrip().partition("{")
        match = _COMPARISON.match(operator.replace(" ", ""))
        if match is None:
            return ""
        rest = "{" + rest
        end = _closing(rest, 0)
        right = self.expand(rest[1:end].strip(), depth + 1)
        holds = _holds(left, match.group(1), right, level=bool(match.group(2)))
        return self._chosen(holds, rest[end + 1 :].lstrip(), depth, plain=False)

    def _chosen(self, holds: bool, rest: str, depth: int, *, plain: bool) -> str:
        """`?{x}:{y}`, `?{x}`, `:{y}`; with `plain` also without the braces."""
        mark, text = rest[:1], rest[1:].lstrip()
        if text.startswith("{"):
            end = _closing(text, 0)
            first, behind = text[1:end].strip(), text[end + 1 :].lstrip()
        elif plain:
            first, behind = text, ""
        else:
            return ""
        if mark == ":":
            return "" if holds else self.expand(first, depth + 1)
        if holds:
            return self.expand(first, depth + 1)
        if behind.startswith(":"):
            other = behind[1:].lstrip()
            inner = other[1 : _closing(other, 0)].strip() if other.startswith("{") else other
            return self.expand(inner, depth + 1)
        return ""

    # what many translations ask for

    @property
    def level(self) -> tuple[int, ...]:
        """`compatibility_level` as numbers."""
        return version(self["compatibility_level"])

    @property
    def myorigin(self) -> str:
        """What an address without a domain gets; a path means the file's first line."""
        value = self["myorigin"]
        if value.startswith("/"):
            try:
                with Path(value).open(encoding="utf-8") as lines:
                    return lines.readline().strip() or self["myhostname"]
            except (OSError, UnicodeDecodeError):
                return self["myhostname"]
        return value or self["myhostname"]

    def words(self, name: str) -> list[str]:
        """The value as a list, split at commas and white space outside braces."""
        return split(self[name])

    def yes(self, name: str) -> bool:
        """A yes-or-no parameter."""
        return self[name].lower() == "yes"


def own_hostname() -> str:
    """The machine's name, as Postfix takes it for `myhostname`."""
    name = socket.gethostname()
    return name if "." in name else f"{name}.localdomain"


def version(text: str) -> tuple[int, ...]:
    """`3.6` as (3, 6); what is no number counts as 0."""
    return tuple(int(part) if part.isdigit() else 0 for part in text.split("."))


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Line number and text; a line that begins with white space continues the one before."""
    start, pending = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if line[0] in " \t" and start:
            pending += " " + stripped
            continue
        if start:
            yield start, pending
        start, pending = number, stripped
    if start:
        yield start, pending


def split(text: str) -> list[str]:
    """The items of a list: separated by commas and white space, braces keep theirs together."""
    items, item, depth = [], "", 0
    for letter in text:
        if depth == 0 and (letter.isspace() or letter == ","):
            if item:
                items.append(item)
            item = ""
            continue
        depth += {"{": 1, "}": -1}.get(letter, 0)
        depth = max(depth, 0)
        item += letter
    return [*items, item] if item else items


def _closing(text: str, at: int) -> int:
    """Where the bracket at `at` is closed; the end of the text if it is not."""
    opening = text[at]
    closing = {"{": "}", "(": ")"}[opening]
    depth = 0
    for number in range(at, len(text)):
        depth += {opening: 1, closing: -1}.get(text[number], 0)
        if depth == 0:
            return number
    return len(text)


def _holds(left: str, operator: str, right: str, *, level: bool) -> bool:
    numeric = left.isdigit() and right.isdigit()
    a: object = version(left) if level else int(left) if numeric else left
    b: object = version(right) if level else int(right) if numeric else right
    if operator in ("==", "!="):
        return (a == b) == (operator == "==")
    first, second = (a, b) if operator[0] == "<" else (b, a)
    # both are of one type: versions, numbers or texts
    if first == second:
        return operator.endswith("=")
    return bool(first < second)  # type: ignore[operator]


def readable(path: Path) -> bool:
    """Whether the file is there and may be read."""
    return path.is_file() and os.access(path, os.R_OK)
