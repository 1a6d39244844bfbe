"""Many domains, one provider: limits, pace and blocks hold for all of them together."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.internet.defer import Deferred

from relayd.mail.delivery import Delivery
from relayd.mail.envelope import Recipient
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.outcome import Meaning, Outcome, postponed
from relayd.mail.pacing import Pacing, SourceAddress
from relayd.mail.reply import Reply
from relayd.relay.courier import Hop
from relayd.relay.route import route
from relayd.relay.sites import Sites
from relayd.relay.survey import Endpoint, UnresolvedError
from relayd.rules.ruleset import build
from relayd.shared.counters import SharedCounters, shared_memory
from relayd.spool.queue import Standing
from tests.support import TestCase
from tests.unit.relay.fakes import BUSY, DEAD, TOO_FAST, TOO_MANY, a_message, a_recipient
from tests.unit.relay.world import World
from tests.unit.rules.test_grammar import parse

ISP = NextHop("isp", hosts=(HostPort("isp.example", 25),))
BIG = "provider big mx .big.test\n"
SAID = Outcome(Reply.of(250, "2.0.0", "queued"), "mx1.big.test", "192.0.2.9:25")
BY_ISP = Outcome(Reply.of(250, "2.0.0", "queued"), "isp.example", "192.0.2.8:25")


def told(meaning: Meaning | None, code: int = 421, pause: float = 0.0) -> Outcome:
    said = postponed("4.7.0", "not so", code=code)
    return said.but(remote_mta="mx1.big.test", meaning=meaning, pause=pause)


SLOWER, LIMIT, BLOCKED = map(told, (Meaning.SLOWER, Meaning.LIMIT, Meaning.BLOCKED))


class Far(World):
    """Domains `N.big.test` are the provider's, all others have an exchanger of their own."""

    def __init__(
        self,
        rules: str = BIG,
        *,
        folder: Path | None = None,
        start: bool = True,
        counters: SharedCounters | None = None,
    ) -> None:
        self.rules = rules
        self.lookups: Counter[str] = Counter()
        self.nowhere: set[str] = set()
        self.sources: dict[str, SourceAddress] = {}
        self.names: dict[str, str] = {}  # exchangers of a domain
        self.hops: list[Hop] = []

        def sites(world: World) -> Sites:
            return Sites(
                *(self.resolve, world.log, world.clock.seconds, lambda: 0.5),
                folder=folder,
                counters=counters,
            )

        super().__init__(start=False, sites=sites)
        self.apply(rules)
        deliver = self.courier.deliver

        def noted(delivery: Delivery, hop: Hop) -> Deferred[tuple[Outcome, ...]]:
            self.hops.append(hop)
            return deliver(delivery, hop)

        self.courier.deliver = noted  # type: ignore[method-assign]
        if start:
            self.dispatcher.start()
            self.clock.advance(0)

    def apply(self, rules: str) -> None:
        pacing: Pacing = build(parse(rules), {}, "gw.example.com").pacing
        self.dispatcher.pace(pacing)

    async def resolve(self, domain: str) -> Sequence[Endpoint]:
        self.lookups[domain] += 1
        if domain in self.nowhere:
            raise UnresolvedError(DEAD)
        if domain in self.names:
            return [Endpoint(name, "192.0.2.9", 25) for name in self.names[domain].split()]
        host = "mx1.big.test" if domain.endswith(".big") else f"mx.{domain}"
        return [Endpoint(host, "192.0.2.9", 25)]

    def route(self, recipient: Recipient) -> Hop | Outcome:
        return route(recipient, {"isp": ISP, "sink": ISP}, self.sources)

    def mail(self, domain: str, next_hop: str = "direct") -> int:
        self.ident += 1
        accepted = a_message(
            self.ident,
            [a_recipient(f"user@{domain}", next_hop)],
            received_at=self.clock.seconds(),
        )
        self.table.add(accepted)
        self.dispatcher.accept(*accepted)
        return self.ident

    @property
    def sites(self) -> Sites:
        found = self.dispatcher._sites
        assert found is not None
        return found

    @property
    def under_way(self) -> int:
        return len(self.courier.under_way)

    def finish_all(self, outcome: Outcome) -> int:
        """End what is under way by now."""
        count = self.under_way
        for _ in range(count):
            self.courier.finish(outcome)
        return count


