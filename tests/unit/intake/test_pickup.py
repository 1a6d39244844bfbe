from __future__ import annotations

import json
import os
import tempfile
import time
import unittest
from dataclasses import replace
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred

from relayd.intake.dropfolder import ABANDONED, SLICE, FolderSurvey, Quota
from relayd.intake.limits import NORMAL
from relayd.intake.pickup import (
    AFTER_TROUBLE,
    FOLDER,
    OVER_QUOTA,
    PARTLY_TAKEN,
    PERIOD,
    SET_ASIDE,
    DamagedError,
    Pickup,
    admit,
    examined,
    pieces,
    read_slip,
)
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Direction
from relayd.mail.plan import Plan, Verdict
from relayd.rules.evaluate import Facts
from relayd.rules.ruleset import Ruleset, build
from relayd.sendmail.drop import Drop
from relayd.spool.errors import SpoolError
from tests.support import TestCase
from tests.unit.intake.scene import HOST, RULES, Scene, accepted
from tests.unit.intake.test_verdicts import Others
from tests.unit.rules.test_grammar import parse

SLIP = {"relayd": 1, "sender": "root", "recipients": ["alice@example.net"]}
BOUNDS = Quota(1 << 20, files=10, octets=1 << 20)
CONTENT = b"Subject: test\r\n\r\nHello.\r\n"


