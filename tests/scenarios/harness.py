"""What every scenario stands on: a folder of its own, processes that end with it, a relayd.

A scenario names the peers it `needs`. One that is missing skips the test with a reason, or
fails it when RELAYD_REQUIRE_PEERS is set. RELAYD_KEEP=1 leaves the folders for inspection.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import json
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar
from unittest import TestResult

from twisted.trial import unittest

from relayd.ctl import relayctl
from relayd.ctl.client import Daemon, DaemonError
from relayd.ctl.socketpath import FailureError, socket_of
from relayd.ops.queuerows import queue_messages
from tests.ports import free_port as free_port
from tests.scenarios import evidence, network
from tests.scenarios.forks import Forked, is_worker
from tests.support import Timed

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parents[2]
SBIN = (
    *("/usr/sbin", "/sbin", "/usr/lib/relayd-peers/usr/sbin"),
    "/usr/lib/relayd-peers/sslyze/bin",
)
NODE_PATH = "/usr/share/nodejs"  # where Debian keeps what a node of another origin does not find
MAILAUTH = "/usr/lib/relayd-peers/mailauth"  # of npm; `tests/scenarios/mailauth.py` runs it
_TWISTD = "import sys; sys.argv[0] = 'twistd'; from twisted.scripts.twistd import run; run()"

PEERS = {  # the name a scenario uses -> the program to look for, Debian's package
    "postfix": ("postfix", "postfix"),
    "exim": ("exim4", "exim4-daemon-light"),
    "swaks": ("swaks", "swaks"),
    "curl": ("curl", "curl"),
    "msmtp": ("msmtp", "msmtp"),
    "mutt": ("mutt", "mutt"),
    "nmap": ("nmap", "nmap"),
    "dovecot": ("dovecot", "dovecot-imapd dovecot-pop3d dovecot-lmtpd"),
    "nsd": ("nsd", "nsd"),
    "unbound": ("unbound", "unbound"),
    "rbldnsd": ("rbldnsd", "rbldnsd"),
    "ldns": ("ldns-signzone", "ldnsutils"),
    "postsrsd": ("postsrsd", "postsrsd"),
    "node": ("node", "nodejs"),
    "testssl": ("testssl", "testssl.sh"),
    "haproxy": ("haproxy", "haproxy"),
    "opendkim": ("opendkim", "opendkim"),
    "clamav": ("clamav-milter", "clamav-daemon clamav-milter"),
    "postgrey": ("postgrey", "postgrey"),
    "rspamd": ("rspamd", "rspamd"),
    "opendmarc": ("opendmarc", "opendmarc"),
    "policyd-spf": ("policyd-spf", "postfix-policyd-spf-python"),
    "socat": ("socat", "socat"),
    "promtool": ("promtool", "prometheus"),
    "mariadb": ("mariadbd", "mariadb-server"),
    "slapd": ("slapd", "slapd"),
    "chromium": ("chromium", "chromium"),
}
NEEDS_ROOT = {"postfix", "exim", "dovecot", "clamav", "postgrey", "rspamd", "rbldnsd", "mariadb"}
NEEDS_ROOT |= {"postgresql"}


def program(name: str) -> str:
    """The path of a program, also from the places an ordinary user's PATH leaves out."""
    path = os.pathsep.join([os.environ.get("PATH", ""), *SBIN])
    found = shutil.which(name, path=path)
    if found is None:
        raise FileNotFoundError(name)
    return found


