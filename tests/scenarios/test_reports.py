"""Reports arrive, whatever their way back can carry, and nobody is flooded with them."""

from __future__ import annotations

import email
import json
import smtplib
import ssl
from email.message import Message

from tests.certs import Authority
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import EXTENSIONS, STALL, Asked, Script, Sink

ANN = "ann@sender.example"
UTF8 = "дмитрий@sender.example"
SEVEN_BITS = tuple(each for each in EXTENSIONS if each not in ("8BITMIME", "SMTPUTF8"))
EIGHT = "Subject: from the sea\r\n\r\nwohlgemüt\r\n".encode()
REFUSED = "550 5.1.1 no such mailbox"


def refuse(asked: Asked) -> str | None:
    return REFUSED if asked.stage == "rcpt" else None


def parts(content: bytes) -> list[Message]:
    found = email.message_from_bytes(content).get_payload()
    assert isinstance(found, list)
    return [part for part in found if isinstance(part, Message)]


class Reports(Scenario):
    """A next hop that refuses, a way back, and a postmaster."""

    def sink(self, script: Script | None = None, **options: object) -> Sink:
        sink = Sink(script, **options)  # type: ignore[arg-type]
        self.addCleanup(sink.stop)
        return sink

    def world(
        self, back: Sink, *, hops: str = "", lmtp: bool = False, settings: str = ""
    ) -> Relayd:
        self.out = self.sink(refuse)
        self.boss = self.sink()
        protocol = "lmtp" if lmtp else "smtp"
        return self.relayd(
            f"next-hop out smtp 127.0.0.1:{self.out.port}\n"
            f"next-hop back {protocol} 127.0.0.1:{back.port}\n"
            f"next-hop boss smtp 127.0.0.1:{self.boss.port}\n"
            f"{hops}"
            "accept from 127.0.0.0/8\n"
            "forward postmaster@gw.example.com -> boss@corp.example\n"
            "route to @sender.example via back\n"
            "route to @corp.example via boss\n"
            "route any via out\n",
            settings=settings,
        )

    def lost(self, relay: Relayd) -> int:
        status = json.loads(relay.ctl("status", "--json").stdout)
        return sum(shard["lost_reports"] for shard in status["shards"])

    def check_headers_only(self, content: bytes) -> None:
        self.assertTrue(content.isascii())
        self.assertIn(b"Final-Recipient: rfc822; bob@example.com", content)
        last = parts(content)[2]
        self.assertEqual(last.get_content_type(), "text/rfc822-headers")
        data = last.get_payload(decode=True)
        assert isinstance(data, bytes)
        self.assertIn(b"Subject: from the sea", data)
        self.assertNotIn("wohlgemüt".encode(), data)


