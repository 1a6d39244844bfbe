"""DKIM as a verifier sees it: the RFCs' own messages, and everything that may be wrong with one."""

from __future__ import annotations

import unittest
from base64 import b64encode
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relayd.authentication.canonical import Field, fields
from relayd.authentication.dkim import MOST_SIGNATURES, DkimResult, DkimVerifier, header_hash
from relayd.authentication.dkimkey import DkimKey, dkim_key
from relayd.authentication.dkimsignature import signature
from tests.unit.authentication import Zone, drive

NOW = 1_800_000_000.0
ED = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ED_RECORD = "v=DKIM1; k=ed25519; p=" + b64encode(
    ED.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
).decode("ascii")
SECTION = b"From: a@example.com\r\nTo: b@example.org\r\nSubject: one\r\nSubject: two\r\n\r\n"
BODY = b"Hello  there \r\n\r\n"
KEY = ("s._domainkey.example.com", "TXT")

# RFC 8463 appendix A
RFC = (
    b"DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n"
    b" d=football.example.com; i=@football.example.com;\r\n"
    b" q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n"
    b" subject : date : message-id : from : subject : date;\r\n"
    b" bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n"
    b" b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n"
    b" Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n"
    b"From: Joe SixPack <joe@football.example.com>\r\n"
    b"To: Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject: Is dinner ready?\r\n"
    b"Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n"
    b"Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\r\n"
)
RFC_BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n"
RFC_KEY = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="


# RFC 6376 appendix A.2; its key is in appendix C
RFC_6376 = b"""\
DKIM-Signature: v=1; a=rsa-sha256; s=brisbane; d=example.com;
      c=simple/simple; q=dns/txt; i=joe@football.example.com;
      h=Received : From : To : Subject : Date : Message-ID;
      bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;
      b=AuUoFEfDxTDkHlLXSZEpZj79LICEps6eda7W3deTVFOk4yAUoqOB
      4nujc7YopdG5dWLSdNg6xNAZpOPr+kHxt1IrE+NahM6L/LbvaHut
      KVdkLLkpVaVVQPzeRDI009SO2Il5Lu7rDNH6mZckBdrIx0orEtZV
      4bmp/YzhwvcubU4=;
Received: from client1.football.example.com  [192.0.2.1]
      by submitserver.example.com with SUBMISSION;
      Fri, 11 Jul 2003 21:01:54 -0700 (PDT)
From: Joe SixPack <joe@football.example.com>
To: Suzie Q <suzie@shopping.example.net>
Subject: Is dinner ready?
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)
Message-ID: <20030712040037.46341.5F8J@football.example.com>

""".replace(b"\n", b"\r\n")
RFC_6376_KEY = (
    "v=DKIM1; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYt"
    "IxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhi"
    "tdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB"
)


def verify(section: bytes, body: bytes, zone: Zone, now: float = NOW) -> list[DkimResult]:
    verifier = DkimVerifier(section)
    verifier.feed(body)
    verifier.finish()
    return [drive(each, zone) for each in verifier.verdicts(now)]


def sign(
    tags: str = "", section: bytes = SECTION, body: bytes = BODY, key: object = ED, **more: str
) -> bytes:
    """A DKIM-Signature field as this test's own few lines make it, without its final CRLF."""
    values = {
        "v": "1",
        "a": "ed25519-sha256",
        "c": "simple/simple",
        "d": "example.com",
        "s": "s",
        "h": "from:to:subject",
        "bh": b64encode(sha256(body.rstrip(b"\r\n") + b"\r\n").digest()).decode(),
    }
    values |= more
    text = "; ".join(f"{name}={value}" for name, value in values.items() if value)
    bare = f"DKIM-Signature: {text};{tags} b=".encode()
    digest = header_hash(fields(section), signature(Field(b"dkim-signature", bare + b"AA==")))
    if isinstance(key, RSAPrivateKey):
        return bare + b64encode(key.sign(digest, PKCS1v15(), Prehashed(SHA256())))
    assert isinstance(key, Ed25519PrivateKey)
    return bare + b64encode(key.sign(digest))


