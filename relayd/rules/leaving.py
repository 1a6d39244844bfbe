"""A copy as it would leave, and what is foreseen of it: whether the next hop will believe it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.plan import FORECAST, Step
from relayd.mail.value import dataclass
from relayd.rules.fact import Fact, Known

PASS, AT_RISK, FAILS = "pass", "at risk", "fails"
"""What is foreseen of a copy."""

BREAKS = Fact(
    "whether it breaks DMARC",
    Known.CONTENT,
    spelled="breaks dmarc",
    values=(False, True),
)
"""Who foretells (Foretelling), or one answer for all copies, or a CopyAnswer for each of them."""

UNFORETOLD = Fact("what the DNS says of a copy", Known.RECIPIENT, spelled="breaks dmarc")
"""Unasked for it: Foretelling.look_up is to be waited for."""


@dataclass(frozen=True, slots=True)
class LeavingCopy:
    """What is done to one copy between our door and the next hop.

    That is its envelope in and out, and the list of its edits: what a signature by which each hop
    answers for its own changes (DKIM2) will need.
    """

    original: Mailbox  # as RCPT named it
    recipient: Mailbox
    sender: ReversePath  # as MAIL named it
    reverse_path: ReversePath
    header_rules: tuple[int, ...] = ()  # rules that change the header section, by their number
    signed_by: tuple[str, ...] = ()  # the names of the keys that sign this copy
    source: str = ""  # whose address it leaves from; empty: that of our name


class Forecast(NamedTuple):
    """What receivers will make of a copy."""

    outcome: str  # PASS, AT_RISK or FAILS
    breaks: bool | None  # its author's domain asks for it to be refused; None: nobody could say
    why: str

    def step(self, mailbox: Mailbox) -> Step:
        """For the trail."""
        return Step(FORECAST, "", self.outcome, f"{mailbox}: {self.why}")


class LeavingCopies(Protocol):
    """The copies of one recipient, for conditions that ask about them."""

    targets: Sequence[Mailbox]
    """Of those in question; empty: the one that the view is about."""

    def of(self, mailbox: Mailbox) -> LeavingCopy | None:
        """The copy for a final recipient; None: it stays in our domains. Raises Unknown."""


class CopyAnswer(NamedTuple):
    """Whether the copy for a recipient breaks DMARC, as it is kept with a message."""

    recipient: str  # its key
    breaks: bool

    def __str__(self) -> str:
        return self.recipient if self.breaks else f"not {self.recipient}"


class Foretelling(Protocol):
    """Who foretells of one message."""

    def forecast(self, copy: LeavingCopy) -> Forecast:
        """Raises Unasked of UNFORETOLD where the DNS is to be asked first."""

    def breaks(self, copy: LeavingCopy) -> bool | None:
        """The same of a copy that no rule about it has changed; it is remembered for `told`."""

    def changing(self, copy: LeavingCopy) -> tuple[int, ...]:
        """Which of its header rules change something."""

    async def look_up(self) -> None:
        """Ask for what it has missed."""

    @property
    def told(self) -> object:
        """What `breaks` has said, to be kept with the message."""
