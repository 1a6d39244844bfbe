"""A stage: rules in order, and an index that finds the few which can fit without a scan.

Every rule is filed under one condition that must hold for it, where that condition names definite
things (mailboxes, domains, networks, names); the rest are looked at each time. The candidates are
then tried in the order of the file, so the first match wins as if all had been tried.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Generic, TypeVar

from relayd.mail.client import Client
from relayd.mail.plan import Step
from relayd.rules.model import Condition, Rule
from relayd.rules.pattern import (
    Anything,
    Domain,
    Exact,
    InTable,
    LocalPart,
    Net,
    Null,
    Regex,
    SubDomains,
    Text,
)
from relayd.rules.regex import search
from relayd.rules.replace import mapped
from relayd.rules.subject import NetIndex, Subject, client_number
from relayd.rules.table import Table, Unknown

NULL_PROBE = "<>"
R = TypeVar("R", bound=Rule)
Test = Callable[["View"], bool]


class View:
    """What the conditions look at. Stages change sender and recipient as they rewrite them."""

    __slots__ = ("client", "notes", "recipient", "sender")

    def __init__(self, client: Client, sender: Subject | None, recipient: Subject) -> None:
        self.client = client
        self.sender = sender
        self.recipient = recipient
        self.notes: list[str] = []  # where tables held what they were asked


class ReadyRule(Generic[R]):
    """One rule, ready to run."""

    __slots__ = ("mapped", "needed", "number", "rule", "step", "tests")

    def __init__(self, rule: R, number: int, tests: Sequence[Test]) -> None:
        self.rule = rule
        self.number = number
        self.tests = tests  # all conditions
        self.needed = tests  # those that the index has not answered
        # its tables, not its own text, must be asked for what fits
        self.mapped = mapped(getattr(rule, "patterns", ()))
        self.step = Step(rule.stage, str(rule.place), rule.text)

    def holds(self, view: View) -> bool:
        """Whether every condition holds. No wins over unknown; raises Unknown."""
        unknown: Unknown | None = None
        for test in self.needed:
            try:
                if not test(view):
                    return False
            except Unknown as answer:
                unknown = answer
        if unknown is not None:
            raise unknown
        return True

    def noted(self, *notes: str) -> Step:
        """The trail's step with notes."""
        step = self.step
        return Step(step.stage, step.place, step.rule, "; ".join(filter(None, notes)))


class Stage(Generic[R]):
    """Rules of one stage; `conditions` says what must hold for a rule."""

    def __init__(
        self,
        rules: Sequence[R],
        conditions: Callable[[R], Sequence[Condition]],
        tables: Mapping[str, Table],
    ) -> None:
        self._to: dict[str, list[int]] = {}
        self._sender: dict[str, list[int]] = {}
        self._networks = NetIndex()
        self._names: dict[str, dict[str, list[int]]] = {"login": {}, "listener": {}}
        self._always: list[int] = []
        self._owners: list[Table] = []  # tables that may hold a tagged mailbox of its own
        self.entries = [
            self._entry(rule, number, conditions(rule), tables) for number, rule in enumerate(rules)
        ]
        self._all_always = [self.entries[number] for number in self._always]

    def _entry(
        self, rule: R, number: int, conditions: Sequence[Condition], tables: Mapping[str, Table]
    ) -> ReadyRule[R]:
        entry = ReadyRule(rule, number, [compile_condition(each, tables) for each in conditions])
        operands = [one for each in conditions if each.kind == "to" for one in each.operands]
        operands += getattr(rule, "patterns", ())
        names = {one.name for one in operands if isinstance(one, InTable)}
        self._owners += [tables[name] for name in names]
        for at, condition in enumerate(conditions):
            if not condition.negated and self._file(condition, number):
                entry.needed = [test for n, test in enumerate(entry.tests) if n != at]
                return entry
        self._always.append(number)
        return entry

    def _file(self, condition: Condition, number: int) -> bool:
        """File the rule under this condition, if it is definite."""
        kind, operands = condition.kind, condition.operands
        if kind in ("to", "sender"):
            probes = [_probe_of(operand) for operand in operands]
            if not all(probes):
                return False
            index = self._to if kind == "to" else self._sender
            for probe in probes:
                index.setdefault(probe, []).append(number)
            return True
        if kind == "from" and all(isinstance(operand, Net) for operand in operands):
            for operand in operands:
                if isinstance(operand, Net):
                    self._networks.add(operand.network, number)
            return True
        if kind in self._names and all(isinstance(operand, Text) for operand in operands):
            for operand in operands:
                self._names[kind].setdefault(str(_folded(operand)), []).append(number)
            return True
        return False

    @property
    def always(self) -> Sequence[int]:
        """Numbers of the rules that the index does not hold."""
        return self._always

    def filed(self, kind: str, key: str | tuple[int, int] | None) -> Sequence[int]:
        """Numbers of the rules filed under a probe, name or client's number."""
        if kind == "from":
            return self._networks.find(key) if not isinstance(key, str) else ()
        index = {"to": self._to, "sender": self._sender, **self._names}.get(kind, {})
        return index.get(key, ()) if isinstance(key, str) else ()

    def owns(self, key: str) -> bool:
        """Whether exactly this mailbox has a rule or a table's entry of its own."""
        return key in self._to or any(table.owns(key) for table in self._owners)

    def candidates(self, view: View) -> Sequence[ReadyRule[R]]:
        """The rules that may hold, in order."""
        recipient = view.recipient
        if recipient.others:
            recipient.wide = () if self.owns(recipient.key) else recipient.others
        found: list[int] = []
        if self._to:
            _collect(self._to, recipient.probes, found)
            if recipient.wide:
                _collect(self._to, recipient.wide, found)
        if self._sender:
            probes = (NULL_PROBE,) if view.sender is None else view.sender.probes
            _collect(self._sender, probes, found)
        if len(self._networks):
            found += self._networks.find(client_number(view.client.address))
        for kind, index in self._names.items():
            if index:
                found += index.get(getattr(view.client, kind).lower(), ())
        if not found:
            return self._all_always
        found += self._always
        entries = self.entries
        return [entries[number] for number in sorted(set(found))]

    def first(self, view: View) -> ReadyRule[R] | None:
        """The first rule that holds; raises Unknown."""
        for entry in self.candidates(view):
            view.notes.clear()
            if entry.holds(view):
                return entry
        return None


