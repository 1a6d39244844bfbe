"""Next hops that refuse, postpone, hang up and die: the right outcome for each recipient."""

from __future__ import annotations

import itertools
import threading

from tests.scenarios import peers
from tests.scenarios.corpus import corpus
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.scenarios.injector import inject, number_of
from tests.sink import CLOSE, CLOSE_AFTER, EXTENSIONS, Asked, Script, Sink

ANN = "ann@sender.example"


class Refusals(Scenario):
    """One next hop under test, and one that takes the reports to the sender."""

    def setUp(self) -> None:
        super().setUp()
        self.script: Script = lambda asked: None
        self.sink = Sink(lambda asked: self.script(asked))
        self.back = Sink()
        for sink in (self.sink, self.back):
            self.addCleanup(sink.stop)
        self.relay: Relayd = self.relayd(
            f"next-hop out smtp 127.0.0.1:{self.sink.port}\n"
            f"next-hop back smtp 127.0.0.1:{self.back.port}\n"
            "accept from 127.0.0.0/8\nroute to @sender.example via back\nroute any via out\n"
        )

    def answer(self, stage: str, reply: str) -> None:
        """From now on the next hop says this at this stage, in sessions that begin anew."""
        self.sink.kill()
        self.sink.start()
        self.script = lambda asked: reply if asked.stage == stage else None

    def check_postponed(self, stage: str, reply: str) -> None:
        """Nothing is reported, the reply is shown, and the mail goes out when the hop is well."""
        before = len(self.sink.arrived)
        self.answer(stage, reply)
        ident = self.relay.send(ANN, ["bob@example.com"])
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "queued", (stage, reply, recipient))
        if reply != CLOSE:
            self.assertEqual(recipient["reply"], reply, (stage, recipient))
        else:
            self.assertRegex(recipient["reply"], r"^4\d\d 4\.4\.\d ", (stage, recipient))
        self.script = lambda asked: None
        self.sink.wait(before + 1)
        self.relay.wait_empty()
        self.assertEqual(self.back.arrived, [])

    def check_failed(self, stage: str, reply: str, *, hangs_up: bool = False) -> None:
        """The sender gets one report with the next hop's own words."""
        before = len(self.back.arrived)
        self.answer(stage, f"{CLOSE_AFTER}{reply}" if hangs_up else reply)
        ident = self.relay.send(ANN, ["bob@example.com"])
        recipient = self.relay.settled(ident)
        self.assertEqual(recipient["state"], "failed", (stage, reply, recipient))
        self.assertEqual(recipient["reply"], reply)
        report = self.back.wait(before + 1)[-1]
        self.assertEqual((report.sender, report.recipients), ("", (ANN,)))
        self.assertIn(b"Action: failed\r\n", report.content)
        self.assertIn(f"Diagnostic-Code: smtp; {reply}\r\n".encode(), report.content)
        self.assertIn(b"bob@example.com", report.content)
        self.relay.wait_empty()

    def test_4xx_at_every_stage(self) -> None:
        for stage in ("connect", "hello", "mail", "rcpt", "data", "content"):
            self.check_postponed(stage, f"451 4.3.0 not at {stage}")

    def test_421_at_every_stage(self) -> None:
        for stage in ("connect", "hello", "mail", "rcpt", "data", "content"):
            self.check_postponed(stage, f"421 4.3.2 closing at {stage}")

    def test_connection_lost_at_every_stage(self) -> None:
        for stage in ("connect", "hello", "mail", "rcpt", "data", "content"):
            self.check_postponed(stage, CLOSE)

    def test_5xx_about_the_message_at_every_stage(self) -> None:
        for stage in ("mail", "rcpt", "data", "content"):
            self.check_failed(stage, f"550 5.7.1 not at {stage}")

    def test_every_recipient_has_an_outcome_of_its_own(self) -> None:
        replies = {
            "no@example.com": "550 5.1.1 no such mailbox",
            "later@example.com": "450 4.2.0 try later",
        }
        self.script = lambda asked: replies.get(asked.argument) if asked.stage == "rcpt" else None
        recipients = ["yes@example.com", "no@example.com", "later@example.com"]
        ident = self.relay.send(ANN, recipients)
        states = [self.relay.settled(ident, number) for number in range(3)]
        self.assertEqual(
            [state["state"] for state in states], ["delivered", "failed", "queued"], states
        )
        self.assertEqual(self.sink.wait(1)[0].recipients, ("yes@example.com",))
        (report,) = self.back.wait(1)
        self.assertIn(b"no@example.com", report.content)
        self.assertNotIn(b"Final-Recipient: rfc822; later@example.com", report.content)
        replies.clear()
        self.assertEqual(self.sink.wait(2)[1].recipients, ("later@example.com",))
        self.relay.wait_empty()

    def test_null_reverse_path_is_never_reported_to(self) -> None:
        self.answer("rcpt", "550 5.1.1 no such mailbox")
        ident = self.relay.send("", ["bob@example.com"])
        self.assertEqual(self.relay.settled(ident)["state"], "failed")
        self.relay.wait_empty()
        self.assertEqual(self.back.arrived, [])

    def test_one_transaction_for_all_recipients_of_a_next_hop(self) -> None:
        recipients = [f"r{number}@example.com" for number in range(30)]
        self.relay.send(ANN, recipients)
        (message,) = self.sink.wait(1)
        self.assertEqual(sorted(message.recipients), sorted(recipients))

    def test_a_refusal_in_the_words_of_a_lost_connection_is_a_refusal(self) -> None:
        self.check_failed("rcpt", "550 5.1.1 User unknown. Connection lost")

    def test_who_refuses_in_words_of_ours_and_hangs_up_has_refused(self) -> None:
        for stage, words in (
            ("mail", "Connection timed out (mail)"),
            ("rcpt", "Connection lost"),
            ("data", "System is stopping"),
            ("content", "it may be delivered"),
        ):
            self.check_failed(stage, f"550 5.1.1 User unknown. {words}", hangs_up=True)


