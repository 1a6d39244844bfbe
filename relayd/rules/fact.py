"""What rules may look at, fact by fact: when each is known, and whether somebody must be asked.

Facts are gathered first, then rules are asked. A rule set says what it looks at (Ruleset.needs),
so what no rule looks at is never gathered.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Known(enum.IntEnum):
    """From when on a fact is known; each includes those before it."""

    CLIENT = 0  # as soon as somebody speaks to us, or says who he is
    SENDER = 1  # at MAIL
    RECIPIENT = 2  # at RCPT
    CONTENT = 3  # at the final dot


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that conditions may look at."""

    name: str
    known: Known
    asked: bool = False  # for by us: a look-up, a filter; View.told has the answer
    of: str = ""  # which one, where there are several: the name of a list, a filter, a limit
    spelled: str = ""  # the word of the condition that looks at it, where somebody is asked
    unanswered: object = None  # what it is where nobody says in time
    values: tuple[object, ...] = ()  # some of those it may have; the first is as of anybody
    about: str = ""  # the mailbox, where it is of one that rules have made

    def __hash__(self) -> int:  # it is looked up all the time: by what tells most apart
        return hash((self.name, self.of, self.about))

    @property
    def gathered(self) -> bool:
        """Whether it is neither of the envelope nor of the session: View.told has it."""
        return self.asked or self.known is Known.CONTENT

    @property
    def usual(self) -> object:
        """What it is of a client whom nothing is said about."""
        return self.values[0]

    def said(self, value: object) -> str:
        """It with a value, in the words of the language where there are some."""
        if value is None:
            return f"{self.condition} unknown"
        if isinstance(value, bool):
            return f"{'' if value else 'not '}{self.condition}"
        if isinstance(value, float):
            return f"{self.condition} {value:g}"
        if isinstance(value, tuple):
            value = ", ".join(map(str, value))
        return f"{self.condition} {value or 'none'}"

    @property
    def condition(self) -> str:
        """What a condition on it looks like."""
        return f"{self.spelled} {self.of}" if self.of else self.spelled

    def __str__(self) -> str:
        return f"{self.name} {self.of}" if self.of else self.name


ADDRESS = Fact("the client's address", Known.CLIENT)
HELO = Fact("the name in HELO", Known.CLIENT)
LISTENER = Fact("the listener", Known.CLIENT)
TLS = Fact("the connection's security", Known.CLIENT)
CERTIFICATE = Fact("the client's certificate", Known.CLIENT)
LOGIN = Fact("the login", Known.CLIENT)
SENDER = Fact("the sender", Known.SENDER)
RECIPIENT = Fact("the recipient", Known.RECIPIENT)
FORWARDED = Fact("whether it is forwarded", Known.RECIPIENT)
