"""What all receptions of a process share: where mail goes, and what decides about it."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import field
from typing import TYPE_CHECKING, Protocol

from relayd.intake.checks import Checks, at_once
from relayd.intake.cutthrough import CutThrough
from relayd.intake.examination import Filters
from relayd.intake.filterdesk import FilterDesk
from relayd.intake.gatheredfacts import Gatherer
from relayd.intake.limits import Memory
from relayd.intake.trace import LoopLimits, TraceField
from relayd.login.guesses import Guesses
from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.envelope import Recipient
from relayd.mail.log import MailLog
from relayd.mail.message import Message, Record
from relayd.mail.plan import Plan, Step
from relayd.mail.value import dataclass
from relayd.report.wishes import STRANGERS, TRUSTED, Wishes
from relayd.rules.evaluate import Facts, evaluate, examine
from relayd.rules.header import edit_header
from relayd.rules.ruleset import Ruleset
from relayd.spool.interface import AnyDraft

if TYPE_CHECKING:  # what verifies takes its time to load, and its memory
    from relayd.authentication.arc import ArcResult


class ClientNaming(Protocol):
    """A client's name while it is looked up (relayd.dns.reverse)."""

    @property
    def name(self) -> str | None:
        """Folded; "": there is none; None: not known, or not yet."""

    @property
    def over(self) -> bool:
        """Nothing more will be known."""

    @property
    def worth_waiting(self) -> bool:
        """It may yet come in time."""

    async def wait(self) -> None:
        """Until it is over, or too late."""

    def cancel(self) -> None:
        """The client has gone."""


class ClientNames(Protocol):
    """Who knows the names of clients, or looks them up."""

    def known(self, address: str) -> str | None:
        """What needs no question; "": there is none."""

    def look_up(self, address: str) -> ClientNaming:
        """Begin to ask."""


class DraftStore(Protocol):
    """What reception needs of a relayd.spool.interface.Store."""

    @property
    def healthy(self) -> bool:
        """False while the store cannot record."""

    def room(self, size: int) -> bool:
        """Whether this many octets fit above the floor of free bytes and inodes."""

    def create(self, *, pure: bool = False) -> AnyDraft:
        """Begin a message."""


@dataclass(frozen=True, slots=True)
class ReceptionLimits:
    """What one transaction may hold."""

    recipients: int = 1000  # RCPTs accepted
    destinations: int = 10_000  # final recipients after forwarding
    header_size: int = 1 << 20  # octets of the header section, as it comes and as it leaves
    message_size: int = sys.maxsize  # octets, as it leaves
    loop: LoopLimits = field(default_factory=LoopLimits)


@dataclass(slots=True)
class Intake:
    """What all receptions share: where mail goes, and what decides about it.

    `limits` may be replaced at any time: what is received next is held to them.
    """

    trace: TraceField
    rules: Callable[[], Ruleset]  # the snapshot now in force
    spool: DraftStore
    accept: Callable[[Message, tuple[Record, ...]], None]  # the dispatcher takes it from memory
    log: MailLog
    clock: Callable[[], float]  # seconds since the epoch
    limits: ReceptionLimits = field(default_factory=ReceptionLimits)
    memory: Memory = field(default_factory=Memory)
    expanded: Callable[[Message, tuple[Recipient, ...]], None] = lambda message, aliases: None
    # ^ the sender asked to hear of success at these, which became several addresses
    untold: Callable[[Client, ReversePath, Mailbox, Plan, str], None] = lambda *decision: None
    # ^ for the journal, what the ledger does not tell: client, sender, a recipient that was refused
    # or has no delivery of its own, what was decided about it, the hash of the rule set
    foretold: Callable[[int, tuple[Step, ...]], None] = lambda ident, trail: None
    # ^ of a message that was taken: the trail has what was foreseen of its copies
    expect: Callable[[int], None] = lambda change: None  # so many more (-1: less) may soon commit
    guesses: Guesses | None = None  # who guesses at the hashes of SRS addresses
    decide: Callable[[Ruleset, Facts], Plan] = evaluate
    examine: Callable[[Ruleset, Facts], Plan] = examine
    edit: Callable[[Ruleset, tuple[int, ...], bytes, float], bytes] = edit_header
    sign: Callable[[tuple[str, ...], bytes, bytes], bytes] = lambda names, section, body: b""
    # ^ the fields that sign, in these names, a header section and a body by its hash
    seal: Callable[[str, bytes, bytes, ArcResult, bytes], bytes] = lambda *of: b""
    # ^ ... those that seal the chain that it came with, with our results
    wishes: Callable[[Ruleset, Client], Wishes] = lambda ruleset, client: (
        TRUSTED if ruleset.trusts(client) else STRANGERS
    )  # for reports, honoured from a client
    gatherer: Gatherer | None = None  # for what rules look at and others know; None: no rule does
    cut_through: CutThrough | None = None  # for clients that may wait for the first attempt
    names: ClientNames | None = None  # of clients; None: nobody looks them up
    checks: Checks | None = None  # who else is asked before mail is taken
    filters: Filters | None = None  # who else reads the content; None: no rule asks any
    desk: FilterDesk | None = None  # ... where each session has its own
    turn: Callable[[], Awaitable[None]] = at_once  # let others have theirs
