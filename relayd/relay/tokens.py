"""Tokens for logins at next hops: given when they are needed, refreshed before they expire.

All processes of relayd share the token files. Who refreshes one holds its lock, and looks into the
file first: perhaps another was quicker.
"""

from __future__ import annotations

import random as default_random
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from relayd.login.oauth import (
    CLIENT,
    OauthError,
    Provider,
    ask_as_client,
    ask_with_refresh_token,
)
from relayd.login.oauth import GrantedTokens as Given
from relayd.login.tokenfile import Held, TokenFileError
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.logins import NoToken
from relayd.relay.tokenkeeper import Keeper

_LOOK = 20.0  # seconds between two looks at files that others may have changed
_SOONEST = 1.0  # seconds
_BACK_OFF, _MOST_BACK_OFF = 15.0, 600.0  # seconds until a refresh in advance is tried again


class Token(NamedTuple):
    """An access token; `fresh`: the provider gave it just now."""

    access: str
    fresh: bool


class Tokens:
    """Gives the token of each login. All methods are called in the reactor's thread."""

    def __init__(
        self,
        keeper: Keeper,
        providers: Callable[[], Mapping[str, Provider]],
        log: MailLog,
        random: Callable[[], float] = default_random.random,
    ) -> None:
        self._keeper = keeper
        self._providers = providers
        self._log = log
        self._jitter = random()  # ours, among those who share the files
        self._waiting: dict[str, list[Deferred[Token]]] = {}  # for a refresh that is under way
        self._rejected: dict[str, str] = {}  # by a next hop
        self._told: dict[str, bool] = {}  # trouble that is in the log already: whether final
        self._again: dict[str, tuple[float, float]] = {}  # failed: when again, and the back-off
        self._timer: IDelayedCall | None = None
        self._quiet: Deferred[None] | None = None

    def provider(self, name: str) -> Provider | None:
        """Who gives tokens for this login; None: it is one by password."""
        return self._providers().get(name)

    async def token(self, provider: Provider) -> Token:
        """A token that is good now, as far as one can know; raises NoToken."""
        try:
            found = self._held(provider)
        except TokenFileError as error:
            why = NoToken(str(error))
            self._failed(provider, why)
            raise why from None
        if found is not None and self._good(provider.name, found):
            self._told.pop(provider.name, None)  # another process may have mended it
            self._again.pop(provider.name, None)
            self._look_by(found.refresh_at(self._jitter))
            return Token(found.tokens.access, fresh=False)
        waiter: Deferred[Token] = Deferred()
        if provider.name in self._waiting:
            self._waiting[provider.name].append(waiter)
        else:
            self._begin(provider, waiter)
        return await waiter

    def rejected(self, name: str, access: str) -> None:
        """A next hop does not take this token: it is as good as expired."""
        self._rejected[name] = access

    # in advance

    def start(self) -> None:
        """Keep tokens from expiring."""
        self._timer = self._keeper.reactor.callLater(_SOONEST, self._look)

    async def stop(self, grace: float) -> None:
        """An answer that is under way may come within so many seconds: it may come only once."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if self._waiting:
            quiet: Deferred[None] = Deferred()
            self._quiet = quiet
            over = self._keeper.reactor.callLater(grace, quiet.callback, None)
            await quiet
            self._quiet = None
            if over.active():
                over.cancel()

    def _look(self) -> None:
        now = self._keeper.now()
        soonest = now + _LOOK
        for name, provider in self._providers().items():
            due = self._due(provider)
            if due is not None and due <= now:
                if name not in self._waiting:
                    self._begin(provider)
            elif due is not None:
                soonest = min(soonest, due)
        delay = min(max(soonest - now, _SOONEST), _LOOK)
        self._timer = self._keeper.reactor.callLater(delay, self._look)

    def _look_by(self, due: float | None) -> None:
        """A token that may be new to us, and is to be refreshed before we look again."""
        timer = self._timer
        if due is None or timer is None or not timer.active():
            return
        reactor = self._keeper.reactor
        delay = max(due - self._keeper.now(), _SOONEST)
        if reactor.seconds() + delay < timer.getTime():
            timer.reset(delay)

    def _due(self, provider: Provider) -> float | None:
        """When to refresh a token that is in use; None: not in advance."""
        try:
            found = self._held(provider)
        except TokenFileError:
            return None  # who needs it says so
        if found is None or not (found.tokens.refresh or provider.grant == CLIENT):
            return None
        if found.trouble and self._told.get(provider.name):
            return None  # it was a final no
        due = found.refresh_at(self._jitter)
        again, _ = self._again.get(provider.name, (0.0, 0.0))
        if again > self._keeper.now() + 2 * _MOST_BACK_OFF:
            again = 0.0  # the clock was set back
        return None if due is None else max(due, again)

    # one refresh at a time

    def _begin(self, provider: Provider, *waiters: Deferred[Token]) -> None:
        self._waiting[provider.name] = [*waiters]
        spawn(self._refresh(provider), partial(self._bug, provider.name))

    def _bug(self, name: str, failure: Failure) -> None:
        log_bug(self._log, "bug", failure)
        self._end(name, NoToken("a fault of ours"))

    async def _refresh(self, provider: Provider) -> None:
        name = provider.name
        try:
            async with self._keeper.alone(name):
                token = await self._alone(provider)
        except (NoToken, TokenFileError) as error:
            why = error if isinstance(error, NoToken) else NoToken(str(error))
            self._failed(provider, why)
            self._end(name, why)
        else:
            self._told.pop(name, None)
            self._again.pop(name, None)
            self._end(name, token)

    def _end(self, name: str, result: Token | NoToken) -> None:
        for waiter in self._waiting.pop(name, ()):
            if isinstance(result, Token):
                waiter.callback(result)
            else:
                waiter.errback(result)
        if not self._waiting and self._quiet is not None and not self._quiet.called:
            self._quiet.callback(None)

    async def _alone(self, provider: Provider) -> Token:
        """With the lock held; raises NoToken, TokenFileError."""
        name, now = provider.name, self._keeper.now()
        found = self._held(provider)
        if found is not None and self._good(name, found):
            due = found.refresh_at(self._jitter)
            if due is None or due > now:
                return Token(found.tokens.access, fresh=False)  # another was quicker
        if provider.grant == CLIENT:
            question = ask_as_client(provider)
        elif found is None:
            raise NoToken(f"it is not enrolled (relayctl oauth enroll {name})", final=True)
        elif not found.tokens.refresh:
            raise NoToken("its token is over, and there is no refresh token", final=True)
        else:
            question = ask_with_refresh_token(provider, found.tokens.refresh)
        try:
            fresh = await self._keeper.obtain(provider, question, found)
        except OauthError as error:
            await self._remember(provider, found, str(error))
            raise NoToken(str(error), final=error.final) from None
        self._tell_refreshed(provider, fresh.tokens)
        self._look_by(fresh.refresh_at(self._jitter))
        return Token(fresh.tokens.access, fresh=True)

    async def _remember(self, provider: Provider, found: Held | None, why: str) -> None:
        """For `relayctl oauth status`, which may ask another process."""
        now = self._keeper.now()
        if found is None:
            found = Held(tuple(provider.binding), Given("", "", now, now))
        if found.trouble != why:
            await self._keeper.save(provider.name, found.troubled(why, now))

    # what is known, and what is said

    def _held(self, provider: Provider) -> Held | None:
        found = self._keeper.files.read(provider.name)
        return found if found is not None and found.fits(provider) else None

    def _good(self, name: str, found: Held) -> bool:
        return found.usable(self._keeper.now()) and found.tokens.access != self._rejected.get(name)

    def _tell_refreshed(self, provider: Provider, given: Given) -> None:
        until = "unknown"
        if given.expires_at is not None:
            until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(given.expires_at))
        self._log.notice("token refreshed", login=provider.name, until=until)

    def _failed(self, provider: Provider, why: NoToken) -> None:
        """Say it loudly, once; and ask again in advance, but not at once."""
        name = provider.name
        _, before = self._again.get(name, (0.0, 0.0))
        back_off = min(before * 2, _MOST_BACK_OFF) or _BACK_OFF
        self._again[name] = (self._keeper.now() + back_off * (1 + self._jitter / 2), back_off)
        if self._told.get(name) is not why.final:
            self._told[name] = why.final
            host = urlsplit(provider.token_url).hostname
            self._log.trouble("no token", login=name, provider=host, why=str(why))
