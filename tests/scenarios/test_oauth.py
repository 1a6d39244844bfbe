"""Logins by token: a provider over HTTPS, a Postfix that asks for them, and Dovecot to judge."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tests.certs import Authority
from tests.scenarios import peers
from tests.scenarios.harness import Process, Scenario, wait_until
from tests.scenarios.provider import CLIENT_ID, CLIENT_SECRET, USER, Provider

LONG = 60.0  # seconds of patience on a busy machine


class Site(Scenario):
    """A relayd, its provider, and a next hop that takes mail for a token alone."""

    needs: tuple[str, ...] = ("postfix", "dovecot")
    mechanisms = "oauthbearer xoauth2"
    retry = "1h"
    grant = ""
    workers = 1

    def setUp(self) -> None:
        super().setUp()
        authority = Authority()
        tls = self.room("tls")
        self.chain, self.key = authority.issue("localhost", "127.0.0.1").write(tls, "here")
        self.root = tls / "root.pem"
        self.root.write_bytes(authority.pem)
        self.idp = Provider(self, self.chain, self.key)
        port = self.next_hop()
        secrets = self.folder / "secrets"
        secrets.write_text(f"isp {CLIENT_ID} {CLIENT_SECRET}\n")
        secrets.chmod(0o600)
        way = self.grant or f"device {self.idp.url}/device scope mail"
        self.front = self.relayd(
            f"next-hop isp smtp localhost:{port} tls verify login isp\n"
            "accept from 127.0.0.0/8\nroute any via isp\n",
            settings=f"tls-authorities {self.root}\nsecrets {secrets}\nretry {self.retry}\n"
            f"oauth isp user {USER} token {self.idp.url}/token {way}\n"
            "connection-messages 1\n",  # a connection that is kept needs no token
            start=False,
        )
        text = self.front.config.read_text()
        text = re.sub(r"^workers .*$", f"workers {self.workers}", text, flags=re.M)
        self.front.config.write_text(text)
        self.front.start()

    def next_hop(self) -> int:
        """The port of a Postfix that asks Dovecot, which asks the provider."""
        url = f"https://127.0.0.1:{self.idp.port}/introspect"
        dovecot = peers.Dovecot(
            self,
            [USER],
            f"auth_mechanisms = {self.mechanisms}\nauth_failure_delay = 0\n"
            "service anvil {\n  unix_listener anvil-auth-penalty {\n    mode = 0\n  }\n}\n"
            + peers.dovecot_oauth2(url, self.root, self.folder),
        )
        self.dovecot = dovecot
        self.postfix = peers.Postfix(
            self,
            domains=["example.org"],
            extra="smtpd_sasl_auth_enable = yes\nsmtpd_sasl_type = dovecot\n"
            f"smtpd_sasl_path = {dovecot.folder}/auth-client\nsmtpd_tls_auth_only = yes\n"
            f"smtpd_tls_cert_file = {self.chain}\nsmtpd_tls_key_file = {self.key}\n"
            "smtpd_tls_security_level = may\n"
            "smtpd_recipient_restrictions = permit_sasl_authenticated, reject\n"
            "smtpd_relay_restrictions = permit_sasl_authenticated, reject\n",
        )
        return self.postfix.port

    # what the test does

    def send(self) -> str:
        return self.front.send("ann@example.net", ["bob@example.org"])

    def arrived(self, count: int) -> None:
        try:
            wait_until(lambda: len(self.postfix.mailbox()) >= count, f"mail {count}", LONG)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.front.log(100)}\n{self.dovecot.log()}") from None

    def entered(self, words: str) -> None:
        """Postfix's log says how relayd logged in."""
        wait_until(lambda: words in self.postfix.log(), f"in Postfix's log: {words}", LONG)

    def enrolling(self) -> tuple[Process, str]:
        """`relayctl oauth enroll`, and the code that it shows."""
        front = self.front
        done = Process(
            [
                *(sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(front.config)),
                *("oauth", "enroll", "isp"),
            ],
            self.folder / f"enroll-{len(self.idp.codes)}",
            environment=front.environment,
        )
        self.addCleanup(done.kill)
        shown = wait_until(
            lambda: re.search(r"and enter the code (\S+) \(", done.log()), "the code", LONG
        )
        assert shown is not None
        self.assertIn(f"Open {self.idp.url}/enter in a browser", done.log())
        return done, shown.group(1)

    def enroll(self) -> str:
        done, code = self.enrolling()
        self.idp.settle(code)
        self.assertEqual(done.popen.wait(LONG), 0, done.log())
        return done.log()

    def status(self) -> dict[str, object]:
        said = self.front.ctl("oauth", "status", "--json", check=False).stdout
        [login] = json.loads(said)["logins"]
        assert isinstance(login, dict)
        return login

    def refreshed(self, count: int) -> None:
        wait_until(lambda: self.idp.count("refresh_token") >= count, f"refresh {count}", LONG)

    def assert_discreet(self) -> None:
        """No secret is in a log, nor in what relayctl shows, nor in what `ps` does."""
        said = self.front.log(10_000) + self.front.ctl("queue", "--json").stdout
        said += json.dumps(self.status())
        for path in self.folder.glob("enroll-*"):
            said += path.read_text()
        pids = [path for path in Path("/proc").iterdir() if path.name.isdigit()]
        for path in pids:
            try:
                said += (path / "cmdline").read_bytes().decode("utf-8", "replace")
            except OSError:
                continue  # it has ended
        for secret in self.idp.secrets:
            self.assertNotIn(secret, said)


