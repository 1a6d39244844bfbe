"""Sends each domain that asks for it its TLS report of the day before (RFC 8460)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from hashlib import blake2b
from typing import Protocol

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.dns.answer import DnsError, DnsTrouble
from relayd.dns.resolver import Resolver
from relayd.mail.address import AddressError, Mailbox
from relayd.mail.log import MailLog
from relayd.reactor.coroutine import spawn
from relayd.relay.https import HttpAnswer, HttpError
from relayd.relay.tlsledger import DAYS, TlsLedger
from relayd.relay.tlsresults import InThread, TlsResults, day_of
from relayd.report.tlsrpt import GZIP, TlsReport, TlsReports, mailbox_of, uris

FIRST = 5.0  # seconds after the start
PERIOD = 600.0  # seconds between two looks at what is due
SPREAD = 4 * 3600  # seconds after midnight within which reports go out (section 4.1)
LATEST = 86_400.0  # seconds that a report is tried, from when it was due (section 5.2)
DAY = 86_400


class Web(Protocol):
    """Who posts; relayd.relay.https.Https."""

    async def hand(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        """One POST; raises HttpError."""


Submit = Callable[[Mailbox, Mailbox, bytes], Awaitable[None]]
"""Puts mail of ours into the spool: from, to, content."""


class TlsReporter:
    """One of all workers sends; the others only count."""

    def __init__(
        self,
        clock: IReactorTime,
        ledger: TlsLedger,
        results: TlsResults,
        resolver: Resolver,
        web: Callable[[], Web],
        submit: Submit,
        in_thread: InThread,
        log: MailLog,
        settings: Callable[[], TlsReports | None],
        hostname: str,
        now: Callable[[], float] = time.time,
        prune: Callable[[], None] = lambda: None,
    ) -> None:
        self._clock = clock
        self._prune = prune  # of what else nobody needs any more; in a thread
        self._ledger = ledger
        self._results = results
        self._resolver = resolver
        self._web = web
        self._submit = submit
        self._in_thread = in_thread
        self._log = log
        self._settings = settings
        self._hostname = hostname
        self._now = now
        self._timer: IDelayedCall | None = None
        self._told: set[tuple[str, str, str]] = set()  # day, domain, URI: of those with several
        self._failed: dict[tuple[str, str, str], float] = {}  # when first

    def start(self) -> None:
        """Look for what is due, soon and then every few minutes."""
        self._timer = self._clock.callLater(FIRST, self._look)

    async def stop(self) -> None:
        """Send no more; what was counted is written down."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        await self._results.flush()

    def _look(self) -> None:
        self._timer = self._clock.callLater(PERIOD, self._look)
        spawn(self.send_due(), self._bug)
        spawn(self._look_after(), self._not_pruned)

    def _bug(self, failure: Failure) -> None:
        self._log.trouble("TLS reports not sent", why=failure.getErrorMessage())

    async def _look_after(self) -> None:
        await self._in_thread(self._prune)

    def _not_pruned(self, failure: Failure) -> None:
        self._log.trouble("mta-sts", why=f"expired policies not removed: {failure.value}")

    async def send_due(self) -> None:
        """Everything of the days before, each some time after its midnight."""
        settings = self._settings()
        if settings is None:
            return
        now = self._now()
        late = SPREAD * int.from_bytes(blake2b(self._hostname.encode(), digest_size=2).digest())
        before = day_of(now - late / 65536)
        for day, domain in await self._in_thread(self._ledger.domains, before):
            rows = await self._in_thread(self._ledger.rows, day, domain)
            report = TlsReport(domain, day, self._hostname, str(settings.address), rows)
            if await self._tell(report, settings):
                await self._in_thread(self._ledger.forget, [(day, domain)])
        await self._in_thread(self._ledger.forget, [], day_of(now - DAYS * DAY))

    async def _tell(self, report: TlsReport, settings: TlsReports) -> bool:
        """Whether there is nothing more to do for this day of this domain."""
        try:
            answer = await self._resolver.query(f"_smtp._tls.{report.domain}", "TXT")
            wanted = uris(answer.values)
        except DnsTrouble:
            return False
        except DnsError:
            wanted = ()  # nobody asks for it
        ended = True
        for uri in wanted:
            key = (report.day, report.domain, uri)
            if key in self._told:
                continue
            why = await self._send(report, uri, settings)
            if not why:
                self._told.add(key)
                continue
            first = self._failed.setdefault(key, self._now())
            self._log.notice("TLS report not sent", domain=report.domain, to=uri, why=why)
            ended = ended and self._now() - first >= LATEST
        if ended:
            mine = {key for key in (*self._told, *self._failed) if key[:2] == key_of(report)}
            self._told -= mine
            for key in mine:
                self._failed.pop(key, None)
        return ended

    async def _send(self, report: TlsReport, uri: str, settings: TlsReports) -> str:
        """Empty when it is on its way, else why not."""
        address = mailbox_of(uri)
        try:
            if address:
                to = Mailbox.parse(address)
                letter = report.letter(str(to), self._now())
                signed = await self._in_thread(settings.signed, letter)
                await self._submit(settings.address, to, signed)
            else:
                answer = await self._web().hand(uri, report.compressed(), {"Content-Type": GZIP})
                if not 200 <= answer.status < 300:
                    return f"it said {answer.status}"
        except (AddressError, HttpError, OSError, ValueError, ImportError) as error:
            return str(error)
        self._log.notice("TLS report", domain=report.domain, day=report.day, to=uri)
        return ""


def key_of(report: TlsReport) -> tuple[str, str]:
    """What a report is about."""
    return report.day, report.domain
