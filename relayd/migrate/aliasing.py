"""alias_maps become a `forward` at the local domains; relocated_maps become refusals."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from relayd.mail.address import AddressError
from relayd.migrate.draft import pattern
from relayd.migrate.forwarding import Line
from relayd.migrate.mailboxes import items
from relayd.migrate.maincf import readable
from relayd.migrate.tables import MapSpec, MapText, PostfixRow
from relayd.migrate.work import Work
from relayd.rules.language.lexer import string
from relayd.rules.language.regex import trouble

_OWNERS = "owner_request_special"
MOST_TAGGED = 500  # aliases with a rule of their own for their sub-addresses
MAX_INCLUDED = 8  # :include: files inside each other


def read_aliases(work: Work, *, used: bool) -> None:
    """alias_maps: names of the local domains; only where local(8) delivers."""
    setting = "alias_maps"
    if not work.main.is_given(setting):
        _default_aliases(work)
    if not used:
        work.report.unneeded(setting, "local_transport is not local(8), which reads aliases")
        return
    if not work.local:
        work.report.unneeded(setting, "there is no local domain")
        return
    for table in work.tables(setting, aliases=True):
        for row in table.rows:
            line = _alias(work, table, row)
            if line is not None:
                work.aliases.setdefault(line.key, line.targets)
    if setting in work.incomplete:
        work.report.note("alias_maps: one of them is missing, so all local names wait")
        work.aliases.clear()


def aliases(work: Work) -> None:
    """What was read as rules, behind those of the virtual maps."""
    setting = "alias_maps"
    lines = [Line(key, targets) for key, targets in work.aliases.items()]
    if not lines:
        return
    at = [domain for domain in work.local.entries if not domain.startswith(".")]
    if not at:
        work.report.lost(
            setting, "no local domain is known by name, so no alias applies", "class:local"
        )
        return
    _tagged(work, lines, at)
    operand = _table(work, "aliases", lines, f"{setting}, addresses completed")
    work.draft.rule("forward", f"forward {operand} at {', '.join('@' + each for each in at)}")
    work.report.translated(setting, f"{len(lines):,} aliases, at the local domains")
    owned = _owned(work, lines)
    if work.main.is_given(_OWNERS):
        work.report.translated(_OWNERS, "as the aliases were written down")
    if owned and len(at) > 1:
        work.report.note(
            "the reverse-path of a list is owner-NAME at the domain that was written to;"
            " Postfix writes $myorigin",
            "owner",
        )


def _table(work: Work, name: str, lines: Sequence[Line], origin: str) -> str:
    """A table of names; without owners it is none of aliases(5), where owner-NAME has a meaning."""
    kind, mark = ("aliases", ":") if work.main.yes(_OWNERS) else ("virtual", "")
    texts = [f"{_quoted(line.key)}{mark} {', '.join(line.targets)}" for line in lines]
    return work.draft.map_of(name, kind, texts, origin)


def _owned(work: Work, lines: Sequence[Line]) -> set[str]:
    """The lists that have an owner, to whom reports about their members go."""
    owners = (line.key for line in lines if work.main.yes(_OWNERS))
    return {key.removeprefix("owner-") for key in owners if key.startswith("owner-")}


def _tagged(work: Work, lines: Sequence[Line], at: Sequence[str]) -> None:
    """`root+x` finds the alias `root` and loses its `+x` with Postfix; relayd's tables keep it."""
    marks = work.draft.subaddress
    if not marks:
        return
    domains = "|".join(re.escape(each.lower()) for each in at)
    end = f"[{re.escape(marks)}][^@]*@(?:{domains})$"
    own = [line for line in lines if any(mark in line.key[1:] for mark in marks)]
    if own:
        operand = _table(work, "aliases-tagged", own, "alias_maps")
        work.draft.rule("forward", f"forward {operand} at {', '.join('@' + each for each in at)}")
    owned = _owned(work, lines)
    for number, line in enumerate(lines):
        if line.key in owned:  # the rule would not know the owner
            why = f"{line.key} with a sub-address"
            work.close((f"to regex {string(f'^{re.escape(line.key)}{end}')}",), "alias_maps", why)
            continue
        text = f"^{re.escape(line.key)}{end}"
        if number >= MOST_TAGGED or trouble(text) is not None:
            why = "aliases with a sub-address: relayd would carry it on, Postfix drops it"
            work.close((f"to regex {string(end)}",), "alias_maps", why)
            break
        targets = ", ".join(pattern(each) for each in line.targets)
        work.draft.rule("forward", f"forward regex {string(text)} -> {targets}", line.key)


