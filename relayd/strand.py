"""A coroutine that awaits Deferreds, driven without what nobody asked of it.

`Deferred.fromCoroutine` makes every coroutine cancellable, gives it a context of its own and its
result to a Deferred. That takes some thirty objects, which refer to each other and so wait for the
garbage collector; three coroutines belong to each message.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Broken = Callable[[Failure], None]


def spawn(coroutine: Coroutine[Deferred[Any], Any, None], broken: Broken) -> None:
    """Run it up to the first Deferred that has no result yet, and from there on by and by.

    It answers for itself: it returns nothing, and what it raises is a bug that `broken` hears of.
    """
    _go_on(None, coroutine, broken)


def _go_on(result: object, coroutine: Coroutine[Deferred[Any], Any, None], broken: Broken) -> None:
    try:
        if isinstance(result, Failure):
            awaited = result.throwExceptionIntoGenerator(coroutine)  # type: ignore[no-untyped-call]
        else:
            awaited = coroutine.send(result)
    except StopIteration:
        return
    except Exception:
        broken(Failure())  # type: ignore[no-untyped-call]
        return
    awaited.addBoth(_go_on, coroutine, broken)
