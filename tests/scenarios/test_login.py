"""Logins with real clients, a real Dovecot and a real Postfix, in both directions."""

from __future__ import annotations

import base64
import contextlib
import re
import smtplib
import socket
import ssl
import time
from pathlib import Path

from relayd.login.scram import Verifier
from relayd.login.users import with_user, write
from tests.certs import Authority
from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, free_port, program, run, unhurried, wait_until
from tests.sink import Sink

ALICE, PASSWORD = "alice@example.com", "correct horse"
LETTER = b"From: alice\r\nTo: Bob <bob>, eve@example.org\r\nSubject: test\r\n\r\ntext\r\n"


def users_file(path: Path, *names: str, password: str = PASSWORD) -> Path:
    """A users file with these logins."""
    lines: list[str] = []
    for name in names or (ALICE,):
        lines = with_user(lines, name, Verifier.of(password, iterations=4096))
    write(path, lines)
    return path


class Site(Scenario):
    """A relayd with users and a certificate, in front of a sink."""

    settings = ""
    accounts = ""
    mechanisms = ""  # of the listeners

    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink()
        self.addCleanup(self.sink.stop)
        self.authority = Authority()
        tls = self.room("tls")
        chain, key = self.authority.issue("127.0.0.1", "localhost").write(tls, "gw")
        self.root = tls / "root.pem"
        self.root.write_bytes(self.authority.pem)
        self.submission = free_port()
        self.implicit = free_port()
        users_file(self.folder / "users")
        table = self.table()
        self.relay = self.relayd(
            f"{table}\nnext-hop sink smtp 127.0.0.1:{self.sink.port}\n"
            "accept login any\nroute any via sink\n",
            settings=f"certificate {chain} key {key}\norigin example.com\n"
            f"listen 127.0.0.1:{self.submission} auth people {self.mechanisms} submission\n"
            f"listen 127.0.0.1:{self.implicit} tls implicit auth people {self.mechanisms}"
            " submission\n"
            f"{self.settings}",
        )

    def table(self) -> str:
        return f"table people users file {self.folder / 'users'}"

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.root))

    def client(self, port: int = 0, source: str = "") -> smtplib.SMTP:
        client = smtplib.SMTP(timeout=60, source_address=(source, 0) if source else None)
        client.connect("127.0.0.1", port or self.submission)
        self.addCleanup(client.close)
        client._host = "localhost"  # type: ignore[attr-defined]
        client.ehlo("client.example")
        return client


class Smtplib(Site):
    def test_a_submission(self) -> None:
        client = self.client()
        self.assertNotIn("auth", client.esmtp_features)
        self.assertEqual(client.docmd("AUTH", "PLAIN")[0], 538)
        self.assertEqual(client.docmd("MAIL", "FROM:<alice@example.com>")[0], 530)
        client.starttls(context=self.context())
        client.ehlo("client.example")
        offered = client.esmtp_features["auth"].split()
        self.assertEqual(offered, ["SCRAM-SHA-256", "PLAIN", "LOGIN"])
        with self.assertRaises(smtplib.SMTPAuthenticationError):
            client.login(ALICE, "wrong")
        client.login(ALICE, PASSWORD)
        self.assertEqual(client.docmd("MAIL", "FROM:<bob@example.com>")[:1], (553,))
        client.sendmail("alice", ["bob", "eve@example.org"], LETTER)
        [message] = self.sink.wait(1)
        self.assertEqual(message.sender, ALICE)
        self.assertEqual(message.recipients, ("bob@example.com", "eve@example.org"))
        text = message.content.decode()
        self.assertIn(" with ESMTPSA ", text)
        self.assertIn("From: alice@example.com\r\nTo: Bob <bob@example.com>, eve@ex", text)
        self.assertRegex(text, r"\r\nDate: .{25,}\r\nMessage-ID: <[0-9A-Z]{12}@gw\.example\.com>")
        client.quit()
        wait_until(lambda: "login=alice@example.com" in self.relay.log(), "the session's line")

    def test_under_tls_from_the_first_octet(self) -> None:
        with smtplib.SMTP_SSL(
            "localhost", self.implicit, timeout=60, context=self.context()
        ) as client:
            client.login(ALICE, PASSWORD)
            client.sendmail(ALICE, ["bob@example.org"], LETTER)
        self.assertIn(b" with ESMTPSA ", self.sink.wait(1)[0].content)

    def test_what_is_there_stays_and_other_listeners_add_nothing(self) -> None:
        client = self.client()
        client.starttls(context=self.context())
        client.ehlo("client.example")
        client.login(ALICE, PASSWORD)
        whole = (
            b"date : Thu, 1 Jan 2026 00:00:00 +0000\r\nMESSAGE-ID:\r\n <x@y>\r\n"
            b"From: alice@example.com\r\n\r\nDate: none\r\n"
        )
        client.sendmail(ALICE, [ALICE], whole)
        [message] = self.sink.wait(1)
        self.assertTrue(message.content.endswith(b"+0000\r\n" + whole), message.content)
        relay = self.client(self.relay.port)
        self.assertEqual(relay.docmd("MAIL", "FROM:<alice")[0], 501)
        self.assertEqual(relay.docmd("AUTH", "PLAIN")[0], 502)


