"""How much somebody may do from the console, or with a token of the HTTP API."""

from __future__ import annotations

import enum


class Role(enum.IntEnum):
    """Each may do what those before it may."""

    VIEWER = 1  # sees all but the content of mail
    OPERATOR = 2  # holds, releases, retries, removes, suspends
    ADMIN = 3  # reads content, and puts configurations in force

    def __str__(self) -> str:
        return self.name.lower()


ROLES = {str(role): role for role in Role}
NO_ROLE = "none"
