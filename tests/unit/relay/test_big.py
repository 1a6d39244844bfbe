"""Content that is larger than a socket takes, to a next hop that reads when it likes."""

from __future__ import annotations

import random
import socket
import threading
import time
from typing import cast

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred

from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.envelope import Recipient
from relayd.mail.reply import Reply
from relayd.relay.connection import BURST, Connection
from relayd.relay.dial import IReactor, dial
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.pool import Pool
from relayd.relay.survey import Endpoint
from relayd.smtp.transaction import Transaction
from tests.support import TestCase

reactor = cast(IReactor, _reactor)
END = b"\r\n.\r\n"


class Reader(threading.Thread):
    """A next hop that takes one session, its content in gulps of any size, now and then a rest."""

    def __init__(self, seed: int, *, small: bool) -> None:
        super().__init__(daemon=True)
        self._random = random.Random(seed)
        self._small = small
        self._socket = socket.socket()
        if small:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port: int = self._socket.getsockname()[1]
        self.content = b""

    def run(self) -> None:
        """The session."""
        peer, _ = self._socket.accept()
        self._socket.close()
        with peer, peer.makefile("rb") as lines:
            peer.sendall(b"220 here\r\n")
            for reply in (b"250 here\r\n", b"250 Ok\r\n", b"250 Ok\r\n", b"354 go\r\n"):
                lines.readline()
                peer.sendall(reply)
            pieces = bytearray()
            while not pieces.endswith(END):
                pieces += lines.read1(self._random.randint(1, 200_000))
                if self._small and self._random.random() < 0.02:
                    time.sleep(0.005)
            self.content = bytes(pieces[:-3]).replace(b"\r\n..", b"\r\n.")
            peer.sendall(b"250 Ok\r\n")
            lines.readline()


class _Pool(Pool):
    """Tells when its only connection is closed."""

    def __init__(self, clock: IReactor, limits: RelayLimits) -> None:
        super().__init__(clock, limits)
        self.gone: Deferred[None] = Deferred()

    def lost(self, connection: Connection) -> None:
        super().lost(connection)
        self.gone.callback(None)


class BigTests(TestCase):
    async def carry(self, content: bytes, *, small: bool) -> Reader:
        reader = Reader(len(content), small=small)
        reader.start()
        pool = _Pool(reactor, RelayLimits())
        endpoint = Endpoint("next.example", "127.0.0.1", reader.port)
        connection = Connection(
            pool, endpoint, "gw.example", NextHopDeadlines(), target="next.example"
        )
        await dial(reactor, connection, 10)
        to = Recipient(Mailbox("user", "corp.example"), Mailbox("user", "corp.example"))
        done = await connection.carry(Transaction(None, (to,), len(content)), BytesContent(content))
        assert done.replies == (Reply.bare(250, "Ok"),), done
        connection.quit()
        await pool.gone
        reader.join(60)
        return reader

    async def test_every_octet_arrives_in_its_order(self) -> None:
        line = bytes(random.Random(1).choices(b"abc.", k=77)) + b"\r\n"
        numbers = b"".join(b"%d" % n + line for n in range(40_000))
        for size in (65_537, 65_536 * BURST, 65_536 * BURST + 1, len(numbers)):
            content = numbers[: size - 2] + b"\r\n"
            for small in (False, True):
                if small and size > 2_000_000:
                    content = content[-1_500_000:]
                content = b".x" + content.replace(b"\r\nx", b"\r\n.")
                reader = await self.carry(content, small=small)
                assert reader.content == b"." + content  # stuffed, and no CRLF before it
