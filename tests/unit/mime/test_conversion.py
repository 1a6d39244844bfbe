"""8-bit content in 7 bits (RFC 6152 section 3): Python's `email` reads the same parts of both."""

from __future__ import annotations

import email
import itertools
import unittest
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.mail.content import BARE, CHUNK, BytesContent, Content
from relayd.mime.conversion import ConvertedContent, converted
from relayd.mime.survey import MAX_DEPTH, MAX_EDITS, MAX_SECTION, Unconvertible
from tests.scenarios.corpus import corpus

Parts = list[tuple[int, str, str | None, bytes | None]]


class Pieces:
    """A content that comes in pieces of this size, as from a file."""

    pure = True

    def __init__(self, data: bytes, piece: int) -> None:
        self._data = data
        self._piece = piece
        self.size = len(data)

    def chunks(self, start: int = 0) -> Iterator[bytes]:
        for at in range(start, len(self._data), self._piece):
            yield self._data[at : at + self._piece]

    def tail(self, count: int) -> bytes:
        return self._data[-count:]


async def no_turn() -> None:
    """There are no others."""


def convert(content: Content) -> ConvertedContent | None:
    waiting = converted(content, no_turn)
    try:
        waiting.send(None)
    except StopIteration as done:
        found: ConvertedContent | None = done.value
        return found
    raise AssertionError("it waits for somebody")


def in_seven_bits(data: bytes, piece: int = 0) -> bytes:
    """What leaves, as DATA has it: with a CRLF at its end."""
    content = Pieces(data, piece) if piece else BytesContent(data)
    found = convert(content)
    made = data if found is None else b"".join(found.chunks())
    return made if made.endswith(b"\r\n") else made + b"\r\n"


def parts(data: bytes) -> Parts:
    """The tree as a reader sees it: depth, type, name of a file, and decoded octets of leaves."""

    def walk(part: email.message.Message, depth: int) -> Iterator[tuple]:  # type: ignore[type-arg]
        payload = None if part.is_multipart() else part.get_payload(decode=True)
        yield depth, part.get_content_type(), part.get_filename(), payload
        if part.is_multipart():
            for each in part.get_payload():
                yield from walk(each, depth + 1)  # type: ignore[arg-type]

    return list(walk(email.message_from_bytes(data), 0))


def leaves(data: bytes) -> list[bytes | None]:
    return [each[3] for each in parts(data)]


def signatures(data: bytes) -> str:
    found = convert(BytesContent(data))
    assert found is not None
    return found.signatures


HEAD = b"Subject: x\r\nMIME-Version: 1.0\r\n"
MIXED = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"

# -- any tree ------------------------------------------------------------------------------------

_WORDS = st.sampled_from(
    [
        *(
            b"a",
            b" ",
            b"\t",
            b".",
            b"=",
            b"=E4",
            b"--",
            b"--b0",
            b"--b1--",
            b"From ",
            b"\r\n",
            b"-",
        ),
        *(b"\r\n.\r\n", b"\xe4", "grün".encode(), "Привет".encode(), b"\xff\xfe", b"x" * 75),
        b"y" * 1200,
    ]
)
_BODY = st.lists(_WORDS, max_size=12).map(b"".join)
_ENCODINGS = st.sampled_from([b"", b"7bit", b"8bit", b"8BIT", b"binary", b"x-unknown", b" 8bit "])
_TYPES = st.sampled_from(
    [
        *(b"", b"text/plain", b'text/plain; charset="utf-8"', b"text/html", b"nonsense"),
        *(b"application/octet-stream", b'image/png;\r\n name="a;b.png"', b"text/x; a=b; c"),
    ]
)


def _field(name: bytes, value: bytes) -> bytes:
    return name + b": " + value + b"\r\n" if value else b""


def _leaf(kind: bytes, encoding: bytes, body: bytes) -> bytes:
    # a body that begins or ends one of the boundaries around it would be another tree
    return (
        _field(b"Content-Type", kind)
        + _field(b"Content-Transfer-Encoding", encoding)
        + b"\r\n"
        + body.replace(b"\r\n--b", b"\r\n-_b").removeprefix(b"--b")
    )


