"""One message's content while the server receives it, by DATA or by BDAT."""

from __future__ import annotations

from relayd.mail.reply import Reply
from relayd.smtp.framing import DataScanner, Lines, Normaliser, Purity
from relayd.smtp.replies import BARE, TOO_BIG


class IncomingContent:
    """Lets content in as long as it is clean and within its size.

    `take_data` reads a DATA to its end; `admit` takes the octets of a BDAT, `finish` ends the
    last one. All return what is to be kept. Once the content is at fault, `refusal` is
    set, nothing is kept any more, and input is still used up to the end.
    """

    __slots__ = ("_limit", "_normaliser", "_purity", "_scanner", "refusal", "size")

    def __init__(self, limit: int, normalise: bool) -> None:
        self._limit = limit  # octets, 0: none
        self._purity = Purity()
        self._normaliser = Normaliser() if normalise else None
        self._scanner = DataScanner()
        self.size = 0
        self.refusal: Reply | None = None  # once set, it stays

    def take_data(self, lines: Lines) -> tuple[bytes, bool]:
        """Use up input; returns content and whether CRLF.CRLF was there."""
        data = lines.take()
        content, left = self._scanner.feed(data)
        if content:
            content = self.admit(content)
        if left is None:
            return content, False
        lines.give_back(data, left)
        if self._normaliser is not None:
            content += self.finish()
        return content, True

    def admit(self, data: bytes) -> bytes:
        """The octets to keep of what has been read."""
        if self.refusal is not None:
            return b""
        if self._normaliser is not None:
            return self._count(self._normaliser.feed(data))
        offence = self._purity.offence(data)
        if offence is None:
            return self._count(data)
        # the fault that comes first in the stream counts, however the stream was cut
        self._count(data[: max(offence, 0)])
        if self.refusal is None:
            self.refusal = BARE
        return b""

    def finish(self) -> bytes:
        """What the end of the content releases; may set `refusal` too."""
        if self.refusal is not None:
            return b""
        if self._normaliser is not None:
            return self._count(self._normaliser.finish())
        if self._purity.unfinished:
            self.refusal = BARE
        return b""

    def _count(self, data: bytes) -> bytes:
        self.size += len(data)
        if self._limit and self.size > self._limit:
            self.refusal = TOO_BIG
            return b""
        return data
