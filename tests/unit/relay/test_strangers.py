"""Reports to strangers: a budget for all and for each, SPF for who is forged and who is not."""

from __future__ import annotations

import email
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.message import RecipientState, Record
from relayd.mail.outcome import UNANSWERED, Outcome
from relayd.mail.pacing import Rate
from relayd.reactor.coroutine import promise
from relayd.relay.digests import Digests
from relayd.relay.keptreports import EVERY, FIRST, LOOKED_AT, MOST_ROWS, KeptReports
from relayd.relay.strangers import ADDRESSES, KEPT_NOTE, PATIENCE, Strangers
from relayd.report.backscatter import (
    DEFAULT_BUDGET,
    SHOWN,
    KeptReport,
    KeptSummary,
    ReportBudget,
    digest,
)
from relayd.report.bounce import Action
from tests.support import TestCase
from tests.unit.relay.fakes import BUSY, DELIVERED, REFUSED, a_message, a_recipient
from tests.unit.relay.world import World

HOUR, DAY = 3600.0, 86400.0
BUDGET = ReportBudget(Rate(5, "1h"), Rate(2, "1d"))
SPF = Mailbox.parse("spf@pass.example")


class StrangersCase(TestCase):
    def setUp(self) -> None:
        self.spool = Path(self.mktemp())
        self.spool.mkdir()
        self.budget = BUDGET
        self.known: Callable[[Client], bool] = lambda client: bool(client.login)
        self.answers: dict[Mailbox, Any] = {SPF: "pass"}
        self.asked: list[str] = []
        self.made: list[Strangers] = []
        self.world = World(strangers=self.strangers)
        self.world.courier.reply = refused
        self.kept = KeptReports(self.spool)

    def tearDown(self) -> None:
        self.world.tearDown()

    def strangers(self, world: World) -> Strangers:
        self.made.append(
            Strangers(
                self.spool,
                world.log,
                world.clock.seconds,
                budget=lambda: self.budget,
                knows=lambda client: self.known(client),
                policy=self.policy,
                in_thread=in_thread,
            )
        )
        return self.made[-1]

    def policy(self, client: Client, sender: Mailbox) -> Deferred[object]:
        self.asked.append(f"{client.address} {client.helo} {sender}")
        answer = self.answers.get(sender, "none")
        return answer if isinstance(answer, Deferred) else succeed(answer)

    def send(self, sender: str, client: Client | None = None, count: int = 1) -> int:
        """A message that is refused for `count` recipients; its ident."""
        world = self.world
        world.ident += 1
        recipients = [
            replace(a_recipient(f"user{n}@example.com"), reverse_path=None) for n in range(count)
        ]
        message, records = a_message(
            world.ident, recipients, received_at=world.clock.seconds(), sender=sender
        )
        message = replace(message, client=client or Client("192.0.2.1", helo="evil.example"))
        world.table.add((message, records))
        world.dispatcher.accept(message, records)
        return world.ident

    def sent(self) -> list[str]:
        return [str(each.to) for each in self.world.table.reports]

    def reports(self) -> int:
        return sum(each.reports for each in self.kept.summaries())

    def note(self, ident: int) -> str:
        return self.world.table.ended[ident, 0].note


def refused(record: Record, outcome: Outcome = REFUSED) -> Outcome:
    """What all hear but our reports."""
    return DELIVERED if record.message >= 1_000_000 else outcome


