"""virtual_alias_maps become `forward` rules, in the order in which Postfix looks things up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError
from relayd.migrate.draft import pattern
from relayd.migrate.expressions import braced, refers, template
from relayd.migrate.mailboxes import ListError, addresses
from relayd.migrate.tables import MapSpec, MapText, PatternRow, PostfixRow
from relayd.migrate.work import Work, expression_of, when
from relayd.rules.language.lexer import string

_DUMMY = ("anything", "x", "ok", "dummy", "virtual", "whatever", "domain", "postfix", "ignored")


@dataclass
class Line:
    """A row of a map, ready to be written."""

    key: str
    targets: list[str] = field(default_factory=list)
    declares: bool = False  # "example.com anything": the domain is ours

    @property
    def text(self) -> str:
        """As a line of a map file."""
        return f"{self.key} {', '.join(self.targets)}" if self.targets else f"{self.key} anything"

    @property
    def whole_domain(self) -> bool:
        """It says what becomes of every other address of a domain."""
        return self.key.startswith("@")


@dataclass
class Layer:
    """What one source adds: lines that are looked up, or expressions that are tried."""

    spec: MapSpec
    lines: list[Line]
    patterns: list[PatternRow]
    source: MapText


def virtual(work: Work) -> None:
    """virtual_alias_maps: looked up for every recipient, again and again."""
    setting = "virtual_alias_maps"
    tables = work.tables(setting)
    if not tables:
        if not work.main[setting]:
            work.report.same(setting, "none")
        return
    layers = [_layer(work, setting, table) for table in tables]
    _emit(work, setting, layers, "virtual")
    work.report.translated(
        setting,
        f"{sum(len(each.lines) + len(each.patterns) for each in layers):,} entries become"
        " `forward` rules",
    )


def _layer(work: Work, setting: str, table: MapText) -> Layer:
    lines = []
    domains = {row.key.rpartition("@")[2] for row in table.rows if "@" in row.key}
    for row in table.rows:
        line = _line(work, setting, table, row, domains)
        if line is not None:
            lines.append(line)
    return Layer(table.spec, lines, table.patterns, table)


def _line(
    work: Work, setting: str, table: MapText, row: PostfixRow, domains: set[str]
) -> Line | None:
    if "@" not in row.key and "." in row.key and "@" not in row.value:
        dummy = row.value.lower() in _DUMMY or row.key in domains
        if dummy or (row.key in work.virtual.entries and row.key not in work.bare_domains):
            return Line(row.key, declares=True)
    targets, bad = work.targets(row.value)
    mark = f"entry:{table.spec} {row.key}"
    try:
        pattern(row.key if "@" in row.key else row.key + "@")
    except AddressError as error:
        work.report.lost(
            setting, f'{table.where(row.line)}: "{row.key}" is no address: {error}', mark
        )
        work.refuse_later("@" + row.key.rpartition("@")[2] if "@" in row.key else row.key)
        return None
    for word in bad:
        work.report.lost(setting, f"{table.where(row.line)}: {row.key}: {word}: no address", mark)
    if not bad and targets == [row.key] and row.key[1:] in work.local.entries and work.aliases:
        work.listed.append(row.key)  # taken, and then it is up to the aliases
        return None
    whole = _onward(work, row.key, targets)
    if bad or not whole:  # a part of it would be less than was meant
        table.plain = False
        work.refuse_later(row.key)
        return None
    return Line(row.key, whole)


def _onward(work: Work, key: str, targets: Sequence[str]) -> list[str]:
    """An address that a map leaves as it is may yet be an alias; a rule forwards it once.

    None, where it is a list with an owner.
    """
    name = key.rpartition("@")[0] or key
    made: list[str] = []
    for each in targets:
        local, _, domain = each.lower().rpartition("@")
        same = each.lower() == key or (local == key and domain in work.bare_domains)
        same = same and domain in work.local.entries and name in work.aliases
        if same and f"owner-{name}" in work.aliases:
            return []
        made += work.aliases[name] if same else [each]
    return list(dict.fromkeys(made))


def _emit(work: Work, setting: str, layers: Sequence[Layer], kind: str) -> None:
    """In Postfix's order: whole addresses of all sources first, then whole domains."""
    at = work.bare_domains
    if not any(layer.patterns for layer in layers):
        merged = _merged([layer.lines for layer in layers])
        operand = _write(work, kind, layers, merged)
        _rule(work, operand, merged, at)
        return
    # an expression is asked before anybody takes a sub-address away
    tagged = work.tagged
    if tagged and layers[0].lines:
        for layer in layers:
            own = [line for line in layer.lines if work.is_tagged(line.key)]
            if own:
                _rule(work, _write(work, f"{kind}-tagged", [layer], own), own, at)
            for row in layer.patterns:
                pattern_rule(work, setting, layer.source, row, tagged)
    names: list[Line] = []  # without a domain
    wide: list[Line] = []
    seen: set[str] = set()
    for layer in layers:
        lines = [line for line in layer.lines if line.key not in seen]
        seen.update(line.key for line in lines)
        wide += [line for line in lines if line.whole_domain]
        names += [line for line in lines if "@" not in line.key]
        exact = [line for line in lines if "@" in line.key[1:]]
        if exact:
            _rule(work, _write(work, kind, [layer], exact), exact, at)
        for row in layer.patterns:
            pattern_rule(work, setting, layer.source, row)
    for title, lines in (("names", names), ("domains", wide)):
        if lines:
            texts = [one.text for one in lines]
            _rule(work, work.draft.map_of(f"{kind}-{title}", "virtual", texts, setting), lines, at)


