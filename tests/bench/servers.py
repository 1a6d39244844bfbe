"""The servers under test, each in a folder of its own, between smtp-source and smtp-sink.

Each is as it comes: Postfix and the others as Debian configures them, plus what a relay for this
job needs. All log, and all have their queue on the same disk.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.bench.jobs import Job
from tests.bench.tunnels import certificate
from tests.bench.usage import cpu_seconds
from tests.scenarios.harness import (
    CHECKOUT,
    Process,
    free_port,
    missing_peer,
    owner,
    port_is_open,
    program,
    run,
    wait_until,
)

_TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"


class Server:
    """A relay from its own port to a next hop. `roots` are its processes without parents."""

    name: ClassVar[str]

    def __init__(self, folder: Path, job: Job, sink: int, trace: Path | None = None) -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        self.folder = folder
        self.job = job
        self.sink = sink
        self.port = free_port()
        self.roots: list[int] = []
        # counts what reaches the disk; seccomp stops nothing but these calls
        self.before: list[str] = []
        if trace is not None:
            calls = "trace=fsync,fdatasync,sync_file_range,syncfs"
            self.before = ["strace", "-f", "--seccomp-bpf", "-c", "-o", str(trace), "-e", calls]

    @classmethod
    def missing(cls) -> str:
        """Why it cannot run here; empty if it can."""
        return ""

    def start(self) -> None:
        """Start, and wait until it listens."""
        raise NotImplementedError

    def stop(self) -> None:
        """End all of it."""

    def log(self) -> str:
        """The end of its log, for a failure's message."""
        return ""

    def wait_listening(self) -> None:
        """Somebody accepts connections."""
        wait_until(lambda: port_is_open(("127.0.0.1", self.port)), f"{self.name}\n{self.log()}", 60)


class Nothing(Server):
    """Source straight to sink: what the load itself allows."""

    name = "nothing"

    def start(self) -> None:
        """There is nothing to start."""
        self.port = self.sink


@functools.cache
def packaged_python() -> str:
    """What relayd's Debian package runs on, where all that it needs is here; else our own."""
    debian = "/usr/bin/python3"
    there = (
        Path(debian).exists()
        and not subprocess.run(
            [debian, "-c", "import relayd.service.app"],
            cwd=CHECKOUT,
            capture_output=True,
            check=False,
        ).returncode
    )
    return debian if there else sys.executable


class Relayd(Server):
    """relayd with one worker; subclasses have more."""

    name = "relayd-1"
    workers: ClassVar[int] = 1
    python: ClassVar[str] = ""  # that runs it; empty: as packaged
    settings: ClassVar[str] = ""
    checkout: ClassVar[Path] = CHECKOUT

    def start(self) -> None:
        """Configure and start."""
        config = self.folder / "relayd.conf"
        config.write_text(
            "\n".join(
                [
                    "hostname gw.example.net",
                    f"spool {self._spool()}",
                    f"control {self.folder / 'control'}",
                    f"listen 127.0.0.1:{self.port}{' tls implicit' if self.job.tls else ''}",
                    f"workers {self.workers}",
                    f"sessions-per-client {max(self.job.sessions * 2, 50)}",
                    "accept from 127.0.0.1",
                    f"next-hop sink smtp 127.0.0.1:{self.sink}{self._tls}",
                    *self._rules(),
                    "route any via sink",
                    self.settings,
                    "",
                ]
            )
        )
        command = [
            *self.before,
            self.python or packaged_python(),
            "-c",
            _TWISTD,
            "-n",
            "--pidfile=",
        ]
        self._process = Process(
            [*command, "relayd", "--config", str(config)],
            self.folder / "log",
            cwd=self.folder,
            environment={"PYTHONPATH": str(self.checkout)},
        )
        self.roots = [self._process.popen.pid]
        self.wait_listening()
        # the master's sockets are open before its workers serve them
        ready = max(self.workers, 1) if self.workers > 1 else 0
        wait_until(lambda: self._all().count("worker ready") >= ready, self.log())

    def _spool(self) -> str:
        return str(self.folder / "spool")

    @property
    def _tls(self) -> str:
        return " tls required implicit" if self.job.tls else ""

    def _rules(self) -> Iterator[str]:
        if self.job.tls:
            chain, key = certificate(self.folder)
            yield f"certificate {chain} key {key}"
        if self.job.aliases:
            _write_aliases(self.folder / "aliases", self.job.aliases, ": ")
            yield "table people aliases file aliases"
            yield "forward <people> at @example.com"
        if self.job.rewrite:
            (self.folder / "keys").write_text("0123456789abcdef0123456789abcdef\n")
            (self.folder / "keys").chmod(0o600)
            yield "srs domain srs.example.net keys file keys"
            yield "srs ours @example.com"
            yield "rewrite header From, Reply-To @source.example -> @outside.example"
            yield "forward user@example.com -> user@elsewhere.example"

    def stop(self) -> None:
        """SIGTERM to twistd, also below strace."""
        for pid in _twistd(self.roots[0]):
            os.kill(pid, signal.SIGTERM)
        self._process.popen.wait(60)

    def _all(self) -> str:
        return (self.folder / "log").read_text("utf-8", "replace")

    def log(self) -> str:
        """The end of its log."""
        return self._all()[-2000:]


