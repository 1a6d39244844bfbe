"""All conditions of the language, and how they are read: behind a verb, and behind `when`."""

from __future__ import annotations

from relayd.rules.conditions.breaking import Breaks
from relayd.rules.conditions.client import FromClient
from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.counted import ByCount
from relayd.rules.conditions.everyone import Always
from relayd.rules.conditions.filtering import ByFilterWord, ByScore, BySymbol
from relayd.rules.conditions.firstseen import ByFirstSight
from relayd.rules.conditions.forwarded import Forwarded
from relayd.rules.conditions.headerfield import ByField
from relayd.rules.conditions.listing import ByListing
from relayd.rules.conditions.mailbox import FromSender, ToRecipient
from relayd.rules.conditions.name import AtListener, ByHelo, ByLogin
from relayd.rules.conditions.resolves import ByRecords
from relayd.rules.conditions.reversename import ByReverseName
from relayd.rules.conditions.security import ByCertificate, OverTls
from relayd.rules.conditions.senderpolicy import BySenderPolicy
from relayd.rules.conditions.signatures import ByArc, ByDkim, ByDmarc
from relayd.rules.conditions.size import BySize
from relayd.rules.conditions.verified import UnknownAt
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.source import Complaint, did_you_mean, one_of
from relayd.rules.language.words import Words

ALL: tuple[type[Condition], ...] = (
    FromClient,
    ToRecipient,
    FromSender,
    ByLogin,
    AtListener,
    ByHelo,
    ByReverseName,
    ByListing,
    BySenderPolicy,
    ByRecords,
    ByCount,
    ByFirstSight,
    UnknownAt,
    ByArc,
    ByDkim,
    ByDmarc,
    BySize,
    ByField,
    ByScore,
    ByFilterWord,
    BySymbol,
    ByCertificate,
    OverTls,
    Forwarded,
    Breaks,
    Always,
)
CONDITIONS = {each.word: each for each in ALL}
"""Every condition's name."""


def condition(words: Words) -> Condition:
    """A condition whose name is next."""
    return CONDITIONS[words.word("a condition").text.lower()].read(words)


def conditions(words: Words) -> tuple[Condition, ...]:
    """The conditions right behind a verb: all must hold."""
    tests: list[Condition] = []
    while words.at_word(*CONDITIONS):
        tests.append(condition(words))
    if not tests:
        token = words.peek()
        if token is not None and token.kind is TokenKind.WORD and "@" in token.text:
            raise Complaint(
                token.place, f'"{token.text}" stands alone', f'did you mean "to {token.text}"?'
            )
        close = did_you_mean(token.text, CONDITIONS) if token is not None else ""
        if token is not None and close:
            raise Complaint(token.place, f'unexpected "{token.text}"', close)
        raise words.missing(f"a condition: {one_of(list(CONDITIONS))}")
    return tuple(tests)


def when(words: Words) -> tuple[Condition, ...]:
    """`when CONDITION and not CONDITION ...`, or nothing."""
    if not words.skip_word("when"):
        return ()
    tests = [_one(words)]
    while words.skip_word("and"):
        tests.append(_one(words))
    if words.at_word("or"):
        raise words.missing('"and" (an "or" is a second rule)')
    return tuple(tests)


def _one(words: Words) -> Condition:
    negated = words.skip_word("not")
    name = words.choice(CONDITIONS, f"a condition: {one_of(list(CONDITIONS))}")
    return CONDITIONS[name].read(words, negated=negated)