def _merged(many: Sequence[Sequence[Line]]) -> list[Line]:
    """The first source's entry for a key counts."""
    merged: dict[tuple[str, bool], Line] = {}
    for lines in many:
        for line in lines:
            merged.setdefault((line.key, line.declares), line)
    return list(merged.values())


def _write(work: Work, kind: str, layers: Sequence[Layer], lines: Sequence[Line]) -> str:
    """The table: the file as it stands where it is understood as Postfix does."""
    source = layers[0].source
    name = source.path.name if source.path else kind
    if len(layers) == 1 and len(lines) == len(source.rows) and _as_it_stands(work, source, lines):
        text = source.path.read_text("utf-8").rstrip("\n").split("\n") if source.path else []
        return work.draft.map_of(
            name,
            "virtual",
            text,
            f"{source.spec}, as it stands",
            copied=True,
            spec=str(source.spec),
        )
    origin = ", ".join(str(layer.spec) for layer in layers)
    if len(layers) == 1:
        origin += ", its addresses completed"
    return work.draft.map_of(
        name, "virtual", [line.text for line in lines], origin, spec=str(source.spec)
    )


def _as_it_stands(work: Work, source: MapText, lines: Sequence[Line]) -> bool:
    if source.path is None or not source.plain or source.repeated:
        return False
    for row, line in zip(source.rows, lines, strict=True):
        if line.declares:
            continue
        given = [word for word in row.value.replace(",", " ").split() if word]
        if given != line.targets or (
            "." in row.key and "@" not in row.key and "@" not in row.value
        ):
            return False
    return True


def _rule(work: Work, operand: str, lines: Sequence[Line], at: Sequence[str]) -> None:
    bare = any("@" not in line.key and not line.declares for line in lines)
    where = f" at {', '.join('@' + domain for domain in at)}" if bare and at else ""
    if any(not line.declares for line in lines):
        work.draft.rule("forward", f"forward {operand}{where}")
        work.listed.append(operand)
    names = [f"{line.key}@{each}" for line in lines if "@" not in line.key for each in at]
    if bare and names:
        work.listed.append(work.draft.list_of("virtual-names", names, "names without a domain"))


def pattern_rule(
    work: Work, setting: str, source: MapText, row: PatternRow, only: Sequence[str] = ()
) -> None:
    """`forward regex ... -> ...`; `only`: for these, before all others."""
    where = source.where(row.line)
    found = work.condition(row, source.spec, "to")
    if only and isinstance(found, str):
        return
    if isinstance(found, str):
        work.close((), setting, f"{where}: {found}")
        return
    operand, tests = found
    targets, wrong = targets_of(work, row.value, expression_of(operand))
    if only:
        if targets and not wrong:
            text = f"forward {operand} -> {', '.join(targets)}{when([*tests, *only])}"
            work.draft.rule("forward", text, where)
        return
    if wrong or not targets:
        scope = (*([] if operand == "any" else [f"to {operand}"]), *tests)
        work.close(scope, setting, f"{where}: {row.value}: {wrong or 'no address'}")
        return
    work.draft.rule("forward", f"forward {operand} -> {', '.join(targets)}{when(tests)}", where)
    if not tests:
        work.listed.append(operand)


def targets_of(work: Work, value: str, expression: str) -> tuple[list[str], str]:
    """The targets of a pattern's value as rule text, and what is wrong with one."""
    made = []
    try:
        words = [value] if value.startswith("@") else addresses(braced(value))
    except ListError as error:
        return [], str(error)
    for word in words:
        if refers(word):
            if not expression:
                return [], f"{word}: nothing was matched that it could refer to"
            text, wrong = template(work.complete(word), expression)
            if wrong:
                return [], wrong
            made.append(string(text))
        else:
            good, bad = work.targets(word)
            if bad:
                return [], f"{word} is no address"
            made += [pattern(each) for each in good]
    return made, ""
