"""What `relayctl dkim check` asks of a running relayd: does the DNS have what its keys need?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING

from relayd.config import Settings
from relayd.dns.answer import Answer, DnsError, DnsTrouble, NoData, NxDomain
from relayd.ops.documents import Document, Request, RequestError, text_of
from relayd.rules.language.source import name_hint

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
            hint = name_hint(name, known)
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
            return MISSING, await self._elsewhere(key) or "there is no record"
        except DnsTrouble as error:
            return UNKNOWN, error.text
        return judged(key, found.values)

    async def _elsewhere(self, key: SigningKey) -> str:
        """Where it is instead: many a form for records adds the zone to what is whole already."""
        labels = key.domain.split(".")
        for zone in [".".join(labels[start:]) for start in range(max(len(labels) - 1, 1))]:
            name = f"{key.key_name}.{zone}"
            try:
                found = await self._ask(name, "TXT")
            except (DnsError, ValueError):
                continue
            if judged(key, found.values)[0] == RIGHT:
                return f"there is none here, but at {name}: the zone stands there twice"
        return ""


def judged(key: SigningKey, texts: tuple[str, ...]) -> tuple[str, str]:
    """What verifiers make of these records for signatures by the key, and why."""
    from relayd.authentication.dkimkey import dkim_key, key_record

    if len(texts) > 1:  # which one they take is anybody's guess: RFC 6376 section 3.6.2.2
        pieces = all(text in key.record for text in texts)
        hint = "; they are the strings of one: it is to have them all" if pieces else ""
        return WRONG, f"there are {len(texts)} records{hint}"
    (text,) = texts
    public = dkim_key(text)
    if isinstance(public, str) or key_record(public.key) != key.record:
        hint = _mistyped(text, key.record)
        if hint:
            return WRONG, hint
    if isinstance(public, str):
        return WRONG, public
    if key_record(public.key) != key.record:
        return WRONG, "it is another key"
    if public.testing:
        return RIGHT, "but t=y says that it is only tried out"
    return RIGHT, ""


def _mistyped(text: str, record: str) -> str:
    """What went wrong between here and the DNS; empty: it is not one of the usual things."""
    if "\\" in text and text.replace("\\", "") == record:
        return "backslashes stand in it: the form for records adds its own"
    if '"' in text and "".join(text.replace('"', " ").split()) == "".join(record.split()):
        return "quotation marks stand in it: the form for records adds its own"
    if len(text) < len(record) and record.startswith(text) and not text.endswith("p="):
        return f"it is cut after {len(text)} octets: it is to have several strings"
    return ""
