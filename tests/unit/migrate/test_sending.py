"""The pace of transports, addresses to send from and fallback relays come over from Postfix."""

from __future__ import annotations

from relayd.migrate.report import SettingFate
from tests.unit.migrate.migration import INSIDE, MASTER, Import

RELAY = "mynetworks = 127.0.0.0/8\n"
SLOW = MASTER + "slow unix - - n - - smtp\n"
BRAND = (
    f"{MASTER}brand unix - - n - - smtp\n"
    "  -o smtp_bind_address=192.0.2.5 -o smtp_bind_address6=2001:db8::5\n"
    "  -o smtp_helo_name=brand.example\n"
)


class Sending(Import):
    def way(self, sender: str = "a@far.example", to: str = "x@far.example") -> str:
        (one,) = self.plan(to, client=INSIDE, sender=sender).destinations
        return one.next_hop


class Pace(Sending):
    def test_the_concurrency_and_delay_of_a_transport_for_the_domains_that_go_by_it(self) -> None:
        self.bring(
            f"{RELAY}transport_maps = hash:/etc/postfix/t\n"
            "slow_destination_concurrency_limit = 2\nslow_destination_rate_delay = 90s\n",
            master=SLOW,
            t="yahoo.example slow:\n.tele.example slow:\nother.example slow:[h.example]\n",
        )
        for limit in ("connections 2", "rate 1/90"):
            for domain in ("yahoo.example", ".tele.example"):
                self.assertIn(f"\npace to @{domain} {limit}\n", self.rules)
        self.assertNotIn("pace to @other.example", self.rules)
        pacing = self.written.settings.ruleset.pacing
        found = pacing.pace("to", "yahoo.example")
        assert found is not None and found.rate is not None
        self.assertEqual((found.connections, found.rate.interval), (2, 90.0))
        for name in ("slow_destination_concurrency_limit", "slow_destination_rate_delay"):
            self.assertIs(self.fate(name), SettingFate.TRANSLATED)

    def test_of_a_transport_as_a_whole_for_its_only_domain(self) -> None:
        main = f"{RELAY}transport_maps = hash:/etc/postfix/t\nslow_transport_rate_delay = 3s\n"
        self.bring(main, master=SLOW, t="one.example slow:\n")
        self.assertIn("pace to @one.example rate 1/3s", self.rules)
        self.bring(main, master=SLOW, t="one.example slow:\ntwo.example slow:\n")
        self.assertNotIn("pace to", self.rules)
        self.assertIn("pace provider NAME rate 1/3s", self.said("slow_transport_rate_delay"))

    def test_of_smtp_for_the_relayhost(self) -> None:
        self.bring(f"{RELAY}relayhost = [out.example]\ndefault_destination_rate_delay = 2s\n")
        self.assertIn("pace via relayhost rate 1/2s", self.rules)
        self.assertIs(self.fate("default_destination_rate_delay"), SettingFate.TRANSLATED)

    def test_of_smtp_for_everybody(self) -> None:
        self.bring(
            f"{RELAY}smtp_destination_concurrency_limit = 7\nsmtp_destination_rate_delay = 2s\n"
        )
        self.assertIn("deliveries-per-destination 7", self.conf)
        self.assertEqual(self.written.settings.deliveries_per_destination, 7)
        self.assertIs(self.fate("smtp_destination_rate_delay"), SettingFate.LOST)
        self.assertIn("pace to @DOMAIN rate 1/2s", self.said("smtp_destination_rate_delay"))

    def test_what_is_no_number_or_no_limit(self) -> None:
        self.bring(
            f"{RELAY}slow_destination_concurrency_limit = lots\nlazy_destination_rate_delay = 0s\n"
            "smtp_destination_concurrency_limit = 20\n"
        )
        self.assertIs(self.fate("slow_destination_concurrency_limit"), SettingFate.LOST)
        self.assertIs(self.fate("lazy_destination_rate_delay"), SettingFate.SAME)
        self.assertIs(self.fate("smtp_destination_concurrency_limit"), SettingFate.SAME)
        self.assertNotIn("pace", self.rules)


