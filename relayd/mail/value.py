"""How a value is declared: a dataclass that nobody changes once it is made.

That it is `frozen` is for the type checker, who sees to it. At runtime each field of each new
object would pay for it, and a message makes some forty of them.

Its methods are written when one of them is called first. A process declares three hundred values as
it starts and makes a tenth of them; to compile the methods of all was a sixth of each start.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False) -> Any:  # noqa: ANN401
        """`dataclasses.dataclass`; a frozen one is hashable, but nothing watches over it."""

        def declared(cls: type) -> type:
            own = vars(cls)
            missing = [name for name in ("__init__", "__repr__", "__eq__") if name not in own]
            hashed = own.get("__hash__") is not None  # by the class itself
            if frozen and not hashed:
                missing.append("__hash__")
            value = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(cls)
            for name in missing:
                setattr(value, name, _unwritten(value, name, missing))
            if not frozen and not hashed:
                value.__hash__ = None
            return value

        return declared


def _unwritten(value: Any, name: str, missing: list[str]) -> Callable[..., Any]:  # noqa: ANN401
    """A method that has all those of its class written, of the same fields, and is gone."""

    def first(self: object, /, *args: object, **kwargs: object) -> object:
        fields = [(each.name, each.type, each) for each in dataclasses.fields(value)]
        after = {key: getattr(value, key) for key in ("__post_init__",) if hasattr(value, key)}
        written = dataclasses.make_dataclass(
            value.__qualname__, fields, namespace=after, unsafe_hash=True
        )
        for each in missing:
            setattr(value, each, vars(written)[each])
        return getattr(value, name)(self, *args, **kwargs)

    return first
