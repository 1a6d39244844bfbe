"""Every line of a run has one form, whoever writes it: master, workers, Twisted, Python itself."""

from __future__ import annotations

import os
import re
import resource
import signal

from tests.scenarios.harness import Relayd, Scenario, wait_until, workers_of
from tests.sink import Sink

_VALUE = r'(?:"(?:[^"\\]|\\.)*"|[!#-<>-\[\]-~]+)'
LINE = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "
    r"(?:session|refused|accepted|attempt|report|notice|trouble)"
    rf"(?: [a-z_-]+={_VALUE})+"
    r"(?: \([^\x00-\x1f]*\))?"  # the words of a next hop end the line of an attempt
)
RULES = """\
accept  from 127.0.0.0/8 to @example.com
next-hop out smtp 127.0.0.1:{0}
route   any via out
"""
# once our hooks are there, each process of relayd says all that Python could say by itself
NOISE = """\
import logging, sys, threading, time, warnings

class Unlucky:
    def __del__(self):
        raise ValueError("in a destructor\\nover two lines")

def noise():
    while sys.unraisablehook is sys.__unraisablehook__ or sys.stderr is sys.__stderr__:
        time.sleep(0.05)
    time.sleep(1.0)
    warnings.simplefilter("always")
    warnings.warn("a warning\\nover two lines")
    Unlucky()
    print("printed by a library\\nover two lines", file=sys.stderr)
    print("printed to standard output")
    logging.getLogger("library").error("logged by a library")
    raise ValueError("in a thread\\nover two lines")

if any(part.startswith(("relayd", "-n")) for part in sys.orig_argv):
    threading.Thread(target=noise, name="noise", daemon=True).start()
"""


class LogLines(Scenario):
    def test_every_line_of_two_workers_has_one_form(self) -> None:
        self.check(2)

    def test_every_line_of_one_process_has_one_form(self) -> None:
        self.check(1)

    def check(self, workers: int) -> None:
        noise = self.folder / "noise"
        noise.mkdir()
        (noise / "sitecustomize.py").write_text(NOISE)
        with Sink() as sink:
            relay = self.relayd(RULES.format(sink.port), start=False)
            text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
            relay.config.write_text(text)
            relay.path = [str(noise)]
            relay.start()
            relay.send("a@b.example", ["c@example.com"])
            with relay.session() as client:
                client.ehlo("client.example")
                client.docmd("MAIL FROM:<a@b.example>")
                client.docmd('RCPT TO:<"\x1b[2J"@nowhere.example>')
                client.docmd("NONSENSE \x00\x07")
            relay.wait_empty()
            for words in ("in a thread", "in a destructor", "a warning", "printed by a lib"):
                relay.logged(words, 1 + workers if workers > 1 else 1)
            relay.logged("logged by a library")
            if workers > 1:
                self.of_a_worker(relay)
            relay.config.write_text(text + "nonsense\n")
            relay.ctl("reload", check=False)
            relay.config.write_text(text)
            relay.ctl("reload")
            relay.signal(signal.SIGHUP)
            relay.logged("event=reloaded", 2)
            self.assertEqual(relay.stop(), 0)
        wrong = [line for line in relay.log(1_000_000).splitlines() if not LINE.fullmatch(line)]
        self.assertEqual(wrong, [])

    def of_a_worker(self, relay: Relayd) -> None:
        victim, *_ = workers_of(relay)
        resource.prlimit(victim, resource.RLIMIT_CORE, (0, 0))
        os.kill(victim, signal.SIGSEGV)
        wait_until(lambda: victim not in workers_of(relay), "the worker is gone")
        relay.logged('event="crashed before" what="Fatal Python error: Segmentation fault" at=')
        relay.logged('event="worker died"')
        relay.logged('event="worker ready"', 3)
