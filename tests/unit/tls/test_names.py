"""For whom a certificate is: subjectAltName alone, and what a wildcard stands for (RFC 9525)."""

from __future__ import annotations

import unittest

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtensionOID
from OpenSSL import crypto

from relayd.tls.names import certifies, readable
from tests.certs import DAY, Authority, _builder, ecdsa_key, general_name, of_no_version

MX = "mx.example.com"


class Readable(unittest.TestCase):
    def test_what_only_openssl_makes_something_of_is_none(self) -> None:
        issued = Authority().issue(MX)
        presented = crypto.X509.from_cryptography(issued.certificate)
        self.assertEqual(readable(presented), issued.certificate)
        strange = crypto.load_certificate(crypto.FILETYPE_PEM, of_no_version(issued))
        self.assertIsNone(readable(strange))
        self.assertIsNone(readable(None))


class Names(unittest.TestCase):
    def setUp(self) -> None:
        self.authority = Authority()

    def certifies(self, name: str, *alternatives: str | x509.GeneralName) -> bool:
        names = [general_name(each) if isinstance(each, str) else each for each in alternatives]
        issued = self.authority.issue(name or "x", alternatives=names)
        return certifies(issued.certificate, name)

    def test_names(self) -> None:
        for name, *alternatives in (
            (MX, MX),
            (MX, "a.example", "MX.Example.COM"),
            ("MX.example.com.", MX),
            ("mail.b\u00fccher.example", "mail.xn--bcher-kva.example"),
            ("mail.xn--bcher-kva.example", "mail.xn--bcher-kva.example"),
            ("localhost", "localhost"),
        ):
            self.assertTrue(self.certifies(name, *alternatives), (name, alternatives))
        for name, *others in (
            (MX,),
            (MX, "example.com"),
            (MX, "a.mx.example.com"),
            (MX, "mx.example.com.evil.test"),
            (MX, "mx.example.com\0.evil.test"),
            (MX, x509.RFC822Name(f"root@{MX}")),
            (MX, x509.UniformResourceIdentifier(f"https://{MX}/")),
            (MX, x509.DirectoryName(x509.Name([]))),
            ("", ""),
            ("", MX),
        ):
            self.assertFalse(self.certifies(name, *others), (name, others))

    def test_wildcards(self) -> None:
        for name, wildcard in (
            (MX, "*.example.com"),
            (MX, "*.EXAMPLE.com"),
        ):
            self.assertTrue(self.certifies(name, wildcard), (name, wildcard))
        for name, wildcard in (
            ("xn--bcher-kva.example.com", "*.example.com"),  # as service-identity has it
            ("a.mx.example.com", "*.example.com"),
            ("example.com", "*.example.com"),
            (".example.com", "*.example.com"),
            (MX, "m*.example.com"),
            (MX, "*x.example.com"),
            (MX, "mx.*.com"),
            (MX, "*.*.com"),
            (MX, "*"),
            ("example.com", "*.com"),
            ("host", "*"),
            ("host", "*."),
            ("mx.example.com", "*.example.com\0.evil.test"),
            ("*.example.com", "*.*.example.com"),
        ):
            self.assertFalse(self.certifies(name, wildcard), (name, wildcard))

    def test_addresses(self) -> None:
        for name in ("192.0.2.1", "2001:db8::1", "2001:DB8:0::1"):
            self.assertTrue(self.certifies(name, name.lower()), name)
        for name, other in (
            ("192.0.2.1", "192.0.2.2"),
            ("192.0.2.1", x509.DNSName("192.0.2.1")),
            ("192.0.2.1", x509.DNSName("*.0.2.1")),
            ("2001:db8::1", x509.DNSName("2001:db8::1")),
            (MX, "192.0.2.1"),
        ):
            self.assertFalse(self.certifies(name, other), (name, other))

    def test_an_extension_that_cannot_be_read_is_for_nobody(self) -> None:
        key = ecdsa_key()
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, MX)])
        for octets in (
            b"",
            b"\x30",
            b"\x30\x03\xa3\x01\x00",
            b"\x30\x04\x82\x02\xff\xfe",
            b"x" * 9,
        ):
            extension = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, octets)
            certificate = (
                _builder(name, name, key, -DAY, DAY)
                .add_extension(extension, critical=False)
                .sign(key, SHA256())
            )
            self.assertFalse(certifies(certificate, MX), octets)
