"""Webhooks: signed, in order, again and again, bounded and counted, and never in mail's way."""

from __future__ import annotations

import base64
import hmac
import json
import tempfile
import unittest
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock

from relayd.config.hooks import EVENTS, Hook
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.ops import hooks
from relayd.ops.answers import HookBodyAnswer, HookStatusAnswer
from relayd.ops.hookqueue import HookQueue, WaitingEvent
from relayd.ops.hooks import LOOK, MOST_DELAY, HookPoster, HookRecorder, request_of
from relayd.ops.maillog import LineLog
from relayd.relay.https import HttpAnswer, HttpError
from tests.spooling import CLIENT, DONE, SENDER
from tests.support import TestCase
from tests.unit.ops import test_following
from tests.unit.ops.test_answers import wrong

KEY = b"0123456789abcdef0123456789abcdef"
NOW = 1e9


def hook(name: str = "crm", **more: Any) -> Hook:  # noqa: ANN401
    more.setdefault("url", "https://crm.example/token-in-the-path")
    return Hook(name, events=more.pop("events", EVENTS), secret=Path("k"), keys=(KEY,), **more)


class Receiver:
    """Takes requests, or what it is told to do with them."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.status = 200
        self.error: Exception | None = None
        self.hangs: Deferred[None] | None = None

    async def post(self, url: str, body: bytes, fields: Mapping[str, str]) -> HttpAnswer:
        self.requests.append((url, body, fields))
        if self.hangs is not None:
            await self.hangs
        if self.error is not None:
            raise self.error
        return HttpAnswer(self.status, "text/plain", b"")

    @property
    def events(self) -> list[dict[str, Any]]:
        return [each for _, body, _ in self.requests for each in json.loads(body)["events"]]


class HooksTests(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.spool = Path(folder.name)
        self.clock = Clock()
        self.now = NOW
        self.written: list[bytes] = []
        self.turn: list[Callable[[], None]] = []
        self.log = LineLog(self.written.append, clock=lambda: self.now, later=lambda _: None)
        self.receiver = Receiver()
        self.started()

    def message(self, *names: str) -> tuple[Message, tuple[Record, ...]]:
        return test_following.EventsTests.message(cast(Any, self), *names)

    def started(self) -> None:
        """As after a start of relayd: nothing but the disk knows of before."""
        self.log.taps = ()
        queue = lambda: HookQueue(self.spool)  # noqa: E731
        now = lambda: self.now  # noqa: E731
        self.recorder = HookRecorder(queue(), self.log, self.turn.append, execute, now)
        self.poster = HookPoster(self.clock, queue(), execute, self.log, now)
        self.addCleanup(self.recorder.finish)
        self.addCleanup(self.poster.stop)

    def apply(self, *given: Hook) -> None:
        self.recorder.apply(given)
        self.poster.apply(given, self.receiver.post)

    def settle(self, seconds: float = 0.0) -> None:
        turn, self.turn[:] = [*self.turn], []
        for each in turn:
            each()
        self.clock.advance(seconds)

    def deliver(self, *names: str, state: RecipientState = RecipientState.DELIVERED) -> None:
        message, records = self.message(*names)
        self.log.accepted(message, records, 0.5)
        self.log.attempted(message, [Settlement(each, state, DONE) for each in records], 0.25)
        self.settle()

    def status(self, name: str = "crm") -> HookStatusAnswer:
        (found,) = (each for each in self.poster.status() if each["name"] == name)
        return found

    def logged(self) -> str:
        self.log.flush()
        return b"".join(self.written).decode()

    def test_without_a_hook_nothing_is_heard_and_no_file_is_there(self) -> None:
        self.recorder.apply(())
        self.deliver("ann")
        self.assertEqual(self.log.taps, ())
        self.assertEqual([*self.spool.iterdir()], [])

    def test_events_arrive_in_order_each_with_its_type(self) -> None:
        self.apply(hook())
        message, records = self.message("ann", "bob")
        self.log.accepted(message, records, 0.5)
        states = [*RecipientState]
        self.log.attempted(message, [Settlement(records[0], each, DONE) for each in states], 0.25)
        self.log.report(message, "000000000008", str(SENDER), "failed")
        self.log.refused(CLIENT, "RCPT TO:<x@y>", "550 5.7.1 no", "no rule")
        self.log.notice("reloaded")
        self.log.trouble("next hop down")
        self.settle(LOOK)
        kinds = [each["type"] for each in self.receiver.events]
        self.assertEqual(kinds[0], "accepted")
        self.assertEqual(kinds[-1], "report")
        self.assertEqual({*kinds}, {*EVENTS})
        (url, body, _), *_ = self.receiver.requests
        self.assertEqual(url, "https://crm.example/token-in-the-path")
        self.assertEqual(list(wrong(json.loads(body), HookBodyAnswer)), [])
        self.assertEqual(list(wrong(self.status(), HookStatusAnswer)), [])
        self.clock.advance(LOOK)
        status = self.status()
        self.assertEqual((status["sent"], status["waiting"]), (len(kinds), 0))

    def test_only_the_events_that_a_hook_names(self) -> None:
        self.apply(hook(events=("bounced",)), hook("other", events=("accepted", "report")))
        self.deliver("ann")
        self.deliver("bob", state=RecipientState.FAILED)
        self.settle(LOOK)
        self.settle(LOOK)
        told: dict[str, list[str]] = {}
        for _, body, _ in self.receiver.requests:
            document = json.loads(body)
            told.setdefault(document["hook"], []).extend(e["type"] for e in document["events"])
        self.assertEqual(told, {"crm": ["bounced"], "other": ["accepted", "accepted"]})

    def test_each_request_is_signed_with_all_keys_and_has_a_time_and_an_id(self) -> None:
        events = [WaitingEvent(7, NOW, "delivered", "{}"), WaitingEvent(9, NOW, "bounced", "{}")]
        given = Hook("crm", "https://a.example", EVENTS, Path("k"), keys=(KEY, b"old" * 9))
        body, fields = request_of(given, events, "abc", NOW)
        self.assertEqual(fields["webhook-id"], "abc.7-9")
        self.assertEqual(fields["webhook-timestamp"], "1000000000")
        text = b"abc.7-9.1000000000." + body
        signatures = [
            "v1," + base64.b64encode(hmac.new(key, text, "sha256").digest()).decode()
            for key in given.keys
        ]
        self.assertEqual(fields["webhook-signature"], " ".join(signatures))

    def test_a_dead_receiver_is_tried_again_ever_later_and_then_hears_all_of_it(self) -> None:
        self.receiver.error = HttpError("crm.example: ConnectionRefusedError: refused")
        self.apply(hook())
        self.deliver("ann")
        for _ in range(200):
            self.settle(1.0)
        tries = len(self.receiver.requests)
        self.assertLess(tries, 12)
        self.assertGreater(tries, 6)
        self.assertEqual(len({fields["webhook-id"] for *_, fields in self.receiver.requests}), 1)
        self.assertIn("refused", self.status()["trouble"])
        self.assertEqual(self.status()["retries"], tries)
        self.assertEqual(self.status()["since"], NOW)
        self.assertEqual(self.logged().count('event="hook fails"'), 1)
        self.deliver("bob")
        self.receiver.error, before = None, len(self.receiver.requests)
        self.settle(MOST_DELAY)
        self.settle(LOOK)
        arrived = [
            (each["type"], each["data"]["recipients"][0])
            for _, body, _ in self.receiver.requests[before:]
            for each in json.loads(body)["events"]
        ]
        ann, bob = "ann@corp.example", "bob@corp.example"
        wanted = [("accepted", ann), ("delivered", ann), ("accepted", bob), ("delivered", bob)]
        self.assertEqual(arrived, wanted)
        self.assertEqual(self.status()["trouble"], "")
        self.assertIn('event="hook works again"', self.logged())

    def test_a_5xx_and_a_redirect_are_no_success(self) -> None:
        for status, words in ((503, "answered 503"), (302, "302, and no redirect is followed")):
            self.receiver.status = status
            self.apply(hook(url=f"https://crm.example/{status}"))
            self.deliver("ann")
            self.settle(LOOK)
            self.settle(LOOK)
            self.assertIn(words, self.status()["trouble"])
            self.assertEqual(self.status()["sent"], 0)

    def test_while_a_slow_receiver_thinks_nothing_overtakes(self) -> None:
        self.receiver.hangs = Deferred()
        self.apply(hook())
        self.deliver("ann")
        self.settle(LOOK)
        self.deliver("bob")
        self.settle(LOOK)
        self.assertEqual(len(self.receiver.requests), 1)
        hanging, self.receiver.hangs = self.receiver.hangs, None
        hanging.callback(None)
        self.settle(LOOK)
        self.assertEqual(len(self.receiver.requests), 2)
        self.assertEqual(len({each["id"] for each in self.receiver.events}), 4)

    def test_what_waited_arrives_after_a_restart_with_the_same_id(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook())
        self.deliver("ann")
        self.settle(LOOK)
        (_, first, before), *_ = self.receiver.requests
        self.receiver.error = None
        self.started()  # nobody has said good-bye
        self.apply(hook())
        self.settle(LOOK)
        _, again, fields = self.receiver.requests[-1]
        self.assertEqual(again, first)
        self.assertEqual(fields["webhook-id"], before["webhook-id"])

    def test_what_finds_no_room_is_dropped_counted_and_told_once(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook(keep=3))
        for each in range(5):
            self.deliver(f"user{each}")
            self.settle(LOOK)
        self.settle(LOOK)
        status = self.status()
        self.assertEqual((status["waiting"], status["dropped"]), (3, 7))
        self.assertEqual(self.logged().count('event="hook events dropped"'), 1)
        self.started()
        self.apply(hook(keep=3))
        self.settle(LOOK)
        self.assertEqual(self.status()["dropped"], 7)

    def test_what_is_too_old_is_dropped_and_counted(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook(age=60.0))
        self.deliver("ann")
        self.settle(LOOK)
        self.now += 61
        self.deliver("bob")
        self.settle(LOOK)
        self.settle(LOOK)
        self.assertEqual((self.status()["waiting"], self.status()["dropped"]), (2, 2))

    def test_what_does_not_fit_into_memory_is_counted(self) -> None:
        with patch.object(hooks, "MOST_GATHERED", 3):
            self.apply(hook())
            message, records = self.message("ann")
            for _ in range(5):
                self.log.accepted(message, records, 0.5)
            self.settle(LOOK)
            self.settle(LOOK)
        self.assertEqual((self.status()["sent"], self.status()["dropped"]), (3, 2))

    def test_a_disk_that_takes_nothing_costs_events_and_no_mail(self) -> None:
        self.apply(hook())
        with patch.object(HookQueue, "add", side_effect=OSError(28, "No space left on device")):
            self.deliver("ann")
        self.deliver("bob")
        self.settle(LOOK)
        self.settle(LOOK)
        self.assertEqual((self.status()["sent"], self.status()["dropped"]), (2, 2))

    def test_a_queue_that_cannot_be_read_is_told(self) -> None:
        (self.spool / "hooks.db").write_bytes(b"this is no database" * 100)
        self.apply(hook())
        self.settle(LOOK)
        self.settle(LOOK)
        self.assertIn("not a database", self.status()["trouble"])
        self.assertEqual(self.logged().count('event="hook events cannot be kept"'), 1)

    def test_a_reload_changes_where_they_go(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook())
        self.deliver("ann")
        self.settle(LOOK)
        self.receiver.error = None
        self.apply(hook(url="https://new.example/"))  # at once, and with what waits
        self.settle(LOOK)
        self.assertEqual(self.receiver.requests[-1][0], "https://new.example/")
        self.assertEqual(self.status()["receiver"], "https://new.example")

    def test_what_waits_for_a_hook_that_is_gone_is_dropped(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook(), hook("other"))
        self.deliver("ann")
        self.settle(LOOK)
        self.apply(hook("other"))
        self.settle(LOOK)
        self.assertIn('event="hook gone" hook=crm dropped=2', self.logged())
        self.assertEqual([each["name"] for each in self.poster.status()], ["other"])

    def test_the_key_and_the_path_are_in_no_log_and_no_status(self) -> None:
        self.receiver.error = HttpError("dead")
        self.apply(hook())
        self.deliver("ann")
        self.settle(LOOK)
        shown = self.logged() + json.dumps(self.poster.status()) + repr(hook())
        self.assertNotIn(KEY.decode(), shown)
        self.assertNotIn("token-in-the-path", shown)

    def test_many_events_go_in_few_requests(self) -> None:
        self.apply(hook(events=("accepted",)))
        message, records = self.message("ann")
        for _ in range(450):
            self.log.accepted(message, records, 0.5)
        self.settle(LOOK)
        self.assertEqual(len(self.receiver.requests), 5)
        self.assertEqual(len(self.receiver.events), 450)


if __name__ == "__main__":
    unittest.main()