class Passing(unittest.TestCase):
    def test_the_message_of_rfc_8463(self) -> None:
        zone = {("brisbane._domainkey.football.example.com", "TXT"): (RFC_KEY,)}
        (result,) = verify(RFC, RFC_BODY, zone)
        self.assertEqual((result.result, result.domain), ("pass", "football.example.com"))
        (changed,) = verify(RFC.replace(b"dinner", b"supper"), RFC_BODY, zone)
        self.assertEqual((changed.result, changed.why), ("fail", "the signature does not fit"))
        (changed,) = verify(RFC, RFC_BODY.replace(b"lost", b"won"), zone)
        self.assertEqual((changed.result, changed.why), ("fail", "the body has changed"))

    def test_the_message_of_rfc_6376(self) -> None:
        zone = {("brisbane._domainkey.example.com", "TXT"): (RFC_6376_KEY,)}
        body = RFC_BODY.replace(b"  ", b" ")
        (result,) = verify(RFC_6376, body, zone)
        self.assertEqual((result.result, result.domain), ("pass", "example.com"), result.why)
        self.assertEqual(result.identity, "joe@football.example.com")
        (changed,) = verify(RFC_6376.replace(b"dinner", b"supper"), body, zone)
        self.assertEqual((changed.result, changed.why), ("fail", "the signature does not fit"))
        (changed,) = verify(RFC_6376, RFC_BODY, zone)
        self.assertEqual((changed.result, changed.why), ("fail", "the body has changed"))

    def test_what_we_sign_passes(self) -> None:
        (result,) = verify(sign() + b"\r\n" + SECTION, BODY, {KEY: (ED_RECORD,)})
        self.assertEqual(result.result, "pass", result.why)

    def test_fields_are_taken_from_below(self) -> None:
        """Who puts one in front changes nothing that was signed, unless it was signed as absent."""
        above = b"Subject: three\r\n"
        for names, result in (
            ("from:subject:subject", "pass"),
            ("from:subject:subject:subject", "fail"),
        ):
            field = sign(h=names)
            (found,) = verify(above + field + b"\r\n" + SECTION, BODY, {KEY: (ED_RECORD,)})
            self.assertEqual(found.result, result, names)

    def test_rsa(self) -> None:
        key = generate_private_key(65537, 2048)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        field = sign(a="rsa-sha256", key=key)
        for record in (
            f"p={b64encode(public).decode()}",
            f"v=DKIM1;k=rsa; p={b64encode(public).decode()};",
        ):
            (result,) = verify(field + b"\r\n" + SECTION, BODY, {KEY: (record,)})
            self.assertEqual(result.result, "pass", result.why)

    def test_several_keys_of_a_selector(self) -> None:
        zone = {KEY: ("v=spf1 -all", ED_RECORD)}
        (result,) = verify(sign() + b"\r\n" + SECTION, BODY, zone)
        self.assertEqual(result.result, "pass")

    def test_domains_may_be_written_as_u_labels(self) -> None:
        """RFC 8616 section 5."""
        field = sign(d="b\u00fccher.example", i="@b\u00fccher.example")
        zone = {("s._domainkey.xn--bcher-kva.example", "TXT"): (ED_RECORD,)}
        (result,) = verify(field + b"\r\n" + SECTION, BODY, zone)
        self.assertEqual((result.result, result.domain), ("pass", "xn--bcher-kva.example"))


