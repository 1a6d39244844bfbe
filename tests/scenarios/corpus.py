"""A hundred messages as the world sends them, the same on every run and on every Python.

Each is CRLF text with one `X-Corpus: NAME` field to know it by. `kind` says what a client must
be able to do to send it as it is.
"""

from __future__ import annotations

import base64
import hashlib
import quopri
import random
from collections.abc import Iterator
from dataclasses import dataclass

LARGE = 20 << 20  # octets of the largest attachment


@dataclass(frozen=True)
class Sample:
    """One message."""

    name: str
    content: bytes

    @property
    def eight_bit(self) -> bool:
        """An octet above 127 is in it."""
        return not self.content.isascii()

    @property
    def utf8_header(self) -> bool:
        """... in the header section (RFC 6532)."""
        return not self.content.partition(b"\r\n\r\n")[0].isascii()

    @property
    def longest_line(self) -> int:
        """Octets without CRLF."""
        return max(map(len, self.content.split(b"\r\n")))


def corpus() -> list[Sample]:
    """The hundred, largest last."""
    samples = [*_plain(), *_bodies(), *_headers(), *_multiparts(), *_real()]
    number = 0
    while len(samples) < 99:
        samples.append(_random_one(number))
        number += 1
    samples.append(_large())
    assert len(samples) == 100
    assert len({sample.name for sample in samples}) == 100
    for sample in samples:
        _check(sample)
    return samples


def octets(seed: str, size: int) -> bytes:
    """Pseudo-random octets that depend on nothing but the seed."""
    return hashlib.shake_128(seed.encode()).digest(size)


def _check(sample: Sample) -> None:
    rest = sample.content.replace(b"\r\n", b"")
    assert b"\r" not in rest and b"\n" not in rest and b"\0" not in rest, sample.name
    assert sample.content.endswith(b"\r\n"), sample.name
    assert sample.content.count(b"X-Corpus: ") == 1, sample.name


def _head(name: str, *fields: bytes) -> bytes:
    subject = any(field.lower().startswith(b"subject:") for field in fields)
    lines = [
        b"From: Ann Example <ann@example.net>",
        b"To: Bob <bob@example.com>",
        *([] if subject else [b"Subject: " + name.encode()]),
        b"Date: Mon, 5 Jan 2026 10:00:00 +0000",
        b"Message-ID: <" + name.encode() + b"@corpus.example.net>",
        b"X-Corpus: " + name.encode(),
        *fields,
    ]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _make(name: str, body: bytes, *fields: bytes) -> Sample:
    return Sample(name, _head(name, *fields) + body)


_MIME = b"MIME-Version: 1.0"


def _typed(name: str, body: bytes, kind: bytes, encoding: bytes, *fields: bytes) -> Sample:
    """A single-part MIME message."""
    typed = (_MIME, b"Content-Type: " + kind, b"Content-Transfer-Encoding: " + encoding)
    return _make(name, body, *typed, *fields)


