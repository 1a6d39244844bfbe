"""`copy` rules through a whole relayd: archives and journals, that nobody else hears of."""

from __future__ import annotations

from tests.ports import free_port
from tests.scenarios.filterpeers import Milter, Policy, recipient, sender
from tests.scenarios.harness import Relayd, Scenario, wait_until
from tests.sink import EXTENSIONS, Arrived, Asked, Sink

ANN = "ann@sender.example"
INFO, BOSS = "info@example.com", "boss@example.com"
ARCHIVE = "archive@vault.example"
CONTENT = b"Subject: x\r\nX-Odd:   as\t it is \r\n\r\n.dot\r\n8 bits: \xc3\xa4\r\n"
WITHOUT_DSN = tuple(each for each in EXTENSIONS if each != "DSN")
RULES = """\
next-hop main smtp 127.0.0.1:{main}
next-hop journal smtp 127.0.0.1:{journal}
next-hop back smtp 127.0.0.1:{back}
accept from 127.0.0.1
forward postmaster@gw.example.com -> postmaster@back.example
route to @sender.example via back
route to @back.example via back
route any via main
"""


class CopyCase(Scenario):
    journal_offers: tuple[str, ...] = EXTENSIONS

    def setUp(self) -> None:
        super().setUp()
        self.main, self.back = Sink(self.script), Sink()
        self.journal = Sink(self.script, extensions=self.journal_offers)
        for sink in (self.main, self.back, self.journal):
            self.addCleanup(sink.stop)

    def script(self, asked: Asked) -> str | None:
        return None

    def gateway(self, rules: str, settings: str = "", workers: int = 1) -> Relayd:
        ports = {name: getattr(self, name).port for name in ("main", "journal", "back")}
        rules = rules + "\n" + RULES.format(**ports)
        if workers == 1:
            return self.relayd(rules, settings=settings)
        relay = self.relayd(rules, settings=settings, start=False)
        text = relay.config.read_text().replace("workers 1\n", f"workers {workers}\n")
        relay.config.write_text(text)
        return relay.start()

    def send(
        self, relay: Relayd, *recipients: str, options: tuple[str, ...] = (), sender: str = ANN
    ) -> tuple[int, str]:
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(sender, ["BODY=8BITMIME"])
            for each in recipients:
                self.assertEqual(client.rcpt(each, options)[0], 250)
            code, text = client.data(CONTENT)
            return code, text.decode()

    def copy(self, count: int = 1) -> Arrived:
        return self.journal.wait(count)[count - 1]

    def waiting(self, relay: Relayd) -> list[tuple[str, str]]:
        rows = [row for message in relay.queue() for row in message["recipients"]]
        return [(row["mailbox"], row["state"]) for row in rows]


