"""Whether a certificate chain is the one that TLSA records name (RFC 6698, 7671, 7672)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from OpenSSL import crypto

from relayd.dns.answer import Tlsa

DANE_TA, DANE_EE = 2, 3  # RFC 7672 section 3.1 knows no others for mail
_DIGESTS = {1: hashlib.sha256, 2: hashlib.sha512}


def usable(records: Iterable[Tlsa]) -> tuple[Tlsa, ...]:
    """Those we can make use of (RFC 7672 section 3.1.3 on the others)."""
    return tuple(record for record in records if _usable(record))


def _usable(record: Tlsa) -> bool:
    if record.usage not in (DANE_TA, DANE_EE) or record.selector not in (0, 1) or not record.data:
        return False
    digest = _DIGESTS.get(record.matching)
    if digest is None:
        return record.matching == 0
    return len(record.data) == digest().digest_size


def shown(record: Tlsa) -> str:
    """As zone files have it."""
    return f"{record.usage} {record.selector} {record.matching} {record.data.hex()}"


def matches(record: Tlsa, certificate: x509.Certificate) -> bool:
    """RFC 6698 section 2.1: the selected part, as it is or hashed."""
    if record.selector == 0:
        selected = certificate.public_bytes(Encoding.DER)
    else:
        selected = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
    digest = _DIGESTS.get(record.matching)
    return record.data == (selected if digest is None else digest(selected).digest())


def end_entity(records: Iterable[Tlsa], chain: Sequence[x509.Certificate]) -> bool:
    """DANE-EE names the server's own: names, dates and the rest do not count (RFC 7672 3.1.1)."""
    return any(each.usage == DANE_EE and matches(each, chain[0]) for each in records)


def trust_anchor(records: Iterable[Tlsa], chain: Sequence[x509.Certificate]) -> str:
    """DANE-TA names an authority in the chain (RFC 7672 3.1.2). Empty: it holds; else why not.

    Whether the certificate is for the right name remains to be seen.
    """
    why = "no certificate matches"
    for record in records:
        if record.usage != DANE_TA:
            continue
        for anchor in _anchors(record, chain[1:]):
            why = _trouble_below(anchor, chain)
            if not why:
                return ""
    return why


def _anchors(record: Tlsa, above: Iterable[x509.Certificate]) -> list[x509.Certificate]:
    found = [each for each in above if matches(record, each)]
    if not found and (record.selector, record.matching) == (0, 0):
        # the record itself is the certificate: nothing needs to be sent
        try:
            found.append(x509.load_der_x509_certificate(record.data))
        except ValueError:
            return []
    return found


def _trouble_below(anchor: x509.Certificate, chain: Sequence[x509.Certificate]) -> str:
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(anchor))
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)  # it need not be a root
    leaf, *above = [crypto.X509.from_cryptography(each) for each in chain]
    try:
        crypto.X509StoreContext(store, leaf, chain=above).verify_certificate()
    except crypto.X509StoreContextError as error:
        found = error.args[0] if error.args else ""
        return str(found[-1] if isinstance(found, list) else found)
    return ""
