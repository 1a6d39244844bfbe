"""Files of many people: each for its own domain, and none in another's way."""

from __future__ import annotations

import os
import sys
import tempfile
import unittest
from collections import Counter
from pathlib import Path
from types import FrameType
from unittest.mock import patch

from relayd import config
from relayd.config.lastgood import LastGoodFile
from relayd.config.texts import RecordedTexts
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan
from relayd.rules.check.scope import read_scoped
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.header import edit_header

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
    # of other spellings
    "accept to @OTHER.Example": "@OTHER.Example",
    "accept to @other.example.": "@other.example.",
    "accept to @b\u00fccher.example": "@b\u00fccher.example",
    "accept to x@xn--bcher-kva.example": "x@xn--bcher-kva.example",
    "forward info+tag@other.example -> a@example.com": "info+tag@other.example",
    'forward "a@example.com"@other.example -> a@example.com': '"a@example.com"@other.example',
    "hold to @example.com.other.example": "@example.com.other.example",
    "discard to @.other.example": "@.other.example",
    "accept to SRS0=abcd=XX=other.example=ann@other.example": "SRS0=abcd=XX=other.example",
    "accept to @[192.0.2.1]": "@[192.0.2.1]",
    "copy to @example.com to evil@evil.example": "copy",
    "arc seal as x": "arc",
    "pace any 1/s": "pace",
    "console 127.0.0.1:1": "console",
    "header add X-Evil yes when sender null": "null",
    "header add X-Evil yes when not to @other.example": "header",
    'reject to regex "(?m)@example\\.com$"': '"',
    'reject to regex "@example\\.com$|x"': '"',
    'table x postgresql "service=mail" query "SELECT 1" refresh 1m': "x",
    "table x http http://127.0.0.1/x refresh 1m": "x",
    "expect to a@example.com when listed x -> a@example.com": "x",
    # in our name
    "header add Authentication-Results dmarc=pass when sender @example.com": (
        "Authentication-Results"
    ),
    "header remove authentication-results when to @example.com": "authentication-results",
    "header replace ARC-Seal x when sender @example.com": "ARC-Seal",
    "header add Received-SPF pass when sender @example.com": "Received-SPF",
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

    def test_what_lies_there_and_is_no_file_of_rules_harms_nobody(self) -> None:
        self.write("example.com", OWN)
        customers = self.folder / "customers"
        secret = self.folder / "secret"
        secret.write_text("root:x:0:0\n")
        (customers / "link.example.rules").symlink_to(secret)
        os.mkfifo(customers / "fifo.example.rules")
        (customers / "folder.example.rules").mkdir()
        (customers / "huge.example.rules").write_text("# " + "x" * (1 << 20) + "\n")
        (customers / "nowhere.example.rules").symlink_to("gone")
        (customers / "binary.example.rules").write_bytes(b"accept to \xff\xfe\0\n")
        (customers / "nul.example.rules").write_bytes(b"\0" * 100)
        (customers / "Example.COM.rules").write_text("accept to x@example.com\n")
        (customers / "\n\x1b[2Jx.example.rules").write_text(OWN)
        (customers / "..rules").write_text(OWN)
        (customers / "example.com..rules").write_text(OWN)
        odd = Path(os.fsdecode(os.fsencode(customers) + b"/\xff.example.rules"))
        with odd.open("w") as file:
            file.write(OWN)
        settings = self.load()
        told = "\n".join(refused(settings))
        told.encode()
        self.assertNotIn("\x1b", told)
        self.assertNotIn("root:x", told)
        for name in ("link", "fifo", "folder", "huge", "nowhere", "binary", "nul"):
            self.assertIn(f"{name}.example.rules", told)
        self.assertIn("leads out of the folder", told)
        self.assertIn("is about example.com already", told)
        self.assertEqual(self.reply(settings, "a@other.example"), 250)
        self.assertEqual(self.reply(settings, "x@example.com"), 250)  # one of the two

    def test_a_link_within_the_folder_is_followed(self) -> None:
        (self.folder / "customers" / "shared").write_text("accept to @example.com\n")
        (self.folder / "customers" / "example.com.rules").symlink_to("shared")
        self.assertEqual(self.reply(self.load(), "info@example.com"), 250)

    def test_two_that_send_each_other_in_a_circle_harm_nobody_but_that_mail(self) -> None:
        self.write("example.com", OWN + "forward a@example.com -> a@other.example\n")
        self.write("other.example", "accept to @other.example\n"
                   "forward a@other.example -> a@example.com\n")  # fmt: skip
        settings = self.load()
        self.assertEqual(refused(settings), [])
        self.assertEqual(self.reply(settings, "info@example.com"), 250)
        self.assertEqual(self.reply(settings, "b@other.example"), 250)
        self.assertEqual(self.plan(settings, "a@example.com").reply.status, "5.4.6")

    def test_a_circle_of_its_own_is_a_mistake(self) -> None:
        self.write("example.com", "forward a@example.com -> b@example.com\n"
                   "forward b@example.com -> a@example.com\n")  # fmt: skip
        self.assertIn("in circles", refused(self.load())[0])

    def test_a_customers_client_is_nobody_whom_we_trust(self) -> None:
        self.write("example.com", "accept to @example.com when from 192.0.2.9\n")
        settings = self.load()
        self.assertFalse(settings.ruleset.trusts(Client("192.0.2.9")))

    def test_of_two_domains_the_one_below_is_asked_first(self) -> None:
        self.write("example.com", "accept to @.example.com\nreject to x@sub.example.com\n"
                   "forward x@sub.example.com -> thief@example.net\n")  # fmt: skip
        self.write("sub.example.com", "accept to @sub.example.com\n"
                   "forward x@sub.example.com -> ann@example.net\n")  # fmt: skip
        plan = self.plan(self.load(), "x@sub.example.com")
        self.assertEqual([str(each.mailbox) for each in plan.destinations], ["ann@example.net"])

    def test_what_stands_above_the_include_wins_and_what_stands_below_comes_later(self) -> None:
        self.write("example.com", "accept to @example.com\nheader add X-C c when to @example.com\n")
        path = self.folder / "relayd.conf"
        path.write_text(
            f"hostname gw.example.com\nspool {self.folder}/spool\n"
            "reject to no@example.com\nheader add X-A a when to @example.com\n"
            "include customers/*.rules scoped\n"
            "reject to late@example.com\nheader add X-D d when to @example.com\n"
        )
        ruleset = config.load(path).ruleset
        for recipient, code in (("no@", 550), ("late@", 250), ("a@", 250)):
            facts = Facts(Client("192.0.2.9"), None, Mailbox.parse(f"{recipient}example.com"))
            self.assertEqual(evaluate(ruleset, facts).reply.code, code, recipient)
        rules = evaluate(ruleset, facts).destinations[0].header_rules
        added = edit_header(ruleset, rules, b"From: a@b.example\r\n\r\n")
        self.assertEqual(added, b"X-A: a\r\nX-C: c\r\nX-D: d\r\nFrom: a@b.example\r\n\r\n")

    def test_a_file_that_looks_at_the_content_does_so_for_its_own(self) -> None:
        self.write("example.com", OWN + "hold to @example.com when dmarc reject\n")
        settings = self.load()
        self.assertEqual(refused(settings), [])
        self.assertEqual(self.reply(settings, "info@example.com"), 250)
        self.assertTrue(settings.ruleset.examined)
        self.assertEqual(self.reply(settings, "a@other.example"), 250)

    def test_the_domains_of_the_files_are_ours(self) -> None:
        (self.folder / "srs.keys").write_text("a-secret-of-some-length-0123456789\n")
        (self.folder / "srs.keys").chmod(0o600)
        self.write("example.com", OWN)
        path = self.folder / "relayd.conf"
        path.write_text(
            f"hostname gw.example.com\nspool {self.folder}/spool\n{MAIN}"
            "srs domain srs.example.net keys file srs.keys\n"
        )
        ruleset = config.load(path).ruleset
        assert ruleset.srs is not None
        self.assertTrue(ruleset.srs.owns(Mailbox.parse("x@example.com")))
        self.assertTrue(ruleset.srs.owns(Mailbox.parse("x@other.example")))
        self.assertFalse(ruleset.srs.owns(Mailbox.parse("x@elsewhere.example")))

    def test_a_tag_counts_as_with_the_rules_of_the_main_set(self) -> None:
        self.write("example.com", "accept to info@example.com, own+tag@example.com\n"
                   "forward info@example.com -> ann@example.net\n")  # fmt: skip
        path = self.folder / "relayd.conf"
        path.write_text(
            f"hostname gw.example.com\nspool {self.folder}/spool\nsubaddress +\n"
            "include customers/*.rules scoped\naccept to main@example.com\n"
        )
        settings = config.load(path)
        for recipient, code in (("info+x", 250), ("own+tag", 250), ("own", 550), ("main+x", 250)):
            self.assertEqual(self.reply(settings, f"{recipient}@example.com"), code, recipient)
        plan = self.plan(settings, "info+x@example.com")
        self.assertEqual([each.mailbox.domain for each in plan.destinations], ["example.net"])

    def test_a_senders_file_takes_no_tag_from_a_recipient_of_another(self) -> None:
        self.write("example.com", "accept to info@example.com\n")
        self.write("other.example", "table t { info+x@example.com }\n"
                   "hold sender ann@other.example to <t>\n")  # fmt: skip
        path = self.folder / "relayd.conf"
        path.write_text(
            f"hostname gw.example.com\nspool {self.folder}/spool\nsubaddress +\n"
            "include customers/*.rules scoped\n"
        )
        ruleset = config.load(path).ruleset
        for sender in ("bob@other.example", "bob@elsewhere.example"):
            facts = Facts(
                Client("192.0.2.9"), Mailbox.parse(sender), Mailbox.parse("info+x@example.com")
            )
            self.assertEqual(evaluate(ruleset, facts).reply.code, 250, sender)

    def test_of_many_files_one_that_has_changed_is_compiled_alone(self) -> None:
        for number in range(50):
            self.write(f"c{number}.example", f"accept to @c{number}.example\n")
        self.load()
        self.write("c7.example", "accept to info@c7.example\n")
        with patch("relayd.config.scopedfiles.read_scoped", wraps=read_scoped) as read:
            settings = self.load()
        self.assertEqual([call.args[1] for call in read.call_args_list], ["c7.example"])
        self.assertEqual(self.reply(settings, "a@c7.example"), 550)
        self.assertEqual(self.reply(settings, "info@c7.example"), 250)
        self.assertEqual(self.reply(settings, "a@c8.example"), 250)
        before = settings.ruleset.hash
        (self.folder / "customers" / "c8.example.rules").unlink()
        settings = self.load()
        self.assertEqual(self.reply(settings, "a@c8.example"), 550)
        self.assertNotEqual(settings.ruleset.hash, before)
        self.write("c7.example", "acept\n")  # what was good stays so, without a restart as well
        settings = self.load()
        self.assertEqual(self.reply(settings, "info@c7.example"), 250)
        self.assertIn("its last good version", refused(settings)[0])
        self.assertIn("its last good version", refused(self.load())[0])

    def counted(self) -> tuple[config.Settings, Counter[str]]:
        """What is called how often while it is loaded."""
        counted: Counter[str] = Counter()

        def profile(frame: FrameType, event: str, _: object) -> None:
            counted[frame.f_code.co_name] += event == "call"

        sys.setprofile(profile)
        try:
            return self.load(RecordedTexts()), counted
        finally:
            sys.setprofile(None)

    @patch("relayd.config.scopedfiles.YOUNG", 0.0)
    def test_one_that_has_changed_is_read_and_compiled_once_however_many_there_are(self) -> None:
        """What else is done for the others is to look at each once, and a step for its rules."""
        calls = {}
        for files in (100, 200):
            for number in range(files):
                self.write(f"c{number}.example", f"accept to @c{number}.example\n")
            self.load(RecordedTexts())
            self.write("c7.example", f"accept to x{files}@c7.example\n")
            settings, counted = self.counted()
            self.assertEqual(self.reply(settings, f"x{files}@c7.example"), 250)
            self.assertEqual(counted["read_scoped"], 1)
            self.assertEqual(counted["lex"], 2)  # the other is relayd.conf
            self.assertEqual(counted["part_of"], 1)
            self.assertLessEqual(counted["piece"], 2)  # RecordedTexts asks Texts
            calls[files] = counted.total()
        self.assertLess((calls[200] - calls[100]) / 100, 20, calls)

    def test_nodes_of_a_cluster_with_other_files_have_other_rules(self) -> None:
        self.write("example.com", "accept to @example.com\n")
        before = self.load().ruleset
        self.write("example.com", "accept to info@example.com\n")
        after = self.load().ruleset
        self.assertNotEqual(after.hash, before.hash)
        self.assertNotEqual(after.hash_anywhere, before.hash_anywhere)

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
