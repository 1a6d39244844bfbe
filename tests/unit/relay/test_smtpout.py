"""The courier against scripted next hops on loopback: what each failure at each stage means."""

from __future__ import annotations

import email
import itertools
import shutil
import tempfile
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from zlib import crc32

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from relayd.mail.address import Mailbox
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import LMTP, HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome, failed, postponed
from relayd.reactor.coroutine import promise
from relayd.relay import newcomers, pool, smtpout
from relayd.relay.courier import Hop
from relayd.relay.dial import IReactor
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.smtpout import Courier
from relayd.relay.survey import Endpoint, UnresolvedError
from relayd.spool.disk.content import FileContent
from tests.ports import free_port
from tests.sink import CLOSE, CLOSE_AFTER, EXTENSIONS, STALL, Asked, Script, Sink, unix_listener
from tests.support import TestCase
from tests.unit.relay.fakes import a_message, a_recipient

reactor = cast(IReactor, _reactor)

HOP = Hop(domain="example.com")
EIGHT_BIT = "Subject: x\r\n\r\nGrüße von weit her, und mehr\r\n.Punkt\r\n".encode()
RAW_HEADER = b"Subject: gr\xfcn\r\n\r\nhello\r\n"
R, D = Blame.RECIPIENT, Blame.DESTINATION
QUICK = NextHopDeadlines(
    greeting=0.2, hello=0.2, envelope=0.2, recipient=0, data=0.2, block=0.2, end_of_data=0.2
)


