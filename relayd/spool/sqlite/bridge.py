"""How the spool's threads speak to the thread that owns it, with or without Twisted."""

from __future__ import annotations

import queue
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
S = TypeVar("S", contravariant=True)


class Promise(Protocol[S]):
    """A result that comes later, exactly once; a twisted Deferred fits as it is."""

    def callback(self, result: S, /) -> None:
        """It came."""

    def errback(self, fail: Exception, /) -> None:
        """It will not come."""

    def __await__(self) -> Generator[Any, Any, Any]:
        """Wait for it."""


class Bridge(Protocol):
    """The owner's thread (the reactor's) as the spool sees it."""

    def promise(self) -> Promise[Any]:
        """A new promise; called in the owner's thread, and fired there."""

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Run it soon in the owner's thread; called from any (reactor.callFromThread)."""


SCARCE = 0.1  # seconds to wait for memory


def surely(bridge: Bridge, function: Callable[..., None], *args: object) -> None:
    """A promise that never fires would hold up its session or its lane for ever."""
    while True:
        try:
            bridge.call(function, *args)
        except MemoryError:
            time.sleep(SCARCE)
        else:
            return


class ThreadBridge:
    """A bridge for programs and tests without a reactor: calls run when their owner waits."""

    def __init__(self, patience: float = 60.0) -> None:
        self._calls: queue.SimpleQueue[tuple[Callable[..., None], tuple[object, ...]]]
        self._calls = queue.SimpleQueue()
        self._patience = patience

    def promise(self) -> Pledge[Any]:
        """A new promise, to be waited for with `wait`."""
        return Pledge(self)

    def call(self, function: Callable[..., None], *args: object) -> None:
        """Queue a call for the owner's thread."""
        self._calls.put((function, args))

    def pump(self, seconds: float = 0.0) -> bool:
        """Run queued calls, waiting up to `seconds` for the first; whether there was one."""
        try:
            function, args = self._calls.get(timeout=seconds) if seconds else self._calls.get(False)
        except queue.Empty:
            return False
        function(*args)
        while True:
            try:
                function, args = self._calls.get(False)
            except queue.Empty:
                return True
            function(*args)

    def wait(self, awaitable: Awaitable[T]) -> T:
        """The result of a promise or coroutine, running queued calls until it has one."""

        async def only() -> T:
            return await awaitable

        return self._drive(only())

    def until(self, condition: Callable[[], bool]) -> None:
        """Run queued calls until the condition holds; TimeoutError when patience ends."""
        deadline = time.monotonic() + self._patience
        while not condition():
            self.pump(0.02)
            if time.monotonic() > deadline:
                raise TimeoutError("the spool did not answer in time")

    def _drive(self, coroutine: Coroutine[Any, Any, T]) -> T:
        while True:
            try:
                pledge = coroutine.send(None)
            except StopIteration as stop:
                result: T = stop.value
                return result
            self.until(lambda pledge=pledge: pledge.fired)  # type: ignore[misc]


class Pledge(Generic[T]):
    """The promise of a ThreadBridge."""

    def __init__(self, bridge: ThreadBridge) -> None:
        self._bridge = bridge
        self._result: list[T] = []
        self._error: Exception | None = None

    @property
    def fired(self) -> bool:
        """It has a result or an error."""
        return bool(self._result) or self._error is not None

    def callback(self, result: T, /) -> None:
        """It came."""
        assert not self.fired, "a promise fires once"
        self._result.append(result)

    def errback(self, fail: Exception, /) -> None:
        """It will not come."""
        assert not self.fired, "a promise fires once"
        self._error = fail

    def __await__(self) -> Generator[Any, Any, T]:
        """Yields itself until it has fired (see ThreadBridge.wait)."""
        while not self.fired:
            yield self
        if self._error is not None:
            raise self._error
        return self._result[0]
