"""What good rules are warned of: open doors however they are written, backscatter, habits."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.rules.check.opendoor import open_doors
from relayd.rules.language.source import Problem

OPEN = "an open relay"
WHOLE = "takes mail for any mailbox of"
NO_GROUP = "is no group of a regex"
NO_WILDCARD = "there are no wildcards"
CAUGHT = "is caught by this catch-all itself"
REPORTS = "gives reports, whose sender is null, a sender"
TABLES = """\
table few    { 10.0.0.1, a@example.com }
table halves { 0.0.0.0/1, 128.0.0.0/1 }
table many   { 2000::/4, 3000::/4 }
table top    { .com, x@example.net }
table ours   { example.com, .example.net }
table names  { mail.example.net, relay.example.net }
listen 0.0.0.0:25
listen 127.0.0.1:2525
listen 10.0.0.1:2525
listen [2001:db8::25]:25
"""


class CautionTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def warnings(self, text: str, **files: str) -> list[Problem]:
        for name, content in files.items():
            (self.folder / name).write_text(content)
        settings = config.load_text(f"hostname gw.example.com\n{text}\n", self.folder)
        return list(settings.warnings)

    def told(self, what: str, text: str, **files: str) -> list[Problem]:
        return [each for each in self.warnings(text, **files) if what in each.what]


class FilterTest(CautionTest):
    def test_a_filter_that_is_defined_and_not_asked(self) -> None:
        for kind, where in (
            ("milter", "unix:/run/f"), ("clamd", "unix:/run/f"),
            ("rspamd", "http://127.0.0.1:11333"), ("policy", "127.0.0.1:10023"),
        ):  # fmt: skip
            (told,) = self.told("sees no mail", f"{kind} one {where}\n{kind} two {where}\nask two")
            self.assertIn(":2:", str(told))
            self.assertIn('nobody asks one: it sees no mail; expected "ask one"', str(told))


class OpenDoorTest(CautionTest):
    def test_every_spelling_of_an_open_door_is_found(self) -> None:
        for rules in (
            "accept any",
            "accept from any",
            "accept to any",
            "accept from 0.0.0.0/0",
            "accept from ::/0",
            "accept from 0.0.0.0/1",
            "accept from 0.0.0.0/1, 128.0.0.0/1",
            "accept to info@",
            "accept from 10.0.0.0/8, 64.0.0.0/2",
            "accept from 2000::/3",
            "accept from <halves>",
            "accept from <many>",
            "accept any when not from 10.0.0.1",
            "accept any when not from <few>",
            "accept any when not to a@example.com",
            "accept any when not to @example.com",
            "accept any when not login bob",
            "accept any when not sender null",
            "accept listener 0.0.0.0:25",
            "accept listener [2001:db8::25]:25",
            "accept listener any",
            "accept any when not listener 127.0.0.1:2525",
            'accept to regex ".*"',
            'accept to regex "@"',
            'accept to regex "^[a-z0-9.]+@.+[.][a-z]+$"',
            'accept to regex "[.](com|net)$"',
            "accept to @.com",
            "accept to @.de, @example.com",
            "accept to <top>",
            "accept sender @example.com",
            "accept sender null",
            "accept sender <few>",
            'accept sender regex "@example[.]com$"',
            "accept helo mail.example.com",
            "accept helo <names>",
            "accept rdns .com",
            "accept rdns .fr, mail.example.com",
            'accept rdns regex "[.]net$"',
            "accept any when not rdns .com",
            "reject any when not sender @example.com\naccept any",
            "reject any when not sender <few>\naccept to any",
            "reject from 0.0.0.0/0 when not helo mail.example.com\naccept any",
            "discard any when not sender @a.example and not helo <names>\naccept any",
            "accept any when tls",
            "accept any when not tls",
            "accept certificate any",
            "reject to @example.com\naccept any",
            "reject from <few>\nhold sender @x.example\naccept any",
        ):
            with self.subTest(rules):
                self.assertEqual(len(self.told(OPEN, TABLES + rules)), 1)

    def test_what_lets_in_some_only_is_none(self) -> None:
        for rules in (
            "accept from 10.0.0.0/8, ::1, fd00::/8",
            "accept from 198.51.100.0/24",
            "accept from 8.0.0.0/8",
            "accept from 2a00::/16",
            "accept from <few>",
            "accept login any",
            "accept any when login bob",
            f"accept certificate {'ab' * 32}",
            "accept listener 127.0.0.1:2525",
            "accept any when listener 10.0.0.1:2525",
            "accept to @example.com",
            "accept to @.example.com",
            "accept to @.internal",
            "accept to <ours>",
            'accept to regex "^(.+)-team@example[.]com$"',
            "accept to postmaster@",
            "accept rdns mail.example.com, .example.net",
            "accept rdns .internal",
            'accept rdns regex "[.]example[.]com$"',
            "reject any when not sender @example.com\naccept to @example.com",
            "reject any when not rdns .example.net\naccept any",
            "reject any when not from 10.0.0.0/8\naccept any",
            "reject any when not to <ours>\naccept any",
            "reject any when not login any\naccept any",
        ):
            with self.subTest(rules):
                self.assertEqual(self.told(OPEN, TABLES + rules), [])

    def test_a_listener_where_nobody_sends_without_a_login_is_none(self) -> None:
        for options, doors in (("", 1), ("submission", 1)):
            text = f"listen 192.0.2.1:587 {options}\naccept listener 192.0.2.1:587"
            self.assertEqual(len(self.told(OPEN, text)), doors, options)
        ruleset = config.load_text(
            "listen 192.0.2.1:587\naccept listener 192.0.2.1:587", self.folder
        ).ruleset
        self.assertEqual(open_doors(ruleset, []), [])

    def test_a_transport_map_with_an_asterisk_is_one(self) -> None:
        text = "table t transport file t\naccept to <t>"
        self.assertEqual(len(self.told(OPEN, text, t="* smtp:[h.example]\n")), 1)
        self.assertEqual(self.told(OPEN, text, t="a.example smtp:[h.example]\n"), [])

    def test_of_an_open_door_nothing_less_is_said(self) -> None:
        for rules in ("accept to @.com", "accept to @.co.uk, @example.com", "accept to <top>"):
            (told,) = self.warnings(TABLES + rules)
            self.assertIn(OPEN, told.what)

    def test_a_regex_that_fits_more_than_the_domain_it_speaks_of_is_one(self) -> None:
        for regex, fits in (
            ("example[.]com", "somebody@example.com.nonesuch.com"),
            ("@example\\.com", "somebody@example.com.nonesuch.com"),
            ("example\\.com$", "somebody@nonesuch-example.com"),
            ("^.*example.com$", "somebody@nonesuch-example.com"),
            ("^[^@]*example.com", "example.com@nonesuch.com"),
            ("@example\\.com$", ""),
            ("^.+@(.+\\.)?example\\.com$", ""),
            ("^(ann|bob)@example[.]com\\Z", ""),
        ):
            with self.subTest(regex):
                told = self.told(OPEN, f'accept to regex "{regex}"')
                self.assertEqual(len(told), int(bool(fits)))
                for each in told:
                    self.assertIn(f"for {fits}, too: an open relay", each.what)

    def test_many_rules_that_let_in_a_part_each_are_one_door(self) -> None:
        rules = "\n".join(f"accept from {number}.0.0.0/6" for number in range(12, 64, 4))
        (told,) = self.told(OPEN, rules)
        self.assertIn("13 rules together", told.what)

    def test_it_says_where_and_what_to_do(self) -> None:
        (told,) = self.told(OPEN, "accept to @example.com\naccept from 0.0.0.0/1, 128.0.0.0/1")
        self.assertEqual(told.place.line, 3)
        self.assertIn('expected "from", "to" or "login" with something definite', str(told))
        self.assertIn("^^^^^^", str(told))

    def test_an_open_door_in_one_of_500_files_is_one_line(self) -> None:
        (self.folder / "r").mkdir()
        for number in range(500):
            rules = (
                f"accept to @c{number}.example\nforward @c{number}.example -> a@b{number}.example\n"
            )
            rules += f"route to @c{number}.example direct\n"
            if number == 3:
                rules += "accept any\n"
            (self.folder / "r" / f"{number:03}.rules").write_text(rules)
        with self.assertRaises(config.ConfigErrors) as caught:
            self.warnings("include r/*.rules")
        (told,) = caught.exception.problems
        self.assertEqual((told.place.source.path, told.place.line), ("r/003.rules", 4))
        self.assertIn("takes all that 496 rules behind it are for", told.what)

    def test_what_many_rules_or_entries_have_alike_is_one_line(self) -> None:
        numbers = range(200)
        for what, rules in (
            (OPEN, (f"accept sender @c{n}.example" for n in numbers)),
            (NO_WILDCARD, (f"accept to *a@c{n}.example" for n in numbers)),
            (NO_GROUP, (f'forward regex "^(.*)@c{n}$" -> "$1@x.example"' for n in numbers)),
            (CAUGHT, (f"forward @c{n}.example -> ann@c{n}.example" for n in numbers)),
        ):
            with self.subTest(what):
                (told,) = self.told(what, "listen 0.0.0.0:25\n" + "\n".join(rules))
                self.assertEqual(told.place.line, 3)
                self.assertIn("(the first of 200 such)", told.what)
        entries = "".join(f"*@c{n}.example a@b.example\n" for n in numbers)
        (told,) = self.told(NO_WILDCARD, "table v virtual file v\nforward <v>", v=entries)
        self.assertIn("(the first of 200 such)", told.what)
        few = "\n".join(f"accept to *a@c{n}.example" for n in range(5))
        self.assertEqual(len(self.told(NO_WILDCARD, few)), 5, "each has its place")

    def test_a_table_that_500_rules_miss_is_one_line(self) -> None:
        rules = "\n".join(f"accept to <ours> when from 10.0.{n}.0/24" for n in range(200))
        hops = "\n".join(f"route to a@c{n}.example via nowhere" for n in range(200))
        with self.assertRaises(config.ConfigErrors) as caught:
            self.warnings(f"{rules}\n{hops}")
        self.assertEqual(
            [each.what for each in caught.exception.problems],
            [
                "there is no table ours, which 200 rules name",
                "there is no next hop nowhere, which 200 rules name",
            ],
        )


class BackscatterTest(CautionTest):
    def test_a_domain_taken_whole_without_its_mailboxes(self) -> None:
        for rules in (
            "accept to @example.com",
            "accept to @.example.com",
            "accept to <ours>",
            'accept to regex "@example\\.com$"',
            "accept to @example.com\nforward info@example.com -> a@b.example",
            "accept to @example.com\nforward @example.com -> @example.org",
            "accept to @example.com when not from 10.0.0.0/8",
            "accept to @example.com\nrewrite recipient @example.com -> @example.org",
            "accept to @example.com when listener 0.0.0.0:25",
            "accept listener 0.0.0.0:25 to @example.com",
            "accept to @example.com when not listener 127.0.0.1:2525",
            "accept to @example.com when tls",
            "accept to @example.com when not tls",
            "accept to @example.com when not rdns none",
            "accept to @example.com when rdns any and helo any",
            "accept to @example.com when helo mail.example.net and listener 0.0.0.0:25 and tls",
            "reject rdns none\naccept to @example.com",
        ):
            with self.subTest(rules):
                self.assertEqual(len(self.told(WHOLE, TABLES + rules)), 1)

    def test_not_where_its_mailboxes_are_known(self) -> None:
        for rules in (
            "accept to a@example.com",
            "accept to <few>",
            "accept to @example.com when from 10.0.0.0/8",
            "accept to @example.com when login any",
            "accept to @example.com\nforward @example.com -> all@b.example",
            "reject to @example.com when not to <few>\naccept to @example.com",
            "accept to @example.com when to <few>",
            "discard to @example.com\naccept from 10.0.0.0/8",
            "hold to @example.com\naccept to @example.com",
            "accept to @example.com when listener 127.0.0.1:2525",
            "accept to @example.com when rdns .example.net",
            "accept to @example.com when certificate any and login any",
        ):
            with self.subTest(rules):
                self.assertEqual(self.told(WHOLE, TABLES + rules), [])

    def test_nor_where_the_next_hop_is_asked_for_them(self) -> None:
        accept = "next-hop x smtp 192.0.2.25:25\naccept to @example.com\n"
        reject = "reject to @example.com when unknown at x\n"
        self.assertEqual(self.told(WHOLE, reject + accept), [])
        self.assertEqual(len(self.told(WHOLE, accept + "route any via x when not unknown at x")), 1)

    def test_a_map_with_a_catch_all_knows_them(self) -> None:
        text = "table v virtual file v\naccept to <v>\nforward <v>"
        self.assertEqual(self.told(WHOLE, text, v="@example.com all@b.example\n"), [])
        self.assertEqual(len(self.told(WHOLE, text, v="@example.com @b.example\n")), 1)
        self.assertEqual(
            len(self.told(WHOLE, text, v="example.com x\na@example.com b@c.test\n")), 1
        )

    def test_an_expect_for_a_mailbox_without_a_rule_says_that_it_is_meant(self) -> None:
        rules = "accept to @example.com\nforward info@example.com -> a@b.example\n"
        for expect, warned in (
            ("expect to x@example.com -> x@example.com direct", 0),
            ("expect to x@example.com -> accept", 0),
            ("expect to info@example.com -> a@b.example", 1),
            ("expect to x@elsewhere.example -> reject", 1),
        ):
            self.assertEqual(len(self.told(WHOLE, rules + expect)), warned, expect)

    def test_five_hundred_such_domains_are_one_line(self) -> None:
        rules = "\n".join(f"accept to @c{number}.example" for number in range(500))
        (told,) = self.told(WHOLE, rules)
        self.assertIn("any mailbox of c0.example", told.what)
        self.assertIn("500 rules do so", told.what)


class HabitsTest(CautionTest):
    def test_rewrite_sender_any_gives_reports_a_sender(self) -> None:
        for rules, warned in (
            ("rewrite sender any -> a@example.com", 1),
            ("rewrite sender @x.example, any -> a@example.com", 1),
            ("rewrite sender any -> a@example.com when from 10.0.0.1", 1),
            ("rewrite sender any -> a@example.com when not sender null", 0),
            ("rewrite sender any -> a@example.com when sender @x.example", 0),
            ("rewrite sender null -> null\nrewrite sender any -> a@example.com", 0),
            ("rewrite sender null -> a@example.com", 0),
            ("rewrite sender any -> @example.com", 0),
            ("rewrite recipient any -> a@example.com", 0),
        ):
            with self.subTest(rules):
                told = self.told(REPORTS, rules)
                self.assertEqual(len(told), warned)
                for each in told:
                    self.assertIn('expected "when not sender null"', str(each))

    def test_a_dollar_is_no_group(self) -> None:
        for rules in (
            'forward regex "^(.+)@x[.]example$" -> "$1@y.example"',
            'forward regex "^(.+)@x[.]example$" -> "${1}@y.example"',
            'rewrite sender regex "^(.+)@x[.]example$" -> "$1@y.example"',
            'rewrite header From regex "^(.+)@x[.]example$" -> "$1@y.example"',
            "forward @x.example -> $1@y.example",
        ):
            with self.subTest(rules):
                (told,) = self.told(NO_GROUP, rules)
                self.assertIn(
                    "$", told.place.source.line(told.place.line)[told.place.column - 1 :][:1]
                )
                self.assertIn('expected "\\1"', told.expected)
        self.assertEqual(
            self.told(NO_GROUP, 'forward regex "^(.+)@x[.]example$" -> "\\1$@y.example"'), []
        )

    def test_nor_is_it_in_a_table(self) -> None:
        for kind, line in (
            ("virtual", "a@x.example $1@y.example"),
            ("canonical", "@x.example ${1}@y.example"),
            ("aliases", "a: b@y.example, $1@z.example"),
        ):
            stage = "rewrite recipient" if kind == "canonical" else "forward"
            at = " at @x.example" if kind == "aliases" else ""
            text = f"table t {kind} file t\n{stage} <t>{at}"
            (told,) = self.told(NO_GROUP, text, t=f"# a comment\n{line}\n")
            self.assertEqual((told.place.line, told.place.column), (2, line.index("$") + 1), kind)

    def test_an_asterisk_is_no_wildcard(self) -> None:
        for rules in (
            "forward x@example.com -> *@example.net",
            "accept to info*@example.com",
            "accept login *@example.com",
            "accept helo *.example.com",
            "accept from 10.0.0.1 when not sender *news@example.com",
            "table t { *@example.com }\naccept to <t>",
            "table t file t\naccept to <t>",
            "table v virtual file v\nforward <v>",
            "table a aliases file a\nforward <a> at @example.com",
        ):
            with self.subTest(rules):
                told = self.told(
                    NO_WILDCARD, rules,
                    t="*@example.com\n", v="*@example.com a@b.example\n", a="*: a@b.example\n",
                )  # fmt: skip
                self.assertEqual(len(told), 1)
                self.assertTrue(told[0].expected)
        (target,) = self.told(
            NO_WILDCARD, "table v virtual file v\nforward <v>", v="a@example.com *@b.example\n"
        )
        self.assertEqual((target.place.line, target.place.column), (1, 15))
        for rules in (
            'accept to "info*"@example.com',
            'table t { "*"@example.com }\naccept to <t>',
        ):
            self.assertEqual(self.told(NO_WILDCARD, rules), [], "in quotes it is meant")

    def test_a_dot_of_a_regex_is_any_letter(self) -> None:
        for rule, name in (
            (r'reject to regex "^.*@mail.ours.com$"', "mail.ours.com"),
            (r'accept to info@ours.com when sender regex "@mail\.ours.com$"', r"mail\.ours.com"),
            (r'forward regex "^(.+)@old.example$" -> "\1@new.example"', "old.example"),
            (r'reject from 192.0.2.1 when rdns regex "^mail.ours.com$"', "mail.ours.com"),
        ):
            [problem] = self.told("any letter", rule)
            self.assertIn(f'"{name}"', problem.what)
            self.assertEqual(problem.place.source.line(problem.place.line)
                             [problem.place.column - 1:][: len(name)], name)  # fmt: skip
            self.assertIn(r"\.", problem.expected)
        for rule in (
            r'reject to regex "^.*@mail\.ours\.com$"',
            r'reject to regex "^.*@.*\.ours\.com$"',
            r'reject to regex "@(?:one|two)\.example$"',
            r'reject to regex "^info.*@"',
            r'reject to regex "@mail.+\.example$"',
            r'reject to regex "@[a-z.]+$"',
        ):
            self.assertEqual(self.told("any letter", rule), [], rule)

    def test_many_such_dots_are_one_line(self) -> None:
        rules = "".join(f'reject to regex "^x@m{n}.ours.com$"\n' for n in range(7))
        [problem] = self.told("any letter", rules)
        self.assertIn("the first of 7", problem.what)

    def test_a_target_that_its_own_catch_all_catches(self) -> None:
        for rules, warned in (
            ("forward @example.com -> office@example.com", 1),
            ("forward @example.com -> a@example.com, b@example.com", 2),
            ("forward @example.com -> a@example.net, b@example.com", 1),
            ("forward any -> a@example.com", 1),
            ("forward @.example.com -> a@x.example.com", 1),
            ('forward regex "@example[.]com$" -> a@example.com', 1),
            ("forward <ours> -> a@example.com", 1),
            ("forward @example.com -> a@example.net", 0),
            ("forward @example.com -> @example.com", 0),
            ("forward a@example.com -> a@example.com, b@example.net", 0),
            ("forward office@example.com -> office@example.com\n"
             "forward @example.com -> office@example.com", 0),
            ("forward office@example.com -> ann@example.net\n"
             "forward @example.com -> office@example.com", 0),
        ):  # fmt: skip
            with self.subTest(rules):
                self.assertEqual(len(self.told(CAUGHT, TABLES + rules)), warned)

    def test_and_in_a_map(self) -> None:
        text = "table v virtual file v\nforward <v>"
        for entries, warned in (
            ("@example.com office@example.com\n", 1),
            ("@example.com office@example.com\noffice@example.com office@example.com\n", 0),
            ("@example.com office@example.net\n@example.net ann@b.example\n", 0),
        ):
            told = self.told(CAUGHT, text, v=entries)
            self.assertEqual(len(told), warned, entries)
            for each in told:
                self.assertEqual(each.place.source.name, "v")
