"""The canonical forms of RFC 6376 section 3.4; any cut of the body gives the same."""

from __future__ import annotations

import hashlib
import time
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.authentication.canonical import (
    BodyHash,
    RelaxedBody,
    SimpleBody,
    fields,
    relaxed_field,
)

BODY = b" C \r\nD \t E\r\n\r\n\r\n"  # section 3.4.5, example 1
PIECES = st.lists(
    st.sampled_from([b" ", b"\t", b"\r\n", b"a", b".", b"word", b"\xc3\xa9", b" \r\n"]), max_size=40
)


def plain(relaxed: bool, body: bytes) -> bytes:
    """The form of a whole body, written as the RFC says it."""
    lines = body.split(b"\r\n")
    if relaxed:
        lines = [b" ".join(_words(line)) for line in lines]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        return b"" if relaxed else b"\r\n"
    return b"\r\n".join(lines) + b"\r\n"


def _words(line: bytes) -> list[bytes]:
    line = line.replace(b"\t", b" ").rstrip(b" ")
    first, *others = line.split(b" ")
    return [first, *(word for word in others if word)]


class Bodies(unittest.TestCase):
    def test_the_rfcs_own_example(self) -> None:
        for form, result in (
            (RelaxedBody(), b" C\r\nD E\r\n"),
            (SimpleBody(), b" C \r\nD \t E\r\n"),
        ):
            self.assertEqual(form.feed(BODY) + form.finish(), result)

    def test_an_empty_body(self) -> None:
        for body in (b"", b"\r\n", b"\r\n\r\n"):
            for form, result in ((RelaxedBody(), b""), (SimpleBody(), b"\r\n")):
                self.assertEqual(form.feed(body) + form.finish(), result)

    @given(PIECES, st.lists(st.integers(0, 60), max_size=6), st.booleans())
    def test_however_it_is_cut(self, pieces: list[bytes], cuts: list[int], relaxed: bool) -> None:
        body = b"".join(pieces) + b"\r\n"
        form = RelaxedBody() if relaxed else SimpleBody()
        done, at = b"", 0
        for cut in [*sorted(cuts), len(body)]:
            done += form.feed(body[at:cut])
            at = max(at, cut)
        self.assertEqual(done + form.finish(), plain(relaxed, body))

    def test_lengths_of_one_form_share_its_work(self) -> None:
        hashes = BodyHash(relaxed=True)
        for length in (None, 3, 0, 100):
            hashes.of(length)
        hashes.feed(b"ab")
        hashes.feed(b"cd  e\r\n")
        form = b"abcd e\r\n"
        self.assertEqual(
            hashes.finish(),
            {n: hashlib.sha256(form[:n]).digest() for n in (None, 3, 0, 100)},
        )
        self.assertEqual(hashes.octets, 8)

    def test_white_space_without_end_is_not_kept(self) -> None:
        form = RelaxedBody()
        before = time.process_time()
        for _ in range(1000):
            self.assertEqual(form.feed(b" \t\r\n" * 1000), b"")
        self.assertLess(time.process_time() - before, 2.0)
        self.assertEqual(form.feed(b"x"), b"\r\n" * 1_000_000 + b"x")


class Fields(unittest.TestCase):
    def test_the_rfcs_own_example(self) -> None:
        section = b"A: X\r\nB : Y\t\r\n\tZ  \r\n\r\n"
        self.assertEqual(
            [relaxed_field(field.octets) for field in fields(section)], [b"a:X", b"b:Y Z"]
        )
        self.assertEqual(
            [field.octets for field in fields(section)], [b"A: X", b"B : Y\t\r\n\tZ  "]
        )

    def test_what_is_no_field_is_passed_over(self) -> None:
        section = b"From nobody\r\nA: x\r\n: y\r\nb c: z\r\nD:\r\n\r\n"
        self.assertEqual([field.name for field in fields(section)], [b"a", b"d"])
