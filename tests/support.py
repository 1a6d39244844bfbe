"""What tests stand on: coroutine tests that really run, and word of how long each one takes."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any
from unittest import TestResult

from twisted.internet.defer import Deferred
from twisted.trial import unittest


def _as_deferred(
    function: Callable[..., Coroutine[Any, Any, Any]],
) -> Callable[..., Deferred[Any]]:
    @functools.wraps(function)
    def wrapper(*args: object, **kwargs: object) -> Deferred[Any]:
        return Deferred.fromCoroutine(function(*args, **kwargs))

    return wrapper


class Timed(unittest.SynchronousTestCase):
    """Tells the runner, if it asks, how long each test took."""

    def run(self, result: TestResult | None = None) -> None:
        """As ever."""
        began = time.monotonic()
        super().run(result)
        if path := os.environ.get("RELAYD_DURATIONS"):
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(f"{time.monotonic() - began:.2f} {self.id()}\n")


class TestCase(Timed, unittest.TestCase):
    """Wraps coroutine tests: trial 22.4 passes a bare `async def test_*` without running it."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for name, value in list(vars(cls).items()):
            if inspect.iscoroutinefunction(value) and (
                name.startswith("test") or name in ("setUp", "tearDown")
            ):
                setattr(cls, name, _as_deferred(value))
