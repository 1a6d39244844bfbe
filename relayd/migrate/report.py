"""What became of each setting: nothing that main.cf says is dropped without a word."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from relayd.migrate.maincf import MainCf
from relayd.ops.text import safe

_WIDTH = 96
_MANY = 8  # parts of one setting that are lost, shown to people


class SettingFate(enum.Enum):
    """What became of a setting; the worst of its parts counts for the whole."""

    TRANSLATED = "translated"
    SAME = "same as relayd's default"
    UNNEEDED = "not needed by relayd"
    LOST = "NOT translated"


_WORST = (SettingFate.LOST, SettingFate.TRANSLATED, SettingFate.SAME, SettingFate.UNNEEDED)


@dataclass(frozen=True, slots=True)
class ReportPart:
    """One thing to say about a setting."""

    fate: SettingFate
    text: str


@dataclass
class Finding:
    """A setting with all there is to say about it."""

    setting: str
    value: str = ""
    place: str = ""  # main.cf:12; empty: Postfix's default
    parts: list[ReportPart] = field(default_factory=list)

    @property
    def fate(self) -> SettingFate:
        """The worst of its parts."""
        fates = {part.fate for part in self.parts}
        return next((fate for fate in _WORST if fate in fates), SettingFate.LOST)


class ImportReport:
    """Collects findings while the translation goes on.

    `named` holds what a difference between Postfix and relayd may be due to: marks such as
    `class:local`, `map:hash:/etc/postfix/virtual` or `entry:hash:/etc/postfix/virtual info`, each
    with the words that announced it.
    """

    def __init__(self, main: MainCf) -> None:
        self._main = main
        self.findings: dict[str, Finding] = {}
        self.named: dict[str, str] = {}
        self.notes: list[str] = []
        self.wrote: list[str] = []

    def translated(self, setting: str, text: str) -> None:
        """It is in the new configuration."""
        self._say(setting, SettingFate.TRANSLATED, text)

    def same(self, setting: str, text: str = "") -> None:
        """Relayd does so by itself."""
        self._say(setting, SettingFate.SAME, text)

    def unneeded(self, setting: str, why: str) -> None:
        """Relayd has no need of it."""
        self._say(setting, SettingFate.UNNEEDED, why)

    def lost(self, setting: str, why: str, *marks: str) -> None:
        """It is not in the new configuration: why, and what to do."""
        self._say(setting, SettingFate.LOST, why)
        self.name(f"{setting}: {why}", *marks)

    def name(self, words: str, *marks: str) -> None:
        """Announce that mail touching these marks fares otherwise than with Postfix."""
        for mark in marks:
            self.named.setdefault(mark, words)

    def note(self, text: str, *marks: str) -> None:
        """Something to know that hangs on no single setting."""
        if text not in self.notes:
            self.notes.append(text)
        self.name(text, *marks)

    def _say(self, setting: str, fate: SettingFate, text: str) -> None:
        part = ReportPart(fate, text)
        finding = self._finding(setting)
        if part not in finding.parts:
            finding.parts.append(part)

    def _finding(self, setting: str) -> Finding:
        known = self.findings.get(setting)
        if known is None:
            given = self._main.given.get(setting)
            known = Finding(
                setting,
                given.raw if given else "",
                f"main.cf:{given.line}" if given else "",
            )
            self.findings[setting] = known
        return known

    def has(self, setting: str) -> bool:
        """Whether something was said about it."""
        return setting in self.findings

    # shown

    def _by_fate(self, fate: SettingFate, *, given: bool) -> list[Finding]:
        return [
            each
            for each in self.findings.values()
            if each.fate is fate
            and (bool(each.place) or each.setting.startswith("master.cf")) == given
        ]

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "settings": [
                {
                    "setting": each.setting,
                    "value": each.value,
                    "place": each.place,
                    "fate": each.fate.value,
                    "parts": [{"fate": part.fate.value, "text": part.text} for part in each.parts],
                }
                for each in self.findings.values()
            ],
            "notes": self.notes,
            "files": self.wrote,
        }

    def lines(self) -> Iterator[str]:
        """For people: what is lost first."""
        given = [each for each in self.findings.values() if each.place]
        counts = ", ".join(
            f"{sum(each.fate is fate for each in given)} {fate.value}" for fate in _WORST
        )
        yield f"main.cf gives {len(given)} settings: {counts}"
        for fate in _WORST:
            yield from _section(fate.value, self._by_fate(fate, given=True))
        defaults = [
            each
            for each in self.findings.values()
            if not each.place
            and not each.setting.startswith("master.cf")
            and each.fate is not SettingFate.SAME
        ]
        yield from _section(
            "Postfix's defaults, which main.cf leaves as they are", defaults, tell=True
        )
        if self.notes:
            yield ""
            yield "Worth knowing"
            for note in self.notes:
                yield from _wrapped(note, "  ")
        if self.wrote:
            yield ""
            yield "Written"
            yield from (f"  {path}" for path in self.wrote)


def _section(title: str, findings: list[Finding], *, tell: bool = False) -> Iterator[str]:
    if not findings:
        return
    yield ""
    yield title
    for each in findings:
        value = safe(" ".join(each.value.split()))
        value = value if len(value) <= 50 else value[:47] + "..."
        yield f"  {each.setting}" + (f" = {value}" if value else "")
        mixed = tell or len({one.fate for one in each.parts}) > 1
        lost = [part for part in each.parts if part.fate is SettingFate.LOST]
        for part in each.parts:
            if part in lost[_MANY:]:
                continue
            text = f"{part.fate.value}: {part.text}" if mixed and part.text else part.text
            yield from _wrapped(safe(text or part.fate.value), "      ")
        if len(lost) > _MANY:
            yield f"      ... and {len(lost) - _MANY:,} more of this kind (--json lists them all)"


def _wrapped(text: str, indent: str) -> Iterable[str]:
    line = indent
    for word in text.split():
        if len(line) + len(word) > _WIDTH and line.strip():
            yield line.rstrip()
            line = indent
        line += word + " "
    yield line.rstrip()
