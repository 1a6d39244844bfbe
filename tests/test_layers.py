"""Who may import whom: the house of floors, read from the source with `ast`.

An import may point down the house, never up, and never sideways to another package of the
same floor. Only packages marked as the rim may import Twisted, and of those not the modules
that decide without doing. Whatever stands here is the same picture as in README.md.
"""

from __future__ import annotations

import ast
import re
import sys
import unittest
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import relayd

ROOT = Path(relayd.__file__).parent

FLOORS = (
    {"demo"},  # a reader's first five minutes; nothing of the product knows it
    {"service", "sendmail"},  # programs: the daemon, and the command that programs call
    {"ctl", "web"},
    {"verification"},
    {"migrate"},
    {"ops"},
    {"intake", "relay", "config", "directories"},
    {"smtp", "rules", "spool", "report", "mime", "tls", "authentication", "filters"},
    {"mail", "dns", "login"},
    {"reactor", "shared"},
)
FLOOR = {name: number for number, names in enumerate(reversed(FLOORS)) for name in names}

RIM = {"service", "reactor", "intake", "relay", "tls", "dns", "login", "filters", "ops", "demo"} | {
    "directories",
    "web",
}
PURE_AT_THE_RIM = {
    "relayd.directories.fetch",
    "relayd.directories.source",
    "relayd.directories.postgresql",
    "relayd.directories.mysql",
    "relayd.directories.ldap",
    "relayd.directories.http",
    "relayd.directories.sqlite",
    "relayd.intake.reception",  # awaits the spool, but knows no reactor
    "relayd.intake.intake",
    "relayd.intake.arriving",
    "relayd.intake.contentdecision",
    "relayd.intake.takeover",
    "relayd.intake.replies",
    "relayd.intake.wanted",
    "relayd.intake.asking",
    "relayd.intake.lookups",
    "relayd.intake.checks",
    "relayd.intake.cutthrough",
    "relayd.intake.pending",
    "relayd.intake.transaction",
    "relayd.intake.header",
    "relayd.intake.trace",
    "relayd.intake.limits",
    "relayd.intake.policy",
    "relayd.intake.authentication",
    "relayd.intake.submission",
    "relayd.intake.identity",
    "relayd.intake.examination",
    "relayd.intake.filterdesk",
    "relayd.intake.filterfacts",
    "relayd.intake.filtered",
    "relayd.intake.sessionfilters",
    "relayd.intake.filterverdicts",
    "relayd.intake.editedcontent",
    "relayd.filters.clamd",
    "relayd.filters.milter",
    "relayd.filters.milteredits",
    "relayd.filters.miltertalk",
    "relayd.filters.milterwire",
    "relayd.filters.policy",
    "relayd.filters.policyservice",
    "relayd.filters.rspamd",
    "relayd.filters.scanning",
    "relayd.relay.route",
    "relayd.relay.logins",
    "relayd.login.saslprep",
    "relayd.login.scram",
    "relayd.login.mechanisms",
    "relayd.login.initiator",
    "relayd.login.bearer",
    "relayd.login.oauth",
    "relayd.login.deviceflow",
    "relayd.login.tokenfile",
    "relayd.login.users",
    "relayd.login.secrets",
    "relayd.login.guesses",
    "relayd.login.dovecot",
    "relayd.login.apitokens",
    "relayd.login.roles",
    "relayd.login.totp",
    "relayd.web.api",
    "relayd.web.catalogue",
    "relayd.web.console",
    "relayd.web.entrance",
    "relayd.web.exchange",
    "relayd.web.guard",
    "relayd.web.markup",
    "relayd.web.openapi",
    "relayd.web.operations",
    "relayd.web.pages",
    "relayd.web.sessions",
}

OUTSIDE = {
    "twisted": RIM,
    "zope": RIM,
    "idna": {"mail"},
    "dns": {"dns", "relay"},
    "OpenSSL": {"tls"},
    "service_identity": {"tls"},
    "cryptography": {"tls", "authentication", "filters"},
    "dkim": {"report"},
    "psycopg": {"directories", "spool"},
    "pymysql": {"directories"},
    "ldap3": {"directories"},
}
"""Every package from outside the standard library, and who may import it."""

NOT_A_NAME = ("handler", "manager", "processor", "engine", "helper", "util", "base", "common")


def _words(name: str) -> list[str]:
    return [word.lower() for word in re.findall("[A-Z][a-z0-9]*", name)] or [name]


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of relayd: its dotted name and its tree."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = ("relayd", *path.relative_to(ROOT).with_suffix("").parts)
        if parts[-1] in ("__init__", "__main__"):
            parts = parts[:-1]
        yield ".".join(parts), ast.parse(path.read_text("utf-8"), str(path))


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every imported module with its line, those inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write the whole name"
            module = node.module or ""
            if module == "relayd":  # `from relayd import config` names a part of it
                for alias in node.names:
                    yield node.lineno, f"relayd.{alias.name}"
            else:
                yield node.lineno, module