def msmtp_must_bind() -> bool:
    """Whether it knows -PLUS: such a one can log in by SCRAM over TLS only where -PLUS is offered.

    Elsewhere, and whoever the server is, it gives up before it says AUTH (1.8.28, GNU SASL 2.2.2).
    """
    return b"scram-sha-256-plus" in run([program("msmtp"), "--version"]).stdout


class Msmtp(Site):
    needs = ("msmtp",)

    def setUp(self) -> None:
        scram = "scram-sha-256-plus" if msmtp_must_bind() else "scram-sha-256"
        self.mechanisms = f"mechanisms {scram}, PLAIN, LOGIN"
        self.ways = (scram, "plain", "login", "on")
        super().setUp()

    def test_every_mechanism(self) -> None:
        base = [program("msmtp"), "--file=/dev/null", "--host=localhost", "--tls=on"]
        base += [f"--port={self.submission}", f"--tls-trust-file={self.root}", f"--from={ALICE}"]
        base += [f"--user={ALICE}", f"--passwordeval=echo '{PASSWORD}'"]
        for way in self.ways:
            run([*base, f"--auth={way}", "--", "bob@example.org"], data=b"Subject: x\n\ny\n")
        self.assertEqual(len(self.sink.wait(len(self.ways))), len(self.ways))
        way = f"--auth={self.ways[0]}"
        wrong = [*base[:-1], "--passwordeval=echo wrong", way, "--", "b@x.org"]
        self.assertNotEqual(run(wrong, data=b"Subject: x\n\ny\n", check=False).returncode, 0)


class Curl(Site):
    needs = ("curl",)

    def test_every_mechanism(self) -> None:
        letter = self.folder / "letter"
        letter.write_bytes(LETTER)
        base = [program("curl"), "--silent", "--show-error", "--ssl-reqd", "--cacert"]
        base += [str(self.root), f"smtp://localhost:{self.submission}/c.example"]
        base += ["--user", f"{ALICE}:{PASSWORD}", "--mail-from", ALICE, "--mail-rcpt", ALICE]
        for way in ("PLAIN", "LOGIN"):
            options = ["--login-options", f"AUTH={way}", "--upload-file", str(letter)]
            run([*base, *options])
            run([*base, *options, "--sasl-ir"])
        self.assertEqual(len(self.sink.wait(4)), 4)


class Swaks(Site):
    needs = ("swaks",)
    settings = "auth-without-tls yes\n"

    def test_in_the_clear_where_it_is_allowed(self) -> None:
        base = [program("swaks"), "--silent", "1", "--server", f"127.0.0.1:{self.submission}"]
        base += ["--from", ALICE, "--to", "bob@example.org", "--auth-user", ALICE]
        for way in ("PLAIN", "LOGIN"):
            run([*base, "--auth", way, "--auth-password", PASSWORD])
        self.assertEqual(len(self.sink.wait(2)), 2)
        self.assertIn(b" with ESMTPA ", self.sink.arrived[0].content)
        done = run([*base, "--auth", "PLAIN", "--auth-password", "wrong"], check=False)
        self.assertEqual(done.returncode, 28)  # swaks: authentication failed


