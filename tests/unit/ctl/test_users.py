"""`relayctl user`: the file, its mode, and what it takes for a password."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from relayd.ctl.relayctl import main
from relayd.login.users import Seat, parse


class UserTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.config = self.folder / "relayd.conf"
        self.config.write_text(
            f"hostname gw.example.com\nspool {folder.name}/spool\ntable people users file users\n"
            "accept login <people>\n"
        )
        self.users = self.folder / "users"

    def run_user(self, *arguments: str, said: str = "") -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            mock.patch.object(sys, "stdin", io.StringIO(said)),
        ):
            status = main(["--config", str(self.config), "user", *arguments])
        return status, out.getvalue(), err.getvalue()

    def accepts(self, name: str, password: str) -> bool:
        users, problems = parse(self.users.read_text().splitlines())
        self.assertEqual(problems, [])
        return users.accepts(name, password)

    def test_a_role_and_codes_stay_when_the_password_changes_and_go_with_the_login(self) -> None:
        self.run_user("add", "ann", said="x\n")
        self.assertEqual(self.run_user("totp", "ann")[0], 1)  # what for?
        self.assertEqual(self.run_user("role", "ann", "operator")[0], 0)
        status, out, _ = self.run_user("totp", "ann")
        self.assertEqual(status, 0)
        self.assertIn("otpauth://totp/relayd%3Aann?secret=", out)
        before = self.seats()["ann"]
        self.assertEqual(str(before.role), "operator")
        self.run_user("passwd", "ann", said="y\n")
        self.assertEqual(self.seats(), {"ann": before})
        self.run_user("role", "ann", "admin")
        self.assertEqual(self.seats()["ann"].totp, before.totp)
        self.assertEqual(self.run_user("list")[1], "ann  admin with codes\n")
        self.run_user("totp", "ann")
        self.assertNotEqual(self.seats()["ann"].totp, before.totp)
        self.assertNotIn("otpauth", self.run_user("totp", "ann", "--off")[1])
        self.assertEqual(self.seats()["ann"].totp, b"")
        self.run_user("role", "ann", "none")
        self.assertEqual(self.seats(), {})
        self.assertTrue(self.accepts("ann", "y"))
        self.run_user("role", "ann", "viewer")
        self.run_user("remove", "ann")
        self.assertEqual(self.seats(), {})

    def seats(self) -> dict[str, Seat]:
        return dict(parse(self.users.read_text().splitlines())[0].seats)

    def test_it_says_which_role_and_whether_codes_are_asked_for(self) -> None:
        self.run_user("add", "ann", said="x\n")
        for words, said in (
            (("role", "ann", "viewer"), "ann has the role viewer in"),
            (("totp", "ann"), "ann has a new secret for codes in"),
            (("totp", "ann", "--off"), "ann has no secret for codes in"),
            (("role", "ann", "none"), "ann has no role in"),
        ):
            out = self.run_user(*words)[1]
            self.assertIn(f"{said} {self.users}; put it in force with: relayctl reload", out)

    def test_the_life_of_a_login(self) -> None:
        status, out, _ = self.run_user("add", "Alice@example.com", said="s3cret word\nnot this\n")
        self.assertEqual(status, 0)
        self.assertIn("alice@example.com added", out)
        self.assertEqual(self.users.stat().st_mode & 0o777, 0o600)
        self.assertTrue(self.accepts("alice@example.com", "s3cret word"))
        self.assertNotIn("s3cret", self.users.read_text())
        self.assertEqual(self.run_user("add", "bob", said="x\n")[0], 0)
        self.assertEqual(self.run_user("list")[1], "alice@example.com\nbob\n")
        self.assertEqual(json.loads(self.run_user("--json", "list")[1])[1], "bob")
        before = self.users.read_text().splitlines()[0]
        self.assertEqual(self.run_user("passwd", "alice@example.com", said="new\n")[0], 0)
        self.assertTrue(self.accepts("alice@example.com", "new"))
        self.assertFalse(self.accepts("alice@example.com", "s3cret word"))
        self.assertEqual(self.run_user("remove", "ALICE@example.com")[0], 0)
        self.assertEqual(self.run_user("list")[1], "bob\n")
        self.assertEqual(self.users.read_text().splitlines()[0], before)  # the seed stays
        self.assertEqual([each.name for each in self.folder.glob(".users*")], [])

    def test_a_file_that_is_not_there_yet_is_found_wherever_the_table_is_defined(self) -> None:
        base = f"hostname gw.example.com\nspool {self.folder}/spool\n"
        (self.folder / "rules.d").mkdir()
        (self.folder / "logins").mkdir()
        rules = self.folder / "rules.d" / "20-mine.rules"
        for written, made in (
            ("table people users file people", "rules.d/people"),
            ("table people users file ../logins/people", "logins/people"),
            (f"table people users file {self.folder}/logins/people", "logins/people"),
            ('table people  users\n  file "the people"  # ours', "rules.d/the people"),
        ):
            with self.subTest(written=written):
                self.config.write_text(base + "include rules.d/*.rules\n")
                rules.write_text(written + "\naccept login <people>\n")
                status, out, err = self.run_user("add", "bob", said="x\n")
                self.assertEqual((status, err), (0, ""))
                where = self.folder / made
                self.assertIn("bob added", out)
                self.assertEqual(self.run_user("list")[1], "bob\n")
                self.assertEqual(main(["check", str(self.config)]), 0)
                where.unlink()

    def test_a_broken_rule_elsewhere_hides_no_table(self) -> None:
        self.config.write_text("forwrad x\n" + self.config.read_text())
        self.assertEqual(self.run_user("add", "bob", said="x\n")[0], 0)
        self.assertTrue(self.accepts("bob", "x"))

    def test_what_is_refused(self) -> None:
        self.run_user("add", "bob", said="x\n")
        for arguments, said, why in (
            (("add", "bob"), "y\n", "already"),
            (("add", "new"), "\n", "empty password"),
            (("add", "new"), "\x07\n", "cannot be used"),
            (("add", "a:b"), "y\n", "cannot be a login"),
            (("add", "a b"), "y\n", "blank"),
            (("passwd", "nobody"), "y\n", "not in"),
            (("remove", "nobody"), "", "not in"),
            (("add", "new", "--file", str(self.folder / "none" / "users")), "y\n", "No such file"),
        ):
            with self.subTest(arguments=arguments):
                status, _, err = self.run_user(*arguments, said=said)
                self.assertEqual(status, 1)
                self.assertIn(why, err)
        self.assertTrue(self.accepts("bob", "x"))

    def test_which_file(self) -> None:
        self.config.write_text("hostname x.example\n")
        status, _, err = self.run_user("list")
        self.assertEqual(status, 1)
        self.assertIn("names no users file", err)
        other = self.folder / "other"
        self.assertEqual(self.run_user("add", "eve", "--file", str(other), said="p\n")[0], 0)
        self.assertTrue(other.exists())

    def test_comments_and_strange_lines_stay(self) -> None:
        self.users.write_text("# ours\nnonsense\n")
        self.run_user("add", "bob", said="x\n")
        self.assertIn("# ours\nnonsense\nbob:", self.users.read_text())
        status, out, err = self.run_user("list")
        self.assertEqual((status, out), (1, "bob\n"))
        self.assertIn("users:3", err)

    def test_a_link_stays_a_link(self) -> None:
        real = self.folder / "real"
        real.write_text("")
        self.users.symlink_to(real)
        self.run_user("add", "bob", said="x\n")
        self.assertTrue(self.users.is_symlink())
        self.assertIn("bob:", real.read_text())
