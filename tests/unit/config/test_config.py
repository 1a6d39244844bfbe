"""relayd.conf: what it makes, and every way in which it can be wrong."""

from __future__ import annotations

import re
import shutil
import unittest
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from unittest.mock import patch

import hypothesis
from hypothesis import given
from hypothesis import strategies as st

from relayd import config
from relayd.config.fixed import fixed_of, statements_of
from relayd.config.load import load_text
from relayd.config.settings import SPECS, Settings
from relayd.dns import localnames
from relayd.mail.nexthop import HostPort, NextHop
from tests.certs import Authority
from tests.unit.rules.sample import outcome, write_site

ROOT = Path(__file__).parents[3]
BROKEN = ROOT / "tests" / "golden" / "bad-config"
SHIPPED = ROOT / "etc" / "relayd" / "relayd.conf"


class LoadTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def write(self, text: str, name: str = "relayd.conf") -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def test_the_example_loads_unchanged(self) -> None:
        site = config.load(write_site(self.folder / "relayd"))
        self.assertEqual(site.hostname, "gw.example.com")
        self.assertEqual([str(each) for each in site.listeners], ["127.0.0.1:2525", "[::1]:2525"])
        self.assertEqual(site.schedule.delays[:4], (60, 300, 300, 900))
        self.assertEqual((site.warn_after, site.give_up), (14400.0, 432000.0))
        self.assertEqual(site.message_size, 50 * 1024 * 1024)
        self.assertEqual(site.resolver, (HostPort("127.0.0.1", 53),))
        self.assertEqual(site.spool, Path("/var/spool/relayd"))
        self.assertEqual(site.control, Path("/var/spool/relayd/control"))
        self.assertGreaterEqual(site.workers, 1)
        self.assertEqual(
            site.next_hops["exchange"].hosts,
            (HostPort("ex1.corp.example", 25), HostPort("ex2.corp.example", 25)),
        )
        self.assertEqual(
            site.next_hops["store"], NextHop("store", "lmtp", unix="/run/dovecot/lmtp")
        )

    def test_tables_stand_beside_the_file_that_names_them_too(self) -> None:
        path = write_site(self.folder / "relayd")
        for name in ("inside", "aliases"):
            (path.parent / name).rename(path.parent / "rules.d" / name)
        site = config.load(path)
        self.assertEqual(
            outcome(site.ruleset, "carol@example.com", client="10.0.0.1"),
            "carol@example.net direct",
        )

    def test_files_are_read_in_the_order_of_their_names(self) -> None:
        for name in ("30-c", "10-a", "20-b"):
            self.write(f'reject any 550 "{name}"\n' if name == "10-a" else "", f"r/{name}.rules")
        self.write("accept any\n", "r/15-x.rules")
        path = self.write("include r/[12]*.rules\n")
        with self.assertRaises(config.ConfigErrors) as caught:
            config.load(path)  # 15-x stands behind 10-a, which takes everything
        self.assertIn(
            "r/15-x.rules:1:1: this rule is never reached; r/10-a.rules:1", str(caught.exception)
        )

    def test_every_value(self) -> None:
        path = self.write(
            "spool q\ncontrol c\nlisten 127.0.0.1:0\ngive-up 1d12h\nwarn-after 90m\n"
            "header-size 10MB\n"
            "bare-newlines normalise\nworkers 3\nresolver 127.0.0.1:5353\nresolver [::1]:53\n"
            "relay-port 2626\nmessage-size 4096\n"
        )
        site = config.load(path)
        self.assertEqual(site.spool, self.folder / "q")
        self.assertEqual(site.control, self.folder / "c")
        self.assertEqual(site.listeners[0].port, 0)
        self.assertEqual((site.give_up, site.warn_after), (129600.0, 5400.0))
        self.assertEqual((site.header_size, site.message_size), (10_000_000, 4096))
        self.assertEqual(
            (site.bare_newlines, site.workers, site.relay_port), ("normalise", 3, 2626)
        )
        self.assertEqual(site.resolver[1], HostPort("::1", 53))

    def test_the_hash_follows_rules_and_tables(self) -> None:
        path = self.write("hostname x.example\ntable t file t\naccept to <t>\n")
        hashes = set()
        for content in ("a.example\n", "b.example\n", "a.example\n"):
            self.write(content, "t")
            hashes.add(config.load(path).ruleset.hash)
        self.assertEqual(len(hashes), 2)

    def test_a_missing_file_is_an_error_as_any_other(self) -> None:
        with self.assertRaises(config.ConfigErrors) as caught:
            config.load(self.folder / "none.conf")
        self.assertIn("none.conf: cannot read", str(caught.exception))

    def test_everything_that_was_read_is_named(self) -> None:
        path = write_site(self.folder / "relayd")
        self.assertEqual(
            [each.name for each in config.load(path).files],
            ["relayd.conf", "10-site.rules", "inside", "aliases"],
        )

    def test_odd_files_are_complaints_too(self) -> None:
        for content in (
            b"\x00",
            b"\xff\xfe",
            b"a" * 100_000,
            b'"' * 999,
            b"{" * 999,
            b"\xef\xbb\xbf",
        ):
            (self.folder / "relayd.conf").write_bytes(content)
            try:
                config.load(self.folder / "relayd.conf")
            except config.ConfigErrors as errors:
                self.assertTrue(str(errors))


