"""`resolves sender`, `... recipient`, `... helo`, `... client`: what it reads, prints and answers."""

from __future__ import annotations

from typing import ClassVar

from relayd.dns.answer import MailExchanger
from relayd.intake.gatheredfacts import PATIENCE
from relayd.intake.lookups import resolves
from relayd.rules.conditions.resolves import resolving
from relayd.rules.fact import Known
from relayd.rules.language.source import Complaint
from relayd.rules.ruleset import build
from tests.support import TestCase
from tests.unit.intake.scene import HOST
from tests.unit.intake.test_gatheredfacts import GatheringCase
from tests.unit.intake.test_lookups import Zone
from tests.unit.rules.test_grammar import parse

MX = (MailExchanger(10, "mx.example"),)


class ResolvesTests(TestCase):
    RECORDS: ClassVar = {
        ("mx.test", "MX"): MX,
        ("null.test", "MX"): (MailExchanger(0, "."),),
        ("null.test", "A"): ("192.0.2.1",),
        ("four.test", "A"): ("192.0.2.1",),
        ("six.test", "AAAA"): ("2001:db8::1",),
        ("trouble.test", "MX"): None,
        ("half.test", "MX"): None,
        ("half.test", "A"): ("192.0.2.1",),
    }

    async def about(self, domain: str, *, host: bool = False) -> bool | None:
        return await resolves(domain, Zone(self.RECORDS), host=host)

    async def test_a_senders_domain(self) -> None:
        for domain, found in (
            ("mx.test", True), ("MX.test", True), ("four.test", True), ("six.test", True),
            ("half.test", True), ("null.test", False), ("none.test", False),
            ("trouble.test", None), ("[192.0.2.1]", True),
        ):  # fmt: skip
            with self.subTest(domain):
                self.assertIs(await self.about(domain), found)

    async def test_a_null_sender_needs_none(self) -> None:
        self.assertIs(await self.about(""), True)

    async def test_the_name_in_helo(self) -> None:
        for name, found in (
            ("mx.test", True), ("four.test.", True), ("null.test", True), ("none.test", False),
            ("trouble.test", None), ("[192.0.2.1]", True), ("no name", False), ("", True),
        ):  # fmt: skip
            with self.subTest(name):
                self.assertIs(await self.about(name, host=True), found)

    def test_it_is_read_and_printed(self) -> None:
        for text in (
            'reject 450 4.1.8 "No" when not resolves sender',
            "accept to info@example.com when resolves helo and resolves sender",
            'reject 450 4.1.2 "No" when not resolves recipient and resolves client',
        ):
            (item,) = parse(text)
            self.assertEqual(str(item), text)
            self.assertEqual(parse(str(item)), [item])

    def test_whom_else_is_a_complaint(self) -> None:
        with self.assertRaises(Complaint):
            parse("reject when not resolves anybody")

    def test_what_is_asked_for(self) -> None:
        for whose, known in (
            ("helo", Known.SENDER),
            ("sender", Known.SENDER),
            ("recipient", Known.RECIPIENT),
            ("client", Known.CLIENT),
        ):
            asked = build(parse(f"reject when not resolves {whose}"), {}, HOST).asked
            self.assertEqual(asked, {resolving(whose)})
            self.assertEqual({each.known for each in asked}, {known})


class SessionTests(GatheringCase):
    def test_a_sender_without_records_is_refused_and_unknown_is_451(self) -> None:
        self.rules(
            'reject when not resolves sender 450 4.1.8 "Domain not found"\naccept to @example.com'
        )
        self.zone._records = {("example.org", "MX"): MX, ("trouble.test", "MX"): None}
        peer = self.scene.greeted()
        for sender, reply in (
            ("ann@example.org", "250 2.1.5"),
            ("ann@none.test", "450 4.1.8"),
            ("ann@trouble.test", "451 4.3.0"),
            ("", "250 2.1.5"),
        ):
            with self.subTest(sender):
                self.assertEqual(self.say(peer, sender)[-1], reply)
                peer.say("RSET")

    def test_a_recipients_domain_is_looked_up_for_each(self) -> None:
        self.rules('reject when not resolves recipient 450 4.1.2 "Not found"\naccept any')
        self.zone._records = {("mx.test", "MX"): MX, ("trouble.test", "MX"): None}
        peer = self.scene.greeted()
        peer.say("MAIL FROM:<>")
        for domain, reply in (
            ("mx.test", "250 2.1.5"),
            ("none.test", "450 4.1.2"),
            ("trouble.test", "451 4.3.0"),
            ("MX.test", "250 2.1.5"),
        ):
            with self.subTest(domain):
                self.assertEqual(peer.say(f"RCPT TO:<ann@{domain}>")[-1][:9], reply)

    def test_a_clients_address_leads_to_a_name_that_need_not_lead_back(self) -> None:
        self.rules('reject when not resolves client 450 4.7.1 "No name"\naccept to @example.com')
        self.zone._records = {
            ("7.2.0.192.in-addr.arpa", "PTR"): ("elsewhere.test",),
            ("8.2.0.192.in-addr.arpa", "PTR"): None,
        }
        for address, reply in (
            ("192.0.2.7", "250 2.1.5"),
            ("192.0.2.9", "450 4.7.1"),
            ("192.0.2.8", "451 4.3.0"),
        ):
            with self.subTest(address):
                self.assertEqual(self.say(self.scene.greeted(address), "")[-1], reply)

    def test_one_that_does_not_answer_in_time_is_451(self) -> None:
        self.rules("reject when not resolves helo 450\naccept to @example.com")
        self.zone.hold()
        peer = self.scene.greeted()
        peer.say("MAIL FROM:<a@silent.test>", "RCPT TO:<info@example.com>")
        self.scene.clock.advance(PATIENCE)
        self.assertEqual(peer.replies()[-1][:3], "451")
