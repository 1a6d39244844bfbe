"""docs/rules.md, checks.md and others, docs/recipes: each recipe loads, each example is one."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import time
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.authentication.dkimsigning import new_private_key
from relayd.config import load
from relayd.ctl import relayctl
from relayd.rules.tables.snapshot import SnapshotHead, write

DOCS = Path(__file__).resolve().parents[2] / "docs"
RECIPES = DOCS / "recipes"
_BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
WANTED = (
    "forward-domain", "catch-all", "split-domain", "backup-mx", "smarthost-by-sender",
    "move-domain", "mailing-list", "srs", "sign", "archive",
    "block-lists", "greylisting", "rspamd", "clamav", "opendkim", "limits", "verification",
    "pace", "new-address", "safety-net", "cut-through", "trust", "no-spam-onward",
)  # fmt: skip


class RecipesTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "recipes"
        shutil.copytree(RECIPES, self.folder)
        keys = self.folder / "srs.keys"  # a secret has no place among the examples
        keys.write_text("an example\n")
        keys.chmod(0o600)
        (self.folder / "dkim").mkdir()
        for name in ("gateway-rsa", "gateway-ed", "example"):
            key = self.folder / "dkim" / f"{name}.pem"
            key.write_bytes(new_private_key(ed25519=True))
            key.chmod(0o600)

    def test_each_loads_and_proves_itself(self) -> None:
        files = sorted(self.folder.glob("*.conf"))
        self.assertTrue(set(WANTED) <= {path.stem for path in files})
        for path in files:
            with self.subTest(recipe=path.name):
                settings = load(path)
                self.assertGreaterEqual(len(settings.ruleset.expects), 2)
                self.assertEqual(settings.warnings, ())

    def test_every_example_is_one_of_the_files(self) -> None:
        text = "".join(
            (DOCS / name).read_text()
            for name in ("rules.md", "checks.md", "sending.md", "forwarding.md")
        )
        shown = set()
        more = (DOCS / "directories.md").read_text()
        for kind, words, body in (*_BLOCK.findall(text), *_BLOCK.findall(more)):
            name = words.split()[0]
            with self.subTest(example=words):
                if kind == "explain":
                    self.assertEqual(self.explained(words), body)
                    continue
                self.assertIn(kind, ("relayd", "table", "excerpt"))
                whole = (RECIPES / name).read_text()
                if kind == "excerpt":
                    self.assertIn("\n" + body, "\n" + whole)
                else:
                    self.assertEqual(body, whole)
                    shown.add(name)
        files = {str(path.relative_to(RECIPES)) for path in RECIPES.rglob("*") if path.is_file()}
        self.assertEqual(files - shown, {"tutorial.conf"}, "shown in pieces; all others whole")
        self.assertEqual(text.count("```"), 2 * len(_BLOCK.findall(text)))

    def test_what_directories_hold_is_where_the_recipes_say(self) -> None:
        """As if their sources had been read."""
        held: dict[str, dict[str, list[tuple[str, ...]]]] = {
            "panel": {
                "domains": [("example.com",)],
                "mailboxes": [("ann@example.com",)],
                "forwards": [("info@example.com", "ann@example.com")],
            },
            "exchange": {"staff": [("ann@example.com",)], "groups": [("all@example.com",)]},
        }
        for recipe, tables in held.items():
            path = self.folder / f"{recipe}.conf"
            path.write_text(f"spool {self.folder / recipe}\n{path.read_text()}")
            folder = self.folder / recipe / "tables"
            folder.mkdir(parents=True)
            for name, rows in tables.items():
                head = SnapshotHead("", len(rows[0]), 0, time.time(), "")
                write(folder / name, name, (" ".join(row) for row in rows), head)
            self.assertEqual(load(path).warnings, ())
            # with other entries the tests of the recipe fail: they are asked
            head = SnapshotHead("", 1, 0, time.time(), "")
            name = next(reversed(tables)) if recipe == "panel" else next(iter(tables))
            columns = len(tables[name][0])
            row = " ".join(("other@example.com", "other@example.net")[:columns])
            head = SnapshotHead("", columns, 0, time.time(), "")
            write(folder / name, name, [row], head)
            self.assertIn("expect", "".join(map(str, load(path).warnings)))

    def explained(self, words: str) -> str:
        name, *arguments = shlex.split(words)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.chdir(self.folder):
            relayctl.main(["--config", name, "explain", "--offline", *arguments])
        return out.getvalue()
