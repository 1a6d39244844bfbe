r"""Text to statements: words, quoted strings and marks, each knowing where it stands.

One statement a line; an indented line continues it, and so does a line that begins with the `}`
of a list. `#` begins a comment where a word could begin. A quoted string takes everything as it
stands but `\"`, so that a regex needs no second layer of backslashes.
"""

from __future__ import annotations

import enum
import re
from dataclasses import field

from relayd.mail.value import dataclass
from relayd.rules.language.source import Place, Problem, Source

_STRING = r'"(?:[^"\\]|\\.)*"'
_SPACE = re.compile(r"\s+")
_MARK = re.compile(r"->|[,{}]")
_TABLE = r'<[^<>\s",]*>'  # its name may end in "-"
_WORD = re.compile(rf'(?:{_STRING}|{_TABLE}|(?!->)[^\s",])+')
_LISTED_WORD = re.compile(rf'(?:{_STRING}|{_TABLE}|(?!->)[^\s",}}])+')
_WHOLE_STRING = re.compile(rf"{_STRING}\Z")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f\u2028\u2029\ufeff]")
_PLAIN = re.compile(r'(?!#)(?:(?!->)[^\s",{}#])+\Z')


class TokenKind(enum.Enum):
    """What a token is."""

    WORD = "word"
    STRING = "quoted text"
    MARK = "mark"


@dataclass(frozen=True, slots=True)
class Lexeme:
    """A word as written, a string without its quotes, or one of `-> , { }`."""

    kind: TokenKind
    text: str
    place: Place = field(compare=False)

    def is_mark(self, mark: str) -> bool:
        """Whether it is this mark (and not a string that looks like it)."""
        return self.kind is TokenKind.MARK and self.text == mark

    def is_word(self, *words: str) -> bool:
        """Whether it is one of these keywords, in any case."""
        return self.kind is TokenKind.WORD and self.text.lower() in words


@dataclass(frozen=True, slots=True)
class Statement:
    """A verb and what follows it."""

    tokens: tuple[Lexeme, ...]

    @property
    def verb(self) -> Lexeme:
        """The first token."""
        return self.tokens[0]


def quote(text: str) -> str:
    """The text as a word where it can be one, else in quotes; the lexer's inverse."""
    return text if _PLAIN.match(text) else string(text)


def string(text: str) -> str:
    """The text in quotes."""
    return '"' + text.replace('"', '\\"') + '"'


@dataclass(frozen=True, slots=True)
class Lexed:
    """A text's statements, what is wrong with its spelling, and the statements it spoilt."""

    statements: list[Statement]
    problems: list[Problem]
    broken: list[Statement]


def lex(source: Source) -> Lexed:
    """All statements of a text."""
    return _Lexer(source).read()


class _Lexer:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._statements: list[Statement] = []
        self._problems: list[Problem] = []
        self._spoilt: list[Statement] = []
        self._tokens: list[Lexeme] = []
        self._braces: list[Lexeme] = []
        self._broken = False  # a statement with a misspelt line is not parsed: one error is enough

    def read(self) -> Lexed:
        for number, line in enumerate(self._source.lines, 1):
            stripped = line.strip()
            if not stripped or stripped[0] == "#":
                continue
            closes = stripped[0] == "}" and self._braces
            if line[0] not in " \t" and not closes:
                self._end()
            elif not self._tokens and not self._broken:
                column = len(line) - len(line.lstrip()) + 1
                self._complain(
                    Place(self._source, number, column),
                    "an indented line continues a statement, but there is none before it",
                    "expected a verb at the start of the line",
                )
            self._line(number, line)
        self._end()
        return Lexed(self._statements, self._problems, self._spoilt)

    def _end(self) -> None:
        if self._braces and not self._broken:
            self._complain(
                self._braces[-1].place,
                'this "{" is never closed',
                'expected "}" (on its own line, or indent the lines between)',
            )
        if self._tokens:
            kept = self._spoilt if self._broken else self._statements
            kept.append(Statement(tuple(self._tokens)))
        self._tokens, self._braces, self._broken = [], [], False

    def _complain(self, place: Place, what: str, expected: str) -> None:
        self._problems.append(Problem(place, what, expected))
        self._broken = True

    def _line(self, number: int, line: str) -> None:
        control = _CONTROL.search(line)
        if control is not None:
            place = Place(self._source, number, control.start() + 1)
            self._complain(
                place, f"control character U+{ord(control.group()):04X}", "expected plain text"
            )
            return
        at = 0
        while at < len(line):
            space = _SPACE.match(line, at)
            if space is not None:
                at = space.end()
                continue
            if line[at] == "#":
                return
            token, at = self._token(number, line, at)
            if token is None:
                return
            self._tokens.append(token)

    def _token(self, number: int, line: str, at: int) -> tuple[Lexeme | None, int]:
        match = _MARK.match(line, at)
        if match is not None:
            token = Lexeme(TokenKind.MARK, match.group(), self._place(number, at, match.end()))
            if token.text == "{":
                self._braces.append(token)
            elif token.text == "}" and self._braces:
                self._braces.pop()
            return token, match.end()
        match = (_LISTED_WORD if self._braces else _WORD).match(line, at)
        if match is None or line[match.end() : match.end() + 1] == '"':
            start = at if match is None else match.end()
            self._complain(
                Place(self._source, number, start + 1, len(line) - start),
                "this quote is never closed",
                'expected another " before the end of the line',
            )
            return None, len(line)
        text, place = match.group(), self._place(number, at, match.end())
        if _WHOLE_STRING.match(text):
            return Lexeme(TokenKind.STRING, text[1:-1].replace('\\"', '"'), place), match.end()
        return Lexeme(TokenKind.WORD, text, place), match.end()

    def _place(self, number: int, start: int, end: int) -> Place:
        return Place(self._source, number, start + 1, end - start)
