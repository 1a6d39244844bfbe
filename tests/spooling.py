"""Mail for tests of the spool, and of what stands on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from relayd.mail.address import Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.content import Content
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Submission
from relayd.mail.outcome import Blame, Outcome
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.spool.sqlite.bridge import ThreadBridge
from relayd.spool.sqlite.store import Spool
from relayd.spool.view import Accepted, Page, RecipientSummary, Summary

SENDER = Mailbox("sender", "source.example")
CLIENT = Client(
    "192.0.2.7", 40001, "0.0.0.0:25", "client.example", "ESMTP", "TLSv1.3 X", "joe", "f"
)
TRAIL = (Step("accept", "rules.d/10:1", 'accept for domain "corp.example"', "corp.example"),)
LATER = Outcome(
    Reply(451, 4, 2, ("try", "again")), "mx.example", "192.0.2.9:25", Blame.DESTINATION, why="busy"
)
DONE = Outcome(Reply.of(250, "2.0.0", "Ok"), "mx.example", "192.0.2.9:25", passed_on=True)


def recipient(name: str = "user", hop: str = "inside", **more: Any) -> Recipient:
    mailbox = Mailbox(name, "corp.example")
    return Recipient(mailbox, more.pop("original", mailbox), hop, more.pop("path", SENDER), **more)


def submission(*recipients: Recipient, sender: ReversePath = SENDER, **more: Any) -> Submission:
    more.setdefault("trail", TRAIL)
    more.setdefault("rules", "c0ffee")
    return Submission(
        more.pop("envelope", Envelope(sender, "8BITMIME")),
        CLIENT,
        recipients or (recipient(),),
        more.pop("header_size", 10),
        more.pop("eight_bit", True),
        more.pop("utf8_header", False),
        **more,
    )


def octets(content: Content) -> bytes:
    return b"".join(content.chunks())


def facts(message: Message) -> tuple[object, ...]:
    """A message as a value, its content read."""
    return (
        message.ident,
        message.received_at,
        message.envelope,
        message.client,
        octets(message.content),
        message.header_size,
        message.eight_bit,
        message.utf8_header,
        message.headers,
    )


def plain(accepted: list[Accepted]) -> list[tuple[tuple[object, ...], tuple[Record, ...]]]:
    return [(facts(message), records) for message, records in accepted]


class Troubles:
    """A mail log that keeps what it hears of trouble."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, object]]] = []

    def trouble(self, event: str, **facts: object) -> None:
        self.heard.append((event, facts))

    notice = trouble

    def events(self) -> list[str]:
        return [event for event, _ in self.heard]

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **facts: None


class Harness:
    """A spool on disk with its bridge, and the verbs that tests repeat."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.options = {"floor_bytes": 0, "floor_inodes": 0, **options}
        self.bridge = ThreadBridge()
        self.log = Troubles()
        self.spool = self.make()

    def make(self) -> Spool:
        log: Any = self.log
        return Spool(self.directory, self.bridge, log=log, **self.options)

    def reopen(self) -> Spool:
        self.close()
        self.spool = self.make()
        self.spool.open()
        return self.spool

    def close(self) -> None:
        self.bridge.wait(self.spool.close())

    def put(
        self, content: bytes = b"Subject: x\r\n\r\nbody\r\n", *to: Recipient, **more: Any
    ) -> Accepted:
        draft = self.spool.create()
        draft.write(content)
        return self.bridge.wait(draft.commit(submission(*to, **more)))

    @property
    def shard(self) -> Path:
        return self.directory / "shard-0"


@contextmanager
def opened(directory: Path, **options: Any) -> Iterator[Harness]:
    harness = Harness(directory, **options)
    harness.spool.open()
    try:
        yield harness
    finally:
        harness.close()


HELD = RecipientState.HELD


def summaries(page: Page) -> list[Summary]:
    """The rows of a listing's page as values."""
    found = [
        Summary(ident, at, size, sender, [RecipientSummary(*each) for each in recipients])
        for ident, at, size, sender, recipients in json.loads(page.rows)
    ]
    assert len(found) == page.messages
    return found
