"""Regular expressions that cannot run away: checked when read, bounded when matched."""

from __future__ import annotations

import functools
import re

from relayd.rules.runaway import capital, runaway

MAX_SUBJECT = 320  # characters: 64 + "@" + 255, the longest mailbox of RFC 5321 section 4.5.3.1
MAX_EXPRESSION = 500  # characters


@functools.lru_cache(maxsize=4096)
def compiled(text: str) -> re.Pattern[str]:
    """The expression; raises re.error."""
    return re.compile(text)


def search(text: str, subject: str) -> re.Match[str] | None:
    """Search the expression in a subject of at most MAX_SUBJECT characters."""
    return compiled(text).search(subject) if len(subject) <= MAX_SUBJECT else None


def trouble(text: str) -> tuple[str, str, int | None] | None:
    """What is wrong with an expression, what to do, and at which character; None: nothing."""
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
            f"the regex could take very long on some addresses: {reason}",
            'expected e.g. [^@]+ in place of .+, and "^" at its start',
            None,
        )
    letter = capital(text)
    if letter:
        return (
            f'the regex asks for a capital "{letter}", but addresses are matched in lower case',
            f'did you mean "{letter.lower()}"?',
            text.find(letter),
        )
    return None


def template_trouble(text: str, template: str) -> str:
    """What is wrong with a replacement for an expression; empty: nothing."""
    try:
        # with a backslash in it the template is read even though nothing matches
        compiled(text).sub(template, "")
    except (re.error, IndexError) as error:
        return str(error)
    return ""
