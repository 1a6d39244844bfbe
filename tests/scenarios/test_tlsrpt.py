"""TLS reports (RFC 8460) with name servers, a policy host, a collector and exchangers, all real."""

from __future__ import annotations

import base64
import datetime
import email
import email.policy
import gzip
import http.server
import json
import sqlite3
import unittest
from email.message import EmailMessage
from typing import Any, ClassVar

import dkim
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.certs import Authority, Issued, rsa_key
from tests.scenarios import peers
from tests.scenarios.harness import Scenario, wait_until
from tests.scenarios.network import Network
from tests.sink import Sink

DAY = str(datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(2))  # as if it was then
ZONE = """
gw A 192.0.2.1
back A 192.0.2.12
mx1 A 192.0.2.10
mx2 A 192.0.2.11
tell A 192.0.2.20
good MX 10 mx1
_mta-sts.good TXT "v=STSv1; id=1"
mta-sts.good A 192.0.2.20
_smtp._tls.good TXT "v=TLSRPTv1; rua=mailto:tls%2Brpt@box.example, https://tell.example/good"
wrong MX 10 mx1
_mta-sts.wrong TXT "v=STSv1; id=1"
mta-sts.wrong A 192.0.2.20
_smtp._tls.wrong TXT "v=TLSRPTv1;rua=https://tell.example/wrong"
bare MX 10 mx2
_smtp._tls.bare TXT "v=TLSRPTv1;rua=https://tell.example/bare,mailto:tls@bare.example"
silent MX 10 mx2
box MX 10 mx1
"""


class Web(http.server.BaseHTTPRequestHandler):
    """Serves policies, and takes reports."""

    told: ClassVar[dict[str, list[tuple[str, bytes]]]] = {}

    def do_GET(self) -> None:
        mx = "mx1.example" if "good" in self.headers["Host"] else "other.example"
        self.answer(200, f"version: STSv1\nmode: testing\nmx: {mx}\nmax_age: 86400\n")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        took = self.told.setdefault(self.path, [])
        took.append((self.headers["Content-Type"], body))
        self.answer(201, "")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:  # its own name
        pass


