"""Many small Postfixes at once, each asked what it answers to RCPT and what becomes of the mail.

Each is a master(8) with the configuration of a golden folder. XCLIENT says who the client is. What
would leave the machine goes to discard(8), whose word in the log is the recipient and the next hop.
"""

from __future__ import annotations

import contextlib
import grp
import os
import re
import signal
import smtplib
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relayd.migrate.mastercf import Service, behind, read_services
from relayd.migrate.nexthops import program_of
from relayd.verification.walk import _how
from tests.ports import free_port
from tests.scenarios.harness import greets, owner, program, run, wait_until
from tests.scenarios.peers import _MASTER_CF, _each_once
from tests.scenarios.postfixgolden import Answer, Asked

QUEUES = ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming",
          "private", "saved", "trace")  # fmt: skip
_ABROAD = ("smtp", "relay", "lmtp")  # services that would leave this machine
_KINDS = re.compile(r"\b(?:hash|btree):([^,\s}]+)")
# nobody is there to be asked: Postfix without them is Postfix where they have nothing against it
_MILTERS = re.compile(r"(?m)^(?:non_)?smtpd_milters *=.*(?:\n[ \t].*)*\n")
_POLICIES = re.compile(r"check_policy_service +(?:\{[^}]*\}|[^\s,]+)")
_MAIN = """
queue_directory = {folder}/queue
data_directory = {folder}/data
daemon_directory = /usr/lib/postfix/sbin
command_directory = /usr/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = 127.0.0.1
inet_protocols = all
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
mail_spool_directory = {folder}/spool
smtpd_authorized_xclient_hosts = 0.0.0.0/0 [::]/0
smtpd_peername_lookup = no
smtpd_recipient_limit = 1000
smtpd_hard_error_limit = 1000
smtpd_soft_error_limit = 1000
smtpd_error_sleep_time = 0
smtpd_client_connection_count_limit = 0
smtpd_tls_auth_only = no
alias_database =
"""
_LINE = re.compile(r"(?:postfix/|T-)(?P<by>[\w./-]+)\[\d+\]: (?P<id>[0-9A-F]{5,}): (?P<rest>.*)")
_TO = re.compile(r"to=<(?P<to>[^>]*)>.*?status=(?P<status>\w+) \((?P<why>.*)\)\Z")
_DONE = re.compile(r"from=<[^>]*>, size=\d+, nrcpt=(\d+)")


