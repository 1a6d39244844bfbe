"""Who may log in at a listener: the users of a file, or whomever Dovecot says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from relayd.login.dovecot import DovecotAnswer, Result
from relayd.login.mechanisms import MECHANISMS, SHOWING
from relayd.login.scram import PLUS, Verifier
from relayd.login.users import Users

InThread = Callable[[Callable[[], bool]], Awaitable[bool]]
"""Runs something slow where nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Checked:
    """What is known of a password."""

    result: Result
    user: str = ""  # how the account is called
    why: str = ""  # for the log


class Accounts(Protocol):
    """What the server's side of the mechanisms asks."""

    def mechanisms(self, *, bound: bool) -> tuple[str, ...]:
        """What is on offer, the best first; `bound`: there is a channel binding."""

    def verifier(self, name: str) -> Verifier:
        """The credentials of a (folded) name, of nobody when there is no such."""

    def check(self, name: str, password: str, address: str, *, tls: bool) -> Awaitable[Checked]:
        """Whether this is the (folded) name's password."""


class FileAccounts:
    """The users of a file, as it is now."""

    def __init__(self, users: Callable[[], Users], in_thread: InThread) -> None:
        self._users = users
        self._in_thread = in_thread

    def mechanisms(self, *, bound: bool) -> tuple[str, ...]:
        """All: one form of credentials serves them."""
        return tuple(name for name in MECHANISMS if bound or name != PLUS)

    def verifier(self, name: str) -> Verifier:
        """See Accounts."""
        return self._users().verifier(name)

    async def check(self, name: str, password: str, address: str, *, tls: bool) -> Checked:
        """See Accounts."""
        users = self._users()
        right = await self._in_thread(lambda: users.accepts(name, password))
        return Checked(Result.GRANTED if right else Result.DENIED, name)


class Asked(Protocol):
    """What is asked of relayd.login.dovecotsocket.DovecotSocket."""

    def check(
        self, user: str, password: str, *, address: str, secured: bool
    ) -> Awaitable[DovecotAnswer]:
        """Whether this is the user's password; never fails."""


class DovecotAccounts:
    """Whomever Dovecot says: it has the password to look at, so only mechanisms that show it."""

    def __init__(self, socket: Asked) -> None:
        self._socket = socket

    def mechanisms(self, *, bound: bool) -> tuple[str, ...]:
        """Those that hand over the password."""
        return SHOWING

    def verifier(self, name: str) -> Verifier:
        """There is none, and no mechanism on offer that asks."""
        return Users().verifier(name)

    async def check(self, name: str, password: str, address: str, *, tls: bool) -> Checked:
        """See Accounts."""
        verdict = await self._socket.check(name, password, address=address, secured=tls)
        return Checked(verdict.result, verdict.user.lower(), verdict.why)
