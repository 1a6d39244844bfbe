"""What `relayctl check --live` has found: one thing that the world sees of us."""

from __future__ import annotations

import enum
from collections.abc import Iterable

from relayd.mail.value import dataclass


class Grade(enum.StrEnum):
    """How good it is."""

    OK = "ok"
    WARNING = "warning"  # mail arrives, but is trusted less, or not by everybody
    ERROR = "error"  # mail is lost, refused or taken for spam
    UNKNOWN = "not known"  # nobody answered: it says nothing about us


@dataclass(frozen=True, slots=True)
class Observation:
    """One line."""

    grade: Grade
    what: str  # spf, dkim, ...
    about: str  # which name, address, listener of ours
    seen: str
    wanted: str = ""  # where it is not what is seen
    publish: str = ""  # the record, as a zone file has it, that would mend it

    @property
    def document(self) -> dict[str, str]:
        """For --json."""
        return {
            "grade": self.grade.value,
            "what": self.what,
            "about": self.about,
            "seen": self.seen,
            "wanted": self.wanted,
            "publish": self.publish,
        }

    def __str__(self) -> str:
        words = f"{self.grade.value:9}  {self.what:7}  {self.about}: {self.seen}"
        words += f"; wanted: {self.wanted}" if self.wanted else ""
        return words + (f"; publish: {self.publish}" if self.publish else "")


def counted(findings: Iterable[Observation]) -> dict[str, int]:
    """How many of each grade."""
    counts = dict.fromkeys((each.value for each in Grade), 0)
    for each in findings:
        counts[each.grade.value] += 1
    return counts


def txt(name: str, text: str) -> str:
    """A TXT record on one line, in strings of at most 255 octets (RFC 1035 section 3.3)."""
    strings = " ".join(f'"{text[at : at + 255]}"' for at in range(0, max(len(text), 1), 255))
    return f"{name}. IN TXT {f'( {strings} )' if len(text) > 255 else strings}"
