"""`direct, via isp`: who goes by the isp, and who waits for the direct way."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Meaning, Outcome, failed
from relayd.mail.pacing import SourceAddress
from relayd.relay import smtpout
from relayd.relay.courier import Hop
from relayd.relay.survey import Endpoint, Terms, UnresolvedError
from tests.sink import Sink
from tests.support import TestCase
from tests.unit.relay.test_elsewhere import after, isp
from tests.unit.relay.test_smtpout import CourierCase, a_delivery, says

BOTH = Hop(isp().next_hops, "example.com")
BLOCK = "550 5.7.1 part of their network is on our block list (S3150)"


class TwoWays(CourierCase, TestCase):
    """The last sink is the isp's, the others are the domain's."""

    trouble: Outcome | None = None

    def ways(self) -> Sink:
        self.heard: list[tuple[str, Outcome]] = []
        behind = self.sink()
        last = [self.endpoints.pop()]

        async def resolve(target: NextHop | str) -> Sequence[Endpoint]:
            if isinstance(target, NextHop):
                return last
            if self.trouble is not None:
                raise UnresolvedError(self.trouble)
            return self.endpoints

        self.courier._resolve = resolve
        self.courier._terms = lambda target, endpoint, source: Terms(
            "microsoft" if isinstance(target, str) else ""
        )
        self.courier._blocked = lambda provider, source, said: self.heard.append((provider, said))
        return behind

    async def test_nobody_can_be_reached(self) -> None:
        self.dead()
        self.dead()
        behind = self.ways()
        (outcome,) = await self.deliver(a_delivery(), BOTH)
        self.assertEqual((outcome.reply.code, len(behind.arrived)), (250, 1))
        self.assertEqual(self.heard, [])

    async def test_blocked_it_goes_on_at_once_and_no_other_host_of_theirs_is_asked(self) -> None:
        for stage in ("connect", "mail", "rcpt", "content"):
            self.endpoints.clear()
            first, second = self.sink(says(stage, BLOCK)), self.sink()
            behind = self.ways()
            (outcome,) = await self.deliver(a_delivery(), Hop(BOTH.next_hops, f"{stage}.example"))
            self.assertEqual((outcome.reply.code, len(behind.arrived)), (250, 1), stage)
            self.assertEqual((first.sessions, second.sessions), (1, 0), stage)
            ((provider, said),) = self.heard
            self.assertEqual((provider, said.meaning), ("microsoft", Meaning.BLOCKED))
            self.assertIn("S3150", said.reply.text)

    async def test_blocked_on_a_connection_that_was_kept(self) -> None:
        first, second = self.sink(after(1, "mail", BLOCK)), self.sink()
        behind = self.ways()
        await self.deliver(a_delivery(), BOTH)
        (outcome,) = await self.deliver(a_delivery(), BOTH)
        self.assertEqual((outcome.reply.code, len(behind.arrived)), (250, 1))
        self.assertEqual((first.sessions, second.sessions, len(self.heard)), (1, 0, 1))

    async def test_without_another_way_it_waits(self) -> None:
        self.sink(says("mail", BLOCK))
        second = self.sink()
        self.ways()
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="example.com"))
        self.assertEqual((outcome.reply.code, outcome.meaning), (451, Meaning.BLOCKED))
        self.assertEqual((second.sessions, len(self.heard)), (0, 1))

    async def test_what_is_about_the_mail_waits_for_the_direct_way(self) -> None:
        for number, reply in enumerate(
            ("450 4.2.0 Greylisted", "452 4.2.2 full", "451 4.7.650 slower (S775)")
        ):
            self.endpoints.clear()
            self.sink(says("rcpt", reply))
            behind = self.ways()
            (outcome,) = await self.deliver(a_delivery(), Hop(BOTH.next_hops, f"{number}.example"))
            self.assertEqual((str(outcome.reply), behind.sessions), (reply, 0))

    async def test_slower_is_not_asked_of_their_other_hosts(self) -> None:
        self.sink(says("mail", "451 4.7.650 slower (S775)"))
        second = self.sink()
        self.ways()
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="example.com"))
        self.assertEqual((outcome.meaning, second.sessions), (Meaning.SLOWER, 0))

    async def test_a_domain_that_does_not_exist_exists_nowhere(self) -> None:
        behind = self.ways()
        self.trouble = failed("5.1.2", "Domain example.com does not exist")
        (outcome,) = await self.deliver(a_delivery(), BOTH)
        self.assertEqual((outcome.reply.code, behind.sessions), (550, 0))

    async def test_a_5xx_about_the_mail_is_final(self) -> None:
        self.sink(says("rcpt", "550 5.1.1 nobody"))
        behind = self.ways()
        (outcome,) = await self.deliver(a_delivery(), BOTH)
        self.assertEqual((outcome.reply.code, behind.sessions), (550, 0))


class Sources(CourierCase, TestCase):
    """127.0.0.0/8 is this host's, all of it."""

    async def test_it_comes_from_there_under_its_name(self) -> None:
        sink = self.sink()
        source = SourceAddress("bulk", ("127.0.0.9", "::1"), "bulk.example.com")
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="example.com", source=source))
        self.assertEqual(outcome.reply.code, 250)
        (arrived,) = sink.arrived
        self.assertEqual(arrived.hello, "bulk.example.com")
        self.assertTrue(arrived.peer.startswith("127.0.0.9"), arrived.peer)

    async def test_connections_are_not_shared_with_another(self) -> None:
        sink = self.sink()
        source = SourceAddress("bulk", ("127.0.0.9",), "bulk.example.com")
        await self.deliver(a_delivery(), Hop(domain="example.com"))
        await self.deliver(a_delivery(), Hop(domain="example.com", source=source))
        self.assertEqual(len({each.hello for each in sink.arrived}), 2)
        self.assertEqual(sink.sessions, 2)

    async def test_a_connection_whose_address_is_gone_is_not_waited_for(self) -> None:
        """The system keeps it open, and nothing comes back any more."""
        sink = self.sink()
        source = SourceAddress("bulk", ("127.0.0.9",), "bulk.example.com")
        hop = Hop(domain="example.com", source=source)
        await self.deliver(a_delivery(), hop)
        self.patch(smtpout, "is_there", lambda address: address != "127.0.0.9")
        (outcome,) = await self.deliver(a_delivery(), hop)
        self.assertEqual((outcome.reply.code, sink.sessions), (250, 2))

    async def test_one_that_is_missing_or_of_another_family_waits_and_says_so(self) -> None:
        self.sink()
        for addresses, words in (
            (("192.0.2.77",), "Source bulk: 192.0.2.77 is no address of this host"),
            (("2001:db8::1",), "Source bulk has no IPv4 address"),
        ):
            source = SourceAddress("bulk", addresses, "bulk.example.com")
            (outcome,) = await self.deliver(a_delivery(), Hop(domain="example.com", source=source))
            self.assertEqual((outcome.reply.code, outcome.reply.status), (451, "4.3.5"))
            self.assertIn(words, outcome.reply.text)