class Relayd2(Relayd):
    """relayd with two workers."""

    name = "relayd-2"
    workers = 2


class RelaydMetrics(Relayd):
    """relayd with one worker that counts for `metrics`."""

    name = "relayd-metrics"

    def _rules(self) -> Iterator[str]:
        yield f"metrics listen unix:{self.folder / 'metrics'}"
        yield from super()._rules()


class RelaydHook(Relayd):
    """relayd with one worker that posts every event to a receiver of ours, which takes them all."""

    name = "relayd-hook"

    def _rules(self) -> Iterator[str]:
        (self.folder / "hook.key").write_text("0123456789abcdef0123456789abcdef\n")
        (self.folder / "hook.key").chmod(0o600)
        place = f"http://127.0.0.1:{self._receiver.server_port}/"
        yield f"hook bench {place} events any secret file hook.key"
        yield from super()._rules()

    def start(self) -> None:
        """The receiver first."""
        self._receiver = ThreadingHTTPServer(("127.0.0.1", 0), _Takes)
        threading.Thread(target=self._receiver.serve_forever, daemon=True).start()
        super().start()

    def stop(self) -> None:
        """Both."""
        super().stop()
        self._receiver.shutdown()
        self._receiver.server_close()


class _Takes(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class RelaydPostgresql(Relayd):
    """relayd with one worker whose mail is in a PostgreSQL of its own: the CPU is that of both."""

    name = "relayd-postgresql"
    _as_debian = ("fsync=on", "shared_buffers=128MB", "max_connections=100")

    @classmethod
    def missing(cls) -> str:
        """PostgreSQL and its driver."""
        return missing_peer("postgresql")

    def _spool(self) -> str:
        return f'postgresql "{self._database.where}" folder {self.folder / "spool"}'

    def start(self) -> None:
        """The database first, as Debian configures it, its data where the folder would be."""
        from tests.postgresqlserver import PostgresqlServer, empty_spool

        self._database = PostgresqlServer(*self._as_debian, inside=self.folder / "database")
        empty_spool(self._database)
        super().start()
        self.roots.append(self._database.process.pid)

    def stop(self) -> None:
        """Both; what a message took of the database is told first."""
        row = self._ask(
            """SELECT xact_commit, (SELECT sum(n_tup_upd) FROM pg_stat_user_tables
                WHERE relname IN ('message', 'recipient')) FROM pg_stat_database
            WHERE datname = 'postgres'"""
        )
        used = cpu_seconds([self._database.process.pid])
        print(
            f"    {row[0]} COMMITs, {row[1]} rows updated, {used:.2f} s of CPU in the database",
            flush=True,
        )
        super().stop()
        self._database.stop()

    def _ask(self, text: str) -> tuple[Any, ...]:
        import psycopg

        with psycopg.connect(self._database.where, autocommit=True) as connection:
            asked = connection.execute(text.encode())
            return asked.fetchone() or () if asked.description else ()


class RelaydQuorum(RelaydPostgresql):
    """The same, and a COMMIT is on two disks: of the database and of its synchronous standby."""

    name = "relayd-quorum"

    def start(self) -> None:
        """The standby comes last: until then nothing is waited for."""
        from tests.postgresqlserver import PostgresqlServer

        super().start()
        self._standby = PostgresqlServer(
            *self._as_debian, inside=self.folder / "standby", behind=self._database, name="b"
        )
        self._ask("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (b)'")
        self._ask("SELECT pg_reload_conf()")
        synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'quorum'"
        wait_until(lambda: bool(self._ask(synchronous)), self.log())
        self.roots.append(self._standby.process.pid)

    def stop(self) -> None:
        """What is told at the end waits for the standby."""
        super().stop()
        self._standby.stop()


def beside(checkout: Path) -> list[type[Server]]:
    """relayd of another checkout, with one worker and with two: what a change makes of it."""
    one = type("Before", (Relayd,), {"name": "before-1", "checkout": checkout})
    two = type("Before2", (Relayd2,), {"name": "before-2", "checkout": checkout})
    return [one, two]


def _twistd(root: int) -> Iterator[int]:
    """The process itself, or strace's only child."""
    if b"strace" not in Path(f"/proc/{root}/cmdline").read_bytes().partition(b"\0")[0]:
        yield root
        return
    for child in Path(f"/proc/{root}/task/{root}/children").read_text().split():
        yield int(child)


_MAIN_CF = """
# as Debian's package configures a fresh install
smtpd_banner = $myhostname ESMTP $mail_name (Debian/GNU)
biff = no
append_dot_mydomain = no
readme_directory = no
compatibility_level = 3.6
smtp_tls_CApath = /etc/ssl/certs
smtp_tls_security_level = may
smtp_tls_session_cache_database = btree:${{data_directory}}/smtp_scache
# what a relay of this job needs
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/mail.log
maillog_file_prefixes = {folder}
myhostname = gw.example.net
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
relayhost = [127.0.0.1]:{sink}
alias_maps =
alias_database =
"""

_MASTER_CF = """
{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix(Server):
    """Debian's Postfix."""

    name = "postfix"

    @classmethod
    def missing(cls) -> str:
        """Its program, and root's rights."""
        if os.geteuid() != 0:
            return "root, to run Postfix"
        return _not_found("postfix", "postfix")

    def start(self) -> None:
        """Configure an instance in the folder, and start it."""
        folder = self.folder
        for part in ("queue", "data", "etc"):
            (folder / part).mkdir()
        os.chown(folder / "data", *owner("postfix"))
        settings = _MAIN_CF.format(folder=folder, sink=self.sink)
        main_cf = folder / "etc/main.cf"
        main_cf.write_text(settings)  # postmap reads it
        main_cf.write_text(settings + "\n".join(self._maps()) + "\n")
        (folder / "etc/master.cf").write_text(_MASTER_CF.format(port=f"127.0.0.1:{self.port}"))
        command = [program("postfix"), "-c", str(folder / "etc")]
        self._outer = Process([*self.before, *command, "start-fg"], folder / "out")
        self._master = folder / "queue/pid/master.pid"
        self._master_pid = wait_until(self._pid, f"Postfix starts\n{self._outer.log()}")
        self.roots.append(self._master_pid)
        self.wait_listening()

    def _pid(self) -> int:
        try:
            return int(self._master.read_text())
        except (OSError, ValueError):
            return 0

    def _maps(self) -> Iterator[str]:
        folder = self.folder
        if self.job.aliases:
            _write_aliases(folder / "etc/virtual", self.job.aliases, "@example.com ")
            self._postmap("virtual")
            yield f"virtual_alias_maps = hash:{folder}/etc/virtual"
            yield "virtual_alias_domains = example.com"
        if self.job.rewrite:
            forward, reverse = self._start_postsrsd()
            (folder / "etc/virtual").write_text("user@example.com user@elsewhere.example\n")
            self._postmap("virtual")
            (folder / "etc/headers").write_text("@source.example @outside.example\n")
            self._postmap("headers")
            yield f"virtual_alias_maps = hash:{folder}/etc/virtual"
            yield "virtual_alias_domains = example.com"
            yield f"sender_canonical_maps = tcp:127.0.0.1:{forward}"
            yield "sender_canonical_classes = envelope_sender"
            yield f"recipient_canonical_maps = tcp:127.0.0.1:{reverse}"
            yield "recipient_canonical_classes = envelope_recipient, header_recipient"
            yield f"canonical_maps = hash:{folder}/etc/headers"
            yield "canonical_classes = header_sender"
            yield "local_header_rewrite_clients = permit_mynetworks"

        if self.job.tls:
            chain, key = certificate(folder / "etc")
            yield f"smtpd_tls_chain_files = {key}, {chain}"
            yield "smtpd_tls_wrappermode = yes"
            yield "smtp_tls_security_level = encrypt"
            yield "smtp_tls_wrappermode = yes"

    def _postmap(self, name: str) -> None:
        etc = self.folder / "etc"
        run([program("postmap"), "-c", str(etc), f"hash:{etc / name}"])

    def _start_postsrsd(self) -> tuple[int, int]:
        """PostSRSd, as Debian has it; it is part of the server. Its two ports."""
        forward, reverse = free_port(), free_port()
        secret = self.folder / "secret"
        secret.write_text("0123456789abcdef\n")
        options = ["-4", f"-s{secret}", "-dsrs.example.net", f"-f{forward}", f"-r{reverse}"]
        srs = Process([program("postsrsd"), *options], self.folder / "srs.out")
        self.roots.append(srs.popen.pid)
        wait_until(lambda: port_is_open(("127.0.0.1", forward)), f"postsrsd\n{srs.log()}")
        return forward, reverse

    def stop(self) -> None:
        """SIGTERM to the master, which ends its children."""
        for pid in self.roots:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not Path(f"/proc/{self._master_pid}").exists(), "Postfix ends")
        self._outer.popen.wait(10)

    def log(self) -> str:
        """The end of its log."""
        path = self.folder / "mail.log"
        return path.read_text("utf-8", "replace")[-2000:] if path.exists() else self._outer.log()


