from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread

from relayd.ctl.client import Daemon, DaemonError, NotRunningError
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.outcome import Outcome, postponed
from relayd.mail.plan import Step
from relayd.mail.reply import Reply
from relayd.ops import answers, commands
from relayd.ops.commands import PAGE, Backend, OperatorCommands
from relayd.ops.control import (
    MAX_REQUEST,
    MAX_SESSIONS,
    REQUEST_TIME,
    ControlError,
    ControlFactory,
    ControlSession,
    listen,
)
from relayd.ops.documents import filter_of
from relayd.ops.explain import QuestionError
from relayd.spool.memory import MemorySpool
from relayd.spool.queue import Lane, LaneView, Standing
from relayd.spool.view import Page, QueueFilter
from tests.support import TestCase
from tests.unit.ops.journal import Journal

reactor: Any = the_reactor
CONTENT = b"Subject: one\r\n\r\nbody\r\n"
DONE = {"done": True, "version": answers.VERSION}
NOW = 1_767_600_600.0
STEP = Step("accept", "rules.d/10-site.rules:14", "accept to <ours>", "ours: x:1")


class Filters(TestCase):
    def test_a_mailbox_may_be_named_as_the_log_shows_it(self) -> None:
        for said in ('"a..b"@docomo.example', "a..b@docomo.example"):
            wanted = filter_of({"sender": said, "recipient": said}, 0.0)
            self.assertEqual((wanted.sender, wanted.recipient), ("a..b@docomo.example",) * 2)
        for said in ("@docomo.example", '"', "<>", "ann"):
            self.assertEqual(filter_of({"sender": said}, 0.0).sender, said)


class Bridge:
    """The spool's bridge in a test: everything happens at once."""

    def promise(self) -> Deferred[Any]:
        return Deferred()

    def call(self, function: Callable[..., None], *args: object) -> None:
        function(*args)


class Fixture(TestCase):
    """A spool in memory, the commands over it, and no reactor."""

    def setUp(self) -> None:
        self.log = Journal()
        self.spools = [MemorySpool(Bridge(), shard=n, clock=lambda: NOW) for n in (0, 1)]
        for spool in self.spools:
            spool.open()
        self.complaint = ""
        self.warnings: list[str] = []
        self.lanes: dict[int, list[LaneView]] = {}
        self.commands = OperatorCommands(
            [
                Backend(
                    spool._shard,
                    spool,
                    lambda shard=spool._shard: self.lanes.get(shard, ()),  # type: ignore[misc]
                    lambda: {"sessions": 3},
                )
                for spool in self.spools
            ],
            about=lambda: {"hostname": "gw.example.com", "pid": 42, "restart": ["listen"]},
            explain=self.explain,
            check=self.complain,
            reload=self.complain,
            log=self.log,
            said=lambda: {"warnings": self.warnings} if self.warnings else {},
            clock=lambda: NOW,
        )
        self.clock = Clock()

    async def complain(self) -> str:
        return self.complaint

    async def explain(self, request: object) -> dict[str, Any]:
        assert isinstance(request, dict)
        if request["recipient"] == "nonsense":
            raise QuestionError("no @ in the address")
        return {"verdict": "accept", "recipient": request["recipient"]}

    async def accept(
        self, *recipients: str, sender: str = "alice@sender.example", shard: int = 0
    ) -> tuple[Message, tuple[Record, ...]]:
        draft = self.spools[shard].create()
        draft.write(CONTENT)
        boxes = [Mailbox.parse(recipient) for recipient in recipients]
        return await draft.commit(
            Submission(
                Envelope(Mailbox.parse(sender) if sender else None),
                Client("192.0.2.9", 4711, "192.0.2.1:25", "client.example", "ESMTP"),
                tuple(Recipient(box, box, "exchange") for box in boxes),
                header_size=16,
                eight_bit=False,
                utf8_header=False,
                trail=(STEP,),
                rules="abcdef",
            )
        )

    def ask_octets(self, line: bytes) -> bytes:
        """What a session answers to this line, with a reader that takes everything."""
        session, transport = self.session()
        session.dataReceived(line)
        return bytes(transport.value())

    def ask(self, command: str, **request: object) -> list[dict[str, Any]]:
        line = json.dumps({"command": command, **request}).encode() + b"\n"
        return [json.loads(each) for each in self.ask_octets(line).splitlines()]

    def answer(self, command: str, **request: object) -> dict[str, Any]:
        documents = self.ask(command, **request)
        self.assertEqual(documents[-1], DONE, documents)
        self.assertEqual(len(documents), 2)
        answer = documents[0]["answer"]
        assert isinstance(answer, dict)
        return answer

    def session(self) -> tuple[ControlSession, StringTransport]:
        factory = ControlFactory(self.clock, self.commands, self.log)
        session = factory.buildProtocol(None)
        assert session is not None
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
        session.makeConnection(transport)
        return session, transport


