"""`relayctl suspend`, `resume` and `suspended`: what an operator has told to wait."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from relayd.mail.log import MailLog
from relayd.ops.documents import Document, Request, RequestError, number_of, text_of
from relayd.rules.language.source import name_hint
from relayd.spool.view import QueueFilter

KINDS = ("destination", "provider", "sender", "login")
LONGEST = 366 * 86400.0  # seconds


class Suspended(Protocol):
    """Who keeps the list (relayd.relay.suspensions, which knows what each means)."""

    def said_of(self, found: Mapping[str, Any]) -> str:
        """How the replies begin that it has left in the queue."""

    async def begin(self, found: Mapping[str, Any]) -> None:
        """From now on; raises ValueError, OSError and SpoolError."""

    async def end(self, kind: str, whom: str) -> Sequence[Document]:
        """These are no more (of no kind: all); raises OSError and SpoolError."""

    def documents(self) -> list[Document]:
        """Those in force."""


class SuspendingDesk:
    """Carries the commands out for one process."""

    def __init__(
        self,
        suspended: Suspended,
        providers: Callable[[], Sequence[str]],
        next_hops: Callable[[], Sequence[str]],
        log: MailLog,
        clock: Callable[[], float],
    ) -> None:
        self._suspended = suspended
        self._providers = providers
        self._next_hops = next_hops
        self._log = log
        self._clock = clock

    def documents(self) -> list[Document]:
        """Those in force."""
        return self._suspended.documents()

    async def run(
        self, request: Request, retry: Callable[[QueueFilter], Awaitable[int]]
    ) -> Document:
        """The answer; raises RequestError. `retry` makes recipients due now."""
        name = text_of(request, "command")
        if name == "suspend":
            return await self._suspend(request)
        if name == "resume":
            return await self._resume(request, retry)
        return {"suspended": self.documents()}

    async def _suspend(self, request: Request) -> Document:
        kind, whom = _one_of(request)
        now = self._clock()
        until = number_of(request, "until") or now + number_of(request, "seconds")
        if not now < until <= now + LONGEST:
            raise RequestError("for how long? give --for, such as 2h, at most a year")
        if kind == "provider" and whom not in self._providers():
            raise RequestError(f"no provider {whom}; {name_hint(whom, self._providers())}")
        if kind == "destination" and not self._may_be_one(whom):
            known = name_hint(whom, self._next_hops())
            raise RequestError(f"{whom} is no domain, and no next hop; {known}")
        found: Document = {
            "kind": kind,
            "whom": whom,
            "until": until,
            "reason": text_of(request, "reason"),
            "by": text_of(request, "by"),
            "since": now,
        }
        try:
            await self._suspended.begin(found)
        except ValueError as error:
            raise RequestError(str(error)) from None
        said = {name: found[name] for name in ("kind", "whom", "reason", "by")}
        self._log.notice("suspended", **said, seconds=round(until - now))
        return {"suspended": [found]}

    def _may_be_one(self, whom: str) -> bool:
        """It has a dot, as domains and literals have, or is the name of a next hop."""
        names = (name.lower() for name in self._next_hops())
        return "." in whom or ":" in whom or whom.lower() in names

    async def _resume(
        self, request: Request, retry: Callable[[QueueFilter], Awaitable[int]]
    ) -> Document:
        every = request.get("all") is True
        if every and any(text_of(request, kind).strip() for kind in KINDS):
            raise RequestError("one of them, or --all?")
        kind, whom = ("", "") if every else _one_of(request)
        try:
            ended = await self._suspended.end(kind, whom)
        except ValueError as error:
            raise RequestError(str(error)) from None
        for each in ended:
            await retry(QueueFilter(reply=self._suspended.said_of(each)))
            self._log.notice(
                "resumed", kind=each["kind"], whom=each["whom"], by=text_of(request, "by")
            )
        return {"resumed": list(ended)}


def _one_of(request: Request) -> tuple[str, str]:
    """What is meant: one thing, for two would leave open whether both have to be so."""
    given = [(kind, whom) for kind in KINDS if (whom := text_of(request, kind).strip())]
    if len(given) != 1:
        every = ", or --all" if text_of(request, "command") == "resume" else ""
        raise RequestError(f"name one of {', '.join(f'--{kind}' for kind in KINDS)}{every}")
    return given[0]
