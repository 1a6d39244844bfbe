"""What `check` says of a rule set is what happens: no rule that it calls unreachable has a say."""

from __future__ import annotations

import itertools
import unittest

from hypothesis import example, given, settings
from hypothesis import strategies as st

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.check.loops import loops
from relayd.rules.check.shadow import hidden_rules, never_held
from relayd.rules.evaluate import LOOPED, Facts, evaluate
from relayd.rules.ruleset import build
from relayd.rules.tables.table import ListTable, MapEntry, MapTable, Table
from tests.unit.rules.test_grammar import parse

LOCALS = ["a", "b", "a+x", "c"]
DOMAINS = ["x.example", "y.example", "sub.x.example"]
NAMED = st.builds("{}@{}".format, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
PATTERNS = st.one_of(
    NAMED,
    st.sampled_from(DOMAINS).map("@{}".format),
    st.sampled_from(LOCALS).map("{}@".format),
    st.sampled_from(["@.x.example", "@.example", "any", 'regex "^a"', 'regex "@x\\."']),
)
TARGETS = st.one_of(NAMED, st.sampled_from(DOMAINS).map("@{}".format))
KEPT = st.one_of(TARGETS, st.sampled_from(LOCALS).map("{}@".format))


def listed(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """One or two, with a comma between."""
    return st.lists(items, min_size=1, max_size=2, unique=True).map(", ".join)


CONDITIONS = st.one_of(
    listed(PATTERNS).map("to {}".format),
    listed(st.one_of(PATTERNS, st.just("null"))).map("sender {}".format),
    listed(st.sampled_from(["10.0.0.0/8", "10.1.2.3", "any", "::/0", "0.0.0.0/0"])).map(
        "from {}".format
    ),
    st.sampled_from(["login bob", "login any", "helo a.example", "tls", "any"]),
)
NOT = st.sampled_from(["", "", "not "])
WHEN = st.one_of(
    st.just(""),
    st.lists(st.builds("{}{}".format, NOT, CONDITIONS), min_size=1, max_size=2).map(
        lambda tests: " when " + " and ".join(tests)
    ),
)
ADMISSIONS = st.builds(
    "{} {}{}".format,
    st.sampled_from(["accept", "accept", "reject", "hold", "discard"]),
    st.lists(CONDITIONS, min_size=1, max_size=2).map(" ".join),
    WHEN,
)
RULES = st.one_of(
    ADMISSIONS,
    st.builds("forward {} -> {}{}".format, listed(PATTERNS), listed(KEPT), WHEN),
    st.builds("rewrite recipient {} -> {}{}".format, listed(PATTERNS), TARGETS, WHEN),
    st.builds("rewrite sender {} -> {}{}".format, listed(PATTERNS), TARGETS, WHEN),
    st.builds("route {} direct{}".format, CONDITIONS, WHEN),
    st.just("subaddress +"),
)
SETS = st.lists(RULES, min_size=2, max_size=8).map(lambda rules: [*rules, "accept any"])
REGEXES = st.sampled_from([
    "^a", "b@", r"@x\\.", r"^[ab]+@", r"x@y\\.", r"^[^@+]+@sub\\.", r"\\.x\\.example$", "^.b", "[^a]@", "e$", r"\\bx@",
]).map('regex "{}"'.format)  # fmt: skip
REGEX_FORWARDS = st.one_of(
    st.builds("forward {} -> {}{}".format, REGEXES, listed(KEPT),
              st.one_of(st.just(""), st.builds(" when {}to {}".format, NOT, REGEXES))),
    st.builds("forward {} -> {}".format, listed(st.one_of(PATTERNS, REGEXES)), listed(KEPT)),
    st.builds("forward @.{} -> @.{}".format, st.sampled_from(DOMAINS), st.sampled_from(DOMAINS)),
    st.builds(
        'forward regex "{}" -> "{}"'.format,
        st.sampled_from([r"^([^@]+)@x\\.example$", r"^(a|b)\\+x@", r"^([ab])", r"^([^@]+)x@(.+)$"]),
        st.sampled_from([r"\\1@y.example", r"\\1@sub.x.example", r"\\1+x@x.example", r"a\\1@x.example"]),
    ),
    st.just("forward <people> at @x.example"),
    st.builds("forward <ours> -> {}".format, listed(KEPT)),
    st.just("subaddress +"),
)  # fmt: skip
ALIASES = st.dictionaries(
    st.one_of(NAMED, st.sampled_from(["a@", "b@", "c@", "a+x@", "@x.example", "@y.example"])),
    st.lists(st.one_of(NAMED, st.sampled_from(["a", "b", "a+x", "b+x", "@y.example", r"\c"])),
             min_size=1, max_size=2, unique=True).map(tuple),
    max_size=4,
)  # fmt: skip
LISTED = st.sets(st.one_of(NAMED, st.sampled_from(["@x.example", "@.x.example", "@y.example"])))
ASKED_LOCALS = [*LOCALS, "b+x", "somebody", "ab", "ba", "bb", "aa", "ax", "bx", "zb", "c+x", "a.x"]
ASKED_DOMAINS = [*DOMAINS, "sub.sub.x.example", "sub.example", "somewhere.invalid", "b.y.example"]
MAILBOXES = st.builds(Mailbox, st.sampled_from(LOCALS), st.sampled_from(DOMAINS))
FACTS = st.builds(
    Facts,
    st.builds(
        Client,
        st.sampled_from(["10.1.2.3", "10.9.9.9", "192.0.2.1", "2001:db8::1"]),
        login=st.sampled_from(["", "bob", "eve"]),
        helo=st.sampled_from(["", "a.example"]),
        tls=st.sampled_from(["", "TLSv1.3"]),
    ),
    st.one_of(st.none(), MAILBOXES),
    MAILBOXES,
)


class AgreementTests(unittest.TestCase):
    """Local parts with a route in them are left out: what stands behind an `accept` for the same
    domain is told of although it sees those, for hardly anybody means it.
    """

    @settings(max_examples=150, deadline=None)
    @given(SETS, st.lists(FACTS, min_size=5, max_size=12))
    def test_of_whole_rule_sets(self, lines: list[str], asked: list[Facts]) -> None:
        ruleset = build(parse("\n".join(lines)), {}, "gw.example.com")
        never = {str(each.place) for each in never_held(ruleset)}
        never |= {str(each.place) for _, rules in hidden_rules(ruleset) for each in rules}
        for facts in asked:
            plan = evaluate(ruleset, facts)
            said = {step.place for step in plan.trail}
            self.assertEqual(said & never, set(), (lines, facts))
            self.assertFalse(any("bug" in step.note for step in plan.trail), plan.trail)

    @settings(max_examples=150, deadline=None)
    @given(SETS)
    @example(["forward @.x.example -> @x.example", 'forward regex "^a" -> @sub.x.example'])
    @example(['forward regex "b@" -> @x.example', "forward @x.example -> @y.example"])
    @example(["subaddress +", 'forward regex "x@" -> @x.example', "forward b@ -> @y.example"])
    @example(
        [
            "subaddress +",
            "forward a+x@ -> @x.example",
            "forward b@x.example, a@ -> a+x@x.example, @y.example",
        ]
    )
    @example(["subaddress +", "forward a+x@ -> @y.example", "forward a@ -> a+x@"])
    @example(
        [
            "subaddress +",
            "forward b@x.example -> @sub.x.example",
            "forward @sub.x.example -> @x.example, b@",
        ]
    )
    @example(
        [
            "subaddress +",
            "forward a@ -> b@, a+x@x.example when not to @y.example",
            "forward a+x@x.example, @.example -> @sub.x.example, a+x@x.example",
        ]
    )
    @example(["forward c@ -> a@, c@sub.x.example", "forward @.x.example -> c@"])
    @example(
        [
            "forward somebody@x.example -> a@y.example",
            "forward @x.example -> @x.example, b@x.example",
        ]
    )
    def test_of_circles(self, lines: list[str]) -> None:
        """For the stranger whom `check` has in mind, a circle is refused if and only if it is told."""
        self.agree([line for line in lines if line.startswith(("forward", "subaddress"))], {})

    @settings(max_examples=150, deadline=None)
    @given(st.lists(REGEX_FORWARDS, min_size=1, max_size=6), ALIASES, LISTED)
    @example(
        ["subaddress +", "forward <people> at @x.example"], {"a@": ("b+x",), "b@": ("a+x",)}, set()
    )
    @example(
        ["subaddress +", "forward <people> at @x.example"],
        {"a+x@": ("c@y.example",), "a@": ("a+x",)},
        set(),
    )
    def test_of_circles_through_regexes_templates_and_tables(
        self, lines: list[str], aliases: dict[str, tuple[str, ...]], listed: set[str]
    ) -> None:
        people = MapTable("people", "aliases", "people")
        people.entries = {key: MapEntry(1, values) for key, values in aliases.items()}
        people.bare = any(key[-1] == "@" for key in aliases)
        ours = ListTable("ours", "ours", lines=False)
        ours.probes = dict.fromkeys(listed, 1)
        self.agree(lines, {"people": people, "ours": ours})

    def agree(self, lines: list[str], tables: dict[str, Table]) -> None:
        """Ask about every kind of mailbox that the rules above can name."""
        ruleset = build(parse("\n".join([*lines, "accept any"])), tables, "gw.example.com")
        refused = [
            f"{local}@{domain}"
            for local, domain in itertools.product(ASKED_LOCALS, ASKED_DOMAINS)
            if evaluate(ruleset, Facts(Client("192.0.2.1"), None, Mailbox(local, domain))).reply
            is LOOPED
        ]
        told = [str(each) for each in loops(ruleset)]
        if refused:
            self.assertTrue(told, (lines, refused))
        elif told:  # by a mailbox that was not asked about above: it is refused
            start = told[0].partition(" ->")[0].rpartition(": ")[2]
            facts = Facts(Client("192.0.2.1"), None, Mailbox.parse(start))
            self.assertIs(evaluate(ruleset, facts).reply, LOOPED, (lines, told))