class DovecotAccounts(Site):
    needs = ("dovecot",)
    settings = "auth-without-tls yes\n"

    def table(self) -> str:
        self.dovecot = peers.Dovecot(self, ["alice", "bob"])
        return f"table people dovecot-auth unix:{self.dovecot.folder}/auth-client"

    def test_the_mail_stores_accounts(self) -> None:
        client = self.client()
        self.assertEqual(client.esmtp_features["auth"].split(), ["PLAIN", "LOGIN"])
        for name, password in (("alice", "wrong"), ("nobody", peers.PASSWORD)):
            with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
                client.login(name, password)
            self.assertEqual(caught.exception.smtp_error, b"5.7.8 Authentication failed")
        client.login("alice", peers.PASSWORD)
        client.sendmail("alice", ["bob@example.org"], LETTER)
        self.assertEqual(self.sink.wait(1)[0].sender, ALICE)

    def test_dovecot_away_and_back(self) -> None:
        self.client().login("alice", peers.PASSWORD)
        self.dovecot.stop()
        with self.assertRaises(smtplib.SMTPAuthenticationError) as caught:
            self.client().login("alice", peers.PASSWORD)
        self.assertEqual(caught.exception.smtp_code, 454)
        self.dovecot.start()
        self.client().login("alice", peers.PASSWORD)


class Guessing(Site):
    settings = "auth-without-tls yes\n"

    def guess(self, source: str, expected: int) -> int:
        """How many passwords one address gets checked, trying on for two seconds after these."""
        checked = 0
        end = time.monotonic() + 50  # in less than the minute that counts
        guess = "AUTH PLAIN " + base64.b64encode(b"\0alice@example.com\0guess").decode() + "\r\n"
        while time.monotonic() < end:
            with socket.create_connection(
                ("127.0.0.1", self.submission), 60, source_address=(source, 0)
            ) as connection:
                replies = connection.makefile("rb")
                replies.readline()  # who does not wait for the greeting is sent away
                with contextlib.suppress(ConnectionError):
                    connection.sendall(b"EHLO x\r\n" + guess.encode() * 4 + b"QUIT\r\n")
                    for line in replies:
                        checked += line.startswith(b"535")
            if checked >= expected:
                end = min(end, time.monotonic() + 2)
            time.sleep(0.02)
        return checked

    def test_one_address_is_slow_and_another_is_not(self) -> None:
        self.slow_and_not()

    def slow_and_not(self) -> None:
        self.assertEqual(self.guess("127.0.0.66", 10), 10)
        started = time.monotonic()
        for _ in range(5):
            self.client(source="127.0.0.1").login(ALICE, PASSWORD)
        self.assertLess(unhurried(started), 5.0)
        with self.assertRaises(smtplib.SMTPAuthenticationError):
            self.client(source="127.0.0.66").login(ALICE, PASSWORD)

    def test_two_workers_count_as_one(self) -> None:
        self.relay.stop()
        text = re.sub(r"^workers .*$", "workers 2", self.relay.config.read_text(), flags=re.M)
        self.relay.config.write_text(text)
        self.relay.start()
        self.slow_and_not()

    def test_no_words_and_no_time_tell_who_has_an_account(self) -> None:
        def tried(name: str) -> tuple[bytes, float]:
            client = self.client(source=f"127.0.1.{next(self.numbers)}")
            started = time.monotonic()
            said = client.docmd(
                "AUTH", "PLAIN " + base64.b64encode(f"\0{name}\0guess".encode()).decode()
            )
            return said[1], time.monotonic() - started

        self.numbers = iter(range(1, 250))
        pairs = []
        for _ in range(4):  # others may compute here as well
            pairs += [(tried(ALICE), tried("nobody@example.com")) for _ in range(25)]
            here, nobody = zip(*pairs, strict=True)
            self.assertEqual({words for words, _ in here}, {words for words, _ in nobody})
            best_here, best_nobody = (min(each[1] for each in tries) for tries in (here, nobody))
            if abs(best_here - best_nobody) < max(best_here, best_nobody) / 2:
                break
        self.assertLess(abs(best_here - best_nobody), max(best_here, best_nobody) / 2)


class Hops(Scenario):
    """A relayd that logs in at another server."""

    host = "127.0.0.1"

    def front(self, port: int, secret: str, options: str = "", settings: str = "") -> Relayd:
        secrets = self.folder / "secrets"
        secrets.write_text(secret)
        secrets.chmod(0o600)
        return self.relayd(
            f"next-hop isp smtp {self.host}:{port} {options}\n"
            "accept from 127.0.0.0/8\nroute any via isp\n",
            name="front",
            settings=f"secrets {secrets}\nretry 1s\n{settings}",
        )

    def inner(self, settings: str = "") -> tuple[Relayd, int, Path]:
        self.sink = Sink()
        self.addCleanup(self.sink.stop)
        authority = Authority()
        tls = self.room("tls")
        chain, key = authority.issue("localhost").write(tls, "inner")
        root = tls / "root.pem"
        root.write_bytes(authority.pem)
        users_file(self.folder / "users")
        port = free_port()
        relay = self.relayd(
            f"table people users file {self.folder / 'users'}\n"
            f"next-hop sink smtp 127.0.0.1:{self.sink.port}\n"
            "accept login any\nmay-send-as any\nroute any via sink\n",
            name="inner",
            settings=f"certificate {chain} key {key}\n"
            f"listen 127.0.0.1:{port} auth people submission\n{settings}",
        )
        return relay, port, root


