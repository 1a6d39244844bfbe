"""Forwards that leave our domains get a sender of ours; reports to it find their way back."""

from __future__ import annotations

import stat
import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd import config
from relayd.mail.address import Mailbox, parse_path_text, path_text
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Step, Verdict
from relayd.rules.evaluate import Facts, evaluate, plan_own
from relayd.rules.ruleset import Ruleset
from relayd.rules.srs import DAY, Scheme
from relayd.rules.tables.table import BrokenTable

NOW = 1.7e9
KEY = "tops3cr3t"
OURS = Scheme("srs.example.com", (KEY.encode(),))
SITE = """\
srs     domain srs.example.com keys file srs.keys
accept  from 10.0.0.0/8
accept  to @example.com
forward info@example.com -> alice@example.net
"""
STRANGER = "203.0.113.9"
BOB = Mailbox("bob", "partner.example")


class SrsTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.keys(f"{KEY}\n")

    def keys(self, text: str, mode: int = 0o640) -> None:
        path = self.folder / "srs.keys"
        path.write_bytes(text.encode())
        path.chmod(mode)

    def rules(self, text: str) -> Ruleset:
        return config.load_text(f"hostname gw.example.com\n{text}", self.folder).ruleset

    def problems(self, text: str) -> str:
        with self.assertRaises(config.ConfigErrors) as caught:
            self.rules(text)
        return str(caught.exception)

    def plan(
        self, ruleset: Ruleset, to: str, sender: str = str(BOB), *, client: str = STRANGER
    ) -> Plan:
        facts = Facts(Client(client), parse_path_text(sender), Mailbox.parse(to), NOW)
        return evaluate(ruleset, facts)

    def paths(self, ruleset: Ruleset, to: str, sender: str = str(BOB)) -> list[str]:
        plan = self.plan(ruleset, to, sender)
        return [path_text(each.reverse_path) for each in plan.destinations]

    def srs(self, sender: Mailbox = BOB, now: float = NOW) -> str:
        return str(OURS.forward(sender, now))

    def refused(self, ruleset: Ruleset, to: str) -> str:
        plan = self.plan(ruleset, to, "")
        self.assertIs(plan.verdict, Verdict.REFUSE)
        self.assertEqual(plan.destinations, ())
        return str(plan.reply)


class Forwarding(SrsTests):
    def test_forward_to_outside_changes_the_sender(self) -> None:
        plan = self.plan(self.rules(SITE), "info@example.com")
        (destination,) = plan.destinations
        self.assertEqual(str(destination.mailbox), "alice@example.net")
        self.assertEqual(path_text(destination.reverse_path), self.srs())
        self.assertIn(
            Step(
                "srs",
                "(embedded):2",
                "domain srs.example.com keys file srs.keys",
                f"{BOB} -> {self.srs()}",
            ),
            plan.trail,
        )

    def test_what_is_not_forwarded_is_left_alone(self) -> None:
        ruleset = self.rules(SITE)
        self.assertEqual(self.paths(ruleset, "carol@example.com"), [str(BOB)])
        plan = self.plan(ruleset, "dave@elsewhere.example", client="10.0.0.1")
        self.assertEqual(plan.destinations[0].reverse_path, BOB)

    def test_null_and_our_own_senders_are_left_alone(self) -> None:
        ruleset = self.rules(SITE)
        for sender in ("", "carol@example.com", "CAROL@Example.COM", "x@srs.example.com",
                       "root@gw.example.com"):  # fmt: skip
            self.assertEqual(self.paths(ruleset, "info@example.com", sender), [sender])
        self.assertNotEqual(
            self.paths(ruleset, "info@example.com", "x@sub.example.com"), ["x@sub.example.com"]
        )

    def test_each_destination_for_itself_and_one_line_in_the_trail(self) -> None:
        ruleset = self.rules(
            SITE + "forward all@example.com -> a@example.net, b@example.com, c@example.org\n"
        )
        srs = self.srs()
        self.assertEqual(self.paths(ruleset, "all@example.com"), [srs, str(BOB), srs])
        trail = self.plan(ruleset, "all@example.com").trail
        self.assertEqual([step.stage for step in trail].count("srs"), 1)

    def test_rewritten_recipients_and_senders(self) -> None:
        ruleset = self.rules(
            SITE
            + "rewrite recipient old@example.com -> new@example.org\n"
            + "rewrite sender @intern.example -> @example.com\n"
            + "rewrite sender @odd.example -> @other.example\n"
        )
        self.assertEqual(self.paths(ruleset, "old@example.com"), [self.srs()])
        self.assertEqual(
            self.paths(ruleset, "info@example.com", "x@intern.example"), ["x@example.com"]
        )
        self.assertEqual(
            self.paths(ruleset, "info@example.com", "x@odd.example"),
            [self.srs(Mailbox("x", "other.example"))],
        )

    def test_list_owner_is_ours(self) -> None:
        (self.folder / "lists").write_text("list: a@example.net\nowner-list: carol\n")
        ruleset = self.rules(
            SITE + "table lists aliases file lists\nforward <lists> at @example.com\n"
        )
        self.assertEqual(self.paths(ruleset, "list@example.com"), ["owner-list@example.com"])

    def test_sender_another_relay_has_rewritten(self) -> None:
        sender = "SRS0=abcd=AA=x.example=u@f.example"
        (path,) = self.paths(self.rules(SITE), "info@example.com", sender)
        self.assertEqual(path, "SRS1=ZZgc=f.example==abcd=AA=x.example=u@srs.example.com")

    def test_sender_too_long_for_a_path_is_kept_and_the_trail_says_so(self) -> None:
        sender = "x" * 64 + "@" + ".".join(["y" * 50] * 4)
        plan = self.plan(self.rules(SITE), "info@example.com", sender)
        self.assertEqual(path_text(plan.destinations[0].reverse_path), sender)
        self.assertIn("too long", " ".join(step.note for step in plan.trail))

    def test_without_a_statement_nothing_changes(self) -> None:
        ruleset = self.rules(SITE.partition("\n")[2])
        self.assertIsNone(ruleset.srs)
        self.assertEqual(self.paths(ruleset, "info@example.com"), [str(BOB)])
        self.assertEqual(self.refused(ruleset, self.srs())[:9], "550 5.7.1")

    def test_same_facts_same_plan(self) -> None:
        ruleset = self.rules(SITE)
        self.assertEqual(
            self.plan(ruleset, "info@example.com"), self.plan(ruleset, "info@example.com")
        )


