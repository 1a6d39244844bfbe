"""What next hops must prove by the settings, and who is told of what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable

from relayd.config import Settings
from relayd.config.tls import level_for
from relayd.dns.resolver import Resolver
from relayd.mail.log import MailLog
from relayd.reactor.workerpipe import Reactor, in_thread
from relayd.relay.hosts import Hosts
from relayd.relay.https import Https
from relayd.relay.internal import may_lead_to
from relayd.relay.mtasts import StsPolicies
from relayd.relay.protection import Protection, TlsSettings
from relayd.relay.stsfetch import StsFetch
from relayd.relay.tlsledger import TlsLedger
from relayd.relay.tlsreporter import Submit, TlsReporter
from relayd.relay.tlsresults import TlsResults
from relayd.tls.client import ClientContexts
from relayd.tls.sessions import Handshakes

STS_FOLDER = "mta-sts"  # in the spool


class OutboundTls:
    """Of one process; `settings` are those in force."""

    def __init__(
        self,
        reactor: Reactor,
        settings: Callable[[], Settings],
        log: MailLog,
        resolver: Resolver,
        submit: Submit,
    ) -> None:
        now = settings()
        self._reactor = reactor
        self._log = log
        self._resolver = resolver
        self.handshakes = Handshakes()
        threads = in_thread(reactor)
        ledger = TlsLedger(now.spool)
        results = TlsResults(reactor, ledger, threads, log, lambda: settings().tls_reports)
        self._policies = StsPolicies(
            resolver,
            _fetch(reactor, now, resolver),
            now.spool / STS_FOLDER,
            log,
            time.time,
            results.note,
        )
        self.protection = Protection(
            resolver, _tls_settings(now, self.handshakes), self._policies, results
        )
        self.reporter = TlsReporter(
            reactor,
            ledger,
            results,
            resolver,
            lambda: Https(
                reactor,
                Hosts(resolver),
                authorities=settings().tls_authorities,
                leads=_leads(settings()),
            ),
            submit,
            threads,
            log,
            lambda: settings().tls_reports,
            now.hostname,
            prune=self._policies.prune,
        )

    def figures(self) -> dict[str, int]:
        """Handshakes with next hops, for the operator, once there were any."""
        counts = self.handshakes
        if not counts.full + counts.resumed:
            return {}
        return {"tls_handshakes": counts.full, "tls_resumed": counts.resumed}

    def apply(self, fresh: Settings) -> None:
        """New settings; authorities that cannot be read leave the old ones."""
        try:
            self.protection.settings = _tls_settings(fresh, self.handshakes)
        except OSError as error:
            self._log.trouble("tls-authorities", why=str(error), consequence="the old ones stay")
        else:
            self._policies.fetch = _fetch(self._reactor, fresh, self._resolver)


def protection_of(
    reactor: Reactor, settings: Callable[[], Settings], log: MailLog, resolver: Resolver
) -> Callable[[], Protection]:
    """What next hops must prove by the settings of now, for questions only: nothing is counted."""
    policies = StsPolicies(
        resolver,
        lambda domain: _fetch(reactor, settings(), resolver)(domain),
        settings().spool / STS_FOLDER,
        log,
        time.time,
    )
    return lambda: Protection(resolver, _tls_settings(settings()), policies)


def _fetch(reactor: Reactor, settings: Settings, resolver: Resolver) -> StsFetch:
    return StsFetch(
        reactor,
        Hosts(resolver),
        authorities=settings.tls_authorities,
        leads=_leads(settings),
    )


def _leads(settings: Settings) -> Callable[[str], bool]:
    """Whether what domains publish may lead us to an address."""
    return lambda address: may_lead_to(address, settings.internal_destinations)


def _tls_settings(settings: Settings, handshakes: Handshakes | None = None) -> TlsSettings:
    contexts = ClientContexts(settings.tls_minimum, settings.tls_authorities, handshakes)
    return TlsSettings(contexts, level_for(settings.domain_tls))
