"""The server's role: which certificate a client sees, and what is asked of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IHalfCloseableProtocol, IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from relayd.tls.names import readable
from relayd.tls.pair import CertificateError, Pair
from relayd.tls.strength import DEFAULT_MINIMUM, server_context

_EARLY = 65536  # octets; the session ends all the same

Contexts = Mapping[str, SSL.Context]


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    """Makes the TLS side of sessions of one listener. `replace` takes effect for new sessions.

    Contexts are never changed once they are used: a renewed certificate is a new context, and
    open sessions keep the one they have.
    """

    def __init__(self, wants_certificate: Callable[[], bool] = lambda: False) -> None:
        self._wants_certificate = wants_certificate
        self._first: SSL.Context | None = None

    @property
    def ready(self) -> bool:
        """There is something to serve."""
        return self._first is not None

    def replace(self, pairs: Iterable[Pair], minimum: str = DEFAULT_MINIMUM) -> None:
        """Serve these from now on; raises CertificateError, then all stays as it was."""
        by_name: dict[str, list[Pair]] = {}
        for pair in pairs:
            for name in pair.files.names or ("",):
                by_name.setdefault(name, []).append(pair)
        made: dict[tuple[Pair, ...], SSL.Context] = {}
        contexts: dict[str, SSL.Context] = {}
        for name, several in by_name.items():
            key = tuple(several)
            if key not in made:
                made[key] = _context(several, minimum)
            contexts[name] = made[key]
        for context in made.values():
            # before the first connection: OpenSSL takes it from the context that began
            context.set_tlsext_servername_callback(_chooser(contexts))
        self._first = contexts.get("") or next(iter(contexts.values()), None)

    def serverConnectionForTLS(
        self,
        tlsProtocol: TLSMemoryBIOProtocol,  # noqa: N803  # the interface's own name
    ) -> SSL.Connection:
        """A connection on the contexts of now."""
        assert self._first is not None
        connection = _Connection(self._first, None)
        connection.protocol = tlsProtocol.wrappedProtocol
        if self._wants_certificate():
            connection.set_verify(SSL.VERIFY_PEER, _anybody)
        return connection

    def describe(self, connection: SSL.Connection) -> tuple[str, str]:
        """What was negotiated, and the client's certificate as `fingerprints` has it."""
        tls = f"{connection.get_protocol_version_name()} {connection.get_cipher_name()}"
        return tls, fingerprints(connection.get_peer_certificate())

    def early(self, connection: SSL.Connection) -> bytes:
        """What the client has sent together with the end of the handshake."""
        try:
            return connection.recv(_EARLY)
        except SSL.Error:
            return b""


class _Connection(SSL.Connection):
    """Takes close_notify for what it says (RFC 8446 section 6.1): the client sends no more.

    It may still hear. Twisted would close, and the reply to a commit under way were lost.
    """

    protocol: object = None  # hears of it, if it can do something about it

    def recv(self, bufsiz: int, flags: int | None = None) -> bytes:
        """What was received; WantReadError also at the end."""
        try:
            return super().recv(bufsiz, flags)
        except SSL.ZeroReturnError:
            if not IHalfCloseableProtocol.providedBy(self.protocol):
                raise
            self.protocol.readConnectionLost()
            raise SSL.WantReadError from None


def _context(pairs: Iterable[Pair], minimum: str) -> SSL.Context:
    context = server_context(minimum)
    kinds: dict[str, Pair] = {}
    for pair in pairs:
        other = kinds.setdefault(pair.kind, pair)
        if other is not pair:
            raise CertificateError(
                f"{pair.files.certificate} and {other.files.certificate} are both {pair.kind}"
                " and for the same names"
            )
        pair.put_into(context)
    return context


def _chooser(contexts: Contexts) -> Callable[[SSL.Connection], None]:
    def choose(connection: SSL.Connection) -> None:
        """By server name (RFC 6066 section 3); who asks for another gets the default."""
        asked = connection.get_servername()
        if not asked:
            return
        name = asked.decode("ascii", "replace").lower().rstrip(".")
        context = contexts.get(name) or contexts.get("*." + name.partition(".")[2])
        if context is not None:
            connection.set_context(context)

    return choose


def _anybody(*_: object) -> bool:
    """Whatever certificate it is: rules look at its fingerprint, no authority has a say."""
    return True


def fingerprints(certificate: crypto.X509 | None) -> str:
    """SHA-256 of the certificate and of its public key (SPKI), hexadecimal.

    Empty: there is none, or none that can be read. That the client has the key to it the handshake
    has proved.
    """
    found = readable(certificate)
    if found is None:
        return ""
    whole = found.public_bytes(Encoding.DER)
    spki = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return f"{hashlib.sha256(whole).hexdigest()} {hashlib.sha256(spki).hexdigest()}"
