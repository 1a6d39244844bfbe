"""Certificates for tests: an authority, what it issues, and the files they go into."""

from __future__ import annotations

import datetime
import hashlib
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def ecdsa_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key() -> Key:
    return rsa.generate_private_key(65537, 2048)


def general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and what stands above it (the root excepted)."""

    certificate: x509.Certificate
    key: Key
    above: tuple[x509.Certificate, ...] = ()

    @property
    def chain_pem(self) -> bytes:
        return b"".join(each.public_bytes(Encoding.PEM) for each in (self.certificate, *self.above))

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def spki(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    @property
    def spki_sha256(self) -> str:
        return hashlib.sha256(self.spki).hexdigest()

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """The certificate with its chain, and the key, as files."""
        folder.mkdir(parents=True, exist_ok=True)
        chain, key = folder / f"{name}.pem", folder / f"{name}.key"
        chain.write_bytes(self.chain_pem)
        key.write_bytes(self.key_pem)
        return chain, key


def of_no_version(issued: Issued) -> bytes:
    """The certificate in PEM, of an X.509 version that there is not: OpenSSL does not mind."""
    assert isinstance(issued.key, ec.EllipticCurvePrivateKey)
    body = issued.certificate.tbs_certificate_bytes
    body = body.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020109"), 1)
    signature = issued.key.sign(body, ec.ECDSA(SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    der = _tlv(0x30, body + ecdsa_with_sha256 + _tlv(0x03, b"\0" + signature))
    return ssl.DER_cert_to_PEM_cert(der).encode()


def _tlv(tag: int, value: bytes) -> bytes:
    """In DER (X.690 section 8.1)."""
    size = len(value)
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, size] if size < 0x80 else [tag, 0x80 | len(octets), *octets]) + value


class Authority:
    """Signs certificates."""

    def __init__(self, name: str = "Test Root", above: Authority | None = None) -> None:
        self.key = ecdsa_key()
        self.above = above
        issuer = above or self
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = (
            _builder(self._name, issuer._name, self.key, -DAY, 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_usage(sign=True), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False
            )
            .sign(issuer.key, SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def issued(self) -> Issued:
        return Issued(self.certificate, self.key)

    def issue(
        self,
        *names: str,
        key: Key | None = None,
        start: datetime.timedelta = -DAY,
        end: datetime.timedelta = 10 * DAY,
        with_root: bool = False,
        alternatives: Sequence[x509.GeneralName] | None = None,
    ) -> Issued:
        """A certificate for these names; its subjectAltName has `alternatives` in their place."""
        key = key or ecdsa_key()
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        if alternatives is None:
            alternatives = [general_name(each) for each in names]
        builder = (
            _builder(name, self._name, key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        if alternatives:
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        certificate = builder.sign(self.key, SHA256())
        above = []
        each: Authority | None = self
        while each is not None and (each.above is not None or with_root):
            above.append(each.certificate)
            each = each.above
        return Issued(certificate, key, tuple(above))


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: Key,
    start: datetime.timedelta,
    end: datetime.timedelta,
) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC).replace(tzinfo=None)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
    )


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=sign,
        encipher_only=False,
        decipher_only=False,
    )
