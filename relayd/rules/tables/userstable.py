"""Tables that know who may log in: a users file, or Dovecot, which is asked and never listed."""

from __future__ import annotations

from relayd.login.users import Users, parse
from relayd.rules.language.source import Place, Problem, Source
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Table

HIDDEN = "..."


class UsersTable(Table):
    """A users file (see relayd.login.users)."""

    kind = "users"

    def __init__(self, name: str, place: str, users: Users) -> None:
        super().__init__(name, place)
        self.users = users

    def __len__(self) -> int:
        return len(self.users.verifiers)

    @property
    def size(self) -> int:
        """See Table."""
        return len(self.users.verifiers)

    def word(self, text: str) -> str:
        """Whether this is a login's name."""
        return f"{self.name}: {self.place}" if text.lower() in self.users.verifiers else ""

    def mailbox(self, subject: Subject) -> str:
        """Whether this mailbox is a login's name."""
        return self.word(subject.key) or next(filter(None, map(self.word, subject.wide[:1])), "")

    @property
    def has_no_network(self) -> bool:
        """It holds names only."""
        return True

    def owns(self, key: str) -> bool:
        """See Table."""
        return key in self.users.verifiers


class DovecotTable(Table):
    """Dovecot's auth socket: only passwords can be asked of it."""

    kind = "dovecot-auth"

    def __init__(self, name: str, place: str, socket: str) -> None:
        super().__init__(name, place)
        self.socket = socket
        self.digest = socket


def hidden(source: Source) -> Source:
    """The source with nothing of the credentials in it, for complaints show their line."""
    lines = tuple(
        line if line.startswith("#") or not line.strip() else line.partition(":")[0] + ":" + HIDDEN
        for line in source.lines
    )
    return Source(source.path, source.name, lines)


def users_table(name: str, source: Source, problems: list[Problem]) -> UsersTable:
    """The table that a users file makes; complaints are collected and show no credentials."""
    shown = hidden(source)
    users, wrong = parse(source.lines)
    for error in wrong:
        place = Place(shown, error.line, 1, max(len(shown.line(error.line)), 1))
        problems.append(
            Problem(place, str(error), 'expected lines as "relayctl user add" writes them')
        )
    return UsersTable(name, source.name, users)