def pause(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


class CourierCase(TestCase):
    """Some sinks, and a courier that resolves every name to them in order."""

    def setUp(self) -> None:
        self.sinks: list[Sink] = []
        self.resolved = 0
        self.unresolved: Outcome | None = None
        self.endpoints: list[Endpoint] = []
        self.couriers: list[Courier] = []
        self.courier = self.a_courier()
        self.patch(pool, "_TICK", 0.02)

    def a_courier(self, **changes: Any) -> Courier:  # noqa: ANN401
        courier = Courier(reactor, self.resolve, "gw.example.com", **changes)
        self.couriers.append(courier)
        return courier

    async def tearDown(self) -> None:  # type: ignore[override]  # the base makes it a Deferred
        for courier in self.couriers:
            courier.abort()
        for sink in self.sinks:
            sink.stop()
        while any(courier.connections for courier in self.couriers):
            await pause(0.005)

    def sink(self, script: Script | None = None, **changes: Any) -> Sink:  # noqa: ANN401
        sink = Sink(script, **changes)
        self.sinks.append(sink)
        if isinstance(sink.address, tuple):
            self.endpoints.append(Endpoint("mx.example", "127.0.0.1", sink.port))
        return sink

    def directory(self) -> Path:
        """Of a short name, for the path of a unix socket has 107 octets."""
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        return directory

    def dead(self) -> None:
        """A host where nobody listens."""
        self.endpoints.append(Endpoint("dead.example", "127.0.0.1", free_port()))

    def resolve(self, where: NextHop | str) -> Awaitable[Sequence[Endpoint]]:
        self.resolved += 1
        if self.unresolved is not None:
            raise UnresolvedError(self.unresolved)
        return succeed(self.endpoints)

    def deliver(self, delivery: Delivery, hop: Hop = HOP) -> Deferred[Sequence[Outcome]]:
        return promise(self.courier.deliver(delivery, hop))


def a_delivery(
    recipients: int = 1, content: bytes | None = None, *, eight_bit: bool = False
) -> Delivery:
    message, records = a_message(
        7,
        [a_recipient(f"user{n}@example.com") for n in range(recipients)],
        content=content or b"Subject: x\r\n\r\nhello\r\n.dot\r\n",
    )
    return Delivery(replace(message, eight_bit=eight_bit), records)


def says(stage: str, reply: str, *, argument: str = "", session: int = 0) -> Script:
    """A script that says this at that stage, and is friendly otherwise."""

    def script(asked: Asked) -> str | None:
        fits = asked.stage == stage and argument in asked.argument
        return reply if fits and session in (0, asked.session) else None

    return script


@dataclass(frozen=True)
class Case:
    """What the first host says where; what becomes of three recipients; who had the mail."""

    stage: str
    reply: str
    outcome: str  # code and the beginning of the text
    blame: Blame = R
    elsewhere: bool = False  # a second host is tried
    argument: str = ""
    alone: bool = False  # only the recipient named in `argument` is concerned

    def __str__(self) -> str:
        return f"{self.stage} {self.reply}"


CASES = (
    Case("connect", "554 5.7.1 go away", "451 4.7.1 mx.example", D, elsewhere=True),
    Case("connect", "421 4.3.2 busy", "421 4.3.2 busy", D, elsewhere=True),
    Case("connect", "450 4.3.2 busy", "450 4.3.2 busy", D, elsewhere=True),
    # 4.4.1 where the reset is there before we know that we are connected, else 4.4.2
    Case("connect", CLOSE, "451 4.4.", D, elsewhere=True),
    Case("connect", STALL, "451 4.4.2 Connection timed out (greeting)", D, elsewhere=True),
    Case("connect", "hello there", "451 4.5.0 mx.example", D, elsewhere=True),
    Case("hello", "421 4.3.2 busy", "421 4.3.2 busy", D, elsewhere=True),
    Case("hello", "550 5.7.1 go away", "451 4.7.1 mx.example", D, elsewhere=True),
    Case("hello", "450 4.7.1 later", "450 4.7.1 later", D, elsewhere=True),
    Case("hello", CLOSE, "451 4.4.2 Connection lost", D, elsewhere=True),
    Case("hello", STALL, "451 4.4.2 Connection timed out (hello)", D, elsewhere=True),
    Case("mail", "550 5.1.8 bad sender", "550 5.1.8 bad sender"),
    Case("mail", "451 4.3.0 try later", "451 4.3.0 try later", elsewhere=True),
    Case("mail", "452 4.3.1 disk full", "452 4.3.1 disk full", elsewhere=True),
    Case("mail", "421 4.3.2 closing", "421 4.3.2 closing", D, elsewhere=True),
    Case("mail", CLOSE, "451 4.4.2 Connection lost", D, elsewhere=True),
    Case("mail", STALL, "451 4.4.2 Connection timed out (mail)", D, elsewhere=True),
    Case("mail", "nonsense", "451 4.5.0 Next hop", D, elsewhere=True),
    Case("mail", "354 what", "451 4.5.0 Next hop", D, elsewhere=True),
    Case("rcpt", "550 5.1.1 no such user", "550 5.1.1 no such", argument="user1", alone=True),
    Case("rcpt", "450 4.2.1 grey", "450 4.2.1 grey", elsewhere=True, argument="user1", alone=True),
    Case("rcpt", "550 5.1.1 nobody", "550 5.1.1 nobody"),
    Case("rcpt", "450 4.2.1 greylisted", "450 4.2.1 greylisted", elsewhere=True),
    Case("rcpt", "452 4.5.3 too many", "452 4.5.3 too many", elsewhere=True),
    Case("rcpt", "421 4.3.2 closing", "421 4.3.2 closing", D, elsewhere=True),
    Case("rcpt", CLOSE, "451 4.4.2 Connection lost", D, elsewhere=True),
    Case("data", "554 5.5.1 no", "554 5.5.1 no"),
    Case("data", "451 4.3.0 later", "451 4.3.0 later", elsewhere=True),
    Case("data", "421 4.3.2 closing", "421 4.3.2 closing", D, elsewhere=True),
    Case("data", CLOSE, "451 4.4.2 Connection lost", D, elsewhere=True),
    Case("data", STALL, "451 4.4.2 Connection timed out", D, elsewhere=True),
    Case("content", "552 5.3.4 too big", "552 5.3.4 too big"),
    Case("content", "451 4.3.0 later", "451 4.3.0 later", elsewhere=True),
    Case("content", "421 4.3.2 closing", "421 4.3.2 closing", D, elsewhere=True),
    Case("content", CLOSE, "451 4.4.2 Connection lost", D),
    Case("content", STALL, "451 4.4.2 Connection timed out (end)", D),
)


OUR_WORDS = (
    "Connection lost",
    "Connection timed out (end of data)",
    "lost after end of data: may be delivered",
    "System is stopping",
    "Connection to mx.example refused",
)


class WordsOfOurs(CourierCase):
    """A host that says what we say of ourselves, and hangs up: what counts is that it said it."""

    async def case(self, stage: str, reply: str, *, lmtp: bool, close: bool) -> Outcome:
        """What comes of one recipient; the second host is friendly."""
        self.endpoints.clear()
        self.courier = self.a_courier()
        first = f"{CLOSE_AFTER}{reply}" if close else reply
        self.sink(says(stage, first), lmtp=lmtp)
        self.second = self.sink(lmtp=lmtp)
        hosts = (HostPort("mx.example", 24),)
        hop = Hop((NextHop("out", "lmtp" if lmtp else "smtp", hosts),))
        (outcome,) = await self.deliver(a_delivery(), hop)
        return outcome

    async def test_a_refusal_for_good_is_final(self) -> None:
        for (stage, words), lmtp, close in itertools.product(
            zip(("mail", "rcpt", "data", "content", "rcpt"), OUR_WORDS, strict=True),
            (False, True),
            (False, True),
        ):
            reply = f"550 5.1.1 User unknown. {words}"
            with self.subTest(f"{stage} {words} {lmtp=} {close=}"):
                outcome = await self.case(stage, reply, lmtp=lmtp, close=close)
                self.assertEqual((str(outcome.reply), outcome.blame), (reply, R))
                self.assertEqual((outcome.remote_mta, outcome.in_doubt), ("mx.example", False))
                self.assertEqual(self.second.sessions, 0)

    async def test_a_refusal_for_now_is_for_the_next_host(self) -> None:
        for stage, words in itertools.product(("mail", "rcpt", "data", "content"), OUR_WORDS):
            with self.subTest(f"{stage} {words}"):
                outcome = await self.case(stage, f"450 4.2.1 {words}", lmtp=False, close=True)
                self.assertEqual(outcome.reply.code, 250)
                self.assertEqual(len(self.second.arrived), 1)

    async def test_what_a_greeting_says_is_about_us(self) -> None:
        for stage, words in itertools.product(("connect", "hello"), OUR_WORDS):
            with self.subTest(f"{stage} {words}"):
                reply = f"554 5.1.1 User unknown. {words}"
                outcome = await self.case(stage, reply, lmtp=False, close=True)
                self.assertEqual(outcome.reply.code, 250)

    async def test_what_is_taken_is_taken(self) -> None:
        for words in OUR_WORDS:
            outcome = await self.case("content", f"250 2.0.0 {words}", lmtp=True, close=True)
            self.assertEqual((outcome.reply.code, self.second.sessions), (250, 0))


class FailurePolicy(CourierCase):
    """Each case twice: with that host alone, and with a friendly one behind it."""

    def check(self, case: Case, outcomes: Sequence[Outcome]) -> None:
        self.assertEqual(len(outcomes), 3)
        for number, outcome in enumerate(outcomes):
            if case.alone and f"user{number}" != case.argument:
                self.assertEqual(outcome.reply.code, 250, outcome)
            else:
                self.assertEqual(str(outcome.reply)[: len(case.outcome)], case.outcome)
                self.assertIs(outcome.blame, case.blame)
                self.assertEqual(outcome.remote_address, str(self.endpoints[0]))

    def courier_for(self, case: Case) -> Courier:
        """In a hurry only where the host says nothing: a busy machine is no silent host."""
        return self.a_courier(deadlines=QUICK if case.reply == STALL else NextHopDeadlines())

    async def case_alone(self, case: Case) -> None:
        self.courier = self.courier_for(case)
        self.sink(says(case.stage, case.reply, argument=case.argument))
        self.check(case, await self.deliver(a_delivery(3)))

    async def case_before_another(self, case: Case) -> None:
        self.courier = self.courier_for(case)
        first = self.sink(says(case.stage, case.reply, argument=case.argument))
        second = self.sink()
        outcomes = await self.deliver(a_delivery(3))
        if case.elsewhere:
            self.assertEqual([each.reply.code for each in outcomes], [250] * 3)
            self.assertEqual((len(first.arrived), len(second.arrived)), (int(case.alone), 1))
        else:
            self.check(case, outcomes)
            self.assertEqual(second.sessions, 0)

    async def test_lost_after_the_dot_may_be_delivered(self) -> None:
        self.sink(says("content", CLOSE))
        (outcome,) = await self.deliver(a_delivery())
        self.assertTrue(outcome.in_doubt)
        self.assertEqual(outcome.why, "lost after end of data: may be delivered")
        self.assertEqual(outcome.remote_mta, "")

    async def test_nobody_listens(self) -> None:
        self.dead()
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(str(outcome.reply)[:10], "451 4.4.1 ")
        self.assertIs(outcome.blame, Blame.DESTINATION)

    async def test_a_dead_host_is_passed_over(self) -> None:
        self.dead()
        sink = self.sink()
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, 1))
        self.assertEqual(outcome.remote_mta, "mx.example")

    async def test_a_host_that_was_dead_is_tried_last_for_a_while(self) -> None:
        self.courier = self.a_courier(limits=RelayLimits(idle_seconds=0, connection_messages=1))
        first, second = self.sink(), self.sink()
        first.kill()
        for _ in range(3):
            await self.deliver(a_delivery())
        self.assertEqual(len(self.courier._shy), 1)
        first.start()
        await self.deliver(a_delivery())
        self.assertEqual((len(first.arrived), len(second.arrived)), (0, 4))
        self.courier._shy = dict.fromkeys(self.courier._shy, 0.0)  # the while is over
        await self.deliver(a_delivery())
        self.assertEqual((len(first.arrived), len(second.arrived)), (1, 4))
        self.assertEqual(self.courier._shy, {})

    async def test_nowhere_to_go(self) -> None:
        self.unresolved = failed("5.1.10", "null MX", code=556)
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 556)
        self.unresolved = postponed("4.4.3", "DNS trouble")
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 451)

    async def test_the_next_named_hop_is_tried_when_one_is_down(self) -> None:
        self.dead()
        dead = list(self.endpoints)
        self.endpoints.clear()
        sink = self.sink()
        alive = list(self.endpoints)
        hops = (
            NextHop("a", hosts=(HostPort("a.example", 25),)),
            NextHop("b", hosts=(HostPort("b.example", 25),)),
        )
        self.courier = Courier(
            reactor, lambda hop: succeed(dead if hop is hops[0] else alive), "gw.example.com"
        )
        self.couriers.append(self.courier)
        (outcome,) = await self.deliver(a_delivery(), Hop(hops))
        self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, 1))

    async def test_unreadable_content_speaks_against_nobody(self) -> None:
        self.sink()
        path = self.directory() / "content"
        path.write_bytes(b"x" * 200_000)
        said: list[str] = []
        for size, parity in ((300_000, 0), (200_000, 1)):
            with self.subTest(size=size):
                delivery = a_delivery(content=None)
                object.__setattr__(
                    delivery.message, "content", FileContent(path, size, parity, said.append)
                )
                (outcome,) = await self.deliver(delivery)
                self.assertEqual((outcome.reply.code, outcome.blame), (451, R))
        path.unlink()
        (outcome,) = await self.deliver(delivery)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, R))
        self.assertEqual(self.sinks[0].arrived, [])

    async def test_what_the_next_hop_cannot_take_is_said_honestly(self) -> None:
        self.sink(extensions=("PIPELINING",))
        (outcome,) = await self.deliver(a_delivery(content=RAW_HEADER, eight_bit=True))
        self.assertEqual(str(outcome.reply.status), "5.6.3")
        self.assertIn("not converted to 7 bits: 8-bit header fields", outcome.why)


