"""The client's role: one shared context, and per connection what the server must prove."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from pathlib import Path

from cryptography import x509
from OpenSSL import SSL, crypto
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from zope.interface import implementer

from relayd.mail.security import Level
from relayd.tls import dane
from relayd.tls.demand import Demand, UnmetError
from relayd.tls.flaw import Flaw
from relayd.tls.names import certifies, readable
from relayd.tls.sessions import CertificateVerdict, Handshakes, KeptSession, TlsSessions
from relayd.tls.strength import DEFAULT_MINIMUM, client_context

# X509_V_ERR_*: what goes wrong most, in the words of X509_verify_cert_error_string(3)
_TROUBLE = {
    9: "certificate is not yet valid",
    10: "certificate has expired",
    18: "self-signed certificate",
    19: "self-signed certificate in certificate chain",
    20: "unable to get local issuer certificate",
    21: "unable to verify the first certificate",
    23: "certificate revoked",
    26: "unsuitable certificate purpose",
    66: "certificate key too weak",
    68: "certificate signature digest too weak",
}
_FLAWS = {10: Flaw.EXPIRED, **dict.fromkeys((18, 19, 20, 21), Flaw.NOT_TRUSTED)}


class ClientContexts:
    """The context of all connections; replaced, never changed, when settings do."""

    def __init__(
        self,
        minimum: str = DEFAULT_MINIMUM,
        authorities: Path | None = None,
        handshakes: Handshakes | None = None,
    ) -> None:
        """Raises OSError when the authorities cannot be read."""
        self.context = client_context(minimum)
        self.sessions = TlsSessions(handshakes)  # made under it, and of no use for another one
        if authorities is None:
            self.context.set_default_verify_paths()
        else:
            authorities.open("rb").close()  # for the sake of a readable error
            try:
                self.context.load_verify_locations(str(authorities))
            except SSL.Error:
                raise OSError(0, "no authorities in PEM", str(authorities)) from None


@implementer(IOpenSSLClientConnectionCreator)
class ClientTls:
    """TLS on one connection. The handshake accepts any certificate; `proof` looks at it.

    `server`: where it is, for sessions to be resumed there; None: none is.
    """

    def __init__(
        self, contexts: ClientContexts, demand: Demand, server: Hashable | None = None
    ) -> None:
        self._context = contexts.context
        self._sessions = contexts.sessions
        self._demand = demand
        # the same server, which is to prove the same: nothing else goes by its verdict
        self._key = (server, demand.level, demand.server_name, demand.names, demand.records)
        self._offered = None if server is None else self._sessions.find(self._key)
        self._server = server
        self._looked = False  # at a certificate: this is no resumed session
        self._verdict = CertificateVerdict()
        self._trouble = ""
        self.flaw: Flaw | None = None  # after `proof`, also where the demand is met
        self.why = ""  # likewise

    def clientConnectionForTLS(
        self,
        tlsProtocol: TLSMemoryBIOProtocol,  # noqa: N803  # the interface's own name
    ) -> SSL.Connection:
        """A connection that notes what OpenSSL thinks of the chain."""
        connection = SSL.Connection(self._context, None)
        if self._demand.server_name:
            connection.set_tlsext_host_name(self._demand.server_name.encode("ascii"))
        connection.set_verify(SSL.VERIFY_PEER, self._note)
        if self._offered is not None and self._offered.session is not None:
            connection.set_session(self._offered.session)
        return connection

    def _note(
        self, _: SSL.Connection, certificate: crypto.X509, error: int, depth: int, good: int
    ) -> bool:
        self._looked = True
        if not good and not self._trouble:
            self._trouble = _TROUBLE.get(error, f"certificate not accepted (OpenSSL error {error})")
            self.flaw = _FLAWS.get(error, Flaw.VALIDATION)
        return True

    def proof(self, connection: SSL.Connection) -> str:
        """What the log says of the session; raises UnmetError when the demand is not met."""
        tls = f"{connection.get_protocol_version_name()} {connection.get_cipher_name()}"
        demand, resumed = self._demand, self._resumed
        if resumed is not None:
            self._sessions.counts.resumed += 1
            self._verdict = resumed.verdict
        else:
            self._sessions.counts.full += 1
            self._verdict = self._look(connection)
        if demand.level is Level.DANE:
            return f"{tls} dane"
        self.why, self.flaw = self._verdict
        if demand.denied:
            self.why, self.flaw = demand.denied, Flaw.VALIDATION
        if demand.level is Level.VERIFY and self.flaw is not None:
            raise UnmetError(self.why, self.flaw)
        return tls if self.why else f"{tls} verified"

    def _look(self, connection: SSL.Connection) -> CertificateVerdict:
        """What is to be said of the certificate; raises UnmetError where TLSA records say no."""
        demand = self._demand
        if demand.level is Level.DANE:
            self.flaw = None  # no authority has a say
            _check_dane(connection, demand)
            return CertificateVerdict()
        if self._trouble:
            return CertificateVerdict(self._trouble, self.flaw)
        if not self._looked:
            return CertificateVerdict("no certificate was looked at", Flaw.VALIDATION)
        if wrong := _wrong_name(connection, demand.names):
            return CertificateVerdict(wrong, Flaw.WRONG_NAME)
        return CertificateVerdict()

    # sessions

    @property
    def offered(self) -> bool:
        """A session was to be resumed, which may be what the server is in trouble with."""
        return self._offered is not None

    @property
    def _resumed(self) -> KeptSession | None:
        """The session that goes on. OpenSSL calls `_note` whenever there is a certificate."""
        return None if self._looked else self._offered

    def keep(self, connection: SSL.Connection) -> None:
        """Keep the session; after the server has spoken, for its tickets come first (TLS 1.3)."""
        if self._server is None:
            return
        session = connection.get_session()
        if session is not None:
            self._sessions.keep(self._key, session, self._verdict, self._resumed)

    def refuse(self) -> None:
        """It came to nothing: the next connection offers no session."""
        self._sessions.refuse(self._key)


def _check_dane(connection: SSL.Connection, demand: Demand) -> None:
    chain = peer_chain(connection)
    if not chain:
        raise UnmetError("no certificate that can be read")
    if dane.end_entity(demand.records, chain):
        return
    if trouble := dane.trust_anchor(demand.records, chain):
        raise UnmetError(trouble, Flaw.EXPIRED if "expired" in trouble else Flaw.VALIDATION)
    if trouble := _wrong_name(connection, demand.names):
        raise UnmetError(trouble, Flaw.WRONG_NAME)


def peer_chain(connection: SSL.Connection) -> Sequence[x509.Certificate]:
    """What the server sent, its own first; without those above it that cannot be read."""
    chain = [readable(each) for each in connection.get_peer_cert_chain() or ()]
    return [each for each in chain if each is not None] if chain and chain[0] else ()


def _wrong_name(connection: SSL.Connection, names: Sequence[str]) -> str:
    """Empty: the certificate is for one of the names (RFC 9525); else why not."""
    certificate = readable(connection.get_peer_certificate())
    if certificate is not None and any(certifies(certificate, name) for name in names):
        return ""
    return f"certificate is not for {' or '.join(names) or 'a name'}"
