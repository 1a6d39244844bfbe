"""A restart with a mistake on disk: mail flows on by the configuration that was in force."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from relayd.login.scram import Verifier
from relayd.login.users import line_of
from tests.scenarios.harness import Process, Relayd, Scenario, wait_until, workers_of
from tests.sink import Sink

RULES = """\
include rules.d/*.rules
next-hop sink smtp 127.0.0.1:{port}
accept to @example.com
route any via sink
"""
VERIFIER = Verifier(b"salt", 4096, b"s" * 32, b"k" * 32)
KEPT = Path("spool", "last-good")


class LastGoodTest(Scenario):
    def start(self, sink: Sink, settings: str = "") -> Relayd:
        relay = self.relayd(RULES.format(port=sink.port), settings=settings, start=False)
        self.rules = relay.folder / "rules.d" / "10-site.rules"
        self.rules.parent.mkdir()
        self.rules.write_text(
            "table people aliases file people\nforward <people> at @example.com\n"
        )
        self.people = self.rules.with_name("people")
        self.people.write_text("info: old\n")
        relay.start()
        self.wait_kept(relay)
        return relay

    def wait_kept(self, relay: Relayd) -> bytes:
        return wait_until(lambda: self.kept(relay), f"the configuration is kept\n{relay.log()}")

    def kept(self, relay: Relayd) -> bytes:
        path = relay.folder / KEPT
        return path.read_bytes() if path.exists() else b""

    def arrives(self, relay: Relayd, sink: Sink, to: str) -> None:
        """Mail for info@ is forwarded to this one."""
        before = len(sink.arrived)
        relay.send("a@b.example", ["info@example.com"])
        wait_until(lambda: len(sink.arrived) > before, f"it arrives\n{relay.log()}")
        self.assertEqual(sink.arrived[-1].recipients, (f"{to}@example.com",))

    def status(self, relay: Relayd) -> dict[str, object] | None:
        found: dict[str, object] | None = json.loads(
            relay.ctl("status", "--json", check=False).stdout
        )["refused"]
        return found

    def restart_with_a_mistake(self, workers: int) -> None:
        with Sink() as sink:
            relay = self.start(sink)
            relay.config.write_text(
                relay.config.read_text().replace("\nworkers 1\n", f"\nworkers {workers}\n")
            )
            relay.stop()
            relay.start()
            self.arrives(relay, sink, "old")
            told = f"workers {workers}".encode()
            good = wait_until(lambda: told in self.kept(relay) and self.kept(relay), "it is kept")
            self.rules.write_text(self.rules.read_text() + "forwrad x@example.com -> y@z.example\n")
            relay.stop()

            relay.start()
            self.arrives(relay, sink, "old")
            done = relay.ctl("status", check=False)
            self.assertEqual(done.returncode, 1)
            self.assertIn("started with the last good configuration, of 2", done.stdout)
            self.assertIn("10-site.rules:3:1", done.stdout)
            self.assertIn("^^^^^^^", done.stdout)
            refused = self.status(relay)
            assert refused is not None
            self.assertIn("10-site.rules:3:1", str(refused["why"]))
            self.assertGreater(float(str(refused["since"])), float(str(refused["last_good"])))
            relay.logged('trouble event="started with the last good configuration"')
            relay.logged(r'event="configuration refused" why="    \^{7}"')
            self.assertEqual(relay.ctl("check", check=False).returncode, 1)
            self.assertEqual(relay.ctl("reload", check=False).returncode, 1)
            self.assertIn("of 2", relay.ctl("status", check=False).stdout, "it is still so")
            self.assertEqual(self.kept(relay), good)
            if workers > 1:  # one that is started again knows no other
                victim = workers_of(relay)[0]
                os.kill(victim, 9)
                wait_until(lambda: victim not in workers_of(relay), "it is dead")
                wait_until(lambda: len(workers_of(relay)) == workers, "it is back")
                wait_until(lambda: relay.ctl("status", check=False).stdout, "all answer")
                for _ in range(4):
                    self.arrives(relay, sink, "old")

            self.rules.write_text(self.rules.read_text().replace("forwrad", "forward"))
            self.people.write_text("info: new\n")
            relay.ctl("reload")
            self.arrives(relay, sink, "new")
            self.assertIsNone(self.status(relay))
            self.assertEqual(relay.ctl("status").returncode, 0)
            wait_until(lambda: self.kept(relay) != good, "what is in force now is kept")
            self.people.unlink()
            relay.stop()
            relay.start()
            self.arrives(relay, sink, "new")

    def test_a_restart_with_a_mistake_goes_on_with_what_was_in_force(self) -> None:
        self.restart_with_a_mistake(1)

    def test_the_same_with_two_workers(self) -> None:
        self.restart_with_a_mistake(2)

    def test_whatever_is_wrong_with_the_files(self) -> None:
        with Sink() as sink:
            relay = self.start(sink)
            conf, rules = relay.config.read_text(), self.rules.read_text()

            def no_utf8() -> None:
                self.rules.write_bytes(b"# \xff\nforward \xff@example.com -> x@example.com\n")

            def no_table() -> None:
                self.people.unlink()

            def no_included_file() -> None:
                relay.config.write_text(f"{conf}include more.rules\n")

            def unknown_verb() -> None:
                relay.config.write_text(conf.replace("accept", "acept"))

            def folders() -> None:
                self.rules.unlink()
                self.rules.mkdir()

            for spoil in (no_utf8, no_table, no_included_file, unknown_verb, folders):
                with self.subTest(spoil.__name__):
                    relay.stop()
                    spoil()
                    relay.start()
                    self.assertIsNotNone(self.status(relay))
                    self.arrives(relay, sink, "old")
                    if self.rules.is_dir():
                        self.rules.rmdir()
                    relay.config.write_text(conf)
                    self.rules.write_text(rules)
                    self.people.write_text("info: old\n")
                    relay.ctl("reload")
                    self.assertIsNone(self.status(relay))

    def test_without_a_configuration_file(self) -> None:
        """Where the spool is nobody says then: it is the working folder, as by systemd's unit."""
        with Sink() as sink:
            relay = self.start(sink)
            conf = relay.config.read_text()
            for spoil in (relay.config.unlink, lambda: relay.config.write_text("")):
                relay.stop()
                spoil()
                relay.process = process = Process(
                    relay.command,
                    relay.folder / "log",
                    cwd=relay.folder / "spool",
                    environment=relay.environment,
                )
                wait_until(relay.greets, f"it greets\n{process.log()}")
                self.arrives(relay, sink, "old")
                relay.config.write_text(conf)
                relay.ctl("reload")
                self.assertIsNone(self.status(relay))

    def ends(self, relay: Relayd) -> tuple[int, str]:
        """The status of a start that fails, and what it says."""
        output = relay.folder / "failed"
        output.unlink(missing_ok=True)
        process = Process(relay.command, output, cwd=relay.folder, environment=relay.environment)
        self.addCleanup(process.kill)
        wait_until(lambda: not process.running, f"it ends\n{process.log()}")
        assert process.status is not None
        return process.status, process.log()

    def test_a_first_start_with_a_mistake_fails(self) -> None:
        relay = self.relayd("acept any", start=False)
        status, said = self.ends(relay)
        self.assertEqual(status, os.EX_CONFIG)
        self.assertIn('unknown verb "acept"', said)
        self.assertNotIn("last good", said)
        self.assertFalse((relay.folder / KEPT).exists())

    def test_one_that_cannot_be_used_says_why(self) -> None:
        with Sink() as sink:
            relay = self.start(sink)
        relay.stop()
        conf, path = relay.config.read_text(), relay.folder / KEPT
        good = path.read_bytes()

        def torn() -> None:
            path.write_bytes(good[:-1])

        def of_another_version() -> None:
            head, _, rest = good.partition(b"\n")
            told = {**json.loads(head), "relayd": "0.0.1"}
            path.write_bytes(json.dumps(told).encode() + b"\n" + rest)

        spoils: dict[Callable[[], object], str] = {
            torn: "it is damaged",
            of_another_version: "it was kept by relayd 0.0.1",
        }
        relay.config.write_text(conf.replace("accept", "acept"))
        for spoil, why in spoils.items():
            with self.subTest(why):
                spoil()
                status, said = self.ends(relay)
                self.assertEqual(status, os.EX_CONFIG)
                self.assertIn('unknown verb "acept"', said)
                self.assertIn(f"the last good configuration cannot be used, {path}: {why}", said)

    def test_a_secret_is_read_from_where_it_is(self) -> None:
        """No copy is made; without the file the last good configuration is none."""
        with Sink() as sink:
            relay = self.relayd(
                f"next-hop sink smtp 127.0.0.1:{sink.port} login customer\n"
                "table staff users file staff\naccept any login any\naccept to @example.com\n"
                "route any via sink\nsecrets secrets\n",
                start=False,
            )
            secrets = relay.folder / "secrets"
            for path, text in (
                (secrets, "customer me geheimwort\n"),
                (relay.folder / "staff", line_of("bob", VERIFIER) + "\n"),
            ):
                path.write_text(text)
                path.chmod(0o600)
            relay.start()
            kept = self.wait_kept(relay)
            self.assertIn(b"table staff users file staff", kept)
            self.assertNotIn(b"geheimwort", kept)
            self.assertNotIn(b"SCRAM", kept)
            self.assertEqual((relay.folder / KEPT).stat().st_mode & 0o777, 0o600)
            relay.stop()
            relay.config.write_text(relay.config.read_text() + "acept any\n")
            relay.start()
            self.assertIsNotNone(self.status(relay))
            relay.stop()
            secrets.unlink()
            status, said = self.ends(relay)
            self.assertEqual(status, os.EX_CONFIG)
            self.assertIn("the last good configuration cannot be used", said)
            self.assertIn("cannot read secrets", said)
