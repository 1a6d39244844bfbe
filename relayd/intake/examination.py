"""What is learnt of one message's content: while it arrives, and at the final dot.

Only for a rule set that looks at it (Ruleset.examined).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from relayd.intake.checks import Objection, ReceivedContent
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.plan import Step, Verdict
from relayd.mime.headertext import field_texts
from relayd.rules.conditions.headerfield import MOST_CHARACTERS, MOST_IN_ALL
from relayd.rules.conditions.size import SIZE
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset


@dataclass(frozen=True, slots=True)
class Filtered:
    """What those who read the content say of it, all of them together."""

    objection: Objection = None  # the reply that refuses it, for all recipients
    verdict: Verdict = Verdict.ACCEPT  # ... or HOLD, or DISCARD: likewise for all
    facts: Mapping[Fact, object] = field(default_factory=dict)  # scores, symbols, verdicts: told
    trail: tuple[Step, ...] = ()  # who said something that counts


class Filters(Protocol):
    """Those who read the content and are not us: asked once for a message, at the final dot.

    All facts of the content that are ours to gather are known by then, and rules that look at the
    content are asked when all filters have answered: by what they say (Filtered.facts), and by
    what we found ourselves. Their edits are made on `content` (ReceivedContent.rewrite).
    """

    async def examine(
        self,
        client: Client,
        envelope: Envelope,
        recipients: Sequence[Mailbox],  # those that RCPT has taken, as they were named
        content: ReceivedContent,
        told: Mapping[Fact, object],  # what is known of client, sender and content
    ) -> Filtered:
        """Their answer. Raises SpoolError; is cancelled when nobody waits any more."""


class Examination:
    """One message's."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._wanted = ruleset.examined

    def receive(self, data: bytes) -> None:
        """A piece of the content, as the client sent it."""

    async def facts(self, content: ReceivedContent) -> dict[Fact, object]:
        """All that rules look at in it."""
        told: dict[Fact, object] = {}
        for fact in self._wanted:
            if fact == SIZE:
                told[fact] = content.size
            elif fact.spelled == "field":
                told[fact] = _bounded(field_texts(content.section, fact.of))
        return told

    def cancel(self) -> None:
        """Nobody wants to know any more."""


def _bounded(texts: Iterable[str]) -> tuple[str, ...]:
    """As much as expressions are to look at."""
    left = MOST_IN_ALL
    kept = []
    for text in texts:
        kept.append(text[: min(MOST_CHARACTERS, left)].lower())
        left -= len(kept[-1])
        if left <= 0:
            break
    return tuple(kept)