class CommandTests(Fixture):
    async def test_status(self) -> None:
        await self.accept("a@b.example", "c@d.example")
        await self.accept("a@b.example", shard=1)
        answer = self.answer("status")
        self.assertEqual(answer["hostname"], "gw.example.com")
        self.assertEqual(answer["waiting"]["messages"], 2)
        self.assertEqual(answer["waiting"]["queued"], 3)
        self.assertEqual(answer["destinations"][0]["waiting"], 3)
        self.assertEqual(answer["destinations"][0]["oldest"], NOW)
        self.assertEqual(
            answer["shards"],
            [
                {"shard": 0, "healthy": True, "sessions": 3},
                {"shard": 1, "healthy": True, "sessions": 3},
            ],
        )

    async def test_queue_and_its_filters(self) -> None:
        one, _ = await self.accept("a@b.example", "c@d.example")
        two, _ = await self.accept("e@f.example", sender="", shard=1)

        def listed(**request: object) -> list[int]:
            documents = self.ask("queue", **request)
            self.assertIn("columns", documents[0])
            return [row[0] for document in documents[1:-1] for row in document["rows"]]

        self.assertEqual(listed(), [one.ident, two.ident])
        self.assertEqual(listed(limit=1), [one.ident])
        self.assertEqual(listed(sender="<>"), [two.ident])
        self.assertEqual(listed(recipient="c@d.example"), [one.ident])
        self.assertEqual(listed(destination="exchange"), [one.ident, two.ident])
        self.assertEqual(listed(state="held"), [])
        self.assertEqual(listed(older_than=3600), [])

    async def test_mail_behind_a_next_hop_that_is_down_waits_for_it(self) -> None:
        lane = Lane("exchange", 1)
        lane.standing, lane.probe_at = Standing.DOWN, NOW + 300
        lane.trouble = postponed("4.4.1", "Connection refused")
        self.lanes[1] = [lane.view()]
        first, _ = await self.accept("a@b.example")
        second, _ = await self.accept("a@b.example", shard=1)
        heads = [each["lanes"] for each in self.ask("queue") if "lanes" in each]
        self.assertEqual(heads, [{}, {"exchange": NOW + 300}])
        for message, waits, why in ((first, 0, ""), (second, 300, "451 4.4.1 Connection refused")):
            (recipient,) = self.answer("show", id=str(message))["recipients"]
            self.assertEqual(max(recipient["next_attempt"] - NOW, 0), waits)
            self.assertEqual(recipient["behind"], why)

    async def test_a_long_listing_comes_in_pieces(self) -> None:
        for _ in range(PAGE + 1):
            await self.accept("a@b.example")
        documents = self.ask("queue")
        self.assertEqual([len(document["rows"]) for document in documents[1:-1]], [PAGE, 1])

    async def test_show_waiting_and_finished(self) -> None:
        message, records = await self.accept("a@b.example", "c@d.example")
        sent = Outcome(Reply.of(250, "2.0.0", "Ok"), "mx.example", "198.51.100.7:25")
        put_off = postponed("4.4.1", "Connection refused", why="ECONNREFUSED")
        await self.spools[0].settle(
            [
                Settlement(records[0], RecipientState.DELIVERED, sent),
                Settlement(records[1], RecipientState.QUEUED, put_off, next_attempt=NOW + 60),
            ]
        )
        for command in ("show", "why"):
            story = self.answer(command, id=str(message))
            self.assertEqual(story["id"], str(message))
            self.assertEqual(story["sender"], "alice@sender.example")
            self.assertEqual(story["client"]["address"], "192.0.2.9")
            self.assertEqual(story["rules"], "abcdef")
            self.assertEqual(story["trail"][0]["rule"], "accept to <ours>")
            first, second = story["recipients"]
            self.assertEqual((first["mailbox"], first["state"]), ("a@b.example", "delivered"))
            self.assertEqual(first["reply"], "250 2.0.0 Ok")
            self.assertEqual((second["state"], second["attempts"]), ("queued", 1))
            self.assertEqual(second["why"], "ECONNREFUSED")
            self.assertEqual(second["next_attempt"], NOW + 60)

    async def test_what_is_found_comes_newest_first_from_all_shards(self) -> None:
        accepted = []
        for n in range(6):
            message, records = await self.accept(f"to{n}@b.example", shard=n % 2)
            accepted.append(message)
            if n < 4:
                end = Settlement(records[0], RecipientState.DELIVERED)
                await self.spools[n % 2].settle([end])

        def found(**wanted: object) -> list[str]:
            *pieces, last = self.ask("find", **wanted)
            self.assertEqual(last, DONE)
            return [each["recipient"] for piece in pieces for each in piece["found"]]

        order = [message.ident for message in accepted]
        newest = [f"to{order.index(ident)}@b.example" for ident in sorted(order, reverse=True)]
        self.assertEqual(found(), newest)
        self.assertEqual(found(limit=3), newest[:3])
        self.assertEqual(len(found(state="delivered", recipient="@b.example")), 4)
        self.assertEqual(len(found(state="waiting")), 2)
        self.assertEqual(found(recipient="TO3@b.example"), ["to3@b.example"])
        self.assertEqual(found(subject="one", sender="alice@sender.example"), newest)
        self.assertEqual(found(until=NOW), [])

    def test_what_cannot_be_looked_for_is_said_so(self) -> None:
        for request, complaint in (
            ({"sender": "smith"}, "write smith@example.com, or @example.com for all"),
            ({"state": "delivered,lost"}, "no state 'lost'; expected queued, held, delivered"),
            ({"client": "mail"}, "client: 'mail' is no IP address"),
            ({"since": "yesterday"}, "since: number expected"),
            ({"since": 1.7e12}, "since: seconds since the epoch expected"),  # a browser's
            ({"until": 1e14}, "until: seconds since the epoch expected"),
            ({"until": -1e14}, "until: there was no mail before 1970"),
        ):
            (error,) = self.ask("find", **request)
            self.assertIn(complaint, error["error"])
            self.assertNotIn("busy", error)
        self.assertEqual([*self.ask("find", since=-1e14)][-1]["done"], True)

    def test_what_no_store_log_or_page_can_take_is_no_text(self) -> None:
        for text in ("\ud800", "a\x00", "\udcff@b.example"):
            for command, request in (
                ("hold", {"sender": text}), ("hold", {"all": True, "note": text}),
                ("remove", {"recipient": text}), ("retry", {"destination": text}),
                ("find", {"recipient": f"{text}@b.example"}), ("find", {"subject": text}),
                ("queue", {"sender": text}),
            ):  # fmt: skip
                (error,) = self.ask(command, **request)
                self.assertIn("text in UTF-8 expected, without NUL", error["error"], command)
        self.assertEqual(self.spools[0].healthy, True)

    async def test_content(self) -> None:
        message, _ = await self.accept("a@b.example")
        answer = self.ask_octets(b'{"command":"content","id":"%s"}\n' % str(message).encode())
        size = len(CONTENT)
        self.assertEqual(
            answer, b'{"octets":%d}\n%s{"done": true, "version": 1}\n' % (size, CONTENT)
        )

    async def test_changes(self) -> None:
        one, _ = await self.accept("a@b.example", "c@d.example")
        two, _ = await self.accept("e@f.example", shard=1)
        self.assertEqual(self.answer("hold", recipient="c@d.example"), {"recipients": 1})
        self.assertEqual(self.answer("hold", all=True), {"recipients": 2})
        self.assertEqual(self.answer("release", ids=[str(one)]), {"recipients": 2})
        self.assertEqual(self.answer("retry", destination="exchange"), {"recipients": 2})
        self.assertEqual(
            self.answer("remove", ids=[str(one), str(two)], note="spam"), {"recipients": 3}
        )
        self.assertEqual(self.ask("queue")[1:], [DONE])
        story = self.answer("show", id=str(two))
        self.assertEqual(story["recipients"][0]["state"], "removed")
        self.assertEqual(story["recipients"][0]["note"], "spam")
        self.assertEqual(
            [facts["command"] for event, facts in self.log.notices if event == "operator"],
            ["hold", "hold", "release", "retry", "remove"],
        )

    async def test_held_mail_is_released_with_a_field_to_learn_from(self) -> None:
        message, _ = await self.accept("a@b.example", "c@d.example")
        ids = [str(message)]
        self.answer("hold", ids=ids)
        for asked, complaint in (
            ({"ids": ids, "training": "eggs"}, "'eggs' is no training: ham or spam"),
            ({"all": True, "training": "ham"}, "named by ID"),
        ):
            (answer,) = self.ask("release", **asked)
            self.assertIn(complaint, answer["error"])
        self.assertEqual(self.answer("release", ids=ids, training="ham"), {"recipients": 2})
        loaded = await self.spools[0].load(message.ident)
        assert loaded is not None
        message, records = loaded
        self.assertEqual({each.recipient.header for each in records}, {1})
        octets = b"".join(message.content_for(1).chunks())
        self.assertEqual(octets, b"X-Spam-Training: ham\r\n" + CONTENT)
        self.assertIn("training=ham", self.log.notices[-1][1]["asked"])

    async def test_content_that_cannot_be_read_is_told_and_stays_held(self) -> None:
        message, _ = await self.accept("a@b.example")
        ids = [str(message)]
        self.answer("hold", ids=ids)

        def unreadable(*_: object) -> bytes:
            raise OSError(5, "Input/output error")

        self.patch(commands, "trained", unreadable)
        (answer,) = self.ask("release", ids=ids, training="spam")
        self.assertIn("is not released: its content: [Errno 5] Input/output", answer["error"])
        self.assertEqual(self.answer("release", ids=ids), {"recipients": 1})

    async def test_nothing_named_changes_nothing(self) -> None:
        await self.accept("a@b.example")
        for command in ("retry", "hold", "release", "remove"):
            (answer,) = self.ask(command)
            self.assertIn("nothing named", answer["error"])
        self.assertEqual(self.answer("status")["waiting"]["messages"], 1)

    async def test_audit(self) -> None:
        await self.accept("a@b.example")
        documents = self.ask("audit")
        self.assertEqual(documents[-1], DONE)
        self.assertEqual(sum(each["audited"] for each in documents[:-1]), 1)
        self.assertEqual([each["discrepancies"] for each in documents[:-1]], [[], []])

    def test_check_reload_explain(self) -> None:
        self.assertEqual(self.answer("check"), {"complaint": ""})
        self.assertEqual(self.answer("reload"), {"complaint": "", "restart": ["listen"]})
        self.warnings = ["relayd.conf:1:1: an open key"]
        self.assertEqual(self.answer("check"), {"complaint": "", "warnings": self.warnings})
        self.assertEqual(self.answer("reload")["warnings"], self.warnings)
        self.complaint = "relayd.conf:1:1: no"
        self.assertEqual(self.answer("reload"), {"complaint": "relayd.conf:1:1: no"})
        self.assertEqual(self.answer("explain", recipient="a@b")["recipient"], "a@b")
        self.assertEqual(
            self.ask("explain", recipient="nonsense"), [{"error": "no @ in the address"}]
        )

    def test_a_reload_is_of_who_asked_the_master_for_it(self) -> None:
        """A worker's line would name the master as its author."""
        self.ask("reload", beside=True)
        self.assertEqual([event for event, _ in self.log.notices], [])
        self.ask("reload")
        self.assertEqual([event for event, _ in self.log.notices], ["operator"])

    def test_what_makes_no_sense_is_said_so(self) -> None:
        for line, complaint in (
            (b"\n", "no line of JSON"),
            (b"{\n", "no line of JSON"),
            (b"[" * 5000 + b"\n", "no line of JSON"),
            (b"\xff\n", "no line of JSON"),
            (b"[]\n", "no JSON object"),
            (b"{}\n", "no command ''"),
            (b'{"command":7}\n', "text expected"),
            (b'{"command":"frob"}\n', "no command 'frob'"),
            (b'{"command":"show","id":"x"}\n', "not a message ID"),
            (b'{"command":"show","id":"1K7QJ4V8Z0G0"}\n', "no message 1K7QJ4V8Z0G0"),
            (b'{"command":"content","id":"1K7QJ4V8Z0G0"}\n', "no message 1K7QJ4V8Z0G0"),
            (b'{"command":"queue","state":"gone"}\n', "no state 'gone'"),
            (b'{"command":"queue","older_than":"x"}\n', "number expected"),
            (b'{"command":"queue","limit":true}\n', "number expected"),
            (b'{"command":"remove","ids":"x"}\n', "a list expected"),
            (b"x" * (MAX_REQUEST + 1), "no line of JSON"),
        ):
            answer = json.loads(self.ask_octets(line).splitlines()[-1])
            self.assertIn(complaint, answer["error"])

    async def test_a_spool_in_trouble_is_said_so(self) -> None:
        await self.accept("a@b.example")
        self.spools[0].healthy = False
        (answer,) = self.ask("hold", all=True)
        self.assertIn("the spool is in trouble", answer["error"])
        self.assertEqual(answer["busy"], True)

    def test_a_bug_is_logged_and_told(self) -> None:
        self.commands._about = lambda: 1 / 0  # type: ignore[assignment,return-value]
        (answer,) = self.ask("status")
        self.assertIn("a bug", answer["error"])
        self.assertIn("ZeroDivisionError", self.log.troubles[0][1]["why"])


