"""What `relayctl oauth` asks of a running relayd: enrol, tell, forget; nothing secret is said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from relayd.config import Settings
from relayd.login.oauth import OauthError, Provider
from relayd.login.tokenfile import Held, TokenFileError
from relayd.mail.content import Content
from relayd.mail.log import MailLog
from relayd.ops.commands import Operations, Stream
from relayd.ops.documents import Document, Request, RequestError, text_of
from relayd.relay.enrolment import Enrolment
from relayd.rules.language.source import name_hint


class OauthDesk:
    """One for all of relayd: of its processes the master."""

    def __init__(
        self, enrolment: Enrolment, settings: Callable[[], Settings], log: MailLog
    ) -> None:
        self._enrolment = enrolment
        self._settings = settings
        self._log = log

    async def run(self, request: Request, stream: Stream, who: str, others: Operations) -> None:
        """Answer a request; raises RequestError. `others`: the commands that release mail."""
        action = text_of(request, "action")
        try:
            if action == "status":
                await stream.send({"answer": {"logins": self._status(text_of(request, "name"))}})
            elif action == "forget":
                provider = self._provider(text_of(request, "name"))
                there = await self._enrolment.forget(provider)
                self._log.notice("operator", command="oauth forget", by=who, login=provider.name)
                await stream.send({"answer": {"login": provider.name, "forgotten": there}})
            elif action == "enroll":
                await self._enroll(request, stream, who, others)
            else:
                raise RequestError(f"no command oauth {action!r}")
        except (OauthError, TokenFileError) as error:
            raise RequestError(str(error)) from None

    async def _enroll(self, request: Request, stream: Stream, who: str, others: Operations) -> None:
        provider = self._provider(text_of(request, "name"))
        name = provider.name
        self._log.notice("operator", command="oauth enroll", by=who, login=name)
        found = await self._enrolment.enroll(provider, stream.send)
        self._log.notice("login enrolled", login=name, user=provider.user)
        for hop in self._hops(name):
            await others.run({"command": "retry", "destination": hop}, _Silence(), who)
        await stream.send({"answer": self._described(provider, found)})

    def _described(self, provider: Provider, found: Held) -> Document:
        return {
            **self._enrolment.status(provider),
            "next_hops": self._hops(provider.name),
            "seconds": None
            if found.tokens.expires_at is None
            else found.tokens.expires_at - found.tokens.obtained_at,
        }

    def status(self) -> list[Document]:
        """How all logins by token stand, for `relayctl status`."""
        return self._status("")

    def _status(self, name: str) -> list[Document]:
        chosen = [self._provider(name)] if name else self._settings().oauth.values()
        return [
            {**self._enrolment.status(each), "next_hops": self._hops(each.name)} for each in chosen
        ]

    def _provider(self, name: str) -> Provider:
        known = self._settings().oauth
        if name not in known:
            hint = name_hint(name, known)
            raise RequestError(f"there is no oauth {name}; {hint}")
        return known[name]

    def _hops(self, login: str) -> list[str]:
        return [hop.name for hop in self._settings().next_hops.values() if hop.login == login]


class _Silence:
    """A stream that nobody reads."""

    async def send(self, document: object) -> None:
        pass

    async def send_line(self, line: bytes) -> None:
        pass

    async def send_content(self, content: Content) -> None:
        pass

    async def send_pieces(self, size: int, pieces: AsyncIterator[bytes]) -> None:
        pass
