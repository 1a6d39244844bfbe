"""Mailboxes that a next hop does not know are refused at the door; real servers say so."""

from __future__ import annotations

from tests.scenarios import peers
from tests.scenarios.harness import Relayd, Scenario, wait_until

RULES = """\
next-hop exchange {where}
reject  to @example.com when unknown at exchange 550 5.1.1 "There is no such mailbox"
accept  to @example.com
route   any via exchange
expect  to info@example.com when unknown at exchange -> reject 550 5.1.1
expect  to info@example.com -> info@example.com via exchange
"""


class Verification(Scenario):
    def reply(self, relay: Relayd, to: str, sender: str = "ann@sender.example") -> str:
        """To RCPT."""
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(sender)
            code, text = client.rcpt(to)
            return f"{code} {text.decode().split()[0]}"


class ByPostfix(Verification):
    needs = ("postfix",)

    def postfix(self) -> peers.Postfix:
        return peers.Postfix(
            self,
            domains=["example.com"],
            extra="virtual_mailbox_maps = inline:{ bob@example.com=all/, dora@example.com=all/ }\n",
        )

    def test_it_is_asked_once_and_believed_while_it_is_down(self) -> None:
        postfix = self.postfix()
        relay = self.relayd(RULES.format(where=f"smtp 127.0.0.1:{postfix.port}"))
        for _ in range(3):
            self.assertEqual(self.reply(relay, "bob@example.com"), "250 2.1.5")
            self.assertEqual(self.reply(relay, "nobody@example.com"), "550 5.1.1")
        self.assertEqual(self.reply(relay, "x@elsewhere.example"), "550 5.7.1")
        wait_until(lambda: "NOQUEUE: reject: RCPT" in postfix.log(), "Postfix's log has it")
        log = postfix.log()
        self.assertNotIn("elsewhere.example", log)
        self.assertEqual(log.count("NOQUEUE: reject: RCPT"), 1, log)
        self.assertIn("from=<>", log)
        asked = relay.ctl("explain", "nobody@example.com", check=False).stdout
        self.assertIn("unknown at exchange   (looked up in", asked)
        postfix.stop()
        self.assertEqual(self.reply(relay, "bob@example.com"), "250 2.1.5")
        self.assertEqual(self.reply(relay, "nobody@example.com"), "550 5.1.1")
        self.assertEqual(self.reply(relay, "dora@example.com"), "451 4.3.0")
        wait_until(lambda: "mailboxes not verified" in relay.log(), "it is told")
        relay.kill()
        wait_until(lambda: not relay.greets(), "it is gone")
        relay.start()
        self.assertEqual(self.reply(relay, "nobody@example.com"), "550 5.1.1")
        postfix.start()
        self.assertEqual(self.reply(relay, "dora@example.com"), "250 2.1.5")
        relay.send("ann@sender.example", ["bob@example.com"], b"Subject: x\r\n\r\nx\r\n")
        wait_until(lambda: len(postfix.mailbox()) == 1, "mail goes on to it")

    def test_what_refuses_us_says_nothing_of_mailboxes(self) -> None:
        for setting, words in (
            ("smtpd_client_restrictions = reject\n", "we are refused"),
            (
                "smtpd_sender_restrictions = check_sender_access inline:{ <>=REJECT }\n",
                "reports are",
            ),
        ):
            with self.subTest(words):
                name = f"postfix-{len(words)}"
                postfix = peers.Postfix(self, name, domains=["example.com"], extra=setting)
                rules = RULES.format(where=f"smtp 127.0.0.1:{postfix.port}")
                relay = self.relayd(rules, name=f"relayd-{len(words)}")
                self.assertEqual(self.reply(relay, "bob@example.com"), "451 4.3.0")


class ByDovecot(Verification):
    needs = ("dovecot",)

    def test_a_mail_store_is_asked_by_lmtp_over_its_socket(self) -> None:
        dovecot = peers.Dovecot(self, ["bob@example.com"])
        for workers in ("1", "2"):
            relay = self.relayd(
                RULES.format(where=f"lmtp unix:{dovecot.socket}"),
                name=f"relayd-{workers}",
                settings="",
                start=False,
            )
            text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
            relay.config.write_text(text)
            relay.start()
            for _ in range(4):
                self.assertEqual(self.reply(relay, "bob@example.com"), "250 2.1.5")
                self.assertEqual(self.reply(relay, "nobody@example.com"), "550 5.1.1")
            self.assertEqual(dovecot.by_imap("bob@example.com"), [])
