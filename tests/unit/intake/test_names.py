"""The reverse names of clients: in the trace field, for rules, and never waited for too long."""

from __future__ import annotations

from relayd.dns.answer import DnsTrouble
from relayd.rules.evaluate import evaluate
from relayd.rules.ruleset import Ruleset, build
from relayd.smtp.xclient import ATTRIBUTES
from tests.unit.dns.test_reverse import ADDRESS, POINTER, ReverseCase
from tests.unit.intake.scene import CONTENT, HOST, Peer, Scene, message
from tests.unit.intake.test_verdicts import Others
from tests.unit.rules.test_grammar import parse

NAME = "mail.example.com"


class NamedCase(ReverseCase):
    def setUp(self) -> None:
        super().setUp()
        self.zone.records = {(POINTER, "PTR"): (NAME,), (NAME, "A"): (ADDRESS,)}
        self.scene = Scene()
        self.names._reactor = self.scene.clock
        self.clock = self.scene.clock
        self.scene.change(names=self.names)

    def rules(self, text: str) -> None:
        ruleset: Ruleset = build(parse(text), {}, HOST)
        self.scene.change(names=self.names, rules=lambda: ruleset, decide=evaluate)

    def trace(self) -> str:
        stored, _ = self.scene.spool.stored[-1]
        return b"".join(stored.content.chunks()).split(b"\r\n")[0].decode()


