"""`sendmail -bs`: SMTP on standard input and output, each message into the drop folder."""

from __future__ import annotations

import os

from relayd.mail.address import path_text
from relayd.mail.reply import Reply
from relayd.sendmail.drop import Drop, Site
from relayd.smtp import events
from relayd.smtp.exchange import ServerLimits
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer

RECIPIENTS = 500  # in one message; the client sends it once more for the rest
OK, TRY_AGAIN = 0, 75  # sysexits.h
_READ = 1 << 16  # octets
_OK = Reply.of(250, "2.1.0", "Ok")
_TAKEN = Reply.of(250, "2.0.0", "Left for relayd")
_HELLO = Reply.bare(250)
_GO_AHEAD = Reply.bare(354, "End data with <CR><LF>.<CR><LF>")
_TROUBLE = Reply.of(451, "4.3.0", "Local trouble, try again later")
_NOT_VERIFIED = Reply.of(252, "2.5.0", "Cannot verify")
_NOT_OFFERED = Reply.of(502, "5.5.1", "Not offered")


class Dialogue:
    """One session without a daemon."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._mail: events.Mail | None = None
        self._recipients: list[str] = []
        self._notify: set[str] = set()
        self._drop: Drop | None = None

    def answer(self, event: events.Event) -> Reply | None:
        """The verdict; None where none is needed."""
        if isinstance(event, events.Chunk):
            self._content(event.data)
            return None
        if isinstance(event, events.Mail):
            self.forget()
            self._mail = event
            return _OK
        if isinstance(event, events.Rcpt):
            self._recipients.append(str(event.path))
            self._notify |= event.params.notify
            return _OK
        if isinstance(event, events.Data):
            return self._begin()
        if isinstance(event, events.EndOfContent):
            return self._end()
        if isinstance(event, events.Hello):
            return _HELLO
        if isinstance(event, events.Rset | events.ContentRefused | events.Quit):
            self.forget()
            return None
        if isinstance(event, events.Vrfy):
            return _NOT_VERIFIED
        return _NOT_OFFERED if isinstance(event, events.NeedsVerdict) else None

    def forget(self) -> None:
        """The transaction ends without a message."""
        if self._drop is not None:
            self._drop.rollback()
        self._drop = self._mail = None
        self._recipients, self._notify = [], set()

    def _begin(self) -> Reply:
        assert self._mail is not None
        params = self._mail.params
        notify = self._notify if self._notify <= {"NEVER"} else self._notify - {"NEVER"}
        slip = {
            "relayd": 1,
            "sender": path_text(self._mail.path),
            "recipients": self._recipients,
            "body": params.body,
            "ret": params.ret,
            "envid": params.envid,
            "notify": sorted(notify),
        }
        try:
            if why := self._site.refusal():
                return Reply.of(452, "4.3.1", why)
            self._drop = Drop(self._site.folder, slip)
        except OSError:
            return _TROUBLE
        return _GO_AHEAD

    def _content(self, data: bytes) -> None:
        if self._drop is not None:
            try:
                self._drop.write(data)
            except OSError:
                self._drop.rollback()
                self._drop = None

    def _end(self) -> Reply:
        if self._drop is None:
            return _TROUBLE
        try:
            self._drop.commit()
        except OSError:
            return _TROUBLE
        finally:
            self.forget()
        return _TAKEN


def converse(input_: int, output: int, site: Site) -> int:
    """Speak until the client has said QUIT or hung up; returns the exit status."""
    offer = Offer(size=site.message_size)
    server = SmtpServer(site.domain, ServerLimits(recipients=RECIPIENTS), offer)
    dialogue = Dialogue(site)
    server.greet()
    _say(output, server.data_to_send())
    while not server.closed:
        data = os.read(input_, _READ)
        if not data:
            dialogue.forget()
            return OK
        server.receive_data(data)
        while (event := server.next_event()) is not None:
            reply = dialogue.answer(event)
            if reply is not None:
                server.answer(reply)
            if server.out_of_step:  # content, perhaps, behind a DATA that was refused
                server.fail(server.too_early())
        if not _say(output, server.data_to_send()):
            dialogue.forget()
            return TRY_AGAIN
    dialogue.forget()
    return OK


def _say(output: int, data: bytes) -> bool:
    try:
        while data:
            data = data[os.write(output, data) :]
    except OSError:
        return False
    return True
