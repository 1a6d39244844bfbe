"""Sizes in octets, as settings and rules write them: `50MiB`, `10MB`, `4096`."""

from __future__ import annotations

import re

SIZE = re.compile(r"(\d+)([A-Za-z]*)\Z")
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30}
_SHOWN = ("GiB", "GB", "MiB", "MB", "KiB")


def size_text(size: int) -> str:
    """A size as it is read, in the largest unit that tells it exactly."""
    for unit in _SHOWN:
        count, rest = divmod(size, UNITS[unit.lower()])
        if count and not rest:
            return f"{count}{unit}"
    return str(size)