class Bearer(Site):
    def test_enroll_send_expire_refresh_send_refuse_and_enroll_again(self) -> None:
        ident = self.send()
        recipient = self.front.settled(ident, seconds=LONG)
        self.assertEqual(recipient["state"], "queued")
        self.assertEqual(
            recipient["reply"],
            "451 4.7.8 Login isp: no token from localhost: it is not enrolled"
            " (relayctl oauth enroll isp)",
        )
        self.assertEqual(self.status()["state"], "not enrolled")
        told = self.front.ctl("status").stdout
        self.assertRegex(told, rf"LOGIN +isp as {re.escape(USER)}: not enrolled\n")
        self.idp.lifetime = 4  # the first one, those that follow live long
        said = self.enroll()
        self.idp.lifetime = 3600
        self.assertIn(f"isp is enrolled: {USER} at localhost.", said)
        self.arrived(1)  # at once: its next attempt was an hour away
        self.entered(f"sasl_method=OAUTHBEARER, sasl_username={USER}")
        files = self.front.folder / "spool/oauth"
        self.assertEqual((files / "isp.json").stat().st_mode & 0o777, 0o600)
        self.assertEqual(files.stat().st_mode & 0o777, 0o700)
        self.refreshed(1)  # before it expires, with no mail to ask for it
        self.send()
        self.arrived(2)
        self.assertEqual(self.status()["state"], "good")
        told = self.front.ctl("status").stdout
        self.assertRegex(told, r"login +isp as .*: good, its token until .*, for \d+m")
        self.front.stop()
        self.front.start()
        self.send()  # the token is there still
        self.arrived(3)
        self.assertNotIn('event="login refused"', self.front.log(1000))
        self.refuse_and_enroll_again()

    def refuse_and_enroll_again(self) -> None:
        self.idp.revoke()
        idents = [self.send() for _ in range(3)]
        recipients = [self.front.settled(ident, seconds=LONG) for ident in idents[:1]]
        self.assertEqual(recipients[0]["state"], "queued")
        self.assertRegex(
            recipients[0]["reply"],
            r"^451 4\.7\.8 Login isp: no token from localhost: invalid_grant: invalid_grant,"
            r" because of \*\*\*$",
        )
        self.assertEqual(len(self.front.queue()), 3)
        told = 'trouble event="no token".*invalid_grant'
        log = self.front.logged(told)
        self.assertEqual(len(re.findall(told, log)), 1, log)
        self.assertEqual(self.status()["state"], "trouble")
        self.assertRegex(self.front.ctl("status").stdout, r"LOGIN +isp as .*: trouble.*invalid_gr")
        self.enroll()
        self.arrived(6)
        self.front.wait_empty(LONG)
        self.assertEqual(self.status()["state"], "good")
        self.assert_discreet()


