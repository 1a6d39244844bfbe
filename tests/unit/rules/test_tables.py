"""Tables: what may stand in a file, and what a rule finds there."""

from __future__ import annotations

import sqlite3
import unittest
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.mail.nexthop import HostPort
from relayd.rules.ruleset import Ruleset
from tests.unit.rules.sample import outcome, plan, problems, rules, senders


class _Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def rules(self, text: str, **files: str) -> Ruleset:
        for name, content in files.items():
            (self.folder / name).write_text(content)
        return rules(text, self.folder)


class ListTests(_Folder):
    FILE = (
        "# a comment\n\n10.0.0.0/8  # inside\n2001:db8::/32\n192.0.2.7\n[::1]\nexample.com\n"
        '.sub.example\n@at.example\njoe@box.example\npostmaster@\n"a b"@q.example\nMÜLLER.example\n'
    )

    def test_every_kind_of_entry(self) -> None:
        one = self.rules(
            "table t file t\naccept from <t>\naccept to <t>\naccept sender <t>\naccept login <t>\n",
            t=self.FILE,
        )
        for to, facts, ok in (
            ("x@y.example", {"client": "10.255.0.1"}, True),
            ("x@y.example", {"client": "192.0.2.7"}, True),
            ("x@y.example", {"client": "::1"}, True),
            ("x@y.example", {"client": "2001:db8:1::9"}, True),
            ("x@y.example", {"client": "192.0.2.8"}, False),
            ("x@Example.com", {}, True),
            ("x@a.example.com", {}, False),
            ("x@a.sub.example", {}, True),
            ("x@sub.example", {}, False),
            ("x@at.example", {}, True),
            ("JOE@box.example", {}, True),
            ("jim@box.example", {}, False),
            ("postmaster@anywhere.example", {}, True),
            ('"a b"@q.example', {}, True),
            ("x@müller.example", {}, True),
            ("x@xn--mller-kva.example", {}, True),
            ("x@y.example", {"sender": "q@at.example"}, True),
            ("x@y.example", {"login": "example.com"}, True),
        ):
            with self.subTest(to=to, **facts):
                expected = f"{to} direct" if ok else "reject 550 5.7.1"
                self.assertEqual(outcome(one, to, **facts), expected)

    def test_the_note_says_where(self) -> None:
        one = self.rules("table t file t\naccept to <t>\n", t=self.FILE)
        self.assertEqual(plan(one, "x@example.com").trail[0].note, "t: t:7")

    def test_a_hundred_thousand_networks_are_a_look_up(self) -> None:
        nets = "".join(f"10.{n >> 8 & 255}.{n & 255}.0/24\n" for n in range(10_000))
        one = self.rules("table t file t\naccept from <t>\n", t=nets)
        self.assertEqual(outcome(one, "x@y.example", client="10.39.15.7"), "x@y.example direct")
        self.assertEqual(outcome(one, "x@y.example", client="10.40.15.7"), "reject 550 5.7.1")