def _default_aliases(work: Work) -> None:
    """The built-in default names tables that a machine may not have."""
    default = work.shelf.read(MapSpec("hash", "/etc/aliases"), aliases=True)
    main = work.main
    if default.trouble:
        main.default("alias_maps", "")
        work.report.same("alias_maps", "there is no /etc/aliases")
    else:
        main.default("alias_maps", "hash:/etc/aliases")


def _quoted(key: str) -> str:
    return pattern(f"{key}@").removesuffix("@")


def _alias(work: Work, table: MapText, row: PostfixRow) -> Line | None:
    setting, mark = "alias_maps", f"entry:{table.spec} {row.key}"
    where = table.where(row.line)
    try:
        pattern(row.key + "@")
    except AddressError as error:
        work.report.lost(setting, f'{where}: "{row.key}" is no name: {error}', mark)
        return None
    targets: list[str] = []
    troubles: list[str] = []
    for item, why in _alias_items(work, row.value):
        if why:
            work.report.lost(setting, f"{where}: {row.key}: {why}", mark)
            troubles.append(why)
        else:
            targets.append(item)
    if troubles or not targets:  # a part of it would be less than was meant
        for domain in work.local.entries:
            if not domain.startswith("."):
                work.draft.later[f"{row.key}@{domain}"] = None
        return None
    return Line(row.key, targets)


def _alias_items(work: Work, value: str, depth: int = 0) -> Iterator[tuple[str, str]]:
    """Each address with an empty text, or what an item is and what to do about it."""
    for raw in items(value):
        whole = re.fullmatch(r'"((?:[^"\\]|\\.)*)"', raw)
        item = whole.group(1) if whole else raw
        if item.startswith("|"):
            yield "", f"{item} runs a command: relayd only forwards; keep it on a mail store"
        elif item.startswith("/"):
            yield "", f"{item} writes to a file: relayd only forwards; keep it on a mail store"
        elif item.startswith(":include:"):
            yield from _included(work, item.removeprefix(":include:").strip(), depth)
        elif item:
            good, bad = work.targets((raw if whole else item).removeprefix("\\"))
            yield from ((each, "") for each in good)
            yield from (("", f"{word}: no address") for word in bad)
            if not good and not bad:
                yield "", f"{raw}: no address"


def _included(work: Work, name: str, depth: int) -> Iterator[tuple[str, str]]:
    """A list in a file of its own, as it is now."""
    if not readable(work.shelf.locate(name)):
        yield "", f"cannot read :include:{name}"
        return
    if depth >= MAX_INCLUDED:
        yield "", f":include:{name} is too deep"
        return
    work.report.note(
        f"{name} was read once: a later change of it does not reach relayd."
        f" Its members stand in tables/aliases",
    )
    for line in work.shelf.texts(name):
        yield from _alias_items(work, line, depth + 1)


def relocated(work: Work) -> None:
    """relocated_maps: refused with the new address."""
    setting = "relocated_maps"
    lines = []
    for table in work.tables(setting):
        for row in table.rows:
            keys = [row.key] if "@" in row.key else [f"{row.key}@{at}" for at in work.bare_domains]
            for key in keys:
                try:
                    pattern(key)
                except AddressError as error:
                    work.close((), setting, f"{table.where(row.line)}: {row.key}: {error}")
                else:
                    # behind the error transport stands the reply's text
                    lines.append(
                        f"{key.removeprefix('@')} error:5.1.6 User has moved to {row.value}"
                    )
        for each in table.patterns:
            where = table.where(each.line)
            work.close((), setting, f"{where}: expressions are not carried over here")
    if lines:
        operand = work.draft.map_of("relocated", "transport", lines, setting)
        work.draft.rule("route", f"route {operand}")
        work.report.translated(setting, f"{len(lines):,} entries, refused at RCPT with 5.1.6")
