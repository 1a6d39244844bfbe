"""What a good configuration is warned of, with its place; and what gives no warning."""

from __future__ import annotations

import re
import shutil
import sqlite3
import unittest
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

from relayd import config
from relayd.rules.language.source import Problem
from tests.unit.rules.sample import outcome, write_site

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "warnings"


class FolderTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def load(self, text: str, **files: str | bytes) -> config.Settings:
        for name, content in {"relayd.conf": text, **files}.items():
            data = content if isinstance(content, bytes) else content.encode()
            (self.folder / name).write_bytes(data)
        return config.load(self.folder / "relayd.conf")

    def refused(self, text: str, **files: str | bytes) -> tuple[Problem, ...]:
        with self.assertRaises(config.ConfigErrors) as caught:
            self.load(text, **files)
        return caught.exception.problems


class GoldenTest(unittest.TestCase):
    """Doubtful configurations, each with its warnings beside it, caret and all."""

    maxDiff = None

    def test_each_gives_the_expected_warnings(self) -> None:
        folders = sorted(GOLDEN.iterdir())
        self.assertGreaterEqual(len(folders), 10)
        for folder in folders:
            with self.subTest(folder.name):
                settings = config.load(folder / "relayd.conf")
                shown = "".join(f"{each}\n" for each in settings.warnings)
                expected = (folder / "expected-warnings").read_text()
                self.assertEqual(shown.replace(f"{folder}/", ""), expected)
                for each in settings.warnings:
                    self.assertRegex(each.headline, r"^\S+:\d+:\d+: [^;]+.*; expected .+")
                    self.assertRegex(str(each), r"\n    .*\n    [ \t]*\^+$")


class HostnameTest(FolderTest):
    def test_a_name_that_others_do_not_take(self) -> None:
        for name, told in (
            ("localhost", "every host's name for itself"),
            ("localhost.localdomain", "every host's name for itself"),
            ("gw.localdomain", "every host's name for itself"),
            ("LOCALHOST", "every host's name for itself"),
            ("mail", "a bare word"),
            ("192.0.2.1", "an address"),
            ("gw.example.com", ""),
            ("localhost.example.com", ""),
            ("xn--mller-kva.example", ""),
        ):
            with self.subTest(name):
                settings = self.load(f"hostname {name}\naccept from 10.0.0.0/8\n")
                shown = [str(each) for each in settings.warnings]
                self.assertEqual(len(shown), int(bool(told)), shown)
                for each in shown:
                    self.assertIn(f"the hostname {name} is {told}", each)
                    self.assertIn("expected the full name", each)
                    self.assertIn("    hostname", each)

    def test_the_systems_own_where_others_are_greeted_by_it(self) -> None:
        for listen, system, warned in (
            ("0.0.0.0:25", "localhost", 1),
            ("0.0.0.0:25", "gw", 1),
            ("[::]:25", "gw", 1),
            ("10.0.0.1:25", "gw", 1),
            ("0.0.0.0:25", "gw.example.com", 0),
            ("127.0.0.1:25", "gw", 0),
        ):
            with (
                self.subTest(listen=listen, system=system),
                mock.patch("relayd.config.load.system_hostname", return_value=system),
            ):
                settings = self.load(f"listen {listen}\naccept from 10.0.0.0/8\n")
                shown = [str(each) for each in settings.warnings]
                self.assertEqual(len(shown), warned, shown)
                for each in shown:
                    self.assertIn(f"no hostname is set, and the system's, {system}, is", each)