class Limits(TestCase):
    def test_connections_are_those_of_all_domains_of_the_provider(self) -> None:
        world = Far(BIG + "pace provider big connections 5\n")
        for number in range(40):
            world.mail(f"{number % 10}.big")
        self.assertEqual(world.under_way, 5)
        for _ in range(8):
            world.courier.finish(SAID)
            self.assertEqual(world.under_way, 5)
        world.courier.reply = lambda record: SAID
        world.finish_all(SAID)
        world.wait(30)
        self.assertEqual(len(world.table.ended), 40)
        self.assertEqual(max(world.lookups.values()), 1)

    def test_others_do_not_wait_with_it(self) -> None:
        world = Far(BIG + "pace provider big connections 1\n")
        for number in range(10):
            world.mail(f"{number}.big")
        self.assertEqual(world.under_way, 1)
        for number in range(10):
            world.mail(f"{number}.example")
        self.assertEqual(world.under_way, 11)

    def test_a_rate_is_kept_from_the_first_message_on(self) -> None:
        world = Far(BIG + "pace provider big rate 10/1m\n")
        world.courier.reply = lambda record: SAID
        for number in range(30):
            world.mail(f"{number}.big")
        self.assertEqual(len(world.table.ended), 1)
        world.wait(60, step=0.5)
        self.assertAlmostEqual(len(world.table.ended), 11, delta=1)
        world.wait(120, step=0.5)
        self.assertEqual(len(world.table.ended), 30)

    def test_a_domain_s_own_pace_holds_beside_the_provider_s(self) -> None:
        world = Far(BIG + "pace to @1.big connections 1\npace provider big connections 3\n")
        for _ in range(5):
            world.mail("1.big")
        self.assertEqual(world.under_way, 1)
        for _ in range(5):
            world.mail("2.big")
        self.assertEqual(world.under_way, 3)

    def test_a_next_hop_s_pace(self) -> None:
        world = Far("next-hop isp smtp isp.example\npace via isp connections 2 rate 60/1m\n")
        world.courier.reply = lambda record: SAID
        for _ in range(10):
            world.mail("a.example", "isp")
        self.assertEqual(len(world.table.ended), 1)
        world.wait(4, step=0.5)
        self.assertAlmostEqual(len(world.table.ended), 5, delta=1)

    def test_new_rules_hold_for_lanes_that_are_there(self) -> None:
        world = Far(BIG + "pace provider big connections 1\n")
        for number in range(4):
            world.mail(f"{number}.big")
        self.assertEqual(world.under_way, 1)
        world.apply(BIG + "pace provider big connections 3\n")
        world.wait(5, step=0.5)
        self.assertEqual(world.under_way, 3)
        world.apply(BIG)
        world.wait(5, step=0.5)
        self.assertEqual(world.under_way, 4)

    def test_a_stranger_s_exchanger_bears_no_name_of_ours(self) -> None:
        world = Far(BIG + "pace provider big connections 1\npace to @a.example connections 1\n")
        world.names = {"x.example": "big", "y.example": "to a.example"}
        for domain in ("1.big", "a.example", "x.example", "y.example"):
            world.mail(domain)
        self.assertEqual(world.under_way, 4)
        world.mail("x.example")
        world.courier.finish(SLOWER, 2)
        sites = {site.name: site.learnt.rate for site in world.sites.gated()}
        self.assertEqual(sites["big"], 0.0)
        self.assertGreater(sites["mx big"], 0.0)

    def test_who_cannot_be_looked_up_is_down_or_goes_another_way(self) -> None:
        world = Far(BIG + "pace provider big connections 1\n")
        world.nowhere = {"1.big"}
        world.mail("1.big")
        self.assertEqual(world.under_way, 0)
        self.assertIs(world.lane("direct 1.big").standing, Standing.DOWN)
        world.mail("1.big", "direct,isp")
        self.assertEqual(world.hops[-1].targets, ("1.big", ISP))

    def test_stopping_does_not_wait_for_a_look_up(self) -> None:
        world = Far()
        never: Deferred[Sequence[Endpoint]] = Deferred()

        async def resolve(domain: str) -> Sequence[Endpoint]:
            return await never

        world.sites._resolve = resolve
        ident = world.mail("1.big")
        stopped = world.dispatcher.stop(5)
        self.assertTrue(stopped.called)
        self.assertEqual(world.table.rows[ident, 0].attempts, 0)
        self.assertEqual(world.log.troubles, [])

    def test_connections_over_workers(self) -> None:
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        mine, other = (SharedCounters(descriptor, 2, row) for row in range(2))
        world = Far(BIG + "pace provider big connections 2\n")
        world.sites._counters = mine
        other.add("site big", 1)
        for number in range(4):
            world.mail(f"{number}.big")
        self.assertEqual(world.under_way, 1)
        other.add("site big", -1)
        world.wait(2, step=0.5)
        self.assertEqual(world.under_way, 2)
        self.assertEqual(other.get("site big"), 2)

    def test_over_machines_each_has_its_part(self) -> None:
        world = Far(BIG + "pace provider big connections 5 rate 60/1m\n")
        world.mail("1.big")
        site = world.sites._sites["big"]
        self.assertEqual((site.connections, site.learnt.pinned), (5, 1.0))
        world.sites.share(4, 2)  # processes, machines
        self.assertEqual((site.connections, site.learnt.pinned), (2, 0.25))
        world.sites.share(9, 9)
        self.assertEqual(site.connections, 1)
        world.sites.share(1, 1)
        self.assertEqual((site.connections, site.learnt.pinned), (5, 1.0))


