"""What is learnt of one message's content: while it arrives, and at the final dot.

Only for a rule set that looks at it (Ruleset.examined).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from relayd.intake.checks import Objection, ReceivedContent
from relayd.intake.gatheredfacts import Gatherer
from relayd.intake.header import HeaderSection
from relayd.intake.lookups import spf_domain
from relayd.intake.vouching import Vouched, Vouching
from relayd.intake.wanted import Wanted
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.plan import Step, Verdict
from relayd.mime.headertext import field_texts
from relayd.rules.conditions.headerfield import FIELD, bounded
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.signatures import ARC, ARC_WORDS, DKIM, DMARC
from relayd.rules.conditions.size import SIZE
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

if TYPE_CHECKING:
    from relayd.authentication.dkimsignature import Signature


@dataclass(frozen=True, slots=True)
class Filtered:
    """What those who read the content say of it, all of them together."""

    objection: Objection = None  # the reply that refuses it, for all recipients
    verdict: Verdict = Verdict.ACCEPT  # ... or HOLD, or DISCARD: likewise for all
    facts: Mapping[Fact, object] = field(default_factory=dict)  # scores, symbols, verdicts: told
    trail: tuple[Step, ...] = ()  # who said something that counts
    wanted: Wanted | None = None  # of the envelope, when the rules have been asked


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

    def __init__(self, ruleset: Ruleset, gatherer: Gatherer | None) -> None:
        self._wanted = ruleset.examined
        self._vouching: Vouching | None = None  # None: nobody wants to know
        wanted = self._wanted
        if gatherer is not None and wanted & {DKIM, DMARC, ARC}:
            self._vouching = gatherer.vouching(dmarc=DMARC in wanted, arc=ARC in wanted)
        self._received = 0  # octets
        self.vouched: Vouched | None = None

    def receive(self, header: HeaderSection, data: bytes) -> None:
        """A piece of the content as it came, which the header section has seen."""
        vouching = self._vouching
        if vouching is None:
            return
        self._received += len(data)
        if not header.complete:
            return
        if not vouching.begun:
            vouching.begin(header.octets)
            data = data[len(data) - (self._received - header.size) :]
        vouching.feed(data)

    async def facts(
        self,
        header: HeaderSection,
        content: ReceivedContent,
        client: Client,
        envelope: Envelope,
        told: Mapping[Fact, object],
    ) -> dict[Fact, object]:
        """All that rules look at in it; `told`: what is known of client and sender."""
        found = self.fields(content.section)
        if SIZE in self._wanted:
            found[SIZE] = content.size
        if self._vouching is not None:
            if not self._vouching.begun:  # all of it is header section
                self._vouching.begin(header.octets)
            spf = str(told.get(SENDER_POLICY, ""))
            vouched = await self._vouching.finish(spf, spf_domain(client, envelope))
            self.vouched = vouched
            found[DKIM] = vouched.signed
            if DMARC in self._wanted:
                found[DMARC] = vouched.asks_for
            if vouched.arc is not None:
                known = vouched.arc.result in ARC_WORDS
                found[ARC] = vouched.arc.result if known else None
        return found

    async def signatures(
        self, content: ReceivedContent, turn: Callable[[], Awaitable[None]]
    ) -> list[tuple[Signature | None, bool]]:
        """Those of `vouched`, and whether the body that leaves is theirs. Raises SpoolError."""
        if self._vouching is None:
            return []
        return await self._vouching.signatures(content.body() if content.rewritten else None, turn)

    def fields(self, section: bytes) -> dict[Fact, object]:
        """What rules look at in a header section: the one that came, or what filters made of it."""
        return {
            fact: bounded(field_texts(section, fact.of))
            for fact in self._wanted
            if fact.spelled == FIELD
        }

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        if self._vouching is not None:
            self._vouching.cancel()