class Ours(SrsTests):
    def check(self, statements: str, ours: str, others: str) -> None:
        ruleset = self.rules(f"srs domain srs.example.com keys file srs.keys\n{statements}")
        assert ruleset.srs is not None
        for mailbox in ours.split():
            self.assertTrue(ruleset.srs.owns(Mailbox.parse(mailbox)), mailbox)
        for mailbox in others.split():
            self.assertFalse(ruleset.srs.owns(Mailbox.parse(mailbox)), mailbox)

    def test_what_accept_rules_name(self) -> None:
        (self.folder / "people").write_text("one: x@example.net\n@seven.example y@example.net\n")
        (self.folder / "virtual").write_text("eight.example x\na@nine.example b@example.net\n")
        self.check(
            "table t { two.example, .three.example, bob@four.example, 192.0.2.0/24, chief@ }\n"
            "table v virtual file virtual\n"
            "accept to a@one.example, <t>, @.five.example, postmaster@ when tls\n"
            'accept to regex "@six\\.(net|org)$"\n'
            "accept to <v>\n"
            "accept from 10.0.0.0/8\n"
            "accept login admin to any\n"
            "accept to any when not to @ten.example and login any\n"
            "reject to @eleven.example\n",
            "x@one.example x@TWO.example x@a.three.example x@four.example x@a.b.five.example"
            " x@six.net x@eight.example x@nine.example x@srs.example.com x@gw.example.com",
            "x@three.example x@five.example x@six.com x@ten.example x@eleven.example x@example.net"
            " postmaster@a.example chief@b.example",
        )

    def test_what_srs_ours_names_instead(self) -> None:
        self.check(
            "accept to @one.example\nsrs ours @two.example, <t>\nsrs ours c@four.example\n"
            "table t { three.example }\n",
            "x@two.example x@three.example x@four.example x@srs.example.com x@gw.example.com",
            "x@one.example",
        )

    def test_table_that_cannot_be_read_is_unknown(self) -> None:
        ruleset = self.rules(SITE)
        assert ruleset.srs is not None
        ruleset.srs._ours._asked.append(BrokenTable("t", "t", "it is gone"))
        plan = self.plan(ruleset, "info@example.com")
        self.assertEqual((plan.verdict, plan.reply.code), (Verdict.REFUSE, 451))


