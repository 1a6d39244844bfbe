"""The messages and settlements that the tests of reports speak about."""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.content import BytesContent, Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.ident import make_ident
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.outcome import Outcome
from relayd.mail.reply import Reply
from relayd.report.bounce import Report, owed

try:
    from flufl.bounce import all_failures
except ImportError:
    all_failures = None  # type: ignore[assignment]  # the test that needs it skips

__all__ = ["all_failures"]

HOSTNAME = "gw.example.com"
RECEIVED = 1_767_600_000.0  # Mon, 5 Jan 2026 08:00:00 UTC
NOW = RECEIVED + 600
GIVE_UP = 5 * 86400.0
ABOUT = make_ident(1_767_600_000_000_000, 0)
IDENT = make_ident(1_767_600_600_000_000, 0)

PLAIN = (
    b"Received: from client.example ([192.0.2.9])\r\n"
    b"\tby gw.example.com with ESMTP id 1\r\n"
    b"From: Alice <alice@sender.example>\r\n"
    b"To: bob@example.org\r\n"
    b"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?= from the sea\r\n"
    b"Date: Mon, 5 Jan 2026 07:59:58 +0000\r\n"
    b"Message-ID: <first@sender.example>\r\n"
    b"\r\n"
    b"Dear Bob,\r\n.\r\nall is well.\r\n"
)


def message(
    data: bytes = PLAIN,
    *,
    sender: str | None = "alice@sender.example",
    content: Content | None = None,
    **envelope: object,
) -> Message:
    header_size = data.index(b"\r\n\r\n") + 4
    return Message(
        ABOUT,
        RECEIVED,
        Envelope(Mailbox.parse(sender) if sender else None, **envelope),  # type: ignore[arg-type]
        Client("192.0.2.9", 40000, "192.0.2.1:25", "client.example", "ESMTP"),
        content or BytesContent(data),
        header_size,
        eight_bit=not data.isascii(),
        utf8_header=not data[:header_size].isascii(),
    )


def recipient(
    mailbox: str = "bob@example.org", original: str = "", *, notify: str = "", orcpt: str = ""
) -> Recipient:
    return Recipient(
        Mailbox.parse(mailbox),
        Mailbox.parse(original or mailbox),
        orcpt=orcpt,
        notify=frozenset(notify.split()),
    )


REFUSED = Outcome(Reply.of(550, "5.1.1", "No such user here"), "mx1.example.org", "198.51.100.7:25")
DELIVERED = Outcome(Reply.of(250, "2.1.5", "Ok"), "mx1.example.org", "198.51.100.7:25")
PUT_OFF = Outcome(
    Reply.of(451, "4.7.1", "Greylisted, come back later"), "mx1.example.org", "198.51.100.7:25"
)


def settlement(
    to: Recipient,
    state: RecipientState = RecipientState.FAILED,
    outcome: Outcome | None = REFUSED,
    number: int = 0,
    last: Outcome | None = None,
    **more: bool,
) -> Settlement:
    record = Record(ABOUT, number, to, last=last)
    return replace(Settlement(record, state, outcome), **more)  # type: ignore[arg-type]


def reports(about: Message, *settlements: Settlement, final: bool = False) -> tuple[Report, ...]:
    return owed(about, settlements, now=NOW, give_up=GIVE_UP, final=final)
