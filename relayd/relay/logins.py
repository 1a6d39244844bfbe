"""Logins at next hops: what is said, and what a refusal means.

A refused login says nothing about the mail: it speaks against the destination, whose queue waits
and is retried. One loud line says so, and one quiet line that it is over. A refused token may just
be over: if there is a newer one, it is tried at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from relayd.login.bearer import Bearer
from relayd.login.initiator import Initiator, RefusedError, Secret, initiator
from relayd.login.oauth import Provider
from relayd.mail.log import MailLog
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import postponed
from relayd.mail.reply import Reply
from relayd.relay.survey import Endpoint
from relayd.relay.trouble import SessionError
from relayd.smtp.client import SmtpClient
from relayd.smtp.events import LoggedIn, LoginChallenge, LoginRefused

InThread = Callable[[Callable[[], bytes]], Awaitable[bytes]]
LoginEvent = LoginChallenge | LoggedIn | LoginRefused

REFUSED = "4.7.8"  # authentication credentials invalid (RFC 4954 section 6), but in time
NO_TLS = "4.7.11"  # encryption required
NO_WAY = "4.7.9"  # no mechanism in common, or the server is not to be trusted
NO_TOKEN = "4.7.0"  # the provider of tokens is in trouble, and so are we


class NoToken(Exception):  # noqa: N818 - a state of things, and no bug
    """There is no token now. `final`: nor will there be one until somebody enrols anew."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class TokenSource(Protocol):
    """Who has the tokens; `relayd.relay.tokens` is the real one."""

    def provider(self, name: str) -> Provider | None:
        """Who gives tokens for this login; None: it is one by password."""

    async def token(self, provider: Provider) -> tuple[str, bool]:
        """A token, and whether it was given just now; raises NoToken."""

    def rejected(self, name: str, access: str) -> None:
        """A next hop does not take this token."""


class Logins:
    """The secrets as they are now, and which of them are in trouble."""

    def __init__(
        self,
        secrets: Callable[[], Mapping[str, Secret]],
        log: MailLog,
        in_thread: InThread,
        tokens: TokenSource | None = None,
    ) -> None:
        self._secrets = secrets
        self._log = log
        self.in_thread = in_thread
        self.tokens = tokens
        self._refused: set[tuple[str, str]] = set()

    def of(self, target: NextHop | str, endpoint: Endpoint) -> Login | None:
        """What a connection there has to say first; None: nothing."""
        if isinstance(target, str) or not target.login:
            return None
        provider = None if self.tokens is None else self.tokens.provider(target.login)
        return Login(self, target, endpoint, self._secrets().get(target.login), provider)

    def failed(self, name: str, host: str, why: str) -> None:
        """Say it loudly, once."""
        if (name, host) not in self._refused:
            self._refused.add((name, host))
            self._log.trouble("login refused", login=name, host=host, why=why)

    def succeeded(self, name: str, host: str) -> None:
        """Say it, if there was something else to say before."""
        if (name, host) in self._refused:
            self._refused.discard((name, host))
            self._log.notice("login works again", login=name, host=host)


