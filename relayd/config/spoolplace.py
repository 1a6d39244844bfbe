"""Where mail waits: in a folder, or in a database that several nodes share."""

from __future__ import annotations

from pathlib import Path

from relayd.config.values import path
from relayd.mail.value import dataclass
from relayd.rules.language.directory import POSTGRESQL, read_connection
from relayd.rules.language.lexer import quote, string
from relayd.rules.language.words import Words

USUAL = Path("/var/spool/relayd")


@dataclass(frozen=True, slots=True)
class SpoolPlace:
    """`spool /var/spool/relayd`, or `spool postgresql "service=relayd" folder /srv/relayd`."""

    folder: Path  # with a database: for locks, the control socket and what is kept of others
    database: str = ""  # how libpq reaches it; empty: mail waits in the folder

    @property
    def statement(self) -> str:
        """The words behind `spool`."""
        folder = quote(str(self.folder))
        if not self.database:
            return folder
        return f"{POSTGRESQL} {string(self.database)} folder {folder}"

    def __str__(self) -> str:
        return self.statement


def spool_place(words: Words) -> SpoolPlace:
    """The words behind `spool`."""
    if not words.at_word(POSTGRESQL):
        return SpoolPlace(path(words))
    words.skip_word(POSTGRESQL)
    database = read_connection(words, POSTGRESQL)
    return SpoolPlace(path(words) if words.skip_word("folder") else USUAL, database)


@dataclass(frozen=True, slots=True)
class Away:
    """`away defer`, or `away keep /var/spool/relayd`: what becomes of mail without the database."""

    folder: Path | None = None  # where mail is kept meanwhile; None: clients are to come again

    @property
    def statement(self) -> str:
        """The words behind `away`."""
        return "defer" if self.folder is None else f"keep {quote(str(self.folder))}"

    def __str__(self) -> str:
        return self.statement


def away(words: Words) -> Away:
    """The words behind `away`."""
    if words.skip_word("defer"):
        return Away()
    if words.skip_word("keep"):
        return Away(path(words))
    raise words.missing("defer, or keep and a path")


def node(words: Words) -> str:
    """The machine's name among those that share a spool."""
    return words.word("a name of this node, e.g. gw1").text
