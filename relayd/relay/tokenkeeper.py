"""Asks providers for tokens, and has the answer on the disk before anybody uses it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred

from relayd.login.oauth import OauthError, Provider, Question, read_tokens
from relayd.login.tokenfile import Held, ReservedFile, TokenFileError, TokenFiles, held
from relayd.relay.https import HttpAnswer, HttpError, Https

PATIENCE = 30.0  # seconds for a provider's answer
_TURN = 0.2  # seconds between two looks whether a lock is free
_TURNS = 300  # so many, then it is not to be had

InThread = Callable[[Callable[[], Any]], Awaitable[Any]]


class Keeper:
    """What all who change token files do alike, one at a time over all processes of relayd."""

    def __init__(
        self,
        reactor: Any,  # noqa: ANN401  # of timers
        files: TokenFiles,
        web: Https,
        in_thread: InThread,
        now: Callable[[], float],
    ) -> None:
        self.reactor = reactor
        self.files = files
        self.web = web
        self.now = now
        self._in_thread = in_thread
        self._unsaved: dict[str, Held] = {}  # given, but the disk did not take it

    async def pause(self, seconds: float) -> None:
        """Wait."""
        over: Deferred[None] = Deferred(lambda _: timer.cancel())
        timer = self.reactor.callLater(seconds, over.callback, None)
        await over

    @contextlib.asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Nobody else changes this login's file; raises TokenFileError."""
        lock = self.files.lock(name)
        for _ in range(_TURNS):
            if lock is not None:
                break
            await self.pause(_TURN)
            lock = self.files.lock(name)
        else:
            raise TokenFileError(f"the token of {name} is locked by another process for too long")
        try:
            await self._save_late(name)
            yield
        finally:
            os.close(lock)

    async def ask(self, question: Question) -> HttpAnswer:
        """The answer to a question; raises OauthError."""
        headers = {
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        if question.authorization:
            headers["Authorization"] = question.authorization
        try:
            return await self.web.post(question.url, question.body, headers)
        except HttpError as error:
            raise OauthError(str(error)) from None

    async def obtain(
        self, provider: Provider, question: Question, before: Held | None = None
    ) -> Held:
        """Ask for tokens and keep them, while `alone`; raises OauthError, TokenFileError."""
        name = provider.name
        place: ReservedFile = await self._in_thread(partial(self.files.place, name))
        try:
            answer = await self.ask(question)
            hide = [*question.secrets, provider.secret]
            found = held(
                provider, read_tokens(answer.status, answer.body, self.now(), hide), before
            )
            self._unsaved[name] = found
            await self._in_thread(partial(self.files.save, name, found, place))
            del self._unsaved[name]
        finally:
            place.leave()
        return found

    async def save(self, name: str, what: Held) -> None:
        """Keep this, while `alone`; raises TokenFileError."""
        await self._in_thread(partial(self.files.save, name, what))

    async def _save_late(self, name: str) -> None:
        """What the disk did not take is saved before anything else: it was given only once."""
        late = self._unsaved.get(name)
        if late is not None:
            await self.save(name, late)
            self._unsaved.pop(name, None)

    def forget(self, name: str) -> bool:
        """Remove what is held, while `alone`; whether there was something."""
        self._unsaved.pop(name, None)
        return self.files.remove(name)
