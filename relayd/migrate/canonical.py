"""The canonical maps and masquerading become `rewrite` rules.

Postfix maps an address through recipient_canonical_maps (or sender_canonical_maps), the result
through canonical_maps, each again and again until nothing changes, and then masquerades it. A rule
of relayd rewrites once. So each entry is followed to its end here, and the end is written down.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence

from relayd.mail.address import AddressError
from relayd.migrate.draft import pattern
from relayd.migrate.expressions import braced, refers
from relayd.migrate.follow import Keyed, Masquerade, followed
from relayd.migrate.forwarding import targets_of
from relayd.migrate.onward import MadeByExpression
from relayd.migrate.work import Work, expression_of, when
from relayd.rules.language.lexer import string

SENDER_FIELDS = (
    "From",
    "Sender",
    "Reply-To",
    "Errors-To",
    "Return-Receipt-To",
    "Disposition-Notification-To",
    "Resent-From",
    "Resent-Sender",
    "Resent-Reply-To",
)
MOST_TAGGED = 100  # senders with a rule of their own for their sub-addresses
_PLAIN = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9.-]+\Z")
RECIPIENT_FIELDS = ("To", "Cc", "Bcc", "Apparently-To", "Resent-To", "Resent-Cc", "Resent-Bcc")


def canonical(work: Work) -> None:
    """All three parameters and masquerading."""
    common = _keyed(work, "canonical_maps")
    recipients = _keyed(work, "recipient_canonical_maps")
    senders = _keyed(work, "sender_canonical_maps")
    hidden = _masquerade(work)
    classes = {
        each: set(work.main.words(f"{each}_classes"))
        for each in ("canonical", "recipient_canonical", "sender_canonical", "masquerade")
    }
    for kind, special, special_name in (
        ("recipient", recipients, "recipient_canonical"),
        ("sender", senders, "sender_canonical"),
    ):
        for part in ("envelope", "header"):
            scope = f"{part}_{kind}"
            chain = [
                each
                for each, name in ((special, special_name), (common, "canonical"))
                if each and scope in classes[name]
            ]
            shown = hidden if scope in classes["masquerade"] else Masquerade()
            _scope(work, part, kind, chain, shown)
    for keyed in (common, recipients, senders):
        _tell(work, keyed)
    _tell_hiding(work, hidden)


def _tell_hiding(work: Work, hidden: Masquerade) -> None:
    given = [
        name
        for name in ("masquerade_domains", "masquerade_classes", "masquerade_exceptions")
        if work.main.is_given(name)
    ]
    for name in given:
        if not hidden.domains:
            work.report.unneeded(name, "no domain is masqueraded")
        elif name == "masquerade_domains":
            work.report.translated(name, "sub-domains are rewritten to their parent")
        else:
            work.report.translated(name, "as conditions of those rules")


def _tell(work: Work, keyed: Keyed) -> None:
    setting = keyed.setting
    if keyed:
        count = len(keyed.exact) + len(keyed.domains) + len(keyed.patterns)
        work.report.translated(setting, f"{count:,} entries become `rewrite` rules")
    elif not work.main[setting]:
        work.report.same(setting, "none")
    name = setting.replace("_maps", "_classes")
    if work.main.is_given(name):
        work.report.translated(name, "envelope, header or both are rewritten as it says")


def _masquerade(work: Work) -> Masquerade:
    words = [word.lower() for word in work.main.words("masquerade_domains")]
    exceptions = [word.lower() for word in work.main.words("masquerade_exceptions")]
    good = []
    for word in words:
        try:
            pattern("@" + word.lstrip("!"))
        except AddressError as error:
            work.report.lost(
                "masquerade_domains", f'"{word}": {error}', "setting:masquerade_domains"
            )
        else:
            good.append(word)
    return Masquerade(tuple(good), tuple(exceptions))


def _keyed(work: Work, setting: str) -> Keyed:
    keyed = Keyed(setting)
    tables = work.tables(setting)
    stands = len(tables) == 1 and tables[0].plain and not tables[0].repeated
    for table in tables:
        first: list[str] = []
        keyed.tables.append((table, first))
        for row in table.rows:
            good, bad = work.targets(row.value)
            try:
                pattern(row.key if "@" in row.key else row.key + "@")
            except AddressError as error:
                bad = [f"{row.key}: {error}"]
            if bad or len(good) != 1:
                why = f"{bad[0]} is no address" if bad else "an address becomes one other"
                work.report.lost(
                    setting,
                    f"{table.where(row.line)}: {row.key}: {why}",
                    f"entry:{table.spec} {row.key}",
                )
                work.refuse_later(row.key)
                _close_sender(work, setting, row.key)
                stands = False
                continue
            stands = stands and "@" in row.key and good[0] == row.value
            if row.key.startswith("@"):
                keyed.domains.setdefault(row.key[1:], good[0])
                continue
            keys = [row.key] if "@" in row.key else [f"{row.key}@{at}" for at in work.bare_domains]
            first += [key for key in keys if key not in keyed.exact]
            for key in keys:
                keyed.exact.setdefault(key, good[0])
    keyed.single = tables[0] if stands and tables[0].path else None
    return keyed


def _close_sender(work: Work, setting: str, key: str) -> None:
    """A sender that would become another one, nobody knows which."""
    if setting == "recipient_canonical_maps":
        return
    keys = [key] if "@" in key else [f"{key}@{at}" for at in work.bare_domains]
    for each in keys:
        with contextlib.suppress(AddressError):
            work.close(
                (f"sender {pattern(each)}",), setting, f"{each}: its entry is not understood"
            )


def _scope(work: Work, part: str, kind: str, chain: Sequence[Keyed], hidden: Masquerade) -> None:
    """The rules of one of envelope_sender, header_sender, envelope_recipient, header_recipient."""
    if part == "header":
        clients = _header_clients(work)
        fields = ", ".join(SENDER_FIELDS if kind == "sender" else RECIPIENT_FIELDS)
        variants = [(f"rewrite header {fields}", [condition]) for condition in clients]
    else:
        variants = [(f"rewrite {kind}", [])]
    subject = {"sender": "sender", "recipient": "to"}[kind] if part == "envelope" else ""
    for head, conditions in variants:
        for number, keyed in enumerate(chain):
            _map_rules(work, head, conditions, keyed, chain[number + 1 :], hidden, subject)
        for text, tests in _hiding(hidden, subject):
            work.draft.rule("rewrite", f"{head} {text}{when([*conditions, *tests])}")
        if part == "header" and hidden.exceptions and hidden.domains:
            work.report.lost(
                "masquerade_exceptions",
                "in header fields they are not excepted",
                "masquerade-header",
            )


def _header_clients(work: Work) -> list[str]:
    """Whose header fields Postfix rewrites, as conditions: mostly programs on this machine."""
    if work.main["remote_header_rewrite_domain"]:
        return ["any"]
    conditions = []
    for word in work.main.words("local_header_rewrite_clients"):
        if word == "permit_inet_interfaces":
            operand = work.draft.list_of("this-host", work.interfaces, "this machine's addresses")
            conditions += [f"from {operand}"] if operand else []
        elif word == "permit_mynetworks":
            operand = work.trusted.operand(work.draft)
            conditions += [f"from {operand}"] if operand else []
        elif word == "permit_sasl_authenticated":
            conditions.append("login any")
        elif word.startswith("static:"):
            return ["any"]
        else:
            work.report.lost(
                "local_header_rewrite_clients",
                f"{word} is no client relayd can name",
                "header-clients",
            )
    if work.main.is_given("local_header_rewrite_clients") and conditions:
        work.report.translated(
            "local_header_rewrite_clients", "header fields are rewritten for these clients"
        )
    return conditions


def _map_rules(
    work: Work,
    head: str,
    conditions: Sequence[str],
    keyed: Keyed,
    then: Sequence[Keyed],
    hidden: Masquerade,
    subject: str,
) -> None:
    lines = followed(keyed, then, hidden)
    if not keyed.patterns:
        _lines(work, head, conditions, keyed, then, lines, subject)
        return
    # in Postfix's order: whole addresses and expressions, table by table, then what is left
    tagged = work.tagged if subject == "to" and keyed.tables[0][1] else []
    for source, keys in keyed.tables if tagged else ():
        own = {key: lines[key] for key in keys if work.is_tagged(key)}
        _lines(work, head, conditions, keyed, then, own, "")
        for row in source.patterns:
            one = MadeByExpression(keyed, then, hidden, source, row)
            _pattern_rule(work, head, [*conditions, *tagged], one, subject)
    exact: dict[str, str] = {}
    for source, keys in keyed.tables:
        own = {key: lines.pop(key) for key in keys if key in lines}
        exact |= own
        _lines(work, head, conditions, keyed, then, own, subject if subject == "to" else "")
        for row in source.patterns:
            _pattern_rule(
                work, head, conditions, MadeByExpression(keyed, then, hidden, source, row), subject
            )
    if subject == "sender":
        _tagged(work, head, conditions, exact)
    _lines(work, head, conditions, keyed, then, lines, subject)


def _lines(
    work: Work,
    head: str,
    conditions: Sequence[str],
    keyed: Keyed,
    then: Sequence[Keyed],
    lines: Mapping[str, str],
    subject: str,
) -> None:
    """One rule for addresses and whole domains, each with its end."""
    if not lines:
        return
    single = keyed.single
    same = single is not None and lines == {row.key: row.value for row in single.rows}
    if single is not None and same and single.path:
        text = single.path.read_text("utf-8").rstrip("\n").split("\n")
        operand = work.draft.map_of(
            single.path.name, "canonical", text, f"{single.spec}, as it stands", copied=True
        )
    else:
        origin = ", ".join(each.setting for each in (keyed, *then))
        texts = [f"{key} {value}" for key, value in lines.items()]
        operand = work.draft.map_of(
            keyed.setting.removesuffix("_maps"),
            "canonical",
            texts,
            f"{origin}, each entry followed to its end",
        )
    if subject == "sender":
        _tagged(work, head, conditions, lines)
    work.draft.rule("rewrite", f"{head} {operand}{when(conditions)}")
    if subject == "to":
        work.listed.append(operand)


def _tagged(work: Work, head: str, conditions: Sequence[str], lines: Mapping[str, str]) -> None:
    """Senders with a sub-address, which Postfix takes away to look them up, and puts back."""
    marks = work.draft.subaddress
    exact = {key: value for key, value in lines.items() if not key.startswith("@")}
    plain = all(_PLAIN.match(each) for pair in exact.items() for each in pair)
    if not marks or not exact:
        return
    if len(exact) > MOST_TAGGED or not plain:
        work.report.note(
            "a sub-address is stripped for recipients, not for senders, when a table is asked",
            "sender-extension",
        )
        return
    for key, value in exact.items():
        local, _, domain = key.lower().rpartition("@")
        text = f"^{re.escape(local)}([{re.escape(marks)}][^@]*)@{re.escape(domain)}$"
        new, _, there = value.rpartition("@")
        goal = string(f"{new}\\1@{there}")
        work.draft.rule("rewrite", f"{head} regex {string(text)} -> {goal}{when(conditions)}")


def _pattern_rule(
    work: Work, head: str, conditions: Sequence[str], each: MadeByExpression, subject: str
) -> None:
    where, setting = each.source.where(each.row.line), each.keyed.setting
    found = work.condition(each.row, each.source.spec, subject or "to")
    operand, tests = ("any", []) if isinstance(found, str) else found
    why = found if isinstance(found, str) else ""
    if tests and not subject:
        why = "`if` blocks do not apply to header fields"
    expression = expression_of(operand)
    value = each.row.value
    apart: list[tuple[str, str]] = []
    if not why:
        value, apart, why = each.onward(expression, work.complete(braced(value)))
    targets, wrong = ([], why) if why else targets_of(work, value, expression)
    if wrong or len(targets) != 1:
        why = f"{where}: {wrong or f'{value}: not one address'}"
        if subject:
            scope = (*([] if operand == "any" else [f"{subject} {operand}"]), *tests)
            work.close(scope, setting, why)
        else:
            work.report.lost(setting, why, f"map:{each.source.spec}")
        return
    if targets[0].startswith('"') and not refers(value):
        targets[0] = targets[0].strip('"')
    ending = when([*conditions, *tests])
    for text, target in apart:
        work.draft.rule(
            "rewrite", f"{head} regex {string(text)} -> {pattern(target)}{ending}", where
        )
    work.draft.rule("rewrite", f"{head} {operand} -> {targets[0]}{ending}", where)


def _hiding(hidden: Masquerade, subject: str) -> list[tuple[str, list[str]]]:
    """Masquerading as rules: the more exact domain first."""
    rules = []
    spared = [each for each in hidden.domains if each.startswith("!")]
    for number, each in enumerate(hidden.domains):
        if each.startswith("!"):
            continue
        tests = []
        if subject:
            tests = [f"not {subject} {name}@" for name in hidden.exceptions]
            tests += [
                f"not {subject} @{one[1:]}, @.{one[1:]}"
                for one in spared
                if hidden.domains.index(one) < number and one[1:].endswith("." + each)
            ]
            tests += [
                f"not {subject} @{one}"
                for one in hidden.domains[:number]
                if not one.startswith("!") and one.endswith("." + each)
            ]
        rules.append((f"@.{each} -> @{each}", tests))
    return rules