class Learnt(TestCase):
    def test_slower_holds_for_all_its_domains_and_for_nobody_else(self) -> None:
        world = Far()
        for number in range(20):
            world.mail(f"{number}.big")
        for _ in range(10):
            world.courier.finish(SAID)
        while world.under_way:
            world.courier.finish(SLOWER)
        self.assertEqual(world.log.notices, ["site slowed"])
        for number in range(20, 30):
            world.mail(f"{number}.big")
        world.courier.reply = lambda record: SAID
        world.mail("well.example")
        self.assertEqual(len(world.table.ended), 11)
        (site,) = world.sites.gated()
        self.assertEqual((site.name, site.taken), ("big", 10))
        self.assertGreater(site.learnt.rate, 0)
        world.wait(300, step=0.5)
        self.assertEqual(len(world.table.ended), 31)
        self.assertEqual(world.table.reports, [])
        attempts = {each.attempts for each in world.table.rows.values()}
        self.assertEqual(attempts - {0, 1}, set(), "what was too fast was no attempt")

    def test_each_source_is_somebody_else_to_a_provider(self) -> None:
        world = Far()
        world.sources = {name: SourceAddress(name, ("192.0.2.1",), "x.example") for name in "ab"}
        world.mail("1.big", "direct from a")
        world.courier.finish(SLOWER)
        world.courier.reply = lambda record: SAID
        world.mail("1.big", "direct from a")
        world.mail("1.big", "direct from b")
        world.mail("1.big")
        self.assertEqual(len(world.table.ended), 2)
        self.assertEqual([site.name for site in world.sites.gated()], ["big from a"])

    def test_a_domain_that_was_never_reached_is_not_down_for_it(self) -> None:
        world = Far()
        world.mail("1.big")
        world.courier.finish(SLOWER)
        self.assertIsNot(world.lane("direct 1.big").standing, Standing.DOWN)
        self.assertNotIn("next hop down", world.log.notices)

    def test_too_many_connections_makes_them_fewer_and_nothing_else(self) -> None:
        world = Far()
        for number in range(8):
            world.mail(f"{number}.big")
        self.assertEqual(world.under_way, 8)
        for _ in range(4):
            world.courier.finish(LIMIT, -1)
        (site,) = world.sites.gated()
        self.assertEqual((site.limit, site.learnt.rate), (4, 0.0))
        world.wait(3, step=0.5)
        self.assertEqual(world.under_way, 4)
        world.courier.reply = lambda record: SAID
        world.finish_all(SAID)
        world.wait(30, step=0.5)
        self.assertEqual(len(world.table.ended), 8)

    def test_a_provider_s_own_time_is_kept(self) -> None:
        world = Far()
        world.mail("1.big")
        world.courier.finish(told(Meaning.SLOWER, pause=7200.0))
        world.wait(7100)
        self.assertEqual(world.under_way, 0)
        world.wait(200)
        self.assertEqual(world.under_way, 1)

    def test_a_busy_mailbox_is_no_word_of_the_provider(self) -> None:
        world = Far()
        world.mail("1.big")
        world.courier.finish(BUSY)
        self.assertEqual(list(world.sites.gated()), [])

    def test_it_survives_a_restart_and_a_file_that_is_nonsense(self) -> None:
        with TemporaryDirectory() as folder:
            world = Far(folder=Path(folder))
            for number in range(4):
                world.mail(f"{number}.big")
            world.courier.finish(SAID)
            world.finish_all(SLOWER)
            rate = next(world.sites.gated()).learnt.rate
            world.dispatcher.stop(0)
            world.clock.advance(10)
            again = Far(folder=Path(folder))
            again.mail("9.big")
            (site,) = again.sites.gated()
            self.assertEqual(site.learnt.rate, rate)
            for text in ("{", "[]", '{"big": 1}', '{"big": {"rate": "x", "limit": 1e400}}'):
                (Path(folder) / "paces").write_text(text)
                odd = Far(folder=Path(folder))
                odd.mail("9.big")
                self.assertEqual(odd.under_way, 1, text)


