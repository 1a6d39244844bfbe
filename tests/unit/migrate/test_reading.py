from __future__ import annotations

import tempfile
import unittest
from ipaddress import ip_network
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.migrate.domains import network_of
from relayd.migrate.expressions import carried, template
from relayd.migrate.maincf import MainCf, MainCfError, split
from relayd.migrate.mastercf import read_services
from relayd.migrate.settings import seconds, written
from relayd.migrate.tables import Expression, MapSpec, PostfixTables, maps
from relayd.rules.language.regex import search
from relayd.verification.samples import example


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        kept = tempfile.TemporaryDirectory(prefix="relayd-test-")
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)

    def put(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, "utf-8")

    def main(self, text: str) -> MainCf:
        self.put("main.cf", text)
        return MainCf.read(self.folder, hostname=lambda: "mail.corp.example")


class MainCfTests(Folder):
    def test_continued_lines_and_comments_between_them(self) -> None:
        main = self.main("# top\na = one,\n  # inside\n\n\ttwo\nb=3\n  \n")
        self.assertEqual(main["a"], "one, two")
        self.assertEqual(main.given["a"].line, 2)
        self.assertEqual(main["b"], "3")

    def test_the_last_of_a_name_counts_and_the_first_is_remembered(self) -> None:
        main = self.main("a = 1\na = 2\n")
        self.assertEqual(main["a"], "2")
        self.assertEqual([each.line for each in main.repeated], [1])

    def test_expansion_in_all_its_forms(self) -> None:
        main = self.main("x = 5\nempty =\nnested = ${wrapped}\nwrapped = <$x>\n")
        for text, wanted in (
            ("$x ${x} $(x)", "5 5 5"),
            ("${x?yes} ${empty?yes}.", "yes ."),
            ("${x:no} ${empty:no}", " no"),
            ("${x?{a b}:{c}}", "a b"),
            ("${empty?{a}:{c d}}", "c d"),
            ("${{$x} == {5} ? {same} : {other}}", "same"),
            ("${{$x} > {40} ? {more} : {less}}", "less"),
            ("${{3.6} <level {3.10} ? {old} : {new}}", "old"),
            ("$nested", "<5>"),
            ("$$x", "$x"),
            ("${x", "5"),
        ):
            self.assertEqual(main.expand(text), wanted, text)

    def test_a_name_that_refers_to_itself_ends(self) -> None:
        self.assertIsInstance(self.main("a = $b\nb = $a\n")["a"], str)

    def test_names_that_depend_on_the_machine(self) -> None:
        main = self.main("")
        self.assertEqual(main["myhostname"], "mail.corp.example")
        self.assertEqual(main["mydomain"], "corp.example")
        self.assertEqual(
            split(main["mydestination"]),
            ["mail.corp.example", "localhost.corp.example", "localhost"],
        )

    def test_defaults_follow_the_compatibility_level(self) -> None:
        self.assertEqual(self.main("")["mynetworks_style"], "subnet")
        self.assertEqual(self.main("compatibility_level = 3.6\n")["mynetworks_style"], "host")
        self.assertEqual(self.main("")["append_dot_mydomain"], "yes")
        self.assertIn(
            "defer_unauth", self.main("compatibility_level=2\n")["smtpd_relay_restrictions"]
        )
        self.assertEqual(self.main("")["smtpd_relay_restrictions"], "")

    def test_myorigin_from_a_file(self) -> None:
        self.put("mailname", "corp.example\nmore\n")
        self.assertEqual(self.main(f"myorigin = {self.folder}/mailname\n").myorigin, "corp.example")
        self.assertEqual(self.main("myorigin = /nowhere/x\n").myorigin, "mail.corp.example")

    def test_no_file_is_one_plain_error(self) -> None:
        with self.assertRaisesRegex(MainCfError, "cannot read .*main.cf: No such file"):
            MainCf.read(self.folder)

    def test_lists_keep_braces_together(self) -> None:
        self.assertEqual(
            split("hash:/a, inline:{ a=1, { b = 2 3 } }\n c"),
            ["hash:/a", "inline:{ a=1, { b = 2 3 } }", "c"],
        )

    @given(st.text(alphabet="ab${}()?:=<> ", max_size=40))
    def test_any_text_expands(self, text: str) -> None:
        main = MainCf(Path("/nowhere"), [], hostname=lambda: "h.example")
        self.assertIsInstance(main.expand(text), str)


