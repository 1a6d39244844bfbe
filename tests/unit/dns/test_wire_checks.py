"""What decides whether a datagram is an answer, and how names are spelt: for any input."""

from __future__ import annotations

import unittest
from contextlib import suppress

import dns.message
import dns.name
from hypothesis import given
from hypothesis import strategies as st

from relayd.dns.backend import answers
from relayd.dns.names import fold_name, name_text, wire_name

LABEL = st.text("abcXYZ019-_", min_size=1, max_size=12)
NAME = st.lists(LABEL, min_size=1, max_size=6).map(".".join)
QUERY = dns.message.make_query("mx.example.com.", "MX").to_wire()


class Datagrams(unittest.TestCase):
    @given(st.binary(max_size=80))
    def test_any_octets_get_a_verdict(self, datagram: bytes) -> None:
        answers(datagram, QUERY)

    @given(NAME, st.sampled_from(["A", "MX", "TXT"]))
    def test_an_answer_in_any_case_is_one(self, name: str, rdtype: str) -> None:
        query = dns.message.make_query(wire_name(name), rdtype)
        response = dns.message.make_response(query).to_wire()
        self.assertTrue(answers(response, query.to_wire()))
        shouted = response[:12] + response[12:].upper()
        if rdtype != "A":  # its type is 1; upper case changes letters only
            self.assertTrue(answers(shouted, query.to_wire()))

    @given(st.integers(0, 11), st.integers(0, 7))
    def test_one_bit_of_the_id_or_the_question_is_enough_to_refuse(self, n: int, bit: int) -> None:
        response = bytearray(dns.message.make_response(dns.message.from_wire(QUERY)).to_wire())
        at = (0, 1, 4, 12, 13, 16, 20, 24, 28, 29, 30, 31)[n]
        response[at] ^= 1 << bit
        other_case = at >= 12 and response[at : at + 1].isalpha() and bit == 5
        self.assertEqual(answers(bytes(response), QUERY), other_case)

    def test_a_refusal_may_lack_the_question(self) -> None:
        for rcode, taken in ((1, True), (2, True), (4, True), (5, True), (0, False), (3, False)):
            bare = QUERY[:2] + bytes([0x80, rcode]) + bytes(8)
            self.assertEqual(answers(bare, QUERY), taken, rcode)


class Names(unittest.TestCase):
    @given(NAME)
    def test_text_and_wire_agree(self, name: str) -> None:
        self.assertEqual(name_text(wire_name(name)), name)
        self.assertEqual(wire_name(name), wire_name(name + "."))
        self.assertEqual(wire_name(name), dns.name.from_text(name))
        self.assertEqual(fold_name(name.upper() + "."), fold_name(name))

    @given(st.text(max_size=300))
    def test_any_text_is_a_name_or_a_value_error(self, text: str) -> None:
        with suppress(ValueError):
            wire_name(text)

    def test_root(self) -> None:
        self.assertEqual(wire_name("."), dns.name.root)
        self.assertEqual(name_text(dns.name.root), ".")
        self.assertEqual(fold_name("."), ".")