def _write_aliases(path: Path, count: int, between: str) -> None:
    """smtp-source -N numbers its recipients: 1user, 2user, ..."""
    path.write_text(
        "".join(f"{n}user{between}person{n}@elsewhere.example\n" for n in range(count + 1))
    )


def _not_found(command: str, package: str) -> str:
    try:
        program(command)
    except FileNotFoundError:
        return f"{command} (Debian: apt-get install {package})"
    return ""


class OpenSmtpd(Server):
    """Debian's OpenSMTPD."""

    name = "opensmtpd"

    @classmethod
    def missing(cls) -> str:
        """Its program, and root's rights."""
        return "root" if os.geteuid() != 0 else _not_found("smtpd", "opensmtpd")

    def start(self) -> None:
        """It knows one spool only, /var/spool/smtpd, which must be empty and unused."""
        config = self.folder / "smtpd.conf"
        config.write_text(
            f"listen on 127.0.0.1 port {self.port}\n"
            f'action relay relay host "smtp://127.0.0.1:{self.sink}"\n'
            "match from any for any action relay\n"
        )
        command = [*self.before, program("smtpd"), "-d", "-f", str(config)]
        self._process = Process(command, self.folder / "log")
        self.roots = [self._process.popen.pid]
        self.wait_listening()

    def stop(self) -> None:
        """SIGTERM."""
        self._process.stop()

    def log(self) -> str:
        """The end of its log."""
        return self._process.log()


