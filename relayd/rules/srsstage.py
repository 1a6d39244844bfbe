"""Sender rewriting as evaluation asks for it: senders made ours, and the mailbox behind an SRS one.

A sender is rewritten where it would fail SPF at the next hop by our doing: it is not of our
domains, and the recipient was changed into one that is not of our domains either. Ours are the
domains that `srs ours` names; without it, those that `accept` rules name by `to`, whoever the
rule is for. The SRS domain and our host name are ours in any case.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

from relayd.mail.address import Mailbox, ReversePath, fold_domain
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.rules.language.model import AdmissionRule, Include, Item
from relayd.rules.language.pattern import Domain, Exact, InTable, Regex, SubDomains
from relayd.rules.language.regex import search
from relayd.rules.srs import (
    ForgedError,
    MalformedError,
    Scheme,
    SrsError,
    TooLongError,
    is_authors,
)
from relayd.rules.srsrule import SrsDomain, SrsException, SrsOurs
from relayd.rules.stage import GAP, Stage
from relayd.rules.subject import Subject, domain_probes
from relayd.rules.tables.table import ListTable, MapTable, Table, TransportTable
from relayd.rules.view import View

REPORTS_ONLY = Reply.of(550, "5.7.1", "This address takes reports only")
FORGED = Reply.of(550, "5.1.1", "This SRS address is not one of ours")  # a guess, perhaps


class SrsStage:
    """The `srs` statements, ready to run; pure: the time is an argument."""

    def __init__(
        self,
        statement: SrsDomain,
        items: Sequence[Item],
        tables: Mapping[str, Table],
        hostname: str,
        keys: Sequence[bytes],
    ) -> None:
        self.scheme = Scheme(statement.domain, tuple(keys), statement.hash_length)
        above = items[: items.index(statement)]
        # `srs domain` lets reports in where it stands: admission rules above it come first
        self.above = sum(
            GAP if isinstance(item, Include) else isinstance(item, AdmissionRule) for item in above
        )
        self._statement = statement
        exceptions = [item for item in items if isinstance(item, SrsException)]
        self._exceptions = Stage(exceptions, lambda rule: rule.tests, tables)
        self._ours = Ours(items, tables, (statement.domain, hostname))

    def holds(self, mailbox: Mailbox) -> bool:
        """Whether it is an SRS address of our domain, be it a good one or not."""
        return self.scheme.holds(mailbox)

    def unwrapped(
        self, mailbox: Mailbox, path: ReversePath, now: float
    ) -> tuple[Mailbox | Reply, Step]:
        """Whom an SRS address of ours stands for; or why mail from `path` is refused."""
        for_reports = self._statement.reports_only and not is_authors(mailbox.local)
        if path is not None and for_reports:
            # before the hash is looked at: nobody learns by it whether that is good
            return REPORTS_ONLY, self._step(str(REPORTS_ONLY))
        try:
            sender = self.scheme.reverse(mailbox, now)
        except SrsError as error:
            if isinstance(error, ForgedError):
                return FORGED, self._step(str(FORGED))
            status = "5.1.3" if isinstance(error, MalformedError) else "5.1.1"
            reply = Reply.of(550, status, str(error))
            return reply, self._step(str(reply))
        return sender, self._step(f"{mailbox} -> {sender}")

    def rewritten(self, view: View, path: Mailbox, now: float) -> tuple[Mailbox, bool, Step | None]:
        """The reverse-path for the view's recipient, which rules have changed; whether SRS made it.

        Raises Unknown.
        """
        if self.owns(path) or self.owns(view.recipient.mailbox):
            return path, False, None
        view.notes.clear()
        exception = self._exceptions.first(view)
        if exception is not None:
            return path, False, exception.noted(f"{path} is kept", *view.notes)
        try:
            new = self.scheme.forward(path, now)
        except TooLongError as error:
            # as it is it may pass by its DKIM signature; refused it would be lost for sure
            return path, False, self._step(f"{error}: {path} is kept")
        return new, True, self._step(f"{path} -> {new}")

    def with_ours(self, more: Sequence[Ours]) -> SrsStage:
        """The same with more domains that are ours."""
        stage = copy.copy(self)
        stage._ours = self._ours.with_(more)
        return stage

    def owns(self, mailbox: Mailbox) -> bool:
        """Whether its domain is one of ours. Raises Unknown."""
        return self._ours.hold(mailbox)

    def _step(self, note: str) -> Step:
        statement = self._statement
        return Step(statement.stage, str(statement.place), statement.text, note)


class Ours:
    """Our domains, by patterns about mailboxes: who takes mail for one mailbox has the domain."""

    def __init__(
        self, items: Sequence[Item], tables: Mapping[str, Table], domains: Sequence[str]
    ) -> None:
        self._probes = {"@" + fold_domain(domain) for domain in domains}
        self._regexes: list[str] = []
        self._asked: list[Table] = []  # tables that cannot tell what they hold
        said = [pattern for each in items if isinstance(each, SrsOurs) for pattern in each.patterns]
        self._said = bool(said)
        for pattern in said or _accepted(items):
            if isinstance(pattern, Exact):
                self._probes.add("@" + pattern.mailbox.domain_key)
            elif isinstance(pattern, Domain | SubDomains):
                self._probes.add(pattern.probe)
            elif isinstance(pattern, Regex):
                self._regexes.append(pattern.text)
            elif isinstance(pattern, InTable):
                self._add(tables[pattern.name])

    def with_(self, more: Sequence[Ours]) -> Ours:
        """It and those of others, where no statement says which are ours."""
        if self._said:
            return self
        ours = copy.copy(self)
        ours._probes = self._probes.union(*(each._probes for each in more))
        ours._regexes = [*self._regexes, *(text for each in more for text in each._regexes)]
        ours._asked = [*self._asked, *(table for each in more for table in each._asked)]
        return ours

    def _add(self, table: Table) -> None:
        if isinstance(table, ListTable):
            keys = list(table.probes)
        elif isinstance(table, MapTable):
            keys = [*table.entries, *("@" + domain for domain in table.domains)]
        elif isinstance(table, TransportTable):
            keys = list(table.entries)
        else:
            self._asked.append(table)
            return
        found = {"@" + key.rpartition("@")[2] for key in keys if "@" in key}
        self._probes |= found - {"@"}  # a name without a domain

    def hold(self, mailbox: Mailbox) -> bool:
        """Whether the mailbox is of one of the domains. Raises Unknown."""
        if not mailbox.domain or any(
            probe in self._probes for probe in domain_probes(mailbox.domain_key)
        ):
            return True
        if not self._regexes and not self._asked:
            return False
        subject = Subject(mailbox)
        return any(search(text, subject.key) for text in self._regexes) or any(
            table.mailbox(subject) for table in self._asked
        )


def ours_of(items: Sequence[Item], tables: Mapping[str, Table], hostname: str) -> Ours:
    """Our domains, whether or not senders are rewritten."""
    domains = [item.domain for item in items if isinstance(item, SrsDomain)]
    return Ours(items, tables, (*domains, hostname))


def _accepted(items: Sequence[Item]) -> Iterator[object]:
    """What `accept` rules name by `to`."""
    for item in items:
        if isinstance(item, AdmissionRule) and item.verb == "accept":
            for condition in item.tests:
                if not condition.negated:
                    yield from condition.recipients


def srs_stage(
    items: Sequence[Item], tables: Mapping[str, Table], hostname: str, keys: Sequence[bytes]
) -> SrsStage | None:
    """The stage; None: senders are not rewritten."""
    for item in items:
        if isinstance(item, SrsDomain) and keys:
            return SrsStage(item, items, tables, hostname, keys)
    return None
