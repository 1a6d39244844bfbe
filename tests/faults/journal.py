"""What injector and sink saw, one JSON object a line, outside the spool and outside relayd.

The journal is what the oracle believes. An entry is with the kernel before its writer goes on:
killing relayd, or cutting the power of the disk that holds its spool, does not touch it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]


class Journal:
    """Append-only. The kinds of entries:

    sent     name, digest, accepted and refused recipients, by way of which gateway; written before
             the final dot leaves
    answered name, code: the reply to the final dot
    arrived  what the sink took: name, digest, recipients, session, by whom it was sent, whether
             it could say 250
    report   the same for a report: its octets as latin-1 text
    cut      a session that ended without QUIT
    fault    what is being done to relayd, or to one node
    ousted   a node has lost its mail to others, of the time before `since`
    filter   name, mood: what is being done to a filter; no mood: it is well again
    clean    name: what a scanner has found nothing in; written before it says so
    released what was held is let go from here on
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def write(self, kind: str, **facts: object) -> None:
        """Add an entry."""
        entry = {"kind": kind, "at": time.monotonic(), **facts}
        self._file.write(json.dumps(entry).encode() + b"\n")

    def entries(self) -> Iterator[Entry]:
        """All of them, in order."""
        with self.path.open("rb") as file:
            for line in file:
                yield json.loads(line)

    def close(self) -> None:
        """No more."""
        self._file.close()
