"""Header rules change the named fields, and not one octet elsewhere."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.rules.addrspec import addresses
from relayd.rules.header import edit_header
from tests.unit.rules.sample import rules

REWRITE = "rewrite header From, To, Cc @old.example -> @new.example\n"


def edited(text: str, section: bytes) -> bytes:
    """The section after all header rules of the text."""
    ruleset = rules(text)
    return edit_header(ruleset, tuple(range(len(ruleset.headers.entries))), section)


class RewriteTests(unittest.TestCase):
    def test_addresses_only(self) -> None:
        for before, after in (
            (b"a@old.example", b"a@new.example"),
            (b"<A.B@OLD.example>", b"<A.B@new.example>"),
            (b'"a@old.example" <a@old.example>', b'"a@old.example" <a@new.example>'),
            (b"a@old.example <a@old.example>", b"a@old.example <a@new.example>"),
            (b"Bob (a@old.example) <a@old.example>", b"Bob (a@old.example) <a@new.example>"),
            (b"a@old.example (x (y) \\) a@old.example)", b"a@new.example (x (y) \\) a@old.example)"),
            (b"=?utf-8?q?J=C3=BC?= <a@old.example>", b"=?utf-8?q?J=C3=BC?= <a@new.example>"),
            (b"a@old.example,\r\n\tb@else.example,\r\n c@old.example",
             b"a@new.example,\r\n\tb@else.example,\r\n c@new.example"),
            (b"Us: a@old.example, B <b@old.example>;", b"Us: a@new.example, B <b@new.example>;"),
            (b'"a b"@old.example', b'"a b"@new.example'),
            (b"a@sub.old.example, xa@old.example.net", b"a@sub.old.example, xa@old.example.net"),
            (b"<@route.example:a@old.example>", b"<@route.example:a@new.example>"),
            ("Jürgen <jürgen@old.example>".encode(), "Jürgen <jürgen@new.example>".encode()),
            (b"undisclosed-recipients:;", b"undisclosed-recipients:;"),
            (b"\xff\xfe <a@old.example>", b"\xff\xfe <a@new.example>"),
            (b"a@@old.example, <a@old.example", b"a@@old.example, <a@new.example"),
            (b'"never closed a@old.example', b'"never closed a@old.example'),
            (b"a @ old.example, b(x)@(y)\r\n old.example (z)", b"a@new.example, b@new.example (z)"),
            (b"Bob <a @old.example>, c@ else.example", b"Bob <a@new.example>, c@ else.example"),
            (b"@ old.example, a @, @, a @ @ old.example", b"@ old.example, a @, @, a @ @ old.example"),
        ):  # fmt: skip
            with self.subTest(before):
                section = b"From:  " + before + b"\r\nX: a@old.example\r\n\r\n"
                self.assertEqual(
                    edited(REWRITE, section), b"From:  " + after + b"\r\nX: a@old.example\r\n\r\n"
                )

    def test_so_many_addresses_and_no_more(self) -> None:
        many = b"To: " + b"a@old.example,\r\n " * 3000 + b"a@old.example\r\n\r\n"
        section = edited(REWRITE, many)
        self.assertEqual(section.count(b"@new.example"), 2000)
        self.assertEqual(section.replace(b"@new", b"@old"), many)

    def test_a_giant_field_stays_as_it_is(self) -> None:
        section = b'From: "' + b"x" * 200_000 + b'" <a@old.example>\r\n\r\n'
        self.assertEqual(edited(REWRITE, section), section)

    def test_a_section_without_its_empty_line(self) -> None:
        for section in (b"To: a@old.example", b"X: y\r\nTo: a@old.example\r\n", b"", b"\r\n"):
            self.assertEqual(edited(REWRITE, section), section.replace(b"old", b"new"), section)

    def test_of_several_rules_the_first_that_fits_an_address(self) -> None:
        text = "rewrite header To a@old.example -> boss@new.example\n" + REWRITE
        self.assertEqual(
            edited(text, b"To: a@old.example, b@old.example\r\n\r\n"),
            b"To: boss@new.example, b@new.example\r\n\r\n",
        )

    def test_a_unicode_domain_goes_out_in_ascii(self) -> None:
        text = "rewrite header From @old.example -> @müller.example\n"
        self.assertEqual(
            edited(text, b"From: a@old.example\r\n\r\n"), b"From: a@xn--mller-kva.example\r\n\r\n"
        )

    def test_lines_stay_within_bounds(self) -> None:
        body = b", ".join(b"a%d@old.example" % n for n in range(55))
        self.assertLessEqual(len(body), 998)
        text = "rewrite header To @old.example -> @a-much-longer-name.new.example\n"
        out = edited(text, b"To: " + body + b"\r\n\r\n")
        self.assertTrue(all(len(line) <= 998 for line in out.split(b"\r\n")))
        self.assertEqual(out.count(b"@a-much-longer-name.new.example"), 55)


class EditTests(unittest.TestCase):
    SECTION = b"Received: x\r\nSubject: old\r\n  text\r\nX-A: 1\r\nx-a : 2\r\nnonsense\r\n\r\n"

    def test_remove(self) -> None:
        self.assertEqual(
            edited("header remove x-A\n", self.SECTION),
            b"Received: x\r\nSubject: old\r\n  text\r\nnonsense\r\n\r\n",
        )

    def test_replace_is_for_a_field_that_is_there(self) -> None:
        self.assertEqual(
            edited('header replace X-A "new"\nheader replace X-B "new"\n', self.SECTION),
            b"Received: x\r\nSubject: old\r\n  text\r\nX-A: new\r\nnonsense\r\n\r\n",
        )

    def test_add_goes_to_the_end(self) -> None:
        self.assertEqual(
            edited('header add X-B "1"\nheader add X-B "2"\n', self.SECTION),
            self.SECTION[:-2] + b"X-B: 1\r\nX-B: 2\r\n\r\n",
        )
        self.assertEqual(edited('header add X-B "1"\n', b"A: b"), b"A: b\r\nX-B: 1\r\n")
        self.assertEqual(edited('header add X-B "1"\n', b"\r\n"), b"X-B: 1\r\n\r\n")

    def test_what_is_added_is_folded_and_encoded(self) -> None:
        long = "word " * 60 + "end"
        out = edited(f'header add X-B "{long}"\nheader add X-C "Grüße"\n', b"\r\n")
        self.assertTrue(all(len(line) <= 78 for line in out.split(b"\r\n")))
        self.assertEqual(b" ".join(out.split()[1:62]), long.encode())
        self.assertIn(b"X-C: =?utf-8?", out)
        self.assertTrue(out.isascii())

    def test_conditions(self) -> None:
        from tests.unit.rules.sample import plan

        one = rules('accept any\nheader add X-B "1" when sender @a.example\nheader add X-C "1"\n')
        self.assertEqual(plan(one, "x@y.example").destinations[0].header_rules, (1,))
        self.assertEqual(
            plan(one, "x@y.example", sender="q@a.example").destinations[0].header_rules, (0, 1)
        )


class BytesTests(unittest.TestCase):
    FIELDS = st.lists(
        st.sampled_from(
            [b"From: a@old.example", b"To: <a@b.example", b"X: y", b"\tz", b" ", b"no colon",
             b": empty", b"\xff\x00: x", b"Cc:", b"Subject: a@old.example", b"Received: b"]
        )
    ).map(lambda lines: b"".join(line + b"\r\n" for line in lines))  # fmt: skip

    @settings(max_examples=150, deadline=None)
    @given(FIELDS)
    def test_no_rule_no_change(self, fields: bytes) -> None:
        """A rule that fits nothing leaves every octet, however odd the section is."""
        for section in (fields, fields + b"\r\n", fields + b"\r\nbody"):
            self.assertEqual(
                edited("rewrite header Reply-To any -> x@y.example\nheader remove X-Q\n", section),
                section,
            )

    @settings(max_examples=150, deadline=None)
    @given(FIELDS, FIELDS)
    def test_the_other_fields_are_kept(self, before: bytes, after: bytes) -> None:
        """Whatever stands around it, one To field changes as it does alone."""
        if after[:1] in (b"\t", b" "):
            after = b"X: y\r\n" + after
        rule = "rewrite header To q@old.example -> r@new.example\n"
        section = before + b"To: <q@old.example>\r\n" + after + b"\r\n"
        self.assertEqual(
            edited(rule, section), before + b"To: <r@new.example>\r\n" + after + b"\r\n"
        )

    @settings(max_examples=200, deadline=None)
    @given(st.binary(max_size=80))
    def test_any_body_is_walked_to_its_end(self, body: bytes) -> None:
        last = 0
        for start, end, _ in addresses(body):
            self.assertLessEqual(last, start)
            self.assertIn(b"@", body[start:end])
            last = end