def _part(kind: bytes, encoding: bytes, body: bytes, *fields: bytes) -> bytes:
    lines = [b"Content-Type: " + kind, b"Content-Transfer-Encoding: " + encoding, *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def _multipart(name: str, kind: bytes, *parts: bytes) -> bytes:
    mark = b"=_" + hashlib.md5(name.encode() + kind).hexdigest().encode()
    body = b"".join(b"\r\n--" + mark + b"\r\n" + part for part in parts)
    return (
        b"Content-Type: multipart/" + kind + b';\r\n\tboundary="' + mark + b'"\r\n\r\n'
        b"This is a multi-part message in MIME format.\r\n" + body + b"\r\n--" + mark + b"--\r\n"
    )


def _encoded(data: bytes) -> bytes:
    return base64.encodebytes(data).replace(b"\n", b"\r\n")


def _quoted(text: str) -> bytes:
    lines = text.replace("\r\n", "\n").encode()
    return quopri.encodestring(lines).replace(b"\n", b"\r\n")


def _plain() -> Iterator[Sample]:
    yield _make("plain", b"Hello,\r\n\r\nthis is all.\r\n")
    yield _make("empty-body", b"")
    yield _make("one-line", b"x\r\n")
    yield _make("blank-lines-at-the-end", b"text\r\n\r\n\r\n\r\n\r\n")
    yield _make("only-blank-lines", b"\r\n" * 20)
    yield _make("trailing-spaces", b"text   \r\n \r\n\t\r\nmore\t \r\n")
    yield _make("from-line", b"From the start\r\nFrom ann Mon Jan  5\r\n>From quoted\r\n")
    yield _make("form-feed-and-friends", b"a\x0cb\x0bc\x07d\x08e\x1bf\x7fg\x1c\x1d\x1eh\r\n")
    yield _make("signature", b"text\r\n-- \r\nAnn\r\n")
    lines = b"".join(b"line %d of a long text, nothing else\r\n" % n for n in range(5000))
    yield _make("five-thousand-lines", lines)


def _bodies() -> Iterator[Sample]:
    yield _make("dot-alone", b".\r\n..\r\n...\r\n.\r\n")
    yield _make("dots-only", b".\r\n" * 300)
    yield _make("dots-rising", b"".join(b"." * n + b"\r\n" for n in range(1, 80)))
    yield _make("dot-words", b".hidden\r\n. spaced\r\n..double\r\n.\ttab\r\n")
    yield _make("dot-at-the-end", b"last line is a dot\r\n.\r\n")
    # dots that fall on every place of a 64 KiB read
    filler = b"".join(b".%s\r\n" % (b"x" * (n % 70)) for n in range(6000))
    yield _make("dots-at-chunk-ends", filler)
    yield _make("line-of-998", b"a" * 998 + b"\r\n")
    yield _make("line-of-2000", b"b" * 2000 + b"\r\nshort\r\n")
    yield _make("line-of-70000", b"c" * 70_000 + b"\r\n")
    yield _typed(
        "html-on-one-line",
        b"<html>" + b"<p>and on and on</p>" * 3000 + b"</html>\r\n",
        b"text/html; charset=us-ascii",
        b"7bit",
    )
    text = "Grüße aus Köln, à bientôt, ¿qué tal?\r\n"
    yield _typed("latin-1", text.encode("latin-1"), b"text/plain; charset=iso-8859-1", b"8bit")
    yield _typed("utf-8", (text * 50).encode(), b"text/plain; charset=utf-8", b"8bit")
    # octets at which Python's own line splitting would stop: NEL, line and paragraph separators
    splitting = "one\x85two\u2028three\u2029four\x0bfive\x1csix\r\n"
    yield _typed("not-line-ends", splitting.encode(), b"text/plain; charset=utf-8", b"8bit")
    yield _typed(
        "all-high-octets", bytes(range(128, 256)) + b"\r\n", b"text/plain; charset=x", b"8bit"
    )
    for charset, sample in (
        ("iso-2022-jp", "こんにちは世界"),
        ("shift_jis", "こんにちは世界、表示能力"),
        ("gb18030", "你好，世界"),
        ("big5", "你好，世界"),
        ("euc-kr", "안녕하세요"),
        ("koi8-r", "Здравствуй, мир"),
        ("windows-1256", "مرحبا"),
    ):
        encoding = b"7bit" if charset == "iso-2022-jp" else b"8bit"
        yield _typed(
            f"charset-{charset}",
            sample.encode(charset) + b"\r\n",
            b"text/plain; charset=" + charset.encode(),
            encoding,
        )
    yield _typed(
        "quoted-printable", _quoted(text * 20), b"text/plain; charset=utf-8", b"quoted-printable"
    )
    yield _typed(
        "format-flowed",
        b"This is a paragraph \r\nthat goes on. \r\n> quoted \r\n",
        b"text/plain; charset=us-ascii; format=flowed",
        b"7bit",
    )
    yield _typed(
        "base64-body",
        _encoded(octets("base64-body", 30_000)),
        b"application/octet-stream",
        b"base64",
    )


def _headers() -> Iterator[Sample]:
    yield _make("utf-8-subject", b"body\r\n", "Subject: Grüße 你好 🎉".encode())
    yield _make("utf-8-address", b"body\r\n", "Reply-To: Jürgen <jürgen@bücher.example>".encode())
    yield _make(
        "encoded-words", b"body\r\n", b"Subject: =?utf-8?B?R3LDvMOfZQ==?=\r\n =?utf-8?Q?_=C3=A9?="
    )
    yield _make("folded-by-tab", b"body\r\n", b"Keywords: one,\r\n\ttwo,\r\n\tthree")
    yield _make("folded-oddly", b"body\r\n", b"X-Odd: a\r\n  b\r\n\t c \r\n d")
    references = b"References: " + b"\r\n ".join(b"<%d@example.net>" % n for n in range(300))
    yield _make("long-references", b"body\r\n", references)
    yield _make("no-space-after-colon", b"body\r\n", b"X-Tight:tight", b"X-Loose:    loose  ")
    yield _make("empty-field", b"body\r\n", b"X-Empty:", b"X-Blank: ")
    yield _make("field-of-900", b"body\r\n", b"X-Long: " + b"y" * 900)
    yield _make("many-fields", b"body\r\n", *(b"X-Many-%d: %d" % (n, n) for n in range(200)))
    yield _make("repeated-fields", b"body\r\n", b"Comments: one", b"Comments: two", b"comments: 3")
    hops = (
        b"Received: from a%d.example (a%d.example [192.0.2.%d])\r\n\tby b.example with ESMTP id %d"
        b"\r\n\tfor <bob@example.com>; Mon, 5 Jan 2026 09:00:%02d +0000" % (n, n, n + 1, n, n)
        for n in range(12)
    )
    yield _make("twelve-hops", b"body\r\n", *hops)
    yield _make("quoted-names", b"body\r\n", b'Cc: "O\'Neil, \\"Pat\\" (x)" <pat@example.org>')
    yield _make("group", b"body\r\n", b"Cc: undisclosed-recipients:;", b"X-Priority: 1 (Highest)")
    yield _make("mixed-case-names", b"body\r\n", b"x-LOWER: a", b"X-UPPER: b", b"MIME-version: 1.0")


def _multiparts() -> Iterator[Sample]:
    text = _part(b"text/plain; charset=utf-8", b"quoted-printable", _quoted("schön\n"))
    html = _part(b"text/html; charset=utf-8", b"8bit", "<p>schön</p>".encode())
    png = _part(
        b'image/png; name="dot.png"',
        b"base64",
        _encoded(b"\x89PNG\r\n\x1a\n" + octets("png", 2000)),
        b"Content-ID: <dot@example>",
        b'Content-Disposition: inline; filename="dot.png"',
    )

    def whole(name: str, kind: bytes, *parts: bytes) -> Sample:
        entity = _multipart(name, kind, *parts)
        head = _head(name, _MIME)
        return Sample(name, head[:-2] + entity)

    yield whole("alternative", b"alternative", text, html)
    yield whole("related", b'related; type="text/html"', html, png)
    nested = _multipart("mixed-inner", b"alternative", text, html)
    yield whole("mixed", b"mixed", nested, png)
    deep = text
    for level in range(12):
        deep = _multipart(f"deep-{level}", b"mixed", deep)
    yield whole("twelve-levels", b"mixed", deep)
    attached = _head("inner").replace(b"X-Corpus: ", b"X-Inner: ") + b"inner body\r\n.\r\n"
    yield whole("message-rfc822", b"mixed", text, _part(b"message/rfc822", b"8bit", attached))
    status = (
        b"Reporting-MTA: dns; mx.example.org\r\n\r\nFinal-Recipient: rfc822; no@example.org\r\n"
        b"Action: failed\r\nStatus: 5.1.1\r\n"
    )
    yield whole(
        "delivery-report",
        b"report; report-type=delivery-status",
        text,
        _part(b"message/delivery-status", b"7bit", status),
        _part(b"text/rfc822-headers", b"7bit", b"Subject: lost\r\n"),
    )
    calendar = (
        b"BEGIN:VCALENDAR\r\nMETHOD:REQUEST\r\nBEGIN:VEVENT\r\nSUMMARY:meet\r\n"
        b"END:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    yield whole(
        "invitation",
        b"alternative",
        text,
        _part(b"text/calendar; method=REQUEST; charset=utf-8", b"7bit", calendar),
    )
    signed = _part(
        b'application/pkcs7-signature; name="smime.p7s"', b"base64", _encoded(octets("p7s", 3000))
    )
    yield whole(
        "smime", b'signed; protocol="application/pkcs7-signature"; micalg=sha-256', text, signed
    )
    armour = (
        b"-----BEGIN PGP SIGNATURE-----\r\n\r\n"
        + _encoded(octets("pgp", 400))
        + b"-----END PGP SIGNATURE-----\r\n"
    )
    yield whole(
        "pgp-mime",
        b'signed; protocol="application/pgp-signature"; micalg=pgp-sha512',
        text,
        _part(b"application/pgp-signature", b"7bit", armour),
    )
    many = [
        _part(
            b"application/octet-stream; name=f%d" % n, b"base64", _encoded(octets(str(n), 999 + n))
        )
        for n in range(40)
    ]
    yield whole("forty-attachments", b"mixed", text, *many)
    named = _part(
        b"application/pdf",
        b"base64",
        _encoded(b"%PDF-1.7" + octets("pdf", 200_000)),
        b"Content-Disposition: attachment;\r\n filename*0*=UTF-8''%E4%BD%A0;\r\n filename*1*=x.pdf",
    )
    yield whole("pdf-with-a-rfc-2231-name", b"mixed", text, named)
    raw = _part(b"application/octet-stream", b"8bit", octets("raw", 5000).translate(_NO_LINES))
    yield whole("raw-eight-bit-part", b"mixed", text, raw)


_NO_LINES = bytes(octet if octet not in (0, 10, 13) else 46 for octet in range(256))


def _real() -> Iterator[Sample]:
    """Shapes known from the logs of mail servers."""
    yield _make(
        "dkim-signed",
        b"signed text\r\n\r\n",
        b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/simple; d=example.net; s=s1;\r\n"
        b"\th=from:to:subject;\r\n\tbh=g3zLYH4xKxcPrHOD18z9YfpQcnk/GaJedfustWU5uGs=;\r\n"
        b"\tb=" + _encoded(octets("dkim", 250)).replace(b"\r\n", b"\r\n\t ").rstrip(),
    )
    yield _make(
        "mailing-list",
        b"text\r\n_______________________________________________\r\nlist mailing list\r\n",
        b"List-Id: A list <list.example.org>",
        b"List-Unsubscribe: <https://example.org/u>,\r\n <mailto:list-leave@example.org>",
        b"List-Unsubscribe-Post: List-Unsubscribe=One-Click",
        b"Precedence: list",
        b"Sender: list-bounces@example.org",
    )
    yield _make("auto-reply", b"away\r\n", b"Auto-Submitted: auto-replied", b"Precedence: bulk")
    yield _make(
        "uuencoded",
        b"begin 644 a\r\n"
        + b"M"
        + b"".join(b"%c" % (33 + n % 60) for n in range(60))
        + b"\r\n`\r\nend\r\n",
    )
    yield _make("patch", b"--- a/x\r\n+++ b/x\r\n@@ -1,2 +1,2 @@\r\n-.old\r\n+.new\r\n \r\n")
    yield _make("smtp-talk", b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\nQUIT\r\n")
    yield _make("cron", b"/etc/cron.daily/x:\r\n" + b"warning: \x1b[31mred\x1b[0m\r\n" * 40)
    yield _make("json", b'{"k": "' + b"v" * 800 + b'"}\r\n', b"Content-Type: application/json")
    yield _make(
        "exactly-64-kib", b"".join(b"%062d\r\n" % n for n in range(1024)), b"X-Note: of body"
    )
    text = b"".join(b"%d\r\n" % n for n in range(150_000))
    yield _make("one-megabyte-of-short-lines", text)


def _random_one(number: int) -> Sample:
    """Any text lines, any number of parts: what no list of cases thinks of."""
    dice = random.Random(f"relayd {number}")  # random() and getrandbits are stable across Pythons
    name = f"random-{number:02}"
    letters = b" .=-<>@\t" + bytes(range(97, 123)) + bytes(range(160, 256))
    lines = []
    for _ in range(int(dice.random() * 400)):
        width = int(dice.random() ** 3 * 990)
        start = b"." * int(dice.random() * 3)
        lines.append(
            start + bytes(letters[int(dice.random() * len(letters))] for _ in range(width))
        )
    body = b"".join(line + b"\r\n" for line in lines)
    return _typed(name, body, b"text/plain; charset=iso-8859-1", b"8bit")


def _large() -> Sample:
    name = "twenty-megabytes"
    part = _part(
        b"application/octet-stream; name=large.bin",
        b"base64",
        _encoded(octets(name, LARGE)),
        b"Content-Disposition: attachment; filename=large.bin",
    )
    text = _part(b"text/plain", b"7bit", b"see the attachment\r\n")
    head = _head(name, _MIME)
    return Sample(name, head[:-2] + _multipart(name, b"mixed", text, part))
