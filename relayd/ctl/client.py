"""relayctl's end of the control socket: asks the running relayd, reads the answer as it comes."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

CHUNK = 1 << 16  # octets read at a time


class DaemonError(Exception):
    """relayd is not there, or cannot do it; `str(error)` is for the one who typed the command."""


class NotRunningError(DaemonError):
    """Nobody answers at the socket."""


class Daemon:
    """The relayd that listens at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def ask(self, command: str, **request: object) -> Iterator[dict[str, Any]]:
        """The lines of the answer, as they arrive; raises DaemonError, also in the middle."""
        with self._connected() as connection, _reader(connection) as stream:
            _send(connection, {"command": command, **request})
            yield from _documents(stream)

    def answer(self, command: str, **request: object) -> dict[str, Any]:
        """The answer of a command that has just one."""
        found: dict[str, Any] = {}
        for document in self.ask(command, **request):
            found = document.get("answer", found)
        return found

    def content(self, ident: str) -> Iterator[bytes]:
        """The octets of a message."""
        with self._connected() as connection, _reader(connection) as stream:
            _send(connection, {"command": "content", "id": ident})
            left = _document(stream).get("octets", 0)
            while left:
                chunk = stream.read(min(left, CHUNK))
                if not chunk:
                    raise DaemonError("relayd hung up in the middle of the message")
                left -= len(chunk)
                yield chunk
            for _ in _documents(stream):
                pass

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._path))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            raise NotRunningError(
                f"relayd is not running: nobody answers at {self._path}; start it, or say where"
                " it is with --config or --socket"
            ) from None
        except OSError as error:
            connection.close()
            raise DaemonError(told(error, self._path)) from None
        return connection


def told(error: OSError, path: object = None) -> str:
    """What the system did not let us do, and with what; `path`: where the error does not say it."""
    hint = " (relayctl must run as root or as relayd's user)"
    where = path or error.filename
    return (f"{where}: {error.strerror or error}" if where else str(error)) + (
        hint if isinstance(error, PermissionError) else ""
    )


def _reader(connection: socket.socket) -> IO[bytes]:
    return cast(IO[bytes], connection.makefile("rb", CHUNK))


def _send(connection: socket.socket, request: Mapping[str, object]) -> None:
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
    except OSError as error:
        raise DaemonError(f"relayd hung up: {error.strerror}") from None


def _documents(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    """All lines but the last, which says that this was all."""
    while True:
        document = _document(stream)
        if "done" in document:
            return
        yield document


def _document(stream: IO[bytes]) -> dict[str, Any]:
    try:
        line = stream.readline()
        document = json.loads(line) if line.endswith(b"\n") else None
    except OSError as error:
        raise DaemonError(f"relayd hung up: {error.strerror}") from None
    except ValueError:
        raise DaemonError("relayd's answer makes no sense; are both of one version?") from None
    if not isinstance(document, dict):
        raise DaemonError("relayd hung up (too many at the control socket, or it is stopping)")
    if "error" in document:
        raise DaemonError(str(document["error"]))
    return document
