"""`provider`, `pace`, `source`, and the routes that have two ways."""

from __future__ import annotations

import shutil
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd.config import load
from relayd.mail.pacing import PROVIDER, TO, VIA, Pacing, Rate
from tests.unit.rules.sample import outcome
from tests.unit.rules.test_grammar import parse

ETC = Path(__file__).parents[3] / "etc" / "relayd"

BLOCK = """\
# /etc/relayd/rules.d/40-pace.rules
provider  google     mx .google.com, .googlemail.com              # whose exchangers these are is one provider
provider  microsoft  mx .olc.protection.outlook.com, .mail.protection.outlook.com, .mx.microsoft
pace      provider google          connections 5  messages 50  rate 600/1m
pace      to @slow.example         connections 1  rate 10/1m
pace      via isp                  rate 1000/1h
source    bulk       192.0.2.10, 2001:db8::10  helo bulk.example.com
route     sender @news.example     direct from bulk
route     any                      direct, via isp                # the isp also when we are blocked, not only when all hosts are down
"""


class Loaded(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "relayd"
        shutil.copytree(ETC, self.folder)
        site = "next-hop isp smtp smtp.isp.example\naccept from 127.0.0.0/8\n"
        (self.folder / "rules.d" / "10-site.rules").write_text(site)

    def pacing(self, text: str) -> Pacing:
        (self.folder / "rules.d" / "40-pace.rules").write_text(text)
        return load(self.folder / "relayd.conf").ruleset.pacing

    def test_the_design_s_block_loads_unchanged_beside_what_is_shipped(self) -> None:
        pacing = self.pacing(BLOCK)
        google = pacing.pace(PROVIDER, "google")
        assert google is not None
        self.assertEqual(
            (google.connections, google.messages, google.rate), (5, 50, Rate(600, "1m"))
        )
        slow, isp = pacing.pace(TO, "slow.example"), pacing.pace(VIA, "isp")
        assert slow is not None and isp is not None and slow.rate is not None
        self.assertEqual((slow.connections, slow.rate.interval), (1, 6.0))
        self.assertEqual(str(isp), "pace via isp rate 1000/1h")
        self.assertIsNone(pacing.pace(TO, "sub.slow.example"))
        self.assertEqual(pacing.sources["bulk"].of_family("198.51.100.1"), "192.0.2.10")
        self.assertEqual(pacing.sources["bulk"].of_family("2001:db8:1::1"), "2001:db8::10")
        rules = load(self.folder / "relayd.conf").ruleset
        self.assertEqual(
            outcome(rules, "x@y.example", client="127.0.0.1"), "x@y.example direct,isp"
        )

    def test_a_provider_is_known_by_all_its_exchangers_names(self) -> None:
        pacing = self.pacing("")
        for names, provider in (
            (["gmail-smtp-in.l.google.com", "alt1.gmail-smtp-in.l.google.com"], "google"),
            (["x.mail.protection.outlook.com"], "microsoft"),
            (["x.mail.protection.outlook.com", "mx.x.example"], ""),
            (["notgoogle.com", "google.com"], ""),
            ([], ""),
        ):
            self.assertEqual(pacing.provider_of(names), provider, names)

    def test_what_is_shipped_gives_way_limit_by_limit(self) -> None:
        pacing = self.pacing("provider yahoo mx .yahoo.test\npace provider google rate 5/1s\n")
        self.assertEqual(pacing.provider_of(["mta5.am0.yahoodns.net"]), "")
        self.assertEqual(pacing.provider_of(["mx.yahoo.test"]), "yahoo")
        google = pacing.pace(PROVIDER, "google")
        self.assertEqual(str(google), "pace provider google connections 5 messages 50 rate 5/1s")

    def test_a_domain_s_pace_may_be_for_all_below_it(self) -> None:
        pacing = self.pacing("pace to @.slow.example messages 1\n")
        self.assertIsNone(pacing.pace(TO, "slow.example"))
        self.assertIsNotNone(pacing.pace(TO, "a.slow.example"))

    def test_each_shipped_line_has_its_reason(self) -> None:
        lines = (ETC / "providers.rules").read_text().split("\n")
        for number, line in enumerate(lines):
            if line and not line.startswith("#"):
                above = lines[number - 1]
                self.assertTrue(above.startswith(("# ", "pace provider qq ")), line)

    def test_both_ways_print_as_they_are_read(self) -> None:
        for text in (
            "route any direct",
            "route any direct, via isp",
            "route any direct from bulk",
            "route any direct from bulk, via isp, spare when sender @a.example",
            "route any direct cut-through 20s when forwarded",
            "route any direct from bulk, via isp cut-through 1m30s",
            "route to @a.example via isp, spare cut-through 120s",
            "route <transport> cut-through 2m",
        ):
            (rule,) = parse(text)
            self.assertEqual(str(rule), text)