class EightBitContent(CourierCase, TestCase):
    """For hops without 8BITMIME it is put in 7 bits (RFC 6152 section 3)."""

    def a_hop(self, *, lmtp: bool = False, conversion: bool = True) -> Hop:
        hosts = (HostPort("mx.example", 24),)
        protocol = LMTP if lmtp else "smtp"
        return Hop((NextHop("out", protocol, hosts, conversion=conversion),))

    async def test_it_is_converted_for_smtp_and_lmtp(self) -> None:
        for lmtp, pipelining in itertools.product((False, True), (("PIPELINING",), ())):
            self.endpoints.clear()
            self.courier = self.a_courier()
            sink = self.sink(lmtp=lmtp, extensions=(*pipelining, "CHUNKING"))
            (outcome,) = await self.deliver(
                a_delivery(content=EIGHT_BIT, eight_bit=True), self.a_hop(lmtp=lmtp)
            )
            self.assertEqual(outcome.reply.code, 250, outcome)
            self.assertEqual(outcome.why, "converted to 7 bits")
            (arrived,) = sink.arrived
            self.assertTrue(arrived.content.isascii())
            self.assertEqual(
                email.message_from_bytes(arrived.content).get_payload(decode=True),
                EIGHT_BIT.partition(b"\r\n\r\n")[2],
            )

    async def test_hops_with_8bitmime_get_it_as_it_is(self) -> None:
        sink = self.sink()
        (outcome,) = await self.deliver(a_delivery(content=EIGHT_BIT, eight_bit=True))
        self.assertEqual((outcome.reply.code, outcome.why), (250, ""))
        self.assertEqual(sink.arrived[0].content, EIGHT_BIT)

    async def test_no_conversion_is_refused_as_before(self) -> None:
        self.sink(extensions=("PIPELINING",))
        delivery = a_delivery(content=EIGHT_BIT, eight_bit=True)
        (outcome,) = await self.deliver(delivery, self.a_hop(conversion=False))
        self.assertEqual(outcome.reply.status, "5.6.3")
        self.assertEqual(self.sinks[0].arrived, [])

    async def test_the_next_host_that_takes_8_bits_gets_8_bits(self) -> None:
        self.sink(says("rcpt", "450 4.2.1 later"), extensions=("PIPELINING",))
        second = self.sink()
        (outcome,) = await self.deliver(a_delivery(content=EIGHT_BIT, eight_bit=True))
        self.assertEqual((outcome.reply.code, outcome.why), (250, ""))
        self.assertEqual(second.arrived[0].content, EIGHT_BIT)

    async def test_what_was_said_to_be_8_bit_and_is_not_goes_as_it_is(self) -> None:
        sink = self.sink(extensions=("PIPELINING",))
        (outcome,) = await self.deliver(a_delivery(eight_bit=True))
        self.assertEqual((outcome.reply.code, outcome.why), (250, ""))
        self.assertEqual(sink.arrived[0].content, b"Subject: x\r\n\r\nhello\r\n.dot\r\n")

    async def test_a_broken_signature_is_told(self) -> None:
        self.sink(extensions=("PIPELINING",))
        signed = b"DKIM-Signature: v=1; d=example.com; b=AA\r\n" + EIGHT_BIT
        (outcome,) = await self.deliver(a_delivery(content=signed, eight_bit=True))
        self.assertEqual(
            outcome.why, "converted to 7 bits, which breaks its signatures: DKIM of example.com"
        )

    async def test_a_forwarded_copy_keeps_its_authors_signature_or_does_not_go_there(self) -> None:
        """The next host that takes 8 bits gets it; without one it comes back, untouched."""
        signed = b"DKIM-Signature: v=1; d=example.com; b=AA\r\nFrom: <a@%s>\r\n" + EIGHT_BIT
        for author, forwarded, status in (
            (b"example.com", True, "5.6.3"),
            (b"news.EXAMPLE.com", True, "5.6.3"),
            (b"other.example", True, "2.0.0"),
            (b"example.com", False, "2.0.0"),
        ):
            self.endpoints.clear()
            self.courier = self.a_courier()
            sink = self.sink(extensions=("PIPELINING",))
            delivery = a_delivery(content=signed % author, eight_bit=True)
            if forwarded:
                (record,) = delivery.records
                named = replace(record.recipient, original=Mailbox("info", "ours.example"))
                delivery = replace(delivery, records=(replace(record, recipient=named),))
            (outcome,) = await self.deliver(delivery)
            self.assertEqual(outcome.reply.status, status, (author, forwarded, outcome))
            self.assertEqual(len(sink.arrived), status == "2.0.0")
            if status == "5.6.3":
                self.assertIn("not converted to 7 bits, which would break its signatures: DKIM of "
                              "example.com", outcome.why)  # fmt: skip
                second = self.sink()
                (outcome,) = await self.deliver(delivery)
                self.assertEqual(second.arrived[0].content, signed % author)

    async def test_seven_bit_mail_is_not_looked_at(self) -> None:
        self.patch(smtpout, "converted", None)
        self.sink(extensions=("PIPELINING",))
        self.assertEqual((await self.deliver(a_delivery()))[0].reply.code, 250)
        self.endpoints.clear()
        self.courier = self.a_courier()
        self.sink()
        (outcome,) = await self.deliver(a_delivery(content=EIGHT_BIT, eight_bit=True))
        self.assertEqual(outcome.reply.code, 250)

    async def test_a_large_one_comes_from_its_file(self) -> None:
        line = "grün und noch mehr Text, der lang ist\r\n".encode()
        data = EIGHT_BIT + line * 50_000
        path = self.directory() / "content"
        path.write_bytes(data)
        sink = self.sink(extensions=("PIPELINING", "SIZE 99999999"))
        delivery = a_delivery(eight_bit=True)
        content = FileContent(path, len(data), crc32(data), lambda why: None)
        object.__setattr__(delivery.message, "content", content)
        (outcome,) = await self.deliver(delivery)
        self.assertEqual(outcome.reply.code, 250, outcome)
        self.assertEqual(
            email.message_from_bytes(sink.arrived[0].content).get_payload(decode=True),
            data.partition(b"\r\n\r\n")[2],
        )
        # and what is gone meanwhile waits, as ever
        path.unlink()
        (outcome,) = await self.deliver(delivery)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, R))
        self.assertEqual((await self.deliver(a_delivery()))[0].reply.code, 250)
        self.assertEqual(sink.sessions, 1)  # the connection carries other mail


