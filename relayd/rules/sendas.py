"""`may-send-as`: which senders a login may use (RFC 6409 section 6.1), decided at MAIL.

Everybody may use the null reverse-path and the own address: the login itself, or the login at the
origin where it has no domain. Statements add to that. Who has not logged in is not asked: the
rules at RCPT decide about networks and strangers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from relayd.mail.address import AddressError, Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.rules.conditions.mailbox import FromSender
from relayd.rules.conditions.registry import when
from relayd.rules.fact import Known
from relayd.rules.language.model import Rule, commas
from relayd.rules.language.pattern import InTable, MailboxPattern, Null
from relayd.rules.language.patternreader import mailbox_pattern
from relayd.rules.language.words import Words
from relayd.rules.subject import Subject
from relayd.rules.tables.snapshot import SnapshotTable
from relayd.rules.tables.table import MapTable, Table, Unknown
from relayd.rules.view import View

NOT_YOURS = Reply.of(553, "5.7.1", "Sender address rejected: not owned by your login")
TROUBLE = Reply.of(451, "4.3.0", "Temporary local problem, please try again later")
OWN = "own"


@dataclass(frozen=True, slots=True)
class SendAs(Rule):
    """`may-send-as own`, `may-send-as any when login bob`, `may-send-as <owners>`, ..."""

    patterns: tuple[MailboxPattern, ...]  # none: own

    @property
    def stage(self) -> str:
        """The verb."""
        return "may-send-as"

    @property
    def body(self) -> str:
        """The rule without its verb and `when`."""
        return commas(self.patterns) or OWN


def read_send_as(words: Words) -> SendAs:
    """What stands behind `may-send-as`."""
    start = words.place
    patterns: tuple[MailboxPattern, ...] = ()
    if not words.skip_word(OWN):
        patterns = words.commas(lambda: mailbox_pattern(words))
    if any(isinstance(pattern, Null) for pattern in patterns):
        raise words.complain("every login may use the null sender", "expected an address", start)
    start = words.place
    tests = when(words)
    if any(test.known is not Known.CLIENT for test in tests):
        raise words.complain(
            "only the login and the client are known here", 'expected e.g. "when login bob"', start
        )
    return SendAs(patterns, when=tests, place=words.verb.place)


class SendAsStage:
    """All `may-send-as` statements, ready to be asked."""

    def __init__(
        self,
        rules: Sequence[SendAs],
        tables: Mapping[str, Table],
        origin: str,
        separators: str,
    ) -> None:
        self._origin = origin
        self._separators = separators
        self._rules = [
            (
                [each.compiled(tables) for each in rule.when],
                [_pattern(each, tables) for each in rule.patterns],
            )
            for rule in rules
        ]

    def refusal(self, client: Client, sender: ReversePath) -> Reply | None:
        """Why this client may not use this sender; None: it may. Never raises."""
        if not client.login or sender is None:
            return None
        try:
            return None if self._may(client, sender) else NOT_YOURS
        except (Unknown, AddressError):
            return TROUBLE

    def _may(self, client: Client, sender: Mailbox) -> bool:
        subject = Subject(sender, self._separators)
        login = client.login.lower()
        own = login if "@" in login else f"{login}@{self._origin.lower()}"
        if own in (subject.key, *subject.others[:1]):
            return True
        view = View(client, subject, subject)
        return any(
            all(test(view) for test in tests) and any(fits(view, login) for fits in patterns)
            for tests, patterns in self._rules
        )


def _pattern(pattern: MailboxPattern, tables: Mapping[str, Table]) -> Callable[[View, str], bool]:
    table = tables.get(pattern.name) if isinstance(pattern, InTable) else None
    if isinstance(table, MapTable):
        return _owned(table)
    test = FromSender().test(pattern, tables)
    if isinstance(table, SnapshotTable):
        kept = table  # a list or a map: who has read it knows

        def fits(view: View, login: str) -> bool:
            now = kept.table
            return _owned(now)(view, login) if isinstance(now, MapTable) else test(view)

        return fits
    return lambda view, login: test(view)


def _owned(table: MapTable) -> Callable[[View, str], bool]:
    """A map from senders to the logins that own them, as Postfix's smtpd_sender_login_maps."""

    def fits(view: View, login: str) -> bool:
        subject = view.recipient  # the sender, with its tag taken off where there is one
        for key in (subject.key, *subject.others[:1], "@" + subject.domain):
            entry = table.entries.get(key)
            if entry is not None:
                return login in [value.lower() for value in entry.values]
        return False

    return fits
