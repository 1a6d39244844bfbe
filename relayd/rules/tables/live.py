"""A directory that is asked for one address when a rule looks at it: too large to be held.

What was answered lately is remembered, and costs a look-up no more than a table in memory. For what
was not, Unasked says what to ask for; whoever decides asks, waits, and decides again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from relayd.rules.fact import Fact, Known
from relayd.rules.language.source import Problem, Source
from relayd.rules.subject import Subject
from relayd.rules.tables.rows import cell
from relayd.rules.tables.table import (
    FoundEntry,
    MapTable,
    MapTransport,
    Table,
    Unknown,
    target_mailbox,
)
from relayd.rules.tables.tablefile import read_table
from relayd.rules.view import Unasked

LIVE = "table"  # what a fact of such a table is spelled
_SOMEBODY = "somebody@live.invalid"  # as whose targets they are read


def live_fact(name: str, key: str = "") -> Fact:
    """What the live table of this name says of a key."""
    return Fact(
        "what is said by table",
        Known.RECIPIENT,
        asked=True,
        of=name,
        spelled=LIVE,
        values=((),),
        about=key,
    )


class LiveAnswer(NamedTuple):
    """What a source has said of one key."""

    targets: tuple[str, ...]
    asked: float  # when: seconds of a clock that is never set
    until: float  # ... and for how long it is believed
    there: bool = False  # it has the key
    wrong: str = ""  # with what it says nothing can be done
    trouble: str = ""  # it does not answer


class LiveAnswers(Protocol):
    """Who asks the source; relayd.directories.live has the one."""

    seconds: Callable[[], float]

    def known(self, key: str) -> LiveAnswer | None:
        """What it has said lately; None: it is to be asked."""

    def ask(self, key: str) -> object:
        """What it says: targets, or None for nobody knows; or a Deferred that fires with that."""


class LiveTable(Table):
    """See the module. Keys are an address, it without its tag, and then `@` and its domain."""

    kind = "live"

    def __init__(self, name: str, place: str) -> None:
        super().__init__(name, place)
        self.answers: LiveAnswers | None = None  # None: here nobody asks

    def _entry(self, key: str) -> LiveAnswer | None:
        """What is said of a key; None: it has none. Raises Unknown, and Unasked."""
        answers = self.answers
        if answers is None:
            raise Unknown(f"table {self.name} is asked where mail is taken, and not here")
        answer = answers.known(key)
        if answer is None:
            raise Unasked(live_fact(self.name, key))
        if answer.trouble:
            raise Unknown(f"table {self.name} is not known: {answer.trouble}")
        return answer if answer.there else None

    def _first(self, keys: Iterable[str]) -> tuple[str, LiveAnswer] | None:
        for key in keys:
            answer = self._entry(key)
            if answer is not None:
                return key, answer
        return None

    def _note(self, key: str, answer: LiveAnswer) -> str:
        assert self.answers is not None
        age = self.answers.seconds() - answer.asked
        return f"{self.name}: {key}, asked {age:.0f} s ago"

    def mailbox(self, subject: Subject) -> str:
        """See Table."""
        domain = subject.domain
        found = self._first((subject.key, *subject.wide[:1], f"@{domain}", domain))
        return "" if found is None else self._note(*found)

    def client(self, address: str) -> str:
        """See Table."""
        return self.word(address)

    def word(self, text: str) -> str:
        """See Table."""
        answer = self._entry(text.lower())
        return "" if answer is None else self._note(text.lower(), answer)

    def find(self, subject: Subject, at: Iterable[str] = ()) -> FoundEntry | None:
        """See Table."""
        local = (subject.local,) if subject.domain in at else ()
        found = self._first((subject.key, *subject.wide[:1], *local, f"@{subject.domain}"))
        if found is None:
            return None
        key, answer = found
        if not answer.targets:
            raise Unknown(f"table {self.name} says nothing of use about {key}: {answer.wrong}")
        tag = subject.tag if key in subject.wide else ""
        here = subject.mailbox
        targets = tuple(target_mailbox(value, here, tag) for value in answer.targets)
        return FoundEntry(targets, self._note(key, answer))

    def transport(self, subject: Subject) -> tuple[MapTransport, str] | None:
        """No directory says where mail goes."""
        raise Unknown(f"table {self.name} says not where mail goes")


def read_targets(name: str, rows: Iterable[object]) -> tuple[tuple[str, ...], str]:
    """The targets that rows make, those that are none left out; and what is wrong with one."""
    targets: dict[str, None] = {}
    wrong = ""
    for row in rows:
        columns = row if isinstance(row, tuple | list) else (row,)
        if len(columns) != 1:
            wrong = f"{len(columns)} columns: expected one, what the address becomes"
            continue
        problems: list[Problem] = []
        text = cell(columns[0]).encode("utf-8", "replace").decode()
        table = read_table(name, "virtual", Source(name, name, (f"{_SOMEBODY} {text}",)), problems)
        for problem in problems:
            wrong = problem.what.partition(", in line")[0]
        if isinstance(table, MapTable) and _SOMEBODY in table.entries and not problems:
            targets.update(dict.fromkeys(table.entries[_SOMEBODY].values))
    return tuple(targets), wrong or "" if targets else wrong or "nothing stands behind it"
