"""Next hops without 8BITMIME get 8-bit mail in 7 bits, and read the same parts."""

from __future__ import annotations

import email

from tests.scenarios import peers
from tests.scenarios.corpus import Sample, corpus
from tests.scenarios.harness import Scenario, wait_until
from tests.sink import Sink
from tests.unit.mime.test_conversion import parts

ANN = "ann@sender.example"


def samples() -> list[Sample]:
    """Those that can be put in 7 bits."""
    return [sample for sample in corpus() if not sample.utf8_header]


class WithoutEightBitMime(Scenario):
    needs = ("postfix",)

    def test_postfix_reads_the_same_parts(self) -> None:
        postfix = peers.Postfix(
            self,
            domains=["example.com", "sender.example"],
            extra="smtpd_discard_ehlo_keywords = 8bitmime, smtputf8\n",
        )
        relay = self.relayd(
            f"next-hop old smtp 127.0.0.1:{postfix.port}\n"
            f"next-hop strict smtp 127.0.0.1:{postfix.port} no-conversion\n"
            "accept from 127.0.0.0/8\nroute to strict@example.com via strict\nroute any via old\n"
        )
        sent = samples()
        for sample in sent:
            options = ["BODY=8BITMIME"] if sample.eight_bit else []
            ident = relay.send(ANN, ["bob@example.com"], sample.content, mail_options=options)
        wait_until(lambda: len(postfix.mailbox()) == len(sent), "Postfix stored everything", 300)
        kept = {email.message_from_bytes(each)["X-Corpus"]: each for each in postfix.mailbox()}
        for sample in sent:
            found = kept[sample.name]
            self.assertTrue(found.isascii(), sample.name)
            self.assertEqual(parts(found), parts(sample.content), sample.name)
            if not sample.eight_bit:
                self.assertTrue(found.endswith(sample.content), sample.name)
        # what is not to be converted is refused, and who wrote it hears why
        eight_bit = next(sample for sample in sent if sample.eight_bit)
        ident = relay.send(
            ANN, ["strict@example.com"], eight_bit.content, mail_options=["BODY=8BITMIME"]
        )
        # a Postfix that is busy may turn us away first
        wait_until(lambda: relay.settled(ident)["state"] == "failed", "it is refused")
        refused = relay.settled(ident)
        self.assertEqual(refused["reply"], "554 5.6.3 Next hop takes no 8-bit content")

    def test_a_hop_by_lmtp_and_what_the_log_says(self) -> None:
        sink = Sink(lmtp=True, extensions=("PIPELINING", "ENHANCEDSTATUSCODES"))
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop store lmtp 127.0.0.1:{sink.port}\naccept from 127.0.0.0/8\n"
            "route any via store\n"
        )
        content = (
            b"DKIM-Signature: v=1; a=rsa-sha256; d=sender.example; s=x; b=AAAA\r\n"
            b"Subject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe aus dem Norden und mehr\r\n"
        )
        ident = relay.send(ANN, ["bob@example.com"], content, mail_options=["BODY=8BITMIME"])
        (arrived,) = sink.wait(1)
        self.assertTrue(arrived.content.isascii())
        self.assertEqual(parts(arrived.content)[0][3], parts(content)[0][3])
        self.assertEqual(relay.settled(ident)["state"], "delivered")
        relay.logged(
            'why="converted to 7 bits, which breaks its signatures: DKIM of sender.example"'
        )