class FolderOfDrops(TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.spool = Path(self.mktemp())
        self.folder = self.spool / FOLDER
        self.folder.mkdir(parents=True)
        # the rules of this scene accept from nobody, so decide stays the scene's own
        self.pickup = Pickup(self.scene.clock, self.spool, self.scene.intake, HOST, BOUNDS)
        self.pickup._intake = self.scene.intake
        self.pickup.start()

        self.addCleanup(lambda: Deferred.fromCoroutine(self.pickup.stop()))

    def drop(self, content: bytes = CONTENT, **changes: object) -> None:
        drop = Drop(str(self.folder), {**SLIP, **changes})
        drop.write(content)
        drop.commit()
        drop.rollback()

    def raw(self, octets: bytes) -> None:
        (self.folder / "1.mail").write_bytes(octets)

    def look(self) -> None:
        self.scene.clock.pump([PERIOD, 0, 0])  # large files let others have a turn

    def aside(self) -> list[str]:
        folder = self.spool / SET_ASIDE
        return [each.name for each in folder.iterdir()] if folder.exists() else []

    def whole(self) -> list[bytes]:
        """The content of all that was taken, but what stands for damaged mail in reports."""
        return [
            b"".join(stored.content.chunks())
            for stored, submission in self.scene.spool.stored
            if Direction.parse(submission.recipients[0].next_hop).refusal is None
        ]

    def fates(self) -> list[tuple[str, str]]:
        """Who is reported to have failed, and how."""
        return [
            (str(each.mailbox), str(Direction.parse(each.next_hop).refusal))
            for _, submission in self.scene.spool.stored
            for each in submission.recipients
            if Direction.parse(each.next_hop).refusal is not None
        ]

    def troubles(self) -> str:
        return "\n".join(self.scene.log.of("trouble"))

    def test_what_was_left_is_taken_up_as_any_mail_and_then_gone(self) -> None:
        self.drop(recipients=["alice@example.net", "bob"], notify=["NEVER"])
        self.look()
        ((message, submission),) = self.scene.spool.stored
        self.assertEqual(str(submission.envelope.reverse_path), f"root@{HOST}")
        self.assertEqual(
            [str(each.mailbox) for each in submission.recipients],
            ["alice@example.net", f"bob@{HOST}"],
        )
        self.assertEqual(submission.recipients[0].notify, {"NEVER"})
        self.assertEqual(submission.client.helo, f"uid-{os.getuid()}.localhost")
        content = b"".join(message.content.chunks())
        self.assertTrue(content.startswith(b"Received: from uid-"), content)
        self.assertTrue(content.endswith(CONTENT), content)
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(len(self.scene.handed_over), 1)

    def test_an_unfinished_file_is_left_alone(self) -> None:
        drop = Drop(str(self.folder), SLIP)
        drop.write(CONTENT)
        self.look()
        self.assertEqual(self.scene.spool.stored, [])
        drop.rollback()
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_what_a_killed_sendmail_left_half_written_is_removed_and_never_a_writers(self) -> None:
        writing, killed = Drop(str(self.folder), SLIP), Drop(str(self.folder), SLIP)
        self.addCleanup(writing.rollback)
        killed.write(CONTENT)
        killed._file.close()  # as the kernel does for who dies
        recent = self.folder / "recent.part"
        recent.write_bytes(b"x")
        link = self.folder / "link.part"
        link.symlink_to(self.spool)
        pipe = self.folder / "pipe.part"
        os.mkfifo(pipe)
        (self.folder / "folder.part").mkdir()
        old = time.time() - ABANDONED - 60
        for each in self.folder.iterdir():
            if each != recent:
                os.utime(each, (old, old), follow_symlinks=False)
        self.look()
        left = {Path(writing._writing).name, "recent.part", "folder.part"}
        self.assertEqual({each.name for each in self.folder.iterdir()}, left)
        self.assertIn("unfinished and abandoned: removed", self.troubles())
        self.assertIn("'files': 3", self.troubles())
        writing.commit()
        self.look()
        self.assertEqual(len(self.whole()), 1)

    def test_what_is_half_written_counts_for_who_leaves_too_much(self) -> None:
        for number in range(11):
            (self.folder / f"{number}.part").write_bytes(b"x")
            os.chown(self.folder / f"{number}.part", 1000, -1)
        self.pass_time(2)
        self.assertEqual((self.spool / OVER_QUOTA).read_text(), "1000\n")
        self.assertNotIn("drop_waiting", self.pickup.figures())

    def test_what_cannot_be_taken_now_waits(self) -> None:
        self.drop(recipients=["later@example.net"])
        self.look()
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertIn("Table unreadable", self.troubles())

    def test_others_are_asked_about_it_as_about_any_mail_and_have_their_time(self) -> None:
        for place in ("MAIL", "RCPT", "content"):
            others = Others(place)
            self.pickup._intake = replace(self.scene.intake, checks=others)
            self.drop()
            self.look()
            self.scene.clock.advance(NORMAL.examination - 1)
            self.assertEqual(len(list(self.folder.iterdir())), 1)
            self.scene.clock.advance(1)
            self.assertEqual(others.given_up, 1)
            self.assertIn("It took too long to decide", self.troubles())
            self.scene.clock.advance(AFTER_TROUBLE + PERIOD)
            others.asked[1].callback(None)
            self.scene.clock.pump([0.0] * 3)  # whoever has waited so long has had his turn
            self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(len(self.scene.spool.stored), 3)

    def test_stopping_does_not_wait_for_those_who_are_asked(self) -> None:
        others = Others("content")
        self.pickup._intake = replace(self.scene.intake, checks=others)
        self.drop()
        self.look()
        self.successResultOf(Deferred.fromCoroutine(self.pickup.stop()))
        self.assertEqual(others.given_up, 1)
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertTrue(self.scene.spool.drafts[0].rolled_back)

    def test_a_failed_commit_keeps_the_file(self) -> None:
        self.scene.spool.commit_error = SpoolError("disk full")
        self.drop()
        self.look()
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.scene.spool.commit_error = None
        self.scene.clock.advance(AFTER_TROUBLE)
        self.assertEqual(len(self.scene.spool.stored), 1)
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_damaged_ones_are_set_aside_and_the_next_one_flows(self) -> None:
        line = json.dumps(SLIP).encode() + b"\n"
        for damage in (
            b"",
            b"nonsense\n",
            b"[]\n",
            b'{"relayd": 2}\n',
            b"[" * 100_000 + b"\n",
            line.replace(b"alice@", b"@") + CONTENT,
            line.replace(b"alice", b"al\\ud800ice") + CONTENT,
            line.replace(b'"sender"', b'"extra": 1, "sender"') + CONTENT,
            line + b"Subject: x\n\nbare\n",
            line + b"a\r\n.\r\nb\rc\r\n",
            line + b"nul\0\r\n",
            line + b"x" * (1 << 20) + b"\r\n",
        ):
            with self.subTest(damage=damage[:60]):
                self.raw(damage)
                self.drop()
                self.scene.spool.stored.clear()
                before = len(self.troubles())
                self.look()
                self.assertEqual(self.aside(), ["1.mail"], self.troubles())
                self.assertIn("drop set aside", self.troubles()[before:])
                self.assertEqual(len(self.whole()), 1)
                (self.spool / SET_ASIDE / "1.mail").unlink()

    def test_links_pipes_and_folders_are_no_mail(self) -> None:
        secret = self.spool / "secret"
        secret.write_bytes(json.dumps(SLIP).encode() + b"\n" + CONTENT)
        (self.folder / "a.mail").symlink_to(secret.absolute())
        os.link(secret, self.folder / "b.mail")
        os.mkfifo(self.folder / "c.mail")
        (self.folder / "d.mail").mkdir()
        self.look()
        self.assertEqual(self.scene.spool.stored, [])
        self.assertEqual(sorted(self.aside()), ["a.mail", "b.mail", "c.mail", "d.mail"])

    def test_what_cannot_be_moved_away_is_said_once(self) -> None:
        (self.spool / SET_ASIDE).write_bytes(b"in the way")
        self.raw(b"nonsense\n")
        self.look()
        self.look()
        self.assertEqual(self.troubles().count("cannot be set aside"), 1)

    def pass_time(self, seconds: float) -> None:
        for _ in range(int(seconds / PERIOD)):
            self.look()

    def leave(self, name: str, recipient: str, age: int) -> None:
        """A file of this name, so many seconds old."""
        self.drop(recipients=[recipient])
        (made,) = (each for each in self.folder.iterdir() if "-" in each.name)
        made = made.rename(self.folder / name)
        os.utime(made, (1_000_000_000 - age,) * 2)

    def taken(self) -> list[str]:
        return [str(each.recipients[0].mailbox) for _, each in self.scene.spool.stored]

    def test_one_that_has_to_wait_keeps_nobody_else_waiting(self) -> None:
        self.leave("1.mail", "later@example.net", 20)
        self.leave("2.mail", "alice@example.net", 10)
        self.look()
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.assertEqual([each.name for each in self.folder.iterdir()], ["1.mail"])
        self.assertIn("'file': '1.mail'", self.troubles())
        self.assertIn("Table unreadable", self.troubles())

    def test_one_that_is_put_off_has_its_turn_by_and_by_and_not_every_second(self) -> None:
        self.leave("1.mail", "later@example.net", 20)
        self.pass_time(700)
        # after 10, 20, 40, 80, 160, 300 s
        self.assertEqual(self.troubles().count("drop put off"), 7)
        self.assertEqual(self.pickup.figures(), {"drop_waiting": 1, "drop_put_off": 1})
        (self.folder / "1.mail").unlink()
        self.pass_time(2)
        self.assertEqual(self.pickup.figures(), {})

    def test_of_one_slip_those_who_can_be_taken_are_and_the_others_wait(self) -> None:
        self.drop(recipients=["later@example.net", "alice@example.net", "bob@example.net"])
        self.look()
        ((_, submission),) = self.scene.spool.stored
        self.assertEqual(
            [str(each.mailbox) for each in submission.recipients],
            ["alice@example.net", "bob@example.net"],
        )
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertIn("Table unreadable", self.troubles())
        self.pass_time(2 * AFTER_TROUBLE)
        self.assertEqual(len(self.scene.spool.stored), 1)  # nobody twice
        self.decide_anew()
        self.pass_time(4 * AFTER_TROUBLE)
        self.assertEqual(self.taken(), ["alice@example.net", "later@example.net"])
        self.assertEqual([len(each.recipients) for _, each in self.scene.spool.stored], [2, 1])
        self.assertEqual(list(self.folder.iterdir()), [])
        self.assertEqual(list((self.spool / PARTLY_TAKEN).iterdir()), [])

    def test_who_is_taken_is_known_after_a_new_start(self) -> None:
        self.drop(recipients=["alice@example.net", "later@example.net"])
        self.look()
        self.successResultOf(Deferred.fromCoroutine(self.pickup.stop()))
        intake = replace(self.scene.intake, decide=lambda ruleset, facts: accepted(facts))
        again = Pickup(self.scene.clock, self.spool, intake, HOST, BOUNDS)
        again._intake = intake
        again.start()
        self.look()
        self.assertEqual(self.taken(), ["alice@example.net", "later@example.net"])
        self.successResultOf(Deferred.fromCoroutine(again.stop()))

    def test_another_file_of_the_same_name_has_nobody_taken(self) -> None:
        self.leave("1.mail", "later@example.net", 20)
        self.drop(recipients=["alice@example.net", "later@example.net"])
        (made,) = (each for each in self.folder.iterdir() if "-" in each.name)
        made.replace(self.folder / "1.mail")
        self.look()
        self.assertEqual(self.taken(), ["alice@example.net"])
        (self.folder / "1.mail").unlink()
        self.leave("1.mail", "alice@example.net", 20)
        self.pass_time(2 * AFTER_TROUBLE)
        self.assertEqual(self.taken(), ["alice@example.net"] * 2)

    def test_a_note_that_cannot_be_written_doubles_nobody(self) -> None:
        (self.spool / PARTLY_TAKEN).write_bytes(b"in the way")
        self.drop(recipients=["alice@example.net", "later@example.net"])
        self.pass_time(4 * AFTER_TROUBLE)
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.assertIn("File exists", self.troubles())

    def test_what_waits_too_long_fails_and_its_sender_hears_of_it(self) -> None:
        self.drop(recipients=["alice@example.net", "later@example.net"])
        self.look()
        (waiting,) = self.folder.iterdir()
        self.scene.clock.rightNow = waiting.stat().st_ctime + BOUNDS.give_up + 1
        self.look()
        self.assertEqual(
            self.fates(),
            [("later@example.net", "554 5.4.7 Waited too long: 451 4.3.0 Table unreadable")],
        )
        stored = self.scene.spool.stored[-1][1]
        self.assertEqual(str(stored.envelope.reverse_path), f"root@{HOST}")
        self.assertIn("drop given up", self.troubles())
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_the_sender_hears_of_a_file_that_is_set_aside_for_its_content(self) -> None:
        self.raw(json.dumps(SLIP).encode() + b"\nSubject: x\n\nbare\n")
        self.look()
        self.assertEqual(self.aside(), ["1.mail"])
        ((mailbox, reply),) = self.fates()
        self.assertEqual(mailbox, "alice@example.net")
        self.assertEqual(
            reply,
            "554 5.6.0 Not taken from the drop folder: "
            "a bare CR, a bare LF or a NUL in the content",
        )

    def test_nobody_hears_of_a_damaged_file_with_a_null_sender(self) -> None:
        self.raw(json.dumps({**SLIP, "sender": ""}).encode() + b"\nbare\n")
        self.look()
        self.assertEqual(self.aside(), ["1.mail"])
        self.assertEqual(self.scene.spool.stored, [])

    def test_the_sender_hears_once_of_what_cannot_be_moved_away(self) -> None:
        (self.spool / SET_ASIDE).write_bytes(b"in the way")
        self.raw(json.dumps(SLIP).encode() + b"\nbare\n")
        self.pass_time(2)
        self.scene.clock.advance(4000)
        self.pass_time(2)
        self.assertEqual(len(self.fates()), 1)

    def decide_anew(self) -> None:
        self.pickup._intake = replace(
            self.scene.intake, decide=lambda ruleset, facts: accepted(facts)
        )

    def test_dear_addresses_leave_the_reactor_to_others(self) -> None:
        def dear(ruleset: Ruleset, facts: Facts) -> Plan:
            self.scene.clock.rightNow += 0.05
            return accepted(facts)

        self.pickup._intake = replace(self.scene.intake, decide=dear)
        for number in range(3):
            self.drop(recipients=[f"user{each}@example.net" for each in range(number + 1)])
        clock = self.scene.clock
        with mock.patch.object(clock, "callLater", wraps=clock.callLater) as later:
            self.look()
        self.assertEqual(len(self.scene.spool.stored), 3)
        turns = [call for call in later.mock_calls if call.args and call.args[0] == 0]
        self.assertEqual(len(turns), 1 + 2 + 3)  # after each of the addresses

    def test_stopping_waits_for_no_long_list(self) -> None:
        def dear(ruleset: Ruleset, facts: Facts) -> Plan:
            if facts.recipient.local == "user3":
                Deferred.fromCoroutine(self.pickup.stop())
            return accepted(facts)

        self.pickup._intake = replace(self.scene.intake, decide=dear)
        self.drop(recipients=[f"user{each}@example.net" for each in range(1000)])
        self.look()
        self.assertEqual(self.scene.spool.stored, [])
        self.assertEqual(len(list(self.folder.iterdir())), 1)

    def test_a_new_start_takes_up_what_was_put_off(self) -> None:
        self.leave("1.mail", "later@example.net", 20)
        self.look()
        self.successResultOf(Deferred.fromCoroutine(self.pickup.stop()))
        intake = replace(self.scene.intake, decide=lambda ruleset, facts: accepted(facts))
        again = Pickup(self.scene.clock, self.spool, intake, HOST, BOUNDS)
        again._intake = intake
        again.start()
        self.look()
        self.assertEqual(self.taken(), ["later@example.net"])
        self.successResultOf(Deferred.fromCoroutine(again.stop()))

    def test_a_bug_that_one_file_brings_out_stops_nobody_else(self) -> None:
        def decide(ruleset: Ruleset, facts: Facts) -> Plan:
            if facts.recipient.local == "bug":
                raise KeyError("a bug")
            return accepted(facts)

        self.pickup._intake = replace(self.scene.intake, decide=decide)
        self.leave("1.mail", "bug@example.net", 20)
        self.leave("2.mail", "alice@example.net", 10)
        self.look()
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.assertIn("KeyError", self.troubles())

    def test_a_file_that_cannot_be_removed_is_not_taken_twice(self) -> None:
        self.leave("1.mail", "alice@example.net", 20)
        with mock.patch.object(Path, "unlink", side_effect=PermissionError(1, "no")):
            self.pass_time(30)
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.pass_time(60)
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_a_full_disk_is_everybodys_trouble_and_said_once(self) -> None:
        self.leave("1.mail", "alice@example.net", 20)
        self.leave("2.mail", "bob@example.net", 10)
        self.scene.spool.free = 0
        self.pass_time(100)
        self.assertEqual(self.taken(), [])
        self.assertEqual(self.troubles().count("no room in the spool"), 1)
        self.scene.spool.free = 1 << 40
        self.pass_time(AFTER_TROUBLE)
        self.assertEqual(self.taken(), ["alice@example.net", "bob@example.net"])
        self.assertIn("taken up again", "".join(self.scene.log.of("notice")))

    def test_one_for_which_there_is_no_room_lets_smaller_ones_pass(self) -> None:
        self.leave("1.mail", "alice@example.net", 20)
        with (self.folder / "1.mail").open("ab") as file:
            file.write(b"x" * 100_000)
        os.utime(self.folder / "1.mail", (1, 1))
        self.leave("2.mail", "bob@example.net", 10)
        self.scene.spool.free = 50_000
        self.look()
        self.assertEqual(self.taken(), ["bob@example.net"])

    def test_thousands_of_traps_neither_stop_nor_slow_the_others(self) -> None:
        for number in range(1500):
            (self.folder / f"{number}.mail").symlink_to("/etc/passwd")
            os.mkfifo(self.folder / f"pipe{number}")
        for number in range(10):
            (self.folder / f"folder{number}.mail").mkdir()
            (self.folder / f"folder{number}.mail" / "x").mkdir()
        self.leave("z.mail", "alice@example.net", 10**6)  # the oldest
        for _ in range(10):
            self.scene.clock.pump([PERIOD] + [0.05] * 20)
        self.assertEqual(self.taken(), ["alice@example.net"])
        self.assertEqual(len(self.aside()), 1000)
        self.assertLess(len(self.troubles().splitlines()), 30, "the log is flooded")
        self.scene.clock.pump([0.1] * 700)
        said = self.troubles().split("more of these', 'lines': ")[1]
        self.assertGreater(int(said.partition("}")[0]), 1400)
        figures = self.pickup.figures()
        self.assertEqual(figures["drop_set_aside"], 1000)
        self.assertEqual(figures["drop_put_off"], 510)
        # ... and a new one does not wait behind them
        self.leave("z.mail", "bob@example.net", 0)
        self.scene.clock.pump([PERIOD] + [0.05] * 20)
        self.assertEqual(self.taken()[1:], ["bob@example.net"])

    def test_strange_names_are_counted_in_one_line(self) -> None:
        for number in range(30):
            (self.folder / f"core.{number}").write_bytes(b"x")
        self.pass_time(5)
        self.assertEqual(len(self.troubles().splitlines()), 1)
        self.assertIn("'files': 30", self.troubles())

    def test_nobodys_file_takes_the_place_of_another_that_was_set_aside(self) -> None:
        for content in (b"first\n", b"second\n"):
            self.raw(content)
            self.look()
        found = sorted(each.read_bytes() for each in (self.spool / SET_ASIDE).iterdir())
        self.assertEqual(found, [b"first\n", b"second\n"])

    def test_who_leaves_too_much_is_named_for_the_sendmail_command(self) -> None:
        published = self.spool / OVER_QUOTA
        for uid, number in ((1000, 11), (1001, 10), (0, 12)):
            for each in range(number):
                self.leave(f"{uid}-{each}".replace("-", "_") + ".mail", "later@example.net", each)
                os.chown(self.folder / f"{uid}_{each}.mail", uid, -1)
        self.pass_time(2)
        self.assertEqual(published.read_text(), "1000\n")
        self.assertEqual(published.stat().st_mode & 0o777, 0o644)
        self.assertIn("'uid': 1000, 'files': 11", self.troubles())
        (self.folder / "1000_1.mail").unlink()
        self.pass_time(2)
        self.assertFalse(published.exists())

    def test_what_an_earlier_relayd_said_of_quotas_is_forgotten(self) -> None:
        (self.spool / OVER_QUOTA).write_text("1000\n")
        self.look()
        self.assertFalse((self.spool / OVER_QUOTA).exists())

    def test_who_leaves_too_many_octets_likewise(self) -> None:
        (self.folder / "1.mail").write_bytes(b"nonsense")
        os.truncate(self.folder / "1.mail", 2 << 20)
        os.chown(self.folder / "1.mail", 1000, -1)
        self.look()
        self.assertIn("'octets': 2097152", self.troubles())

    def test_one_that_is_too_large_is_not_read(self) -> None:
        (self.folder / "1.mail").write_bytes(b"x")
        os.truncate(self.folder / "1.mail", 1 << 40)
        with mock.patch.object(os, "open", side_effect=AssertionError("it was opened")):
            self.look()
        self.assertEqual(self.aside(), ["1.mail"])
        self.assertIn("larger than message-size (1048576 octets)", self.troubles())


class Turns(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def survey(self, *later: str) -> FolderSurvey:
        survey = FolderSurvey(self.folder, later)
        while survey.go_on():
            pass
        survey.close()
        return survey

    def leave(self, name: str, uid: int, at: int) -> None:
        path = self.folder / name
        path.write_bytes(b"")
        os.utime(path, (at, at))
        os.chown(path, uid, -1)

    def test_users_have_their_turns_one_after_the_other_the_oldest_first(self) -> None:
        for number in range(5):
            self.leave(f"a{number}.mail", 1000, 10 - number)
        self.leave("b.mail", 1001, 1)
        self.leave("c.mail", 1002, 99)
        names = [each.name for each in self.survey("a4.mail").in_turn()]
        self.assertEqual(set(names[:3]), {"a3.mail", "b.mail", "c.mail"})
        self.assertEqual(names[3:], ["a2.mail", "a1.mail", "a0.mail"])

    def test_a_look_takes_a_slice_and_no_more(self) -> None:
        for number in range(SLICE + 1):
            (self.folder / f"{number}.mail").write_bytes(b"")
        survey = FolderSurvey(self.folder, ())
        self.assertTrue(survey.go_on())
        self.assertEqual(survey.files, SLICE)
        self.assertFalse(survey.go_on())
        survey.close()

    def test_of_one_users_many_files_the_oldest_have_their_turn(self) -> None:
        for number in range(1010):
            self.leave(f"{number}.mail", 1000, 10_000 - number)
        turns = list(self.survey().in_turn())
        self.assertEqual(len(turns), 1000)
        self.assertEqual(turns[0].name, "1009.mail")
        self.assertEqual(turns[-1].name, "10.mail")


class Slips(TestCase):
    def test_the_null_sender(self) -> None:
        slip = read_slip(json.dumps({**SLIP, "sender": ""}).encode(), HOST)
        self.assertIsNone(slip.sender)

    def test_too_many_recipients(self) -> None:
        many = [f"r{number}@example.net" for number in range(1001)]
        with self.assertRaises(DamagedError):
            read_slip(json.dumps({**SLIP, "recipients": many}).encode(), HOST)

    def test_too_many_recipients_are_counted_before_any_is_read(self) -> None:
        many = [f"a@\u0627{number}" for number in range(80_000)]
        with (
            mock.patch.object(Mailbox, "parse", side_effect=AssertionError("it was read")),
            self.assertRaisesRegex(DamagedError, "80000 recipients"),
        ):
            read_slip(json.dumps({**SLIP, "sender": "", "recipients": many}).encode(), HOST)

    def test_a_refusal_becomes_the_fate_of_the_recipient(self) -> None:
        """Nobody is there to hear 550: the recipient is taken over and reported."""
        facts = Facts(Client("127.0.0.1"), None, Mailbox("nobody", "example.net"))
        plan = admit(RULES, facts)
        self.assertIs(plan.verdict, Verdict.ACCEPT)
        (destination,) = plan.destinations
        self.assertEqual(destination.next_hop, "refused 550 5.7.1 Relaying denied")

    def test_line_ends_across_reads(self) -> None:
        path = Path(self.mktemp())
        for content in (b"x" * 65535 + b"\r\nend\r\n", b"x" * 65534 + b"\r\nend"):
            path.write_bytes(content)
            with path.open("rb") as file:
                self.assertEqual(b"".join(pieces(file)), content.removesuffix(b"\r\n") + b"\r\n")
        path.write_bytes(b"x" * 65535 + b"\rend\r\n")
        with path.open("rb") as file, self.assertRaises(DamagedError):
            list(pieces(file))


class ByContent(TestCase):
    """Rules about the content refuse what lies there already: its sender is told by a report."""

    def setUp(self) -> None:
        self.drops = FolderOfDrops()
        self.drops.setUp()
        self.addCleanup(self.drops.doCleanups)
        self.rules('accept any\nreject when field Subject "spam" 550 5.7.1 "No spam"')

    def rules(self, text: str) -> None:
        ruleset = build(parse(text), {}, HOST)
        self.drops.pickup._intake = replace(
            self.drops.scene.intake, rules=lambda: ruleset, decide=admit, examine=examined
        )

    def test_what_is_refused_is_taken_and_reported_as_failed(self) -> None:
        drops = self.drops
        drops.drop(b"Subject: Spam\r\n\r\nHello.\r\n")
        drops.look()
        self.assertEqual(drops.fates(), [("alice@example.net", "550 5.7.1 No spam")])
        self.assertEqual((list(drops.folder.iterdir()), drops.aside()), ([], []))

    def test_what_is_not_goes_on(self) -> None:
        self.drops.drop()
        self.drops.look()
        self.assertEqual((len(self.drops.whole()), self.drops.fates()), (1, []))

    def test_the_sender_of_a_damaged_file_is_told_whatever_they_say(self) -> None:
        self.rules("accept any\nreject when dkim none")
        self.drops.drop(b"Subject: x\n\nbare line feeds\n")
        self.drops.look()
        ((mailbox, why),) = self.drops.fates()
        self.assertEqual((mailbox, why[:9]), ("alice@example.net", "554 5.6.0"))

    def test_what_stays_unknown_is_given_up_in_time(self) -> None:
        self.rules("accept any\nreject when dkim none")
        self.drops.pickup.bounds = replace(BOUNDS, give_up=-1e9)
        self.drops.drop()
        self.drops.look()
        self.assertEqual(self.drops.fates(), [])
        self.drops.scene.clock.pump([AFTER_TROUBLE, PERIOD, 0, 0])
        ((mailbox, why),) = self.drops.fates()
        self.assertEqual((mailbox, why[:9]), ("alice@example.net", "554 5.4.7"))