class Blocks(TestCase):
    def blocked(self, world: Far, outcome: Outcome = BY_ISP) -> None:
        """The courier has heard of a block, and gone on to the isp, if there is one."""
        world.sites.blocked("big", "", BLOCKED)
        world.courier.finish(outcome)

    def test_the_next_way_is_taken_and_one_an_hour_asks(self) -> None:
        world = Far()
        world.mail("1.big", "direct,isp")
        self.assertEqual(world.hops[-1].targets, ("1.big", ISP))
        self.blocked(world)
        world.courier.reply = lambda record: BY_ISP
        for number in range(10):
            world.mail(f"{number}.big", "direct,isp")
        self.assertEqual(len(world.table.ended), 11)
        # those whose first look-up it is have it behind them by then
        self.assertEqual({hop.targets for hop in world.hops[1:]}, {(ISP,)})
        self.assertEqual(world.log.notices, ["provider blocks us"])
        world.wait(3700)
        world.mail("1.big", "direct,isp")
        self.assertEqual(world.hops[-1].targets, ("1.big", ISP))
        world.mail("2.big", "direct,isp")
        self.assertEqual(world.hops[-1].targets, (ISP,))

    def test_it_is_over_when_the_provider_takes_one(self) -> None:
        world = Far()
        world.mail("1.big", "direct,isp")
        self.blocked(world)
        world.wait(3700)
        world.courier.reply = lambda record: SAID
        world.mail("1.big", "direct,isp")
        self.assertEqual(world.log.notices, ["provider blocks us", "provider takes our mail again"])
        world.mail("2.big", "direct,isp")
        self.assertEqual(world.hops[-1].targets, ("2.big", ISP))
        world.courier.reply = None
        world.mail("3.big", "direct,isp")
        self.blocked(world)
        self.assertEqual(world.log.notices[2:], ["provider blocks us"])

    def test_without_another_way_it_waits_and_nothing_bounces(self) -> None:
        world = Far()
        world.mail("1.big")
        self.blocked(world, BLOCKED)
        world.mail("2.big")
        world.wait(3500)
        self.assertEqual(world.under_way, 0)
        view = world.lane("direct 1.big")
        self.assertIs(view.standing, Standing.BLOCKED)
        self.assertIsNotNone(view.trouble)
        self.assertGreater(view.probe_at, world.clock.seconds())
        world.wait(200)
        self.assertEqual(world.under_way, 1)
        world.courier.reply = lambda record: SAID
        world.finish_all(SAID)
        world.wait(60)
        self.assertEqual(len(world.table.ended), 2)
        self.assertEqual(world.table.reports, [])

    def test_what_waits_for_a_connection_goes_around_within_a_minute(self) -> None:
        world = Far(BIG + "pace provider big connections 1\n")
        for number in range(10):
            world.mail(f"{number}.big", "direct,isp")
        self.assertEqual(world.under_way, 1)
        self.blocked(world)
        world.courier.reply = lambda record: BY_ISP
        world.finish_all(BY_ISP)
        world.wait(30, step=1)
        self.assertEqual(len(world.table.ended), 10)

    def test_a_reload_that_mends_the_other_way_is_tried_at_once(self) -> None:
        world = Far()
        world.mail("a.big", "direct, via isp")
        world.courier.finish(DEAD)  # both
        world.clock.advance(1)
        self.assertEqual(world.under_way, 0)
        world.dispatcher.apply(world.dispatcher._retry_policy, world.dispatcher._limits)
        self.assertEqual(world.under_way, 1)

    def test_what_the_other_way_says_is_no_word_of_the_provider(self) -> None:
        """It wants less: the mail waits for moments, and not until the block may be over."""
        for said in (TOO_MANY, TOO_FAST):
            with self.subTest(said=str(said.reply)):
                world = Far()
                world.mail("1.big", "direct,isp")
                self.blocked(world)
                world.mail("1.big", "direct,isp")
                world.courier.finish(said.but(remote_mta="isp.example"))
                (site,) = world.sites.gated()
                trouble = site.trouble
                assert trouble is not None
                self.assertEqual((site.refused, trouble.meaning), (1, Meaning.BLOCKED))
                self.assertEqual(site.learnt.rate, 0.0)
                world.courier.reply = lambda record: BY_ISP
                world.wait(120, step=1)
                self.assertEqual(len(world.table.ended), 2)

    def test_the_other_way_blocked_as_well_waits_and_the_one_that_asks_is_let_go(self) -> None:
        world = Far()
        world.mail("1.big", "direct,isp")
        no = postponed("4.7.1", "your address is on our list", code=421)
        self.blocked(world, no.but(remote_mta="isp.example"))
        for number in range(3):
            world.mail(f"{number}.big", "direct,isp")
        world.finish_all(no.but(remote_mta="isp.example"))
        self.assertEqual(world.table.reports, [])
        world.courier.reply = lambda record: SAID if world.hops[-1].domain else no
        world.wait(3 * 3600.0)
        self.assertEqual(len(world.table.ended), 4)
        self.assertIn("provider takes our mail again", world.log.notices)

    def test_the_other_way_keeps_its_own_pace(self) -> None:
        world = Far(BIG + "next-hop isp smtp isp.example\npace via isp rate 60/1m\n")
        world.mail("1.big", "direct,isp")
        self.blocked(world)
        world.courier.reply = lambda record: BY_ISP
        for _ in range(10):
            world.mail("1.big", "direct,isp")
        self.assertLessEqual(len(world.table.ended), 2)
        world.wait(15, step=0.5)
        self.assertEqual(len(world.table.ended), 11)

    def test_it_outlives_a_restart(self) -> None:
        with TemporaryDirectory() as folder:
            world = Far(folder=Path(folder))
            world.mail("1.big", "direct,isp")
            self.blocked(world)
            world.dispatcher.stop(0)
            world.clock.advance(10)
            again = Far(folder=Path(folder))
            again.mail("7.big", "direct,isp")
            self.assertEqual(again.hops[-1].targets, (ISP,))

    def test_the_operator_s_retry_asks_now(self) -> None:
        world = Far()
        world.mail("1.big")
        self.blocked(world, BLOCKED)
        world.mail("1.big")
        self.assertEqual(world.under_way, 0)
        world.dispatcher.retry(["direct 1.big"])
        self.assertEqual(world.under_way, 1)

    def test_what_was_under_way_does_not_end_it(self) -> None:
        world = Far()
        world.mail("1.big")
        world.mail("1.big")
        world.wait(1)
        self.blocked(world, BLOCKED)
        world.courier.finish(SAID)  # it began before the block was heard of
        (site,) = world.sites.gated()
        self.assertTrue(site.blocks)


