"""Every setting is changed in a running relayd, and a client sees that it holds.

One relayd with one worker and one with two: each line of SEEN is put into the file, relayd is told
to reload, and a probe looks from outside. What is not seen there is named, with the reason; that
each of those is in force within the process is looked at in tests/unit/service/test_gateway.py.
"""

from __future__ import annotations

import json
import os
import re
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from relayd.config.settings import SPECS, Effect
from relayd.intake.dropfolder import READY, WRITING
from tests.certs import Authority
from tests.scenarios.harness import Scenario, free_port, patience, wait_until
from tests.sink import Asked, Sink, loopback_listener

RULES = """\
table people users file people
accept to @sink.example, @slow.example, @no.example, @dead1.example, @dead2.example
accept to @dead3.example, @hole.example
accept from 127.0.0.1 listener 127.0.0.1:{submission}, 127.0.0.1:{logins}
next-hop sink smtp 127.0.0.1:{sink}
next-hop dead1 smtp 127.0.0.1:{nothing1}
next-hop dead2 smtp 127.0.0.1:{nothing2}
next-hop dead3 smtp 127.0.0.1:{nothing3}
next-hop hole smtp 127.0.0.1:{hole}
route to cut@no.example via sink cut-through 20s
route to @sink.example, @slow.example, @no.example, @base.example, @other.example via sink
route to @dead1.example via dead1
route to @dead2.example via dead2
route to @dead3.example via dead3
route to @hole.example via hole
route any direct
listen 127.0.0.1:{submission} submission
listen 127.0.0.1:{logins} auth people
relay-port {literal}
"""
BASE = {
    "certificate": "certificate first.pem key first.key",
    "origin": "origin base.example",
    "retry": "retry 1h",
    "ledger": "ledger 1d",
}

SENDER = "a@sink.example"
MARK = b"the text of the message"
HUGE = 1 << 49  # octets


@dataclass(frozen=True)
class Seen:
    """One setting: what to say, what a probe sees without and with it; None: not looked at."""

    changed: str
    probe: Callable[[Site], object]
    before: object
    after: object


