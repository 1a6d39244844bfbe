"""Which servers are asked, in which order, and how resolv.conf is read."""

from __future__ import annotations

from pathlib import Path

from relayd.dns.servers import NameServer, Servers, system_servers
from tests.support import TestCase

A, B = ("192.0.2.1", 53), ("192.0.2.2", 5353)


class Order(TestCase):
    def setUp(self) -> None:
        self.now = 100.0
        self.servers = Servers([A, B], lambda: self.now)

    def order(self) -> list[tuple[str, int]]:
        return [server.address for server in self.servers.in_order()]

    def test_as_configured(self) -> None:
        self.assertEqual(self.order(), [A, B])

    def test_a_silent_one_comes_last_for_a_minute(self) -> None:
        self.servers.silent(self.servers.in_order()[0])
        self.assertEqual(self.order(), [B, A])
        self.now += 61
        self.assertEqual(self.order(), [A, B])

    def test_until_it_answers(self) -> None:
        first = self.servers.in_order()[0]
        self.servers.silent(first)
        self.servers.answered(first)
        self.assertEqual(self.order(), [A, B])

    def test_all_silent_are_all_asked(self) -> None:
        for server in self.servers.in_order():
            self.servers.silent(server)
        self.assertEqual(self.order(), [A, B])

    def test_text(self) -> None:
        self.assertEqual(str(NameServer(B)), "192.0.2.2:5353")
        self.assertEqual(str(NameServer(("2001:db8::1", 53))), "[2001:db8::1]:53")


class ResolvConf(TestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp())

    def read(self, text: str) -> tuple[tuple[str, int], ...]:
        self.path.write_text(text)
        return system_servers(self.path)

    def test_servers(self) -> None:
        text = "# nameserver 1.1.1.1\nsearch a.example\nnameserver 192.0.2.1\nnameserver ::1 x\n"
        self.assertEqual(self.read(text), (("192.0.2.1", 53), ("::1", 53)))

    def test_no_more_than_three(self) -> None:
        self.assertEqual(len(self.read("nameserver 192.0.2.1\n" * 5)), 3)

    def test_none_means_this_machine(self) -> None:
        for text in ("", "nameserver\n", "nameserver not-an-address\n"):
            self.assertEqual(self.read(text), (("127.0.0.1", 53),))
        self.path.unlink()
        self.assertEqual(system_servers(self.path), (("127.0.0.1", 53),))

    def test_a_change_is_noticed(self) -> None:
        now = 0.0
        self.path.write_text("nameserver 192.0.2.1\n")
        servers = Servers([], lambda: now, path=self.path)
        other = Path(self.mktemp())
        other.write_text("nameserver 192.0.2.2\n")
        other.rename(self.path)
        self.assertEqual([str(each) for each in servers.in_order()], ["192.0.2.1:53"])
        now = 11.0
        self.assertEqual([str(each) for each in servers.in_order()], ["192.0.2.2:53"])
