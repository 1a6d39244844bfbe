"""What each reply of the large providers means, whatever class its code is of."""

from __future__ import annotations

import unittest

from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Blame, Meaning, Outcome
from relayd.mail.reply import Reply, Severity
from relayd.relay.replies import ROWS, row_of
from relayd.relay.survey import Endpoint, Terms
from relayd.relay.trouble import consequence, unwelcome
from relayd.smtp.events import End, TransactionDone, TransactionStage, Unwelcome
from relayd.smtp.extensions import Extensions

SLOWER, LIMIT, BLOCKED = Meaning.SLOWER, Meaning.LIMIT, Meaning.BLOCKED
UNAUTHENTICATED, CONTENT, FULL = Meaning.UNAUTHENTICATED, Meaning.CONTENT, Meaning.FULL
RECIPIENT, TEMPORARY = Meaning.RECIPIENT, Meaning.TEMPORARY

FACTS = (
    ("google", "421 4.7.28 an unusual rate. UnsolicitedRateLimitError", SLOWER),
    ("google", "421 4.7.28 Our system has detected an unusual rate of unsolicited mail", SLOWER),
    ("google", "550 5.7.28 There is an unusual rate of mail from your IP", SLOWER),
    ("google", "421 4.7.0 TLS required for RCPT domain, closing connection", TEMPORARY),
    ("google", "421 4.7.29 Connection is not encrypted", TEMPORARY),
    ("google", "450 4.2.1 The user is receiving mail too quickly. ReceivingRate", RECIPIENT),
    ("google", "550 5.2.1 is receiving mail at a rate that prevents. ReceivingRatePerm", RECIPIENT),
    ("google", "452 4.2.2 The email account is over quota. OverQuotaTemp", FULL),
    ("google", "552 5.2.2 The email account is over quota", FULL),
    ("google", "452 4.5.3 Your message has too many recipients", TEMPORARY),
    ("google", "451 4.3.0 Multiple destination domains per transaction is unsupported", TEMPORARY),
    ("google", "421 4.3.0 Temporary System Problem. Try again later", TEMPORARY),
    ("google", "451 4.3.0 Mail server temporarily rejected message", TEMPORARY),
    ("google", "421 4.4.5 Server busy, try again later", TEMPORARY),
    ("google", "550 5.7.26 the sender is unauthenticated", UNAUTHENTICATED),
    ("google", "421 4.7.26 This mail is unauthenticated", UNAUTHENTICATED),
    ("google", "421 4.7.27 SPF did not pass", UNAUTHENTICATED),
    ("google", "421 4.7.30 DKIM did not pass", UNAUTHENTICATED),
    ("google", "421 4.7.32 From: header is not aligned", UNAUTHENTICATED),
    ("google", "550 5.7.1 due to the very low reputation of the sending domain", CONTENT),
    ("google", "550 5.7.1 likely unsolicited mail. UnsolicitedMessageError", CONTENT),
    ("yahoo", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred", SLOWER),
    ("yahoo", "421 4.7.0 [TSS05] Messages from 192.0.2.1 temporarily deferred", SLOWER),
    ("yahoo", "421 4.16.55 [IPTS04] Messages temporarily deferred", SLOWER),
    ("yahoo", "421 4.16.55 [IPTS05] Messages temporarily deferred", SLOWER),
    ("yahoo", "421 4.7.1 [TS03] All messages from 192.0.2.1 will be permanently deferred; "
     "Retrying will NOT succeed.", BLOCKED),
    ("yahoo", "451 deferred [120]", TEMPORARY),
    ("yahoo", "553 5.7.1 [BL21] Connections will not be accepted", BLOCKED),
    ("yahoo", "554 5.7.9 Message not accepted for policy reasons", UNAUTHENTICATED),
    ("yahoo", "421 Max message per connection reached, closing transmission channel", LIMIT),
    ("microsoft", "451 4.7.650 [192.0.2.1] has been temporarily rate limited (S775)", SLOWER),
    ("microsoft", "451 4.7.651 temporarily rate limited due to IP reputation (S3114)", SLOWER),
    ("microsoft", "550 5.7.1 messages from [192.0.2.1] weren't sent. (S3140)", BLOCKED),
    ("microsoft", "550 5.7.1 part of their network is on our block list (S3150)", BLOCKED),
    ("microsoft", "550 5.7.606 Access denied, banned sending IP [192.0.2.1]", BLOCKED),
    ("microsoft", "421 RP-001 The mail server IP has exceeded the rate limit allowed", LIMIT),
    ("microsoft", "421 RP-002 exceeded the rate limit", LIMIT),
    ("microsoft", "421 RP-003 exceeded the connection limit", LIMIT),
    ("microsoft", "421 4.3.2 has exceeded the maximum number of connections", LIMIT),
    ("microsoft", "421 4.3.2 exceeded the maximum number of messages per connection", LIMIT),
    ("microsoft", "421 4.5.3 rejected, IB007", LIMIT),
    ("microsoft", "550 5.7.515 Access denied, sending domain", UNAUTHENTICATED),
    ("apple", "421 4.7.1 [HCM1] Mail from IP was deferred due to volume", SLOWER),
    ("apple", "450 4.7.1 [BS02] Blocked for now", SLOWER),
    ("gmx", "554 Transaction failed, policy restrictions. Too many connections", LIMIT),
    ("orange", "421 mwinf5c10 ME Trop de connexions, veuillez verifier. OFR_104", LIMIT),
    ("qq", "550 Connection frequency limited", SLOWER),
    ("netease", "451 DT:SPM 163 smtp8", CONTENT),
    ("netease", "554 DT:SPM 163 smtp8", CONTENT),
    ("netease", "550 RP:ORQ", SLOWER),
    ("qq", "550 RP:ORQ", SLOWER),
    ("netease", "421 HL:too many connections", LIMIT),
    ("", "421 4.7.28 too much, from anybody", SLOWER),
    ("", "450 4.2.0 <x@y.example>: Recipient address rejected: Greylisted", Meaning.GREYLISTED),
)  # fmt: skip

UNKNOWN = (
    ("", "550 5.7.1 Unfortunately (S3150)"),  # Microsoft's word, of somebody else
    ("google", "550 5.1.1 The email account that you tried to reach does not exist"),
    ("google", "421 4.7.99 something new"),
    ("microsoft", "550 5.5.0 mailbox unavailable (S2017062302)"),
    ("yahoo", "554 delivery error: This user doesn't have an account"),
    ("qq", "550 Mailbox unavailable or access denied"),
    ("nobody", "550 frequency limited"),
)


class Peer:
    def __init__(self, provider: str) -> None:
        self.endpoint = Endpoint("mx.example", "192.0.2.9", 25)
        self.target: NextHop | str = "example.com"
        self.tls = ""
        self.serves_us = False
        self.terms = Terms(provider)
        self.extensions = Extensions({})


def said(provider: str, text: str, stage: TransactionStage = TransactionStage.MAIL) -> Outcome:
    reply = Reply.parse(text)
    end = End.SHUT_DOWN if reply.code == 421 else End.ANSWERED
    last = reply if end is End.SHUT_DOWN else None
    done = TransactionDone((reply,), (stage,), reusable=False, end=end, last=last)
    return consequence(Peer(provider), done, 0).outcome


class Table(unittest.TestCase):
    def test_each_reply_of_the_providers(self) -> None:
        for provider, text, meaning in FACTS:
            with self.subTest(provider=provider, text=text):
                row = row_of(provider, Reply.parse(text))
                assert row is not None
                self.assertIs(row.meaning, meaning)

    def test_each_row_is_said_by_somebody(self) -> None:
        used = {row_of(provider, Reply.parse(text)) for provider, text, _ in FACTS}
        providers = {row.provider for row in used if row is not None}
        self.assertEqual(providers, {row.provider for row in ROWS} - {"comcast"})

    def test_unknown_words_change_nothing(self) -> None:
        for provider, text in UNKNOWN:
            with self.subTest(provider=provider, text=text):
                self.assertIsNone(row_of(provider, Reply.parse(text)))
                outcome, plain = said(provider, text), said("", text)
                self.assertEqual(outcome, plain)
                self.assertEqual(str(outcome.reply), text)


class Consequences(unittest.TestCase):
    def test_what_is_said_of_us_never_ends_the_mail(self) -> None:
        for provider, text, meaning in FACTS:
            outcome = said(provider, text)
            if meaning.of_us:
                with self.subTest(provider=provider, text=text):
                    self.assertIs(outcome.severity, Severity.TRANSIENT)
                    self.assertIs(outcome.blame, Blame.DESTINATION)
                    self.assertIs(outcome.meaning, meaning)
                    self.assertIn(text.split()[-1], outcome.reply.text)

    def test_a_block_in_a_4xx_and_a_rate_in_a_5xx(self) -> None:
        block = said("yahoo", "421 4.7.1 [TS03] Retrying will NOT succeed")
        self.assertIs(block.meaning, BLOCKED)
        rate = said("qq", "550 Connection frequency limited", TransactionStage.RCPT)
        self.assertEqual((rate.reply.code, rate.meaning), (451, SLOWER))

    def test_a_recipient_who_has_his_fill_waits_alone(self) -> None:
        outcome = said("google", "550 5.2.1 ReceivingRatePerm", TransactionStage.RCPT)
        self.assertEqual(
            (outcome.reply.code, outcome.reply.status, outcome.blame),
            (451, "4.2.1", Blame.RECIPIENT),
        )

    def test_what_is_said_of_the_mail_is_as_its_code_says(self) -> None:
        for text in ("550 5.7.1 low reputation", "550 5.7.26 unauthenticated", "552 5.2.2 full"):
            outcome = said("google", text, TransactionStage.END)
            self.assertEqual((str(outcome.reply), outcome.blame), (text, Blame.RECIPIENT))

    def test_a_provider_s_own_time_is_known(self) -> None:
        self.assertEqual(said("yahoo", "421 4.7.0 [TSS04] deferred").pause, 7200.0)
        self.assertEqual(said("yahoo", "421 4.7.0 [TSS05] deferred").pause, 14400.0)

    def test_a_greeting_says_it_as_well(self) -> None:
        endpoint = Endpoint("mx.example", "192.0.2.9", 25)
        for text, meaning in (
            ("554 Too many connections", LIMIT),
            ("550 5.7.1 no", None),
            ("421 4.3.2 shutting down", None),
        ):
            event = Unwelcome(Reply.parse(text), TransactionStage.GREETING)
            outcome = unwelcome(endpoint, event, spoken=True, provider="gmx")
            self.assertIs(outcome.meaning, meaning)
            self.assertIs(outcome.severity, Severity.TRANSIENT)
            named = unwelcome(endpoint, event, spoken=True)
            self.assertIsNone(named.meaning)