class Exceptions(SrsTests):
    def test_by_sender_table_recipient_and_condition(self) -> None:
        ruleset = self.rules(
            SITE
            + "forward all@example.com -> a@example.net, b@store.example\n"
            + "table friends { friend.example }\n"
            + "srs except @partner.example, <friends>\n"
            + "srs except to @store.example\n"
            + "srs except sender @client.example when from 203.0.113.0/24\n"
        )
        for sender in (str(BOB), "x@friend.example", "x@client.example"):
            self.assertEqual(self.paths(ruleset, "info@example.com", sender), [sender])
        other = Mailbox("x", "other.example")
        self.assertEqual(
            self.paths(ruleset, "all@example.com", str(other)), [self.srs(other), str(other)]
        )
        self.assertEqual(
            evaluate(
                ruleset,
                Facts(
                    Client("10.0.0.1"),
                    Mailbox("x", "client.example"),
                    Mailbox("info", "example.com"),
                    NOW,
                ),
            )
            .destinations[0]
            .reverse_path,
            OURS.forward(Mailbox("x", "client.example"), NOW),
        )
        trail = self.plan(ruleset, "info@example.com").trail
        self.assertIn(
            ("srs", "except sender @partner.example, <friends>", f"{BOB} is kept"),
            [(step.stage, step.rule, step.note) for step in trail],
        )


class KeyLengths(SrsTests):
    def test_a_key_of_no_sane_length_is_complained_of_and_not_shown(self) -> None:
        for length in ("3", "28", "99", "0"):
            self.keys(f"{KEY}\nhash-length-{length}:secret\n")
            with self.assertRaises(config.ConfigErrors) as caught:
                self.rules(SITE)
            said = str(caught.exception)
            self.assertIn(f"line 2 of srs.keys asks for hashes of {length} characters", said)
            self.assertIn("expected hash-length-4: to hash-length-27:", said)
            self.assertNotIn("secret", said)
        self.keys("hash-length-27:secret\n")
        self.assertIsNotNone(self.rules(SITE).srs)

    def test_the_statement_prints_as_it_is_read(self) -> None:
        for text in ("", " hash-length 6", " sender any", " hash-length 6 sender any"):
            rule = self.rules(SITE.replace("srs.keys\n", f"srs.keys{text}\n")).items[0]
            self.assertEqual(str(rule), f"srs domain srs.example.com keys file srs.keys{text}")
        rule = self.rules(SITE.replace("srs.keys\n", "srs.keys sender null\n")).items[0]
        self.assertEqual(str(rule), "srs domain srs.example.com keys file srs.keys")


