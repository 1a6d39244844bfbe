"""What happens, as events: a MailLog that makes a document of what the real one writes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from relayd.mail.address import path_text
from relayd.mail.client import Client
from relayd.mail.ident import ident_text
from relayd.mail.message import Message, Record, Settlement
from relayd.mail.naming import names_of, shown
from relayd.ops.answers import EventAnswer

_TEXT = 512  # characters of a value
_RECIPIENTS = 100  # of a message that are named


class Telling:
    """Whoever is told of events says in `tell` what becomes of one."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now

    def tell(self, event: EventAnswer) -> None:
        """Something happened."""
        raise NotImplementedError

    # MailLog

    def session(
        self, client: Client, *, messages: int, refused: int, seconds: float, end: str
    ) -> None:
        """Not told: what was done in it is."""

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        """A command was refused."""
        self.tell(
            {
                "event": "refused",
                "at": self._now(),
                "client": client.address,
                "helo": _cut(client.helo),
                "login": _cut(client.login),
                "command": _cut(command),
                "reply": _cut(reply),
                "why": _cut(why),
            }
        )

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        """A message is on stable storage."""
        names = names_of(message.content, message.header_size)
        self.tell(
            {
                "event": "accepted",
                "at": self._now(),
                "id": ident_text(message.ident),
                "sender": path_text(message.envelope.reverse_path),
                "recipients": [str(each.recipient.mailbox) for each in records[:_RECIPIENTS]],
                "count": len(records),
                "size": message.content.size,
                "message_id": names.message_id,
                "subject": _cut(shown(names.subject)),
                "client": message.client.address,
                "helo": _cut(message.client.helo),
                "login": _cut(message.client.login),
                "seconds": seconds,
            }
        )

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        """What an attempt, the operator or age made of recipients: an event for each."""
        ident, sender = ident_text(message.ident), path_text(message.envelope.reverse_path)
        for each in settlements:
            record, outcome = each.record, each.outcome
            self.tell(
                {
                    "event": "attempt",
                    "at": self._now(),
                    "id": ident,
                    "sender": sender,
                    "recipients": [str(record.recipient.mailbox)],
                    "next_hop": record.recipient.next_hop,
                    "state": each.state.name.lower(),
                    "attempts": record.attempts + each.attempted,
                    "remote_mta": "" if outcome is None else outcome.remote_mta,
                    "remote_address": "" if outcome is None else outcome.remote_address,
                    "reply": "" if outcome is None else _cut(str(outcome.reply)),
                    "why": _cut(each.note if outcome is None else outcome.why),
                    "seconds": seconds,
                }
            )

    def report(self, about: Message, report: str, to: str, kind: str) -> None:
        """A report was queued."""
        self.tell(
            {
                "event": "report",
                "at": self._now(),
                "id": ident_text(about.ident),
                "report": report,
                "recipients": [to],
                "kind": kind,
            }
        )

    def notice(self, event: str, **facts: object) -> None:
        """Something an operator should know."""
        self._told("notice", event, facts)

    def trouble(self, event: str, **facts: object) -> None:
        """Something an operator should look at."""
        self._told("trouble", event, facts)

    def _told(self, level: str, what: str, facts: dict[str, object]) -> None:
        told = {name: _cut(str(fact)) for name, fact in facts.items()}
        self.tell({"event": level, "at": self._now(), "what": what, "facts": told})


def _cut(text: str) -> str:
    return text[:_TEXT]