class AnyTests(unittest.TestCase):
    LINES = st.sampled_from(
        [
            "table t { example.com, a@b.example, 10.0.0.0/8 }",
            "table t { }",
            "next-hop h smtp 127.0.0.1:2525",
            "next-hop h lmtp [::1]:24",
            "listen 127.0.0.1:2525",
            "listen 0.0.0.0:2525",
            "accept to <t>",
            "accept from <t>",
            "reject any",
            "hold from any when not tls",
            "forward <t> -> a@b.example",
            "forward a@b.example -> c@d.example",
            "forward c@d.example -> @b.example",
            "forward @b.example -> @d.example",
            'forward regex "^(.+)@d" -> "\\1@b.example"',
            "forward <t> at @b.example",
            "rewrite sender null -> x@y.example",
            "rewrite header From <t> -> @x.example",
            "route <t>",
            "route any via h",
            "route to <u> via h, i",
            "subaddress +",
            "expect to a@b.example -> reject",
            "expect to a@b.example -> c@d.example direct",
            "header add X-A",
            "warn-after 9d",
            "include *.none",
        ]
    )

    @hypothesis.settings(max_examples=100, deadline=None)
    @given(st.lists(LINES, max_size=9))
    def test_any_lines_load_or_are_complained_about(self, lines: list[str]) -> None:
        """Whatever stands together, it loads or raises ConfigErrors with places."""
        try:
            config.load_text("\n".join(lines), Path("/nowhere"))
        except config.ConfigErrors as errors:
            for problem in errors.problems:
                self.assertRegex(problem.headline, r"^\(embedded\):\d+:\d+: .+; .+")

    def test_every_error_at_once(self) -> None:
        with self.assertRaises(config.ConfigErrors) as caught:
            config.load_text(
                "acept any\naccept any\nreject any\naccept to <t>\n"
                "forward a@b.example -> a@c.example\nforward @c.example -> @b.example\n"
                "route any via h\n",
                Path("/nowhere"),
            )
        whats = [problem.what for problem in caught.exception.problems]
        self.assertEqual(
            [what.split(":")[0] for what in whats],
            [
                'unknown verb "acept"',
                "this rule is never reached",
                "there is no table t",
                "mail goes in circles",
                "there is no next hop h",
            ],
        )


