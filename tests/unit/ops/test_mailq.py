"""What everybody may ask: what waits, and not a word of who writes to whom."""

from __future__ import annotations

import json
from typing import Any
from unittest import mock

from relayd.mail.message import RecipientState, Settlement
from relayd.mail.outcome import postponed
from relayd.ops.control import ControlFactory
from relayd.ops.mailq import MAX_SESSIONS, MOST, PublicQueue
from tests.support import TestCase
from tests.unit.ops.test_control import DONE, Fixture


class MailqTests(Fixture, TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.private = self.commands
        self.commands: Any = PublicQueue(self.private)

    async def test_the_queue_is_shown_without_names(self) -> None:
        _, (record, _) = await self.accept("bob@example.net", "secret.carol@example.org")
        await self.accept("dave@example.com", sender="", shard=1)
        said = postponed("4.2.2", "mailbox bob is over its quota", code=452)
        await self.spools[0].settle([Settlement(record, RecipientState.QUEUED, said, 5.0)])
        documents = self.ask("queue")
        self.assertEqual(documents[-1], DONE)
        text = json.dumps(documents)
        for name in ("alice", "bob", "carol", "dave", "quota"):
            self.assertNotIn(name, text)
        (row,), (other,) = (each["rows"] for each in documents if "rows" in each)
        self.assertEqual(row[3], "...@sender.example")
        self.assertEqual([each[1] for each in row[4]], ["...@example.net", "...@example.org"])
        self.assertEqual(row[4][0][-1], "452 4.2.2")
        self.assertEqual(other[3], "")

    async def test_nothing_else_is_answered(self) -> None:
        message, _ = await self.accept("bob@example.net")
        for command in (
            *("status", "show", "why", "content", "retry", "hold", "release", "remove", "audit"),
            *("explain", "check", "reload", "oauth", "restart", "nonsense"),
        ):
            with self.subTest(command=command):
                (answer,) = self.ask(command, id=str(message), ids=[str(message)], all=True)
                self.assertEqual(list(answer), ["error"])
                self.assertIn("only root", answer["error"])
        self.assertEqual(self.log.notices, [])

    async def test_a_filter_is_no_way_to_ask_for_a_name(self) -> None:
        await self.accept("bob@example.net")
        asked: dict[str, object] = {
            "sender": "alice@sender.example",
            "recipient": "bob",
            "destination": "exchange",
            "state": "held",
            "older_than": 1,
        }
        for name, value in asked.items():
            with self.subTest(name=name):
                self.assertIn("only root", self.ask("queue", **{name: value})[0]["error"])

    async def test_it_is_bounded(self) -> None:
        with mock.patch.object(self.private, "run", wraps=self.private.run) as run:
            for limit in (0, 5, 10**9, -3, "x", None):
                self.ask("queue", limit=limit)
        limits = [call.args[0]["limit"] for call in run.call_args_list]
        self.assertEqual(limits, [MOST, 5, MOST, MOST, MOST, MOST])
        factory = ControlFactory(self.clock, self.commands, self.log, MAX_SESSIONS)
        sessions = [factory.buildProtocol(None) for _ in range(MAX_SESSIONS + 1)]
        self.assertEqual(sessions.count(None), 1)
