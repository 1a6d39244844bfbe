"""How far one outgoing transaction has come: a reply and its stage for every recipient."""

from __future__ import annotations

from collections.abc import Iterable

from relayd.mail.reply import Reply
from relayd.smtp.events import End, TransactionDone, TransactionStage
from relayd.smtp.transaction import Commands

_NOT_YET = Reply.bare(0)


class Progress:
    """Replies find their recipients here. The first word on a recipient is the last."""

    __slots__ = (
        "_answered",
        "_asked",
        "_end",
        "_ended",
        "_last",
        "_replies",
        "_stages",
        "accepted",
        "bdat",
        "opened",
        "size",
        "verifies",
    )

    def __init__(self, count: int, size: int, commands: Commands) -> None:
        self.size = size  # octets of content
        self.bdat = commands.bdat
        self.verifies = commands.verifies
        self.opened = False  # the server holds a transaction of ours
        self.accepted: list[int] = []  # recipients, by their number
        self._asked = commands.numbers  # the recipients that RCPT is sent for
        self._answered = 0  # how many of them have their reply to RCPT
        self._ended = 0  # LMTP: how many of the accepted have their reply after the dot
        self._end = End.ANSWERED
        self._last: Reply | None = None  # of whoever was not answered
        self._replies = [_NOT_YET] * count
        self._stages = [TransactionStage.OFFER] * count
        for number, reply in commands.refused.items():
            self._replies[number] = reply

    def take_mail(self, reply: Reply) -> None:
        """The reply to MAIL; a refusal is the word on everybody."""
        self.opened = reply.code < 300
        if not self.opened:
            self._settle(self._asked, reply, TransactionStage.MAIL)

    def take_rcpt(self, reply: Reply) -> None:
        """The next reply to RCPT."""
        number = self._asked[self._answered]
        self._answered += 1
        if not self.opened:
            return  # an echo of the refused MAIL
        if reply.code < 300:
            self.accepted.append(number)
            if self.verifies:
                self._settle((number,), reply, TransactionStage.RCPT)
        else:
            self._settle((number,), reply, TransactionStage.RCPT)

    def refuse_data(self, reply: Reply) -> None:
        """DATA was refused."""
        self._settle(self.accepted, reply, TransactionStage.DATA)

    def take_end(self, reply: Reply) -> None:
        """The one reply to the end of the content."""
        self.opened = False
        self._settle(self.accepted, reply, TransactionStage.END)

    def take_lmtp_end(self, reply: Reply) -> bool:
        """The next reply to the end of the content; returns whether it was the last one.

        There is one for each accepted recipient, in order (RFC 2033 section 4.2).
        """
        self.opened = False
        self._settle((self.accepted[self._ended],), reply, TransactionStage.END)
        self._ended += 1
        return self._ended == len(self.accepted)

    def abandon(self, reply: Reply, stage: TransactionStage, end: End) -> None:
        """Nothing more will come: the word on all who have none."""
        self._settle(range(len(self._replies)), reply, stage)
        self._end, self._last = end, reply

    def done(self, reusable: bool, trouble: str) -> TransactionDone:
        """What became of the transaction, every recipient having its reply."""
        return TransactionDone(
            tuple(self._replies), tuple(self._stages), reusable, self._end, self._last, trouble
        )

    def _settle(self, numbers: Iterable[int], reply: Reply, stage: TransactionStage) -> None:
        for number in numbers:
            if self._replies[number] is _NOT_YET:
                self._replies[number] = reply
                self._stages[number] = stage
