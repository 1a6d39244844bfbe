"""AUTH in a session: the mechanism's questions put to client and accounts, in good time."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from relayd.intake.limits import client_key
from relayd.login.accounts import Accounts, Checked
from relayd.login.dovecot import Result
from relayd.login.guesses import Guesses
from relayd.login.mechanisms import (
    DEFAULT,
    MECHANISMS,
    Answer,
    Challenge,
    Channel,
    CheckPassword,
    LoginError,
    Mechanism,
)
from relayd.login.scram import PLUS
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.mail.reply import Reply
from relayd.mail.value import dataclass
from relayd.smtp.events import Auth, AuthResponse

MOST_FAILURES = 5  # of one session; the next one hears 421

WELCOME = Reply.of(235, "2.7.0", "Authentication successful")
# one text for whatever is wrong with name or password: nobody learns which names exist
FAILED = Reply.of(535, "5.7.8", "Authentication failed")
CANCELLED = Reply.of(501, "5.7.0", "Authentication cancelled")
TOO_FAST = Reply.of(454, "4.7.0", "Too many failed logins, try again in a minute")
TROUBLE = Reply.of(454, "4.7.0", "Temporary authentication failure")
ENOUGH = Reply.of(421, "4.7.0", "Too many failed logins")


class _TroubleError(Exception):
    """The accounts cannot be asked."""


class _TooFastError(Exception):
    """Somebody guesses at the account."""


@dataclass(frozen=True, slots=True)
class LoginPolicy:
    """Where the clients of one listener log in."""

    accounts: Accounts
    guesses: Guesses
    log: MailLog
    in_clear: bool = False  # also without TLS
    mechanisms: tuple[str, ...] = DEFAULT  # of those that the accounts can


@dataclass(frozen=True, slots=True)
class Said:
    """The answer to AUTH or to a response; with a name the client has logged in."""

    reply: Reply
    name: str = ""


class Authentication:
    """The logins that one session tries, one after the other."""

    def __init__(self, policy: LoginPolicy, address: str) -> None:
        self._policy = policy
        self._key = client_key(address)
        self._bindings: dict[str, bytes] = {}
        self._machine: Mechanism | None = None
        self._mechanism = ""
        self._token = 0.0
        self._account = ""  # whose password it was
        self._failures = 0

    @property
    def in_clear(self) -> bool:
        """AUTH is offered also without TLS."""
        return self._policy.in_clear

    @property
    def mechanism(self) -> str:
        """By which it was tried last."""
        return self._mechanism

    @property
    def mechanisms(self) -> tuple[str, ...]:
        """What EHLO is to offer."""
        possible = self._policy.accounts.mechanisms(bound=bool(self._bindings))
        return tuple(name for name in self._policy.mechanisms if name in possible)

    def moved(self, address: str) -> None:
        """Another client speaks now (XCLIENT): its guesses are its own."""
        self.abandon()
        self._key = client_key(address)
        self._failures = 0

    def secured(self, bindings: Mapping[str, bytes]) -> None:
        """TLS is up; `bindings` are those that both ends can know (RFC 5929, RFC 9266)."""
        self.abandon()
        # a client that could bind and sees no -PLUS is right where none is offered ("y")
        self._bindings = dict(bindings) if PLUS in self._policy.mechanisms else {}

    def abandon(self) -> None:
        """The session is over or begins anew: an unfinished login is not a failed one."""
        if self._machine is not None:
            self._machine = None
            self._policy.guesses.forgive(self._key, self._token)

    async def receive(self, event: Auth | AuthResponse, client: Client) -> Said:
        """The answer to the client; the session waits for it, for at most some seconds."""
        answer: Answer | None = None
        if isinstance(event, Auth):
            self.abandon()
            token = self._policy.guesses.begin(self._key)
            if token is None:
                return self._refused(client, TOO_FAST, "too many failed logins")
            self._token = token
            self._mechanism = event.mechanism
            self._machine = MECHANISMS[event.mechanism](event.initial, Channel(self._bindings))
        elif event.response is None:
            self.abandon()
            return Said(CANCELLED)
        else:
            answer = event.response
        machine, self._machine = self._machine, None
        if machine is None:  # the core does not let it happen
            return Said(CANCELLED)
        return await self._go_on(machine, answer, client)

    def too_late(self, client: Client) -> Said:
        """What the client hears when the accounts have taken too long: not its failure."""
        return self._in_trouble(client, "it took too long")

    async def _go_on(self, machine: Mechanism, answer: Answer | None, client: Client) -> Said:
        guesses = self._policy.guesses
        try:
            while True:
                question = machine.send(answer)  # type: ignore[arg-type]  # None begins it
                if isinstance(question, Challenge):
                    self._machine = machine
                    return Said(Reply.bare(334, b64encode(question.octets).decode("ascii")))
                if guesses.closed(question.name, self._key):
                    raise _TooFastError(question.name)
                self._account = question.name
                if isinstance(question, CheckPassword):
                    answer = await self._check(question, client)
                else:
                    answer = self._policy.accounts.verifier(question.name)
        except StopIteration as end:
            name = self._account or str(end.value)
            guesses.forgive(self._key, self._token)
            guesses.succeeded(str(end.value), self._key)
            return Said(WELCOME, name)
        except LoginError as error:
            if error.name:
                guesses.failed(error.name)
            named = f"login {error.name}: " if error.name else ""
            return self._refused(client, FAILED, f"{named}{error}")
        except _TroubleError as error:
            return self._in_trouble(client, str(error))
        except _TooFastError as error:
            return self._refused(client, TOO_FAST, f"login {error}: too many failed logins")

    async def _check(self, question: CheckPassword, client: Client) -> bool:
        checked: Checked = await self._policy.accounts.check(
            question.name, question.password, client.address, tls=bool(client.tls)
        )
        if checked.result is Result.TROUBLE:
            raise _TroubleError(checked.why or "no reason given")
        if checked.result is Result.DENIED:
            return False
        self._account = checked.user or question.name
        return True

    def _in_trouble(self, client: Client, why: str) -> Said:
        self._policy.guesses.forgive(self._key, self._token)
        self._policy.log.trouble("logins cannot be checked", why=why)
        return self._refused(client, TROUBLE, why)

    def _refused(self, client: Client, reply: Reply, why: str) -> Said:
        self._failures += 1
        # the line that fail2ban reads says what was wrong, whatever the client hears
        self._policy.log.refused(client, f"AUTH {self._mechanism}".rstrip(), str(reply), why)
        return Said(ENOUGH if self._failures > MOST_FAILURES else reply)
