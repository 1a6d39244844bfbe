"""access(5) maps become `reject`, `hold` and `discard` rules; OK and DUNNO make exceptions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError
from relayd.migrate.domains import network_of
from relayd.migrate.draft import is_mailbox, pattern
from relayd.migrate.tables import MapSpec, MapText, PatternRow
from relayd.migrate.work import Work, when
from relayd.rules.language.lexer import string

LISTS = {
    "smtpd_client_restrictions": "client",
    "smtpd_helo_restrictions": "helo",
    "smtpd_sender_restrictions": "sender",
    "smtpd_relay_restrictions": "recipient",
    "smtpd_recipient_restrictions": "recipient",
}
_KINDS = {
    "check_client_access": "from",
    "check_helo_access": "helo",
    "check_sender_access": "sender",
    "check_recipient_access": "to",
}
_ADDRESSED = ("sender", "to")
_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s*(.*)", re.DOTALL)
_REPLY = re.compile(r"([45]\d\d)(?:\s+(.*))?\Z", re.DOTALL)
PASSES = ("ok", "dunno", "permit", "relay")
INLINE = 3  # entries that stand in the rule itself


@dataclass
class _Group:
    """Entries of one map that are equally exact and have the same result."""

    action: str
    entries: list[str] = field(default_factory=list)
    tests: list[str] = field(default_factory=list)  # further conditions


def rules_of(
    work: Work, setting: str, check: str, argument: str, tests: Sequence[str]
) -> list[str]:
    """Write the rules of one map; returns the conditions under which it permits."""
    kind = _KINDS.get(check)
    if kind is None:
        work.report.lost(
            setting,
            f"{check} {argument}: relayd does not look at that",
            f"restriction:{check} {argument}",
        )
        return []
    table = work.shelf.read(MapSpec.parse(argument))
    if table.trouble:
        work.report.lost(setting, f"{check} {argument}: {table.trouble}", f"map:{table.spec}")
        return []
    permits: list[str] = []
    dunno: list[str] = []
    levels = _levels(work, setting, kind, table)
    for level in levels:
        passing: list[str] = []
        for group in level:
            operand = _operand(work, check, table, group, kind)
            if group.action.lower() in PASSES:
                passing.append(f"{kind} {operand}")
                if group.action.lower() in ("ok", "permit", "relay"):
                    permits.append(f"{kind} {operand}")
            else:
                held = [*group.tests, *tests, *(f"not {each}" for each in dunno)]
                _rule(work, setting, f"{kind} {operand}", group.action, held, table)
        dunno += passing
    work.report.translated(setting, f"{check} {argument}: {len(table):,} entries")
    return permits


def _levels(work: Work, setting: str, kind: str, table: MapText) -> list[list[_Group]]:
    """Groups from the most to the least exact key: what Postfix looks up first comes first."""
    levels: dict[int, dict[str, _Group]] = {}
    domains_with_parents = "smtpd_access_maps" in work.main.words(
        "parent_domain_matches_subdomains"
    )
    for row in table.rows:
        found = _entries(kind, row.key, domains_with_parents)
        if not found:
            _untranslated(work, setting, kind, table, row.key, row.line)
            continue
        level = _level(kind, row.key)
        group = levels.setdefault(level, {}).setdefault(row.value, _Group(row.value))
        group.entries += found
    ordered = [list(levels[level].values()) for level in sorted(levels)]
    for each in table.patterns:  # an expression or a network: first match wins, in order
        operand, tests = _pattern_operand(work, setting, kind, table, each)
        if operand:
            ordered.append([_Group(each.value, [operand], tests)])
    return ordered


def _level(kind: str, key: str) -> int:
    """0 is the most exact."""
    if kind in _ADDRESSED:
        if is_mailbox(key):
            return 0
        return 900 if key.endswith("@") else 500 - key.count(".")
    network = network_of(key) or "/0"
    return 128 - int(network.partition("/")[2] or 128)


def _entries(kind: str, key: str, parents: bool) -> list[str]:
    if kind == "from":
        network = network_of(key)
        return [network] if network else []
    if kind == "helo":
        return [key] if re.fullmatch(r"[a-z0-9._-]+", key) and not key.startswith(".") else []
    if key in ("<>", ""):
        return ["null"] if kind == "sender" else []
    names = [key] if "@" in key else [f"@{key}"]
    if "@" not in key and parents and not key.startswith("."):
        names.append(f"@.{key}")
    try:
        return [pattern(name) for name in names]
    except AddressError:
        return []


def _untranslated(work: Work, setting: str, kind: str, table: MapText, key: str, line: int) -> None:
    why = (
        "relayd knows a client by its address, not its name" if kind == "from" else "not understood"
    )
    work.report.lost(setting, f"{table.where(line)}: {key}: {why}", f"entry:{table.spec} {key}")


def _pattern_operand(
    work: Work, setting: str, kind: str, table: MapText, row: PatternRow
) -> tuple[str, list[str]]:
    """The operand, and the conditions beside it; an empty operand: it was reported."""
    where, mark = table.where(row.line), f"map:{table.spec}"
    if table.spec.type == "cidr":
        network = network_of(row.expression.text)
        if network and not row.expression.negated and not row.guards and kind == "from":
            return network, []
        work.report.lost(setting, f"{where}: {row.expression.text}: not carried over", mark)
        return "", []
    if kind not in _ADDRESSED:
        if not row.expression.text:
            return "any", []
        work.report.lost(setting, f"{where}: expressions are matched with addresses only", mark)
        return "", []
    found = work.condition(row, table.spec, kind)
    passing = row.value.split(None, 1)[0].lower() in PASSES
    if isinstance(found, str) or (found[1] and passing):
        why = found if isinstance(found, str) else "`if` and `!` are not carried over with OK"
        work.report.lost(setting, f"{where}: {why}", mark)
        return "", []
    return found


def _operand(work: Work, check: str, table: MapText, group: _Group, kind: str) -> str:
    entries = list(dict.fromkeys(group.entries))
    if len(entries) <= INLINE or any(each.startswith(("regex", "any", "null")) for each in entries):
        return ", ".join(entries)
    name = table.path.name if table.path else check.removeprefix("check_")
    word = re.sub(r"\W+", "-", group.action.lower())[:20].strip("-")
    return work.draft.list_of(f"{name}-{word}", entries, f"{table.spec}: {group.action}")


def _rule(
    work: Work, setting: str, condition: str, action: str, tests: Sequence[str], table: MapText
) -> None:
    word, _, text = action.partition(" ")
    text = text.strip()
    lower = word.lower()
    end = when(tests)
    comment = f"{setting}: {table.spec}"
    reason = string(_ascii(text) or f"{table.spec}")
    if lower in ("hold", "discard"):
        work.draft.rule("admission", f"{lower} {condition} {reason}{end}", comment)
        return
    reply = _reply(lower, text)
    if reply:
        work.draft.rule("admission", f"reject {condition} {reply}{end}", comment)
        return
    work.report.lost(
        setting,
        f"{table.spec}: {condition}: {action}: relayd has no such action",
        f"map:{table.spec}",
    )


def _reply(word: str, text: str) -> str:
    """A refusal's code, status and text; empty: it is none."""
    match = _REPLY.match(f"{word} {text}".strip())
    if match is not None:
        code, text = match.group(1), match.group(2) or ""
        status = f"{code[0]}.7.1"
    elif word == "reject":
        code, status = "554", "5.7.1"
    elif word in ("defer", "defer_if_permit", "defer_if_reject"):
        code, status = "450", "4.7.1"
    else:
        return ""
    own = _STATUS.match(text)
    if own is not None:
        status, text = code[0] + own.group(1)[1:], own.group(2)
    return f"{code} {status} {string(_ascii(text) or 'Access denied')}"


def _ascii(text: str) -> str:
    clean = text.encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in clean)[:400].strip()