class TlsReports(Scenario):
    needs = ("netns", "nsd", "unbound", "postfix")

    def setUp(self) -> None:
        super().setUp()
        Web.told = {}
        net = Network()
        self.addCleanup(net.close)
        gw = net.host("gw", "192.0.2.1/24")
        dns = net.host("dns", "192.0.2.53/24")
        mx = net.host("mx", "192.0.2.10/24")
        bare = net.host("bare", "192.0.2.11/24")
        web = net.host("web", "192.0.2.20/24")
        peers.NameServer(self, {"example": ZONE}, address="192.0.2.53", enter=dns.enter)
        authority = Authority()
        tls = self.room("tls")
        (tls / "authority.pem").write_bytes(authority.pem)
        names = ["tell.example", "mta-sts.good.example", "mta-sts.wrong.example"]
        chain, key = authority.issue(*names).write(tls, "web")
        peers.https(self, web.bind("192.0.2.20", 443)(), Web, chain, key)
        chain, key = authority.issue("mx1.example").write(tls, "mx")
        self.mx = peers.Postfix(
            self,
            "mx",
            domains=["good.example", "wrong.example", "box.example"],
            address="192.0.2.10",
            port=25,
            enter=mx.enter,
            extra=f"smtpd_tls_cert_file = {chain}\nsmtpd_tls_key_file = {key}\n"
            "smtpd_tls_security_level = may\n",
        )
        self.sink = Sink(bind=bare.bind("192.0.2.11", 25))
        self.addCleanup(self.sink.stop)
        signer = rsa_key()
        Issued(authority.certificate, signer).write(tls, "dkim")
        self.public = signer.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        self.relay = self.relayd(
            "accept from 192.0.2.0/24\nroute any direct\n",
            hostname="gw.example",
            host=gw,
            address="192.0.2.1",
            port=2525,
            settings=f"resolver 192.0.2.53:53\ntls-authorities {tls / 'authority.pem'}\n"
            f"tls-reports from tls@back.example dkim mail {tls / 'dkim.key'}\n",
        )

    def told(self, domain: str, day: str = "") -> dict[str, Any]:
        """What `relayctl` says would be told."""
        options = ["--day", day] if day else []
        done = self.relay.ctl("tls-report", "--json", *options, domain)
        found: dict[str, Any] = json.loads(done.stdout or "{}")
        return found

    def test_counted_shown_and_sent(self) -> None:
        for domain in ("good", "wrong", "bare", "silent"):
            ident = self.relay.send("ann@back.example", [f"bob@{domain}.example"])
            self.assertEqual(self.relay.settled(ident)["state"], "delivered")
        self.relay.stop()  # what was counted is written down
        self.relay.start()
        self.check(self.told("good.example"), "sts", 1, 0, "")
        self.check(self.told("wrong.example"), "sts", 0, 1, "validation-failure")
        self.check(self.told("bare.example"), "no-policy-found", 0, 1, "starttls-not-supported")
        self.relay.stop()
        with sqlite3.connect(self.relay.folder / "spool/tls-results.db") as database:
            database.execute("UPDATE result SET day = ?", (DAY,))
        database.close()
        self.relay.start()
        wait_until(lambda: {"/good", "/wrong", "/bare"} <= set(Web.told), "reports by HTTPS")
        for path, (kind, body) in ((path, told[0]) for path, told in Web.told.items()):
            self.assertEqual(kind, "application/tlsrpt+gzip")
            document = json.loads(gzip.decompress(body))
            validate(self, document)
            self.assertEqual(
                document["policies"][0]["policy"]["policy-domain"], f"{path[1:]}.example"
            )
            self.assertEqual(document["date-range"]["start-datetime"], f"{DAY}T00:00:00Z")
        self.by_mail()
        wait_until(lambda: not self.told("bare.example", DAY), "what was told is forgotten")
        self.assertEqual({len(each) for each in Web.told.values()}, {1})
        # the reports themselves are not reported on
        for domain in ("box.example", "bare.example"):
            self.assertEqual(self.told(domain), {})

    def by_mail(self) -> None:
        wait_until(lambda: len(self.mx.mailbox()) == 3 and len(self.sink.arrived) == 3, "all mail")
        letters = [self.sink.arrived[-1].content]
        letters.append(next(each for each in self.mx.mailbox() if b"TLS-Report-Domain" in each))
        for letter, domain in zip(letters, ("bare.example", "good.example"), strict=True):
            message = email.message_from_bytes(letter, policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            self.assertEqual(message["TLS-Report-Domain"], domain)
            self.assertEqual(message["TLS-Report-Submitter"], "gw.example")
            self.assertEqual(message["TLS-Required"], "No")
            self.assertEqual(message["From"], "tls@back.example")
            self.assertEqual(message.get_content_type(), "multipart/report")
            self.assertEqual(message.get_param("report-type"), "tlsrpt")
            text, attached = message.iter_parts()
            self.assertEqual(text.get_content_type(), "text/plain")
            self.assertEqual(attached.get_content_type(), "application/tlsrpt+gzip")
            self.assertRegex(
                attached.get_filename() or "",
                rf"^gw\.example!{domain}!\d+!\d+!\w+\.json\.gz$",
            )
            validate(self, json.loads(gzip.decompress(attached.get_content())))
            self.signed(letter)

    def signed(self, letter: bytes) -> None:
        key = b"v=DKIM1; k=rsa; s=tlsrpt; p=" + base64.b64encode(self.public)
        at = letter.index(b"DKIM-Signature:")
        self.assertTrue(
            dkim.verify(letter[at:], dnsfunc=lambda name, timeout=5: key, tlsrpt="strict")
        )

    def check(self, document: dict[str, Any], kind: str, good: int, failed: int, flaw: str) -> None:
        validate(self, document)
        [found] = document["policies"]
        self.assertEqual(found["policy"]["policy-type"], kind)
        summary = found["summary"]
        self.assertEqual(summary["total-successful-session-count"], good, document)
        self.assertEqual(summary["total-failure-session-count"], failed, document)
        self.assertEqual(
            {each["result-type"] for each in found.get("failure-details", ())}, {flaw} - {""}
        )


RESULTS = {
    *("starttls-not-supported", "certificate-host-mismatch", "certificate-expired"),
    *("certificate-not-trusted", "validation-failure", "tlsa-invalid", "dnssec-invalid"),
    *("dane-required", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"),
}


def validate(test: unittest.TestCase, document: dict[str, Any]) -> None:
    """The shape of RFC 8460 section 4.4."""
    wanted = {"organization-name", "date-range", "contact-info", "report-id", "policies"}
    test.assertEqual(set(document), wanted)
    times = [
        datetime.datetime.fromisoformat(document["date-range"][f"{end}-datetime"])
        for end in ("start", "end")
    ]
    test.assertEqual((times[1] - times[0]).total_seconds(), 86399)
    for each in document["policies"]:
        test.assertLessEqual(set(each), {"policy", "summary", "failure-details"})
        policy = each["policy"]
        test.assertIn(policy["policy-type"], ("tlsa", "sts", "no-policy-found"))
        test.assertIsInstance(policy["policy-domain"], str)
        if policy["policy-type"] == "sts":
            test.assertEqual(policy["policy-string"][0], "version: STSv1")
            test.assertTrue(policy["mx-host"])
        failures = each.get("failure-details", [])
        failed = each["summary"]["total-failure-session-count"]
        test.assertEqual(sum(one["failed-session-count"] for one in failures), failed)
        for one in failures:
            test.assertIn(one["result-type"], RESULTS)
            for name in ("sending-mta-ip", "receiving-mx-hostname", "receiving-ip"):
                test.assertIsInstance(one[name], str)
