"""`tls` and `certificate`: how the connection is secured, and who the client proves to be."""

from __future__ import annotations

import re
from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition, Operand, Test, noting
from relayd.rules.fact import CERTIFICATE, TLS
from relayd.rules.language.pattern import Anything, InTable, NamePattern, Text
from relayd.rules.language.patternreader import name_pattern
from relayd.rules.language.words import Words
from relayd.rules.tables.table import Table


class OverTls(Condition):
    """`tls`."""

    __slots__ = ()
    word = "tls"
    facts = frozenset({TLS})

    @classmethod
    def read(cls, words: Words, *, negated: bool = False) -> OverTls:
        """It stands alone."""
        return cls((), negated)

    def compiled(self, tables: Mapping[str, Table]) -> Test:
        """It as a function of a view."""
        if self.negated:
            return lambda view: not view.client.tls
        return lambda view: bool(view.client.tls)


class ByCertificate(Condition):
    """`certificate` with the SHA-256 of a certificate, or of its key, which outlives it."""

    __slots__ = ()
    word = "certificate"
    facts = frozenset({CERTIFICATE})

    @classmethod
    def operand(cls, words: Words) -> NamePattern:
        """One operand."""
        name = name_pattern(words, "the SHA-256 of a certificate or its key, <table> or any")
        if not isinstance(name, Text):
            return name
        text = name.text.replace(":", "").lower()
        if not re.fullmatch("[0-9a-f]{64}", text):
            raise words.complain(
                f'"{name.text}" is no SHA-256 fingerprint',
                "expected 64 hexadecimal digits, as openssl x509 -fingerprint -sha256 prints them",
            )
        return Text(text)

    def test(self, operand: Operand, tables: Mapping[str, Table]) -> Test:
        """Whether one operand fits, as a function of a view."""
        if isinstance(operand, InTable):
            table = tables[operand.name]
            return noting(
                lambda view: next(
                    filter(None, map(table.word, view.client.certificate.split())), ""
                )
            )
        if not isinstance(operand, Text):
            return lambda view: bool(view.client.certificate)
        wanted = operand.text.lower()
        return lambda view: wanted in view.client.certificate.split()

    @property
    def names_client(self) -> bool:
        """Whether it holds only for clients that prove who they are."""
        return not self.negated

    @property
    def limits(self) -> bool:
        """Whether it keeps strangers out, who may have a certificate too."""
        return not self.negated and Anything() not in self.operands
