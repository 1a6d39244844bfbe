"""One set of rules that looks at mail in every way there is, as an operator would write it.

Each statement stands with those that it goes with. A set behind it opens the door, as everywhere.
"""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from tests.unit.rules.test_grammar import parse

SITE = """\
hostname  gw.example.com
table     ours { example.com }
next-hop  exchange smtp ex1.corp.example:25
next-hop  junk     lmtp unix:/run/dovecot/junk
include   rules.d/*.rules
"""
BEHIND = """\
accept    to <ours>
route     to <ours>                        via exchange
expect    to info@example.com              -> info@example.com via exchange
"""
WHO = """\
# who can be asked
dnsbl     zen       zen.spamhaus.org                              # 127.0.0.2-11 count
dnsbl     strict    bl.example.net 127.0.0.2, 127.0.0.4           # only these answers count
dnswl     friends   list.dnswl.org
milter    opendkim  unix:/run/opendkim/opendkim.sock
milter    clamav    unix:/run/clamav/clamav-milter.ctl   on failure accept
rspamd    scan      http://127.0.0.1:11333               on failure accept timeout 8s
clamd     virus     unix:/run/clamav/clamd.ctl           on failure defer
policy    postgrey  127.0.0.1:10023                      on failure accept
limit     hourly    500/1h   per login
limit     burst     100/1m   per client
limit     fresh     50/1h    per sender-domain
"""
BEFORE = """\
# before the content
reject    when listed zen and not listed friends                  550 5.7.1 "Your address is on a block list"
defer     when over burst                                         "Slow down, please"
hold      login any when over hourly                              "more than 500 an hour"
defer     to <ours> when first-seen 5m and not spf pass           # greylisting
reject    to <ours> when unknown at exchange                      550 5.1.1 "There is no such mailbox"
ask       postgrey  to <ours>
ask       scan, virus, clamav                                     when not login any
ask       opendkim
"""
CONTENT = """\
# once the content is there
reject    when dmarc reject and not listed friends                550 5.7.1 "DMARC says no"
hold      when score scan >= 15                                   "spam?"
header    add X-Spam "yes"                                        when score scan >= 6
discard   to news@example.com when size > 20MB                    "too big for a list"
route     to <ours> via junk                                      when score scan >= 6
"""
TESTS = """\
expect    to info@example.com when score scan 20                  -> hold
expect    from 198.51.100.9 to info@example.com when listed zen   -> reject 550
"""
BLOCK = "\n".join((WHO, BEFORE, CONTENT, TESTS))


class BlockTests(unittest.TestCase):
    def load(self, block: str, behind: str = BEHIND) -> config.Settings:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "rules.d").mkdir()
            (folder / "relayd.conf").write_text(SITE)
            (folder / "rules.d" / "05-checks.rules").write_text(block)
            (folder / "rules.d" / "10-site.rules").write_text(behind)
            return config.load(folder / "relayd.conf")

    def test_it_loads_in_front_of_a_sites_own_rules(self) -> None:
        settings = self.load(BLOCK)
        own = [each for each in settings.warnings if "any mailbox" not in each.what]
        self.assertEqual(own, [])

    def test_what_it_says_is_tested_by_itself(self) -> None:
        broken = BLOCK.replace("when listed zen   -> reject 550", "when listed zen   -> accept")
        self.assertNotEqual(broken, BLOCK)
        with self.assertRaises(config.ConfigErrors):
            self.load(broken)

    def test_each_statement_prints_as_it_is_read(self) -> None:
        items = parse(BLOCK)
        self.assertEqual(parse("\n".join(map(str, items))), items)

    def test_each_rule_may_stand_alone(self) -> None:
        for line in (BEFORE + CONTENT).splitlines():
            with self.subTest(line):
                asked = "ask scan\n" if "score scan" in line else ""
                self.load(f"{WHO}{asked}{line}\n")
