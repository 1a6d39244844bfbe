"""The content of a message as filters see it, and their edits to it: whole, or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from relayd.filters.milteredits import Field, HeaderChange, edited, section_fields
from relayd.intake.checks import NewBody, ReceivedContent


class EditedContent:
    """The content as filters see it, with what they have put above our trace field."""

    def __init__(self, content: ReceivedContent) -> None:
        self.content = content
        self._above: list[Field] = []
        self._ours: Field = ("Received", b"")
        self._fields = section_fields(content.section)

    def shown(self) -> list[tuple[str, bytes]]:
        """Names and values of its fields; ours is no filter's business."""
        return [
            (name, raw[raw.index(b":") + 1 :])
            for name, raw in (*self._above, *self._fields)
            if name
        ]

    async def edit(
        self, changes: Sequence[HeaderChange], body: NewBody | None, *, leading_space: bool
    ) -> None:
        """Apply what a filter wants, whole or not at all. ValueError, SpoolError."""
        before = [*self._above, self._ours, *self._fields]
        own = len(self._above)
        after = edited(before, changes, own=own, leading_space=leading_space)
        if after == before and body is None:
            return
        at = next(number for number, each in enumerate(after) if each is self._ours)
        above, fields = after[:at], after[at + 1 :]
        await self.content.rewrite(_section(fields) + b"\r\n", body, above=_section(above))
        self._above, self._fields = above, fields

    async def put_in_front(self, field: bytes) -> None:
        """A whole field, right below our own. ValueError, SpoolError."""
        fields = [*section_fields(field + b"\r\n"), *self._fields]
        await self.content.rewrite(_section(fields) + b"\r\n")
        self._fields = fields


def _section(fields: Sequence[Field]) -> bytes:
    return b"".join(raw + b"\r\n" for _, raw in fields)


def prepended(text: str) -> bytes:
    """A policy service's PREPEND as a whole field. ValueError: it is none."""
    field = f"{text}\r\n".encode("utf-8", "surrogateescape")
    found = section_fields(field + b"\r\n")
    if len(found) != 1 or not found[0][0]:
        raise ValueError("it prepends what is no header field")
    return field
