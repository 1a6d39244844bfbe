"""Whose word counts of several hosts, on spent connections, and where our set-up is wrong."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from twisted.internet.defer import succeed

from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import LMTP, HostPort, NextHop
from relayd.mail.outcome import Blame, Outcome
from relayd.relay.courier import Hop
from relayd.relay.limits import RelayLimits
from relayd.relay.survey import Endpoint
from tests.sink import CLOSE, EXTENSIONS, STALL, Asked, Script, Sink
from tests.support import TestCase
from tests.unit.relay.test_smtpout import QUICK, CourierCase, a_delivery, says

R, D, S = Blame.RECIPIENT, Blame.DESTINATION, Blame.SERVICE
FULL = says("mail", "452 4.3.1 disk full")


def isp(name: str = "isp", *, protocol: str = "smtp") -> Hop:
    """A next hop of our own configuration."""
    return Hop((NextHop(name, protocol, (HostPort("mx.example", 25),)),))


def after(transactions: int, stage: str, reply: str) -> Script:
    """A host that says this when so many messages have come on one connection."""

    def script(asked: Asked) -> str | None:
        late = asked.transaction > transactions
        return reply if late and asked.stage == stage else None

    return script


UNCONVERTIBLE = b"Subject: gr\xfcn\r\n\r\nhello\r\n"  # for who takes 7 bits only


def eight_bit(delivery: Delivery) -> Delivery:
    return Delivery(replace(delivery.message, eight_bit=True), delivery.records)


class NextHost(CourierCase, TestCase):
    """RFC 5321 section 5.1: what one host puts off, another may take, in the same attempt."""

    def words(self, outcome: Outcome, reply: str, blame: Blame = R) -> None:
        self.assertEqual((str(outcome.reply), outcome.blame), (reply, blame))

    async def test_the_last_word_of_several_and_the_others_in_the_reason(self) -> None:
        self.sink(FULL)
        self.sink(says("rcpt", "450 4.2.1 greylisted"))
        (outcome,) = await self.deliver(a_delivery())
        self.words(outcome, "450 4.2.1 greylisted")
        self.assertEqual(outcome.remote_address, str(self.endpoints[1]))
        first = f"at rcpt; before it {self.endpoints[0]}: 452 4.3.1 disk full (at mail)"
        self.assertEqual(outcome.why, first)

    async def test_a_later_host_refuses_for_good(self) -> None:
        self.sink(FULL)
        self.sink(says("rcpt", "550 5.1.1 nobody"))
        third = self.sink()
        (outcome,) = await self.deliver(a_delivery())
        self.words(outcome, "550 5.1.1 nobody")
        self.assertIn("452 4.3.1 disk full", outcome.why)
        self.assertEqual(third.sessions, 0)

    async def test_a_host_that_puts_off_outweighs_hosts_in_trouble(self) -> None:
        """Nobody may think that the destination is down: it has answered."""
        for number in range(3):
            self.endpoints.clear()
            hosts = [self.dead, lambda: self.sink(says("mail", "421 4.3.2 busy"))]
            hosts.insert(number, lambda: self.sink(FULL))
            for host in hosts:
                host()
            (outcome,) = await self.deliver(a_delivery(), Hop(domain=f"{number}.example"))
            self.words(outcome, "452 4.3.1 disk full")
            self.assertEqual(outcome.remote_address, str(self.endpoints[number]))

    async def test_hosts_in_trouble_are_the_destinations_trouble(self) -> None:
        self.sink(says("mail", "421 4.3.2 busy"))
        self.dead()
        (outcome,) = await self.deliver(a_delivery())
        self.assertIs(outcome.blame, D)

    async def test_each_recipient_goes_its_own_way(self) -> None:
        replies = {"user1": "550 5.1.1 nobody", "user2": "450 4.2.1 grey"}

        def script(asked: Asked) -> str | None:
            return replies.get(asked.argument[:5]) if asked.stage == "rcpt" else None

        first, second = self.sink(script), self.sink()
        outcomes = await self.deliver(a_delivery(4))
        self.assertEqual([each.reply.code for each in outcomes], [250, 550, 250, 250])
        self.assertEqual(len(first.arrived[0].recipients), 2)
        self.assertEqual(second.arrived[0].recipients, ("user2@example.com",))

    async def test_a_greylisted_one_among_too_many_is_not_forgotten(self) -> None:
        def script(asked: Asked) -> str | None:
            if asked.stage != "rcpt":
                return None
            if asked.argument.startswith("user2"):
                return "450 4.2.1 grey"
            return "452 4.5.3 too many" if len(asked.recipients) == 1 else None

        first, second = self.sink(script), self.sink()
        outcomes = await self.deliver(a_delivery(4))
        self.assertEqual([each.reply.code for each in outcomes], [250] * 4)
        self.assertEqual((first.sessions, len(first.arrived)), (1, 3))
        self.assertEqual([each.recipients for each in second.arrived], [("user2@example.com",)])

    async def test_from_a_kept_connection_not_to_the_same_host_again(self) -> None:
        first = self.sink(after(1, "rcpt", "450 4.2.1 greylisted"))
        second = self.sink()
        await self.deliver(a_delivery())
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual((first.sessions, len(first.arrived), len(second.arrived)), (1, 1, 1))

    async def test_from_a_kept_connection_that_is_lost_too(self) -> None:
        first, second = self.sink(), self.sink()
        await self.deliver(a_delivery())
        first.script = says("content", "451 4.3.0 later")
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual((first.sessions, len(second.arrived)), (2, 1))

    async def test_kept_connections_to_other_hosts_serve(self) -> None:
        first, second = self.sink(says("rcpt", "450 4.2.1 greylisted")), self.sink()
        for _ in range(5):
            (outcome,) = await self.deliver(a_delivery())
            self.assertEqual(outcome.reply.code, 250)
        self.assertEqual((first.sessions, second.sessions, len(second.arrived)), (1, 1, 5))

    async def test_of_one_next_hop_and_of_the_next_one(self) -> None:
        places = []
        for script in (FULL, says("content", "451 4.7.1 later"), None):
            self.sink(script)
            places.append([self.endpoints.pop()])
        hops = [isp(name).next_hops[0] for name in "abc"]
        self.courier._resolve = lambda hop: succeed(places[hops.index(hop)])  # type: ignore[arg-type]
        (outcome,) = await self.deliver(a_delivery(), Hop(tuple(hops)))
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual([len(sink.arrived) for sink in self.sinks], [0, 0, 1])

    async def test_a_host_of_two_next_hops_is_asked_as_each(self) -> None:
        """The second one may log in, or want other TLS."""
        sink = self.sink(says("mail", "452 4.3.1 full", session=1))
        hops = isp("a").next_hops + isp("b").next_hops
        (outcome,) = await self.deliver(a_delivery(), Hop(hops))
        self.assertEqual((outcome.reply.code, sink.sessions), (250, 2))

    async def test_lmtp(self) -> None:
        first = self.sink(says("content", "452 4.2.2 full", argument="user1"), lmtp=True)
        second = self.sink(lmtp=True)
        outcomes = await self.deliver(a_delivery(3), isp(protocol=LMTP))
        self.assertEqual([each.reply.code for each in outcomes], [250] * 3)
        self.assertEqual((len(first.arrived), len(second.arrived)), (2, 1))

    async def test_not_to_any_number_of_hosts(self) -> None:
        for _ in range(12):
            self.sink(FULL)
        await self.deliver(a_delivery())
        self.assertEqual(sum(sink.sessions for sink in self.sinks), 10)

    async def test_not_when_the_attempt_has_taken_long(self) -> None:
        self.courier = self.a_courier(deadlines=QUICK, limits=RelayLimits(attempt=0.1))
        self.sink(says("rcpt", STALL))
        second = self.sink()
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual((outcome.reply.code, second.sessions), (451, 0))

    async def test_what_one_host_does_not_offer_another_may(self) -> None:
        self.sink(extensions=("PIPELINING",))
        second = self.sink()
        (outcome,) = await self.deliver(eight_bit(a_delivery(content=UNCONVERTIBLE)))
        self.assertEqual((outcome.reply.code, len(second.arrived)), (250, 1))

    async def test_what_no_host_offers_is_the_end(self) -> None:
        for _ in range(2):
            self.sink(extensions=("PIPELINING",))
        (outcome,) = await self.deliver(eight_bit(a_delivery(content=UNCONVERTIBLE)))
        self.assertEqual(outcome.reply.status, "5.6.3")

    async def test_what_ten_hosts_do_not_offer_is_not_the_end_while_there_are_more(self) -> None:
        for _ in range(11):
            self.sink(extensions=("PIPELINING",))
        (outcome,) = await self.deliver(eight_bit(a_delivery(content=UNCONVERTIBLE)))
        self.assertEqual((outcome.reply.code, outcome.blame), (451, R))
        self.assertIn("not offered", outcome.why)

    async def test_what_one_host_does_not_offer_is_not_the_end_while_another_is_in_trouble(
        self,
    ) -> None:
        for swapped in (False, True):
            for other in (FULL, says("mail", "421 4.3.2 busy"), says("connect", CLOSE), None):
                with self.subTest(swapped=swapped, other=other):
                    self.endpoints.clear()
                    self.sink(extensions=("PIPELINING",))
                    if other is None:
                        self.dead()
                    else:
                        self.sink(other)
                    if swapped:
                        self.endpoints.reverse()
                    name = f"x{id(other)}{swapped}.example"
                    (outcome,) = await self.deliver(
                        eight_bit(a_delivery(content=UNCONVERTIBLE)), Hop(domain=name)
                    )
                    self.assertEqual((outcome.reply.code // 100, outcome.blame), (4, R), outcome)


class Spent(CourierCase, TestCase):
    """A connection that has carried mail and carries no more: not the mail's fault."""

    async def all_arrive(self, sink: Sink, count: int) -> None:
        for _ in range(count):
            (outcome,) = await self.deliver(a_delivery())
            self.assertEqual(outcome.reply.code, 250, outcome)
        self.assertEqual(len(sink.arrived), count)

    async def check(self, stage: str, reply: str) -> None:
        """One refusal teaches how much a connection carries: the others end in time."""
        asked: list[int] = []
        script = after(2, stage, reply)

        def counting(what: Asked) -> str | None:
            said = script(what)
            asked.extend([what.session] * (said is not None))
            return said

        sink = self.sink(counting)
        await self.all_arrive(sink, 10)
        self.assertEqual((sink.sessions, asked), (5, [1]))

    async def test_mail_refused(self) -> None:
        await self.check("mail", "452 4.4.5 too many messages in this session")

    async def test_data_refused(self) -> None:
        await self.check("data", "451 4.3.0 too many messages")

    async def test_recipients_refused(self) -> None:
        await self.check("rcpt", "452 4.4.5 too many messages in this session")

    async def test_recipients_refused_without_a_reason(self) -> None:
        await self.check("rcpt", "450 not now")

    async def test_content_refused(self) -> None:
        await self.check("content", "452 4.4.5 too many messages in this session")

    async def test_mail_refused_for_good(self) -> None:
        await self.check("mail", "550 5.7.1 too many messages in this session")

    async def test_a_sender_who_is_refused_for_good_is_so_on_the_second_connection(self) -> None:
        sink = self.sink()
        await self.deliver(a_delivery())
        sink.script = says("mail", "550 5.1.8 bad sender")
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual((str(outcome.reply), sink.sessions), ("550 5.1.8 bad sender", 2))

    async def test_some_of_the_recipients_refused_as_too_much(self) -> None:
        count: list[str] = []

        def script(asked: Asked) -> str | None:
            if asked.stage == "rcpt":
                count.append(asked.argument)
            late = asked.stage == "rcpt" and asked.session == 1 and len(count) > 2
            return "452 4.4.5 too many in this session" if late else None

        sink = self.sink(script)
        await self.deliver(a_delivery())
        outcomes = await self.deliver(a_delivery(3))
        self.assertEqual([each.reply.code for each in outcomes], [250] * 3)
        self.assertEqual([len(each.recipients) for each in sink.arrived], [1, 1, 2])

    async def test_a_full_mailbox_or_one_of_two_recipients_is_no_connection_that_is_spent(
        self,
    ) -> None:
        for count, reply in ((1, "452 4.2.2 mailbox full"), (2, "450 4.7.1 later")):
            self.endpoints.clear()
            sink = self.sink(says("rcpt", reply, argument=f"user{count - 1}"))
            hop = isp(reply)
            first = a_delivery(3)
            await self.deliver(Delivery(first.message, first.records[2:]), hop)
            outcomes = await self.deliver(a_delivery(count), hop)
            self.assertEqual((str(outcomes[-1].reply), sink.sessions), (reply, 1))

    async def test_lost_behind_the_end_of_the_content_is_not_sent_again(self) -> None:
        sink = self.sink(after(1, "content", CLOSE))
        await self.deliver(a_delivery())
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual((outcome.in_doubt, sink.sessions), (True, 1))

    async def test_421_at_mail(self) -> None:
        await self.check("mail", "421 4.4.5 too many messages in this session")

    async def test_421_at_rcpt(self) -> None:
        await self.check("rcpt", "421 4.7.0 too many messages")

    async def test_421_at_the_end_of_the_content(self) -> None:
        await self.check("content", "421 4.7.0 too many messages")

    async def test_without_pipelining(self) -> None:
        sink = self.sink(after(2, "mail", "452 4.4.5 enough"), extensions=("SIZE",))
        await self.all_arrive(sink, 6)
        self.assertEqual(sink.sessions, 3)

    async def test_many_connections_at_once(self) -> None:
        refused: list[int] = []

        def script(asked: Asked) -> str | None:
            late = asked.stage == "mail" and asked.transaction > 10
            refused.extend([asked.session] * late)
            return "452 4.4.5 enough" if late else None

        sink = self.sink(script)
        for _ in range(40):
            under_way = [self.deliver(a_delivery()) for _ in range(5)]
            for done in under_way:
                (outcome,) = await done
                self.assertEqual(outcome.reply.code, 250)
        self.assertEqual(len(sink.arrived), 200)
        self.assertLessEqual(len(refused), 5)

    async def test_a_fresh_connection_has_the_last_word(self) -> None:
        """A disk that is full since the last message: asked once more, and then it counts."""
        full: list[bool] = []
        sink = self.sink(lambda asked: FULL(asked) if full else None)
        second = self.sink()
        await self.deliver(a_delivery())
        full.append(True)
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.reply.code, 250)
        self.assertEqual((sink.sessions, len(second.arrived)), (2, 1))
        self.endpoints.pop()
        second.kill()
        (outcome,) = await self.deliver(a_delivery(), Hop(domain="other.example"))
        self.assertEqual((outcome.reply.code, outcome.blame, sink.sessions), (452, R, 3))

    async def test_one_message_a_connection_for_more_recipients_than_it_takes(self) -> None:
        def script(asked: Asked) -> str | None:
            if asked.stage == "mail" and asked.transaction > 1:
                return "452 4.4.5 one message a connection"
            many = asked.stage == "rcpt" and len(asked.recipients) == 2
            return "452 4.5.3 too many" if many else None

        sink = self.sink(script)
        outcomes = await self.deliver(a_delivery(7))
        self.assertEqual([each.reply.code for each in outcomes], [250] * 7)
        self.assertEqual([len(each.recipients) for each in sink.arrived], [2, 2, 2, 1])

    async def test_what_was_learnt_is_forgotten_in_time(self) -> None:
        sink = self.sink(after(1, "mail", "452 4.4.5 enough"))
        await self.all_arrive(sink, 3)
        endpoint = self.endpoints[0]
        self.assertEqual(self.courier._pool._enough[endpoint][0], 1)
        self.courier._pool._enough[endpoint] = 1, 0.0
        await self.deliver(a_delivery())
        self.assertEqual(self.courier._pool._enough, {})