class TheWayBack(Reports):
    def check_smaller(self, back: Sink, content: bytes = EIGHT, *, lmtp: bool = False) -> None:
        relay = self.world(back, lmtp=lmtp)
        relay.send(ANN, ["bob@example.com"], content, mail_options=["BODY=8BITMIME"])
        (report,) = back.wait(1)
        self.check_headers_only(report.content)
        relay.wait_empty()
        self.assertEqual((len(back.arrived), self.lost(relay)), (1, 0))
        self.assertEqual(self.boss.arrived, [])

    def check_converted(self, back: Sink, *, lmtp: bool = False) -> None:
        """The whole message comes back, in 7 bits."""
        relay = self.world(back, lmtp=lmtp)
        relay.send(ANN, ["bob@example.com"], EIGHT, mail_options=["BODY=8BITMIME"])
        (report,) = back.wait(1)
        self.assertTrue(report.content.isascii())
        self.assertIn(b"Final-Recipient: rfc822; bob@example.com", report.content)
        last = parts(report.content)[2]
        self.assertEqual(last.get_content_type(), "message/rfc822")
        returned = last.get_payload(0)
        assert isinstance(returned, Message)
        self.assertEqual(returned["Subject"], "from the sea")
        self.assertEqual(returned.get_payload(decode=True), "wohlgemüt\r\n".encode())
        relay.wait_empty()
        self.assertEqual((len(back.arrived), self.lost(relay)), (1, 0))

    def test_without_8bitmime(self) -> None:
        self.check_converted(self.sink(extensions=SEVEN_BITS))

    def test_without_8bitmime_by_lmtp(self) -> None:
        self.check_converted(self.sink(extensions=SEVEN_BITS, lmtp=True), lmtp=True)

    def test_without_8bitmime_a_raw_header(self) -> None:
        content = b"X-Raw: gr\xfcn\r\n" + EIGHT
        self.check_smaller(self.sink(extensions=SEVEN_BITS), content)

    def test_with_a_small_size(self) -> None:
        extensions = ("SIZE 9000", "8BITMIME", "ENHANCEDSTATUSCODES")
        content = EIGHT + b"x" * 70 + (b"\r\n" + b"y" * 70) * 300 + b"\r\n"
        self.check_smaller(self.sink(extensions=extensions), content)

    def test_that_says_552_to_what_is_large(self) -> None:
        said: list[str] = []

        def once(asked: Asked) -> str | None:
            if asked.stage == "content" and not said:
                said.append(asked.argument)
                return "552 5.3.4 too large for me"
            return None

        self.check_smaller(self.sink(once))

    def test_with_8bitmime_the_message_comes_back_whole(self) -> None:
        back = self.sink()
        relay = self.world(back)
        relay.send(ANN, ["bob@example.com"], EIGHT, mail_options=["BODY=8BITMIME"])
        (report,) = back.wait(1)
        self.assertIn(EIGHT, report.content)

    def test_without_smtputf8_for_a_sender_that_needs_it(self) -> None:
        relay = self.world(self.sink(extensions=SEVEN_BITS))
        relay.send(UTF8, ["bob@example.com"], EIGHT, mail_options=["BODY=8BITMIME", "SMTPUTF8"])
        (copy,) = self.boss.wait(1)
        self.assertEqual((copy.sender, copy.recipients), ("", ("boss@corp.example",)))
        self.assertTrue(copy.content.isascii())
        self.assertIn(b"Subject: A report could not be delivered", copy.content)
        self.assertIn(b"Final-Recipient: rfc822; bob@example.com", copy.content)
        self.assertIn(("NOTIFY=NEVER",), copy.recipient_parameters)
        relay.wait_empty()
        self.assertEqual(self.lost(relay), 1)
        relay.logged('trouble event="report lost"')

    def test_refused_for_good_the_postmaster_hears_and_then_nobody(self) -> None:
        relay = self.world(self.sink(refuse))
        self.boss.script = refuse
        relay.send(ANN, ["bob@example.com"])
        wait_until(lambda: self.lost(relay) == 2, "both are counted")
        relay.wait_empty()
        self.assertEqual(self.boss.arrived, [])

    def test_a_success_report_is_made_smaller_too(self) -> None:
        back = self.sink(extensions=("PIPELINING", "SIZE 2500"))
        relay = self.world(back)
        self.out.script = None
        self.out.extensions = SEVEN_BITS[:2]  # no DSN: we report
        header = b"Subject: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"y" * 60) for n in range(60))
        relay.send(ANN, ["bob@example.com"], header + b"\r\nx\r\n", rcpt_options=["NOTIFY=SUCCESS"])
        (report,) = back.wait(1)
        self.assertIn(b"Action: relayed", report.content)
        self.assertEqual(len(parts(report.content)), 2)

    def test_to_a_sender_whose_mail_is_thrown_away(self) -> None:
        table = self.room("tables") / "transport"
        table.write_text("sender.example discard:\n")
        hops = f"table thrown transport file {table}\nroute <thrown>\n"
        relay = self.world(self.sink(), hops=hops)
        ident = relay.send(ANN, ["bob@example.com"])
        self.assertEqual(relay.settled(ident)["state"], "failed")
        relay.wait_empty()
        relay.logged("kind=failed")
        self.assertEqual((self.boss.arrived, self.lost(relay)), ([], 0))


class RequiredTls(Reports):
    """RFC 8689 section 5: the way back has no TLS at all."""

    def test_the_report_arrives_but_tells_nothing_in_the_clear(self) -> None:
        room = self.room("tls")
        chain, key = Authority().issue("127.0.0.1").write(room, "gw")
        back = self.sink()
        relay = self.world(back, settings=f"certificate {chain} key {key}\ngive-up 4s\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", relay.port, timeout=60) as client:
            client.starttls(context=context)
            client.ehlo()
            self.assertEqual(client.mail(ANN, ["REQUIRETLS", "RET=FULL"])[0], 250)
            self.assertEqual(client.rcpt("bob@example.com")[0], 250)
            self.assertEqual(client.data(b"Subject: secret\r\n\r\nvery secret\r\n")[0], 250)
        (report,) = back.wait(1)
        self.assertIn(b"Final-Recipient: rfc822; bob@example.com", report.content)
        self.assertIn(b"Action: failed", report.content)
        self.assertNotIn(b"secret", report.content)
        self.assertNotIn("REQUIRETLS", report.sender_parameters)
        relay.wait_empty()
        self.assertEqual((len(back.arrived), self.lost(relay)), (1, 0))
        self.assertEqual(self.out.arrived, [])


