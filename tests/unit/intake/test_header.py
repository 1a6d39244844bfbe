from __future__ import annotations

import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.intake.header import HeaderSection, front
from relayd.intake.trace import Hops, TraceField

FIELD = TraceField("gw.example.com")


def read(content: bytes, cuts: list[int] | None = None, *, keep: bool = True) -> HeaderSection:
    section = HeaderSection(FIELD, 1 << 20, keep=keep)
    at = 0
    for cut in [*sorted(set(cuts or [])), len(content)]:
        if cut > at and not section.complete:
            section.receive(content[at:cut])
        at = max(at, cut)
    section.end()
    return section


class Beginnings(unittest.TestCase):
    """What must stand between our trace field and content, and as soon as it is known."""

    CASES = (
        (b"Subject: x\r\n", b""),
        (b"Subject \t: x\r\n", b""),
        (b"!#~9:\r\n", b""),
        (b"\r\nbody\r\n", b""),
        (b" folded\r\n", b"\r\n"),
        (b"\tfolded\r\n", b"\r\n"),
        (b" : x\r\n", b"\r\n"),
        (b": nameless\r\n", b"\r\n"),
        (b".\r\n", b"\r\n"),
        (b"no colon\r\n", b"\r\n"),
        (b"no colon here: but there\r\n", b"\r\n"),
        (b"\xff: x\r\n", b"\r\n"),
        (b"nothing\r\n", b"\r\n"),
        (b"From a@b.test Mon Jan  5 10:00:00 2026\r\n", b"X-Mailbox-Line: "),
        (b">From a@b.test\r\n", b"X-Mailbox-Line: "),
        (b">>From a@b.test\r\n", b"X-Mailbox-Line: "),
        (b"From : a@b.test\r\n", b""),
        (b"Fromage a@b.test\r\n", b"\r\n"),
        (b"x" * 1000, b"\r\n"),
    )

    def test_in_front(self) -> None:
        for content, expected in self.CASES:
            with self.subTest(content[:40]):
                self.assertEqual(front(content), expected)

    def test_however_it_is_cut(self) -> None:
        for content, expected in self.CASES:
            known = [front(content[:size]) for size in range(1, len(content) + 1)]
            with self.subTest(content[:40]):
                self.assertEqual(next(each for each in known if each is not None), expected)
                self.assertEqual({*known} - {None}, {expected})


class Sections(unittest.TestCase):
    def test_ends_with_the_empty_line(self) -> None:
        section = read(b"Subject: x\r\n\r\nbody\r\n\r\nmore")
        self.assertEqual(section.octets, b"Subject: x\r\n\r\n")
        self.assertEqual(section.size, 14)

    def test_empty_section(self) -> None:
        for cuts in ([], [1]):
            section = read(b"\r\nbody\r\n\r\nmore", cuts)
            self.assertEqual((section.size, section.octets), (2, b"\r\n"))

    def test_without_an_empty_line_all_is_header_section(self) -> None:
        self.assertEqual(read(b"Subject: x\r\n").size, 12)
        self.assertEqual(read(b"").size, 0)

    def test_not_kept_when_no_rule_needs_it(self) -> None:
        self.assertEqual(read(b"Subject: x\r\n\r\n", keep=False).octets, b"")

    def test_eight_bit(self) -> None:
        self.assertTrue(read("Subject: ü\r\n\r\n".encode()).eight_bit)
        self.assertFalse(read("Subject: u\r\n\r\nü".encode()).eight_bit)

    @given(
        lines=st.lists(
            st.sampled_from(
                [b"Received: a", b" by b", b"Subject: \xc3\xbc", b"X:y", b"", b"r", b"\tz"]
            ),
            max_size=12,
        ),
        cuts=st.lists(st.integers(0, 100)),
    )
    def test_every_split_of_the_content_tells_the_same(
        self, lines: list[bytes], cuts: list[int]
    ) -> None:
        content = b"\r\n".join(lines)
        whole, split = read(content), read(content, cuts)
        self.assertEqual(
            (whole.size, whole.octets, whole.eight_bit, whole.hops),
            (split.size, split.octets, split.eight_bit, split.hops),
        )

    def test_long_section_is_counted_and_let_go(self) -> None:
        content = b"Received: from a by b; now\r\n" * 20_000 + b"\r\nReceived: body\r\n"
        for piece in (1000, 1448, 65536):
            section = HeaderSection(FIELD, 1 << 20, keep=False)
            held = 0
            for at in range(0, len(content), piece):
                if not section.complete:
                    section.receive(content[at : at + piece])
                    held = max(held, len(section._buffer))
            self.assertEqual(section.hops, Hops(20_000))
            self.assertEqual(section.size, 20_000 * 28 + 2)
            self.assertLess(held, 3 * 65536)

    def test_forgotten_nothing_of_it_is_held(self) -> None:
        for content in (b"Subject: x\r\n\r\n", b"Subject: not over yet"):
            section = HeaderSection(FIELD, 1 << 20, keep=True)
            section.receive(content)
            self.assertGreater(section.held, 0)
            section.forget()
            self.assertEqual((section.held, section.octets), (0, b""))

    def test_over_the_limit(self) -> None:
        section = HeaderSection(FIELD, 1000, keep=True)
        section.receive(b"X: " + b"y" * 900 + b"\r\n")
        self.assertFalse(section.oversize)
        section.receive(b"X: " + b"y" * 900 + b"\r\n")
        self.assertTrue(section.oversize)
        self.assertTrue(section.complete)
        whole = HeaderSection(FIELD, 1000, keep=True)
        whole.receive(b"X: " + b"y" * 1900 + b"\r\n\r\n")
        self.assertTrue(whole.oversize)
