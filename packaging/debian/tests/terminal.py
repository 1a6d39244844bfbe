"""Answers debconf as somebody at a terminal does: terminal.py COMMAND...

Each line of standard input is `WORDS | ANSWER`: when these words have been shown, the answer is
typed. All that was shown goes to standard output; ends with 1 if words did not come, else with the
command's status.
"""

from __future__ import annotations

import os
import pty
import select
import sys
import time

PATIENCE = 120.0  # seconds for words to come


def main() -> int:
    """Play the dialogue."""
    turns = [line.rstrip("\n").split("|", 1) for line in sys.stdin if line.strip()]
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(DEBIAN_FRONTEND="teletype", TERM="dumb", LC_ALL="C.UTF-8")
        os.execvp(sys.argv[1], sys.argv[1:])
    shown, after = "", 0
    for words, answer in turns:
        until = time.monotonic() + PATIENCE
        while (at := shown.find(words.strip(), after)) < 0 or not _waits(terminal):
            more = _read(terminal) if time.monotonic() < until else ""
            if not more:
                print(shown, f"\n!!! never shown: {words.strip()}", flush=True)
                return 1
            shown += more
        after = at + len(words.strip())
        os.write(terminal, answer.strip().encode() + b"\n")
    while more := _read(terminal):
        shown += more
    print(shown, flush=True)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _waits(terminal: int) -> bool:
    """Whether nothing more is shown for now."""
    return not select.select([terminal], [], [], 0.5)[0]


def _read(terminal: int) -> str:
    """What is shown next; empty when the command has ended."""
    try:
        if not select.select([terminal], [], [], PATIENCE)[0]:
            return ""
        return os.read(terminal, 65536).decode("utf-8", "replace").replace("\r\n", "\n")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
