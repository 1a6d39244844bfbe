"""`relayctl check --live` on a host of its own: name servers, policy host and relayd, all real."""

from __future__ import annotations

import http.server
import ipaddress
import json
import subprocess
import sys
import time
from typing import Any

from tests.certs import DAY, Authority
from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, run, unhurried
from tests.scenarios.network import Network

FOUR, SIX = "192.0.2.2", "2001:db8::2"
RULES = f"""
source bulk {FOUR}, {SIX} helo bulk.example
dkim ours domain ours.example selector s1 key file "ours.pem"
sign sender @ours.example with ours
accept from 192.0.2.0/24
accept to @ours.example
route sender @news.example direct from bulk
route any direct
"""
ZONE = f"""
gw A 192.0.2.1
gw AAAA 2001:db8::1
gw TXT "v=spf1 a -all"
bulk A {FOUR}
bulk AAAA {SIX}
bulk TXT "v=spf1 a -all"
news TXT "v=spf1 a:bulk.example -all"
ours MX 10 gw
ours TXT "v=spf1 mx -all"
_dmarc.ours TXT "v=DMARC1; p=reject"
_mta-sts.ours TXT "v=STSv1; id=1"
mta-sts.ours A 192.0.2.20
_25._tcp.gw TLSA 3 1 1 {"00" * 32}
"""


def pointers(**names: str) -> dict[str, str]:
    """The two reverse zones, from addresses (dots and colons as they are) and names."""
    zones = {"2.0.192.in-addr.arpa": "", "8.b.d.0.1.0.0.2.ip6.arpa": ""}
    for address, name in names.items():
        pointer = ipaddress.ip_address(address).reverse_pointer
        (zone,) = [zone for zone in zones if pointer.endswith(zone)]
        zones[zone] += f"{pointer}. PTR {name}.example.\n"
    return zones


