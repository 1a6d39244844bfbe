"""Regular expressions that cannot run away: checked when read, bounded when matched."""

from __future__ import annotations

import functools
import re

from relayd.mail.address import MAX_DOMAIN, MAX_LOCAL
from relayd.rules.language.redos import capital, runaway

# characters: no mailbox that a peer may name is longer, so none gets round a rule by its length
MAX_SUBJECT = MAX_LOCAL + 1 + MAX_DOMAIN
MAX_EXPRESSION = 500  # characters


@functools.lru_cache(maxsize=4096)
def compiled(text: str) -> re.Pattern[str]:
    """The expression; raises re.error."""
    return re.compile(text)


def search(text: str, subject: str) -> re.Match[str] | None:
    """Search the expression in a subject of at most MAX_SUBJECT characters."""
    return compiled(text).search(subject) if len(subject) <= MAX_SUBJECT else None


def trouble(text: str, about: str = "addresses") -> tuple[str, str, int | None] | None:
    """What is wrong with an expression, what to do, and at which character; None: nothing.

    `about`: what it is matched with.
    """
    if len(text) > MAX_EXPRESSION:
        return "the regex is too long", f"expected at most {MAX_EXPRESSION} characters", None
    try:
        compiled(text)
    except (re.error, OverflowError, RecursionError) as error:
        where = getattr(error, "pos", None)
        hint = "expected a Python regular expression"
        return f"the regex is broken: {getattr(error, 'msg', error)}", hint, where
    reason = runaway(text)
    if reason:
        return (
            f"the regex could take very long on some {about}: {reason}",
            'expected e.g. [^@]+ in place of .+, and "^" at its start',
            None,
        )
    letter = capital(text)
    if letter:
        return (
            f'the regex asks for a capital "{letter}", but {about} are matched in lower case',
            f'did you mean "{letter.lower()}"?',
            text.find(letter),
        )
    return None


_MARK = 0x10F000  # private use: stands for a group while a replacement is taken apart
_MARKS = re.compile("([\U0010f000-\U0010ffff])")


@functools.lru_cache(maxsize=4096)
def template_parts(text: str, template: str) -> tuple[str | int, ...]:
    r"""A replacement's own text and the numbers of its groups: `\1@b` is (1, "@b")."""
    expression = compiled(text)
    names = {number: name for name, number in expression.groupindex.items()}
    numbers = range(expression.groups + 1)
    # an expression with the same groups, each of which matches its own mark
    alike = "".join(f"(?P<{names[n]}>.)" if n in names else "(.)" for n in numbers[1:])
    match = re.compile(f"(?=.{alike}).").match("".join(chr(_MARK + n) for n in numbers))
    assert match is not None
    pieces = _MARKS.split(match.expand(template))
    return tuple(ord(each) - _MARK if n % 2 else each for n, each in enumerate(pieces) if each)


def template_trouble(text: str, template: str) -> str:
    """What is wrong with a replacement for an expression; empty: nothing."""
    try:
        # with a backslash in it the template is read even though nothing matches
        compiled(text).sub(template, "")
    except (re.error, IndexError) as error:
        return str(error)
    return ""
