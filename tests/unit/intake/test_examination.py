"""The final dot: what the content decides, for all recipients at once and for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred

from relayd.intake.checks import ReceivedContent
from relayd.intake.examination import Filtered
from relayd.intake.gatheredfacts import Gatherer
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.message import RecipientState, Submission
from relayd.mail.plan import Step, Verdict
from relayd.mail.reply import Reply
from relayd.rules.conditions.signatures import DMARC
from relayd.rules.evaluate import evaluate
from relayd.rules.fact import Fact
from relayd.rules.header import edit_header
from relayd.rules.ruleset import build
from relayd.spool.errors import SpoolFull
from tests.support import TestCase
from tests.unit.intake.scene import HOST, FakeLog, Peer, Scene, message
from tests.unit.intake.test_lookups import Zone
from tests.unit.rules.test_grammar import parse

SMALL = ("Subject: Hello", "", "Hello.", ".")
LARGE = ("Subject: Hello", "", *("x" * 70 for _ in range(100)), ".")
RULES = """
accept  to @example.com
reject  when size > 5000 and not sender @example.org 552 5.3.4 "Too large"
accept  when field subject "urgent"
hold    to held@example.com when size > 5000 "large"
discard to gone@example.com when size > 5000
header  add X-Large "yes" when size > 5000
route   to routed@example.com via junk when size > 5000
forward fwd@example.com -> else@example.net when not size > 5000
"""


class ExaminationCase(TestCase):
    def setUp(self) -> None:
        self.zone = Zone({})
        self.scene = Scene()
        self.log = FakeLog()
        self.decided: list[str] = []
        self.gatherer = Gatherer(self.scene.clock, self.zone, self.log, HOST, lambda: 0.0)
        self.untold: list[tuple[str, str]] = []
        self.rules(RULES)

    def rules(self, text: str, **intake: Any) -> None:  # noqa: ANN401
        ruleset = build(parse(text), {}, HOST)
        wants = ruleset.asked or ruleset.examined
        self.scene.change(
            gatherer=self.gatherer if wants else None,
            rules=lambda: ruleset,
            decide=evaluate,
            edit=edit_header,
            untold=lambda _client, _sender, mailbox, plan, _hash: self.untold.append(
                (str(mailbox), str(plan.reply))
            ),
            **intake,
        )

    def send(
        self, content: Sequence[str], *recipients: str, sender: str = "ann@example.org"
    ) -> str:
        self.peer: Peer = self.scene.greeted()
        replies = self.peer.say(*message(*recipients, sender=sender), *content)
        self.assertEqual({each[:3] for each in replies[:-1]}, {"250", "354"}, replies)
        return replies[-1]

    @property
    def submission(self) -> Submission:
        return self.scene.spool.stored[-1][1]

    def states(self) -> dict[str, RecipientState]:
        submission = self.submission
        return {
            str(each.mailbox): submission.state_of(number)
            for number, each in enumerate(submission.recipients)
        }


class ForAll(ExaminationCase):
    def test_the_first_that_fits_decides(self) -> None:
        self.assertEqual(
            self.send(LARGE, "a@example.com", "b@example.com", sender="x@example.net"),
            "552 5.3.4 Too large",
        )
        self.assertEqual(self.scene.spool.stored, [])
        (line,) = self.scene.log.of("refused")
        self.assertIn("size > 5000", line)

    def test_each_recipient_is_written_down_as_refused(self) -> None:
        self.send(LARGE, "a@example.com", "b@example.com", sender="x@example.net")
        self.assertEqual(
            self.untold,
            [("a@example.com", "552 5.3.4 Too large"), ("b@example.com", "552 5.3.4 Too large")],
        )

    def test_none_fits_and_it_is_taken(self) -> None:
        self.assertEqual(self.send(SMALL, sender="x@example.net")[:3], "250")
        self.assertEqual(self.scene.log.of("refused"), [])

    def test_who_is_thrown_away_at_rcpt_is_no_way_round(self) -> None:
        self.rules("discard to @example.com\nreject when size > 5000")
        self.assertEqual(self.send(LARGE)[:3], "550")

    def test_a_session_goes_on_after_it(self) -> None:
        self.send(LARGE, sender="x@example.net")
        again = self.peer.say(*message("a@example.com", sender="x@example.net"), *SMALL)
        self.assertEqual([each[:3] for each in again], ["250", "250", "354", "250"])
        self.peer.leave()
        self.assertEqual(self.scene.intake.memory.held, 0)


class ForEach(ExaminationCase):
    def test_hold_and_discard_are_for_one(self) -> None:
        self.send(LARGE, "held@example.com", "gone@example.com", "a@example.com")
        self.assertEqual(
            self.states(),
            {
                "held@example.com": RecipientState.HELD,
                "gone@example.com": RecipientState.DISCARDED,
                "a@example.com": RecipientState.QUEUED,
            },
        )
        self.send(SMALL, "held@example.com", "gone@example.com", "a@example.com")
        self.assertEqual(set(self.states().values()), {RecipientState.QUEUED})

    def test_what_an_accept_lets_in_is_not_held(self) -> None:
        self.send(("Subject: URGENT", *LARGE[1:]), "held@example.com")
        self.assertEqual(set(self.states().values()), {RecipientState.QUEUED})
        self.assertIn("accept", [step.stage for step in self.submission.trail[1:]])

    def test_header_route_and_forward_are_decided_again(self) -> None:
        self.send(LARGE, "routed@example.com", "fwd@example.com")
        self.assertEqual(
            [(str(each.mailbox), each.next_hop) for each in self.submission.recipients],
            [("routed@example.com", "junk"), ("fwd@example.com", "direct")],
        )
        (section,) = self.submission.headers
        self.assertIn(b"\r\nX-Large: yes\r\nSubject: Hello\r\n", section)
        self.send(SMALL, "routed@example.com", "fwd@example.com")
        self.assertEqual(
            [(str(each.mailbox), each.next_hop) for each in self.submission.recipients],
            [("routed@example.com", "direct"), ("else@example.net", "direct")],
        )
        self.assertEqual(self.submission.headers, ())

    def test_what_is_unknown_is_451_for_all(self) -> None:
        broken = Nothing(Filtered(facts={DMARC: None}))
        self.rules(
            "accept to @example.com\nhold to a@example.com when dmarc reject", filters=broken
        )
        self.assertEqual(self.send(SMALL, "a@example.com", "b@example.com")[:9], "451 4.3.0")


class Nothing:
    """Filters that have nothing to say."""

    def __init__(self, answer: Filtered | None = None) -> None:
        self.answer = answer or Filtered()
        self.asked: list[tuple[str, list[str], bytes, dict[Fact, object]]] = []
        self.wait: Deferred[None] | None = None
        self.edit: bytes | None = None
        self.error: Exception | None = None

    async def examine(
        self,
        client: Client,
        envelope: Envelope,
        recipients: Sequence[Mailbox],
        content: ReceivedContent,
        told: Mapping[Fact, object],
    ) -> Filtered:
        named = [str(each) for each in recipients]
        self.asked.append((client.address, named, content.section, dict(told)))
        if self.wait is not None:
            await self.wait
        if self.error is not None:
            raise self.error
        if self.edit is not None:
            await content.rewrite(self.edit)
        return self.answer


class WithFilters(ExaminationCase):
    def ask(self, answer: Filtered | None = None, rules: str = RULES) -> Nothing:
        filters = Nothing(answer)
        self.rules(rules, filters=filters)
        return filters

    def test_they_are_asked_once_with_what_is_known(self) -> None:
        filters = self.ask()
        self.assertEqual(self.send(SMALL, "a@example.com", "b@example.com")[:3], "250")
        ((address, named, section, told),) = filters.asked
        self.assertEqual((address, named), ("192.0.2.1", ["a@example.com", "b@example.com"]))
        self.assertEqual(section, b"Subject: Hello\r\n\r\n")
        self.assertIn("the size", [str(fact) for fact in told])

    def test_they_are_asked_where_no_rule_looks_at_the_content(self) -> None:
        filters = self.ask(rules="accept to @example.com")
        self.assertEqual(self.send(SMALL)[:3], "250")
        self.assertEqual(len(filters.asked), 1)

    def test_their_objection_is_the_reply(self) -> None:
        self.ask(Filtered(Reply.of(550, "5.7.1", "Spam")))
        self.assertEqual(self.send(SMALL), "550 5.7.1 Spam")
        self.assertEqual(self.scene.spool.stored, [])

    def test_what_they_hold_or_throw_away_is_so_for_all(self) -> None:
        for verdict, state in (
            (Verdict.HOLD, RecipientState.HELD),
            (Verdict.DISCARD, RecipientState.DISCARDED),
        ):
            with self.subTest(verdict):
                step = Step("hold", "x.rules:1", "milter av", "quarantine")
                self.ask(Filtered(verdict=verdict, trail=(step,)))
                self.send(SMALL, "a@example.com", "b@example.com")
                self.assertEqual(set(self.states().values()), {state})
                self.assertIn(step, self.submission.trail)

    def test_rules_look_at_what_they_have_written(self) -> None:
        filters = self.ask()
        filters.edit = b"Subject: other\r\nX-New: 1\r\n\r\n"
        self.send(SMALL, "a@example.com")
        self.assertIn(
            b"X-New: 1\r\n\r\nHello.\r\n", b"".join(self.scene.spool.stored[-1][0].content.chunks())
        )

    def test_trouble_of_the_spool_is_4xx(self) -> None:
        filters = self.ask()
        filters.error = SpoolFull("full")
        self.assertEqual(self.send(SMALL)[:9], "452 4.3.1")

    def test_who_goes_meanwhile_leaves_nothing(self) -> None:
        filters = self.ask()
        filters.wait = Deferred()
        peer = self.scene.greeted()
        peer.say(*message(), *SMALL)
        peer.leave()
        self.assertTrue(filters.wait.called)
        self.assertEqual(self.scene.spool.stored, [])
        self.assertTrue(all(each.rolled_back for each in self.scene.spool.drafts))
        self.assertEqual(self.scene.intake.memory.held, 0)

    def test_who_waits_too_long_hears_it(self) -> None:
        filters = self.ask()
        filters.wait = Deferred()
        peer = self.scene.greeted()
        peer.say(*message(), *SMALL)
        self.scene.clock.advance(1000)
        self.assertEqual(peer.replies(), ["451 4.3.0 It took too long to decide, try again later"])
