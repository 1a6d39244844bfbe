"""How a coroutine is started: there are two ways, and no other.

`spawn` is for what nobody waits for. It answers for itself, and is driven without what nobody asked
of it: `Deferred.fromCoroutine` makes every coroutine cancellable, gives it a context of its own and
its result to a Deferred. That takes some thirty objects, which refer to each other and so wait for
the garbage collector; three coroutines belong to each message.

`promise` is for what somebody waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.reactor.accept import tell

_NO_MEMORY = Failure(MemoryError())  # type: ignore[no-untyped-call]  # there may be none to make it
T = TypeVar("T")
Spawned = Coroutine[Deferred[Any], Any, None]
Broken = Callable[[Failure], None]


class Log(Protocol):
    """As much of relayd.mail.log.MailLog as a bug needs."""

    def trouble(self, event: str, **facts: object) -> None:
        """Something an operator should look at."""


class Awaited(Deferred[T]):
    """A Deferred whose result goes straight to the spawned coroutine that waits for it.

    For what each message waits for. To others it is a Deferred; but who has it waited for by a
    spawned coroutine may not add callbacks to it besides.
    """

    waiting: tuple[Spawned, Broken, Hold | None] | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        """Wait for it; what it is waited with is told the result.

        Twisted's is asked before and after, and says it by an exception each time.
        """
        if self.called:
            return (yield from super().__await__())
        result: T = yield self
        return result

    def callback(self, result: Any) -> None:  # noqa: ANN401 - as Deferred has it
        """It came."""
        waiting = self.waiting
        if waiting is None:
            super().callback(result)
            return
        self.called, self.result, self.waiting = True, result, None
        _go_on(result, *waiting)
        self.result = None  # nobody else wants it

    def errback(self, fail: Any = None) -> None:  # noqa: ANN401
        """It will not come."""
        if self.waiting is not None:
            self.addBoth(_go_on, *self.waiting)
            self.waiting = None
        super().errback(fail)


class Hold:
    """By which a spawned coroutine can be given up."""

    __slots__ = ("awaited",)

    def __init__(self) -> None:
        self.awaited: Deferred[Any] | None = None  # what it waits for, or waited for last

    def cancel(self) -> None:
        """What it waits for will not come: it hears CancelledError."""
        if self.awaited is not None:
            self.awaited.cancel()


def spawn(coroutine: Spawned, broken: Broken, hold: Hold | None = None) -> None:
    """Run it up to the first Deferred that has no result yet, and from there on by and by.

    It answers for itself: it returns nothing, and what it raises is a bug that `broken` hears of.
    """
    _go_on(None, coroutine, broken, hold)


def promise(coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
    """Run it likewise; fires with what it returns or raises, and can be cancelled.

    Who gets it must wait for it, or say what becomes of a failure.
    """
    return Deferred.fromCoroutine(coroutine)


def _go_on(result: object, coroutine: Spawned, broken: Broken, hold: Hold | None) -> None:
    try:
        if isinstance(result, Failure):
            awaited = result.throwExceptionIntoGenerator(coroutine)  # type: ignore[no-untyped-call]
        else:
            awaited = coroutine.send(result)
        if hold is not None:
            hold.awaited = awaited
        if type(awaited) is Awaited:
            awaited.waiting = coroutine, broken, hold
        else:
            awaited.addBoth(_go_on, coroutine, broken, hold)
    except StopIteration:
        return
    except Exception:
        _broke(coroutine, broken)


def _broke(coroutine: Spawned, broken: Broken) -> None:
    """It hears of that whatever becomes of it, for somebody waits: for want of memory less."""
    try:
        failure = Failure()  # type: ignore[no-untyped-call]
    except Exception:
        failure = _NO_MEMORY
    try:
        coroutine.close()  # where nothing could be made of what it waits for
        broken(failure)
    except Exception:
        tell()  # nor is it the fault of who has fired what it waited for


def log_bug(log: Log, event: str, failure: Failure) -> None:
    """What nobody foresaw, for the log: first the error itself, for a long traceback is cut."""
    log.trouble(event, error=repr(failure.value), why=failure.getTraceback())
