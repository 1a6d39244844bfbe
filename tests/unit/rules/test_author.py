"""`rewrite header From ... -> srs`: the author in our domain, and the way back to him."""

from __future__ import annotations

import unittest
from email import message_from_bytes, policy
from pathlib import Path
from tempfile import TemporaryDirectory

from relayd import config
from relayd.mail.address import Mailbox, parse_path_text
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.header import edit_header
from relayd.rules.ruleset import Ruleset
from relayd.rules.srs import DAY, ForgedError, Scheme, SrsError
from tests.unit.rules.sample import problems
from tests.unit.rules.test_grammar import parse

NOW = 20_000 * DAY
SITE = """
accept  to @example.com
srs     domain gw.example.com keys file srs.keys
forward info@example.com -> alice@outside.example
rewrite header From any -> srs
"""


class AuthorCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.keys("first")

    def keys(self, *keys: str) -> None:
        path = self.folder / "srs.keys"
        path.unlink(missing_ok=True)
        path.write_text("".join(f"{key}\n" for key in keys))
        path.chmod(0o600)

    def site(self, text: str = SITE) -> Ruleset:
        return config.load_text(f"hostname gw.example.com\n{text}", self.folder).ruleset

    def edited(self, section: bytes, text: str = SITE, now: float = NOW) -> bytes:
        ruleset = self.site(text)
        return edit_header(ruleset, tuple(range(len(ruleset.headers.entries))), section, now)

    def fields(self, section: bytes, text: str = SITE) -> dict[str, list[str]]:
        """Each field's unfolded value, by its name."""
        message = message_from_bytes(self.edited(section + b"\r\n", text), policy=policy.default)
        found: dict[str, list[str]] = {}
        for name, value in message.items():
            found.setdefault(name, []).append(str(value))
        return found

    def author(self, section: bytes) -> tuple[str, str]:
        """The display name and the address of the one From."""
        message = message_from_bytes(self.edited(section + b"\r\n"), policy=policy.default)
        fields = message.get_all("From", [])
        self.assertEqual(len(fields), 1)
        (address,) = fields[0].addresses
        return address.display_name, f"{address.username}@{address.domain}"

    def plan(self, to: str, sender: str = "bob@outside.example", now: float = NOW) -> Plan:
        client = Client("203.0.113.9")
        path = parse_path_text(sender)
        return evaluate(self.site(), Facts(client, path, Mailbox.parse(to), now))


