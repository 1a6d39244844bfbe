"""What peers write costs in proportion to its length: twice the octets, about twice the time.

Every target is fed what once made parsers slow: what opens and never closes, long runs of one
octet or of one word of its language, alternations, nests, folds, many parameters; by itself and
behind the beginning of something real. A run takes some of these at random, another those of the
others; RELAYD_GROWTH=all takes them all.
"""

from __future__ import annotations

import gc
import os
import random
import time
import unittest
from collections.abc import Callable, Iterator

from tests.fuzz.targets import TARGETS
from tests.fuzz.test_targets import WORDS

SIZE = 16 << 10  # octets; then twice as many
NOTHING = 0.004  # seconds of CPU time for the larger one that are not worth a second look
MOST = 3.0  # times as long for twice as much; four, where it grows with the square
LOOKS = 6  # at the two sizes: others share the machine
CLOSE_LOOKS = 15  # before anything is said against it
FAR = 2.0  # seconds that need no second look
SHARE = 1.0 if os.environ.get("RELAYD_GROWTH") == "all" else 0.25  # of all that may be fed

UNITS = (
    b"(", b'"', b"[", b"<", b"\\", b"@", b",", b";", b":", b"=", b"%", b"!", b"?", b".", b"+", b"-", b"&", b"{", b"a", b"0", b" ", b"\t",
    b"\r\n", b"\r", b"\n", b"\0", b"\x7f", b"\xff", b")", b"]", b">", b"=?", b"[\\", b'"\\', b"(\\", b'\\"', b"<\\", b"()", b"[]", b'"" ',
    b"a.", b"a,", b"a@", b"@a,", b"a@b,", b"<a@b>,", b"a:", b"a;", b"a b ", b"a=b ", b" a=b;", b"=20", b"+2B", b"\r\n ", b"\r\n\t\r\n ",
    b"a:b\r\n", b"a\r\n", b" \r\n", b"x: (\r\n", b'"a\r\n', b"<a,", b'{"a":', b"[[", b"e=,", b"a=,", b"--a\r\n", b"250-a\r\n",
    b"\xd9\xa0", b"\xc3\xa0", b"\xcc\x81\xcc\xa3", b"\xe2\x80\x8d", b"\xef\xbf\xbd", b"xn--a.", b"=?utf-8?q?a?= ",
    b"received: from a (b)\r\n by ", b"Received: from ", b"\r\nTo: a@old.test, ", b"Delivered-To: a\r\n", b"Date\r\n",
)  # fmt: skip
# what stands in front, so that the rest is read by what it is meant for
BEGINNINGS = {
    "header": (b"From: ", b"To: <", b'Reply-To: "', b"From: a@old.test ("),
    "submission": (
        b"From: ",
        b"To: <",
        b'Cc: "',
        b"Received: from ",
        b"Received: from a (b) (HELO ",
    ),
    "server": (
        b"\xffEHLO ",
        b"\xffEHLO a\r\nMAIL FROM:<a@",
        b"\xffEHLO a\r\nMAIL FROM:<a@b.test> ",
        b"\xffEHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n",
        b"\xffEHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 9999999\r\n",
        b"\xffEHLO a\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c",
    ),
    "client": (
        b"\x0c220-",
        b"\x0c220 a\r\n250-",
        b"\x0c220 a\r\n250 PIPELINING\r\n",
        b"\xff220 a\r\n250 a\r\n250 a\r\n250 a\r\n354 a\r\n",
    ),
    "address": (b"a@", b'"', b"a@[", b"a@b."),
    "report": (b"Subject: ", b"A: b\r\n", b"A: b\0", b"Content-Type: multipart/mixed; boundary="),
    "conversion": (
        b"\x01\xff",
        b"\x01\r\n\xff",
        b"\x01\r\n" + b"\xff" * 9,
        b"\x01Content-Type: multipart/mixed; boundary=",
        b'\x01Content-Type: multipart/mixed; a="',
        b"\x01Content-Type: multipart/mixed; boundary=a\r\n\r\n\xff\r\n--a\r\n\r\n\xff",
        b"\x01Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\xff\r\n--",
        b"\x01Content-Type: message/rfc822\r\n\r\n",
    ),
    "proxy": (b"PROXY TCP4 ", b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff"),
    "dovecot": (b"VERSION\t1\t2\n", b"VERSION\t1\t2\nMECH\tPLAIN\nDONE\nOK\t1\tuser="),
    "scram": (b"n,,n=", b"n,,n=user,r=abc\xffc=biws,r="),
    "srs": (b"SRS0=", b"SRS1=AAAA=b.test==AAAA=", b"a@"),
    "sts": (b"version: STSv1\nmode: enforce\nmax_age: 9\nmx: ", b"v=STSv1;"),
    "rewriting": (b'"', b"a@"),
    "paths": (
        b"<",
        b"<a@",
        b'<"',
        b"<@",
        b"<a@b.test> ",
        b"<a@b.test> ORCPT=rfc822;",
        b"<a@b.test> ENVID=",
    ),
    "xtext": (b"+2B",),
    "xclient": (b"HELO=", b"ADDR=IPV6:", b"NAME="),
    "sasl": (b"\0", b"\0user\0", b"n,,n=", b"PLAIN "),
    "challenges": (b'{"status":', b"r=", b"["),
    "slip": (b'{"relayd":1,"sender":"', b'{"relayd":1,"sender":"","recipients":["', b"{}\nA: "),
    "tlsrpt": (b"v=TLSRPTv1;rua=", b"v=TLSRPTv1;rua=mailto:", b"v=TLSRPTv1;rua=https://"),
}  # fmt: skip
# not a peer's, but the administrator's own words
NOT_PEERS = ("rules",)


def shapes(name: str) -> Iterator[tuple[bytes, bytes]]:
    """What stands in front, and what comes again and again."""
    # a first octet of the server's and the client's says how large the pieces are
    plain = b"\xff" if name in ("server", "server_cut", "client") else b""
    for unit in dict.fromkeys((*UNITS, *(each for each in WORDS[name] if each))):
        for beginning in (plain, *BEGINNINGS.get(name, ())):
            yield beginning, unit


def made(beginning: bytes, unit: bytes, size: int) -> bytes:
    """That shape, of about this many octets: whole units, so that it always ends alike."""
    return beginning + unit * (size // len(unit))


def cost(target: Callable[[bytes], None], data: bytes) -> float:
    """Seconds of CPU time."""
    began = time.process_time()
    target(data)
    return time.process_time() - began


def growth(target: Callable[[bytes], None], beginning: bytes, unit: bytes) -> float:
    """How many times as long twice the octets take; 1 where it is hardly to be measured.

    What is not linear grows at every size. So where it seems to, the next sizes have their say, the
    last one at length: a cache that is just too small, or a neighbour, does not slow all of them.
    """
    found = 1.0
    for size, looks in ((SIZE, LOOKS), (2 * SIZE, LOOKS), (4 * SIZE, CLOSE_LOOKS)):
        once, twice = made(beginning, unit, size), made(beginning, unit, 2 * size)
        small = cost(target, once)
        if small > FAR:
            return float("inf")
        large = cost(target, twice)
        if large < NOTHING:
            return 1.0
        for _ in range(looks):
            small = min(small, cost(target, once))  # also where it seems to be well
            if large <= MOST * small or large > FAR:
                return large / small
            large = min(large, cost(target, twice))
        found = large / small
    return found


class Growth(unittest.TestCase):
    """Methods are added below, one for each target."""

    def setUp(self) -> None:
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)

    def assert_linear(self, target: Callable[[bytes], None], name: str) -> None:
        some = random.Random()  # which ones is no secret: what fails is named
        for beginning, unit in shapes(name):
            if some.random() >= SHARE:
                continue
            times = growth(target, beginning, unit)
            self.assertLessEqual(times, MOST, f"{beginning!r}, then {unit!r} again and again")


def _add(name: str) -> None:
    target = TARGETS[name]

    def test(self: Growth) -> None:
        self.assert_linear(target, name)

    setattr(Growth, f"test_{name}", test)


for each in TARGETS:
    if each not in NOT_PEERS:
        _add(each)


class TheTestItself(unittest.TestCase):
    def test_a_square_is_seen(self) -> None:
        def square(data: bytes) -> None:
            while data := data[32:]:
                data.count(b"(")

        # others share the machine: what they cost may fall on the smaller one
        self.assertTrue(any(growth(square, b"", b"(") > MOST for _ in range(5)))