class InTheTraceField(NamedCase):
    def send(self, peer: Peer) -> str:
        self.assertEqual(peer.say(*message())[-1][:4], "354 ")
        self.assertIn("queued", peer.say(*CONTENT)[-1])
        return self.trace()

    def test_a_confirmed_name(self) -> None:
        trace = self.send(self.scene.greeted(ADDRESS))
        self.assertEqual(trace, f"Received: from client.example ({NAME} [{ADDRESS}])")
        self.assertEqual(self.scene.spool.stored[0][0].client.rdns, NAME)

    def test_unknown_where_there_is_none(self) -> None:
        self.zone.records.clear()
        trace = self.send(self.scene.greeted(ADDRESS))
        self.assertEqual(trace, f"Received: from client.example (unknown [{ADDRESS}])")
        self.assertEqual(self.scene.spool.stored[0][0].client.rdns, "")

    def test_loopback_asks_nobody(self) -> None:
        trace = self.send(self.scene.greeted("127.0.0.1"))
        self.assertEqual(trace, "Received: from client.example (localhost [127.0.0.1])")
        self.assertEqual(self.zone.asked, [])

    def test_an_odd_greeting_stands_behind_it(self) -> None:
        trace = self.send(self.scene.greeted(ADDRESS, "HELO (x"))
        self.assertEqual(trace, f"Received: from [{ADDRESS}] ({NAME} [{ADDRESS}]) (HELO ?x)")

    def test_it_is_looked_up_side_by_side_and_awaited_at_data(self) -> None:
        self.zone.hold()
        peer = self.scene.connect(ADDRESS)
        self.assertEqual(len(self.zone.asked), 1)
        self.assertEqual(peer.replies()[0][:4], "220 ")
        peer.say("EHLO client.example")
        replies = peer.say(*message())
        self.assertEqual([each[:3] for each in replies], ["250", "250"])
        self.zone.go_on()
        self.assertEqual([each[:3] for each in peer.replies()], ["354"])
        peer.say(*CONTENT)
        self.assertIn(f"({NAME} [", self.trace())

    def test_by_bdat_likewise(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        replies = peer.send(
            b"MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.com>\r\n"
            b"BDAT 5 LAST\r\nx\r\n\r\nNOOP\r\n"
        )
        self.assertEqual([each[:3] for each in replies], ["250", "250"])
        self.zone.go_on()
        self.assertEqual([each[:3] for each in peer.replies()], ["250", "250"])
        self.assertIn(f"({NAME} [", self.trace())

    def test_never_for_longer_than_a_second(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        self.clock.advance(0.7)
        peer.say(*message())
        self.clock.advance(0.29)
        self.assertEqual(peer.replies(), [])
        self.clock.advance(0.02)
        self.assertEqual([each[:3] for each in peer.replies()], ["354"])
        peer.say(*CONTENT)
        self.assertIn("(unknown [", self.trace())
        self.assertIsNone(self.scene.spool.stored[0][0].client.rdns)
        # the next message of the session has it, if it has come meanwhile
        self.zone.go_on()
        self.assertIn(f"({NAME} [", self.send(peer))

    def test_it_is_given_up_when_the_client_goes(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        peer.say(*message())
        peer.leave()
        self.assertEqual(self.zone.cancelled, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_shutdown_does_not_wait_for_it(self) -> None:
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        peer.say(*message())
        self.scene.service.close()
        self.assertEqual(peer.replies()[-1][:4], "421 ")

    def test_behind_a_balancer_the_client_counts(self) -> None:
        self.scene.listen(balancer=lambda address: address == "127.0.0.1")
        peer = self.scene.connect("127.0.0.1")
        peer.send(f"PROXY TCP4 {ADDRESS} 192.0.2.25 4711 25\r\n".encode())
        peer.say("EHLO client.example")
        self.assertIn(f"({NAME} [{ADDRESS}])", self.send(peer))

    def test_a_name_given_by_xclient_counts_and_else_that_of_its_address(self) -> None:
        self.scene.listen(xclient=lambda address: ATTRIBUTES)
        for said, name in (
            (f"NAME=given.example ADDR={ADDRESS}", "given.example"),
            (f"NAME=[UNAVAILABLE] ADDR={ADDRESS}", "unknown"),
            (f"NAME=[TEMPUNAVAIL] ADDR={ADDRESS}", NAME),
            (f"ADDR={ADDRESS}", NAME),
            ("HELO=x", "localhost"),
            ("NAME=only.example", "only.example"),
        ):
            peer = self.scene.greeted("127.0.0.1")
            self.assertEqual(peer.say(f"XCLIENT {said}")[0][:4], "220 ", said)
            peer.say("EHLO client.example")
            self.assertIn(f"({name} [", self.send(peer), said)

    def test_xclient_gives_the_other_look_up_up(self) -> None:
        self.scene.listen(xclient=lambda address: ATTRIBUTES)
        self.zone.hold()
        peer = self.scene.greeted("192.0.2.99")
        peer.say("XCLIENT ADDR=127.0.0.1")
        self.assertEqual(self.zone.cancelled, 1)


class ForRules(NamedCase):
    def answers(self, *, hold: bool = False) -> list[str]:
        if hold:
            self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        replies = peer.say("MAIL FROM:<s@example.org>", "RCPT TO:<a@example.com>")
        if hold:
            self.assertEqual(replies, [])
            self.clock.advance(1.0)
            replies = peer.replies()
        return [each[:9] for each in replies]

    def test_a_rule_looks_at_it(self) -> None:
        self.rules("reject rdns none\naccept any")
        self.assertEqual(self.answers()[-1], "250 2.1.5")
        self.zone.records.clear()
        self.names.forget()
        self.assertEqual(self.answers()[-1], "550 5.7.1")
        self.rules("accept rdns .example.com")
        self.assertEqual(self.answers()[-1], "550 5.7.1")

    def test_what_is_late_is_unknown(self) -> None:
        self.rules("reject rdns none\naccept any")
        self.assertEqual(self.answers(hold=True), ["250 2.1.0", "451 4.3.0"])

    def test_so_is_trouble(self) -> None:
        self.zone.records[POINTER, "PTR"] = DnsTrouble
        self.rules("accept from 10.0.0.1\nreject rdns none\naccept any")
        self.assertEqual(self.answers(), ["250 2.1.0", "451 4.3.0"])
        (line,) = self.scene.log.of("refused")
        self.assertRegex(line, r"\(\S+:2 the client's reverse name is not known\)$")

    def test_the_log_says_that_no_rule_accepts_it(self) -> None:
        self.rules("accept to @example.org")
        self.assertEqual(self.answers()[-1], "550 5.7.1")
        (line,) = self.scene.log.of("refused")
        self.assertRegex(line, r"550 5.7.1 Relaying denied \(no rule accepts it\)$")

    def test_nobody_waits_at_mail_where_no_rule_asks(self) -> None:
        self.rules("accept any")
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        self.assertEqual(peer.say("MAIL FROM:<>", "RCPT TO:<a@example.com>")[-1][:4], "250 ")

    def test_others_are_asked_about_the_sender_behind_it(self) -> None:
        self.rules("reject rdns none\naccept any")
        others = Others("MAIL")
        intake = self.scene.service.intake
        intake.checks = others
        self.zone.hold()
        peer = self.scene.greeted(ADDRESS)
        self.assertEqual(peer.say("MAIL FROM:<s@example.org>", "RCPT TO:<a@example.com>"), [])
        self.assertEqual(others.asked, [])
        self.zone.go_on()
        self.assertEqual(peer.replies(), [])
        others.asked[0].callback(None)
        self.assertEqual([each[:3] for each in peer.replies()], ["250", "250"])
