"""`follow`: in order, bounded, resumable, and never in the way of mail."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from relayd.mail.content import BytesContent
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.ops import following
from relayd.ops.answers import EventAnswer
from relayd.ops.documents import RequestError
from relayd.ops.following import BEAT, LINGER, Events, GoneError, MergedEvents
from relayd.ops.maillog import LineLog
from relayd.reactor.coroutine import spawn
from tests.spooling import CLIENT, DONE, SENDER, recipient, submission
from tests.support import TestCase
from tests.unit.ops.test_answers import wrong

CONTENT = b"Message-ID: <1@a.example>\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n\r\nbody\r\n"


class HangsUpError(Exception):
    """What a reader that is gone makes of `send`."""


class Reader:
    """A reader that may be slow, and may hang up."""

    def __init__(self) -> None:
        self.heard: list[EventAnswer] = []
        self.slow: Deferred[None] | None = None
        self.gone = False

    async def send(self, document: EventAnswer) -> None:
        if self.slow is not None:
            await self.slow
        if self.gone:
            raise HangsUpError
        self.heard.append(document)

    @property
    def events(self) -> list[str]:
        return [each["event"] for each in self.heard if each["event"] != "alive"]


class EventsTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.turn: list[Callable[[], None]] = []
        self.log = LineLog(lambda _: None, clock=lambda: 1e9, later=lambda _: None)
        self.events = Events(self.clock, self.log, self.turn.append, lambda: 1e9)
        self.errors: list[Any] = []

    def follow(self, **request: str) -> Reader:
        reader = Reader()
        spawn(self.events.follow(request, reader), self.errors.append)
        return reader

    def settle(self) -> None:
        turn, self.turn[:] = [*self.turn], []
        for each in turn:
            each()

    def message(self, *names: str) -> tuple[Message, tuple[Record, ...]]:
        sent = submission(*map(recipient, names or ("user",)))
        content = BytesContent(CONTENT)
        size = CONTENT.index(b"body")
        message = Message(7, 1e9, sent.envelope, CLIENT, content, size, False, False)
        records = tuple(Record(7, n, each) for n, each in enumerate(sent.recipients))
        return message, records

    def all_kinds(self) -> None:
        message, records = self.message()
        self.log.accepted(message, records, 0.5)
        self.log.refused(CLIENT, "RCPT TO:<x@y>", "550 5.7.1 no", "no rule")
        self.log.attempted(message, [Settlement(records[0], RecipientState.DELIVERED, DONE)], 0.25)
        self.log.report(message, "000000000008", str(SENDER), "failed")
        self.log.notice("reloaded", rules="abc")
        self.log.trouble("next hop down", destination="inside", failures=3)
        self.log.session(CLIENT, messages=1, refused=1, seconds=1.0, end="quit")

    def test_each_event_is_told_as_it_happens(self) -> None:
        reader = self.follow()
        self.all_kinds()
        self.settle()
        self.assertEqual(reader.events, list(following.EVENTS[:2]) + list(following.EVENTS[2:]))
        for event in reader.heard:
            self.assertEqual(list(wrong(event, EventAnswer)), [])
        accepted, _, attempt, *_ = reader.heard[1:]
        self.assertEqual(accepted["subject"], "Gr\u00fc\u00dfe")
        self.assertEqual(accepted["message_id"], "<1@a.example>")
        self.assertEqual((attempt["state"], attempt["id"]), ("delivered", accepted["id"]))

    def test_while_nobody_asks_nothing_is_kept(self) -> None:
        self.all_kinds()
        self.assertEqual(self.log.taps, ())
        reader = self.follow()
        self.assertEqual(reader.events, [])
        reader.gone = True
        self.clock.advance(BEAT)
        self.assertEqual(len(self.errors), 1)  # that it is gone
        self.assertNotEqual(self.log.taps, ())
        self.clock.advance(LINGER)
        self.assertEqual(self.log.taps, ())
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_who_comes_back_with_his_cursor_has_missed_nothing(self) -> None:
        first = self.follow()
        self.all_kinds()
        self.settle()
        first.gone = True
        self.log.notice("meanwhile")
        self.settle()
        cursor = first.heard[2]["cursor"]
        again = self.follow(cursor=f"0badcafe.77,{cursor}")
        self.assertEqual(
            again.events, ["attempt", "report", "notice", "trouble", "notice"], again.heard
        )
        cursors = [each["cursor"] for each in again.heard]
        self.assertEqual(len(set(cursors[1:])), 5)

    def test_a_cursor_of_another_life_is_told_that_something_was_missed(self) -> None:
        self.follow()
        self.log.notice("now")
        reader = self.follow(cursor="0badcafe.77")
        self.assertEqual(reader.events, ["missed", "notice"])
        self.assertEqual(reader.heard[0]["count"], 0)

    def test_a_slow_reader_misses_what_the_ring_has_no_room_for(self) -> None:
        with patch.object(following, "MOST", 10):
            self.events = Events(self.clock, self.log, self.turn.append)
        reader, quick = self.follow(), self.follow()
        reader.slow = Deferred()
        for number in range(100):
            self.log.notice("event", number=number)  # mail goes on
            self.settle()
        self.assertEqual(len(quick.events), 100)
        slow, reader.slow = reader.slow, None
        slow.callback(None)
        self.assertEqual(reader.events, ["notice", "missed"] + ["notice"] * 10)
        self.assertEqual(reader.heard[2]["count"], 89)
        self.assertEqual(reader.heard[-1]["facts"], {"number": "99"})
        self.assertEqual(len(self.events._ring), 10)

    def test_only_what_is_wanted_is_told(self) -> None:
        for request, expected in (
            ({"event": "report,trouble"}, ["report", "trouble"]),
            ({"id": "000000000007"}, ["accepted", "attempt", "report"]),
            ({"sender": "@Source.example"}, ["accepted", "attempt"]),
            ({"sender": "<>"}, []),
            ({"recipient": "user@corp.example"}, ["accepted", "attempt"]),
            ({"recipient": "@source.example", "event": "report"}, ["report"]),
        ):
            reader = self.follow(**request)
            self.all_kinds()
            self.settle()
            self.assertEqual(reader.events, expected, request)

    async def test_an_event_that_is_none_is_said_so(self) -> None:
        with self.assertRaises(RequestError) as caught:
            await self.events.follow({"event": "lost"}, Reader())
        self.assertIn("no event 'lost'; expected accepted, refused", str(caught.exception))
        self.assertEqual(self.log.taps, ())

    async def test_an_id_or_a_cursor_that_is_none_is_said_so(self) -> None:
        for request, complaint in (
            ({"id": "nope"}, "'NOPE' is not a message ID"),
            ({"cursor": "nope"}, "no cursor 'nope'; expected one of follow --json"),
            ({"cursor": "12ab.x"}, "no cursor '12ab.x'"),
        ):
            with self.assertRaises(RequestError) as caught:
                await self.events.follow(request, Reader())
            self.assertIn(complaint, str(caught.exception))
        self.assertEqual(self.log.taps, ())

    def test_without_events_a_follower_hears_that_it_is_quiet(self) -> None:
        reader = self.follow()
        for _ in range(3):
            self.clock.advance(BEAT)
        self.assertEqual([each["event"] for each in reader.heard], ["alive"] * 4)


class MergedTests(TestCase):
    def test_who_puts_waits_for_room_and_hears_that_the_reader_is_gone(self) -> None:
        merged, put, gone = MergedEvents(), [], []
        event: EventAnswer = {"event": "notice", "at": 0.0}

        async def putting() -> None:
            source = merged.source("a")
            try:
                while True:
                    await source.send(event)
                    put.append(1)
            except GoneError:
                gone.append(1)

        spawn(putting(), self.fail)
        self.assertEqual(len(put), following.BATCH)

        async def one() -> None:
            self.assertEqual(await merged.get(), ("a", event))

        spawn(one(), self.fail)
        self.assertEqual(len(put), following.BATCH + 1)
        merged.close()
        self.assertEqual(gone, [1])
