"""`explain` as the design shows it: real rules, a real DNS server, and a message's header."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor

from relayd import config
from relayd.ctl import relayctl
from relayd.ctl.headersection import LetterError, read
from relayd.dns.resolver import Resolver
from relayd.ops.answers import ExplainAnswer
from relayd.ops.explain import QuestionError, exit_status, explain, facts, lines
from relayd.relay.resolve import Directory
from relayd.relay.selfdetection import SelfDetection
from relayd.rules.fact import Fact
from relayd.rules.header import MAX_FIELDS
from relayd.rules.ruleset import Ruleset
from relayd.service.configuration import Configuration, Enquiry
from tests.dnsserver import DnsServer
from tests.spooling import Troubles
from tests.support import TestCase
from tests.unit.ops.test_answers import wrong
from tests.unit.rules.sample import write_site

reactor: Any = the_reactor

ZONE = """\
example.net. MX 10 mx1.example.net.
example.net. MX 20 mx2.example.net.
mx1.example.net. A 198.51.100.7
mx2.example.net. A 198.51.100.8
example.org. A 198.51.100.20
"""

WANTED = """\
accept   rules.d/10-site.rules:14   accept to <ours>                 ours: rules.d/10-site.rules:2
forward  rules.d/10-site.rules:23   info@example.com -> alice@example.net, bob@example.org
route    rules.d/10-site.rules:32   any direct                       alice@example.net
           MX 10 mx1.example.net [198.51.100.7]   MX 20 mx2.example.net [198.51.100.8]
route    rules.d/10-site.rules:32   any direct                       bob@example.org
           no MX, implicit: example.org [198.51.100.20]
"""

LETTER = b"""\
Return-Path: <joe@intern.example.com>
From: "Joe, at work" <joe@intern.example.com>
To: Info <info@example.com>, x@elsewhere.example
Cc: boss@example.com
Subject: hello
X-Internal-Host: pc17

body
"""

DEFINED = """\
hostname gw.example.com
dnsbl zen zen.test
limit burst 5/1m per client
next-hop x smtp 192.0.2.25:25
rspamd scan http://127.0.0.1:11333
"""

DIFF = """\
--- as received
+++ as sent on
@@ -1,6 +1,6 @@
+X-Gateway: gw.example.com
 Return-Path: <joe@intern.example.com>
-From: "Joe, at work" <joe@intern.example.com>
+From: "Joe, at work" <joe@example.com>
 To: Info <info@example.com>, x@elsewhere.example
 Cc: boss@example.com
 Subject: hello
