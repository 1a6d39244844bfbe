"""Tried as somebody would who has never seen relayd: by nmap, swaks, mutt, and by hand."""

from __future__ import annotations

import re
import socket
import time

from tests.scenarios.harness import Scenario, program, run
from tests.scenarios.test_login import ALICE, PASSWORD
from tests.scenarios.test_submission import BOB, Submission
from tests.sink import Sink

OURS = "gw.example.com"  # the relay's own name is the domain that it takes mail for
PAUSE = 0.2  # seconds in which a person types


class Gate(Scenario):
    """A gateway for one domain, as the world sees it."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink()
        self.addCleanup(self.sink.stop)
        self.relay = self.relayd(
            f"next-hop store smtp 127.0.0.1:{self.sink.port}\n"
            f"accept to @{OURS}\nroute any via store\n",
            hostname=OURS,
        )


class Nmap(Gate):
    needs = ("nmap",)

    def script(self, name: str, *more: str) -> str:
        """What a script of nmap's has to say; the plus sign: on whatever port."""
        scan = [program("nmap"), "-n", "-Pn", "-sT", "-vv", "--script", f"+{name}", *more]
        done = run([*scan, "-p", str(self.relay.port), "127.0.0.1"])
        found = re.search(rf"{name}: ?((?:.|\n\|)*)", done.stdout.decode())
        self.assertIsNotNone(found, done.stdout.decode())
        assert found is not None
        return found.group(1)

    def test_smtp_open_relay_finds_no_way_through(self) -> None:
        said = self.script("smtp-open-relay")
        self.assertIn("doesn't seem to be an open relay, all tests failed", said)
        self.assertEqual(self.sink.arrived, [])

    def test_smtp_open_relay_finds_none_for_one_who_says_a_domain_of_ours(self) -> None:
        said = self.script("smtp-open-relay", "--script-args", "smtp-open-relay.from=postmaster")
        self.assertIn("doesn't seem to be an open relay, all tests failed", said)

    def test_smtp_commands_reads_what_is_offered(self) -> None:
        said = self.script("smtp-commands")
        for word in (OURS, "PIPELINING", "SIZE", "8BITMIME", "ENHANCEDSTATUSCODES", "DSN"):
            self.assertIn(word, said)
        self.assertNotIn("AUTH", said)


class Swaks(Gate):
    needs = ("swaks",)

    def swaks(self, to: str, *more: str) -> int:
        base = [program("swaks"), "--server", f"127.0.0.1:{self.relay.port}", "--from", BOB]
        return run([*base, "--to", to, *more], check=False).returncode

    def test_a_stranger_reaches_us_and_nobody_else(self) -> None:
        # its manual: 24 says that no recipient was taken, 29 that TLS was wanted and is not there
        self.assertEqual(self.swaks("x@elsewhere.example"), 24)
        self.assertEqual(self.swaks(f"x%elsewhere.example@{OURS}"), 24)
        self.assertEqual(self.swaks(f"ann@{OURS}", "--tls"), 29)
        self.assertEqual(self.swaks(f"ann@{OURS}", "--quit-after", "RCPT"), 0)
        self.assertEqual(self.swaks(f"ann@{OURS}", "--pipeline"), 0)
        self.assertEqual(self.swaks(f"ann@{OURS},x@elsewhere.example"), 0)
        self.assertEqual([each.recipients for each in self.sink.wait(2)], [(f"ann@{OURS}",)] * 2)


class Mutt(Submission):
    needs = ("mutt",)

    def write(self, url: str, password: str, *, check: bool = True, ways: str = "") -> bytes:
        """Send a letter as a person does, with a password of his own; what mutt said.

        `ways`: the mechanisms that he told it to use; by itself it takes the best.
        """
        mailbox = ALICE.replace("@", "%40")
        settings = {
            "smtp_url": url.format(mailbox),
            "smtp_pass": password,
            "smtp_authenticators": ways,
            "ssl_force_tls": "yes",
            "ssl_ca_certificates_file": str(self.root),
            "from": ALICE,
            "realname": "Alice Ärmel",
            "record": "",
            "send_charset": "utf-8",
        }
        file = self.folder / "muttrc"
        file.write_text("".join(f'set {name}="{value}"\n' for name, value in settings.items()))
        done = run(
            [program("mutt"), "-n", "-F", str(file), "-s", "Grüße", "--", BOB],
            data="Lieber Bob,\n.\nFrom here on: Ä.\n".encode(),
            environment={"HOME": str(self.folder), "LC_ALL": "C.UTF-8"},
            check=check,
        )
        self.assertEqual(done.returncode != 0, not check, done)
        return done.stdout + done.stderr

    def test_at_both_listeners(self) -> None:
        self.write(f"smtp://{{}}@localhost:{self.submission}/", PASSWORD)
        self.write(f"smtps://{{}}@localhost:{self.implicit}/", PASSWORD)
        self.assert_submitted(2)
        for message in self.sink.arrived:
            self.assertEqual(message.recipients, (BOB,))
            self.assertIn(b"From: Alice =?utf-8?", message.content)

    def test_by_the_mechanisms_that_show_a_password(self) -> None:
        for way in ("plain", "login"):
            self.write(f"smtp://{{}}@localhost:{self.submission}/", PASSWORD, ways=way)
        self.assert_submitted(2)

    def test_a_wrong_password_is_said(self) -> None:
        said = self.write(f"smtp://{{}}@localhost:{self.submission}/", "wrong", check=False)
        self.assertIn(b"auth", said.lower())
        self.assertEqual(self.sink.arrived, [])


