"""The recipes of docs/checks.md as they stand there, with those beside them whom they ask.

Only where somebody is, and how long one waits, is another.
"""

from __future__ import annotations

import smtplib
import time
from pathlib import Path

import dkim

from tests.scenarios import peers
from tests.scenarios.filterdaemons import EICAR, GTUBE, Clamd, Opendkim, RspamdDaemon
from tests.scenarios.harness import Relayd, wait_until
from tests.scenarios.test_names import Names
from tests.sink import Sink

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
STORE, JUNK = "lmtp unix:/run/dovecot/lmtp", "lmtp unix:/run/dovecot/junk"
LETTER = (
    b"From: Ann <ann@example.org>\r\nTo: info@example.com\r\nSubject: x\r\n"
    b"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID: <x@example.org>\r\n\r\nhello\r\n"
)
INFO = "info@example.com"


class Recipes(Names):
    records = """\
9.100.51.198.zen.spamhaus.org. A 127.0.0.2
10.100.51.198.zen.spamhaus.org. A 127.0.0.4
10.100.51.198.list.dnswl.org. A 127.0.10.2
11.100.51.198.zen.spamhaus.org. A 127.255.255.254
12.100.51.198.bl.example.net. A 127.0.0.4
13.100.51.198.bl.example.net. A 127.0.0.3
14.100.51.198.bl.example.net. A 127.0.0.2
14.100.51.198.in-addr.arpa. PTR mx.soft.example.
mx.soft.example. A 198.51.100.14
soft.example. TXT "v=spf1 ip4:192.0.2.1 ~all"
cloud.example. TXT "v=spf1 ip4:192.0.2.0/24 -all"
"""

    def recipe(self, name: str, *elsewhere: tuple[str, str]) -> Relayd:
        """A relayd with its rules; clients of loopback may say who they are."""
        out = self.sink()
        text = (RECIPES / f"{name}.conf").read_text().replace("hostname  gw.example.com\n", "")
        for written, here in elsewhere:
            self.assertIn(written, text)
            text = text.replace(written, here)
        relay = self.relayd(
            f"{text}\nnext-hop out smtp 127.0.0.1:{out.port}\nroute any via out\n",
            settings=f"resolver 127.0.0.1:{self.zone()}\n",
            start=False,
        )
        lines = relay.config.read_text().splitlines()
        trusting = " xclient 127.0.0.0/8 xclient-login"
        lines = [line + trusting * line.startswith("listen ") for line in lines]
        relay.config.write_text("\n".join([*lines, ""]))
        return relay.start()

    def sink(self) -> Sink:
        """A next hop."""
        sink = Sink()
        self.addCleanup(sink.stop)
        return sink

    def reply(
        self,
        relay: Relayd,
        content: bytes = LETTER,
        *,
        client: str = "ADDR=203.0.113.1",
        sender: str = "ann@example.org",
        to: str = INFO,
    ) -> str:
        """The first refusal, or the answer to the content."""
        with smtplib.SMTP(*relay.address, timeout=60) as session:
            session.ehlo("client.example")
            self.assertEqual(session.docmd("XCLIENT", client)[0], 220)
            session.ehlo("client.example")
            code, reply = session.mail(sender)
            if code == 250:
                code, reply = session.rcpt(to)
            if code == 250:
                try:
                    code, reply = session.data(content)
                except smtplib.SMTPDataError as error:  # to DATA itself
                    code, text = error.smtp_code, error.smtp_error
                    reply = text if isinstance(text, bytes) else text.encode()
        return f"{code} {reply.decode()}"

    def held(self, relay: Relayd) -> str:
        """What is kept back."""
        return relay.ctl("held").stdout


class AskingTheDns(Recipes):
    def test_block_lists(self) -> None:
        relay = self.recipe("block-lists")
        for address, sender, expected in (
            ("198.51.100.8", "ann@example.org", "250"),
            ("198.51.100.9", "ann@example.org", "550 5.7.1"),
            ("198.51.100.10", "ann@example.org", "250"),  # a friend
            ("198.51.100.11", "ann@example.org", "250"),  # the list will not say
            ("198.51.100.12", "ann@example.org", "550 5.7.1"),  # no name
            ("198.51.100.13", "ann@example.org", "250"),  # an answer that does not count
            ("198.51.100.14", "ann@example.org", "250"),
            ("198.51.100.14", "ann@soft.example", "451 4.7.1"),
        ):
            with self.subTest(address, sender=sender):
                said = self.reply(relay, client=f"ADDR={address}", sender=sender)
                self.assertTrue(said.startswith(expected), said)
        login = self.reply(
            relay, client="ADDR=198.51.100.9 LOGIN=ann@example.org", to="x@example.net"
        )
        self.assertEqual(login[:3], "250")

    def test_greylisting(self) -> None:
        relay = self.recipe("greylisting", (" 5m ", " 2s "), ("five minutes", "two seconds"))
        self.assertEqual(
            self.reply(relay, client="ADDR=192.0.2.7", sender="a@cloud.example")[:3], "250"
        )
        self.assertEqual(self.reply(relay, client="ADDR=198.51.100.10")[:3], "250")  # a friend
        self.assertEqual(self.reply(relay)[:9], "451 4.7.1")
        time.sleep(2)
        self.assertEqual(self.reply(relay, client="ADDR=203.0.113.200")[:3], "250")
        self.assertEqual(self.reply(relay, sender="bob@example.net")[:3], "250")  # known by now


