"""How a value is declared: a dataclass that nobody changes once it is made.

That it is `frozen` is for the type checker, who sees to it. At runtime each field of each new
object would pay for it, and a message makes some forty of them.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False) -> Any:  # noqa: ANN401
        """`dataclasses.dataclass`; a frozen one is hashable, but nothing watches over it."""
        return dataclasses.dataclass(slots=slots, unsafe_hash=frozen)