class CopyTest(CopyCase):
    def test_octet_for_octet_and_one_for_all_recipients(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal")
        code, text = self.send(relay, INFO, BOSS, options=("NOTIFY=SUCCESS,FAILURE",))
        self.assertEqual(code, 250)
        self.assertNotIn(ARCHIVE, text)
        [delivered], copy = self.main.wait(1), self.copy()
        self.assertEqual(copy.content, delivered.content)
        self.assertNotIn(b"archive@", copy.content)
        self.assertEqual((copy.recipients, copy.sender), ((ARCHIVE,), ANN))
        self.assertEqual(copy.recipient_parameters, (("NOTIFY=NEVER",),))
        relay.wait_empty()
        self.assertEqual(len(self.journal.arrived), 1)
        # nobody speaks of success at the copy: the next hops were told to, of the others
        self.assertEqual(self.back.arrived, [])

    def test_the_recipient_that_is_the_archive_gets_it_once(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE}")
        self.send(relay, ARCHIVE)
        self.send(relay, INFO, ARCHIVE)
        relay.wait_empty()
        got = [each for one in self.main.arrived for each in one.recipients]
        self.assertEqual(sorted(got), [ARCHIVE, ARCHIVE, INFO])

    def test_a_recipient_that_a_filter_adds_is_copied_too(self) -> None:
        added = [recipient("<extra@example.com>"), recipient(f"<{ARCHIVE}>")]
        milter = Milter(self, edits=lambda fields, content: added)
        relay = self.gateway(
            f"milter m {milter.where}\nask m\ncopy to extra@example.com to {ARCHIVE} via journal"
        )
        self.assertEqual(self.send(relay, INFO)[0], 250)
        copy = self.copy()
        self.assertEqual((copy.recipients, copy.sender), ((ARCHIVE,), ANN))
        relay.wait_empty()
        got = sorted(each for one in self.main.arrived for each in one.recipients)
        self.assertIn("extra@example.com", got)
        self.assertIn(INFO, got)
        self.assertEqual(self.main.arrived[0].content, copy.content)

    def test_mail_without_a_sender_and_with_letters_of_all_kinds_is_copied_as_it_is(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal")
        self.send(relay, INFO, sender="")
        self.assertEqual(self.copy().sender, "")
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(ANN, ["BODY=8BITMIME", "SMTPUTF8"])
            client.rcpt(INFO)
            self.assertEqual(client.data(CONTENT)[0], 250)
        copy = self.copy(2)
        self.assertEqual(copy.content, self.main.wait(2)[1].content)
        relay.wait_empty()
        self.assertEqual(self.back.arrived, [])

    def test_held_and_discarded_mail_is_copied_and_refused_mail_is_not(self) -> None:
        rules = (
            f"hold to {INFO}\ndiscard to {BOSS}\nreject to no@example.com\n"
            f"copy to @example.com to {ARCHIVE} via journal"
        )
        relay = self.gateway(rules)
        self.send(relay, INFO)
        self.send(relay, BOSS)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(ANN)
            self.assertEqual(client.rcpt("no@example.com")[0], 550)
        self.copy(2)
        wait_until(lambda: len(relay.queue()) == 1, "only what is held is left")
        self.assertEqual(self.main.arrived, [])
        self.assertEqual(len(self.journal.arrived), 2)

    def test_it_takes_nothing_of_a_limit(self) -> None:
        rules = (
            "limit few 2/1h per sender\ndefer over few\n"
            f"copy any to {ARCHIVE} via journal\ncopy to @example.com via journal"
        )
        relay = self.gateway(rules, settings="recipients 1\n")
        for _ in range(2):
            self.assertEqual(self.send(relay, INFO)[0], 250)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(ANN)
            self.assertEqual(client.rcpt(INFO)[0], 451)
        relay.wait_empty()
        got = [each for one in self.journal.wait(2) for each in one.recipients]
        self.assertEqual(sorted(got), sorted([ARCHIVE, INFO] * 2))

    def test_two_workers_and_what_is_shown(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal", workers=2)
        self.send(relay, INFO)
        self.copy()
        relay.wait_empty()
        found = relay.ctl("find", "--recipient", ARCHIVE).stdout
        self.assertIn("(a copy)", found)
        ident = found.split()[0]
        shown = relay.ctl("show", ident).stdout
        self.assertIn(f"<{ARCHIVE}> (a copy) via journal", shown.splitlines(), shown)
        why = relay.ctl("why", ident).stdout
        self.assertIn(f"{INFO} -> {ARCHIVE}", why)
        told = relay.ctl("explain", "--from", "127.0.0.1", INFO).stdout
        self.assertIn(f"a copy, seen by nobody: {ARCHIVE} via journal", told)


class ChangedSenderTest(CopyCase):
    """A milter says whom the mail is from, once copies are planned."""

    NEW = "new@partner.example"

    def changed(self, rules: str, *recipients: str) -> Arrived:
        """The copy."""
        milter = Milter(self, edits=lambda fields, content: [sender(f"<{self.NEW}>")])
        relay = self.gateway(f"milter m {milter.where}\nask m\n{rules}")
        self.assertEqual(self.send(relay, *recipients)[0], 250)
        copy = self.copy()
        wait_until(lambda: len(relay.queue()) == ("hold" in rules), "all else is delivered")
        self.assertEqual((len(self.journal.arrived), self.back.arrived), (1, []))
        return copy

    def srs(self) -> str:
        keys = self.folder / "srs.keys"
        keys.touch(mode=0o600)
        keys.write_text("00112233445566778899aabbccddeeff\n")
        return f"srs domain srs.gw.example.com keys file {keys}\naccept to @example.com\n"

    def test_the_copy_is_from_the_same(self) -> None:
        self.assertEqual(self.changed(f"copy any to {ARCHIVE} via journal", INFO).sender, self.NEW)
        self.assertEqual(self.main.wait(1)[0].sender, self.NEW)

    def test_where_it_would_be_rewritten_the_copy_is_from_nobody(self) -> None:
        copy = self.changed(self.srs() + f"copy any to {ARCHIVE} via journal", INFO)
        self.assertEqual(copy.sender, "")
        self.assertEqual(self.main.wait(1)[0].sender, self.NEW)

    def test_a_copy_of_the_recipient_himself_is_from_the_sender(self) -> None:
        self.assertEqual(self.changed(self.srs() + "copy any via journal", INFO).sender, self.NEW)

    def test_rules_rewrite_it_for_the_copy_as_for_the_mail(self) -> None:
        rules = f"rewrite sender {self.NEW} -> own@example.com\ncopy any to {ARCHIVE} via journal"
        self.assertEqual(self.changed(rules, INFO).sender, "own@example.com")
        self.assertEqual(self.main.wait(1)[0].sender, "own@example.com")

    def test_so_it_is_with_what_is_held_and_discarded(self) -> None:
        for verb in ("hold", "discard"):
            with self.subTest(verb):
                rules = f"{verb} to {INFO}\n{self.srs()}copy any to {ARCHIVE} via journal"
                self.assertEqual(self.changed(rules, INFO).sender, "")
                self.assertEqual(self.main.arrived, [])
                self.doCleanups()
                self.setUp()


class SiblingsTest(CopyCase):
    """What else is done with the mail."""

    def by_milter(self, answer: bytes, rules: str) -> Relayd:
        last = {b"E": (answer, b"")}
        milter = Milter(self, answers=lambda letter, data: last.get(letter, (b"c", b"")))
        return self.gateway(f"milter m {milter.where}\nask m\n{rules}")

    def test_what_a_milter_throws_away_is_copied(self) -> None:
        relay = self.by_milter(b"d", f"copy any to {ARCHIVE} via journal")
        self.assertEqual(self.send(relay, INFO)[0], 250)
        self.assertEqual((self.copy().recipients, self.copy().sender), ((ARCHIVE,), ANN))
        relay.wait_empty()
        self.assertEqual(self.main.arrived, [])

    def test_what_a_milter_holds_is_copied_at_once_and_once(self) -> None:
        milter = Milter(self, edits=lambda fields, content: [(b"q", b"why not\0")])
        relay = self.gateway(f"milter m {milter.where}\nask m\ncopy any to {ARCHIVE} via journal")
        self.assertEqual(self.send(relay, INFO)[0], 250)
        self.copy()
        wait_until(lambda: self.waiting(relay) == [(INFO, "held")], "only what is held is left")
        relay.ctl("release", "--all")
        self.main.wait(1)
        relay.wait_empty()
        self.assertEqual((len(self.journal.arrived), len(self.main.arrived)), (1, 1))

    def test_what_a_milter_refuses_is_not_copied(self) -> None:
        relay = self.by_milter(b"r", f"copy any to {ARCHIVE} via journal")
        self.assertEqual(self.send(relay, INFO)[0] // 100, 5)
        relay.wait_empty()
        self.assertEqual((self.journal.arrived, self.main.arrived), ([], []))

    def test_what_a_policy_service_redirects_is_copied_as_it_was_sent(self) -> None:
        policy = Policy(self, lambda asked: "REDIRECT boss@example.com")
        relay = self.gateway(
            f"policy p {policy.where}\nask p\ncopy to {INFO} to {ARCHIVE} via journal"
        )
        self.assertEqual(self.send(relay, INFO)[0], 250)
        self.assertEqual((self.copy().recipients, self.copy().sender), ((ARCHIVE,), ANN))
        relay.wait_empty()
        self.assertEqual([each.recipients for each in self.main.arrived], [(BOSS,)])
        self.assertEqual(len(self.journal.arrived), 1)

    def test_an_archive_whose_own_mail_is_held_gets_its_copies(self) -> None:
        """`hold` is about who is written to; a copy to the archive is written to by nobody."""
        relay = self.gateway(f"hold to {ARCHIVE}\ncopy to @example.com to {ARCHIVE} via journal")
        self.assertEqual(self.send(relay, INFO)[0], 250)
        self.copy()
        relay.wait_empty()
        self.assertEqual(self.send(relay, ARCHIVE, INFO)[0], 250)  # what he is sent is held
        self.copy(2)
        wait_until(lambda: self.waiting(relay) == [(ARCHIVE, "held")], "what he is sent is held")

    def test_one_that_is_forwarded_elsewhere_is_copied_as_he_was_named(self) -> None:
        relay = self.gateway(
            f"forward {INFO} -> x@outside.example, y@outside.example\n"
            f"copy to @example.com via journal\ncopy to @outside.example to {ARCHIVE} via journal"
        )
        self.send(relay, INFO)
        relay.wait_empty()
        self.assertEqual([each.recipients for each in self.journal.arrived], [(INFO,)])

    def test_copies_of_many_recipients_take_none_of_a_limit_per_recipient(self) -> None:
        relay = self.gateway(
            "limit few 3/1h per sender\ndefer over few\n"
            f"copy any to {ARCHIVE} via journal\ncopy any via journal"
        )
        self.assertEqual(self.send(relay, INFO, BOSS, "c@example.com")[0], 250)
        with relay.session() as client:
            client.ehlo("client.example")
            client.mail(ANN)
            self.assertEqual(client.rcpt(INFO)[0], 451)
        relay.wait_empty()
        got = sorted(each for one in self.journal.arrived for each in one.recipients)
        self.assertEqual(got, sorted([ARCHIVE, INFO, BOSS, "c@example.com"]))


class RefusedCopyTest(CopyCase):
    def script(self, asked: Asked) -> str | None:
        if asked.stage == "rcpt" and asked.argument == ARCHIVE:
            return "550 5.1.1 No archive here"
        return None

    def test_the_postmaster_is_told_and_nobody_else(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal")
        self.send(relay, INFO, options=("NOTIFY=SUCCESS,FAILURE,DELAY",))
        self.main.wait(1)
        [report] = self.back.wait(1)
        relay.wait_empty()
        self.assertEqual(report.recipients, ("postmaster@back.example",))
        self.assertIn(b"A copy could not be delivered", report.content)
        self.assertIn(ARCHIVE.encode(), report.content)
        self.assertEqual(len(self.back.arrived), 1)

    def test_of_a_report_that_was_copied_too(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal")
        self.send(relay, INFO, sender="")
        self.main.wait(1)
        [report] = self.back.wait(1)
        self.assertEqual(report.recipients, ("postmaster@back.example",))
        self.assertIn(b"A copy could not be delivered", report.content)


class WithoutDsnTest(CopyCase):
    journal_offers = WITHOUT_DSN

    def test_who_knows_no_notify_has_nobody_to_report_to(self) -> None:
        relay = self.gateway(f"copy any to {ARCHIVE} via journal")
        self.send(relay, INFO)
        copy = self.copy()
        self.assertEqual((copy.sender, copy.recipient_parameters), ("", ((),)))
        self.assertEqual(self.main.wait(1)[0].sender, ANN)


class CutThroughTest(CopyCase):
    def script(self, asked: Asked) -> str | None:
        if asked.stage == "rcpt" and asked.argument == BOSS:
            return "550 5.1.1 No boss here"
        if asked.stage == "rcpt" and asked.argument == ARCHIVE:
            return "450 4.2.1 Later"
        return None

    def test_the_client_neither_waits_for_the_copy_nor_hears_of_it(self) -> None:
        rules = (
            f"copy any to {ARCHIVE} via journal\nroute to @example.com via main cut-through 50s\n"
        )
        relay = self.gateway(rules)
        self.assertEqual(self.send(relay, INFO)[0], 250)
        [waiting] = wait_until(relay.queue, "the copy waits")
        self.assertEqual([each["mailbox"] for each in waiting["recipients"]], [ARCHIVE])

    def test_what_is_refused_at_the_door_is_not_copied(self) -> None:
        rules = (
            f"copy any to {ARCHIVE} via journal\nroute to @example.com via main cut-through 50s\n"
        )
        relay = self.gateway(rules)
        code, text = self.send(relay, BOSS)
        self.assertEqual((code, "No boss here" in text), (550, True))
        relay.wait_empty()
        self.assertEqual((self.journal.arrived, self.back.arrived), ([], []))


class CircleTest(CopyCase):
    def test_relays_that_copy_to_each_other_stop(self) -> None:
        ports = {"one": free_port(), "two": free_port()}
        relays = []
        for name, other in (("one", "two"), ("two", "one")):
            rules = (
                f"next-hop other smtp 127.0.0.1:{ports[other]}\n"
                f"next-hop main smtp 127.0.0.1:{self.main.port}\n"
                "accept from 127.0.0.1\n"
                f"copy any to archive@{other}.example via other\n"
                "route any via main\n"
            )
            relays.append(
                self.relayd(rules, name=name, hostname=f"{name}.example", port=ports[name])
            )
        self.send(relays[0], INFO)
        self.main.wait(3)
        for relay in relays * 2:
            relay.wait_empty()
        got = sorted(each for arrived in self.main.arrived for each in arrived.recipients)
        self.assertEqual(got, ["archive@one.example", "archive@two.example", INFO])
