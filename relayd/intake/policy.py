"""What holds at one listener: TLS, balancers, XCLIENT, submission, and where clients log in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from relayd.intake.authentication import LoginPolicy


class ServerSide(Protocol):
    """What is asked of relayd.tls.server.ServerTls; it is an IOpenSSLServerConnectionCreator."""

    @property
    def ready(self) -> bool:
        """There is a certificate to serve."""

    def describe(self, connection: Any) -> tuple[str, str]:  # noqa: ANN401
        """The facts of a pyOpenSSL connection: protocol and cipher, and client certificate."""

    def early(self, connection: Any) -> bytes:  # noqa: ANN401
        """What the client has sent together with the end of the handshake."""


@dataclass(frozen=True, slots=True)
class ListenerPolicy:
    """One `listen` statement; a session keeps what it began with.

    Whether a peer is a balancer may be Unknown, which is raised.
    """

    tls: ServerSide | None = None
    implicit: bool = False  # TLS from the first octet (RFC 8314 section 3.3)
    balancer: Callable[[str], bool] | None = None  # a PROXY header comes first from this peer
    xclient: Callable[[str], tuple[str, ...]] | None = None  # attributes this peer may set
    strict: bool = False  # the letter of RFC 5321
    submission: bool = False  # complete what people's mail programs leave out (RFC 6409)
    login_required: bool = False
    origin: str = ""  # completes paths without a domain, and with `submission` the header's
    login: LoginPolicy | None = None  # None: nobody logs in

    @property
    def starttls(self) -> bool:
        """Whether EHLO is to offer it."""
        return self.tls is not None and self.tls.ready and not self.implicit

    @property
    def shut(self) -> bool:
        """TLS is a must, and there is no certificate."""
        return self.implicit and not (self.tls is not None and self.tls.ready)


RELAY = ListenerPolicy()
"""In the clear, for other mail servers: nothing is added."""
