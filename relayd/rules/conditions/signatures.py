"""`dkim` and `dmarc`: who vouches for the content (RFC 6376, RFC 9989)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from relayd.mail.address import fold_domain
from relayd.rules.conditions.condition import Condition, Operand, Test
from relayd.rules.fact import Fact, Known
from relayd.rules.language.lexer import TokenKind
from relayd.rules.language.pattern import Domain, SignedBy, SubDomains, Text
from relayd.rules.language.source import one_of
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table, Unknown
from relayd.rules.view import View

DKIM_RESULTS = ("pass", "temperror", "fail", "neutral", "permerror", "none")
"""The best first: of several signatures that one counts."""
_RANK = {result: rank for rank, result in enumerate(DKIM_RESULTS)}
_DOMAIN = re.compile(r"[a-z][a-z0-9-]*\.[a-z0-9.-]+\Z", re.IGNORECASE)
_LATER = "temperror"  # it may be otherwise later, so it is nothing else now


class SignedResult(NamedTuple):
    """What came of one signature."""

    result: str  # one of DKIM_RESULTS
    domain: str = ""  # folded: whose it is

    def __str__(self) -> str:
        return f"{self.result} @{self.domain}" if self.domain else self.result


DKIM = Fact("the DKIM signatures", Known.CONTENT, asked=True, spelled="dkim", values=((),))
"""A SignedResult for each signature; empty: there is none. None: nobody could say."""

DMARC_WORDS = ("none", "pass", "quarantine", "reject")
DMARC = Fact("what DMARC asks for", Known.CONTENT, asked=True, spelled="dmarc", values=DMARC_WORDS)
"""One of DMARC_WORDS: `pass`, or what the author's domain asks for where it does not pass. None:
nobody could say."""


ARC_WORDS = ("none", "pass", "fail")
ARC = Fact("the chain of ARC", Known.CONTENT, asked=True, spelled="arc", values=ARC_WORDS)
"""One of ARC_WORDS (RFC 8617 section 4.4). None: nobody could say."""


class ByDkim(Condition):
    """`dkim pass`, `dkim pass @example.org, pass @.example.org`, `dkim none`."""

    __slots__ = ()
    word = "dkim"
    facts = frozenset({DKIM})

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        result = words.choice(DKIM_RESULTS, f"a result of DKIM: {one_of(list(DKIM_RESULTS))}")
        token = words.peek()
        if token is not None and token.kind is TokenKind.WORD and _DOMAIN.match(token.text):
            hint = f'did you mean "@{token.text}"?'
            raise words.complain(f'"{token.text}" is no @domain', hint, token.place)
        if token is None or token.text[:1] != "@":
            return SignedBy(result)
        text = words.word("@domain").text
        if text.startswith("@."):
            return SignedBy(result, SubDomains(words.domain(text[2:])))
        return SignedBy(result, Domain(words.domain(text[1:])))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, SignedBy)
        wanted, domain = operand.result, operand.domain

        def test(view: View) -> bool:
            best = _best(view, domain)
            if best == _LATER != wanted:
                raise Unknown("no answer for the key of a DKIM signature")
            return best == wanted

        return test

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: its signatures."""
        stated = []
        for operand in self.operands:
            assert isinstance(operand, SignedBy)
            if self.negated or isinstance(operand.domain, SubDomains):
                raise ValueError('expected signatures: "dkim pass @example.org" or "dkim none"')
            if operand.result != "none":
                domain = "" if operand.domain is None else fold_domain(operand.domain.domain)
                stated.append(SignedResult(operand.result, domain))
        return DKIM, tuple(stated)


def _best(view: View, domain: Domain | SubDomains | None) -> str:
    """The best result of all signatures, or of those of a domain."""
    signed = view.told(DKIM)
    if signed is None:
        raise Unknown(f"{DKIM} are not known")
    assert isinstance(signed, tuple)
    results = (result for result, signer in signed if domain is None or _is_of(signer, domain))
    return min(results, key=_RANK.__getitem__, default="none")


def _is_of(signer: str, domain: Domain | SubDomains) -> bool:
    wanted = fold_domain(domain.domain)
    return signer.endswith(f".{wanted}") if isinstance(domain, SubDomains) else signer == wanted


class _ByResult(Condition):
    """One result in one word, of what `facts` names."""

    __slots__ = ()
    fact: Fact
    results: tuple[str, ...]

    @classmethod
    def operand(cls, words: Words) -> Operand:
        """One operand."""
        return Text(words.choice(cls.results, one_of(list(cls.results))))

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        assert isinstance(operand, Text)
        wanted, fact = operand.text, self.fact

        def test(view: View) -> bool:
            word = view.told(fact)
            if word is None:
                raise Unknown(f"{fact} is not known")
            return word == wanted

        return test

    def stated(self) -> tuple[Fact, object]:
        """What a test says of a message with this: its one result."""
        (operand,) = self.operands if len(self.operands) == 1 else (None,)
        if self.negated or not isinstance(operand, Text):
            raise ValueError(f'expected one result: "{self.word} pass"')
        return self.fact, operand.text


class ByDmarc(_ByResult):
    """`dmarc pass`, `dmarc quarantine, reject`."""

    __slots__ = ()
    word = "dmarc"
    facts = frozenset({DMARC})
    fact, results = DMARC, DMARC_WORDS


class ByArc(_ByResult):
    """`arc pass`, `arc none, fail`."""

    __slots__ = ()
    word = "arc"
    facts = frozenset({ARC})
    fact, results = ARC, ARC_WORDS
