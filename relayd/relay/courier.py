"""The interface of a courier: it carries one delivery to its next hop, and says what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from zope.interface import Interface

from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import NextHop
from relayd.mail.outcome import Outcome
from relayd.mail.pacing import SourceAddress
from relayd.mail.value import dataclass
from relayd.relay.limits import RelayLimits


@dataclass(frozen=True, slots=True)
class Hop:
    """Where one delivery goes: a domain's exchangers, named next hops in order, or both."""

    next_hops: tuple[NextHop, ...] = ()
    domain: str = ""  # with next hops: those come after its exchangers
    source: SourceAddress | None = None  # whose address the way to the exchangers begins at

    @property
    def targets(self) -> tuple[NextHop | str, ...]:
        """What is tried, in order."""
        return (self.domain, *self.next_hops) if self.domain else self.next_hops

    @property
    def around(self) -> Hop:
        """The same without the exchangers."""
        return Hop(self.next_hops)

    @property
    def final(self) -> bool:
        """Whether the far side is a mail store, so that success is a delivery."""
        return (
            bool(self.next_hops)
            and not self.domain
            and all(hop.protocol == "lmtp" for hop in self.next_hops)
        )


class ICourier(Interface):
    """Carries deliveries to next hops."""

    def deliver(  # zope's interfaces have no self
        delivery: Delivery,  # noqa: N805
        hop: Hop,
    ) -> Awaitable[Sequence[Outcome]]:
        """Try once; exactly one Outcome per record, in order.

        Mail trouble is an Outcome, never an exception; an exception is a bug in the courier and
        is settled as transient.
        """

    def apply(limits: RelayLimits) -> None:  # noqa: N805
        """New settings, for what begins from now on."""

    def close() -> None:
        """Give back the connections that wait for more; the others as they end."""

    def withdraw() -> None:
        """Cut what is not past the final dot, as `abort` does; what begins later is none of it."""

    def abort() -> None:
        """Cut all connections now; what they carried fires with a transient Outcome."""