class AliasTests(_Folder):
    RULES = "table people aliases file aliases include lists\naccept any\nforward <people> at @x.example\n"

    def test_the_form_of_aliases(self) -> None:
        (self.folder / "lists").mkdir()
        (self.folder / "lists" / "all").write_text(
            "# everyone\nann@y.example\nbob, cid@y.example\n"
        )
        one = self.rules(
            self.RULES,
            aliases=(
                "# aliases\npostmaster:   root\nroot: ann@y.example,\n\tbob\n"
                '"odd name": ann@y.example\nall: :include:all\nfull@z.example: ann@y.example\n'
                "stop: \\stop, ann@y.example\n"
            ),
        )
        for to, expected in (
            ("postmaster@x.example", "ann@y.example direct, bob@x.example direct"),
            ('"odd name"@x.example', "ann@y.example direct"),
            ("ALL@x.example", "ann@y.example direct, bob@x.example direct, cid@y.example direct"),
            ("full@z.example", "ann@y.example direct"),
            ("root@other.example", "root@other.example direct"),
            ("stop@x.example", "stop@x.example direct, ann@y.example direct"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, to), expected)

    def test_include_stays_below_its_folder_whatever_links_say(self) -> None:
        (self.folder / "lists").mkdir()
        (self.folder / "secret").write_text("ann@y.example\n")
        (self.folder / "lists" / "link").symlink_to(self.folder / "secret")
        (self.folder / "aliases").write_text("a: :include:link\nb: :include:/etc/passwd\n")
        wrong = problems(self.RULES, self.folder)
        self.assertIn("link lies outside the folder", wrong[0])
        self.assertIn("/etc/passwd lies outside the folder", wrong[1])

    def test_phrases_and_comments_are_for_people(self) -> None:
        """RFC 5322 sections 3.2.2 and 3.4: read as addresses, each word would get the mail."""
        (self.folder / "lists").mkdir()
        (self.folder / "lists" / "all").write_text(
            "Ann Lee <ann@y.example>\n   bob (on leave), Cid <cid@y.example>\n"
            '\t"Day, Dan" <dan@y.example>\n# nobody <x@y.example>\n  # nor <z@y.example>\n'
        )
        one = self.rules(
            self.RULES,
            aliases=(
                "a: Ann Lee <ann@y.example>\nb: ann@y.example (Ann (of sales) \\) Lee), bob\n"
                'c: "Lee, Ann" <ann@y.example>, Bob <bob>, (nobody) cid@y.example\n'
                "d: <ann@y.example>,<bob@y.example>\ne: ann(x)@y.example\n"
                'f: "a (b)"@y.example\ng: Ann Lee\n   <ann@y.example>,\n   (and) bob\n'
                "h: :include:all\ni: (x) \\i, Ann <ann@y.example> (x)\n"
            ),
        )
        for to, expected in (
            ("a", "ann@y.example direct"),
            ("b", "ann@y.example direct, bob@x.example direct"),
            ("c", "ann@y.example direct, bob@x.example direct, cid@y.example direct"),
            ("d", "ann@y.example direct, bob@y.example direct"),
            ("e", "ann@y.example direct"),
            ("f", '"a (b)"@y.example direct'),
            ("g", "ann@y.example direct, bob@x.example direct"),
            (
                "h",
                "ann@y.example direct, bob@x.example direct, cid@y.example direct, "
                "dan@y.example direct",
            ),
            ("i", "i@x.example direct, ann@y.example direct"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, f"{to}@x.example"), expected)

    def test_quotes_around_the_path_of_an_include_file(self) -> None:
        (self.folder / "lists").mkdir()
        (self.folder / "lists" / "all").write_text("ann@y.example\n")
        one = self.rules(
            self.RULES, aliases='a: :include:"all"\nb: ":include:all"\nc: :include: "all"\n'
        )
        for name in "abc":
            self.assertEqual(outcome(one, f"{name}@x.example"), "ann@y.example direct")

    def test_each_line_of_an_include_file_stands_alone(self) -> None:
        (self.folder / "lists").mkdir()
        (self.folder / "lists" / "all").write_text(
            "  ann@y.example\nbob@y.example\n\tcid@y.example\n"
        )
        one = self.rules(self.RULES, aliases="all: :include:all\n")
        self.assertEqual(
            outcome(one, "all@x.example"),
            "ann@y.example direct, bob@y.example direct, cid@y.example direct",
        )

    def test_owner(self) -> None:
        (self.folder / "lists").mkdir()
        one = self.rules(self.RULES, aliases="list: ann@y.example\nowner-list: boss@y.example\n")
        self.assertEqual(senders(one, "list@x.example"), ["owner-list@x.example"])
        self.assertEqual(outcome(one, "owner-list@x.example"), "boss@y.example direct")