class Site:
    """One relayd, its next hops, and the probes."""

    def __init__(self, scenario: Scenario, workers: int) -> None:
        self.workers = workers
        self.lock = threading.Lock()
        self.busy = self.busiest = 0
        self.users = 50_000  # of this machine, as far as the drop folder knows
        self.sink = Sink(self.script)
        self.literal_port = free_port()
        self.literal = Sink(bind=self.bind_literal)
        self.hole = loopback_listener(free_port())
        self.hole.listen(0)
        self.stuffed = [self.stuff() for _ in range(4)]
        self.submission, self.logins = free_port(), free_port()
        rules = RULES.format(
            submission=self.submission,
            logins=self.logins,
            sink=self.sink.port,
            literal=self.literal_port,
            hole=self.hole.getsockname()[1],
            nothing1=free_port(),
            nothing2=free_port(),
            nothing3=free_port(),
        )
        self.relay = scenario.relayd(
            rules,
            name=f"workers{workers}",
            settings="retry-is-below\nreports strangers any",
            start=False,
        )
        text = self.relay.config.read_text().replace("retry-is-below\n", "")
        self.text = re.sub(r"(?m)^workers .*$", f"workers {workers}", text)
        folder = self.relay.folder
        (folder / "people").touch(mode=0o600)
        authority = Authority()
        for name in ("first", "second"):
            issued = authority.issue(f"{name}.example")
            (folder / f"{name}.pem").write_bytes(issued.chain_pem)
            (folder / f"{name}.key").touch(mode=0o600)
            (folder / f"{name}.key").write_bytes(issued.key_pem)
        self.drop = folder / "spool" / "drop"
        self.drop.mkdir(parents=True)
        self.drop.chmod(0o3733)
        self.write("")
        self.relay.start()

    def stop(self) -> None:
        for each in (self.sink, self.literal):
            each.stop()
        for connection in (*self.stuffed, self.hole):
            connection.close()

    def bind_literal(self) -> socket.socket:
        listening = socket.socket()
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.2", self.literal_port))
        listening.listen()
        return listening

    def stuff(self) -> socket.socket:
        """A connection that nobody takes: what comes after some of them gets no answer."""
        connection = socket.socket()
        connection.setblocking(False)
        connection.connect_ex(self.hole.getsockname())
        return connection

    def script(self, asked: Asked) -> str | None:
        """The sink's: it refuses one domain, and is slow with another."""
        recipient = asked.recipients[0] if asked.recipients else asked.argument
        if asked.stage == "rcpt" and asked.argument.endswith("@no.example"):
            return "550 5.1.1 no such user"
        if asked.stage == "content" and recipient.endswith("@slow.example"):
            with self.lock:
                self.busy += 1
                self.busiest = max(self.busiest, self.busy)
            time.sleep(patience(0.2))
            with self.lock:
                self.busy -= 1
        return None

    # the configuration

    def write(self, changed: str) -> None:
        """The file, with these statements in the place of the same ones."""
        verbs = {line.split()[0] for line in changed.splitlines()}
        replaced = verbs - {"listen", "table", "next-hop", "route", "accept"}
        kept = [line for line in self.text.splitlines() if not replaced & {*line.split()[:1]}]
        more = [line for verb, line in BASE.items() if verb not in verbs]
        fresh = Path(f"{self.relay.config}.new")
        fresh.write_text("\n".join([*kept, *more, changed, ""]))
        fresh.rename(self.relay.config)

    def ask(self, **request: object) -> dict[str, Any]:
        """What the control socket answers, as relayctl asks it."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(60)
            control.connect(str(self.relay.folder / "control"))
            control.sendall(json.dumps(request).encode() + b"\n")
            with control.makefile("rb") as lines:
                found: dict[str, Any] = json.loads(lines.readline())
        return found

    def reload(self, changed: str) -> dict[str, Any]:
        """Put this in the file and in force; the answer."""
        self.write(changed)
        answer: dict[str, Any] = self.ask(command="reload")["answer"]
        if answer["complaint"]:
            raise AssertionError(f"{changed}: {answer['complaint']}")
        return answer

    # probes

    def session(self, port: int = 0) -> smtplib.SMTP:
        client = smtplib.SMTP("127.0.0.1", port or self.relay.port, timeout=60)
        client.ehlo("client.example")
        return client

    def feature(self, name: str, port: int = 0) -> str:
        """What stands behind an extension in EHLO; "-" without it. Of every worker the same."""
        with self.session(port) as one, self.session(port) as other:
            found = {each.esmtp_features.get(name, "-") for each in (one, other)}
        return " or ".join(sorted(found))

    def transaction(
        self, content: bytes, *recipients: str, sender: str = SENDER, options: tuple[str, ...] = ()
    ) -> int:
        """One message, octet by octet; the last reply's code, or the first refusal's."""
        with self.session() as client:
            code, _ = client.mail(sender, options)
            for recipient in recipients or ("b@sink.example",):
                if code == 250:
                    code, _ = client.rcpt(recipient)
            if code == 250:
                code, _ = client.docmd("DATA")
            if code == 354:
                client.send(content + b"\r\n.\r\n")
                code, _ = client.getreply()
            return code

    def size(self) -> str:
        return self.feature("size")

    def recipients(self) -> int:
        return self.transaction(b"", "b@sink.example", "c@sink.example")

    def header(self) -> int:
        return self.transaction(b"X: " + b"x" * 900 + b"\r\nY: " + b"y" * 900 + b"\r\n")

    def cut_through(self) -> int:
        return self.transaction(b"Subject: x\r\n\r\nx", "cut@no.example")

    def hops(self) -> int:
        return self.transaction(b"Received: from x by y; then\r\n" * 5)

    def newline(self) -> int:
        return self.transaction(b"Subject: x\r\n\r\none\ntwo")

    def line(self) -> int:
        with self.session() as client:
            return client.docmd("NOOP", "x" * 600)[0]

    def errors(self) -> int:
        with self.session() as client:
            return [client.docmd("WHAT")[0] for _ in range(3)][-1]

    def greetings(self) -> bool:
        """Whether one of four sessions at a time hears that there are too many."""
        clients, codes = [], []
        for _ in range(4):
            client = smtplib.SMTP(timeout=60)
            codes.append(client.connect("127.0.0.1", self.relay.port)[0])
            clients.append(client)
        for client in clients:
            client.close()
        return 421 in codes

    def certificate(self) -> str:
        with self.session() as client:
            client.starttls(context=_trusting())
            assert isinstance(client.sock, ssl.SSLSocket)
            found = client.sock.getpeercert(binary_form=True) or b""
        return next(name for name in ("first", "second") if name.encode() + b".example" in found)

    def old_tls(self) -> bool:
        context = _trusting()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        client = self.session()
        try:
            client.starttls(context=context)
        except OSError:  # ssl.SSLError among them
            return False
        finally:
            client.close()
        return True

    def logins_in_clear(self) -> bool:
        return self.feature("auth", self.logins) != "-"

    def completed(self) -> str:
        """The domain that a recipient without one gets on a listener for submission."""
        before = len(self.sink.arrived)
        with self.session(self.submission) as client:
            client.sendmail("alice", ["bob"], b"Subject: x\r\n\r\nx\r\n")
        return self.sink.wait(before + 1)[before].recipients[0].partition("@")[2]

    def silence(self) -> str:
        """What a client hears that says nothing more after EHLO."""
        with self.session() as client:
            assert client.sock is not None
            client.sock.settimeout(60)
            return client.getreply()[1][:5].decode()

    def chatter(self) -> bool:
        """Whether a client that brings no mail is dismissed soon."""
        with self.session() as client:
            return _within(20, lambda: client.docmd("RSET")[0] == 421)

    def stalled_content(self) -> int:
        with self.session() as client:
            client.mail(SENDER)
            client.rcpt("b@sink.example")
            client.docmd("DATA")
            return client.getreply()[0]

    def mail(self) -> int:
        with self.session() as client:
            return client.mail(SENDER)[0]

    def content_file(self) -> bool:
        """Whether the content of a small message is in a file of its own."""
        ident = self.relay.send(SENDER, ["b@dead2.example"])
        return bool(self.files(f"*{ident}*"))

    def files(self, pattern: str) -> list[Path]:
        return list((self.relay.folder / "spool").rglob(pattern))

    def remembered_refusals(self) -> bool:
        self.transaction(b"", "x@elsewhere.example")
        return _within(2, lambda: bool(self.files("*.jsonl")))  # it is written a second later

    def forgotten(self) -> bool:
        """Whether the ledger soon knows no more of a message that was delivered."""
        ident = self.relay.send(SENDER, ["b@sink.example"])
        self.relay.settled(ident)
        self.reload("ledger 0s\nhops 9")  # it is looked at when new bounds are told, or each minute

        def gone() -> bool:
            self.relay.send(SENDER, ["b@sink.example"])
            return "error" in self.ask(command="show", id=ident)

        return _within(10, gone)

    def crowd(self) -> bool:
        """Whether more messages are delivered at a time than there are workers."""
        before, self.busiest = len(self.sink.arrived), 0
        with self.session() as client:
            for number in range(6):
                client.sendmail(SENDER, [f"b{number}@slow.example"], b"Subject: x\r\n\r\nx\r\n")
        self.sink.wait(before + 6)
        return self.busiest > self.workers

    def reuse(self) -> bool:
        """Whether messages share a connection."""
        before, sessions = len(self.sink.arrived), self.sink.sessions
        with self.session() as client:
            for number in range(4):
                client.sendmail(SENDER, ["b@sink.example"], b"Subject: x\r\n\r\nx\r\n")
                self.sink.wait(before + number + 1)
        return self.sink.sessions - sessions < 4

    def impatience(self) -> bool:
        """Whether a host that does not answer is given up within ten seconds."""
        ident = self.relay.send(SENDER, ["b@hole.example"])
        try:
            self.relay.settled(ident, seconds=patience(10))
        except AssertionError:
            return False
        return True

    def next_attempt(self, where: str) -> int:
        """In how many hours it is tried again, about."""
        found = self.relay.settled(self.relay.send("", [f"b@{where}.example"]))
        return round((float(found["next_attempt"]) - time.time()) / 3600)

    def later(self) -> int:
        return self.next_attempt("dead1")

    def report(self, where: str) -> str:
        """What the sender hears of mail that cannot go."""
        about = f"b{len(self.sink.arrived)}@{where}.example"
        self.relay.send(SENDER, [about])
        time.sleep(2.5)
        self.ask(command="retry", all=True)["answer"]
        content = self.told(about)
        found = re.search(rb"(?mi)^action: *(\w+)", content)
        return found.group(1).decode() if found else repr(content)

    def told(self, about: str) -> bytes:
        """The report about this one: others are told of, too, whenever it is their time."""

        def found() -> list[bytes]:
            contents = [each.content for each in list(self.sink.arrived)]
            return [each for each in contents if about.encode() in each]

        return wait_until(found, f"a report about {about}")[0]

    def warned(self) -> str:
        return self.report("dead3")

    def whole(self) -> bool:
        """Whether a stranger's message comes back whole."""
        about = f"b{len(self.sink.arrived)}@no.example"
        content = b"Subject: x\r\n\r\n" + MARK + b"\r\n" + b"x\r\n" * 1000
        self.transaction(content, about, options=("RET=FULL",))
        return MARK in self.told(about)

    def literal_delivery(self) -> str:
        """What becomes of mail that is to go to an internal address."""
        with self.session(self.submission) as client:
            client.mail("a@base.example")
            client.rcpt("b@[127.0.0.2]")
            ident = client.data(b"Subject: x\r\n\r\nx\r\n")[1].split()[-1].decode()
        found = self.relay.settled(ident)
        return str(found["reply"])[:9]

    def drop_quota(self) -> bool:
        """Whether a user of this machine is said to have left too much."""
        self.users += 1
        left = [self.drop / f"{self.users}-{number}{WRITING}" for number in range(3)]
        for path in left:
            path.write_bytes(b"x" * 700)
            os.chown(path, self.users, -1)
        for path in left:
            path.rename(path.with_suffix(READY))
        said = re.compile(rf"drop quota.* uid={self.users} ")
        return _within(2.5, lambda: bool(said.search(self.relay.log(5000))))

    def by_itself(self) -> bool:
        """Whether a changed file is taken up without a word."""
        self.write("watch 1s\nmessage-size 4321000")
        return _within(15, lambda: self.size() == "4321000")