class SessionTests(Fixture):
    def test_a_request_in_pieces(self) -> None:
        for octets in (1, 7):
            session, transport = self.session()
            line = b'{"command":"check"}\n'
            for start in range(0, len(line), octets):
                session.dataReceived(line[start : start + octets])
            self.assertIn(b"complaint", transport.value())
            self.assertTrue(transport.disconnecting)

    def test_a_silent_client_is_dropped(self) -> None:
        session, transport = self.session()
        session.dataReceived(b"{")
        self.clock.advance(REQUEST_TIME)
        self.assertTrue(transport.disconnecting)

    async def test_a_slow_reader_holds_up_only_itself(self) -> None:
        for _ in range(3 * PAGE):
            await self.accept("a@b.example")
        session, transport = self.session()
        line = b'{"command":"queue"}\n'
        write = transport.write

        def full(data: bytes) -> None:
            write(data)
            session.pauseProducing()

        transport.write = full  # type: ignore[method-assign]
        session.dataReceived(line)
        for expected in range(1, 5):
            self.assertEqual(transport.value().count(b"\n"), expected)
            session.resumeProducing()
        self.assertEqual(transport.value().count(b"\n"), 5)
        self.assertTrue(transport.value().endswith(b'{"done": true, "version": 1}\n'))

    async def test_a_reader_that_hangs_up_ends_the_listing(self) -> None:
        for _ in range(3 * PAGE):
            await self.accept("a@b.example")
        session, _ = self.session()
        asked = 0
        listing = self.spools[0].listing

        def counted(wanted: QueueFilter, after: int, limit: int) -> Awaitable[Page]:
            nonlocal asked
            asked += 1
            session.pauseProducing()
            return listing(wanted, after, limit)

        self.spools[0].listing = counted  # type: ignore[method-assign]
        session.dataReceived(b'{"command":"queue"}\n')
        session.connectionLost()
        self.assertEqual(asked, 1)
        self.assertEqual(self.log.troubles, [])
        self.assertFalse(self.clock.getDelayedCalls())

    def test_sessions_are_bounded(self) -> None:
        factory = ControlFactory(self.clock, self.commands, self.log)
        sessions = [factory.buildProtocol(None) for _ in range(MAX_SESSIONS)]
        self.assertIsNone(factory.buildProtocol(None))
        assert sessions[0] is not None
        sessions[0].connectionLost()
        self.assertIsNotNone(factory.buildProtocol(None))