class SeveralHosts(Scenario):
    """What the first host puts off the next one takes, in the same attempt."""

    LATER = ("452 4.3.1 not now", "450 4.7.1 greylisted")

    def setUp(self) -> None:
        super().setUp()
        self.stage = ""
        self.reply = ""

    def answer(self, asked: Asked) -> str | None:
        return self.reply if asked.stage == self.stage else None

    def sink(self, script: Script | None = None, *, lmtp: bool = False) -> Sink:
        sink = Sink(script, lmtp=lmtp)
        self.addCleanup(sink.stop)
        return sink

    def check(self, rules: str, *, lmtp: bool = False) -> None:
        """No waiting: the schedule has an hour."""
        first, second = self.sink(self.answer, lmtp=lmtp), self.sink(lmtp=lmtp)
        relay = self.relayd(
            rules.format(first.port, second.port) + "accept from 127.0.0.0/8\n",
            settings="retry 1h\n",
        )
        for stage, reply in itertools.product(("mail", "rcpt", "data", "content"), self.LATER):
            arrived = len(second.arrived)
            self.stage, self.reply = stage, reply
            relay.send(ANN, ["bob@example.com", "eve@example.com"])
            second.wait(arrived + (2 if lmtp else 1))
        count = 8 * (2 if lmtp else 1)
        relay.wait_empty()
        self.assertEqual((len(first.arrived), len(second.arrived)), (0, count))

    def test_of_one_next_hop(self) -> None:
        self.check(
            "next-hop a smtp 127.0.0.1:{}, 127.0.0.1:{}\nroute any via a\n",
        )

    def test_of_two_next_hops(self) -> None:
        self.check(
            "next-hop a smtp 127.0.0.1:{}\nnext-hop b smtp 127.0.0.1:{}\nroute any via a, b\n",
        )

    def test_by_lmtp(self) -> None:
        self.check(
            "next-hop a lmtp 127.0.0.1:{}, 127.0.0.1:{}\nroute any via a\n",
            lmtp=True,
        )

    def test_one_outcome_for_each_recipient_whoever_spoke(self) -> None:
        says = {
            1: {"no": "550 5.1.1 nobody", "yes": "450 4.2.1 grey", "late": "450 4.2.1 grey"},
            2: {"bad": "550 5.7.1 not here", "late": "451 4.3.0 later"},
        }
        says[1]["bad"] = "450 4.2.1 grey"

        def script(host: int) -> Script:
            def answer(asked: Asked) -> str | None:
                known = says[host].get(asked.argument.partition("@")[0])
                return known if asked.stage == "rcpt" else None

            return answer

        first, second, back = self.sink(script(1)), self.sink(script(2)), self.sink()
        relay = self.relayd(
            f"next-hop a smtp 127.0.0.1:{first.port}, 127.0.0.1:{second.port}\n"
            f"next-hop back smtp 127.0.0.1:{back.port}\naccept from 127.0.0.0/8\n"
            "route to @sender.example via back\nroute any via a\n",
            settings="retry 1h\n",
        )
        names = ("no", "yes", "bad", "late", "here")
        ident = relay.send(ANN, [f"{name}@example.com" for name in names])
        settled = [relay.settled(ident, number) for number in range(len(names))]
        found = {
            name: (each["state"], each["reply"]) for name, each in zip(names, settled, strict=True)
        }
        self.assertEqual(found["no"], ("failed", "550 5.1.1 nobody"))
        self.assertEqual(found["bad"], ("failed", "550 5.7.1 not here"))
        self.assertEqual(found["late"], ("queued", "451 4.3.0 later"))
        self.assertEqual((found["yes"][0], found["here"][0]), ("delivered", "delivered"))
        self.assertIn("450 4.2.1 grey", settled[3]["why"])
        self.assertEqual(second.arrived[0].recipients, ("yes@example.com",))
        # one host has answered: the next hop is not down
        self.assertNotIn("next hop down", relay.log(200))


