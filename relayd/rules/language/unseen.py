"""Characters that nobody sees, or that turn the line round: what stands there reads otherwise."""

from __future__ import annotations

import re
import unicodedata

from relayd.rules.language.source import Place, Problem, Source

# ignorable by default (Unicode 15, DerivedCoreProperties), or blank, and in no category of such
_BLANK = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e0fff"
)
_SUSPECT = re.compile(r"[^\x00-\x7f]")
_ODD = re.compile(f"[{_BLANK}]")
_INVISIBLE = ("Cf", "Zs", "Zl", "Zp")
_TURNING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
# they join letters of scripts that need them (RFC 5892 appendix A), and choose how signs look
_JOINING = re.compile("[\u200c\u200d\ufe00-\ufe0f]")
_LATIN = "\u0600"  # ... and none before this one


def unseen(source: Source, unread: re.Pattern[str]) -> list[Problem]:
    """A warning for each such character of a text, told once with the number of its places.

    `unread`: what does not count in a line, comments and what is in quotes.
    """
    places: dict[str, list[Place]] = {}
    for number, line in enumerate(source.lines, 1):
        if line.isascii():
            continue
        shown = unread.sub(lambda found: " " * len(found.group()), line)
        for match in _SUSPECT.finditer(shown):
            if _is_unseen(shown, match.start()):
                place = Place(source, number, match.start() + 1)
                places.setdefault(match.group(), []).append(place)
    return [_told(character, found) for character, found in places.items()]


def _is_unseen(line: str, at: int) -> bool:
    character = line[at]
    if _JOINING.match(character):
        before = line[at - 1 : at]
        return before < _LATIN or _is_unseen(line, at - 1)
    return unicodedata.category(character) in _INVISIBLE or _ODD.match(character) is not None


def _told(character: str, places: list[Place]) -> Problem:
    name = unicodedata.name(character, "").lower()
    what = "turns the line round" if _TURNING.match(character) else "cannot be seen"
    more = f", at {len(places):,} places" if len(places) > 1 else ""
    return Problem(
        places[0],
        f"U+{ord(character):04X} ({name}) {what}{more}",
        "expected it in quotes, in a comment, or not at all",
    )
