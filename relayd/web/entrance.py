"""Logging in at the console: name, password, and a one-time code where the users file has one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus

from relayd.intake import authentication
from relayd.intake.limits import client_key
from relayd.login.accounts import Accounts
from relayd.login.dovecot import Result
from relayd.login.guesses import Guesses
from relayd.login.mechanisms import MAX_NAME
from relayd.login.totp import STEP, step_of
from relayd.login.users import Seat, checked_name
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.web.exchange import TurnedAwayError

MAX_PASSWORD = 1024  # characters
TOO_FAST = "too many failed logins; try again in a minute"
# one text for whatever is wrong with name, password or code: nobody learns which names exist
FAILED = "name, password or code is wrong"

Seats = Callable[[], Mapping[str, Seat]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """What somebody says to log in."""

    name: str
    password: str
    code: str


class Entrance:
    """The logins of one console; guesses are counted together with those over SMTP."""

    def __init__(
        self,
        accounts: Accounts,
        seats: Seats,
        guesses: Guesses,
        log: MailLog,
        clock: Callable[[], float] = time.time,
        since: float = 0.0,
    ) -> None:
        """`clock` is the wall's: codes go by it.

        `since`: when relayd was started. Which codes were used before then nobody knows any more.
        """
        self._accounts = accounts
        self._seats = seats
        self._guesses = guesses
        self._log = log
        self._clock = clock
        self._since = int(since // STEP)
        self._last_step: dict[str, int] = {}  # a code is good once (RFC 6238 section 5.2)

    async def admit(self, said: Credentials, address: str, listener: str) -> str:
        """The (folded) name of who has logged in; raises TurnedAwayError."""
        client = Client(address, 0, listener, "", "HTTP")
        key = client_key(client.address)
        token = self._guesses.begin(key)
        if token is None:
            raise self._refused(client, HTTPStatus.TOO_MANY_REQUESTS, TOO_FAST, TOO_FAST)
        try:
            name = checked_name(said.name[: MAX_NAME + 1])
        except ValueError as error:
            raise self._refused(client, HTTPStatus.FORBIDDEN, FAILED, str(error)) from None
        if self._guesses.closed(name, key):
            why = f"login {name}: {TOO_FAST}"
            raise self._refused(client, HTTPStatus.TOO_MANY_REQUESTS, TOO_FAST, why)
        checked = await self._accounts.check(name, said.password[:MAX_PASSWORD], address, tls=True)
        if checked.result is Result.TROUBLE:
            self._guesses.forgive(key, token)
            raise TurnedAwayError(HTTPStatus.SERVICE_UNAVAILABLE, "logins cannot be checked now")
        why = "" if checked.result is Result.GRANTED else "wrong name or password"
        why = why or self._unseated(name, said.code)
        if why:
            self._guesses.failed(name)
            raise self._refused(client, HTTPStatus.FORBIDDEN, FAILED, f"login {name}: {why}")
        self._guesses.forgive(key, token)
        self._guesses.succeeded(name, key)
        self._log.notice("console login", login=name, client=client.address, listener=listener)
        return name

    def _unseated(self, name: str, code: str) -> str:
        """Why one whose password is right does not get in; empty: he does."""
        seat = self._seats().get(name)
        if seat is None:
            return "no role at the console"
        if not seat.totp:
            return ""
        step = step_of(seat.totp, code[:16], self._clock())
        if step is None:
            return "wrong code"
        if step <= self._last_step.get(name, self._since):
            return "a code used before, or older than relayd's start"
        self._last_step[name] = step
        return ""

    def _refused(self, client: Client, status: int, told: str, why: str) -> TurnedAwayError:
        """Also said in the line that fail2ban reads, in the words that SMTP has for it."""
        slow = status == HTTPStatus.TOO_MANY_REQUESTS
        reply = authentication.TOO_FAST if slow else authentication.FAILED
        self._log.refused(client, "AUTH CONSOLE", str(reply), why)
        return TurnedAwayError(status, told)
