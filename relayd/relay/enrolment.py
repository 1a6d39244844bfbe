"""Enrols a login by token: somebody enters a code at the provider's (RFC 8628), and we ask on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from relayd.login.deviceflow import DeviceFlow
from relayd.login.oauth import (
    CLIENT,
    DeviceCode,
    OauthError,
    Provider,
    ask_as_client,
    ask_device_code,
    ask_with_device_code,
    read_device_code,
)
from relayd.login.tokenfile import Held, TokenFileError
from relayd.relay.tokenkeeper import Keeper

Show = Callable[[dict[str, object]], Awaitable[None]]
"""Tells whoever is enrolling; raises when he has gone."""


class Enrolment:
    """What an operator does with token files."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper

    async def enroll(self, provider: Provider, show: Show) -> Held:
        """Get the first tokens; raises OauthError, TokenFileError, and what `show` raises."""
        keeper = self._keeper
        if provider.grant == CLIENT:
            async with keeper.alone(provider.name):
                return await keeper.obtain(provider, ask_as_client(provider))
        question = ask_device_code(provider)
        answer = await keeper.ask(question)
        device = read_device_code(answer.status, answer.body)
        await show(
            {
                "url": device.url,
                "whole_url": device.whole_url,
                "code": device.user_code,
                "expires_in": device.expires_in,
            }
        )
        return await self._wait(provider, device, show)

    async def _wait(self, provider: Provider, device: DeviceCode, show: Show) -> Held:
        keeper = self._keeper
        flow = DeviceFlow(device, keeper.reactor.seconds())
        while True:
            await keeper.pause(flow.wait)
            await show({"waiting": flow.wait})
            try:
                async with keeper.alone(provider.name):
                    return await keeper.obtain(provider, ask_with_device_code(provider, device))
            except OauthError as error:
                flow.heard(error, keeper.reactor.seconds())

    async def forget(self, provider: Provider) -> bool:
        """Remove what is held; whether there was something. Raises TokenFileError."""
        async with self._keeper.alone(provider.name):
            return self._keeper.forget(provider.name)

    def status(self, provider: Provider) -> dict[str, object]:
        """How a login stands, without its secrets."""
        facts: dict[str, object] = {
            "login": provider.name,
            "user": provider.user,
            "provider": urlsplit(provider.token_url).hostname,
            "grant": provider.grant,
        }
        try:
            found = self._keeper.files.read(provider.name)
        except TokenFileError as error:
            return {**facts, "state": "trouble", "trouble": str(error)}
        if found is None:
            return {
                **facts,
                "state": "not used yet" if provider.grant == CLIENT else "not enrolled",
            }
        if not found.fits(provider):
            return {**facts, "state": "enrolled with other settings"}
        return {**facts, **self._tokens(provider, found)}

    def _tokens(self, provider: Provider, found: Held) -> dict[str, object]:
        renewable = bool(found.tokens.refresh) or provider.grant == CLIENT
        state = "good" if found.usable(self._keeper.now()) else "expired"
        return {
            "state": "trouble" if found.trouble else state,
            "expires_at": found.tokens.expires_at,
            "obtained_at": found.tokens.obtained_at,
            "renewable": renewable,
            "trouble": found.trouble,
            "trouble_at": found.trouble_at or None,
        }
