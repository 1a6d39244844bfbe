"""Mail that users of the machine leave in the drop folder, and what else they leave there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import unittest
from collections.abc import Sequence
from pathlib import Path

from tests.certs import Authority
from tests.scenarios.filterpeers import Milter, add
from tests.scenarios.harness import CHECKOUT, Relayd, Scenario, unhurried, wait_until
from tests.sink import Sink

LATER, GOOD = "later@example.com", "someone@example.com"
NOBODY = 65534
RULES = """\
reject to later@example.com 451 4.7.1 "Not now"
accept from 127.0.0.1
next-hop sink smtp 127.0.0.1:{0}
route any via sink
"""
# sendmail as it is, but for the place of its configuration
_SENDMAIL = """\
import os, sys
from relayd.sendmail import drop, program
drop.CONFIG, user = sys.argv.pop(1), int(sys.argv.pop(1))
if user:
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
sys.argv[0] = "sendmail"
raise SystemExit(program.main())
"""


class DropFolder(Scenario):
    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink()
        self.addCleanup(self.sink.stop)

    def test_a_milter_sees_what_users_leave_and_is_left_with_each(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [add("X-Seen", "yes")])
        self.start()
        config = self.relay.config
        config.write_text(f"{config.read_text()}milter m {milter.where}\nask m\n")
        self.relay.ctl("reload")
        for _ in range(2):
            self.assertEqual(self.sendmail(GOOD).returncode, 0)
        for arrived in self.sink.wait(2):
            self.assertIn(b"\r\nX-Seen: yes\r\n", arrived.content)
        told = [[letter for letter, _ in each.events] for each in milter.heard[-2:]]
        wait_until(lambda: all(each.events[-1][0] == b"Q" for each in milter.heard), "it is left")
        self.assertEqual(told[0][:5], [b"O", b"C", b"H", b"M", b"R"])

    def start(self, settings: str = "", workers: int = 0) -> Relayd:
        relay = self.relayd(RULES.format(self.sink.port), settings=settings, start=False)
        self.drop = relay.folder / "spool" / "drop"
        self.drop.mkdir(parents=True)
        self.drop.parent.chmod(0o711)
        self.drop.chmod(0o3733)
        self.relay = relay
        if workers:
            text = relay.config.read_text()
            relay.config.write_text(re.sub("(?m)^workers .*$", f"workers {workers}", text))
        return relay.start()

    def sendmail(
        self, *arguments: str, text: bytes = b"Subject: x\n\nhi\n", user: int = 0
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _SENDMAIL, str(self.relay.config), str(user), *arguments],
            input=text.decode("latin-1"),
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )

    def left(self, *arguments: str, user: int = 0) -> None:
        done = self.sendmail(*arguments, user=user)
        self.assertEqual(done.returncode, 0, done.stderr)

    def arrived(self, number: int, seconds: float = 60) -> None:
        self.sink.wait(number, seconds)

    def troubles(self, words: str) -> Sequence[str]:
        return [each for each in self.relay.log(5000).splitlines() if words in each]

    def test_mail_that_has_to_wait_keeps_nobody_else_waiting(self) -> None:
        self.start()
        self.left(LATER)
        wait_until(lambda: self.troubles("drop put off"), "it is put off")
        self.left(GOOD)
        self.arrived(1)
        (line,) = self.troubles("drop put off")
        (waiting,) = self.drop.iterdir()
        for fact in (f"file={waiting.name}", "uid=0", "again_in=10", "451 4.7.1 Not now"):
            self.assertIn(fact, line)
        wait_until(lambda: "drop put off 1" in self.relay.ctl("status").stdout, "status says so")

    def test_of_one_message_those_are_taken_who_can_be_and_the_others_fail_in_the_end(self) -> None:
        self.start("warn-after 4s\ngive-up 8s")
        self.left("-f", "sender@example.com", LATER, GOOD)
        self.arrived(1)
        self.relay.stop()
        self.relay.start()
        self.arrived(2)  # the report
        first, report = self.sink.arrived
        self.assertEqual([*first.recipients], [GOOD])
        self.assertEqual([*report.recipients], ["sender@example.com"])
        self.assertEqual(report.sender, "")
        self.assertIn(b"Final-Recipient: rfc822; later@example.com", report.content)
        self.assertIn(b"Not now", report.content)
        wait_until(lambda: self.troubles("drop given up"), "the log says so")
        taken = self.drop.parent / "drop-taken"
        wait_until(lambda: not [*self.drop.iterdir(), *taken.iterdir()], "both are empty")

    def test_the_sender_hears_of_a_file_that_is_no_mail(self) -> None:
        self.start()
        slip = b'{"relayd": 1, "sender": "sender@example.com", "recipients": ["%s"]}\n'
        part = self.drop / "x.part"
        part.write_bytes(slip % GOOD.encode() + b"Subject: x\n\nbare line feeds\n")
        part.rename(self.drop / "x.mail")
        self.arrived(1)
        (report,) = self.sink.arrived
        self.assertEqual([*report.recipients], ["sender@example.com"])
        self.assertIn(b"a bare LF", report.content)
        wait_until(lambda: self.troubles("drop set aside"), "it is set aside")
        self.assertEqual(len(list((self.drop.parent / "drop-damaged").iterdir())), 1)

    def test_what_waits_is_taken_up_by_the_next_relayd_and_by_one_of_two_workers(self) -> None:
        relay = self.start(workers=2)
        self.left(LATER)
        wait_until(lambda: self.troubles("drop put off"), "it is put off")
        relay.stop()
        self.left(GOOD)
        relay.config.write_text(relay.config.read_text().replace("reject to later", "reject to no"))
        relay.start()
        self.arrived(2)
        wait_until(lambda: not list(self.drop.iterdir()), "the folder is empty")
        time.sleep(2)
        self.assertEqual(len(self.sink.arrived), 2)

    def test_a_folder_full_of_traps_slows_nobody(self) -> None:
        self.start()
        for number in range(2000):
            (self.drop / f"{number}.mail").symlink_to("/etc/shadow")
            (self.drop / f"x{number}").symlink_to("/etc/shadow")
        for number in range(500):
            os.mkfifo(self.drop / f"pipe{number}.mail")
            (self.drop / f"empty{number}.mail").write_bytes(b"")
        for number in range(50):
            folder = self.drop / f"folder{number}.mail"
            (folder / "x").mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(self.drop / "socket.mail"))
        os.link(self.relay.config, self.drop / "link.mail")
        (self.drop / "huge.mail").write_bytes(b"")
        os.truncate(self.drop / "huge.mail", 1 << 40)
        began = time.monotonic()
        for number in range(1, 4):
            self.left(GOOD)
            self.arrived(number)
        self.assertLess(unhurried(began), 30)
        with self.relay.session() as client:
            before = time.monotonic()
            self.assertEqual(client.noop()[0], 250)
            self.assertLess(unhurried(before), 2)
        self.assertLess(len(self.troubles("event=")), 60, "the log is flooded")
        wait_until(lambda: "drop set aside" in self.relay.ctl("status").stdout, "status says so")

    def test_sendmail_refuses_what_relayd_could_not_take(self) -> None:
        self.start()
        for status, arguments in (
            (64, ["-f", "a@b.test\r\nx", GOOD]),
            (65, ["someone@example.com\nRCPT TO:<x@y.test>"]),
            (64, ["-F", "a\nBcc: x@y.test", GOOD]),
            (64, []),
        ):
            done = self.sendmail(*arguments)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertRegex(done.stderr, r"\Asendmail: .+\n\Z")
        self.assertEqual(list(self.drop.iterdir()), [])
        self.left(GOOD)
        self.arrived(1)
        self.assertEqual(self.troubles("trouble"), [])

    @unittest.skipIf(os.geteuid() != 0, "becomes another user: needs root")
    def test_who_leaves_too_much_is_told_to_come_later_and_others_are_not(self) -> None:
        self.start("drop-files 5")
        for number in range(8):
            done = self.sendmail(LATER, user=NOBODY)
            if done.returncode:
                break
            if number >= 5:
                time.sleep(1.5)  # relayd looks once a second
        self.assertEqual(done.returncode, 75, done.stderr)
        self.assertIn("too much of your mail waits already", done.stderr)
        self.assertEqual(len(self.troubles('event="drop quota"')), 1)
        self.left(GOOD)
        self.arrived(1)
        with self.relay.session() as client:
            client.sendmail("a@b.test", [GOOD], "Subject: by SMTP\r\n\r\n")
        self.arrived(2)

    def test_a_key_that_everybody_may_read_is_complained_of(self) -> None:
        relay = self.start()
        chain, key = Authority().issue("gw.example.com").write(Path(relay.folder), "gw")
        key.chmod(0o644)
        with relay.config.open("a") as file:
            file.write(f"certificate {chain} key {key}\n")
        told = f"chmod 640 {key}"
        for command in ("check", "reload"):
            self.assertIn(told, relay.ctl(command).stderr)
        self.assertIn(told, relay.ctl("status").stdout)
        self.assertTrue(self.troubles("(mode 0644)"))
        key.chmod(0o640)
        self.assertNotIn("chmod", relay.ctl("reload").stderr)
        self.assertNotIn("chmod", relay.ctl("status").stdout)
