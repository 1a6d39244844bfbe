"""The client's side of the SASL mechanisms: what we say to a next hop that wants a login."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from relayd.login.bearer import Bearer, bearer_initiator
from relayd.login.saslprep import PrepareError
from relayd.login.scram import MECHANISM as SCRAM
from relayd.login.scram import PLUS, ScramClient, ScramError


@dataclass(frozen=True, slots=True)
class Secret:
    """A login at somebody else's server."""

    user: str
    password: str = field(repr=False)


class RefusedError(Exception):
    """We do not go on with this server; the text says why, and holds no secret."""


class Initiator(Protocol):
    """One login in progress."""

    mechanism: str
    note: str  # what the server said of a refusal, before it refused

    def initial(self) -> bytes | None:
        """What goes along with AUTH; None: nothing (then a challenge comes first)."""

    def respond(self, challenge: bytes) -> bytes:
        """The response to a challenge; raises RefusedError."""

    def accepted(self) -> None:
        """The server said yes; raises RefusedError when it has not proved itself as it must."""


class _Plain:
    """PLAIN (RFC 4616)."""

    mechanism = "PLAIN"
    note = ""

    def __init__(self, secret: Secret) -> None:
        self._message = f"\0{secret.user}\0{secret.password}".encode()

    def initial(self) -> bytes | None:
        return self._message

    def respond(self, challenge: bytes) -> bytes:
        raise RefusedError("the server asks more than PLAIN has to say")

    def accepted(self) -> None:
        pass


class _Login:
    """LOGIN: the name, then the password, whatever the server calls them."""

    mechanism = "LOGIN"
    note = ""

    def __init__(self, secret: Secret) -> None:
        self._answers = [secret.user.encode(), secret.password.encode()]

    def initial(self) -> bytes | None:
        return None

    def respond(self, challenge: bytes) -> bytes:
        if not self._answers:
            raise RefusedError("the server asks more than LOGIN has to say")
        return self._answers.pop(0)

    def accepted(self) -> None:
        pass


class _Scram:
    """SCRAM-SHA-256 and -PLUS."""

    note = ""

    def __init__(self, secret: Secret, binding: tuple[str, bytes] | None, *, could: bool) -> None:
        self.mechanism = PLUS if binding else SCRAM
        try:
            self._client = ScramClient(
                secret.user, secret.password, binding=binding, could_bind=could
            )
        except PrepareError as error:
            raise RefusedError(f"the user's name cannot be sent: {error}") from None
        self._steps = 0

    def initial(self) -> bytes | None:
        return self._client.first()

    def respond(self, challenge: bytes) -> bytes:
        self._steps += 1
        try:
            if self._steps == 1:
                return self._client.final(challenge)
            if self._steps == 2:
                self._client.verify(challenge)
                return b""
        except (ScramError, PrepareError) as error:
            raise RefusedError(f"{self.mechanism}: {error}") from None
        raise RefusedError(f"the server asks more than {self.mechanism} has to say")

    def accepted(self) -> None:
        if self._steps < 2:
            raise RefusedError("the server did not prove that it knows the password")


def initiator(
    secret: Secret | Bearer, offered: Collection[str], bindings: Mapping[str, bytes], *, tls: bool
) -> Initiator | None:
    """The strongest mechanism that both sides have; None: there is none.

    In the clear only SCRAM keeps the password to itself, so it stays the first choice there, too.
    """
    if isinstance(secret, Bearer):
        return bearer_initiator(secret, offered)
    if PLUS in offered and bindings:
        return _Scram(secret, next(iter(bindings.items())), could=True)
    if SCRAM in offered:
        # "y" tells the server that we know channel binding: it must have offered -PLUS if it could
        return _Scram(secret, None, could=tls and bool(bindings) and PLUS not in offered)
    simple: Mapping[str, Callable[[Secret], Initiator]] = {"PLAIN": _Plain, "LOGIN": _Login}
    for name, make in simple.items():
        if name in offered:
            return make(secret)
    return None
