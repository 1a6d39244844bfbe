"""What a milter makes of a message is, octet for octet, what Postfix makes of it."""

from __future__ import annotations

import difflib
import re
import smtplib
from collections.abc import Iterator, Sequence

from tests.scenarios.corpus import Sample, corpus
from tests.scenarios.filterpeers import (
    Edits,
    Milter,
    add,
    body,
    change,
    insert,
    no_recipient,
    recipient,
    sender,
)
from tests.scenarios.harness import Scenario
from tests.scenarios.peers import Postfix
from tests.sink import Arrived, Sink

_OURS = re.compile(rb"^Received: from client\.example [^\r]*(?:\r\n[ \t][^\r]*)*\r\n", re.MULTILINE)
_MARK = b"<our Received>\r\n"
_AS_IT_CAME = """
local_header_rewrite_clients =
disable_mime_output_conversion = yes
line_length_limit = 200000
"""
RULES = "accept any\nroute any via out\nnext-hop out smtp 127.0.0.1:{}\n"

EDITS: dict[str, Edits] = {
    "nothing": [],
    "add": [add("X-Added", "yes")],
    "add-twice": [add("X-Added", "one"), add("X-Added", "two")],
    "add-folded": [add("X-Folded", "one\n two\n\tthree")],
    "add-unfolded": [add("X-Folded", "one\ntwo")],
    "add-utf-8": [add("X-Utf", "Grüße")],
    "add-empty": [add("X-Empty", "")],
    "add-blank": [add("X-Blank", "  two blanks")],
    "insert-0": [insert(0, "X-First", "above all")],
    "insert-1": [insert(1, "X-Second", "below the trace")],
    "insert-2": [insert(2, "X-Third", "behind a field")],
    "insert-far": [insert(1000, "X-Last", "at the end")],
    "insert-twice": [insert(1, "X-One", "1"), insert(1, "X-Two", "2")],
    "insert-folded": [insert(1, "DKIM-Signature", "v=1; a=rsa-sha256;\n\tb=abc\n\tdef")],
    "change": [change(1, "Subject", "another")],
    "change-0": [change(0, "Subject", "index 0 is 1")],
    "change-second": [change(2, "Comments", "the second")],
    "change-missing": [change(1, "X-Missing", "added, then")],
    "change-case": [change(1, "sUBJECT", "named otherwise")],
    "change-folded": [change(1, "Subject", "one\n two")],
    "delete": [change(1, "Subject", "")],
    "delete-second": [change(2, "Comments", "")],
    "delete-missing": [change(1, "X-Missing", "")],
    "delete-received": [change(1, "Received", "")],
    "change-received": [change(1, "Received", "from nowhere by nobody; a date")],
    "add-then-change": [add("X-Added", "one"), change(1, "X-Added", "two")],
    "add-then-delete": [add("X-Added", "one"), change(1, "X-Added", "")],
    "insert-then-change": [insert(1, "X-In", "one"), change(1, "X-In", "two")],
    "insert-above-then-change": [insert(0, "X-In", "one"), insert(1, "X-Too", "two")],
    "body": [body(b"Another body.\r\n")],
    "body-in-pieces": [body(b"In "), body(b"pieces\r"), body(b"\nof it\r\n")],
    "body-without-end": [body(b"no line end")],
    "body-unix": [body(b"lines\nof unix\n")],
    "body-empty": [body(b"")],
    "body-dots": [body(b".\r\n..\r\n.x\r\n")],
    "body-large": [body(b"y" * 70 + b"\r\n")] * 2000,
    "all": [
        add("X-A", "1"), insert(1, "X-B", "2"), change(1, "Subject", "3"), body(b"4\r\n"),
        change(1, "X-Corpus", ""),
    ],
    "recipients": [recipient("<extra@example.com>"), no_recipient("<b111@example.com>")],
    "sender": [sender("<other@example.org>")],
    "null-sender": [sender("<>")],
}  # fmt: skip


