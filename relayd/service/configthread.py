"""Reads the configuration in a thread of its own, so that no session waits for it."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.threads import deferToThreadPool

from relayd.reactor.workerpipe import Reactor

T = TypeVar("T")

# While a set of rules is read, the interpreter goes back and forth between the reading thread and
# the reactor's. At most so long (seconds) the reactor waits for its turn; Python's own is 5 ms.
TURN = 0.001

_one_at_a_time = DeferredLock()


def aside(reactor: Reactor, read: Callable[[], T]) -> Callable[[], Deferred[T]]:
    """`read` as a function that runs it in a thread; one at a time, whoever asks."""

    def start() -> Deferred[T]:
        return _one_at_a_time.run(_in_thread, reactor, read)

    return start


def _in_thread(reactor: Reactor, read: Callable[[], T]) -> Deferred[T]:
    # A hundred thousand aliases are a million new objects. The cyclic collector would walk through
    # all of them again and again while they grow, and everybody would wait.
    turn = sys.getswitchinterval()
    gc.disable()
    sys.setswitchinterval(TURN)

    def done(result: T) -> T:
        sys.setswitchinterval(turn)
        # moves them straight to the oldest generation: else the next look at the youngest would
        # be a long one
        gc.freeze()
        gc.unfreeze()
        gc.enable()
        return result

    reading: Deferred[T] = deferToThreadPool(reactor, reactor.getThreadPool(), read)
    return reading.addBoth(done)
