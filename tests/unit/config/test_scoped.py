"""Files of many people: each for its own domain, and none in another's way."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from relayd import config
from relayd.config.lastgood import LastGoodFile
from relayd.config.texts import RecordedTexts
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan
from relayd.rules.evaluate import Facts, evaluate

MAIN = """\
table inside { 192.0.2.1 } shared
table secret { a@private.example }
next-hop sink smtp 127.0.0.1:1 shared
next-hop hidden smtp 127.0.0.1:2
limit few 5/1h per sender
include customers/*.rules scoped
route any via sink
"""
OWN = "accept to @example.com\nforward info@example.com -> ann@example.net\n"
THEFTS = {
    "accept to @other.example": "@other.example",
    "accept to @example.com, @other.example": "@other.example",
    "accept to @.com": "@.com",
    "accept to any": "any",
    "accept any": "accept",
    "accept to postmaster@": "postmaster@",
    "accept sender @example.com": "accept",
    "accept not to @example.com": "not",
    'accept to regex "@example\\.com"': '"',
    'accept to regex "^a@example\\.com$|^.@other"': '"',
    'accept to regex "^[^@]+@(example\\.com|other\\.example)$"': '"',
    'accept to regex "^a@notexample.com$"': '"',
    "reject to x@other.example": "x@other.example",
    "reject sender @other.example": "@other.example",
    "reject from 192.0.2.1": "reject",
    "hold sender @other.example": "@other.example",
    "hold sender null": "null",
    "defer to @other.example": "@other.example",
    "discard to @other.example": "@other.example",
    "forward @other.example -> @example.com": "@other.example",
    "forward any -> a@example.com": "any",
    "forward info@ -> a@example.com": "info@",
    "forward a@notexample.com -> a@example.com": "a@notexample.com",
    "header add X-Evil yes": "header",
    "header add X-Evil yes when to @other.example": "@other.example",
    "header add X-Evil yes when sender @other.example": "@other.example",
    "expect to a@other.example -> a@other.example": "a@other.example",
    "expect to a@example.com -> a@example.com via hidden": "hidden",
    "accept to <secret>": "<secret>",
    "accept to @example.com when from <secret>": "<secret>",
    "accept to <other.example.mine>": "<other.example.mine>",
    "reject to @example.com when over few": "few",
    "table x file /etc/passwd": "x",
    "table x { a } shared": "x",
    "table a.b { a }": "a.b",
    "listen 0.0.0.0:25": "listen",
    "include /etc/*": "include",
    "copy any to evil@evil.example": "copy",
    "copy to @example.com via sink": "copy",
    "limit x 1 per 1h per sender": "limit",
    "route any via sink": "route",
    "rewrite recipient any -> @example.com": "rewrite",
    "next-hop x smtp 127.0.0.1:1": "next-hop",
    "spool /tmp": "spool",
    "tls-authorities x.pem": "tls-authorities",
    "may-send-as user any": "may-send-as",
    "milter m 127.0.0.1:1": "milter",
    "sign as x": "sign",
    "srs domain example.com": "srs",
    "dnsbl x zen.example": "dnsbl",
    "subaddress +": "subaddress",
}


def refused(settings: config.Settings) -> list[str]:
    """What is said of files that are not taken up."""
    told = map(str, settings.warnings)
    return [each for each in told if "(it is left out)" in each or "(its last good" in each]


class ScopedTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        (self.folder / "customers").mkdir()
        self.write("other.example", "accept to @other.example\n")

    def write(self, domain: str, text: str) -> None:
        (self.folder / "customers" / f"{domain}.rules").write_text(text, "utf-8")

    def load(self, texts: RecordedTexts | None = None) -> config.Settings:
        path = self.folder / "relayd.conf"
        path.write_text(f"hostname gw.example.com\nspool {self.folder}/spool\n{MAIN}")
        return config.load(path, texts=texts)

    def plan(self, settings: config.Settings, recipient: str) -> Plan:
        facts = Facts(Client("192.0.2.9"), None, Mailbox.parse(recipient))
        return evaluate(settings.ruleset, facts)

    def reply(self, settings: config.Settings, recipient: str) -> int:
        return self.plan(settings, recipient).reply.code

    def test_a_file_decides_about_its_domain_and_what_is_below(self) -> None:
        self.write("example.com", OWN + "accept to @.example.com\n")
        settings = self.load()
        plan = self.plan(settings, "info@example.com")
        self.assertEqual([str(each.mailbox) for each in plan.destinations], ["ann@example.net"])
        self.assertIn("customers/example.com.rules:2", [each.place for each in plan.trail])
        self.assertEqual(self.reply(settings, "a@b.example.com"), 250)
        self.assertEqual(self.reply(settings, "a@notexample.com"), 550)

    def test_an_internationalised_domain_is_one_however_it_is_spelled(self) -> None:
        self.write("bücher.example", "accept to @xn--bcher-kva.example\n")
        self.assertEqual(self.reply(self.load(), "a@bücher.example"), 250)

    def test_each_theft_is_refused_with_a_caret_and_harms_nobody(self) -> None:
        for theft, caret in THEFTS.items():
            with self.subTest(theft):
                self.write("example.com", OWN + theft + "\n")
                settings = self.load()
                told = refused(settings)
                self.assertTrue(told, "nobody has said a word")
                self.assertIn("example.com.rules:3:", told[0])
                line, under = told[0].split("\n")[1:3]
                at = under.index("^")
                self.assertTrue(line[at:].startswith(caret), told[0])
                self.assertEqual(self.reply(settings, "a@other.example"), 250)
                self.assertEqual(self.reply(settings, "info@example.com"), 550)

    def test_tables_of_two_files_may_have_the_same_name(self) -> None:
        self.write(
            "example.com", "table mine { a@example.com, x@other.example }\naccept to <mine>\n"
        )
        self.write("other.example", "table mine { b@other.example }\naccept to <mine>\n")
        settings = self.load()
        self.assertEqual(refused(settings), [])
        self.assertEqual(self.reply(settings, "a@example.com"), 250)
        self.assertEqual(self.reply(settings, "b@other.example"), 250)
        # what a table holds of others is out of reach
        self.assertEqual(self.reply(settings, "x@other.example"), 550)

    def test_a_regex_that_ends_in_the_domain_is_good(self) -> None:
        self.write("example.com", 'accept to regex "^(a|b)[^@]*@example\\.com$"\n')
        settings = self.load()
        self.assertEqual(refused(settings), [])
        self.assertEqual(self.reply(settings, "ax@example.com"), 250)

    def test_what_is_marked_shared_may_be_named(self) -> None:
        self.write("example.com", "accept to @example.com when from <inside>\n")
        self.assertEqual(refused(self.load()), [])

    def test_a_mistake_keeps_the_last_good_version_of_that_file_in_force(self) -> None:
        self.write("example.com", OWN)
        texts = RecordedTexts()
        self.load(texts)
        (self.folder / "spool").mkdir()
        kept = LastGoodFile(self.folder / "spool", self.folder / "relayd.conf")
        kept.keep(texts.without_secrets(), 1.0)
        self.write("example.com", "acept to @example.com\n")
        self.write("other.example", "accept to @other.example\nreject to x@other.example\n")
        again = RecordedTexts()
        settings = self.load(again)
        self.assertEqual(self.reply(settings, "info@example.com"), 250)
        self.assertIn("its last good version stays in force", refused(settings)[0])
        # over a restart, and in every worker: it is the good one that is handed on
        kept.keep(again.without_secrets(), 2.0)
        self.assertEqual(self.reply(self.load(), "info@example.com"), 250)

    def test_a_test_that_fails_is_a_mistake_of_its_file_alone(self) -> None:
        self.write("example.com", OWN + "expect to info@example.com -> b@example.net\n")
        settings = self.load()
        self.assertIn("the test fails", refused(settings)[0])
        self.assertEqual(self.reply(settings, "a@other.example"), 250)

    def test_a_file_that_is_named_after_no_domain_is_left_out(self) -> None:
        for name in ("com", "a b.example", "-"):
            self.write(name, OWN)
        self.assertEqual(len(refused(self.load())), 3)

    def test_the_block_of_the_design_loads(self) -> None:
        (self.folder / "relayd.conf").write_text(
            f"""\
hostname gw.example.com
spool {self.folder}/spool
table  people    postgresql "service=mail" query "SELECT alias, target FROM forwards" refresh 30s
table  domains   mysql "service=mail" query "SELECT name FROM domains" refresh 1m
table  staff     ldap ldaps://ldap.example.com base "ou=people,dc=example,dc=com" \
filter "(objectClass=inetOrgPerson)" key mail value mailForwardingAddress refresh 5m
table  panel     http https://panel.example.com/forwards.json secret file panel.token refresh 1m
table  huge      postgresql "service=mail" query "SELECT target FROM forwards WHERE alias = $1" \
live cache 5m
include customers/*.rules  scoped
"""
        )
        settings = config.load(self.folder / "relayd.conf")
        self.assertEqual(self.reply(settings, "a@other.example"), 250)
