"""The object graph of one process that moves mail: listeners, rules, spool, couriers."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater

from relayd.config import Settings
from relayd.dns.localnames import LocalNames
from relayd.dns.lookup import Lookup
from relayd.dns.resolver import Resolver
from relayd.dns.reverse import ReverseNames
from relayd.intake.accepting import AcceptBalancer
from relayd.intake.accounttables import AccountTables
from relayd.intake.cutthrough import CutThrough
from relayd.intake.filterdesk import FilterDesk
from relayd.intake.gatheredfacts import Gatherer
from relayd.intake.intake import Intake
from relayd.intake.limits import Admission, SessionLimits
from relayd.intake.listener import IntakeService
from relayd.intake.opening import ListenAddress, Ready, nothing_ready
from relayd.intake.ownreports import OwnReports
from relayd.intake.pickup import FOLDER as DROP
from relayd.intake.pickup import Pickup
from relayd.intake.policy import ListenerPolicy
from relayd.intake.recipientfacts import RecipientFacts
from relayd.intake.signing import Signing
from relayd.intake.smtpservice import SmtpService
from relayd.intake.trace import TraceField
from relayd.login.guesses import Guesses
from relayd.login.tokenfile import TokenFiles
from relayd.mail.client import Client
from relayd.mail.envelope import Recipient
from relayd.mail.ident import shard_of
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record
from relayd.mail.outcome import Outcome
from relayd.mail.plan import Step
from relayd.ops.commands import Backend
from relayd.ops.counting import Counting
from relayd.ops.watchdog import Watchdog
from relayd.reactor.coroutine import Awaited, promise
from relayd.reactor.workerpipe import Reactor, in_thread
from relayd.relay import mailboxes
from relayd.relay.courier import Hop
from relayd.relay.digests import Digests
from relayd.relay.dispatch import Dispatcher
from relayd.relay.hosts import Hosts
from relayd.relay.https import Https
from relayd.relay.logins import Logins
from relayd.relay.lostaddresses import LostAddresses
from relayd.relay.mailboxes import MailboxVerification
from relayd.relay.origins import Origins
from relayd.relay.protection import Protection
from relayd.relay.resolve import Directory
from relayd.relay.route import route
from relayd.relay.selfdetection import SelfDetection
from relayd.relay.sites import Sites
from relayd.relay.smtpout import Courier
from relayd.relay.strangers import Strangers
from relayd.relay.suspensions import Suspensions
from relayd.relay.tenure import TenureWatch
from relayd.relay.tokenkeeper import PATIENCE, Keeper
from relayd.relay.tokens import Tokens
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.tables.table import Table
from relayd.service import limits
from relayd.service.configuration import Configuration, Enquiry
from relayd.service.listeners import ListenerPolicies
from relayd.service.outboundtls import OutboundTls, protection_of
from relayd.service.ownmail import OwnMail, report_for
from relayd.service.tableorders import live_directories_of
from relayd.shared.counters import SharedCounters
from relayd.shared.seldom import FILE, Seldom
from relayd.smtp.exchange import ServerLimits as SessionRules
from relayd.smtp.extensions import Offer
from relayd.smtp.server import SmtpServer
from relayd.spool.away import FOLDER as AWAY
from relayd.spool.away import AwayStore, local_shards
from relayd.spool.errors import SpoolAway, SpoolError
from relayd.spool.refusedlog import FOLDER as REFUSED_LOG_FOLDER
from relayd.spool.refusedlog import RefusedLog
from relayd.spool.sqlite.bridge import Promise
from relayd.spool.sqlite.store import Spool
from relayd.tls.renewal import Certificates

if TYPE_CHECKING:
    from relayd.spool.postgresql.store import PostgresqlSpool

GRACE = 5.0  # seconds for sessions and deliveries to end when relayd stops (promise 10)
DRAIN_TIME = 20.0  # seconds for sessions to end by themselves before a worker is replaced
DAY = 86400.0


def resolver_of(reactor: Reactor, settings: Settings) -> Resolver:
    """Who asks the DNS."""
    return Resolver(reactor, settings.dns_servers)


def local_names(reactor: Reactor, settings: Settings) -> LocalNames | None:
    """The names that the system knows without the DNS, if they count."""
    return LocalNames(reactor.seconds) if settings.name_order.hosts else None


def directory_of(reactor: Reactor, configuration: Configuration, resolver: Resolver) -> Directory:
    """Who knows where mail goes by the settings."""
    settings = configuration.settings
    own = SelfDetection([settings.hostname], [listener.address for listener in settings.listeners])
    directory = Directory(
        resolver,
        own,
        port=settings.relay_port,
        internal=lambda: configuration.settings.internal_destinations,
        local=local_names(reactor, settings),
    )
    configuration.on_change(lambda fresh: directory.forget())
    return directory


def reverse_names_of(reactor: Reactor, configuration: Configuration) -> ReverseNames:
    """Who looks up the names of clients: with slots, and patience, of their own."""
    settings = configuration.settings
    lookup = Lookup(reactor, settings.dns_servers, rounds=(2.0, 3.0), lifetime=5.0)
    resolver = Resolver(reactor, ask=lookup.ask, cache_size=10_000)
    local = local_names(reactor, settings)
    listed = (lambda address: "") if local is None else local.name
    names = ReverseNames(resolver, reactor, listed=listed)
    configuration.on_change(lambda fresh: names.forget())
    return names


def verification_of(
    reactor: Reactor,
    configuration: Configuration,
    log: MailLog,
    directory: Directory,
    protection: Protection,
    logins: Logins,
    seldom: Seldom | None = None,
) -> MailboxVerification:
    """Who asks next hops for mailboxes: with connections, and patience, of its own."""
    settings = configuration.settings
    courier = Courier(
        reactor,
        directory.resolve,
        settings.hostname,
        limits=mailboxes.LIMITS,
        deadlines=mailboxes.DEADLINES,
        protection=protection,
        logins=logins,
    )
    verification = MailboxVerification(reactor, courier, settings.spool, log, seldom=seldom)
    configuration.on_change(lambda fresh: verification.apply([*fresh.ruleset.next_hops.values()]))
    return verification


def own_verification_of(
    reactor: Reactor, configuration: Configuration, log: MailLog, resolver: Resolver
) -> MailboxVerification:
    """The same where no mail moves, and only questions about the rules are answered."""
    keeper = keeper_of(reactor, configuration.settings, resolver)
    tokens = Tokens(keeper, lambda: configuration.settings.oauth, log)
    return verification_of(
        reactor,
        configuration,
        log,
        directory_of(reactor, configuration, resolver),
        protection_of(reactor, lambda: configuration.settings, log, resolver)(),
        Logins(lambda: configuration.settings.secrets, log, in_thread(reactor), tokens),
    )


def gatherer_of(
    reactor: Reactor,
    configuration: Configuration,
    log: MailLog,
    names: ReverseNames,
    verification: MailboxVerification | None = None,
    seldom: Seldom | None = None,
) -> Gatherer:
    """Who asks for what rules look at: with slots, and patience, of its own."""
    settings = configuration.settings
    lookup = Lookup(reactor, settings.dns_servers, rounds=(2.0, 3.0), lifetime=5.0)
    resolver = Resolver(reactor, ask=lookup.ask)
    configuration.on_change(lambda fresh: resolver.forget())
    of_recipients = RecipientFacts(settings.spool, time.time, verification)
    gatherer = Gatherer(
        reactor,
        resolver,
        log,
        settings.hostname,
        time.time,
        of_recipients,
        seldom,
        lambda: configuration.settings.signing,
        names,
    )
    configuration.on_change(lambda fresh: gatherer.apply(fresh.ruleset))
    return gatherer


def enquiry_of(
    reactor: Reactor,
    configuration: Configuration,
    log: MailLog,
    resolver: Resolver,
    names: ReverseNames,
    gatherer: Gatherer,
) -> Enquiry:
    """Who answers questions about the rules, the DNS and TLS as they are."""
    protection = protection_of(reactor, lambda: configuration.settings, log, resolver)
    directory = directory_of(reactor, configuration, resolver)
    return Enquiry(configuration, directory, protection, names, gatherer)


def web_of(reactor: Reactor, settings: Settings, resolver: Resolver) -> Https:
    """Who asks providers of tokens."""
    return Https(reactor, Hosts(resolver), authorities=settings.tls_authorities, patience=PATIENCE)


def keeper_of(reactor: Reactor, settings: Settings, resolver: Resolver) -> Keeper:
    """Who keeps the tokens of logins at next hops."""
    return Keeper(
        reactor,
        TokenFiles(settings.spool / "oauth"),
        web_of(reactor, settings, resolver),
        in_thread(reactor),
        time.time,
    )


class ReactorBridge:
    """How the spool's threads speak to the reactor."""

    def __init__(self, reactor: Reactor) -> None:
        self.promise: Callable[[], Promise[Any]] = Awaited
        self.call: Callable[..., None] = reactor.callFromThread