class Rewritten(AuthorCase):
    def test_the_author_comes_to_be_ours_and_notes_tell_who_it_was(self) -> None:
        section = b"Subject: x\r\nFrom: Ann Lee <ann@sender.example>\r\nTo: info@example.com\r\n"
        fields = self.fields(section)
        address = str(Scheme("gw.example.com", (b"first",)).of_author(
            Mailbox("ann", "sender.example"), NOW
        ))  # fmt: skip
        self.assertEqual(fields["From"], [f'"Ann Lee (via gw.example.com)" <{address}>'])
        self.assertEqual(fields["Reply-To"], ["Ann Lee <ann@sender.example>"])
        self.assertEqual(fields["X-Original-From"], ["Ann Lee <ann@sender.example>"])
        self.assertEqual(fields["Subject"], ["x"])
        self.assertRegex(address, r"\ASRSF=[A-Za-z0-9+/]{8}=[A-Z2-7]{2}=sender\.example=ann@gw\.")

    def test_every_other_octet_stays(self) -> None:
        before = b"Subject:  x \r\nX:\ty\r\n"
        after = b"to: <info@example.com>\r\n (z)\r\nReply-To: list@sender.example\r\n\r\n"
        edited = self.edited(before + b"FROM :a@sender.example\r\n" + after)
        note = b"X-Original-From:a@sender.example\r\n"
        self.assertTrue(edited.startswith(note + before + b'From: "a at sender.example (via'))
        self.assertTrue(edited.endswith(b">\r\n" + after))

    def test_answers_go_where_the_author_wants_them(self) -> None:
        section = b"From: a@sender.example\r\nReply-To: List <list@sender.example>\r\n"
        self.assertEqual(self.fields(section)["Reply-To"], ["List <list@sender.example>"])
        empty = self.fields(b"From: a@sender.example\r\nReply-To: \r\n")
        self.assertEqual(empty["Reply-To"], ["a@sender.example"])

    def test_display_names(self) -> None:
        for written, shown in (
            (b'"Lee, Ann" <a@s.example>', "Lee, Ann"),
            (b'"Ann \\"The\\" Lee\\\\" <a@s.example>', 'Ann "The" Lee\\'),
            (b"=?utf-8?Q?J=C3=BCrgen_M=C3=BCller?= <a@s.example>", "J\xfcrgen M\xfcller"),
            (b"=?utf-8?B?SsO8cmdlbiwgTQ==?= <a@s.example>", "J\xfcrgen, M"),
            ("J\xfcrgen <a@s.example>".encode(), "J\xfcrgen"),
            (b"=?utf-8?Q?evil=0D=0ABcc=3A_x?= <a@s.example>", "evil Bcc: x"),
            (b"=?nonsense?Q?a?= <a@s.example>", None),
            (b"=?utf-8?B?!!!?= <a@s.example>", None),
            (b"a@s.example", "a at s.example"),
            (b"<a@s.example>", "a at s.example"),
            (b'"bank@s.example" <a@s.example>', "bank at s.example"),
            (b"Ann\r\n Lee\r\n <a@s.example>", "Ann Lee"),
            (b"A. Lee (boss) <a@s.example>", "A. Lee"),
            (b"x" * 300 + b" <a@s.example>", "x" * 147 + "..."),
        ):
            with self.subTest(written):
                name, address = self.author(b"From: " + written + b"\r\n")
                if shown is not None:
                    self.assertEqual(name, f"{shown} (via gw.example.com)")
                self.assertRegex(address, r"\ASRSF=.*=s\.example=a@gw\.example\.com\Z")

    def test_names_that_only_some_readers_decode_are_not_handed_on(self) -> None:
        for written, shown in (
            (b"=?utf-8?q?bank=40s.example_=ff?= <a@s.example>", "a at s.example"),
            (b"=?x-nobody-s?q?bank=40s.example?= <a@s.example>", "a at s.example"),
            (b"=?utf-8?b?YmFua?= <a@s.example>", "a at s.example"),
            (b"=?utf-8?q?=3D=3Futf-8=3Fq=3Fbank=3D40s=3F=3D?= <a@s.example>",
             "= ?utf-8?q?bank=40s?="),
        ):  # fmt: skip
            with self.subTest(written):
                edited = self.edited(b"From: " + written + b"\r\n\r\n")
                field = edited.partition(b'From: "')[2].partition(b"\r\n")[0].decode()
                self.assertEqual(field, f'{shown} (via gw.example.com)"')

    def test_international_authors(self) -> None:
        _, address = self.author("From: x <ann@b\xfccher.example>\r\n".encode())
        self.assertIn("=xn--bcher-kva.example=ann@", address)
        edited = self.edited("From: J\xfc <j\xfc@b\xfccher.example>\r\n\r\n".encode())
        self.assertIn("=xn--bcher-kva.example=j\xfc@gw.example.com>".encode(), edited)
        self.assertIn("X-Original-From: J\xfc <j\xfc@b\xfccher.example>\r\n".encode(), edited)

    def test_of_several_authors_one_from_is_made_and_all_get_the_answers(self) -> None:
        section = b"From: Ann <ann@s.example>,\r\n bob@t.example\r\nSender: ann@s.example\r\n"
        name, address = self.author(section)
        self.assertEqual(name, "Ann, bob at t.example (via gw.example.com)")
        self.assertIn("=s.example=ann@", address)
        fields = self.fields(section)
        self.assertEqual(fields["Reply-To"], ["Ann <ann@s.example>, bob@t.example"])
        self.assertEqual(fields["Sender"], ["ann@s.example"])

    def test_of_several_fields_one_is_made(self) -> None:
        section = b"From: a@s.example\r\nSubject: x\r\nFrom: b@t.example\r\nFrom: nobody\r\n"
        name, _ = self.author(section)
        self.assertEqual(name, "a at s.example, b at t.example (via gw.example.com)")
        fields = self.fields(section)
        self.assertEqual(fields["Reply-To"], ["a@s.example, b@t.example"])
        self.assertEqual(fields["X-Original-From"], ["a@s.example", "b@t.example", "nobody"])

    def test_groups(self) -> None:
        name, address = self.author(b"From: Team: Ann <ann@s.example>, bob@t.example;\r\n")
        self.assertEqual(name, "Ann, bob at t.example (via gw.example.com)")
        self.assertIn("=ann@", address)

    def test_what_names_no_author_stays_as_it_is(self) -> None:
        for body in (b"", b" nobody", b" Team:;", b" <>", b" a@@s.example", b" \xff\xfe"):
            with self.subTest(body):
                section = b"Subject: x\r\nFrom:" + body + b"\r\n\r\n"
                self.assertEqual(self.edited(section), section)
        section = b"Subject: x\r\n\r\n"
        self.assertEqual(self.edited(section), section)

    def test_who_comes_by_twice_is_not_wrapped_twice(self) -> None:
        once = self.edited(b"From: a@s.example\r\n\r\n")
        self.assertEqual(self.edited(once), once)

    def test_another_gateways_address_is_wrapped_as_it_is(self) -> None:
        other = b"From: SRSF=12345678=AB=s.example=a@gw.other.example\r\n"
        _, address = self.author(other)
        self.assertIn("=gw.other.example=SRSF=12345678=AB=s.example=a@gw.example.com", address)

    def test_an_address_that_would_be_too_long_stays(self) -> None:
        section = b"From: " + b"a" * 64 + b"@" + b"b" * 60 + b"." + b"c" * 60 + b"." + b"d" * 50
        section += b".example\r\n\r\n"
        self.assertEqual(self.edited(section), section)

    def test_a_rule_is_about_the_authors_that_it_names(self) -> None:
        text = SITE.replace("From any", "From @s.example")
        section = b"From: a@t.example\r\n\r\n"
        self.assertEqual(self.edited(section, text), section)
        self.assertIn(b"via gw", self.edited(b"From: x <a@s.example>\r\n\r\n", text))

    def test_it_comes_after_all_other_rules_for_the_header(self) -> None:
        text = SITE + 'header replace From "Boss <boss@s.example>"\nheader remove Reply-To\n'
        fields = self.fields(b"From: a@t.example\r\nReply-To: b@t.example\r\n", text)
        self.assertIn("=s.example=boss@", fields["From"][0])
        self.assertEqual(fields["Reply-To"], ["Boss <boss@s.example>"])