class OneReport(Reports):
    def hops(self, sinks: list[Sink]) -> str:
        lines = [f"next-hop hop{n} smtp 127.0.0.1:{sink.port}\n" for n, sink in enumerate(sinks)]
        lines += [f"route to @d{n}.example via hop{n}\n" for n in range(len(sinks))]
        return "".join(lines)

    def test_thirty_recipients_at_thirty_next_hops(self) -> None:
        back, dead = self.sink(), self.sink(refuse)
        relay = self.world(back, hops=self.hops([dead] * 30))
        relay.send(ANN, [f"u@d{number}.example" for number in range(30)])
        (report,) = back.wait(1)
        relay.wait_empty()
        self.assertEqual(len(back.arrived), 1)
        for number in range(30):
            self.assertIn(f"Final-Recipient: rfc822; u@d{number}.example".encode(), report.content)

    def test_killed_while_bad_news_waits_nobody_is_left_out(self) -> None:
        stalling = [True]

        def stall(asked: Asked) -> str | None:
            if asked.stage != "rcpt":
                return None
            return STALL if stalling[0] else REFUSED

        back, dead, slow = self.sink(), self.sink(refuse), self.sink(stall)
        relay = self.world(back, hops=self.hops([dead, slow]))
        ident = relay.send(ANN, ["u@d0.example", "u@d1.example"])
        wait_until(lambda: slow.sessions and dead.sessions, "both are asked")
        wait_until(lambda: "status=bounced" in relay.log(400), "the refusal has come")
        self.assertEqual(relay.show(ident)["recipients"][0]["state"], "queued")
        relay.kill()
        stalling[0] = False
        self.assertEqual(back.arrived, [])
        relay.start()
        relay.wait_empty()
        told = b"".join(each.content for each in back.arrived)
        for number in (0, 1):
            self.assertIn(f"Final-Recipient: rfc822; u@d{number}.example".encode(), told)

    def test_stopping_tells_what_is_known(self) -> None:
        def stall(asked: Asked) -> str | None:
            return STALL if asked.stage == "rcpt" else None

        back, dead, slow = self.sink(), self.sink(refuse), self.sink(stall)
        relay = self.world(back, hops=self.hops([dead, slow]))
        ident = relay.send(ANN, ["u@d0.example", "u@d1.example"])
        wait_until(lambda: "status=bounced" in relay.log(400), "the refusal has come")
        self.assertEqual(relay.show(ident)["recipients"][0]["state"], "queued")
        self.assertEqual(relay.stop(), 0)
        slow.script = None
        relay.start()
        relay.wait_empty()
        self.assertEqual([b"u@d0.example" in each.content for each in back.arrived], [True])


class Strangers(Reports):
    """A forged sender is a victim."""

    def setUp(self) -> None:
        super().setUp()
        self.back = self.sink()
        self.ours = self.sink()
        self.relay = self.relayd(
            f"next-hop ours smtp 127.0.0.1:{self.ours.port}\n"
            f"next-hop back smtp 127.0.0.1:{self.back.port}\n"
            "accept to @ours.example\n"
            "route to @ours.example via ours\nroute any via back\n"
        )
        self.everybody = [f"u{number}@ours.example" for number in range(1000)]

    def spam(self, notify: str) -> None:
        content = b"Subject: buy\r\n\r\n" + b"spam spam spam\r\n" * 2000
        self.relay.send(
            ANN, self.everybody, content, mail_options=["RET=FULL"], rcpt_options=[notify]
        )

    def test_success_is_not_told_and_not_passed_on(self) -> None:
        self.spam("NOTIFY=SUCCESS")
        arrived = self.ours.wait(10)
        self.relay.wait_empty()
        self.assertEqual(self.back.arrived, [])
        for each in arrived:
            self.assertIn("RET=HDRS", each.sender_parameters)
            self.assertEqual(set(each.recipient_parameters), {("NOTIFY=NEVER",)})

    def test_a_thousand_failures_are_one_report_without_the_spam(self) -> None:
        self.ours.script = refuse
        self.spam("NOTIFY=SUCCESS,FAILURE")
        (report,) = self.back.wait(1)
        self.relay.wait_empty()
        self.assertEqual(len(self.back.arrived), 1)
        self.assertNotIn(b"spam spam", report.content)
        self.assertLess(len(report.content), 300_000)
        self.assertEqual(report.content.count(b"Final-Recipient:"), 1000)
