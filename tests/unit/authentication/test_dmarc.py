"""DMARC of RFC 9989: the walk, the organizational domain, the policy, and alignment."""

from __future__ import annotations

import unittest
from collections.abc import Sequence

from relayd.authentication.asking import RecordQuery
from relayd.authentication.dmarc import DmarcResult, dmarc_record, evaluate
from relayd.intake.vouching import Vouched
from tests.unit.authentication import Zone, drive


def policies(**published: str | None) -> dict[tuple[str, str], tuple[str, ...] | None]:
    """Records by domain, `_` for a dot."""
    return {
        (f"_dmarc.{name.replace('_', '.')}", "TXT"): None if text is None else (text,)
        for name, text in published.items()
    }


def outcome(
    zone: Zone, author: str, signed: Sequence[str] = (), sender: str | None = None
) -> DmarcResult:
    return drive(evaluate(author, signed, sender), zone)


class Walk(unittest.TestCase):
    def test_it_asks_from_the_domain_up_to_the_last_label(self) -> None:
        for author, names in (
            ("mail.example.com", ["mail.example.com", "example.com", "com"]),
            (
                "a.b.c.d.e.f.g.h.i.j.mail.example.com",
                [
                    "a.b.c.d.e.f.g.h.i.j.mail.example.com",
                    "g.h.i.j.mail.example.com",
                    "h.i.j.mail.example.com",
                    "i.j.mail.example.com",
                    "j.mail.example.com",
                    "mail.example.com",
                    "example.com",
                    "com",
                ],
            ),
        ):
            asked: list[RecordQuery] = []
            drive(evaluate(author, (), None), {}, asked)
            self.assertEqual([each.name for each in asked], [f"_dmarc.{name}" for name in names])

    def test_a_record_that_says_where_it_stands_ends_it(self) -> None:
        for psd in ("y", "n"):
            asked: list[RecordQuery] = []
            zone = policies(b_test=f"v=DMARC1; p=reject; psd={psd}", test="v=DMARC1; p=none")
            drive(evaluate("a.b.test", (), None), zone, asked)
            self.assertEqual(asked[-1].name, "_dmarc.b.test")

    def test_the_organizational_domain(self) -> None:
        for zone, organization in (
            (policies(), "a.mail.example.com"),
            (policies(example_com="v=DMARC1; p=none"), "example.com"),
            (
                policies(mail_example_com="v=DMARC1;p=none", example_com="v=DMARC1;p=none"),
                "example.com",
            ),
            (
                policies(mail_example_com="v=DMARC1;p=none;psd=n", example_com="v=DMARC1"),
                "mail.example.com",
            ),
            (policies(com="v=DMARC1; p=reject; psd=y"), "example.com"),
            (policies(a_mail_example_com="v=DMARC1; p=none; psd=y"), "a.mail.example.com"),
        ):
            with self.subTest(zone):
                self.assertEqual(outcome(zone, "a.mail.example.com").organization, organization)

    def test_several_records_of_one_name_are_none(self) -> None:
        zone = {("_dmarc.example.com", "TXT"): ("v=DMARC1; p=reject", "v=DMARC1; p=none")}
        self.assertEqual(outcome(zone, "example.com").result, "none")
        # by their version, whatever follows: one of them may be wrong
        zone = {("_dmarc.example.com", "TXT"): ("v=DMARC1; p=reject", "v=DMARC1; p=bounce")}
        self.assertEqual(outcome(zone, "example.com").result, "none")
        zone = {("_dmarc.example.com", "TXT"): ("v=spf1 -all", "v=DMARC1; p=reject")}
        self.assertEqual(outcome(zone, "example.com").policy, "reject")

    def test_trouble_in_the_dns_is_said(self) -> None:
        self.assertEqual(outcome(policies(example_com=None), "example.com").result, "temperror")


class Policy(unittest.TestCase):
    def test_what_counts_for_whom(self) -> None:
        for zone, author, policy in (
            (policies(example_com="v=DMARC1; p=reject; sp=none"), "example.com", "reject"),
            (policies(example_com="v=DMARC1; p=reject; sp=none"), "a.example.com", "none"),
            (policies(example_com="v=DMARC1; p=reject"), "a.example.com", "reject"),
            (policies(example_com="v=DMARC1; p=none; np=reject"), "a.example.com", "reject"),
            (
                policies(example_com="v=DMARC1; p=none; sp=quarantine; np=reject")
                | {("a.example.com", "MX"): ((10, "x.test"),)},
                "a.example.com",
                "quarantine",
            ),
            (
                policies(example_com="v=DMARC1; p=none", a_example_com="v=DMARC1; p=reject"),
                "a.example.com",
                "reject",
            ),
            (policies(com="v=DMARC1; p=quarantine; psd=y"), "a.example.com", "quarantine"),
            (policies(com="v=DMARC1; p=quarantine"), "a.example.com", "quarantine"),
            (policies(example_com="v=DMARC1; p=reject; t=y"), "example.com", "quarantine"),
            (policies(example_com="v=DMARC1; p=quarantine; t=y"), "example.com", "none"),
            (policies(example_com="v=DMARC1; p=REJECT; pct=0"), "example.com", "reject"),
        ):
            with self.subTest(zone, author=author):
                result = outcome(zone, author)
                self.assertEqual((result.result, result.policy), ("fail", policy))
                self.assertEqual(result.disposition, policy)

    def test_what_is_a_record(self) -> None:
        for text, policy in (
            ("v=DMARC1; p=reject", "reject"),
            ("v=DMARC1;p=reject;", "reject"),
            (" v = DMARC1 ; p=none", "none"),
            ("v=DMARC1", "none"),
            ("v=DMARC1; rua=mailto:a@x.test", "none"),
            ("v=DMARC1; p=wrong; rua=mailto:a@x.test", "none"),
            ("v=DMARC1; p=wrong", None),
            ("v=dmarc1; p=reject", None),
            ("p=reject; v=DMARC1", None),
            ("v=DMARC2; p=reject", None),
            ("v=DMARC1; oops; p=reject; =; unknown=1", "reject"),
        ):
            with self.subTest(text):
                record = dmarc_record("example.com", text)
                self.assertEqual(record.policy if record is not None else None, policy)


