"""Every rule prints as valid rule text, and nothing an admin writes raises."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.rules.language.grammar import VERBS, read_statement
from relayd.rules.language.lexer import lex
from relayd.rules.language.model import Item
from relayd.rules.language.source import Complaint, Source
from tests.unit.rules.sample import RULES
from tests.unit.rules.strategies import ITEMS


def parse(text: str) -> list[Item]:
    """All statements; raises where one is wrong."""
    lexed = lex(Source.of(text, "x"))
    if lexed.problems:
        raise AssertionError(str(lexed.problems[0]))
    return [read_statement(statement, VERBS) for statement in lexed.statements]


class PrintTests(unittest.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(ITEMS)
    def test_parse_of_str_is_the_rule(self, item: Item) -> None:
        """parse(str(rule)) == rule, for rules of every kind."""
        self.assertEqual(parse(str(item)), [item])

    def test_the_example_prints_and_reads_as_itself(self) -> None:
        items = parse(RULES)
        self.assertEqual(parse("\n".join(map(str, items))), items)

    def test_spacing_and_lines_do_not_matter(self) -> None:
        one = parse("forward a@x.example -> b@y.example, c@z.example\n")
        two = parse(
            "forward\ta@x.example->b@y.example ,# why\n\n   # more\n  c@z.example  # so\r\n"
        )
        self.assertEqual(one, two)

    def test_a_list_may_close_at_the_margin(self) -> None:
        self.assertEqual(
            parse("table t {\n  a.example\n  b.example,\n}\n"),
            parse("table t { a.example, b.example }"),
        )

    def test_a_hash_inside_a_word_is_a_letter(self) -> None:
        (rule,) = parse("forward a#b@x.example -> c@y.example # comment")
        self.assertEqual(str(rule), 'forward "a#b"@x.example -> c@y.example')


class ComplaintTests(unittest.TestCase):
    WORDS = st.sampled_from(
        [*VERBS, "to", "from", "sender", "->", ",", "{", "}", "<t>", "<>", "any", "direct", "via",
         "a@b.example", "@b.example", "@.b.example", "a@", "regex", '"^a+@"', '"\\1@x"', "550", "5.7.1",
         "when", "not", "and", "at", "file", "smtp", "lmtp", "unix:/x", "h:25", "10.0.0.0/8", "header",
         "recipient", "X-A", "add", "null", "aliases", "reject", "#", '"', "\\", "hold", "mx", "\t", "@"]
    )  # fmt: skip

    @settings(max_examples=250, deadline=None)
    @given(st.lists(WORDS, max_size=10), st.booleans())
    def test_any_words_are_a_rule_or_a_complaint(self, words: list[str], indent: bool) -> None:
        """Whatever is written either is a rule that prints itself, or is complained about in place."""
        text = ("\n  " if indent else " ").join(words)
        source = Source.of(text, "x")
        lexed = lex(source)
        for problem in lexed.problems:
            self.assertRegex(str(problem), r"^x:\d+:\d+: .+; .+\n    .*\n[ \t]*\^+$")
        for statement in lexed.statements:
            try:
                item = read_statement(statement, VERBS)
            except Complaint as complaint:
                self.assertRegex(str(complaint.problem), r"^x:\d+:\d+: .+; .+\n    .*\n[ \t]*\^+$")
            else:
                self.assertEqual(parse(str(item)), [item])

    @settings(max_examples=150, deadline=None)
    @given(st.text(max_size=60))
    def test_any_text_is_read_to_its_end(self, text: str) -> None:
        for statement in lex(Source.of(text, "x")).statements:
            try:
                read_statement(statement, VERBS)
            except Complaint as complaint:
                str(complaint.problem)
