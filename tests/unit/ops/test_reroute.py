"""What waits, through the rules of now: a dry run tells what happens, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred

from relayd.config import load_text
from relayd.mail.address import Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import Envelope, Recipient
from relayd.mail.message import RecipientState, Settlement, Submission
from relayd.mail.plan import Step, Verdict
from relayd.ops.answers import ReroutedAnswer
from relayd.ops.commands import Backend
from relayd.ops.rerouting import ReroutingDesk
from relayd.ops.text import reroute_lines
from relayd.rules.evaluate import Facts, evaluate
from relayd.spool.memory import MemorySpool
from relayd.spool.queue import Key
from relayd.spool.view import QueueFilter
from tests.spooling import DONE, LATER
from tests.support import TestCase
from tests.unit.ops.journal import Journal
from tests.unit.ops.test_answers import wrong
from tests.unit.ops.test_control import Bridge

NOW = 1_800_000_000.0
SENDER = Mailbox("a", "partner.example")
CLIENT = Client("203.0.113.9")
HEAD = """
hostname gw.example
next-hop inside smtp 192.0.2.1:25
next-hop other  smtp 192.0.2.2:25
accept to @example.com
"""
ALL = QueueFilter()
INSIDE = f"{HEAD}route any via inside\n"
OTHER = f"{HEAD}route any via other\n"


class Reroute(TestCase):
    """Mail that came under some rules and waits; then there are others."""

    def setUp(self) -> None:
        self.now = NOW
        self.folder = Path("/")
        self.spool = MemorySpool(Bridge(), clock=lambda: self.now)
        self.spool.open()
        self.log = Journal()
        self.under_way: set[Key] = set()
        self.lent: list[Key] = []
        self.sought: set[str] = set()
        self.backend = Backend(0, self.spool, tuple, dict, borrow=self.borrow, bring_back=self.back)

    def borrow(self, messages: Iterable[Collection[Key]]) -> list[bool]:
        found = [list(keys) for keys in messages]
        free = [not self.under_way & {*keys} for keys in found]
        self.lent += [key for keys, mine in zip(found, free, strict=True) if mine for key in keys]
        return free

    def back(self, keys: Collection[Key], destinations: Iterable[str]) -> None:
        for key in keys:
            self.lent.remove(key)
        self.sought.update(destinations)

    async def came(
        self,
        rules: str,
        *to: str,
        client: Client = CLIENT,
        sender: Mailbox | None = SENDER,
        notify: str = "",
        state: RecipientState | None = None,
        unanswered: bool = False,
    ) -> int:
        """A message as these rules take it in."""
        ruleset = load_text(rules, self.folder).ruleset
        recipients, states = [], []
        trail: list[Step] = []
        for text in to:
            original = Mailbox.parse(text)
            plan = evaluate(ruleset, Facts(client, sender, original, self.now))
            self.assertIsNot(plan.verdict, Verdict.REFUSE, plan)
            trail += plan.trail
            for each in plan.destinations:
                recipients.append(
                    Recipient(
                        each.mailbox,
                        original,
                        each.next_hop,
                        each.reverse_path,
                        notify=frozenset(notify.split()),
                    )
                )
                held = plan.verdict is Verdict.HOLD
                states.append(RecipientState.HELD if held else RecipientState.QUEUED)
        draft = self.spool.create()
        draft.write(b"Subject: x\r\n\r\nbody\r\n")
        message, _ = await draft.commit(
            Submission(
                Envelope(sender),
                client,
                tuple(recipients),
                14,
                eight_bit=False,
                utf8_header=False,
                trail=tuple(trail),
                state=RecipientState.HELD if unanswered else RecipientState.QUEUED,
                states=() if unanswered else tuple(state or each for each in states),
                unanswered=unanswered,
            )
        )
        return message.ident

    async def run_with(
        self, rules: str, *, route_only: bool = False, wanted: QueueFilter = ALL
    ) -> dict[str, Any]:
        """First dry, then in earnest: the same is told. Once more: nothing is left to do."""
        desk = ReroutingDesk(
            lambda: load_text(rules, self.folder).ruleset, self.log, lambda: self.now
        )
        request = {"route_only": route_only}
        before = self.all_of_it()
        self.log.notices.clear()
        dry = await desk.run({**request, "dry_run": True}, self.backend, wanted)
        self.assertEqual(self.all_of_it(), before)
        self.assertFalse(self.log.notices)
        done = await desk.run({**request, "by": "uid=0"}, self.backend, wanted)
        if not self.under_way:
            self.assertEqual(done, dry)
            again = await desk.run(request, self.backend, wanted)
            self.assertEqual((again["changed"], again["left"]), ({}, done["left"]))
        self.assertFalse(self.lent)
        for answer in (dry, done):
            self.assertEqual(list(wrong(answer, ReroutedAnswer)), [])
        json.dumps(done)
        self.assertTrue([*reroute_lines(done, done=True), *reroute_lines(dry, done=False)])
        return done

    def all_of_it(self) -> object:
        return {ident: dict(records) for ident, records in self.spool._records.items()}

    def ways(self, ident: int) -> list[str]:
        """`number mailbox via next hop <reverse-path> state` of what waits."""
        return [
            f"{each.number} {each.recipient.mailbox} {each.recipient.next_hop}"
            f" {path_text(each.recipient.reverse_path)} {each.state.name.lower()}"
            for _, each in sorted(self.spool._records.get(ident, {}).items())
        ]

    async def settle(self, ident: int, number: int, state: RecipientState) -> None:
        record = self.spool._records[ident][number]
        outcome = DONE if state is RecipientState.DELIVERED else LATER
        await self.spool.settle([Settlement(record, state, outcome, self.now + 3600)])


class Stages(Reroute):
    async def test_another_next_hop_is_due_now_on_a_schedule_that_begins_anew(self) -> None:
        ident = await self.came(INSIDE, "x@example.com")
        await self.settle(ident, 0, RecipientState.QUEUED)
        self.now += 60
        done = await self.run_with(OTHER)
        self.assertEqual((done["recipients"], done["changed"]), (1, {"route": 1}))
        self.assertEqual(self.ways(ident), ["0 x@example.com other a@partner.example queued"])
        (record,) = self.spool._records[ident].values()
        self.assertEqual((record.attempts, record.next_attempt, record.last), (0, self.now, None))
        self.assertEqual(self.sought, {"inside", "other"})
        self.assertEqual(self.log.notices[0][0], "operator")

    async def test_what_stays_keeps_its_schedule(self) -> None:
        ident = await self.came(INSIDE, "x@example.com")
        await self.settle(ident, 0, RecipientState.QUEUED)
        before = self.all_of_it()
        self.assertEqual((await self.run_with(INSIDE))["changed"], {})
        self.assertEqual(self.all_of_it(), before)

    async def test_only_what_the_filter_means(self) -> None:
        ident = await self.came(INSIDE, "x@example.com", "y@example.com")
        await self.run_with(OTHER, wanted=QueueFilter(recipient="y@example.com"))
        self.assertEqual([each.split()[2] for each in self.ways(ident)], ["inside", "other"])

    async def test_another_forward_from_the_original_recipient(self) -> None:
        ident = await self.came(
            f"{INSIDE}forward team@example.com -> ann@example.com, bob@example.com\n",
            "team@example.com",
        )
        rules = (
            f"{INSIDE}forward team@example.com -> bob@example.com, cy@example.com, d@x.example\n"
        )
        self.assertEqual((await self.run_with(rules))["changed"], {"mailbox": 2})
        self.assertEqual(
            [each.split()[:2] for each in self.ways(ident)],
            [["0", "cy@example.com"], ["1", "bob@example.com"], ["2", "d@x.example"]],
        )
        for record in self.spool._records[ident].values():
            self.assertEqual(record.recipient.orcpt.rpartition(";")[2] or "-",
                             "-" if record.number == 1 else "team@example.com")  # fmt: skip

    async def test_who_has_got_it_already_does_not_get_it_again(self) -> None:
        rules = f"{INSIDE}forward team@example.com -> ann@example.com, bob@example.com\n"
        ident = await self.came(rules, "team@example.com")
        await self.settle(ident, 0, RecipientState.DELIVERED)
        await self.run_with(rules.replace("any via inside", "any via other"))
        self.assertEqual(self.ways(ident), ["1 bob@example.com other a@partner.example queued"])
        done = await self.run_with(f"{INSIDE}forward team@example.com -> ann@example.com\n")
        self.assertEqual(done["changed"], {"mailbox": 1})
        history = await self.spool.history(ident)
        assert history is not None
        self.assertIs(history.entries[1].state, RecipientState.REMOVED)
        self.assertIn("reroute", history.entries[1].note)

    async def test_two_who_lead_to_one_now_and_apart_again(self) -> None:
        """Each keeps a record of its own, or one of them would be lost on the way back."""
        ident = await self.came(INSIDE, "x@example.com", "y@example.com")
        before = self.ways(ident)
        await self.run_with(f"{INSIDE}forward @example.com -> all@inside.example\n")
        self.assertEqual(
            [each.split()[:2] for each in self.ways(ident)],
            [["0", "all@inside.example"], ["1", "all@inside.example"]],
        )
        await self.run_with(INSIDE)
        self.assertEqual(self.ways(ident), before)

    async def test_who_was_left_out_comes_back_with_the_rule(self) -> None:
        rules = f"{INSIDE}forward team@example.com -> ann@example.com, bob@example.com\n"
        ident = await self.came(rules, "team@example.com")
        await self.run_with(f"{INSIDE}forward team@example.com -> ann@example.com\n")
        self.assertEqual([each.split()[1] for each in self.ways(ident)], ["ann@example.com"])
        await self.run_with(rules)
        self.assertEqual(
            [each.split()[:2] for each in self.ways(ident)],
            [["0", "ann@example.com"], ["2", "bob@example.com"]],
        )

    async def test_who_was_removed_by_hand_does_not_come_back(self) -> None:
        rules = f"{INSIDE}forward team@example.com -> ann@example.com, bob@example.com\n"
        ident = await self.came(rules, "team@example.com")
        await self.spool.remove(QueueFilter(recipient="bob@example.com"), "asked by bob")
        await self.run_with(rules.replace("any via inside", "any via other"))
        self.assertEqual([each.split()[1] for each in self.ways(ident)], ["ann@example.com"])

    async def test_the_route_alone(self) -> None:
        ident = await self.came(INSIDE, "x@example.com")
        rules = f"{OTHER}forward x@example.com -> y@elsewhere.example\n"
        done = await self.run_with(rules, route_only=True)
        self.assertEqual(done["changed"], {"route": 1})
        self.assertEqual(self.ways(ident), ["0 x@example.com other a@partner.example queued"])

    async def test_a_route_by_sender_and_by_the_forwarded_address(self) -> None:
        forward = "forward x@example.com -> y@elsewhere.example\n"
        ident = await self.came(f"{INSIDE}{forward}", "x@example.com")
        for route_only in (True, False):
            rules = (
                f"{HEAD}{forward}route sender @partner.example to @elsewhere.example via other\n"
                "route any via inside\n"
            )
            await self.run_with(rules, route_only=route_only)
            self.assertEqual(
                self.ways(ident), ["0 y@elsewhere.example other a@partner.example queued"]
            )
            await self.run_with(f"{INSIDE}{forward}", route_only=route_only)
            self.assertIn("inside", self.ways(ident)[0])


class Verdicts(Reroute):
    async def test_what_is_held_goes_the_new_way_when_it_is_released(self) -> None:
        ident = await self.came(f"hold to @example.com\n{INSIDE}", "x@example.com")
        await self.run_with(OTHER)
        self.assertEqual(self.ways(ident), ["0 x@example.com other a@partner.example held"])
        (record,) = self.spool._records[ident].values()
        self.assertIn("Held by rule", str(record.last))
        await self.spool.release(QueueFilter())
        self.assertEqual(self.ways(ident), ["0 x@example.com other a@partner.example queued"])

    async def test_what_a_rule_holds_now_is_held_and_says_so(self) -> None:
        ident = await self.came(INSIDE, "x@example.com", "y@example.com")
        rules = f'hold to y@example.com "look at it"\n{INSIDE}'
        self.assertEqual((await self.run_with(rules))["changed"], {"held": 1})
        self.assertEqual([each.split()[-1] for each in self.ways(ident)], ["queued", "held"])
        self.assertIn("look at it", str(self.spool._records[ident][1].last))

    async def test_what_the_door_would_put_off_now_is_in_already(self) -> None:
        for rule in ("defer to x@example.com", "reject any when spf fail"):
            ident = await self.came(INSIDE, "x@example.com")
            done = await self.run_with(f"{rule}\n{OTHER}", wanted=QueueFilter(ident=ident))
            self.assertEqual((done["changed"], done["left"]), ({"route": 1}, {}), rule)

    async def test_what_would_be_refused_or_discarded_is_left_as_it_is(self) -> None:
        for rules, kind in (
            (INSIDE.replace("accept to @example.com", "accept to @other.example"), "refused"),
            (f"discard to x@example.com\n{OTHER}", "discarded"),
        ):
            ident = await self.came(INSIDE, "x@example.com")
            before = self.ways(ident)
            done = await self.run_with(rules, wanted=QueueFilter(ident=ident))
            self.assertEqual((done["changed"], done["left"]), ({}, {kind: 1}), rules)
            self.assertEqual(self.ways(ident), before)

    async def test_reports_of_our_own_need_nobody_who_lets_them_in(self) -> None:
        ident = await self.came(
            INSIDE, "a@example.com", client=Client("", helo="gw.example"), sender=None
        )
        rules = OTHER.replace("accept to @example.com", "accept to @other.example")
        await self.run_with(rules)
        self.assertEqual(self.ways(ident), ["0 a@example.com other  queued"])


class Srs(Reroute):
    """Reverse-paths come out as they would have on arrival."""

    FORWARD = "forward x@example.com -> y@elsewhere.example\n"
    SRS = "srs domain srs.example keys file srs.keys\n"

    def setUp(self) -> None:
        super().setUp()
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        keys = self.folder / "srs.keys"
        keys.write_text("a-key-that-is-long-enough-for-all\n")
        keys.chmod(0o600)

    async def test_of_what_is_forwarded_now_and_no_longer_then(self) -> None:
        ident = await self.came(INSIDE, "x@example.com")
        self.now += 3 * 86400
        done = await self.run_with(f"{self.SRS}{INSIDE}{self.FORWARD}")
        self.assertEqual(done["changed"], {"mailbox": 1})
        (way,) = self.ways(ident)
        self.assertRegex(way, "^0 y@elsewhere.example inside SRS0=.*=partner.example=a@srs.example")
        await self.run_with(f"{self.SRS}{INSIDE}")
        self.assertEqual(self.ways(ident), ["0 x@example.com inside a@partner.example queued"])

    async def test_what_has_one_already_keeps_it(self) -> None:
        rules = f"{self.SRS}{INSIDE}{self.FORWARD}"
        ident = await self.came(rules, "x@example.com")
        before = self.ways(ident)
        self.now += 3 * 86400
        self.assertEqual((await self.run_with(rules))["changed"], {})
        await self.run_with(rules.replace("any via inside", "any via other"))
        self.assertEqual(self.ways(ident), [before[0].replace("inside", "other")])

    async def test_srs_where_there_was_none(self) -> None:
        ident = await self.came(f"{INSIDE}{self.FORWARD}", "x@example.com")
        done = await self.run_with(f"{self.SRS}{INSIDE}{self.FORWARD}")
        self.assertEqual(done["changed"], {"sender": 1})
        self.assertIn(" SRS0=", self.ways(ident)[0])

    async def test_a_bounce_that_waits_for_longer_than_its_address_is_good_for(self) -> None:
        rules = f"{self.SRS}{INSIDE}{self.FORWARD}"
        sent = await self.came(rules, "x@example.com")
        path = path_text(self.spool._records[sent][0].recipient.reverse_path)
        await self.spool.remove(QueueFilter())
        ident = await self.came(rules, path, sender=None)
        self.now += 300 * 86400
        done = await self.run_with(rules.replace("any via inside", "any via other"))
        self.assertEqual((done["changed"], done["left"]), ({"route": 1}, {}))
        self.assertEqual(self.ways(ident), ["0 a@partner.example other  queued"])


class UnderWay(Reroute):
    async def test_what_is_under_way_is_left_and_told(self) -> None:
        moving = await self.came(INSIDE, "x@example.com")
        waiting = await self.came(INSIDE, "y@example.com")
        self.under_way = {(moving, 0)}
        done = await self.run_with(OTHER)
        self.assertEqual((done["under_way"], done["changed"]), (1, {"route": 1}))
        self.assertIn("inside", self.ways(moving)[0])
        self.assertIn("other", self.ways(waiting)[0])

    async def test_what_a_client_waits_for_keeps_its_way_and_is_told(self) -> None:
        ident = await self.came(INSIDE, "x@example.com", unanswered=True)
        desk = ReroutingDesk(lambda: load_text(OTHER, self.folder).ruleset, self.log, lambda: NOW)
        done = await desk.run({}, self.backend, QueueFilter())
        self.assertEqual((done["under_way"], done["changed"]), (1, {}))
        self.assertIn("inside", self.ways(ident)[0])
        await self.spool.answered(ident)
        done = await desk.run({}, self.backend, QueueFilter())
        self.assertEqual((done["under_way"], done["changed"]), (0, {"route": 1}))

    async def test_what_has_changed_since_it_was_read_is_left_and_told(self) -> None:
        ident = await self.came(INSIDE, "x@example.com")
        borrow = self.borrow

        def meanwhile(messages: Iterable[Collection[Key]]) -> list[bool]:
            self.spool.hold(QueueFilter())
            return borrow(messages)

        self.backend = replace(self.backend, borrow=meanwhile)
        desk = ReroutingDesk(lambda: load_text(OTHER, self.folder).ruleset, self.log, lambda: NOW)
        done = await desk.run({}, self.backend, QueueFilter())
        self.assertEqual((done["under_way"], done["changed"]), (1, {}))
        self.assertIn("inside", self.ways(ident)[0])
        self.assertFalse(self.lent)

    async def test_a_spool_in_trouble_lets_go_of_what_was_borrowed(self) -> None:
        await self.came(INSIDE, "x@example.com")
        broken: Deferred[list[int]] = Deferred()
        self.spool.reroute = lambda reroutings: broken  # type: ignore[method-assign]
        desk = ReroutingDesk(lambda: load_text(OTHER, self.folder).ruleset, self.log, lambda: NOW)
        running = Deferred.fromCoroutine(desk.run({}, self.backend, QueueFilter()))
        self.assertTrue(self.lent)
        broken.errback(OSError(28, "full"))
        self.failureResultOf(running, OSError)
        self.assertFalse(self.lent)
        self.assertIn("inside", self.sought)  # it was passed over there, and has to be found again
