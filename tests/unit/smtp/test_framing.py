"""Where lines and content begin and end, wherever the octets are cut."""

from __future__ import annotations

import re
import unittest

from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.reply import Reply
from relayd.smtp.framing import (
    DataScanner,
    DotStuffer,
    Lines,
    LineTooLong,
    Normaliser,
    Purity,
    TornLine,
)
from relayd.smtp.replies import (
    MAX_LINE,
    MAX_LINES,
    MAX_TEXT,
    ReplyError,
    ReplyReader,
    encode,
)
from tests.unit.smtp.strategies import BOUNDED, clean_content, dirty_content, with_cuts


def stuffed(content: bytes) -> bytes:
    """RFC 5321 section 4.5.2, said in the simplest way."""
    lines = content.split(b"\r\n")
    if not lines[-1]:
        lines.pop()
    return b"".join((b"." if line[:1] == b"." else b"") + line + b"\r\n" for line in lines) + (
        b".\r\n"
    )


class TestDotStuffer(unittest.TestCase):
    @given(with_cuts(clean_content))
    @BOUNDED
    def test_cut_anywhere_it_stuffs_as_the_whole(self, pieces: list[bytes]) -> None:
        stuffer = DotStuffer()
        wire = b"".join([stuffer.feed(piece) for piece in pieces]) + stuffer.finish()
        self.assertEqual(wire, stuffed(b"".join(pieces)))

    def test_every_cut_of_a_dotted_line(self) -> None:
        content = b".\r\n.\r\n..a\r\n.\r\n\r\n."
        for first in range(len(content) + 1):
            for second in range(first, len(content) + 1):
                stuffer = DotStuffer()
                wire = stuffer.feed(content[:first]) + stuffer.feed(content[first:second])
                wire += stuffer.feed(content[second:]) + stuffer.finish()
                self.assertEqual(wire, b"..\r\n..\r\n...a\r\n..\r\n\r\n..\r\n.\r\n")

    def test_empty(self) -> None:
        self.assertEqual(DotStuffer().finish(), b".\r\n")

    def test_missing_line_end_is_added(self) -> None:
        stuffer = DotStuffer()
        self.assertEqual(stuffer.feed(b"x") + stuffer.finish(), b"x\r\n.\r\n")


class TestDataScanner(unittest.TestCase):
    @given(with_cuts(clean_content.map(lambda content: stuffed(content) + b"RSET\r\n.\r\n")))
    @BOUNDED
    def test_inverse_of_stuffing(self, pieces: list[bytes]) -> None:
        wire = b"".join(pieces)
        scanner = DataScanner()
        content, seen = b"", 0
        for piece in pieces:
            seen += len(piece)
            got, left = scanner.feed(piece)
            content += got
            if left is not None:
                self.assertEqual(wire[seen - left :], b"RSET\r\n.\r\n")
                break
        else:
            self.fail("no end found")
        self.assertEqual(stuffed(content), wire[: seen - left])

    @given(with_cuts(dirty_content))
    @BOUNDED
    def test_only_crlf_dot_crlf_ends(self, pieces: list[bytes]) -> None:
        wire = b"".join(pieces)
        end = (b"\r\n" + wire).find(b"\r\n.\r\n")
        scanner = DataScanner()
        seen = 0
        for piece in pieces:
            seen += len(piece)
            _, left = scanner.feed(piece)
            if left is not None:
                self.assertEqual(seen - left, end + 3)
                return
        self.assertEqual(end, -1)

    @given(with_cuts(dirty_content))
    @BOUNDED
    def test_little_is_held_back(self, pieces: list[bytes]) -> None:
        scanner = DataScanner()
        given_, got = 0, 0
        for piece in pieces:
            content, left = scanner.feed(piece)
            if left is not None:
                return
            given_ += len(piece)
            got += len(content) + content.count(b"\r\n")  # at most one dot went per line end
            self.assertLessEqual(given_ - got, 5)


class TestPurity(unittest.TestCase):
    @given(with_cuts(dirty_content))
    @BOUNDED
    def test_first_offence_is_found_where_it_is(self, pieces: list[bytes]) -> None:
        whole = b"".join(pieces)
        match = re.search(rb"\r(?!\n)|(?<!\r)\n|\0", whole)
        purity = Purity()
        before = 0
        for piece in pieces:
            offence = purity.offence(piece)
            if offence is not None:
                assert match is not None
                self.assertEqual(before + offence, match.start())
                return
            before += len(piece)
        if purity.unfinished:
            assert match is not None
            self.assertEqual(match.start(), len(whole) - 1)
        else:
            self.assertIsNone(match)


class TestNormaliser(unittest.TestCase):
    @given(with_cuts(dirty_content))
    @BOUNDED
    def test_result_is_clean_and_the_same_for_every_cut(self, pieces: list[bytes]) -> None:
        normaliser = Normaliser()
        clean = b"".join([normaliser.feed(piece) for piece in pieces]) + normaliser.finish()
        whole = b"".join(pieces)
        self.assertEqual(clean, re.sub(rb"\r\n|\r|\n", b"\r\n", whole).replace(b"\0", b""))
        self.assertIsNone(Purity().offence(clean))


