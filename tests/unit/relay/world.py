"""A dispatcher among fakes."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.task import Clock

from relayd.mail.envelope import DIRECT, Recipient
from relayd.mail.outcome import Outcome
from relayd.relay.courier import Hop
from relayd.relay.dispatch import Dispatcher
from relayd.relay.limits import RelayLimits
from relayd.relay.retrypolicy import RetryPolicy
from relayd.relay.sites import Sites
from relayd.relay.strangers import Strangers
from relayd.spool.queue import LaneView, Standing
from relayd.spool.schedule import Schedule
from tests.unit.relay.fakes import (
    Courier,
    Log,
    Table,
    a_message,
    a_recipient,
)


class World:
    """A dispatcher among fakes, at a time that only the test moves."""

    def __init__(
        self,
        limits: RelayLimits | None = None,
        *,
        start: bool = True,
        sites: Callable[[World], Sites] | None = None,
        strangers: Callable[[World], Strangers] | None = None,
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.table = Table()
        self.courier = Courier()
        self.log = Log()
        self.route_outcome: Outcome | None = None
        self.ident = 0
        self.now = self.clock.seconds
        self.dispatcher = Dispatcher(
            self.clock,
            self.table,
            self.courier,
            self.route,
            self.table.write_report,
            self.log,
            retry_policy=RetryPolicy(Schedule.parse("1m 5m*2 1h"), jitter=0.0),
            limits=limits or RelayLimits(),
            sites=sites(self) if sites is not None else None,
            strangers=strangers(self) if strangers is not None else None,
            now=lambda: self.now(),
            random=lambda: 0.5,
        )
        if start:
            self.dispatcher.start()
            self.clock.advance(0)

    def route(self, recipient: Recipient) -> Hop | Outcome:
        return self.route_outcome or Hop(domain="example.com")

    def add(self, *next_hops: str, age: float = 0.0, sender: str = "alice@example.org") -> int:
        """A message into the table only."""
        self.ident += 1
        recipients = [a_recipient(f"user{n}@example.com", hop) for n, hop in enumerate(next_hops)]
        self.table.add(
            a_message(self.ident, recipients, received_at=self.clock.seconds() - age, sender=sender)
        )
        return self.ident

    def accept(self, *next_hops: str, age: float = 0.0, sender: str = "alice@example.org") -> int:
        """A message that just became durable."""
        ident = self.add(*(next_hops or ("sink",)), age=age, sender=sender)
        records = tuple(record for key, record in self.table.rows.items() if key[0] == ident)
        self.dispatcher.accept(self.table.messages[ident], records)
        return ident

    def mail_to(
        self, domain: str, *, accept: bool = True, sender: str = "alice@example.org"
    ) -> int:
        """A message for the exchangers of a domain."""
        self.ident += 1
        recipient = a_recipient(f"user@{domain}", DIRECT)
        accepted = a_message(
            self.ident, [recipient], received_at=self.clock.seconds(), sender=sender
        )
        self.table.add(accepted)
        if accept:
            self.dispatcher.accept(*accepted)
        return self.ident

    def for_domains(self, *domains: str, accept: bool = True) -> int:
        """A message by the named next hop for one recipient in each domain."""
        self.ident += 1
        recipients = [a_recipient(f"user@{domain}") for domain in domains]
        accepted = a_message(self.ident, recipients, received_at=self.clock.seconds())
        self.table.add(accepted)
        if accept:
            self.dispatcher.accept(*accepted)
        return self.ident

    def wait(self, seconds: float, step: float = 30.0) -> None:
        while seconds > 0:
            self.clock.advance(min(step, seconds))
            seconds -= step

    @property
    def standing(self) -> Standing:
        return self.lane("sink").standing

    def lane(self, name: str) -> LaneView:
        return next(lane for lane in self.dispatcher.lanes() if lane.destination == name)

    def tearDown(self) -> None:
        assert not [each for each in self.log.troubles if each[0] == "bug"], self.log.troubles
