"""One mail transaction: what MAIL and RCPT gathered, and the submission it becomes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from relayd.authentication.results import without_forged
from relayd.intake.counting import Receipt, take_back
from relayd.intake.limits import Memory, shares
from relayd.intake.trace import NOWHERE_YET, Passages
from relayd.mail import value
from relayd.mail.address import AddressError, Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import DIRECT, NEVER, NOBODY, Envelope, Recipient
from relayd.mail.message import RecipientState, Record, Submission
from relayd.mail.plan import Destination, Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

_STATE = {
    Verdict.ACCEPT: RecipientState.QUEUED,
    Verdict.HOLD: RecipientState.HELD,
    Verdict.DISCARD: RecipientState.DISCARDED,
}

FREE_RECIPIENTS = 8  # final ones, that are not counted
RECIPIENT = 2000  # octets that one costs, with a long address and an ORCPT

Identity = tuple[str, str]
"""What makes two mailboxes the same, see `identity`."""

EditHeader = Callable[[tuple[int, ...], bytes], bytes]
"""Applies header rules, by their numbers, to a header section."""

SignHeader = Callable[[tuple[str, ...], bytes], bytes]
"""The fields that sign a header section, and the body below it, in these names."""


@dataclass(slots=True)
class Addressee:
    """One RCPT that was answered with 250."""

    original: Mailbox
    orcpt: str
    notify: frozenset[str]
    plan: Plan
    gathered: Mapping[Fact, object] | None = None  # what it was decided by, if kept for later


@value.dataclass(frozen=True, slots=True)
class ContentFacts:
    """What was learnt about the content while it went by."""

    trace: bytes  # the Received field written in front of it
    section: bytes  # the header section as received; empty unless it was to be kept
    header_size: int  # octets of both, the empty line included
    eight_bit: bool
    utf8_header: bool
    told: tuple[Step, ...] = ()  # facts that rules looked at (relayd.mail.plan.FACT)
    results: bytes = b""  # Authentication-Results of ours, to stand in front of all
    authserv: str = ""  # in whose name they are; empty: nothing else in the section claims it
    passed: Passages = NOWHERE_YET  # where it has been: no copy goes there again


class ReceivedTransaction:
    """From MAIL to the end of content; replaced whole, never field by field."""

    __slots__ = (
        "_before",
        "_merged",
        "addressees",
        "client",
        "copies",
        "counted",
        "destinations",
        "edits_header",
        "envelope",
        "foretold",
        "full",
        "held",
        "longest_section",
        "patience",
        "ruleset",
        "signs",
        "started",
        "told",
    )

    def __init__(
        self, envelope: Envelope, client: Client, started: float, ruleset: Ruleset
    ) -> None:
        self.ruleset = ruleset  # what decides about all of it
        self.envelope = envelope
        self.client = client
        self.started = started  # seconds since the epoch
        self.destinations = 0  # final recipients so far, repetitions counted
        self.edits_header = False  # the rules will change the header section for somebody
        self.signs = False  # ... or have a copy signed
        self.copies = False  # ... or send one more somewhere
        self.patience = math.inf  # seconds for which all routes let the client wait; 0: not all
        self.foretold = False  # the trail has what is foreseen of copies
        self.longest_section = 0  # octets of the longest that leaves, without what is ours above it
        self.full: Reply | None = None  # what every further recipient hears
        self.addressees: dict[Identity, Addressee] = {}  # whom RCPT has named with success
        self.counted: tuple[Receipt, ...] = ()  # against limits: taken back if it is not taken
        self._before = 0  # how many of them were there before the last recipient
        self.held = 0  # octets of the memory that all share
        self.told: Mapping[Fact, object] = {}  # of its recipients, for those who ask why
        self._merged = False  # some led to what is somebody else's delivery as well

    @property
    def sole_recipient(self) -> Mailbox | None:
        """The one mailbox RCPT named; None when there are several."""
        if len(self.addressees) != 1:
            return None
        return next(iter(self.addressees.values())).original

    def add(self, named: Identity, addressee: Addressee) -> None:
        """Take in a RCPT that the rules accepted, held or discarded; `note` follows."""
        self._before = len(self.counted)
        self.addressees[named] = addressee
        for destination in addressee.plan.destinations:
            self.destinations += 1
            if destination.header_rules:
                self.edits_header = True
            if destination.signed_by:
                self.signs = True
            if destination.cut_through < self.patience:
                self.patience = destination.cut_through
        for destination in addressee.plan.bcc:  # counted nowhere: nobody asked for it
            self.copies = True
            if destination.header_rules:
                self.edits_header = True
            if destination.signed_by:
                self.signs = True

    def hold(self, memory: Memory, recipients: int) -> bool:
        """So many final recipients are remembered; False: there is no room for them."""
        now = shares(recipients * RECIPIENT)
        if not memory.change(self.held, now):
            return False
        self.held = now
        return True

    def drop(self, named: Identity) -> None:
        """Somebody objects to what `add` took in last: it is not counted either."""
        self.destinations -= len(self.addressees.pop(named).plan.destinations)
        take_back(self.counted[self._before :])
        self.counted = self.counted[: self._before]

    def note(self, told: Mapping[Fact, object], counted: Sequence[Receipt]) -> None:
        """What was known of a recipient, and counted for it. That something is so outweighs not."""
        self._before = len(self.counted)
        self.counted += tuple(counted)
        for fact, answer in told.items():
            plain = replace(fact, about="")
            if answer or plain not in self.told:
                self.told = {**self.told, plain: answer}

    def plan_anew(self, plans: Iterable[Plan]) -> None:
        """Other plans for all addressees, in their order."""
        self.destinations = 0
        self.edits_header = self.signs = self.copies = False
        self.patience = math.inf
        for (named, addressee), plan in zip([*self.addressees.items()], plans, strict=True):
            addressee.plan = plan
            self.add(named, addressee)

    def shadows(self, records: Sequence[Record]) -> list[Addressee]:
        """Those of whom no record tells: all they led to is somebody else's delivery as well."""
        if not self._merged:
            return []
        told = {identity(record.recipient.original) for record in records}
        return [each for key, each in self.addressees.items() if key not in told]

    def submission(
        self,
        facts: ContentFacts,
        edit_header: EditHeader,
        sign_header: SignHeader = lambda names, section: b"",
    ) -> Submission:
        """All of it, as the spool is to keep it."""
        found: dict[tuple[object, ...], int] = {}
        recipients: list[Recipient] = []
        states: list[RecipientState] = []
        headers = None
        if self.edits_header or self.signs or facts.results:
            headers = _Headers(facts, edit_header, sign_header)
        for named, addressee in self.addressees.items():
            state = _STATE[addressee.plan.verdict]
            for destination in addressee.plan.destinations or (_nowhere(addressee),):
                kept = destination.mailbox is addressee.original
                mailbox = named if kept else identity(destination.mailbox)
                # the same mailbox at the same next hop is one delivery; what one recipient
                # has on hold must not take the other's along
                at = found.setdefault((mailbox, destination.next_hop, state), len(recipients))
                recipient = _recipient(addressee, destination, headers, moved=mailbox != named)
                if at < len(recipients):
                    self._merged = True
                    recipients[at] = _merge(recipients[at], recipient)
                else:
                    recipients.append(recipient)
                    states.append(state)
        for recipient in self._bcc(found, facts, headers) if self.copies else ():
            recipients.append(recipient)
            states.append(RecipientState.QUEUED)
        self.longest_section = 0 if headers is None else headers.longest
        alike = states.count(states[0]) == len(states)
        return Submission(
            envelope=self.envelope,
            client=self.client,
            recipients=tuple(recipients),
            header_size=facts.header_size,
            eight_bit=facts.eight_bit,
            utf8_header=facts.utf8_header,
            headers=() if headers is None else tuple(headers.sections),
            state=states[0] if alike else RecipientState.QUEUED,
            states=() if alike else tuple(states),
            trail=(*facts.told, *self._trail()) if facts.told else self._trail(),
            rules=self.ruleset.hash,
            holding=self._holding(found, len(states)) if RecipientState.HELD in states else (),
        )

    def _bcc(
        self,
        found: Mapping[tuple[object, ...], int],
        facts: ContentFacts,
        headers: _Headers | None,
    ) -> Iterator[Recipient]:
        """One more copy for each place: neither where it goes anyway, nor where it comes from."""
        taken = set(found)
        for named, addressee in self.addressees.items():
            for destination in addressee.plan.bcc:
                mailbox = identity(destination.mailbox)
                place = mailbox, destination.next_hop, RecipientState.QUEUED
                if place in taken or facts.passed.holds(destination.mailbox, own=mailbox == named):
                    continue
                taken.add(place)
                yield Recipient(
                    destination.mailbox,
                    NOBODY,
                    destination.next_hop,
                    destination.reverse_path,
                    "",
                    NEVER,
                    0 if headers is None else headers.number(destination),
                )

    def _holding(
        self, found: Mapping[tuple[object, ...], int], count: int
    ) -> tuple[Iterable[Step], ...]:
        """What was decided about each that is held, where there are several."""
        if len(self.addressees) == 1:
            return ()
        steps: list[dict[Step, None]] = [{} for _ in range(count)]
        for named, addressee in self.addressees.items():
            plan = addressee.plan
            if plan.verdict is Verdict.HOLD:
                for destination in plan.destinations or (_nowhere(addressee),):
                    kept = destination.mailbox is addressee.original
                    mailbox = named if kept else identity(destination.mailbox)
                    at = found[mailbox, destination.next_hop, RecipientState.HELD]
                    steps[at].update(dict.fromkeys(plan.trail))
        return tuple(steps)

    def _trail(self) -> tuple[Step, ...]:
        if len(self.addressees) == 1:
            return next(iter(self.addressees.values())).plan.trail
        steps: dict[Step, None] = {}
        for addressee in self.addressees.values():
            steps.update(dict.fromkeys(addressee.plan.trail))
        return tuple(steps)