def opened_by(
    settings: Settings, number: int, bridge: ReactorBridge, log: MailLog
) -> Spool | PostgresqlSpool:
    """The spool of the shard of this number: in the folder, or that of a node in a database."""
    if settings.place.database:
        # only who has a database loads what speaks to it
        from relayd.spool.postgresql.store import PostgresqlSpool, name_of

        name = name_of(settings.node, number)
        return PostgresqlSpool(settings.place.database, bridge, node=name, log=log)
    folder = settings.spool
    lock = folder / f"shard-{number}" / "lock"
    return Spool(folder, bridge, shard=number, log=log, lock=lock)


def kept_by(
    settings: Settings, worker: int, workers: int, bridge: ReactorBridge, log: MailLog
) -> Iterator[tuple[int, Spool]]:
    """The spools of this node's own for mail that comes while the database is away."""
    place = settings.away.folder
    if settings.place.database and place is not None:
        folder = place / AWAY
        for number in local_shards(folder, worker, workers):
            lock = folder / f"shard-{number}" / "lock"
            yield number, Spool(folder, bridge, shard=number, log=log, lock=lock)


class Shard:
    """One shard of the spool with the dispatcher that empties it."""

    def __init__(
        self,
        number: int,
        spool: Spool | PostgresqlSpool,
        dispatcher: Dispatcher,
        reports: OwnReports,
        watch: TenureWatch | None = None,
    ) -> None:
        self.watch = watch
        self.number = number
        self.spool = spool
        self.dispatcher = dispatcher
        self.reports = reports
        spool.on_recovery = dispatcher.recovered
        spool.on_change = dispatcher.changed

    async def stop(self) -> None:
        """Deliveries end or are cut off; then nothing more is written."""
        self.reports.stop()
        await self.dispatcher.stop(GRACE)
        if self.watch is not None:
            self.watch.stop()
        await self.spool.close()


