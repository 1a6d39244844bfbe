"""Dovecot's protocol, and the socket that speaks it, against a Dovecot made of strings."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.testing import MemoryReactorClock, StringTransport

from relayd.login.dovecot import DovecotAnswer, DovecotClient, DovecotError, Result
from relayd.login.dovecotsocket import PATIENCE, DovecotSocket
from tests.support import TestCase

GREETING = (
    b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\nSPID\t7\nCUID\t1\n"
    b"COOKIE\t0123\nDONE\n"
)


def asked(**facts: Any) -> bytes:  # noqa: ANN401
    client = DovecotClient(42)
    client.receive(GREETING)
    client.data_to_send()
    client.ask("alice", "pencil", **{"address": "192.0.2.1", "secured": True, **facts})
    return client.data_to_send()


class Lines(TestCase):
    def test_what_is_said(self) -> None:
        client = DovecotClient(42)
        self.assertEqual(client.data_to_send(), b"VERSION\t1\t1\nCPID\t42\n")
        self.assertEqual(
            asked(),
            b"AUTH\t1\tPLAIN\tservice=smtp\tsecured\trip=192.0.2.1\tresp=AGFsaWNlAHBlbmNpbA==\n",
        )
        self.assertNotIn(b"secured", asked(secured=False))
        self.assertEqual(asked(address="a\tb\nc").count(b"\n"), 1)

    def test_every_answer(self) -> None:
        for line, result, user in (
            (b"OK\t1\tuser=alice@x\n", Result.GRANTED, "alice@x"),
            (b"FAIL\t1\tuser=alice\n", Result.DENIED, "alice"),
            (b"FAIL\t1\tuser=alice\ttemp\n", Result.TROUBLE, "alice"),
            (b"FAIL\t1\tcode=temp_fail\n", Result.TROUBLE, ""),
            (b"FAIL\t1\n", Result.DENIED, ""),
            (b"CONT\t1\t\n", Result.TROUBLE, ""),
            (b"OK\t1\n", Result.TROUBLE, ""),
        ):
            client = DovecotClient(42)
            [verdict] = client.receive(GREETING + line)
            self.assertEqual((verdict.number, verdict.result, verdict.user), (1, result, user))

    def test_no_dovecot(self) -> None:
        for data in (b"220 mail ESMTP\nDONE\n", b"VERSION\t2\t0\n", b"OK\tx\n", b"x" * 9000):
            with self.assertRaises(DovecotError):
                DovecotClient(42).receive(data)
        with self.assertRaises(DovecotError):
            client = DovecotClient(42)
            client.receive(b"VERSION\t1\t1\nMECH\tGSSAPI\nDONE\n")
            client.ask("a", "b", address="", secured=True)

    @given(st.lists(st.integers(0, len(GREETING)), max_size=5))
    def test_however_it_is_cut(self, cuts: list[int]) -> None:
        client = DovecotClient(42)
        for start, end in pairwise([0, *sorted(cuts), len(GREETING)]):
            self.assertEqual(client.ready, start == len(GREETING))
            client.receive(GREETING[start:end])
        self.assertTrue(client.ready)

    @given(st.binary(max_size=300))
    def test_no_octets_raise_anything_else(self, data: bytes) -> None:
        with contextlib.suppress(DovecotError):
            DovecotClient(42).receive(data + b"\n")


class Sockets(TestCase):
    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.socket = DovecotSocket(self.reactor, "/run/auth-client")

    def ask(self, user: str = "alice") -> list[DovecotAnswer]:
        heard: list[DovecotAnswer] = []
        asked = self.socket.check(user, "x", address="192.0.2.1", secured=True)
        asked.addCallback(heard.append)
        return heard

    def connect(self) -> tuple[Any, StringTransport]:
        factory = self.reactor.unixClients[-1][1]
        line, transport = factory.buildProtocol(None), StringTransport()
        line.makeConnection(transport)
        return line, transport

    def test_one_connection_for_all(self) -> None:
        first, second = self.ask(), self.ask("bob")
        line, transport = self.connect()
        self.assertNotIn(b"AUTH", transport.value())
        line.dataReceived(GREETING)
        self.assertEqual(transport.value().count(b"AUTH\t"), 2)
        third = self.ask("eve")
        line.dataReceived(b"OK\t2\tuser=bob\nFAIL\t1\n")
        line.dataReceived(b"FAIL\t99\n")
        self.assertEqual((first[0].result, second[0].result), (Result.DENIED, Result.GRANTED))
        self.assertEqual(third, [])
        line.connectionLost()
        self.assertEqual(third[0].result, Result.TROUBLE)
        self.assertEqual(len(self.reactor.unixClients), 1)
        self.ask()
        self.assertEqual(len(self.reactor.unixClients), 2)
        self.reactor.advance(PATIENCE + 1)

    def test_nobody_there_and_nobody_answers(self) -> None:
        heard = self.ask()
        from twisted.internet.error import ConnectionRefusedError as Refused
        from twisted.python.failure import Failure

        self.reactor.unixClients[-1][1].clientConnectionFailed(None, Failure(Refused()))
        self.assertEqual(heard[0].result, Result.TROUBLE)
        heard = self.ask()
        self.connect()
        self.reactor.advance(PATIENCE + 1)
        self.assertEqual(heard[0].result, Result.TROUBLE)
        self.assertEqual(self.reactor.getDelayedCalls(), [])
