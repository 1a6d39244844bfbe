from __future__ import annotations

import io
import json
import os
import pwd
import re
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
from relayd.mail.address import Mailbox
from relayd.sendmail import drop
from relayd.sendmail import program as sendmail
from relayd.sendmail.dialogue import converse

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
            for each in read_slip(line, "gw.example.com").recipients:  # what the daemon demands
                Mailbox.parse(each)
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

    def test_a_cr_within_a_header_line_begins_no_other_line(self) -> None:
        slip, content = self.only(
            "-t",
            text=b"To: a@example.net\r\nSubject: x\rBcc: b@example.net\rX: \r\n y\r\r\n\r\r\nz\n",
        )
        self.assertEqual(slip["recipients"], ["a@example.net"])
        head, _, body = content.partition(b"\r\n\r\n")
        self.assertTrue(head.endswith(b"\r\nSubject: x Bcc: b@example.net X: \r\n y"), content)
        self.assertEqual(body, b"z\r\n")

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

    def test_options_stand_together_or_apart_as_getopt_takes_them(self) -> None:
        text = b"To: a@example.net\n\na\n.\nb\n"
        for options in (
            *(["-tif", "w@example.org"], ["-itfw@example.org"], ["-toi", "-fw@example.org"]),
            *(["-t", "-o", "i", "-f", "w@example.org"], ["-vti", "-oem", "-rw@example.org"]),
            ["-e", "m", "-A", "c", "-b", "m", "-o", "db", "-p", "SMTP:x", "-tfw@example.org", "-i"],
        ):
            with self.subTest(options):
                slip, content = self.only(*options, text=text)
                self.assertEqual(slip["sender"], "w@example.org")
                self.assertEqual(slip["recipients"], ["a@example.net"])
                self.assertTrue(content.endswith(b"a\r\n.\r\nb\r\n"), content)
        self.assertEqual(
            self.only("-d", "a@example.net", text=b"\n")[0]["recipients"], ["a@example.net"]
        )
        for words, *options in (("option -y", "-tyi"), ("-o wants", "-to"), ("-bd is", "-b", "d")):
            self.refused(64, words, *options)

    def test_a_sender_with_a_name(self) -> None:
        for sender in ("Ann Other <w@example.org>", '"O, Ann" <w@example.org>', "<w@example.org>"):
            with self.subTest(sender):
                slip, content = self.only("-f", sender, "a@example.net", text=b"\n")
                self.assertEqual(slip["sender"], "w@example.org")
                self.assertTrue(content.startswith(b"From: w@example.org\r\n"), content)

    def test_the_spool_is_named_from_where_the_configuration_is(self) -> None:
        config = self.spool / "relayd.conf"
        database = 'postgresql "service=relayd" folder'
        for spool in (
            *(".", f'"{self.spool}"', f"../{self.spool.name}  # here"),
            f'{database} "{self.spool}" # here',
        ):
            config.write_text(f"spool {spool}\n")
            with self.subTest(spool):
                self.only("a@example.net", text=b"\n")

    def test_the_null_sender(self) -> None:
        for option in ("<>", ""):
            slip, content = self.only("-f", option, "a@example.net", text=b"\n")
            self.assertEqual(slip["sender"], "")
            self.assertIn(f"From: {self.user}@{MAILNAME}".encode(), content.replace(b"root <", b""))

    def test_a_recipient_with_a_name(self) -> None:
        for argument, found in (
            ("Foo <b@c.test>", ["b@c.test"]),
            ('"Foo, Bar @ home" <b@c.test>', ["b@c.test"]),
            ('"Foo \\"the\\" Bar"<b@c.test>', ["b@c.test"]),
            ("J\u00fcrgen M\u00fcller <b>", [f"b@{MAILNAME}"]),
            ("Foo <b@c.test>, Bar <d@c.test>", ["b@c.test", "d@c.test"]),
            ('Foo <"a b"@c.test>', ['"a b"@c.test']),
            ('"a b"@c.test', ['"a b"@c.test']),
        ):
            with self.subTest(argument):
                slip, _ = self.only(argument, text=b"\n")
                self.assertEqual(slip["recipients"], found)
        for argument in ("Foo <b@c.test", "Foo b@c.test", "Foo <>", "a@b.test <b@c.test>"):
            with self.subTest(argument):
                status, said = self.run_it(argument)
                self.assertIn(status, (64, 65))
                self.assertRegex(said, "is no address|no recipients")

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
        session = threading.Thread(target=converse, args=(fd, fd, drop.Site.here()))
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

    def test_dots_that_need_quotes_leave_in_the_spelling_of_the_book(self) -> None:
        text = b"To: Ann <.ann@docomo.example>, ann.@docomo.example.\n\nhi\n"
        self.assertEqual(self.run_it("-t", "-f", "a..b@docomo.example", text=text)[0], 0)
        ((slip, content),) = self.dropped()
        self.assertEqual(slip["sender"], '"a..b"@docomo.example')
        self.assertEqual(slip["recipients"], ['".ann"@docomo.example', '"ann."@docomo.example'])
        self.assertIn(b'From: "a..b"@docomo.example\r\n', content)
        envelope = read_slip(json.dumps(slip).encode(), MAILNAME)
        self.assertEqual(envelope.sender, Mailbox("a..b", "docomo.example"))

    def refused(self, status: int, words: str, *arguments: str, text: bytes = b"\nhi\n") -> None:
        """It ends with this status and these words, and leaves nothing."""
        said = self.run_it(*arguments, text=text)
        self.assertEqual(said[0], status, said)
        self.assertIn(words, said[1])
        self.assertEqual(said[1].count("\n"), 1, said)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_sender_that_is_no_address_is_refused_in_words(self) -> None:
        for sender in (
            *("a@b.test\r\nx", "a@b.test\nRCPT TO:<c@d.test>", "a\0@b.test", "a b@c.test"),
            *("a@", "@b.test", "a@b@c.test", "a@b..test", "a\udcff@b.test", "x" * 300 + "@b.test"),
            *("a@" + "x" * 300, "a@" + "x." * 200 + "test", '"a@b.test', "a\t@b.test"),
        ):
            with self.subTest(sender=sender[:30]):
                self.refused(64, "is no address", "-f", sender, "a@example.net")
                self.refused(64, "is no address", "-r" + sender, "a@example.net")

    def test_a_recipient_that_is_no_address_is_refused_in_words(self) -> None:
        for recipient in (
            *(
                "a@b.test\nx",
                "a@b.test\r",
                "\na@b.test",
                "a b@c.test",
                "a@",
                "@b.test",
                "a\t@b.test",
            ),
            *(
                "a@b..test",
                "a\udcff@b.test",
                "x" * 300 + "@b.test",
                "a@" + "x" * 300,
                '"a"[b]@c.test',
            ),
        ):
            with self.subTest(recipient=recipient[:30]):
                self.refused(65, "is no address", "good@example.net", recipient)
                self.refused(65, "is no address", "--", recipient)

    def test_addresses_out_of_the_ordinary_are_taken(self) -> None:
        for address in (
            *('"a b"@example.net', "j\u00f6rg@example.net", "a@[192.0.2.1]", "a_b@x_y.example.net"),
            *("a@b\u00fccher.example", "a@[IPv6:2001:db8::1]", "x" * 100 + "@example.net"),
        ):
            with self.subTest(address=address[:30]):
                slip, _ = self.only("-f", address, address, text=b"\nhi\n")
                self.assertEqual((slip["sender"], slip["recipients"]), (address, [address]))

    def test_values_of_options_that_make_no_sense_are_refused(self) -> None:
        for words, *options in (
            ("-F wants", "-F", "a\nBcc: x@example.net"),
            ("-F wants", "-F", "a\r"),
            ("-F wants", "-F", "a\udcff"),
            ("-F wants", "-F", "\u2028"),
            ("-F wants", "-F", "x" * 300),
            ("-V wants", "-V", "id\n"),
            ("-V wants", "-V", "x" * 101),
            ("-V wants", "-V", ""),
            ("-V wants", "-V", "caf\u00e9"),
            ("-N wants", "-N", "sometimes"),
            ("-N wants", "-N", "never,success"),
            ("-N wants", "-N", "success\n"),
            ("-R wants", "-R", "half"),
            ("-B wants", "-B", "9BIT"),
            ("wants a value", "-f"),
        ):
            with self.subTest(options=options):
                arguments = ["a@example.net", *options] if len(options) == 1 else options
                self.refused(64, words, *arguments, *([] if len(options) == 1 else ["a@b.test"]))

    def test_header_fields_without_a_readable_recipient_are_named(self) -> None:
        for text in (
            b"To: x y z\n\n",
            b"To: a@example.net\nCc: <>\n\n",
            b"To: a@b@c\n\n",
            b'To: "a" <b c@example.net>\n\n',
            b"To: \xff@example.net\n\n",
            b"To: a\0b c@example.net\n\n",
            b"To: a@example.net\nBcc: b@c..test\n\n",
        ):
            with self.subTest(text=text):
                self.refused(65, "", "-t", text=text)
        slip, _ = self.only("-t", text=b"To: undisclosed-recipients:;\nBcc: a@example.net\n\n")
        self.assertEqual(slip["recipients"], ["a@example.net"])

    def test_resent_bcc_is_taken_out_as_well(self) -> None:
        _, content = self.only("-t", text=b"Resent-To: a@b.test\nResent-Bcc: c@d.test\n\nx\n")
        self.assertNotIn(b"c@d.test", content)

    def test_a_full_name_of_the_system_cannot_break_the_header(self) -> None:
        entry = SimpleNamespace(pw_name="DOMAIN\\joe", pw_gecos="Joe\nBcc: x@example.net,,,")
        with mock.patch.object(pwd, "getpwuid", lambda uid: entry):
            slip, content = self.only("a@example.net", text=b"hi\n")
        self.assertEqual(slip["sender"], f"uid-{os.getuid()}@{MAILNAME}")
        self.assertIn(b'From: "Joe Bcc: x@example.net" <uid-', content)

    def test_a_mail_name_that_is_none_is_not_used(self) -> None:
        (self.spool / "mailname").write_text("-no..name\n")
        slip, _ = self.only("root", text=b"hi\n")
        self.assertEqual(slip["recipients"], ["root@gw.example.com"])

    def test_a_message_that_relayd_would_not_take_is_refused_here(self) -> None:
        config = self.spool / "relayd.conf"
        config.write_text(f"spool {self.spool}\nmessage-size 100KiB  # small\nheader-size 32KiB\n")
        many = b"x" * 70 + b"\n"
        self.refused(65, "message-size (102400 octets)", "a@b.test", text=b"\n" + many * 1500)
        self.refused(65, "larger than 28672", "a@b.test", text=b"X: " + (b" " + many) * 500)
        # ... nor one that only becomes so by what is added to it
        self.refused(65, "larger than 28672", "x@b.test", text=b"To: " + b"a," * 5000 + b"a\n\n")

    def test_names_that_are_completed_stay_within_the_length_of_a_line(self) -> None:
        _, content = self.only("x@b.test", text=b"To: " + b"a, " * 200 + b"a\n\n")
        self.assertLess(max(map(len, content.split(b"\r\n"))), 998)
        to = content[content.index(b"To: ") :]  # not in a Message-ID that happens to end in a
        self.assertEqual(re.split(rb"\r\n(?![ \t])", to)[0].count(b"a@" + MAILNAME.encode()), 201)

    def test_who_has_left_too_much_is_told_so(self) -> None:
        (self.spool / drop.OVER_QUOTA).write_text("999\n1000\n")
        with mock.patch.object(os, "getuid", lambda: 1000):
            self.refused(75, "too much of your mail waits already", "a@example.net")
        with mock.patch.object(os, "getuid", lambda: 100):
            self.only("a@example.net", text=b"\n")
        with mock.patch.object(os, "getuid", lambda: 0):
            self.only("a@example.net", text=b"\n")

    def test_the_last_of_the_disk_is_not_for_local_users(self) -> None:
        free = os.statvfs(self.folder).f_bavail * os.statvfs(self.folder).f_frsize
        config = self.spool / "relayd.conf"
        config.write_text(f"spool {self.spool}\nfree-space {free * 3 // 4}\n")
        with mock.patch.object(os, "getuid", lambda: 1000):
            self.refused(75, "the disk is nearly full", "a@example.net")

    def test_a_disk_that_is_full_leaves_no_half_a_file(self) -> None:
        full = OSError(28, "No space left on device")
        with mock.patch.object(os, "fsync", side_effect=full):
            self.refused(75, "No space left", "a@example.net")

    def test_closed_descriptors_are_no_crash(self) -> None:
        with mock.patch.object(sys, "stdin", None), mock.patch.object(sys, "stderr", None):
            self.assertEqual(sendmail.main(["a@example.net"]), 66)
            self.assertEqual(sendmail.main(["-bs"]), 66)
            self.assertEqual(sendmail.main(["-y"]), 64)

    def test_a_bug_has_a_status_that_programs_know(self) -> None:
        with mock.patch.object(sendmail, "section_of", side_effect=KeyError("a bug")):
            self.refused(70, "a bug", "a@example.net")

    def test_smtp_runs_nothing_that_stands_behind_a_data_that_was_refused(self) -> None:
        inner = (
            b"MAIL FROM:<x@b.test>\r\nRCPT TO:<y@c.test>\r\nDATA\r\nSubject: y\r\n\r\ny\r\n.\r\n"
        )
        for mail in (
            b"MAIL FROM:<a@b.test>\r\nRCPT TO:<b@@c.test>\r\n",
            b"MAIL FROM:<a@@b.test>\r\n",
            b"",
        ):
            with self.subTest(mail):
                ours, theirs = socket.socketpair()
                self.addCleanup(ours.close)
                self.addCleanup(theirs.close)
                ours.sendall(b"EHLO x\r\n" + mail + b"DATA\r\n" + inner + b"QUIT\r\n")
                converse(theirs.fileno(), theirs.fileno(), drop.Site.here())
                self.assertIn("421 4.5.0", ours.recv(65536).decode().splitlines()[-1])
                self.assertEqual(list(self.folder.iterdir()), [])

    def test_smtp_says_who_has_left_too_much_and_how_large_a_message_may_be(self) -> None:
        (self.spool / drop.OVER_QUOTA).write_text("1000\n")
        config = self.spool / "relayd.conf"
        config.write_text(f"spool {self.spool}\nmessage-size 2KiB\n")
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        ours.sendall(
            b"EHLO x\r\nMAIL FROM:<a@b.test> SIZE=4096\r\nMAIL FROM:<a@b.test>\r\n"
            b"RCPT TO:<b@c.test>\r\nDATA\r\nQUIT\r\n"
        )
        with mock.patch.object(os, "getuid", lambda: 1000):
            converse(theirs.fileno(), theirs.fileno(), drop.Site.here())
        said = ours.recv(65536).decode()
        self.assertIn("SIZE 2048\r\n", said)
        self.assertIn("552 ", said)
        self.assertIn("452 4.3.1 too much of your mail waits already", said)
        self.assertEqual(list(self.folder.iterdir()), [])
