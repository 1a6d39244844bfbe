"""Debian's filters, each with a private configuration: who signs, scans, scores and greylists."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.scenarios.filterpeers import Listening
from tests.scenarios.harness import (
    Process,
    Scenario,
    free_port,
    owner,
    port_is_open,
    program,
    wait_until,
)

EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + rb"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
GTUBE = b"XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X"


class _Daemon:
    """A program that listens on a unix socket or a port of its own."""

    name = ""
    process: Process

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.folder = scenario.room(self.name)
        self.folder.chmod(0o777)
        self.socket = self.folder / "socket"
        self.where = f"unix:{self.socket}"
        self.configure()
        self.start()

    def configure(self) -> None:
        """Write what it reads."""

    def command(self) -> list[str]:
        """Its command line, to stay in the foreground."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it listens."""
        self.socket.unlink(missing_ok=True)
        self.process = process = self.scenario.launch(self.command(), self.name)

        def listens() -> bool:
            if not process.running:
                raise AssertionError(f"{self.name} ended at once:\n{process.log()}")
            return self.listens()

        wait_until(listens, f"{self.name} listens")

    def listens(self) -> bool:
        """Whether somebody may connect now."""
        with socket.socket(socket.AF_UNIX) as connection:
            return connection.connect_ex(str(self.socket)) == 0

    def stop(self) -> None:
        """Nobody listens any more."""
        self.process.kill()

    def hang(self) -> None:
        """It is there, takes connections, and says nothing."""
        os.killpg(self.process.popen.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        """... and then it goes on as if nothing had been."""
        os.killpg(self.process.popen.pid, signal.SIGCONT)


class Opendkim(_Daemon):
    """Signs for example.org, simple/simple: every octet counts."""

    name = "opendkim"

    def configure(self) -> None:
        """A key, and where it is published."""
        key = rsa.generate_private_key(65537, 2048)
        file = self.folder / "key.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.TraditionalOpenSSL,
                serialization.NoEncryption(),
            )
        )
        file.chmod(0o600)
        public = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.record = b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)
        (self.folder / "conf").write_text(
            "Syslog no\nMode s\nUMask 000\nDomain example.org\nSelector s1\n"
            f"Socket local:{self.socket}\nKeyFile {file}\nRequireSafeKeys no\n"
            "Canonicalization simple/simple\nInternalHosts 127.0.0.1\nOversignHeaders From\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return [program("opendkim"), "-f", "-x", str(self.folder / "conf")]


class Clamd(_Daemon):
    """Knows EICAR, and nothing else."""

    name = "clamd"

    def configure(self) -> None:
        """A database of one line."""
        data = self.folder / "data"
        data.mkdir()
        (data / "eicar.ndb").write_text(f"Eicar-Test:0:*:{EICAR.hex()}\n")
        data.chmod(0o755)
        (self.folder / "conf").write_text(
            f"LocalSocket {self.socket}\nLocalSocketMode 666\nDatabaseDirectory {data}\n"
            f"Foreground yes\nStreamMaxLength 1M\nLogFile {self.folder}/log\nUser root\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return [program("clamd"), "-c", str(self.folder / "conf")]


class ClamavMilter(_Daemon):
    """clamav-milter before a clamd."""

    name = "clamav-milter"

    def __init__(self, scenario: Scenario, clamd: Clamd, infected: str = "Reject") -> None:
        self.clamd, self.infected = clamd, infected
        super().__init__(scenario)

    def configure(self) -> None:
        """What it does with whom."""
        (self.folder / "conf").write_text(
            f"MilterSocket unix:{self.socket}\nMilterSocketMode 666\nUser root\nForeground yes\n"
            f"ClamdSocket unix:{self.clamd.socket}\nOnInfected {self.infected}\n"
            "AddHeader Replace\nRejectMsg infected: %v\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return [program("clamav-milter"), "-c", str(self.folder / "conf")]


class Postgrey(_Daemon):
    """Greylists for a second."""

    name = "postgrey"

    def configure(self) -> None:
        """Its database is its user's."""
        data = self.folder / "db"
        data.mkdir()
        os.chown(data, *owner("postgrey"))
        os.chown(self.folder, *owner("postgrey"))

    def command(self) -> list[str]:
        """In the foreground."""
        return [
            *(program("postgrey"), f"--unix={self.socket}", "--delay=1", "--hostname=gw"),
            *(f"--dbdir={self.folder}/db", "--whitelist-clients=/dev/null"),
            *("--whitelist-recipients=/dev/null", f"--pidfile={self.folder}/pid"),
        ]


_RSPAMD = """
options {{
  pidfile = "{folder}/pid";
  url_tld = "{folder}/tlds";  # of all it makes an automaton, for a minute
  filters = "";
  gtube_patterns = "all";
  enable_test_patterns = true;
  dns {{ nameserver = ["127.0.0.1:{dns}"]; timeout = 0.1s; retransmits = 1; }}
  hs_cache_dir = "{folder}";
  rrd = "";
  history_file = "";
  stats_file = "";
}}
logging {{ type = "console"; level = "info"; }}
worker "normal" {{ bind_socket = "127.0.0.1:{port}"; count = 1; }}
worker "rspamd_proxy" {{
  bind_socket = "{socket} mode=0666";
  milter = yes;
  timeout = 10s;
  upstream "local" {{ default = yes; self_scan = yes; }}
  count = 1;
}}
metric "default" {{
  actions {{ reject = 15; "add header" = 6; }}
}}
"""


class RspamdDaemon(_Daemon):
    """rspamd without its rules: it knows GTUBE; by HTTP, and as a milter."""

    name = "rspamd"

    def configure(self) -> None:
        """Its workers."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        (self.folder / "tlds").write_text("com\norg\nexample\n")
        text = _RSPAMD.format(
            folder=self.folder, port=self.port, dns=free_port(), socket=self.socket
        )
        (self.folder / "conf").write_text(text)

    def command(self) -> list[str]:
        """In the foreground."""
        conf = str(self.folder / "conf")
        return [program("rspamd"), "-f", "-i", "-u", "root", "-g", "root", "-c", conf]

    def listens(self) -> bool:
        """Both workers."""
        return super().listens() and port_is_open(("127.0.0.1", self.port))


class Opendmarc(_Daemon):
    """Writes Authentication-Results."""

    name = "opendmarc"

    def configure(self) -> None:
        """It believes what is written in the name of gw.example.com."""
        (self.folder / "conf").write_text(
            f"Syslog false\nSocket local:{self.socket}\nUMask 000\nRejectFailures false\n"
            "AuthservID gw.example.com\nTrustedAuthservIDs gw.example.com\nIgnoreHosts /dev/null\n"
        )

    def command(self) -> list[str]:
        """In the foreground."""
        return [program("opendmarc"), "-f", "-c", str(self.folder / "conf")]


_PYMILTER = """
import sys
import Milter

class Edits(Milter.Base):
    def header(self, name, value):
        return Milter.CONTINUE

    def envrcpt(self, to, *arguments):
        if "refused" in to:
            self.setreply("550", "5.7.1", "Not %% him")
            return Milter.REJECT
        return Milter.CONTINUE

    def eom(self):
        self.addheader("X-By", "pymilter")
        self.chgheader("Subject", 1, "changed")
        self.replacebody(b"another\\r\\nbody\\r\\n")
        self.addrcpt("<extra@example.com>")
        self.chgfrom("<other@example.org>")
        return Milter.CONTINUE

Milter.factory = Edits
Milter.set_flags(Milter.ADDHDRS | Milter.CHGHDRS | Milter.CHGBODY | Milter.ADDRCPT | Milter.CHGFROM)
Milter.runmilter("edits", sys.argv[1], 60)
"""


class PymilterDaemon(_Daemon):
    """A filter programmed with pymilter."""

    name = "pymilter"

    def configure(self) -> None:
        """The program."""
        (self.folder / "filter.py").write_text(_PYMILTER)

    def command(self) -> list[str]:
        """With Debian's Python, which has the module."""
        return ["/usr/bin/python3", str(self.folder / "filter.py"), f"unix:{self.socket}"]


class PolicydSpf(_Daemon):
    """A policy service that wants to be started for each connection."""

    name = "policyd-spf"

    def command(self) -> list[str]:
        """Without a configuration it skips clients of this machine, and says so."""
        service = f"{program('policyd-spf')} /dev/null"
        return [program("socat"), f"UNIX-LISTEN:{self.socket},fork", f"EXEC:{service}"]


def spawned(scenario: Scenario, command: list[str], path: Path) -> str:
    """A service that Postfix would start for each connection (spawn(8)), on a socket."""

    def serve(connection: socket.socket) -> None:
        number = connection.fileno()
        subprocess.run(command, stdin=number, stdout=number, timeout=60, check=False)

    return Listening(scenario, serve, str(path)).where
