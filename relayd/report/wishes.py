"""How far what a client wishes to be reported (RFC 3461's NOTIFY and RET) is done for it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """What is honoured. Nobody can check the sender of a stranger: it may be a victim's name."""

    as_asked: bool  # NOTIFY; else failures only
    whole: bool  # RET=FULL, and what has no RET; else header sections only

    def notify(self, asked: frozenset[str]) -> frozenset[str]:
        """Of a NOTIFY that was given, what is kept."""
        if self.as_asked:
            return asked
        # empty would mean the default, FAILURE: not what the sender said
        return asked & {"FAILURE", "NEVER"} or frozenset({"NEVER"})

    def ret(self, asked: str) -> str:
        """The RET that is kept."""
        return asked if self.whole else "HDRS"


TRUSTED = Wishes(as_asked=True, whole=True)
STRANGERS = Wishes(as_asked=False, whole=False)
