"""Those who are asked, as Debian ships them: each at work."""

from __future__ import annotations

import contextlib
import json
import re
import smtplib
import socket
import time
from collections.abc import Callable

import dkim

from tests.scenarios.filterdaemons import (
    EICAR,
    GTUBE,
    ClamavMilter,
    Clamd,
    Opendkim,
    Opendmarc,
    Postgrey,
    PymilterDaemon,
    RspamdDaemon,
    spawned,
)
from tests.scenarios.filterpeers import (
    Listening,
    Milter,
    Packet,
    Policy,
    insert,
    no_recipient,
    recipient,
    sender,
)
from tests.scenarios.harness import Relayd, Scenario, program, wait_until
from tests.sink import Sink

LETTER = (
    b"From: Ann <ann@example.org>\r\nTo: info@example.com\r\nSubject:  spaced\r\n"
    b"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nMessage-ID:\r\n <x@example.org>\r\n\r\nhello\r\n"
)


class RealFilters(Scenario):
    def asking(self, sink: Sink, rules: str, *, start: bool = True) -> Relayd:
        """A relayd with these rules before its own."""
        rest = (
            f"accept to @example.com\nroute any via out\nnext-hop out smtp 127.0.0.1:{sink.port}\n"
        )
        return self.relayd(rules + rest, start=start)

    def said(self, relay: Relayd, content: bytes = LETTER, sender: str = "ann@example.org") -> str:
        """The reply to the first command that is refused, or to the final dot."""
        with smtplib.SMTP(*relay.address, timeout=60) as client:
            client.ehlo("client.example")
            code, reply = client.mail(sender)
            if code == 250:
                code, reply = client.rcpt("info@example.com")
            if code == 250:
                code, reply = client.data(content)
        return f"{code} {reply.decode()}"


class OpendkimTests(RealFilters):
    needs = ("opendkim",)

    def test_it_signs_what_then_verifies(self) -> None:
        daemon = Opendkim(self)
        with Sink() as sink:
            relay = self.asking(sink, f"milter opendkim {daemon.where}\nask opendkim\n")
            for _ in range(3):
                self.assertEqual(self.said(relay)[:3], "250")
            for arrived in sink.wait(3):
                signed = arrived.content
                self.assertTrue(signed.startswith(b"DKIM-Signature: "), signed)
                found = dkim.verify(signed, dnsfunc=lambda name, timeout=5: daemon.record)
                self.assertTrue(found, signed)
            daemon.stop()
            self.assertEqual(self.said(relay)[:9], "451 4.7.1")
            daemon.start()
            self.assertEqual(self.said(relay)[:3], "250")
            shown = relay.ctl("filters").stdout
            self.assertIn("opendkim", shown)


class ClamavTests(RealFilters):
    needs = ("clamav",)

    def test_clamd_finds_it(self) -> None:
        daemon = Clamd(self)
        with Sink() as sink:
            relay = self.asking(sink, f"clamd virus {daemon.where}\nask virus\n")
            self.assertEqual(self.said(relay)[:3], "250")
            refused = self.said(relay, LETTER + EICAR + b"\r\n")
            self.assertTrue(refused.startswith("554 5.7.1 The message is infected: Eicar"), refused)
            # more than StreamMaxLength: it closes while we write
            self.assertEqual(
                self.said(relay, LETTER + b"x" * 70 * 50_000 + b"\r\n")[:9], "451 4.7.1"
            )
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertEqual(len(sink.wait(2)), 2)

    def test_rules_decide_where_they_look_at_it(self) -> None:
        daemon = Clamd(self)
        with Sink() as sink:
            rules = (
                f'clamd virus {daemon.where}\nask virus\nhold when says virus reject "infected"\n'
            )
            relay = self.asking(sink, rules)
            self.assertEqual(self.said(relay, LETTER + EICAR + b"\r\n")[:3], "250")
            self.assertIn("Held by rule", relay.ctl("queue").stdout)

    def test_clamav_milter(self) -> None:
        daemon = ClamavMilter(self, Clamd(self))
        with Sink() as sink:
            relay = self.asking(sink, f"milter clamav {daemon.where}\nask clamav\n")
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertIn("infected: Eicar", self.said(relay, LETTER + EICAR + b"\r\n"))
            self.assertIn(b"\r\nX-Virus-Scanned: ", sink.wait(1)[0].content)