def _add_cases() -> None:
    for number, case in enumerate(CASES):
        for way in (FailurePolicy.case_alone, FailurePolicy.case_before_another):

            def test(
                self: FailurePolicy,
                case: Case = case,
                way: Callable[..., Awaitable[None]] = way,
            ) -> Deferred[None]:
                return Deferred.fromCoroutine(way(self, case))  # type: ignore[arg-type]

            words = "".join(c if c.isalnum() else "_" for c in f"{case.stage}_{case.reply}")
            setattr(FailurePolicy, f"test_{way.__name__}_{number:02}_{words}", test)


_add_cases()


class Transactions(CourierCase):
    async def test_content_arrives_byte_for_byte(self) -> None:
        for extensions in (EXTENSIONS, (), (*EXTENSIONS, "CHUNKING")):
            for content in (
                b"Subject: x\r\n\r\n.\r\n..\r\n",
                b"A: b\r\n\r\n" + b"line of text\r\n" * 5000,
                b"A: b\r\n\r\n" + b".\r\n" * 100_000,
                b"A: b\r\n\r\n" + b"x" * 65536 + b"\r\n" + b"y" * 200_000 + b"\r\n",
            ):
                sink = self.sink(extensions=extensions)
                self.endpoints = self.endpoints[-1:]
                (outcome,) = await self.deliver(a_delivery(content=content), Hop(domain=str(sink)))
                self.assertEqual(outcome.reply.code, 250, outcome)
                self.assertEqual(sink.arrived[0].content, content)

    async def test_content_without_a_final_crlf_goes_by_bdat(self) -> None:
        sink = self.sink(extensions=(*EXTENSIONS, "CHUNKING"))
        content = b"A: b\r\n\r\n" + b"z" * 100_000
        (outcome,) = await self.deliver(a_delivery(content=content))
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual((sink.arrived[0].verb, sink.arrived[0].content), ("BDAT", content))

    async def test_large_content_waits_for_the_peer(self) -> None:
        held: list[int] = []

        def script(asked: Asked) -> str | None:
            return None

        sink = self.sink(script)
        content = b"A: b\r\n\r\n" + b"0123456789abcd\r\n" * 500_000
        delivery = a_delivery(content=content)
        done = self.deliver(delivery)
        while not done.called:
            for connection in self.courier._pool.connections:
                transport: Any = connection.transport
                held.append(len(transport.dataBuffer) + transport._tempDataLen)
            await pause(0)
        (outcome,) = await done
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual(sink.arrived[0].content, content)
        self.assertLess(max(held), 300_000)

    async def test_the_rest_after_452_goes_at_once_on_the_same_connection(self) -> None:
        def script(asked: Asked) -> str | None:
            if asked.stage == "rcpt" and len(asked.recipients) >= 3:
                return "452 4.5.3 too many recipients"
            return None

        sink = self.sink(script)
        outcomes = await self.deliver(a_delivery(10))
        self.assertEqual([each.reply.code for each in outcomes], [250] * 10)
        self.assertEqual([len(each.recipients) for each in sink.arrived], [3, 3, 3, 1])
        self.assertEqual(sink.sessions, 1)

    async def test_452_for_everyone_is_a_full_disk(self) -> None:
        sink = self.sink(says("rcpt", "452 4.3.1 no space"))
        outcomes = await self.deliver(a_delivery(2))
        self.assertEqual([each.reply.code for each in outcomes], [452, 452])
        self.assertEqual(sink.sessions, 1)

    async def test_dsn_is_passed_on_where_it_is_spoken(self) -> None:
        self.sink()
        (outcome,) = await self.deliver(a_delivery())
        self.assertTrue(outcome.passed_on)
        self.sink(extensions=("PIPELINING",))
        self.endpoints = self.endpoints[-1:]
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="other.example"))
        self.assertFalse(outcome.passed_on)

    async def test_helo_is_enough(self) -> None:
        hellos: list[str] = []

        def script(asked: Asked) -> str | None:
            if asked.stage == "hello":
                hellos.append(asked.argument)
                return "502 no" if len(hellos) == 1 else None
            return None

        sink = self.sink(script)
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, 1))