class _Headers:
    """The distinct header sections that the recipients of one message are to see."""

    def __init__(
        self, facts: ContentFacts, edit_header: EditHeader, sign_header: SignHeader
    ) -> None:
        self.sections: list[bytes] = []
        self.longest = 0  # octets of one of them, without what is ours above it
        self._sign = sign_header
        self._facts = facts
        self._edit = edit_header
        self._numbers: dict[tuple[tuple[int, ...], tuple[str, ...]], int] = {}
        self._before = facts.results + facts.trace
        self._ours = facts.section  # without what speaks in our name
        if facts.results and facts.authserv:
            self._ours = without_forged(facts.section, facts.authserv)
        elif not facts.results:
            self._numbers[(), ()] = 0

    def number(self, destination: Destination) -> int:
        """Recipient.header for its rules; the trace field in front is never theirs to edit.

        Signatures stand above it (RFC 6376 section 5.6): all below is as it is signed, or ours.
        """
        rules, names = destination.header_rules, destination.signed_by
        number = self._numbers.get((rules, names))
        if number is None:
            edited = self._edit(rules, self._ours) if rules else self._ours
            signatures = self._sign(names, edited) if names else b""
            if edited == self._facts.section and not self._facts.results and not signatures:
                number = 0
            else:
                self.longest = max(self.longest, len(edited))
                section = signatures + self._before + edited
                if section not in self.sections:
                    self.sections.append(section)
                number = self.sections.index(section) + 1
            self._numbers[rules, names] = number
        return number


