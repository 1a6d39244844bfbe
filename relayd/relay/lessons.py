"""What an attempt teaches about its destination: it serves us, wants less, is down or up again.

A lesson counts only if no other came since the attempt began (`Lane.epoch`): what began before
the trouble says nothing about what came after, and twenty connections lost at once are one failure,
not twenty. A destination that refuses some of ours and serves others is not down: it has asked for
less, and gets it (`spool/pace.py`).
"""

from __future__ import annotations

import random as default_random
from collections.abc import Callable, Sequence

from relayd.mail.delivery import Delivery
from relayd.mail.log import MailLog
from relayd.mail.message import Message
from relayd.mail.outcome import Meaning, Outcome
from relayd.mail.reply import Severity
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import (
    RetryPolicy,
    asks_for_less,
    serves_none,
    speaks_against_destination,
)
from relayd.relay.scheduler import Scheduler
from relayd.relay.sites import Sites
from relayd.spool.pace import Pace
from relayd.spool.queue import SERVED, Lane, Queue, Standing, domains

_LATELY = 60.0  # seconds for which a success shows that the destination is there
_LOSSES = 3  # connections in a row, each alone
_MOMENT = 1.0  # seconds until what one connection was too much for goes over another
_UNSERVED = 2  # domains that it does not serve us for

Lesson = tuple[float, bool]
"""When what was not taken is tried again, 0: as the schedule says; whether it was no attempt."""

_NONE: Lesson = (0.0, False)