class Reuse(CourierCase):
    async def test_a_connection_is_used_again(self) -> None:
        sink = self.sink()
        for _ in range(5):
            await self.deliver(a_delivery())
        self.assertEqual((sink.sessions, self.resolved), (1, 1))

    async def test_not_for_another_hop(self) -> None:
        sink = self.sink()
        await self.deliver(a_delivery())
        await self.deliver(a_delivery(), Hop(domain="other.example"))
        self.assertEqual(sink.sessions, 2)

    async def test_only_so_many_messages(self) -> None:
        self.courier = self.a_courier(limits=RelayLimits(connection_messages=2))
        sink = self.sink()
        for _ in range(4):
            await self.deliver(a_delivery())
        self.assertEqual(sink.sessions, 2)

    async def test_an_idle_connection_ends(self) -> None:
        self.courier = self.a_courier(limits=RelayLimits(idle_seconds=0.01))
        self.sink()
        await self.deliver(a_delivery())
        self.assertEqual(self.courier.connections, 1)
        await pause(0.1)
        self.assertEqual(self.courier.connections, 0)

    async def test_one_of_two_that_ends_does_not_hide_the_other(self) -> None:
        sink = self.sink()
        first, second = self.deliver(a_delivery()), self.deliver(a_delivery())
        await first
        await second
        self.assertEqual(sink.sessions, 2)
        kept = self.courier._pool
        one, other = kept.take(HOP), kept.take(HOP)
        assert one is not None and other is not None
        one.quit()
        kept.give_back(other, HOP)
        self.assertIs(kept.take(HOP), other)
        self.assertIsNone(kept.take(HOP))
        other.quit()
        self.assertEqual((kept._shelves, kept._shelf_of), ({}, {}))

    async def test_what_is_withdrawn_is_not_offered_to_those_that_are_idle(self) -> None:
        """Each would be given back unused, and taken again, for ever."""
        answering = threading.Event()
        answering.set()

        def script(asked: Asked) -> str | None:
            if asked.stage == "mail":
                answering.wait(30)
            return None

        self.sink(script)
        self.addCleanup(answering.set)
        for each in [self.deliver(a_delivery()) for _ in range(2)]:
            await each
        self.assertEqual(self.courier.connections, 2)
        answering.clear()
        under_way = self.deliver(a_delivery())
        await pause(0.05)
        self.courier.withdraw()
        (outcome,) = await under_way
        self.assertEqual(outcome.reply.code, 451)
        while self.courier.connections > 1:
            await pause(0.01)
        self.assertEqual(len(self.courier._pool._idle), 1)

    async def test_not_more_idle_connections_than_allowed(self) -> None:
        self.courier = self.a_courier(limits=RelayLimits(idle_connections=2))
        self.sink()
        for number in range(4):
            await self.deliver(a_delivery(), Hop(domain=f"{number}.example"))
        await pause(0.05)
        self.assertEqual(self.courier.connections, 2)

    async def test_a_kept_connection_that_died_is_nobodys_fault(self) -> None:
        sink = self.sink()
        await self.deliver(a_delivery())
        (connection,) = self.courier._pool.connections
        sink.kill()
        sink.start()
        # as if the loss were noticed only while sending
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 250)
        self.assertFalse(connection.usable)

    async def test_a_kept_connection_that_says_421_is_nobodys_fault(self) -> None:
        def script(asked: Asked) -> str | None:
            late = asked.stage == "mail" and asked.transaction == 2
            return "421 4.7.0 only one per connection" if late else None

        sink = self.sink(script)
        for _ in range(3):
            (outcome,) = await self.deliver(a_delivery())
            self.assertEqual(outcome.reply.code, 250)
        self.assertEqual(sink.sessions, 3)

    async def test_after_a_refusal_the_connection_is_kept(self) -> None:
        sink = self.sink(says("rcpt", "550 5.1.1 nobody", argument="user1"))
        await self.deliver(a_delivery(2))
        await self.deliver(a_delivery(2))
        self.assertEqual((sink.sessions, len(sink.arrived)), (1, 2))

    async def test_close_ends_idle_connections(self) -> None:
        self.sink()
        await self.deliver(a_delivery())
        self.courier.close()
        await pause(0.05)
        self.assertEqual(self.courier.connections, 0)

    async def test_abort_ends_everything_and_every_delivery_fires(self) -> None:
        self.sink(says("content", STALL))
        self.sink(says("connect", STALL))
        self.endpoints, both = self.endpoints[:1], self.endpoints
        first = self.deliver(a_delivery())
        self.endpoints = both[1:]
        second = self.deliver(a_delivery())
        third = self.courier.deliver(a_delivery(), Hop(domain="x.example"))
        await pause(0.1)
        self.courier.abort()
        for done in (first, second, third):
            (outcome,) = await done
            self.assertEqual(outcome.reply.code, 451)


