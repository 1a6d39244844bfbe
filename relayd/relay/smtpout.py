"""The courier for SMTP and LMTP: finds a host that talks to us, and carries the transaction there.

LMTP (RFC 2033) is the same way with another greeting and a reply per recipient after the dot,
both of which the protocol core knows; the difference left here is where a connection leads.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import (
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Hashable,
    Iterable,
    Sequence,
)
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from zope.interface import implementer

from relayd.authentication.signer import authors_signature
from relayd.mail.content import Content
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import LMTP, NextHop
from relayd.mail.outcome import Blame, Meaning, Outcome, postponed
from relayd.mail.pacing import SourceAddress
from relayd.mail.reply import Severity
from relayd.mime.conversion import converted
from relayd.mime.survey import Unconvertible
from relayd.reactor.coroutine import promise
from relayd.relay.connection import Connection, Tenure
from relayd.relay.courier import Hop, ICourier
from relayd.relay.dial import IReactor, Rival, dial
from relayd.relay.limits import NextHopDeadlines, RelayLimits
from relayd.relay.logins import Login, Logins
from relayd.relay.lostaddresses import is_there
from relayd.relay.newcomers import Newcomers
from relayd.relay.pool import Place, Pool
from relayd.relay.protection import Protection
from relayd.relay.security import HopSecurity
from relayd.relay.survey import ON_ANY, Endpoint, Terms, UnresolvedError
from relayd.relay.trouble import (
    SessionError,
    beside,
    consequence,
    lacks_address,
    missing_source,
    no_source,
    spent,
    too_many_recipients,
    unknown,
    weightier,
)
from relayd.smtp.client import Transaction
from relayd.smtp.events import End, TransactionDone, TransactionStage
from relayd.spool.queue import SERVED

Resolve = Callable[[NextHop | str], Awaitable[Sequence[Endpoint]]]

_CUT_OFF = postponed("4.3.2", "System is stopping")
_NOWHERE = postponed("4.4.4", "No address to try")
_NOT_ASKED = postponed("4.4.7", "Other hosts could not be asked in this attempt")
_MOST_SHY = 1000
_MOST_ASKED = 10  # hosts that have put a message off, in one attempt


@implementer(ICourier)
class Courier:
    """Carries each delivery to the first host that takes it, over connections that it keeps."""

    def __init__(
        self,
        reactor: IReactor,
        resolve: Resolve,
        hostname: str,
        *,
        limits: RelayLimits | None = None,
        deadlines: NextHopDeadlines | None = None,
        protection: Protection | None = None,
        logins: Logins | None = None,
        terms: Callable[[NextHop | str, Endpoint, str], Terms] | None = None,
        blocked: Callable[[str, str, Outcome], None] | None = None,
        lost: Callable[[SourceAddress, str], None] | None = None,
    ) -> None:
        """`terms` and `blocked`: see relayd.relay.sites; `lost`: relayd.relay.lostaddresses."""
        self._lost = lost
        self._terms = terms
        self._blocked = blocked
        self._reactor = reactor
        self._resolve = resolve
        self._hostname = hostname
        self._limits = limits or RelayLimits()
        self._deadlines = deadlines or NextHopDeadlines()
        self._newcomers = Newcomers(reactor.seconds)
        self._protection = protection
        self._logins = logins
        self._pool = Pool(reactor, self._limits)
        self._walks: set[Deferred[None]] = set()  # to be cut short, whatever they wait for
        self._aborted = False
        self._withdrawals = 0
        self._shy: dict[Endpoint, float] = {}  # did not answer: until when to try others first
        self._served: dict[NextHop, float] = {}  # took mail from us: until when that counts

    async def deliver(
        self, delivery: Delivery, hop: Hop, attempt: _Attempt | None = None
    ) -> Sequence[Outcome]:
        """See ICourier."""
        if attempt is None:
            attempt = _Attempt(delivery)
        attempt.withdrawals = self._withdrawals
        try:
            key: Hashable = hop
            if self._protection is not None:
                key = self._protection.key(hop, delivery)
            while (
                attempt.pending
                and not attempt.renewed
                and attempt.turned_away is None
                and attempt.withdrawals == self._withdrawals  # or each would be given back unused
            ):
                connection = self._pool.take(key, attempt.asked)
                if connection is None:
                    break
                if hop.source is not None and not is_there(connection.local):
                    connection.cut("lost: its address is none of this host any more")
                    continue
                await self._use(connection, attempt, key)  # the one it had may be over by now
            if attempt.pending and not self._aborted and attempt.withdrawals == self._withdrawals:
                await self._seeking(self._walk(attempt, hop, key))
        except CancelledError:
            pass
        except OSError as error:
            attempt.give_up(
                postponed("4.3.0", "Content cannot be read", blame=Blame.RECIPIENT, why=str(error))
            )
        if self._aborted or attempt.withdrawals != self._withdrawals:
            attempt.give_up(_CUT_OFF)
        outcomes = attempt.outcomes()
        if hop.domain:
            self._newcomers.heard(outcomes)
            if attempt.turned_away is not None and self._blocked is not None:
                provider, said = attempt.turned_away
                if said.meaning is Meaning.BLOCKED:
                    source = "" if hop.source is None else hop.source.name
                    self._blocked(provider, source, said)
        return outcomes

    async def verify(self, delivery: Delivery, hop: Hop) -> Sequence[bool | Outcome]:
        """Whether each recipient has a mailbox there, asked by RCPT; or why that is not known."""
        attempt = _Attempt(delivery)
        outcomes = await self.deliver(delivery, hop, attempt)
        return [
            number not in attempt.unknown
            if outcome.reply.code < 300 or number in attempt.unknown
            else outcome
            for number, outcome in enumerate(outcomes)
        ]

    def apply(self, limits: RelayLimits) -> None:
        """New settings; they hold for what begins from now on."""
        self._limits = self._pool.limits = limits
        self._served.clear()

    def close(self) -> None:
        """See ICourier."""
        self._pool.close()

    def keeps(self, tenure: Tenure) -> None:
        """From now on nothing comes to the final dot when its time is up."""
        self._pool.tenure = tenure

    def withdraw(self) -> None:
        """See ICourier."""
        self._withdrawals += 1
        for connection in list(self._pool.connections):
            connection.withdraw()

    def abort(self) -> None:
        """See ICourier."""
        self._aborted = True
        for walk in list(self._walks):
            walk.cancel()
        self._pool.abort()

    @property
    def connections(self) -> int:
        """Open sockets to next hops."""
        return len(self._pool.connections)

    # one delivery

    async def _seeking(self, walk: Coroutine[Deferred[Any], Any, None]) -> None:
        """A walk that `abort` can cut short."""
        seeking = promise(walk)
        self._walks.add(seeking)
        try:
            await seeking
        finally:
            self._walks.discard(seeking)

    async def _walk(self, attempt: _Attempt, hop: Hop, key: Hashable) -> None:
        """Every address of every host in order, until nobody is left who may go elsewhere."""
        until = self._reactor.seconds() + self._limits.attempt
        for target in hop.targets:
            if isinstance(target, NextHop):
                if attempt.waits_for_direct:
                    return
            elif attempt.turned_away is not None:  # on a connection that was kept
                continue
            try:
                endpoints = await self._resolve(target)
            except UnresolvedError as error:
                attempt.miss(error.outcome)
                if error.outcome.severity is Severity.PERMANENT and isinstance(target, str):
                    attempt.waits_for_direct = True  # another way leads nowhere, too
                continue
            if isinstance(target, str):
                endpoints, until = self._newcomers.in_order(endpoints, until)
            lmtp = isinstance(target, NextHop) and target.protocol == LMTP
            waiting = deque(self._bold_first(endpoints))
            while waiting:
                endpoint = waiting.popleft()
                if self._aborted or attempt.withdrawals != self._withdrawals:
                    return
                if len(attempt.asked) >= _MOST_ASKED or self._reactor.seconds() >= until:
                    attempt.run_out()
                    return
                if attempt.asked and (target, endpoint) in attempt.asked:
                    continue
                source = hop.source if isinstance(target, str) else None
                if source is not None and not source.of_family(endpoint.address):
                    attempt.lack(no_source(source, endpoint))
                    continue
                login = None if self._logins is None else self._logins.of(target, endpoint)
                way = _Way(endpoint, source)
                if waiting:
                    way.rival = self._rival(way, target, waiting, attempt.asked)
                rival, afresh = way.rival, True
                while afresh:
                    connection = await self._connect(target, way, attempt, login, lmtp=lmtp)
                    afresh = connection is not None and await self._use(connection, attempt, key)
                    if afresh and self._reactor.seconds() >= until:
                        attempt.run_out()
                        return
                if not attempt.pending:
                    return
                if rival is not None and rival.began is not None:
                    waiting.remove(rival.endpoint)
                    if rival.won:
                        waiting.append(endpoint)  # it may be there, after all
                if login is not None and login.hopeless:
                    break
                if attempt.turned_away is not None and isinstance(target, str):
                    break  # its other hosts say the same

    def _rival(
        self,
        way: _Way,
        target: NextHop | str,
        waiting: Iterable[Endpoint],
        asked: Collection[Place],
    ) -> Rival | None:
        """The next address of the same host in the other family (RFC 8305 section 4)."""
        first, source, newcomers = way.endpoint, way.source, self._newcomers
        if first.unix:
            return None
        for each in waiting:
            if (
                each.host == first.host
                and each.port == first.port
                and (":" in each.address) != (":" in first.address)
                and (target, each) not in asked
            ):
                of_source = "" if source is None else source.of_family(each.address)
                if source is not None and not of_source:
                    return None
                new = newcomers.new(target, each)
                if new and newcomers.closed(each) is not None:
                    return None
                return Rival(each, of_source, partial(newcomers.knocked, each) if new else None)
        return None

    async def _connect(
        self,
        target: NextHop | str,
        way: _Way,
        attempt: _Attempt,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection | None:
        """A session that is open for a transaction; None: the attempt has missed this host."""
        while True:
            try:
                if login is not None:
                    await login.prepare()
                return await self._secure(target, way, attempt.delivery, login, lmtp=lmtp)
            except SessionError as error:
                if login is None or not login.renew():
                    attempt.miss(error.outcome)
                    if isinstance(target, str):
                        terms = self._terms_of(target, way)
                        attempt.hear(terms.provider, error.outcome)
                    return None

    async def _secure(
        self,
        target: NextHop | str,
        way: _Way,
        delivery: Delivery,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection:
        """A connection with the TLS that it must have; raises SessionError."""
        protection = self._protection
        security: HopSecurity | None = None
        if protection is not None:
            security = await protection.secure(target, way.endpoint, delivery)
        while True:
            try:
                return await self._open(target, way, security, login, lmtp=lmtp)
            except SessionError as error:
                if protection is None or security is None:
                    raise
                if (
                    security.failed
                    and delivery.message.envelope.require_tls
                    and not security.in_vain
                ):
                    # other mail may do without what this one demands
                    raise SessionError(error.outcome.but(blame=Blame.RECIPIENT)) from None
                security = protection.without(security, way.endpoint, delivery)
                if security is None:
                    raise

    async def _open(
        self,
        target: NextHop | str,
        way: _Way,
        security: HopSecurity | None,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection:
        """A connection; raises SessionError."""
        newcomers, deadlines, wait = self._newcomers, self._deadlines, self._limits.connect
        endpoint, source, rival = way.endpoint, way.source, way.rival
        new = newcomers.new(target, endpoint)
        if new:
            closed = newcomers.closed(endpoint)
            if closed is not None:
                raise SessionError(closed)
            deadlines = newcomers.deadlines(endpoint, deadlines)
            wait = min(wait, newcomers.wait(endpoint))
            began = newcomers.knocked(endpoint)
        terms = self._terms_of(target, way)
        if terms.group:
            self._pool.make_room(terms)
        made = Connection(
            self._pool,
            endpoint,
            self._hostname if source is None else source.helo,
            deadlines,
            target=target,
            lmtp=lmtp,
            security=security,
            login=login,
            terms=terms,
        )
        from_address = "" if source is None else source.of_family(endpoint.address)
        try:
            await dial(self._reactor, made, wait, from_address, rival)
        except SessionError as error:
            if source is not None and error.no_address:
                if self._lost is not None:
                    self._lost(source, from_address)
                raise SessionError(missing_source(source, from_address)) from None
            if security is None or not security.failed:
                self._note(made.endpoint)
            raise
        finally:
            won = rival is not None and rival.won
            if new:
                newcomers.answered(endpoint, began, session=made.usable and not won)
            if rival is not None and rival.began is not None:
                self._run_off(way, rival, session=made.usable)
            if security is not None and self._protection is not None:
                self._protection.told(security, made.local)
        made.waived = security is not None and security.waived
        if self._served and isinstance(target, NextHop):
            made.serves_us = self._served.get(target, 0.0) > self._reactor.seconds()
        self._shy.pop(made.endpoint, None)
        return made

    def _run_off(self, way: _Way, rival: Rival, *, session: bool) -> None:
        """Two addresses of a host were tried: who was slower is asked later for a while."""
        way.rival = None
        if rival.began:
            self._newcomers.answered(
                rival.endpoint, rival.began, session=session or not (rival.won or rival.trouble)
            )
        if rival.won:
            self._note(way.endpoint)
            way.endpoint = rival.endpoint
        elif rival.trouble is not None:
            self._note(rival.endpoint)
            if way.source is not None and self._lost is not None and lacks_address(rival.trouble):
                self._lost(way.source, rival.source)

    async def _use(self, connection: Connection, attempt: _Attempt, key: Hashable) -> bool:
        """As many transactions as the recipients need. True: the host wants a fresh connection."""
        content = attempt.content
        fresh = not connection.transactions
        attempt.taken = False
        then = Then.ON
        while then is Then.ON:
            if attempt.withdrawals != self._withdrawals:
                self._pool.give_back(connection, key)
                return False
            numbers = tuple(attempt.pending)
            try:
                if attempt.delivery.message.eight_bit and not connection.extensions.eight_bit:
                    content = await attempt.in_seven_bits(connection, self._turn)
                transaction = attempt.transaction(numbers, connection, content)
            except OSError:  # the content's fault: the connection is for other mail
                self._pool.give_back(connection, key)
                raise
            done = await connection.carry(transaction, content)
            then = attempt.take(connection, numbers, done)
        if fresh and attempt.taken:
            self._took(connection, attempt)
        if (then is not Then.KEEP or connection.waived) and connection.usable:
            connection.quit()  # `waived`: others demand more
        else:
            self._pool.give_back(connection, key)
        return then is Then.AFRESH

    def _took(self, connection: Connection, attempt: _Attempt) -> None:
        """A connection has carried its first mail."""
        target = connection.target
        if isinstance(target, NextHop):
            self._served[target] = self._reactor.seconds() + SERVED
        if attempt.spent is not None and attempt.spent[0] == connection.endpoint:
            self._pool.learn(*attempt.spent)

    def _turn(self) -> Awaitable[None]:
        """Others have theirs."""
        return deferLater(self._reactor, 0)

    # where to

    def _terms_of(self, target: NextHop | str, way: _Way) -> Terms:
        """On what terms a host takes a connection."""
        if self._terms is None:
            return ON_ANY
        return self._terms(target, way.endpoint, "" if way.source is None else way.source.name)

    def _bold_first(self, endpoints: Sequence[Endpoint]) -> Iterable[Endpoint]:
        """In order, but those that lately did not answer at the end."""
        if not self._shy:
            return endpoints
        now = self._reactor.seconds()
        return sorted(endpoints, key=lambda each: self._shy.get(each, 0.0) > now)

    def _note(self, endpoint: Endpoint) -> None:
        if len(self._shy) >= _MOST_SHY:
            self._shy.clear()
        self._shy[endpoint] = self._reactor.seconds() + self._limits.shy


@dataclass(slots=True, eq=False)
class _Way:
    """How a host is reached."""

    endpoint: Endpoint  # of two, the one that has answered
    source: SourceAddress | None
    rival: Rival | None = None  # until both are tried


class Then(enum.Enum):
    """What to do with a connection after a transaction."""

    KEEP = "keep"  # for other mail
    ON = "on"  # another transaction for those who had no room in this one
    AFRESH = "afresh"  # it has carried enough: the same host again, by a fresh connection
    END = "end"  # the host takes no mail on it now


class _Attempt:
    """How far one delivery has come."""

    asked: Collection[Place] = ()  # whose answers count, and who are not asked again
    unknown: Collection[int] = ()  # who has no mailbox there, where only that is asked
    renewed = False  # a connection had carried enough: a fresh one has the last word
    withdrawals = 0  # by the courier, before it began
    spent: tuple[Endpoint, int] | None = None  # ... whose, after how many transactions
    taken = False  # somebody, by the host that is asked now
    turned_away: tuple[str, Outcome] | None = None  # by which provider, with words about us
    waits_for_direct = False  # a domain's host has heard of the mail, or wants it later
    _held_back: Sequence[int] = ()  # for another host, until this one is done with the others
    _put_off: dict[int, Outcome] | None = None  # by hosts that were spoken with
    _lacking: Outcome | None = None  # a family of addresses, on our side
    _trouble: Outcome | None = None  # with all who found no host to speak with
    _seven_bits: Content | None = None  # for hosts that take no more
    _of_conversion = ""  # what it broke, or why there is none; for the log

    def __init__(self, delivery: Delivery) -> None:
        count = len(delivery.records)
        self.delivery = delivery
        self.content: Content = delivery.content
        self.pending: Sequence[int] = range(count)
        self._outcomes: list[Outcome | None] = [None] * count

    def miss(self, trouble: Outcome) -> None:
        """A host, or where to find one, is out of reach for all who are pending."""
        self._trouble = weightier(self._trouble, trouble)

    def lack(self, trouble: Outcome) -> None:
        """An address is of no use to us: that counts where nothing else is in the way."""
        self._lacking = trouble

    def hear(self, provider: str, outcome: Outcome) -> None:
        """What a domain's host that has taken no mail says; is it of us, or is there a later?"""
        meaning = outcome.meaning
        if meaning is not None and meaning.of_us:
            self.turned_away = provider, outcome
        # only who is blocked, or reaches nobody, goes by another way
        if meaning is not Meaning.BLOCKED and (
            meaning is not None or outcome.blame is not Blame.DESTINATION
        ):
            self.waits_for_direct = True

    def run_out(self) -> None:
        """There are hosts that nobody has asked: what the others do not offer is not the end."""
        if self._trouble is None or self._trouble.severity is Severity.PERMANENT:
            self.miss(_NOT_ASKED)

    def give_up(self, trouble: Outcome) -> None:
        """Whatever was heard by now: this is what became of all who are pending."""
        self._trouble, self._put_off = trouble, None

    async def in_seven_bits(
        self, connection: Connection, turn: Callable[[], Awaitable[None]]
    ) -> Content:
        """The content for a host without 8BITMIME (RFC 6152 section 3); as it is, if it must be."""
        target = connection.target
        if isinstance(target, NextHop) and not target.conversion:
            return self.content
        if self._seven_bits is None and not self._of_conversion:
            try:
                found = await converted(self.content, turn)
            except Unconvertible as why:
                self._of_conversion = f"not converted to 7 bits: {why}"
                return self.content
            if found is not None and self._forwarded and authors_signature(self.content):
                # where it is forwarded to it would be refused, or thrown away, without it
                self._of_conversion = (
                    f"not converted to 7 bits, which would break its signatures: {found.signatures}"
                )
                return self.content
            self._seven_bits = self.content  # nothing above ASCII, after all
            if found is not None:
                self._seven_bits = found
                self._of_conversion = "converted to 7 bits"
                if found.signatures:
                    self._of_conversion += f", which breaks its signatures: {found.signatures}"
        return self._seven_bits or self.content

    @property
    def _forwarded(self) -> bool:
        """Whether it goes to somebody else than it came for."""
        recipients = (record.recipient for record in self.delivery.records)
        return any(each.mailbox.key != each.original.key and not each.bcc for each in recipients)

    def transaction(
        self, numbers: Sequence[int], connection: Connection, content: Content
    ) -> Transaction:
        """The envelope for these recipients; raises OSError when the content is gone."""
        message, records = self.delivery.message, self.delivery.records
        envelope = message.envelope
        named = records[0].recipient.original
        eight_bit = message.eight_bit
        if eight_bit and self._seven_bits is not None:
            eight_bit = connection.extensions.eight_bit
        return Transaction(
            self.delivery.reverse_path,
            [records[number].recipient for number in numbers],
            content.size,
            envelope.body,
            envelope.ret,
            envelope.envid,
            eight_bit,
            message.utf8_header,
            # the size of what is converted is not known to the octet, as BDAT has it
            content is not self.content or content.tail(2) == b"\r\n",
            envelope.require_tls and not connection.lmtp,  # RFC 8689 is about relaying
            envelope.smtputf8,
            self.delivery.verifies,
            not (named.local or named.domain),  # Recipient.bcc
        )

    def take(self, connection: Connection, numbers: Sequence[int], done: TransactionDone) -> Then:
        """Note the outcomes; what to do next with the connection."""
        again: list[int] = []  # on the same connection, or on a fresh one
        elsewhere: list[int] = []
        carried = connection.transactions > 1
        then = Then.KEEP
        said, where = None, None
        words = zip(numbers, done.replies, done.stages, strict=True)
        if self.delivery.verifies:
            found = {number for at, number in enumerate(numbers) if unknown(done, at)}
            self.unknown = found.union(self.unknown)
        for at, (number, reply, stage) in enumerate(words):
            # most have the same word as the one before: one reply ends the content for them all
            if reply is not said or stage is not where:
                said, where = reply, stage
                result = consequence(connection, done, at)
                outcome = result.outcome
                if connection.tls:
                    outcome = outcome.but(tls=connection.tls)
                if self._of_conversion and not connection.extensions.eight_bit:
                    outcome = outcome.but(
                        why="; ".join(filter(None, (self._of_conversion, outcome.why)))
                    )
                taken = outcome.reply.code < 300
                if taken:
                    connection.serves_us = self.taken = True
                    self.renewed = False
            if taken:
                self._outcomes[number] = outcome
            elif carried and not self.renewed and _of_connection(outcome) and spent(done, at):
                again.append(number)
                then = Then.AFRESH
            elif done.reusable and too_many_recipients(done, at):
                again.append(number)
            elif result.elsewhere:
                elsewhere.append(number)
                self._put_off_by(number, outcome)
                if isinstance(connection.target, str):
                    self.hear(connection.terms.provider, outcome)
                if stage in (TransactionStage.MAIL, TransactionStage.DATA):
                    then = Then.END
            else:
                self._outcomes[number] = self._last_word(number, outcome)
        if again and then is not Then.AFRESH:
            self._held_back = [*self._held_back, *elsewhere]
            self.pending = again
            return Then.ON
        if then is Then.AFRESH and done.end is not End.LOST:
            self.renewed = True
            self.spent = connection.endpoint, connection.transactions - 1
        elif elsewhere and done.end is End.ANSWERED:
            self.asked = {*self.asked, (connection.target, connection.endpoint)}
        self.pending = [*again, *self._held_back, *elsewhere]
        self._held_back = ()
        return then

    def _put_off_by(self, number: int, outcome: Outcome) -> None:
        """A host that was spoken with has no mail for this recipient now."""
        if self._put_off is None:
            self._put_off = {}
        self._put_off[number] = weightier(self._put_off.get(number), outcome)

    def _last_word(self, number: int, outcome: Outcome) -> Outcome:
        before = None if self._put_off is None else self._put_off.get(number)
        if before is None or outcome.severity is not Severity.PERMANENT:
            return outcome
        return beside(outcome, before)

    def _unsettled(self, number: int) -> Outcome:
        """Nobody has taken this one, nor refused it for good."""
        word = None if self._put_off is None else self._put_off.get(number)
        trouble = self._trouble or self._lacking
        if word is None:
            return trouble or _NOWHERE
        return weightier(trouble, word)

    def outcomes(self) -> Sequence[Outcome]:
        """One per record."""
        for number in (*self.pending, *self._held_back):
            self._outcomes[number] = self._unsettled(number)
        return cast(list[Outcome], self._outcomes)


def _of_connection(outcome: Outcome) -> bool:
    """It may mean no more than that this connection has carried enough."""
    return outcome.meaning not in (Meaning.SLOWER, Meaning.BLOCKED)
