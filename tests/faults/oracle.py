"""Reads a journal and says what became of every letter. It knows nothing of relayd's own code."""

from __future__ import annotations

import email
import email.policy
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.faults.journal import Entry
from tests.faults.letters import kind_of

IN_FLIGHT = 5.0  # seconds that an outcome may take from the sink's 250 to relayd's disk
RECORDING = 0.1  # ... and takes while nothing is broken
_OF_OTHERS = ("filter", "clean", "released", "ousted")  # judged by words.py and tenure.py


@dataclass
class Verdict:
    """What a run showed. The first four are mailboxes, the rest is what must not be."""

    acknowledged: int = 0  # taken over by relayd with 250
    delivered: int = 0
    reported: int = 0
    duplicates: int = 0  # arrivals beyond the first, of deliveries in flight at a fault
    unanswered: int = 0  # letters that arrived, whose 250 a fault swallowed
    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)  # duplicates that no fault excuses
    both: list[str] = field(default_factory=list)  # delivered, and reported as failed
    altered: list[str] = field(default_factory=list)  # not octet for octet what was sent
    unwanted: list[str] = field(default_factory=list)  # arrived though it was refused
    wrongly_reported: list[str] = field(default_factory=list)  # that anybody would have taken

    @property
    def complaints(self) -> list[str]:
        """In words; empty if every promise was kept."""
        kinds = ("lost", "twice", "both", "altered", "unwanted", "wrongly_reported")
        return [
            f"{kind.replace('_', ' ')}: {len(found)}, e.g. {found[0]}"
            for kind in kinds
            if (found := getattr(self, kind))
        ]


@dataclass
class _Sent:
    digest: str
    accepted: list[str]
    refused: list[str]
    code: int = 0  # 0: relayd never answered


@dataclass
class Arrival:
    """Of a recipient."""

    at: float
    session: int
    said: bool
    digest: str
    by: str


class Oracle:
    """Collects a journal's entries, then judges."""

    def __init__(
        self,
        entries: Iterable[Entry],
        *,
        reports_are_exact: bool = True,
        in_flight: float = IN_FLIGHT,
    ) -> None:
        self._reports_are_exact = reports_are_exact  # only "no" recipients fail for good
        self._in_flight = in_flight
        self._sent: dict[str, _Sent] = {}
        self._arrivals: dict[str, list[Arrival]] = defaultdict(list)
        self._reports: dict[str, dict[str, list[Arrival]]] = defaultdict(lambda: defaultdict(list))
        self._faults: list[float] = []
        self._cuts: dict[int, float] = {}
        for entry in entries:
            if entry["kind"] not in _OF_OTHERS:
                getattr(self, f"_{entry['kind']}_entry")(entry)

    def _sent_entry(self, entry: Entry) -> None:
        self._sent[entry["name"]] = _Sent(entry["digest"], entry["accepted"], entry["refused"])

    def _answered_entry(self, entry: Entry) -> None:
        self._sent[entry["name"]].code = entry["code"]

    def _fault_entry(self, entry: Entry) -> None:
        self._faults.append(entry["at"])

    def _cut_entry(self, entry: Entry) -> None:
        self._cuts[entry["session"]] = entry["at"]

    def _arrived_entry(self, entry: Entry) -> None:
        for mailbox in entry["recipients"]:
            self._arrivals[mailbox].append(_arrival(entry, entry["digest"]))

    def _report_entry(self, entry: Entry) -> None:
        ident, failed = failures(entry["text"])
        for mailbox in failed:
            self._reports[mailbox][ident].append(_arrival(entry, ""))

    def judge(self) -> Verdict:
        """Every letter and everything that arrived, once."""
        verdict = Verdict()
        expected: set[str] = set()
        for letter in self._sent.values():
            self._judge_letter(letter, verdict)
            if letter.code in (0, 250):
                expected.update(letter.accepted)
        verdict.unwanted += sorted((set(self._arrivals) | set(self._reports)) - expected)
        return verdict

    def _judge_letter(self, letter: _Sent, verdict: Verdict) -> None:
        acknowledged = letter.code == 250
        arrived = False
        for mailbox in letter.accepted:
            arrivals, reports = self._arrivals.get(mailbox, []), self._reports.get(mailbox, {})
            arrived = arrived or bool(arrivals)
            verdict.acknowledged += acknowledged
            verdict.delivered += bool(arrivals)
            verdict.reported += bool(reports)
            if acknowledged and not arrivals and not reports:
                verdict.lost.append(mailbox)
            if arrivals and reports:
                verdict.both.append(mailbox)
            if reports and self._reports_are_exact and kind_of(mailbox) != "no":
                verdict.wrongly_reported.append(mailbox)
            if any(each.digest != letter.digest for each in arrivals):
                verdict.altered.append(mailbox)
            if len(reports) > 1:
                verdict.twice.append(f"{mailbox} in {len(reports)} reports")
            for came in (arrivals, *reports.values()):
                self._count(mailbox, came, verdict)
        verdict.unanswered += arrived and letter.code == 0

    def _count(self, mailbox: str, came: list[Arrival], verdict: Verdict) -> None:
        for earlier in came[:-1]:
            if self.excused(earlier):
                verdict.duplicates += 1
            else:
                verdict.twice.append(mailbox)

    def excused(self, arrival: Arrival) -> bool:
        """Whether relayd could not know of it: a duplicate that promise 2 allows."""
        if not arrival.said:
            return True
        if any(abs(at - arrival.at) <= RECORDING for at in self._faults):
            return True  # also where the session had come to its end by then
        cut = self._cuts.get(arrival.session)
        return cut is not None and any(
            at <= cut + 1 and cut <= at + self._in_flight and arrival.at >= at - self._in_flight
            for at in self._faults
        )


def _arrival(entry: Entry, digest: str) -> Arrival:
    return Arrival(entry["at"], entry["session"], entry["said"], digest, entry.get("by", ""))


def failures(text: str) -> tuple[str, list[str]]:
    """A report's own Message-ID, and the recipients that it says have failed (RFC 3464)."""
    report = email.message_from_string(text, policy=email.policy.compat32)
    failed = []
    for part in report.walk():
        if part.get_content_type() != "message/delivery-status":
            continue
        for fields in part.get_payload():
            if str(fields.get("Action", "")).strip().lower() == "failed":  # type: ignore[union-attr]
                failed.append(str(fields["Final-Recipient"]).split(";", 1)[1].strip())  # type: ignore[index]
    return str(report["Message-ID"]), failed
