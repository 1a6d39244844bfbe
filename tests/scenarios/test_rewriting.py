"""What is rewritten, added and completed, seen at the next hop; and what it may cost."""

from __future__ import annotations

import smtplib
from email import message_from_bytes

from tests.scenarios.harness import Scenario
from tests.scenarios.test_login import ALICE, PASSWORD, Site
from tests.sink import EXTENSIONS, Arrived, Sink

RULES = """
accept any
rewrite recipient regex "^(.+)@cap\\.test$" -> "\\1@new.test"
rewrite recipient regex "^(.+)@host\\.test$" -> "x@\\1.new.test"
rewrite recipient @old.test -> @new.test
rewrite sender regex "^(.+)@cap\\.test$" -> "\\1@new.test"
rewrite header From, To regex "^(.+)@cap\\.test$" -> "\\1@new.test"
header add X-Outside "yes"
forward regex "^(.+)-team@new\\.test$" -> "\\1@teams.test"
route any via out
"""
LOCALS = ('"a b"', "Bob.MIXED", '"x@y"', '"q\\"q"', '"a..b"', "o'neill+tag")


class Rewriting(Scenario):
    """A relayd whose rules change much, and what is behind it."""

    def setUp(self) -> None:
        super().setUp()
        self.sink = Sink(extensions=(*EXTENSIONS, "SMTPUTF8"))
        self.addCleanup(self.sink.stop)
        self.relay = self.relayd(f"next-hop out smtp 127.0.0.1:{self.sink.port}\n{RULES}")

    def sent(self, content: bytes, sender: str = "a@b.test", to: str = "c@d.test") -> Arrived:
        before = len(self.sink.arrived)
        with self.relay.session() as client:
            client.ehlo("client.example")
            options = () if (sender + to).isascii() else (" SMTPUTF8",)
            self.said(client, f"MAIL FROM:<{sender}>{''.join(options)}", 250)
            self.said(client, f"RCPT TO:<{to}>", 250)
            self.assertEqual(client.data(content)[0], 250)
        return self.sink.wait(before + 1)[before]

    def said(self, client: smtplib.SMTP, line: str, code: int) -> bytes:
        client.send(line.encode() + b"\r\n")
        found, text = client.getreply()
        self.assertEqual(found, code, (line, text))
        return text


class Regexes(Rewriting):
    def test_groups_keep_octets_and_case_and_are_quoted_again(self) -> None:
        for local in (*LOCALS, "jÜrgen"):
            for domain in ("cap.test", "CAP.test", "old.test"):
                content = b"From: X (y) <%b(c)@CAP.test>\r\n\r\nx\r\n" % local.encode()
                found = self.sent(content, f"{local}@cap.test", f"{local}@{domain}")
                with self.subTest(local, domain=domain):
                    self.assertEqual(found.recipients, (f"{local}@new.test",))
                    self.assertEqual(found.sender, f"{local}@new.test")
                    self.assertIn(content.replace(b"CAP", b"new"), found.content)

    def test_a_chain_of_rules_keeps_them_too(self) -> None:
        found = self.sent(b"A: b\r\n\r\n", to='"Big Boss-team"@cap.test')
        self.assertEqual(found.recipients, ('"Big Boss"@teams.test',))

    def test_what_makes_no_address_is_refused_at_once_and_for_good(self) -> None:
        with self.relay.session() as client:
            client.ehlo("client.example")
            self.said(client, "MAIL FROM:<a@b.test>", 250)
            self.said(client, "RCPT TO:<Good@host.test>", 250)
            for local in ('"a b"', '"a@b"', "x" * 64, "o'neill", '"a..b"'):
                text = self.said(client, f"RCPT TO:<{local}@host.test>", 550)
                self.assertEqual(text[:5], b"5.1.0")
            self.said(client, "RSET", 250)


class Fields(Rewriting):
    def test_no_line_of_the_sender_hides_an_added_field(self) -> None:
        for line in (
            b"no colon here",
            b": nameless",
            b"",
            b" blank",
            b"\ttab",
            b"From x",
            b">From x",
        ):
            for content in (
                line + b"\r\nTo: y\r\n\r\nx\r\n",
                b"To: y\r\n" + line + b"\r\n\r\nx\r\n",
            ):
                found = self.sent(content)
                parsed = message_from_bytes(found.content)
                with self.subTest(content):
                    self.assertEqual(parsed.get_all("X-Outside"), ["yes"])
                    self.assertNotIn("blank", parsed["Received"])
                    self.assertNotIn("tab", parsed["Received"])
                    self.assertTrue(found.content.endswith(content), found.content)

    def test_lines_of_a_rewritten_field_are_folded(self) -> None:
        content = b"To: " + b",".join(b"%d@cap.test" % n for n in range(76)) + b"\r\n\r\nx\r\n"
        self.assertLess(content.index(b"\r\n"), 998)
        found = self.sent(content.replace(b"cap.test", b"CAP.test"))
        self.assertLessEqual(max(map(len, found.content.split(b"\r\n"))), 998)
        self.assertEqual(found.content.count(b"@new.test"), 76)


class Costs(Rewriting):
    """A good client is answered while others send what once made parsers slow."""

    def test_headers_that_open_and_never_close(self) -> None:
        contents = [
            b"From: " + unit * 30_000 + b"\r\n\r\nx\r\n" for unit in (b"[\\", b'"\\', b"(<")
        ]
        began = self.relay.processor_time()
        for content in contents:
            self.assertTrue(self.sent(content).content.endswith(content))
        self.assertLess(self.relay.processor_time() - began, 10)

    def test_domains_that_are_longer_than_any(self) -> None:
        with self.relay.session() as client:
            client.ehlo("client.example")
            began = self.relay.processor_time()
            for digits in (300, 600):
                line = f"MAIL FROM:<a@{chr(0x660) * digits}> SMTPUTF8"
                for _ in range(9):
                    self.assertIn(b"longer than", self.said(client, line, 501))
            self.assertLess(self.relay.processor_time() - began, 2)


class Submitted(Site):
    def test_limits_hold_for_what_leaves(self) -> None:
        client = smtplib.SMTP_SSL("localhost", self.implicit, timeout=60, context=self.context())
        self.addCleanup(client.close)
        client.login(ALICE, PASSWORD)
        arrived = 0
        for body, code in ((b"a," * 520_000, 250), (b"a," * 524_270, 552), (b"a, " * 40_000, 250)):
            content = b"To: " + body + b"\r\n\r\nx\r\n"
            client.mail(ALICE)
            client.rcpt(ALICE)
            self.assertEqual(client.data(content)[0], code)
            if code == 250:
                arrived += 1
                left = self.sink.wait(arrived)[-1].content
                self.assertLess(len(left), len(content) + 2000 * len("@example.com") + 1000)
