"""What the documents point at is there: links, files named in passing, commands to type."""

from __future__ import annotations

import re
import shlex
import unittest
from pathlib import Path

from relayd.config.settings import SPECS, Effect
from relayd.ctl.relayctl import parser
from tests.bench.report import debian, machine
from tests.test_layers import FLOOR

CHECKOUT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), *CHECKOUT.glob("*/*.md")])

_LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
_FILE = re.compile(
    r"`((?:relayd|tests|docs|etc|packaging|\.ci|[a-z]+)/[\w./-]+\.(?:py|md|conf|rules))`"
)
_COMMAND = re.compile(r"^ {4}(?:.*; )?relayctl ([^#\n]+)", re.MULTILINE)


class Documents(unittest.TestCase):
    def test_links_lead_somewhere(self) -> None:
        missing = [
            f"{document.name}: {target}"
            for document in DOCUMENTS
            for target in _LINK.findall(document.read_text("utf-8"))
            if not (document.parent / target).exists()
        ]
        self.assertEqual(missing, [])

    def test_files_named_are_there(self) -> None:
        """As a path from the top, or, as in README's picture, below relayd/."""
        missing = [
            f"{document.name}: {name}"
            for document in DOCUMENTS
            for name in _FILE.findall(document.read_text("utf-8"))
            if not ((CHECKOUT / name).exists() or (CHECKOUT / "relayd" / name).exists())
        ]
        self.assertEqual(missing, [])

    def test_every_part_of_relayd_is_in_the_table_of_floors(self) -> None:
        text = (CHECKOUT / "README.md").read_text("utf-8")
        table = text[text.index("| floor |") : text.index("## What it stands on")]
        parts = {path.stem for path in (CHECKOUT / "relayd").iterdir() if path.name[0] not in "_."}
        missing = sorted(part for part in parts & set(FLOOR) if f"`{part}`" not in table)
        self.assertEqual(missing, [])

    def test_names_of_files_in_another_root_are_not_expanded_in_this_one(self) -> None:
        for document in DOCUMENTS:
            for line in re.findall(r"^ {4}chroot .*", document.read_text("utf-8"), re.MULTILINE):
                with self.subTest(document=document.name, line=line):
                    bare = re.sub(r"'[^']*'", "", line)  # what is left is this shell's
                    self.assertNotRegex(bare, r"[*?]")

    def test_commands_to_type_are_understood(self) -> None:
        for document in DOCUMENTS:
            for line in _COMMAND.findall(document.read_text("utf-8")):
                words = shlex.split(re.split(r" [|>] |;", line)[0])
                if not words or "|" in words[0] or words[0] == "--help":
                    continue
                with self.subTest(document=document.name, line=line):
                    words = [word for word in words if word != "ID..."]
                    if words[-1].startswith("(or") or words == ["queue"]:
                        continue
                    try:
                        parser().parse_args(words)
                    except SystemExit:
                        self.fail(f"relayctl does not understand: {line}")

    def test_the_measurements_name_the_debian_they_were_made_on(self) -> None:
        self.assertIn(debian(), machine(CHECKOUT))
        text = (CHECKOUT / "docs/performance.md").read_text("utf-8")
        said = text.partition("<!-- machine -->")[2].partition("<!-- /machine -->")[0]
        self.assertRegex(said, r"Debian \d+")

    def test_the_table_of_settings_is_the_declaration(self) -> None:
        text = (CHECKOUT / "docs/operations.md").read_text("utf-8")
        table = text.partition("| setting |")[2].partition("\n\n")[0].splitlines()[2:]
        declared = [
            f"| `{name}` | {spec.unit} | {spec.effect.value} |" for name, spec in SPECS.items()
        ]
        self.assertEqual(table, declared)

    def test_what_takes_a_restart_is_said_as_it_is_declared(self) -> None:
        fixed = [name for name, spec in SPECS.items() if spec.effect is Effect.RESTART]
        in_troff, in_markdown = " , ".join(fixed), ", ".join(f"`{name}`" for name in fixed)
        for name in ("docs/man/relayd.8", "docs/man/relayd-rules.5", "packaging/manpage.py"):
            text = (CHECKOUT / name).read_text("utf-8").replace(" ,\n.Ic ", " , ")
            self.assertIn(f" {in_troff}", text, name)
        operations = (CHECKOUT / "docs/operations.md").read_text("utf-8")
        self.assertIn(f"What takes a restart, not a reload: {in_markdown},", operations)

    def test_settings_named_in_operations_exist(self) -> None:
        text = (CHECKOUT / "docs/operations.md").read_text("utf-8")
        named = {"hostname", "listen", "workers", "spool", "control", "resolver", "relay-port"}
        named |= {"free-space", "free-inodes", "content-in-memory", "warn-after", "give-up"}
        for name in named & set(re.findall(r"`([a-z-]+)`", text)):
            self.assertIn(name, SPECS)