class PostgreyTests(RealFilters):
    needs = ("postgrey",)

    def test_it_puts_off_whom_it_has_not_seen(self) -> None:
        daemon = Postgrey(self)
        with Sink() as sink:
            relay = self.asking(
                sink, f"policy postgrey {daemon.where}\nask postgrey to @example.com\n"
            )
            first = self.said(relay)
            self.assertRegex(first, "^450 4.2.0 .*Greylisted")
            time.sleep(1.5)
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertIn(b"X-Greylist: delayed", sink.wait(1)[0].content)


class RspamdTests(RealFilters):
    needs = ("rspamd",)

    def test_by_http_and_as_a_milter(self) -> None:
        daemon = RspamdDaemon(self)
        with Sink() as sink:
            relay = self.asking(sink, f"rspamd scan {daemon.url}\nask scan\n")
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertEqual(self.said(relay, LETTER + GTUBE + b"\r\n"), "554 5.7.1 Gtube pattern")
            relay.stop()
            milter = self.relayd(
                f"milter scan {daemon.where}\nask scan\naccept to @example.com\n"
                f"route any via out\nnext-hop out smtp 127.0.0.1:{sink.port}\n",
                name="milter",
            )
            self.assertEqual(self.said(milter)[:3], "250")
            self.assertIn("Gtube pattern", self.said(milter, LETTER + GTUBE + b"\r\n"))


class OthersTests(RealFilters):
    needs = ("opendmarc", "policyd-spf")

    def test_opendmarc_and_policyd_spf(self) -> None:
        daemon = Opendmarc(self)
        # without a configuration it skips clients of this machine, and says so
        spf = spawned(self, [program("policyd-spf"), "/dev/null"], self.folder / "spf")
        with Sink() as sink:
            relay = self.asking(
                sink, f"policy spf {spf}\nmilter dmarc {daemon.where}\nask spf\nask dmarc\n"
            )
            self.assertEqual(self.said(relay)[:3], "250")
            content = sink.wait(1)[0].content
            self.assertTrue(content.startswith(b"Authentication-Results: gw.example.com"), content)
            self.assertIn(b"\r\nX-Comment: SPF check N/A for local", content)


class PymilterTests(RealFilters):
    needs = ("pymilter",)

    def test_it_edits_content_and_envelope(self) -> None:
        daemon = PymilterDaemon(self)
        with Sink() as sink:
            relay = self.asking(sink, f"milter edits {daemon.where}\nask edits\n")
            with smtplib.SMTP(*relay.address, timeout=60) as client:
                client.ehlo("client.example")
                client.mail("ann@example.org")
                self.assertEqual(client.rcpt("info@example.com")[0], 250)
                self.assertEqual(client.rcpt("refused@example.com"), (550, b"5.7.1 Not % him"))
                self.assertEqual(client.data(LETTER)[0], 250)
            (arrived,) = sink.wait(1)
            self.assertEqual(arrived.sender, "other@example.org")
            self.assertEqual(arrived.recipients, ("info@example.com", "extra@example.com"))
            self.assertIn(b"\r\nSubject: changed\r\n", arrived.content)
            self.assertTrue(
                arrived.content.endswith(b"X-By: pymilter\r\n\r\nanother\r\nbody\r\n"),
                arrived.content,
            )
            wait_until(lambda: "milter edits" in relay.log(), "the log says who refused")