class SetUp(Scenario):
    """A next hop that does not serve us: mail waits, the operator reads why, nothing bounces."""

    def setUp(self) -> None:
        super().setUp()
        self.script: Script = lambda asked: None
        self.sink = Sink(lambda asked: self.script(asked))
        self.addCleanup(self.sink.stop)
        self.relay = self.relayd(
            f"next-hop isp smtp 127.0.0.1:{self.sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via isp\n",
            settings="retry 1h\n",
        )

    def check(self, stage: str, reply: str, advice: str) -> None:
        """Until it is mended and read again; also the mail that nobody is told of."""
        before = len(self.sink.arrived)
        self.relay.ctl("reload")  # that it took mail before is forgotten
        self.script = lambda asked: reply if asked.stage == stage else None
        idents = [self.relay.send(sender, ["bob@example.com"]) for sender in (ANN, "")]
        waits = self.relay.settled(idents[0])
        self.assertEqual(waits["state"], "queued", waits)
        self.assertRegex(waits["reply"], r"^451 4\.7\.\d+ Next hop isp at ")
        self.assertIn(f"does not serve us: {reply} ({advice}", waits["reply"])
        state = "down after" if stage == "mail" else "refusing some"
        wait_until(lambda: state in self.relay.ctl("status").stdout, "status says so")
        (line,) = [line for line in self.relay.ctl("status").stdout.splitlines() if state in line]
        self.assertIn(reply, line)
        self.assertIn(advice, line)
        self.script = lambda asked: None
        self.relay.ctl("reload")
        arrived = self.sink.wait(before + 2)
        self.assertEqual({each.sender for each in arrived[before:]}, {ANN, ""})
        self.relay.wait_empty()

    def test_a_login_is_wanted(self) -> None:
        for stage in ("mail", "rcpt", "data"):
            self.check(stage, "530 5.7.0 Authentication required", "give this next hop a login")
        self.check("mail", "535 5.7.8 credentials invalid", "give this next hop a login")
        for event in ('"next hop down"', '"next hop refuses some"'):
            self.assertEqual(self.relay.logged(event, 2).count(event), 2)

    def test_it_does_not_relay_for_us(self) -> None:
        for reply in (
            "554 5.7.1 <bob@example.com>: Relay access denied",
            "550 relay not permitted",
        ):
            self.check("rcpt", reply, "ask it to relay for this host")

    def test_one_domain_that_it_does_not_relay_stops_no_other(self) -> None:
        """Also where it has never taken mail from us, and after a restart."""
        self.script = lambda asked: (
            "554 5.7.1 <x@bad.example>: Relay access denied"
            if asked.stage == "rcpt" and "bad.example" in asked.argument
            else None
        )
        for arrived in (5, 10):
            for number in range(5):
                self.relay.send(ANN, [f"x{number}@bad.example"])
            wait_until(lambda: "refusing some" in self.relay.ctl("status").stdout, "refused")
            for number in range(5):
                self.relay.send(ANN, [f"x{number}@good.example"])
            self.sink.wait(arrived)
            wait_until(lambda: len(self.relay.queue()) == arrived, "what was sent is forgotten")  # noqa: B023
            self.relay.kill()
            self.relay.start()
        self.assertEqual(len(self.relay.queue()), 10)
        self.assertNotIn("next hop down", self.relay.log(500))

    def test_domains_that_it_does_not_relay_stop_no_other(self) -> None:
        """Down for those, but mail for another finds out at once that it is up."""
        self.script = lambda asked: (
            "550 5.7.1 Relaying denied"
            if asked.stage == "rcpt" and "bad" in asked.argument
            else None
        )
        for number in range(9):
            self.relay.send(ANN, [f"x@bad{number % 3}.example"])
        wait_until(lambda: "down after" in self.relay.ctl("status").stdout, "down")
        for number in range(5):
            self.relay.send(ANN, [f"x{number}@good.example"])
        self.sink.wait(5)

    def test_one_that_relays_for_us_is_not_down_for_a_stray_recipient(self) -> None:
        self.script = lambda asked: (
            "554 5.7.1 Relay access denied" if asked.argument.startswith("stray") else None
        )
        self.relay.send(ANN, ["bob@example.com"])
        self.sink.wait(1)
        ident = self.relay.send(ANN, ["stray@elsewhere.example"])
        self.assertEqual(self.relay.settled(ident)["state"], "queued")
        self.assertNotIn("down after", self.relay.ctl("status").stdout)
        self.relay.send(ANN, ["bob@example.com"])
        self.sink.wait(2)


