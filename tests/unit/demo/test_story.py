"""The log as the demonstration tells it: its own lines and their order."""

from __future__ import annotations

import contextlib
import io
import unittest
from pathlib import Path

from relayd.demo.nexthop import Stored
from relayd.demo.story import Story

ACCEPTED = (
    "2026-01-05T10:00:00.000Z accepted id=1K7QJ4V8Z0G0 from=<a@b.example> size=42 nrcpt=1"
    " message-id=<1@b.example> client=[127.0.0.1]:4000 helo=b.example proto=ESMTP delay=0.01"
)
SENT = (
    "2026-01-05T10:00:00.100Z attempt id=1K7QJ4V8Z0G0 to=<c@d.example> orig_to=<info@d.example>"
    " relay=127.0.0.1[127.0.0.1]:2626 attempts=1 delay=0.10 delays=0.05/0.05 dsn=2.0.0"
    " status=sent (250 2.0.0 Stored)"
)


class Told(unittest.TestCase):
    def test_received_waits_for_relayed(self) -> None:
        out = io.StringIO()
        content = b"Received: from b.example by gw with ESMTP id 1K7QJ4V8Z0G0\r\n\r\nx\r\n"
        with contextlib.redirect_stdout(out):
            story = Story()
            story.log_line(ACCEPTED)
            story.received(Stored(Path("x"), "a@b.example", ("c@d.example",), content), "x")
            story.log_line(SENT)
            story.log_line("2026-01-05T10:00:01.000Z [-] anything else")
        words = [line.split()[0] for line in out.getvalue().splitlines()]
        self.assertEqual(words, ["accepted", "forwarded", "queued", "relayed", "received"])
        self.assertIn("<info@d.example> -> <c@d.example>", out.getvalue())