class RulesTests(RealFilters):
    def test_a_session_from_before_the_rules_asked_anybody_comes_again_to_be_asked(self) -> None:
        """After a reload that brings the first `ask` nobody sends a message past it."""
        milter = Milter(self, answers=lambda letter, data: (b"r" if letter == b"M" else b"c", b""))
        with Sink() as sink:
            relay = self.asking(sink, "")
            with contextlib.ExitStack() as sessions:
                new, greeted, reset, used, within = (
                    sessions.enter_context(smtplib.SMTP(*relay.address, timeout=60))
                    for _ in range(5)
                )
                for each in (greeted, reset, used, within):
                    each.ehlo("client.example")
                for each in (reset, within):
                    each.mail("ann@example.org")
                used.sendmail("ann@example.org", ["info@example.com"], LETTER)
                rules = relay.config.read_text("utf-8")
                relay.config.write_text(f"{rules}milter m {milter.where}\nask m\n", "utf-8")
                relay.ctl("reload")
                within.rcpt("info@example.com")  # what has begun goes by the rules of its beginning
                self.assertEqual(within.data(LETTER)[0], 250)
                new.ehlo("client.example")
                reset.rset()
                for each in (new, greeted, reset, used, within):
                    self.assertEqual(each.mail("ann@example.org")[0], 421)
                    with self.assertRaises(smtplib.SMTPServerDisconnected):
                        each.noop()
            self.assertEqual(self.said(relay), "550 5.7.1 Command rejected")
            self.assertEqual(len(sink.wait(2)), 2)

    def test_a_policy_service_is_asked_about_the_message_where_its_content_decides(self) -> None:
        policy = Policy(self, lambda asked: "HOLD too big")
        with Sink() as sink:
            relay = self.asking(sink, f"policy big {policy.where}\nask big when size > 1KB\n")
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertEqual(self.said(relay, LETTER + b"x" * 70 + b"\r\n" * 1024)[:3], "250")
            self.assertEqual(len(sink.wait(1)), 1)
            self.assertIn("hold by big: too big", relay.ctl("queue").stdout)
            (asked,) = policy.requests
            self.assertIn("protocol_state=END-OF-MESSAGE", asked)
            told = relay.ctl("explain", "--with", "size > 2KB", "info@example.com").stdout
            self.assertRegex(told, r"ask +relayd\.conf:\d+ +policy big\n")

    def test_what_filters_say_is_in_the_trail(self) -> None:
        milter = Milter(
            self, edits=lambda fields, content: [(b"q", b"smells\0"), insert(1, "X-In", "yes")]
        )
        with Sink() as sink:
            silent = Milter(self)
            policy = Policy(self, lambda asked: "DUNNO")
            relay = self.asking(
                sink,
                f"milter nose {milter.where}\nmilter silent {silent.where}\n"
                f"policy grey {policy.where}\npolicy others {policy.where}\n"
                "ask nose, silent, grey\nask others login any\n",
            )
            said = self.said(relay)
            told = relay.ctl("why", said.split()[-1]).stdout
            self.assertRegex(told, r"ask +relayd\.conf:\d+ +milter nose +added a header field; q")
            self.assertIn("hold by nose: smells", told)
            self.assertRegex(
                relay.ctl("held").stdout, "<info@example.com>  450 4.7.0 Held by.*smells"
            )
            self.assertRegex(told, r"ask +relayd\.conf:\d+ +milter silent\n")
            self.assertRegex(told, r"ask +relayd\.conf:\d+ +policy grey\n")
            self.assertNotIn("others", told)
            self.assertEqual(sink.arrived, [])

    def test_what_they_want_of_the_envelope_counts_in_its_order(self) -> None:
        """As in Postfix; and what is no path changes nothing, least of all to the null one."""
        wanted = [
            no_recipient("<info@example.com>"),
            recipient("<info@example.com>"),
            recipient("<new@example.com>"),
            no_recipient("<new@EXAMPLE.com>"),
            sender("<@>"),
            recipient("<@>"),
        ]
        milter = Milter(self, edits=lambda fields, content: wanted)
        with Sink() as sink:
            relay = self.asking(sink, f"milter m {milter.where}\nask m\n")
            self.assertEqual(self.said(relay)[:3], "250")
            (arrived,) = sink.wait(1)
            self.assertEqual(arrived.recipients, ("info@example.com",))
            self.assertEqual(arrived.sender, "ann@example.org")
            wait_until(lambda: "a sender that is none" in relay.log(), "it is told")
            wait_until(lambda: "a recipient that is none" in relay.log(), "it is told")

    def test_who_is_redirected_to_himself_gets_his_mail(self) -> None:
        policy = Policy(self, lambda asked: "REDIRECT info@example.com")
        with Sink() as sink:
            relay = self.asking(sink, f"policy p {policy.where}\nask p\n")
            self.assertEqual(self.said(relay)[:3], "250")
            self.assertEqual(sink.wait(1)[0].recipients, ("info@example.com",))

    def test_a_header_section_alone_loses_no_field(self) -> None:
        """Content without an empty line, as some devices send it."""
        alone = b"From: ann@example.org\r\nSubject: nothing more\r\n"
        policy = Policy(self, lambda asked: "PREPEND X-P: y")
        milter = Milter(self, edits=lambda fields, content: [insert(1, "X-M", fields["subject"])])
        rules = f"policy p {policy.where}\nmilter m {milter.where}\nask p\nask m\n"
        with Sink() as sink:
            relay = self.asking(sink, rules)
            self.assertEqual(self.said(relay, alone)[:3], "250")
            content = sink.wait(1)[0].content
            self.assertTrue(content.endswith(b"\r\nX-P: y\r\n" + alone + b"\r\n"), content)
            self.assertIn(b"\r\nX-M: nothing more\r\n", content)

    def test_they_see_nobody_speak_in_our_name_and_may_do_so_themselves(self) -> None:
        forged = b"Authentication-Results: gw.example.com; dkim=pass header.d=bank.example\r\n"
        seen: list[str] = []

        def edits(fields: dict[str, str], content: bytes) -> list[Packet]:
            seen.append(fields.get("authentication-results", "none"))
            return [insert(1, "Authentication-Results", "gw.example.com; x-test=pass")]

        milter = Milter(self, edits=edits)
        with Sink() as sink:
            rules = f"milter m {milter.where}\nask m\nhold when dkim pass @nowhere.example\n"
            relay = self.asking(sink, rules)
            for content in (forged + LETTER, forged):
                self.assertEqual(self.said(relay, content)[:3], "250")
            for arrived in sink.wait(2):
                self.assertNotIn(b"bank.example", arrived.content)
                self.assertIn(b"\r\nAuthentication-Results: gw.example.com; x-", arrived.content)
            self.assertEqual(seen, ["none", "none"])

    def test_who_is_refused_by_one_who_is_asked_counts_for_no_limit(self) -> None:
        policy = Policy(
            self, lambda asked: "DUNNO" if asked["recipient"].startswith("info") else "REJECT"
        )
        rules = f"limit few 2/1h per client\ndefer when over few\npolicy p {policy.where}\nask p\n"
        with Sink() as sink:
            relay = self.asking(sink, rules)
            with smtplib.SMTP(*relay.address, timeout=60) as client:
                client.ehlo("client.example")
                client.mail("ann@example.org")
                for name in ("a", "b", "c", "d"):
                    self.assertEqual(client.rcpt(f"{name}@example.com")[0], 554)
                for name, code in (("info1", 250), ("info2", 250), ("info3", 451)):
                    self.assertEqual(client.rcpt(f"{name}@example.com")[0], code)

    def test_clean_is_said_of_a_whole_message_only(self) -> None:
        """Who says so before all of it was there speaks of something else."""

        def early(says: bytes) -> Callable[[socket.socket], None]:
            def serve(connection: socket.socket) -> None:
                connection.sendall(says)
                time.sleep(2)
                while connection.recv(65536):
                    pass

            return serve

        # more than fits into the buffers between
        long = LETTER + (b"x" * 900 + b"\r\n") * 10_000
        report = b'{"action":"%s","score":1}'
        clean, bad = (
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(said), said)
            for said in (report % b"no action", report % b"reject")
        )
        with Sink() as sink:
            for number, (kind, says, code) in enumerate(
                (
                    ("clamd", b"stream: OK\0", "451"),
                    ("clamd", b"stream: Eicar FOUND\0", "554"),
                    ("rspamd", clean, "451"),
                    ("rspamd", bad, "554"),
                )
            ):
                listening = Listening(self, early(says))
                listening.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                where = listening.where
                where = f"http://{where}" if kind == "rspamd" else where
                relay = self.relayd(
                    f"{kind} f {where}\nask f\naccept to @example.com\nroute any via out\n"
                    f"next-hop out smtp 127.0.0.1:{sink.port}\n",
                    name=f"early{number}",
                )
                with self.subTest(says):
                    self.assertEqual(self.said(relay, long)[:3], code)
                relay.stop()
            self.assertEqual(sink.arrived, [])

    def test_scores_and_symbols_decide_with_two_workers(self) -> None:
        def serve(connection: socket.socket) -> None:
            stream = connection.makefile("rb")
            head = b"".join(iter(stream.readline, b"\r\n"))
            asked.append(head.decode())
            size = int(re.findall(rb"Content-Length: (\d+)", head)[0])
            spam = re.findall(rb"score-(\d+)", stream.read(size))
            report = {
                "action": "reject",
                "score": float(spam[0]) if spam else 0.5,
                "symbols": {"BAYES_SPAM": {}} if spam else {},
                "milter": {"add_headers": {"X-Checked": {"value": "yes", "order": 0}}},
            }
            body = json.dumps(report).encode()
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(answer + body)

        asked: list[str] = []
        rules = (
            f"rspamd scan http://{Listening(self, serve).where}\nask scan\n"
            'hold when score scan >= 15 "spam?"\nheader add X-Spam "yes" when score scan >= 6\n'
            "reject when symbol scan BAYES_SPAM and score scan > 30\n"
        )
        with Sink() as sink:
            relay = self.asking(sink, rules, start=False)
            config = relay.config.read_text("utf-8").replace("workers 1\n", "workers 2\n")
            relay.config.write_text(config, "utf-8")
            relay.start()
            for number, expected in ((0, "250"), (7, "250"), (20, "250"), (31, "550")):
                said = self.said(relay, LETTER + (b"score-%d\r\n" % number if number else b""))
                self.assertEqual(said[:3], expected)
                if number == 20:
                    told = relay.ctl("why", said.split()[-1]).stdout
                    self.assertIn("score scan 20", told)
            arrived = [each.content for each in sink.wait(2)]  # of two workers, in any order
            plain, marked = sorted(arrived, key=lambda content: b"X-Spam" in content)
            self.assertIn(b"\r\nX-Checked: yes\r\nFrom: ", plain)
            self.assertNotIn(b"X-Spam", plain)
            self.assertIn(b"\r\nX-Spam: yes\r\n", marked)
            self.assertIn("Held by rule", relay.ctl("queue").stdout)
            (figures,) = json.loads(relay.ctl("filters", "--json").stdout)["filters"]
            self.assertEqual((figures["asked"], figures["trouble"]), (4, 0))
            told = relay.ctl("explain", "--with", "score scan 20", "info@example.com").stdout
            self.assertIn("accepted, then: hold", told)
            for name in ("Ip: 127.0.0.1", "Helo: client.example", "From: ann@example.org",
                         "Rcpt: info@example.com", "Hostname: localhost"):  # fmt: skip
                self.assertIn(name + "\r\n", asked[0])
