"""Header rules change the named fields, and not one octet elsewhere."""

from __future__ import annotations

import unittest
from email import message_from_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.rules.addrspec import addresses, folded
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
            (b"a @ old.example, b(x)@(y)\r\n old.example (z)",
             b"a @ new.example, b(x)@(y)\r\n new.example (z)"),
            (b"Bob <a @old.example>, c@ else.example", b"Bob <a @new.example>, c@ else.example"),
            (b'"a"@old.example, "A\\b"@old.example', b'"a"@new.example, "A\\b"@new.example'),
            (b"[\\[ a@old.example", b"[\\[ a@new.example"),
            # dots where the book has none, as mobile phones have them
            (b"a..b@old.example, Ann <a.@old.example>, .a@old.example.",
             b"a..b@new.example, Ann <a.@new.example>, .a@new.example."),
            (b'"a".b@old.example, . @ old.example', b'"a".b@new.example, . @ new.example'),
            (b"x [a@old.example] <a@old.example>", b"x [a@old.example] <a@new.example>"),
            (b"@ old.example, a @, @, a @ @ old.example", b"@ old.example, a @, @, a @ @ old.example"),
        ):  # fmt: skip
            with self.subTest(before):
                section = b"From:  " + before + b"\r\nX: a@old.example\r\n\r\n"
                self.assertEqual(
                    edited(REWRITE, section), b"From:  " + after + b"\r\nX: a@old.example\r\n\r\n"
                )

    def test_comments_with_blanks_on_both_sides_around_the_at(self) -> None:
        for address in (
            b"a (c) @old.example",
            b"a (c) @ (d) old.example",
            b"<a@\r\n (c)\r\n (d) old.example>",
            b'"a b" (c) (d) @ old.example',
        ):
            with self.subTest(address):
                section = b"From: " + address + b"\r\n\r\n"
                after = section.replace(b"old.example", b"new.example")
                self.assertEqual(edited(REWRITE, section), after)

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

    LONGER = f"rewrite header To @old.example -> @{'long.' * 40}example\n"

    def test_rewritten_lines_are_folded_wherever_the_field_allows_it(self) -> None:
        for unit, allowed in (
            (b"a@old.example,", 60),  # behind a comma without a blank
            (b"<a@old.example>,", 60),
            (b'"B, C"<a@old.example>,', 40),
            (b"B C (d, e) <a@old.example>, ", 30),
            (b"Us:a@old.example,b@old.example;", 30),
            (b'"' + b"x" * 850 + b'"<a@old.example>,', 5),  # before an angle bracket
            (b"(" + b"x" * 850 + b") a@old.example,", 5),
        ):
            before = b"To: " + (unit * allowed).rstrip(b", ") + b"\r\n\r\n"
            out = edited(self.LONGER, before)
            with self.subTest(unit[:40]):
                lines = out.split(b"\r\n")
                self.assertLessEqual(max(map(len, lines)), 998)
                self.assertTrue(all(line.strip() for line in lines[:-2]), lines)
                self.assertTrue(all(line[:1] == b" " for line in lines[1:-2]), lines)
                # unfolded it is as it was, but for the domain and blanks where they mean nothing
                long = b"long." * 40 + b"example"
                self.assertEqual(
                    b"".join(out.replace(long, b"old.example").split()), b"".join(before.split())
                )

    def test_a_line_within_bounds_is_not_folded(self) -> None:
        section = b"To: " + b"a@old.example, " * 30 + b"b@old.example\r\n\r\n"
        self.assertEqual(edited(REWRITE, section), section.replace(b"old", b"new"))

    def test_what_is_in_a_quoted_string_or_a_comment_is_not_folded(self) -> None:
        text = b'"' + b"a, " * 200 + b'" (' + b"b, " * 200 + b") <a@old.example>"
        out = edited(self.LONGER, b"To: " + text + b"\r\n\r\n")
        self.assertIn(b'"' + b"a, " * 200 + b'"', out)
        self.assertIn(b"(" + b"b, " * 200 + b")", out)

    def test_a_local_part_keeps_its_octets_by_a_regex(self) -> None:
        rule = 'rewrite header From regex "^(.+)@old\\.example$" -> "\\1@new.example"\n'
        for local in (b"Joe.Doe", b'"a B"', b'"x@y"', b'"q\\"q"', "jÜrgen".encode()):
            section = b"From: X <" + local + b" (c)@OLD.example>\r\n\r\n"
            self.assertEqual(edited(rule, section), section.replace(b"OLD", b"new"), local)

    def test_what_cannot_be_rewritten_stays(self) -> None:
        rule = 'rewrite header From regex "^(.+)@old\\.example$" -> "x@\\1.example"\n'
        section = b'From: "a b"@old.example, c@old.example\r\n\r\n'
        self.assertEqual(edited(rule, section), b'From: "a b"@old.example, x@c.example\r\n\r\n')

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.sampled_from(
        [b"a@old.example", b", ", b",", b" ", b"<b@old.example>", b'"q, q"', b"(c, (d))", b"\r\n ",
         b"x" * 300, b"Us:", b";", b"(", b'"', b"<", b"[", b"\\"]), max_size=60))  # fmt: skip
    def test_folding_only_adds_white_space(self, parts: list[bytes]) -> None:
        field = b"To: a" + b"".join(parts) + b"\r\n"
        out = folded(field)
        self.assertEqual(b"".join(out.split()), b"".join(field.split()))
        self.assertEqual(folded(out), out)
        blank = [line for line in field.split(b"\r\n") if not line.strip()]
        self.assertEqual([line for line in out.split(b"\r\n") if not line.strip()], blank)


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

    def test_what_is_added_stands_in_front(self) -> None:
        self.assertEqual(
            edited('header add X-B "1"\nheader add X-B "2"\n', self.SECTION),
            b"X-B: 1\r\nX-B: 2\r\n" + self.SECTION,
        )
        self.assertEqual(edited('header add X-B "1"\n', b"A: b"), b"X-B: 1\r\nA: b")
        self.assertEqual(edited('header add X-B "1"\n', b"\r\n"), b"X-B: 1\r\n\r\n")

    def test_rules_edit_what_rules_above_them_have_added(self) -> None:
        add = 'header add X-A "new"\n'
        rest = self.SECTION.replace(b"X-A: 1\r\nx-a : 2\r\n", b"")
        self.assertEqual(edited(add + "header remove X-A\n", self.SECTION), rest)
        self.assertEqual(edited("header remove X-A\n" + add, self.SECTION), b"X-A: new\r\n" + rest)
        self.assertEqual(
            edited(add + 'header add X-C "c"\nheader replace X-A "other"\n', self.SECTION),
            b"X-A: other\r\nX-C: c\r\n" + rest,
        )

    def test_no_line_of_the_sender_hides_what_is_added(self) -> None:
        """Behind a line that is no field other parsers see no header any more."""
        for line in (
            b"this line has no colon",
            b"From me",
            b": nameless",
            b"\xff",
            b"a b: c",
            b" ",
        ):
            section = b"Subject: x\r\n" + line + b"\r\nTo: y@z.example\r\n\r\n"
            out = edited('header add X-Outside "yes"\n', section)
            with self.subTest(line):
                self.assertEqual(out, b"X-Outside: yes\r\n" + section)
                self.assertEqual(message_from_bytes(out)["X-Outside"], "yes")

    def test_a_name_is_known_whatever_blank_stands_before_the_colon(self) -> None:
        for blank in (b" ", b"\t", b" \t ", b"\x0b", b"\x0c"):
            section = b"X-A" + blank + b": 1\r\nSubject: x\r\n\r\n"
            self.assertEqual(edited("header remove X-A\n", section), b"Subject: x\r\n\r\n", blank)

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
        for local, domain, _ in addresses(body):
            self.assertLessEqual(last, local[0])
            self.assertIn(b"@", body[local[1] : domain[0]])
            last = domain[1]
