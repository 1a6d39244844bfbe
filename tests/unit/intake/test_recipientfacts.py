"""Limits, first sights and mailboxes at next hops: asked for where a rule decides by them."""

from __future__ import annotations

import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.trial import unittest

from relayd.intake.counting import Limits
from relayd.intake.gatheredfacts import PATIENCE, Gatherer
from relayd.intake.recipientfacts import RecipientFacts, who
from relayd.intake.transaction import Addressee, ReceivedTransaction, identity
from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope
from relayd.mail.nexthop import NextHop
from relayd.mail.plan import FACT, Plan, Verdict
from relayd.rules.evaluate import WELCOME, evaluate
from relayd.rules.ruleset import build
from relayd.shared.keytable import Edit
from relayd.spool.errors import SpoolError
from tests.unit.intake.scene import CONTENT, HOST, FakeLog, Peer, Scene
from tests.unit.intake.test_lookups import Zone
from tests.unit.rules.test_grammar import parse

ANN, BOB = "192.0.2.7", "198.51.100.9"
BURST = 'limit burst 3/1m per client\ndefer when over burst "Slow down"\naccept to @example.com\n'


class NextHops:
    """Says of mailboxes what it is told to, when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.exist: dict[str, bool | None] = {}
        self.held: list[Deferred[None]] | None = None

    async def exists(self, hop: NextHop, mailbox: Mailbox) -> bool | None:
        self.asked.append(f"{hop.name} {mailbox}")
        if self.held is not None:
            waiting: Deferred[None] = Deferred()
            self.held.append(waiting)
            await waiting
        return self.exist.get(str(mailbox), False)


class RecipientCase(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.spool = Path(folder.name)
        self.scene = Scene()
        self.log = FakeLog()
        self.hops = NextHops()
        self.zone = Zone({})
        self.now = self.scene.clock.seconds
        self.facts = RecipientFacts(self.spool, self.now, self.hops)
        self.gatherer = Gatherer(self.scene.clock, self.zone, self.log, HOST, self.now, self.facts)

    def rules(self, text: str) -> None:
        ruleset = build(parse(text), {}, HOST)
        intake = self.scene.service.intake
        intake.gatherer = self.gatherer if ruleset.asked else None
        intake.rules = lambda: ruleset
        intake.decide = evaluate
        self.gatherer.apply(ruleset)

    def rcpts(self, peer: Peer, *names: str, sender: str = "ann@example.org") -> list[str]:
        """The replies to RCPT, in a transaction of their own."""
        lines = [f"RCPT TO:<{each}@example.com>" for each in names]
        return [each[:9] for each in peer.say("RSET", f"MAIL FROM:<{sender}>", *lines)[2:]]

    def counted(self, key: str, name: str = "burst") -> int:
        limit = self.scene.service.intake.rules().limits[name]
        counts = Limits(self.spool / "counts", self.now)
        self.addCleanup(counts.keep, {})
        return counts._counts_of(limit).count(key, self.now())


class LimitTests(RecipientCase):
    def test_the_one_that_would_be_one_too_many_is_over(self) -> None:
        self.rules(BURST)
        peer = self.scene.greeted(ANN)
        replies = self.rcpts(peer, "a", "b", "c", "d")
        self.assertEqual(replies, ["250 2.1.5"] * 3 + ["451 4.7.1"])
        peer.say("DATA")
        self.assertIn("queued", peer.say(*CONTENT)[-1])
        self.assertEqual(self.rcpts(peer, "e"), ["451 4.7.1"])
        self.assertEqual(self.rcpts(self.scene.greeted(BOB), "e"), ["250 2.1.5"])
        self.scene.clock.advance(62)
        self.assertEqual(self.rcpts(self.scene.greeted(ANN), "e"), ["250 2.1.5"])

    def test_recipients_of_parallel_sessions_count_before_their_message_is_there(self) -> None:
        self.rules(BURST)
        peers = [self.scene.greeted(ANN) for _ in range(4)]
        replies = [self.rcpts(peer, "a")[0] for peer in peers]
        self.assertEqual(replies, ["250 2.1.5"] * 3 + ["451 4.7.1"])

    def test_what_is_not_taken_after_all_does_not_count(self) -> None:
        self.rules(BURST)
        for end in ("RSET", "EHLO client.example", "QUIT", "leave", "refused", "trouble"):
            peer = self.scene.greeted(ANN)
            self.assertEqual(self.rcpts(peer, "a", "b"), ["250 2.1.5"] * 2, end)
            self.assertEqual(self.counted(ANN), 2, end)
            if end == "leave":
                peer.leave()
            elif end == "refused":
                peer.say("DATA", "bare\nnewline", ".")
            elif end == "trouble":
                self.scene.spool.commit_error = SpoolError("the disk is gone")
                peer.say("DATA", *CONTENT)
            else:
                peer.say(end)
            self.assertEqual(self.counted(ANN), 0, end)

    def test_of_many_recipients_all_are_taken_back_at_once(self) -> None:
        self.rules(BURST.replace("3/1m", "900/1m"))
        peer = self.scene.greeted(ANN)
        self.assertEqual(len(self.rcpts(peer, *map(str, range(40)))), 40)
        self.assertEqual(self.counted(ANN), 40)
        table = self.facts.limits._counts_of(self.scene.service.intake.rules().limits["burst"])
        change, changed = table._counts.change, list[str]()

        def watched(key: str, now: float, edit: Edit) -> None:
            changed.append(key)
            change(key, now, edit)

        self.patch(table._counts, "change", watched)
        peer.leave()
        self.assertEqual((self.counted(ANN), changed), (0, [ANN]))

    def test_a_recipient_to_whom_a_policy_service_objects_does_not_count(self) -> None:
        self.rules(BURST)
        rules = self.scene.service.intake.rules()
        limit = rules.limits["burst"]
        mailboxes = [Mailbox(name, "example.com") for name in "ab"]
        transaction = ReceivedTransaction(Envelope(None), Client(ANN), 0.0, rules)
        for mailbox in mailboxes:
            plan = Plan(Verdict.ACCEPT, WELCOME, (), ())
            addressee = Addressee(mailbox, "", frozenset(), plan)
            transaction.add(identity(mailbox), addressee)
            transaction.note({}, [self.facts.limits.take(limit, ANN)[1]])
        self.assertEqual(self.counted(ANN), 2)
        transaction.drop(identity(mailboxes[1]))
        self.assertEqual((self.counted(ANN), len(transaction.counted)), (1, 1))

    def test_a_recipient_that_is_refused_does_not_count(self) -> None:
        self.rules(BURST + "reject any 550")
        peer = self.scene.greeted(ANN)
        for _ in range(5):
            peer.say("RSET", "MAIL FROM:<ann@example.org>", "RCPT TO:<x@elsewhere.test>")
        self.assertEqual(self.counted(ANN), 0)
        self.assertEqual(self.rcpts(peer, "a"), ["250 2.1.5"])

    def test_the_same_recipient_twice_counts_once(self) -> None:
        self.rules(BURST)
        self.assertEqual(self.rcpts(self.scene.greeted(ANN), *"aaaaaa"), ["250 2.1.5"] * 6)
        self.assertEqual(self.counted(ANN), 1)

    def test_messages_count_once_however_many_recipients(self) -> None:
        self.rules(BURST.replace("3/1m", "2/1m messages"))
        peer = self.scene.greeted(ANN)
        for _ in range(2):
            self.assertEqual(self.rcpts(peer, *"abcdef"), ["250 2.1.5"] * 6)
            peer.say("DATA")
            self.assertIn("queued", peer.say(*CONTENT)[-1])
        self.assertEqual(self.rcpts(peer, *"ab"), ["451 4.7.1"] * 2)

    def test_what_is_held_counts_as_taken(self) -> None:
        self.rules(BURST.replace('defer when over burst "Slow down"', "hold when over burst"))
        peer = self.scene.greeted(ANN)
        self.rcpts(peer, *"abcde")
        peer.say("DATA")
        self.assertIn("queued", peer.say(*CONTENT)[-1])
        self.assertEqual(self.counted(ANN), 5)
        self.assertEqual(
            [each.name for each in self.scene.spool.stored[0][1].states],
            ["QUEUED"] * 3 + ["HELD"] * 2,
        )

    def test_what_was_known_is_kept_with_the_message_and_with_a_refusal(self) -> None:
        self.rules(
            BURST.replace("3/1m", "1/1m").replace("defer when", "hold to b@example.com when")
        )
        untold: list[str] = []
        intake = self.scene.service.intake
        intake.untold = lambda *said: untold.extend(step.place for step in said[3].trail)
        peer = self.scene.greeted(ANN)
        for _ in range(2):
            self.rcpts(peer, "b")
            peer.say("DATA")
            self.assertIn("queued", peer.say(*CONTENT)[-1])
        told = [
            [step.rule for step in submission.trail if step.stage == FACT]
            for _, submission in self.scene.spool.stored
        ]
        self.assertEqual(told, [["not over burst"], ["over burst"]])
        self.rules(BURST.replace("3/1m", "1/1m"))
        peer.say("MAIL FROM:<a@example.org>", "RCPT TO:<x@example.com>")
        self.assertIn("over burst", untold)

    def test_a_rule_about_the_content_has_it_counted_at_the_final_dot(self) -> None:
        rules = BURST.replace("defer when", "hold to b@example.com when size > 1 and")
        self.rules(rules.replace("3/1m", "1/1m"))
        peer = self.scene.greeted(ANN)
        for number in range(2):
            self.rcpts(peer, "a", "b")
            self.assertEqual(self.counted(ANN), number)
            peer.say("DATA")
            self.assertIn("queued", peer.say(*CONTENT)[-1])
        self.assertEqual(
            [submission.state_of(1).name for _, submission in self.scene.spool.stored],
            ["QUEUED", "HELD"],
        )
        self.scene.spool.commit_error = SpoolError("the disk is gone")
        self.rcpts(peer, "a", "b")
        peer.say("DATA", *CONTENT)
        self.assertEqual(self.counted(ANN), 2)

    def test_by_whom_it_counts(self) -> None:
        for per, key in (
            ("sender", "ann@example.org"), ("sender-domain", "example.org"),
            ("recipient", "bob@example.com"), ("recipient-domain", "example.com"),
            ("listener", "127.0.0.1:2525"), ("client", "2001:db8:0:1::/64"),
        ):  # fmt: skip
            with self.subTest(per):
                self.rules(BURST.replace("per client", f"per {per}"))
                peer = self.scene.greeted("2001:db8:0:1::7")
                self.assertEqual(self.rcpts(peer, "Bob", sender="Ann@Example.ORG"), ["250 2.1.5"])
                self.assertEqual(self.counted(key), 1)

    def test_nobody_is_counted_where_there_is_nobody(self) -> None:
        for per in ("login", "sender", "sender-domain"):
            self.rules(BURST.replace("per client", f"per {per}").replace("3/1m", "1/1m"))
            self.assertEqual(
                self.rcpts(self.scene.greeted(ANN), *"abc", sender=""), ["250 2.1.5"] * 3
            )

    def test_only_where_a_rule_looks_at_it(self) -> None:
        self.rules(BURST.replace("defer when", "defer to vip@example.com when"))
        self.assertEqual(self.rcpts(self.scene.greeted(ANN), *"abcde"), ["250 2.1.5"] * 5)
        self.assertEqual(self.counted(ANN), 0)
        self.assertFalse((self.spool / "greylist").exists())

    def test_other_rules_keep_the_counts_of_the_same_limit(self) -> None:
        self.rules(BURST)
        peer = self.scene.greeted(ANN)
        self.rcpts(peer, *"ab")
        peer.say("DATA")
        peer.say(*CONTENT)
        self.rules(BURST.replace("3/1m", "2/1m"))
        self.assertEqual(self.rcpts(peer, "c"), ["451 4.7.1"])
        self.rules(BURST.replace("3/1m", "4/60s"))  # as long as it was
        self.assertEqual(self.rcpts(peer, *"cde"), ["250 2.1.5"] * 2 + ["451 4.7.1"])
        self.rules(BURST.replace("3/1m", "2/2m"))  # another one
        self.assertEqual(self.rcpts(peer, *"cd"), ["250 2.1.5"] * 2)

    def test_what_is_under_way_at_a_reload_is_taken_back_all_the_same(self) -> None:
        self.rules(BURST)
        peer = self.scene.greeted(ANN)
        self.rcpts(peer, *"ab")
        self.rules(BURST.replace("3/1m", "9/1m"))
        self.assertEqual(self.counted(ANN), 2)
        peer.say("RSET")
        self.assertEqual(self.counted(ANN), 0)

    def test_files_of_limits_that_are_no_more_are_removed_at_the_start(self) -> None:
        for text in (BURST, BURST.replace("3/1m", "3/2m"), BURST.replace("burst", "b")):
            self.rules(text)
            self.rcpts(self.scene.greeted(ANN), "a")
        kept = BURST.replace("3/1m", "5/1m")
        self.rules(kept)
        self.gatherer.tidy(self.scene.service.intake.rules())
        files = sorted(path.name for path in (self.spool / "counts").iterdir())
        name = "burst.recipients.client.60s"
        self.assertEqual(files, [f"{name}.counts", f"{name}.names"])
        self.gatherer.tidy(build((), {}, HOST))
        self.assertEqual([*(self.spool / "counts").iterdir()], [])

    def test_counts_that_cannot_be_written_put_mail_off_and_are_told_once(self) -> None:
        self.rules(BURST)
        (self.spool / "counts").write_text("a file")
        self.assertEqual(self.rcpts(self.scene.greeted(ANN), *"abc"), ["451 4.3.0"] * 3)
        (told,) = self.log.of("trouble")
        self.assertIn("over burst", told)
        for line in self.scene.log.of("refused"):
            self.assertRegex(line, r"\(\S+:2 the count of burst is not known\)$")


class FirstSightTests(RecipientCase):
    RULES = "defer to @example.com when first-seen 5m and not spf pass\naccept to @example.com\n"

    def setUp(self) -> None:
        super().setUp()
        self.rules(self.RULES)

    def tried(self, address: str = ANN, to: str = "bob", sender: str = "ann@example.org") -> str:
        (reply,) = self.rcpts(self.scene.greeted(address), to, sender=sender)
        return reply

    def test_who_comes_back_passes_and_then_at_once(self) -> None:
        self.assertEqual([self.tried(), self.tried()], ["451 4.7.1"] * 2)
        self.scene.clock.advance(301)
        self.assertEqual(self.tried(), "250 2.1.5")
        self.assertEqual(self.tried(to="carl", sender="dora@example.net"), "250 2.1.5")
        self.assertEqual(self.tried(BOB), "451 4.7.1")

    def test_another_address_of_the_network_is_the_same_client(self) -> None:
        for first, second in ((ANN, "192.0.2.250"), ("2001:db8::1", "2001:db8::ffff:1")):
            self.assertEqual(self.tried(first), "451 4.7.1")
            self.scene.clock.advance(301)
            self.assertEqual(self.tried(second), "250 2.1.5")

    def test_where_spf_passes_nobody_is_asked_or_noted(self) -> None:
        self.zone._records = {("example.org", "TXT"): ("v=spf1 ip4:192.0.2.0/24 -all",)}
        self.assertEqual(self.tried(), "250 2.1.5")
        self.assertFalse((self.spool / "greylist").exists())

    def test_as_whom_a_client_is_remembered(self) -> None:
        for address, rdns, policy, sender, name in (
            (ANN, None, "none", "a@Example.org", "192.0.2.0/24"),
            (ANN, None, "pass", "a@Example.org", "@example.org"),
            (ANN, "mx1.out.example.net", "pass", "a@example.org", "@example.org"),
            (ANN, "mx1.out.example.net", "softfail", "a@example.org", ".out.example.net"),
            (ANN, "mail.example.co.uk", "none", "a@example.org", ".example.co.uk"),
            (ANN, "example.co.uk", "none", "a@example.org", ".example.co.uk"),
            (ANN, "example.net", "none", "a@example.org", ".example.net"),
            (ANN, "192-0-2-7.dsl.example.net", "none", "a@example.org", "192.0.2.0/24"),
            (ANN, "host7.2.0.192.example.net", "none", "a@example.org", "192.0.2.0/24"),
            (ANN, "c0000207.pool.example.net", "none", "a@example.org", "192.0.2.0/24"),
            (ANN, "", "none", "a@example.org", "192.0.2.0/24"),
            ("::ffff:192.0.2.7", None, "none", "a@example.org", "192.0.2.0/24"),
            ("2001:db8:1:2::7", None, "fail", "a@example.org", "2001:db8:1:2::/64"),
            (ANN, None, "pass", None, "@mail.example.org"),
        ):  # fmt: skip
            with self.subTest(rdns, policy=policy):
                client = Client(address, helo="Mail.example.org", rdns=rdns)
                mailbox = None if sender is None else Mailbox.parse(sender)
                self.assertEqual(who(client, mailbox, policy), name)

    def test_a_cloud_that_tries_from_everywhere_loses_no_mail(self) -> None:
        self.rules(self.RULES.replace(" and not spf pass", ""))
        self.zone._records = {("example.org", "TXT"): ("v=spf1 ip4:0.0.0.0/0 -all",)}
        self.assertEqual(self.tried("192.0.2.7"), "451 4.7.1")
        self.scene.clock.advance(301)
        self.assertEqual(self.tried("203.0.113.99"), "250 2.1.5")


class MailboxTests(RecipientCase):
    RULES = (
        "next-hop exchange smtp 192.0.2.25:25\n"
        'reject when unknown at exchange 550 5.1.1 "No such mailbox"\n'
        "accept to @example.com\n"
    )

    def setUp(self) -> None:
        super().setUp()
        self.rules(self.RULES)
        self.hops.exist = {"bob@example.com": True, "carl@example.com": None}

    def test_yes_no_and_unknown(self) -> None:
        replies = self.rcpts(self.scene.greeted(ANN), "bob", "nobody", "carl")
        self.assertEqual(replies, ["250 2.1.5", "550 5.1.1", "451 4.3.0"])

    def test_nobody_is_asked_for_what_is_refused_in_any_case(self) -> None:
        peer = self.scene.greeted(ANN)
        reply = peer.say("MAIL FROM:<a@example.org>", "RCPT TO:<x@elsewhere.test>")[-1]
        self.assertEqual(reply[:9], "550 5.7.1")
        self.assertEqual(self.hops.asked, [])

    def test_the_recipient_that_rules_have_made_is_asked_for(self) -> None:
        self.rules(
            "next-hop exchange smtp 192.0.2.25:25\naccept to @example.com\n"
            "forward team@example.com -> bob@example.com, nobody@example.com\n"
            "route any via exchange when not unknown at exchange\nroute any direct\n"
        )
        self.assertEqual(self.rcpts(self.scene.greeted(ANN), "team"), ["250 2.1.5"])
        self.assertEqual(
            self.hops.asked, ["exchange bob@example.com", "exchange nobody@example.com"]
        )

    def test_rcpt_waits_for_it_and_for_no_longer_than_is_reasonable(self) -> None:
        self.hops.held = []
        peer = self.scene.greeted(ANN)
        self.assertEqual(self.rcpts(peer, "bob", "bob"), [])
        self.hops.held[0].callback(None)
        self.assertEqual([each[:9] for each in peer.replies()], ["250 2.1.5"] * 2)
        self.assertEqual(self.rcpts(peer, "nobody"), [])
        self.scene.clock.advance(PATIENCE + 1)
        self.assertEqual([each[:9] for each in peer.replies()], ["451 4.3.0"])

    def test_a_client_that_goes_meanwhile_is_no_trouble(self) -> None:
        self.rules(
            BURST.replace("accept", "reject when unknown at x\nnext-hop x smtp h:25\naccept")
        )
        self.hops.held = []
        peer = self.scene.greeted(ANN)
        self.assertEqual(self.rcpts(peer, "bob"), [])
        self.assertEqual(self.counted(ANN), 1)
        peer.leave()
        self.assertEqual(self.counted(ANN), 0)

    def test_the_bare_postmaster_is_always_there(self) -> None:
        self.rules(self.RULES + "forward postmaster@example.com -> bob@example.com\n")
        peer = self.scene.greeted(ANN)
        self.assertEqual(
            peer.say("MAIL FROM:<a@example.org>", "RCPT TO:<Postmaster>")[-1][:9], "250 2.1.5"
        )
        self.assertEqual(self.hops.asked, [])
