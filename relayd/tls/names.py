"""What peers present, and whether it is for a name: RFC 9525, by its subjectAltName alone."""

from __future__ import annotations

import ipaddress

from cryptography import x509
from OpenSSL import crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from relayd.mail.address import fold_domain


def readable(presented: crypto.X509 | None) -> x509.Certificate | None:
    """A peer's certificate; None: there is none, or one that only OpenSSL makes something of."""
    if presented is None:
        return None
    try:
        certificate = presented.to_cryptography()
        certificate.public_key()
    except Exception:  # of several kinds: no such version, no such key, no DER
        return None
    return certificate


def certifies(certificate: x509.Certificate, name: str) -> bool:
    """Whether it is for this host name, or IP address; one that cannot be read is for nobody.

    service-identity's releases of some years ago fall back on the common name where there is no
    subjectAltName of the kind asked for: so they are not asked then.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if is_address(name):
            ipaddress.ip_address(name)
            if not names.get_values_for_type(x509.IPAddress):
                return False
            verify_certificate_ip_address(certificate, name)
        else:
            host = fold_domain(name.removesuffix("."))
            if not names.get_values_for_type(x509.DNSName) or host[:1] in ("", "."):
                return False
            verify_certificate_hostname(certificate, host)
    except Exception:  # of several kinds: another's, or none, or not in DER, or of unheard-of names
        return False
    return True


def is_address(name: str) -> bool:
    """Whether the name is an IP address, which needs an iPAddress (RFC 9525 section 6.4)."""
    return ":" in name or name.rpartition(".")[2].isdigit()
