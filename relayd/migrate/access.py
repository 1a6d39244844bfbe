"""access(5): what a map's entries say about clients, HELO names, senders and recipients."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError
from relayd.migrate.domains import is_mapped, network_of
from relayd.migrate.draft import is_mailbox, pattern
from relayd.migrate.expressions import never_an_address
from relayd.migrate.moves import Closed, Doubt, Marked, Move, Passed, Permit, Refuse, Scope
from relayd.migrate.tables import MapSpec, PatternRow
from relayd.migrate.work import Work, expression_of
from relayd.rules.language.lexer import string
from relayd.rules.language.regex import search

KINDS = {
    "check_client_access": "from",
    "check_helo_access": "helo",
    "check_sender_access": "sender",
    "check_recipient_access": "to",
    "check_sasl_access": "login",
}
"""The checks of what relayd can see, and its words for it."""
_ADDRESSED = ("sender", "to")
_STATUS = re.compile(r"([245]\.\d{1,3}\.\d{1,3})\s*(.*)", re.DOTALL)
_REPLY = re.compile(r"([45]\d\d)(?:\s+(.*))?\Z", re.DOTALL)
_HEADER = re.compile(r"([A-Za-z0-9-]+):\s*([\x20-\x7e]*)\Z")
_OK = re.compile(r"(?:ok|relay|\d+)\Z", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9._+@=-]+\Z")
_HOST = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
INLINE = 3  # entries that stand in the rule itself
ReadList = Callable[[str, Scope], Sequence[Move]]
"""Reads a list of restrictions, such as an entry may name."""


@dataclass
class _Group:
    """Entries of one map that are equally exact and have the same result."""

    value: str
    kind: str = ""  # from, rdns, helo, sender, to, login
    scope: Scope = ()  # of a pattern
    entries: list[str] = field(default_factory=list)


class AccessMap:
    """One map, asked by one check."""

    def __init__(self, work: Work, setting: str, check: str, spec: MapSpec) -> None:
        self._work = work
        self._setting = setting
        self._check = check
        self._kind = KINDS.get(check, "")
        self._spec = spec
        self._table = work.shelf.read(spec)
        self._null = work.main["smtpd_null_access_lookup_key"].lower()

    def moves(self, scope: Scope, read: ReadList) -> list[Move]:
        """What it says about those in `scope`; none: not understood."""
        title = f"{self._check} {self._spec}"
        if self._table.trouble:
            self._lost(self._table.trouble)
            return []
        found: list[Move] = [Passed(scope, title)]
        if not self._kind:
            for value in self._values():
                found += self._unseen(value, "relayd does not look at that", scope, read)
            return found
        handled: list[Scope] = []
        levels = self._levels(found, scope, read)
        closed = [each for each in found if isinstance(each, Closed)]
        found = [each for each in found if not isinstance(each, Closed)]
        for level in levels:
            ended: list[Scope] = []
            for group in level:
                condition = group.scope or (f"{group.kind} {self._operand(group)}",)
                inner = (*scope, *condition)
                said = self._said(group.value, inner, read)
                found += [_except(move, handled) for move in said]
                if not all(isinstance(move, Refuse) and move.scope == inner for move in said):
                    ended.append(condition)
            handled += ended
        found += closed
        self._work.report.translated(self._setting, f"{title}: {len(self._table):,} entries")
        return found

    def _values(self) -> list[str]:
        values = [row.value for row in self._table.rows]
        values += [row.value for row in self._table.patterns]
        return list(dict.fromkeys(values))

    def _said(self, value: str, scope: Scope, read: ReadList) -> Sequence[Move]:
        """An entry's moves; one of which nothing is understood closes."""
        moves = action(self._work, self._setting, str(self._spec), value, scope, read)
        if not moves:
            self._lost(f"{value}: not understood")
        return moves or [Closed(scope, f"{self._spec}: {value}: not understood")]

    def _unseen(self, value: str, why: str, scope: Scope, read: ReadList) -> list[Move]:
        """An entry of which nobody here can tell whom it is about."""
        said = self._said(value, scope, read)
        self._lost(f"{value}: {why}")
        title = f"{self._check} {self._spec}: {why}"
        passing = all(isinstance(each, Permit | Passed | Doubt) for each in said)
        return [Doubt(scope, title) if passing else Closed(scope, title)]

    def _lost(self, why: str) -> None:
        self._work.report.lost(self._setting, f"{self._check} {self._spec}: {why}")

    # which entry is the more exact one

    def _levels(self, found: list[Move], scope: Scope, read: ReadList) -> list[list[_Group]]:
        """Groups from the most to the least exact key: what Postfix looks up first comes first.

        What is not understood goes to `found`.
        """
        main = self._work.main
        parents = "smtpd_access_maps" in main.words("parent_domain_matches_subdomains")
        levels: dict[int, dict[tuple[str, str], _Group]] = {}
        for row in self._table.rows:
            if row.key == "<>" and (self._kind != "sender" or self._null != "<>"):
                continue  # nobody has that name
            if self._kind == "from" and (is_mapped(row.key) or "/" in row.key):
                self._work.report.note(
                    f"{self._table.where(row.line)}: {row.key} fits nobody with Postfix, nor here:"
                    " such a table is asked for 192.0.2.1, 192.0.2, 192.0 and 192"
                )
                continue
            if parents and self._idle(row.key):
                self._work.report.note(
                    f"{self._table.where(row.line)}: {row.key} fits nothing with Postfix:"
                    " smtpd_access_maps is in parent_domain_matches_subdomains, so it would have"
                    f" to read {row.key[1:]}"
                )
                continue
            entries = self._entries(row.key, parents)
            if not entries:
                where = f"{self._table.where(row.line)}: {row.key}"
                why = f"{where}: not understood"
                found += self._unseen(row.value, why, (*scope, *self._domain(row.key)), read)
                continue
            kind = self._kind_of(row.key)
            level = levels.setdefault(self._level(row.key), {})
            level.setdefault((kind, row.value), _Group(row.value, kind)).entries += entries
        ordered = [list(levels[level].values()) for level in sorted(levels)]
        for each in self._table.patterns:  # an expression or a network: first match wins, in order
            whom = self._pattern(each)
            if isinstance(whom, str):
                where = f"{self._table.where(each.line)}: {whom}"
                found += self._unseen(each.value, where, scope, read)
            else:
                ordered.append([_Group(each.value, "", whom or ("any",))])
        return ordered

    def _idle(self, key: str) -> bool:
        """Whether it is a key that Postfix never looks for where parents match sub-domains."""
        return key.startswith(".") and self._kind != "login"

    def _domain(self, key: str) -> Scope:
        """The domain that a key that is no address is about, where it can be told."""
        domain = key.rpartition("@")[2]
        if self._kind in _ADDRESSED and "@" in key and domain:
            try:
                return (f"{self._kind} {pattern(f'@{domain}')}",)
            except AddressError:
                pass
        return ()

    def _kind_of(self, key: str) -> str:
        """A client is looked for by its name, then by its address."""
        return "rdns" if self._kind == "from" and not network_of(key) else self._kind

    def _level(self, key: str) -> int:
        """The least is the most exact."""
        if self._kind_of(key) == "rdns":
            return -1 - key.count(".")
        if self._kind in _ADDRESSED:
            if is_mailbox(key):
                return 0
            return 900 if key.endswith("@") else 500 - key.count(".")
        if self._kind == "helo":
            return 500 - key.count(".")
        if self._kind == "login":
            return 0
        network = network_of(key) or "/0"
        return 128 - int(network.partition("/")[2] or 128)

    def _entries(self, key: str, parents: bool) -> list[str]:
        """A key as operands; none: not understood."""
        if self._kind_of(key) == "rdns":
            if key == "unknown":
                return ["none"]
            names = [key, f".{key}"] if parents else [key]
            return names if _HOST.fullmatch(key) else []
        if self._kind == "from":
            network = network_of(key)
            return [network] if network else []
        if self._kind == "login":
            return [key] if _NAME.match(key) else []
        if self._kind == "helo":
            names = [key, f".{key}"] if parents and not key.startswith(".") else [key]
            return names if _HOST.fullmatch(key) else []
        null = ["null"] if key == self._null and self._kind == "sender" else []
        if null and key == "<>":
            return null
        names = [key] if "@" in key else [f"@{key}"]
        if "@" not in key and parents and not key.startswith("."):
            names.append(f"@.{key}")
        try:
            return [*null, *map(pattern, names)]
        except AddressError:
            return null

    def _pattern(self, row: PatternRow) -> Scope | str:
        """Whom a row is about; a text: why that cannot be told."""
        kind, spec = self._kind, self._table.spec
        if spec.type == "cidr":
            scope: list[str] = []
            for each in (row.expression, *row.guards):
                network = network_of(each.text)
                if network is None or kind != "from":
                    return f"{each.text}: not carried over"
                scope.append(f"{'not ' if each.negated else ''}from {network}")
            return tuple(scope)
        if not row.expression.text and not row.guards:
            return ()
        if kind == "from":
            return self._name_pattern(row)
        if kind not in (*_ADDRESSED, "helo"):
            return "expressions are matched with addresses only"
        found = self._work.condition(row, spec, kind)
        if isinstance(found, str):
            return found
        operand, tests = found
        if operand == "any":  # who has said no HELO is not asked about
            return (*(["helo any"] if kind == "helo" else []), *tests)
        null = kind == "sender" and search(expression_of(operand), self._null) is not None
        return (f"{kind} {operand}{', null' if null else ''}", *tests)

    def _name_pattern(self, row: PatternRow) -> Scope | str:
        """An expression that finds clients by their names, and none by its address."""
        found = self._work.condition(row, self._table.spec, "rdns")
        if isinstance(found, str):
            return found
        if row.guards or not never_an_address(row.expression, self._table.spec.type):
            return f"/{row.expression.text}/ may be about names and about addresses"
        operand, _ = found
        unknown = search(expression_of(operand), "unknown") is not None
        return (f"rdns {operand}{', none' if unknown else ''}",)

    def _operand(self, group: _Group) -> str:
        entries = list(dict.fromkeys(group.entries))
        tagged = self._work.tagged_senders(entries) if self._kind == "sender" else []
        if len(entries) > INLINE and "null" not in entries:
            name = self._table.path.name if self._table.path else self._check.removeprefix("check_")
            word = re.sub(r"\W+", "-", group.value.lower())[:20].strip("-")
            if group.kind in ("helo", "rdns"):
                return ", ".join(entries)
            made = self._work.draft.list_of(f"{name}-{word}", entries, f"{self._spec}: {word}")
            entries = [made] if made else entries
        return ", ".join([*entries, *tagged])


