"""Every target with what hypothesis makes, a bounded number of times, and with the whole corpus."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS, corpus, seeds

WORDS = {
    "server": [
        b"EHLO a\r\n", b"HELO a\r\n", b"MAIL FROM:<a@b.example> SIZE=", b"MAIL FROM:<>\r\n", b"RCPT TO:<c@d.example>",
        b"\r\n", b"DATA\r\n", b"BDAT 5", b" LAST\r\n", b"RSET\r\n", b"STARTTLS\r\n", b"AUTH PLAIN ", b"QUIT\r\n",
        b"VRFY a\r\n", b".\r\n", b"\r\n.\r\n", b".", b"\r", b"\n", b"\0", b"\x85", b"\xe2\x80\xa8", b" ORCPT=rfc822;",
        b" NOTIFY=NEVER", b" SMTPUTF8", b" BODY=8BITMIME", b" RET=HDRS ENVID=+2B", b"9" * 30, b"x" * 2000,
    ],
    "client": [
        b"220 a\r\n", b"250-a\r\n", b"250 a\r\n", b"250-PIPELINING\r\n", b"250 CHUNKING\r\n", b"250 SIZE 9\r\n", b"354 go\r\n",
        b"421 4.3.2 bye\r\n", b"550 5.1.1 no\r\n", b"451 x\r\n", b"250", b"-", b" ", b"\r\n", b"\n", b"\r", b"\0", b"999 x\r\n",
        b"250-AUTH PLAIN\r\n", b"\xff", b"220-" * 100, b"250 STARTTLS\r\n", b"250 SMTPUTF8\r\n", b"221 bye\r\n",
    ],
    "address": [
        b"a", b"@", b".", b'"', b"\\", b"b.example", b"[127.0.0.1]", b"[IPv6:::1]", "ü".encode(), b" ", b"<", b">", b":",
        b"xn--", b"\r\n", b"\0", b"\xe2\x80\xa8", b"+", b"SRS0=", "\uff20".encode(), "\u2024".encode(),
    ],
    "rules": [
        b"accept ", b"reject ", b"from ", b"to ", b"any", b"@a.example", b"127.0.0.0/8", b"<t>", b"table t { ", b"}", b"\n", b"\n ",
        b"route ", b"via ", b"direct", b"next-hop h smtp ", b"a:25", b"forward ", b"-> ", b"rewrite ", b"sender ", b"recipient ",
        b'"', b"\\", b"#", b"/^(a+)+$/", b"listen ", b"retry ", b"1m*9", b"expect ", b"550 5.7.1 ", b"not ", b", ", b"srs ", b"header ",
    ],
    "report": [
        b"Subject: ", b"Message-ID: <a@b>", b"\r\n", b" ", b"\t", b"=?utf-8?q?", b"?=", b"\x1b[2J", b"From: x\r\n", b"\0",
        b"Content-Type: multipart/mixed; boundary=", b"--", b"x" * 1500, b"\xff\xfe", b"\xe2\x80\xae", b"\x85", b"\x0b\x0c",
    ],
    "header": [
        b"From: ", b"To :", b"from:", b"X: ", b"Reply-To:\t", b"a@old.test", b"b@else.test", b"@", b"<", b">", b",", b", ",
        b";", b'"', b"\\", b"(", b")", b"\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b"\r", b"\n", b":", b".", b" ", b"\xff", b"[", b"]",
        b"From: a@old.test\r\n", b"@new.test", "ü@old.test".encode(),
    ],
    "conversion": [
        b"Subject: x\r\n", b"MIME-Version: 1.0\r\n", b"Content-Type: multipart/mixed; boundary=b\r\n", b"Content-Type: multipart/digest; boundary=c\r\n",
        b"Content-Type: message/rfc822\r\n", b"Content-Type: text/plain\r\n", b"Content-Transfer-Encoding: 8bit\r\n", b"\r\n", b"\r\n\r\n", b"\r\n--b\r\n",
        b"--b", b"--b--\r\n", b"\r\n--c\r\n", b"--c--", b"\xff", "ü".encode(), b"=", b"--", b" ", b"\r", b"\n", b"\0", b"x" * 70, b"x" * 5000,
        b"Content-Transfer-Encoding: base64\r\n", b"Content-Transfer-Encoding: quoted-printable\r\n", b'boundary="', b";", b"(",
    ],
    "proxy": [
        b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"192.0.2.1 ", b"2001:db8::1 ", b"25", b" ", b"65536", b"\r\n", b"\r", b"\n",
        b"\r\n\r\n\0\r\nQUIT\n", b"\r\n\r\n\0", b"\x21", b"\x20", b"\x11", b"\x12", b"\x22", b"\x31", b"\x00\x0c", b"\x00\x24", b"\xff\xff",
        b"\x00" * 12, b"\x7f\x00\x00\x01" * 3, b"\x04\x01\x00\x01",
    ],
    "dovecot": [
        b"VERSION\t1\t2\n", b"VERSION\t2\t0\n", b"MECH\tPLAIN\tplaintext\n", b"SPID\t1\n", b"CUID\t1\n", b"COOKIE\t0\n", b"DONE\n",
        b"OK\t1\tuser=a\n", b"FAIL\t1\ttemp\n", b"CONT\t1\t\n", b"OK", b"FAIL", b"\t", b"\n", b"\x01", b"\x011", b"=", b"\xff", b"9" * 40,
        b"x" * 9000, b"VERSION\t1\t2\nMECH\tPLAIN\nDONE\n",
    ],
    "scram": [
        b"n,,", b"y,,", b"p=tls-unique,,", b"n=", b"r=", b",", b"a=", b"m=", b"=2C", b"=3D", b"user", b"abc", b"\xff", b"c=biws,", b"p=",
        b"n,,n=user,r=abc\xff", b"c=biws,r=abc" + b"n" * 24 + b",p=", b"=" * 8, b"AAAA", b"\0", b"n" * 24,
    ],
    "srs": [
        b"SRS0=", b"SRS1=", b"srs0+", b"SRS0-", b"=", b"==", b"AAAA=", b"7C=", b"a.test", b"b", b"@", b"gw.test", b"+", b"-", b'"', b" ",
        "ü.test".encode(), b"x" * 60,
    ],
    "sts": [
        b"version: STSv1", b"mode: enforce", b"mode:none", b"mode: testing", b"mx: ", b"*.", b"a.test", b"max_age: ", b"86400", b"9" * 12,
        b"\r\n", b"\n", b":", b" ", b"v=STSv1;", b" id=", b"abc", b";", b"\0", b"\x85", "ü".encode(),
        b"version: STSv1\nmode: enforce\nmx: *.a.test\nmax_age: 9\n",
    ],
    "rewriting": [
        b"@cap.test", b"@host.test", b"@CAP.test", b"@x.sub.test", b"@old.test", b"-", b"a", b"B", b'"', b" ", b"\\", b"@", b".",
        "ü".encode(), "İ".encode(), b"x" * 70, b'"a b"@cap.test', b"a-b@cap.test", b'"x@y-z"@cap.test', b"a.b@host.test",
    ],
    "submission": [
        b"From: ", b"to:", b"Cc : ", b"Resent-To:", b"Date: x\r\n", b"Message-ID: <a@b>\r\n", b"a", b"b@c.test", b",", b", ", b"<", b">",
        b'"', b"\\", b"(", b")", b"[", b"]", b":", b";", b"@", b".", b"\r\n", b"\r\n ", b"\r\n\t", b"\r\n\r\n", b" ", b"\t", b"\xff", b"\0",
        b"From a@b Sat Nov 28\r\n", b">From ", b"no colon\r\n", b"Received: from a (b)\r\n by gw.test (relayd) with smtp id ",
        b"Delivered-To: ", b"x" * 1100,
    ],
    "names": [b"a", b"b.test", b".", b"..", b"\\", b"-", b"_", b"xn--", b"x" * 63, b"x" * 64, "ü".encode(), b"*", b" ", b"\0"],
    "greeting": [
        b"a.test", b"[192.0.2.1]", b"[IPv6:::1]", b"(", b")", b"\\", b" ", b"\t", b";", b"\xff", "ü".encode(), "\u0660".encode(), b"\r\n",
        b"x" * 300, "x\u0085".encode(), b"\x7f",
    ],
    "paths": [
        b"<", b">", b"<>", b"a", b"@", b"b.test", b"@c.test:", b",", b" SIZE=", b" BODY=8BITMIME", b" SMTPUTF8", b" RET=", b" ENVID=", b" AUTH=",
        b" NOTIFY=", b"SUCCESS", b" ORCPT=rfc822;", b" ORCPT=utf-8;", b"+2B", b"\\x{41}", b"=", b'"', b"\\", b" ", "ü".encode(), b"9" * 25,
        b"<Postmaster>", b"x" * 300, "\u0660".encode() * 80, b"\xff", b"[IPv6:", b"]",
    ],
    "xtext": [b"+2B", b"+", b"+XX", b"=", b"a", b"\\x{", b"}", b"\\x{10FFFF}", b"\\x{D800}", b";", "ü".encode(), b"+C3+BC", b"\0", b" "],
    "xclient": [
        b"NAME=", b"ADDR=", b"PORT=", b"PROTO=", b"HELO=", b"LOGIN=", b" ", b"192.0.2.1", b"IPV6:", b"2001:db8::1", b"%eth0", b"[UNAVAILABLE]",
        b"[TEMPUNAVAIL]", b"ESMTP", b"+20", b"=", b"x" * 300, b"\xff", "ü".encode(), b"65536",
    ],
    "sasl": [
        b"\0", b"user", b"pass", b"\xff", b"n,,n=user,r=abc", b"c=biws,r=", b"PLAIN ", b"=", b"AAAA", b"\xcc\x81", "\u0660".encode(), "\u05d0".encode(),
        b"\xc2\xad", b"x" * 300, b" ", b",", b"p=",
    ],
    "challenges": [
        b"r=", b",s=", b",i=", b"4096", b"c2FsdA==", b"v=", b"e=", b'{"status":"', b'"}', b'"scope":', b"[", b"{", b"to-ken", b"\0", b"\xff", b"=" * 9,
    ],
    "slip": [
        b'{"relayd":1,"sender":"a@b.test","recipients":["c@d.test"]}\n', b'{"relayd":1,', b'"sender":', b'"recipients":[', b'"a@b.test",', b'"a"', b"]",
        b"}", b"\n", b"\r\n", b"\r", b"\0", b'"body":"7BIT"', b'"notify":["NEVER"]', b"\\ud800", b"[" * 50, b"1e999", b"x: y\r\n",
    ],
    "tlsrpt": [
        b"v=TLSRPTv1;", b"rua=", b"mailto:a@b.test", b"https://c.test/", b",", b";", b" ", b"\0", b"!", b"%40", b"%", b"?", b"[", b"]", b"//", b"\xff", b"=",
    ],
}  # fmt: skip
WORDS["server_cut"] = WORDS["server"]


def octets(name: str) -> st.SearchStrategy[bytes]:
    """Words of the target's language in any order, with anything between them."""
    word = st.sampled_from(WORDS[name])
    several = st.lists(st.one_of(word, word, word, st.binary(max_size=12)), max_size=30)
    return st.tuples(st.binary(min_size=1, max_size=1), several).map(
        lambda parts: parts[0] + b"".join(parts[1])
    )


class Fuzz(unittest.TestCase):
    """Methods are added below, one for each target."""


def _add(name: str) -> None:
    target = TARGETS[name]

    @settings(max_examples=300, deadline=None)
    @given(octets(name))
    def test(self: Fuzz, data: bytes) -> None:
        target(data)

    def known(self: Fuzz) -> None:
        for data in (*corpus(name), *seeds(name)):
            target(data)

    setattr(Fuzz, f"test_{name}", test)
    setattr(Fuzz, f"test_{name}_with_its_corpus", known)


for each in TARGETS:
    _add(each)