def _multipart(
    children: list[bytes], kind: bytes, encoding: bytes, around: bytes, *, closed: bool
) -> bytes:
    mark = b"b%d" % (max((each.count(b"boundary=") for each in children), default=0) * 3)
    while any(b"--" + mark in each for each in children) or b"--" + mark in around:
        mark += b"x"
    around = around.replace(b"\r\n--b", b"\r\n-_b").removeprefix(b"--b")
    text = _field(b"Content-Type", b"multipart/" + kind + b'; boundary="' + mark + b'"')
    text += _field(b"Content-Transfer-Encoding", encoding) + b"\r\n" + around + b"\r\n"
    for each in children:
        text += b"--" + mark + b"\r\n" + each + b"\r\n"
    return text + (b"--" + mark + b"--\r\n" + around if closed else b"")


_LEAVES = st.builds(_leaf, _TYPES, _ENCODINGS, _BODY)
_TREES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.builds(
            _multipart,
            st.lists(inner, min_size=1, max_size=3),
            st.sampled_from([b"mixed", b"alternative", b"signed"]),
            st.sampled_from([b"", b"8bit", b"binary"]),
            _BODY,
            closed=st.booleans(),
        ),
        st.builds(
            lambda each: b"Content-Type: message/rfc822\r\n\r\nMIME-Version: 1.0\r\n" + each, inner
        ),
    ),
    max_leaves=6,
)