class MasterCfTests(Folder):
    def test_services_with_overrides(self) -> None:
        self.put(
            "master.cf",
            "smtp inet n - y - - smtpd\n"
            "#smtps inet n - y - - smtpd\n"
            "submission inet n - y - - smtpd\n  -o syslog_name=postfix/submission\n"
            "  -o { smtpd_relay_restrictions = permit_sasl_authenticated, reject }\n"
            "slow unix - - n - 2 smtp -o smtp_connect_timeout=5s\n",
        )
        smtp, submission, slow = read_services(self.folder)
        self.assertEqual((smtp.title, smtp.line), ("smtp/inet", 1))
        self.assertEqual(
            submission.overrides,
            {
                "syslog_name": "postfix/submission",
                "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            },
        )
        self.assertEqual((slow.command, slow.overrides["smtp_connect_timeout"]), ("smtp", "5s"))

    def test_no_file_is_no_services(self) -> None:
        self.assertEqual(read_services(self.folder), [])


class TableTests(Folder):
    def test_specs(self) -> None:
        self.assertEqual(
            [str(each) for each in maps("proxy:hash:/a, /b regexp:/c static:x")],
            ["hash:/a", "hash:/b", "regexp:/c", "static:x"],
        )

    def test_text_tables(self) -> None:
        self.put("v", '# c\na@x  b@y,\n   c@z\n"odd name"@x  q@y\nA@X again\nempty\n')
        table = PostfixTables(self.folder).read(MapSpec("hash", "/etc/postfix/v"))
        self.assertEqual(
            [(row.key, row.value, row.line) for row in table.rows],
            [("a@x", "b@y, c@z", 2), ('"odd name"@x', "q@y", 4)],
        )
        self.assertEqual([row.line for row in table.repeated], [5])
        self.assertFalse(table.plain)
        self.assertEqual(table.where(4), "v:4")

    def test_a_copy_of_etc_postfix_has_its_own_files(self) -> None:
        self.put("virtual", "a@x b@y\n")
        shelf = PostfixTables(self.folder)
        self.assertEqual(shelf.locate("/etc/postfix/virtual"), self.folder / "virtual")

    def test_tables_without_text_say_so(self) -> None:
        self.put("only.db", "")
        shelf = PostfixTables(self.folder)
        self.assertIn(
            "only its compiled form", shelf.read(MapSpec("hash", "/etc/postfix/only")).trouble
        )
        self.assertIn("no access to mysql", shelf.read(MapSpec("mysql", "/x.cf")).trouble)

    def test_pattern_tables(self) -> None:
        self.put(
            "p",
            "# c\n/^a@/ one\n!/b\\/c/i  two  words\nif !/@x$/\n/d/\n   three\nif /e/\n#q#x four\n"
            "endif\nendif\n/f/ five\n",
        )
        rows = PostfixTables(self.folder).read(MapSpec("regexp", str(self.folder / "p"))).patterns
        self.assertEqual(
            [(row.expression.text, row.expression.flags, row.value) for row in rows],
            [("^a@", "", "one"), ("b/c", "i", "two  words"), ("d", "", "three"), ("f", "", "five")],
        )
        self.assertTrue(rows[1].expression.negated)
        self.assertEqual([guard.text for guard in rows[2].guards], ["@x$"])
        self.assertTrue(rows[2].guards[0].negated)
        self.assertEqual(rows[3].guards, ())

    def test_inline_static_and_cidr(self) -> None:
        shelf = PostfixTables(self.folder)
        inline = shelf.read(MapSpec.parse("inline:{ a@x=b@y, { c@x = d@y, e@y } }"))
        self.assertEqual([(row.key, row.value) for row in inline.rows],
                         [("a@x", "b@y"), ("c@x", "d@y, e@y")])  # fmt: skip
        self.assertEqual(shelf.read(MapSpec.parse("static:x@y")).patterns[0].value, "x@y")
        self.put("c", "10.0.0.0/8 OK\n!192.0.2.0/24 REJECT no\n")
        rows = shelf.read(MapSpec("cidr", str(self.folder / "c"))).patterns
        self.assertEqual([row.value for row in rows], ["OK", "REJECT no"])

    def test_aliases(self) -> None:
        self.put("a", 'root: admin, \\keep\n"odd one": |"/bin/x y"\nlist: :include:/x  # c\n')
        table = PostfixTables(self.folder).read(
            MapSpec("hash", str(self.folder / "a")), aliases=True
        )
        self.assertEqual([(row.key, row.value) for row in table.rows],
                         [("root", "admin, \\keep"), ("odd one", '|"/bin/x y"'),
                          ("list", ":include:/x  # c")])  # fmt: skip


class ExpressionTests(unittest.TestCase):
    def carry(self, text: str, flags: str = "", kind: str = "regexp") -> str:
        found = carried(Expression(text, flags, False), kind)
        return found.text or f"not: {found.why}"

    def test_posix_becomes_python_in_lower_case(self) -> None:
        for text, wanted in (
            (r"^(.+)-Team@Example\.com$", r"^(.+)-team@example\.com$"),
            ("^[[:alpha:]][[:digit:]]*@x$", "^[a-z][0-9]*@x$"),
            (r"^[\.a]@x$", r"^[\\.a]@x$"),
            ("^[]a]@x$", r"^[\]a]@x$"),
            ("^[^A-C]@x$", "^[^a-c]@x$"),
        ):
            self.assertEqual(self.carry(text), wanted)

    def test_perl_keeps_its_classes(self) -> None:
        self.assertEqual(self.carry(r"^\S+@X\.example$", kind="pcre"), r"^\S+@x\.example$")

    def test_one_that_could_run_away_is_tightened_where_that_helps(self) -> None:
        self.assertEqual(self.carry(r"(.*)@(.*)\.x\.example$"), r"^([^@]*)@([^@]*)\.x\.example$")
        self.assertIn("not: the regex could take very long", self.carry("^(a+)+$"))

    def test_what_asks_for_capitals_never_fits(self) -> None:
        self.assertIn("capital", self.carry("^Info@", "i"))
        self.assertEqual(self.carry("^Info@"), "^info@")

    def test_templates(self) -> None:
        self.assertEqual(template("$1@y", "^(a)@"), (r"\1@y", ""))
        self.assertEqual(template("${1}2@y", "^(a)@"), (r"\g<1>2@y", ""))
        self.assertEqual(template("$(1)-$$@y", "^(a)@")[0], r"\1-$@y")
        self.assertNotEqual(template("$2@y", "^(a)@")[1], "")

    @given(st.text(alphabet="ab@.[]^$*+?(){}|\\:-x1", max_size=25))
    def test_any_text_is_carried_or_refused(self, text: str) -> None:
        for kind in ("regexp", "pcre"):
            found = carried(Expression(text, "", False), kind)
            self.assertNotEqual(bool(found.text) or text == "", bool(found.why))

    def test_examples_are_found_by_their_expression(self) -> None:
        for text in (r"^(.+)-team@example\.com$", r"^list-([a-z0-9]+)@l\.example$", "^abuse@",
                     r"@(corp|partner)\.example$"):  # fmt: skip
            made = example(text)
            self.assertIsNotNone(search(text, made), made)
            Mailbox.parse(made)


class SmallThings(unittest.TestCase):
    def test_networks(self) -> None:
        for text, wanted in (
            ("[::1]/128", "::1"),
            ("[2001:db8::]/32", "2001:db8::/32"),
            ("192.0.2", "192.0.2.0/24"),
            ("10", "10.0.0.0/8"),
            ("[::ffff:127.0.0.0]/104", "::ffff:7f00:0/104"),
            ("2001:db8:0:7", "2001:db8:0:7::/64"),
            ("2001:db8:0:0:7", None),
            ("2001:db8:0", None),
            ("192.0.2.1", "192.0.2.1"),
            ("10.1.2.3/8", None),
            ("host.example", None),
        ):
            found = network_of(text)  # how it spells a mapped address depends on Python
            self.assertEqual(found and ip_network(found), wanted and ip_network(wanted), text)

    def test_times(self) -> None:
        self.assertEqual(seconds("5", "d"), 432000)
        self.assertEqual(seconds("4000s", "d"), 4000)
        self.assertIsNone(seconds("soon", "d"))
        self.assertEqual(written(4000), "1h6m40s")
        self.assertEqual(written(0), "0s")