class Lessons:
    """Keeps what is known of each lane. `retry_policy` and `limits` may be replaced at any time."""

    def __init__(
        self,
        queue: Queue,
        scheduler: Scheduler,
        log: MailLog,
        *,
        retry_policy: RetryPolicy,
        limits: RelayLimits,
        sites: Sites | None = None,
        random: Callable[[], float] = default_random.random,
    ) -> None:
        self._sites = sites
        self.retry_policy = retry_policy
        self.limits = limits
        self._queue = queue
        self._scheduler = scheduler
        self._log = log
        self._random = random

    def learn(
        self,
        lane: Lane,
        epoch: int,
        delivery: Delivery,
        outcomes: Sequence[Outcome],
        now: float,
        began: float,
    ) -> Lesson:
        """From an attempt that began in this epoch, and at this time."""
        if lane.gates:
            lesson = self._of_site(lane, epoch, delivery, outcomes, now, began)
            if lesson is not None:
                return lesson
        for outcome in outcomes:
            if outcome.reply.code < 300:
                self._taken(lane, epoch, delivery, outcomes, now)
                return _NONE
        return self._not_taken(lane, epoch, delivery, outcomes, now)

    def _of_site(
        self,
        lane: Lane,
        epoch: int,
        delivery: Delivery,
        outcomes: Sequence[Outcome],
        now: float,
        began: float,
    ) -> Lesson | None:
        """What it says of all that goes where this mail goes; None: the lane has more to learn."""
        site = lane.gates[0]
        for outcome in outcomes:
            if outcome.reply.code < 300:
                if lane.around is None or outcome.remote_mta.lower() in site.exchangers:
                    self._site_took(lane, now, began)
                return None
        trouble = outcomes[0]
        meaning = trouble.meaning
        if not lane.direct or not all(map(asks_for_less, outcomes)):
            return None
        if lane.around is not None and trouble.remote_mta.lower() not in site.exchangers:
            return None  # the other way has said it, and not of what goes to the site
        if meaning is Meaning.BLOCKED:
            if lane.around is not None:
                return None
        elif meaning is not Meaning.SLOWER and not (
            site.serves_lately(now) or (meaning is not None and meaning.of_us)
        ):
            return None
        if lane.standing is not Standing.OPEN and epoch == lane.epoch:
            self._open(lane)
        if meaning is Meaning.BLOCKED:
            if not site.blocks and self._sites is not None:
                self._sites.block(site, trouble)
            return self._at(site.probe_at, now), True
        if meaning is not Meaning.SLOWER and site.in_flight:
            site.fewer(now, trouble)
        elif site.slower(now, began, trouble, trouble.pause):
            self._log.notice(
                "site slowed",
                site=site.name,
                reply=str(trouble.reply),
                rate=f"{60 * site.learnt.in_force:.1f}/1m",
            )
        if self._sites is not None:
            self._sites.keep(site)
        if not site.excuses(delivery.message.ident):
            return _NONE  # others are taken: it is this message
        return self._at(site.opens_at(now), now), True

    def _at(self, when: float, now: float) -> float:
        """As its site opens; the mail may be due before, for it waits there."""
        return min(max(when, now + _MOMENT), now + self.retry_policy.farthest)

    def _site_took(self, lane: Lane, now: float, began: float) -> None:
        for gate in lane.gates:
            gate.took(now, began)
            if gate.blocked_until and gate.blocks and began > gate.blocked_at:
                gate.unblock()
                self._log.notice("provider takes our mail again", provider=gate.name)

    def _taken(
        self, lane: Lane, epoch: int, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> None:
        self._scheduler.proved(lane, now)
        if lane.unserved:
            self._serves(lane, delivery, outcomes, now)
        if epoch == lane.epoch:
            if lane.pace is None:
                lane.window = min(lane.window + 1, self.limits.window)
            else:
                self._keeps_pace(lane, lane.pace, now)
            if lane.standing is not Standing.OPEN:
                self._open(lane)
        elif lane.standing is Standing.DOWN:
            self._doubt(lane, now)

    def _not_taken(
        self, lane: Lane, epoch: int, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> Lesson:
        if all(map(speaks_against_destination, outcomes)) or (
            (lane.proved_at or lane.pace is not None) and all(map(asks_for_less, outcomes))
        ):
            return self._suffer(lane, epoch, delivery.message, outcomes[0], now)
        lane.impatient = False
        if serves_none(outcomes):
            return self._serves_not(lane, epoch, delivery, outcomes[0], now)
        if epoch == lane.epoch and lane.standing is not Standing.OPEN:
            self._open(lane)
        return _NONE

    def _serves(
        self, lane: Lane, delivery: Delivery, outcomes: Sequence[Outcome], now: float
    ) -> None:
        """It took mail for these domains; and of what was refused long ago nothing waits."""
        taken = {
            record.recipient.mailbox.domain_key
            for record, outcome in zip(delivery.records, outcomes, strict=True)
            if outcome.severity is Severity.SUCCESS
        }
        lane.unserved = {
            domain: (at, trouble)
            for domain, (at, trouble) in lane.unserved.items()
            if domain not in taken and now - at <= self.retry_policy.longest
        }

    def _serves_not(
        self, lane: Lane, epoch: int, delivery: Delivery, trouble: Outcome, now: float
    ) -> Lesson:
        """For a next hop that does not serve us for the domains of this mail.

        For those of one other, too, and of none that is taken: then it is down. Who may be served
        all the same does not wait for that: other domains than those it refused probe it at once.
        """
        new = lane.new(delivery)
        if not lane.unserved:
            self._log.notice(
                "next hop refuses some", destination=lane.destination, reply=str(trouble.reply)
            )
        heard = domains(delivery)
        if new or heard <= lane.unserved.keys():
            lane.unserved = {**lane.unserved, **dict.fromkeys(heard, (now, trouble))}
        since = sum(at > lane.proved_at for at, _ in lane.unserved.values())
        served = 0.0 <= now - lane.proved_at < SERVED
        if lane.standing is Standing.OPEN and (served or since < _UNSERVED):
            return _NONE
        if epoch == lane.epoch and lane.standing is not Standing.DOWN:
            self._shut(lane, trouble, now)
            if new:
                lane.probe_at = now + _MOMENT
                self._scheduler.arm(lane)
        return (now if lane.standing is Standing.DOWN else 0.0), False

    def _doubt(self, lane: Lane, now: float) -> None:
        """Another connection was lost, this one lived on: does the lane have to be down?

        A probe finds out; where the next hop itself asked for less, it is left alone.
        """
        if lane.trouble is not None and not asks_for_less(lane.trouble):
            lane.failures = 0
            lane.probe_at = min(lane.probe_at, now + _MOMENT)
            self._scheduler.arm(lane)

    def _suffer(
        self, lane: Lane, epoch: int, message: Message, trouble: Outcome, now: float
    ) -> Lesson:
        """For an attempt that speaks against the destination as a whole."""
        lane.impatient = False
        fresh = epoch == lane.epoch
        if lane.standing is Standing.OPEN:
            if self._lives(lane, trouble, now, fresh=fresh):
                pace = lane.pace or self._ask_less(lane, trouble, now)
                if not pace.excuses(message.ident):
                    return _NONE  # others are taken: it is this message
                if self._slow(lane, pace, trouble, now, fresh=fresh):
                    if trouble.in_doubt:
                        return _NONE
                    again = pace.resume_at if pace.waits(now) else now
                    return max(again, now + _MOMENT), True
            self._shut(lane, trouble, now)
        elif lane.standing is Standing.PROBING and fresh:
            self._shut(lane, trouble, now)
        # while it is down the lane waits, not the mail: that is due when the lane opens
        return (now if lane.standing is Standing.DOWN else 0.0), False

    def _lives(self, lane: Lane, trouble: Outcome, now: float, *, fresh: bool) -> bool:
        """Whether others of ours are served, or were lately, so that it is no use to wait long."""
        if trouble.of_our_set_up:
            return False  # who is served has an older connection
        lately = 0.0 <= now - lane.proved_at < _LATELY
        if asks_for_less(trouble):
            return lately or lane.in_flight > 0
        # a connection that was lost, or not made: one alone means that nobody is there, unless
        # some are lost now and then
        flaky = lane.pace is not None and lane.pace.losses < _LOSSES
        return lately and (lane.in_flight > 0 or not fresh or flaky)

    def _keeps_pace(self, lane: Lane, pace: Pace, now: float) -> None:
        """It took what began after all that we know of it."""
        if pace.took(now):
            lane.window = min(lane.window + 1, self.limits.window)
        if pace.over and lane.window >= self.limits.opening and lane.standing is Standing.OPEN:
            self._log.notice("next hop takes it all again", destination=lane.destination)
            lane.pace = lane.trouble = None

    def _ask_less(self, lane: Lane, trouble: Outcome, now: float) -> Pace:
        """From now on the lane has a pace."""
        lane.pace = Pace(now)
        self._log.notice(
            "next hop slowed",
            destination=lane.destination,
            reply=str(trouble.reply),
            why=trouble.why,
            window=max(lane.in_flight, 1),
        )
        return lane.pace

    def _slow(self, lane: Lane, pace: Pace, trouble: Outcome, now: float, *, fresh: bool) -> bool:
        """It lives, but wants less: what it serves beside this, or after a pause. False: it's down.

        Of what began together only the first one is a lesson, but each shows how many there were.
        """
        spoken = asks_for_less(trouble)
        lane.trouble = trouble
        lane.window = max(min(lane.window, lane.in_flight), 1)
        if fresh:
            lane.epoch += 1
            pace.learnt(now, spoken=spoken)
        if lane.in_flight or not spoken:  # a connection that is lost says nothing of a rate
            return True
        return pace.refused(now, self.retry_policy.schedule.delay(1))

    def _open(self, lane: Lane) -> None:
        self._log.notice("next hop up", destination=lane.destination)
        lane.standing = Standing.OPEN
        lane.failures = 0
        lane.more = True  # all that is due flows at once
        if lane.pace is not None:  # ... or as it was asked for
            lane.window = 1
            lane.pace.reopened()
        else:
            lane.trouble = None
            lane.window = self.limits.opening

    def _shut(self, lane: Lane, trouble: Outcome, now: float) -> None:
        lane.failures += 1
        lane.epoch += 1
        lane.trouble = trouble
        if not asks_for_less(trouble):
            lane.pace = None  # it was no limit: it is gone
        delay = self.retry_policy.delay(lane.failures, self._random())
        lane.probe_at = now + delay
        if lane.standing is Standing.OPEN:
            self._log.notice(
                "next hop down",
                destination=lane.destination,
                reply=str(trouble.reply),
                why=trouble.why,
                retry_in=round(delay),
            )
        lane.standing = Standing.DOWN
        self._scheduler.failed(lane)
        self._queue.unload(lane)
        self._scheduler.arm(lane)
