"""A certificate with its key, loaded from files and found to belong together."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from OpenSSL import SSL, crypto

from relayd.tls.files import CertificateFiles
from relayd.tls.words import reason

_MARK = b"-----BEGIN CERTIFICATE-----"
_END = b"-----END CERTIFICATE-----"


class CertificateError(Exception):
    """A certificate or its key cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Pair:
    """What `load` found; a snapshot, the files may change behind it."""

    files: CertificateFiles
    key: crypto.PKey
    kind: str  # of the key: "RSA", "ECDSA" or another: one of each kind fits into a context
    expires: datetime.datetime  # UTC, naive
    fingerprint: str  # SHA-256, hexadecimal

    def put_into(self, context: SSL.Context) -> None:
        """Let the context serve it, beside pairs of other kinds; raises CertificateError.

        The chain comes from the file: only so OpenSSL keeps a chain for each certificate. Should
        the file have changed since `load`, the two do not fit, and the next look mends it.
        """
        try:
            context.use_certificate_chain_file(str(self.files.certificate))
            context.use_privatekey(self.key)
            context.check_privatekey()
        except SSL.Error as error:
            raise CertificateError(f"{self.files.certificate}: {reason(error)}") from None

    @property
    def expired(self) -> bool:
        """It is over: clients that look will refuse it."""
        return self.expires < datetime.datetime.now(datetime.UTC).replace(tzinfo=None)


def load(files: CertificateFiles) -> Pair:
    """The pair in these files; raises CertificateError."""
    leaf = _leaf(files)
    try:
        key = load_pem_private_key(files.key.read_bytes(), None)
    except OSError as error:
        raise CertificateError(f"cannot read {files.key}: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        # TypeError: it has a passphrase, which nobody is there to type in
        raise CertificateError(f"{files.key} holds no readable private key: {error}") from None
    if _public(key.public_key()) != _public(leaf.public_key()):
        raise CertificateError(f"{files.key} is not the key of {files.certificate}")
    if isinstance(key, RSAPrivateKey):
        kind = "RSA"
    elif isinstance(key, EllipticCurvePrivateKey):
        kind = "ECDSA"
    else:
        kind = type(key).__name__.lstrip("_").removesuffix("PrivateKey")
    return Pair(
        files,
        crypto.PKey.from_cryptography_key(key),  # type: ignore[arg-type]  # it checks the kind
        kind,
        leaf.not_valid_after if not hasattr(leaf, "not_valid_after_utc") else _utc(leaf),
        leaf.fingerprint(SHA256()).hex(),
    )


def _utc(leaf: x509.Certificate) -> datetime.datetime:
    return leaf.not_valid_after_utc.replace(tzinfo=None)


def _leaf(files: CertificateFiles) -> x509.Certificate:
    try:
        data = files.certificate.read_bytes()
    except OSError as error:
        what = f"cannot read {files.certificate}: {error.strerror or error}"
        raise CertificateError(what) from None
    parts = [_MARK + part.partition(_END)[0] + _END + b"\n" for part in data.split(_MARK)[1:]]
    if not parts:
        raise CertificateError(f"{files.certificate} holds no certificate in PEM")
    try:
        chain = [x509.load_pem_x509_certificate(part) for part in parts]
    except ValueError as error:
        what = f"{files.certificate} holds a broken certificate: {error}"
        raise CertificateError(what) from None
    return chain[0]


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every public key has it
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    return encoded