@dataclass
class Small:
    """One of them."""

    name: str
    folder: Path
    services: list[Service]
    ports: dict[str, int] = field(default_factory=dict)
    queued: dict[int, tuple[str, str]] = field(default_factory=dict)  # number -> reply, queue id
    failed: str = ""

    @classmethod
    def made(cls, golden: Path, folder: Path, maps: int) -> Small:
        """Write its files; the text stays as it is but for places, ports and programs.

        `maps`: the port of Maps.
        """
        small = cls(golden.name, folder, read_services(golden))
        etc = folder / "etc"
        etc.mkdir(parents=True)
        for path in golden.iterdir():
            if path.name not in ("asked", "import"):
                text = path.read_bytes().replace(b"/etc/postfix/", f"{etc}/".encode())
                (etc / path.name).write_bytes(text)
        small._folders()
        main = (etc / "main.cf").read_text("utf-8")
        main = re.sub(r"(tcp|socketmap:inet):127\.0\.0\.1:\d+", rf"\1:127.0.0.1:{maps}", main)
        main = _POLICIES.sub("reject_unauth_pipelining", _MILTERS.sub("", main))
        main = re.sub(
            r"(?m)^(inet_interfaces|alias_database|smtpd_authorized_xclient_hosts) .*\n", "", main
        )
        (etc / "main.cf").write_text(_each_once(main + _MAIN.format(folder=folder)))
        (etc / "master.cf").write_text("\n".join(small._master()) + "\n")
        small._compile(main)
        return small

    def _folders(self) -> None:
        uid, _ = owner("postfix")
        drop = grp.getgrnam("postdrop").gr_gid
        for name in ("queue", "queue/pid", "data", "spool"):
            (self.folder / name).mkdir()
        os.chown(self.folder / "data", uid, 0)
        (self.folder / "spool").chmod(0o1777)
        for name in QUEUES:
            path = self.folder / "queue" / name
            path.mkdir(mode=0o700)
            os.chown(path, uid, 0)
        for name, mode in (("maildrop", 0o730), ("public", 0o710)):
            path = self.folder / "queue" / name
            path.mkdir()
            path.chmod(mode)
            os.chown(path, uid, drop)

    def _compile(self, main: str) -> None:
        etc = self.folder / "etc"
        aliases = re.findall(r"(?m)^alias_maps *=(.*(?:\n[ \t].*)*)", main)
        named = set(
            _KINDS.findall(
                main.replace("$config_directory", str(etc)).replace("${config_directory}", str(etc))
            )
        )
        alias = set(_KINDS.findall(" ".join(aliases)))
        for tool, paths in (("postmap", named - alias), ("postalias", alias)):
            there = [f"hash:{path}" for path in sorted(paths) if Path(path).exists()]
            if there:
                run([program(tool), "-c", str(etc), *there])

    def _master(self) -> Iterator[str]:
        for line in _MASTER_CF.format(listen="x").splitlines()[2:]:
            name = line.split()[0] if line.split() else ""
            if name in _ABROAD:
                yield f"{name} unix - - n - - discard -o syslog_name=T-{name}"
            elif line:
                yield line
        for service in self.services:
            service = behind(service, self.services)
            if service.type == "inet" and service.command in ("smtpd", "postscreen"):
                port = self.ports[service.name] = free_port()
                overrides = [
                    f"  -o {{ {name} = {value} }}"
                    for name, value in service.overrides.items()
                    if name not in ("syslog_name", "smtpd_milters")
                ]
                yield f"127.0.0.1:{port} inet n - n - - smtpd"
                yield from overrides
            elif service.type == "unix" and service.name not in _ABROAD:
                yield f"{service.name} unix - - n - - discard -o syslog_name=T-{service.name}"

    # its life

    def start(self) -> None:
        """Start its master(8)."""
        subprocess.run(
            ["/usr/lib/postfix/sbin/master", "-c", str(self.folder / "etc"), "-w"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=300,
            env={"PATH": os.environ["PATH"], "MAIL_CONFIG": str(self.folder / "etc")},
        )  # fmt: skip

    def last_word(self) -> str:
        """Why nobody greets: what the log says, once it does."""
        with socket.create_connection(("127.0.0.1", self.ports["smtp"])):
            wait_until(lambda: "fatal:" in self._text(), f"{self.name} says why")
        return self._text()

    def _text(self) -> str:
        try:
            return (self.folder / "log").read_text("utf-8", "replace")
        except OSError:
            return ""

    def stop(self) -> None:
        """End it and its children."""
        with contextlib.suppress(OSError, ValueError):
            os.killpg(int((self.folder / "queue/pid/master.pid").read_text()), signal.SIGKILL)

    # what it is asked

    def ask(self, questions: Sequence[Asked]) -> None:
        """Ask it all; who is taken sends a message."""
        for at, port in self.ports.items():
            mine = [(n, each) for n, each in enumerate(questions) if each.at == at]
            if mine:
                wait_until(lambda port=port: greets(("127.0.0.1", port)), f"{self.name} greets")  # type: ignore[misc]
                self._session(port, mine)

    def _session(self, port: int, questions: Sequence[tuple[int, Asked]]) -> None:
        with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
            client.ehlo("before.invalid")
            for number, each in questions:
                address = f"IPV6:{each.client}" if ":" in each.client else each.client
                words = f"ADDR={address} NAME={each.name or '[UNAVAILABLE]'}"
                words += f" LOGIN={each.login}" if each.login else " LOGIN=[UNAVAILABLE]"
                code, reply = client.docmd("XCLIENT", words)
                assert code == 220, (self.name, each, code, reply)
                client.ehlo(each.helo)
                client.docmd("MAIL", f"FROM:<{each.sender}>")
                code, reply = client.docmd("RCPT", f"TO:<{each.to}> NOTIFY=NEVER")
                ident = ""
                if code == 250:
                    code, reply = client.data(b"Subject: asked\r\n\r\n")
                    ident = reply.split()[-1].decode() if code == 250 else ""
                self.queued[number] = f"{code} {reply.decode('utf-8', 'replace')}", ident
                client.docmd("RSET")

    def answers(self, questions: Sequence[Asked]) -> dict[str, Answer]:
        """What it said and did, by the question's text."""
        idents = [
            ident
            for number, (_, ident) in self.queued.items()
            if ident and not self._kept(questions[number])
        ]
        wait_until(lambda: self._settled(idents), f"{self.name} is done")
        log = self._log()
        found: dict[str, Answer] = {}
        for number, each in enumerate(questions):
            reply, ident = self.queued[number]
            if not ident:
                denied = "Relay access denied" in reply
                found[each.text] = Answer(int(reply[0]), relaying=denied, text=reply[:3])
                continue
            kept = self._kept(each)
            goals, senders = self._goals(log, ident)
            found[each.text] = Answer(kept=kept, goals=goals, senders=senders)
        return found

    def _kept(self, asked: Asked) -> str:
        """hold or discard, as an access map says."""
        text = self._text()
        match = re.search(
            rf"NOQUEUE: (hold|discard): RCPT from unknown\[{re.escape(asked.client)}\].*"
            rf"from=<{re.escape(asked.sender)}> to=<{re.escape(asked.to)}>", text)  # fmt: skip
        return match[1] if match else ""

    def _log(self) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for line in self._text().splitlines():
            match = _LINE.search(line)
            if match:
                found.setdefault(match["id"], []).append((match["by"], match["rest"]))
        return found

    def _settled(self, idents: Sequence[str]) -> bool:
        log = self._log()
        left = list(idents)
        while left:
            lines = [rest for _, rest in log.get(left.pop(), ())]
            count = next((int(m[1]) for rest in lines if (m := _DONE.match(rest))), -1)
            done = [m for rest in lines if (m := _TO.match(rest))]
            if count < 0 or len(done) < count:
                return False
            left += re.findall(r"forwarded as ([0-9A-F]+)", " ".join(m["why"] for m in done))
        return True

    def _goals(
        self, log: dict[str, list[tuple[str, str]]], ident: str
    ) -> tuple[frozenset[tuple[str, str]], frozenset[str]]:
        goals: set[tuple[str, str]] = set()
        senders: set[str] = set()
        for by, rest in log.get(ident, ()):
            match = _TO.match(rest)
            if match is None:
                continue
            onward = re.match(r"forwarded as ([0-9A-F]+)", match["why"])
            if onward:
                inner, paths = self._goals(log, onward[1])
                goals |= inner
                senders |= paths
                continue
            goals.add((match["to"].lower(), self._where(by, match)))
            path = next(
                (m[1] for _, one in log[ident] if (m := re.match(r"from=<([^>]*)>", one))), ""
            )
            senders.add(path.lower() or "<>")
        return frozenset(goals), frozenset(senders)

    def _where(self, by: str, match: re.Match[str]) -> str:
        name = by.removesuffix("/discard")
        if name == by and by in ("error", "retry"):
            return "retry" if match["status"] == "deferred" else "error"
        if by == "discard":
            return "discard"
        if name == by:
            return {"sent": "local", "bounced": "error"}.get(match["status"], "retry")
        return _how("/var/spool/postfix", name, program_of(self.services, name), match["why"])


class Maps:
    """A server for tcp and socketmap tables in which there is nothing."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                threading.Thread(target=self._answer, args=(one,), daemon=True).start()

    def _answer(self, one: socket.socket) -> None:
        with contextlib.suppress(OSError), one:
            while asked := one.recv(4096):
                one.sendall(b"9:NOTFOUND ,") if asked[:1].isdigit() else one.sendall(b"500 none\n")

    def close(self) -> None:
        """No more."""
        self._listening.close()


class Logins:
    """Dovecot's word for a SASL server, as smtpd(8) wants it before it greets."""

    def __init__(self, path: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(path))
        path.chmod(0o666)
        self._listening.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        kept = []
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                one.sendall(
                    b"VERSION\t1\t1\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nCOOKIE\t0\nDONE\n"
                )
                kept.append(one)

    def close(self) -> None:
        """No more."""
        self._listening.close()