def _recipient(
    addressee: Addressee, destination: Destination, headers: _Headers | None, *, moved: bool
) -> Recipient:
    orcpt = addressee.orcpt
    if moved and not orcpt:
        # RFC 3461 section 5.2.1: an ORCPT of our own names the RCPT that we were given
        text = str(addressee.original)
        orcpt = f"{'rfc822' if text.isascii() else 'utf-8'};{text}"
    return Recipient(
        destination.mailbox,
        addressee.original,
        destination.next_hop,
        destination.reverse_path,
        orcpt,
        addressee.notify,
        0 if headers is None else headers.number(destination),
    )


def _nowhere(addressee: Addressee) -> Destination:
    """Where a discarded recipient would have gone: the ledger keeps one line about it."""
    return Destination(addressee.original, DIRECT, None)


def _merge(first: Recipient, second: Recipient) -> Recipient:
    """Two recipients that came out the same: one delivery, and reports as either asked."""
    notify = merge_notify(first.notify, second.notify)
    if notify == first.notify:
        return first
    return Recipient(
        mailbox=first.mailbox,
        original=first.original,
        next_hop=first.next_hop,
        reverse_path=first.reverse_path,
        orcpt=first.orcpt,
        notify=notify,
        header=first.header,
    )


def merge_notify(first: frozenset[str], second: frozenset[str]) -> frozenset[str]:
    """The NOTIFY (RFC 3461 section 4.1) that reports whatever either of the two asked for."""
    if first == second:
        return first
    if not first or not second:
        given = first or second
        if given == {"NEVER"}:
            return frozenset()
        # not given means failure, and delay as we please (section 4.1)
        return given | {"FAILURE", "DELAY"}
    return (first | second) - {"NEVER"}


def identity(mailbox: Mailbox) -> Identity:
    """What makes two mailboxes the same: a relay must not fold local parts (RFC 5321 2.4)."""
    domain = mailbox.domain
    if domain.isascii():
        return mailbox.local, domain.lower()
    try:
        return mailbox.local, mailbox.domain_key
    except AddressError:
        return mailbox.local, domain