class Alignment(unittest.TestCase):
    ZONE = policies(example_com="v=DMARC1; p=reject", other_test="v=DMARC1; p=none")

    def test_who_vouches_must_be_of_the_authors_organization(self) -> None:
        for author, signed, sender, aligned in (
            ("example.com", ["example.com"], None, "dkim example.com"),
            ("a.example.com", ["b.example.com"], None, "dkim b.example.com"),
            ("example.com", ["other.test", "mail.example.com"], None, "dkim mail.example.com"),
            ("example.com", [], "bounce.example.com", "spf bounce.example.com"),
            ("example.com", ["other.test"], "other.test", ""),
            ("example.com", ["notexample.com"], "example.com.evil.test", ""),
            ("example.com", ["com"], None, ""),
            ("example.com", [], None, ""),
        ):
            with self.subTest(author, signed=signed, sender=sender):
                result = outcome(self.ZONE, author, signed, sender)
                self.assertEqual(result.aligned, aligned)
                self.assertEqual(result.result, "pass" if aligned else "fail")
                self.assertEqual(result.disposition, "pass" if aligned else "reject")

    def test_strict_means_the_very_domain(self) -> None:
        zone = policies(example_com="v=DMARC1; p=reject; adkim=s; aspf=s")
        self.assertEqual(outcome(zone, "example.com", ["mail.example.com"]).result, "fail")
        self.assertEqual(outcome(zone, "example.com", [], "mail.example.com").result, "fail")
        self.assertEqual(outcome(zone, "example.com", ["example.com"]).result, "pass")
        self.assertEqual(outcome(zone, "example.com", [], "example.com").result, "pass")

    def test_customers_of_a_public_suffix_are_strangers_to_each_other(self) -> None:
        zone = policies(host_test="v=DMARC1; p=reject; psd=y")
        self.assertEqual(outcome(zone, "one.host.test", ["two.host.test"]).result, "fail")
        self.assertEqual(outcome(zone, "a.one.host.test", ["b.one.host.test"]).result, "pass")

    def test_without_a_policy_there_is_no_result(self) -> None:
        result = outcome({}, "example.com", ["example.com"])
        self.assertEqual((result.result, result.disposition), ("none", "none"))


class NotKnownNow(unittest.TestCase):
    """What may yet pass is no failure, and what passes needs no more answers."""

    ZONE = policies(example_com="v=DMARC1; p=reject", dead_test=None, other_test="v=DMARC1; p=none")

    def result(self, *signed: str, later: str = "", policy: str = "reject") -> DmarcResult:
        zone = {**self.ZONE, **policies(example_com=f"v=DMARC1; p={policy}")}
        asking = evaluate("a.example.com", signed, None, later_signed=[later] if later else [])
        return drive(asking, zone)

    def test_a_signature_of_a_domain_that_does_not_answer_is_in_nobodys_way(self) -> None:
        self.assertEqual(self.result("dead.test", "a.example.com").result, "pass")
        self.assertEqual(self.result("dead.test", "example.com").result, "pass")
        self.assertEqual(self.result("other.test", "example.com").aligned, "dkim example.com")
        self.assertEqual(self.result("dead.test").result, "temperror")

    def test_what_would_be_of_the_authors_domain(self) -> None:
        for later, result in (
            ("example.com", "temperror"), ("a.example.com", "temperror"), ("other.test", "fail"),
            ("dead.test", "temperror"), ("", "fail"),
        ):  # fmt: skip
            self.assertEqual(self.result(later=later).result, result, later)
        self.assertEqual(self.result("example.com", later="dead.test").result, "pass")

    def test_where_nothing_is_asked_for_nothing_hangs_on_it(self) -> None:
        self.assertEqual(self.result(later="example.com", policy="none").result, "fail")
        found = self.result("dead.test", policy="none")
        self.assertEqual((found.result, found.policy), ("temperror", "none"))
        self.assertEqual(Vouched((), (found,)).asks_for, "none")
        self.assertIsNone(Vouched((), (self.result("dead.test"),)).asks_for)
