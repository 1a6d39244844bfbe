"""The peers against each other, without relayd: what a failing scenario cannot be blamed on."""

from __future__ import annotations

import smtplib

from relayd.authentication.dkimsigning import SigningKey, new_private_key, private_key
from tests.scenarios import peers
from tests.scenarios.harness import Scenario, program, run, wait_until
from tests.scenarios.mailauth import Received, Seal, mailauth
from tests.scenarios.network import Network
from tests.sink import Asked, Sink
from tests.unit.authentication.test_dkim import RFC, RFC_BODY, RFC_KEY

MESSAGE = (
    b"From: a@example.net\r\nTo: ann@example.com\r\nSubject: hi\r\n"
    b"Message-ID: <1@example.net>\r\nDate: Mon, 5 Jan 2026 10:00:00 +0000\r\n\r\n"
    b"one\r\n.\r\n..two\r\n"
)


class SwaksPostfixDovecot(Scenario):
    needs = ("swaks", "postfix", "dovecot")

    def test_message_is_read_back_by_imap_and_pop3(self) -> None:
        dovecot = peers.Dovecot(self, ["ann@example.com"])
        postfix = peers.Postfix(
            self,
            relayhost="",
            extra=f"relay_domains = example.com\nrelay_transport = lmtp:unix:{dovecot.socket}\n",
        )
        swaks = [program("swaks"), "--server", f"127.0.0.1:{postfix.port}", "--from", "a@b.example"]
        run([*swaks, "--to", "ann@example.com", "--header", "Subject: by swaks"])
        try:
            wait_until(lambda: dovecot.by_imap("ann@example.com"), "Dovecot stored it")
        except AssertionError:
            self.fail(postfix.log() + dovecot.log())
        self.assertIn(b"Subject: by swaks\r\n", dovecot.by_imap("ann@example.com")[0])
        self.assertIn(b"Subject: by swaks\r\n", dovecot.by_pop3("ann@example.com")[0])


class Sinks(Scenario):
    def test_sink_keeps_what_smtplib_sent(self) -> None:
        with Sink() as sink, smtplib.SMTP("127.0.0.1", sink.port) as client:
            client.sendmail("a@b.example", ["c@d.example"], MESSAGE)
            self.assertEqual(sink.wait(1)[0].content, MESSAGE)

    def test_script_answers_one_recipient_and_kill_is_a_reset(self) -> None:
        def script(asked: Asked) -> str | None:
            no = asked.stage == "rcpt" and asked.argument.startswith("no@")
            return "550 5.1.1 no" if no else None

        with Sink(script) as sink:
            client = smtplib.SMTP("127.0.0.1", sink.port)
            refused = client.sendmail("a@b.example", ["c@d.example", "no@d.example"], MESSAGE)
            self.assertEqual(list(refused), ["no@d.example"])
            self.assertEqual(sink.wait(1)[0].recipients, ("c@d.example",))
            sink.kill()
            self.assertRaises((smtplib.SMTPServerDisconnected, OSError), client.noop)
            client.close()
            sink.start()
            smtplib.SMTP("127.0.0.1", sink.port).quit()


class Submitters(Scenario):
    needs = ("postfix", "exim")

    def test_postfix_and_exim_hand_on_the_bytes(self) -> None:
        with Sink(extensions=("PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING")) as sink:
            postfix = peers.Postfix(self, relayhost=f"[127.0.0.1]:{sink.port}")
            postfix.submit("a@b.example", ["c@d.example"], MESSAGE)
            for exim in (
                peers.Exim(self, sink.port),
                peers.Exim(self, sink.port, chunking=True),
            ):
                exim.submit("a@b.example", ["c@d.example"], MESSAGE)
            arrived = sink.wait(3)
        for message in arrived:
            self.assertTrue(message.content.endswith(MESSAGE), message)
        self.assertEqual(sorted(message.verb for message in arrived), ["BDAT", "DATA", "DATA"])

    def test_postfix_stores_for_its_domains(self) -> None:
        store = peers.Postfix(self, "store", domains=["example.com"])
        with smtplib.SMTP("127.0.0.1", store.port) as client:
            client.sendmail("a@b.example", ["ann@example.com"], MESSAGE)
        (kept,) = wait_until(store.mailbox, "Postfix stored it")
        self.assertTrue(kept.endswith(MESSAGE))


class Verifiers(Scenario):
    needs = ("mailauth",)

    def test_mailauth_verifies_rfc_8463_and_spf_and_seals(self) -> None:
        pem = new_private_key(ed25519=False)
        seal = SigningKey("gw.example.com", "a", private_key(pem))
        records = {
            "brisbane._domainkey.football.example.com": {"TXT": [RFC_KEY]},
            "football.example.com": {"TXT": ["v=spf1 mx -all"], "MX": ["10 mx.example"]},
            "mx.example": {"A": ["192.0.2.1"]},
            "_dmarc.football.example.com": {"TXT": ["v=DMARC1; p=reject"]},
            seal.key_name: {"TXT": [seal.record]},
        }
        sender = "joe@football.example.com"
        good = Received(RFC + RFC_BODY, sender=sender)
        changed = Received(RFC + RFC_BODY + b"more\r\n", ip="192.0.2.2", sender=sender)
        first, second = mailauth(
            [good, changed], records, seal=Seal(seal.domain, seal.selector, pem)
        )
        self.assertEqual((first.spf, first.dmarc, first.arc), ("pass", "pass", "none"))
        self.assertEqual([one.result for one in first.dkim], ["pass"])
        self.assertEqual((first.dkim[0].domain, first.dkim[0].algorithm),
                         ("football.example.com", "ed25519-sha256"))  # fmt: skip
        self.assertEqual((second.spf, second.dmarc), ("fail", "fail"))
        self.assertEqual([one.result for one in second.dkim], ["neutral"])
        sealed = Received(first.fields + good.content, sender=sender)
        self.assertEqual(mailauth([sealed], records)[0].arc, "pass")


class Namespaces(Scenario):
    needs = ("netns", "nsd", "unbound", "postfix")

    def test_hosts_names_and_port_25(self) -> None:
        with Network() as net:
            net.host("gw", "192.0.2.1/24", "2001:db8::1/64")
            dns = net.host("dns", "192.0.2.53/24")
            mx = net.host("mx", "192.0.2.25/24", "2001:db8::25/64")
            peers.NameServer(
                self,
                {"a.example": "@ MX 10 mx\nmx A 192.0.2.25\n", "broken.example": None},
                address="192.0.2.53",
                enter=dns.enter,
            )
            with Sink(bind=mx.bind("2001:db8::25", 25)) as six:
                code = "import smtplib,sys; smtplib.SMTP(sys.argv[1]).sendmail('a@b','c@d',b'hi')"
                run(["python3", "-c", code, "2001:db8::25"], enter=net.hosts["gw"].enter)
                self.assertEqual(six.wait(1)[0].peer, "2001:db8::1")
            postfix = peers.Postfix(
                self,
                domains=["a.example"],
                address="192.0.2.25",
                port=25,
                enter=mx.enter,
            )
            code = (
                "import smtplib,sys; smtplib.SMTP(sys.argv[1]).sendmail('a@b','c@a.example',b'h')"
            )
            run(["python3", "-c", code, "192.0.2.25"], enter=net.hosts["gw"].enter)
            wait_until(postfix.mailbox, "Postfix on port 25 of its own host stored it")
            postfix.stop()