class UnseenTest(FolderTest):
    RULES = "hostname gw.example.com\naccept from 10.0.0.1\n"

    def test_invisible_and_turning_characters_are_told_with_their_code_point(self) -> None:
        for character, point in (
            ("\u200b", "U+200B (zero width space) cannot be seen"),
            ("\u00ad", "U+00AD (soft hyphen) cannot be seen"),
            ("\u2060", "U+2060 (word joiner) cannot be seen"),
            ("\u034f", "U+034F (combining grapheme joiner) cannot be seen"),
            ("\u200d", "U+200D (zero width joiner) cannot be seen"),
            ("\u202e", "U+202E (right-to-left override) turns the line round"),
            ("\u2066", "U+2066 (left-to-right isolate) turns the line round"),
            ("\u200f", "U+200F (right-to-left mark) turns the line round"),
            ("\u061c", "U+061C (arabic letter mark) turns the line round"),
            ("\u3164", "U+3164 (hangul filler) cannot be seen"),
            ("\U000e0041", "U+E0041 (tag latin capital letter a) cannot be seen"),
        ):
            with self.subTest(point):
                text = f"{self.RULES}accept to a{character}nn@example.com\n"
                (told,) = self.load(text).warnings
                self.assertEqual((told.place.line, told.place.column), (3, 12))
                self.assertTrue(told.what.startswith(point), told.what)
        (told,) = self.load(f"{self.RULES}accept\u00a0to ann@example.com\n").warnings
        self.assertTrue(told.what.startswith("U+00A0 (no-break space)"), told.what)

    def test_not_in_quotes_and_comments(self) -> None:
        settings = self.load(
            f"{self.RULES}# a\u200bb\naccept to a@example.com  # c\u202ed\n"
            'accept to "a\u200bb"@example.com\nhold sender x@example.com "why\u2066"\n'
        )
        self.assertEqual(settings.warnings, ())

    def test_letters_that_need_them_may_be_joined(self) -> None:
        domain = "\u0646\u0627\u0645\u0647\u200c\u0627\u06cc.example"
        settings = self.load(f"{self.RULES}accept to ann@{domain}\n")
        self.assertEqual(settings.warnings, ())

    def test_in_tables_too(self) -> None:
        for kind, entry in (
            ("", "a\u200bnn@example.com"),
            ("virtual", "ann@example.com a\u200bnn@example.net"),
            ("aliases", "ann: a\u200bnn@example.net"),
            ("transport", "exa\u200bmple.com smtp:[h.example]"),
        ):
            with self.subTest(kind):
                settings = self.load(
                    f"{self.RULES}table t {kind} file t\n", t=f"# co\u200bmment\n{entry}\n"
                )
                (told,) = settings.warnings
                self.assertEqual((told.place.source.name, told.place.line), ("t", 2))
        (told,) = self.load(f"{self.RULES}table t {{ a\u200bb@example.com }}\n").warnings
        self.assertEqual(told.place.line, 3)

    def test_one_character_many_times_is_one_line(self) -> None:
        rules = "".join(f"accept to a{n}\u200b@example.com\n" for n in range(300))
        (told,) = self.load(self.RULES + rules).warnings
        self.assertIn("at 300 places", told.what)

    def test_where_it_spoils_a_statement_it_is_told_beside_the_mistake(self) -> None:
        told = self.refused(f"{self.RULES}acc\u200bept to ann@example.com\n")
        self.assertEqual(len(told), 2)
        self.assertTrue(any("U+200B" in each.what for each in told))
        self.assertTrue(all("\u200b" not in str(each) for each in told), "what is shown is plain")


class ContentsTest(FolderTest):
    def test_it_says_what_it_read(self) -> None:
        path = write_site(self.folder / "relayd")
        self.assertEqual(
            {
                **config.contents(config.load(path)),
                "files": [each.name for each in config.load(path).files],
            },
            {
                "files": ["relayd.conf", "10-site.rules", "inside", "aliases"],
                "rules": 18,
                "tables": {"ours": 5, "inside": 3, "people": 4},
                "tests": 3,
            },
        )

    def test_a_table_that_no_directory_has_filled_was_not_read(self) -> None:
        settings = self.load(
            "table read http http://127.0.0.1:1/x refresh 1m\n"
            "table asked http http://127.0.0.1:1/$1 live cache 5m\n"
            "table here { a@example.com }\naccept to <here>, <read>, <asked>\nroute any direct\n"
        )
        self.assertEqual(config.contents(settings)["tables"], {"here": 1})


