"""What is counted for `metrics`: a MailLog that hears what the real one writes.

Labels come from the configuration (names of next hops and providers) and from us (states, classes
of replies, kinds): never from an address, a domain or a word of a stranger. Whatever else would
make more of them than _MOST is counted as "other".
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence

from relayd.mail.client import Client
from relayd.mail.envelope import Direction
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.pacing import Pacing
from relayd.ops.maillog import STATUS
from relayd.shared.meters import Meters

ACCEPT_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0)
COMMIT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
DELIVERY_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0, 86400.0)

_MOST = 40  # values of one label
_MOST_HOPS = 100
_MOST_KEPT = 5000  # hosts and ways of which it is remembered whose they are
_STATUS = re.compile(r"[245]\d\d(?: [245]\.\d{1,3}\.\d{1,3})?")
_ENDS = frozenset({"quit", "lost", "timeout"})


class Histogram:
    """How often something took how long."""

    def __init__(self, meters: Meters, name: str, bounds: Sequence[float]) -> None:
        self._cells = meters.cells
        self._bounds = bounds
        # each bucket for itself; they are added up when somebody looks (relayd.ops.openmetrics)
        self._slots = [meters.slot(f'{name}_bucket{{le="{bound}"}}') for bound in bounds]
        self._slots.append(meters.slot(f'{name}_bucket{{le="+Inf"}}'))
        self._sum = meters.slot(f"{name}_sum")

    def add(self, seconds: float) -> None:
        """Once more."""
        place = 0
        for bound in self._bounds:
            if seconds <= bound:
                break
            place += 1
        self._cells[self._slots[place]] += 1
        self._cells[self._sum] += seconds


class Counting:
    """Counts what the log hears."""

    def __init__(
        self,
        meters: Meters,
        pacing: Callable[[], Pacing],
        clock: Callable[[], float] = time.time,
        *,
        reloads: bool = True,
    ) -> None:
        """`pacing`: of the rules in force, which know the names of providers.

        `reloads`: they are counted here; of several processes by the master alone.
        """
        self._reloads = reloads
        self._meters = meters
        self._cells = meters.cells
        self._pacing = pacing
        self._known: Pacing | None = None
        self._clock = clock
        self._messages = meters.slot("relayd_accepted_messages_total")
        self._recipients = meters.slot("relayd_accepted_recipients_total")
        self._octets = meters.slot("relayd_accepted_bytes_total")
        self._accept = Histogram(meters, "relayd_accept_seconds", ACCEPT_SECONDS)
        self._delivery = Histogram(meters, "relayd_delivery_seconds", DELIVERY_SECONDS)
        # the spool's thread adds to these, and to no others
        self._commit = Histogram(meters, "relayd_commit_seconds", COMMIT_SECONDS)
        self._writes = meters.slot("relayd_commit_writes_total")
        # who holds the guard of the log's output adds to this one, and to no other
        self._dropped = meters.slot("relayd_log_dropped_total")
        self._slots: dict[tuple[str, ...], int] = {}
        self._values: dict[str, set[str]] = {}
        self._providers: dict[str, str] = {}
        self._hops: dict[str, str] = {}

    def _count(self, name: str, *labels: str) -> None:
        """One more; labels are names and values, by turns."""
        key = (name, *labels)
        slot = self._slots.get(key)
        if slot is None:
            pairs = zip(labels[::2], labels[1::2], strict=True)
            told = ",".join(f'{label}="{_escaped(value)}"' for label, value in pairs)
            slot = self._slots[key] = self._meters.slot(f"{name}{{{told}}}" if told else name)
        self._cells[slot] += 1

    def _bounded(self, label: str, value: str) -> str:
        """The value, or what stands for all that are too many."""
        known = self._values.setdefault(label, set())
        if value not in known:
            if len(known) >= (_MOST_HOPS if label == "next_hop" else _MOST):
                return "other"
            known.add(value)
        return value

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        """An SMTP session ended."""
        how = end if end in _ENDS else "421" if end.startswith("421") else "other"
        self._count("relayd_sessions_total", "end", how, "tls", _version(client.tls))

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        """A command was refused."""
        found = _STATUS.match(reply)
        self._count(
            "relayd_refused_total", "reply", self._bounded("reply", found[0] if found else "")
        )

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        """A message is on stable storage."""
        cells = self._cells
        cells[self._messages] += 1
        cells[self._recipients] += len(records)
        cells[self._octets] += message.content.size
        self._accept.add(seconds)

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        """What an attempt, the operator or age made of recipients."""
        for each in settlements:
            outcome = each.outcome
            said = "none" if outcome is None else f"{outcome.reply.code // 100}xx"
            host = "" if outcome is None else outcome.remote_mta
            self._count(
                "relayd_attempts_total",
                *("next_hop", self._hop(each.record.recipient.next_hop)),
                *("provider", self._provider(host) if host else ""),
                *("state", STATUS[each.state], "reply", said),
            )
            if each.state is RecipientState.DELIVERED:
                self._delivery.add(max(self._clock() - message.received_at, 0.0))
                self._count("relayd_sent_total", "tls", _version(outcome.tls if outcome else ""))

    def _hop(self, text: str) -> str:
        found = self._hops.get(text)
        if found is None:
            if len(self._hops) >= _MOST_KEPT:
                self._hops.clear()
            way = Direction.parse(text)
            name = "direct" if way.direct else ",".join(way.names) or "none"
            found = self._hops[text] = self._bounded("next_hop", name[:60])
        return found

    def _provider(self, host: str) -> str:
        pacing = self._pacing()
        if pacing is not self._known or len(self._providers) >= _MOST_KEPT:
            self._known = pacing
            self._providers.clear()
        found = self._providers.get(host)
        if found is None:
            name = pacing.provider_of((host.lower(),))[:60]
            found = self._providers[host] = self._bounded("provider", name) if name else ""
        return found

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        """A report was queued."""
        self._count("relayd_reports_total", "kind", kind)

    def notice(self, event: str, **facts: object) -> None:
        """Something an operator should know."""
        if event == "reloaded" and self._reloads:
            self._count("relayd_reloads_total")
        elif event == "report kept back":
            self._count("relayd_reports_kept_total")

    def trouble(self, event: str, **facts: object) -> None:
        """Something an operator should look at."""
        self._count("relayd_troubles_total", "event", self._bounded("event", event))

    # beside the log, which says nothing of them

    def committed(self, writes: int, seconds: float) -> None:
        """The spool has written so many requests in one commit; called in the spool's thread."""
        self._cells[self._writes] += writes
        self._commit.add(seconds)

    def log_dropped(self, lines: int) -> None:
        """So many lines of the log found no reader; any thread may call, one at a time."""
        self._cells[self._dropped] += lines

    def forecast(self, right: bool) -> None:
        """What was foreseen of a copy has come, or has not."""
        self._count("relayd_forecasts_total", "verdict", "right" if right else "wrong")


def _version(tls: str) -> str:
    """Of TLS: the first word of what the log says of it."""
    return tls.partition(" ")[0][:20] or "none"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