-X-Internal-Host: pc17
"""


class OnlineTest(TestCase):
    """What the running daemon answers."""

    def setUp(self) -> None:
        self.site = write_site(Path(self.mktemp()))
        self.server = DnsServer(reactor, ZONE)
        self.server.start()
        self.addCleanup(self.server.stop)
        settings = config.load(self.site)
        log: Any = Troubles()
        resolver = Resolver(reactor, [self.server.address])
        directory = Directory(resolver, SelfDetection(["gw.example.com"], ["127.0.0.1"]), port=25)

        async def reread() -> config.Settings:
            return settings

        self.enquiry = Enquiry(Configuration(settings, reread, log), directory)

    async def answer(self, **question: str) -> dict[str, Any]:
        answer = await self.enquiry.explain(question)
        self.assertEqual(list(wrong(answer, ExplainAnswer)), [])
        return answer

    async def test_the_example_of_the_design(self) -> None:
        question = {"from": "203.0.113.9", "sender": "a@partner.example"}
        answer = await self.answer(**question, recipient="info@example.com")
        self.assertEqual("\n".join(lines(answer)) + "\n", WANTED)
        self.assertEqual(exit_status(answer), 0)
        self.assertEqual(json.loads(json.dumps(answer)), answer)
        self.assertEqual(
            [each["hosts"] for each in answer["destinations"]],
            [
                ["MX 10 mx1.example.net [198.51.100.7]", "MX 20 mx2.example.net [198.51.100.8]"],
                ["no MX, implicit: example.org [198.51.100.20]"],
            ],
        )

    async def test_refused_with_the_reply(self) -> None:
        answer = await self.answer(recipient="old@example.com")
        self.assertEqual(exit_status(answer), 1)
        self.assertIn("refused: 550 5.1.6 Moved to new@example.com", list(lines(answer)))

    def test_a_client_has_a_name_unless_it_is_asked_about_one_without(self) -> None:
        self.assertEqual(facts({"recipient": "a@b.example"}).client.helo, "outside.invalid")
        for name in ("mx.example", ""):
            asked = facts({"recipient": "a@b.example", "helo": name})
            self.assertEqual(asked.client.helo, name)

    async def test_a_header(self) -> None:
        section = LETTER.replace(b"\n", b"\r\n").decode("latin-1").partition("body")[0]
        answer = await self.answer(
            recipient="info@example.com", sender="joe@intern.example.com", header=section
        )
        text = "\n".join(lines(answer)) + "\n"
        self.assertTrue(text.endswith(DIFF), text)
        self.assertIn("header   rules.d/10-site.rules:19", text)
        self.assertEqual(
            [each["place"].rpartition(":")[2] for each in answer["header"]["rules"]],
            ["19", "20", "21"],
        )


class ReverseNameTest(TestCase):
    """What a rule looks at and nobody has said is looked up; what is said, is so."""

    def setUp(self) -> None:
        self.site = write_site(Path(self.mktemp()))
        self.site.write_text(
            "hostname gw.example.com\nreject to info@example.com rdns none\n"
            "accept to @example.com\nroute any direct\n"
        )
        self.told: dict[str, object] = {"listed zen": True, "spf": "softfail"}

    async def answer(self, name: str | None, **question: Any) -> dict[str, Any]:  # noqa: ANN401
        async def reverse_name(address: str) -> str | None:
            self.asked.append(address)
            return name

        async def describe(next_hop: str, mailbox: object) -> list[str]:
            return []

        async def gather(ruleset: Ruleset, fact: Fact, facts: object) -> object:
            self.asked.append(str(fact))
            return self.told[fact.condition]

        self.asked: list[str] = []
        ruleset = config.load(self.site).ruleset
        answer = await explain(
            ruleset, {"recipient": "info@example.com", **question}, describe, reverse_name, gather
        )
        self.assertEqual(list(wrong(answer, ExplainAnswer)), [])
        return answer

    async def test_it_is_looked_up(self) -> None:
        for name, status, said in (
            ("mail.example.net", 0, "rdns mail.example.net"),
            ("", 1, "rdns none"),
            (None, 2, "rdns unknown"),
        ):
            answer = await self.answer(name, **{"from": "192.0.2.7"})
            self.assertEqual((exit_status(answer), self.asked), (status, ["192.0.2.7"]), name)
            self.assertRegex(next(lines(answer)), rf"^fact  {said}   \(looked up in \d+ ms")

    async def test_what_is_given_is_not_looked_up(self) -> None:
        for given, status in (("rdns none", 1), ("rdns Mail.Example.net.", 0)):
            answer = await self.answer(None, **{"with": [given]})
            self.assertEqual((exit_status(answer), self.asked), (status, []))
            self.assertIn("(given)", next(lines(answer)))

    async def test_what_others_know_is_asked_for_or_given(self) -> None:
        self.site.write_text(
            "hostname gw.example.com\ndnsbl zen zen.test\nreject when listed zen and spf fail\n"
            'reject when listed zen and spf softfail 550 5.7.1 "Listed"\naccept to @example.com\n'
        )
        answer = await self.answer(None, **{"from": "192.0.2.7"})
        self.assertEqual((exit_status(answer), len(self.asked)), (1, 2))
        told = [line.partition("(")[0].strip() for line in lines(answer)][:2]
        self.assertEqual(told, ["fact  listed zen", "fact  spf softfail"])
        answer = await self.answer(None, **{"with": ["not listed zen", "spf pass"]})
        self.assertEqual((exit_status(answer), self.asked), (0, []))
        self.assertEqual(
            list(lines(answer))[:2], ["fact  not listed zen   (given)", "fact  spf pass   (given)"]
        )
        for no_fact in ("spf", "listed", "spf maybe", "listed zen or", "from 192.0.2.7", "x", ""):
            with self.assertRaises(QuestionError):
                await self.answer(None, **{"with": [no_fact]})

    async def test_who_would_be_asked_is_told(self) -> None:
        self.site.write_text(
            "hostname gw.example.com\nmilter sign 127.0.0.1:1\npolicy grey 127.0.0.1:2\n"
            "clamd virus 127.0.0.1:3\nask sign login any\nask grey to info@example.com\n"
            "ask virus when dkim pass\nask virus sender @partner.example\n"
            "reject to old@example.com\naccept to @example.com\nroute any direct\n"
        )

        async def told(**question: Any) -> list[str]:  # noqa: ANN401
            answer = await self.answer(None, **question)
            return [" ".join(line.split()) for line in lines(answer) if line.startswith("ask ")]

        grey = "ask relayd.conf:6 policy grey"
        unknown = "or not: its rule looks at what is not known here"
        self.assertEqual(await told(), [grey, f"ask relayd.conf:7 clamd virus {unknown}"])
        self.assertEqual(await told(**{"with": ["dkim fail"]}), [grey])
        self.assertEqual(
            await told(sender="a@partner.example", recipient="b@example.com"),
            ["ask relayd.conf:8 clamd virus"],
        )
        self.assertEqual(
            await told(login="ann", **{"with": ["dkim pass"]}),
            ["ask relayd.conf:5 milter sign", grey, "ask relayd.conf:7 clamd virus"],
        )
        self.assertEqual(await told(recipient="old@example.com"), [])

    async def test_of_the_recipient_only_what_a_rule_decides_by_is_asked_for(self) -> None:
        self.site.write_text(
            "hostname gw.example.com\nlimit hourly 5/1h per client\nnext-hop x smtp 192.0.2.25:25\n"
            'defer when over hourly "Slow down"\nreject to @example.com when unknown at x\n'
            "hold to other@example.com when first-seen 5m\naccept to @example.com\n"
        )
        self.told |= {"over hourly": False, "unknown at x": None, "spf": "none"}
        answer = await self.answer("", **{"from": "192.0.2.7"})
        self.assertEqual(exit_status(answer), 2)
        told = [line.partition("(")[0].strip() for line in lines(answer)][1:4]
        self.assertEqual(
            told, ["fact  spf none", "fact  not over hourly", "fact  unknown at x unknown"]
        )
        self.told["unknown at x"] = True
        answer = await self.answer("", **{"from": "192.0.2.7", "with": ["not over hourly"]})
        self.assertEqual((exit_status(answer), "the count of hourly" in self.asked), (1, False))
        answer = await self.answer("", **{"from": "192.0.2.7", "with": ["over hourly"]})
        self.assertEqual((exit_status(answer), answer["reply"][:9]), (1, "451 4.7.1"))

    async def test_what_the_content_decides_is_left_out_where_it_is_not_said(self) -> None:
        self.site.write_text(
            "hostname gw.example.com\naccept to @example.com\nreject when dkim fail\n"
            'hold any when size > 20MB\nhold any when field subject "spam"\n'
        )
        answer = await self.answer(None)
        self.assertEqual((answer["verdict"], self.asked), ("accept", []))
        self.assertEqual(
            [line.partition("   (")[0] for line in lines(answer)][:3],
            ["fact  dkim unknown", "fact  field subject unknown", "fact  size unknown"],
        )
        for given, verdict in (
            (["dkim fail"], "refuse"), (["dkim pass @a.test"], "accept"),
            (["size > 20MB"], "hold"), (["size > 20MB", "dkim fail"], "refuse"),
            (['field Subject "a spam"'], "hold"),
        ):  # fmt: skip
            with self.subTest(given):
                answer = await self.answer(None, **{"with": given})
                self.assertEqual(answer["verdict"], verdict)
                self.assertIn("   (given)", next(lines(answer)))

    async def test_a_header_that_is_given_says_what_its_fields_are(self) -> None:
        self.site.write_text(
            'hostname gw.example.com\naccept to @example.com\nhold any when field subject "spam"\n'
        )
        section = "From: a@b.test\r\nSubject: Cheap =?utf-8?q?SPAM?=\r\n\r\n"
        answer = await self.answer(None, header=section)
        self.assertEqual(answer["verdict"], "hold")
        self.assertEqual(next(lines(answer)), "fact  field subject cheap spam   (in the header)")

    async def test_dmarc_alone_has_spf_looked_up(self) -> None:
        self.site.write_text(
            "hostname gw.example.com\naccept to @example.com\nreject when dmarc reject\n"
        )
        answer = await self.answer(None, **{"with": ["dmarc reject"]})
        self.assertEqual((answer["verdict"], self.asked), ("refuse", ["the result of SPF"]))

    async def test_loopback_is_localhost(self) -> None:
        answer = await self.answer(None, **{"from": "127.0.0.1"})
        self.assertEqual((exit_status(answer), self.asked), (0, []))

    async def test_nobody_is_asked_where_no_rule_looks(self) -> None:
        self.site.write_text("hostname gw.example.com\naccept to @example.com\n")
        answer = await self.answer(None)
        self.assertEqual((self.asked, answer["facts"]), ([], []))

    async def test_what_is_no_fact(self) -> None:
        for given in ("rdns", "rdns a..b", "tls", "", "rdns (x)"):
            with self.assertRaisesRegex(QuestionError, "states no fact"):
                await self.answer(None, **{"with": [given]})

    async def test_what_is_given_is_of_what_the_rules_define(self) -> None:
        self.site.write_text(DEFINED + "accept to @example.com\n")
        for given, said in (
            ("listed zne", 'there is no list zne; did you mean "zen"'),
            ("not over brst", 'there is no limit brst; did you mean "burst"'),
            ("unknown at y", "there is no next hop y; expected"),
            ("score scna 3", 'there is no filter scna; did you mean "scan"'),
            ("says scna reject", "there is no filter scna"),
            ("symbol scna X", "there is no filter scna"),
        ):
            with self.assertRaisesRegex(QuestionError, said):
                await self.answer(None, **{"with": [given]})
        answer = await self.answer(None, **{"with": ["listed zen", "score scan 3", "symbol scan X",
                                                     "over burst", "unknown at x"]})  # fmt: skip
        self.assertEqual(exit_status(answer), 0)

    async def test_what_is_unknown_names_the_rule_that_asks(self) -> None:
        self.site.write_text(DEFINED + "accept to @example.com when not unknown at x\n")
        self.told["unknown at x"] = None
        answer = await self.answer(None)
        self.assertEqual(exit_status(answer), 2)
        (step,) = answer["trail"]
        self.assertEqual((step["stage"], step["place"]), ("unknown", f"{self.site.name}:6"))

    async def test_a_mailbox_that_is_not_asked_for_is_not_said_to_exist(self) -> None:
        self.site.write_text(DEFINED + "reject any when unknown at x\naccept to @example.com\n")
        self.told["unknown at x"] = False
        for recipient, said in (
            ("a@example.com", r"fact  not unknown at x   \(looked up in"),
            ("a@elsewhere.example", r"fact  unknown at x unknown   \(not asked for: it is refused"),
        ):
            answer = await self.answer(None, recipient=recipient)
            self.assertRegex(next(lines(answer)), said)

    async def test_what_was_looked_up_stands_before_what_the_content_will_say(self) -> None:
        self.site.write_text(DEFINED + "reject when listed zen and size > 1MB\naccept any\n")
        answer = await self.answer(None)
        self.assertEqual(
            [line.partition("   (")[0] for line in lines(answer)][:2],
            ["fact  listed zen", "fact  size unknown"],
        )


class OfflineTest(TestCase):
    """relayctl against the files alone."""

    def setUp(self) -> None:
        self.site = write_site(Path(self.mktemp()))
        self.letter = self.site.parent / "letter.eml"
        self.letter.write_bytes(LETTER)

    def ctl(self, *arguments: object) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            words = ["--config", str(self.site), "explain", "--offline", *map(str, arguments)]
            status = relayctl.main(words)
        return status, out.getvalue(), err.getvalue()

    def test_the_same_but_for_the_hosts(self) -> None:
        status, out, _ = self.ctl("--from", "203.0.113.9", "info@example.com")
        wanted = [line for line in WANTED.splitlines() if not line.startswith(" ")]
        self.assertEqual((status, out.splitlines()), (0, wanted))

    def test_what_nobody_has_said_is_named_where_the_answer_is_unknown(self) -> None:
        self.site.write_text(
            DEFINED
            + "reject when listed zen\nreject rdns none\ndefer when over burst\naccept any\n"
        )
        status, out, _ = self.ctl("info@example.com")
        self.assertEqual(status, 2)
        why = "unknown   (nobody is asked offline; --with says it)"
        self.assertEqual(
            out.splitlines()[:3],
            [f"fact  rdns {why}", f"fact  over burst {why}", f"fact  listed zen {why}"],
        )
        words = ["not listed zen", "not over burst", "rdns mail.example.com"]
        given = [word for each in words for word in ("--with", each)]
        self.assertEqual(self.ctl(*given, "info@example.com")[0], 0)
        self.assertEqual(self.ctl("--with", "listed zn", "info@example.com")[0], 2)

    def test_how_long_the_client_would_wait(self) -> None:
        rules = (
            "accept any\nforward a@x.example -> b@y.example\n"
            "forward c@x.example -> c@x.example, d@y.example\n"
            "next-hop isp smtp 192.0.2.1\nroute any direct, via isp cut-through 1m when forwarded\n"
        )
        self.site.write_text(f"hostname gw.example.com\n{rules}")
        waits = "the client waits up to 60 seconds for how the first attempt ends"
        for recipient, said in (
            ("a@x.example", True),
            ("c@x.example", False),
            ("e@y.example", False),
        ):
            status, out, _ = self.ctl(recipient)
            self.assertEqual((status, waits in out.splitlines()), (0, said), out)
        out = json.loads(self.ctl("--json", "a@x.example")[1])
        self.assertEqual([each["cut_through"] for each in out["destinations"]], [60.0])

    def test_exit_statuses(self) -> None:
        self.assertEqual(self.ctl("info@example.com")[0], 0)
        self.assertEqual(self.ctl("old@example.com")[0], 1)
        self.assertEqual(self.ctl("info@example.com", "x@elsewhere.example")[0], 1)
        self.assertEqual(self.ctl("no address")[0], 2)
        self.assertEqual(self.ctl()[0], 2)

    def test_recipients_and_sender_of_the_message(self) -> None:
        status, out, _ = self.ctl("--eml", self.letter)
        self.assertEqual(status, 1, "x@elsewhere.example is none of ours")
        self.assertEqual(out.count("--- as received"), 2)
        self.assertIn("joe@intern.example.com -> joe@example.com", out)
        self.assertIn("refused: 550 5.7.1 Relaying denied", out)
        status, out, _ = self.ctl("--json", "--eml", self.letter, "info@example.com")
        self.assertEqual(json.loads(out)["header"]["diff"], DIFF.splitlines())

    def test_what_no_rule_changes_is_said(self) -> None:
        self.letter.write_bytes(b"X-Gateway: gw.example.com\n\n")
        config_text = self.site.read_text().partition("include")[0]
        self.site.write_text(config_text + "accept to any\n")
        _, out, _ = self.ctl("--eml", self.letter, "info@example.com")
        self.assertIn("the header stays as it is", out)

    def test_a_crowd_of_fields_is_said_to_be_refused(self) -> None:
        self.letter.write_bytes(b"From: joe@intern.example.com\n" * (MAX_FIELDS + 1) + b"\n")
        status, _, err = self.ctl("--eml", self.letter, "info@example.com")
        self.assertEqual(status, 2)
        self.assertIn("refused with 552 5.3.4", err)

    def test_size_and_fields_of_the_message_are_known(self) -> None:
        config_text = self.site.read_text().partition("include")[0]
        rules = (
            'discard any when size > 3000\nhold any when field Subject "funds"\n'
            "accept to @example.com\n"
        )
        self.site.write_text(config_text + rules)
        self.letter.write_bytes(b"Subject: funds\n\n" + b"x\n" * 500)
        _, out, _ = self.ctl("--eml", self.letter, "info@example.com")
        self.assertIn("fact  size 1518   (of the message)", out)
        self.assertIn("then: hold", out)
        self.letter.write_bytes(b"Subject: funds\r\n\r\n" + b"x\r\n" * 1000)
        _, out, _ = self.ctl("--eml", self.letter, "info@example.com")
        self.assertIn("fact  size 3018   (of the message)", out)
        self.assertIn("then: discard", out)
        _, out, _ = self.ctl("--eml", self.letter, "--with", "size < 9", "info@example.com")
        self.assertNotIn("(of the message)", out)
        self.assertIn("then: hold", out)

    def test_letters(self) -> None:
        for octets, section in (
            (b"A: b\n\nbody", "A: b\r\n\r\n"),
            (b"A: b\n\n" + b"x\n" * (1 << 20), "A: b\r\n\r\n"),
            (b"A: b\r\n\r\nbody", "A: b\r\n\r\n"),
            (b"From joe Sat\nA: b\n\nbody", "A: b\r\n\r\n"),
            (b"A: b\n", "A: b\r\n\r\n"),
            (b"A: b", "A: b\r\n\r\n"),
            (b"A: \xff\n\n", "A: \xff\r\n\r\n"),
        ):
            self.letter.write_bytes(octets)
            letter = read(self.letter)
            self.assertEqual(letter.text, section)
            lines = octets.removeprefix(b"From joe Sat\n").replace(b"\r", b"").split(b"\n")
            self.assertEqual(letter.size, len(b"\r\n".join(lines)))
        with self.assertRaises(LetterError):
            read(self.letter.parent / "none.eml")