class OurSetUp(CourierCase, TestCase):
    """What speaks of us and not of the mail makes it wait, and says what to mend."""

    async def refused(
        self, stage: str, reply: str, hop: Hop, *, extensions: Sequence[str] = EXTENSIONS
    ) -> Outcome:
        self.endpoints.clear()
        self.sink(says(stage, reply), extensions=tuple(extensions))
        (outcome,) = await self.deliver(a_delivery(), hop)
        return outcome

    async def all_wait(self, stages: Sequence[str], replies: Sequence[str], advice: str) -> None:
        for stage, reply in itertools.product(stages, replies):
            with self.subTest(stage=stage, reply=reply):
                outcome = await self.refused(stage, reply, isp(f"isp{reply}{stage}"))
                blame = D if stage == "mail" else S
                self.assertEqual((outcome.reply.code, outcome.blame), (451, blame), outcome)
                self.assertEqual((outcome.reply.subject, outcome.remote_mta), (7, ""))
                self.assertRegex(outcome.reply.text, "^Next hop isp.* at mx.example")
                self.assertIn(f"does not serve us: {reply}", outcome.reply.text)
                self.assertIn(advice, outcome.reply.text)

    async def test_a_next_hop_that_wants_a_login_makes_mail_wait(self) -> None:
        replies = (
            "530 5.7.0 Authentication required",
            "530 5.7.1 Client was not authenticated",
            "530 Authentication required",
            "534 5.7.9 mechanism is too weak",
            "535 5.7.8 credentials invalid",
            "538 5.7.11 encryption required",
            "554 5.7.8 credentials invalid",
            "550 5.7.8 who are you",
        )
        stages = ("mail", "rcpt", "data", "content")
        await self.all_wait(stages, replies, "give this next hop a login")

    async def test_a_next_hop_that_does_not_relay_for_us_makes_mail_wait(self) -> None:
        replies = (
            "554 5.7.1 <bob@example.com>: Relay access denied",
            "550 5.7.1 Relaying denied",
            "550 relay not permitted",
            "550 5.7.1 Unable to relay",
            "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain",
            "550 5.7.64 TenantAttribution; Relay Access Denied",
            "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied",
            "550 5.7.0 Mail relay denied",
            "550 SMTP AUTH is required for message submission",
            "550 5.7.1 SMTP AUTH required",
            "550 You must authenticate first",
            "550 5.7.1 you are not authorized to relay",
            "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)",
            "553 sorry, that domain is not in my list of allowed rcpthosts (#5.7.1)",
            "550 5.7.0 not you",
        )
        await self.all_wait(("mail", "rcpt"), replies, "ask it to relay for this host")

    async def test_other_words_for_not_relaying_for_us(self) -> None:
        replies = (
            "550 5.7.1 Invalid credentials for relay [192.0.2.1]",
            "550 5.7.3 Requested action aborted; user not authenticated",
            "550 5.7.1 Client was not authenticated",
            "550 5.7.1 No relaying allowed",
            "550 relaying to <user0@example.com> prohibited by administrator",
            "550 Relaying mail to example.com is not allowed",
            "551 we don't relay",
            "553 Relaying disallowed as alice@example.com",
            "550 not local host example.com, not a gateway",
            "550 Please authenticate before sending",
            "503 AUTH first (#5.5.1)",
            "503 5.5.1 Authentication required",
            "503 Error: need EHLO and AUTH first !",
        )
        await self.all_wait(("mail", "rcpt"), replies, "ask it to relay for this host")

    async def test_what_speaks_of_the_mail_is_final(self) -> None:
        for stage, reply in (
            ("rcpt", "550 5.7.1 <bob@example.com>: Recipient address rejected: not to strangers"),
            ("rcpt", "550 5.1.1 no such user"),
            ("rcpt", "550 5.7.1 see https://relay.example.net/policy"),
            ("mail", "550 5.7.1 sender is not welcome"),
            ("mail", "553 5.7.1 Sender address rejected: not owned by user"),
            ("mail", "550 5.1.8 bad sender"),
            ("rcpt", "550 sorry, no mailbox here by that name (#5.1.1)"),
            ("rcpt", "553 sorry, your envelope sender is in my badmailfrom list (#5.7.1)"),
            ("rcpt", "550 5.1.1 no such author required to answer"),
            ("mail", "550 5.7.1 sender address could not be authenticated"),
            ("rcpt", "550 5.7.1 the sender's relay 192.0.2.1 is listed as a source of spam"),
            ("rcpt", "550 5.1.1 no mailbox of that author here"),
            ("mail", "503 5.5.1 bad sequence of commands"),
            ("content", "552 5.7.0 This message was blocked because of its content"),
            ("content", "550 5.7.1 spam, relaying denied"),
            ("content", "554 5.7.1 spam"),
        ):
            with self.subTest(stage=stage, reply=reply):
                outcome = await self.refused(stage, reply, isp(f"isp{reply}"))
                self.assertEqual(str(outcome.reply), reply)

    async def test_a_mail_exchangers_word_is_about_the_mail(self) -> None:
        for reply in ("530 5.7.0 Authentication required", "554 5.7.1 Relay access denied"):
            outcome = await self.refused("rcpt", reply, Hop(domain=f"{len(reply)}.example"))
            self.assertEqual(str(outcome.reply), reply)

    async def test_an_exchanger_that_wants_the_tls_that_we_did_without(self) -> None:
        reply = "530 5.7.0 Must issue a STARTTLS command first"
        offer = (*EXTENSIONS, "STARTTLS")
        outcome = await self.refused("mail", reply, Hop(domain="a.example"), extensions=offer)
        self.assertEqual((outcome.reply.code, outcome.blame), (451, D))
        self.assertIn("it wants TLS", outcome.reply.text)

    async def test_a_next_hop_that_wants_tls_is_said_to(self) -> None:
        reply = "530 5.7.0 Must issue a STARTTLS command first"
        outcome = await self.refused("mail", reply, isp(), extensions=(*EXTENSIONS, "STARTTLS"))
        self.assertEqual((outcome.reply.code, outcome.blame), (451, D))
        self.assertIn("it wants TLS", outcome.reply.text)

    async def test_another_host_may_serve_us(self) -> None:
        self.sink(says("mail", "530 5.7.0 Authentication required"))
        second = self.sink()
        (outcome,) = await self.deliver(a_delivery(), isp())
        self.assertEqual((outcome.reply.code, len(second.arrived)), (250, 1))

    async def test_what_is_to_be_mended_outweighs_a_host_that_is_down(self) -> None:
        for down_first in (False, True):
            self.endpoints.clear()
            self.sink(says("mail", "530 5.7.0 Authentication required"))
            self.dead()
            if down_first:
                self.endpoints.reverse()
            (outcome,) = await self.deliver(a_delivery(), isp(f"isp{down_first}"))
            self.assertIn("does not serve us", outcome.reply.text)
            self.assertIs(outcome.blame, D)

    async def test_what_is_said_of_a_recipient_is_said_of_that_one(self) -> None:
        """Also by one that has never taken mail: other mail shows whether it is true of all."""
        self.sink(says("rcpt", "554 5.7.1 Relay access denied", argument="user1"))
        good, stray = await self.deliver(a_delivery(2), isp())
        self.assertEqual((good.reply.code, stray.reply.code), (250, 451))
        self.assertEqual(stray.blame, S)
        alone = Delivery(a_delivery(2).message, a_delivery(2).records[1:])
        (outcome,) = await self.deliver(alone, isp("cold"))
        self.assertEqual((outcome.reply.code, outcome.blame), (451, S))

    async def test_one_that_takes_other_mail_is_not_down_for_one_sender(self) -> None:
        self.courier = self.a_courier(limits=RelayLimits(connection_messages=1))
        sink = self.sink()
        await self.deliver(a_delivery(), isp())
        sink.script = says("mail", "550 5.7.1 Relaying denied")
        (outcome,) = await self.deliver(a_delivery(), isp())
        self.assertEqual((outcome.reply.code, outcome.blame), (451, S))
        self.courier.apply(self.courier._limits)  # a new configuration: nothing is known of it
        (outcome,) = await self.deliver(a_delivery(), isp())
        self.assertIs(outcome.blame, D)

    async def test_a_connection_that_is_refused_so_is_not_kept(self) -> None:
        """What the operator mends must show with the next message."""
        sink = self.sink(says("mail", "530 5.7.0 Authentication required", session=1))
        await self.deliver(a_delivery(), isp())
        (outcome,) = await self.deliver(a_delivery(), isp())
        self.assertEqual((outcome.reply.code, sink.sessions), (250, 2))


