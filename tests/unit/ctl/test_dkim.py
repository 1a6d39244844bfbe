"""`relayctl dkim`: keys that only their owner may read, and records that verifiers find."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from relayd import config
from relayd.authentication.dkimkey import DkimKey, dkim_key
from relayd.ctl.dkim import zone_lines
from relayd.ctl.relayctl import main

STATEMENT = (
    "dkim gateway domain gw.example.com selector r key file dkim/r.pem,"
    " selector e key file dkim/e.pem"
)


class DkimTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.config = self.folder / "relayd.conf"
        self.site(STATEMENT)

    def site(self, statement: str) -> None:
        self.config.write_text(
            f"hostname gw.example.com\nspool {self.folder}/spool\n{statement}\n"
            "accept to @example.com\nsign any with gateway\n"
        )

    def dkim(self, *arguments: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(["--config", str(self.config), "dkim", *arguments])
        return status, out.getvalue(), err.getvalue()

    def listed(self) -> list[dict[str, str]]:
        found: list[dict[str, str]] = json.loads(self.dkim("list", "--json")[1])
        return found

    def test_make_writes_both_kinds_for_the_owner_alone(self) -> None:
        status, out, err = self.dkim("make", "gateway")
        self.assertEqual((status, err), (0, ""))
        for name in ("r.pem", "e.pem"):
            self.assertEqual((self.folder / "dkim" / name).stat().st_mode & 0o777, 0o600)
        self.assertEqual(
            [key.algorithm for key in config.load(self.config).signing["gateway"]],
            ["rsa-sha256", "ed25519-sha256"],
        )
        self.assertNotIn("PRIVATE", out)
        self.assertEqual(len(list((self.folder / "dkim").iterdir())), 2)

    def test_the_records_it_prints_are_those_of_the_keys(self) -> None:
        out = self.dkim("make", "gateway")[1]
        keys = config.load(self.config).signing["gateway"]
        for key in keys:
            at = re.search(re.escape(key.key_name) + r"\. IN TXT (\(\n[^)]*\)|.*)", out)
            assert at is not None
            strings = re.findall('"([^"]*)"', at[1])
            self.assertTrue(all(len(each) <= 255 for each in strings))
            self.assertEqual("".join(strings), key.record)
            self.assertIsInstance(dkim_key("".join(strings)), DkimKey)

    def test_what_is_there_is_never_overwritten(self) -> None:
        self.dkim("make", "gateway")
        before = (self.folder / "dkim" / "r.pem").read_bytes()
        (self.folder / "dkim" / "e.pem").unlink()
        status, out, _ = self.dkim("make", "gateway")
        self.assertEqual(status, 0)
        self.assertIn("e.pem made", out)
        self.assertNotIn("r.pem made", out)
        self.assertEqual((self.folder / "dkim" / "r.pem").read_bytes(), before)
        self.assertEqual(self.listed()[1]["algorithm"], "ed25519-sha256")

    def test_the_kind_can_be_said(self) -> None:
        self.dkim("make", "gateway", "--type", "ed25519")
        self.assertEqual({row["algorithm"] for row in self.listed()}, {"ed25519-sha256"})

    def test_list_tells_what_each_is_for(self) -> None:
        self.dkim("make", "gateway")
        self.site(STATEMENT.replace(", selector e", " retired selector e"))
        self.assertEqual([row["state"] for row in self.listed()], ["signs", "retired"])
        status, out, _ = self.dkim("list", "gateway")
        self.assertEqual(status, 0)
        self.assertIn(
            f"gateway  r._domainkey.gw.example.com  rsa-sha256 {self.folder}/dkim/r.pem  signs\n",
            out,
        )

    def test_list_before_the_keys_are_made(self) -> None:
        status, out, _ = self.dkim("list")
        self.assertEqual(status, 1)
        self.assertEqual(out.count("unusable: No such file or directory"), 2)

    def test_a_name_that_nobody_gave(self) -> None:
        status, _, err = self.dkim("make", "gatewey")
        self.assertEqual(status, 1)
        self.assertIn('has no dkim gatewey; did you mean "gateway"?', err)

    def test_a_configuration_that_is_not_there_is_said_with_the_way_out(self) -> None:
        self.config.unlink()
        for action in ("make", "list"):
            status, _, err = self.dkim(action, "gateway")
            self.assertEqual(status, 1)
            why = "No such file or directory; --config names another one"
            self.assertEqual(err, f"relayctl: {self.config}: {why}\n")

    def test_a_key_in_a_folder_that_is_closed_is_said_with_its_place(self) -> None:
        self.assertEqual(self.dkim("make", "gateway")[0], 0)
        self.folder.chmod(0o755)
        (self.folder / "dkim").chmod(0)
        self.addCleanup((self.folder / "dkim").chmod, 0o700)
        nobody = 65534
        with contextlib.ExitStack() as stack:
            if os.geteuid() == 0:  # to whom no folder is closed
                os.seteuid(nobody)
                stack.callback(os.seteuid, 0)
            with self.assertRaises(config.ConfigErrors) as caught:
                config.load(self.config)
            _, _, err = self.dkim("list")
        first = str(caught.exception).partition("\n")[0]
        self.assertIn("relayd.conf:3:", first)
        self.assertIn("cannot read dkim/r.pem: Permission denied; expected ", first)
        self.assertRegex(first, r"a folder that this user \(uid \d+\) may enter: \S+/dkim$")
        self.assertIn("dkim/r.pem: Permission denied (relayctl must run as root", err)

    def test_a_file_that_holds_no_key_is_left_alone_and_said(self) -> None:
        (self.folder / "dkim").mkdir()
        (self.folder / "dkim" / "r.pem").write_text("mine\n")
        (self.folder / "dkim" / "r.pem").chmod(0o600)
        status, _, err = self.dkim("make", "gateway")
        self.assertEqual(status, 1)
        self.assertIn("r.pem: there is no private key in it", err)
        self.assertEqual((self.folder / "dkim" / "r.pem").read_text(), "mine\n")

    def test_folders_that_are_not_there_are_made(self) -> None:
        self.site(STATEMENT.replace("dkim/", "a/b/c/"))
        self.assertEqual(self.dkim("make", "gateway")[0], 0)
        for folder in ("a", "a/b", "a/b/c"):
            self.assertEqual((self.folder / folder).stat().st_mode & 0o777, 0o700)

    def test_what_cannot_be_written_is_said_by_its_name(self) -> None:
        (self.folder / "file").write_text("x")
        (self.folder / "link.pem").symlink_to("nowhere.pem")
        for path, why in (
            ("file/r.pem", "file/r.pem: Not a directory\n"),
            ("link.pem", "link.pem: a link to nowhere.pem, which is not there\n"),
        ):
            self.site(f"dkim gateway domain gw.example.com selector r key file {path}")
            status, _, err = self.dkim("make", "gateway")
            self.assertEqual((status, err), (1, f"relayctl: {self.folder}/{why}"))

    def test_a_key_that_relayd_would_not_take_is_said(self) -> None:
        self.dkim("make", "gateway")
        (self.folder / "dkim/r.pem").chmod(0o644)
        status, out, _ = self.dkim("list")
        self.assertEqual(status, 1)
        self.assertIn("is open to others (mode 0644); expected e.g. chmod 640", out)
        status, _, err = self.dkim("make", "gateway")
        self.assertEqual(status, 1)
        self.assertIn("is open to others (mode 0644)", err)

    def test_what_never_ends_is_not_read(self) -> None:
        os.mkfifo(self.folder / "fifo", 0o600)
        for path in ("fifo", "/dev/zero"):
            self.site(f"dkim gateway domain gw.example.com selector r key file {path}")
            self.assertIn(f"{path} is no file", self.dkim("list")[1])
            self.assertIn(f"{path} is no file", self.dkim("make", "gateway")[2])
            with self.assertRaisesRegex(config.ConfigErrors, f"{path} is no file"):
                config.load(self.config)

    def test_a_statement_that_cannot_be_read_is_shown(self) -> None:
        self.site("dkim gateway domain gw.example.com selctor r key file r.pem")
        for arguments in (("make", "gateway"), ("list",)):
            status, _, err = self.dkim(*arguments)
            self.assertEqual(status, 1)
            self.assertIn('relayd.conf:3:36: unexpected "selctor"', err)

    def test_check_shows_what_is_missing(self) -> None:
        key = {
            "name": "gateway", "domain": "gw.example.com", "selector": "r",
            "at": "r._domainkey.gw.example.com",
            "algorithm": "rsa-sha256", "record": "v=DKIM1; k=rsa; p=AAAA",
        }  # fmt: skip
        good = key | {"state": "right", "why": ""}
        bad = key | {"state": "missing", "why": "there is no record"}
        for keys, status, shown in (
            ([good], 0, "r._domainkey.gw.example.com  rsa-sha256  right\n"),
            (
                [good, bad],
                1,
                'there is no record\n    r._domainkey.gw.example.com. IN TXT "v=DKIM1; k=rsa; ',
            ),
        ):
            with mock.patch(
                "relayd.ctl.client.Daemon.answer", return_value={"keys": keys}
            ) as asked:
                self.assertEqual(self.dkim("check", "gateway")[0], status)
                self.assertIn(shown, self.dkim("check")[1])
            asked.assert_called_with("dkim", name="")

    def test_a_long_record_is_cut_into_strings(self) -> None:
        lines = list(zone_lines("s._domainkey.example.com", "x" * 300))
        self.assertEqual(
            lines,
            ["s._domainkey.example.com. IN TXT (", f'    "{"x" * 255}"', f'    "{"x" * 45}"', ")"],
        )
