"""The secrets file: logins at next hops, one `NAME USER PASSWORD` a line.

NAME is what `next-hop ... login NAME` says; the password is all the rest of the line, blanks
within it included.
"""

from __future__ import annotations

from collections.abc import Iterable

from relayd.login.initiator import Secret


class SecretsError(ValueError):
    """A line cannot be understood; it never shows what the line holds."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


def parse(lines: Iterable[str]) -> dict[str, Secret]:
    """The secrets by name; raises SecretsError."""
    found: dict[str, Secret] = {}
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        parts = text.split(None, 2)
        if len(parts) < 3:
            raise SecretsError(number, "expected NAME USER PASSWORD")
        name, user, password = parts
        if "\0" in user or "\0" in password:
            raise SecretsError(number, "a NUL in it")
        if name in found:
            raise SecretsError(number, f"{name} has a line already")
        found[name] = Secret(user, password)
    return found
