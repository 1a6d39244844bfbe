"""Who speaks for clients: haproxy with its headers, swaks with XCLIENT; and those who may not."""

from __future__ import annotations

import contextlib
import re
import smtplib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

from tests.certs import Authority
from tests.scenarios.harness import Relayd, Scenario, free_port, program, run, wait_until

FRIEND, STRANGER = "127.0.0.5", "127.0.0.6"  # who may relay, and who may not
BALANCER = "127.0.0.77"

_HAPROXY = """
global
  stats socket {folder}/stats.sock mode 600 level admin
defaults
  mode tcp
  timeout connect 60s
  timeout client 120s
  timeout server 120s
"""

_SERVICE = """
listen {name}
  bind 127.0.0.1:{front}
  option smtpchk EHLO balancer.example
  server relayd 127.0.0.1:{back} source {balancer} {word} {check}
"""


class HAProxy:
    """A balancer with one service for each (name, port of relayd, word that sends a header)."""

    def __init__(self, scenario: Scenario, *services: tuple[str, int, str, str]) -> None:
        self.folder = folder = scenario.room("haproxy")
        self.ports = {name: free_port() for name, *_ in services}
        text = _HAPROXY.format(folder=folder)
        for name, back, word, check in services:
            text += _SERVICE.format(
                name=name,
                front=self.ports[name],
                back=back,
                balancer=BALANCER,
                word=word,
                check=f"check inter 300ms {check}".rstrip(),
            )
        config = folder / "haproxy.cfg"
        config.write_text(text)
        self.process = scenario.launch([program("haproxy"), "-db", "-f", str(config)], "haproxy")
        wait_until(lambda: (folder / "stats.sock").exists() or self._ended(), "haproxy listens")

    def _ended(self) -> bool:
        if not self.process.running:
            raise AssertionError(self.process.log())
        return False

    def up(self, name: str) -> bool:
        """Whether its last health check of relayd ended well (a first one has been made)."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(str(self.folder / "stats.sock"))
            connection.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        head, *lines = answer.splitlines()
        names = head.lstrip("# ").split(",")
        for line in lines:
            row = dict(zip(names, line.split(","), strict=False))
            if row.get("pxname") == name and row.get("svname") == "relayd":
                return row["status"] == "UP" and row["check_status"] == "L7OK"
        return False


@contextlib.contextmanager
def connected(
    port: int, source: str, *, tls: ssl.SSLContext | None = None
) -> Iterator[smtplib.SMTP]:
    """An smtplib client that comes from this address."""
    client = (
        smtplib.SMTP("127.0.0.1", port, timeout=60, source_address=(source, 0))
        if tls is None
        else smtplib.SMTP_SSL(
            "127.0.0.1", port, timeout=60, source_address=(source, 0), context=tls
        )
    )
    with client:
        client.ehlo("client.example")
        yield client


def rcpt(client: smtplib.SMTP) -> int:
    """The reply to a recipient far away: 250 means that we may relay."""
    client.mail("a@example.net")
    code = client.rcpt("b@example.org")[0]
    client.rset()
    return code


class Proxied(Scenario):
    def start(self, *options: str, settings: str = "", rules: str = "", workers: int = 0) -> Relayd:
        """A relayd with one more listener for each of these options."""
        self.ports = [free_port() for _ in options]
        listeners = "".join(
            f"listen 127.0.0.1:{port} {option}\n"
            for port, option in zip(self.ports, options, strict=True)
        )
        rules = rules or f"accept from {FRIEND}\n"
        text = f"{rules}route any via nowhere\nnext-hop nowhere smtp 127.0.0.1:{free_port()}\n"
        relay = self.relayd(text, settings=f"{listeners}{settings}", start=False)
        if workers:
            config = relay.config.read_text()
            relay.config.write_text(re.sub(r"(?m)^workers .*$", f"workers {workers}", config))
        return relay.start()

    def certificate(self) -> str:
        """The setting for it; `self.trusting` trusts who issued it."""
        authority = Authority()
        room = self.room("tls")
        (room / "authority.pem").write_bytes(authority.pem)
        self.trusting = ssl.create_default_context(cafile=str(room / "authority.pem"))
        chain, key = authority.issue("gw.example.com", "127.0.0.1").write(room, "gw")
        return f"certificate {chain} key {key}\n"

    def stored(self, relay: Relayd, client: smtplib.SMTP) -> str:
        """The trace field of a message that this client sends."""
        client.sendmail("a@example.net", ["b@example.org"], b"Subject: x\r\n\r\nx\r\n")
        ident = relay.queue()[-1]["id"]
        return relay.ctl("content", ident).stdout.partition(";")[0]


class Balanced(Proxied):
    needs = ("haproxy",)

    def test_the_client_counts_and_not_the_balancer(self) -> None:
        """Version 1 and 2, in the clear, with STARTTLS and with TLS from the first octet."""
        relay = self.start(
            f"proxy {BALANCER}",
            "proxy <balancers> tls implicit",
            settings=self.certificate() + f"table balancers {{ {BALANCER} }}\n",
        )
        clear, implicit = self.ports
        balancer = HAProxy(
            self,
            ("one", clear, "send-proxy", ""),
            ("two", clear, "send-proxy-v2 proxy-v2-options unique-id,crc32c", ""),
            ("tls-one", implicit, "send-proxy", "check-ssl verify none"),
            ("tls-two", implicit, "send-proxy-v2", "check-ssl verify none"),
        )
        for name in ("one", "two"):
            wait_until(lambda name=name: balancer.up(name), f"{name} is up\n{relay.log()}", 60)  # type: ignore[misc]
            with connected(balancer.ports[name], STRANGER) as client:
                self.assertEqual(rcpt(client), 550, name)
            with connected(balancer.ports[name], FRIEND) as client:
                self.assertEqual(rcpt(client), 250, name)
                client.starttls(context=self.trusting)
                client.ehlo("client.example")
                self.assertEqual(rcpt(client), 250, name)
                self.assertIn(f"client.example (localhost [{FRIEND}])", self.stored(relay, client))
        for name in ("tls-one", "tls-two"):
            with connected(balancer.ports[name], FRIEND, tls=self.trusting) as client:
                self.assertEqual(rcpt(client), 250, name)
                self.assertIn(f"client.example (localhost [{FRIEND}])", self.stored(relay, client))
        log = wait_until(
            lambda: (
                text
                if (text := Path(relay.folder / "log").read_text()).count(
                    f"session client=[{FRIEND}]"
                )
                >= 4
                else ""
            ),
            "all sessions are in the log",
        )
        self.assertIn(f"refused client=[{STRANGER}]", log)
        self.assertNotIn("command=PROXY", log)

    def test_the_limit_of_sessions_is_the_clients_over_all_workers(self) -> None:
        relay = self.start(f"proxy {BALANCER}", settings="sessions-per-client 3\n", workers=2)
        balancer = HAProxy(self, ("one", self.ports[0], "send-proxy-v2", ""))
        with contextlib.ExitStack() as stack:
            for source in (FRIEND, STRANGER):
                for _ in range(3):
                    stack.enter_context(connected(balancer.ports["one"], source))
                with self.assertRaises(smtplib.SMTPConnectError) as caught:
                    stack.enter_context(connected(balancer.ports["one"], source))
                self.assertEqual(caught.exception.smtp_code, 421, relay.log())


class Believed(Proxied):
    needs = ("swaks",)

    def test_no_header_of_anybody_else(self) -> None:
        relay = self.start(f"proxy {BALANCER}")
        header = f"PROXY TCP4 {FRIEND} 127.0.0.1 4711 25\r\n".encode()
        for source, expected in ((STRANGER, "500 5.5.1"), (BALANCER, "220 ")):
            with socket.create_connection(
                ("127.0.0.1", self.ports[0]), 60, source_address=(source, 0)
            ) as connection:
                heard = connection.makefile("rb")
                if source == STRANGER:
                    self.assertEqual(heard.readline()[:4], b"220 ")
                connection.sendall(header)
                line = heard.readline()
                self.assertEqual(line[: len(expected)].decode(), expected)
        with socket.create_connection(
            ("127.0.0.1", self.ports[0]), 60, source_address=(BALANCER, 0)
        ) as connection:
            connection.sendall(b"EHLO balancer.example\r\n")
            with contextlib.suppress(ConnectionResetError):
                self.assertEqual(connection.recv(100), b"")
        wait_until(lambda: "command=PROXY" in relay.log(), "it is in the log")

    def swaks(self, source: str, *arguments: str) -> str:
        done = run(
            [
                *(program("swaks"), "--server", f"127.0.0.1:{self.ports[0]}"),
                *("--local-interface", source, "--helo", "client.example"),
                *("--from", "ann@example.net", "--to", "b@example.org", *arguments),
            ],
            check=False,
        )
        return (done.stdout + done.stderr).decode("utf-8", "replace")

    def test_swaks_says_xclient(self) -> None:
        peer = "127.0.0.8"
        relay = self.start(f"xclient {peer}", settings=self.certificate())
        friend = ("--xclient-addr", FRIEND, "--xclient-name", "friend.example")
        for tls in ((), ("--tls",)):
            heard = self.swaks(peer, *friend, *tls)
            self.assertIn("queued as", heard, relay.log())
            ident = relay.queue()[-1]["id"]
            trace = relay.ctl("content", ident).stdout.partition(";")[0]
            self.assertIn(f"client.example (friend.example [{FRIEND}])", trace)
            self.assertEqual(" with ESMTPS " in trace, bool(tls))
        for source, code in ((peer, 220), (STRANGER, 550)):
            with connected(self.ports[0], source) as client:
                self.assertEqual(client.docmd("XCLIENT", f"ADDR={FRIEND}")[0], code)
                client.ehlo()
                self.assertEqual(rcpt(client), 250 if source == peer else 550)
                self.assertEqual(client.docmd("XCLIENT", "LOGIN=ann")[0], 550)
        self.assertIn("550 5.7.1", self.swaks(peer))
        self.assertIn("550 5.7.1", self.swaks(peer, "--xclient-addr", STRANGER))
        relay.logged(re.escape(f"session client=[{FRIEND}]"))
        relay.logged(re.escape(f"refused client=[{STRANGER}]") + ".*XCLIENT")

    def test_a_trusted_login_of_xclient(self) -> None:
        relay = self.start(
            "xclient 127.0.0.8 xclient-login",
            rules="accept login ann\nmay-send-as any when login ann\n",
        )
        xclient = ("--xclient-addr", STRANGER, "--xclient-login")
        self.assertIn("550 5.7.1", self.swaks("127.0.0.8", *xclient, "[UNAVAILABLE]"))
        self.assertIn("queued as", self.swaks("127.0.0.8", *xclient, "ann"), relay.log())
