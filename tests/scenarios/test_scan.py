"""What scanners say of the three kinds of listener, at the default settings: testssl.sh, sslyze."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.certs import rsa_key
from tests.scenarios.harness import program, run
from tests.scenarios.test_login import Site

# what testssl cannot look for with the OpenSSL of this machine, and its guess at what is served
_WELL = ("OK", "INFO", "DEBUG")
_NOT_OF_OURS = {"engine_problem", "service", "RC4", "rc4"}

# Protocols, ciphers, forward secrecy, preferences, vulnerabilities; certificates sslyze looks at.
# It sleeps more than it works: all listeners at a time.
_TESTSSL = "--quiet --color 0 --warnings off --nodns none --ip 127.0.0.1 --fast -p -s -f -P -U"

# sslyze holds servers against Mozilla's "intermediate" settings, which leave out two curves that
# OpenSSL has. They are stronger than the others, and pyOpenSSL has no way to choose.
_CURVES = {
    f"* tls_curves: TLS curves {{{curves}}} are supported, but should be rejected."
    for curves in ("'X448', 'secp521r1'", "'secp521r1', 'X448'")
}
# also of each answer, whatever Mozilla thinks of it: (scan, field) that must be false
_HOLES = (
    ("heartbleed", "is_vulnerable_to_heartbleed"),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection"),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos"),
    ("tls_compression", "supports_compression"),
)


class Scanned(Site):
    needs = ("testssl", "sslyze")

    def setUp(self) -> None:
        super().setUp()
        tls = self.folder / "tls"
        chain, key = self.authority.issue("127.0.0.1", "localhost", key=rsa_key()).write(tls, "rsa")
        config = self.relay.config
        config.write_text(config.read_text() + f"certificate {chain} key {key}\n")
        self.relay.ctl("reload")
        self.listeners = {
            "relay": (self.relay.port, ["--starttls", "smtp"]),
            "implicit": (self.implicit, []),
            "submission": (self.submission, ["--starttls", "smtp"]),
        }

    def each(self, scan: Any) -> dict[str, Any]:  # noqa: ANN401
        with ThreadPoolExecutor(3) as pool:
            return dict(zip(self.listeners, pool.map(scan, self.listeners), strict=True))

    def test_testssl(self) -> None:
        def scan(name: str) -> list[dict[str, str]]:
            port, options = self.listeners[name]
            out = self.folder / f"{name}.json"
            command = [program("testssl"), *_TESTSSL.split(), *options, "--jsonfile", str(out)]
            # it waits so many seconds for what a server may say, or may not
            patience = {"HEADER_MAXSLEEP": "1", "MAX_WAITSOCK": "2", "TERM": "dumb"}
            run([*command, f"localhost:{port}"], seconds=300, check=False, environment=patience)
            found: list[dict[str, str]] = json.loads(out.read_text())
            return found

        for name, findings in self.each(scan).items():
            done = {each["id"] for each in findings}
            self.assertLessEqual({"TLS1_3", "secure_client_renego", "LUCKY13"}, done, name)
            weak = [
                each
                for each in findings
                if each["severity"] not in ("OK", "INFO", "DEBUG")
                and each["id"] not in _NOT_OF_OURS
            ]
            self.assertEqual(weak, [], name)

    def test_sslyze(self) -> None:
        def scan(name: str) -> tuple[str, dict[str, Any]]:
            port, options = self.listeners[name]
            out = self.folder / f"{name}-sslyze.json"
            command = [program("sslyze"), "--json_out", str(out), *options]
            command += ["--certinfo_ca_file", str(self.root), f"localhost:{port}"]
            command.append("--mozilla_config=intermediate")
            # it has a Python of its own
            done = run(command, seconds=300, check=False, environment={"PYTHONPATH": ""})
            self.assertTrue(out.exists(), done)
            [result] = json.loads(out.read_text())["server_scan_results"]
            return done.stdout.decode(), result["scan_result"]

        for name, (said, scans) in self.each(scan).items():
            end = said.partition("COMPLIANCE AGAINST TLS CONFIGURATION")[2]
            complaints = [line.strip() for line in end.splitlines() if line.strip()[:1] == "*"]
            complaints = [
                line.replace("'secp521r1', 'X448'", "'X448', 'secp521r1'") for line in complaints
            ]
            self.assertLessEqual(set(complaints), _CURVES, f"{name}\n{said}")
            for scan_name, field in _HOLES:
                self.assertIs(scans[scan_name]["result"][field], False, f"{name} {scan_name}")
