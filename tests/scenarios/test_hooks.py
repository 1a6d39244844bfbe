"""Webhooks of a relayd with two workers, and the receiver that docs/operations.md shows."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

from tests.certs import Authority
from tests.ports import free_port
from tests.scenarios.harness import CHECKOUT, Relayd, port_is_open, wait_until
from tests.scenarios.test_see import TwoWorkers, samples, scrape, total
from tests.sink import Asked, Sink

EXAMPLE = CHECKOUT / "docs" / "examples" / "webhook" / "receiver.py"
KEY = "whole-lines-are-keys-0123456789"


def answer(asked: Asked) -> str | None:
    no = asked.stage == "rcpt" and asked.argument.endswith("@nobody.example")
    return "550 5.1.1 nobody of that name" if no else None


class Example:
    """docs/examples/webhook/receiver.py, until it is stopped; it can be started again."""

    def __init__(self, folder: Path, key: Path) -> None:
        self.port = free_port()
        self.output = folder / "events"
        self._key = key
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(EXAMPLE), str(self.port), str(self._key)], stdout=output
            )
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), "the receiver listens")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def events(self) -> list[tuple[str, str]]:
        """What it has printed: types and IDs."""
        lines = self.output.read_text().splitlines() if self.output.exists() else []
        return [(kind, ident) for kind, ident, *_ in map(str.split, lines)]


class Hooks(TwoWorkers):
    def hooked(self, port: int, hook: str, more: str = "") -> Relayd:
        key = self.folder / "hook.key"
        key.write_text(f"{KEY}\n")
        key.chmod(0o600)
        text = f"hook crm {hook} secret file {key} {more}\nreports strangers any\n"
        return self.gateway(port, text)

    def status(self, relay: Relayd) -> dict[str, object]:
        (found,) = self.told(relay)["hooks"]
        return dict(found)

    def told(self, relay: Relayd) -> dict[str, list[dict[str, object]]]:
        found: dict[str, list[dict[str, object]]] = json.loads(relay.ctl("status", "--json").stdout)
        return found

    def test_each_event_arrives_in_order_over_a_dead_receiver_and_a_kill_of_relayd(self) -> None:
        receiver = Example(self.folder, self.folder / "hook.key")
        self.addCleanup(receiver.stop)
        with Sink(answer) as sink:
            url = f"http://127.0.0.1:{receiver.port}/mail"
            relay = self.hooked(sink.port, f"{url} events any")
            receiver.start()
            idents = self.send(relay, 6)
            # each has two events; the two that fail have a report, too, which is delivered
            wait_until(lambda: len(receiver.events) == 16, "the first ones arrive")
            receiver.stop()  # dead
            relay.wait_empty()
            idents += self.send(relay, 6, 6)
            relay.wait_empty()
            wait_until(lambda: self.status(relay)["trouble"], "it is told that nobody takes them")
            self.assertIn("HOOK", relay.ctl("status").stdout)
            wait_until(lambda: int(str(self.status(relay)["waiting"])) >= 10, "they are on disk")
            os.killpg(relay.pid, signal.SIGKILL)
            relay.kill()
            relay.start()
            receiver.start()
            by_message: dict[str, list[str]] = {}

            def whole() -> bool:
                by_message.clear()
                for kind, ident in receiver.events:
                    by_message.setdefault(ident, []).append(kind)
                return all(len(by_message.get(each, ())) >= 2 for each in idents) and not int(
                    str(self.status(relay)["waiting"])
                )

            wait_until(whole, f"all of it arrives: {by_message}\n{relay.log()}")
            for number, ident in enumerate(idents):
                kinds = by_message[ident]
                self.assertEqual(kinds[0], "accepted", kinds)
                end = "bounced" if number % 3 == 2 else "delivered"
                self.assertIn(end, kinds[1:], kinds)
                if end == "bounced":
                    self.assertIn("report", kinds[1:])
                self.assertEqual(len(kinds), len(set(kinds)), "each once")
            self.assertEqual(self.status(relay)["dropped"], 0)
            relay.logged('event="hook fails"')
            self.assertNotIn(KEY, relay.log(10_000) + relay.ctl("status", "--json").stdout)

    def test_what_is_too_much_is_dropped_and_counted_and_a_reload_changes_the_receiver(
        self,
    ) -> None:
        receiver = Example(self.folder, self.folder / "hook.key")
        self.addCleanup(receiver.stop)
        place = f"127.0.0.1:{free_port()}"
        with Sink(answer) as sink:
            dead = f"http://127.0.0.1:{free_port()}/mail"
            relay = self.hooked(
                sink.port, f"{dead} events accepted", f"keep 3\nmetrics listen {place}"
            )
            self.send(relay, 2)
            self.send(relay, 8, 2)
            relay.wait_empty()

            def dropped() -> bool:
                found = self.status(relay)
                return int(str(found["waiting"])) == 3 and int(str(found["dropped"])) >= 7

            wait_until(dropped, f"three wait: {self.status(relay)}")
            wait_until(lambda: self.status(relay)["trouble"], "nobody takes them")
            relay.logged('event="hook events dropped"')
            lost = int(str(self.status(relay)["dropped"]))
            _, text = scrape(place)
            found = samples(text)
            self.assertEqual(
                total(found, "relayd_hook_events_total", hook="crm", result="dropped"), lost
            )
            self.assertEqual(total(found, "relayd_hook_waiting", hook="crm"), 3)
            self.assertEqual(total(found, "relayd_hook_failing", hook="crm"), 1)
            self.assertGreater(total(found, "relayd_hook_retries_total", hook="crm"), 0)
            receiver.start()
            text = relay.config.read_text()
            alive = f"http://127.0.0.1:{receiver.port}/mail"
            relay.config.write_text(text.replace(dead, alive))
            relay.ctl("reload")
            wait_until(lambda: len(receiver.events) == 3, "the new receiver hears what waited")
            self.send(relay, 1, 20)
            wait_until(lambda: len(receiver.events) == 4, "and what comes, from each worker")

    def test_a_slow_receiver_makes_no_mail_wait(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, Sink(answer) as sink:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"  # nobody accepts, nor answers
            relay = self.hooked(sink.port, f"{url} events any")
            self.send(relay, 3)
            relay.wait_empty()
            wait_until(lambda: int(str(self.status(relay)["waiting"])), "they are counted")

    def test_who_cannot_prove_his_name_hears_nothing_and_a_redirect_leads_nowhere(self) -> None:
        authority, foreign = Authority(), Authority()
        heard: list[bytes] = []

        def serve(listening: socket.socket, context: ssl.SSLContext) -> None:
            while True:
                try:
                    plain, _ = listening.accept()
                    with context.wrap_socket(plain, server_side=True) as client:
                        heard.append(client.recv(65536))
                        client.sendall(
                            b"HTTP/1.1 307 Elsewhere\r\nLocation: http://127.0.0.1:1/\r\n"
                            b"Content-Length: 0\r\nConnection: close\r\n\r\n"
                        )
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        ports: list[int] = []
        for who in (foreign, authority):
            issued = who.issue("localhost")
            files = self.folder / f"{len(ports)}.pem"
            files.write_bytes(issued.chain_pem + issued.key_pem)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(files)
            listening = socket.create_server(("127.0.0.1", 0))
            self.addCleanup(listening.close)
            ports.append(listening.getsockname()[1])
            threading.Thread(target=serve, args=(listening, context), daemon=True).start()
        trusted = self.folder / "authority.pem"
        trusted.write_bytes(authority.pem)
        with Sink(answer) as sink:
            url = f"https://localhost:{ports[0]}/mail"
            relay = self.hooked(sink.port, f"{url} events any", f"\ntls-authorities {trusted}")
            self.send(relay, 1)
            wait_until(lambda: self.status(relay)["trouble"], "the receiver proves nothing")
            self.assertIn("certificate", str(self.status(relay)["trouble"]))
            self.assertEqual(heard, [])
            text = relay.config.read_text()
            relay.config.write_text(text.replace(url, f"https://localhost:{ports[1]}/mail"))
            relay.ctl("reload")
            wait_until(lambda: "307" in str(self.status(relay)["trouble"]), "it is sent elsewhere")
            self.assertIn(b"webhook-signature: v1,", heard[0].lower())
