"""Reports to strangers: how many there are, and what the postmaster hears of the others.

Of a stranger's reverse-path nothing is known: whoever attacks with forged ones would have us write
to as many innocents. A report that the budget has no room for is kept, in a digest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from relayd.mail.ident import ident_text
from relayd.mail.pacing import Rate
from relayd.mail.value import dataclass
from relayd.report.fields import stamp

SHOWN = 20  # lines of each list in a digest, the longest first
_WIDEST = 60  # columns of one name in it
_WORDS = 160  # ... and of what a server said


@dataclass(frozen=True, slots=True)
class ReportBudget:
    """How many reports strangers get: all of them together, and each address; None: any number."""

    in_all: Rate | None = None
    each: Rate | None = None
    never: bool = False  # none at all

    def __str__(self) -> str:
        if self.never:
            return "none"
        parts = [str(self.in_all)] if self.in_all else []
        parts += [f"{self.each} per address"] if self.each else []
        return ", ".join(parts) or "any"


DEFAULT_BUDGET = ReportBudget(Rate(100, "1h"), Rate(3, "1d"))


@dataclass(frozen=True, slots=True)
class KeptReport:
    """One report that was not sent."""

    message: int  # that it would be about
    at: float  # seconds since the epoch
    kind: str  # as Report.kind
    sender: str  # who would have got it
    client: str  # the address that the message came from
    recipient: str  # one of those that it would tell of
    recipients: int  # how many these are
    reply: str  # what was said of that one


@dataclass(frozen=True, slots=True)
class KeptShare:
    """What of the kept reports is of one sender, of one client, or for one reason."""

    name: str
    reports: int
    recipients: int
    message: int  # the last one, for `relayctl why`
    reply: str = ""  # ... and what was said of a recipient of it


@dataclass(frozen=True, slots=True)
class KeptSummary:
    """Kept reports, in all and by what they have in common; the beginnings of long lists."""

    reports: int
    recipients: int
    first: float  # seconds since the epoch
    last: float
    senders: tuple[KeptShare, ...] = ()
    clients: tuple[KeptShare, ...] = ()
    reasons: tuple[KeptShare, ...] = ()
    all_senders: int = 0  # how many there are
    all_clients: int = 0
    all_reasons: int = 0
    told_at: float = 0.0  # when the postmaster was told; 0: not yet

    def lines(self) -> Iterator[str]:
        """For a reader, in ASCII."""
        for title, shares, number in (
            ("They would have gone to", self.senders, self.all_senders),
            ("The messages came from", self.clients, self.all_clients),
            ("The reasons were", self.reasons, self.all_reasons),
        ):
            yield ""
            yield f"{title}:"
            yield ""
            for share in shares:
                yield f"{share.reports:>9,}  {_plain(share.name, _WIDEST)}"
                if share.reply:
                    yield f"{'':11}{_plain(share.reply, _WORDS)}"
                yield f"{'':11}the last one: relayctl why {ident_text(share.message)}"
            if number > len(shares):
                yield f"{'':11}... and {number - len(shares):,} more"


def digest(
    kept: Sequence[KeptSummary], *, ident: int, hostname: str, to: str, now: float, budget: str
) -> bytes:
    """The message for the postmaster: header section and body in 7 bits, of a bounded size."""
    reports = sum(each.reports for each in kept)
    noun = "report" if reports == 1 else "reports"
    text = [
        f"{reports:,} {noun} about mail that could not be delivered (or is late) went to nobody.",
        "",
        "Nothing shows that their addressees sent that mail: no login, no rule that names the",
        "client, no SPF record that lets it send for them. Where somebody forges senders, such",
        f"reports hit innocents; so only some are sent (reports strangers {budget}).",
        "",
        "Nothing is to be done about an attack. If a sender should have heard: let him log in,",
        "publish SPF, or be named by a rule; or change the setting.",
    ]
    for each in kept:
        text += ["", f"{each.reports:,}, {_when(each)}:"]
        text += each.lines()
    text += ["", "All that is kept: relayctl backscatter"]
    head = [
        f"Date: {stamp(now)}",
        f"From: Mail Delivery System <MAILER-DAEMON@{hostname}>",
        f"To: <{to}>",
        f"Subject: {reports:,} {noun} kept back from strangers",
        f"Message-ID: <{ident_text(ident)}.kept@{hostname}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=us-ascii",
    ]
    return "\r\n".join([*head, "", *text, ""]).encode("ascii", "backslashreplace")


def _when(kept: KeptSummary) -> str:
    return f"from {stamp(kept.first)} to {stamp(kept.last)}"


def _plain(text: str, limit: int) -> str:
    """As it may stand in a text of ours."""
    octets = text.encode("ascii", "backslashreplace")
    clean = "".join(chr(each) if 0x20 <= each < 0x7F else "?" for each in octets)
    return clean if len(clean) <= limit else clean[: limit - 3] + "..."
