from __future__ import annotations

import io
import json
import os
import socket
import sys
import threading
import unittest
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest import mock

from relayd.intake.pickup import read_slip
from relayd.ops import drop, sendmail
from relayd.ops.dialogue import converse

MAILNAME = "host.example.com"


class Sendmail(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.spool = Path(folder.name)
        self.folder = self.spool / "drop"
        self.folder.mkdir()
        config = self.spool / "relayd.conf"
        config.write_text(f"hostname gw.example.com\nspool {self.spool}\n")
        name = self.spool / "mailname"
        name.write_text(MAILNAME + "\n")
        for attribute, value in (("CONFIG", config), ("MAILNAME", name)):
            patch = mock.patch.object(drop, attribute, str(value))
            patch.start()
            self.addCleanup(patch.stop)
        self.user = drop.Site.here().user

    def run_it(self, *arguments: str, text: bytes = b"Subject: x\n\nhi\n") -> tuple[int, str]:
        with (
            mock.patch.object(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text))),
            mock.patch.object(sys, "argv", ["sendmail"]),
            mock.patch.object(sys, "stderr", io.StringIO()) as complaint,
        ):
            return sendmail.main(list(arguments)), complaint.getvalue()

    def dropped(self) -> Iterator[tuple[dict[str, object], bytes]]:
        for path in sorted(self.folder.iterdir()):
            self.assertEqual(path.suffix, ".mail")
            line, _, content = path.read_bytes().partition(b"\n")
            read_slip(line, "gw.example.com")  # what the daemon demands
            path.unlink()
            yield json.loads(line), content

    def only(self, *arguments: str, text: bytes) -> tuple[dict[str, object], bytes]:
        self.assertEqual(self.run_it(*arguments, text=text), (0, ""))
        ((slip, content),) = self.dropped()
        return slip, content

    def test_echo_to_somebody(self) -> None:
        slip, content = self.only("someone@example.net", text=b"hi\n")
        self.assertEqual(slip["sender"], f"{self.user}@{MAILNAME}")
        self.assertEqual(slip["recipients"], ["someone@example.net"])
        head, _, body = content.partition(b"\r\n\r\n")
        names = [line.partition(b":")[0] for line in head.split(b"\r\n")]
        self.assertEqual(names, [b"From", b"Date", b"Message-ID"])
        self.assertEqual(body, b"hi\r\n")

    def test_the_file_is_for_relayds_group(self) -> None:
        mask = os.umask(0o077)
        self.addCleanup(os.umask, mask)
        self.run_it("a@example.net")
        (path,) = self.folder.iterdir()
        self.assertEqual(path.stat().st_mode & 0o777, 0o640)

    def test_recipients_from_the_header_and_bcc_taken_out(self) -> None:
        slip, content = self.only(
            "-t",
            "-oi",
            "x@example.net",
            text=b'To: "B, C" <b@example.net>,\n d@example.net\nCc: root\nBcc: e@example.net\n'
            b"Subject: s\n\n.\nmore\n",
        )
        self.assertEqual(
            slip["recipients"],
            [
                "x@example.net",
                "b@example.net",
                "d@example.net",
                f"root@{MAILNAME}",
                "e@example.net",
            ],
        )
        self.assertNotIn(b"e@example.net", content)
        self.assertIn(f"\r\nCc: root@{MAILNAME}\r\n".encode(), content)
        self.assertTrue(content.endswith(b"\r\n\r\n.\r\nmore\r\n"), content)

    def test_what_cron_does(self) -> None:
        """cron -> sendmail -i -FCronDaemon -B8BITMIME -oem root"""
        slip, content = self.only(
            "-i",
            "-FCronDaemon",
            "-B8BITMIME",
            "-oem",
            "root",
            text=b"From: root (Cron Daemon)\nTo: root\nSubject: Cron <root@h> x\n\nout\n",
        )
        self.assertEqual((slip["recipients"], slip["body"]), ([f"root@{MAILNAME}"], "8BITMIME"))
        self.assertIn(f"From: root@{MAILNAME} (Cron Daemon)\r\n".encode(), content)

    def test_a_dot_alone_ends_unless_i(self) -> None:
        _, content = self.only("a@example.net", text=b"a\n.\nb\n")
        self.assertTrue(content.endswith(b"\r\n\r\na\r\n"), content)
        for options in (["-i"], ["-oi"], ["-ti"]):
            text = b"To: a@example.net\n\na\n.\nb\n"
            _, content = self.only(*options, "a@example.net", text=text)
            self.assertTrue(content.endswith(b"a\r\n.\r\nb\r\n"), content)

    def test_line_ends_become_those_of_the_wire(self) -> None:
        _, content = self.only("a@example.net", text=b"a\r\nb\rc\n\nd\0e")
        self.assertTrue(content.endswith(b"\r\n\r\na\r\nb\r\nc\r\n\r\nde\r\n"), content)

    def test_options_of_a_long_history(self) -> None:
        slip, content = self.only(
            *("-f", "<w@example.org>", "-F", 'Ann "A" Other', "-N", "success,delay", "-Rhdrs"),
            *("-V", "id1", "-O", "DeliveryMode=b", "-om", "-h", "3", "-Lmail", "-v", "-G"),
            *("-ep", "-X/dev/null", "-d0.1", "--", "a@example.net"),
            text=b"From someone Mon\nX-A: 1\nbody without an empty line\n",
        )
        self.assertEqual(slip["sender"], "w@example.org")
        self.assertEqual(slip["notify"], ["SUCCESS", "DELAY"])
        self.assertEqual((slip["ret"], slip["envid"]), ("HDRS", "id1"))
        self.assertTrue(content.startswith(b'From: "Ann \\"A\\" Other" <w@example.org>'), content)
        self.assertTrue(content.endswith(b"X-A: 1\r\n\r\nbody without an empty line\r\n"), content)

    def test_the_null_sender(self) -> None:
        for option in ("<>", ""):
            slip, content = self.only("-f", option, "a@example.net", text=b"\n")
            self.assertEqual(slip["sender"], "")
            self.assertIn(f"From: {self.user}@{MAILNAME}".encode(), content.replace(b"root <", b""))

    def test_many_recipients_are_spread_over_files(self) -> None:
        self.run_it(*(f"r{number}@example.net" for number in range(1100)))
        found = [slip["recipients"] for slip, _ in self.dropped()]
        self.assertEqual(sorted(map(len, found)), [100, 500, 500])  # type: ignore[arg-type]

    def test_nothing_is_left_behind_when_it_cannot_be_done(self) -> None:
        self.assertEqual(self.run_it(), (64, "sendmail: no recipients\n"))
        self.assertEqual(self.run_it("-t", text=b"Subject: x\n\n")[0], 64)
        self.assertEqual(self.run_it("-y", "a@example.net")[0], 64)
        self.assertEqual(self.run_it("-bd")[0], 64)
        self.assertEqual(self.run_it("-q30m"), (0, ""))
        self.assertEqual(list(self.folder.iterdir()), [])
        self.folder.rmdir()
        status, complaint = self.run_it("a@example.net")
        self.assertEqual(status, 75)
        self.assertIn("cannot leave the message", complaint)

    def test_smtp_on_standard_input(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        fd = theirs.fileno()
        session = threading.Thread(target=converse, args=(fd, fd, str(self.folder), MAILNAME))
        session.start()
        ours.sendall(
            b"EHLO x\r\nMAIL FROM:<a@example.org> BODY=8BITMIME\r\nRCPT TO:<b@example.net>\r\n"
            b"DATA\r\nSubject: x\r\n\r\n..dot\r\n.\r\n"
            b"MAIL FROM:<>\r\nRCPT TO:<c@example.net> NOTIFY=NEVER\r\nRSET\r\nQUIT\r\n"
        )
        session.join(10)
        said = ours.recv(65536).decode()
        self.assertIn("250 2.0.0 Left for relayd\r\n", said)
        ((slip, content),) = self.dropped()
        self.assertEqual(slip["recipients"], ["b@example.net"])
        self.assertEqual(content, b"Subject: x\r\n\r\n.dot\r\n")
