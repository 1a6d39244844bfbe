"""rspamd's answers, whole and octet by octet."""

from __future__ import annotations

import json
import time
import unittest

from relayd.filters.milteredits import AddHeader, ChangeHeader, DeleteHeaders, InsertHeader
from relayd.filters.rspamd import (
    MOST,
    RspamdAnswer,
    RspamdError,
    RspamdReport,
    check_request,
    report_of,
)

SAID = {
    "action": "add header",
    "score": 7.5,
    "symbols": {"BAYES_SPAM": {"score": 5.1}, "R_X": {}},
    "messages": {"smtp_message": "Try\r\nagain"},
    "milter": {
        "add_headers": {
            "X-Spam": {"value": "Yes", "order": 0},
            "X-Two": [{"value": "a"}, {"value": "b", "order": -1}],
        },
        "remove_headers": {"X-Old": 0, "X-First": 1},
    },
}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def whole(said: object) -> bytes:
    body = json.dumps(said).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(said: object) -> bytes:
    body = json.dumps(said).encode()
    parts = [body[at : at + 30] for at in range(0, len(body), 30)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


class Answers(unittest.TestCase):
    def test_a_report(self) -> None:
        for octets in (whole(SAID), chunked(SAID)):
            for step in (1, 7, len(octets)):
                answer, report = RspamdAnswer(), None
                for at in range(0, len(octets), step):
                    report = answer.feed(octets[at : at + step]) or report
                assert isinstance(report, RspamdReport)
                self.assertEqual((report.action, report.score), ("add header", 7.5))
                self.assertEqual(report.symbols, {"BAYES_SPAM", "R_X"})
                self.assertEqual((report.message, report.word), ("Try again", ""))
                self.assertEqual(
                    report.changes,
                    (
                        DeleteHeaders("X-Old"),
                        ChangeHeader(1, "X-First", ""),
                        InsertHeader(1, "X-Spam", "Yes"),
                        AddHeader("X-Two", "a"),
                        AddHeader("X-Two", "b"),
                    ),
                )

    def test_without_a_length_it_ends_with_the_connection(self) -> None:
        answer = RspamdAnswer()
        self.assertIsNone(answer.feed(HEAD + b'\r\n{"action":"reject"}'))
        report = answer.ended()
        assert report is not None
        self.assertEqual((report.word, report.score), ("reject", 0.0))
        self.assertIsNone(RspamdAnswer().ended())

    def test_what_it_must_not_say(self) -> None:
        for octets in (
            b"220 smtp.example ESMTP\r\n\r\n", whole([1]), whole({"score": 1}), whole("x"),
            whole({"action": 1}), whole({"action": "reject", "score": "many"}),
            whole({"action": "reject", "score": float("nan")}),
            whole({"action": "reject", "milter": {"add_headers": 3}}),
            HEAD + b"Content-Length: x\r\n\r\n", HEAD + b"Content-Length: 1\r\n\r\n{",
            HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy", b"x" * (MOST + 1),
        ):  # fmt: skip
            with self.subTest(octets[:60]), self.assertRaises(RspamdError):
                RspamdAnswer().feed(octets)

    def test_a_question_has_no_line_of_anybody_elses(self) -> None:
        octets = check_request(
            "h:1", [("Helo", "x\r\nEvil: yes"), ("User", ""), ("Rcpt", "ü@x")], 5
        )
        self.assertEqual(
            octets,
            b"POST /checkv2 HTTP/1.1\r\nHost: h:1\r\nContent-Length: 5\r\nHelo: x?Evil: yes\r\n"
            b"Rcpt: ?@x\r\nConnection: close\r\n\r\n",
        )

    def test_numbers_that_are_none_are_no_answer(self) -> None:
        for said in (
            b'{"action":"no action","milter":{"remove_headers":{"X":1e999}}}',
            b'{"action":"no action","milter":{"add_headers":{"X":{"value":"v","order":1e999}}}}',
            b'{"action":"no action","score":1' + b"0" * 400 + b"}",
        ):
            with self.subTest(said[:70]), self.assertRaises(RspamdError):
                report_of(said)

    def test_more_changes_than_any_message_has_are_no_answer(self) -> None:
        many = {"action": "no action", "milter": {"add_headers": {"X": ["v"] * 5_000}}}
        with self.assertRaises(RspamdError):
            report_of(json.dumps(many).encode())

    def test_what_it_does_is_one_line_that_can_be_kept(self) -> None:
        report = report_of(b'{"action":"a\\ud800\\n' + b"x" * 1_000 + b'","score":1}')
        self.assertTrue(report.action.isprintable())
        self.assertLess(len(report.action.encode()), 100)

    def test_an_answer_in_a_million_chunks_takes_a_moment(self) -> None:
        octets = HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 600_000
        answer, before = RspamdAnswer(), time.process_time()
        for at in range(0, len(octets), 4096):
            self.assertIsNone(answer.feed(octets[at : at + 4096]))
        self.assertLess(time.process_time() - before, 20.0)

    def test_a_chunk_of_less_than_nothing_is_none(self) -> None:
        for line in (b"-2", b"0_1", b"+1", b"0x1", b"1" * 300):
            with self.subTest(line), self.assertRaises(RspamdError):
                RspamdAnswer().feed(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + line + b"\r\n")
