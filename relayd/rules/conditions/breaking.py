"""`breaks dmarc`: this copy would fail DMARC where it goes, and its author's domain minds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from relayd.mail.address import Mailbox
from relayd.rules.conditions.condition import Condition, Test
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.signatures import DKIM, DMARC
from relayd.rules.fact import Fact
from relayd.rules.language.words import Words
from relayd.rules.leaving import BREAKS, Foretelling, LeavingCopy
from relayd.rules.tables.table import Table, Unknown
from relayd.rules.view import View


class Breaks(Condition):
    """`breaks dmarc`: of each copy, as it leaves without what rules that ask for it do.

    A copy that stays in one of our domains breaks nothing: who takes it there knows us.
    """

    __slots__ = ()
    word = "breaks"
    facts = frozenset({BREAKS})
    welcome = frozenset({SENDER_POLICY, DKIM, DMARC})

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> Breaks:
        """Of DMARC; there is no other that could."""
        words.choice(("dmarc",), "dmarc")
        return cls((), negated)

    def __str__(self) -> str:
        return "not breaks dmarc" if self.negated else "breaks dmarc"

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        if self.negated:
            return lambda view: not _breaks(view)
        return _breaks

    def stated(self) -> tuple[Fact, object]:
        """Whether all copies do."""
        return BREAKS, not self.negated


def _breaks(view: View) -> bool:
    said, copies = view.told(BREAKS), view.copies
    unknown = False
    for target in (copies and copies.targets) or (view.recipient.mailbox,):
        copy = None if copies is None else copies.of(target)
        if copies is not None and copy is None:
            continue  # it stays with us, whatever is said
        answer = _answer(said, target, copy)
        if answer:
            return True
        unknown = unknown or answer is None
    if unknown:
        raise Unknown("nobody could say whether it breaks DMARC")
    return False


def _answer(said: object, target: Mailbox, copy: LeavingCopy | None) -> bool | None:
    """Of one copy; None: nobody can say."""
    if isinstance(said, bool):
        return said
    if isinstance(said, tuple):
        return cast("bool | None", dict(said).get(target.key))
    return None if copy is None else cast("Foretelling", said).breaks(copy)
