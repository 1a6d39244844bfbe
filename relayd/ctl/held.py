"""`relayctl held`: what rules or operators keep back, and why; it is released or discarded."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator
from typing import Any

from relayd.ctl.client import Daemon, DaemonError
from relayd.mail.ident import ident_text
from relayd.ops.text import coarse, octets, safe

_NOTHING = re.compile(r"not |(score|says) \S+ none\Z")  # was found
DISCARDED = "discarded from what is held"  # for the ledger, where the operator says no more


def run(options: argparse.Namespace, daemon: Daemon) -> int:
    """One command; the exit status. Raises DaemonError."""
    if options.action == "release":
        return _change(options, daemon, "released", "release", training=options.training)
    if options.action == "discard":
        note = options.note or DISCARDED
        return _change(options, daemon, "discarded", "remove", note=note)
    return _list(options, daemon)


def _change(
    options: argparse.Namespace, daemon: Daemon, done: str, command: str, **more: str
) -> int:
    whom = {"recipient": options.recipient, "rule": options.rule}
    if not options.ids and not any(whom.values()):
        raise DaemonError("nothing named: give message IDs, --recipient, or --rule")
    answer = daemon.answer(command, ids=options.ids, state="held", **whom, **more)
    count = answer["recipients"]
    if options.json:
        print(json.dumps(answer))
    else:
        print(f"{count:,} {'recipient' if count == 1 else 'recipients'} {done}")
    if count:
        return 0
    raise DaemonError("nothing that is held fits; relayctl held lists it")


def _list(options: argparse.Namespace, daemon: Daemon) -> int:
    found = 0
    for message in _messages(daemon, options):
        found += 1
        if options.json:
            print(json.dumps(message))
        else:
            for line in _lines(message, time.time()):
                print(line)
    if not found and not options.json:
        print("Nothing is held.")
    return 0


def _messages(daemon: Daemon, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One after the other, with what was known of each when it came."""
    wanted: dict[str, list[int]] = {}  # by message: which of its recipients are meant
    whom = {"recipient": options.recipient, "rule": options.rule}
    for document in daemon.ask("queue", state="held", limit=options.limit, **whom):
        for row in document.get("rows", ()):
            wanted[ident_text(row[0])] = [recipient[0] for recipient in row[-1]]
    for ident, numbers in wanted.items():
        story = daemon.answer("show", id=ident)
        recipients = [
            {"mailbox": each["mailbox"], "why": each["reply"]}
            for each in story["recipients"]
            if each["state"] == "held" and each["number"] in numbers
        ]
        if not recipients:  # they have been let go meanwhile
            continue
        yield {
            "id": story["id"],
            "since": story["received_at"],
            "size": story["size"],
            "sender": story["sender"],
            "client": story["client"],
            "facts": story.get("facts", []),
            "recipients": recipients,
        }


def _lines(message: dict[str, Any], now: float) -> Iterator[str]:
    age, size = coarse(now - message["since"]), octets(message["size"])
    yield safe(f"{message['id']}  {age}  {size}  <{message['sender']}>")
    for each in message["recipients"]:
        yield safe(f"    <{each['mailbox']}>  {each['why']}")
    so = [fact for fact in message["facts"] if not _NOTHING.match(fact)]
    if so:
        yield safe(f"    {', '.join(so)}")
