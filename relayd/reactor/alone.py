"""One coroutine, and the reactor only for it: for programs that ask something and end."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.python.failure import Failure

from relayd.reactor.coroutine import promise
from relayd.reactor.workerpipe import Reactor

T = TypeVar("T")


def run(work: Callable[[Reactor], Coroutine[Any, Any, T]]) -> T:
    """What it returns, or raises; KeyboardInterrupt, if it was interrupted. Once in a process."""
    from twisted.internet import reactor as found

    reactor: Reactor = found
    results: list[T | Failure] = []

    def done(result: T | Failure) -> None:
        results.append(result)
        reactor.stop()

    reactor.callWhenRunning(lambda: promise(work(reactor)).addBoth(done))
    reactor.run()
    if not results:
        raise KeyboardInterrupt
    (result,) = results
    if isinstance(result, Failure):
        result.raiseException()
    return result