def targets(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported, by itself or through one of its names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(module: str) -> str:
    """The package (or single module) below `relayd` that a dotted name belongs to."""
    return [*module.split("."), ""][1]


class Layers(unittest.TestCase):
    """Each test collects all complaints, so that one run shows the whole list."""

    def test_every_part_stands_on_a_floor(self) -> None:
        unknown = {name for name, _ in modules() if part(name) and part(name) not in FLOOR}
        self.assertEqual(unknown, set(), "give it a floor in tests/test_layers.py and README.md")

    def test_no_arrow_up_and_none_sideways(self) -> None:
        wrong = []
        for name, tree in modules():
            here = part(name)
            for line, target in imports(tree):
                there = part(target) if target.startswith("relayd.") else ""
                if here == there or there not in FLOOR or here not in FLOOR:
                    continue
                if FLOOR[there] >= FLOOR[here]:
                    wrong.append(f"{name}:{line} imports {target}")
        self.assertEqual(wrong, [])

    def test_no_circle_of_imports(self) -> None:
        """Within a package, too: whoever is read first needs nobody who is read later."""
        trees = dict(modules())
        arrows = {
            name: {target for target in targets(tree) if target in trees and target != name}
            for name, tree in trees.items()
        }
        while leaves := {name for name, below in arrows.items() if not below & arrows.keys()}:
            for name in leaves:
                del arrows[name]
        circles = {name: sorted(below & arrows.keys()) for name, below in arrows.items()}
        self.assertEqual(circles, {})

    def test_the_root_holds_rooms_and_nothing_loose(self) -> None:
        loose = sorted(path.name for path in ROOT.glob("*.py") if path.stem != "__init__")
        self.assertEqual(loose, [])

    def test_no_room_holds_more_than_a_seventh_of_the_lines(self) -> None:
        lines: Counter[str] = Counter()
        for path in ROOT.rglob("*.py"):
            lines[str(path.relative_to(ROOT).parent)] += path.read_text("utf-8").count("\n")
        room, most = lines.most_common(1)[0]
        self.assertLess(most / lines.total(), 0.15, f"relayd/{room} wants a room of its own")

    def test_a_public_class_name_stands_in_one_module(self) -> None:
        """One idea, one word: whoever reads a name knows which one is meant."""
        where: dict[str, list[str]] = {}
        for name, tree in modules():
            for node in tree.body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    where.setdefault(node.name, []).append(name)
        twice = {each: names for each, names in where.items() if len(names) > 1}
        self.assertEqual(twice, {})

    def test_only_the_rim_imports_twisted(self) -> None:
        wrong = [
            f"{name}:{line} imports {target}"
            for name, tree in modules()
            for line, target in imports(tree)
            if target.split(".")[0] == "twisted"
            and (part(name) not in RIM or name in PURE_AT_THE_RIM)
        ]
        self.assertEqual(wrong, [])

    def test_every_package_from_outside_is_declared(self) -> None:
        wrong = []
        for name, tree in modules():
            for line, target in imports(tree):
                top = target.split(".")[0]
                if top == "relayd" or top in sys.stdlib_module_names:
                    continue
                if part(name) not in OUTSIDE.get(top, set()):
                    wrong.append(f"{name}:{line} imports {target}")
        self.assertEqual(wrong, [])

    def test_nobody_takes_the_reactor_by_its_global_name(self) -> None:
        """The reactor is an argument, except where the graph of objects is built."""
        wrong = []
        for name, tree in modules():
            if part(name) in ("service", "reactor", "demo"):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "twisted.internet":
                    wrong += [
                        f"{name}:{node.lineno}" for alias in node.names if alias.name == "reactor"
                    ]
        self.assertEqual(wrong, [])

    def test_a_coroutine_is_started_in_one_of_two_ways(self) -> None:
        """`spawn` or `promise` of relayd.reactor.coroutine; a promise is never dropped."""
        wrong = []
        for name, tree in modules():
            if name == "relayd.reactor.coroutine":
                continue
            for node in ast.walk(tree):
                if isinstance(node, (ast.Name, ast.Attribute)):
                    word = node.id if isinstance(node, ast.Name) else node.attr
                    if word in ("fromCoroutine", "ensureDeferred", "inlineCallbacks"):
                        wrong.append(f"{name}:{node.lineno} {word}")
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
                    function = node.value.func
                    if isinstance(function, ast.Name) and function.id == "promise":
                        wrong.append(f"{name}:{node.lineno} nobody waits for this promise")
        self.assertEqual(wrong, [])

    def test_names_say_what_a_thing_is(self) -> None:
        """The house's vocabulary: no handlers, managers, helpers and the like."""
        wrong = []
        for name, tree in modules():
            last = name.split(".")[-1].lower()
            wrong += [f"module {name}" for word in NOT_A_NAME if word in last.split("_")]
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and _words(node.name)[-1] in NOT_A_NAME:
                    wrong.append(f"{name}:{node.lineno} class {node.name}")
        self.assertEqual(wrong, [])


class CoroutineTests(unittest.TestCase):
    """Trial 22.4 passes a bare `async def test_*` without running it."""

    def test_coroutine_tests_derive_from_the_support_class(self) -> None:
        wrong = []
        for path in sorted((ROOT.parent / "tests").rglob("test_*.py")):
            tree = ast.parse(path.read_text("utf-8"), str(path))
            support = any(target == "tests.support" for _, target in imports(tree))
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and not support:
                    wrong += [
                        f"{path.name}:{child.lineno} {node.name}.{child.name}"
                        for child in node.body
                        if isinstance(child, ast.AsyncFunctionDef)
                        and (child.name.startswith("test") or child.name in ("setUp", "tearDown"))
                    ]
        self.assertEqual(wrong, [])
