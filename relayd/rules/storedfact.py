"""Facts as they are kept with a message: steps of its trail, for `why` and `replay`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from relayd.mail.plan import FACT, Step
from relayd.rules.fact import Fact

_MOST = 500  # octets of one value; what is longer is not kept
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def kept(told: Mapping[Fact, object]) -> tuple[Step, ...]:
    """What was known, in the order of the names."""
    steps = []
    for fact, value in told.items():
        text = _encode(value)
        if len(text) <= _MOST:
            steps.append(Step(FACT, fact.condition, fact.said(value), text))
    return tuple(sorted(steps))


def recalled(wanted: Iterable[Fact], stored: Mapping[str, str]) -> dict[Fact, object]:
    """What of the facts wanted is known from what was kept, by name; the rest is unknown."""
    return {
        fact: _value(json.loads(stored[fact.condition]))
        for fact in wanted
        if fact.condition in stored
    }


def _value(value: object) -> object:
    return tuple(map(_value, value)) if isinstance(value, list) else value
