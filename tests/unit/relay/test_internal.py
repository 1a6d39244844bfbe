"""What others publish leads to no internal address, unless the administrator says so."""

from __future__ import annotations

import unittest
from ipaddress import ip_network

from relayd.dns.resolver import Resolver
from relayd.mail.reply import Severity
from relayd.relay.internal import is_internal, may_lead_to
from relayd.relay.resolve import Directory
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.survey import UnresolvedError
from tests.support import TestCase
from tests.unit.relay.test_resolve import FakeDns, Zone, hop, mx

INTERNAL = (
    "127.0.0.1",
    "127.255.0.9",
    "10.1.2.3",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd12:3456::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::1",
    "2002:7f00:1::1",
    "2002:c0a8:101::1",
    "2001:0:4136:e378:8000:63bf:80ff:fffe",  # Teredo, of 127.0.0.1
)
OUTSIDE = (
    "192.0.2.1",
    "198.51.100.1",
    "172.15.255.255",
    "172.32.0.1",
    "11.0.0.1",
    "8.8.8.8",
    "2001:db8::1",
    "2a00:1450::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
)


class Addresses(unittest.TestCase):
    def test_each_kind(self) -> None:
        for address in INTERNAL:
            self.assertTrue(is_internal(address), address)
        for address in OUTSIDE:
            self.assertFalse(is_internal(address), address)

    def test_what_is_allowed(self) -> None:
        allowed = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
        for address in ("10.1.2.3", "fd12::1", "64:ff9b::10.0.0.1", "2002:a00:1::1", "192.0.2.1"):
            self.assertTrue(may_lead_to(address, allowed), address)
        for address in ("127.0.0.1", "192.168.1.1", "fc00::1"):
            self.assertFalse(may_lead_to(address, allowed), address)


class Exchangers(TestCase):
    def directory(self, zone: Zone, *allowed: str, listen: str = "") -> Directory:
        return Directory(
            Resolver(None, ask=FakeDns(zone).ask),
            SelfDetection(["gw.example.com"], [listen] if listen else []),
            internal=lambda: tuple(map(ip_network, allowed)),
        )

    async def refusal(self, directory: Directory, domain: str) -> str:
        with self.assertRaises(UnresolvedError) as caught:
            await directory.resolve(domain)
        outcome = caught.exception.outcome
        self.assertIs(outcome.severity, Severity.PERMANENT)
        return str(outcome.reply)

    async def test_a_domain_that_leads_inside_is_refused_its_mail(self) -> None:
        for address in INTERNAL:
            if "%" in address:
                continue
            rdtype = "AAAA" if ":" in address else "A"
            by_mx: Zone = {
                ("evil.test", "MX"): mx((10, "mx.evil.test")),
                ("mx.evil.test", rdtype): [address],
            }
            for zone in (by_mx, {("evil.test", rdtype): [address]}):
                refusal = await self.refusal(self.directory(zone), "evil.test")
                self.assertEqual(refusal[:9], "550 5.4.4", address)

    async def test_the_exchangers_that_are_outside_are_used(self) -> None:
        zone: Zone = {
            ("mixed.test", "MX"): mx(
                (5, "lo.mixed.test"), (10, "a.mixed.test"), (20, "b.mixed.test")
            ),
            ("lo.mixed.test", "A"): ["127.0.0.1"],
            ("lo.mixed.test", "AAAA"): ["::1"],
            ("a.mixed.test", "A"): ["10.0.0.1", "192.0.2.1", "192.168.0.1"],
            ("b.mixed.test", "A"): ["192.0.2.2"],
        }
        for listen in ("", "127.0.0.1"):
            found = await self.directory(zone, listen=listen).resolve("mixed.test")
            self.assertEqual([each.address for each in found], ["192.0.2.1", "192.0.2.2"])
        survey = await self.directory(zone).survey("mixed.test")
        self.assertEqual(
            survey.lines()[0],
            "MX 5 lo.mixed.test (::1 is an internal address, which no internal-destinations names)",
        )

    async def test_a_setting_names_networks_that_may_be_led_to(self) -> None:
        zone: Zone = {
            ("inside.test", "MX"): mx((10, "mx.inside.test")),
            ("mx.inside.test", "A"): ["10.0.0.1", "192.168.0.1"],
        }
        found = await self.directory(zone, "10.0.0.0/8").resolve("inside.test")
        self.assertEqual([each.address for each in found], ["10.0.0.1"])
        # what it names may be changed while we run
        allowed = [ip_network("192.168.0.0/16")]
        directory = self.directory(zone)
        directory._internal = lambda: allowed
        self.assertEqual((await directory.resolve("inside.test"))[0].address, "192.168.0.1")
        allowed.clear()
        await self.refusal(directory, "inside.test")

    async def test_address_literals_of_senders_are_no_way_in(self) -> None:
        for literal in ("[127.0.0.1]", "[10.0.0.1]", "[IPv6:::1]", "[IPv6:fd00::1]"):
            self.assertEqual((await self.refusal(self.directory({}), literal))[:9], "550 5.4.4")
        (found,) = await self.directory({}, "10.0.0.0/8").resolve("[10.0.0.1]")
        self.assertEqual(found.address, "10.0.0.1")

    async def test_next_hops_that_the_administrator_names_may_be_anywhere(self) -> None:
        zone: Zone = {
            ("store.corp", "A"): ["10.0.0.1"],
            ("corp", "MX"): mx((10, "mx.corp")),
            ("mx.corp", "A"): ["192.168.0.1"],
            ("flat.corp", "A"): ["10.0.0.2"],
        }
        directory = self.directory(zone)
        for where, addresses in (
            (hop(("store.corp", 25), ("127.0.0.2", 25)), ["10.0.0.1", "127.0.0.2"]),
            (hop(("corp", 25), ("flat.corp", 25), mx=True), ["192.168.0.1", "10.0.0.2"]),
        ):
            found = await directory.resolve(where)
            self.assertEqual([each.address for each in found], addresses)

    async def test_an_internal_address_of_our_own_is_still_known_for_our_own(self) -> None:
        zone: Zone = {
            ("ours.test", "MX"): mx((10, "a.ours.test"), (20, "b.ours.test"), (30, "c.ours.test")),
            ("a.ours.test", "A"): ["192.0.2.1"],
            ("b.ours.test", "A"): ["10.0.0.5"],
            ("c.ours.test", "A"): ["192.0.2.3"],
        }
        found = await self.directory(zone, listen="10.0.0.5").resolve("ours.test")
        self.assertEqual([each.address for each in found], ["192.0.2.1"])