class MuttWherePlusIsOffered(Mutt):
    """Why -PLUS is not offered by itself: mutt's GNU SASL takes it, cannot bind, and gives up.

    Its mutt has tls-unique for it, which TLS 1.3 does not have, and no tls-exporter.
    """

    mechanisms = "mechanisms SCRAM-SHA-256-PLUS, SCRAM-SHA-256, PLAIN"

    def test_at_both_listeners(self) -> None:
        said = self.write(f"smtp://{{}}@localhost:{self.submission}/", PASSWORD, check=False)
        self.assertIn(b"auth", said.lower())
        self.assertEqual(self.sink.arrived, [])

    def test_by_the_mechanisms_that_show_a_password(self) -> None:
        self.write(f"smtp://{{}}@localhost:{self.submission}/", PASSWORD, ways="plain")
        self.assert_submitted(1)


class MuttWhereScramIsLeftOut(Mutt):
    mechanisms = "mechanisms LOGIN, PLAIN"


class ByHand(Gate):
    """One line after the other, with the mistakes of somebody who knows SMTP from hearsay."""

    TALK = (
        ("hello?", "50[02]"),
        ("help", "214"),
        ("mail from: bob@example.org", "250"),
        ("rset", "250"),
        ("EHLO", "501"),
        ("helo my laptop", "250|501"),
        ("ehlo laptop.example", "250"),
        ("rcpt to:<ann@gw.example.com>", "503"),
        ("data", "503"),
        ("mail from bob@example.org", "501"),
        ("mail from:<bob@example.org>", "250"),
        ("mail from:<bob@example.org>", "503"),
        ("rcpt to:<ann@elsewhere.example>", "550"),
        ("rcpt to:<>", "501"),
        ("data", "503|554"),
        ("vrfy ann", "252"),
        ("RCPT TO:<ann@gw.example.com>", "250"),
        ("noop", "250"),
        ("data", "354"),
    )
    LETTER = ("Subject: hello", "", "is anybody there", ".hidden", "bye")

    def setUp(self) -> None:
        super().setUp()
        self.connection = socket.create_connection(self.relay.address, timeout=60)
        self.addCleanup(self.connection.close)
        self.replies = self.connection.makefile("rb")
        self.addCleanup(self.replies.close)

    def say(self, line: str) -> None:
        time.sleep(PAUSE)
        self.connection.sendall(f"{line}\r\n".encode())

    def hear(self, codes: str, after: str) -> None:
        while (line := self.replies.readline().decode())[3:4] == "-":
            pass
        self.assertRegex(line, rf"^(?:{codes}) ", after)

    def test_mistakes_are_told_and_the_letter_goes(self) -> None:
        self.hear("220", "the greeting")
        for line, codes in self.TALK:
            self.say(line)
            self.hear(codes, line)
        for line in self.LETTER:
            self.say("." + line if line.startswith(".") else line)
        self.say(".")
        self.hear("250", "the letter")
        self.say("quit")
        self.hear("221", "quit")
        self.assertEqual(self.replies.read(), b"")
        [message] = self.sink.wait(1)
        self.assertEqual(message.recipients, (f"ann@{OURS}",))
        text = "".join(f"{line}\r\n" for line in self.LETTER).encode()
        self.assertTrue(message.content.endswith(text), message.content)

    def test_half_a_command_may_take_its_time(self) -> None:
        self.hear("220", "the greeting")
        for piece in ("eh", "lo lap", "top.example\r", "\nmail fr", "om:<bob@example.org>\r\n"):
            self.connection.sendall(piece.encode())
            time.sleep(PAUSE)
        self.hear("250", "ehlo")
        self.hear("250", "mail")