def missing_peer(name: str) -> str:
    """Why a peer cannot be used here, in words that say what to do; empty if it can."""
    if name == "netns":
        return network.missing()
    if name == "postgresql":  # its programs are in nobody's PATH
        there = any(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        return "" if there else "postgresql (apt-get install postgresql)"
    if name == "sslyze":
        return "" if shutil.which(name, path=SBIN[-1]) else "sslyze (make peers)"
    if name == "pymilter":
        done = subprocess.run(["/usr/bin/python3", "-c", "import Milter"], capture_output=True)
        return "" if done.returncode == 0 else "pymilter (apt-get install python3-milter)"
    if name == "authheaders":
        done = subprocess.run(["/usr/bin/python3", "-c", "import authheaders"], capture_output=True)
        return "" if done.returncode == 0 else "authheaders (apt-get install python3-authheaders)"
    if name == "mailauth":
        there = Path(MAILAUTH, "node_modules", name).is_dir()
        return missing_peer("node") if there else "mailauth (make peers)"
    if name == "axe":
        there = Path(MAILAUTH, "node_modules", "axe-core").is_dir()
        return "" if there else "axe-core (make peers)"
    if name == "nodemailer":
        there = Path(NODE_PATH, name).is_dir()
        return missing_peer("node") if there else "nodemailer (apt-get install node-nodemailer)"
    command, package = PEERS[name]
    try:
        program(command)
    except FileNotFoundError:
        return f"{name} (apt-get install {package})"
    return ""


def missing_peers(names: Sequence[str]) -> str:
    """Why a scenario with these peers cannot run here; empty if it can."""
    reasons = [reason for reason in map(missing_peer, names) if reason]
    private = [name for name in names if name in NEEDS_ROOT]
    if private and os.geteuid() != 0:
        reasons.append(f"root, to run {' and '.join(private)}")
    return "needs " + ", ".join(reasons) if reasons else ""


def port_is_open(address: tuple[str, int]) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection(address, timeout=10).close()
    except OSError:
        return False
    return True


def greets(address: tuple[str, int], host: network.Host | None = None) -> bool:
    """Whether a client, perhaps one on that host, hears 220 there now."""
    connect = functools.partial(socket.create_connection, address, 60)
    try:
        with host.call(connect) if host else connect() as connection:
            return connection.recv(4).startswith(b"220")
    except OSError:
        return False


def wait_until(
    condition: Callable[[], T], what: str, seconds: float = 120.0, *, longest: float = 0.2
) -> T:
    """Poll until the condition is true and return its value; AssertionError says `what`.

    `longest`: seconds from one look to the next, at most.
    """
    deadline = time.monotonic() + seconds
    pause = 0.01
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.5, longest)


def unhurried(began: float) -> float:
    """Seconds since `began`, as they were on a machine with nothing else to do.

    A busy machine stretches a computation; by how much shows in one of a known CPU time.
    """
    seconds = time.monotonic() - began
    start, burnt = time.monotonic(), time.thread_time()
    while time.thread_time() - burnt < 0.05:
        pass
    return seconds * min(0.05 / (time.monotonic() - start), 1.0)


def patience(seconds: float) -> float:
    """Seconds, more of them where others compute as well: for what has to be waited out.

    What can be waited for is waited for, with `wait_until`.
    """
    return seconds * min(max(os.getloadavg()[0] / (os.cpu_count() or 1), 1.0), 8.0)


class Process:
    """One program of ours, in a process group of its own, its output in a file."""

    def __init__(
        self,
        arguments: Sequence[str],
        output: Path,
        *,
        cwd: Path | None = None,
        environment: dict[str, str] | None = None,
        begin: type[subprocess.Popen[bytes] | Forked] = subprocess.Popen,
    ) -> None:
        self.output = output
        self.arguments = list(arguments)
        with output.open("ab") as sink:
            self.popen = begin(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Not ended yet."""
        return self.status is None

    @property
    def status(self) -> int | None:
        """Its exit status; None if it runs."""
        return self.popen.poll()

    def log(self, lines: int = 40) -> str:
        """The last lines of its output, for a failure's message."""
        text = self.output.read_text("utf-8", "replace") if self.output.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def stop(self, seconds: float = 120.0) -> int:
        """SIGTERM, and wait; SIGKILL for the whole group if that was not enough."""
        if self.running:
            self.popen.terminate()
        try:
            code = self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.arguments} ignored SIGTERM:\n{self.log()}") from None
        self._kill_group()
        return code

    def kill(self) -> None:
        """SIGKILL for the whole group."""
        self._kill_group()
        self.popen.wait(60)

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.popen.pid, signal.SIGKILL)


class _Answering(Daemon):
    """A relayd that is to answer within two minutes, as `Relayd.ctl` wants it."""

    def _connected(self) -> socket.socket:
        connection = super()._connected()
        connection.settimeout(120)
        return connection


