"""What Twisted itself logs, in the form of our own lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from traceback import extract_tb
from typing import Any

from twisted.logger import ILogObserver, LogLevel, formatEvent
from twisted.python.failure import Failure
from zope.interface import implementer

_QUIET = (None, LogLevel.debug, LogLevel.info)


@implementer(ILogObserver)
class TwistedLog:
    """An observer of Twisted's events, which come from any thread and in the midst of a signal.

    That a port is open or the main loop has ended is not repeated: `started` and `stopped` say so.
    What is left are errors, warnings and the signal that ended us. `line` makes a line of an event
    (LineLog.line), `write` takes it.
    """

    def __init__(self, line: Callable[..., bytes], write: Callable[[bytes], object]) -> None:
        self._line = line
        self._write = write

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Write the event, if it is news."""
        failure: Failure | None = event.get("log_failure")
        if failure is not None:
            facts = {
                "error": repr(failure.value),
                "at": _at(failure),
                "why": failure.getTraceback(),
            }
            self._write(self._line("unhandled error", trouble=True, **facts))
            return
        quiet = event.get("log_level") in _QUIET
        text = formatEvent(event)  # type: ignore[arg-type]  # it takes any mapping
        if text and (not quiet or text.startswith("Received SIG")):
            self._write(self._line(text, trouble=not quiet))


def _at(failure: Failure) -> str:
    """Where it was raised: a traceback is cut, and begins far away from there."""
    frames = extract_tb(failure.getTracebackObject())  # type: ignore[no-untyped-call]
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
