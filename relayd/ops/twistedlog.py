"""What Twisted and Python themselves have to say, in the form of our own lines."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from traceback import extract_tb, format_exception
from types import TracebackType
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


def take_last_words(line: Callable[..., bytes], write: Callable[[bytes], object]) -> None:
    """Errors that nobody caught, of the program, of a thread or of a destructor, are lines, too.

    Python would print each to standard error, over many lines. `line`, `write`: see TwistedLog.
    """

    def tell(
        event: str,
        error: BaseException | None,
        traceback: TracebackType | None,
        where: object,
    ) -> None:
        if error is None or isinstance(error, SystemExit | KeyboardInterrupt):
            return
        told = "".join(format_exception(type(error), error, traceback))
        write(line(event, trouble=True, error=repr(error), where=where, why=told))

    def of_the_program(
        _: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        tell("unhandled error", error, traceback, "the program")

    def of_a_thread(args: threading.ExceptHookArgs) -> None:
        name = args.thread.name if args.thread is not None else "?"
        tell("unhandled error", args.exc_value, args.exc_traceback, f"thread {name}")

    def of_a_destructor(args: sys.UnraisableHookArgs) -> None:
        if args.object is None and str(args.exc_value).startswith("Signal "):
            # "Signal 15 ignored due to race condition": a second one came while we ended by the
            # first, of whose handler Python had taken leave. Nothing went wrong
            write(line(str(args.exc_value), trouble=False))
            return
        where = f"{args.err_msg or 'ignored in'} {args.object!r}"
        tell("unhandled error", args.exc_value, args.exc_traceback, where)

    sys.excepthook = of_the_program
    threading.excepthook = of_a_thread
    sys.unraisablehook = of_a_destructor


def _at(failure: Failure) -> str:
    """Where it was raised: a traceback is cut, and begins far away from there."""
    frames = extract_tb(failure.getTracebackObject())  # type: ignore[no-untyped-call]
    return f"{frames[-1].filename}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