class TestLines(unittest.TestCase):
    @given(
        with_cuts(
            st.lists(
                st.sampled_from([b"abc", b"\r\n", b"\r", b"\n", b"x" * 9, b"y" * 30]), max_size=12
            ).map(b"".join)
        )
    )
    @BOUNDED
    def test_every_cut_gives_the_same_lines(self, pieces: list[bytes]) -> None:
        *whole, _ = b"".join(pieces).split(b"\n")
        expected: list[tuple[str, bytes]] = []
        torn = False
        for each in whole:
            complete = each.endswith(b"\r")
            if complete and torn:
                expected.append(("rest", each[:18]))
            elif len(each) + 1 > 20:
                expected.append(("too long", each[:18]))
            else:
                expected.append(("whole", each[:-1]) if complete else ("torn", each))
            torn = not complete
        lines = Lines()
        got: list[tuple[str, bytes]] = []
        for piece in pieces:
            lines.append(piece)
            while True:
                try:
                    line = lines.line(20)
                except LineTooLong as error:
                    got.append(("too long", error.beginning[:18]))
                    continue
                except TornLine as error:
                    got.append(
                        ("rest", error.line[:18]) if error.complete else ("torn", error.line)
                    )
                    continue
                if line is None:
                    break
                got.append(("whole", line))
            self.assertLessEqual(len(lines), 20)
        self.assertEqual(got, expected)


class TestReplyReader(unittest.TestCase):
    WIRE = b"220 hi\r\n250-a\r\n250-\r\n250 b c\r\n354\r\n550 5.1.1 no such\nno\r\n"

    def read(self, *pieces: bytes) -> list[Reply]:
        reader = ReplyReader()
        got = []
        for piece in pieces:
            reader.append(piece)
            while (reply := reader.next()) is not None:
                got.append(reply)
        return got

    def test_every_cut(self) -> None:
        wire = self.WIRE[:-4]
        expected = [
            Reply.bare(220, "hi"),
            Reply.bare(250, "a", "", "b c"),
            Reply.bare(354, ""),
            Reply.of(550, "5.1.1", "no such"),
        ]
        for at in range(len(wire) + 1):
            self.assertEqual(self.read(wire[:at], wire[at:]), expected)
        self.assertEqual(self.read(*[wire[n : n + 1] for n in range(len(wire))]), expected)

    def test_nonsense(self) -> None:
        for nonsense in (
            b"hello\r\n",
            b"\r\n",
            b"25\r\n",
            b"2500\r\n",
            b"250_ok\r\n",
            b"150 go on\r\n",
            b"650 x\r\n",
            b"\xb2\xb2\xb2 x\r\n",
            b"250-a\r\n251 b\r\n",
            b"250-a\r\nhello\r\n",
            b"250-a\r\n\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
        ):
            with self.subTest(nonsense=nonsense), self.assertRaises(ReplyError):
                self.read(nonsense)

    def test_bounds(self) -> None:
        self.assertEqual(len(self.read(b"250 " + b"x" * (MAX_LINE - 6) + b"\r\n")), 1)
        with self.assertRaises(ReplyError):
            self.read(b"250 " + b"x" * (MAX_LINE - 5) + b"\r\n")
        with self.assertRaises(ReplyError):
            self.read(b"250 " + b"x" * MAX_LINE)  # not even a line end
        self.assertEqual(len(self.read(b"250-x\r\n" * (MAX_LINES - 1) + b"250 y\r\n")), 1)
        with self.assertRaises(ReplyError):
            self.read(b"250-x\r\n" * (MAX_LINES + 1))

    def test_text_is_made_safe(self) -> None:
        [reply] = self.read(b"550 5.7.1 a\x1b[31m\xff\xe2\x80\xa8b\rc\r\n")
        self.assertEqual(reply.text, "a [31m\ufffd b c")

    def test_pending(self) -> None:
        reader = ReplyReader()
        self.assertFalse(reader.pending)
        reader.append(b"250-a\r\n")
        self.assertIsNone(reader.next())
        self.assertTrue(reader.pending)
        reader.append(b"250 b\r\n")
        self.assertIsNotNone(reader.next())
        self.assertFalse(reader.pending)


class TestEncode(unittest.TestCase):
    def test_plain(self) -> None:
        self.assertEqual(encode(Reply.of(250, "2.0.0", "Ok")), b"250 2.0.0 Ok\r\n")
        self.assertEqual(encode(Reply.bare(250, "a", "b")), b"250-a\r\n250 b\r\n")
        self.assertEqual(encode(Reply.bare(354)), b"354 \r\n")

    def test_line_ends_in_the_text_make_no_lines(self) -> None:
        evil = Reply.of(550, "5.7.1", "no\r\n250 yes\nx\ry")
        self.assertEqual(encode(evil), b"550 5.7.1 no 250 yes x y\r\n")

    def test_long_text_is_folded(self) -> None:
        lines = encode(Reply.of(550, "5.7.1", "x" * 1000)).split(b"\r\n")
        self.assertEqual([len(line) for line in lines], [490, 490, 50, 0])
        self.assertTrue(all(line[:4] in (b"550-", b"550 ") for line in lines[:-1]))

    def test_text_beyond_ascii_only_with_smtputf8(self) -> None:
        reply = Reply.of(550, "5.1.1", "no jürgen")
        self.assertEqual(encode(reply), b"550 5.1.1 no j?rgen\r\n")
        self.assertEqual(encode(reply, smtputf8=True), "550 5.1.1 no jürgen\r\n".encode())

    @given(st.integers(200, 599), st.text(), st.booleans())
    @BOUNDED
    def test_never_breaks_its_lines(self, code: int, text: str, smtputf8: bool) -> None:
        wire = encode(Reply(code, 1, 1, (text,)), smtputf8=smtputf8)
        for line in wire.split(b"\r\n")[:-1]:
            self.assertTrue(line.startswith(b"%d" % code))
            self.assertLessEqual(len(line), MAX_TEXT + 30)
        self.assertEqual(wire.count(b"\r"), wire.count(b"\r\n"))
        self.assertEqual(wire.count(b"\n"), wire.count(b"\r\n"))