def _within(seconds: float, seen: Callable[[], bool]) -> bool:
    """Whether it is seen in time."""
    try:
        return wait_until(seen, "it is seen", patience(seconds))
    except AssertionError:
        return False


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


WHOLE = "reports for strangers failures whole"
INSIDE = "internal-destinations 127.0.0.0/8"

SEEN = {
    "retry": Seen("retry 5h", Site.later, None, 5),
    "warn-after": Seen("warn-after 1s", Site.warned, None, "delayed"),
    "give-up": Seen("give-up 2s", Site.warned, None, "failed"),
    "reports": Seen(WHOLE, Site.whole, False, True),
    "report-size": Seen(f"{WHOLE}\nreport-size 1KiB", Site.whole, False, False),
    "certificate": Seen(
        "certificate second.pem key second.key", Site.certificate, "first", "second"
    ),
    "tls-minimum": Seen("tls-minimum 1.3", Site.old_tls, True, False),
    "auth-without-tls": Seen("auth-without-tls yes", Site.logins_in_clear, False, True),
    "origin": Seen("origin other.example", Site.completed, "base.example", "other.example"),
    "message-size": Seen("message-size 1234567", Site.size, "52428800", "1234567"),
    "recipients": Seen("recipients 1", Site.recipients, 250, 452),
    "header-size": Seen("header-size 1KiB", Site.header, 250, 552),
    "hops": Seen("hops 3", Site.hops, 250, 554),
    "command-length": Seen("command-length 512", Site.line, 250, 500),
    "errors-per-session": Seen("errors-per-session 2", Site.errors, 500, 421),
    "sessions": Seen("sessions 1", Site.greetings, False, True),
    "sessions-per-client": Seen("sessions-per-client 1", Site.greetings, False, True),
    "new-sessions-per-minute": Seen("new-sessions-per-minute 1", Site.greetings, False, True),
    "cut-through-share": Seen("cut-through-share 0", Site.cut_through, 550, 250),
    "bare-newlines": Seen("bare-newlines normalise", Site.newline, 554, 250),
    "command-timeout": Seen("command-timeout 1s", Site.silence, None, "4.4.2"),
    "session-timeout": Seen("session-timeout 1s", Site.chatter, None, True),
    "content-timeout": Seen("content-timeout 1s", Site.stalled_content, None, 421),
    "internal-destinations": Seen(INSIDE, Site.literal_delivery, "550 5.4.4", "250 2.0.0"),
    "tls": Seen(f"{INSIDE}\ntls to any required", Site.literal_delivery, None, "451 4.7.4"),
    "deliveries": Seen("deliveries 1", Site.crowd, True, False),
    "deliveries-per-destination": Seen("deliveries-per-destination 1", Site.crowd, True, False),
    "connection-messages": Seen("connection-messages 1", Site.reuse, True, False),
    "connect-timeout": Seen("connect-timeout 1s", Site.impatience, None, True),
    "content-in-memory": Seen("content-in-memory 0", Site.content_file, False, True),
    "free-space": Seen(f"free-space {HUGE}", Site.mail, 250, 452),
    "free-inodes": Seen("free-inodes 1000000000", Site.mail, 250, 452),
    "drop-files": Seen("drop-files 1", Site.drop_quota, False, True),
    "drop-size": Seen("drop-size 1KiB", Site.drop_quota, False, True),
    "ledger": Seen("ledger 0s", Site.forgotten, None, True),
    "journal": Seen("journal off", Site.remembered_refusals, True, False),
    "watch": Seen("watch 1s", Site.by_itself, None, True),
}
UNSEEN = {
    "client-names": "wants clients from elsewhere: tests/scenarios/test_names.py",
    "tls-authorities": "wants next hops with certificates: tests/scenarios/test_tls.py has them",
    "tls-reports": "a report leaves once a day: tests/scenarios/test_tlsrpt.py",
    "secrets": "wants a next hop with logins: tests/scenarios/test_login.py",
    "oauth": "wants a provider: tests/scenarios/test_oauth.py",
    "hook": "wants a receiver: tests/scenarios/test_hooks.py has some",
    "journal-size": "shows after megabytes",
}
AT_A_RESTART = {
    "hostname": "hostname other.example",
    "spool": "spool other",
    "node": "node other",
    "control": "control other",
    "workers": "workers 5",
    "listen": "listen 127.0.0.1:1",
    "resolver": "resolver 127.0.0.7",
    "relay-port": "relay-port 777",
    "metrics": "metrics listen 127.0.0.1:1",
    "console": "console listen unix:/run/other.sock",
}


