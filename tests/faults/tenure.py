"""Judges a cluster by its journal: what a node sent in its time, and what came after it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.faults.journal import Entry
from tests.faults.oracle import Arrival, Oracle

RECORDING = 2.0  # seconds that an outcome takes to the database of a busy machine, at most


class Tenures(Oracle):
    """As for one relayd, but what may come twice is what the broken node itself has sent.

    `grace`: seconds after a fault for which a node may send what it cannot record.
    """

    def __init__(self, entries: Iterable[Entry], *, grace: float) -> None:
        self._grace = grace
        self._troubles: list[tuple[str, float]] = []
        super().__init__(entries)

    def _fault_entry(self, entry: Entry) -> None:
        if entry["node"]:
            self._troubles.append((entry["node"], entry["at"]))

    def excused(self, arrival: Arrival) -> bool:
        """Whether its record may have been lost: promise 2 allows that it comes again."""
        return not arrival.said or any(
            node == arrival.by and at - RECORDING <= arrival.at <= at + self._grace
            for node, at in self._troubles
        )


def stale(entries: Iterable[Entry]) -> Iterator[str]:
    """Who got mail from a node whose mail was others' by then: it was sent under an old epoch.

    Of each node that was ousted, what it had taken before, until the next fault gives it more.
    """
    via: dict[str, str] = {}
    taken: dict[str, tuple[str, float]] = {}  # letters, and by which node, and when
    ousted: dict[str, float] = {}  # nodes, and of which time
    for entry in entries:
        kind = entry["kind"]
        if kind == "sent":
            via[entry["name"]] = entry["via"]
        elif kind == "answered" and entry["code"] == 250:
            taken[entry["name"]] = via[entry["name"]], entry["at"]
        elif kind == "fault":
            ousted.clear()
        elif kind == "ousted":
            ousted[entry["node"]] = entry["since"]
        elif kind == "arrived" and entry["by"] in ousted:
            node, at = taken.get(entry["name"], ("", 0.0))
            if node == entry["by"] and at < ousted[node]:
                yield from entry["recipients"]