def edited_samples() -> Iterator[tuple[str, Sample]]:
    """Each kind of edit with messages of several kinds."""
    samples = [each for each in corpus() if len(each.content) < 20_000]
    chosen = [samples[number] for number in range(0, len(samples), max(len(samples) // 40, 1))]
    for number, name in enumerate(EDITS):
        for step in range(3):
            yield name, chosen[(number * 3 + step * 7) % len(chosen)]


def marked(name: str, sample: Sample) -> bytes:
    return b"X-Edit: " + name.encode() + b"\r\nComments: one\r\n" + sample.content


class MilterOctets(Scenario):
    needs = ("postfix",)

    def milter(self) -> Milter:
        return Milter(self, edits=lambda fields, content: EDITS[fields.get("x-edit", "nothing")])

    def through(self, port: int, messages: Sequence[bytes]) -> None:
        """Send them all, each to a recipient who tells which one it is."""
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.ehlo("client.example")
            for number, content in enumerate(messages):
                options = [] if content.isascii() else ["BODY=8BITMIME"]
                self.assertEqual(client.mail("a@example.org", options)[0], 250)
                for each in (f"b{number}@example.com", f"c{number}@example.com"):
                    self.assertEqual(client.rcpt(each)[0], 250)
                code, said = client.data(content)
                self.assertEqual(code, 250, said)

    def arrived(self, relay: str, messages: Sequence[bytes]) -> dict[int, Arrived]:
        """What comes out of it, by number."""
        with Sink() as sink:
            port, milter = sink.port, self.milter()
            if relay == "relayd":
                rules = RULES.format(port) + f"milter m {milter.where}\nask m\n"
                there = self.relayd(rules).port
            else:
                there = Postfix(
                    self,
                    relayhost=f"[127.0.0.1]:{port}",
                    extra=f"smtpd_milters = inet:{milter.where}\n{_AS_IT_CAME}",
                ).port
            self.through(there, messages)
            sink.wait(len(messages))
            self.assertEqual(len(sink.arrived), len(messages))
            return {_number(each): each for each in sink.arrived}

    def test_every_edit_gives_the_octets_that_postfix_gives(self) -> None:
        pairs = [*edited_samples()]
        self.assertGreaterEqual(len(pairs), 100)
        messages = [marked(*each) for each in pairs]
        ours, theirs = self.arrived("relayd", messages), self.arrived("postfix", messages)
        self.assertEqual(ours[111].recipients, ("c111@example.com", "extra@example.com"))
        wrong = []
        for number, (name, sample) in enumerate(pairs):
            here, there = ours[number], theirs[number]
            if (
                _unmarked(here.content) != _unmarked(there.content)
                or here.sender != there.sender
                or sorted(here.recipients) != sorted(there.recipients)
            ):
                wrong.append(f"{name} {sample.name}\n{_difference(here, there)}")
        self.assertEqual(wrong, [], "\n".join(wrong))

    def test_a_milter_that_asks_for_nothing_leaves_every_octet(self) -> None:
        samples = [each for each in corpus() if len(each.content) < 2_000_000]
        self.assertGreaterEqual(len(samples), 95)
        messages = [each.content for each in samples]
        ours = self.arrived("relayd", messages)
        for number, sample in enumerate(samples):
            with self.subTest(sample.name):
                head, _, rest = _unmarked(ours[number].content).partition(_MARK)
                self.assertEqual((head, rest), (b"", sample.content))


def _number(arrived: Arrived) -> int:
    named = next(each for each in arrived.recipients if each.startswith("c"))
    return int(named.partition("@")[0][1:])


def _unmarked(content: bytes) -> bytes:
    """With a mark in place of the relay's own Received field."""
    return _OURS.sub(_MARK, content, count=1)


def _difference(here: Arrived, there: Arrived) -> str:
    ours, theirs = (
        _unmarked(each.content).decode("latin-1").splitlines() for each in (here, there)
    )
    told = difflib.unified_diff(ours, theirs, "relayd", "postfix", lineterm="", n=1)
    diff = "\n".join([*told][:20])
    return f"{here.sender} {here.recipients} / {there.sender} {there.recipients}\n{diff}"