class Login:
    """The login of one connection."""

    def __init__(
        self,
        logins: Logins,
        hop: NextHop,
        endpoint: Endpoint,
        secret: Secret | None,
        provider: Provider | None = None,
    ) -> None:
        self.in_thread = logins.in_thread
        self._logins = logins
        self._hop = hop
        self._host = endpoint.host
        self._port = endpoint.port
        self._secret: Secret | Bearer | None = secret
        self._provider = provider
        self._fresh = False  # the token: a newer one is not to be had
        self._over = False  # the token was refused, and is to be renewed
        self.hopeless = False  # the next hop's other addresses will have the same to say

    async def prepare(self) -> None:
        """Before there is a connection: get the token, where it is one; raises SessionError."""
        provider, tokens = self._provider, self._logins.tokens
        if provider is None or tokens is None:
            return
        try:
            access, fresh = await tokens.token(provider)
        except NoToken as error:
            host = urlsplit(provider.token_url).hostname
            text = f"Login {provider.name}: no token from {host}: {error}"
            reply = _reply(REFUSED if error.final else NO_TOKEN, text)
            self.hopeless = True
            raise SessionError(postponed(reply.status, reply.text)) from None
        self._fresh = self._fresh or fresh
        self._secret = Bearer(provider.user, access, self._host, self._port)

    def renew(self) -> bool:
        """Whether to `prepare` and try once more, because the token may just be over."""
        over, self._over = self._over, False
        if over:
            self._fresh = True
        return over

    def begin(
        self, offered: tuple[str, ...], bindings: Mapping[str, bytes], *, tls: bool
    ) -> Initiator | Reply:
        """The mechanism to use, or why there will be no login."""
        if self._secret is None:  # it was there when the configuration was read
            return self.impossible("the secret is not there any more", "4.3.5")
        if not tls and not self._hop.login_without_tls:
            return self.impossible("there is no TLS to protect it", NO_TLS)
        try:
            speaker = initiator(self._secret, offered, bindings, tls=tls)
        except RefusedError as error:
            return self.impossible(str(error), NO_WAY)
        if speaker is None:
            names = " ".join(offered) or "none"
            return self.impossible(f"no mechanism in common, it offers {names}", NO_WAY)
        return speaker

    def impossible(self, why: str, status: str) -> Reply:
        """We do not log in there."""
        self._logins.failed(self._hop.login, self._host, why)
        return _reply(status, f"Login {self._hop.login} at {self._host} is impossible: {why}")

    def refused(self, reply: Reply, note: str = "") -> Reply:
        """The host said no; `note`: what it said before."""
        said = f"{reply} ({note})" if note else str(reply)
        if isinstance(self._secret, Bearer) and self._logins.tokens is not None:
            self._logins.tokens.rejected(self._hop.login, self._secret.token)
            self._over = not self._fresh
            self.hopeless = self._fresh
        if not self._over:
            self._logins.failed(self._hop.login, self._host, said)
        return _reply(REFUSED, f"Login {self._hop.login} was refused by {self._host}: {said}")

    def succeeded(self) -> None:
        """The host said yes."""
        self._logins.succeeded(self._hop.login, self._host)


class Conversation:
    """Leads one AUTH on a client core. `turn` writes and reads on, `end` hears how it went."""

    def __init__(
        self,
        login: Login,
        core: SmtpClient,
        turn: Callable[[], None],
        end: Callable[[Reply | None], None],
    ) -> None:
        self._login = login
        self._core = core
        self._turn = turn
        self._end = end
        self._speaker: Initiator | None = None
        self._distrust = ""  # why we gave it up

    def begin(self, bindings: Mapping[str, bytes], *, tls: bool) -> None:
        """Say AUTH, or say why not."""
        speaker = self._login.begin(self._core.extensions.auth, bindings, tls=tls)
        if isinstance(speaker, Reply):
            self._end(speaker)
            return
        self._speaker = speaker
        self._core.login(speaker.mechanism, speaker.initial())
        self._turn()

    async def take(self, event: LoginEvent) -> None:
        """What the server said; a response may take a thread some time."""
        speaker = self._speaker
        assert speaker is not None
        try:
            if isinstance(event, LoginChallenge):
                octets = event.octets
                response = await self._login.in_thread(lambda: speaker.respond(octets))
                self._core.respond(response)
                self._turn()
            elif isinstance(event, LoggedIn):
                speaker.accepted()
                self._login.succeeded()
                self._end(None)
            elif self._distrust:
                self._end(self._login.impossible(self._distrust, NO_WAY))
            else:
                self._end(self._login.refused(event.reply, speaker.note))
        except RefusedError as error:
            if isinstance(event, LoginChallenge):
                self._distrust = str(error)
                self._core.cancel_login()
                self._turn()
            else:
                self._end(self._login.impossible(str(error), NO_WAY))


def _reply(status: str, text: str) -> Reply:
    return Reply.of(451, status, text.encode("ascii", "replace").decode())