class QuietTest(FolderTest):
    """What ships, and what the documents show, is warned of nothing."""

    def test_what_ships(self) -> None:
        self.assertEqual(config.load(ROOT / "etc/relayd/relayd.conf").warnings, ())
        self.assertEqual(config.embedded(self.folder).warnings, ())

    def test_the_example_of_the_language(self) -> None:
        self.assertEqual(config.load(write_site(self.folder / "relayd")).warnings, ())

    def test_the_examples_of_the_manual(self) -> None:
        text = (ROOT / "docs/man/relayd-rules.5").read_text()
        example = text[text.index(".Sh EXAMPLES") :]
        example = example[example.index(".Bd -literal\n") + 13 : example.index("\n.Ed")]
        settings = self.load(
            "hostname gw.example.com\n" + example + "\n", aliases="ann: ann@example.net\n"
        )
        self.assertEqual(settings.warnings, ())

    def test_the_examples_folder(self) -> None:
        for path in (ROOT / "docs/examples").rglob("relayd.conf"):
            folder = self.folder / path.parent.name
            shutil.copytree(path.parent, folder)
            with self.subTest(path.name):
                self.assertEqual(config.load(folder / path.name).warnings, ())

    def test_what_debians_package_writes(self) -> None:
        """For a satellite and for a machine alone (the script's own lines)."""
        for route in ("via smarthost", "direct"):
            settings = self.load(
                "hostname box.example.com\nlisten 127.0.0.1:25\nlisten [::1]:25\n"
                "table inside { 127.0.0.0/8, ::1 }\ntable aliases aliases file aliases\n"
                "next-hop smarthost smtp mail.isp.example\n"
                "accept from <inside>\n"
                "forward <aliases> at @box.example.com, @box, @localhost\n"
                f"route any {route}\n"
                "expect from 203.0.113.9 to somebody@example.net -> reject 550 5.7.1\n",
                aliases="mailer-daemon: postmaster\npostmaster: root\nroot: ann@example.com\n",
            )
            self.assertEqual(settings.warnings, ())


