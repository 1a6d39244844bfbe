"""Copies as they would leave, for rules that ask what becomes of them (`breaks dmarc`).

A rule that asks is left out of the answer that it gets: whether the copy would break is one thing,
what rules then do about it is another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from relayd.mail.address import Mailbox
from relayd.mail.plan import Step
from relayd.rules.language.model import Sign
from relayd.rules.leaving import BREAKS, Foretelling, LeavingCopy
from relayd.rules.stage import Stage
from relayd.rules.subject import Subject
from relayd.rules.view import View

if TYPE_CHECKING:
    from relayd.rules.ruleset import Ruleset


class Copies:
    """Those of one recipient."""

    def __init__(
        self, ruleset: Ruleset, view: View, header_rules: tuple[int, ...], now: float
    ) -> None:
        self.header_rules = header_rules  # those that do not ask
        self.owner: Mailbox | None = None  # of the list that it goes by: who gets the reports
        self.targets: Sequence[Mailbox] = ()  # in question; empty: the view's recipient
        self._ruleset = ruleset
        self._view = view
        self._now = now
        self._known: dict[str, LeavingCopy | None] = {}

    def of(self, mailbox: Mailbox) -> LeavingCopy | None:
        """The copy for a final recipient; None: it stays in our domains. Raises Unknown."""
        key = mailbox.key
        if key not in self._known:
            self._known[key] = self._leaving(mailbox)
        return self._known[key]

    def steps(self, copy: LeavingCopy) -> Iterator[Step]:
        """Which header rules change it, as all rules have made it, and what is foreseen of it.

        That is told of every copy, whether or not a rule asks; of none where nobody foretells.
        Raises Unknown.
        """
        foretelling = (self._view.gathered or {}).get(BREAKS)
        if foretelling is None or isinstance(foretelling, (bool, tuple)):
            return
        foretelling = cast("Foretelling", foretelling)
        before = self._known.get(copy.recipient.key)
        if before is not None:
            foretelling.breaks(before)
        forecast = foretelling.forecast(copy).step(copy.recipient)
        for number in foretelling.changing(copy):
            yield self._ruleset.headers.entry(number).noted(str(copy.recipient))
        yield forecast

    def _leaving(self, mailbox: Mailbox) -> LeavingCopy | None:
        ruleset, outer = self._ruleset, self._view
        if ruleset.ours is not None and ruleset.ours.hold(mailbox):
            return None
        view = View(
            outer.client, outer.sender, Subject(mailbox, ruleset.subaddress), outer.gathered
        )
        view.named = outer.named
        sender = None if outer.sender is None else outer.sender.mailbox
        path = None if sender is None else self.owner or sender
        if ruleset.srs is not None and path is not None and view.recipient.key != view.named.key:
            path, _, _ = ruleset.srs.rewritten(view, path, self._now)
        names = () if ruleset.signing is None else signed_by(ruleset.signing, view, [], set())
        return LeavingCopy(outer.named.mailbox, mailbox, sender, path, self.header_rules, names)


def signed_by(
    stage: Stage[Sign], view: View, trail: list[Step], said: set[Step]
) -> tuple[str, ...]:
    """In whose names this copy is signed: of all rules that hold, each name once."""
    names: dict[str, None] = {}
    for entry in stage.candidates(view):
        if entry.of_copies and view.copies is None:
            continue
        view.notes.clear()
        if entry.holds(view):
            names[entry.rule.signer] = None
            step = entry.noted(*view.notes)
            if step not in said:  # once, not for each recipient
                said.add(step)
                trail.append(step)
    return tuple(names)