class NextHopLogin(Hops):
    def test_under_verified_tls(self) -> None:
        self.host = "localhost"
        _, port, root = self.inner()
        front = self.front(
            port, f"isp {ALICE} {PASSWORD}\n", "login isp", f"tls-authorities {root}\n"
        )
        front.send("ann@example.net", ["bob@example.org"])
        [message] = self.sink.wait(1)
        self.assertIn(b" with ESMTPSA ", message.content)

    def test_a_password_is_not_shown_to_a_server_that_proves_nothing(self) -> None:
        inner, port, _ = self.inner()
        front = self.front(port, f"isp {ALICE} {PASSWORD}\n", "login isp")
        recipient = front.settled(front.send("ann@example.net", ["bob@example.org"]))
        self.assertEqual(recipient["state"], "queued")
        self.assertIn("4.7.", recipient["reply"])
        self.assertNotIn("login=", inner.log())
        self.assertEqual(self.sink.arrived, [])

    def test_nor_in_the_clear(self) -> None:
        _, port, _ = self.inner("auth-without-tls yes\n")
        front = self.front(port, f"isp {ALICE} {PASSWORD}\n", "tls none login isp")
        recipient = front.settled(front.send("ann@example.net", ["bob@example.org"]))
        self.assertIn("4.7.11 Login isp", recipient["reply"])
        self.assertEqual(self.sink.arrived, [])

    def test_in_the_clear_where_it_is_said(self) -> None:
        _, port, _ = self.inner("auth-without-tls yes\n")
        front = self.front(port, f"isp {ALICE} {PASSWORD}\n", "tls none login isp without-tls")
        front.send("ann@example.net", ["bob@example.org"])
        self.assertIn(b" with ESMTPA ", self.sink.wait(1)[0].content)

    def test_a_refused_login_holds_the_queue_until_it_is_mended(self) -> None:
        _, port, _ = self.inner("auth-without-tls yes\n")
        front = self.front(port, f"isp {ALICE} wrong\n", "tls none login isp without-tls")
        idents = [front.send("ann@example.net", [f"b{n}@example.org"]) for n in range(3)]
        recipient = front.settled(idents[0])
        self.assertEqual(recipient["state"], "queued")
        self.assertRegex(
            recipient["reply"], r"^451 4\.7\.8 Login isp was refused by 127\.0\.0\.1: 5"
        )
        time.sleep(2.5)  # some more attempts
        log = front.logged('trouble event="login refused"')
        self.assertEqual(log.count('trouble event="login refused"'), 1, log)
        self.assertNotIn("wrong", log)
        self.assertEqual(len(front.queue()), 3)
        (self.folder / "secrets").write_text(f"isp {ALICE} {PASSWORD}\n")
        front.ctl("reload")
        front.ctl("retry", "--all")
        self.assertEqual(len(self.sink.wait(3)), 3)
        wait_until(lambda: "login works again" in front.log(400), "the quiet line")

    def test_a_secrets_file_for_everybody_is_refused(self) -> None:
        front = self.front(1, "isp a b\n", "login isp")
        (self.folder / "secrets").chmod(0o640)
        done = front.ctl("reload", check=False)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("is open to its group (mode 0640)", done.stderr)
        self.assertIn("chmod 600", done.stderr)


class PostfixNextHop(Hops):
    """Postfix, with Dovecot behind it, asks for the login."""

    needs = ("postfix", "dovecot")

    def test_postfix_takes_mail_for_the_login_alone(self) -> None:
        dovecot = peers.Dovecot(self, ["alice"])
        postfix = peers.Postfix(
            self,
            domains=["example.org"],
            extra="smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n"
            f"smtpd_sasl_path = {dovecot.folder}/auth-client\n"
            "smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n"
            "smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        )
        options = "tls none login isp without-tls"
        front = self.front(postfix.port, f"isp alice {peers.PASSWORD}\n", options)
        front.send("ann@example.net", ["bob@example.org"])
        wait_until(lambda: len(postfix.mailbox()) == 1, "it arrives", 60.0)
        wait_until(lambda: "sasl_username=alice" in postfix.log(), "its log has it")
