"""Programs that are not ours submit under TLS and with a login, at both kinds of listener."""

from __future__ import annotations

import json

from tests.scenarios import peers
from tests.scenarios.harness import NODE_PATH, program, run
from tests.scenarios.test_login import ALICE, LETTER, PASSWORD, Site, msmtp_must_bind

BOB = "bob@example.org"
WHOLE = LETTER.replace(b"From: alice\r\nTo: Bob <bob>, eve", f"From: {ALICE}\r\nTo: eve".encode())

_NODE = """
const settings = JSON.parse(process.argv[1]);
(async () => {
    for (const method of ["PLAIN", "LOGIN"]) {
        settings.transport.auth.method = method;
        const sent = await require("nodemailer").createTransport(settings.transport)
            .sendMail(settings.message);
        console.log(sent.response);
    }
})().catch(error => { console.error(error); process.exit(1); });
"""


class Submission(Site):
    """What arrives behind relayd came by a login under TLS."""

    def assert_submitted(self, count: int) -> None:
        try:
            arrived = self.sink.wait(count, 60.0)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.relay.log(100)}") from None
        for message in arrived:
            self.assertEqual(message.sender, ALICE)
            self.assertRegex(
                message.content, rb" with (?:ESMTP|UTF8SMTP)SA id .*\r\n\s+\(TLSv1\.3 TLS_"
            )


class PostfixSubmits(Submission):
    needs = ("postfix",)

    def test_at_both_listeners(self) -> None:
        secrets = self.folder / "secrets"
        for name, port, wrapped in (
            ("starttls", self.submission, "no"),
            ("implicit", self.implicit, "yes"),
        ):
            secrets.write_text(f"[127.0.0.1]:{port} {ALICE}:{PASSWORD}\n")
            client = peers.Postfix(
                self,
                name,
                relayhost=f"[127.0.0.1]:{port}",
                extra="smtp_tls_security_level = verify\nsmtp_tls_verify_cert_match = localhost\n"
                f"smtp_tls_CAfile = {self.root}\nsmtp_tls_wrappermode = {wrapped}\n"
                "smtp_sasl_auth_enable = yes\nsmtp_sasl_security_options = noanonymous\n"
                f"smtp_sasl_password_maps = texthash:{secrets}\n",
            )
            client.submit(ALICE, [BOB], WHOLE)
            self.assert_submitted(1 + (name == "implicit"))


class EximSubmits(Submission):
    needs = ("exim",)

    def test_at_both_listeners(self) -> None:
        for protocol, port in (("smtp", self.submission), ("smtps", self.implicit)):
            client = peers.Exim(
                self,
                port,
                name=protocol,
                tls=protocol,
                authority=self.root,
                login=(ALICE, PASSWORD),
            )
            client.submit(ALICE, [BOB], WHOLE)
        self.assert_submitted(2)


class NodemailerSubmits(Submission):
    needs = ("nodemailer",)

    def test_at_both_listeners(self) -> None:
        for port, secure in ((self.submission, False), (self.implicit, True)):
            settings = {
                "transport": {
                    "host": "localhost",
                    "port": port,
                    "secure": secure,
                    "requireTLS": True,
                    "tls": {"ca": self.root.read_text()},
                    "auth": {"user": ALICE, "pass": PASSWORD},
                },
                "message": {"from": ALICE, "to": BOB, "subject": "test", "text": "text"},
            }
            done = run(
                [program("node"), "-e", _NODE, json.dumps(settings)],
                environment={"NODE_PATH": NODE_PATH},
            )
            self.assertEqual(done.stdout.count(b"250 2.0.0 "), 2, done.stdout)
        self.assert_submitted(4)


class SwaksSubmits(Submission):
    needs = ("swaks",)

    def test_at_both_listeners(self) -> None:
        for port, word in ((self.submission, "--tls"), (self.implicit, "--tlsc")):
            base = [program("swaks"), "--server", f"localhost:{port}", word, "--tls-verify"]
            base += ["--tls-ca-path", str(self.root), "--from", ALICE, "--to", BOB]
            for way in ("PLAIN", "LOGIN"):
                run([*base, "--auth", way, "--auth-user", ALICE, "--auth-password", PASSWORD])
        self.assert_submitted(4)


class MsmtpSubmits(Submission):
    needs = ("msmtp",)

    def setUp(self) -> None:
        if msmtp_must_bind():
            self.mechanisms = "mechanisms SCRAM-SHA-256-PLUS, PLAIN"
        super().setUp()

    def test_at_the_implicit_listener(self) -> None:
        run(
            [
                *(program("msmtp"), "--file=/dev/null", "--host=localhost", "--tls=on"),
                *("--tls-starttls=off", f"--port={self.implicit}", f"--from={ALICE}", "--auth=on"),
                *(f"--tls-trust-file={self.root}", f"--user={ALICE}"),
                *(f"--passwordeval=echo '{PASSWORD}'", "--", BOB),
            ],
            data=WHOLE.replace(b"\r\n", b"\n"),
        )
        self.assert_submitted(1)
