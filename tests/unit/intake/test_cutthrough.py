"""Clients that wait for the first attempt: who may, what they hear, and when they are not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from twisted.internet.defer import Deferred, succeed

from relayd.intake.cutthrough import CutThrough, refusal
from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Outcome
from relayd.mail.plan import Destination, Plan
from relayd.mail.reply import Reply
from relayd.rules.evaluate import Facts
from relayd.rules.ruleset import Ruleset
from relayd.spool.errors import SpoolFull
from tests.spooling import recipient, submission
from tests.support import TestCase
from tests.unit.intake.scene import Peer, Scene, decide

NO_SUCH = Reply(550, 1, 1, ("No such mailbox", "See https://one.example/help"))


def refused(mailbox: str, reply: Reply, number: int = 0) -> Settlement:
    to = Recipient(Mailbox("final", "x.example"), Mailbox.parse(mailbox))
    return Settlement(Record(1, number, to), RecipientState.FAILED, Outcome(reply, "mx.x.example"))


@dataclass
class Attempt:
    """One that ends when the test says so."""

    message: Message
    records: Sequence[Record]
    patience: float
    refusals: list[Settlement] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    recorded: Deferred[bool] = field(default_factory=Deferred)
    ended: Deferred[bool] = field(default_factory=Deferred)

    def refused_by_all(self) -> Deferred[bool]:
        return self.ended

    def hurry(self) -> None:
        self.said.append("hurry")
        if not self.ended.called:
            self.ended.callback(False)

    def refuse(self) -> Deferred[bool]:
        self.said.append("refuse")
        return self.recorded

    def report(self) -> Deferred[None]:
        self.said.append("report")
        return succeed(None)

    def take(self) -> None:
        self.said.append("take")

    def come_again(self) -> None:
        self.said.append("come again")

    def finds(self, *refusals: Settlement) -> None:
        self.refusals += refusals
        self.ended.callback(bool(refusals))


def waiting(ruleset: Ruleset, facts: Facts) -> Plan:
    """As ever, and everybody but `queued@` is waited for."""
    plan = decide(ruleset, facts)
    seconds = {"queued": 0.0, "brief": 5.0}.get(facts.recipient.local, 20.0)
    destinations = [
        Destination(each.mailbox, each.next_hop, each.reverse_path, cut_through=seconds)
        for each in plan.destinations
    ]
    return replace(plan, destinations=tuple(destinations))


class Clients(TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.attempts: list[Attempt] = []
        self.answers: list[Deferred[None]] = []
        self.cut_through = CutThrough(self.attempt, lambda destination: True, self.answered, 10)
        self.scene.change(decide=waiting, cut_through=self.cut_through)

    def attempt(self, message: Message, records: Sequence[Record], patience: float) -> Attempt:
        self.attempts.append(Attempt(message, records, patience))
        return self.attempts[-1]

    def answered(self, ident: int) -> Deferred[None]:
        self.answers.append(Deferred())
        return self.answers[-1]

    def begun(self, *recipients: str) -> tuple[Peer, Attempt]:
        """A client that waits, and what for."""
        peer = self.scene.greeted()
        peer.say("MAIL FROM:<s@example.org>", *[f"RCPT TO:<{each}>" for each in recipients])
        peer.say("DATA")
        self.assertEqual(peer.say("Subject: x", "", "x", "."), [])
        return peer, self.attempts[-1]

    def test_the_refusal_is_said_once_it_is_recorded(self) -> None:
        peer, attempt = self.begun("a@x.example")
        self.assertEqual(attempt.records[0].state, RecipientState.HELD)
        self.assertEqual(peer.replies(), [])
        attempt.finds(refused("a@x.example", NO_SUCH))
        self.assertEqual(peer.replies(), [])
        attempt.recorded.callback(True)
        self.assertEqual(
            peer.replies(),
            ["550-5.1.1 No such mailbox", "550 5.1.1 See https://one.example/help"],
        )
        self.assertEqual(attempt.said, ["refuse"])
        self.assertEqual(self.cut_through.waiting, 0)
        self.assertEqual(self.scene.handed_over, [])

    def test_250_is_said_once_the_spool_knows_that_it_is_ours(self) -> None:
        peer, attempt = self.begun("a@x.example")
        attempt.finds()
        self.assertEqual((peer.replies(), attempt.said), ([], []))
        self.answers[0].callback(None)
        self.assertIn("250 2.0.0 queued as", peer.replies()[0])
        self.assertEqual(attempt.said, ["take"])

    def test_a_refusal_that_cannot_be_recorded_is_a_later(self) -> None:
        peer, attempt = self.begun("a@x.example")
        attempt.finds(refused("a@x.example", NO_SUCH))
        attempt.recorded.callback(False)
        self.assertEqual(peer.replies()[0][:9], "451 4.3.0")

    def test_a_250_that_cannot_be_recorded_is_a_later(self) -> None:
        peer, attempt = self.begun("a@x.example")
        attempt.finds()
        self.answers[0].errback(SpoolFull("full"))
        self.assertEqual(peer.replies()[0][:9], "452 4.3.1")
        self.assertEqual(attempt.said, ["come again"])

    def test_a_client_that_goes_ends_the_waiting(self) -> None:
        peer, attempt = self.begun("a@x.example")
        peer.leave()
        self.assertEqual(attempt.said, ["hurry"])
        self.answers[0].callback(None)
        self.assertEqual(attempt.said, ["hurry", "take"])

    def test_a_client_that_goes_while_the_refusal_is_recorded_leaves_a_report(self) -> None:
        peer, attempt = self.begun("a@x.example")
        attempt.finds(refused("a@x.example", NO_SUCH))
        peer.leave()
        attempt.recorded.callback(True)
        self.assertEqual(attempt.said, ["refuse", "report"])

    def test_a_client_that_says_no_more_may_have_gone(self) -> None:
        peer, attempt = self.begun("a@x.example")
        peer.protocol.readConnectionLost()  # type: ignore[attr-defined]
        self.assertEqual(attempt.said, ["hurry"])
        self.answers[0].callback(None)
        self.assertEqual(peer.replies()[0][:3], "250")

    def test_a_shutdown_ends_the_waiting(self) -> None:
        peer, attempt = self.begun("a@x.example")
        for session in list(self.scene.service.sessions):
            session.shut_down()
        self.assertEqual(attempt.said, ["hurry"])
        self.answers[0].callback(None)
        self.assertEqual([each[:3] for each in peer.replies()], ["250", "421"])

    def test_the_next_message_in_the_pipe_waits(self) -> None:
        peer = self.scene.greeted()
        head = "MAIL FROM:<s@example.org>\r\nRCPT TO:<a@x.example>\r\n"
        peer.send(f"{head}BDAT 3 LAST\r\nx\r\n{head}BDAT 3 LAST\r\ny\r\n".encode())
        self.assertEqual(len(self.attempts), 1)
        self.attempts[0].finds(refused("a@x.example", Reply.of(554, "5.7.1", "Spam")))
        self.attempts[0].recorded.callback(True)
        self.assertEqual(peer.replies()[0], "554 5.7.1 Spam")
        self.assertEqual(len(self.attempts), 2)

    def test_the_shortest_patience_of_all_recipients_counts(self) -> None:
        _, attempt = self.begun("a@x.example", "brief@x.example")
        self.assertEqual(attempt.patience, 5.0)

    def test_where_some_are_taken_in_any_case_nobody_waits(self) -> None:
        for others in ("queued@x.example", "hold@x.example", "discard@x.example"):
            peer = self.scene.greeted()
            peer.say("MAIL FROM:<s@example.org>", "RCPT TO:<a@x.example>", f"RCPT TO:<{others}>")
            peer.say("DATA")
            said = peer.say("Subject: x", "", "x", ".")
            self.assertEqual(said[0][:3], "250", others)
        self.assertEqual(self.attempts, [])


class Places(TestCase):
    def test_half_of_what_is_left_is_for_one_destination(self) -> None:
        cut = CutThrough(lambda *_: None, lambda name: name != "down", lambda ident: None, 8)  # type: ignore[arg-type, return-value]
        slow, other, down = (
            submission(replace(recipient("a"), next_hop=name)) for name in ("slow", "other", "down")
        )
        self.assertEqual([bool(cut.place(slow)) for _ in range(6)], [True] * 4 + [False] * 2)
        self.assertEqual([bool(cut.place(other)) for _ in range(3)], [True, True, False])
        self.assertIsNone(cut.place(down))
        held = submission(recipient("a"), state=RecipientState.HELD)
        self.assertIsNone(CutThrough(cut.attempt, bool, cut.answered, 8).place(held))
        self.assertIsNone(CutThrough(cut.attempt, bool, cut.answered).place(slow))


class Answers(TestCase):
    def said(self, *found: Settlement, utf8: bool = False) -> list[str]:
        return refusal(found, utf8=utf8).wire().decode().splitlines()

    def test_one_refusal_in_its_own_words(self) -> None:
        both = refused("a@x.example", NO_SUCH), refused("b@x.example", NO_SUCH, 1)
        for found in (both[:1], both):
            self.assertEqual(
                self.said(*found),
                ["550-5.1.1 No such mailbox", "550 5.1.1 See https://one.example/help"],
            )

    def test_several_refusals_each_with_its_recipient_as_the_client_named_it(self) -> None:
        full = Reply.of(552, "5.2.2", "Full")
        self.assertEqual(
            self.said(
                refused("b@x.example", full, 2),
                refused("a@x.example", NO_SUCH),
                refused("c@x.example", NO_SUCH, 1),
            ),
            [
                "554-5.0.0 <a@x.example and 1 more>: 550 5.1.1 No such mailbox",
                "554-5.0.0 See https://one.example/help",
                "554 5.0.0 <b@x.example>: 552 5.2.2 Full",
            ],
        )

    def test_codes_that_speak_of_the_session_are_not_handed_on(self) -> None:
        for code in (500, 503, 521, 530, 535, 555):
            self.assertEqual(
                self.said(refused("a@x.example", Reply(code, 7, 1, ("x",)))), ["554 5.7.1 x"]
            )

    def test_without_a_status_or_words(self) -> None:
        self.assertEqual(
            self.said(refused("a@x.example", Reply.bare(550, ""))),
            ["550 5.0.0 Refused where it goes"],
        )

    def test_no_words_of_a_peer_leave_their_line_or_its_length(self) -> None:
        words = ("a\r\n250 2.0.0 taken\x00\x1b[2J", "\u00e4" * 2000, *["x"] * 500)
        said = self.said(refused("a@x.example", Reply(550, 1, 1, words)))
        self.assertEqual(len(said), 50)
        self.assertTrue(all(each.startswith("550") and len(each) < 510 for each in said))
        self.assertTrue(all(each.isascii() and each.isprintable() for each in said))
        self.assertIn(
            "\u00e4", self.said(refused("a@x.example", Reply(550, 1, 1, words)), utf8=True)[1]
        )

    def test_very_many_different_ones_are_counted(self) -> None:
        found = [
            refused(f"u{number}@x.example", Reply.of(550, "5.1.1", f"no {number}"), number)
            for number in range(30)
        ]
        said = self.said(*found)
        self.assertEqual((len(said), said[-1]), (11, "550 5.1.1 and 20 more refusals"))