class BlockedWorkers(TestCase):
    """One worker asks, and all know what it has heard."""

    def setUp(self) -> None:
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        self.worlds = (Far(), Far())
        for row, world in enumerate(self.worlds):
            world.sites._counters = SharedCounters(descriptor, 2, row)
            world.mail("1.big", "direct,isp")
        for world in self.worlds:
            world.sites.blocked("big", "", BLOCKED)
            world.courier.finish(BY_ISP)
            world.courier.reply = lambda record: BY_ISP

    def wait(self, seconds: float) -> None:
        for world in self.worlds:
            world.wait(seconds)

    def asked(self) -> int:
        """How many of both go by the provider first."""
        for world in self.worlds:
            world.hops.clear()
            world.mail("1.big", "direct,isp")
            world.mail("2.big", "direct,isp")
        return sum(hop.targets != (ISP,) for world in self.worlds for hop in world.hops)

    def test_one_an_hour_asks_for_all(self) -> None:
        self.wait(3700)
        self.assertEqual(self.asked(), 1)
        self.wait(1800)
        self.assertEqual(self.asked(), 0)
        self.wait(1900)
        self.assertEqual(self.asked(), 1)

    def test_who_has_not_heard_it_himself_goes_around_at_once(self) -> None:
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        self.worlds = one, other = (Far(), Far())
        for row, world in enumerate(self.worlds):
            world.sites._counters = SharedCounters(descriptor, 2, row)
            world.courier.reply = lambda record: BY_ISP
            world.mail("1.big", "direct,isp")
        one.sites.blocked("big", "", BLOCKED)
        self.assertEqual(self.asked(), 0)
        mine, his = [site.kept() for world in self.worlds for site in world.sites.gated()]
        # to the second: after a restart neither asks before the hour is up
        self.assertAlmostEqual(his["probe_at"], mine["probe_at"], delta=1)
        one.wait(3700)
        other.wait(3700)
        other.courier.reply = lambda record: SAID
        other.mail("1.big", "direct,isp")
        other.wait(2)
        self.assertEqual(self.asked(), 4)
        self.assertFalse(any(site.blocks for site in one.sites.gated()))

    def restarted(self, folder: str, seconds: float) -> tuple[Far, Far]:
        """The first one was blocked, the other had no mail for them; so long after that."""
        world = Far(folder=Path(folder, "0"))
        world.mail("1.big", "direct,isp")
        world.sites.blocked("big", "", BLOCKED)
        world.courier.finish(BY_ISP)
        world.dispatcher.stop(0)
        world.clock.advance(10)
        memory = shared_memory(2)
        self.addCleanup(os.close, memory)
        worlds = []
        for row in range(2):
            own = Far(
                folder=Path(folder, str(row)),
                counters=SharedCounters(memory, 2, row),
                start=False,
            )
            own.clock.advance(world.clock.seconds() + seconds - own.clock.seconds())
            own.dispatcher.start()
            worlds.append(own)
        return worlds[0], worlds[1]

    def test_after_a_restart_it_is_known_to_who_had_no_mail_for_them(self) -> None:
        with TemporaryDirectory() as folder:
            for row in "01":
                Path(folder, row).mkdir()
            _, other = self.restarted(folder, 5)
            other.mail("7.big", "direct,isp")
            self.assertEqual(other.hops[-1].targets, (ISP,))

    def test_after_a_restart_who_had_no_mail_for_them_tells_of_its_end(self) -> None:
        with TemporaryDirectory() as folder:
            for row in "01":
                Path(folder, row).mkdir()
            one, other = self.restarted(folder, 3700)
            other.courier.reply = lambda record: SAID
            other.mail("7.big", "direct,isp")
            self.assertIn("provider takes our mail again", other.log.notices)
            one.dispatcher.stop(0)  # without any mail for them
            (kept,) = json.loads(Path(folder, "0", "paces").read_text()).values()
            self.assertEqual(kept["blocked_until"], 0.0)

    def test_its_end_is_not_forgotten_by_who_has_no_more_mail_for_them(self) -> None:
        """What others said before is old news to it."""
        descriptor = shared_memory(2)
        self.addCleanup(os.close, descriptor)
        one, other = (Far(counters=SharedCounters(descriptor, 2, row)) for row in range(2))
        one.mail("1.big", "direct,isp")
        one.sites.blocked("big", "", BLOCKED)
        one.courier.finish(BY_ISP)
        other.wait(3700)
        other.courier.reply = lambda record: SAID
        other.mail("2.big", "direct,isp")
        self.assertIn("provider takes our mail again", other.log.notices)
        other.sites._sites.clear()
        other.wait(60)
        other.mail("3.big", "direct,isp")
        other.mail("4.big", "direct,isp")
        self.assertEqual(other.hops[-1].targets, ("4.big", ISP))
        self.assertEqual(other.log.notices.count("provider takes our mail again"), 1)

    def test_it_is_over_for_all(self) -> None:
        self.wait(3700)
        one, other = self.worlds
        one.courier.reply = lambda record: SAID
        one.mail("1.big", "direct,isp")
        self.assertIn("provider takes our mail again", one.log.notices)
        other.mail("2.big", "direct,isp")
        self.assertEqual(other.hops[-1].targets, ("2.big", ISP))
        self.assertEqual([site.blocks for site in other.sites.gated()], [])

    def test_the_operator_s_retry_asks_though_another_one_just_has(self) -> None:
        one, other = self.worlds
        self.wait(10)
        one.dispatcher.retry(None)
        one.mail("1.big", "direct,isp")
        self.assertEqual(one.hops[-1].targets, ("1.big", ISP))
        other.mail("1.big", "direct,isp")
        self.assertEqual(other.hops[-1].targets, (ISP,))
