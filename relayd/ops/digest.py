"""`relayctl digest`: what came, what left, what was refused, as a summary for people.

From the ledger and the journal, in one pass, and in so much memory and no more: of senders,
mailboxes and the like those are kept that are met most.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from relayd.mail.message import RecipientState
from relayd.mail.plan import Verdict
from relayd.ops.answers import CountAnswer, DigestAnswer, HourAnswer
from relayd.ops.text import moment, octets, safe
from relayd.spool.envelopes import Dropped, Happened, Seen
from relayd.spool.sqlite.rows import UndecodableError, outcome_of

MOST = 10_000  # names of one kind that are remembered
HOUR = 3600
_HOURS = 48  # more are shown as days
_WIDE = 200  # characters of a reply
_ENDS = ("delivered", "failed", "expired", "discarded", "removed")


class Most:
    """How often each name was met. Beyond twice MOST the seldom ones are forgotten."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._octets: Counter[str] = Counter()

    def add(self, name: str, octets: int = 0) -> None:
        """Once more."""
        self._counts[name] += 1
        if octets:
            self._octets[name] += octets
        if len(self._counts) > 2 * MOST:
            self._counts = Counter(dict(self._counts.most_common(MOST)))
            self._octets = Counter({each: self._octets[each] for each in self._counts})

    def top(self, most: int) -> list[CountAnswer]:
        """Those that were met most."""
        order = sorted(self._counts.items(), key=lambda each: (-each[1], each[0]))
        return [
            {"name": name, "count": count, "octets": self._octets[name]}
            for name, count in order[:most]
        ]


