"""TLS to a server whose certificate must be for one name, or the connection fails."""

from __future__ import annotations

from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from zope.interface import implementer

from relayd.tls.names import certifies, is_address, readable


class WrongNameError(Exception):
    """The server's certificate is for somebody else."""

    def __init__(self) -> None:
        super().__init__("the certificate is for another name")


@implementer(IOpenSSLClientConnectionCreator)
class NamedTls:
    """As Twisted's own options for clients, but that the name is looked for by RFC 9525 alone.

    `context` verifies the chain, and is for this one name.
    """

    def __init__(self, context: SSL.Context, name: str) -> None:
        self._context = context
        self._name = name
        context.set_info_callback(self._look)

    def clientConnectionForTLS(
        self,
        tlsProtocol: TLSMemoryBIOProtocol,  # noqa: N803  # the interface's own name
    ) -> SSL.Connection:
        """A connection that knows whom to tell."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        if not is_address(self._name):
            connection.set_tlsext_host_name(self._name.encode("idna"))
        return connection

    def _look(self, connection: SSL.Connection, where: int, _: int) -> None:
        if not where & SSL.SSL_CB_HANDSHAKE_DONE:
            return
        # nothing here may raise: OpenSSL would not notice
        certificate = readable(connection.get_peer_certificate())
        if certificate is None or not certifies(certificate, self._name):
            wrong = Failure(WrongNameError())  # type: ignore[no-untyped-call]  # Twisted's own
            connection.get_app_data().failVerification(wrong)
