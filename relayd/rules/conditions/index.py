"""Where a stage files rules by a condition: from what is seen to the few rules that may hold."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.rules.language.pattern import Network
from relayd.rules.view import View

Key = str | Network


class Index:
    """The numbers of rules by what their conditions name."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        self.numbers: dict[Key, list[int]] = {}

    def add(self, key: Key, number: int) -> None:
        """File a rule."""
        self.numbers.setdefault(key, []).append(number)

    def at(self, key: Key) -> Sequence[int]:
        """The rules filed there."""
        return self.numbers.get(key, ())

    def collect(self, view: View, found: list[int]) -> None:
        """Add the rules whose condition may hold."""
        raise NotImplementedError