class Lmtp(CourierCase):
    def hop(self, path: str = "") -> Hop:
        return Hop((NextHop("store", LMTP, (HostPort("127.0.0.1", 24),), path),))

    async def test_over_tcp(self) -> None:
        sink = self.sink(lmtp=True)
        outcomes = await self.deliver(a_delivery(3), self.hop())
        self.assertEqual([each.reply.code for each in outcomes], [250] * 3)
        self.assertEqual([len(each.recipients) for each in sink.arrived], [1, 1, 1])

    async def test_over_a_unix_socket(self) -> None:
        path = self.directory() / "lmtp"
        sink = self.sink(lmtp=True, bind=lambda: unix_listener(path))
        self.endpoints = [Endpoint(f"unix:{path}", f"unix:{path}", 0)]
        (outcome,) = await self.deliver(a_delivery(), self.hop(str(path)))
        self.assertEqual((outcome.reply.code, len(sink.arrived)), (250, 1))
        self.assertEqual(outcome.remote_address, f"unix:{path}")

    async def test_a_reply_for_each_recipient_after_the_dot(self) -> None:
        def script(asked: Asked) -> str | None:
            if asked.stage == "content" and "user1" in asked.argument:
                return "552 5.2.2 mailbox full"
            return None

        self.sink(script, lmtp=True)
        outcomes = await self.deliver(a_delivery(3), self.hop())
        self.assertEqual([each.reply.code for each in outcomes], [250, 552, 250])

    async def test_no_socket(self) -> None:
        path = str(self.directory() / "nothing")
        self.endpoints = [Endpoint(f"unix:{path}", f"unix:{path}", 0)]
        (outcome,) = await self.deliver(a_delivery(), self.hop(path))
        self.assertEqual((outcome.reply.code, outcome.blame), (451, D))
        self.assertNotIn(path, outcome.reply.text)


