"""The final dot: what the content decides, for all recipients at once and for each."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred

from relayd.intake.checks import ReceivedContent
from relayd.intake.examination import Filtered
from relayd.intake.gatheredfacts import PATIENCE, Gatherer
from relayd.intake.vouching import author_domains
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.message import RecipientState, Submission
from relayd.mail.plan import FACT, Plan, Step, Verdict
from relayd.mail.reply import Reply
from relayd.rules.conditions.headerfield import header_field
from relayd.rules.conditions.listing import listing
from relayd.rules.conditions.signatures import DKIM, DMARC, DMARC_WORDS, SignedResult
from relayd.rules.conditions.size import SIZE
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact
from relayd.rules.header import edit_header
from relayd.rules.ruleset import Ruleset, build
from relayd.rules.storedfact import kept, recalled
from relayd.spool.errors import SpoolFull
from tests.support import TestCase
from tests.unit.authentication.test_dkim import ED_RECORD, NOW, SECTION, sign
from tests.unit.intake.scene import HOST, FakeLog, Peer, Scene, message
from tests.unit.intake.test_gatheredfacts import Slow
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

    def test_each_is_decided_about_again_only_where_one_of_them_fits(self) -> None:
        decided = []

        def noted(ruleset: Ruleset, facts: Facts) -> Plan:
            decided.append(str(facts.recipient))
            return evaluate(ruleset, facts)

        self.rules('accept to @example.com\naccept when field subject "urgent"')
        self.scene.service.intake.decide = noted
        self.assertEqual(self.send(SMALL, "a@example.com")[:3], "250")
        self.assertEqual(decided, ["a@example.com"])
        urgent = ("Subject: urgent", *SMALL[1:])
        self.assertEqual(self.send(urgent, "b@example.com")[:3], "250")
        self.assertEqual(decided[1:], ["b@example.com", "b@example.com"])

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

    def said_of(self, submission: Submission, number: int = 0) -> str:
        outcome = submission.first_word(number)
        assert outcome is not None
        return str(outcome.reply)

    def test_a_rule_that_holds_several_recipients_is_said_once(self) -> None:
        self.rules('accept to @example.com\nhold any when field subject "hello"')
        self.send(SMALL, "a@example.com", "b@example.com")
        for number in (0, 1):
            self.assertRegex(
                self.said_of(self.submission, number),
                r'^450 4\.7\.0 Held by rule \S+ hold any when field \S+ "hello"$',
            )

    def test_each_recipient_says_the_rule_that_holds_it(self) -> None:
        self.rules(
            'hold to a@example.com when size > 1 "A"\nhold to b@example.com when size > 1 "B"\n'
            "accept to @example.com\nforward c@example.com -> a@example.com\n"
            'hold to c@example.com when size > 1 "C"'
        )
        self.send(SMALL, *(f"{name}@example.com" for name in "abcd"))
        self.assertEqual(len(self.submission.recipients), 3)
        self.assertRegex(self.said_of(self.submission, 0), r'hold to a@\S+ "A"[^"]+, .*"C"')
        self.assertRegex(self.said_of(self.submission, 1), r'rule \S+ hold to b@\S+ "B"[^"]+$')
        self.assertIsNone(self.submission.first_word(2))

    def test_a_filter_that_holds_is_said(self) -> None:
        self.send(SMALL, "a@example.com")
        step = Step("hold", "x.rules:1", "milter av", "quarantine")
        held = replace(self.submission, state=RecipientState.HELD, states=(), trail=(step,))
        self.assertIn("Held by rule x.rules:1 milter av", self.said_of(held))

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
        (line,) = self.scene.log.of("refused")
        self.assertRegex(line, r"\(\S+:2 what DMARC asks for is not known\)")


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
        self.assertEqual(self.submission.trail[0].rule, "field subject other")
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


AUTHOR = b"From: ann@example.com\r\nTo: b@example.org\r\nSubject: Hello\r\n\r\n"
AUTHOR_SIGNED = SECTION  # as `sign` signs it
BODY = b"Hello  there \r\n\r\n"
KEY = ("s._domainkey.example.com", "TXT")
POLICY = ("_dmarc.example.com", "TXT")
STRICT: dict[tuple[str, str], tuple[str, ...] | None] = {
    KEY: (ED_RECORD,),
    POLICY: ("v=DMARC1; p=reject",),
}


class VouchedFor(ExaminationCase):
    """DKIM and DMARC, from the octets and the DNS."""

    def result(
        self,
        rule: str,
        content: bytes,
        records: Mapping[tuple[str, str], tuple[str, ...] | None] = STRICT,
        *,
        cuts: int = 10_000,
        sender: str = "ann@example.net",
    ) -> str:
        self.zone = Zone(records)
        self.gatherer = Gatherer(self.scene.clock, self.zone, self.log, HOST, lambda: NOW)
        self.rules(f'accept to @example.org\nreject when {rule} "It holds"')
        peer = self.scene.greeted()
        peer.say(*message("b@example.org", sender=sender))
        replies = []
        octets = content + b".\r\n"
        for at in range(0, len(octets), cuts):
            replies += peer.send(octets[at : at + cuts])
        self.assertEqual(len(replies), 1, replies)
        peer.leave()
        return replies[0]

    def holds(self, rule: str, *given: Any, **more: Any) -> str:  # noqa: ANN401
        reply = self.result(rule, *given, **more)
        return "yes" if "It holds" in reply else "unknown" if reply[:3] == "451" else "no"

    def test_signatures_however_the_content_is_cut(self) -> None:
        content = sign() + b"\r\n" + AUTHOR_SIGNED + BODY
        for cuts in (1, 7, 10_000):
            for rule, answer in (
                ("dkim pass", "yes"),
                ("dkim pass @example.com", "yes"),
                ("dkim pass @EXAMPLE.com, pass @example.net", "yes"),
                ("dkim pass @.example.com", "no"),
                ("dkim none @example.net", "yes"),
                ("dkim fail", "no"),
                ("not dkim pass", "no"),
            ):
                with self.subTest(rule, cuts=cuts):
                    self.assertEqual(self.holds(rule, content, cuts=cuts), answer)

    def test_what_was_changed_or_never_signed(self) -> None:
        signed = sign() + b"\r\n" + AUTHOR_SIGNED
        self.assertEqual(self.holds("dkim fail", signed + b"Other\r\n"), "yes")
        self.assertEqual(self.holds("dkim none", AUTHOR + BODY), "yes")
        self.assertEqual(self.holds("dkim pass", AUTHOR + BODY), "no")
        self.assertEqual(self.holds("dkim permerror", signed + BODY, {}), "yes")

    def test_one_good_signature_is_enough(self) -> None:
        other = sign(d="example.net")
        content = other + b"\r\n" + sign() + b"\r\n" + AUTHOR_SIGNED + BODY
        records = {**STRICT, ("s._domainkey.example.net", "TXT"): None}
        self.assertEqual(self.holds("dkim pass", content, records), "yes")
        self.assertEqual(self.holds("dkim temperror @example.net", content, records), "yes")

    def test_a_key_that_nobody_tells_of_is_unknown(self) -> None:
        content = sign() + b"\r\n" + AUTHOR_SIGNED + BODY
        dead = {**STRICT, KEY: None}
        self.assertEqual(self.holds("dkim temperror", content, dead), "yes")
        for rule in ("dkim pass", "not dkim pass", "dkim fail", "dmarc reject", "not dmarc pass"):
            with self.subTest(rule):
                self.assertEqual(self.holds(rule, content, dead), "unknown")

    def test_a_signature_over_part_of_the_body_vouches_for_nothing(self) -> None:
        whole = b"Hello  there \r\n"
        field = sign(l=str(len(whole)), body=whole)
        content = field + b"\r\n" + AUTHOR_SIGNED + whole
        self.assertEqual(self.holds("dkim pass", content), "yes")
        self.assertEqual(self.holds("dkim pass", content + b"And more\r\n"), "no")
        self.assertEqual(self.holds("dkim neutral", content + b"And more\r\n"), "yes")
        self.assertEqual(self.holds("dmarc reject", content + b"And more\r\n"), "yes")

    def test_content_without_a_body(self) -> None:
        field = sign(
            body=b"", bh="47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", c="simple/relaxed"
        )
        content = field + b"\r\n" + AUTHOR_SIGNED
        self.assertEqual(self.holds("dkim pass", content), "yes")

    def test_content_that_is_a_header_section_alone(self) -> None:
        self.assertEqual(self.holds("dmarc reject", b"From: ann@example.com\r\n"), "yes")

    def test_policies(self) -> None:
        signed = sign() + b"\r\n" + AUTHOR_SIGNED + BODY
        for content, policy, word in (
            (signed, ("v=DMARC1; p=reject",), "pass"),
            (AUTHOR + BODY, ("v=DMARC1; p=reject",), "reject"),
            (AUTHOR + BODY, ("v=DMARC1; p=quarantine",), "quarantine"),
            (AUTHOR + BODY, ("v=DMARC1; p=none",), "none"),
            (AUTHOR + BODY, (), "none"),
            (b"Subject: no author\r\n\r\nx\r\n", ("v=DMARC1; p=reject",), "none"),
        ):
            for asked in DMARC_WORDS:
                with self.subTest(word, asked=asked):
                    records = {**STRICT, POLICY: policy}
                    answer = self.holds(f"dmarc {asked}", content, records)
                    self.assertEqual(answer, "yes" if asked == word else "no")

    def test_a_policy_that_nobody_tells_of_is_unknown(self) -> None:
        self.assertEqual(self.holds("dmarc reject", AUTHOR + BODY, {POLICY: None}), "unknown")

    def test_spf_counts_for_the_authors_domain(self) -> None:
        spf = ("example.com", "TXT")
        for record, answer in (
            (("v=spf1 ip4:192.0.2.0/24 -all",), "pass"),
            (("v=spf1 -all",), "reject"),
        ):
            records = {**STRICT, spf: record}
            sender = "bounce@example.com"
            self.assertEqual(
                self.holds(f"dmarc {answer}", AUTHOR + BODY, records, sender=sender), "yes"
            )
        records = {**STRICT, spf: None}
        self.assertEqual(
            self.holds("dmarc reject", AUTHOR + BODY, records, sender=sender), "unknown"
        )

    def test_of_several_authors_the_strictest_policy_counts(self) -> None:
        """Who puts a second From in front is not let in by it."""
        signed = sign() + b"\r\n" + AUTHOR_SIGNED
        bank = {**STRICT, ("_dmarc.bank.example", "TXT"): ("v=DMARC1; p=reject",)}
        forged = b"From: x@bank.example\r\n" + signed + BODY
        self.assertEqual(self.holds("dmarc reject", forged, bank), "yes")

    def test_no_author_hides_behind_more_than_anybody_looks_at(self) -> None:
        """Behind ten that pass, or behind a long comment: such a From is refused by who asks."""
        signed = sign() + b"\r\n"
        many = b", ".join(b"a@d%d.example" % n for n in range(10)) + b", <x@bank.example>"
        for name in (many, b"(" + b"c" * 20_000 + b") x@bank.example"):
            with self.subTest(name[:20]):
                forged = signed + b"From: " + name + b"\r\n" + BODY
                self.assertEqual(self.holds("dmarc reject", forged, STRICT), "yes")

    def test_an_author_is_found_however_he_is_written(self) -> None:
        bank = {("_dmarc.bank.example", "TXT"): ("v=DMARC1; p=reject",)}
        for name in (
            b"x@bank.example.",
            b"x@bank(a (b)).example",
            b"x @ bank . example",
            b'"X <x@bank.example>',
            b"(X <x@bank.example>",
            b"x@bank\xe3\x80\x82example",
        ):
            with self.subTest(name):
                forged = b"From: " + name + b"\r\n" + BODY
                self.assertEqual(self.holds("dmarc reject", forged, bank), "yes")

    def test_a_from_of_blanks_takes_a_moment(self) -> None:
        before = time.process_time()
        for body in (b" " * 16_000 + b"!", b"a " * 8_000 + b"!", b'"\\' * 8_000, b". " * 8_000):
            author_domains([body])
        self.assertLess(time.process_time() - before, 2.0)

    def test_look_ups_begin_when_the_header_section_is_there(self) -> None:
        self.zone = Zone(STRICT)
        self.gatherer = Gatherer(self.scene.clock, self.zone, self.log, HOST, lambda: NOW)
        self.rules("accept to @example.org\nreject when dmarc reject")
        peer = self.scene.greeted()
        peer.say(*message("b@example.org"))
        peer.send(sign() + b"\r\n" + AUTHOR_SIGNED[:-2])
        self.assertNotIn(KEY[0], self.zone.asked)
        peer.send(b"\r\nHello")
        for name in (KEY[0], POLICY[0]):
            self.assertIn(name, self.zone.asked)

    def test_what_no_rule_looks_at_is_not_asked_for(self) -> None:
        self.holds("size > 100000", sign() + b"\r\n" + AUTHOR_SIGNED + BODY)
        self.assertEqual(self.zone.asked, [])

    def test_who_does_not_answer_is_not_waited_for_longer_than_is_reasonable(self) -> None:
        zone = Slow()
        zone.hold()
        self.gatherer = Gatherer(self.scene.clock, zone, self.log, HOST, lambda: NOW)
        self.rules("accept to @example.org\nreject when dkim pass")
        peer = self.scene.greeted()
        peer.say(*message("b@example.org"))
        self.assertEqual(peer.send(sign() + b"\r\n" + AUTHOR_SIGNED + BODY + b".\r\n"), [])
        self.scene.clock.advance(PATIENCE)
        self.assertEqual([each[:9] for each in peer.replies()], ["451 4.3.0"])
        peer.leave()
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])

    def test_who_goes_meanwhile_is_not_looked_up_any_more(self) -> None:
        zone = Slow()
        zone.hold()
        self.gatherer = Gatherer(self.scene.clock, zone, self.log, HOST, lambda: NOW)
        self.rules("accept to @example.org\nreject when dkim pass")
        peer = self.scene.greeted()
        peer.say(*message("b@example.org"))
        peer.send(sign() + b"\r\n" + AUTHOR_SIGNED + BODY)
        peer.leave()
        self.assertEqual([each.called for each in zone.held or ()], [True])


class Fields(ExaminationCase):
    def holds(self, rule: str, *lines: str | bytes) -> bool:
        self.rules(f"accept to @example.com\nreject when {rule}")
        return self.send([*lines, "", "Body", "."])[:3] == "550"  # type: ignore[list-item]

    def test_text_is_unfolded_decoded_and_in_lower_case(self) -> None:
        for line in (
            "Subject: Your INVOICE 4711",
            "SUBJECT : your\r\n invoice\r\n\t4711",
            "Subject: =?utf-8?B?WW91ciBpbnZvaWNl?= =?utf-8?Q?_4711?=",
            "Subject: no\r\nSubject: your invoice 4711",
        ):
            with self.subTest(line):
                self.assertTrue(self.holds(r'field subject "your invoice\s+4711"', line))

    def test_what_is_there_and_what_is_not(self) -> None:
        self.assertFalse(self.holds('field subject "."', "X-Subject: a", "To: b"))
        self.assertTrue(self.holds('field list-id "."', "List-Id: <a.example>"))
        self.assertTrue(self.holds('not field list-id "."', "To: b"))
        self.assertFalse(self.holds('field subject "body"', "To: b"))

    def test_what_nobody_can_read_is_some_text(self) -> None:
        for line in (
            b"Subject: =?no-such?B?AAAA?= spam", b"Subject: =?utf-8?B?A?= spam",
            b"Subject: \xff\xfe spam", b"Subject: =?utf-8?Q?=ZZ?= spam",
        ):  # fmt: skip
            with self.subTest(line):
                self.assertTrue(self.holds('field subject "spam$"', line))

    def test_what_a_sender_makes_us_look_at_is_bounded(self) -> None:
        lines = ["Subject: " + "a " * 490] * 20
        self.assertFalse(self.holds('field subject "spam"', *lines, "Subject: spam"))
        self.assertTrue(self.holds('field subject "spam"', "Subject: spam", *lines))


class Results(ExaminationCase):
    """Authentication-Results (RFC 8601)."""

    def taken(self, rules: str, content: bytes) -> tuple[bytes, bytes]:
        """What is sent on: what stands in front of our Received field, and what behind it."""
        spf = {("example.com", "TXT"): ("v=spf1 ip4:192.0.2.0/24 -all",)}
        self.zone = Zone({**STRICT, **spf})
        self.gatherer = Gatherer(self.scene.clock, self.zone, self.log, HOST, lambda: NOW)
        self.rules(f"accept to @example.org\n{rules}")
        peer = self.scene.greeted()
        peer.say(*message("b@example.org", sender="ann@example.com"))
        (reply,) = peer.send(content + b".\r\n")
        self.assertEqual(reply[:3], "250")
        stored, submission = self.scene.spool.stored[-1]
        whole = b"".join(stored.content.chunks())
        if submission.recipients[0].header:
            section = submission.headers[submission.recipients[0].header - 1]
            whole = section + whole[submission.header_size :]
        before, received, behind = whole.partition(b"Received: ")
        own = received + behind
        end = re.search(rb"\r\n(?![ \t])", own)
        assert end is not None
        return before, own[end.end() :]

    def test_what_was_checked_is_written_down_in_front(self) -> None:
        content = sign() + b"\r\n" + AUTHOR_SIGNED + BODY
        before, behind = self.taken("reject when dmarc reject", content)
        self.assertEqual(behind, content)
        text = b" ".join(before.split()).decode()
        self.assertTrue(text.startswith(f"Authentication-Results: {HOST}; spf=pass"), text)
        self.assertIn(" smtp.mailfrom=ann@example.com; dkim=pass header.d=example.com", text)
        self.assertIn("; dmarc=pass (p=reject) header.from=example.com", text)

    def test_only_what_was_checked(self) -> None:
        before, _ = self.taken("reject when spf fail", AUTHOR + BODY)
        self.assertIn(b"spf=pass", before)
        self.assertNotIn(b"dkim", before)
        before, _ = self.taken("reject when dkim fail", AUTHOR + BODY)
        self.assertIn(b"dkim=none", before)
        self.assertNotIn(b"spf", before)

    def test_where_nobody_looks_every_octet_stays(self) -> None:
        forged = f"Authentication-Results: {HOST}; spf=pass\r\n".encode() + AUTHOR + BODY
        for rules in ("", "reject when size > 100000"):
            self.assertEqual(self.taken(rules, forged), (b"", forged))

    def test_what_speaks_in_our_name_is_removed_and_nothing_else(self) -> None:
        for line, goes in (
            (f"Authentication-Results: {HOST}; spf=pass", True),
            (f"authentication-results : (a;b) {HOST.upper()} 1;\r\n\tdmarc=pass", True),
            (f"Authentication-Results: other.example; spf=pass smtp.helo={HOST}", False),
            (f"X-Authentication-Results: {HOST}; spf=pass", False),
            (f"X: Authentication-Results: {HOST}; spf=pass", False),
        ):
            with self.subTest(line):
                octets = line.encode() + b"\r\n"
                _, behind = self.taken(
                    "reject when dmarc reject", b"A: b\r\n" + octets + AUTHOR_SIGNED_BODY
                )
                kept = b"" if goes else octets
                self.assertEqual(behind, b"A: b\r\n" + kept + AUTHOR_SIGNED_BODY)

    def test_a_field_that_quotes_the_forged_one_does_not_save_it(self) -> None:
        forged = f"Authentication-Results: {HOST}; spf=pass\r\n".encode()
        content = b"X: " + forged + b"To: b@example.org\r\n" + forged + AUTHOR_SIGNED_BODY
        _, behind = self.taken("reject when dmarc reject", content)
        self.assertEqual(behind, b"X: " + forged + b"To: b@example.org\r\n" + AUTHOR_SIGNED_BODY)

    def test_header_rules_work_behind_it(self) -> None:
        before, behind = self.taken(
            'reject when dmarc reject\nheader remove Authentication-Results\nheader add X-A "b"',
            b"Authentication-Results: other.example; none\r\n" + AUTHOR_SIGNED_BODY,
        )
        self.assertIn(b"dmarc=pass", before)
        self.assertEqual(behind, b"X-A: b\r\n" + AUTHOR_SIGNED_BODY)


AUTHOR_SIGNED_BODY = sign() + b"\r\n" + AUTHOR_SIGNED + BODY


class Kept(ExaminationCase):
    """What was known stays with the message, for `why` and `replay`."""

    def facts(self, trail: Sequence[Step]) -> dict[str, str]:
        return {step.place: step.note for step in trail if step.stage == FACT}

    def test_with_the_message(self) -> None:
        self.send(("Subject: Urgent", *LARGE[1:]), "a@example.com")
        trail = self.submission.trail
        self.assertEqual(self.facts(trail), {"field subject": '["urgent"]', "size": "7219"})
        self.assertEqual([step.stage for step in trail[:3]], ["fact", "fact", "accept"])
        self.assertEqual([step.rule for step in trail[:2]], ["field subject urgent", "size 7219"])

    def test_with_the_refusal_of_each_recipient(self) -> None:
        noted: list[Plan] = []
        intake = self.scene.service.intake
        intake.untold = lambda _client, _sender, _mailbox, plan, _hash: noted.append(plan)
        self.send(LARGE, "a@example.com", "b@example.com", sender="x@example.net")
        self.assertEqual([self.facts(plan.trail)["size"] for plan in noted], ["7218", "7218"])
        self.assertEqual(noted[0].trail[-1].stage, "reject")

    def test_with_a_refusal_at_rcpt(self) -> None:
        noted: list[Plan] = []
        spf: dict[tuple[str, str], tuple[str, ...] | None]
        spf = {("example.com", "TXT"): ("v=spf1 -all",)}
        self.gatherer = Gatherer(self.scene.clock, Zone(spf), self.log, HOST, lambda: NOW)
        self.rules("reject when spf fail\naccept any")
        self.scene.service.intake.untold = lambda *told: noted.append(told[3])
        peer = self.scene.greeted()
        peer.say(*message("b@example.org", sender="ann@example.com"))
        self.assertEqual(self.facts(noted[0].trail), {"spf": '"fail"'})

    def test_what_is_long_is_not(self) -> None:
        self.send(("Subject: " + "long " * 150, *SMALL[1:]), "a@example.com")
        self.assertEqual(set(self.facts(self.submission.trail)), {"size"})

    def test_it_is_recalled_as_it_was(self) -> None:
        told: dict[Fact, object] = {
            DKIM: (SignedResult("pass", "a.test"), SignedResult("fail")),
            DMARC: None,
            SIZE: 4,
            header_field("X"): ("a", "ü"),
            listing("zen"): True,
        }
        stored = self.facts(kept(told))
        self.assertEqual(recalled(told, stored), told)
        self.assertEqual(recalled([SIZE], {}), {})

    def test_where_nobody_looks_nothing_is(self) -> None:
        self.rules("accept to @example.com")
        self.send(SMALL, "a@example.com")
        self.assertEqual(self.facts(self.submission.trail), {})
