"""Evaluations are driven from a dictionary of records: no socket, no time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from relayd.authentication.asking import Asking, RecordQuery, Unanswered

T = TypeVar("T")

Zone = Mapping[tuple[str, str], tuple[Any, ...] | None]
"""Records by name (lower-case) and type; None: no server answers."""


def drive(asking: Asking[T], zone: Zone, asked: list[RecordQuery] | None = None) -> T:
    """The result of an evaluation, given these records."""
    try:
        question = next(asking)
        while True:
            if asked is not None:
                asked.append(question)
            records = zone.get((question.name.lower(), question.rdtype), ())
            question = asking.throw(Unanswered()) if records is None else asking.send(records)
    except StopIteration as end:
        result: T = end.value
        return result
