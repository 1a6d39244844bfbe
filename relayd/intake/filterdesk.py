"""Those who are asked, as one process has them: their connections, their speed, their trouble."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from relayd.filters.line import FilterPlace
from relayd.filters.lines import FilterLines
from relayd.filters.miltertalk import MilterLine, MilterTalk, milter_line
from relayd.filters.policyservice import PolicyService
from relayd.filters.scanning import Clamd, Rspamd
from relayd.intake.limits import NORMAL
from relayd.mail.log import MailLog
from relayd.rules.language.model import FilterDef
from relayd.rules.ruleset import Ruleset
from relayd.shared.seldom import Seldom

COMMAND = 30.0  # seconds for an answer to a command, where the definition does not say
CONTENT = 300.0  # ... about a content
MOST_MILTERS = 1000  # connections to one milter at a time: each session has its own
# of a session's phase, for all that are asked in it: others want to know things in it, too
VERDICT = NORMAL.verdict * 0.8  # seconds
EXAMINATION = NORMAL.examination * 0.8
RESERVED = 5.0  # seconds that are left for each of those who come after one


@dataclass(slots=True)
class FilterFigures:
    """How one filter has done since it was first asked."""

    asked: int = 0
    seconds: float = 0.0  # in all
    slowest: float = 0.0  # seconds
    trouble: int = 0
    last_trouble: str = ""
    last_trouble_at: float = 0.0  # seconds since the epoch


class AskedFilter:
    """One filter: how it is asked depends on its kind."""

    def __init__(self, reactor: Any, definition: FilterDef) -> None:  # noqa: ANN401
        self.definition = definition
        self.figures = FilterFigures()
        place = FilterPlace.parse(definition.where)
        self._command = float(definition.timeout) or COMMAND
        self._content = float(definition.timeout) or CONTENT
        self.milters: FilterLines[MilterLine] | None = None
        self.policy: PolicyService | None = None
        self.clamd: Clamd | None = None
        self.rspamd: Rspamd | None = None
        lines: FilterLines[Any]
        if definition.kind == "milter":
            lines = self.milters = FilterLines(reactor, place, milter_line, MOST_MILTERS)
        elif definition.kind == "policy":
            self.policy = PolicyService(reactor, place, self._command)
            lines = self.policy.lines
        elif definition.kind == "clamd":
            self.clamd = Clamd(reactor, place, self._content)
            lines = self.clamd.lines
        else:
            self.rspamd = Rspamd(reactor, place, self._content)
            lines = self.rspamd.lines
        self.lines = lines

    def talk(self) -> MilterTalk:
        """With one session."""
        assert self.milters is not None
        return MilterTalk(self.milters, self._command, self._content)

    @property
    def on_failure(self) -> str:
        """What becomes of a message about which it does not say."""
        return self.definition.on_failure or "defer"


class FilterDesk:
    """All filters of the rules in force."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of several interfaces
        log: MailLog,
        hostname: str,
        clock: Callable[[], float],
        seldom: Seldom | None = None,  # who tells of trouble; without, nobody else does
    ) -> None:
        self.hostname = hostname
        self.log = log
        self._reactor = reactor
        self._clock = clock  # seconds since the epoch
        self._seldom = seldom or Seldom(clock)
        self._filters: dict[FilterDef, AskedFilter] = {}
        self._ordered: tuple[Ruleset | None, Sequence[tuple[str, AskedFilter]]] = None, ()

    @property
    def seconds(self) -> Callable[[], float]:
        """The reactor's clock."""
        seconds: Callable[[], float] = self._reactor.seconds
        return seconds

    def order(self, ruleset: Ruleset) -> Sequence[tuple[str, AskedFilter]]:
        """Whom this rule set asks, by name and in order."""
        if ruleset is not self._ordered[0]:  # another than the last session's
            filters, asks = self._known(ruleset), ruleset.asks
            names = () if asks is None else asks.order
            self._ordered = ruleset, [(name, filters[name]) for name in names]
        return self._ordered[1]

    def keep_up(self, ruleset: Ruleset) -> None:
        """Other rules are in force: who is not asked any more has no connections left."""
        gone = set(self._filters) - set(ruleset.filters.values())
        for each in gone:
            self._filters.pop(each).lines.close()
        self._known(ruleset)

    def close(self) -> None:
        """Nobody is asked any more."""
        for each in self._filters.values():
            each.lines.close()

    def answered(self, asked: AskedFilter, began: float) -> None:
        """It has said something, to what it was asked at `began`."""
        figures, seconds = asked.figures, self._reactor.seconds() - began
        figures.asked += 1
        figures.seconds += seconds
        figures.slowest = max(figures.slowest, seconds)

    def troubled(self, asked: AskedFilter, why: str) -> None:
        """It did not say: a line in a while, and a counter."""
        figures, name = asked.figures, asked.definition.name
        figures.trouble += 1
        figures.last_trouble, figures.last_trouble_at = why, self._clock()
        who = f"{asked.definition.kind} {name}"
        times = self._seldom.times(f"filter {who} {asked.definition.where}")
        if times:
            meaning = f"on failure {asked.on_failure}"
            self.log.trouble("filter", filter=who, why=why, times=times, meaning=meaning)

    def view(self) -> list[dict[str, object]]:
        """All filters, for operators."""
        return [
            {
                "name": definition.name,
                "kind": definition.kind,
                "where": definition.where,
                "on_failure": asked.on_failure,
                "connections": asked.lines.open,
                "asked": asked.figures.asked,
                "seconds": round(asked.figures.seconds, 6),
                "slowest": round(asked.figures.slowest, 6),
                "trouble": asked.figures.trouble,
                "last_trouble": asked.figures.last_trouble,
                "last_trouble_at": asked.figures.last_trouble_at,
            }
            for definition, asked in self._filters.items()
        ]

    def _known(self, ruleset: Ruleset) -> Mapping[str, AskedFilter]:
        return {name: self._filter(each) for name, each in ruleset.filters.items()}

    def _filter(self, definition: FilterDef) -> AskedFilter:
        asked = self._filters.get(definition)
        if asked is None:
            asked = self._filters[definition] = AskedFilter(self._reactor, definition)
        return asked