class Newcomers(CourierCase):
    """Hosts of a domain that have never taken mail from us."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(newcomers, "FIRST_WAIT", 0.1)
        self.patch(newcomers, "AT_THE_DOOR", 0.05)

    async def test_a_newcomer_that_does_not_greet_has_less_time_at_first_and_more_later(
        self,
    ) -> None:
        silent = self.sink(lambda asked: STALL if asked.stage == "connect" else None)
        spent = []
        for _ in range(3):
            began = time.monotonic()
            (outcome,) = await self.deliver(a_delivery())
            self.assertEqual((outcome.reply.status, outcome.blame), ("4.4.2", D))
            spent.append(time.monotonic() - began)
        for number, seconds in enumerate(spent):  # at least; the machine may be slow besides
            self.assertGreaterEqual(seconds, 0.1 * 2**number)
        self.assertLess(sum(spent), 60)  # one who is none has five minutes
        self.assertEqual(silent.sessions, 3)

    async def test_a_newcomer_that_answers_each_command_late_is_left(self) -> None:
        for stage in ("hello", "mail", "rcpt", "data"):
            self.endpoints.clear()
            self.sink(says(stage, STALL))
            (outcome,) = await self.deliver(a_delivery())
            self.assertEqual(outcome.reply.status, "4.4.2", stage)

    async def test_a_named_next_hop_has_all_the_time(self) -> None:
        self.sink(lambda asked: time.sleep(0.4) if asked.stage == "connect" else None)
        hop = NextHop("out", hosts=(HostPort("mx.example", 25),))
        (outcome,) = await self.deliver(a_delivery(), Hop((hop,)))
        self.assertEqual(outcome.reply.code, 250)

    async def test_who_has_taken_mail_has_all_the_time(self) -> None:
        slow = False
        self.sink(lambda asked: time.sleep(0.4) if slow and asked.stage == "connect" else None)
        await self.deliver(a_delivery())
        self.courier._pool.close()
        slow = True
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 250)

    async def test_who_keeps_others_waiting_is_not_asked_by_more(self) -> None:
        self.patch(newcomers, "FIRST_WAIT", 60.0)
        silent = self.sink(lambda asked: STALL if asked.stage == "connect" else None)
        first = self.deliver(a_delivery())
        await pause(0.1)
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="other.example"))
        self.assertEqual((outcome.reply.status, outcome.blame), ("4.4.1", D))
        self.assertIn("does not answer", outcome.reply.text)
        self.assertEqual(silent.sessions, 1)
        self.courier.abort()
        await first
        self.assertEqual(self.courier._newcomers._doors, {})

    async def test_many_who_come_together_to_one_that_greets_are_all_served(self) -> None:
        self.patch(newcomers, "FIRST_WAIT", 60.0)  # this machine may be slow, the host is not
        self.patch(newcomers, "AT_THE_DOOR", 30.0)
        self.sink()
        asked = [
            self.deliver(a_delivery(), Hop(domain=f"d{number}.example")) for number in range(20)
        ]
        for each in asked:
            (outcome,) = await each
            self.assertEqual(outcome.reply.code, 250)

    async def test_the_living_host_behind_silent_ones_is_reached_by_and_by(self) -> None:
        self.patch(newcomers, "WALK", 0.3)
        for _ in range(6):
            self.sink(lambda asked: STALL if asked.stage == "connect" else None)
        self.sink()
        codes: list[int] = []
        while 250 not in codes and len(codes) < 5:
            (outcome,) = await self.deliver(a_delivery())
            codes.append(outcome.reply.code)
            await pause(0.06)
        self.assertEqual((codes[0], codes[-1]), (451, 250))
