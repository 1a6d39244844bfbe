"""Long responses are cut to what is worth reading, cheaply, whatever is in them."""

from __future__ import annotations

import random
import struct
import time
import unittest
from collections.abc import Callable
from functools import partial

import dns.message
import dns.name
import dns.rdatatype
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor

from relayd.dns.answer import DnsTrouble
from relayd.dns.lookup import Lookup
from relayd.dns.resolver import Resolver
from relayd.dns.wire import MOST_ALIASES, MOST_DATA, MOST_RECORDS, SHORT, worth_reading
from relayd.relay.resolve import MAX_ENDPOINTS, Directory
from relayd.relay.selfdetection import SelfDetection
from tests.dnsserver import DnsServer
from tests.support import TestCase

NAME = "many.example."
RECORDS: dict[str, Callable[[int], str]] = {
    "MX": lambda n: f"{4000 - n} mx{n}.{NAME}",
    "A": lambda n: f"198.51.{n >> 8}.{n & 255}",
    "AAAA": lambda n: f"2001:db8::{n + 1:x}",
    "TXT": lambda n: f'"text {n}"',
    "TLSA": lambda n: f"3 1 1 {n:064x}",
    "NS": lambda n: f"ns{n}.{NAME}",
    "PTR": lambda n: f"ptr{n}.{NAME}",
}


def response(rdtype: str, *records: str, before: tuple[str, ...] = ()) -> bytes:
    """A response over TCP with these records; `before`: CNAMEs that lead to them."""
    query = dns.message.make_query(NAME, rdtype)
    made = dns.message.make_response(query)
    owner = NAME
    for alias in before:
        made.answer.append(dns.rrset.from_text(owner, 300, "IN", "CNAME", alias))
        owner = alias
    if records:
        made.answer.append(dns.rrset.from_text_list(owner, 300, "IN", rdtype, records))
    made.additional.append(dns.rrset.from_text(NAME, 300, "IN", "A", "192.0.2.1"))
    return made.to_wire(max_size=65535)


def seconds(call: Callable[[], object]) -> float:
    """CPU, the least of three."""
    taken = []
    for _ in range(3):
        start = time.thread_time()
        call()
        taken.append(time.thread_time() - start)
    return min(taken)


class Cutting(unittest.TestCase):
    def test_what_is_short_stays_as_it_is(self) -> None:
        wire = response("MX", *(RECORDS["MX"](n) for n in range(5)))
        self.assertLessEqual(len(wire), SHORT)
        self.assertIs(worth_reading(wire), wire)
        self.assertEqual(worth_reading(b"no response"), b"no response")

    def test_every_type_that_we_ask_for_is_bounded_and_is_what_it_was(self) -> None:
        for rdtype, text in RECORDS.items():
            with self.subTest(rdtype=rdtype):
                wire = response(rdtype, *(text(n) for n in range(1000)))
                whole = set(dns.message.from_wire(wire).answer[0])
                cut = dns.message.from_wire(worth_reading(wire))
                [kept] = cut.answer
                self.assertEqual(len(kept), MOST_RECORDS)
                self.assertLess(set(kept), whole)
                self.assertEqual((kept.name.to_text(), kept.ttl), (NAME, 300))
                self.assertEqual(cut.question, dns.message.from_wire(wire).question)

    def test_the_preferred_exchangers_stay(self) -> None:
        numbers = list(range(2300))
        random.Random(1).shuffle(numbers)
        wire = response("MX", *(f"{n} mx{n}.{NAME}" for n in numbers))
        [kept] = dns.message.from_wire(worth_reading(wire)).answer
        self.assertEqual(sorted(record.preference for record in kept), list(range(MOST_RECORDS)))

    def read(self, wire: bytes) -> dns.message.Message:
        return dns.message.from_wire(worth_reading(wire))

    def test_it_is_much_cheaper_than_reading_all(self) -> None:
        for rdtype, number in (("MX", 2300), ("A", 3500), ("TLSA", 1200), ("TXT", 2500)):
            wire = response(rdtype, *(RECORDS[rdtype](n) for n in range(number)))
            whole = seconds(partial(dns.message.from_wire, wire))
            cut = seconds(partial(self.read, wire))
            self.assertLess(cut, whole / 5, rdtype)

    def test_aliases_are_followed_so_far(self) -> None:
        text = tuple(f"alias{n}.example." for n in range(10))
        wire = response("A", *(RECORDS["A"](n) for n in range(500)), before=text)
        cut = dns.message.from_wire(worth_reading(wire))
        assert isinstance(cut, dns.message.QueryMessage)
        chain = cut.resolve_chaining()
        self.assertEqual(chain.canonical_name.to_text(), text[-1])
        assert chain.answer is not None
        self.assertEqual(len(chain.answer), MOST_RECORDS)
        many = tuple(f"alias{n}.example." for n in range(1000))
        cut = dns.message.from_wire(worth_reading(response("A", "192.0.2.1", before=many)))
        self.assertEqual(len(cut.answer), MOST_ALIASES + 1)

    def test_texts_are_bounded_in_all(self) -> None:
        piece = '"' + "x" * 250 + '"'
        wire = response("TXT", *(f'"{n}" ' + " ".join([piece] * 30) for n in range(8)))
        cut = worth_reading(wire)
        self.assertLess(len(cut), MOST_DATA + 100)
        [kept] = dns.message.from_wire(cut).answer
        self.assertEqual(len(kept), 4)

    def test_a_record_of_no_sane_size_is_not_as_if_there_were_none(self) -> None:
        """A TLSA set that is too large must not mean that there is none: that is less security."""
        wire = response("TLSA", "3 0 0 " + "ab" * 60_000)
        self.assertEqual(worth_reading(wire), b"")

    def test_a_long_denial_keeps_what_says_how_long(self) -> None:
        query = dns.message.make_query(NAME, "MX")
        made = dns.message.make_response(query)
        made.authority.append(
            dns.rrset.from_text(NAME, 60, "IN", "SOA", f"ns.{NAME} root.{NAME} 1 2 3 4 42")
        )
        made.authority.append(
            dns.rrset.from_text_list(NAME, 60, "IN", "NS", [f"ns{n}.{NAME}" for n in range(500)])
        )
        cut = dns.message.from_wire(worth_reading(made.to_wire(max_size=65535)))
        self.assertEqual(cut.answer, [])
        [soa] = cut.authority
        self.assertEqual(int(soa[0].minimum), 42)
        self.assertEqual(soa[0].mname.to_text(), f"ns.{NAME}")


