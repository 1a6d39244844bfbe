"""MTA-STS with name servers, a policy host on port 443 and Postfix as the exchanger, all real."""

from __future__ import annotations

import http.server
import json
from typing import Any, ClassVar

from tests.certs import DAY, Authority
from tests.scenarios import peers
from tests.scenarios.harness import Scenario, wait_until
from tests.scenarios.network import Network

POLICIES = {
    "good": ("enforce", "mx1.example", 86400),
    "star": ("enforce", "*.example", 86400),
    "strict": ("enforce", "mxb.example", 86400),
    "elsewhere": ("enforce", "other.example", 86400),
    "lax": ("testing", "mxb.example", 86400),
    "off": ("none", "mxb.example", 86400),
    "short": ("enforce", "mxb.example", 1),
    "over": ("enforce", "mxb.example", 86400),  # its policy host's certificate has expired
}
EXCHANGERS = {"good": "mx1", "star": "mx1", "elsewhere": "mx1"}
ZONE = "gw A 192.0.2.1\nback A 192.0.2.12\nmx1 A 192.0.2.10\nmxb A 192.0.2.10\n" + "".join(
    f"{name} MX 10 {EXCHANGERS.get(name, 'mxb')}\n"
    f'_mta-sts.{name} TXT "v=STSv1; id=1"\n'
    f"mta-sts.{name} A {'192.0.2.21' if name == 'over' else '192.0.2.20'}\n"
    for name in POLICIES
)


class Policies(http.server.BaseHTTPRequestHandler):
    """Serves each domain's policy by the Host field."""

    gone: ClassVar[set[str]] = set()

    def do_GET(self) -> None:
        name = self.headers["Host"].removeprefix("mta-sts.").partition(".")[0]
        mode, mx, age = POLICIES[name]
        found = self.path == "/.well-known/mta-sts.txt" and name not in self.gone
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        text = f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {age}\n"
        self.wfile.write(text.encode() if found else b"")

    def log_message(self, format: str, *args: object) -> None:  # its own name
        pass


class Sts(Scenario):
    needs = ("netns", "nsd", "unbound", "postfix")

    def setUp(self) -> None:
        super().setUp()
        Policies.gone = set()
        net = Network()
        self.addCleanup(net.close)
        gw = net.host("gw", "192.0.2.1/24")
        dns = net.host("dns", "192.0.2.53/24")
        mx = net.host("mx", "192.0.2.10/24")
        web = net.host("web", "192.0.2.20/24", "192.0.2.21/24")
        peers.NameServer(self, {"example": ZONE}, address="192.0.2.53", enter=dns.enter)
        self.authority = Authority()
        self.rooms = self.room("tls")
        trusted = self.rooms / "authority.pem"
        trusted.write_bytes(self.authority.pem)
        names = [f"mta-sts.{name}.example" for name in POLICIES]
        self.serve(web.bind("192.0.2.20", 443)(), "good", *names)
        self.serve(web.bind("192.0.2.21", 443)(), "over", *names, over=True)
        chain, key = self.authority.issue("mx1.example").write(self.rooms, "mx")
        self.mx = peers.Postfix(
            self,
            "mx",
            domains=[f"{name}.example" for name in POLICIES],
            address="192.0.2.10",
            port=25,
            enter=mx.enter,
            extra=f"smtpd_tls_cert_file = {chain}\nsmtpd_tls_key_file = {key}\n"
            "smtpd_tls_security_level = may\n",
        )
        self.relay = self.relayd(
            "accept from 192.0.2.0/24\nroute any direct\n",
            hostname="gw.example",
            host=gw,
            address="192.0.2.1",
            port=2525,
            settings=f"resolver 192.0.2.53:53\ntls-authorities {trusted}\n",
        )

    def serve(self, listening: Any, name: str, *names: str, over: bool = False) -> None:  # noqa: ANN401
        times = {"start": -3 * DAY, "end": -DAY} if over else {}
        chain, key = self.authority.issue(*names, **times).write(self.rooms, name)  # type: ignore[arg-type]
        peers.https(self, listening, Policies, chain, key)

    def outcome(self, name: str) -> dict[str, Any]:
        ident = self.relay.send("ann@back.example", [f"bob@{name}.example"])
        return self.relay.settled(ident)

    def test_as_the_book_says(self) -> None:
        for name, words in (
            ("good", "verified"),
            ("star", "verified"),
            ("lax", "TLSv1.3"),
            ("off", "TLSv1.3"),
            ("over", "TLSv1.3"),  # no policy to be had: opportunistic
        ):
            with self.subTest(name):
                found = self.outcome(name)
                self.assertEqual(found["state"], "delivered", found)
                self.assertIn(words, json.dumps(found))
        for name, words in (
            ("strict", "certificate is not for mxb.example"),
            ("elsewhere", "the policy does not name this host"),
        ):
            with self.subTest(name):
                found = self.outcome(name)
                self.assertEqual(found["state"], "queued", found)
                self.assertRegex(json.dumps(found), f"4.7.5 .*MTA-STS policy of {name}.*{words}")
        wait_until(lambda: len(self.mx.mailbox()) == 5, "Postfix has stored them")
        for name, words in (
            ("good", r"TLS verify \(by the MTA-STS policy of good\.example\)"),
            ("elsewhere", r"TLS verify .*, the policy does not name this host"),
            ("lax", r"TLS optional \(the MTA-STS policy of lax\.example is in mode testing\)"),
            ("off", r"TLS optional \(no policy\)"),
        ):
            address = f"bob@{name}.example"
            said = self.relay.ctl("explain", "--from", "192.0.2.12", address, check=False)
            self.assertRegex(said.stdout, words)

    def test_the_cache_outlives_the_policy_host_but_not_its_age(self) -> None:
        self.assertEqual(self.outcome("strict")["state"], "queued")
        first = self.outcome("short")
        Policies.gone = {"strict", "short"}
        self.relay.stop()
        self.relay.start()
        self.assertEqual(self.outcome("strict")["state"], "queued")
        self.assertEqual(first["state"], "queued")
        # after a second the short one has no policy any more: opportunistic, and so it goes
        wait_until(lambda: len(self.mx.mailbox()) > 0, "the short policy's mail goes out")
