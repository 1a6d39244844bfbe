"""A content in 7 bits, made while it is read; nothing of it is kept."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence

from relayd.mail.content import CHUNK, Content, from_octet
from relayd.mime.encoders import Encoder
from relayd.mime.survey import Edit, EightBitSurvey

_PIECE = 4096  # octets; encoded in a third of a millisecond, and several are sent in a turn
_TURN = 1 << 20  # octets that are looked at in one turn


class ConvertedContent:
    """The content with these edits, in order and without overlaps."""

    __slots__ = ("_content", "_edits", "signatures", "size")
    pure = False

    def __init__(
        self, content: Content, edits: Sequence[Edit], growth: int = 0, signatures: str = ""
    ) -> None:
        self._content = content
        self._edits = edits
        self.size = content.size + growth  # about; not more than there is, RFC 1870 section 6.1
        self.signatures = signatures  # those that it breaks

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        """The octets from `start` on; raises OSError."""
        return from_octet(start, self._converted())

    def tail(self, count: int) -> bytes:
        """The last `count` octets; raises OSError."""
        tail = b""
        for piece in self._converted():
            tail = (tail + piece)[-count:]
        return tail

    def _converted(self) -> Iterator[bytes]:
        edits = iter(self._edits)
        edit = next(edits, None)
        inside = False  # ... it, from a piece before
        encoder: Encoder | None = None
        end = 0  # of the piece, from the beginning of the content
        for piece in _pieces(self._content.chunks()):
            made = []
            begin, end = end, end + len(piece)
            at = begin
            while edit is not None and edit.start < end:
                if not inside:
                    made += [piece[at - begin : edit.start - begin], edit.text]
                    at, inside = edit.start, True
                    encoder = None if edit.encoder is None else edit.encoder()
                until = min(edit.end, end)
                if encoder is not None:
                    made.append(encoder.feed(piece[at - begin : until - begin]))
                at = until
                if edit.end > end:
                    break
                if encoder is not None:
                    made.append(encoder.finish(ends_content=edit.end == self._content.size))
                edit, inside = next(edits, None), False
            if not inside:
                made.append(piece[at - begin :])
            yield b"".join(made)


async def converted(
    content: Content, turn: Callable[[], Awaitable[None]]
) -> ConvertedContent | None:
    """The content in 7 bits; None: it is that. Raises Unconvertible, or OSError.

    It is looked through once here, and `turn` is awaited now and then.
    """
    survey = EightBitSurvey()
    held: list[bytes] = []
    size = seen = 0
    for piece in content.chunks():
        held.append(piece)
        size += len(piece)
        if size >= CHUNK:
            survey.feed(b"".join(held))
            held.clear()
            seen, size = seen + size, 0
            if seen >= _TURN:
                seen = 0
                await turn()
    survey.feed(b"".join(held))
    survey.end()
    if not survey.edits:
        return None
    signatures = ", ".join(dict.fromkeys(survey.signatures))
    return ConvertedContent(content, survey.edits, survey.growth, signatures)


def _pieces(chunks: Iterator[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for at in range(0, len(chunk), _PIECE):
            yield chunk[at : at + _PIECE]
