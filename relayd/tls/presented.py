"""The certificate that a server has shown, for people to read."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from OpenSSL import SSL

from relayd.dns.answer import Tlsa
from relayd.tls.client import peer_chain
from relayd.tls.dane import end_entity, trust_anchor, usable
from relayd.tls.names import certifies


@dataclass(frozen=True, slots=True)
class Presented:
    """A chain, the server's own certificate first."""

    chain: Sequence[x509.Certificate]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that it is for."""
        try:
            found = self.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
            return tuple(found.value.get_values_for_type(x509.DNSName))
        except (x509.ExtensionNotFound, ValueError):
            return ()

    @property
    def expires(self) -> datetime.datetime:
        """UTC: when the first one of the chain is over."""
        return min(map(_expiry, self.chain))

    def certifies(self, name: str) -> bool:
        """Whether it is for this name."""
        return certifies(self.chain[0], name)

    def meets(self, records: Iterable[Tlsa], name: str) -> bool:
        """Whether TLSA records of this host name what it has shown (RFC 7672 section 3.1)."""
        good = usable(records)
        return end_entity(good, self.chain) or (
            trust_anchor(good, self.chain) == "" and self.certifies(name)
        )


def presented(connection: SSL.Connection) -> Presented | None:
    """What the server of this connection has shown; None: nothing that can be read."""
    chain = peer_chain(connection)
    return Presented(chain) if chain else None


def _expiry(certificate: x509.Certificate) -> datetime.datetime:
    if hasattr(certificate, "not_valid_after_utc"):
        return certificate.not_valid_after_utc
    return certificate.not_valid_after.replace(tzinfo=datetime.UTC)
