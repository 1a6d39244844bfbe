"""Whether a certificate is for a name: RFC 9525, by its subjectAltName and nothing else.

Not by service-identity, whose releases of some years ago fall back on the common name.
"""

from __future__ import annotations

import ipaddress

from cryptography import x509

from relayd.mail.address import fold_domain


def certifies(certificate: x509.Certificate, name: str) -> bool:
    """Whether it is for this host name, or IP address; one that cannot be read is for nobody."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if is_address(name):
            return ipaddress.ip_address(name) in names.get_values_for_type(x509.IPAddress)
        host = fold_domain(name.removesuffix("."))
        presented = names.get_values_for_type(x509.DNSName)
        return host != "" and any(_matches(each, host) for each in presented)
    except Exception:  # of several kinds: there is none, or not in DER, or of unheard-of names
        return False


def is_address(name: str) -> bool:
    """Whether the name is an IP address, which needs an iPAddress (RFC 9525 section 6.4)."""
    return ":" in name or name.rpartition(".")[2].isdigit()


def _matches(presented: str, host: str) -> bool:
    """Section 6.3: a wildcard is the whole of the left-most label, and stands for one label.

    Not left of a last label: nobody has a certificate for all of a top-level domain.
    """
    presented = presented.lower()
    if not presented.startswith("*."):
        return presented == host
    label, _, parent = host.partition(".")
    return bool(label) and "." in parent and presented[2:] == parent
