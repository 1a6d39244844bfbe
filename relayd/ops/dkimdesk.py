"""What `relayctl dkim check` asks of a running relayd: does the DNS have what its keys need?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from relayd.config import Settings
from relayd.dns.answer import Answer, DnsTrouble, NoData, NxDomain
from relayd.ops.documents import Document, Request, RequestError, text_of
from relayd.rules.language.source import did_you_mean

if TYPE_CHECKING:
    from relayd.authentication.dkimsigning import SigningKey

RIGHT, MISSING, WRONG, UNKNOWN = "right", "missing", "wrong", "unknown"


class DkimDesk:
    """One for all of relayd. `ask` is to ask the DNS itself: somebody has just mended it."""

    def __init__(
        self, settings: Callable[[], Settings], ask: Callable[[str, str], Awaitable[Answer[str]]]
    ) -> None:
        self._settings = settings
        self._ask = ask

    async def answer(self, request: Request) -> Document:
        """Each key that signs, and whether verifiers find it; raises RequestError."""
        keys = [
            await self._checked(name, key) for name, key in self._chosen(text_of(request, "name"))
        ]
        return {"keys": keys}

    def _chosen(self, name: str) -> Iterator[tuple[str, SigningKey]]:
        known = self._settings().signing
        if name and name not in known:
            hint = did_you_mean(name, known) or "the rules in force have no such statement"
            raise RequestError(f"there is no dkim {name}; {hint}")
        for each in [name] if name else known:
            for key in known[each]:
                yield each, key

    async def _checked(self, name: str, key: SigningKey) -> Document:
        state, why = await self._state(key)
        return {
            "name": name,
            "domain": key.domain,
            "selector": key.selector,
            "algorithm": key.algorithm,
            "at": key.key_name,
            "state": state,
            "why": why,
            "record": key.record,
        }

    async def _state(self, key: SigningKey) -> tuple[str, str]:
        try:
            found = await self._ask(key.key_name, "TXT")
        except (NxDomain, NoData):
            return MISSING, "there is no record"
        except DnsTrouble as error:
            return UNKNOWN, error.text
        return judged(key, found.values)


def judged(key: SigningKey, texts: tuple[str, ...]) -> tuple[str, str]:
    """What verifiers make of these records for signatures by the key, and why."""
    from relayd.authentication.dkimkey import dkim_key, key_record

    if len(texts) > 1:  # which one they take is anybody's guess: RFC 6376 section 3.6.2.2
        return WRONG, f"there are {len(texts)} records"
    (text,) = texts
    public = dkim_key(text)
    if isinstance(public, str):
        return WRONG, public
    if key_record(public.key) != key.record:
        return WRONG, "it is another key"
    if public.testing:
        return RIGHT, "but t=y says that it is only tried out"
    return RIGHT, ""
