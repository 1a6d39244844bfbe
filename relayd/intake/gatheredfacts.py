"""What rules look at and others must be asked for: asked as early as it can be, side by side.

A session waits for it where a rule is about to look, and no earlier. Whatever nobody answers in
time has the value that RFC 5782 and RFC 7208 give it, so no session waits for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace as but
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime

from relayd.authentication.spf import SpfResult
from relayd.dns.answer import Answer, DnsError
from relayd.dns.reverse import ReverseNames
from relayd.intake.counting import Everywhere, Receipt, Tally, take_back
from relayd.intake.forecasting import Forecasting, Keys, SendingSide
from relayd.intake.lookups import DnsList, Records, resolves, sender_policy
from relayd.intake.recipientfacts import RecipientFacts
from relayd.intake.vouching import Vouched, Vouching
from relayd.mail.address import AddressError, Mailbox, ReversePath
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import promise
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.conditions.signatures import SignedResult
from relayd.rules.evaluate import Facts
from relayd.rules.fact import Fact, Known
from relayd.rules.header import edit_header
from relayd.rules.ruleset import Ruleset
from relayd.rules.tables.live import LIVE, LiveTable
from relayd.shared.seldom import Seldom

if TYPE_CHECKING:
    from relayd.authentication.dkimsignature import Signature

STRANGERS_QUESTIONS = 50  # in flight at a time: half of what the resolver asks (IN_FLIGHT)
PATIENCE = 20.0  # seconds for all of one fact; RFC 7208 section 4.6.4 wants no less for SPF


class NamedByStrangers:
    """Records of names that strangers choose: no more of them are asked for at a time.

    Whoever signs with names of servers that do not answer is in the way of such questions alone,
    and of none for a list or a next hop.
    """

    def __init__(self, records: Records) -> None:
        self._records = records
        self._free = DeferredSemaphore(STRANGERS_QUESTIONS)

    def known(self, name: str, rdtype: Any) -> Answer[Any] | DnsError | None:  # noqa: ANN401
        """What needs no question."""
        return self._records.known(name, rdtype)

    async def query(self, name: str, rdtype: Any) -> Answer[Any]:  # noqa: ANN401
        """The records of a name."""
        await self._free.acquire()
        try:
            return await self._records.query(name, rdtype)
        finally:
            self._free.release()


class Gatherer:
    """Who asks: one of each process, for all its sessions."""

    def __init__(
        self,
        reactor: IReactorTime,
        records: Records,
        log: MailLog,
        hostname: str,
        clock: Callable[[], float],
        of_recipients: RecipientFacts | None = None,
        seldom: Seldom | None = None,
        keys: Keys = dict,
        names: ReverseNames | None = None,
    ) -> None:
        """`of_recipients`: without, nothing is known of them. `seldom`: who tells of trouble.

        `keys`: by which we sign. `names`: without, no client's is known.
        """
        self._names = names
        self._keys = keys
        self._reactor = reactor
        self._records = records
        self._of_strangers = NamedByStrangers(records)
        self._log = log
        self._hostname = hostname
        self._clock = clock  # seconds since the epoch
        self._of_recipients = of_recipients
        self._lists: tuple[Ruleset | None, Mapping[str, DnsList]] = (None, {})
        self._seldom = seldom or Seldom(reactor.seconds)

    def vouching(self, *, dmarc: bool, arc: bool = False) -> Vouching:
        """For one message."""
        records = self._of_strangers
        return Vouching(self._reactor, records, self._clock, PATIENCE, dmarc=dmarc, arc=arc)

    def forecasting(self, ruleset: Ruleset, **message: Any) -> Forecasting:  # noqa: ANN401
        """Of one message: see Forecasting."""
        side = SendingSide(self._hostname, ruleset.pacing.sources, self._keys)
        records = self._of_strangers
        return Forecasting(self._reactor, records, side, self._clock(), **message)

    def supposing(
        self, ruleset: Ruleset, section: bytes, signed: Sequence[SignedResult] | None
    ) -> Forecasting:
        """Of a message of which there is no more than a header section, for a question.

        `signed`: what is said of its signatures, and all is well with the rest; None: they pass.
        """
        from relayd.authentication.dkim import DkimResult, DkimVerifier

        found = [each for each in DkimVerifier(section).signatures if each is not None]
        results = [DkimResult("pass", domain=each.domain) for each in found]
        pairs: list[tuple[Signature | None, bool]] = [(each, True) for each in found]
        if signed is not None:
            by_domain = {each.domain: each.result for each in signed}
            known = {each.domain for each in found}
            results = [but(each, result=by_domain.get(each.domain, "none")) for each in results]
            more = [each for each in signed if each.domain and each.domain not in known]
            results += [DkimResult(each.result, domain=each.domain) for each in more]
            pairs += [(None, True) for _ in more]
        return self.forecasting(
            ruleset,
            arrived=section,
            section=section,
            above=b"Authentication-Results: ours\r\nReceived: ours\r\n",
            signatures=pairs,
            vouched=Vouched(tuple(results)),
            edit=lambda rules, octets: edit_header(ruleset, rules, octets, self._clock()),
        )

    def gathering(self) -> GatheredFacts:
        """For one session."""
        return GatheredFacts(self)

    def ask(
        self,
        ruleset: Ruleset,
        fact: Fact,
        client: Client,
        sender: ReversePath = None,
        recipient: Mailbox | None = None,
    ) -> object:
        """Ask for one fact, for no longer than is reasonable.

        Its value, where the DNS need not be asked for it; else a Deferred that fires with it, and
        never fails.
        """
        question: Coroutine[Any, Any, object]
        if fact == SENDER_POLICY:
            try:
                found = sender_policy(
                    client, sender, self._hostname, self._clock(), self._of_strangers
                )
            except Exception:  # as where it is waited for: what strangers say breaks nothing
                return fact.unanswered
            if isinstance(found, SpfResult):
                return found.result
            question = _result(found)
        elif fact.spelled == "resolves":
            question = self._resolves(fact.of, client, sender, recipient)
        else:
            name, _, whose = fact.of.partition(" by ")
            listed = self._lists_of(ruleset)[name]
            if whose:
                question = self._has_name(listed, whose, client, sender, recipient)
            else:
                question = listed.has(client.address)
        asked = promise(question)
        if not asked.called:
            asked.addTimeout(PATIENCE, self._reactor)
        return asked.addErrback(lambda failure: fact.unanswered)

    async def _resolves(
        self, whose: str, client: Client, sender: ReversePath, recipient: Mailbox | None
    ) -> bool | None:
        if whose == "client":
            return None if self._names is None else bool(await self._pointer(client))
        domain = await self._name(whose, client, sender, recipient)
        return await resolves(domain, self._of_strangers, host=whose == "helo")

    async def _has_name(
        self,
        listed: DnsList,
        whose: str,
        client: Client,
        sender: ReversePath,
        recipient: Mailbox | None,
    ) -> bool:
        return await listed.has_name(await self._name(whose, client, sender, recipient))

    async def _name(
        self, whose: str, client: Client, sender: ReversePath, recipient: Mailbox | None
    ) -> str:
        """Empty: there is none. Raises DnsTrouble: of a client nobody can say."""
        match whose:
            case "helo":
                return client.helo
            case "ptr":
                return await self._pointer(client)
            case "rdns":
                known = client.rdns
                if known is None and self._names is not None:
                    known = await self._names.name_of(client.address)
                return known or ""
            case _:
                mailbox = sender if whose == "sender" else recipient
                return "" if mailbox is None else mailbox.domain

    async def _pointer(self, client: Client) -> str:
        """The name that a client's address leads to; one that leads back, where it is known."""
        if client.rdns or self._names is None:
            return client.rdns or ""
        return await self._names.pointer(client.address)

    def ask_of_recipient(
        self, ruleset: Ruleset, fact: Fact, facts: Facts, tally: Tally | None
    ) -> object:
        """What is to be known of a recipient: its value, or a Deferred that fires with it.

        Without a tally it is only a question about the rules.
        """
        if fact.spelled in ("listed", "resolves"):  # what the DNS says of its domain
            return self.ask(ruleset, fact, facts.client, facts.sender, facts.recipient)
        if fact.spelled == LIVE:
            table = ruleset.tables[fact.of]
            assert isinstance(table, LiveTable)
            return None if table.answers is None else table.answers.ask(fact.about)
        others = self._of_recipients
        if others is None:
            return None
        try:
            value = others.ask(ruleset, fact, facts, tally)
        except (OSError, AddressError) as error:
            self._tell("fact not known", "fact", fact.condition, str(error), "nobody can say")
            return None
        if not isinstance(value, Coroutine):
            return value
        asked = promise(value).addTimeout(PATIENCE, self._reactor)
        return asked.addErrback(lambda failure: None)

    def look(self, ruleset: Ruleset, fact: Fact, facts: Facts) -> object:
        """Any fact for a question about the rules; a Deferred fires with it."""
        if fact.known is Known.RECIPIENT:
            return self.ask_of_recipient(ruleset, fact, facts, None)
        return self.ask(ruleset, fact, facts.client, facts.sender)

    def share(self, everywhere: Everywhere) -> None:
        """What is counted of recipients counts in all nodes."""
        if self._of_recipients is not None:
            self._of_recipients.limits.everywhere = everywhere

    def apply(self, ruleset: Ruleset) -> None:
        """These rules are in force."""
        if self._of_recipients is not None:
            self._of_recipients.limits.keep(ruleset.limits)

    def tidy(self, ruleset: Ruleset) -> None:
        """At the start, by one process of all: remove what no rule can ask for any more."""
        if self._of_recipients is not None:
            try:
                self._of_recipients.limits.remove_others(ruleset.limits)
            except OSError as error:
                self._log.trouble("old counts not removed", why=error)

    def _lists_of(self, ruleset: Ruleset) -> Mapping[str, DnsList]:
        if self._lists[0] is not ruleset:
            made = {
                name: DnsList(each, self._records, self._trouble)
                for name, each in ruleset.lists.items()
            }
            self._lists = (ruleset, made)
        return self._lists[1]

    def _trouble(self, name: str, why: str) -> None:
        self._tell("list in the DNS", "list", name, why, "nobody is listed")

    def _tell(self, event: str, kind: str, name: str, why: str, meaning: str) -> None:
        if self._seldom.times(f"{kind} {name}"):
            self._log.trouble(event, **{kind: name}, why=why, meaning=meaning)


