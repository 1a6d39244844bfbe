"""The one base of asynchronous tests: a coroutine test really runs, on every Twisted we support."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial import unittest


def _as_deferred(
    function: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Deferred[Any]]:
    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return wrapper


class TestCase(unittest.TestCase):
    """Wraps coroutine tests: trial 22.4 passes a bare `async def test_*` without running it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, value in list(vars(cls).items()):
            if inspect.iscoroutinefunction(value) and (
                name.startswith("test") or name in ("setUp", "tearDown")
            ):
                setattr(cls, name, _as_deferred(value))
