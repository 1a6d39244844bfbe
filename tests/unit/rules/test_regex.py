"""Regular expressions: what could run away is refused, and what is not refused is fast."""

from __future__ import annotations

import time
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.rules.language.regex import MAX_SUBJECT, search, template_parts, trouble

HARMLESS = (
    r"^(.+)-team@example\.com$", r"^(.+)\.(.+)@example\.com$", r"@(?:[a-z0-9-]+\.)+example\.com$",
    r".*foo.*", r"^(a|b)+@x$", r"^[^@]+@[^@]+$", r"^bounce[-+][0-9a-f]{8,32}@", r"^(?:abc)*x",
    r"^(\w+)\+(\w+)@(.+)$", r"(?i)^Info@", r"^sales[0-9]?@example\.com$", r"^(?:ab?)+c", r"^(?!info@).+@x$",
)  # fmt: skip
RUNAWAY = (
    r"^(a+)+$", r"(ab|ab)*$", r"(a|ab)*c", r"(.*)*x", r"^(a?)+$", r".*.*.*x", r"(.+)\.(.+)\.(.+)@",
    r"(\w+\s?)+$", r"^(([a-z])+.)+[a-z]([a-z])+$", r"(.)\1", r"(a{1,30}){1,30}b", r"(x+x+)+y",
    r"^(a*)*(b*)*$", r"((ab)*)*c", r"(a?){9}b", r"a?a?a?a?a?a?a?a?a?a?aaaaaaa", r"^(?:a+ba*)+c",
    r"^(?:(?:xa|yb)|yb)*c", r"(?i)^([a-z]+|[A-Z]+)+1",
)  # fmt: skip


class RunawayTests(unittest.TestCase):
    def test_harmless_ones_pass(self) -> None:
        for text in HARMLESS:
            with self.subTest(text):
                self.assertIsNone(trouble(text))

    def test_runaways_are_refused(self) -> None:
        for text in RUNAWAY:
            with self.subTest(text):
                self.assertIn("very long", (trouble(text) or ("passed",))[0])

    PIECES = st.recursive(
        st.sampled_from(["a", "b", "[ab]", ".", "[^a]", r"\w", "@", "-"]),
        lambda inner: st.one_of(
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.tuples(inner, st.sampled_from(["*", "+", "?", "{1,9}", "{2}", "*?"])).map(
                lambda pair: f"(?:{pair[0]}){pair[1]}"
            ),
            st.tuples(inner, inner).map(lambda pair: f"({pair[0]}|{pair[1]})"),
        ),
        max_leaves=8,
    )

    @settings(max_examples=150, deadline=None)
    @given(PIECES, st.sampled_from(["", "^"]), st.sampled_from(["", "$", "!", "@x$"]))
    def test_what_passes_is_fast(self, piece: str, start: str, end: str) -> None:
        """An expression that is not refused is fast on the worst of subjects."""
        text = start + piece + end
        if trouble(text) is not None:
            return
        for unit in ("a", "b", "ab", "ba", "a-", "aab", "-", "@", "ab@", "b" * 9 + "a"):
            subject = (unit * MAX_SUBJECT)[: MAX_SUBJECT - 1]
            for last in ("", "c", "!"):
                began = time.process_time()
                search(text, subject[: MAX_SUBJECT - 1] + last)
                self.assertLess(time.process_time() - began, 1.0, text)

    def test_a_template_in_its_parts(self) -> None:
        for text, template, parts in (
            (r"^(.+)@x$", r"\1@y", (1, "@y")),
            (r"^(?P<l>.+)@(.+)$", r"\g<l>.\2\g<0>@y", (1, ".", 2, 0, "@y")),
            (r"^(.)(?:(b)|(c))@x$", r"a\3\2\1", ("a", 3, 2, 1)),
            (r"x", "a@y", ("a@y",)),
            (r"(x)", r"\x40".replace(r"\x40", r"\g<1>") + r"\\1@y", (1, r"\1@y")),
            (r"(((a)))", r"\3\2\1", (3, 2, 1)),
        ):
            self.assertEqual(template_parts(text, template), parts, template)

    def test_a_subject_beyond_any_mailbox_is_not_looked_at(self) -> None:
        self.assertIsNone(search("a", "a" * (MAX_SUBJECT + 1)))
