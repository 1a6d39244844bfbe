"""SCRAM-SHA-256 (RFC 5802, RFC 7677) and its -PLUS: messages, proofs, and what a server stores."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from relayd.login.saslprep import PrepareError, saslprep

MECHANISM = "SCRAM-SHA-256"
PLUS = "SCRAM-SHA-256-PLUS"
ITERATIONS = 100_000  # RFC 7677 section 4 asks at least 4,096; clients have to pay for it, too
MIN_ITERATIONS = 4096  # as a client: with fewer, a false server guesses passwords too cheaply
MAX_ITERATIONS = 5_000_000  # as a client: a false server must not keep us busy for hours
SALT = 16  # octets
MAX_MESSAGE = 4096  # octets, far more than anybody needs

# attribute-value pairs: attr-val = ALPHA "=" value; no comma in a value
_PAIR = re.compile(r"([A-Za-z])=([^,\x00]*)\Z")
# gs2-cbind-flag = ("p=" cb-name) / "n" / "y"; gs2-header = gs2-cbind-flag "," [ authzid ] ","
_GS2 = re.compile(r"(n|y|p=([A-Za-z0-9.\-]+)),(?:a=([^,\x00]+))?,")
# printable = %x21-2B / %x2D-7E
_NONCE = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,512}\Z")

_ERRORS = frozenset(
    (
        *("invalid-encoding", "extensions-not-supported", "invalid-proof"),
        *("channel-bindings-dont-match", "server-does-support-channel-binding"),
        *("channel-binding-not-supported", "unsupported-channel-binding-type"),
        *("unknown-user", "invalid-username-encoding", "no-resources"),
    )
)


class ScramError(Exception):
    """The other side broke the protocol or failed to prove itself; for the log."""


@dataclass(frozen=True, slots=True)
class Verifier:
    """What proves a password and is none: a thief of it can neither log in nor read it.

    It serves SCRAM, and PLAIN and LOGIN as well, so one form of credentials is enough.
    """

    salt: bytes
    iterations: int
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, *, salt: bytes = b"", iterations: int = ITERATIONS) -> Verifier:
        """Computes for some tens of milliseconds; raises PrepareError."""
        salt = salt or secrets.token_bytes(SALT)
        salted = salted_password(password, salt, iterations)
        return cls(salt, iterations, _stored_key(salted), _mac(salted, b"Server Key"))

    def accepts(self, password: str) -> bool:
        """Whether this is the password. Takes its time: call it in a thread."""
        try:
            salted = salted_password(password, self.salt, self.iterations)
        except PrepareError:
            salted_password("", self.salt, self.iterations)  # takes as long as any other
            return False
        return hmac.compare_digest(_stored_key(salted), self.stored_key)


def salted_password(password: str, salt: bytes, iterations: int) -> bytes:
    """Hi(Normalize(password), salt, i) of RFC 5802 section 3; raises PrepareError."""
    prepared = saslprep(password).encode()
    return hashlib.pbkdf2_hmac("sha256", prepared, salt, iterations)


def _mac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _stored_key(salted: bytes) -> bytes:
    return hashlib.sha256(_mac(salted, b"Client Key")).digest()


def _xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("not base64") from None


def _encoded(octets: bytes) -> str:
    return base64.b64encode(octets).decode("ascii")


def _pairs(message: bytes) -> list[tuple[str, str]]:
    if len(message) > MAX_MESSAGE:
        raise ScramError("message too long")
    try:
        text = message.decode("utf-8")
    except UnicodeDecodeError:
        raise ScramError("message is not UTF-8") from None
    pairs = []
    for part in text.split(","):
        match = _PAIR.match(part)
        if match is None:
            raise ScramError("malformed attribute")
        pairs.append((match[1], match[2]))
    return pairs


def _require(pairs: list[tuple[str, str]], names: str) -> list[str]:
    """The values of these attributes, which must come first and in this order."""
    if "".join(name for name, _ in pairs[: len(names)]) != names:
        raise ScramError(f"expected the attributes {', '.join(names)}")
    return [value for _, value in pairs[: len(names)]]


def new_nonce() -> str:
    """Unguessable, printable, without a comma."""
    return secrets.token_urlsafe(24)


class ScramServer:
    """The server's side: `first`, then `challenge` with the verifier of that name, then `final`.

    `bindings` are the channel bindings this connection has, by name; `plus` says that the client
    chose -PLUS, and `offered` that it could have.
    """

    def __init__(
        self,
        *,
        plus: bool,
        offered: bool,
        bindings: dict[str, bytes],
        nonce: str = "",
    ) -> None:
        self._plus = plus
        self._offered = offered
        self._bindings = bindings
        self._nonce = nonce or new_nonce()
        self._binding = b""  # GS2 header and channel binding, as the client must repeat them
        self._bare = b""
        self._server_first = b""
        self._verifier: Verifier | None = None
        self.authorization = ""  # whom the client wants to act as; empty: itself

    def first(self, message: bytes) -> str:
        """Read client-first-message; the name in it."""
        if len(message) > MAX_MESSAGE:
            raise ScramError("message too long")
        try:
            text = message.decode("utf-8")
        except UnicodeDecodeError:
            raise ScramError("message is not UTF-8") from None
        match = _GS2.match(text)
        if match is None:
            raise ScramError("malformed GS2 header")
        self._binding = match[0].encode() + self._bound(match[1], match[2] or "")
        self.authorization = _unescaped(match[3] or "")
        self._bare = text[match.end() :].encode()
        name, nonce = _require(_pairs(self._bare), "nr")
        if not _NONCE.match(nonce):
            raise ScramError("malformed nonce")
        self._nonce = nonce + self._nonce
        return _unescaped(name)

    def _bound(self, flag: str, kind: str) -> bytes:
        if flag.startswith("p"):
            if not self._plus:
                raise ScramError("channel binding without -PLUS")
            if kind not in self._bindings:
                raise ScramError(f"channel binding {kind} is not to be had")
            return self._bindings[kind]
        if self._plus:
            raise ScramError("-PLUS without channel binding")
        if flag == "y" and self._offered:
            # RFC 5802 section 6: it saw no -PLUS where we offered it; somebody is in between
            raise ScramError("the client was not shown our offer of channel binding")
        return b""

    def challenge(self, verifier: Verifier) -> bytes:
        """server-first-message."""
        self._verifier = verifier
        salt = _encoded(verifier.salt)
        self._server_first = f"r={self._nonce},s={salt},i={verifier.iterations}".encode()
        return self._server_first

    def final(self, message: bytes) -> bytes:
        """Read client-final-message; server-final-message. Raises ScramError for a wrong proof."""
        verifier = self._verifier
        assert verifier is not None
        pairs = _pairs(message)
        binding, nonce = _require(pairs, "cr")
        name, proof = pairs[-1]
        if name != "p":
            raise ScramError("no proof")
        if _decoded(binding) != self._binding:
            raise ScramError("wrong channel binding")
        if not hmac.compare_digest(nonce.encode(), self._nonce.encode()):
            raise ScramError("wrong nonce")
        without_proof = message[: message.rindex(b",p=")]
        said = b",".join((self._bare, self._server_first, without_proof))
        given = _decoded(proof)
        signature = _mac(verifier.stored_key, said)
        if len(given) != len(signature) or not hmac.compare_digest(
            hashlib.sha256(_xor(given, signature)).digest(), verifier.stored_key
        ):
            raise ScramError("wrong password")
        return b"v=" + base64.b64encode(_mac(verifier.server_key, said))


class ScramClient:
    """The client's side: `first`, `final` for the server's first message, then `verify`.

    With `binding` (name and octets) it speaks -PLUS. `could_bind`: the client knows channel
    binding, but the server did not offer it ("y").
    """

    def __init__(
        self,
        name: str,
        password: str,
        *,
        binding: tuple[str, bytes] | None = None,
        could_bind: bool = False,
        nonce: str = "",
    ) -> None:
        self._password = password
        self._nonce = nonce or new_nonce()
        flag = f"p={binding[0]}" if binding else "y" if could_bind else "n"
        self._gs2 = f"{flag},,".encode()
        self._bound = binding[1] if binding else b""
        self._bare = f"n={_escaped(saslprep(name))},r={self._nonce}".encode()
        self._server_signature = b""

    def first(self) -> bytes:
        """client-first-message."""
        return self._gs2 + self._bare

    def final(self, server_first: bytes) -> bytes:
        """client-final-message. Computes for as long as the server's iteration count says."""
        nonce, salt, count = _require(_pairs(server_first), "rsi")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise ScramError("the server's nonce does not continue ours")
        if not re.fullmatch(r"[1-9][0-9]{0,9}", count):
            raise ScramError("malformed iteration count")
        iterations = int(count)
        if not MIN_ITERATIONS <= iterations <= MAX_ITERATIONS:
            raise ScramError(f"an iteration count of {iterations} is out of range")
        salted = salted_password(self._password, _decoded(salt), iterations)
        channel = _encoded(self._gs2 + self._bound)
        without_proof = f"c={channel},r={nonce}".encode()
        said = b",".join((self._bare, server_first, without_proof))
        proof = _xor(_mac(salted, b"Client Key"), _mac(_stored_key(salted), said))
        self._server_signature = _mac(_mac(salted, b"Server Key"), said)
        return without_proof + b",p=" + base64.b64encode(proof)

    def verify(self, server_final: bytes) -> None:
        """Read server-final-message: the server must know the password, too."""
        name, value = _pairs(server_final)[0]
        if name == "e":
            # no other words: they may be ours (RFC 5802 section 7 has these)
            told = value if value in _ERRORS else "other-error"
            raise ScramError(f"the server says {told}")
        if name != "v" or not self._server_signature:
            raise ScramError("no signature of the server")
        if not hmac.compare_digest(_decoded(value), self._server_signature):
            raise ScramError("wrong signature of the server")


def _escaped(name: str) -> str:
    return name.replace("=", "=3D").replace(",", "=2C")


def _unescaped(name: str) -> str:
    """The name out of a saslname, which is 1*(value-safe-char / "=2C" / "=3D")."""
    if re.search(r"=(?!2C|3D)", name):
        raise ScramError("malformed name")
    return name.replace("=2C", ",").replace("=3D", "=")