class Gateway(Service):
    """One message's way, from the first listener to the last courier.

    `shards`: the first takes new mail, the others (of workers that are no more) are only emptied.
    Where a database may be away, spools of this machine's own come after them.
    """

    def __init__(
        self,
        reactor: Reactor,
        configuration: Configuration,
        log: MailLog,
        *,
        shards: Sequence[int] = (0,),
        sockets: Sequence[socket.socket] = (),
        ready: Ready = nothing_ready,
        sessions: SharedCounters | None = None,
        accept_balancer: AcceptBalancer | None = None,
        guess_memory: int | None = None,
        workers: int = 1,
        counting: Counting | None = None,
    ) -> None:
        settings = configuration.settings
        self._reactor = reactor
        self._configuration = configuration
        self._log = log
        self._workers = workers
        self._sessions = sessions
        self._started_at = time.time()
        # outwards
        self._resolver = resolver_of(reactor, settings)
        self.directory = directory_of(reactor, configuration, self._resolver)
        self._names = reverse_names_of(reactor, configuration)
        seldom = Seldom(time.time, settings.spool / FILE if workers > 1 else None)
        self.filters = FilterDesk(reactor, log, settings.hostname, time.time, seldom)
        self._outbound_tls = OutboundTls(
            reactor,
            lambda: configuration.settings,
            log,
            self._resolver,
            lambda sender, to, content: self._own_mail.submit(sender, to, content),
        )
        self._keeper = keeper_of(reactor, settings, self._resolver)
        self._tokens = Tokens(self._keeper, lambda: configuration.settings.oauth, log)
        self._logins = Logins(
            lambda: configuration.settings.secrets, log, in_thread(reactor), self._tokens
        )
        self.lost_addresses = LostAddresses(reactor, log, time.time)
        self.suspensions = Suspensions(settings.spool, log, time.time)
        self._verification = verification_of(
            reactor,
            configuration,
            log,
            self.directory,
            self._outbound_tls.protection,
            self._logins,
            seldom,
        )
        self._gatherer = gatherer_of(
            reactor, configuration, log, self._names, self._verification, seldom
        )
        self.live = live_directories_of(reactor, configuration, log)
        self.explain = enquiry_of(
            reactor, configuration, log, self._resolver, self._names, self._gatherer
        ).explain
        self._strangers = Strangers(
            settings.spool,
            log,
            time.time,
            budget=lambda: configuration.settings.report_budget,
            knows=self._knows,
            policy=lambda client, sender: maybeDeferred(
                self._gatherer.ask, configuration.settings.ruleset, SENDER_POLICY, client, sender
            ),
            in_thread=in_thread(reactor),
        )
        # at rest
        bridge = ReactorBridge(reactor)
        shared = [
            self._shard(number, opened_by(settings, number, bridge, log), settings.spool)
            for number in shards
        ]
        local = [
            self._shard(number, spool, spool.directory)
            for number, spool in kept_by(settings, shards[0], workers, bridge, log)
        ]
        self.shards = (*shared, *local)
        self._local = local[0] if local else None  # takes new mail while the database is away
        self._taking: AwayStore | Spool | PostgresqlSpool = shared[0].spool
        if self._local is not None:
            self._taking = AwayStore(shared[0].spool, self._local.spool, log)
        if not isinstance(shared[0].spool, Spool):
            self.suspensions.share(shared[0].spool)
            self._gatherer.share(shared[0].spool.tally)
        if counting is not None:
            # of the others, which are only emptied, another thread would add to the same figures
            self.shards[0].spool.hear_of_commits(counting.committed)
            for shard in self.shards:
                shard.dispatcher.foresight.on_verdict = counting.forecast
        self._own_mail = OwnMail(
            self._taking,
            lambda: configuration.settings,
            self._accept_own,
            log,
            self._strangers,
        )
        self._digests = Digests(
            reactor,
            self._strangers.kept,
            self._own_mail.tell_kept,
            in_thread(reactor),
            log,
            time.time,
        )
        self._refused_log = RefusedLog(
            settings.spool / f"shard-{shards[0]}" / REFUSED_LOG_FOLDER,
            clock=time.time,
            later=reactor.callLater,
            period=settings.journal,
            most=settings.journal_size // workers,
        )
        # inwards
        self._certificates = Certificates(reactor, log, wants_certificate=self._wants_certificate)
        self._accounts = AccountTables(reactor, self._tables)
        self.guesses = Guesses(reactor.seconds, guess_memory)
        self._policies = ListenerPolicies(
            self._certificates.of, self._tables, self._accounts, self.guesses, log
        )
        self._service = self._make_service(sessions)
        addresses = [ListenAddress(each.address, each.port) for each in settings.listeners]
        self._listening = IntakeService(
            reactor,
            self._service,
            addresses,
            sockets,
            ready=ready,
            accept_balancer=accept_balancer,
            grace=GRACE,
        )
        self._pickup = Pickup(
            reactor,
            settings.spool,
            self._service.intake,
            settings.hostname,
            limits.drop(settings),
        )
        self._picks_up = shards[0] == 0  # one of all workers
        self._watchdog = Watchdog(reactor, log)
        # before next hops that are down are tried with what is new
        configuration.on_change(self._outbound_tls.apply)
        configuration.on_change(self._trust)
        for told in self._told():
            configuration.keep_up(told)

    # making the graph

    def _shard(self, number: int, spool: Spool | PostgresqlSpool, folder: Path) -> Shard:
        settings = self._configuration.settings
        sites = Sites(
            self.directory.resolve,
            self._log,
            time.time,
            random.random,
            counters=self._sessions,
            workers=self._workers,
            folder=folder / f"shard-{number}",
        )
        courier = Courier(
            self._reactor,
            self.directory.resolve,
            settings.hostname,
            protection=self._outbound_tls.protection,
            logins=self._logins,
            terms=sites.terms,
            blocked=sites.blocked,
            lost=self.lost_addresses.lost,
        )
        reports = OwnReports(
            self._reactor,
            self.filters,
            spool,
            lambda: self._configuration.settings.ruleset,
            self._log,
        )
        dispatcher = Dispatcher(
            self._reactor,
            spool,
            courier,
            self._route,
            lambda report: report_for(report, spool, self._configuration.settings),
            self._log,
            report_held=reports.show,
            sites=sites,
            suspensions=self.suspensions,
            origins=Origins(
                self._log,
                time.time,
                random.random,
                counters=self._sessions,
                folder=settings.spool,
            ),
            strangers=self._strangers,
        )
        self.lost_addresses.told.append(dispatcher.source_is_back)
        watch = None
        if not isinstance(spool, Spool):
            spool.on_nodes = sites.share
        if spool.lease is not None:
            courier.keeps(spool.lease)
            spool.lease.on_lost = dispatcher.lost
            watch = TenureWatch(self._reactor, spool.lease, dispatcher.withdraw, self._log)
        return Shard(number, spool, dispatcher, reports, watch)

    def _make_service(self, sessions: SharedCounters | None) -> SmtpService:
        settings = self._configuration.settings
        spool, dispatcher = self.shards[0].spool, self.shards[0].dispatcher
        self._cut_through = CutThrough(
            lambda message, *more: self._taker(message.ident).dispatcher.attempt(message, *more),
            dispatcher.prompt,
            lambda ident: self._taker(ident).spool.answered(ident),
        )
        signing = Signing(lambda: self._configuration.settings.signing, time.time, self._log)
        intake = Intake(
            trace=TraceField(settings.hostname),
            rules=lambda: self._configuration.settings.ruleset,
            spool=self._taking,
            expect=spool.expect,
            accept=self._accept,
            log=self._log,
            clock=time.time,
            expanded=self._own_mail.expanded,
            untold=self._refused_log.note,
            foretold=self._foretold,
            guesses=self.guesses,
            turn=lambda: deferLater(self._reactor, 0),
            sign=signing.fields,
            seal=signing.seal,
            gatherer=self._gatherer_for(settings),
            cut_through=self._cut_through,
            wishes=lambda _, client: self._configuration.settings.wishes(client),
        )
        return SmtpService(
            reactor=self._reactor,
            hostname=settings.hostname,
            intake=intake,
            admission=Admission(SessionLimits(), self._reactor.seconds, sessions),
            make_server=self._make_server,
            policies={},
        )

    def _gatherer_for(self, settings: Settings) -> Gatherer | None:
        """Who asks for what its rules look at; nobody where none does."""
        ruleset = settings.ruleset
        return self._gatherer if ruleset.asked or ruleset.examined else None

    def _tables(self) -> Mapping[str, Table]:
        return self._configuration.settings.ruleset.tables

    def _wants_certificate(self) -> bool:
        """Whether clients are asked for a certificate: only where a rule looks at it."""
        return self._configuration.settings.ruleset.wants_certificate

    def _make_server(self, policy: ListenerPolicy) -> SmtpServer:
        offer = self._offers[policy.starttls]
        return SmtpServer(self._service.hostname, self._session_rules, offer)

    # what is in force

    def _told(self) -> tuple[Callable[[Settings], None], ...]:
        """Who is told of settings, now and with every reload; the others read them in time."""
        return (
            lambda now: self._certificates.apply(now.certificates, now.tls_minimum),
            self._limit_sessions,
            self._limit_messages,
            self._limit_deliveries,
            self._limit_shards,
            lambda now: self._refused_log.apply(now.journal, now.journal_size // self._workers),
        )

    def _limit_sessions(self, now: Settings) -> None:
        self._session_rules = SessionRules(
            line=now.command_length,
            recipients=now.recipients,
            errors=now.errors_per_session,
            normalise=now.bare_newlines == "normalise",
        )
        self._offers = {
            starttls: Offer(size=now.message_size, starttls=starttls, require_tls=True)
            for starttls in (False, True)
        }
        self._service.admission.limits = limits.session_limits(now, self._workers)
        self._service.normal = limits.deadlines(now)
        self._cut_through.most = limits.cut_through(now, self._workers)
        self._service.tighten()  # who is here already: his time may be shorter now
        self._service.policies = self._policies.of(now)

    def _limit_messages(self, now: Settings) -> None:
        self._service.intake.gatherer = self._gatherer_for(now)
        self._ask_filters(now)
        self._service.intake.limits = limits.reception_limits(now)
        self._service.intake.names = self._names if now.client_names else None
        self._pickup.apply(self._service.intake, limits.drop(now))

    def _ask_filters(self, now: Settings) -> None:
        """Who is asked; a session that began where nobody was ends at its next MAIL."""
        self._service.intake.desk = None if now.ruleset.asks is None else self.filters
        self.filters.keep_up(now.ruleset)

    def _limit_deliveries(self, now: Settings) -> None:
        retry_policy = limits.retry_policy(now)
        relay_limits = limits.relay_limits(now, self._workers)
        self.lost_addresses.apply(now.ruleset.pacing.sources)
        for shard in self.shards:
            shard.dispatcher.pace(now.ruleset.pacing)
            shard.dispatcher.apply(retry_policy, relay_limits)

    def _limit_shards(self, now: Settings) -> None:
        for shard in self.shards:
            if not isinstance(shard.spool, Spool):
                shard.spool.rules = now.ruleset.hash_anywhere
            shard.spool.apply(
                memory_threshold=now.content_in_memory,
                floor_bytes=now.free_space,
                floor_inodes=now.free_inodes,
                ledger_days=now.ledger / DAY,
            )

    def _trust(self, fresh: Settings) -> None:
        """Authorities of whom tokens are asked."""
        self._keeper.web = web_of(self._reactor, fresh, self._resolver)

    # a message's way

    def _accept(self, message: Message, records: tuple[Record, ...]) -> None:
        if self._local is None:
            self.shards[0].dispatcher.accept(message, records)
        else:
            self._taker(message.ident).dispatcher.accept(message, records)

    def _foretold(self, ident: int, trail: tuple[Step, ...]) -> None:
        shard = self.shards[0] if self._local is None else self._taker(ident)
        shard.dispatcher.foresight.note(ident, trail)

    def _taker(self, ident: int) -> Shard:
        """Which of the shards that take mail has taken this."""
        local = self._local
        if local is not None and shard_of(ident) == local.number:
            return local
        return self.shards[0]

    def _knows(self, client: Client) -> bool:
        """Whether its mail is no stranger's."""
        return client.listener == DROP or self._configuration.settings.knows(client)

    def _accept_own(self, message: Message, records: tuple[Record, ...]) -> None:
        if any(each.state is RecipientState.HELD for each in records):
            self._taker(message.ident).reports.show(message)
        self._accept(message, records)

    def _route(self, recipient: Recipient) -> Hop | Outcome:
        settings = self._configuration.settings
        return route(recipient, settings.next_hops, settings.ruleset.pacing.sources)

    # its life

    def privilegedStartService(self) -> None:
        """Open the listening sockets, as root when there is root; raises OSError."""
        self._listening.privilegedStartService()
        super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's own

    def startService(self) -> None:
        """Take up the spool, then open the door; raises SpoolError."""
        opened = []
        try:
            for shard in self.shards:
                if not isinstance(shard.spool, Spool):  # what is kept beside it
                    beside = self._configuration.settings.spool / f"shard-{shard.number}"
                    beside.mkdir(mode=0o700, parents=True, exist_ok=True)
                try:
                    shard.spool.open()
                except SpoolAway as error:
                    if self._local is None:
                        raise
                    assert not isinstance(shard.spool, Spool)
                    shard.spool.open_in_time(error)
                opened.append(shard)
        except SpoolError:
            for shard in opened:
                shard.spool.close()
            raise
        super().startService()  # type: ignore[no-untyped-call]  # Twisted's own
        self.suspensions.load()
        for shard in self.shards:
            shard.dispatcher.start()
            shard.reports.start()
            if shard.watch is not None:
                shard.watch.start()
        self._certificates.start()
        self._tokens.start()
        self._watchdog.start()
        self._listening.startService()
        if self._picks_up:
            self._pickup.start()
            self._gatherer.tidy(self._configuration.settings.ruleset)
            self._outbound_tls.reporter.start()
            self._digests.start()
        self._log.notice(
            "started",
            hostname=self._configuration.settings.hostname,
            listen=",".join(map(str, self._listening.bound)),
            spool=str(self._configuration.settings.spool),
            shards=",".join(str(shard.number) for shard in self.shards),
            rules=self._configuration.settings.ruleset.hash,
        )

    def stopService(self) -> Deferred[None]:
        """Clients first, then deliveries, then the spool; fires when all is on disk."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted's own
        return promise(self._stop())

    async def _stop(self) -> None:
        self._accounts.close()
        self.live.stop()
        self._watchdog.stop()
        self._certificates.stop()
        await self._listening.stopService()
        await self._pickup.stop()
        self.filters.close()
        self._verification.stop()
        self._refused_log.close()
        self.lost_addresses.stop()
        self._digests.stop()
        self._strangers.stop()
        for stopped in [promise(shard.stop()) for shard in self.shards]:
            await stopped
        await self._outbound_tls.reporter.stop()
        await self._tokens.stop(GRACE)
        self._log.notice("stopped", seconds=round(time.time() - self._started_at, 1))

    async def drain(self) -> None:
        """Accept no more, and let the sessions there are end by themselves for a while."""
        await self._listening.drain(DRAIN_TIME)

    # what operators ask

    @property
    def missing(self) -> Mapping[ListenAddress, str]:
        """Where it does not listen, and why."""
        return self._listening.missing

    def _full(self, shard: Shard) -> Iterator[str]:
        """Limits that are reached."""
        if shard.spool.healthy and not shard.spool.room(0):
            yield "free-space, free-inodes: the spool's disk has no room for new mail"
        if shard is self.shards[0]:
            admission = self._service.admission
            most = admission.limits.in_all
            if most and admission.in_all >= most:
                yield f"sessions: all {most:,} of a process are taken"

    def backends(self) -> tuple[Backend, ...]:
        """The shards, for the control socket."""
        return tuple(
            Backend(
                shard.number,
                shard.spool,
                shard.dispatcher.lanes,
                lambda shard=shard: {  # type: ignore[misc]  # bound early on purpose
                    "deliveries": shard.dispatcher.in_flight,
                    "lost_reports": shard.dispatcher.lost_reports,
                    "kept_reports": self._strangers.count if shard is self.shards[0] else 0,
                    "forecasts_right": shard.dispatcher.foresight.right,
                    "forecasts_wrong": shard.dispatcher.foresight.wrong,
                    "sessions": self._service.admission.in_all if shard is self.shards[0] else 0,
                    **(self._pickup.figures() if shard.number == 0 else {}),
                    **(self._outbound_tls.figures() if shard is self.shards[0] else {}),
                },
                shard.dispatcher.sites,
                shard.dispatcher.origins,
                shard.dispatcher.borrow,
                shard.dispatcher.bring_back,
                self.lost_addresses.documents,
                shard.dispatcher.provider_of,
                lambda shard=shard: self._full(shard),  # type: ignore[misc]  # likewise
                None if isinstance(shard.spool, Spool) else shard.spool.cluster,
            )
            for shard in self.shards
        )
