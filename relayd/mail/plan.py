"""What the rules decided for one recipient, and how they came to it."""

from __future__ import annotations

import enum
from typing import NamedTuple

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass


class Verdict(enum.Enum):
    """The fate of one RCPT."""

    ACCEPT = "accept"
    HOLD = "hold"  # accepted, kept in the spool until the operator releases it
    DISCARD = "discard"  # accepted, thrown away by a named rule
    REFUSE = "refuse"  # the client hears `reply`, 4xx when the answer is unknown


class Step(NamedTuple):
    """One rule that had a say: where it stands, its text, and what it said."""

    stage: str  # "accept", "rewrite", "forward", "route", ...
    place: str  # "rules.d/10-site.rules:14"; empty for a built-in default
    rule: str  # the rule's own text
    note: str = ""  # what it matched, what came out


FACT = "fact"
"""The stage of a step that is no rule, but a fact that rules looked at: `place` is its name, `rule`
says it in words, `note` its value in JSON. Such steps stand in front of all others."""


FORECAST = "forecast"
"""The stage of a step that says what receivers will make of a copy: `rule` is the outcome, `note`
for whom the copy is, a colon, and why."""


@dataclass(frozen=True, slots=True)
class Destination:
    """One final recipient of a plan."""

    mailbox: Mailbox
    next_hop: str
    reverse_path: ReversePath
    header_rules: tuple[int, ...] = ()  # rules that change the header section, by their number
    srs: bool = False  # the reverse-path is an SRS address of ours
    signed_by: tuple[str, ...] = ()  # the names of the keys that sign this copy
    cut_through: float = 0.0  # seconds that the client waits for the first attempt


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole decision: `destinations` is empty unless the verdict is ACCEPT or HOLD.

    `bcc` is empty where it is REFUSE; what is held or thrown away is copied all the same.
    """

    verdict: Verdict
    reply: Reply
    destinations: tuple[Destination, ...]
    trail: tuple[Step, ...]
    matched: bool = True  # False: refused because no rule says yes or no
    bcc: tuple[Destination, ...] = ()  # where further copies go, which nobody else hears of