class WarningTests(unittest.TestCase):
    def test_an_open_relay_is_warned_of(self) -> None:
        for rule, opened in (
            ("any", True),
            ("from any", True),
            ("from 0.0.0.0/0", True),
            ("sender @example.com", True),
            ("any when not from 10.0.0.1", True),
            ("from 10.0.0.0/8", False),
            ("to a@example.com", False),
            ("any when login any", False),
            ("certificate <t>", False),
        ):
            with self.subTest(rule):
                site = config.load_text(f"table t {{ }}\naccept {rule}\n", Path("/nowhere"))
                self.assertEqual(len(site.warnings), int(opened))

    def test_a_forward_to_where_we_refuse_is_warned_of(self) -> None:
        rules = (
            "accept to @open.example\n"
            "reject to @closed.example, old@example.com\n"
            "reject from 192.0.2.66 to @sometimes.example\n"
            "accept to @example.com\n"
            # that whole domains are taken is meant
            "expect to x@open.example -> x@open.example\n"
            "expect to x@example.com -> x@example.com\n"
        )
        for target, refused in (
            ("x@closed.example", True),
            ("@closed.example", True),
            ("old@example.com", True),
            ("x@open.example", False),
            ("x@sometimes.example", False),
            ("x@elsewhere.example", False),
            ("info@example.com", False),
        ):
            with self.subTest(target):
                text = f"{rules}forward info@example.com -> {target}\n"
                warnings = config.load_text(text, Path("/nowhere")).warnings
                self.assertEqual(len(warnings), int(refused))
                for warning in warnings:
                    self.assertIn(f"forwards to {target}, which is refused here", str(warning))

    def test_a_key_that_everybody_may_read_is_complained_of_and_taken(self) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            chain, key = Authority().issue("gw.example.com").write(folder, "gw")
            statements = (
                f"certificate {chain.name} key {key.name}\n",
                f"tls-reports from a@example.com dkim mail {key.name}\n",
            )
            for mode, wrong in ((0o644, 1), (0o604, 1), (0o602, 1), (0o640, 0), (0o600, 0)):
                key.chmod(mode)
                for statement in statements:
                    with self.subTest(mode=oct(mode), statement=statement):
                        warnings = config.load_text(
                            f"{statement}accept to a@b.test\n", folder
                        ).warnings
                        self.assertEqual(len(warnings), wrong)
                        for each in warnings:
                            self.assertIn(f"(mode {mode:04o})", each.what)
                            self.assertIn(f"chmod 640 {key}", each.expected)
                            self.assertIn("^", str(each))


class BrokenTests(unittest.TestCase):
    """Wrong configurations, each with the complaint beside it."""

    maxDiff = None

    def test_there_are_enough(self) -> None:
        self.assertGreaterEqual(len(list(BROKEN.iterdir())), 40)

    def test_each_gives_the_expected_error(self) -> None:
        for folder in sorted(BROKEN.iterdir()):
            with self.subTest(folder.name):
                with self.assertRaises(config.ConfigErrors) as caught:
                    config.load(folder / "relayd.conf")
                shown = str(caught.exception).replace(f"{folder}/", "")
                self.assertEqual(shown + "\n", (folder / "expected-error").read_text())

    def test_each_names_place_problem_and_expectation(self) -> None:
        for path in sorted(BROKEN.glob("*/expected-error")):
            with self.subTest(path.parent.name):
                lines = path.read_text().split("\n")
                for headline, line, caret in zip(
                    lines[::3], lines[1::3], lines[2::3], strict=False
                ):
                    match = re.fullmatch(r"[\w./-]+:\d+:(\d+): [^;]+; .+", headline)
                    assert match is not None, headline
                    self.assertTrue(line.startswith("    "))
                    if not line.startswith("    ..."):  # a long line is cut
                        self.assertEqual(caret.index("^") - 4, int(match.group(1)) - 1)


