from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientCreator, Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from relayd.intake import accepting as accept_balancer
from relayd.intake import listener, opening
from relayd.intake.accepting import AcceptBalancer
from relayd.intake.listener import IntakeService
from relayd.intake.opening import ListenAddress, ListeningSockets, listening_socket, listens
from relayd.intake.session import Session
from relayd.intake.smtpservice import SmtpService
from relayd.shared.sessioncounts import SessionCounts, shared_session_counts
from tests.support import TestCase
from tests.unit.intake.scene import CONTENT, HOST, Scene, message

reactor: Any = installed  # it is everything at once
LOOPBACK = ListenAddress("127.0.0.1", 0)


class Talker(Protocol):
    """A client that waits for so many reply lines, or for the end."""

    def __init__(self) -> None:
        self.received = b""
        self._wanted = 0
        self._waiting: Deferred[list[str]] | None = None
        self.gone: Deferred[None] = Deferred()

    def lines(self, count: int) -> Deferred[list[str]]:
        self._wanted, self._waiting = count, Deferred()
        waiting = self._waiting
        self._look()
        return waiting

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self._look()

    def connectionLost(self, reason: Failure | None = None) -> None:
        self.gone.callback(None)

    def _look(self) -> None:
        if self._waiting is not None and self.received.count(b"\r\n") >= self._wanted:
            waiting, self._waiting = self._waiting, None
            said, self.received = self.received.decode().splitlines(), b""
            waiting.callback(said)


