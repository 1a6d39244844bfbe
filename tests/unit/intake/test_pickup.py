from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.internet.defer import Deferred

from relayd.intake.pickup import (
    AFTER_TROUBLE,
    FOLDER,
    PERIOD,
    SET_ASIDE,
    DamagedError,
    Pickup,
    admit,
    pieces,
    read_slip,
)
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import REFUSED
from relayd.mail.plan import Verdict
from relayd.ops.drop import Drop
from relayd.rules.evaluate import Facts
from relayd.spool.errors import SpoolError
from tests.support import TestCase
from tests.unit.intake.scene import HOST, RULES, Scene

SLIP = {"relayd": 1, "sender": "root", "recipients": ["alice@example.net"]}
CONTENT = b"Subject: test\r\n\r\nHello.\r\n"


class FolderOfDrops(TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.spool = Path(self.mktemp())
        self.folder = self.spool / FOLDER
        self.folder.mkdir(parents=True)
        # the rules of this scene accept from nobody, so decide stays the scene's own
        self.pickup = Pickup(self.scene.clock, self.spool, self.scene.premises, HOST, 1 << 20)
        self.pickup._premises = self.scene.premises
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

    def test_what_cannot_be_taken_now_waits(self) -> None:
        self.drop(recipients=["later@example.net"])
        self.look()
        self.assertEqual(len(list(self.folder.iterdir())), 1)
        self.assertIn("Table unreadable", self.troubles())

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
                self.assertEqual(len(self.scene.spool.stored), 1)
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


class Slips(TestCase):
    def test_the_null_sender(self) -> None:
        slip = read_slip(json.dumps({**SLIP, "sender": ""}).encode(), HOST)
        self.assertIsNone(slip.sender)

    def test_too_many_recipients(self) -> None:
        many = [f"r{number}@example.net" for number in range(1001)]
        with self.assertRaises(DamagedError):
            read_slip(json.dumps({**SLIP, "recipients": many}).encode(), HOST)

    def test_a_refusal_becomes_the_fate_of_the_recipient(self) -> None:
        """Nobody is there to hear 550: the recipient is taken over and reported."""
        facts = Facts(Client("127.0.0.1"), None, Mailbox("nobody", "example.net"))
        plan = admit(RULES, facts)
        self.assertIs(plan.verdict, Verdict.ACCEPT)
        (destination,) = plan.destinations
        self.assertEqual(destination.next_hop, f"{REFUSED}550 5.7.1 Relaying denied")

    def test_line_ends_across_reads(self) -> None:
        path = Path(self.mktemp())
        for content in (b"x" * 65535 + b"\r\nend\r\n", b"x" * 65534 + b"\r\nend"):
            path.write_bytes(content)
            with path.open("rb") as file:
                self.assertEqual(b"".join(pieces(file)), content.removesuffix(b"\r\n") + b"\r\n")
        path.write_bytes(b"x" * 65535 + b"\rend\r\n")
        with path.open("rb") as file, self.assertRaises(DamagedError):
            list(pieces(file))
