"""Clients that do not keep to turns: floods, half-closed connections, and those who do not wait."""

from __future__ import annotations

import unittest

from relayd.intake.limits import Memory, SessionLimits
from relayd.intake.session import LONGEST_TURN, STEP, TURN
from relayd.mail.plan import Plan, Verdict
from relayd.mail.reply import Reply
from relayd.rules.evaluate import Facts
from relayd.rules.ruleset import Ruleset
from relayd.smtp.events import Auth, AuthResponse
from relayd.smtp.exchange import ServerLimits
from relayd.spool.errors import SpoolFull
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, Peer, Scene, decide, message
from tests.unit.intake.test_login import RIGHT, WRONG, Site


def shut(peer: Peer) -> list[str]:
    """The client shuts its sending side; what it hears."""
    peer.protocol.readConnectionLost()  # type: ignore[attr-defined]
    return peer.replies()


def turns(scene: Scene, peer: Peer, most: int = 10_000) -> list[str]:
    """What the client hears in the reactor's next turns."""
    replies = []
    for _ in range(most):
        scene.clock.advance(0)
        heard = peer.replies()
        if not heard:
            break
        replies += heard
    return replies


class Sharing(unittest.TestCase):
    """At most so many commands in a turn of the reactor."""

    def test_a_flood_leaves_the_turn_to_others(self) -> None:
        scene = Scene(session=ServerLimits(idle=1000))
        bad, good = scene.greeted(), scene.greeted("192.0.2.2")
        self.assertEqual(len(bad.say(*["NOOP"] * (TURN + 10))), TURN)
        self.assertEqual(len(good.say("NOOP")), 1)
        self.assertEqual(bad.say("NOOP"), [])  # it has had its turn
        scene.clock.advance(0)
        self.assertEqual(len(bad.replies()), 11)
        self.assertEqual(turns(scene, bad), [])

    def test_a_turn_of_dear_commands_is_over_when_its_time_is(self) -> None:
        scene = Scene()

        def dear(ruleset: Ruleset, facts: Facts) -> Plan:
            scene.clock.rightNow += LONGEST_TURN
            return decide(ruleset, facts)

        scene.change(decide=dear)
        bad, good = scene.greeted(), scene.greeted("192.0.2.2")
        lines = message(*(f"user{number}@example.com" for number in range(30)))
        first = bad.say(*lines)
        self.assertEqual(len(first), STEP)
        self.assertEqual(len(good.say("NOOP")), 1)
        replies = first + turns(scene, bad)
        self.assertEqual([reply[:3] for reply in replies], ["250"] * 31 + ["354"])
        self.assertEqual(bad.say(*CONTENT)[0][:3], "250")

    def test_too_many_recipients_are_the_clients_doing(self) -> None:
        """It may go on for some thousands, and then go on with its message; but not for ever."""
        scene = Scene(session=ServerLimits(recipients=1))
        peer = scene.greeted()
        peer.say("MAIL FROM:<>", "RCPT TO:<alice@example.com>")
        more = [f"RCPT TO:<user{number}@example.com>" for number in range(3000)]
        replies = peer.say(*more) + turns(scene, peer)
        self.assertEqual({reply[:3] for reply in replies}, {"452"})
        self.assertEqual([reply[:3] for reply in peer.say("DATA", *CONTENT)], ["354", "250"])
        peer.say("MAIL FROM:<>", "RCPT TO:<alice@example.com>")
        replies = peer.say(*more, *more) + turns(scene, peer)
        self.assertEqual(replies[-1][:9], "421 4.7.0")
        self.assertLess(len(replies), 4000)

    def test_reading_waits_while_a_flood_does(self) -> None:
        scene = Scene(session=ServerLimits(idle=100_000))
        bad = scene.greeted()
        bad.say(*["NOOP"] * 20_000)
        self.assertEqual(bad.transport.producerState, "paused")
        self.assertEqual(len(turns(scene, bad)), 20_000 - TURN)
        self.assertEqual(bad.transport.producerState, "producing")

    def test_a_thousand_recipients_in_one_piece(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        lines = message(*(f"user{number}@example.com" for number in range(1000)))
        replies = peer.say(*lines) + turns(scene, peer)
        self.assertEqual([reply[:3] for reply in replies], ["250"] * 1001 + ["354"])
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")

    def test_many_messages_in_one_piece(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        lines = [line for _ in range(200) for line in ("RSET", *message(), *CONTENT)]
        replies = peer.say(*lines) + turns(scene, peer)
        self.assertEqual(
            [reply[:3] for reply in replies], ["250", "250", "250", "354", "250"] * 200
        )

    def test_chunks_of_one_octet(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say(*message()[:-1])
        octets = b"".join(b"BDAT 1\r\n%c" % each for each in b"Subject: x\r\n\r\n" + b"y" * 500)
        first = peer.send(octets + b"BDAT 0 LAST\r\n")
        self.assertLess(len(first), TURN)
        replies = first + turns(scene, peer)
        self.assertEqual(len(replies), 515)
        self.assertIn("queued", replies[-1])

    def test_no_turn_is_left_when_the_client_leaves(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say(*["NOOP"] * (TURN + 1))
        peer.leave()
        self.assertEqual(scene.clock.getDelayedCalls(), [])


class Weighing(unittest.TestCase):
    """Refusals of every kind count, in one place."""

    def cut_off(self, scene: Scene, peer: Peer, *lines: str) -> int:
        """How many replies it took."""
        replies = peer.say(*lines) + turns(scene, peer)
        self.assertEqual(replies[-1][:9], "421 4.7.0", replies[-3:])
        self.assertTrue(peer.told_to_go)
        return len(replies)

    def test_mail_without_the_login_it_needs(self) -> None:
        scene = Scene()
        scene.listen(submission=True, login_required=True, origin="example.com")
        peer = scene.greeted()
        self.assertEqual(self.cut_off(scene, peer, *["MAIL FROM:<a@example.com>"] * 1000), 101)

    def test_recipients_refused_by_rule(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        lines = (f"RCPT TO:<refuse{number}@example.com>" for number in range(1000))
        self.assertEqual(self.cut_off(scene, peer, "MAIL FROM:<>", *lines), 102)

    def test_content_refused(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        lines = (*message(), "bare \n line feed", ".")
        self.assertEqual(self.cut_off(scene, peer, *lines * 200), 101 * 4)

    def test_a_full_disk_cuts_off_nobody_soon_and_nobody_never(self) -> None:
        scene = Scene()
        scene.spool.free = 0
        peer = scene.greeted()
        replies = peer.say(*["MAIL FROM:<a@example.com>"] * 5000) + turns(scene, peer)
        self.assertEqual({reply[:9] for reply in replies}, {"452 4.3.1"})
        self.assertEqual(self.cut_off(scene, peer, *["MAIL FROM:<a@example.com>"] * 6000), 5001)

    def test_a_message_begins_the_count_anew(self) -> None:
        scene = Scene(session=ServerLimits(refusals=3))
        peer = scene.greeted()
        for _ in range(5):
            peer.say("MAIL FROM:<>", *["RCPT TO:<refuse@example.com>"] * 3)
            peer.say("RCPT TO:<a@example.com>", "DATA")
            self.assertEqual(peer.say(*CONTENT)[0][:3], "250")

    def test_the_log_of_one_session_is_bounded(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        replies = peer.say("MAIL FROM:<>", *["RCPT TO:<later@example.com>"] * 1500)
        replies += turns(scene, peer)
        self.assertEqual(len(replies), 1501)
        peer.leave()
        lines = scene.log.of("refused")
        self.assertEqual(len(lines), 101)
        self.assertEqual(lines[-1], "and 1400 more -> not told one by one ()")
        self.assertIn("refused=1500", scene.log.of("session")[0])

    def test_few_refusals_have_a_line_each(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say("MAIL FROM:<>", *["RCPT TO:<later@example.com>"] * 3)
        peer.leave()
        self.assertEqual(len(scene.log.of("refused")), 3)


class HalfClosed(TestCase):
    """What was received is answered, and then it is over."""

    def test_during_the_commit(self) -> None:
        scene = Scene()
        scene.spool.slow = True
        peer = scene.greeted()
        peer.say(*message())
        peer.say(*CONTENT)
        self.assertEqual(shut(peer), [])
        self.assertFalse(peer.told_to_go)
        scene.spool.finish()
        self.assertIn("queued as", peer.replies()[0])
        self.assertTrue(peer.told_to_go)
        peer.leave()
        self.assertEqual(len(scene.handed_over), 1)
        self.assertEqual(scene.log.of("session"), ["192.0.2.1 messages=1 refused=0 0s lost"])
        self.assertEqual(scene.clock.getDelayedCalls(), [])

    def test_pipelined_messages_behind_the_commit(self) -> None:
        scene = Scene()
        scene.spool.slow = True
        peer = scene.greeted()
        peer.say(*message())
        peer.say(*CONTENT, *message(), *CONTENT)
        shut(peer)
        scene.spool.finish()
        self.assertFalse(peer.told_to_go)
        scene.spool.finish()
        self.assertEqual(len([reply for reply in peer.replies() if "queued" in reply]), 2)
        self.assertTrue(peer.told_to_go)

    def test_more_than_one_turn_of_commands(self) -> None:
        scene = Scene(session=ServerLimits(idle=1000))
        peer = scene.greeted()
        replies = peer.say(*["NOOP"] * 500) + shut(peer)
        self.assertFalse(peer.told_to_go)
        replies += turns(scene, peer)
        self.assertEqual(len(replies), 500)
        self.assertTrue(peer.told_to_go)

    def test_during_the_login(self) -> None:
        for line, code in ((RIGHT, "235"), (WRONG, "535")):
            site = Site(slow=True)
            peer = site.scene.greeted()
            peer.say(line)
            self.assertEqual(shut(peer), [])
            [(done, work)] = site.hashing
            done.callback(work())
            self.assertEqual(peer.replies()[0][:3], code)
            self.assertTrue(peer.told_to_go)

    def test_while_it_does_not_read(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.protocol.pauseProducing()  # type: ignore[attr-defined]
        peer.say("NOOP")
        self.assertEqual(shut(peer), [])
        self.assertFalse(peer.told_to_go)
        peer.protocol.resumeProducing()  # type: ignore[attr-defined]
        self.assertEqual(peer.replies(), ["250 2.0.0 Ok"])
        self.assertTrue(peer.told_to_go)

    def test_it_never_reads_and_the_deadline_holds(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.protocol.pauseProducing()  # type: ignore[attr-defined]
        peer.say("NOOP")
        shut(peer)
        scene.clock.advance(301)
        self.assertTrue(peer.told_to_go)
        scene.clock.advance(11)
        self.assertTrue(peer.transport.disconnected)

    def test_an_unfinished_transaction_ends_at_once(self) -> None:
        for lines in ((), ("MAIL FROM:<>",), message(), (*message(), "Subject: half")):
            scene = Scene()
            peer = scene.greeted()
            peer.say(*lines)
            self.assertEqual(shut(peer), [])
            self.assertTrue(peer.told_to_go)
            for draft in scene.spool.drafts:
                self.assertTrue(draft.rolled_back)
            self.assertEqual(scene.spool.waiting, [])

    def test_after_quit(self) -> None:
        peer = Scene().greeted()
        peer.say("QUIT")
        self.assertEqual(shut(peer), [])
        peer.leave()


class OutOfStep(unittest.TestCase):
    """Where the answer decides what the octets behind a command are, the client must wait."""

    INNER = ("MAIL FROM:<inner@example.org>", "RCPT TO:<b@example.com>", "DATA", "x", ".")

    def assert_ended(self, scene: Scene, peer: Peer, replies: list[str]) -> None:
        self.assertEqual(replies[-1][:9], "421 4.5.0", replies)
        self.assertTrue(peer.told_to_go)
        self.assertEqual(scene.spool.stored, [])
        peer.leave()
        self.assertIn("synchronisation", scene.log.of("session")[-1])

    def test_behind_a_data_that_was_refused(self) -> None:
        for before in (
            ("DATA",),
            ("MAIL FROM:<>", "DATA"),
            ("MAIL FROM:<>", "RCPT TO:<refuse@example.com>", "DATA"),
            ("MAIL FROM:<>", "RCPT TO:<later@example.com>", "DATA"),
            ("MAIL FROM:<>", "RCPT TO:<a@example.com>", "DATA now"),
            ("MAIL FROM:<>", "RCPT TO:<a@example.com>", "data\t"),
        ):
            scene = Scene()
            peer = scene.greeted()
            self.assert_ended(scene, peer, peer.say(*before, *self.INNER))

    def test_behind_a_data_for_which_there_is_no_room(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        scene.spool.write_error = SpoolFull("full")
        replies = peer.say(*message(), *self.INNER)
        self.assertEqual(replies[-2][:9], "452 4.3.1")
        self.assert_ended(scene, peer, replies)

    def test_behind_an_auth_that_was_refused(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        replies = peer.say("AUTH LOGIN", "YWxpY2U=", "cGVuY2ls")
        self.assert_ended(scene, peer, replies)
        self.assertNotIn("YWxpY2U", repr(scene.log.lines))

    def test_behind_a_response_that_is_not_base64(self) -> None:
        site = Site()
        peer = site.scene.greeted()
        replies = peer.say("AUTH LOGIN", "YWxpY2U", "cGVuY2ls")
        self.assertEqual([reply[:3] for reply in replies], ["334", "501", "421"])
        self.assert_ended(site.scene, peer, replies)
        self.assertNotIn("YWxpY2U", repr(site.scene.log.lines))

    def test_behind_a_starttls_that_was_refused(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        self.assert_ended(scene, peer, peer.say("STARTTLS", *self.INNER))

    def test_who_waits_may_go_on(self) -> None:
        scene = Scene()
        peer = scene.greeted()
        peer.say("MAIL FROM:<>", "RCPT TO:<refuse@example.com>", "DATA")
        replies = peer.say("RCPT TO:<a@example.com>", "DATA")
        self.assertEqual([reply[:3] for reply in replies], ["250", "354"])
        self.assertEqual(peer.say(*CONTENT, "QUIT")[-1][:3], "221")

    def test_content_in_the_same_packet_as_a_data_that_was_accepted(self) -> None:
        scene = Scene()
        replies = scene.greeted().say(*message(), *CONTENT, "QUIT")
        self.assertEqual([reply[:3] for reply in replies], ["250", "250", "354", "250", "221"])

    def test_before_the_greeting_behind_a_balancer(self) -> None:
        scene = Scene()
        scene.listen(balancer=lambda _: True)
        peer = scene.connect()
        header = b"PROXY TCP4 198.51.100.9 192.0.2.2 40000 25\r\n"
        replies = peer.send(header + b"\r\n".join(each.encode() for each in self.INNER))
        self.assert_ended(scene, peer, replies)


class Secrets(unittest.TestCase):
    """Neither the log nor a reply shows what may be a password or somebody's mail."""

    def said(self, scene: Scene, *lines: str | bytes) -> str:
        """All that log and replies show when the client waits for each reply."""
        peer = scene.greeted()
        replies: list[str] = []
        for line in lines:
            if not peer.told_to_go:
                replies += peer.say(line)
        peer.leave()
        return "\n".join([*replies, *(text for _, text in scene.log.lines)])

    def test_none_of_these(self) -> None:
        secret = "c2VjcmV0"
        for lines in (
            ("AUTH LOGIN", secret),
            ("AUTH LOGIN", f"MAIL FROM:<{secret}"),
            ("AUTH LOGIN", f"MAIL FROM:<a@example.com> {secret}=1"),
            ("AUTH LOGIN", f"RCPT TO:<a@example.com> {secret}"),
            ("AUTH LOGIN", f"EHLO {secret}\n"),
            (f"AUTH LOGIN {secret}",),
            (f"AUTH {secret}",),
            (f"auth\t{secret}",),
            (f" AUTH PLAIN {secret}",),
            (f"XCLIENT LOGIN={secret} ADDR=192.0.2.1",),
            (secret,),
            (f"{secret}:",),
            (f"NOOP\t{secret}",),
            (f"DATA {secret}",),
            (f"QUIT {secret}",),
            (f"STARTTLS {secret}",),
            (f"MAIL {secret}",),
            (f"Mail me at {secret}",),
            (f"MAIL FROM:<a@example.com>\n{secret}",),
            (f"MAIL FROM:<a@example.com>\0{secret}",),
            (secret + "x" * 3000,),
            (f"RCPT TO:<{secret}@example.com" + "x" * 3000,),
            ("DATA", f"Dear {secret}"),
            ("DATA", f"Subject: {secret}"),
            ("DATA", f"MAIL FROM:<{secret}> as I said"),
            (f"BDAT {secret}",),
        ):
            with self.subTest(lines=lines):
                self.assertNotIn(secret, self.said(Scene(), *lines))

    def test_what_helps_is_shown(self) -> None:
        said = self.said(Scene(), "MAIL FROM:a@", "RCPT TO:<b@example.com>", "FOO bar")
        self.assertIn("MAIL FROM:a@ -> 501", said)
        self.assertIn("RCPT TO:<b@example.com> -> 503", said)
        self.assertIn("unknown, 7 octets -> 500", said)

    def test_a_login_that_fails_for_a_bug(self) -> None:
        self.assertNotIn("secret", repr(Auth("PLAIN", b"secret")))
        self.assertNotIn("secret", repr(AuthResponse(b"secret")))


class Holding(unittest.TestCase):
    """What all sessions hold in memory has one bound."""

    FIELD = b"X-Long: " + b"y" * 90 + b"\r\n"

    def holding(self, scene: Scene, octets: int) -> Peer:
        peer = scene.greeted()
        peer.say(*message("rewritten@example.com"))
        peer.send(b"X: y\r\n")
        peer.send(self.FIELD * (octets // len(self.FIELD)))
        return peer

    def test_unfinished_header_sections(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(2_000_000))
        memory = scene.service.intake.memory
        peers = [self.holding(scene, 300_000) for _ in range(6)]
        self.assertLess(memory.held, 2_000_001)
        ends = [peer.send(b"\r\n\r\n.\r\n")[0][:9] for peer in peers]
        self.assertEqual(ends, ["250 2.0.0"] * 3 + ["452 4.3.1"] * 3)
        self.assertEqual(memory.held, 0)
        self.assertEqual(self.holding(scene, 300_000).send(b"\r\n\r\n.\r\n")[0][:3], "250")

    def test_those_of_ordinary_mail_are_not_counted(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(0))
        peer = self.holding(scene, 7000)
        self.assertEqual(peer.send(b"\r\n\r\n.\r\n")[0][:3], "250")
        heard = peer.say(*message(*(f"user{number}@example.com" for number in range(8))))
        self.assertEqual([reply[:3] for reply in heard], ["250"] * 9 + ["354"])

    def test_a_little_in_each_of_many_sessions(self) -> None:
        scene = Scene(sessions=SessionLimits(per_client=0))
        scene.change(memory=Memory(1 << 20))
        peers = [self.holding(scene, 15_000) for _ in range(100)]
        ends = [peer.send(b"\r\n\r\n.\r\n")[0][:9] for peer in peers]
        self.assertEqual(ends, ["250 2.0.0"] * 32 + ["452 4.3.1"] * 68)
        codes = [
            scene.greeted().say(*message(*(f"user{number}@example.com" for number in range(9))))
            for _ in range(40)
        ]
        self.assertEqual([each[-2][:9] for each in codes], ["250 2.1.5"] * 32 + ["452 4.3.1"] * 8)

    def test_those_who_are_thrown_away_are_remembered_too(self) -> None:
        scene = Scene()
        scene.change(
            memory=Memory(0),
            decide=lambda ruleset, facts: Plan(
                Verdict.DISCARD, Reply.of(250, "2.1.5", "Ok"), (), ()
            ),
        )
        heard = scene.greeted().say(*message(*(f"user{each}@example.com" for each in range(9))))
        self.assertEqual([reply[:9] for reply in heard[-2:-1]], ["452 4.3.1"])

    def test_a_submission_is_held_once_more(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(2_000_000))
        scene.listen(submission=True, origin="example.com")
        self.holding(scene, 300_000)
        self.assertGreater(scene.service.intake.memory.held, 890_000)

    def test_whole_sections_of_unfinished_messages(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(2_000_000))
        peers = [self.holding(scene, 300_000) for _ in range(3)]
        for peer in peers:
            peer.send(b"\r\nand text")
        self.assertGreater(scene.service.intake.memory.held, 1_780_000)
        for peer in peers:
            peer.leave()
        self.assertEqual(scene.service.intake.memory.held, 0)

    def test_recipients(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(50 << 14))
        memory = scene.service.intake.memory
        peer = scene.greeted()
        lines = message(*(f"user{number}@example.com" for number in range(500)))
        codes = [reply[:9] for reply in peer.say(*lines) + turns(scene, peer)]
        self.assertEqual(codes[1:-1], ["250 2.1.5"] * 409 + ["452 4.3.1"] * 91)
        self.assertEqual(memory.held, 50 << 14)
        self.assertEqual(peer.say(*CONTENT)[0][:3], "250")
        self.assertEqual(memory.held, 0)

    def test_until_the_commit_is_over_whoever_waits_for_it(self) -> None:
        scene = Scene()
        scene.change(memory=Memory(2_000_000))
        scene.spool.slow = True
        memory = scene.service.intake.memory
        peers = [self.holding(scene, 300_000) for _ in range(3)]
        for peer in peers:
            self.assertEqual(peer.send(b"\r\n\r\n.\r\n"), [])
        peers[0].leave()
        self.assertGreater(memory.held, 1_780_000)
        self.assertEqual(self.holding(scene, 300_000).send(b"\r\n\r\n.\r\n")[0][:9], "452 4.3.1")
        scene.spool.finish()
        scene.spool.finish()
        scene.spool.commit_error = SpoolFull("disk full")
        scene.spool.finish()
        self.assertEqual([peer.replies()[0][:3] for peer in peers[1:]], ["250", "452"])
        self.assertEqual(memory.held, 0)

    def test_given_back_however_it_ends(self) -> None:
        scene = Scene()
        memory = scene.service.intake.memory
        for end in ("leave", "late", "shut", "closed"):
            peer = self.holding(scene, 300_000)
            self.assertGreater(memory.held, 0)
            if end == "leave":
                peer.leave()
            elif end == "late":
                scene.clock.advance(10_000)
            elif end == "shut":
                shut(peer)
            else:
                scene.service.close()
            self.assertEqual(memory.held, 0, end)
