"""The part of a session in which content arrives, by DATA or by BDAT (RFC 3030)."""

from __future__ import annotations

from relayd.mail.reply import Reply
from relayd.smtp import replies
from relayd.smtp.content import IncomingContent
from relayd.smtp.events import Chunk, ContentRefused, Data, EndOfContent, Event, Rset
from relayd.smtp.exchange import Exchange, ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.state import IN_TRANSACTION, Command, SessionState

_NO_CONTENT = IncomingContent(0, False)  # until there is some


class Receiving(Exchange):
    """Reads content instead of commands, and answers for what is wrong with it."""

    def __init__(self, hostname: str, limits: ServerLimits, offer: Offer) -> None:
        super().__init__(hostname, limits, offer)
        self._recipients = 0  # accepted ones of the open transaction
        self._content = _NO_CONTENT
        self._octets = 0  # of the current BDAT still to come
        self._bdat_size = 0  # of the current BDAT in all
        self._bdat_command = Command.BDAT
        self._ended_by = Command.END  # ... or by LAST
        self._swallow: Reply | None = None  # the answer to a BDAT whose octets are discarded

    def _reset_transaction(self) -> None:
        self._smtputf8 = False
        self._recipients = 0

    def _answer_data(self, reply: Reply, event: Data) -> None:
        if not event.bdat:
            self._reply(reply, Command.DATA)
            if self.state is SessionState.RECEIVING:
                self._read = self._read_data
            else:
                self._doubt(Command.DATA)  # a client that did not wait sends the content now
        elif reply.code >= 400:
            self._swallow = reply
        else:
            refused = self._begin_octets()
            if refused is not None:
                self._events.append(refused)

    def _read_data(self) -> Event | None:
        lines, content = self._input, self._content
        if lines.at == len(lines.data):
            self.hungry = True
            return None
        refused = content.refusal
        data, ended = content.take_data(lines)
        if content.refusal is None:
            if not ended:
                return Chunk(data) if data else None
            self._ended_by = Command.END
            if not data:
                return EndOfContent()
            self._events.append(EndOfContent())
            return Chunk(data)
        if ended:
            self._read = self._read_command
            self._reset_transaction()
            self._reply(content.refusal, Command.END)
        return None if refused else ContentRefused(content.refusal)

    def _begin_octets(self) -> Event | None:
        """The octets of an accepted BDAT are about to come."""
        content = self._content
        if 0 < self.offer.size < content.size + self._octets:
            return self._refuse_octets(replies.TOO_BIG)
        return None

    def _refuse_octets(self, reply: Reply) -> Event:
        self._swallow = reply
        return ContentRefused(reply)

    def _read_octets(self) -> Event | None:
        content = self._content
        if self._octets:
            data = self._input.take(self._octets)
            if not data:
                self.hungry = True
                return None
            self._octets -= len(data)
            if self._swallow is not None:
                return None
            data = content.admit(data)
        elif self._swallow is not None:
            return self._end_swallowing(self._swallow)
        elif self._bdat_command is Command.BDAT:
            text = f"{self._bdat_size} octets received"
            self._read = self._read_command
            self._reply(Reply.of(250, "2.0.0", text), Command.BDAT)
            return None
        else:
            data = content.finish()
            if content.refusal is None:
                self._ended_by = Command.LAST
                if not data:
                    return EndOfContent()
                self._events.append(EndOfContent())
        if content.refusal is not None:
            return self._refuse_octets(content.refusal)
        return Chunk(data) if data else None

    def _end_swallowing(self, reply: Reply) -> Event | None:
        """The octets of a refused BDAT are gone: say why, and drop the transaction at LAST."""
        self._read = self._read_command
        before = self.state
        self._reply(reply, self._bdat_command)
        if before in IN_TRANSACTION and self.state is SessionState.READY:
            self._reset_transaction()
            return Rset()
        return None