class PostfixMapTests(_Folder):
    def test_virtual(self) -> None:
        one = self.rules(
            "table v virtual file v\naccept to <v>\nforward <v> at @gw.example.com\n",
            v=(
                "# virtual(5)\nexample.com  anything\ninfo@example.com  ann@y.example bob@y.example\n"
                "sales@example.com\n   ann@y.example,\n   bob@y.example\n"
                "@example.org  @y.example\n@example.net\tall@y.example\nroot  ann@y.example\n"
                "joe@example.net joe@example.net\n"
            ),
        )
        for to, expected in (
            ("Info@example.com", "ann@y.example direct, bob@y.example direct"),
            ("sales@example.com", "ann@y.example direct, bob@y.example direct"),
            ("other@example.com", "other@example.com direct"),
            ("Jane@example.org", "Jane@y.example direct"),
            ("jane@example.net", "all@y.example direct"),
            ("joe@example.net", "joe@example.net direct"),
            ("x@elsewhere.example", "reject 550 5.7.1"),
            ("root@gw.example.com", "reject 550 5.7.1"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, to), expected)

    def test_phrases_and_comments_in_a_map(self) -> None:
        one = self.rules(
            "table v virtual file v\naccept any\nforward <v>\n",
            v=(
                "a@x.example Ann Lee <ann@y.example>\nb@x.example ann@y.example (Ann Lee) bob@y.example\n"
                'c@x.example "Lee, Ann" <ann@y.example>, Bob <bob@y.example>\n'
                "d@x.example cid@y.example Ann Lee <ann@y.example> dan@y.example\n"
                "  # indented comments are no addresses\n"
                'e@x.example "a b"@y.example <ann@y.example>\nf@x.example "@" <ann@y.example>\n'
            ),
        )
        for to, expected in (
            ("a", "ann@y.example direct"),
            ("b", "ann@y.example direct, bob@y.example direct"),
            ("c", "ann@y.example direct, bob@y.example direct"),
            ("d", "cid@y.example direct, ann@y.example direct, dan@y.example direct"),
            ("e", '"a b"@y.example direct, ann@y.example direct'),
            ("f", "ann@y.example direct"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, f"{to}@x.example"), expected)

    def test_what_elsewhere_means_no_mailbox_says_what_to_write(self) -> None:
        (self.folder / "v").write_text("old@x.example :fail: gone\n")
        wrong = problems("table v virtual file v\nforward <v>\n", self.folder)
        self.assertEqual(len(wrong), 1)
        self.assertIn('reject to old@x.example 550 5.1.1 "No such user"', wrong[0])
        # what the other mailboxes of the domain would not survive is not recommended
        (self.folder / "v").write_text("@x.example :fail:\nann@x.example ann@y.example\n")
        (told,) = problems("table v virtual file v\nforward <v>\n", self.folder)
        self.assertIn("behind the accepts of its mailboxes: reject to @x.example", told)

    def test_what_a_map_does_not_have_is_no_name_of_a_mailbox(self) -> None:
        for value, what in (
            ("ann@y.example # the boss", "here no comment begins"),
            ("ann@y.example #boss", "here no comment begins"),
            ("|/usr/bin/vacation", "this alias runs a command"),
            ('ann@y.example, "|/usr/bin/vacation ann"', "this alias runs a command"),
            ("/var/mail/ann", "this alias writes to a file"),
            (":include:/etc/list", "only aliases have :include:"),
        ):
            for kind in ("virtual", "canonical"):
                with self.subTest(value, kind=kind):
                    (self.folder / "v").write_text(f"a@x.example {value}\n")
                    (told,) = problems(f"table v {kind} file v\nrewrite sender <v>\n", self.folder)
                    self.assertIn(what, told)
        one = self.rules(
            "table v virtual file v\naccept any\nforward <v>\n",
            v="a@x.example /G=Ann/S=Lee/@y.example, ann#1@y.example\n",
        )
        self.assertEqual(
            outcome(one, "a@x.example"), "/G=Ann/S=Lee/@y.example direct, ann#1@y.example direct"
        )

    def test_a_comment_behind_a_transport_is_no_part_of_it(self) -> None:
        for value in (
            *("smtp:h.example # old", "smtp:[h.example]:26\t# old", ": # old", "smtp: # old"),
            *("lmtp:unix:/run/lmtp # old", "relay:h.example #old"),
        ):
            with self.subTest(value):
                (self.folder / "t").write_text(f"a.example {value}\n")
                (told,) = problems("table t transport file t\nroute <t>\n", self.folder)
                self.assertIn("here no comment begins", told)
        (self.folder / "t").write_text("a.example error:5.1.1 ask #7\n")
        self.assertEqual(problems("table t transport file t\nroute <t>\n", self.folder), [])

    def test_canonical(self) -> None:
        one = self.rules(
            "table c canonical file c\naccept any\nrewrite sender <c>\nrewrite recipient <c>\n",
            c="joe@intern.example Joe.Doe@example.com\n@intern.example @example.com\n",
        )
        self.assertEqual(
            senders(one, "x@y.example", sender="joe@intern.example"), ["Joe.Doe@example.com"]
        )
        self.assertEqual(outcome(one, "ann@intern.example"), "ann@example.com direct")

    def test_transport(self) -> None:
        settings = config.load_text(
            "table w transport file w\naccept any\nroute <w>\n",
            self._with(
                w=(
                    "a.example smtp:[mx.a.example]\nb.example relay:b-hub.example:2525\n"
                    ".sub.example lmtp:unix:/run/lmtp\nc.example :\nd.example error:5.1.1 gone\n"
                    "e.example discard:\nf.example retry:4.2.1 later\njoe@a.example smtp:[10.0.0.1]:26\n"
                    "g.example smtp:\nh.example :[h.example]\n"
                )
            ),
        )
        one = settings.ruleset
        for to, expected in (
            ("x@a.example", "x@a.example smtp:[mx.a.example]"),
            ("joe@a.example", "joe@a.example smtp:[10.0.0.1]:26"),
            ("x@b.example", "x@b.example smtp:b-hub.example:2525"),
            ("x@q.sub.example", "x@q.sub.example lmtp:unix:/run/lmtp"),
            ("x@c.example", "x@c.example direct"),
            ("x@d.example", "reject 550 5.1.1"),
            ("x@e.example", "discard"),
            ("x@f.example", "reject 451 4.2.1"),
            ("x@g.example", "x@g.example direct"),
            ("x@h.example", "x@h.example smtp:[h.example]"),
            ("x@z.example", "x@z.example direct"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, to), expected)
        hop = settings.next_hops["smtp:b-hub.example:2525"]
        self.assertEqual((hop.hosts, hop.mx), ((HostPort("b-hub.example", 2525),), True))
        hop = settings.next_hops["smtp:[mx.a.example]"]
        self.assertEqual((hop.hosts, hop.mx), ((HostPort("mx.a.example", 25),), False))

    def test_a_transport_that_changes_nothing_leaves_it_to_the_next_rule(self) -> None:
        one = self.rules(
            "table w transport file w\nnext-hop isp smtp isp.example:25\naccept any\n"
            "route <w>\nroute any via isp\n",
            w="my.example :\n.my.example smtp:\n* smtp:[out.example]\n",
        )
        for to, expected in (
            ("x@my.example", "x@my.example isp"),
            ("x@sub.my.example", "x@sub.my.example direct"),
            ("x@z.example", "x@z.example smtp:[out.example]"),
        ):
            with self.subTest(to):
                self.assertEqual(outcome(one, to), expected)

    def _with(self, **files: str) -> Path:
        for name, content in files.items():
            (self.folder / name).write_text(content)
        return self.folder