class Refusing(unittest.TestCase):
    def outcome(
        self, field: bytes, zone: Zone | None = None, body: bytes = BODY
    ) -> tuple[str, str]:
        (result,) = verify(
            field + b"\r\n" + SECTION, body, {KEY: (ED_RECORD,)} if zone is None else zone
        )
        return result.result, result.why

    def test_what_is_no_signature(self) -> None:
        good = sign()
        for wrong in (
            good.replace(b"v=1;", b"v=2;"),
            good.replace(b"v=1;", b""),
            good.replace(b"d=example.com;", b""),
            good.replace(b"s=s;", b""),
            good.replace(b"h=from:to:subject", b"h=to:subject"),
            good.replace(b"c=simple/simple", b"c=simple/other"),
            good.replace(b"ed25519-sha256", b"rsa-sha1"),
            good.replace(b"v=1;", b"v=1; v=1;"),
            good.replace(b"v=1;", b"v=1; oops;"),
            good.replace(b"v=1;", b"v=1; l=-1;"),
            good.replace(b"v=1;", b"v=1; x=soon;"),
            good.replace(b"v=1;", b"v=1; i=a@other.test;"),
            good.replace(b"v=1;", b"v=1; q=http;"),
            good.replace(b"v=1;", b"v=1; t=20; x=10;"),
            good.replace(b"v=1;", b"v=1; i=notexample.com;"),
            good + b"*",
            good.replace(b"v=1;", b"v=1; l=" + b"9" * 80 + b";"),
            b"DKIM-Signature: \xff",
        ):
            with self.subTest(wrong):
                self.assertEqual(self.outcome(wrong)[0], "permerror")

    def test_what_is_no_key(self) -> None:
        weak = (
            "p=MHwwDQYJKoZIhvcNAQEBBQADawAwaAJhAKJ2lzDLZ8XlVambQfMXn3LRGKOD5o6lMIgulclWjZwP56"
            "LRqdg5ZX15bhc/GsvW8xW/R5Sh1NnkJNyL/cqY1a+GzzL47t7EXzVc+nRLWT1kwTvFNGIoAUsFUq+J6+OprwIDAQAB"
        )
        for record, why in (
            ("", "key record without a key"),
            ("v=DKIM2; p=AAAA", "key record of another version"),
            ("k=ed25519; v=DKIM1; p=AAAA", "key record of another version"),
            ("v=DKIM1; p=", "the key was revoked"),
            ("p=*", "the key is not base64"),
            ("p=AAAA", "the key is no RSA key"),
            ("k=ed25519; p=AAAA", "an Ed25519 key has 32 octets"),
            ("k=dsa; p=AAAA", "a key of an unknown kind"),
            ("h=sha1; p=AAAA", "the key is not for sha256"),
            ("s=tlsrpt; p=AAAA", "the key is not for mail"),
            (weak, "an RSA key of 768 bits"),
        ):
            with self.subTest(record):
                self.assertEqual(self.outcome(sign(), {KEY: (record,)}), ("permerror", why))
        self.assertEqual(self.outcome(sign(), {}), ("permerror", "there is no key"))
        self.assertEqual(self.outcome(sign(), {KEY: None}), ("temperror", "no answer for its key"))

    def test_a_key_of_another_kind(self) -> None:
        key = generate_private_key(65537, 1024)
        public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        zone = {KEY: (f"p={b64encode(public).decode()}",)}
        self.assertEqual(self.outcome(sign(), zone), ("permerror", "the key is of another kind"))

    def test_a_key_that_is_not_for_subdomains(self) -> None:
        zone = {KEY: (ED_RECORD + "; t=s",)}
        self.assertEqual(self.outcome(sign(), zone)[0], "pass")
        self.assertEqual(self.outcome(sign(i="x@sub.example.com"))[0], "pass")
        self.assertEqual(self.outcome(sign(i="x@sub.example.com"), zone)[0], "permerror")

    def test_a_key_that_is_being_tried_out(self) -> None:
        (result,) = verify(sign() + b"\r\n" + SECTION, BODY, {KEY: (ED_RECORD + "; t=y",)})
        self.assertTrue(result.testing)

    def test_a_signature_that_has_expired(self) -> None:
        self.assertEqual(self.outcome(sign(x=str(int(NOW) + 1)))[0], "pass")
        self.assertEqual(self.outcome(sign(x=str(int(NOW) - 1))), ("fail", "it has expired"))

    def test_a_body_that_is_signed_in_part(self) -> None:
        body = b"signed\r\n"
        field = sign(l="8", bh=b64encode(sha256(body).digest()).decode())
        zone = {KEY: (ED_RECORD,)}
        for whole, partial in ((body, False), (body + b"more\r\n", True)):
            (result,) = verify(field + b"\r\n" + SECTION, whole, zone)
            self.assertEqual((result.result, result.partial), ("pass", partial))
        self.assertEqual(self.outcome(field, body=b"short\r\n")[0], "permerror")

    def test_so_many_are_looked_at_and_no_more(self) -> None:
        section = (sign() + b"\r\n") * 20 + SECTION
        self.assertEqual(len(verify(section, BODY, {KEY: (ED_RECORD,)})), MOST_SIGNATURES)

    def test_a_message_without_one(self) -> None:
        self.assertEqual(verify(SECTION, BODY, {}), [])


class Keys(unittest.TestCase):
    def test_each_is_read_once(self) -> None:
        key = dkim_key(ED_RECORD)
        self.assertIsInstance(key, DkimKey)
        self.assertIs(dkim_key(ED_RECORD), key)