class OfEachSession(Scenario):
    def test_a_next_hop_that_takes_ten_messages_a_session(self) -> None:
        """Nobody is put off, and spent connections are not used any more."""
        refused: list[int] = []

        def script(asked: Asked) -> str | None:
            late = asked.stage == "mail" and asked.transaction > 10
            refused.extend([asked.session] * late)
            return "452 4.4.5 too many messages in this session" if late else None

        sink = Sink(script)
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{sink.port}\naccept from 127.0.0.0/8\n"
            "route any via out\n",
            settings="retry 1h\n",
        )
        injected = inject(relay.port, 400)
        self.assertEqual(len(injected.acknowledged), 400)
        sink.wait(400)
        relay.wait_empty()
        self.assertEqual(len(sink.arrived), 400)
        self.assertLess(len(refused), 40, "a tenth")


class Starttls(Scenario):
    def test_plaintext_behind_the_220_in_one_packet(self) -> None:
        """In the clear where that is enough, on a connection that has said nothing false."""

        def script(asked: Asked) -> str | None:
            return "220 go\r\n250 ok" if asked.stage == "starttls" else None

        optional, demanded = (Sink(script, extensions=(*EXTENSIONS, "STARTTLS")) for _ in range(2))
        for sink in (optional, demanded):
            self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop optional smtp 127.0.0.1:{optional.port}\n"
            f"next-hop demanded smtp 127.0.0.1:{demanded.port} tls required\n"
            "accept from 127.0.0.0/8\nroute to @secret.example via demanded\n"
            "route any via optional\n",
            settings="retry 1h\n",
        )
        ident = relay.send(ANN, ["bob@secret.example"])
        relay.send(ANN, ["bob@example.com"])
        optional.wait(1)
        self.assertEqual(relay.settled(ident)["state"], "queued")
        self.assertEqual((optional.sessions, demanded.arrived), (2, []))