class OverLoopback(TestCase):
    def setUp(self) -> None:
        self.scene = Scene()
        service: SmtpService = replace(self.scene.service, reactor=reactor)
        self.service = IntakeService(reactor, service, [LOOPBACK], grace=0.2)

    async def connect(self) -> Talker:
        creator = ClientCreator(reactor, Talker)
        talker: Talker = await creator.connectTCP("127.0.0.1", self.service.bound[0].port)
        return talker

    async def test_a_whole_session_and_a_clean_stop(self) -> None:
        self.service.privilegedStartService()
        self.service.startService()
        talker = await self.connect()
        other = await self.connect()
        self.assertEqual(await talker.lines(1), [f"220 {HOST} ESMTP relayd"])
        self.assertEqual(await other.lines(1), [f"220 {HOST} ESMTP relayd"])
        assert talker.transport is not None
        talker.transport.write("\r\n".join(["HELO client.example", *message(), ""]).encode())
        self.assertEqual([r[:3] for r in await talker.lines(4)], ["250", "250", "250", "354"])
        talker.transport.write("\r\n".join([*CONTENT, "QUIT", ""]).encode())
        self.assertEqual([r[:3] for r in await talker.lines(2)], ["250", "221"])
        await talker.gone
        ((stored, _),) = self.scene.spool.stored
        self.assertIn(b"(localhost [127.0.0.1])", b"".join(stored.content.chunks()))
        stopped = self.service.stopService()
        self.assertEqual(await other.lines(1), [f"421 4.3.2 {HOST} is shutting down"])
        await other.gone
        await stopped
        self.assertEqual(self.scene.admission.in_all, 0)
        self.assertEqual(self.service.service.sessions, set())

    async def test_replies_wait_for_no_acknowledgement(self) -> None:
        self.service.startService()
        talker = await self.connect()
        await talker.lines(1)
        (session,) = self.service.service.sessions
        assert isinstance(session, Session)
        connection = session.transport.getHandle()
        assert isinstance(connection, socket.socket)
        self.assertTrue(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        await self.service.stopService()
        await talker.gone

    async def test_stopping_does_not_wait_for_ever(self) -> None:
        self.scene.spool.slow = True
        self.service.startService()
        talker = await self.connect()
        await talker.lines(1)
        assert talker.transport is not None
        talker.transport.write("\r\n".join(["HELO client.example", *message(), ""]).encode())
        await talker.lines(4)
        talker.transport.write("\r\n".join([*CONTENT, ""]).encode())
        while not self.scene.spool.waiting:
            await self.turn()
        await self.service.stopService()
        await talker.gone
        self.scene.spool.finish()  # too late to be told, but it is kept
        self.assertEqual(len(self.scene.handed_over), 1)

    async def test_draining_lets_a_transaction_end(self) -> None:
        self.service.startService()
        talker = await self.connect()
        await talker.lines(1)
        assert talker.transport is not None
        talker.transport.write("\r\n".join(["HELO client.example", *message(), ""]).encode())
        await talker.lines(4)
        drained = self.service.drain(30)
        talker.transport.write("\r\n".join([*CONTENT, ""]).encode())
        self.assertEqual([r[:3] for r in await talker.lines(2)], ["250", "421"])
        await drained
        await self.service.stopService()

    async def test_refused_before_the_greeting(self) -> None:
        self.scene.admission.limits = replace(self.scene.admission.limits, per_client=1)
        self.service.startService()
        first, second = await self.connect(), await self.connect()
        said = [(await first.lines(1))[0][:3], (await second.lines(1))[0][:3]]
        self.assertEqual(sorted(said), ["220", "421"])
        await (second if said[1] == "421" else first).gone
        stopped = self.service.stopService()
        await stopped

    async def turn(self) -> None:
        done: Deferred[None] = Deferred()
        reactor.callLater(0, done.callback, None)
        await done


class OnOneSocket(TestCase):
    """Two workers' services in one process, at the same listening socket."""

    def setUp(self) -> None:
        self.patch(accept_balancer, "PATIENCE", 60.0)  # nobody hangs here
        self.shared = shared_session_counts(2)
        self.listening = listening_socket(LOOPBACK)
        self.services = [self.service(number) for number in range(2)]
        self.clients: list[socket.socket] = []

    def service(self, number: int) -> IntakeService:
        service: SmtpService = replace(Scene().service, reactor=reactor)
        ours = AcceptBalancer(reactor, SessionCounts(self.shared, number))
        sockets = [self.listening.dup()]
        return IntakeService(reactor, service, [LOOPBACK], sockets, accept_balancer=ours, grace=0.2)

    def tearDown(self) -> Deferred[None]:  # type: ignore[override]  # trial waits for it
        return Deferred.fromCoroutine(self.end())

    async def end(self) -> None:
        for client in self.clients:
            client.close()
        for service in self.services:
            await service.stopService()
        self.listening.close()
        for each in self.shared:
            os.close(each)

    async def connect(self, count: int) -> None:
        before = sum(self.sessions)
        self.clients += [
            socket.create_connection(self.listening.getsockname()) for _ in range(count)
        ]
        await self.until(lambda: sum(self.sessions) == before + count)

    @property
    def sessions(self) -> list[int]:
        return [len(service.service.sessions) for service in self.services]

    async def until(self, condition: Callable[[], bool]) -> None:
        deadline = reactor.seconds() + 60
        while not condition():
            self.assertLess(reactor.seconds(), deadline, self.sessions)
            await deferLater(reactor, 0.001)

    async def test_each_takes_its_share(self) -> None:
        for service in self.services:
            service.startService()
        for _ in range(10):
            await self.connect(1)
        self.assertLessEqual(abs(self.sessions[0] - self.sessions[1]), 2)

    async def test_those_that_leave_together_come_back_to_the_same(self) -> None:
        for service in self.services:
            service.startService()
        for _ in range(10):
            await self.connect(1)
        before = self.sessions
        first = self.services[0].service.sessions
        mine = [each for each in self.clients if self.is_of(each, first)]
        for client in mine:
            client.sendall(b"QUIT\r\n")
            self.clients.remove(client)
        await self.until(lambda: self.sessions == [0, before[1]])
        for client in mine:
            client.close()
        await self.connect(len(mine))
        self.assertEqual(self.sessions, before)

    @staticmethod
    def is_of(client: socket.socket, sessions: set[Any]) -> bool:
        port = client.getsockname()[1]
        return any(each.transport.getPeer().port == port for each in sessions)

    async def test_one_that_takes_no_more_leaves_all_to_the_other(self) -> None:
        for service in self.services:
            service.startService()
        await self.services[0].stopService()
        await self.connect(6)
        self.assertEqual(self.sessions, [0, 6])

    async def test_one_alone_takes_all(self) -> None:
        self.services[1].startService()
        await self.connect(6)
        self.assertEqual(self.sessions, [0, 6])
        self.services[0].startService()  # and one that comes later is given what comes then
        for _ in range(6):
            await self.connect(1)
        self.assertEqual(self.sessions, [6, 6])


class Sockets(TestCase):
    def test_ready_for_the_reactor(self) -> None:
        listening = listening_socket(LOOPBACK)
        self.addCleanup(listening.close)
        self.assertFalse(listening.getblocking())
        self.assertEqual(listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN), 1)

    def test_ipv6_is_ipv6_only(self) -> None:
        try:
            listening = listening_socket(ListenAddress("::1", 0))
        except OSError as error:
            self.skipTest(f"no IPv6 loopback here: {error}")
        self.addCleanup(listening.close)
        self.assertEqual(listening.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY), 1)

    def test_where_all_ports_are_taken_it_does_not_start(self) -> None:
        first = listening_socket(LOOPBACK)
        self.addCleanup(first.close)
        address = ListenAddress("127.0.0.1", first.getsockname()[1])
        for addresses in ([address], [ListenAddress("192.0.2.1", 2525), address]):
            service = IntakeService(reactor, Scene().service, addresses)
            with self.assertRaisesRegex(OSError, f"cannot listen on {address}"):
                service.privilegedStartService()

    def test_names(self) -> None:
        self.assertEqual(str(ListenAddress("::1", 25)), "[::1]:25")
        self.assertEqual(str(ListenAddress("127.0.0.1", 25)), "127.0.0.1:25")


