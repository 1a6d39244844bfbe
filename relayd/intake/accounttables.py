"""The tables that clients log in by: of the accounts in a file, or of Dovecot's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.threads import deferToThreadPool

from relayd.login.accounts import Accounts, DovecotAccounts, FileAccounts
from relayd.login.dovecotsocket import DovecotSocket
from relayd.login.users import Users
from relayd.rules.tables.table import Table
from relayd.rules.tables.userstable import DovecotTable, UsersTable

T = TypeVar("T")

AT_ONCE = 2  # passwords hashed at a time: logins must not take all processors


class AccountTables:
    """Those of one process; `tables` are the ones in force."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # several interfaces at once
        tables: Callable[[], Mapping[str, Table]],
    ) -> None:
        self._reactor = reactor
        self._tables = tables
        self._hashing = DeferredSemaphore(AT_ONCE)
        self._sockets: dict[str, DovecotSocket] = {}

    def accounts(self, name: str) -> Accounts:
        """The accounts of the table of this name."""
        table = self._tables().get(name)
        if isinstance(table, DovecotTable):
            socket = self._sockets.get(table.socket)
            if socket is None:
                socket = self._sockets[table.socket] = DovecotSocket(self._reactor, table.socket)
            return DovecotAccounts(socket)
        return FileAccounts(lambda: self._users(name), self._in_thread)

    def close(self) -> None:
        """Let go of Dovecot."""
        for socket in self._sockets.values():
            socket.close()

    def _users(self, name: str) -> Users:
        table = self._tables().get(name)
        return table.users if isinstance(table, UsersTable) else Users()

    async def _in_thread(self, slow: Callable[[], bool]) -> bool:
        """Who gives up leaves the queue; but a hash that is being computed keeps its place."""
        await self._hashing.acquire()
        done: Deferred[bool] = Deferred()
        hashed = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), slow)
        hashed.addBoth(self._hashed)
        hashed.chainDeferred(done)
        return await done

    def _hashed(self, result: T) -> T:
        self._hashing.release()
        return result