class FailOver(Scenario):
    def test_first_host_is_killed_in_mid_run(self) -> None:
        first, second = Sink(), Sink()
        for sink in (first, second):
            self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop pair smtp 127.0.0.1:{first.port}, 127.0.0.1:{second.port}\n"
            "accept from 127.0.0.0/8\nroute any via pair\n"
        )

        def kill_after_a_hundred() -> None:
            first.wait(100)
            first.kill()

        killer = threading.Thread(target=kill_after_a_hundred)
        killer.start()
        injected = inject(relay.port, 600)
        killer.join()
        self.assertEqual(len(injected.acknowledged), 600, injected.refused)
        by_first = {number_of(message.content) for message in first.arrived}
        try:
            wait_until(
                lambda: (
                    by_first | {number_of(message.content) for message in list(second.arrived)}
                    == injected.acknowledged
                ),
                "all 600 arrived at one of the two",
                60,
            )
        except AssertionError as error:
            self.fail(f"{error}\n{relay.log()}")
        by_second = [number_of(message.content) for message in second.arrived]
        self.assertEqual(len(by_second), len(set(by_second)))
        # at both: only what was in flight when the first died
        self.assertLessEqual(len(by_first & set(by_second)), 20)
        relay.wait_empty()

    def test_dead_destination_does_not_delay_another(self) -> None:
        alive, dead = Sink(), Sink()
        self.addCleanup(alive.stop)
        dead.kill()
        relay = self.relayd(
            f"next-hop alive smtp 127.0.0.1:{alive.port}\n"
            f"next-hop dead smtp 127.0.0.1:{dead.port}\naccept from 127.0.0.0/8\n"
            "route to @dead.example via dead\nroute any via alive\n"
        )
        inject(relay.port, 300, recipient="bob@dead.example")
        relay.send(ANN, ["bob@alive.example"])
        alive.wait(1)
        wait_until(lambda: len(relay.queue()) == 300, "only what cannot be sent waits")


class PostfixNextHop(Scenario):
    needs = ("postfix",)

    def test_postfix_takes_what_it_knows_and_refuses_what_it_does_not(self) -> None:
        refusing = "check_recipient_access inline:{{no@example.com = 550 5.1.1 no such mailbox}}"
        postfix = peers.Postfix(
            self,
            domains=["example.com", "sender.example"],
            extra=f"smtpd_recipient_restrictions = {refusing}, permit_mynetworks, reject\n",
        )
        relay = self.relayd(
            f"next-hop postfix smtp 127.0.0.1:{postfix.port}\naccept from 127.0.0.0/8\n"
            "route any via postfix\n"
        )
        samples = [sample for sample in corpus() if len(sample.content) < 1 << 20][:60]
        for sample in samples:
            options = ["BODY=8BITMIME", *(["SMTPUTF8"] if sample.utf8_header else [])]
            relay.send(ANN, ["bob@example.com"], sample.content, mail_options=options)
        ident = relay.send(ANN, ["bob@example.com", "no@example.com"])
        self.assertEqual(relay.settled(ident, 0)["state"], "delivered")
        refused = relay.settled(ident, 1)
        self.assertEqual(refused["state"], "failed")
        self.assertRegex(refused["reply"], r"^550 5\.1\.1 .*no such mailbox")
        wait_until(
            lambda: len(postfix.mailbox()) == len(samples) + 2,  # the report, too
            "Postfix stored everything",
            60,
        )
        kept = postfix.mailbox()
        for sample in samples:
            mark = b"\r\nX-Corpus: " + sample.name.encode() + b"\r\n"
            (found,) = [content for content in kept if mark in content]
            self.assertTrue(found.endswith(sample.content), sample.name)
        (report,) = [
            content
            for content in kept
            if b"\r\nFinal-Recipient: rfc822; no@example.com\r\n" in content
        ]
        self.assertIn(b"Remote-MTA: dns; ", report)