class Digest:
    """Gathers what happened from `since` on, seconds since the epoch."""

    def __init__(self, since: float, until: float) -> None:
        self._since = since
        self._until = until
        self._sums: Counter[str] = Counter()
        self._hours: dict[int, HourAnswer] = {}
        self._senders, self._sender_domains, self._clients = Most(), Most(), Most()
        self._mailboxes, self._domains = Most(), Most()
        self._failures, self._refusals = Most(), Most()

    def feed(self, row: Happened) -> None:
        """One more row of the ledger."""
        if row.at > self._until:
            return
        hour, sums = self._hour(row.at), self._sums
        if row.ended:
            self._ended(row, hour)
            return
        sums["recipients"] += 1
        hour["recipients"] += 1
        mailbox = row.mailbox or ""
        self._mailboxes.add(mailbox)
        self._domains.add(_domain(mailbox))
        if row.sender is not None:
            sums["messages"] += 1
            sums["octets"] += row.size or 0
            hour["messages"] += 1
            self._accepted(row.sender, row.size or 0, _client(row.facts))

    def _accepted(self, sender: str, size: int, client: str) -> None:
        if not client:
            self._sums["own"] += 1
            return
        self._senders.add(sender or "<>", size)
        self._sender_domains.add(_domain(sender) or "<>", size)
        self._clients.add(client, size)

    def _ended(self, row: Happened, hour: HourAnswer) -> None:
        state = RecipientState(row.state)
        name, attempts = state.name.lower(), row.attempts or 0
        self._sums[name] += 1
        self._sums["attempts"] += attempts
        if attempts > 1:
            self._sums["deferred"] += 1
        if state is RecipientState.DELIVERED:
            hour["delivered"] += 1
        elif state in (RecipientState.FAILED, RecipientState.EXPIRED):
            hour["failed"] += 1
            self._failures.add(_reply(row.outcome) or name)

    def feed_journal(self, noted: Seen | Dropped) -> None:
        """One more entry of the journal."""
        if noted.at > self._until:
            return
        if isinstance(noted, Dropped):
            self._sums["not_noted"] += noted.count
        elif noted.verdict is Verdict.REFUSE:
            self._sums["refused"] += 1
            self._hour(noted.at)["refused"] += 1
            self._refusals.add(noted.reply[:_WIDE])

    def _hour(self, at: float) -> HourAnswer:
        begun = int(at // HOUR)
        if begun not in self._hours:
            self._hours[begun] = {
                "at": float(begun * HOUR),
                "messages": 0,
                "recipients": 0,
                "delivered": 0,
                "failed": 0,
                "refused": 0,
            }
        return self._hours[begun]

    def answer(self, most: int) -> DigestAnswer:
        """All of it, with so many of each kind of names."""
        sums = self._sums
        return {
            "since": self._since,
            "until": self._until,
            "messages": sums["messages"],
            "own": sums["own"],
            "octets": sums["octets"],
            "recipients": sums["recipients"],
            "delivered": sums["delivered"],
            "failed": sums["failed"],
            "expired": sums["expired"],
            "discarded": sums["discarded"],
            "removed": sums["removed"],
            "deferred": sums["deferred"],
            "attempts": sums["attempts"],
            "refused": sums["refused"],
            "not_noted": sums["not_noted"],
            "hours": [self._hours[begun] for begun in sorted(self._hours)],
            "senders": self._senders.top(most),
            "sender_domains": self._sender_domains.top(most),
            "clients": self._clients.top(most),
            "mailboxes": self._mailboxes.top(most),
            "domains": self._domains.top(most),
            "failures": self._failures.top(most),
            "refusals": self._refusals.top(most),
        }


def _domain(mailbox: str) -> str:
    return mailbox.rpartition("@")[2].lower()


def _client(facts: str | None) -> str:
    """The client's address; empty: relayd itself, or the row is damaged."""
    try:
        return str(json.loads(facts or "")[1][0] or "")
    except (ValueError, TypeError, LookupError):
        return ""


def _reply(outcome: str | None) -> str:
    try:
        found = outcome_of(outcome)
    except UndecodableError:
        return ""
    return "" if found is None else str(found.reply)[:_WIDE]


def digest_lines(answer: DigestAnswer) -> Iterator[str]:
    """As people read it."""
    yield f"{moment(answer['since'])} to {moment(answer['until'])}"
    yield ""
    own = f", {answer['own']:,} of them by relayd itself" if answer["own"] else ""
    yield f"{answer['messages']:9,}  messages accepted ({octets(answer['octets'])}){own}"
    yield f"{answer['recipients']:9,}  recipients of them"
    for name in _ENDS:
        count = answer[name]  # type: ignore[literal-required]  # each is one of its fields
        if count or name == "delivered":
            yield f"{count:9,}  {name}"
    yield f"{answer['deferred']:9,}  of them deferred at first"
    more = f", and {answer['not_noted']:,} too many to be noted" if answer["not_noted"] else ""
    yield f"{answer['refused']:9,}  recipients refused{more}"
    yield from _by_time(answer["hours"])
    for title, counts in (
        ("SENDERS", answer["senders"]),
        ("SENDERS' DOMAINS", answer["sender_domains"]),
        ("CLIENTS", answer["clients"]),
        ("RECIPIENTS", answer["mailboxes"]),
        ("RECIPIENTS' DOMAINS", answer["domains"]),
        ("FAILED, AND WHY", answer["failures"]),
        ("REFUSED, AND WHY", answer["refusals"]),
    ):
        if counts:
            yield ""
            yield f"{'COUNT':>9}  {'SIZE':>7}  {title}"
            for each in counts:
                size = octets(each["octets"]) if each["octets"] else ""
                yield safe(f"{each['count']:9,}  {size:>7}  {each['name']}")


def _by_time(hours: list[HourAnswer]) -> Iterator[str]:
    if not hours:
        return
    rows: dict[str, Counter[str]] = {}
    by_hour = hours[-1]["at"] - hours[0]["at"] < _HOURS * HOUR
    for hour in hours:
        shown = moment(hour["at"])
        figures: dict[str, Any] = {name: n for name, n in hour.items() if name != "at"}
        rows.setdefault(shown[:16] if by_hour else shown[:10], Counter()).update(figures)
    names = ("messages", "recipients", "delivered", "failed", "refused")
    yield ""
    head = "  ".join(f"{name.upper():>10}" for name in names)
    yield f"{'HOUR' if by_hour else 'DAY':16}  {head}"
    for when, counts in rows.items():
        yield f"{when:16}  {'  '.join(f'{counts[name]:10,}' for name in names)}"
