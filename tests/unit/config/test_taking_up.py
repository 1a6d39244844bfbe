"""Scoped files that come, change and go: what is in force is what a fresh start would find."""

from __future__ import annotations

import random
import shutil
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

from relayd import config
from relayd.config import scopedfiles
from relayd.config.lastgood import LastGoodFile
from relayd.config.texts import RecordedTexts, RememberedTexts, Texts
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.header import edit_header

DOMAINS = (
    "a.example", "b.example", "sub.a.example", "x.sub.a.example", "sub.b.example", "c.example",
    "b\u00fccher.example", "z.bücher.example",
)  # fmt: skip
OTHERS = ("xn--bcher-kva.example", "A.Example", "C.EXAMPLE", "sub.B.example")  # the same, spelled
LOCALS = ("info", "info+tag", "ann", "list")
MAINS = (
    "include customers/*.rules scoped\nroute any direct\n",
    "table inside { 192.0.2.9 } shared\ninclude customers/*.rules scoped\nroute any direct\n",
    "reject to ann@a.example\ninclude customers/*.rules scoped\naccept to @c.example\n"
    "route any direct\n",
    "header add X-Main a\ninclude customers/*.rules scoped\nheader add X-End z\nroute any direct\n",
    "accept to @b.example\nroute any direct\n",  # nothing is included
)
HEADER = b"From: x@a.example\r\n\r\n"


class _Process:
    """One that reads the configuration again and again: what it remembers is its own."""

    def __init__(self) -> None:
        self._last: dict[Path, scopedfiles.ScopedFiles] = {}

    def load(self, path: Path, texts: Texts | None = None) -> config.Settings:
        others = dict(scopedfiles._last)
        scopedfiles._last.clear()
        scopedfiles._last.update(self._last)
        try:
            return config.load(path, texts=texts)
        finally:
            self._last = dict(scopedfiles._last)
            scopedfiles._last.clear()
            scopedfiles._last.update(others)


class TakingUpTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.customers = self.folder / "customers"
        self.customers.mkdir()
        (self.folder / "spool").mkdir()
        self.path = self.folder / "relayd.conf"
        self.kept = LastGoodFile(self.folder / "spool", self.path)
        self.main(MAINS[0])

    def main(self, text: str) -> None:
        head = f"hostname gw.example.com\nspool {self.folder}/spool\nsubaddress +\n"
        self.path.write_text(head + text)

    def write(self, domain: str, text: str) -> None:
        (self.customers / f"{domain}.rules").write_text(text, "utf-8")

    def plan(self, settings: config.Settings, recipient: str, sender: str) -> Plan:
        facts = Facts(Client("192.0.2.9"), Mailbox.parse(sender), Mailbox.parse(recipient))
        return evaluate(settings.ruleset, facts)

    def seen(self, settings: config.Settings) -> list[object]:
        """Whatever it makes of everybody, and what it says of the files."""
        found: list[object] = []
        rules = settings.ruleset
        for domain in DOMAINS:
            for local in LOCALS:
                for sender in (*DOMAINS, "outside.example"):
                    plan = self.plan(settings, f"{local}@{domain}", f"ann@{sender}")
                    goes = [
                        (str(each.mailbox), edit_header(rules, each.header_rules, HEADER))
                        for each in plan.destinations
                    ]
                    found.append((f"{local}@{domain}", sender, plan.reply, plan.trail, goes))
        found.append(sorted(map(str, settings.warnings)))
        return [*found, rules.hash]

    def rules(self, chance: random.Random, domain: str) -> str:
        """A file, often a good one."""
        own = f"{chance.choice(LOCALS)}@{domain}"
        other = f"{chance.choice(LOCALS)}@{chance.choice(DOMAINS)}"
        return "".join(
            f"{line}\n"
            for line in chance.sample(
                [
                    f"accept to @{domain}",
                    f"accept to @.{domain}",
                    f"accept to info@{domain}",
                    f"reject sender @{domain}",
                    f"hold sender ann@{domain}",
                    f"discard to {own} sender {other}",
                    f"table t {{ {own}, {other} }}",
                    f"table t {{ {other} }}\naccept to <t>",
                    f"reject to {own} when from <inside>",
                    f"forward {own} -> {other}, {own}",
                    f"forward info@{domain} -> {other}",
                    f"header add X-{len(domain)} {own} when sender @{domain}",
                    f"header add X-To {own} when to @{domain}",
                    f"expect to nobody@{domain} -> reject",
                    f"reject to {other}",
                    "acept",
                ],
                chance.choice((1, 2, 2, 3)),
            )
        )

    def change(self, chance: random.Random) -> None:
        """Something that somebody does."""
        names = [*DOMAINS, *OTHERS]
        path = self.customers / f"{chance.choice(names)}.rules"
        other = self.customers / f"{chance.choice(names)}.rules"
        match chance.randrange(10):
            case 0:
                path.unlink(missing_ok=True)
            case 1 if path.exists():
                path.rename(other)
            case 2 if path != other and path.exists() and other.exists():
                path.rename(beside := self.customers / "beside")
                other.rename(path)
                beside.rename(other)
            case 3:
                self.main(chance.choice(MAINS))
            case 4:
                path.unlink(missing_ok=True)
                path.symlink_to("common")
            case 5:
                text = self.rules(chance, chance.choice(DOMAINS))
                (self.customers / "common").write_text(text)
            case 6:
                self.write(path.stem, "acept\n")
            case _:
                path.unlink(missing_ok=True)
                self.write(path.stem, self.rules(chance, path.stem))

    def same(self, found: list[object], expected: list[object], what: str) -> None:
        for one, other in zip(found, expected, strict=True):
            self.assertEqual(one, other, what)

    def test_after_any_changes_all_is_as_after_a_fresh_start(self) -> None:
        for seed in range(5):
            # each round takes longer than a file system's clock needs for its next tick
            with self.subTest(seed=seed), patch.object(scopedfiles, "YOUNG", 0.0):
                self.put_through(random.Random(seed), 25)

    def test_which_of_two_files_comes_first_is_not_a_matter_of_who_came_first(self) -> None:
        process = _Process()
        self.write("b.example", "reject sender @b.example\n")
        process.load(self.path)
        self.write("a.example", "accept to @a.example\n")
        for settings in (process.load(self.path), _Process().load(self.path)):
            plan = self.plan(settings, "info@a.example", "ann@b.example")
            self.assertEqual(plan.reply.code, 250)

    def test_what_a_link_leads_to_is_read_again_when_it_has_changed(self) -> None:
        process = _Process()
        common = self.customers / "common"
        common.write_text("accept to ann@a.example\n")
        (self.customers / "a.example.rules").symlink_to("common")
        with patch.object(scopedfiles, "YOUNG", 0.0):
            process.load(self.path)
            common.write_text("accept to info@a.example\n")
            settings = process.load(self.path)
        self.assertEqual(self.plan(settings, "info@a.example", "x@b.example").reply.code, 250)
        self.assertEqual(self.plan(settings, "ann@a.example", "x@b.example").reply.code, 550)

    def test_what_was_included_once_is_not_the_last_good_version_of_what_is_included_anew(
        self,
    ) -> None:
        process = _Process()
        self.write("a.example", "accept to @a.example\n")
        process.load(self.path)
        self.main(MAINS[-1])
        process.load(self.path)
        self.write("a.example", "acept\n")
        self.main(MAINS[0])
        settings = process.load(self.path)
        self.assertEqual(self.plan(settings, "info@a.example", "x@b.example").reply.code, 550)

    def put_through(self, chance: random.Random, rounds: int) -> None:
        shutil.rmtree(self.customers)
        self.customers.mkdir()
        master, worker = _Process(), _Process()
        for number in range(rounds):
            for _ in range(chance.randrange(1, 4)):
                self.change(chance)
            texts = RecordedTexts()
            if chance.random() < 0.3:
                master.load(self.path)  # nothing has changed for the next one
            fresh = _Process().load(self.path)
            settings = master.load(self.path, texts)
            expected = self.seen(settings)
            self.same(self.seen(fresh), expected, f"a fresh start, {number}")
            packed = texts.without_secrets()
            theirs = worker.load(self.path, RememberedTexts(packed))
            # a worker has no mistakes to tell of: it reads what is in force
            self.same(self.seen(theirs)[:-2], expected[:-2], f"a worker, {number}")
            again = _Process().load(self.path, RememberedTexts(packed))
            self.same(self.seen(again)[:-2], expected[:-2], f"a worker anew, {number}")
            self.kept.keep(packed, float(number + 1))