class SettingsTest(Scenario):
    maxDiff = None

    def test_every_setting_has_its_line(self) -> None:
        fixed = {name for name, spec in SPECS.items() if spec.effect is Effect.RESTART}
        # `away` says something of databases alone: tests/scenarios/test_cluster.py
        self.assertEqual(AT_A_RESTART.keys(), fixed - {"away"})
        self.assertEqual(SEEN.keys() | UNSEEN.keys(), SPECS.keys() - fixed)

    def test_with_one_worker(self) -> None:
        self.change_all(1)

    def test_with_two_workers(self) -> None:
        self.change_all(2)

    def change_all(self, workers: int) -> None:
        site = Site(self, workers)
        self.addCleanup(site.stop)
        seen = {
            name: each for name, each in SEEN.items() if os.geteuid() == 0 or "drop" not in name
        }
        before = {name: each.probe(site) for name, each in seen.items() if each.before is not None}
        self.assertEqual(before, {name: seen[name].before for name in before})
        after = {}
        for name, each in seen.items():
            site.reload(each.changed)
            after[name] = each.probe(site)
        self.assertEqual(after, {name: each.after for name, each in seen.items()})
        site.reload("")
        again = {name: each.probe(site) for name, each in seen.items() if type(each.before) is int}
        self.assertEqual(again, {name: seen[name].before for name in again}, "and back")
        self.wait_for_a_restart(site)

    def wait_for_a_restart(self, site: Site) -> None:
        for name, changed in AT_A_RESTART.items():
            answer = site.reload(changed)
            self.assertEqual(answer["restart"], [name])
            status = site.ask(command="status")["answer"]
            self.assertEqual(status["restart"], [name])
            self.assertEqual(
                (status["hostname"], status["workers"]), ("gw.example.com", site.workers)
            )
        if site.workers > 1:
            site.reload(AT_A_RESTART["hostname"])
            site.ask(command="restart")  # of the workers alone
            names = {smtplib.SMTP(*site.relay.address, timeout=60).ehlo()[1] for _ in range(2)}
            self.assertEqual({name.split(b"\n")[0] for name in names}, {b"gw.example.com"})
        self.assertEqual(site.reload("")["restart"], [])