class Xoauth2(Site):
    mechanisms = "xoauth2"

    def test_a_token_that_is_refused_before_its_time_is_renewed_at_once(self) -> None:
        self.idp.lifetime = None  # it does not even say
        self.enroll()
        self.send()
        self.arrived(1)
        self.entered("sasl_method=XOAUTH2")
        self.idp.revoke(refresh=False)
        ident = self.send()
        self.arrived(2)
        self.assertEqual(self.idp.count("refresh_token"), 1)
        self.assertNotRegex(self.front.log(1000), 'event="(no token|login refused)')
        self.assertEqual(self.front.settled(ident, seconds=LONG)["state"], "delivered")
        # but where even a new token is refused, it is the next hop that does not want us
        self.idp.stillborn = True
        self.idp.revoke(refresh=False)
        ident = self.send()
        recipient = self.front.settled(ident, seconds=LONG)
        self.assertEqual(recipient["state"], "queued")
        self.assertRegex(
            recipient["reply"], r"^451 4\.7\.8 Login isp was refused by localhost: 535 .*status="
        )
        refused = 'event="login refused"'
        self.assertEqual(self.front.logged(refused).count(refused), 1)


class Workers(Site):
    retry = "1s"
    workers = 2

    def test_two_workers_do_not_refresh_against_each_other(self) -> None:
        self.idp.lifetime = 3
        self.enroll()
        for count in range(1, 4):
            self.send()
            self.arrived(count)
            self.refreshed(count)
        self.idp.lifetime = 3600
        # who shows a refresh token for the second time loses them all
        self.assertEqual(self.idp.count("refresh_token", "invalid_grant"), 0)
        self.refreshed(4)
        self.idp.revoke()
        ident = self.send()
        self.assertEqual(self.front.settled(ident, seconds=LONG)["state"], "queued")
        self.enroll()
        self.arrived(4)
        self.front.wait_empty(LONG)
        self.assert_discreet()


class Alone(Site):
    """Where it is the provider that matters, nobody need be at the next hop."""

    needs = ()

    def next_hop(self) -> int:
        return 1


class Denied(Alone):
    def test_denied(self) -> None:
        for state, words in (
            ("access_denied", "it was denied"),
            ("expired_token", "the code has expired"),
        ):
            done, code = self.enrolling()
            self.idp.settle(code, state)
            self.assertEqual(done.popen.wait(LONG), 1)
            self.assertIn(f"relayctl: {words}", done.log())
        self.assertEqual(self.status()["state"], "not enrolled")
        other = self.front.ctl("oauth", "enroll", "ips", check=False)
        self.assertIn('there is no oauth ips; did you mean "isp"?', other.stderr)
        self.idp.mood = "no refresh token"
        self.assertIn("there is no refresh token", self.enroll())
        self.assertIn("isp is forgotten here", self.front.ctl("oauth", "forget", "isp").stdout)
        self.assertEqual(self.status()["state"], "not enrolled")
        self.assert_discreet()


class Moods(Alone):
    retry = "1s"
    grant = "grant client-credentials"

    def test_the_provider_is_in_trouble(self) -> None:
        """And so is the mail, until the provider is well: then the next hop is asked."""
        for mood, words in (
            ("500", "it said 500 (invalid_grant)"),
            ("garbage", "its answer is no JSON object"),
            ("huge", "its answer is too large"),
            ("down", "ConnectionRefusedError"),
        ):
            with self.subTest(mood):
                self.idp.mood = mood
                if mood == "down":
                    self.elsewhere()
                ident = self.send()
                recipient = self.front.settled(ident, seconds=LONG)
                self.assertEqual(recipient["state"], "queued")
                self.assertIn("451 4.7.0 Login isp: no token from localhost", recipient["reply"])
                self.assertIn(words, recipient["reply"])
                if mood == "down":
                    return
                self.idp.mood = ""
                self.next_hop_is_asked(ident)
                self.front.ctl("remove", "--all")
                self.front.ctl("oauth", "forget", "isp")
        self.fail("never down")

    def next_hop_is_asked(self, ident: str) -> None:
        def asked() -> bool:
            [recipient] = self.front.show(ident)["recipients"]
            return "4.4.1 Connection to localhost" in recipient["reply"]

        wait_until(asked, "the next hop is asked", LONG)

    def elsewhere(self) -> None:
        """The provider is where nobody is."""
        text = self.front.config.read_text()
        self.front.config.write_text(text.replace(self.idp.url, "https://localhost:1"))
        self.front.ctl("reload")

    def test_tokens_are_refreshed_without_anybody(self) -> None:
        self.idp.lifetime = 4
        ident = self.send()
        self.next_hop_is_asked(ident)
        wait_until(lambda: self.idp.count("client_credentials") >= 2, "a refresh", LONG)
        self.assertEqual(self.status()["state"], "good")
        self.assert_discreet()
