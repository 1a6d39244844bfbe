"""The master's answers: those of all workers made one."""

from __future__ import annotations

import json
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory, Protocol

from relayd.mail.ident import ident_text, make_ident
from relayd.ops import forward
from relayd.ops.commands import BESIDE
from relayd.ops.documents import BusyError, Document, Request, RequestError
from relayd.ops.explain import QuestionError
from relayd.ops.forward import ForwardedCommands
from tests.support import TestCase

reactor: Any = the_reactor
Answer = Callable[[dict[str, Any]], list[dict[str, Any]]]


class _Worker(Protocol):
    """Answers the one line of a request, and hangs up."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        for document in self._answer(json.loads(data)):
            self.transport.write(json.dumps(document).encode() + b"\n")
        self.transport.loseConnection()


class _Stream:
    """What the operator sees."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []

    async def send(self, document: dict[str, Any]) -> None:
        self.sent.append(document)

    async def send_line(self, line: bytes) -> None:
        self.sent.append(json.loads(line))

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        self.sent.append({"pieces": [piece async for piece in pieces]})


class _Log:
    def notice(self, event: str, **facts: object) -> None:
        pass


class Forwarded(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()  # a short path, as unix sockets need
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.asked: list[tuple[int, dict[str, Any]]] = []

    def workers(self, *answers: Answer) -> ForwardedCommands:
        controls: dict[Path, tuple[int, ...]] = {}
        for number, answer in enumerate(answers):
            path = self.folder / str(number)
            controls[path] = (number,)
            self.serve(path, number, answer)
        log: Any = _Log()

        async def nothing(*_: object) -> Any:  # noqa: ANN401 - several signatures at once
            return ""

        async def explain(request: Request) -> Document:
            if not request.get("recipient"):
                raise QuestionError("no @ in the address")
            return {"verdict": "accept"}

        return ForwardedCommands(
            reactor,
            lambda: controls,
            about=lambda: {"version": "1"},
            explain=explain,
            check=nothing,
            reload=nothing,
            restart=nothing,
            log=log,
        )

    def serve(self, path: Path, number: int, answer: Answer) -> None:
        def noted(request: dict[str, Any]) -> list[dict[str, Any]]:
            self.asked.append((number, request))
            return answer(request)

        factory = Factory.forProtocol(lambda: _Worker(noted))
        port = reactor.listenUNIX(str(path), factory)
        self.addCleanup(lambda: maybeDeferred(port.stopListening))

    async def run_(self, commands: ForwardedCommands, **request: object) -> list[dict[str, Any]]:
        stream: Any = _Stream()
        await commands.run(request, stream, "root")
        sent: list[dict[str, Any]] = stream.sent
        return sent

    async def test_the_master_explains_and_says_what_is_wrong_with_the_question(self) -> None:
        commands = self.workers()
        sent = await self.run_(commands, command="explain", recipient="user@example.com")
        self.assertEqual(sent, [{"answer": {"verdict": "accept"}}])
        with self.assertRaises(RequestError) as caught:
            await self.run_(commands, command="explain", recipient="")
        self.assertEqual(str(caught.exception), "no @ in the address")

    async def test_the_queue_is_that_of_all_and_the_limit_holds_over_all(self) -> None:
        def rows(first: int) -> Answer:
            def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
                found = [first + n for n in range(min(3, request["limit"] or 3))]
                return [{"columns": ["id"], "lanes": {}}, {"rows": found}, {"done": True}]

            return answer

        commands = self.workers(rows(10), rows(20), rows(30))
        sent = await self.run_(commands, command="queue", limit=4)
        self.assertEqual([each["columns"] for each in sent if "columns" in each], [["id"]])
        found = [row for each in sent for row in each.get("rows", [])]
        self.assertEqual(found, [10, 11, 12, 20])
        self.assertEqual([number for number, _ in self.asked], [0, 1])

    async def test_what_is_found_comes_newest_first_from_all_workers(self) -> None:
        def finds(*idents: str) -> Answer:
            def answer(request: dict[str, Any]) -> list[dict[str, Any]]:
                found = [{"id": ident} for ident in idents]
                return [{"found": found[:2]}, {"found": found[2:]}, {"done": True}]

            return answer

        commands = self.workers(finds("9", "6", "3"), finds("8", "2", "1"), finds("7"))
        for limit, expected in ((0, "9876321"), (4, "9876")):
            sent = await self.run_(commands, command="find", limit=limit)
            found = [each["id"] for piece in sent for each in piece["found"]]
            self.assertEqual("".join(found), expected)

    async def test_what_was_changed_is_added_up_and_who_did_it_passed_on(self) -> None:
        def changed(count: int) -> Answer:
            return lambda _: [{"answer": {"recipients": count}}, {"done": True}]

        commands = self.workers(*map(changed, (2, 0, 5)))
        sent = await self.run_(commands, command="hold", sender="a@b.example")
        self.assertEqual(sent, [{"answer": {"recipients": 7}}])
        self.assertEqual({request["by"] for _, request in self.asked}, {"root"})

    async def test_what_only_one_worker_had_suspended_is_told_by_resume(self) -> None:
        """The others had heard of it when that one did not answer."""
        one = {"kind": "sender", "whom": "@a.example"}

        def has(*found: dict[str, str]) -> Answer:
            return lambda _: [{"answer": {"resumed": list(found)}}, {"done": True}]

        commands = self.workers(has(), has(one), has())
        sent = await self.run_(commands, command="resume", sender="@a.example")
        self.assertEqual(sent, [{"answer": {"resumed": [one]}}])

    async def test_a_message_is_asked_of_its_own_worker_first_then_of_the_others(self) -> None:
        ident = ident_text(make_ident(1_700_000_000_000_000, 1))
        unknown: Answer = lambda _: [{"error": "no such message"}]  # noqa: E731
        known: Answer = lambda request: [{"answer": {"id": request["id"]}}]  # noqa: E731
        sent = await self.run_(self.workers(unknown, known), command="show", id=ident)
        self.assertEqual(sent, [{"answer": {"id": ident}}])
        self.assertEqual([number for number, _ in self.asked], [1])

    async def test_a_message_that_nobody_has(self) -> None:
        ident = ident_text(make_ident(1_700_000_000_000_000, 0))
        unknown: Answer = lambda _: [{"error": "no such message"}]  # noqa: E731
        commands = self.workers(unknown, unknown)
        with self.assertRaisesRegex(RequestError, "no such message"):
            await self.run_(commands, command="show", id=ident)
        self.assertEqual([number for number, _ in self.asked], [0, 1])

    async def test_a_worker_that_cannot_tell_has_not_said_that_it_is_not_there(self) -> None:
        """So who asks over HTTP hears 503, and not 404 or 400."""
        ident = ident_text(make_ident(1_700_000_000_000_000, 0))
        unknown: Answer = lambda _: [{"error": "no such message"}]  # noqa: E731
        trouble: Answer = lambda _: [{"error": "the spool is in trouble", "busy": True}]  # noqa: E731
        commands = self.workers(trouble, unknown)
        with self.assertRaisesRegex(BusyError, "in trouble"):
            await self.run_(commands, command="show", id=ident)
        for request in ({"command": "hold", "all": True}, {"command": "find"}):
            with self.assertRaisesRegex(BusyError, "in trouble"):
                await self.run_(commands, **request)
        commands._workers = dict
        with self.assertRaisesRegex(BusyError, "no worker is up"):
            await self.run_(commands, command="show", id=ident)

    async def test_a_worker_that_hung_up_has_not_either(self) -> None:
        ident = ident_text(make_ident(1_700_000_000_000_000, 0))
        unknown: Answer = lambda _: [{"error": "no such message"}]  # noqa: E731
        with self.assertRaisesRegex(BusyError, "hung up"):
            await self.run_(self.workers(lambda _: [], unknown), command="show", id=ident)

    async def test_a_worker_that_is_starting_is_waited_for(self) -> None:
        done: Answer = lambda _: [{"answer": {"recipients": 1}}, {"done": True}]  # noqa: E731
        commands = self.workers(done)
        late = self.folder / "0"
        late.rename(self.folder / "hidden")
        reactor.callLater(0.05, (self.folder / "hidden").rename, late)
        answered = Deferred.fromCoroutine(self.run_(commands, command="retry"))
        self.assertEqual(await answered, [{"answer": {"recipients": 1}}])

    async def test_a_worker_that_hangs_up_in_mid_answer_is_said_to(self) -> None:
        commands = self.workers(lambda _: [{"rows": [1]}])
        with self.assertRaisesRegex(RequestError, "hung up"):
            await self.run_(commands, command="queue")

    async def test_a_reload_answers_though_a_worker_dies_of_it(self) -> None:
        good: Answer = lambda _: [{"answer": {"complaint": ""}}, {"done": True}]  # noqa: E731
        commands = self.workers(lambda _: [], good)
        self.assertIn("hung up", await commands.reload_workers())
        self.assertEqual([number for number, _ in self.asked], [0, 0, 1], "the others are told")

    async def test_a_worker_that_is_back_is_asked_once_more(self) -> None:
        answers: list[list[Document]] = [[], [{"answer": {"complaint": ""}}, {"done": True}]]
        commands = self.workers(lambda _: answers.pop(0))
        self.assertEqual(await commands.reload_workers(), "")
        self.assertEqual(self.asked[-1][1], {"command": "reload", BESIDE: True})

    async def test_a_reload_answers_though_a_worker_hangs(self) -> None:
        self.patch(forward, "RELOAD_TIME", 0.1)
        hanging = Factory()
        hanging.protocol = Protocol
        port = reactor.listenUNIX(str(self.folder / "0"), hanging)
        self.addCleanup(port.stopListening)
        commands = self.workers()
        commands._workers = lambda: {self.folder / "0": (0,)}
        self.assertIn("hung up", await commands.reload_workers())

    async def test_nonsense_is_refused(self) -> None:
        with self.assertRaises(RequestError):
            await self.run_(self.workers(), command="dance")
