"""A verdict that is still to come: what is awaited for it, and what follows from that."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from relayd.intake.deadlines import SessionPhase
from relayd.mail.reply import Reply

T = TypeVar("T")


def _the_reply_itself(reply: Any) -> Reply:  # noqa: ANN401  # T is Reply where this stands
    return reply  # type: ignore[no-any-return]


def _never() -> Any:  # noqa: ANN401  # likewise
    raise AssertionError("a commit is not given up")


@dataclass(slots=True)
class Pending(Generic[T]):
    """Await, then answer. Meanwhile no further command is read.

    `coming` is awaited once, by one. When the client goes, at shutdown, or when the deadline of
    `phase` has passed it is cancelled; only a commit never is, for it may be durable by then.
    """

    coming: Coroutine[Any, Any, T]
    then: Callable[[T], Reply | Pending[Any]] = _the_reply_itself
    late: Callable[[], T] = _never  # what `then` is given when the deadline has passed
    phase: SessionPhase = SessionPhase.VERDICT