class Reports(SrsTests):
    def test_report_reaches_the_sender(self) -> None:
        ruleset = self.rules(SITE + "next-hop out smtp a.example:25\nroute any via out\n")
        plan = self.plan(ruleset, self.srs(), "")
        self.assertIs(plan.verdict, Verdict.ACCEPT)
        (destination,) = plan.destinations
        self.assertEqual(destination.mailbox, BOB)
        self.assertIsNone(destination.reverse_path)
        self.assertEqual(destination.next_hop, "out")
        self.assertEqual(plan.trail[0].note, f"{self.srs()} -> {BOB}")

    def test_mail_from_somebody_is_forwarded_like_any_other(self) -> None:
        carol = Mailbox("carol", "example.net")
        open_site = SITE.replace("srs.keys\n", "srs.keys sender any\n")
        plan = self.plan(self.rules(open_site), self.srs(), str(carol))
        self.assertEqual(plan.destinations[0].mailbox, BOB)
        self.assertEqual(plan.destinations[0].reverse_path, OURS.forward(carol, NOW))

    def test_an_srs_address_takes_reports_only_and_tells_no_guesser_which_one_is_good(self) -> None:
        ruleset = self.rules(SITE + "accept any\n")
        good = self.srs()
        srs1 = str(OURS.forward(Mailbox("SRS0=abcd=AA=x.example=u", "other.example"), NOW))
        said = set()
        for address in (good, good.lower(), good.replace("=bob@", "=eve@"), srs1, "SRS1=" + good):
            for client in (STRANGER, "10.0.0.1"):
                plan = self.plan(ruleset, address, "carol@example.net", client=client)
                self.assertIs(plan.verdict, Verdict.REFUSE, address)
                said.add(str(plan.reply))
        self.assertEqual(said, {"550 5.7.1 This address takes reports only"})
        for address in (good, good.lower(), srs1):
            self.assertIs(self.plan(ruleset, address, "").verdict, Verdict.ACCEPT, address)

    def test_sender_who_has_moved_to_us_is_forwarded(self) -> None:
        plan = self.plan(self.rules(SITE), self.srs(Mailbox("info", "example.com")), "")
        self.assertEqual([str(each.mailbox) for each in plan.destinations], ["alice@example.net"])

    def test_forged_expired_and_malformed_are_refused(self) -> None:
        ruleset = self.rules(SITE + "accept any\n")
        forged = self.srs().replace("=bob@", "=eve@")
        self.assertEqual(
            self.refused(ruleset, forged), "550 5.1.1 This SRS address is not one of ours"
        )
        self.assertEqual(
            self.refused(ruleset, self.srs(now=NOW - 30 * DAY)),
            "550 5.1.1 This SRS address has expired",
        )
        self.assertEqual(
            self.refused(ruleset, "SRS0=x@SRS.example.com"), "550 5.1.3 Malformed SRS address"
        )
        step = self.plan(ruleset, forged, "").trail[-1]
        self.assertEqual((step.stage, step.place), ("srs", "(embedded):2"))

    def test_srs_addresses_of_others_are_just_addresses(self) -> None:
        ruleset = self.rules(SITE)
        foreign = "SRS0=abcd=AA=x.example=u@other.example"
        self.assertEqual(self.refused(ruleset, foreign)[:9], "550 5.7.1")
        plan = self.plan(ruleset, foreign, client="10.0.0.1")
        self.assertEqual(str(plan.destinations[0].mailbox), foreign)
        plan = self.plan(ruleset, "SRS0=a=b=c=d@example.com")
        self.assertIs(plan.verdict, Verdict.ACCEPT)

    def test_other_mailboxes_of_the_srs_domain_go_by_the_rules(self) -> None:
        ruleset = self.rules(SITE)
        self.assertEqual(self.refused(ruleset, "postmaster@srs.example.com")[:9], "550 5.7.1")
        ruleset = self.rules(SITE + "accept to postmaster@srs.example.com\n")
        self.assertIs(self.plan(ruleset, "postmaster@srs.example.com").verdict, Verdict.ACCEPT)

    def test_only_rules_above_the_statement_come_first(self) -> None:
        ruleset = self.rules(
            "reject from 203.0.113.66\nhold from 203.0.113.67\n"
            "reject to @srs.example.com when from 203.0.113.68 and not sender null\n"
            + SITE.replace("srs.keys\n", "srs.keys sender any\n")
            + "reject any 550 5.7.1 No\n".replace("No", '"No"')
        )
        verdicts = {
            ("203.0.113.66", ""): Verdict.REFUSE,
            ("203.0.113.67", ""): Verdict.HOLD,
            ("203.0.113.68", ""): Verdict.ACCEPT,
            ("203.0.113.68", str(BOB)): Verdict.REFUSE,
            ("203.0.113.69", str(BOB)): Verdict.ACCEPT,
        }
        for (client, sender), verdict in verdicts.items():
            plan = self.plan(ruleset, self.srs(), sender, client=client)
            self.assertIs(plan.verdict, verdict, (client, sender))

    def test_a_reject_just_below_the_statement_comes_too_late(self) -> None:
        domain, rest = SITE.split("\n", 1)
        for above in ("", "accept from 10.1.0.0/16\nhold from 203.0.113.67\n"):
            below = self.rules(f"{above}{domain}\nreject from {STRANGER}\n{rest}")
            self.assertIs(self.plan(below, self.srs(), "").verdict, Verdict.ACCEPT, above)
            last = self.rules(f"{above}reject from {STRANGER}\n{domain}\n{rest}")
            self.assertIs(self.plan(last, self.srs(), "").verdict, Verdict.REFUSE, above)

    def test_sub_address_mark_in_a_sender_is_no_tag(self) -> None:
        sender = Mailbox("info+news", "partner.example")
        plan = self.plan(self.rules(SITE + "subaddress +\n"), self.srs(sender), "")
        self.assertEqual(plan.destinations[0].mailbox, sender)

    def test_report_of_our_own_finds_the_sender_too(self) -> None:
        recipient = Mailbox.parse(self.srs())
        plan = plan_own(self.rules(SITE), Facts(Client("127.0.0.1"), None, recipient, NOW))
        self.assertEqual([each.mailbox for each in plan.destinations], [BOB])

    @settings(deadline=None)
    @given(st.text(max_size=80), st.floats(0, 4e9))
    def test_any_local_part_at_the_srs_domain_has_a_plan(self, local: str, now: float) -> None:
        ruleset = self.__dict__.setdefault("_cached", self.rules(SITE))
        for tag in ("SRS0=", "SRS1+", ""):
            mailbox = Mailbox(tag + local, "srs.example.com")
            plan = evaluate(ruleset, Facts(Client(STRANGER), None, mailbox, now))
            self.assertEqual((plan.verdict, plan.reply.code), (Verdict.REFUSE, 550))


