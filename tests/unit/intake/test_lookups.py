"""Look-ups before the rules: what an answer means, and what none does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from relayd.authentication.spf import SpfResult
from relayd.dns.answer import Answer, DnsError, DnsTrouble, NoData, NxDomain
from relayd.intake.lookups import DnsList, sender_policy
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.language.model import DnsListDef
from tests.support import TestCase

SECRET = "k3y4th1s.zen.example"


class Zone:
    """Records from a dictionary; what is in `cached` is known without a question."""

    def __init__(
        self, records: Mapping[tuple[str, str], tuple[Any, ...] | None], *, cached: bool = False
    ) -> None:
        self._records = records
        self._cached = cached
        self.asked: list[str] = []

    def known(self, name: str, rdtype: str) -> Answer[Any] | DnsError | None:
        """What needs no question."""
        if not self._cached:
            return None
        try:
            return self._answer(name, rdtype)
        except DnsError as error:
            return error

    async def query(self, name: str, rdtype: str) -> Answer[Any]:
        """The records of a name."""
        self.asked.append(name)
        return self._answer(name, rdtype)

    def _answer(self, name: str, rdtype: str) -> Answer[Any]:
        values = self._records.get((name, rdtype), ())
        if values is None:
            raise DnsTrouble(name, rdtype, "no server answered")
        if not values:
            raise (NoData if "data" in name else NxDomain)(name, rdtype, "there is none")
        return Answer(name, name, values, secure=False, ttl=60)


class ListTests(TestCase):
    async def has(
        self,
        records: Mapping[tuple[str, str], Any],
        address: str = "192.0.2.7",
        *,
        kind: str = "dnsbl",
        answers: tuple[str, ...] = (),
    ) -> tuple[bool, list[tuple[str, str]]]:
        troubles: list[tuple[str, str]] = []
        definition = DnsListDef(kind, "zen", SECRET, answers)
        one = DnsList(definition, Zone(records), lambda *told: troubles.append(told))
        return await one.has(address), troubles

    async def test_who_is_listed(self) -> None:
        name = f"7.2.0.192.{SECRET}"
        for answers, found in (
            (("127.0.0.2",), True),
            (("127.0.0.11",), True),
            (("127.0.0.1",), False),
            (("127.0.0.30",), False),
            (("127.0.0.30", "127.0.0.4"), True),
            ((), False),
        ):
            with self.subTest(answers):
                self.assertEqual(await self.has({(name, "A"): answers}), (found, []))

    async def test_addresses_of_version_six(self) -> None:
        name = "7." + "0." * 23 + f"8.b.d.0.1.0.0.2.{SECRET}"
        self.assertEqual(await self.has({(name, "A"): ("127.0.0.3",)}, "2001:db8::7"), (True, []))

    async def test_only_the_answers_that_count(self) -> None:
        records = {(f"7.2.0.192.{SECRET}", "A"): ("127.0.0.10",)}
        for counting, found in (
            (("127.0.0.2", "127.0.0.4"), False),
            (("127.0.0.10",), True),
            (("127.0.0.4-10",), True),
            (("127.0.0.8/29",), True),
        ):
            with self.subTest(counting):
                self.assertEqual((await self.has(records, answers=counting))[0], found)

    async def test_what_a_list_says_instead_of_an_answer_is_no_listing(self) -> None:
        """Also where it stands beside one, and where the site lets all answers count."""
        name = f"7.2.0.192.{SECRET}"
        for answers in (
            ("127.255.255.252",),
            ("127.255.255.254",),
            ("127.255.255.255", "127.0.0.2"),
            ("127.0.1.255",),
            ("203.0.113.5",),
        ):
            with self.subTest(answers):
                found, troubles = await self.has({(name, "A"): answers}, answers=("127.0.0.0/8",))
                self.assertFalse(found)
                self.assertEqual(troubles[0][0], "zen")

    async def test_a_list_of_friends_that_was_asked_too_often_has_none(self) -> None:
        name = f"7.2.0.192.{SECRET}"
        for answer, found in (("127.0.5.2", True), ("127.0.0.255", False)):
            has, _ = await self.has({(name, "A"): (answer,)}, kind="dnswl")
            self.assertEqual(has, found)

    async def test_one_that_does_not_answer_has_nobody_and_is_told_without_its_key(self) -> None:
        found, troubles = await self.has({(f"7.2.0.192.{SECRET}", "A"): None})
        self.assertEqual((found, troubles), (False, [("zen", "no server answered")]))
        self.assertNotIn("k3y", str(troubles))


class SenderPolicyTests(TestCase):
    RECORDS: ClassVar = {
        ("example.com", "TXT"): ("v=spf1 include:data.example.com -all",),
        ("data.example.com", "TXT"): ("v=spf1 ip4:192.0.2.7 a:nodata.example.com",),
        ("trouble.example.com", "TXT"): None,
        ("mail.example.com", "TXT"): ("v=spf1 -all",),
    }

    async def result(self, address: str, sender: str, zone: Zone | None = None) -> str:
        path = Mailbox.parse(sender) if sender else None
        client = Client(address, helo="mail.example.com")
        zone = zone or Zone(self.RECORDS)
        found = sender_policy(client, path, "gw.example.org", 0.0, zone)
        if not isinstance(found, SpfResult):
            found = await found
        return found.result

    async def test_the_sender_or_helo_for_the_null_one(self) -> None:
        for address, sender, result in (
            ("192.0.2.7", "ann@example.com", "pass"),
            ("192.0.2.8", "ann@example.com", "fail"),
            ("192.0.2.7", "ann@trouble.example.com", "temperror"),
            ("192.0.2.7", "ann@none.example.com", "none"),
            ("192.0.2.7", "", "fail"),
        ):
            with self.subTest(sender, address=address):
                self.assertEqual(await self.result(address, sender), result)

    async def test_what_is_known_is_not_asked_for(self) -> None:
        zone = Zone(self.RECORDS, cached=True)
        for sender, result in (
            ("ann@example.com", "fail"),
            ("ann@trouble.example.com", "temperror"),
            ("ann@none.example.com", "none"),
        ):
            self.assertEqual(await self.result("192.0.2.8", sender, zone), result)
        self.assertEqual(zone.asked, [])