# Commands that ask the daemon and print, in this process: they are asked hundreds of times, and to
# begin a relayctl costs a hundred times the answer. All others are run as an operator runs them.
_ASKED = frozenset(
    ("status", "queue", "show", "why", "find", "held", "limits", "filters", "suspended", "reload")
)
_one_asks = threading.Lock()  # standard output is everybody's


def _asked(arguments: tuple[str, ...], seconds: float) -> subprocess.CompletedProcess[str]:
    """What relayctl prints, and with which status it ends."""
    out, err = io.StringIO(), io.StringIO()
    patience = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = relayctl.main([*arguments])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    finally:
        socket.setdefaulttimeout(patience)
        gc.enable()  # `queue` does without
    return subprocess.CompletedProcess(arguments, status, out.getvalue(), err.getvalue())


_UNANSWERED = (DaemonError, FailureError, OSError)


class Relayd:
    """One `twistd -n relayd --config FILE`, and its relayctl."""

    def __init__(
        self, folder: Path, settings: str, *, port: int, address: str, host: network.Host | None
    ) -> None:
        self.folder = folder
        self.config = folder / "relayd.conf"
        self.config.write_text(settings, "utf-8")
        self.address = (address, port)
        self.port = port
        self.host = host
        self.enter = host.enter if host else []  # what stands before the command line
        self.own_mounts = False  # its control socket is in a mount namespace of its own
        self.path: list[str] = []  # folders that Python looks into first
        self.by_exec = False
        self.process: Process | None = None

    @property
    def command(self) -> list[str]:
        """The command line that starts it."""
        return [
            *self.enter,
            *(sys.executable, "-c", _TWISTD, "-n", "--pidfile="),
            *("relayd", "--config", str(self.config)),
        ]

    def _as_usual(self) -> bool:
        """It is started by the program that a fork has loaded already, with nothing before it."""
        usual = self.command[:3] == [sys.executable, "-c", _TWISTD]
        return usual and not (self.by_exec or self.path)

    @property
    def environment(self) -> dict[str, str]:
        """Finds this checkout before any installed relayd."""
        return {"PYTHONPATH": os.pathsep.join([*self.path, str(CHECKOUT)])}

    def start(self, seconds: float = 120.0, *, all_workers: bool = True) -> Relayd:
        """Start, and wait until it greets, and until relayctl can speak for all workers."""
        self.process = process = Process(
            self.command,
            self.folder / "log",
            cwd=self.folder,
            environment=self.environment,
            begin=Forked if self._as_usual() else subprocess.Popen,
        )

        def greeted() -> bool:
            if not process.running:
                raise AssertionError(f"relayd ended at once:\n{process.log()}")
            return self.greets()

        wait_until(greeted, f"relayd greets\n{process.log()}", seconds, longest=0.05)
        if all_workers and "\nworkers 1\n" not in self.config.read_text("utf-8"):
            # one of several workers greets; relayctl speaks for all
            # whatever it has to say
            wait_until(self._ready, f"all workers are ready\n{process.log()}", seconds)
        return self

    def greets(self) -> bool:
        """Whether a client hears 220 now."""
        return greets(self.address, self.host)

    @property
    def pid(self) -> int:
        """The process to signal."""
        assert self.process is not None
        return self.process.popen.pid

    def signal(self, number: int) -> None:
        """Send it a signal; inside a namespace `ip netns exec` has become relayd by exec."""
        os.kill(self.pid, number)

    def stop(self) -> int:
        """SIGTERM; the exit status, which twistd makes 0 or the signal itself: both are clean."""
        assert self.process is not None
        status = self.process.stop()
        return 0 if status == -signal.SIGTERM else status

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()

    def log(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return self.process.log(lines) if self.process else ""

    def logged(self, words: str, count: int = 1, seconds: float = 120.0) -> str:
        """The whole log, once it has a regular expression so many times; AssertionError with it.

        What relayd does shows before its log does: a thread writes that, a little later.
        """

        def found() -> str:
            text = self.log(1_000_000)
            return text if len(re.findall(words, text)) >= count else ""

        try:
            return wait_until(found, f"{count} times in the log: {words}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log(400)}") from None

    def ctl(
        self, *arguments: str, check: bool = True, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run relayctl; AssertionError with both outputs if `check` and it failed."""
        arguments = ("--config", str(self.config), *arguments)
        if arguments[2] in _ASKED and not self.own_mounts and _one_asks.acquire(blocking=False):
            try:
                done = _asked(arguments, seconds)
            finally:
                _one_asks.release()
        else:
            enter = ["nsenter", "-m", "-t", str(self.pid)] if self.own_mounts else []
            done = subprocess.run(
                [*enter, sys.executable, "-m", "relayd.ctl.relayctl", *arguments],
                capture_output=True,
                text=True,
                timeout=seconds,
                env={**os.environ, **self.environment},
            )
        if check and done.returncode != 0:
            raise AssertionError(
                f"relayctl {' '.join(arguments[2:])}: exit {done.returncode}\n"
                f"{done.stdout}{done.stderr}\n{self.log()}"
            )
        return done

    def session(self) -> smtplib.SMTP:
        """A connected smtplib client."""
        client = _Client(self)
        client.connect(*self.address)
        return client

    def send(
        self,
        sender: str,
        recipients: Sequence[str],
        content: bytes = b"Subject: test\r\n\r\ntext\r\n",
        *,
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] = (),
    ) -> str:
        """One message by smtplib; returns the ID out of relayd's reply to the final dot."""
        with self.session() as client:
            client.ehlo("client.example")
            code, reply = client.mail(sender, mail_options)
            for recipient in recipients:
                if code == 250:
                    code, reply = client.rcpt(recipient, rcpt_options)
            if code == 250:
                code, reply = client.data(content)
        found = re.search(rb"\b([0-9A-HJKMNP-TV-Z]{12})\b", reply)
        if code != 250 or found is None:
            raise AssertionError(f"refused: {code} {reply!r}\n{self.log()}")
        return found.group(1).decode()

    def _ready(self) -> bool:
        if self.own_mounts:
            return bool(self.ctl("status", check=False).stdout)
        with contextlib.suppress(*_UNANSWERED):
            return bool(self.daemon.answer("status"))
        return False

    @property
    def daemon(self) -> Daemon:
        """Relayctl's end of its control socket.

        For what is asked again and again: to begin a relayctl costs a hundred times the answer.
        """
        return _Answering(socket_of(self.config))

    def show(self, ident: str) -> dict[str, Any]:
        """What `relayctl show ID --json` tells."""
        if self.own_mounts:
            found: dict[str, Any] = json.loads(self.ctl("show", "--json", ident).stdout)
            return found
        try:
            return self.daemon.answer("show", id=ident)
        except _UNANSWERED as error:
            raise AssertionError(f"show {ident}: {error}\n{self.log()}") from None

    def settled(self, ident: str, number: int = 0, seconds: float = 120.0) -> dict[str, Any]:
        """What `show` tells of a recipient, once it was attempted or has ended."""

        def attempted() -> dict[str, Any]:
            recipient: dict[str, Any] = self.show(ident)["recipients"][number]
            return recipient if recipient["reply"] else {}

        try:
            return wait_until(attempted, f"an attempt at {ident}", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def queue(self, *filters: str) -> list[dict[str, Any]]:
        """What `relayctl queue --json` tells, one object a message."""
        if self.own_mounts or filters:
            lines = self.ctl("queue", "--json", *filters).stdout.splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        try:
            pages = list(queue_messages(self.daemon.ask("queue", limit=0)))
        except _UNANSWERED as error:
            raise AssertionError(f"queue: {error}\n{self.log()}") from None
        return [message for page in pages for message in page]

    def wait_empty(self, seconds: float = 120.0) -> None:
        """Until nothing waits in the spool."""
        try:
            wait_until(lambda: not self.queue(), "the spool is empty", seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()}") from None

    def processor_time(self) -> float:
        """Seconds of CPU that the process has used, whatever else the machine does."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Resident memory in octets."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")


class _Client(smtplib.SMTP):
    """An smtplib client whose socket may live on another host."""

    def __init__(self, relayd: Relayd) -> None:
        super().__init__(timeout=60)
        self._relayd = relayd

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        connect = functools.partial(socket.create_connection, (host, port), timeout)
        return self._relayd.host.call(connect) if self._relayd.host else connect()


class Scenario(Timed):
    """One test: a folder of its own, everything started in it ended with it."""

    needs: tuple[str, ...] = ()
    folder: Path

    def run(self, result: TestResult | None = None) -> None:
        """As ever, but a failure tells what the servers said, while they are still there."""
        self._relays: list[Relayd] = []
        self._processes: list[Process] = []
        for name in ("setUp", self._testMethodName):
            setattr(self, name, self._telling(getattr(self, name)))
        super().run(result)

    def _telling(self, step: Callable[[], None]) -> Callable[[], None]:
        @functools.wraps(step)
        def told() -> None:
            try:
                step()
            except unittest.SkipTest:
                raise
            except Exception:
                said = traceback.format_exc()[-9000:]
                raise self.failureException(f"{said}{self._evidence()}") from None

        return told

    def _evidence(self) -> str:
        if not hasattr(self, "folder"):
            return ""  # it did not come that far
        processes = [*(relay.process for relay in self._relays if relay.process), *self._processes]
        running = [relay for relay in self._relays if relay.process and relay.process.running]
        return evidence.gathered(self.folder, processes, running)

    def setUp(self) -> None:
        reason = missing_peers(self.needs)
        if reason:
            if os.environ.get("RELAYD_REQUIRE_PEERS"):
                self.fail(reason)
            raise unittest.SkipTest(reason)
        # a short path: unix sockets have 107 octets; and one that other users may walk through
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-"))
        self.folder.chmod(0o755)
        if os.environ.get("RELAYD_KEEP"):
            print(f"\n{self.id()}: {self.folder}", file=sys.stderr)
        else:
            self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def room(self, name: str) -> Path:
        """A new folder below this test's own."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        return folder

    def relayd(
        self,
        rules: str,
        *,
        name: str = "relayd",
        hostname: str = "gw.example.com",
        host: network.Host | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        settings: str = "",
        start: bool = True,
    ) -> Relayd:
        """A relayd with these rules, quick to retry; started and greeting unless told not to."""
        folder = self.room(name)
        port = port or free_port()
        lines = [
            f"hostname {hostname}",
            f"spool {folder / 'spool'}",
            f"control {folder / 'control'}",
            f"listen {address}:{port}",
            f"workers {os.environ.get('RELAYD_WORKERS', '1')}",
        ]
        if "retry" not in settings:
            lines.append("retry 1s*10 2s")
        relayd = Relayd(
            folder,
            "\n".join([*lines, settings, rules, ""]),
            port=port,
            address=address,
            host=host,
        )
        self._relays.append(relayd)
        self.addCleanup(self._end, relayd)
        return relayd.start() if start else relayd

    def _end(self, relayd: Relayd) -> None:
        if relayd.process is not None and relayd.process.running:
            relayd.kill()

    def launch(self, arguments: Sequence[str], name: str) -> Process:
        """Any program, its output in this test's folder, killed at the end."""
        process = Process(arguments, self.folder / f"{name}.out")
        self._processes.append(process)
        self.addCleanup(process.kill)
        return process


def workers_of(relay: Relayd) -> list[int]:
    """Process IDs of the workers."""
    children = Path(f"/proc/{relay.pid}/task/{relay.pid}/children").read_text().split()
    return [int(child) for child in children if is_worker(int(child))]


def run(
    arguments: Sequence[str],
    *,
    data: bytes | None = None,
    enter: Sequence[str] = (),
    seconds: float = 120.0,
    check: bool = True,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a client program to its end; AssertionError with its output if it fails."""
    done = subprocess.run(
        [*enter, *arguments],
        input=data if data is not None else b"",
        capture_output=True,
        timeout=seconds,
        env={**os.environ, **(environment or {})},
    )
    if check and done.returncode != 0:
        output = (done.stdout + done.stderr).decode("utf-8", "replace")[-4000:]
        raise AssertionError(f"{' '.join(arguments)}: exit {done.returncode}\n{output}")
    return done


def owner(name: str) -> tuple[int, int]:
    """uid and gid of a user."""
    entry = pwd.getpwnam(name)
    return entry.pw_uid, entry.pw_gid
