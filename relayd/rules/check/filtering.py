"""What is wrong with who is asked, and with the rules that look at what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from relayd.rules.check.check import word_at
from relayd.rules.conditions.filtering import ByFilterWord, ByScore, BySymbol
from relayd.rules.language.model import Ask, Expect, FilterDef, Item, Rule
from relayd.rules.language.source import Problem


def filter_problems(items: Sequence[Item]) -> list[Problem]:
    """Conditions about what nobody is asked for, or what he does not say."""
    filters = {item.name: item for item in items if isinstance(item, FilterDef)}
    asked = {name for item in items if isinstance(item, Ask) for name in item.names}
    problems: list[Problem] = []
    for item in items:
        if isinstance(item, Rule):
            problems += _of(item, filters, asked)
    return [*problems, *_too_early([item for item in items if isinstance(item, Ask)])]


def _too_early(asks: Sequence[Ask]) -> Iterator[Problem]:
    """Who is asked by what one says who is asked behind him: nobody would ever know."""
    order = [*dict.fromkeys(name for rule in asks for name in rule.names)]
    for rule in asks:
        for condition in rule.tests:
            if not isinstance(condition, ByScore | ByFilterWord | BySymbol):
                continue
            ((_, says),) = condition.named
            for name in rule.names:
                if says in order and order.index(says) >= order.index(name):
                    what = f"{name} is asked before {says}, so what that says is not known by then"
                    yield Problem(word_at(rule.place, says), what, f"expected {says} further up")


def _of(rule: Rule, filters: Mapping[str, FilterDef], asked: set[str]) -> Iterator[Problem]:
    stated = rule.stated if isinstance(rule, Expect) else ()
    for condition in (*rule.tests, *stated):
        for word, name in condition.named:
            if word != "milter" or name not in filters:
                continue  # which is complained of elsewhere
            place = word_at(rule.place, name)
            kind = filters[name].kind
            if isinstance(condition, ByScore | BySymbol) and kind != "rspamd":
                what = "symbols" if isinstance(condition, BySymbol) else "scores"
                expected = f'expected the name of an rspamd, or "says {name} reject"'
                yield Problem(place, f"{name} is a {kind}, which gives no {what}", expected)
            elif isinstance(condition, ByFilterWord) and kind == "policy":
                yield Problem(
                    place,
                    f"{name} is a policy service: what it says counts when it says it",
                    "expected the name of a milter, rspamd or clamd",
                )
            elif name not in asked:
                yield Problem(place, f"nobody asks {name}", f'expected a rule "ask {name}"')
    for condition in rule.tests:
        if isinstance(condition, ByScore) and not condition.comparison:
            ((_, name),) = condition.named
            yield Problem(
                word_at(rule.place, name),
                "a score is hardly ever just that",
                f'did you mean "score {name} >= {condition.number:g}"?',
            )