class KeysFile(SrsTests):
    def test_several_keys_in_a_form_postsrsd_has_too(self) -> None:
        self.keys("\r\nnew\r\n\n" + KEY)
        ruleset = self.rules(SITE)
        self.assertNotEqual(self.paths(ruleset, "info@example.com"), [self.srs()])
        self.assertEqual(self.plan(ruleset, self.srs(), "").destinations[0].mailbox, BOB)

    def test_world_readable(self) -> None:
        for mode, word in ((0o644, "readable"), (0o604, "readable"), (0o602, "writable")):
            self.keys(KEY, mode)
            shown = self.problems(SITE)
            self.assertIn(f":2:42: srs.keys is world-{word} (mode {mode:04o})", shown)
            self.assertIn("chmod 640", shown)
            self.assertIn("\n    srs     domain srs.example.com keys file srs.keys\n", shown)

    def test_missing_empty_and_commented(self) -> None:
        for text, complaint in (("", "holds no key"), (" \n\n", "holds no key"),
                                (f"a\n# {KEY}\n", "line 2 of srs.keys begins with #")):  # fmt: skip
            self.keys(text)
            shown = self.problems(SITE)
            self.assertIn(f":2:42: srs.keys {complaint}" if "line" not in complaint
                          else f":2:42: {complaint}", shown)  # fmt: skip
            self.assertNotIn(KEY, shown)
        (self.folder / "srs.keys").unlink()
        self.assertIn(":2:42: cannot read srs.keys: No such file", self.problems(SITE))
        (self.folder / "srs.keys").mkdir()
        self.assertIn(":2:42: cannot read srs.keys: Is a directory", self.problems(SITE))

    def test_one_that_is_too_large(self) -> None:
        self.keys("x" * 100_000)
        self.assertIn("srs.keys is larger than", self.problems(SITE))

    def test_hash_follows_the_keys_and_nothing_shows_them(self) -> None:
        before = self.rules(SITE)
        self.keys("another")
        after = self.rules(SITE)
        self.assertNotEqual(before.hash, after.hash)
        for ruleset, key in ((before, KEY), (after, "another")):
            assert ruleset.srs is not None
            shown = repr(ruleset) + repr(ruleset.srs.scheme) + " ".join(map(str, ruleset.items))
            shown += repr(self.plan(ruleset, "info@example.com"))
            self.assertNotIn(key, shown)

    def test_keys_file_is_watched_and_found_beside_the_rules(self) -> None:
        (self.folder / "rules.d").mkdir()
        keys = self.folder / "rules.d" / "srs.keys"
        keys.write_text("beside")
        keys.chmod(stat.S_IRUSR)
        (self.folder / "rules.d" / "a.rules").write_text(SITE)
        (self.folder / "relayd.conf").write_text(
            "hostname gw.example.com\ninclude rules.d/a.rules\n"
        )
        settings = config.load(self.folder / "relayd.conf")
        self.assertIn(keys, settings.files)
        assert settings.ruleset.srs is not None
        self.assertEqual(settings.ruleset.srs.scheme.keys, (b"beside",))


RECIPE = Path(__file__).parents[3] / "docs" / "srs.rules"


class Expectations(SrsTests):
    def test_the_recipe_loads_and_its_tests_pass(self) -> None:
        ruleset = self.rules(RECIPE.read_text())
        self.assertEqual(len(ruleset.expects), 7)

    def test_expect_names_a_rewritten_sender(self) -> None:
        self.rules(
            SITE
            + "expect to info@example.com -> alice@example.net direct sender srs\n"
            + "expect sender a@example.com to info@example.com -> accept sender a@example.com\n"
            + "expect sender null to SRS0=AAAA=AA=x.example=u@srs.example.com -> reject 550 5.1.1\n"
        )
        shown = self.problems(SITE + "expect to info@example.com -> accept sender a@b.example\n")
        self.assertIn("it comes out as alice@example.net direct sender srs", shown)
        shown = self.problems(SITE + "expect to x@example.com -> accept sender srs\n")
        self.assertIn("it comes out as x@example.com direct; by", shown)
