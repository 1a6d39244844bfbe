"""How long mail is on its way through relayd: from its 250 to the next hop's."""

from __future__ import annotations

import time

from tests.faults.crowds import percentile
from tests.faults.journal import Journal


def transits(journal: Journal, domain: str, since: float, until: float) -> list[float]:
    """Seconds of each letter to that domain that got its 250 in this time (monotonic).

    One that has not arrived yet counts with the seconds that it has waited so far.
    """
    ours: set[str] = set()
    taken: dict[str, float] = {}
    arrived: dict[str, float] = {}
    for entry in journal.entries():
        kind = entry["kind"]
        if kind == "sent" and any(each.endswith(f"@{domain}") for each in entry["accepted"]):
            ours.add(entry["name"])
        elif kind == "answered" and entry["code"] == 250 and since <= entry["at"] < until:
            taken[entry["name"]] = entry["at"]
        elif kind == "arrived":
            arrived.setdefault(entry["name"], entry["at"])
    now = time.monotonic()
    return [max(arrived.get(name, now) - taken[name], 0.0) for name in ours & taken.keys()]


def slowest(journal: Journal, domain: str, since: float, until: float) -> float:
    """The p99 of them; 0 if there were none."""
    return percentile(transits(journal, domain, since, until), 0.99)
