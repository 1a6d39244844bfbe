"""Log lines on their way to readers who are slow, gone, or stopped; on real descriptors."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from relayd.ops import output as module
from relayd.ops.output import MAX_WAITING, Output

LINE = b"refused " + b"x" * 1000 + b"\n"


@contextmanager
def standard_output(descriptor: int) -> Iterator[None]:
    """Descriptor 1 is another one for a moment."""
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def output_to(descriptor: int) -> Output:
    """An Output on what is standard output for it."""
    with standard_output(descriptor):
        made = Output()
    os.close(descriptor)
    return made


def lost(text: bytes) -> int:
    """How many lines it says were dropped."""
    return sum(
        int(line.partition(b"lines=")[2]) for line in text.splitlines() if b"dropped" in line
    )


class Reader:
    """Reads a descriptor to its end, once it is told to."""

    def __init__(self, descriptor: int) -> None:
        self.text = b""
        self._descriptor = descriptor
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while data := os.read(self._descriptor, 1 << 16):
            self.text += data


class OutputTests(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        patch = mock.patch.object(module, "GATHER", 0.0)
        patch.start()
        self.addCleanup(patch.stop)

    def flood(self, output: Output) -> int:
        """More lines than a pipe and the buffer hold; how many."""
        number = 4 * MAX_WAITING // len(LINE)
        began = time.monotonic()
        for _ in range(number):
            output.write(LINE)
        self.assertLess(time.monotonic() - began, 60, "somebody waited for the reader")
        return number

    def read_whole(self, output: Output, ours: int, number: int) -> None:
        """The reader comes back: every line is there, or counted where it is missing."""
        reader = Reader(ours)
        with mock.patch.object(module, "LAST_WORDS", 30.0):
            output.finish()
            output.write(b"the last one\n")
        os.close(output._descriptor)
        reader.thread.join(120)
        self.assertGreater(lost(reader.text), 0)
        self.assertEqual(reader.text.count(LINE) + lost(reader.text), number)
        self.assertTrue(reader.text.endswith(b"the last one\n"), reader.text[-200:])

    def test_a_pipe_that_nobody_reads_makes_nobody_wait_and_the_count_is_told(self) -> None:
        ours, theirs = os.pipe()
        output = output_to(theirs)
        output.start()
        self.read_whole(output, ours, self.flood(output))

    def test_a_socket_that_nobody_reads_such_as_journalds(self) -> None:
        ours, theirs = socket.socketpair()
        output = output_to(theirs.detach())
        output.start()
        self.read_whole(output, ours.detach(), self.flood(output))

    def test_a_descriptor_that_others_have_made_non_blocking_is_waited_for(self) -> None:
        ours, theirs = os.pipe()
        kept = os.dup(theirs)
        os.set_blocking(kept, False)
        os.close(kept)
        output = output_to(theirs)
        output.start()
        self.read_whole(output, ours, self.flood(output))

    def test_flags_of_a_shared_descriptor_stay_as_they_are(self) -> None:
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        kept = os.dup(theirs)
        self.addCleanup(os.close, kept)
        before = fcntl.fcntl(kept, fcntl.F_GETFL)
        output = output_to(theirs)
        output.write(b"one\n")
        output.finish()
        self.assertEqual(fcntl.fcntl(kept, fcntl.F_GETFL), before)
        self.assertEqual(os.read(ours, 100), b"one\n")

    def test_the_end_waits_a_moment_for_a_reader_and_no_longer(self) -> None:
        ours, theirs = os.pipe()
        self.addCleanup(os.close, ours)
        output = output_to(theirs)
        self.flood(output)
        with mock.patch.object(module, "LAST_WORDS", 0.05):
            output.finish()
            for _ in range(100):  # what is said after it waits no more
                output.write(LINE)

    def test_a_reader_who_has_gone_is_no_trouble(self) -> None:
        ours, theirs = os.pipe()
        os.close(ours)
        output = output_to(theirs)
        output.write(LINE)
        output.finish()  # returns: the line has failed, and that is all
        output.write(LINE)
        self.assertFalse(output._busy or output._lines)

    def test_a_full_disk_is_counted_and_told_when_there_is_room(self) -> None:
        path = self.folder / "mail.log"
        path.symlink_to("/dev/full")
        output = Output(path)
        output.write(b"one\ntwo\n")
        output.finish()
        output.write(b"three\n")
        path.unlink()
        output.reopen()
        output.write(b"four\n")
        self.assertEqual(path.read_bytes(), b'trouble event="log lines dropped" lines=3\nfour\n')

    def test_a_file_survives_rotation(self) -> None:
        path = self.folder / "mail.log"
        output = Output(path)
        output.write(b"one\n")
        output.finish()
        path.rename(path.with_suffix(".1"))
        output.reopen()
        output.write(b"two\n")
        self.assertEqual(path.with_suffix(".1").read_bytes(), b"one\n")
        self.assertEqual(path.read_bytes(), b"two\n")

    def test_before_it_is_started_lines_wait_and_nothing_is_forked_with_a_thread(self) -> None:
        before = threading.active_count()
        path = self.folder / "mail.log"
        output = Output(path)
        output.write(b"one\n")
        self.assertEqual(threading.active_count(), before)
        self.assertEqual(path.read_bytes(), b"")
        output.finish()
        self.assertEqual(path.read_bytes(), b"one\n")

    def test_a_signal_that_logs_interrupts_a_line_that_is_being_logged(self) -> None:
        """Twisted's handler of SIGTERM does, wherever the main thread is just then."""
        script = (
            "import signal\n"
            "from pathlib import Path\n"
            "from relayd.ops.output import Output\n"
            "output = Output(Path('/dev/null'))\n"
            "output.start()\n"
            "heard = []\n"
            "def handler(*_):\n"
            "    heard.append(output.write(b'Received SIGTERM\\n'))\n"
            "signal.signal(signal.SIGALRM, handler)\n"
            "signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)\n"
            "while len(heard) < 2000:\n"
            "    output.write(b'session\\n')\n"
            "signal.setitimer(signal.ITIMER_REAL, 0)\n"
            "output.finish()\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 0)