async def _result(policy: Coroutine[Any, Any, SpfResult]) -> str:
    return (await policy).result


class GatheredFacts:
    """What one session asks for, about its client and about the sender of the moment."""

    def __init__(self, gatherer: Gatherer) -> None:
        self.facts: dict[Fact, object] = {}
        self._gatherer = gatherer
        self._asked: dict[Fact, Deferred[object]] = {}  # still to come
        self._ruleset: Ruleset | None = None
        self._waiting: Deferred[None] | None = None
        self._of_recipient: list[Fact] = []  # of the one that is just decided about
        self._tally = Tally()  # ... what was counted for it

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
        for fact in ruleset.asked:
            if fact.known is Known.CLIENT:
                self._ask(fact, ruleset, client)

    def about_sender(self, ruleset: Ruleset, client: Client, sender: ReversePath) -> None:
        """MAIL: what was said about another sender counts no more."""
        self.about_client(ruleset, client)
        for fact in ruleset.asked:
            if fact.known is Known.SENDER:
                self._forget(fact)
                self._ask(fact, ruleset, client, sender)

    def about_recipient(
        self, ruleset: Ruleset, fact: Fact, facts: Facts, counted: Sequence[Receipt]
    ) -> None:
        """RCPT: a rule is about to decide by it. `counted`: of this transaction so far."""
        self._tally.before = counted
        asked = self._gatherer.ask_of_recipient(ruleset, fact, facts, self._tally)
        self._of_recipient.append(fact)
        self._expect(fact, asked)

    @property
    def of_recipient(self) -> Mapping[Fact, object]:
        """What is known of the recipient that was asked about last."""
        return {fact: self.facts[fact] for fact in self._of_recipient if fact in self.facts}

    def recipient_decided(self, *, taken: bool) -> Sequence[Receipt]:
        """What was known of this recipient counts for no other; what was counted for it, if so."""
        receipts, self._tally.receipts = self._tally.receipts, []
        for fact in self._of_recipient:
            self._forget(fact)
        self._of_recipient.clear()
        if taken:
            return receipts
        take_back(receipts)
        return ()

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
        self.recipient_decided(taken=False)
        for fact in [*self._asked]:
            self._forget(fact)
        self.facts.clear()
        self._ruleset = None

    def _ask(
        self, fact: Fact, ruleset: Ruleset, client: Client, sender: ReversePath = None
    ) -> None:
        self._expect(fact, self._gatherer.ask(ruleset, fact, client, sender))

    def _expect(self, fact: Fact, asked: object) -> None:
        if isinstance(asked, Deferred):
            self._asked[fact] = asked
            asked.addCallback(self._known, fact, asked)
        else:
            self.facts[fact] = asked

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
