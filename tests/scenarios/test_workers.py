"""Several workers: killed, restarted, fewer or more of them; mail and clients do not notice."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.certs import Authority
from tests.scenarios.harness import (
    Relayd,
    Scenario,
    free_port,
    unhurried,
    wait_until,
    workers_of,
)
from tests.scenarios.injector import Injected, inject, number_of
from tests.sink import Sink, loopback_listener

RULES = "accept from 127.0.0.0/8\nroute any via out\n"


def alive(pid: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class WithWorkers(Scenario):
    def start(self, port: int, workers: int = 2, settings: str = "") -> Relayd:
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{port}\n{RULES}",
            settings=f"sessions-per-client 1000\n{settings}",
            start=False,
        )
        self.set_workers(relay, workers)
        relay.start()
        self.wait_ready(relay, workers)
        return relay

    def set_workers(self, relay: Relayd, workers: int) -> None:
        text = re.sub(r"^workers .*$", f"workers {workers}", relay.config.read_text(), flags=re.M)
        relay.config.write_text(text)

    def wait_ready(self, relay: Relayd, workers: int) -> None:
        if workers > 1:
            wait_until(
                lambda: f"workers_ready={workers}" in self.status(relay) or None,
                f"{workers} workers are ready\n{relay.log()}",
                60,
            )

    def status(self, relay: Relayd) -> str:
        done = relay.ctl("status", "--json", check=False)
        found = re.search(r'"workers_ready": ?(\d+)', done.stdout)
        return f"workers_ready={found.group(1)}" if found else ""

    @contextlib.contextmanager
    def clients(self, relay: Relayd, count: int) -> Iterator[list[bytes]]:
        """So many that come one after the other and stay; the code each one is greeted with."""
        with contextlib.ExitStack() as stack:
            greetings = []
            for _ in range(count):
                client = socket.create_connection(relay.address, timeout=60)
                stack.enter_context(client)
                greetings.append(client.recv(3))
            yield greetings

    def all_arrive(self, sink: Sink, sent: Injected, relay: Relayd, seconds: float = 120.0) -> None:
        """Everything acknowledged arrives, once or (after a kill) more than once."""

        def missing() -> set[int]:
            return sent.acknowledged - {number_of(each.content) for each in list(sink.arrived)}

        try:
            wait_until(lambda: not missing(), "all acknowledged mail arrives", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}: {len(missing())} missing\n{relay.log()}") from None


class NumberChanges(WithWorkers):
    def test_no_mail_is_stranded_when_there_are_fewer_or_more_workers(self) -> None:
        port = free_port()
        relay = self.start(port, 3)
        sent = inject(relay.port, 60, sessions=12)
        self.assertEqual(len(sent.acknowledged), 60, relay.log())
        for workers, first in ((1, 1000), (2, 2000)):
            relay.stop()
            self.set_workers(relay, workers)
            relay.start()
            self.wait_ready(relay, workers)
            more = inject(relay.port, 20, sessions=4, first=first)
            sent.acknowledged |= more.acknowledged
            self.assertEqual(len(relay.queue()), len(sent.acknowledged))
        with Sink(bind=lambda: loopback_listener(port)) as sink:
            relay.ctl("retry", "--all", check=False)
            self.all_arrive(sink, sent, relay)
            relay.wait_empty()
            self.assertEqual(len(sink.arrived), 100)


class Killed(WithWorkers):
    def test_a_killed_worker_loses_nothing_and_its_mail_moves_on_at_once(self) -> None:
        with Sink() as sink:
            relay = self.start(sink.port)
            sent = Injected()
            injecting = threading.Thread(
                target=lambda: sent.__dict__.update(inject(relay.port, 800, sessions=16).__dict__)
            )
            injecting.start()
            wait_until(lambda: len(sink.arrived) > 200, "mail flows")
            victim = workers_of(relay)[0]
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda: victim not in workers_of(relay), "it is gone")
            began = time.monotonic()
            wait_until(lambda: len(workers_of(relay)) == 2, "another takes its place")
            self.wait_ready(relay, 2)
            back = unhurried(began)
            injecting.join(60)
            self.all_arrive(sink, sent, relay)
            relay.wait_empty()
            self.assertGreater(len(sent.acknowledged), 200)
            # two seconds on an idle machine; the tests of others may run beside this one
            self.assertLess(back, 20.0)

    def test_a_worker_that_hangs_keeps_nobody_waiting(self) -> None:
        relay = self.start(free_port(), 3)
        hanging = workers_of(relay)[0]
        os.kill(hanging, signal.SIGSTOP)
        self.addCleanup(os.kill, hanging, signal.SIGCONT)  # or it would not stop
        with self.clients(relay, 30) as greetings:
            self.assertEqual(greetings, [b"220"] * 30)

    def test_a_killed_master_takes_its_workers_along(self) -> None:
        relay = self.start(free_port())
        workers = workers_of(relay)
        self.assertEqual(len(workers), 2)
        assert relay.process is not None
        os.kill(relay.pid, signal.SIGKILL)
        relay.process.popen.wait(60)
        wait_until(lambda: not any(map(alive, workers)), "the workers end")
        relay.start()
        self.wait_ready(relay, 2)
        self.assertEqual(len(workers_of(relay)), 2)

    def test_sigterm_ends_master_and_workers(self) -> None:
        relay = self.start(free_port())
        workers = workers_of(relay)
        self.assertEqual(relay.stop(), 0, relay.log())
        self.assertFalse(any(map(alive, workers)))


class Restarted(WithWorkers):
    def test_a_rolling_restart_under_load_refuses_and_drops_nothing(self) -> None:
        with Sink() as sink:
            relay = self.start(sink.port)
            before = workers_of(relay)
            results: list[Injected] = []
            over = threading.Event()

            def short_sessions(first: int) -> None:
                """One message a session, as most clients do."""
                number = first
                while not over.wait(0.02):  # the restart is to have a processor, too
                    results.append(inject(relay.port, 1, sessions=1, first=number))
                    number += 1

            clients = [
                threading.Thread(target=short_sessions, args=(1_000_000 * each,))
                for each in range(1, 5)
            ]
            for client in clients:
                client.start()
            try:
                wait_until(lambda: len(sink.arrived) > 20, "mail flows")
                relay.ctl("restart", seconds=90)
                wait_until(
                    lambda: (
                        len(workers_of(relay)) == 2 and not set(before) & set(workers_of(relay))
                    ),
                    f"both workers are new\n{relay.log()}",
                    60,
                )
                self.wait_ready(relay, 2)
            finally:
                over.set()
                for client in clients:
                    client.join(60)
            sent = Injected()
            for each in results:
                sent.acknowledged |= each.acknowledged
                sent.refused |= each.refused
                sent.lost += each.lost
            self.assertEqual((sent.refused, sent.lost), ({}, 0), relay.log())
            self.all_arrive(sink, sent, relay)
            relay.wait_empty()
            self.assertEqual(len(sink.arrived), len(sent.acknowledged))

    def test_no_worker_is_stopped_for_a_configuration_it_could_not_start_with(self) -> None:
        relay = self.start(free_port())
        before = workers_of(relay)
        relay.config.write_text(f"{relay.config.read_text()}acept to @example.com\n")
        done = relay.ctl("restart", check=False, seconds=90)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no worker was stopped: ", done.stderr)
        self.assertIn('unknown verb "acept"', done.stderr)
        self.assertEqual(workers_of(relay), before)
        self.assertIn("REFUSED", relay.ctl("status").stdout)

    def test_a_worker_that_died_comes_back_with_the_rules_in_force(self) -> None:
        """Whatever is on disk by then: a mistake, or what nobody has put in force."""
        relay = self.start(free_port())
        good = relay.config.read_text()

        def code() -> int:
            with relay.session() as client:
                client.ehlo("client.example")
                client.mail("a@b.example")
                return client.rcpt("x@closed.example")[0]

        def replaced(old: set[int]) -> bool:
            now = workers_of(relay)
            return len(now) == 2 and not old & set(now)

        for words in ("acept to @example.com\n", "reject to @closed.example\n"):
            relay.config.write_text(words + good)
            before = set(workers_of(relay))
            for each in before:
                os.kill(each, signal.SIGKILL)
            wait_until(partial(replaced, before), "both workers are new", 120)
            self.wait_ready(relay, 2)
            self.assertEqual([code() for _ in range(4)], [250] * 4, words)
        relay.ctl("reload")
        self.assertEqual([code() for _ in range(4)], [550] * 4)


class LastWords(WithWorkers):
    """What a worker says before it closes arrives, in the clear and under TLS."""

    def test_goodbye(self) -> None:
        authority = Authority()
        room = self.room("tls")
        chain, key = authority.issue("gw.example.com", "127.0.0.1").write(room, "gw")
        trusted = ssl.create_default_context(cadata=authority.pem.decode())
        implicit = free_port()
        relay = self.start(
            free_port(),
            settings=f"certificate {chain} key {key}\nlisten 127.0.0.1:{implicit} tls implicit\n",
        )
        for _ in range(3):
            with smtplib.SMTP(*relay.address, timeout=60) as client:
                self.assertEqual(client.docmd("QUIT")[0], 221)
            with smtplib.SMTP(*relay.address, timeout=60) as client:
                client.starttls(context=trusted)
                client.sendmail(
                    "a@example.org", ["b@example.com"], "Subject: hello\r\n\r\nhello\r\n"
                )
                self.assertEqual(client.docmd("QUIT")[0], 221)
            with smtplib.SMTP_SSL("127.0.0.1", implicit, timeout=60, context=trusted) as client:
                self.assertEqual(client.docmd("QUIT")[0], 221)
        clients = [socket.create_connection(relay.address, timeout=60) for _ in range(4)]
        for connected in clients:
            self.addCleanup(connected.close)
            self.assertEqual(connected.recv(3), b"220")
        self.assertEqual(relay.stop(), 0, relay.log())
        for connected in clients:
            self.assertIn(b"\r\n421 ", connected.makefile("rb").read())


class InAll(WithWorkers):
    def test_the_limit_of_a_client_holds_over_all_workers(self) -> None:
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{free_port()}\n{RULES}",
            settings="sessions-per-client 10",
            start=False,
        )
        self.set_workers(relay, 3)
        relay.start()
        self.wait_ready(relay, 3)
        with self.clients(relay, 40) as greetings:
            self.assertEqual(greetings.count(b"220"), 10, greetings)
            self.assertEqual(greetings.count(b"421"), 30)
        wait_until(relay.greets, "those who left make room")

    def test_relayctl_sees_and_changes_the_mail_of_all_workers(self) -> None:
        relay = self.start(free_port())
        sent = inject(relay.port, 40, sessions=16)
        self.assertEqual(len(sent.acknowledged), 40)
        waiting = relay.queue()
        self.assertEqual(len(waiting), 40)
        shards = {path.name for path in (relay.folder / "spool").glob("shard-*/queue.db")}
        self.assertEqual(shards, {"queue.db"})
        for each in waiting[:3] + waiting[-3:]:
            self.assertIn(each["id"], relay.ctl("show", each["id"]).stdout)
        relay.ctl("remove", waiting[0]["id"])
        self.assertEqual(len(relay.queue()), 39)


class Activated(WithWorkers):
    def test_sockets_of_systemd_are_shared_by_all_workers(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening, Sink() as sink:
            port = listening.getsockname()[1]
            relay = self.relayd(
                f"next-hop out smtp 127.0.0.1:{sink.port}\n{RULES}", port=port, start=False
            )
            self.set_workers(relay, 2)
            code = (
                "import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True);"
                "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1',"
                " LISTEN_FDNAMES='smtp'); os.execv(sys.argv[2], sys.argv[2:])"
            )
            listening.set_inheritable(True)
            with (relay.folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    [sys.executable, "-c", code, str(listening.fileno()), *relay.command],
                    stdout=log,
                    stderr=log,
                    cwd=relay.folder,
                    env={**os.environ, **relay.environment},
                    pass_fds=[listening.fileno()],
                )
            try:
                self.wait_ready(relay, 2)
                sent = inject(port, 20)
                self.assertEqual(len(sent.acknowledged), 20)
                sink.wait(20)
            finally:
                process.terminate()
                process.wait(60)