class ShippedTests(unittest.TestCase):
    """What a first installation gets: closed, working, on loopback only."""

    def test_it_loads_and_is_closed(self) -> None:
        site = config.load(SHIPPED)
        self.assertTrue(all(each.address in ("127.0.0.1", "::1") for each in site.listeners))
        self.assertEqual(outcome(site.ruleset, "x@y.example"), "reject 550 5.7.1")
        self.assertEqual(
            outcome(site.ruleset, "x@y.example", client="127.0.0.1"), "x@y.example direct"
        )

    def test_a_spool_in_a_database_and_what_is_done_while_that_is_away(self) -> None:
        for words, folder in (("defer", None), ("keep /srv/relayd", Path("/srv/relayd"))):
            text = (
                "hostname     gw1.example.com\n"
                'spool        postgresql "service=relayd"   # a connection of libpq\'s\n'
                f"node         gw1\naway         {words}   # or the other\n"
            )
            with TemporaryDirectory() as place:
                path = Path(place) / "relayd.conf"
                path.write_text(text)
                found = config.load(path)
            self.assertEqual((found.place.database, found.node), ("service=relayd", "gw1"))
            self.assertEqual(found.away.folder, folder)

    def test_every_setting_is_documented_with_its_default(self) -> None:
        text = SHIPPED.read_text()
        stated = dict(re.findall(r"^#?([a-z-]+) +(.+)$", text, re.MULTILINE))
        self.assertEqual(set(SPECS) - set(stated), set())
        wanted = {name: value for name, value in stated.items() if name in SPECS}
        # their default is the system's, or that there is none
        for name in (
            "hostname",
            "node",
            "resolver",
            "certificate",
            "tls-authorities",
            "tls-reports",
        ):
            del wanted[name]
        for name in ("tls", "origin", "secrets", "oauth", "reports", "metrics", "console", "hook"):
            del wanted[name]
        with TemporaryDirectory() as folder:
            path = Path(folder) / "relayd.conf"
            path.write_text("hostname x.example\n")
            plain = config.load(path)
            path.write_text(
                "hostname x.example\n"
                + "".join(f"{name} {value}\n" for name, value in wanted.items())
            )
            spelt = config.load(path)
        for each in fields(plain):
            if each.name not in ("ruleset", "path", "files"):
                self.assertEqual(getattr(plain, each.name), getattr(spelt, each.name), each.name)

    def test_the_embedded_default(self) -> None:
        with TemporaryDirectory() as folder:
            site = config.embedded(Path(folder))
            self.assertEqual(site.spool, Path(folder) / "run" / "spool")
        self.assertEqual(
            outcome(site.ruleset, "Bob@example.com", client="127.0.0.1"), "Bob@example.com demo"
        )
        self.assertEqual(outcome(site.ruleset, "x@example.com"), "reject 550 5.7.1")
        self.assertEqual(site.next_hops["demo"].hosts, (HostPort("127.0.0.1", 2626),))


class Resolvers(unittest.TestCase):
    """`resolver`: whom to ask, and where the hosts of next hops are looked up."""

    def settings(self, text: str) -> Settings:
        return load_text(f"hostname gw.example.com\n{text}", Path("/nonexistent"), "relayd.conf")

    def test_hosts_and_dns_unless_it_says_dns(self) -> None:
        for text, hosts, servers in (
            ("", True, []),
            ("resolver hosts dns\n", True, []),
            ("resolver dns\n", False, []),
            ("resolver 127.0.0.1:53\nresolver dns\n", False, [("127.0.0.1", 53)]),
            ("resolver dns\nresolver hosts dns\nresolver [::1]:5353\n", True, [("::1", 5353)]),
        ):
            found = self.settings(text)
            self.assertEqual((found.name_order.hosts, found.dns_servers), (hosts, servers), text)
            # and a worker reads the same
            self.assertEqual(fixed_of(statements_of(found.fixed)), found.fixed)

    def test_rules_look_at_names_only_where_they_are_looked_up(self) -> None:
        rules = "accept to @example.com when not rdns none\n"
        self.assertTrue(self.settings(rules).client_names)
        with self.assertRaisesRegex(config.ConfigErrors, "reverse name is not looked up"):
            self.settings(f"client-names no\n{rules}")

    def test_short_names_that_nobody_finds_are_warned_of(self) -> None:
        hops = "next-hop in smtp mail:25, 10.0.0.1:25, a.example\nnext-hop l smtp localhost\n"
        rules = "accept to info@example.com\nroute any via in\n"
        (warning,) = self.settings(f"resolver dns\n{hops}{rules}").warnings
        self.assertIn('next hop in will not find "mail": the DNS alone', str(warning))
        hosts = Path(mkdtemp()) / "hosts"
        self.addCleanup(shutil.rmtree, hosts.parent)
        for text, search, count in (
            ("10.0.0.9 mail\n", "", 0),
            ("", "corp.example", 0),
            ("", "", 1),
        ):
            hosts.write_text(text)
            resolv_conf = hosts.with_name("resolv.conf")
            resolv_conf.write_text(f"search {search}\n")
            with patch.multiple(localnames, HOSTS=hosts, RESOLV_CONF=resolv_conf):
                found = self.settings(hops + rules).warnings
            self.assertEqual(len(found), count, (text, search))
