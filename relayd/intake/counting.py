"""Limits: how much is taken of whom in a sliding window, counted over all workers.

A recipient counts from the reply to its RCPT on, so that parallel sessions gain nothing; it is
taken back where its message is not taken after all. Of several nodes that share a spool what the
spool has counted decides; while it does not say, what is known of it here.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from relayd.intake.limits import client_key
from relayd.mail.address import Mailbox, ReversePath, fold_domain
from relayd.mail.client import Client
from relayd.rules.language.model import Counted, LimitDef
from relayd.shared.slidingcounts import ENDINGS, SlidingCounts

FOLDER = "counts"  # below the spool


class Everywhere(Protocol):
    """What is counted, and seen first, in all nodes that share a spool; None: nobody can say."""

    def count(self, name: str, key: str, seconds: float) -> Awaitable[int | None]:
        """One more of this key in a window of so many seconds: how many there are with it."""

    def give_back(self, name: str, key: str, times: int) -> None:
        """What was counted did not happen, so often."""

    def meet(self, client: str, errand: str, patience: float) -> Awaitable[bool | None]:
        """What relayd.shared.firstsights says of it: whether it is too new."""


class Limits:
    """All counts of this process; those of the same limit are the same in every process.

    The same limit is one of the same name that counts the same by the same in the same time.
    Methods may raise OSError.
    """

    def __init__(self, folder: Path, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock  # seconds since the epoch
        self._counts: dict[LimitDef, SlidingCounts] = {}
        self.everywhere: Everywhere | None = None
        self.forget_everywhere: Callable[[str, str], None] = lambda name, key: None

    def keep(self, limits: Mapping[str, LimitDef]) -> None:
        """These are in force; the others are asked no more."""
        for gone in self._counts.keys() - set(limits.values()):
            self._counts.pop(gone).close()

    def take(self, limit: LimitDef, key: str) -> tuple[bool, Receipt]:
        """Count one more; whether it is one too many."""
        counts = self._counts_of(limit)
        count, slot = counts.add(key, self._clock())
        return count > limit.most, Receipt(self, limit, key, slot)

    def take_back(self, limit: LimitDef, key: str, slot: int, times: int) -> None:
        """What `take` has counted did not happen, so often."""
        if self.everywhere is not None:
            self.everywhere.give_back(name_of(limit), key, times)
        self._counts_of(limit).take_back(key, slot, times)

    async def over_everywhere(
        self, everywhere: Everywhere, limit: LimitDef, key: str, *, here: bool
    ) -> bool:
        """Whether what `take` has counted is too many in all nodes; `here`: what it said."""
        count = await everywhere.count(name_of(limit), key, limit.seconds)
        if count is None:
            return here
        self._counts_of(limit).know(key, count, self._clock())
        return count > limit.most

    def over(self, limit: LimitDef, key: str) -> bool:
        """Whether one more would be one too many."""
        return self._counts_of(limit).count(key, self._clock()) >= limit.most

    def near(self, limit: LimitDef) -> Iterator[tuple[str, int]]:
        """Who is near the limit, or has reached it, and how much was counted."""
        return self._counts_of(limit).near(self._clock())

    def forget(self, limit: LimitDef, text: str) -> bool:
        """Count anew from nothing; whether anything was counted."""
        key = written_key(limit.per, text)
        self.forget_everywhere(name_of(limit), key)
        return self._counts_of(limit).forget(key)

    def remove_others(self, limits: Mapping[str, LimitDef]) -> None:
        """Files of limits that are no more."""
        kept = {name_of(each) + ending for each in limits.values() for ending in ENDINGS}
        for path in self._folder.iterdir() if self._folder.is_dir() else ():
            if path.name not in kept:
                path.unlink(missing_ok=True)

    def _counts_of(self, limit: LimitDef) -> SlidingCounts:
        counts = self._counts.get(limit)
        if counts is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            counts = SlidingCounts(self._folder / name_of(limit), limit.most, limit.seconds)
            self._counts[limit] = counts
        return counts


class Receipt(NamedTuple):
    """What was counted, to be taken back."""

    limits: Limits
    limit: LimitDef
    key: str
    slot: int


@dataclass(slots=True)
class Tally:
    """What is counted for one recipient, and what was counted of its transaction before."""

    before: Sequence[Receipt] = ()
    receipts: list[Receipt] = field(default_factory=list)

    def over(self, limits: Limits, limit: LimitDef, key: str) -> object:
        """Count it, or (once) its message; whether it is one too many, or who will say so."""
        if limit.messages and any((each.limit, each.key) == (limit, key) for each in self.before):
            return False
        over, receipt = limits.take(limit, key)
        self.receipts.append(receipt)
        if limits.everywhere is None:
            return over
        return limits.over_everywhere(limits.everywhere, limit, key, here=over)


def name_of(limit: LimitDef) -> str:
    """What is the same of the same limit."""
    return f"{limit.name}.{limit.what}.{limit.per.value}.{limit.seconds:.0f}s"


def take_back(receipts: Iterable[Receipt]) -> None:
    """It did not happen; where that cannot be written it counts until the window has passed."""
    for (limits, limit, key, slot), times in Counter(receipts).items():
        with contextlib.suppress(OSError):
            limits.take_back(limit, key, slot, times)


def key_of(per: Counted, client: Client, sender: ReversePath, recipient: Mailbox) -> str:
    """Whom it counts for; empty: nobody, such as a login where nobody has logged in."""
    match per:
        case Counted.LOGIN:
            return client.login.lower()
        case Counted.CLIENT:
            return client_key(client.address)
        case Counted.SENDER:
            return "" if sender is None else sender.key
        case Counted.SENDER_DOMAIN:
            return "" if sender is None else fold_domain(sender.domain)
        case Counted.RECIPIENT:
            return recipient.key
        case Counted.RECIPIENT_DOMAIN:
            return fold_domain(recipient.domain)
        case Counted.LISTENER:
            return client.listener


def written_key(per: Counted, text: str) -> str:
    """The key that an operator means."""
    if per is Counted.CLIENT:
        return client_key(text.removesuffix("/64").strip("[]"))
    if per in (Counted.SENDER_DOMAIN, Counted.RECIPIENT_DOMAIN):
        return fold_domain(text)
    return text if per is Counted.LISTENER else text.lower()
