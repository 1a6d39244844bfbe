"""relayctl as a shell's companion, which pays once for what its start costs: asked.py FILE

Each line of standard input is a command of relayctl's, words without blanks. What it says is in
FILE when its exit status is on standard output.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from relayd.ctl.relayctl import main

for line in sys.stdin:
    with (
        Path(sys.argv[1]).open("w") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            status: object = main(line.split())
        except SystemExit as end:
            status = end.code
    print(status, flush=True)