def in_thread(function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    return succeed(function(*arguments))


class Budgets(StrangersCase):
    def test_an_address_gets_so_many_a_day_and_the_others_are_kept(self) -> None:
        idents = [self.send("ann@forged.example") for _ in range(5)]
        self.assertEqual(self.sent(), ["ann@forged.example"] * 2)
        self.assertEqual([self.note(each) for each in idents], [""] * 2 + [KEPT_NOTE] * 3)
        self.assertIs(self.world.table.state(idents[-1]), RecipientState.FAILED)
        (summary,) = self.kept.summaries()
        self.assertEqual((summary.reports, summary.recipients), (3, 3))
        self.assertEqual(summary.senders[0].name, "ann@forged.example")
        self.assertEqual(summary.senders[0].message, idents[-1])
        self.assertEqual(summary.reasons[0].name, "failed 550 5.1.1")
        self.assertEqual(summary.clients[0].name, "192.0.2.1")
        told = [each for each in self.world.log.notices if each.startswith("report kept back")]
        self.assertEqual(len(told), 3)
        self.world.wait(DAY + HOUR, step=HOUR)
        self.send("ann@forged.example")
        self.assertEqual(len(self.sent()), 3)

    def test_spellings_of_an_address_are_one(self) -> None:
        for sender in ("ann@forged.example", "ANN@forged.example", "Ann@FORGED.example"):
            self.send(sender)
        self.assertEqual((len(self.sent()), self.reports()), (2, 1))

    def test_all_together_get_so_many_an_hour(self) -> None:
        for number in range(20):
            self.send(f"u{number}@forged.example")
        self.assertEqual((len(self.sent()), self.reports()), (5, 15))
        self.world.wait(HOUR + 60, step=60)
        self.send("other@forged.example")
        self.assertEqual(len(self.sent()), 6)

    def test_what_has_no_room_in_all_takes_none_of_the_address(self) -> None:
        for number in range(5):
            self.send(f"u{number}@forged.example")
        for _ in range(10):
            self.send("ann@sender.example")
        self.world.wait(HOUR + 60, step=60)
        self.send("ann@sender.example")
        self.assertEqual(self.sent()[5:], ["ann@sender.example"])

    def test_who_logged_in_gets_his_always(self) -> None:
        for _ in range(20):
            self.send("ann@sender.example", Client("192.0.2.1", login="ann"))
        self.assertEqual((len(self.sent()), self.reports(), self.asked), (20, 0, []))

    def test_who_is_named_by_a_rule_gets_his_always(self) -> None:
        self.known = lambda client: client.address.startswith("10.")
        for _ in range(20):
            self.send("ann@sender.example", Client("10.0.0.1"))
        self.assertEqual((len(self.sent()), self.reports(), self.asked), (20, 0, []))

    def test_our_own_mail_is_no_stranger_s(self) -> None:
        for _ in range(20):
            self.send("ann@sender.example", Client(""))
        self.assertEqual((len(self.sent()), self.asked), (20, []))

    def test_who_passed_spf_gets_his_always_and_takes_no_room(self) -> None:
        for _ in range(20):
            self.send(str(SPF))
        self.assertEqual((len(self.sent()), self.reports()), (20, 0))
        self.assertEqual(set(self.asked), {f"192.0.2.1 evil.example {SPF}"})
        for number in range(20):
            self.send(f"u{number}@forged.example")
        self.assertEqual((len(self.sent()), self.reports()), (25, 15))
        self.send(str(SPF))
        self.assertEqual(self.sent()[25:], [str(SPF)])

    def test_every_other_result_of_spf_is_a_stranger_s(self) -> None:
        self.budget = ReportBudget(Rate(1, "1h"))
        self.send("first@forged.example")
        for result in ("none", "neutral", "fail", "softfail", "permerror"):
            sender = Mailbox.parse(f"{result}@forged.example")
            self.answers[sender] = result
            self.send(str(sender))
        self.assertEqual((len(self.sent()), self.reports()), (1, 5))

    def test_a_list_s_owner_hears_of_the_list_s_members(self) -> None:
        """The rules put him there: nobody has forged him."""
        owner = Mailbox.parse("owner@list.example")
        for _ in range(20):
            self.world.ident += 1
            recipient = replace(a_recipient("user@example.com"), reverse_path=owner)
            accepted = a_message(
                self.world.ident, [recipient], received_at=self.world.clock.seconds()
            )
            self.world.table.add(accepted)
            self.world.dispatcher.accept(*accepted)
        self.assertEqual((len(self.sent()), self.asked), (20, []))

    def test_one_message_to_many_is_one_report(self) -> None:
        self.send("ann@forged.example", count=300)
        self.assertEqual([len(each.entries) for each in self.world.table.reports], [300])

    def test_a_warning_counts_too_and_is_given_once(self) -> None:
        self.world.courier.reply = lambda record: refused(record, BUSY)
        self.budget = ReportBudget(Rate(1, "7d"))
        for sender in ("ann@forged.example", "bob@forged.example"):
            self.send(sender)
        self.world.wait(5 * HOUR)
        told = [(str(each.to), each.action) for each in self.world.table.reports]
        self.assertEqual(told, [("ann@forged.example", Action.DELAYED)])
        (summary,) = self.kept.summaries()
        self.assertEqual([each.name[:7] for each in summary.reasons], ["delayed"])
        self.assertEqual(summary.reports, 1)

    def test_none_and_any(self) -> None:
        self.budget = ReportBudget(never=True)
        self.send("ann@forged.example")
        self.send(str(SPF))
        self.assertEqual((self.sent(), self.reports()), ([str(SPF)], 1))
        self.budget = ReportBudget()
        for _ in range(20):
            self.send("ann@forged.example")
        self.assertEqual((len(self.sent()), self.reports()), (21, 1))

    def test_counts_outlive_a_restart_and_are_those_of_all_workers(self) -> None:
        for number in range(4):
            self.send(f"u{number}@forged.example")
        before, self.world = self.world, World(strangers=self.strangers)
        self.world.clock.advance(before.clock.seconds() - self.world.clock.seconds())
        self.world.courier.reply = refused
        self.world.ident = 100
        for number in range(4, 8):
            self.send(f"u{number}@forged.example")
        self.assertEqual((len(self.sent()), self.reports()), (1, 3))

    def test_more_room_after_a_reload(self) -> None:
        for number in range(10):
            self.send(f"u{number}@forged.example")
        self.budget = replace(BUDGET, in_all=Rate(8, "1h"))
        for number in range(10, 20):
            self.send(f"u{number}@forged.example")
        self.assertEqual(len(self.sent()), 8)


class Trouble(StrangersCase):
    def test_an_answer_that_is_not_to_be_had_is_waited_for_while_the_mail_is_young(self) -> None:
        self.budget = ReportBudget(never=True)
        sender = Mailbox.parse("ann@silent.example")
        self.answers[sender] = "temperror"
        ident = self.send(str(sender))
        self.assertIs(self.world.table.state(ident), RecipientState.QUEUED)
        self.answers[sender] = "pass"
        self.world.wait(HOUR)
        self.assertEqual((self.sent(), self.reports()), ([str(sender)], 0))

    def test_nobody_answers_for_long_and_it_is_kept(self) -> None:
        self.budget = ReportBudget(never=True)
        self.answers[Mailbox.parse("ann@silent.example")] = "temperror"
        ident = self.send("ann@silent.example")
        self.world.wait(PATIENCE + 2 * HOUR)
        self.assertEqual((self.sent(), self.reports()), ([], 1))
        self.assertEqual(self.note(ident), KEPT_NOTE)

    def test_stopping_waits_for_no_answer_and_loses_nobody(self) -> None:
        self.budget = ReportBudget(never=True)
        self.answers[Mailbox.parse("ann@slow.example")] = Deferred()
        ident = self.send("ann@slow.example")
        self.made[0].stop()
        self.assertIs(self.world.table.state(ident), RecipientState.QUEUED)
        self.assertEqual((self.sent(), self.reports()), ([], 0))

    def test_a_flood_of_slow_answers_is_bounded(self) -> None:
        self.budget = ReportBudget(never=True)
        self.answers = {
            Mailbox.parse(f"u{number}@slow.example"): Deferred() for number in range(300)
        }
        for sender in self.answers:
            self.send(str(sender))
        self.assertLessEqual(len(self.asked), 10)
        waiting = [key for key, record in self.world.table.rows.items() if record.attempts]
        self.assertEqual(len(waiting), 90)  # those for whom there was no place to wait
        for answer in self.answers.values():
            answer.callback("pass")
        self.assertEqual(len(self.sent()), 210)
        self.world.wait(HOUR)
        self.assertEqual((len(self.sent()), self.reports()), (300, 0))

    def test_what_cannot_be_kept_is_tried_again(self) -> None:
        self.budget = ReportBudget(never=True)
        (self.spool / "backscatter").write_text("in the way")
        ident = self.send("ann@forged.example")
        self.assertIs(self.world.table.state(ident), RecipientState.QUEUED)
        self.assertTrue(self.world.log.troubles)
        (self.spool / "backscatter").unlink()
        self.world.wait(HOUR)
        self.assertEqual((self.note(ident), self.reports()), (KEPT_NOTE, 1))


class AtTheDoor(StrangersCase):
    """A refusal is recorded for a client who was to be told, and is gone by then."""

    def gone(self, sender: str) -> None:
        world = self.world
        world.ident += 1
        to = replace(a_recipient("user@example.com"), reverse_path=None)
        now = world.clock.seconds()
        message, records = a_message(world.ident, [to], received_at=now, sender=sender)
        message = replace(message, client=Client("192.0.2.1", helo="evil.example"))
        held = tuple(replace(each, state=RecipientState.HELD, last=UNANSWERED) for each in records)
        world.table.add((message, held))
        first = world.dispatcher.attempt(message, held, 20.0)
        self.assertTrue(self.successResultOf(promise(first.refuse())))
        self.successResultOf(promise(first.report()))

    def test_the_budget_holds_for_it(self) -> None:
        for _ in range(3):
            self.gone("ann@forged.example")
        self.assertEqual((len(self.sent()), self.reports()), (2, 1))

    def test_where_nobody_says_who_may_send_it_is_kept_for_it_waits_for_nothing(self) -> None:
        self.budget = ReportBudget(never=True)
        self.answers[Mailbox.parse("ann@silent.example")] = "temperror"
        self.gone("ann@silent.example")
        self.assertEqual((self.sent(), self.reports()), ([], 1))

    def test_what_cannot_be_counted_or_kept_is_sent(self) -> None:
        self.budget = ReportBudget(never=True)
        (self.spool / "backscatter").write_text("in the way")
        self.gone("ann@forged.example")
        self.assertEqual(self.sent(), ["ann@forged.example"])
        self.assertTrue(self.world.log.troubles)


def kept(number: int, at: float = 0.0, **changes: str) -> KeptReport:
    one = KeptReport(
        number, at, "failed", f"u{number}@forged.example", "192.0.2.1", f"no{number}@example.com",
        1, f"550 5.1.1 <no{number}@example.com> unknown",
    )  # fmt: skip
    return replace(one, **changes)  # type: ignore[arg-type]


class DigestTests(TestCase):
    def setUp(self) -> None:
        self.spool = Path(self.mktemp())
        self.spool.mkdir()
        self.kept = KeptReports(self.spool)
        self.now = 1_000_000.0
        self.told: list[tuple[KeptSummary, ...]] = []
        self.trouble: OSError | None = None
        self.world = World()
        self.digests = Digests(
            self.world.clock, self.kept, self.tell, in_thread, self.world.log, lambda: self.now
        )

    async def tell(self, found: Sequence[KeptSummary]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.told.append(tuple(found))

    async def test_one_an_hour_after_the_first_and_one_a_day(self) -> None:
        sent: list[float] = []
        for minute in range(0, 2 * 1440, 10):
            self.now = 1_000_000.0 + 60 * minute
            self.kept.add([kept(minute, self.now)])
            if await self.digests.send_if_due():
                sent.append(self.now - 1_000_000.0)
        self.assertEqual(sent, [FIRST, FIRST + EVERY])
        self.assertEqual([each[0].reports for each in self.told], [7, 144])
        self.assertEqual(self.kept.waiting(), 288 - 7 - 144)

    async def test_at_once_when_an_operator_asks(self) -> None:
        self.assertFalse(self.kept.some)
        self.assertFalse(self.kept.ask(self.now))
        self.kept.add([kept(1, self.now)])
        self.assertFalse(await self.digests.send_if_due())
        self.assertTrue(self.kept.ask(self.now))
        self.assertTrue(await self.digests.send_if_due())
        self.now += 10
        self.kept.add([kept(2, self.now)])
        self.assertFalse(await self.digests.send_if_due())

    async def test_one_that_cannot_be_stored_is_sent_later_with_what_came_since(self) -> None:
        self.kept.add([kept(1, self.now)])
        self.now += FIRST
        self.trouble = OSError(28, "no space")
        with self.assertRaises(OSError):
            await self.digests.send_if_due()
        self.trouble = None
        self.now += 10
        self.kept.add([kept(2, self.now), kept(3, self.now)])
        self.assertTrue(await self.digests.send_if_due())
        self.assertEqual([each.reports for each in self.told[0]], [1, 2])
        self.assertEqual(self.kept.waiting(), 0)
        self.assertFalse(await self.digests.send_if_due())

    async def test_a_clock_set_back_keeps_no_digest_back(self) -> None:
        self.kept.add([kept(1, self.now)])
        self.now += FIRST
        await self.digests.send_if_due()
        self.now -= 30 * DAY
        self.kept.add([kept(2, self.now)])
        self.now += FIRST
        self.assertTrue(await self.digests.send_if_due())

    async def test_they_can_be_looked_at_for_a_week(self) -> None:
        self.kept.add([kept(1, self.now)])
        self.now += FIRST
        await self.digests.send_if_due()
        self.now += LOOKED_AT + 2
        self.kept.add([kept(2, self.now)])
        self.assertEqual([each.told_at > 0 for each in self.kept.summaries()], [False, True])
        self.now += FIRST
        await self.digests.send_if_due()
        self.assertEqual(len(self.kept.summaries()), 1)

    def test_what_is_kept_is_bounded_and_counted_all_the_same(self) -> None:
        for start in range(0, MOST_ROWS + 3000, 1000):
            self.kept.add([kept(number, 1.0) for number in range(start, start + 1000)])
        (summary,) = self.kept.summaries()
        self.assertEqual(summary.reports, MOST_ROWS + 3000)
        self.assertEqual(summary.all_senders, MOST_ROWS + 1)
        self.assertEqual(summary.senders[0].name, "(others)")
        self.assertEqual((len(summary.senders), summary.senders[0].reports), (SHOWN, 3000))

    def test_the_digest_is_small_plain_and_cannot_be_written_into(self) -> None:
        evil = "evil\r\nBcc: x@y.example\r\n\r\n.\u2028" + "x" * 5000
        self.kept.add([kept(n, 1.0, sender=f"{evil}{n}", reply=f"5{n % 100:02} {evil}")
                       for n in range(1000)])  # fmt: skip
        content = digest(
            self.kept.summaries(), ident=1, hostname="gw.example", to="postmaster@gw.example",
            now=2.0, budget=str(DEFAULT_BUDGET),
        )  # fmt: skip
        self.assertLess(len(content), 20_000)
        self.assertTrue(content.isascii())
        self.assertEqual(content.count(b"\n"), content.count(b"\r\n"))
        self.assertLess(max(map(len, content.split(b"\r\n"))), 200)
        message = email.message_from_bytes(content)
        self.assertEqual(message["Subject"], "1,000 reports kept back from strangers")
        self.assertEqual(message["Bcc"], None)
        self.assertEqual(message["Auto-Submitted"], "auto-generated")
        self.assertIn("reports strangers 100/1h, 3/1d per address", str(message.get_payload()))

    def test_more_addresses_than_one_hour_allows_are_counted(self) -> None:
        assert DEFAULT_BUDGET.in_all is not None
        self.assertGreater(ADDRESSES, 10 * 24 * DEFAULT_BUDGET.in_all.messages)