class Exim(Server):
    """Debian's Exim (light), its configuration cut down to a smart host."""

    name = "exim"

    @classmethod
    def missing(cls) -> str:
        """Its program, and root's rights."""
        return "root" if os.geteuid() != 0 else _not_found("exim4", "exim4-daemon-light")

    def start(self) -> None:
        """Configure and start the daemon in the foreground."""
        spool, log = self.folder / "spool", self.folder / "logs"
        for each in (spool, log):
            each.mkdir()
            os.chown(each, *owner("Debian-exim"))
        binary = program("exim4")
        config = self.folder / "exim.conf"
        config.write_text(
            f"""
exim_path = {binary}
spool_directory = {spool}
log_file_path = {log}/%slog
primary_hostname = gw.example.net
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
domainlist local_domains =
smtp_accept_max = 500
smtp_accept_queue_per_connection = 0
smtp_accept_queue = 0
tls_advertise_hosts =
never_users =
acl_smtp_rcpt = accept
acl_smtp_data = accept
begin routers
smart:
  driver = manualroute
  transport = out
  route_list = * 127.0.0.1
  self = send
begin transports
out:
  driver = smtp
  port = {self.sink}
  hosts_try_dane =
begin retry
* * F,2h,15m
"""
        )
        config.chmod(0o644)
        command = [*self.before, binary, "-C", str(config), "-bdf", "-q1m"]
        self._process = Process(command, self.folder / "out")
        self.roots = [self._process.popen.pid]
        self.wait_listening()

    def stop(self) -> None:
        """SIGTERM."""
        self._process.stop()

    def log(self) -> str:
        """The end of its log."""
        path = self.folder / "logs/mainlog"
        return path.read_text("utf-8", "replace")[-1500:] if path.exists() else self._process.log()


SERVERS: dict[str, type[Server]] = {
    each.name: each
    for each in (
        *(Nothing, Postfix, Relayd, Relayd2, RelaydMetrics, RelaydHook, RelaydPostgresql),
        *(RelaydQuorum, OpenSmtpd, Exim),
    )
}


def needs(names: Sequence[str]) -> dict[str, str]:
    """What is missing for these servers and for the load itself, by server."""
    lacking = {name: reason for name in names if (reason := SERVERS[name].missing())}
    load = (
        _not_found("smtp-source", "postfix")
        or _not_found("smtp-sink", "postfix")
        or _not_found("haproxy", "haproxy")
    )
    if load:
        lacking["the load"] = load
    return lacking


def remove(folder: Path) -> None:
    """The folder of a server that has ended."""
    time.sleep(0.2)  # its last children let go
    shutil.rmtree(folder, ignore_errors=True)