class Counting(Recipes):
    def test_a_quota_for_logins(self) -> None:
        relay = self.recipe("limits", ("500/1h", "2/1h"), ("100/1d", "4/1d"), ("100/1m", "1/1m"))
        ann = "ADDR=203.0.113.1 LOGIN=ann@example.org"
        said = [self.reply(relay, client=ann, to="x@example.net")[:9] for _ in range(5)]
        self.assertEqual([each[:3] for each in said], ["250"] * 4 + ["550"])
        self.assertEqual(self.held(relay).count("<x@example.net>"), 2)
        self.assertIn("over hourly", self.held(relay))
        bob = self.reply(
            relay,
            client="ADDR=203.0.113.1 LOGIN=bob@example.org",
            sender="bob@example.org",
            to="x@example.net",
        )
        self.assertEqual(bob[:3], "250")
        burst = [self.reply(relay)[:9] for _ in range(2)]
        self.assertEqual([burst[0][:3], burst[1]], ["250", "451 4.7.1"])
        self.assertRegex(relay.ctl("limits", "hourly").stdout, r"ann@example\.org +4 +OVER")


class BeforeExchange(Recipes):
    needs = ("postfix",)

    def test_verification(self) -> None:
        known = "virtual_mailbox_maps = inline:{ info@example.com=all/ }\n"
        exchange = peers.Postfix(self, domains=["example.com"], extra=known)
        here = f"smtp 127.0.0.1:{exchange.port}"
        relay = self.recipe("verification", ("smtp ex1.corp.example, ex2.corp.example", here))
        self.assertEqual(self.reply(relay)[:3], "250")
        self.assertEqual(self.reply(relay, to="nobody@example.com")[:9], "550 5.1.1")
        wait_until(lambda: len(exchange.mailbox()) == 1, "it goes on to Exchange")
        exchange.stop()
        self.assertEqual(self.reply(relay)[:3], "250")  # known, and waits
        self.assertEqual(self.reply(relay, to="nobody@example.com")[:9], "550 5.1.1")
        self.assertEqual(self.reply(relay, to="new@example.com")[:3], "451")


class Rspamd(Recipes):
    needs = ("rspamd",)

    def test_scores_decide(self) -> None:
        daemon, store, junk = RspamdDaemon(self), self.sink(), self.sink()
        relay = self.recipe(
            "rspamd",
            ("http://127.0.0.1:11333", daemon.url),
            (STORE, f"smtp 127.0.0.1:{store.port}"),
            (JUNK, f"smtp 127.0.0.1:{junk.port}"),
        )
        marked, spam = GTUBE.replace(b"XJS", b"YJS", 1), LETTER + GTUBE + b"\r\n"
        for content in (LETTER, LETTER + marked + b"\r\n", spam):
            self.assertEqual(self.reply(relay, content)[:3], "250")
        self.assertNotIn(b"X-Spam", store.wait(1)[0].content)
        self.assertIn(b"\r\nX-Spam: Yes\r\n", junk.wait(1)[0].content)
        self.assertIn("score scan 15", self.held(relay))
        login = self.reply(
            relay, spam, client="ADDR=203.0.113.1 LOGIN=ann@example.org", to="x@example.net"
        )
        self.assertEqual(login[:3], "250")
        self.assertEqual(self.held(relay).count("Held by rule"), 1)
        daemon.stop()
        self.assertEqual(self.reply(relay, spam)[:3], "250")
        self.assertIn(b"GTUBE", store.wait(2)[1].content)


class Clamav(Recipes):
    needs = ("clamav",)

    def test_infected_mail(self) -> None:
        daemon, store = Clamd(self), self.sink()
        relay = self.recipe(
            "clamav",
            ("unix:/run/clamav/clamd.ctl", daemon.where),
            (STORE, f"smtp 127.0.0.1:{store.port}"),
        )
        infected, ours = LETTER + EICAR + b"\r\n", "ADDR=203.0.113.1 LOGIN=ann@example.org"
        self.assertEqual(self.reply(relay)[:3], "250")
        self.assertEqual(self.reply(relay, infected)[:9], "554 5.7.1")
        self.assertEqual(self.reply(relay, infected, client=ours)[:3], "250")
        self.assertIn("one of our own computers sends this", self.held(relay))
        daemon.stop()
        self.assertEqual(self.reply(relay)[:9], "451 4.7.1")
        self.assertEqual(len(store.wait(1)), 1)


class OpenDkim(Recipes):
    needs = ("opendkim",)

    def test_what_logins_send_is_signed(self) -> None:
        daemon, store = Opendkim(self), self.sink()
        relay = self.recipe(
            "opendkim",
            ("unix:/run/opendkim/opendkim.sock", daemon.where),
            (STORE, f"smtp 127.0.0.1:{store.port}"),
        )
        ours = "ADDR=127.0.0.1 LOGIN=ann@example.org"
        self.assertEqual(self.reply(relay, client=ours)[:3], "250")
        signed = store.wait(1)[0].content
        self.assertTrue(dkim.verify(signed, dnsfunc=lambda name, timeout=5: daemon.record), signed)
        self.assertEqual(self.reply(relay)[:3], "250")
        self.assertNotIn(b"DKIM-Signature", store.wait(2)[1].content)
        daemon.stop()
        self.assertEqual(self.reply(relay, client=ours)[:9], "451 4.7.1")
        self.assertEqual(self.reply(relay)[:3], "250")
