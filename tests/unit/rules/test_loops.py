"""`check` and evaluation walk one graph: what one calls a circle, the other refuses with 554."""

from __future__ import annotations

import unittest
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.loops import loops
from relayd.rules.evaluate import LOOPED, Facts, evaluate
from relayd.rules.forward import MAX_EXPANDED, MAX_LEVELS
from relayd.rules.ruleset import Ruleset, build
from tests.unit.rules.sample import outcome, problems, rules
from tests.unit.rules.test_grammar import parse

LOCALS = ["a", "b", "c", "d", "e"]
DOMAINS = ["x.example", "y.example", "sub.x.example"]
OTHERS = ["somebody", "nobody"], ["elsewhere.example", "somewhere.invalid"]
NAMED = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS[:2]))
LETTERS = st.sampled_from([f"{local}@x.example" for local in LOCALS])
PATTERNS = st.one_of(
    NAMED,
    st.sampled_from(DOMAINS).map("@{}".format),
    st.sampled_from(LOCALS).map("{}@".format),
    st.sampled_from(["@.x.example", "@.example", "any"]),
)
TARGETS = st.one_of(
    NAMED, st.sampled_from(DOMAINS).map("@{}".format), st.sampled_from(LOCALS).map("{}@".format)
)


def forwards(
    patterns: st.SearchStrategy[str], targets: st.SearchStrategy[str]
) -> st.SearchStrategy:
    """Up to eight `forward` statements."""
    some = st.lists(targets, min_size=1, max_size=3, unique=True).map(", ".join)
    return st.lists(st.builds("forward {} -> {}".format, patterns, some), max_size=8)


def built(lines: list[str]) -> Ruleset:
    """A rule set that nothing was asked about."""
    text = "\n".join(["accept any", *lines])
    return build(parse(text), {}, "gw.example.com")


def refused(ruleset: Ruleset) -> set[str]:
    """Which of a few dozen mailboxes cannot get mail, because it would go in circles."""
    everybody = [
        Mailbox(local, domain)
        for local in LOCALS + OTHERS[0]
        for domain in DOMAINS + OTHERS[1]
    ]  # fmt: skip
    client = Client("192.0.2.1")
    return {
        str(each)
        for each in everybody
        if evaluate(ruleset, Facts(client, None, each)).reply is LOOPED
    }


class AgreementTests(unittest.TestCase):
    def agree(self, lines: list[str]) -> None:
        ruleset = built(lines)
        told = [problem.what for problem in loops(ruleset)]
        self.assertEqual(bool(told), bool(refused(ruleset)), [*lines, *told, *refused(ruleset)])

    @settings(max_examples=150, deadline=None)
    @given(forwards(LETTERS, LETTERS))
    @example([
        "forward b@x.example -> d@x.example, c@x.example",
        "forward e@x.example -> b@x.example",
        "forward d@x.example -> d@x.example, e@x.example",
        "forward c@x.example -> e@x.example",
    ])  # fmt: skip
    def test_of_mailboxes(self, lines: list[str]) -> None:
        self.agree(lines)

    @settings(max_examples=150, deadline=None)
    @given(forwards(PATTERNS, TARGETS))
    def test_of_patterns(self, lines: list[str]) -> None:
        self.agree(lines)

    @settings(max_examples=100, deadline=None)
    @given(st.permutations([f"forward a{n}@x.example -> a{n + 1}@x.example" for n in range(52)]),
           st.integers(49, 52))  # fmt: skip
    def test_of_chains_in_any_order(self, lines: list[str], length: int) -> None:
        """How many levels there are does not hang on which rule is looked at first."""
        short = [line for line in lines if int(line[9 : line.index("@")]) < length]
        ruleset = built(short)
        plan = evaluate(ruleset, Facts(Client("192.0.2.1"), None, Mailbox("a0", "x.example")))
        self.assertIs(plan.reply is LOOPED, length > MAX_LEVELS)
        self.assertIs(bool(loops(ruleset)), length > MAX_LEVELS)


class OrderTests(unittest.TestCase):
    """Whether mail goes in circles does not hang on who is written to, or on the order of rules."""

    def test_a_circle_beside_one_with_a_copy_is_told(self) -> None:
        lines = [
            "forward b@x.example -> d@x.example, c@x.example",
            "forward e@x.example -> b@x.example",
            "forward d@x.example -> d@x.example, e@x.example",
            "forward c@x.example -> e@x.example",
        ]
        (told,) = problems("\n".join(lines))
        self.assertIn("mail goes in circles: ", told)
        circle = set(told.partition(": ")[2].partition(";")[0].split(" -> "))
        self.assertEqual(circle, {f"{local}@x.example" for local in "bce"})
        ruleset = built(lines)
        self.assertEqual(refused(ruleset), {f"{local}@x.example" for local in "bcde"})

    def test_a_local_name_is_still_forwarded_where_another_name_leads_to_it(self) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "aliases").write_text("list: \\bob, carol\ncarol: bob\nbob: bob@y.example\n")
            one = rules(
                "table people aliases file aliases\naccept any\nforward <people> at @x.example\n",
                folder,
            )
        self.assertEqual(
            outcome(one, "list@x.example"), "bob@x.example direct, bob@y.example direct"
        )

    def test_a_list_too_long_is_told_before(self) -> None:
        """Each member forwards on, to one and the same mailbox or to one of its own."""
        with TemporaryDirectory() as name:
            folder = Path(name)
            members = [f"m{n}" for n in range(MAX_EXPANDED)]
            text = "".join(f"{each}: {each}@y.example\n" for each in members)
            (folder / "aliases").write_text(f"{text}all: {', '.join(members)}\n")
            one = "table people aliases file aliases\naccept any\nforward <people> at @x.example\n"
            self.assertIn("more than 2000 forwards", problems(one, folder)[0])
            (folder / "aliases").write_text(f"{text}all: {', '.join(members[1:])}\n")
            self.assertEqual(problems(one, folder), [])
            twice = (
                f"half: {', '.join(members[1:1500])}\nrest: half, {', '.join(members[1:1500])}\n"
            )
            (folder / "aliases").write_text(text + twice)
            self.assertEqual(problems(one, folder), [])
