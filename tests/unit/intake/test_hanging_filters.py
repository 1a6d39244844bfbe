"""Filters that say nothing: all that one session asks have its phase's time together."""

from __future__ import annotations

from relayd.filters import lines as module
from relayd.filters.line import FilterLine, FilterPlace
from relayd.intake.filterdesk import FilterDesk
from relayd.intake.limits import NORMAL
from relayd.mail.message import RecipientState
from relayd.rules.evaluate import evaluate
from relayd.rules.ruleset import build
from tests.support import TestCase
from tests.unit.filters.test_lines import Net
from tests.unit.intake.scene import HOST, FakeLog, Peer, Scene, message
from tests.unit.rules.test_grammar import parse

HANGING = 20


def _rules(kind: str, failure: str, timeout: str = "") -> str:
    where = {"rspamd": "http://192.0.2.1:%d", "clamd": "192.0.2.1:%d"}.get(kind, "192.0.2.1:%d")
    names = [f"f{number}" for number in range(HANGING)]
    defined = [
        f"{kind} {name} {where % (1000 + number)} on failure {failure} {timeout}"
        for number, name in enumerate(names)
    ]
    return "\n".join([*defined, f"ask {', '.join(names)}", "accept to @example.com\n"])


class HangingFilterTests(TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        self.clock = self.scene.clock
        self.net = Net(self.clock)
        self.patch(module, "dial", self.net.dial)
        self.log = FakeLog()

    def rules(self, text: str) -> None:
        ruleset = build(parse(text), {}, HOST)
        intake = self.scene.service.intake
        intake.rules, intake.decide = lambda: ruleset, evaluate
        intake.desk = FilterDesk(self.clock, self.log, HOST, self.clock.seconds)

    def answer(self, peer: Peer, *lines: str) -> list[str]:
        """What is said to these lines, however long it takes."""
        said = peer.say(*lines) if lines else peer.replies()
        for _ in range(int(NORMAL.examination) + 30):
            if said:
                break
            self.clock.advance(1.0)
            said = peer.replies()
        return said

    def send(self) -> list[str]:
        """The first words of all answers to one message, from the greeting to the final dot."""
        peer = self.scene.connect()
        said = self.answer(peer)[:1]
        for command in ("EHLO client.example", *message("info@example.com")):
            said.append(self.answer(peer, command)[-1])
        said.append(self.answer(peer, "Subject: test", "", "Hello.", ".")[-1])
        return [each[:3] for each in said]

    def test_hanging_milters_on_failure_accept_are_accepted_within_the_phase(self) -> None:
        self.rules(_rules("milter", "accept"))
        self.assertEqual(self.send(), ["220", "250", "250", "250", "354", "250"])

    def test_hanging_clamds_and_rspamds_on_failure_accept_are_accepted(self) -> None:
        for kind in ("clamd", "rspamd"):
            with self.subTest(kind):
                self.rules(_rules(kind, "accept"))
                self.assertEqual(self.send(), ["220", "250", "250", "250", "354", "250"])

    def test_hanging_policy_services_on_failure_accept_are_accepted(self) -> None:
        self.rules(_rules("policy", "accept"))
        self.assertEqual(self.send(), ["220", "250", "250", "250", "354", "250"])

    def test_hanging_filters_on_failure_hold_are_held(self) -> None:
        self.rules(_rules("rspamd", "hold"))
        self.assertEqual(self.send()[-1], "250")
        _, submission = self.scene.spool.stored[-1]
        self.assertEqual(submission.state, RecipientState.HELD)

    def test_hanging_filters_on_failure_reject_are_refused_for_good(self) -> None:
        self.rules(_rules("rspamd", "reject"))
        self.assertEqual(self.send()[-1], "550")

    def test_who_comes_after_hanging_filters_still_has_time(self) -> None:
        rules = _rules("rspamd", "accept")
        rules = rules.replace("ask f0", "policy last 192.0.2.1:10023\nask f0")
        rules = rules.replace("accept to", "ask last when size > 1\naccept to")
        self.rules(rules)
        answering = self.net.dial

        async def dial(reactor: object, place: FilterPlace, patience: float) -> FilterLine:
            line = await answering(reactor, place, patience)
            if place.port == 10023:
                self.clock.callLater(1.0, line.dataReceived, b"action=defer not now\n\n")
            return line

        self.patch(module, "dial", dial)
        self.assertEqual(self.send()[-1], "450")
        self.assertIn("defer", self.scene.log.of("refused")[-1].lower())

    def test_each_has_its_own_limit_where_there_is_time_enough(self) -> None:
        self.rules(_rules("rspamd", "accept", "timeout 3s"))
        self.send()
        self.assertIn("3 seconds", str(self.log.lines))
