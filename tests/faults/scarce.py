"""A relayd whose allocations fail for a while, from the n-th on: it is told so on a socket.

`FIRST COUNT` on the unix socket of the environment's SCARCE lets so many allocations, of any of
its threads, find no memory; `0 0` ends that. It answers with a line.
"""

from __future__ import annotations

import _testcapi  # type: ignore[import-not-found]
import contextlib
import os
import socket
import sys
import threading
from pathlib import Path

from twisted.scripts.twistd import run


def _obey(listening: socket.socket) -> None:
    while True:
        try:
            connection, _ = listening.accept()
            with connection:
                _do(connection)
        except Exception:
            continue


def _do(connection: socket.socket) -> None:
    first, count = map(int, connection.recv(100).split())
    _testcapi.remove_mem_hooks()
    connection.sendall(b"ok\n")
    if count:
        _testcapi.set_nomemory(first, first + count)


if __name__ == "__main__":
    with contextlib.suppress(FileNotFoundError):
        Path(os.environ["SCARCE"]).unlink()
    order = socket.socket(socket.AF_UNIX)
    order.bind(os.environ["SCARCE"])
    order.listen()
    threading.Thread(target=_obey, args=(order,), name="scarce", daemon=True).start()
    sys.argv[0] = "twistd"
    run()