class Words(CourierCase, TestCase):
    """What a host writes is not taken for what we say of a connection."""

    async def test_a_refusal_that_ends_like_a_lost_connection_is_a_refusal(self) -> None:
        for words in ("Connection lost", "Connection timed out (rcpt)", "content of ours"):
            self.endpoints.clear()

            def script(asked: Asked, words: str = words) -> str | None:
                if asked.stage != "rcpt":
                    return None
                first = asked.argument.startswith("user0")
                return f"550 5.1.1 User unknown. {words}" if first else CLOSE

            self.sink(script, extensions=())
            refused, lost = await self.deliver(a_delivery(2), Hop(domain=f"{len(words)}.example"))
            self.assertEqual(str(refused.reply), f"550 5.1.1 User unknown. {words}")
            self.assertEqual(refused.remote_mta, "mx.example")
            self.assertEqual((lost.reply.code, lost.blame), (451, D))

    async def test_a_4xx_that_ends_like_a_lost_connection_is_about_the_mail(self) -> None:
        self.sink(says("rcpt", "450 4.2.1 Connection lost"))
        (outcome,) = await self.deliver(a_delivery())
        self.assertEqual(outcome.blame, R)
        self.assertEqual(
            outcome.remote_address, str(Endpoint("x", "127.0.0.1", self.sinks[0].port))
        )