def _except(move: Move, handled: Sequence[Scope]) -> Move:
    if not handled:
        return move
    values = {name: getattr(move, name) for name in move.__slots__}
    values |= {"scope": move.scope, "why": move.why, "unless": (*move.unless, *handled)}
    return type(move)(**values)


def action(
    work: Work, setting: str, origin: str, value: str, scope: Scope, read: ReadList
) -> Sequence[Move]:
    """What one entry says; what is no action of access(5) is a list of restrictions."""
    word, _, text = value.strip().partition(" ")
    text, lower = text.strip(), word.lower()
    why = f"{origin}: {word}"
    if _OK.match(lower) and not _REPLY.match(lower):
        return [Permit(scope, why)]
    if lower in ("dunno", "info", "warn"):
        return [Passed(scope, why)]
    if lower in ("hold", "discard"):
        return [Marked(scope, why, (), lower, ascii_of(text) or origin)]
    if lower in ("filter", "redirect", "bcc"):
        work.report.lost(
            setting,
            f"{origin}: {value}: relayd has no such action, and without it mail would go somewhere"
            " else: it is asked to come later",
        )
        return [Marked(scope, why, (), "later")]
    if lower == "prepend":
        header = _HEADER.match(text)
        if header is None or header.group(1).lower() == "received":
            return []
        text = f"header add {header.group(1)} {string(header.group(2))}"
        work.draft.rule("rewrite", text + _when(scope), f"{setting}: {origin}")
        return [Passed(scope, why)]
    if lower == "defer_if_reject":
        return [Doubt(scope, why)]
    reply = reply_of(lower, text)
    if reply:
        return [Refuse(scope, why, (), reply)]
    return read(value, scope)


def _when(scope: Scope) -> str:
    tests = [each for each in scope if each != "any"]
    return f" when {' and '.join(tests)}" if tests else ""


def reply_of(word: str, text: str) -> str:
    """A refusal's code, status and text; empty: it is none."""
    match = _REPLY.match(f"{word} {text}".strip())
    if match is not None:
        code, text = match.group(1), match.group(2) or ""
        status = f"{code[0]}.7.1"
    elif word == "reject":
        code, status = "554", "5.7.1"
    elif word in ("defer", "defer_if_permit"):
        code, status = "450", "4.7.1"
    else:
        return ""
    own = _STATUS.match(text)
    if own is not None:
        # the code's class follows the status, as Postfix has it
        status, text = own.group(1), own.group(2)
        code = code if status[0] == code[0] or status[0] == "2" else status[0] + code[1:]
        status = code[0] + status[1:]
    return f"{code} {status} {string(ascii_of(text) or 'Access denied')}"


def ascii_of(text: str) -> str:
    """A reply's text, such as a rule may have it."""
    clean = text.encode("ascii", "replace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in clean)[:400].strip()
