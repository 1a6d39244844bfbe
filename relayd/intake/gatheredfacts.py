"""What rules look at and others must be asked for: asked as early as it can be, side by side.

A session waits for it where a rule is about to look, and no earlier. Whatever nobody answers in
time has the value that RFC 5782 and RFC 7208 give it, so no session waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from relayd.intake.lookups import DnsList, Records, sender_policy
from relayd.intake.vouching import Vouching
from relayd.mail.address import ReversePath
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import promise
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

PATIENCE = 20.0  # seconds for all of one fact; RFC 7208 section 4.6.4 wants no less for SPF
_TROUBLE_EVERY = 60.0  # seconds between two lines about one list


class Gatherer:
    """Who asks: one of each process, for all its sessions."""

    def __init__(
        self,
        reactor: IReactorTime,
        records: Records,
        log: MailLog,
        hostname: str,
        clock: Callable[[], float],
    ) -> None:
        self._reactor = reactor
        self._records = records
        self._log = log
        self._hostname = hostname
        self._clock = clock  # seconds since the epoch
        self._lists: tuple[Ruleset | None, Mapping[str, DnsList]] = (None, {})
        self._told: dict[str, float] = {}  # by list: when its trouble was said last

    def vouching(self, *, dmarc: bool) -> Vouching:
        """For one message."""
        return Vouching(self._reactor, self._records, self._clock, PATIENCE, dmarc=dmarc)

    def gathering(self) -> GatheredFacts:
        """For one session."""
        return GatheredFacts(self)

    def ask(
        self, ruleset: Ruleset, fact: Fact, client: Client, sender: ReversePath = None
    ) -> Deferred[object]:
        """Ask for one fact, for no longer than is reasonable; fires with its value, never fails."""
        question: Coroutine[Any, Any, object]
        if fact == SENDER_POLICY:
            question = self._sender_policy(client, sender)
        else:
            question = self._lists_of(ruleset)[fact.of].has(client.address)
        asked = promise(question).addTimeout(PATIENCE, self._reactor)
        return asked.addErrback(lambda failure: fact.unanswered)

    async def _sender_policy(self, client: Client, sender: ReversePath) -> str:
        found = await sender_policy(client, sender, self._hostname, self._clock(), self._records)
        return found.result

    def _lists_of(self, ruleset: Ruleset) -> Mapping[str, DnsList]:
        if self._lists[0] is not ruleset:
            made = {
                name: DnsList(each, self._records, self._trouble)
                for name, each in ruleset.lists.items()
            }
            self._lists = (ruleset, made)
        return self._lists[1]

    def _trouble(self, name: str, why: str) -> None:
        now = self._reactor.seconds()
        if now - self._told.get(name, -_TROUBLE_EVERY) >= _TROUBLE_EVERY:
            self._told[name] = now
            self._log.trouble("list in the DNS", list=name, why=why, meaning="nobody is listed")


class GatheredFacts:
    """What one session asks for, about its client and about the sender of the moment."""

    def __init__(self, gatherer: Gatherer) -> None:
        self.facts: dict[Fact, object] = {}
        self._gatherer = gatherer
        self._asked: dict[Fact, Deferred[object]] = {}  # still to come
        self._ruleset: Ruleset | None = None
        self._waiting: Deferred[None] | None = None

    @property
    def complete(self) -> bool:
        """Nothing is still to come."""
        return not self._asked

    def about_client(self, ruleset: Ruleset, client: Client) -> None:
        """He has come, or the rules have changed since."""
        if ruleset is self._ruleset:
            return
        self.cancel()
        self._ruleset = ruleset
        for fact in ruleset.asked - {SENDER_POLICY}:
            self._ask(fact, ruleset, client)

    def about_sender(self, ruleset: Ruleset, client: Client, sender: ReversePath) -> None:
        """MAIL: what was said about another sender counts no more."""
        self.about_client(ruleset, client)
        self._forget(SENDER_POLICY)
        if SENDER_POLICY in ruleset.asked:
            self._ask(SENDER_POLICY, ruleset, client, sender)

    async def wait(self) -> None:
        """Until all is there."""
        while self._asked:
            self._waiting = Deferred()
            try:
                await self._waiting
            finally:
                self._waiting = None

    def cancel(self) -> None:
        """The client has gone, or is another one: nobody wants to know any more."""
        for fact in [*self._asked]:
            self._forget(fact)
        self.facts.clear()
        self._ruleset = None

    def _ask(
        self, fact: Fact, ruleset: Ruleset, client: Client, sender: ReversePath = None
    ) -> None:
        asked = self._asked[fact] = self._gatherer.ask(ruleset, fact, client, sender)
        asked.addCallback(self._known, fact, asked)

    def _known(self, value: object, fact: Fact, asked: Deferred[object]) -> None:
        if self._asked.get(fact) is not asked:  # it was about somebody else
            return
        del self._asked[fact]
        self.facts[fact] = value
        if not self._asked and self._waiting is not None:
            self._waiting.callback(None)

    def _forget(self, fact: Fact) -> None:
        self.facts.pop(fact, None)
        asked = self._asked.pop(fact, None)
        if asked is not None:
            asked.cancel()