class ConversionTests(unittest.TestCase):
    def same(self, data: bytes, piece: int = 0) -> bytes:
        made = in_seven_bits(data, piece)
        self.assertTrue(made.isascii(), made)
        self.assertIsNone(BARE.search(made), made)
        self.assertEqual(parts(made), parts(data))
        return made

    def refused(self, data: bytes) -> str:
        with self.assertRaises(Unconvertible) as caught:
            in_seven_bits(data)
        return str(caught.exception)

    def test_the_corpus_decodes_to_the_same_parts(self) -> None:
        changed = 0
        for sample in corpus():
            with self.subTest(sample.name):
                if sample.utf8_header:
                    self.assertEqual(
                        self.refused(sample.content), "8-bit header fields are not converted"
                    )
                    continue
                made = self.same(sample.content)
                changed += made != sample.content
                self.assertEqual(made == sample.content, not sample.eight_bit)
        self.assertGreater(changed, 30)

    @settings(max_examples=150, deadline=None)
    @given(_TREES, st.integers(1, 200))
    def test_any_tree_decodes_to_the_same_parts(self, tree: bytes, piece: int) -> None:
        data = HEAD + tree
        seen = parts(data)
        try:
            made = in_seven_bits(data)
        except Unconvertible:
            self.assertIn(b"multipart/", tree)
            return
        self.assertTrue(made.isascii())
        self.assertEqual([each[:3] for each in parts(made)], [each[:3] for each in seen])
        # DATA adds a CRLF to what has none, as ever; but not to what is encoded
        self.assertIn(leaves(made), (leaves(data), leaves(data + b"\r\n")))
        self.assertEqual(in_seven_bits(data, piece), made)

    @settings(max_examples=60, deadline=None)
    @given(_TREES, st.integers(1, 50))
    def test_however_it_is_cut_the_same_leaves(self, tree: bytes, piece: int) -> None:
        data = HEAD + tree
        self.assertEqual(in_seven_bits(data, piece), in_seven_bits(data))

    def test_mail_in_seven_bits_is_not_touched(self) -> None:
        self.assertIsNone(
            convert(BytesContent(HEAD + b"Content-Transfer-Encoding: 8bit\r\n\r\nhello\r\n"))
        )
        self.assertIsNone(convert(BytesContent(b"")))

    def test_a_leaf_gets_another_encoding_and_keeps_its_other_fields(self) -> None:
        data = (
            b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: 8bit\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
            b"Gr\xc3\xbc\xc3\x9fe vom weiten Meer \r\n.\r\n"
        )
        self.assertEqual(
            self.same(data),
            b"Subject: x\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: quoted-printable\r\n"
            b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
            b"Gr=C3=BC=C3=9Fe vom weiten Meer=20\r\n.\r\n",
        )

    def test_the_shorter_encoding_is_taken(self) -> None:
        for body, encoding in (
            ("a" * 60 + "ü\r\n", b"quoted-printable"),
            ("Привет\r\n", b"base64"),
        ):
            made = self.same(
                HEAD + b"Content-Type: text/plain; charset=utf-8\r\n\r\n" + body.encode() * 9
            )
            self.assertIn(b"Content-Transfer-Encoding: " + encoding + b"\r\n", made)
            self.assertLess(max(map(len, made.split(b"\r\n"))), 77)

    def test_what_is_no_text_goes_in_base64(self) -> None:
        made = self.same(
            HEAD + b"Content-Type: application/x\r\n\r\n" + b"a\r\n" * 99 + b"\xff\r\n"
        )
        self.assertIn(b"Content-Transfer-Encoding: base64\r\n", made)

    def test_a_message_without_mime_gets_its_fields(self) -> None:
        for body, charset in (
            (b"gr\xc3\xbcn ist es\r\n", b"utf-8"),
            (b"gr\xfcn ist es\r\n", b"unknown-8bit"),
        ):
            made = self.same(b"Subject: x\r\n\r\n" + body)
            self.assertIn(
                b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=" + charset + b"\r\n"
                b"Content-Transfer-Encoding: quoted-printable\r\n\r\n",
                made,
            )
            self.assertEqual(parts(made)[0][3], body)
        # a letter that is torn
        self.assertIn(
            b"unknown-8bit", in_seven_bits(b"Subject: x\r\n\r\nlong enough to be text\xc3")
        )

    def test_a_version_is_added_where_only_that_is_missing(self) -> None:
        made = self.same(
            b"Content-Type: text/plain; charset=utf-8\r\n\r\nlong enough to be text \xc3\xbc\r\n"
        )
        self.assertEqual(made.count(b"MIME-Version: 1.0\r\n"), 1)
        self.assertEqual(made.count(b"Content-Type:"), 1)

    def test_composites_are_never_encoded_and_say_seven_bits(self) -> None:
        inner = b"Subject: i\r\n\r\ninner m\xe4il that is long\r\n"
        for kind in (b"message/rfc822", b"message/global", b"message/news"):
            data = (
                HEAD + b"Content-Transfer-Encoding: 8bit\r\n" + MIXED + b""
                b"--b\r\nContent-Type: "
                + kind
                + b"\r\nContent-Transfer-Encoding: binary\r\n\r\n"
                + inner
                + b"\r\n--b--\r\n"
            )
            made = self.same(data)
            self.assertEqual(made.count(b"Content-Transfer-Encoding: 7bit\r\n"), 2)
            self.assertEqual(made.count(b"Content-Transfer-Encoding: quoted-printable\r\n"), 1)

    def test_parts_of_a_digest_are_messages(self) -> None:
        data = (
            HEAD + b"Content-Type: multipart/digest; boundary=b\r\n\r\n--b\r\n\r\n"
            b"Subject: one\r\n\r\ngr\xfcn und noch mehr Text\r\n"
            b"--b\r\n\r\nSubject: two\r\n\r\nplain\r\n--b--\r\n"
        )
        self.assertIn(
            b"Subject: one\r\nMIME-Version: 1.0\r\nContent-Type: text/plain", self.same(data)
        )

    def test_around_the_parts_question_marks_stand(self) -> None:
        data = HEAD + MIXED + b"pre\xe4mble\r\n--b\r\n\r\nplain\r\n--b--\r\nepilog\xfce\r\n"
        made = self.same(data)
        self.assertIn(b"\r\npre?mble\r\n", made)
        self.assertTrue(made.endswith(b"\r\nepilog?e\r\n"))

    def test_nothing_that_is_encoded_becomes_a_boundary(self) -> None:
        line = b"\xe4" + b"x" * 72 + b"--b--" + b"y" * 80
        data = HEAD + MIXED + b"--b\r\n\r\n" + line
        data += b"\r\n--bb\r\n--b \r\n\r\nlast\r\n--b--\r\n"
        self.assertEqual(len(parts(self.same(data))), 3)
        for count in range(60, 80):
            text = HEAD + MIXED + b"--b\r\n\r\n"
            text += b"x" * count + b"--b--" + b"y" * 9 + b"--b" * 40 + b"\xe4\r\n--b--\r\n"
            self.same(text)

    def test_an_outer_boundary_ends_inner_parts(self) -> None:
        inner = MIXED.replace(b"=b", b"=in") + b"--in\r\n\r\ninner \xe4 and more to say"
        data = HEAD + b"Content-Type: multipart/mixed; boundary=out\r\n\r\n--out\r\n" + inner
        self.same(
            data
            + b"\r\n--out\r\n\r\nouter \xf6 and more to say\r\n--in\r\n\r\nstill\r\n--out--\r\n"
        )

    def test_boundaries_in_every_spelling(self) -> None:
        for spelt, mark in (
            (b'boundary="a b"', b"a b"),
            (b"Boundary = b ; x=y", b"b"),
            (b'x="; boundary=no"; boundary=yes', b"yes"),
            (b'boundary="a\\"b"', b'a"b'),
            (b"charset=x;\r\n\tboundary=folded", b"folded"),
            (b'boundary="b  "', b"b"),
            (b"boundary=b--", b"b--"),
        ):
            data = HEAD + b"Content-Type: multipart/mixed; " + spelt + b"\r\n\r\n--" + mark
            data += b"\r\n\r\ngr\xfcn und noch mehr Text\r\n--" + mark + b"--  \r\n"
            with self.subTest(spelt):
                self.assertIn(b"gr=FCn", self.same(data))

    def test_what_is_broken_is_read_as_others_read_it(self) -> None:
        multipart = MIXED
        for data in (
            HEAD + multipart + b"--b\r\n\xe4 begins without a header and goes on\r\n--b--\r\n",
            HEAD
            + multipart
            + b"--b\r\nContent-Type: text/html\r\n--b\r\n\r\n\xe4 and then some more\r\n--b--\r\n",
            HEAD + multipart + b"--b\r\n\r\n\xe4 never closed and goes on\r\n",
            HEAD + multipart + b"--b\r\n\r\nx\r\n--b--\r\n\xe4\r\n--b\r\n\r\n\xe4\r\n",
            HEAD
            + multipart
            + b"--b\r\n"
            + multipart
            + b"--b\r\n\r\n\xe4 the same name and more\r\n--b--\r\n",
            HEAD + b"Content-Type: text\r\n\r\n\xe4 is no type but some text\r\n",
            HEAD + b"Content-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: base64\r\n"
            b"\r\n\xe4 twice, and more\r\n",
            b"no header at all \xe4\r\n",
            b"\r\n\xe4 body only and some more text\r\n",
        ):
            with self.subTest(data):
                self.assertTrue(in_seven_bits(data).isascii())
                if data.startswith(HEAD):
                    self.same(data)

    def test_encoded_parts_with_octets_that_have_no_place_there(self) -> None:
        quoted = HEAD + b"Content-Transfer-Encoding: quoted-printable\r\n\r\na=E4\xf6=\r\n b \r\n"
        self.assertTrue(self.same(quoted).endswith(b"\r\n\r\na=E4=F6=\r\n b \r\n"))
        base64 = HEAD + b"Content-Transfer-Encoding: base64\r\n\r\naGVs\xa0bG8=\r\n"
        self.assertTrue(self.same(base64).endswith(b"\r\n\r\naGVsbG8=\r\n"))

    def test_no_octet_is_added_at_the_end(self) -> None:
        for kind, end in itertools.product(
            (b"text/plain", b"application/x"), (b"", b"\r\n", b" ", b"\r\n\r\n")
        ):
            data = HEAD + b"Content-Type: " + kind + b"\r\n\r\ngr\xfcn und noch mehr Text" + end
            made = in_seven_bits(data)
            self.assertEqual(parts(made), parts(data), (kind, end))

    def test_what_is_bare_is_encoded_too(self) -> None:
        for kind in (b"text/plain", b"application/x"):
            data = (
                HEAD
                + b"Content-Type: "
                + kind
                + b"\r\n\r\na\0b\rc\nd\xff and some more text to it\r\n"
            )
            made = in_seven_bits(data)
            self.assertIsNone(BARE.search(made))
            self.assertEqual(parts(made)[0][3], b"a\0b\rc\nd\xff and some more text to it\r\n")

    def test_lines_of_any_length(self) -> None:
        for size, piece in ((997, 0), (5000, 100), (300_000, 4096), (100_000, 1)):
            data = (
                HEAD
                + b"Content-Type: text/plain\r\n\r\n"
                + (b"x y" * size)[:size]
                + b"\xe4\r\nend\r\n"
            )
            made = self.same(data, piece)
            self.assertLess(max(map(len, made.split(b"\r\n"))), 77)

    def test_what_cannot_be_read_back_is_not_converted(self) -> None:
        deep = b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
            for n in range(MAX_DEPTH + 1)
        )
        many = HEAD + MIXED + b"--b\r\n\r\n\xff\r\n" * MAX_EDITS
        for data, why in (
            (b"Subject: gr\xc3\xbcn\r\n\r\nx\r\n", "8-bit header fields"),
            (b"Subject: x\r\n \xff\r\n\r\nx\r\n", "8-bit header fields"),
            (
                HEAD + MIXED + b"--b\r\n"
                b'Content-Disposition: attachment; filename="\xe4.txt"\r\n\r\nx\r\n--b--\r\n',
                "8-bit header fields",
            ),
            (
                HEAD + b"Content-Type: message/rfc822\r\n\r\nSubject: \xe4\r\n\r\n",
                "8-bit header fields",
            ),
            (HEAD + b"Content-Type: multipart/mixed\r\n\r\n\xe4\r\n", "without parts"),
            (
                HEAD + MIXED + b"\xe4\r\n--b--\r\n",
                "without parts",
            ),
            (HEAD + b"Content-Type: message/partial; id=x\r\n\r\n\xe4\r\n", "in partial"),
            (HEAD + b"Content-Transfer-Encoding: x-uuencode\r\n\r\n\xe4\r\n", "in x-uuencode"),
            (HEAD + deep + b"\r\n\xe4\r\n", "too deep"),
            (many, "too many parts"),
            (HEAD + b"A: " + b"x" * MAX_SECTION + b"\r\n\r\n\xe4\r\n", "too long"),
            (HEAD + b"A: x\r\n" * (MAX_SECTION // 6) + b"\r\n\xe4\r\n", "too long"),
        ):
            with self.subTest(why):
                self.assertIn(why, self.refused(data))

    def test_broken_signatures_are_named(self) -> None:
        body = b"gr\xfcn und noch mehr Text\r\n"
        plain = b"Content-Type: text/plain\r\n\r\n" + body
        dkim = b"DKIM-Signature: v=1; a=rsa-sha256;\r\n\td=example.com; s=x; b=AAAA\r\n"
        self.assertEqual(signatures(HEAD + plain), "")
        self.assertEqual(signatures(dkim + HEAD + plain), "DKIM of example.com")
        self.assertEqual(
            signatures(b"ARC-Message-Signature: i=1; d=a.test\r\n" + HEAD + plain), "ARC of a.test"
        )
        signed = b"Content-Type: multipart/signed; boundary=b\r\n\r\n--b\r\n" + plain
        signed += b"\r\n--b\r\nContent-Type: application/pgp-signature\r\n\r\nx\r\n--b--\r\n"
        self.assertEqual(signatures(HEAD + signed), "multipart/signed")
        # what is beside it is not signed by it
        outer = b"Content-Type: multipart/mixed; boundary=o\r\n\r\n--o\r\n" + signed.replace(
            b"\xfc", b"u"
        )
        self.assertEqual(signatures(HEAD + outer + b"\r\n--o\r\n" + plain + b"\r\n--o--\r\n"), "")
        # nor does a message that is only quoted count
        quoted = b"Content-Type: message/rfc822\r\n\r\n" + dkim + plain
        self.assertEqual(signatures(HEAD + quoted), "")

    def test_large_content_is_never_held_and_others_have_their_turn(self) -> None:
        size, most = 8 << 20, 0
        data = (
            HEAD
            + b"Content-Type: text/plain\r\n\r\n"
            + b"gr\xfcn und noch mehr Text\r\n" * (size // 25)
        )
        turns = []

        async def turn() -> None:
            turns.append(1)

        coming = converted(Pieces(data, 65536), turn)
        with self.assertRaises(StopIteration) as done:
            coming.send(None)
        found = done.exception.value
        self.assertGreaterEqual(len(turns), 7)
        for piece in found.chunks():
            most = max(most, len(piece))
        self.assertLess(most, 4 * CHUNK)
        self.assertLessEqual(found.size, sum(map(len, found.chunks())))

    def test_from_an_octet_on_and_its_tail(self) -> None:
        found = convert(BytesContent(HEAD + b"\r\ngr\xfcn und noch mehr Text\r\n"))
        assert found is not None
        whole = b"".join(found.chunks())
        for start in (0, 1, 70, len(whole)):
            self.assertEqual(b"".join(found.chunks(start)), whole[start:])
        self.assertEqual(found.tail(5), whole[-5:])
