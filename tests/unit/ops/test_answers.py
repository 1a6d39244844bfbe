"""What is really answered is what relayd.ops.answers says, and docs/api.md tells of all of it."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

from relayd.mail.message import RecipientState, Settlement
from relayd.ops import answers
from tests import apidoc
from tests.support import TestCase
from tests.unit.ops.test_control import DONE, Fixture


def wrong(value: Any, kind: Any, where: str = "answer") -> Iterator[str]:  # noqa: ANN401
    """Where a value is not of a type, in words."""
    if kind is Any:
        return
    if is_typeddict(kind):
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no {kind.__name__}"
            return
        hints = get_type_hints(kind)
        written = get_type_hints(kind, include_extras=True)
        required = {name for name in hints if get_origin(written[name]) is not NotRequired}
        for name in sorted(required - value.keys()):
            yield f"{where}: {name} is missing"
        for name, each in value.items():
            if name not in hints:
                yield f"{where}: {name} is not in {kind.__name__}"
            else:
                yield from wrong(each, hints[name], f"{where}.{name}")
    elif get_origin(kind) in (typing.Union, types.UnionType):
        if all(list(wrong(value, each)) for each in get_args(kind)):
            yield f"{where}: {value!r} is no {kind}"
    elif get_origin(kind) is list:
        if not isinstance(value, list):
            yield f"{where}: {value!r} is no list"
            return
        for number, each in enumerate(value):
            yield from wrong(each, get_args(kind)[0], f"{where}[{number}]")
    elif get_origin(kind) is dict:
        if not isinstance(value, dict):
            yield f"{where}: {value!r} is no {kind}"
            return
        for name, each in value.items():
            yield from wrong(each, get_args(kind)[1], f"{where}.{name}")
    else:
        one = (int, float) if kind is float else kind
        if kind is type(None):
            one = type(None)
        if not isinstance(value, one) or (isinstance(value, bool) and kind is not bool):
            yield f"{where}: {value!r} is no {kind}"


class AnswerTests(Fixture, TestCase):
    def check(self, value: Any, kind: Any) -> None:  # noqa: ANN401
        self.assertEqual(list(wrong(value, kind)), [])

    async def test_what_is_answered_is_what_is_said(self) -> None:
        message, records = await self.accept("a@b.example", "c@d.example")
        await self.spools[0].settle([Settlement(records[0], RecipientState.DELIVERED)])
        for command, kind in (
            ("pace", answers.PaceAnswer),
            ("figures", answers.FiguresAnswer),
            ("blame", answers.BlameAnswer),
            ("filters", answers.FiltersAnswer),
            ("check", answers.ComplaintAnswer),
            ("reload", answers.ComplaintAnswer),
        ):
            self.check(self.answer(command), kind)
        for command in ("show", "why"):
            self.check(self.answer(command, id=str(message)), answers.StoryAnswer)
        for command in ("hold", "release", "retry", "remove"):
            self.check(self.answer(command, all=True), answers.ChangedAnswer)
        *pieces, last = self.ask("find")
        self.check(last, answers.Done)
        self.assertEqual(last, DONE)
        self.assertTrue(pieces)
        for piece in pieces:
            self.check(piece, answers.FoundPieceAnswer)
        *pieces, last = self.ask("audit")
        for piece in pieces:
            self.check(piece, answers.AuditAnswer)
        head, *pieces, last = self.ask("queue")
        self.check(head, answers.QueueHeadAnswer)
        for piece in pieces:
            self.check(piece, answers.QueueRowsAnswer if "rows" in piece else
                       answers.QueueHeadAnswer)  # fmt: skip
        (error,) = self.ask("nonsense")
        self.check(error, answers.ErrorAnswer)

    def test_the_document_is_made_of_the_types(self) -> None:
        text = apidoc.PLACE.read_text("utf-8")
        self.assertIn(f"version {answers.VERSION}", text)
        self.assertEqual(text, apidoc.written(), "python -m tests.apidoc writes it anew")
        for name, kind in vars(answers).items():
            if is_typeddict(kind):
                self.assertIn(f"### {name}\n", text)
                for field in get_type_hints(kind):
                    self.assertIn(f"| `{field}` |", text, name)