class TheWayBack(AuthorCase):
    def address(self, now: float = NOW, author: str = "ann@sender.example") -> str:
        key = (self.folder / "srs.keys").read_bytes().splitlines()[0]
        return str(Scheme("gw.example.com", (key,)).of_author(Mailbox.parse(author), now))

    def to(self, plan: Plan) -> list[str]:
        return [str(each.mailbox) for each in plan.destinations]

    def test_an_answer_reaches_the_author_with_a_sender_of_ours(self) -> None:
        plan = self.plan(self.address())
        self.assertEqual(self.to(plan), ["ann@sender.example"])
        self.assertRegex(str(plan.destinations[0].reverse_path), r"\ASRS0=.*=bob@gw\.")

    def test_so_does_a_report(self) -> None:
        self.assertEqual(self.to(self.plan(self.address(), sender="")), ["ann@sender.example"])

    def test_whatever_case_a_server_on_the_way_gave_it(self) -> None:
        for address in (self.address().lower(), self.address().upper()):
            self.assertEqual(len(self.to(self.plan(address))), 1)

    def test_international_and_quoted_authors(self) -> None:
        for author in ("j\xfc@sender.example", '"a b"@sender.example', "a=b=c@sender.example"):
            self.assertEqual(self.to(self.plan(self.address(author=author))), [author])

    def test_keys_are_rolled_over(self) -> None:
        old = self.address()
        self.keys("second", "first")
        self.assertNotEqual(old, self.address())
        for address in (old, self.address()):
            self.assertEqual(self.to(self.plan(address)), ["ann@sender.example"])
        self.keys("second")
        self.assertEqual(self.plan(old).verdict, Verdict.REFUSE)

    def test_forged_old_and_guessed_ones_are_refused(self) -> None:
        good = self.address()
        given = good.split("=")[1]
        for address, status in (
            (good.replace("=ann@", "=bob@"), "5.1.1"),
            (good.replace("sender.example", "other.example"), "5.1.1"),
            (good.replace(given, "AAAAAAAA"), "5.1.1"),
            (good.replace(given, given[:4]), "5.1.1"),  # as short as one for reports may be
            (good.replace(given, ""), "5.1.1"),
            (self.address(NOW - 22 * DAY), "5.1.1"),
            (self.address(NOW + DAY), "5.1.1"),
            ("SRSF=x@gw.example.com", "5.1.3"),
        ):
            with self.subTest(address):
                plan = self.plan(address)
                self.assertEqual((plan.verdict, plan.reply.status), (Verdict.REFUSE, status))
        self.assertEqual(self.to(self.plan(self.address(NOW - 21 * DAY))), ["ann@sender.example"])

    def test_the_end_of_the_domain_is_not_moved_into_the_local_part_or_back(self) -> None:
        good = self.address()
        for forged in (
            good.replace("sender.example=ann@", "sender.exampl=eann@"),
            good.replace("sender.example=ann@", "sender.examplea=nn@"),
        ):
            with self.subTest(forged):
                plan = self.plan(forged)
                self.assertEqual((plan.verdict, plan.reply.status), (Verdict.REFUSE, "5.1.1"))

    def test_an_address_for_reports_is_turned_into_none_for_answers(self) -> None:
        scheme = Scheme("gw.example.com", (b"first",), hash_length=8)
        for_reports = scheme.forward(Mailbox.parse("ann@sender.example"), NOW)
        turned = Mailbox(for_reports.local.replace("SRS0", "SRSF"), for_reports.domain)
        with self.assertRaises(ForgedError):
            scheme.reverse(turned, NOW)
        for_answers = scheme.of_author(Mailbox.parse("ann@sender.example"), NOW)
        turned = Mailbox(for_answers.local.replace("SRSF", "SRS0"), for_answers.domain)
        with self.assertRaises(ForgedError):
            scheme.reverse(turned, NOW)

    def test_one_of_ours_inside_another_is_refused(self) -> None:
        scheme = Scheme("gw.example.com", (b"first",))
        inner = scheme.of_author(Mailbox.parse("ann@sender.example"), NOW)
        with self.assertRaises(SrsError):
            scheme.reverse(scheme.of_author(inner, NOW), NOW)


class Written(unittest.TestCase):
    def test_it_prints_and_reads_as_itself(self) -> None:
        for text in (
            "rewrite header From any -> srs",
            "rewrite header from @s.example -> srs when breaks dmarc",
        ):
            self.assertEqual([str(item) for item in parse(text)], [text])

    def test_it_wants_a_domain(self) -> None:
        (problem,) = problems("accept to @example.com\nrewrite header From any -> srs\n")
        self.assertIn('there is no domain for "srs"; expected a statement "srs domain', problem)

    def test_it_is_about_the_author_alone(self) -> None:
        for fields in ("To", "From, Sender", "Sender"):
            (problem,) = problems(f"rewrite header {fields} any -> srs\n")
            self.assertIn('"srs" makes an address of the author', problem)
