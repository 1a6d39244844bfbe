"""A text with a name, places in it, and what is wrong there, said so that a person can mend it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import field

from relayd.mail.value import dataclass

_WIDE = 200  # characters of a line that are shown; of a longer one the part around the place
_CUT = "..."
_LIST = re.compile(r"\s*dns\w*\s", re.IGNORECASE)
_ZONE = re.compile(r"(?<![^\s\",])(?!127\.)[^\s\",]+\.[^\s\",]*")


@dataclass(frozen=True, slots=True)
class Source:
    """One file's text. `path` is how errors name it, `name` how trails do (shorter)."""

    path: str
    name: str
    lines: tuple[str, ...] = field(repr=False)

    @classmethod
    def of(cls, text: str, path: str, name: str = "") -> Source:
        """Split at line feeds only: Python's splitlines knows ten more line ends than an editor."""
        lines = tuple(line.removesuffix("\r") for line in text.split("\n"))
        return cls(path, name or path, lines)

    def line(self, number: int) -> str:
        """Line `number`, counted from 1; empty past the end."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands; `line` and `column` count from 1, `width` is in characters."""

    source: Source = field(repr=False)
    line: int
    column: int = 1
    width: int = 1

    def __str__(self) -> str:
        """As trails and notes show it: `rules.d/10-site.rules:14`."""
        return f"{self.source.name}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One complaint: what is wrong at a place, and what was expected there."""

    place: Place
    what: str
    expected: str = ""
    idle: tuple[Place, ...] = ()  # statements that do nothing because of it, and may go
    also: tuple[Place, ...] = ()  # further statements with the same fault

    @property
    def headline(self) -> str:
        """`file:line:column: what is wrong; what was expected`."""
        place = self.place
        where = f"{place.source.path}:{place.line}:{place.column}"
        if not place.source.lines:  # a file that cannot be read
            where = place.source.path
        what = self.what
        for zone in _ZONE.findall(place.source.line(place.line)) if self._is_of_list else ():
            what = what.replace(zone, _CUT).replace(zone.rstrip("."), _CUT)
        said = f"{_brief(what)}" + (f"; {self.expected}" if self.expected else "")
        return f"{where}: {said if said.isprintable() else _escaped(said)}"

    def __str__(self) -> str:
        if not self.place.source.lines:
            return self.headline
        line = self.place.source.line(self.place.line)
        if self._is_of_list:
            line = _ZONE.sub(lambda zone: "*" * len(zone[0]), line)
        if not line.isprintable():
            line = "".join(each if each.isprintable() or each == "\t" else "?" for each in line)
        at = self.place.column - 1
        if len(line) > _WIDE:
            line, at = _around(line, at)
        # a tab under a tab, so that the caret stands where the terminal puts the word
        lead = re.sub(r"[^\t]", " ", line[:at])
        caret = "^" * max(1, min(self.place.width, len(line) - at))
        return f"{self.headline}\n    {line}\n    {lead}{caret}"

    @property
    def _is_of_list(self) -> bool:
        """A list in the DNS, or what may be meant for one: a key of ours may be in its zone."""
        source, first = self.place.source, self.place.line
        while first > 1 and source.line(first)[:1].isspace():  # it began further up
            first -= 1
        return _LIST.match(source.line(first)) is not None


def _escaped(text: str) -> str:
    """What cannot be seen, or turns the line round, by its code point."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def _brief(text: str) -> str:
    """The two ends of what somebody has pasted whole."""
    return text if len(text) <= 3 * _WIDE else f"{text[: 2 * _WIDE]} {_CUT} {text[-_WIDE:]}"


def _around(line: str, at: int) -> tuple[str, int]:
    """The part of a long line around `at`, and where `at` is in it."""
    first = max(0, min(at - _WIDE // 4, len(line) - _WIDE))
    before, after = _CUT if first else "", _CUT if first + _WIDE < len(line) else ""
    return before + line[first : first + _WIDE] + after, at - first + len(before)


class Complaint(Exception):  # noqa: N818 - it is what a person reads, not a bug
    """Raised while one statement is read; the reader of the file collects it and goes on."""

    def __init__(self, place: Place, what: str, expected: str = "") -> None:
        super().__init__(what)
        self.problem = Problem(place, what, expected)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean "forward"?` when something known is close, else nothing."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f'did you mean "{names[close[0]]}"?' if close else ""


def name_hint(word: str, known: Iterable[str]) -> str:
    """For a name that nothing has: the one that is close, or else all there are."""
    names = [*known]
    return did_you_mean(word, names) or (
        f"known are: {', '.join(names)}" if names else "there is none in the rules in force"
    )


def one_of(words: Sequence[str]) -> str:
    """`a, b or c`."""
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " or " + words[-1]
