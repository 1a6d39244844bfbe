"""The courier for SMTP and LMTP: finds a host that talks to us, and carries the transaction there.

LMTP (RFC 2033) is the same way with another greeting and a reply per recipient after the dot,
both of which the protocol core knows; the difference left here is where a connection leads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Iterable, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from relayd.mail.content import BytesContent, Content
from relayd.mail.delivery import Delivery
from relayd.mail.nexthop import LMTP, NextHop
from relayd.mail.outcome import Blame, Outcome, postponed
from relayd.relay.connection import Connection
from relayd.relay.courier import Hop, ICourier
from relayd.relay.dial import IReactor, dial
from relayd.relay.limits import Deadlines, Limits
from relayd.relay.logins import Login, Logins
from relayd.relay.pool import Pool
from relayd.relay.protection import Protection
from relayd.relay.security import HopSecurity
from relayd.relay.strangers import Strangers
from relayd.relay.survey import Endpoint, UnresolvedError
from relayd.relay.trouble import (
    SessionError,
    consequence,
    stale,
    too_many_recipients,
)
from relayd.smtp.client import Transaction, TransactionRecipient
from relayd.smtp.events import TransactionDone

Resolve = Callable[[NextHop | str], Awaitable[Sequence[Endpoint]]]

_CUT_OFF = postponed("4.3.2", "System is stopping")
_NOWHERE = postponed("4.4.4", "No address to try")
_MOST_SHY = 1000


@implementer(ICourier)
class Courier:
    """Carries each delivery to the first host that takes it, over connections that it keeps."""

    def __init__(
        self,
        reactor: IReactor,
        resolve: Resolve,
        hostname: str,
        *,
        limits: Limits | None = None,
        deadlines: Deadlines | None = None,
        protection: Protection | None = None,
        logins: Logins | None = None,
    ) -> None:
        self._reactor = reactor
        self._resolve = resolve
        self._hostname = hostname
        self._limits = limits or Limits()
        self._deadlines = deadlines or Deadlines()
        self._strangers = Strangers(reactor.seconds)
        self._protection = protection
        self._logins = logins
        self._pool = Pool(reactor, self._limits)
        self._walks: set[Deferred[None]] = set()  # to be cut short, whatever they wait for
        self._aborted = False
        self._shy: dict[Endpoint, float] = {}  # did not answer: until when to try others first

    async def deliver(self, delivery: Delivery, hop: Hop) -> tuple[Outcome, ...]:
        """See ICourier."""
        attempt = _Attempt(delivery)
        try:
            key: Hashable = hop
            if self._protection is not None:
                key = self._protection.key(hop, delivery)
            if not await self._by_kept_connection(attempt, key) and not self._aborted:
                await self._seeking(self._walk(attempt, hop, key))
        except CancelledError:
            pass
        except OSError as error:
            attempt.trouble = postponed(
                "4.3.0", "Content cannot be read", blame=Blame.RECIPIENT, why=str(error)
            )
        if self._aborted:
            attempt.trouble = _CUT_OFF
        outcomes = attempt.outcomes()
        if not hop.next_hops:
            self._strangers.heard(outcomes)
        return outcomes

    def apply(self, limits: Limits) -> None:
        """New settings; they hold for what begins from now on."""
        self._limits = self._pool.limits = limits

    def close(self) -> None:
        """See ICourier."""
        self._pool.close()

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

    async def _by_kept_connection(self, attempt: _Attempt, key: Hashable) -> bool:
        """Whether nobody is left who has to go elsewhere."""
        connection = self._pool.take(key)  # the one it had may be over by now
        while connection is not None and await self._use(connection, attempt, key, kept=True):
            connection = self._pool.take(key)
        return not attempt.pending

    async def _seeking(self, walk: Coroutine[Deferred[Any], Any, None]) -> None:
        """A walk that `abort` can cut short."""
        seeking = Deferred.fromCoroutine(walk)
        self._walks.add(seeking)
        try:
            await seeking
        finally:
            self._walks.discard(seeking)

    async def _walk(self, attempt: _Attempt, hop: Hop, key: Hashable) -> None:
        """Every address of every host in order, until nobody is left who may go elsewhere."""
        until = self._reactor.seconds() + self._limits.attempt
        for target in hop.next_hops or (hop.domain,):
            try:
                endpoints = await self._resolve(target)
            except UnresolvedError as error:
                attempt.trouble = error.outcome
                continue
            if isinstance(target, str):
                endpoints, until = self._strangers.in_order(endpoints, until)
            lmtp = isinstance(target, NextHop) and target.protocol == LMTP
            for endpoint in self._bold_first(endpoints):
                if self._aborted or self._reactor.seconds() >= until:
                    return
                login = None if self._logins is None else self._logins.of(target, endpoint)
                connection = await self._connect(target, endpoint, attempt, login, lmtp=lmtp)
                if connection is not None:
                    await self._use(connection, attempt, key)
                if not attempt.pending:
                    return
                if login is not None and login.hopeless:
                    break

    async def _connect(
        self,
        target: NextHop | str,
        endpoint: Endpoint,
        attempt: _Attempt,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection | None:
        """A session that is open for a transaction; None: `attempt.trouble` says why not."""
        while True:
            try:
                if login is not None:
                    await login.prepare()
                return await self._secure(target, endpoint, attempt.delivery, login, lmtp=lmtp)
            except SessionError as error:
                if login is None or not login.renew():
                    attempt.trouble = error.outcome
                    return None

    async def _secure(
        self,
        target: NextHop | str,
        endpoint: Endpoint,
        delivery: Delivery,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection:
        """A connection with the TLS that it must have; raises SessionError."""
        protection = self._protection
        security: HopSecurity | None = None
        if protection is not None:
            security = await protection.secure(target, endpoint, delivery)
        while True:
            try:
                return await self._open(target, endpoint, security, login, lmtp=lmtp)
            except SessionError:
                if protection is None or security is None:
                    raise
                security = protection.without(security, endpoint, delivery)
                if security is None:
                    raise

    async def _open(
        self,
        target: NextHop | str,
        endpoint: Endpoint,
        security: HopSecurity | None,
        login: Login | None,
        *,
        lmtp: bool,
    ) -> Connection:
        """A connection; raises SessionError."""
        strangers, deadlines, wait = self._strangers, self._deadlines, self._limits.connect
        stranger = strangers.strange(target, endpoint)
        if stranger:
            closed = strangers.closed(endpoint)
            if closed is not None:
                raise SessionError(closed)
            deadlines = strangers.deadlines(endpoint, deadlines)
            wait = min(wait, strangers.wait(endpoint))
            began = strangers.knocked(endpoint)
        made = Connection(
            self._pool,
            endpoint,
            self._hostname,
            deadlines,
            lmtp=lmtp,
            security=security,
            login=login,
        )
        try:
            await dial(self._reactor, made, wait)
        except SessionError:
            if security is None or not security.failed:
                self._note(endpoint)
            raise
        finally:
            if stranger:
                strangers.answered(endpoint, began, session=made.usable)
            if security is not None and self._protection is not None:
                self._protection.told(security, made.local)
        made.waived = security is not None and security.waived
        self._shy.pop(endpoint, None)
        return made

    async def _use(
        self, connection: Connection, attempt: _Attempt, key: Hashable, *, kept: bool = False
    ) -> bool:
        """As many transactions as the recipients need. True: a kept connection was over."""
        content = attempt.content
        while True:
            numbers = tuple(attempt.pending)
            done = await connection.carry(attempt.transaction(numbers, connection), content)
            if kept and stale(done):
                return True
            kept = False
            more = attempt.take(connection, numbers, done)
            if not (more and done.reusable):
                break
        if connection.waived and connection.usable:
            connection.quit()  # others demand more
        else:
            self._pool.give_back(connection, key)
        return False

    # where to

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


class _Attempt:
    """How far one delivery has come."""

    __slots__ = ("_outcomes", "_tail", "content", "delivery", "pending", "trouble")

    def __init__(self, delivery: Delivery) -> None:
        self.delivery = delivery
        self._outcomes: list[Outcome | None] = [None] * len(delivery.records)
        self._tail: bool | None = None
        self.content: Content = delivery.content
        self.pending: Sequence[int] = range(len(delivery.records))
        self.trouble = _NOWHERE  # of those who found no host to take them

    def transaction(self, numbers: Sequence[int], connection: Connection) -> Transaction:
        """The envelope for these recipients; raises OSError when the content is gone."""
        message, records = self.delivery.message, self.delivery.records
        if self._tail is None:
            self._tail = _ends_with_crlf(self.content)
        envelope = message.envelope
        recipients = [records[number].recipient for number in numbers]
        return Transaction(
            self.delivery.reverse_path,
            tuple(
                [TransactionRecipient(each.mailbox, each.orcpt, each.notify) for each in recipients]
            ),
            self.content.size,
            envelope.body,
            envelope.ret,
            envelope.envid,
            message.eight_bit,
            message.utf8_header,
            self._tail,
            envelope.require_tls and not connection.lmtp,  # RFC 8689 is about relaying
            envelope.smtputf8,
        )

    def take(self, connection: Connection, numbers: Sequence[int], done: TransactionDone) -> bool:
        """Note the outcomes; whether to go on at once on the same connection."""
        endpoint, speaks_dsn = connection.endpoint, connection.extensions.dsn
        again = []
        elsewhere = []
        for at, number in enumerate(numbers):
            result = consequence(endpoint, done, at, passed_on=speaks_dsn)
            outcome = result.outcome
            if connection.tls:
                outcome = outcome.but(tls=connection.tls)
            if done.reusable and too_many_recipients(done, at):
                again.append(number)
            elif result.elsewhere:
                elsewhere.append(number)
                self.trouble = outcome
            else:
                self._outcomes[number] = outcome
        self.pending = again or elsewhere
        return bool(again)

    def outcomes(self) -> tuple[Outcome, ...]:
        """One per record."""
        trouble = self.trouble
        return tuple([trouble if each is None else each for each in self._outcomes])


def _ends_with_crlf(content: Content) -> bool:
    if type(content) is BytesContent:
        return content.data.endswith(b"\r\n")
    return content.tail(2) == b"\r\n"
