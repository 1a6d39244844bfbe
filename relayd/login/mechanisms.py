"""The server's side of the SASL mechanisms: each a generator that asks and ends with a name.

It yields a Challenge and is sent the client's response; or it yields a question about
credentials and is sent the answer. So it needs no socket, no thread and no clock.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field

from relayd.login.saslprep import PrepareError, saslprep
from relayd.login.scram import MECHANISM as SCRAM
from relayd.login.scram import PLUS, ScramError, ScramServer, Verifier

MAX_NAME = 255  # octets
MAX_PASSWORD = 1024  # octets


class LoginError(Exception):
    """The login fails; the text is for the log, the client never hears it.

    `name` is who it claimed to be, as far as that is known.
    """

    def __init__(self, why: str, name: str = "") -> None:
        super().__init__(why)
        self.name = name


@dataclass(frozen=True, slots=True)
class Challenge:
    """To be said to the client (before base64)."""

    octets: bytes = b""


@dataclass(frozen=True, slots=True)
class CheckPassword:
    """Whether this is the name's password: answered with True or False."""

    name: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchVerifier:
    """The credentials of a name: answered with a Verifier, of nobody when there is no such."""

    name: str


@dataclass(frozen=True, slots=True)
class Channel:
    """What the mechanisms may know of the connection."""

    bindings: dict[str, bytes] = field(default_factory=dict, repr=False)  # by name, RFC 5929


Question = Challenge | CheckPassword | FetchVerifier
Answer = bytes | bool | Verifier
Mechanism = Generator[Question, Answer, str]


def plain(initial: bytes | None, channel: Channel) -> Mechanism:
    """PLAIN (RFC 4616): `[authzid] NUL authcid NUL passwd`."""
    message = initial if initial is not None else (yield Challenge())
    assert isinstance(message, bytes)
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise LoginError("malformed PLAIN message")
    other, name, password = (_text(part) for part in parts)
    name = _name(name)
    if other and _name(other) != name:
        raise LoginError(f"wants to act as {other[:80]}", name)
    return (yield from _checked(name, password))


def login(initial: bytes | None, channel: Channel) -> Mechanism:
    """LOGIN: no standard, but old clients know nothing else."""
    said = initial if initial is not None else (yield Challenge(b"Username:"))
    assert isinstance(said, bytes)
    name = _name(_text(said))
    password = yield Challenge(b"Password:")
    assert isinstance(password, bytes)
    return (yield from _checked(name, _text(password)))


def _checked(name: str, password: str) -> Mechanism:
    if not password or len(password.encode()) > MAX_PASSWORD:
        raise LoginError("no password, or one too long", name)
    if (yield CheckPassword(name, password)) is not True:
        raise LoginError("wrong password or no such login", name)
    return name


def scram(initial: bytes | None, channel: Channel) -> Mechanism:
    """SCRAM-SHA-256."""
    return _scram(initial, channel, plus=False)


def scram_plus(initial: bytes | None, channel: Channel) -> Mechanism:
    """SCRAM-SHA-256-PLUS."""
    return _scram(initial, channel, plus=True)


def _scram(initial: bytes | None, channel: Channel, *, plus: bool) -> Mechanism:
    bindings = channel.bindings
    server = ScramServer(plus=plus, offered=bool(bindings), bindings=bindings)
    name = ""
    try:
        first = initial if initial is not None else (yield Challenge())
        assert isinstance(first, bytes)
        name = _name(server.first(first))
        if server.authorization and _name(server.authorization) != name:
            raise LoginError(f"wants to act as {server.authorization[:80]}", name)
        verifier = yield FetchVerifier(name)
        assert isinstance(verifier, Verifier)
        proof = yield Challenge(server.challenge(verifier))
        assert isinstance(proof, bytes)
        # RFC 4954 has no room for data beside 235, so it is one challenge more
        yield Challenge(server.final(proof))
    except ScramError as error:
        raise LoginError(str(error), name) from None
    return name


def _text(octets: bytes) -> str:
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError:
        raise LoginError("not UTF-8") from None


def _name(text: str) -> str:
    """A login as it is compared: prepared, and case does not matter."""
    if not 0 < len(text.encode()) <= MAX_NAME:
        raise LoginError("no name, or one too long")
    try:
        return folded(text)
    except PrepareError as error:
        raise LoginError(f"malformed name: {error}") from None


def folded(name: str) -> str:
    """The one spelling of a login's name; raises PrepareError."""
    prepared = saslprep(name).lower()
    if not prepared or " " in prepared or "\xa0" in prepared:
        raise PrepareError("a blank in it")
    return prepared


MECHANISMS: Mapping[str, Callable[[bytes | None, Channel], Mechanism]] = {
    PLUS: scram_plus,
    SCRAM: scram,
    "PLAIN": plain,
    "LOGIN": login,
}
"""By name, the best first: the order in which EHLO lists them."""

SHOWING = ("PLAIN", "LOGIN")
"""Those that show the password to the server, which somebody else may look at then."""

DEFAULT = tuple(name for name in MECHANISMS if name != PLUS)
"""What is on offer where nobody says otherwise: not -PLUS.

Clients take it because it is the strongest, and some find out too late that they cannot: GNU SASL
chooses it wherever it is offered, a mail program that does not know tls-exporter (which is all
that TLS 1.3 has) fails, and tries no other. Nothing that a server says after the offer helps them.
"""