def chained(number: int) -> bytes:
    """A response whose owner names each follow a chain of thousands of pointers."""
    query = dns.message.make_query(NAME, "TXT", use_edns=False).to_wire()
    head = bytearray(query[:2] + b"\x81\x80\0\1" + struct.pack("!HHH", number + 1, 0, 0))
    head += query[12:]
    chain = bytearray()
    at = len(head) + 12
    previous = 12  # the question's name
    for _ in range(4000):
        chain += struct.pack("!H", 0xC000 | previous)
        previous = at
        at += 2
    fixed = struct.pack("!HHIH", 16, 1, 300, len(chain))
    wire = head + b"\xc0\x0c" + fixed + chain
    for n in range(number):
        wire += struct.pack("!H", 0xC000 | previous) + struct.pack(
            "!HHIHBB", 16, 1, 300, 2, 1, n % 256
        )
    return bytes(wire)


class Hostile(unittest.TestCase):
    def test_chains_of_pointers_are_not_followed(self) -> None:
        wire = chained(1000)
        self.assertLess(seconds(lambda: worth_reading(wire)), 0.5)
        self.assertEqual(worth_reading(wire), b"")

    def test_names_that_lead_nowhere(self) -> None:
        good = response("A", *(RECORDS["A"](n) for n in range(500)))
        first = good.index(b"\xc0\x0c", 20)
        for pointer in (first, 0x3FFF, len(good)):
            broken = good[:first] + struct.pack("!H", 0xC000 | pointer & 0x3FFF) + good[first + 2 :]
            self.assertEqual(worth_reading(broken), b"", pointer)
        for count in (501, 65535):
            broken = good[:6] + struct.pack("!H", count) + good[8:]
            self.assertIsInstance(worth_reading(broken), bytes)
        self.assertEqual(worth_reading(good[: len(good) // 2]), b"")
        self.assertEqual(worth_reading(good[:4] + b"\0\0" + good[6:]), b"")

    @given(st.data())
    def test_any_octets(self, data: st.DataObject) -> None:
        wire = bytearray(response("MX", *(RECORDS["MX"](n) for n in range(100))))
        for _ in range(data.draw(st.integers(1, 8))):
            at = data.draw(st.integers(4, len(wire) - 1))
            wire[at] = data.draw(st.integers(0, 255))
        cut = worth_reading(bytes(wire))
        self.assertLess(len(cut), MOST_DATA + 600)


class OverTheNetwork(TestCase):
    """From a real server, over UDP and then TCP, to the hosts that mail goes to."""

    ZONE = "\n".join(
        [
            *(f"many.example. MX {n} mx{n}.many.example." for n in range(1000)),
            *(f"mx0.many.example. A 198.51.{n >> 8}.{n & 255}" for n in range(1000)),
            *(f"mx{n}.many.example. A 198.51.100.{n}" for n in range(1, 100)),
            f"huge.example. TLSA 3 0 0 {'ab' * 40_000}",
        ]
    )

    def setUp(self) -> None:
        self.server = DnsServer(reactor, self.ZONE)
        self.server.start()
        self.addCleanup(self.server.stop)

    async def test_mail_still_goes_to_the_first_exchangers_of_thousands(self) -> None:
        resolver = Resolver(reactor, [self.server.address])
        directory = Directory(resolver, SelfDetection(["gw.example.com"]))
        found = await directory.resolve("many.example")
        self.assertEqual(len(found), MAX_ENDPOINTS)
        hosts = [each.host.partition(".")[0] for each in found]
        self.assertEqual(hosts, ["mx0"] * 10 + [f"mx{n}" for n in range(1, 11)])
        survey = await directory.survey("many.example")
        self.assertEqual(len(survey.hosts), MOST_RECORDS)
        self.assertIsNone(survey.outcome)

    async def test_an_answer_of_no_sane_size_is_trouble_and_never_an_absence(self) -> None:
        with self.assertRaises(DnsTrouble):
            await Lookup(reactor, [self.server.address]).ask("huge.example", "TLSA")