class NotThereYet(TestCase):
    """Addresses that cannot be had keep nobody from listening at the others."""

    def setUp(self) -> None:
        self.patch(opening, "RETRY", 0.05)
        self.patch(listener, "LOOK", 0.02)
        self.scene = Scene()
        self.smtp: SmtpService = replace(self.scene.service, reactor=reactor)
        self.services: list[IntakeService] = []
        self.holder = listening_socket(LOOPBACK)
        self.taken = ListenAddress("127.0.0.1", self.holder.getsockname()[1])

    async def tearDown(self) -> None:  # type: ignore[override]  # the base makes it a Deferred
        self.holder.close()
        for service in self.services:
            await service.stopService()

    def serve(
        self,
        *addresses: ListenAddress,
        sockets: Sequence[socket.socket] = (),
        accept_balancer: AcceptBalancer | None = None,
    ) -> IntakeService:
        service = IntakeService(
            reactor, self.smtp, addresses, sockets, accept_balancer=accept_balancer, grace=0.2
        )
        self.services.append(service)
        service.startService()
        return service

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(500):
            if condition():
                return
            await deferLater(reactor, 0.01, lambda: None)
        self.fail("it never happened")

    def greets(self, address: ListenAddress) -> bool:
        try:
            socket.create_connection((address.host, address.port), 1).close()
        except OSError:
            return False
        return True

    async def test_a_port_that_is_taken_is_had_when_it_is_free(self) -> None:
        service = self.serve(LOOPBACK, self.taken)
        self.assertEqual(len(service.bound), 1)
        self.assertEqual(dict(service.missing), {self.taken: "Address already in use"})
        (told,) = self.scene.log.of("trouble")
        self.assertIn(str(self.taken), told)
        await deferLater(reactor, 0.2, lambda: None)
        self.assertEqual(len(self.scene.log.of("trouble")), 1)  # said once
        self.holder.close()
        await self.until(lambda: len(service.bound) == 2)
        self.assertEqual(dict(service.missing), {})
        self.assertTrue(self.greets(self.taken))
        self.assertIn("listening", self.scene.log.of("notice")[0])

    async def test_an_address_that_is_not_there(self) -> None:
        absent = ListenAddress("192.0.2.1", 2525)
        service = self.serve(absent, LOOPBACK)
        self.assertEqual(len(service.bound), 1)
        self.assertEqual(dict(service.missing), {absent: "Cannot assign requested address"})

    async def test_where_none_is_there_yet_it_waits(self) -> None:
        service = self.serve(ListenAddress("192.0.2.1", 2525), ListenAddress("2001:db8::9", 25))
        self.assertEqual((service.bound, len(service.missing)), ((), 2))

    async def test_the_reason_is_said_again_when_it_is_another(self) -> None:
        reasons = ["one", "one", "two"]

        def refuse(opened: object, address: object, backlog: int = 0) -> None:
            raise OSError(
                99, f"cannot listen on x: {reasons.pop(0) if len(reasons) > 1 else 'two'}"
            )

        self.patch(opening, "_listen", refuse)
        self.serve(ListenAddress("192.0.2.1", 2525))
        await self.until(lambda: len(self.scene.log.of("trouble")) == 2)
        await deferLater(reactor, 0.2, lambda: None)
        self.assertEqual(len(self.scene.log.of("trouble")), 2)

    async def test_an_address_family_that_the_system_does_not_have(self) -> None:
        real = socket.socket

        def without_ipv6(family: int = socket.AF_INET, *rest: int) -> socket.socket:
            if family == socket.AF_INET6:
                raise OSError(97, "Address family not supported by protocol")
            return real(family, *rest)

        self.patch(socket, "socket", without_ipv6)
        service = self.serve(ListenAddress("::1", 2525), LOOPBACK)
        await deferLater(reactor, 0.2, lambda: None)
        self.assertEqual(len(service.bound), 1)
        self.assertIn("not supported", *service.missing.values())

    async def test_all_workers_serve_it_as_soon_as_it_listens(self) -> None:
        sockets = ListeningSockets(reactor, self.scene.log, [LOOPBACK, self.taken])
        opened = sockets.open()
        shared = shared_session_counts(2)
        for number in range(2):
            ours = AcceptBalancer(reactor, SessionCounts(shared, number))
            theirs = [each.dup() for each in opened]
            self.serve(LOOPBACK, self.taken, sockets=theirs, accept_balancer=ours)
        self.assertEqual([len(each.bound) for each in self.services], [1, 1])
        self.holder.close()
        await self.until(lambda: all(len(each.bound) == 2 for each in self.services))
        self.assertTrue(self.greets(self.taken))
        sockets.close()
        for service in self.services:
            await service.stopService()
        self.services.clear()
        for each in opened:
            each.close()
        for descriptor in shared:
            os.close(descriptor)

    async def test_it_stops_while_it_waits(self) -> None:
        service = self.serve(LOOPBACK, self.taken)
        await service.stopService()
        self.services.clear()
        self.holder.close()
        await deferLater(reactor, 0.1, lambda: None)
        self.assertFalse(self.greets(self.taken))
        self.assertFalse(listens(socket.socket()))
