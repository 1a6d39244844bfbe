"""The control socket: one line of JSON asks, lines of JSON answer, as fast as the reader reads."""

from __future__ import annotations

import errno
import json
import os
import socket
import stat
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IPushProducer,
    IReactorTime,
    IReactorUNIX,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.intake.transport import Transport
from relayd.mail.content import Content
from relayd.mail.log import MailLog
from relayd.ops.answers import VERSION
from relayd.ops.commands import Operations, Stream
from relayd.ops.documents import BusyError, RequestError
from relayd.reactor.coroutine import log_bug, spawn
from relayd.spool.errors import SpoolError

MAX_REQUEST = 4 << 20  # octets of a request: a header section to be explained is in it
MAX_SESSIONS = 32  # at a time; an operator has ten fingers
REQUEST_TIME = 10.0  # seconds to send the request
MAX_PATH = 107  # octets, unix(7)


class ControlError(Exception):
    """The socket cannot be had; `str(error)` says why."""


class HungUpError(Exception):
    """The reader has hung up: nothing is left to do."""


@implementer(IPushProducer)
class ControlSession(Protocol):
    """One request and its answer."""

    def __init__(
        self, clock: IReactorTime, commands: Operations, log: MailLog, end: Callable[[], None]
    ) -> None:
        self._clock = clock
        self._commands = commands
        self._log = log
        self._end = end
        self._buffer = b""
        self._asked = False
        self._open = True
        self._flow: Deferred[None] | None = None  # waited for while the reader is slow
        self._deadline: IDelayedCall | None = None

    transport: Transport  # type: ignore[assignment]  # narrower than Twisted's

    # the wire

    def connectionMade(self) -> None:
        """Wait for the request, but not for ever."""
        self._deadline = self._clock.callLater(REQUEST_TIME, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        """Gather the request; what comes after it is nobody's."""
        if self._asked:
            return
        self._buffer += data
        if b"\n" not in data and len(self._buffer) <= MAX_REQUEST:
            return
        line, newline, _ = self._buffer.partition(b"\n")
        if not newline and len(self._buffer) <= MAX_REQUEST:
            return
        self._asked = True
        self._stop_deadline()
        self.transport.registerProducer(self, True)
        spawn(self._answer(line if newline else b""), self._broken)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever still writes is told."""
        self._open = False
        self._stop_deadline()
        self._go_on()
        self._end()

    def pauseProducing(self) -> None:
        """The reader is slow."""
        if self._flow is None:
            self._flow = Deferred()

    def resumeProducing(self) -> None:
        """The reader has caught up."""
        self._go_on()

    def stopProducing(self) -> None:
        """The reader has gone."""
        self._open = False
        self._go_on()

    def _go_on(self) -> None:
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.callback(None)

    def _stop_deadline(self) -> None:
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()

    async def _write(self, data: bytes) -> None:
        if self._flow is not None:
            await self._flow
        if not self._open:
            raise HungUpError
        self.transport.write(data)

    # Stream

    async def send(self, document: object) -> None:
        """One line of JSON."""
        await self._write(json.dumps(document).encode() + b"\n")

    async def send_line(self, line: bytes) -> None:
        """One line of JSON, written already, with its end."""
        await self._write(line)

    async def send_content(self, content: Content) -> None:
        """A line that tells the size, then these octets."""
        chunks: Iterator[bytes] = content.chunks()
        first = next(chunks, b"")  # an unreadable file is to be said before the size
        await self._write(b'{"octets":%d}\n' % content.size + first)
        try:
            for chunk in chunks:
                await self._write(chunk)
        except OSError as error:  # too late for words: the reader misses octets
            self._log.trouble("content not readable", why=str(error))
            self.transport.abortConnection()
            raise HungUpError from error

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        """The same for octets that are still on their way."""
        await self.send({"octets": size})
        async for piece in pieces:
            await self._write(piece)

    # the answer

    async def _answer(self, line: bytes) -> None:
        stream: Stream = self
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise RequestError("the request is no JSON object")
            await self._commands.run(request, stream, self._who())
            last: dict[str, object] = {"done": True, "version": VERSION}
        except RequestError as error:
            last = {"error": str(error)}
            if isinstance(error, BusyError):
                last["busy"] = True
        except (ValueError, RecursionError):
            last = {"error": "the request is no line of JSON"}
        except SpoolError as error:
            last = {"error": f"the spool is in trouble: {error.reason}", "busy": True}
        except OSError as error:
            last = {"error": f"cannot read: {error.strerror}"}
        except HungUpError:
            return
        try:
            await self.send(last)
        except HungUpError:
            return
        self._close()

    def _broken(self, failure: Failure) -> None:
        """A bug: told to the operator as such, and to the log."""
        log_bug(self._log, "bug in a control command", failure)
        if self._open:
            self.transport.write(b'{"error":"a bug in relayd; its log tells more","busy":true}\n')
            self._close()

    def _close(self) -> None:
        if self._open:
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def _who(self) -> str:
        """The user at the other end, as the kernel knows it (SO_PEERCRED of unix(7))."""
        handle = getattr(self.transport, "socket", None)
        if handle is None:
            return "unknown"
        size = struct.calcsize("3i")
        credentials = handle.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("3i", credentials)
        return f"uid={uid} pid={pid}"


class ControlFactory(Factory):
    """Makes sessions, a bounded number at a time."""

    noisy = False

    def __init__(
        self,
        clock: IReactorTime,
        commands: Operations,
        log: MailLog,
        most: int = MAX_SESSIONS,
    ) -> None:
        self._clock = clock
        self._commands = commands
        self._log = log
        self._most = most
        self._sessions = 0

    def buildProtocol(self, addr: IAddress | None) -> ControlSession | None:
        """A session, or None: the connection is closed."""
        if self._sessions >= self._most:
            return None
        self._sessions += 1
        return ControlSession(self._clock, self._commands, self._log, self._ended)

    def _ended(self) -> None:
        self._sessions -= 1


def listen(
    reactor: IReactorUNIX, path: Path, factory: Factory, mode: int = 0o600
) -> IListeningPort:
    """Listen at `path`, for our own user only if the mode does not say more; raises ControlError.

    A socket that nobody answers at is left over from a crash, and is replaced.
    """
    if len(os.fsencode(path)) > MAX_PATH:
        raise ControlError(f"{path}: longer than {MAX_PATH} octets; set `control` to a shorter one")
    _clear(path)
    before = os.umask(0o777 & ~mode)  # not only chmod afterwards: there would be a moment before
    try:
        return reactor.listenUNIX(str(path), factory, mode=mode)
    except Exception as error:
        raise ControlError(f"{path}: cannot listen: {error}") from error
    finally:
        os.umask(before)


def _clear(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlError(f"{path}: {error.strerror}") from error
    if not stat.S_ISSOCK(mode):
        raise ControlError(f"{path}: there is something that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError as error:
            if error.errno not in (errno.ECONNREFUSED, errno.ENOENT):
                raise ControlError(f"{path}: {error.strerror or error}") from error
            path.unlink(missing_ok=True)
            return
    raise ControlError(f"{path}: another relayd answers there")