class Sources(Sending):
    def test_an_address_of_each_family_with_its_name(self) -> None:
        self.bring(
            f"{RELAY}smtp_bind_address = 192.0.2.10\nsmtp_bind_address6 = [2001:db8::10]\n"
            "smtp_helo_name = out.example.com\n"
        )
        self.assertIn("source outgoing 192.0.2.10, 2001:db8::10 helo out.example.com", self.rules)
        self.assertEqual(self.way(), "direct from outgoing")
        for name in ("smtp_bind_address", "smtp_bind_address6", "smtp_helo_name"):
            self.assertIs(self.fate(name), SettingFate.TRANSLATED)

    def test_any_address_is_none_and_a_name_alone_changes_nothing(self) -> None:
        self.bring(f"{RELAY}smtp_bind_address = 0.0.0.0\nsmtp_helo_name = out.example.com\n")
        self.assertEqual(self.way(), "direct")
        self.assertIs(self.fate("smtp_helo_name"), SettingFate.LOST)
        self.bring(f"{RELAY}smtp_bind_address = eth0\n")
        self.assertIn("no address", self.said("smtp_bind_address"))

    def test_a_relayhost_is_reached_from_anywhere_and_that_is_said(self) -> None:
        self.bring(f"{RELAY}relayhost = [out.example]\nsmtp_bind_address = 192.0.2.10\n")
        self.assertIs(self.fate("smtp_bind_address"), SettingFate.LOST)
        self.assertNotIn("source", self.rules)

    def test_transports_of_senders_have_addresses_of_their_own(self) -> None:
        self.bring(
            f"{RELAY}sender_dependent_default_transport_maps = hash:/etc/postfix/s\n",
            master=BRAND,
            s="@brand.example brand:\n",
        )
        self.assertIn("source brand 192.0.2.5, 2001:db8::5 helo brand.example", self.rules)
        self.assertEqual(self.way("x@brand.example"), "direct from brand")
        self.assertEqual(self.way(), "direct")
        self.assertNotIn("smtp_bind_address", self.said("master.cf brand/unix"))

    def test_where_a_relayhost_or_a_transport_table_stands_in_the_way_that_is_said(self) -> None:
        self.bring(
            f"{RELAY}relayhost = [out.example]\n"
            "sender_dependent_default_transport_maps = hash:/etc/postfix/s\n",
            master=BRAND,
            s="@brand.example brand:\n",
        )
        self.assertIn("any address", self.said("sender_dependent_default_transport_maps"))
        self.bring(
            f"{RELAY}transport_maps = hash:/etc/postfix/t\n", master=BRAND, t="b.example brand:\n"
        )
        self.assertIn("direct from", self.said("transport_maps"))


class Fallback(Sending):
    def test_behind_the_direct_way(self) -> None:
        self.bring(f"{RELAY}smtp_fallback_relay = [net.example]:587\n")
        self.assertEqual(self.way(), "direct,net.example-587")
        self.assertIs(self.fate("smtp_fallback_relay"), SettingFate.TRANSLATED)

    def test_with_a_source_and_not_behind_a_relayhost_which_is_said(self) -> None:
        main = f"{RELAY}smtp_fallback_relay = [net.example]\n"
        self.bring(f"{main}smtp_bind_address = 192.0.2.10\n")
        self.assertEqual(self.way(), "direct from outgoing,net.example")
        self.bring(f"{main}relayhost = [out.example]\n")
        self.assertEqual(self.way(), "relayhost")
        self.assertIn("a second next hop", self.said("smtp_fallback_relay"))

    def test_relay_domains_have_none_where_master_cf_says_so(self) -> None:
        self.bring(
            f"{RELAY}relay_domains = in.example\nsmtp_fallback_relay = [net.example]\n",
            master=f"{MASTER}relay unix - - n - - smtp -o smtp_fallback_relay=\n",
        )
        self.assertEqual(self.way(to="x@in.example"), "direct")
        self.assertEqual(self.way(), "direct,net.example")

    def test_one_that_is_no_host_is_said(self) -> None:
        self.bring(f"{RELAY}smtp_fallback_relay = [bad host]\n")
        self.assertIs(self.fate("smtp_fallback_relay"), SettingFate.LOST)
        self.assertEqual(self.way(), "direct")