class SocketTests(Fixture):
    """The socket itself, with the client that relayctl uses."""

    def setUp(self) -> None:
        super().setUp()
        # trial's own directory may be too deep for a socket's path
        self.path = Path(os.path.relpath(self.mktemp()))
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def listen(self) -> None:
        factory = ControlFactory(reactor, self.commands, self.log)
        port = listen(reactor, self.path, factory)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))

    async def test_ask(self) -> None:
        message, _ = await self.accept("a@b.example")
        self.listen()
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)
        daemon = Daemon(self.path)
        status = await deferToThread(daemon.answer, "status")
        self.assertEqual(status["waiting"]["messages"], 1)
        content = await deferToThread(lambda: b"".join(daemon.content(str(message))))
        self.assertEqual(content, CONTENT)
        with self.assertRaises(DaemonError):
            await deferToThread(lambda: list(daemon.content("1K7QJ4V8Z0G0")))
        self.answer("hold", all=True)
        await deferToThread(daemon.answer, "release", all=True)
        self.assertEqual(self.log.notices[-1][1]["by"], f"uid={os.getuid()} pid={os.getpid()}")

    def test_nobody_there(self) -> None:
        with self.assertRaises(NotRunningError):
            Daemon(self.path).answer("status")

    async def test_a_stale_socket_is_replaced(self) -> None:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(self.path))
        with self.assertRaises(NotRunningError):
            Daemon(self.path).answer("status")
        self.listen()
        self.assertEqual(
            (await deferToThread(Daemon(self.path).answer, "check")), {"complaint": ""}
        )

    def test_a_live_socket_is_not(self) -> None:
        self.listen()
        with self.assertRaisesRegex(ControlError, "another relayd answers there"):
            listen(reactor, self.path, Factory())
        self.assertTrue(self.path.exists())

    def test_what_is_no_socket_is_not_touched(self) -> None:
        self.path.write_text("precious")
        with self.assertRaisesRegex(ControlError, "no socket"):
            listen(reactor, self.path, Factory())
        self.assertEqual(self.path.read_text(), "precious")
        with self.assertRaisesRegex(ControlError, "longer than"):
            listen(reactor, self.path / ("x" * 200), Factory())
        with self.assertRaises(ControlError):
            listen(reactor, Path("no/such/directory/control"), Factory())
