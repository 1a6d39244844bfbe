"""Regular expressions that cannot run away: checked when read, bounded when matched."""

from __future__ import annotations

import functools
import re

MAX_SUBJECT = 320  # characters: 64 + "@" + 255, the longest mailbox of RFC 5321 section 4.5.3.1


@functools.lru_cache(maxsize=4096)
def compiled(text: str) -> re.Pattern[str]:
    """The expression; raises re.error."""
    return re.compile(text)


def search(text: str, subject: str) -> re.Match[str] | None:
    """Search the expression in a subject of at most MAX_SUBJECT characters."""
    return compiled(text).search(subject) if len(subject) <= MAX_SUBJECT else None


def trouble(text: str) -> tuple[str, str] | None:
    """What is wrong with an expression, and what to do; None: nothing."""
    try:
        compiled(text)
    except re.error as error:
        return f"the regex is broken: {error.msg}", f"at character {(error.pos or 0) + 1}"
    return None


def template_trouble(text: str, template: str) -> str:
    """What is wrong with a replacement for an expression; empty: nothing."""
    try:
        # with a backslash in it the template is read even though nothing matches
        compiled(text).sub(template, "")
    except (re.error, IndexError) as error:
        return str(error)
    return ""
