"""Asks a policy service: a question and an answer at a time on each connection."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relayd.filters.line import CLOSED, FilterLine, FilterPlace, FilterTroubleError
from relayd.filters.lines import FilterLines
from relayd.filters.policy import PolicyAction, PolicyAnswers, PolicyError, request

MOST = 100  # connections at a time


@dataclass(slots=True)
class _PolicyLine:
    line: FilterLine
    answers: PolicyAnswers


class PolicyService:
    """One service."""

    def __init__(self, reactor: Any, place: FilterPlace, patience: float) -> None:  # noqa: ANN401
        self._patience = patience
        self.lines: FilterLines[_PolicyLine] = FilterLines(
            reactor, place, lambda line: _PolicyLine(line, PolicyAnswers()), MOST
        )

    async def ask(self, attributes: Mapping[str, str], by: float = math.inf) -> PolicyAction:
        """What it wants, `by` then in the reactor's seconds. Raises FilterTroubleError."""
        question = request(attributes)
        while True:
            speaker, used = await self.lines.take(self._patience, by)
            try:
                return await self._asked(speaker, question)
            except FilterTroubleError:
                # one that was kept may have been closed meanwhile, which says nothing
                if not used or speaker.line.ended != CLOSED:
                    raise

    async def _asked(self, speaker: _PolicyLine, question: bytes) -> PolicyAction:
        try:
            speaker.line.write(question)
            while True:
                found = speaker.answers.feed(await speaker.line.read(self._patience))
                if found:
                    break
            if len(found) > 1:
                raise PolicyError("two answers to one question")
        except PolicyError as error:
            self.lines.drop(speaker)
            raise FilterTroubleError(str(error)) from None
        except BaseException:
            self.lines.drop(speaker)
            raise
        self.lines.give_back(speaker)
        return found[0]