class Policy(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.end_headers()
        self.wfile.write(b"version: STSv1\nmode: enforce\nmx: gw.example\nmax_age: 86400\n")

    def log_message(self, format: str, *args: object) -> None:  # its own name
        pass


class Live(Scenario):
    needs = ("netns", "nsd", "unbound")

    def setUp(self) -> None:
        super().setUp()
        net = Network()
        self.addCleanup(net.close)
        self.gw = net.host("gw", "192.0.2.1/24", "2001:db8::1/64", f"{FOUR}/24", f"{SIX}/64")
        self.dns = net.host("dns", "192.0.2.53/24")
        web = net.host("web", "192.0.2.20/24")
        self.authority = Authority()
        self.rooms = self.room("tls")
        (self.rooms / "authority.pem").write_bytes(self.authority.pem)
        chain, key = self.authority.issue("mta-sts.ours.example").write(self.rooms, "web")
        peers.https(self, web.bind("192.0.2.20", 443)(), Policy, chain, key)

    def serve(self, *changes: str) -> None:
        """The name server, with some of the zone changed: pairs of what, and for what."""
        zone = ZONE + self.key_record
        for old, new in zip(changes[::2], changes[1::2], strict=True):
            self.assertIn(old, zone)
            zone = zone.replace(old, new)
        reverse = {"192.0.2.1": "gw", "2001:db8::1": "gw", FOUR: "bulk", SIX: "bulk"}
        zones: dict[str, str | None] = {"example": zone, **pointers(**reverse)}
        peers.NameServer(self, zones, address="192.0.2.53", enter=self.dns.enter)

    def relay(self, *, start: bool = True) -> Relayd:
        chain, key = self.authority.issue("gw.example", end=60 * DAY).write(self.rooms, "gw")
        relay = self.relayd(
            RULES,
            hostname="gw.example",
            host=self.gw,
            address="192.0.2.1",
            port=25,
            settings=f"resolver 192.0.2.53:53\ntls-authorities {self.rooms / 'authority.pem'}\n"
            f"certificate {chain} key {key}\n",
            start=False,
        )
        relay.ctl("dkim", "make", "ours")
        listed = json.loads(relay.ctl("dkim", "list", "--json").stdout)
        record = listed[0]["record"]
        self.key_record = f's1._domainkey.ours TXT "{record[:200]}" "{record[200:]}"\n'
        return relay

    def check(self, relay: Relayd, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(relay.config)]
        done = run([*command, "check", "--live", *options], enter=self.gw.enter, check=False)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    def poor(self, said: subprocess.CompletedProcess[str]) -> list[str]:
        *lines, _ = said.stdout.splitlines()
        return [line for line in lines if not line.startswith("ok ")]

    def test_beside_a_running_relayd_and_without(self) -> None:
        relay = self.relay()
        self.serve()
        without = self.check(relay)
        self.assertEqual(without.returncode, 0, without.stdout + without.stderr)
        tlsa = "warning    tlsa     gw.example: not signed"
        poor = self.poor(without)
        self.assertEqual(len(poor), 2, without.stdout)
        self.assertIn("not known  tls      192.0.2.1:25 as gw.example: Connection to", poor[0])
        self.assertIn(tlsa, poor[1])
        relay.start()
        beside = self.check(relay)
        self.assertEqual(beside.returncode, 0, beside.stdout + beside.stderr)
        self.assertEqual(len(self.poor(beside)), 1, beside.stdout)
        self.assertRegex(beside.stdout, r"ok +tls +192.0.2.1:25 as gw.example: TLSv1.3 .*, until")
        self.assertRegex(beside.stdout, r"ok +dkim +s1._domainkey.ours.example: the key")
        self.assertRegex(beside.stdout, r"ok +dmarc +ours.example: p=reject")
        self.assertRegex(beside.stdout, r"ok +mx +ours.example: gw.example")
        self.assertRegex(beside.stdout, r"ok +mta-sts +ours.example: mode enforce")
        # SPF of each address of each source, both families
        for domain, source, addresses in (
            ("news.example", "source bulk", (FOUR, SIX)),
            ("ours.example", "gw.example", ("192.0.2.1", "2001:db8::1")),
        ):
            for address in addresses:
                line = rf"ok +spf +{domain} from {address} \({source}\): pass"
                self.assertRegex(beside.stdout, line)
        found: dict[str, Any] = json.loads(self.check(relay, "--json").stdout)
        self.assertEqual(found["counts"]["error"], 0)
        self.assertEqual(
            set(found["findings"][0]), {"grade", "what", "about", "seen", "wanted", "publish"}
        )

    def test_what_is_wrong_is_said_with_the_record_that_mends_it(self) -> None:
        relay = self.relay()
        self.serve(
            *("v=spf1 a:bulk.example -all", f"v=spf1 ip4:{FOUR} -all"),
            *("p=reject", "p=reject; broken", "s1._domainkey.ours", "s2._domainkey.ours"),
            *("ours MX 10 gw", "ours MX 10 bulk.example."),
        )
        relay.start()
        said = self.check(relay)
        self.assertEqual(said.returncode, 1, said.stdout)
        lines = "\n".join(self.poor(said))
        self.assertIn(f"error      spf      news.example from {SIX} (source bulk): fail", lines)
        record = f'publish: news.example. IN TXT "v=spf1 ip6:{SIX} ip4:{FOUR} -all"'
        self.assertIn(record, lines)
        self.assertIn("error      dkim     s1._domainkey.ours.example: there is no record", lines)
        self.assertIn("publish: s1._domainkey.ours.example. IN TXT ( ", lines)
        # this host under another name, for which it has no certificate
        self.assertIn("192.0.2.1:25 as bulk.example: the certificate is for gw.example", lines)
        self.assertIn("error      mta-sts  ours.example: mode enforce, without bulk.example", lines)

    def test_without_a_name_server_nothing_is_known_and_it_ends_in_time(self) -> None:
        relay = self.relay()
        relay.start()
        began = time.monotonic()
        said = self.check(relay)
        self.assertLess(unhurried(began), 45)
        self.assertEqual(said.returncode, 0, said.stdout + said.stderr)
        self.assertNotIn("error  ", said.stdout)
        self.assertIn("not known  spf      news.example", said.stdout)

    def test_a_configuration_with_errors_is_not_looked_at(self) -> None:
        relay = self.relay()
        relay.config.write_text("nonsense\n")
        said = self.check(relay)
        self.assertEqual((said.returncode, said.stdout), (1, ""))
        self.assertIn("nonsense", said.stderr)