class TableTest(FolderTest):
    def test_latin_1_in_a_comment_does_not_refuse_the_file(self) -> None:
        for kind, lines in (
            ("", b"# M\xfcller\nann@example.com  # J\xf6rg\n"),
            ("virtual", b"# M\xfcller\nann@example.com ann@example.net\n  # J\xf6rg\n"),
            (
                "aliases",
                b"# M\xfcller\nann: ann@example.net (J\xf6rg)\nb: J\xf6rg <j@example.net>\n",
            ),
            ("transport", b"# M\xfcller\nexample.com smtp:[h.example]\n"),
        ):
            with self.subTest(kind):
                settings = self.load(
                    f"hostname gw.example.com\ntable t {kind} file t\naccept from 10.0.0.1\n",
                    t=lines,
                )
                self.assertEqual(settings.warnings, ())
                self.assertGreaterEqual(settings.ruleset.tables["t"].size, 1)

    def test_latin_1_in_a_comment_of_the_rules_does_not_either(self) -> None:
        settings = self.load("", **{"relayd.conf": b"# M\xfcller\naccept to a@b.test  # \xfc\n"})
        self.assertEqual(len(settings.ruleset.items), 1)

    def test_latin_1_in_an_entry_does(self) -> None:
        for kind, lines, column in (
            ("", b"m\xfcller@example.com\n", 2),
            ("virtual", b"ann@example.com m\xfcller@example.net\n", 18),
            ("aliases", b"ann: m\xfcller@example.net (M\xfcller)\n", 7),
            ("aliases", b'ann: "m\xfcller"@example.net\n', 8),
        ):
            (told,) = self.refused(f"table t {kind} file t\naccept from 10.0.0.1\n", t=lines)
            self.assertEqual(told.what, "octet 0xfc is not UTF-8")
            self.assertEqual((told.place.line, told.place.column), (1, column), lines)
            str(told).encode()  # it can be shown

    def database(self, *rows: tuple[object, ...]) -> None:
        with closing(sqlite3.connect(self.folder / "db")) as database, database:
            columns = ", ".join("abc"[: len(rows[0])])
            database.execute(f"CREATE TABLE t ({columns})")
            marks = ", ".join("?" * len(rows[0]))
            database.executemany(f"INSERT INTO t VALUES ({marks})", rows)
            database.execute(
                "UPDATE t SET a = CAST(x'6dfc40622e74657374' AS TEXT) WHERE a = 'latin'"
            )

    RULES = "hostname gw.example.com\naccept from 10.0.0.1\n"
    MAP = f'{RULES}table t sqlite file db query "SELECT a, b FROM t"\nforward <t>\n'
    LIST = f'{RULES}table t sqlite file db query "SELECT a FROM t"\n'

    def test_an_address_with_several_rows_becomes_what_stands_in_all_of_them(self) -> None:
        self.database(
            ("ann@b.test", "ann@c.test"), ("bob@b.test", "x@c.test"), ("ANN@b.test", "eve@c.test")
        )
        settings = self.load(self.MAP)
        self.assertEqual(settings.warnings, ())
        self.assertEqual(
            outcome(settings.ruleset, "ann@b.test", client="10.0.0.1"),
            "ann@c.test direct, eve@c.test direct",
        )

    def test_a_bad_row_of_a_map_is_passed_over_and_named(self) -> None:
        good = [("ann@b.test", "ann@c.test"), ("bob@b.test", "bob@c.test")]
        for bad, why in (
            (("x@@y", "z@c.test"), "x@@y"),
            (("eve@b.test", "no address at @"), '"@" is no address'),
            (("eve@b.test", None), "nothing behind it"),
            ((None, "eve@c.test"), "no address in it"),
            (("", "eve@c.test"), "no address in it"),
            (("  ", "eve@c.test"), "no address in it"),
            (("eve smith", "eve@c.test"), "is no address"),
            (("# eve@b.test", "eve@c.test"), "is no address"),
            (("latin", "eve@c.test"), "not UTF-8"),
            ((b"\xff\xfe", "eve@c.test"), "not UTF-8"),
        ):
            with self.subTest(bad):
                (self.folder / "db").unlink(missing_ok=True)
                self.database(good[0], bad, good[1])
                settings = self.load(self.MAP)
                (told,) = settings.warnings
                self.assertIn("table t, row 2 is passed over", told.what)
                self.assertIn(why, told.what)
                self.assertEqual(told.place.line, 2)
                for to, expected in (
                    ("ann@b.test", "ann@c.test direct"),
                    ("bob@b.test", "bob@c.test direct"),
                    ("smith@b.test", "smith@b.test direct"),
                ):
                    self.assertEqual(outcome(settings.ruleset, to, client="10.0.0.1"), expected)

    def test_and_of_a_list(self) -> None:
        self.database(("a@b.test",), ("x@@y",), ("10.0.0.0/99",), (None,), ("c.test",), ("d e",))
        settings = self.load(self.LIST)
        self.assertEqual([each.place.line for each in settings.warnings], [2, 3, 4, 6])
        self.assertEqual(settings.ruleset.tables["t"].size, 2)

    def test_a_thousand_bad_rows_are_ten_lines(self) -> None:
        self.database(("a@b.test",), *((f"x@@{n}",) for n in range(1000)))
        warnings = self.load(self.LIST).warnings
        self.assertEqual(len(warnings), 10)
        self.assertIn("and so are 990 more", warnings[-1].what)

    def test_a_bad_line_of_a_file_refuses_it_still(self) -> None:
        (told,) = self.refused("table t file t\naccept from 10.0.0.1\n", t="a@b.test\nx@@y\n")
        self.assertEqual(told.place.line, 2)


def _golden(folder: Path) -> None:
    """Write what is expected, for somebody to read before it is committed."""
    for each in sorted(folder.iterdir()):
        warnings = config.load(each / "relayd.conf").warnings
        text = "".join(f"{warning}\n" for warning in warnings).replace(f"{each}/", "")
        (each / "expected-warnings").write_text(re.sub(r"\r", "", text))
