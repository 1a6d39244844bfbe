"""The manual pages: all of the language and of relayctl is there, and troff does not complain."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.config import load
from relayd.config.settings import SPECS
from relayd.config.tls import LISTENER_TLS, MINIMUMS
from relayd.config.values import LISTEN_OPTIONS
from relayd.ctl.relayctl import parser
from relayd.mail.security import LEVELS
from relayd.rules.conditions.registry import CONDITIONS
from relayd.rules.language.grammar import KINDS, VERBS

CHECKOUT = Path(__file__).resolve().parents[2]
MAN = CHECKOUT / "docs" / "man"
SENDMAIL = CHECKOUT / "packaging" / "debian" / "mta" / "sendmail.8"


def words(page: str) -> set[str]:
    """Every word of a page, the macros' arguments among them."""
    text = re.sub(r'^\.\\".*$', "", (MAN / page).read_text(), flags=re.MULTILINE)
    return set(re.findall(r"[a-z0-9][a-z0-9-]*", text))


def settings_page() -> str:
    """relayd.conf(5), as the package makes it."""
    script, example = CHECKOUT / "packaging/manpage.py", CHECKOUT / "etc/relayd/relayd.conf"
    done = subprocess.run(
        [sys.executable, str(script), str(example)], capture_output=True, text=True, check=True
    )
    return done.stdout


class ManTest(unittest.TestCase):
    def test_the_whole_language_is_described(self) -> None:
        language = {*VERBS, *SPECS, *CONDITIONS, *KINDS, "when", "regex", "null"}
        self.assertEqual(language - words("relayd-rules.5"), set())

    def test_every_command_is_described(self) -> None:
        (commands,) = (
            action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
        )
        self.assertEqual(set(commands.choices) - words("relayctl.8"), set())
        for name in ("explain", "replay", "queue", "remove", "find", "follow", "digest"):
            options = {
                option.removeprefix("--")
                for action in commands.choices[name]._actions
                for option in action.option_strings
                if option.startswith("--") and option not in ("--help", "--destination")
            }
            self.assertEqual(options - words("relayctl.8"), set(), name)

    def test_every_setting_has_its_entry_in_relayd_conf_5(self) -> None:
        """Made of the example's comments: there each is explained, with its default."""
        page = settings_page()
        entries = set(re.findall(r"^\.It Ic ([a-z-]+)", page, flags=re.MULTILINE))
        self.assertEqual(set(SPECS) - entries, set())
        options = {*LISTEN_OPTIONS, *LISTENER_TLS, *MINIMUMS, *LEVELS}
        said = set(re.findall(r"[a-z0-9][a-z0-9.-]*[a-z0-9]", page.replace("\\-", "-")))
        self.assertEqual(options - said, set())

    def test_the_example_loads(self) -> None:
        page = (MAN / "relayd-rules.5").read_text()
        example = page.partition(".Bd -literal\n")[2].partition(".Ed")[0]
        with TemporaryDirectory() as name:
            path = Path(name) / "relayd.conf"
            path.write_text("hostname gw.example.com\n" + example)
            (Path(name) / "aliases").write_text("office: ann@example.com\n")
            settings = load(path)
        self.assertEqual(len(settings.ruleset.expects), 3)

    def test_troff_has_no_complaint(self) -> None:
        checks = [
            command
            for command in (["mandoc", "-Tlint", "-Wwarning"], ["man", "-l", "--warnings"])
            if shutil.which(command[0])
        ]
        if not checks:
            self.skipTest("mandoc or man (apt-get install mandoc)")
        temporary = TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        made = Path(temporary.name) / "relayd.conf.5"
        made.write_text(settings_page())
        for page in [*sorted(MAN.iterdir()), SENDMAIL, made]:
            for command in checks:
                done = subprocess.run([*command, str(page)], capture_output=True, text=True)
                said = done.stdout if command[0] == "mandoc" else done.stderr
                self.assertEqual(said, "", page.name)
                self.assertEqual(done.returncode, 0, page.name)