class SqliteTests(_Folder):
    def test_a_query_is_read_once_as_a_list_or_a_map(self) -> None:
        with closing(sqlite3.connect(self.folder / "users.db")) as database:
            database.executescript(
                "CREATE TABLE a (name, goal); INSERT INTO a VALUES ('info@x.example', 'ann@y.example');"
                "CREATE TABLE d (name); INSERT INTO d VALUES ('x.example'), ('z.example');"
            )
        one = self.rules(
            'table ours sqlite file users.db query "SELECT name FROM d"\n'
            'table people sqlite file users.db query "SELECT name, goal FROM a"\n'
            "accept to <ours>\nforward <people>\n"
        )
        self.assertEqual(outcome(one, "info@x.example"), "ann@y.example direct")
        self.assertEqual(outcome(one, "b@z.example"), "b@z.example direct")
        self.assertEqual(outcome(one, "b@y.example"), "reject 550 5.7.1")

    def test_what_can_be_wrong(self) -> None:
        (self.folder / "text.db").write_text(
            "no database, but long enough to be looked at as one\n" * 9
        )
        self.assertIn("cannot read none.db", problems(
            'table t sqlite file none.db query "SELECT 1"\n', self.folder)[0])  # fmt: skip
        self.assertIn("not a database", problems(
            'table t sqlite file text.db query "SELECT a FROM b"\n', self.folder)[0])  # fmt: skip
