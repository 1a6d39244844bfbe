"""What others are asked for before rules look: early, side by side, once, and never for ever."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from relayd.dns.answer import Answer
from relayd.dns.reverse import ReverseNames
from relayd.intake.gatheredfacts import PATIENCE, STRANGERS_QUESTIONS, Gatherer
from relayd.rules.evaluate import evaluate
from relayd.rules.ruleset import build
from tests.unit.intake.scene import CONTENT, HOST, FakeLog, Peer, Scene, message
from tests.unit.intake.test_lookups import Zone
from tests.unit.rules.test_grammar import parse

BAD, GOOD = "198.51.100.9", "192.0.2.7"
RULES = """
dnsbl   zen zen.test
dnswl   friends friends.test
reject  when listed zen and not listed friends 550 5.7.1 "Your address is on a block list"
defer   to @example.com when spf fail
accept  to @example.com
"""
RECORDS = {
    ("9.100.51.198.zen.test", "A"): ("127.0.0.2",),
    ("10.100.51.198.zen.test", "A"): ("127.0.0.2",),
    ("10.100.51.198.friends.test", "A"): ("127.0.10.3",),
    ("example.org", "TXT"): ("v=spf1 ip4:192.0.2.0/25 -all",),
    ("slow.test", "TXT"): ("v=spf1 -all",),
}


class Slow(Zone):
    """Answers when it is told to."""

    def __init__(self) -> None:
        super().__init__(RECORDS)
        self.held: list[Deferred[None]] | None = None

    def hold(self) -> None:
        """From now on."""
        self.held = []

    def go_on(self) -> None:
        """All that was asked meanwhile."""
        while self.held:
            self.held.pop(0).callback(None)

    async def query(self, name: str, rdtype: str) -> Answer[Any]:
        """The records of a name."""
        if self.held is not None:
            waiting: Deferred[None] = Deferred()
            self.held.append(waiting)
            self.asked.append(name)
            await waiting
            return self._answer(name, rdtype)
        return await super().query(name, rdtype)


class GatheringCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.zone = Slow()
        self.scene = Scene()
        self.log = FakeLog()
        names = ReverseNames(cast("Any", self.zone), self.scene.clock)
        self.gatherer = Gatherer(
            self.scene.clock, self.zone, self.log, HOST, lambda: 0.0, names=names
        )
        self.rules(RULES)

    def rules(self, text: str) -> None:
        ruleset = build(parse(text), {}, HOST)
        intake = self.scene.service.intake  # of sessions that are there, too
        intake.gatherer = self.gatherer if ruleset.asked else None
        intake.rules = lambda: ruleset
        intake.decide = evaluate

    def say(self, peer: Peer, sender: str = "ann@example.org", *more: str) -> list[str]:
        commands = [f"MAIL FROM:<{sender}>", "RCPT TO:<info@example.com>", *more]
        return [reply[:9].strip() for reply in peer.say(*commands)]


class Decided(GatheringCase):
    def test_by_lists_and_policies(self) -> None:
        for address, sender, reply in (
            (GOOD, "ann@example.org", "250 2.1.5"),
            (BAD, "ann@example.net", "550 5.7.1"),
            ("198.51.100.10", "ann@example.net", "250 2.1.5"),
            ("198.51.100.10", "ann@example.org", "451 4.7.1"),
        ):
            with self.subTest(address, sender=sender):
                peer = self.scene.greeted(address)
                self.assertEqual(self.say(peer, sender)[-1], reply)

    def test_by_lists_of_names(self) -> None:
        for whose, name in (
            ("sender", "sender.test"),
            ("recipient", "example.com"),
            ("helo", "helo.test"),
            ("rdns", "back.test"),
            ("ptr", "forth.test"),
        ):
            self.rules(
                f"dnsbl dbl dbl.test\nreject when listed dbl by {whose} 554\naccept to @example.com"
            )
            for listed in ("sender.test", "example.com", "helo.test", "back.test", "forth.test"):
                with self.subTest(whose, listed=listed):
                    self.zone._records = {
                        (f"{listed}.dbl.test", "A"): ("127.0.0.2",),
                        ("7.2.0.192.in-addr.arpa", "PTR"): ("forth.test", "Back.test"),
                        ("back.test", "A"): (GOOD,),
                    }
                    peer = self.scene.greeted(GOOD)
                    peer.say("EHLO helo.test")
                    said = self.say(peer, "ann@Sender.test")[-1]
                    self.assertEqual(said[:3], "554" if listed == name else "250")

    def test_a_list_of_names_that_is_in_trouble_or_has_nothing_to_ask_has_nobody(self) -> None:
        self.rules(
            "dnsbl dbl dbl.test\nreject when listed dbl by sender 554\n"
            "reject when listed dbl by ptr, dbl by rdns, dbl by helo 554\naccept to @example.com"
        )
        self.zone._records = {
            ("slow.test.dbl.test", "A"): None,
            ("7.2.0.192.in-addr.arpa", "PTR"): None,
            ("[192.0.2.7].dbl.test", "A"): ("127.0.0.2",),
            ("192.0.2.7.dbl.test", "A"): ("127.0.0.2",),
        }
        for sender in ("ann@slow.test", "", "ann@[192.0.2.7]"):
            with self.subTest(sender):
                peer = self.scene.greeted(GOOD)
                peer.say("EHLO 192.0.2.7")
                self.assertEqual(self.say(peer, sender)[-1], "250 2.1.5")
        self.assertIn("list in the DNS", str(self.log.lines))

    def test_names_that_strangers_choose_are_in_no_lists_way(self) -> None:
        """However many of them nobody answers for."""
        self.zone.hold()
        peers = [self.scene.greeted(f"192.0.2.{n}") for n in range(STRANGERS_QUESTIONS + 20)]
        for number, peer in enumerate(peers):
            peer.say(f"MAIL FROM:<ann@silent{number}.test>")
        silent = [name for name in self.zone.asked if name.startswith("silent")]
        self.assertEqual(len(silent), STRANGERS_QUESTIONS)
        late = self.scene.greeted(BAD)
        self.assertIn("9.100.51.198.zen.test", self.zone.asked)
        for peer in [*peers, late]:
            peer.leave()
        self.zone.go_on()
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])

    def test_of_each_sender_anew(self) -> None:
        peer = self.scene.greeted("192.0.2.200")
        self.assertEqual(self.say(peer)[-1], "451 4.7.1")
        peer.say("RSET")
        self.assertEqual(self.say(peer, "ann@example.net")[-1], "250 2.1.5")
        peer.say("RSET")
        self.assertEqual(self.say(peer)[-1], "451 4.7.1")

    def test_what_no_rule_looks_at_is_not_asked_for(self) -> None:
        self.rules("dnsbl zen zen.test\naccept to @example.com")
        peer = self.scene.greeted(BAD)
        self.assertEqual(self.say(peer)[-1], "250 2.1.5")
        self.assertEqual(self.zone.asked, [])

    def test_rules_that_begin_to_ask_ask_about_sessions_that_are_there(self) -> None:
        self.rules("accept to @example.com")
        peer = self.scene.greeted(BAD)
        self.rules(RULES)
        self.assertEqual(self.say(peer)[-1], "550 5.7.1")

    def test_a_list_of_another_zone_is_asked_anew(self) -> None:
        peer = self.scene.greeted(BAD)
        self.assertEqual(self.say(peer, "ann@example.net")[-1], "550 5.7.1")
        self.rules(RULES.replace("zen.test", "other.test"))
        peer.say("RSET")
        self.assertEqual(self.say(peer, "ann@example.net")[-1], "250 2.1.5")


class Asked(GatheringCase):
    def test_side_by_side_from_the_connection_on(self) -> None:
        self.zone.hold()
        self.scene.connect(BAD)
        self.assertEqual(
            sorted(self.zone.asked), ["9.100.51.198.friends.test", "9.100.51.198.zen.test"]
        )

    def test_rcpt_waits_and_all_behind_it(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(BAD)
        self.assertEqual(self.say(peer, "a@slow.test", "RCPT TO:<b@example.com>"), ["250 2.1.0"])
        self.zone.go_on()
        self.assertEqual([each[:9] for each in peer.replies()], ["550 5.7.1", "550 5.7.1"])

    def test_once_for_all_recipients_and_messages_of_a_client(self) -> None:
        peer = self.scene.greeted(GOOD)
        for _ in range(3):
            self.assertEqual(peer.say(*message())[-1][:4], "354 ")
            self.assertIn("queued", peer.say(*CONTENT)[-1])
        lists = [name for name in self.zone.asked if name.endswith((".zen.test", ".friends.test"))]
        self.assertEqual(len(lists), 2)

    def test_for_no_longer_than_is_reasonable(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(BAD)
        self.assertEqual(self.say(peer), ["250 2.1.0"])
        self.scene.clock.advance(PATIENCE + 1)
        self.assertEqual([each[:9] for each in peer.replies()], ["250 2.1.5"])

    def test_not_any_more_once_the_client_has_gone(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(BAD)
        self.assertEqual(self.say(peer), ["250 2.1.0"])
        peer.leave()
        self.assertEqual([each.called for each in self.zone.held or ()], [True, True, True])

    def test_trouble_is_a_line_and_no_flood(self) -> None:
        zone: Any = self.zone
        zone._records = dict(RECORDS) | {("9.100.51.198.zen.test", "A"): None}
        for _ in range(5):
            peer = self.scene.greeted(BAD)
            self.assertEqual(self.say(peer, "ann@example.net")[-1], "250 2.1.5")
            peer.leave()
        (line,) = self.log.of("trouble")
        self.assertIn("'list': 'zen'", line)
        self.assertNotIn("zen.test", line)
        self.scene.clock.advance(61)
        self.say(self.scene.greeted(BAD), "ann@example.net")
        self.assertEqual(len(self.log.of("trouble")), 2)
