"""Content that no mail program should make, and some do: it arrives as it came, or is refused."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

from tests.scenarios.harness import Scenario, wait_until
from tests.sink import EXTENSIONS, Sink

BODY = b"Subject: x\r\n\r\n"


def odd() -> Iterator[bytes]:
    """Contents that end in CRLF."""
    yield b"\r\n"
    yield b"\r\n\r\n"
    yield b".\r\n"
    yield b"..\r\n.\r\n"
    yield b"no header at all\r\n"
    yield b"no header at all\r\nand two lines\r\n\r\nthen a body\r\n"
    yield b"Subject: no body\r\n"
    yield b"Subject: no body, but its line\r\n\r\n"
    yield b"\r\nSubject: in the body\r\n\r\nx\r\n"
    yield b" folded before there is anything\r\nSubject: x\r\n\r\nx\r\n"
    yield b"From ann@example.com Mon Jan  5 10:00:00 2026\r\nSubject: mbox\r\n\r\nx\r\n"
    yield b">From ann@example.com Mon Jan  5\r\nSubject: mbox\r\n\r\nx\r\n"
    yield b"Subject : blank before the colon\r\nX-\xe9: name of 8 bits\r\n: no name\r\n\r\nx\r\n"
    yield b"Subject: latin \xe9\xe8 in the header\r\n\r\n\xff\xfe\x80 body\r\n"
    yield b"Subject: c1 \xc2\x85 and lines \xe2\x80\xa8 that are none\r\n\r\nx\r\n"
    yield b"Subject: =?utf-8?q?never ends\r\nSubject: twice\r\nFROM: a\r\nfrom: b\r\n\r\nx\r\n"
    yield b"Received: from x by y; nonsense\r\nReceived:\r\nReceived\r\nReceived: \r\n\t\r\n\r\n"
    yield b"X: " + b"y" * 100_000 + b"\r\n\r\nx\r\n"
    yield b"X: a\r\n" + b" folded\r\n" * 20_000 + b"\r\nx\r\n"
    yield b"".join(b"X-%d: y\r\n" % n for n in range(20_000)) + b"\r\nx\r\n"
    yield b"Content-Length: 3\r\nStatus: RO\r\nBcc: secret@example.com\r\n\r\nlonger than three\r\n"
    yield b"Return-Path: <forged@example.net>\r\nDelivered-To: b@example.org\r\n\r\nx\r\n"
    yield b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--b\r\nnever there\r\n"
    yield b"Content-Type: multipart/mixed; boundary=\r\n\r\n--\r\n--\r\n----\r\n"
    yield BODY + b"x" * 1_000_000 + b"\r\n"
    yield BODY + b"\r\n" * 50_000
    yield BODY + b".\r\n" * 50_000
    yield BODY + b"\x01\x02\x1a\x1b[2J\x7f\x08\x0c\x0b\r\n"
    yield BODY + b"QUIT\r\nRSET\r\n250 ok\r\n354 go\r\n.x\r\n..\r\n"
    yield BODY + b"begin 644 x\r\n#0V%T\r\n`\r\nend\r\n"
    yield BODY + b"=\r\n==\r\n=3D=\r\n=0D=0A.=0D=0A\r\n"
    yield BODY + bytes(range(0x80, 0x100)) * 1000 + b"\r\n"
    yield BODY + b"-- \r\n \r\n  \r\n\t\r\nx \t\r\n"
    for at in range(65_520, 65_540):  # a dot behind a line's end, wherever a read may end
        yield BODY + b"y" * (at - len(BODY) - 2) + b"\r\n.\r\n..z\r\n"


# what has no header section: an empty line ends that of our trace field, or a mailbox file's line
# becomes a field of it
NO_FIELD = (b".", b"no header", b" folded")
SEPARATORS = (b"From ", b">From ")


def behind_trace(content: bytes) -> bytes:
    """As it arrives behind our trace field: octet for octet, and nothing of it a part of that."""
    if content.startswith(SEPARATORS):
        return b"X-Mailbox-Line: " + content
    return b"\r\n" + content if content.startswith(NO_FIELD) else content


REFUSED = (b"a\nb\r\n", b"a\rb\r\n", b"a\0b\r\n", b"\r\r\n", b"a\n.\r\nb\r\n", b"a\r.\r\nb\r\n")


class Odd(Scenario):
    def test_it_arrives_octet_for_octet_or_is_refused(self) -> None:
        with Sink(extensions=(*EXTENSIONS, "CHUNKING")) as sink:
            relay = self.relayd(
                f"accept to @example.com\nheader add X-Never yes when tls\nroute any via out\n"
                f"next-hop out smtp 127.0.0.1:{sink.port}\n"
            )
            sent = list(odd())
            unended = [each[:-2] for each in sent[:-18] if each[:-2]]
            with relay.session() as client:
                client.ehlo("client.example")
                for content in sent:
                    self.assertEqual(self.data(client, content), 250, content[:80])
                for content in unended:
                    self.assertEqual(self.bdat(client, content), 250, content[:80])
                for content in REFUSED:
                    self.assertEqual(self.data(client, BODY + content), 554, content)
                    self.assertEqual(self.bdat(client, BODY + content), 554, content)
            wait_until(lambda: len(sink.arrived) >= len(sent) + len(unended), "all arrive", 120)
            found = sorted(self.without_trace(each.content) for each in sink.arrived)
        expected = sorted(map(behind_trace, [*sent, *unended]))
        for one, other in zip(found, expected, strict=True):
            self.assertTrue(one == other, (one[:99], other[:99], len(one), len(other)))

    def data(self, client: smtplib.SMTP, content: bytes) -> int:
        self.envelope(client)
        code, _ = client.docmd("DATA")
        self.assertEqual(code, 354)
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        client.send(stuffed + b".\r\n")
        return client.getreply()[0]

    def bdat(self, client: smtplib.SMTP, content: bytes) -> int:
        self.envelope(client)
        half = len(content) // 2
        client.send(b"BDAT %d\r\n" % half + content[:half])
        client.getreply()
        client.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
        return client.getreply()[0]

    def envelope(self, client: smtplib.SMTP) -> None:
        client.rset()
        client.mail("a@example.net")
        client.rcpt("b@example.com")

    def without_trace(self, content: bytes) -> bytes:
        """The content without our Received field, which is four lines."""
        lines = content.split(b"\r\n", 4)
        self.assertTrue(lines[0].startswith(b"Received: from client.example"), content[:200])
        return lines[4]