def _collect(index: dict[str, list[int]], probes: Sequence[str], found: list[int]) -> None:
    for probe in probes:
        numbers = index.get(probe)
        if numbers is not None:
            found += numbers


def _probe_of(operand: object) -> str:
    if isinstance(operand, Exact | Domain | SubDomains | LocalPart):
        return operand.probe
    return NULL_PROBE if isinstance(operand, Null) else ""


def _folded(operand: object) -> str:
    return operand.text.lower() if isinstance(operand, Text) else ""


def compile_condition(condition: Condition, tables: Mapping[str, Table]) -> Test:
    """The condition as a function of a view; the function may raise Unknown."""
    kind = condition.kind
    if kind == "any":
        tests: list[Test] = [_yes]
    elif kind == "tls":
        tests = [lambda view: bool(view.client.tls)]
    else:
        tests = [_compile(kind, operand, tables) for operand in condition.operands]
    test = tests[0] if len(tests) == 1 else _either(tests)
    return (lambda view: not test(view)) if condition.negated else test


def _yes(_view: View) -> bool:
    return True


def _either(tests: list[Test]) -> Test:
    def test(view: View) -> bool:
        unknown: Unknown | None = None
        for one in tests:
            try:
                if one(view):
                    return True
            except Unknown as answer:
                unknown = answer
        if unknown is not None:
            raise unknown
        return False

    return test


def _compile(kind: str, operand: object, tables: Mapping[str, Table]) -> Test:
    if kind in ("to", "sender"):
        return compile_mailbox(kind, operand, tables)
    if isinstance(operand, Anything):
        return _yes if kind == "from" else (lambda view: bool(getattr(view.client, kind)))
    if isinstance(operand, InTable):
        return _in_table(kind, tables[operand.name])
    if kind == "certificate":
        # two fingerprints: of the certificate, and of its key, which outlives it
        return lambda view: _folded(operand) in view.client.certificate.split()
    if isinstance(operand, Net):
        index = NetIndex()
        index.add(operand.network, 0)
        return lambda view: bool(index.find(client_number(view.client.address)))
    wanted = _folded(operand)
    return lambda view: getattr(view.client, kind).lower() == wanted


def _in_table(kind: str, table: Table) -> Test:
    def test(view: View) -> bool:
        if kind == "from":
            note = table.client(view.client.address)
        elif kind == "certificate":
            prints = view.client.certificate.split()
            note = next(filter(None, map(table.word, prints)), "")
        else:
            note = table.word(getattr(view.client, kind))
        if note:
            view.notes.append(note)
        return bool(note)

    return test


def compile_mailbox(kind: str, operand: object, tables: Mapping[str, Table]) -> Test:
    """A mailbox pattern as a function of a view, looking at its recipient or sender."""

    def subject(view: View) -> Subject | None:
        return view.recipient if kind == "to" else view.sender

    probe = _probe_of(operand)
    if isinstance(operand, Anything):
        return _yes
    if isinstance(operand, Null):
        return lambda view: subject(view) is None
    if probe:

        def fits(view: View) -> bool:
            seen = subject(view)
            return seen is not None and (probe in seen.probes or probe in seen.wide)

        return fits
    if isinstance(operand, Regex):
        text = operand.text

        def matches(view: View) -> bool:
            seen = subject(view)
            return seen is not None and search(text, seen.key) is not None

        return matches
    assert isinstance(operand, InTable)
    table = tables[operand.name]

    def held(view: View) -> bool:
        seen = subject(view)
        note = "" if seen is None else table.mailbox(seen)
        if note:
            view.notes.append(note)
        return bool(note)

    return held
