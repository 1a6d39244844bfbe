"""`console`: builds the console and the HTTP API, and listens where the configuration says.

It stands in the process that operators speak to: of several workers, in the master. Nothing of it
is loaded where nobody has said `console`.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort

from relayd.config import Settings, load
from relayd.config.editing import FOLDER, KeptSources
from relayd.config.texts import DraftedTexts
from relayd.config.values import ConsolePlace
from relayd.intake.accounttables import AccountTables
from relayd.login.guesses import Guesses
from relayd.login.users import Seat
from relayd.mail.log import MailLog
from relayd.ops.commands import Operations
from relayd.ops.control import ControlError, listen
from relayd.ops.documents import Document
from relayd.ops.forwardsdesk import ForwardsDesk
from relayd.ops.rulesdesk import RulesDesk
from relayd.ops.tokensdesk import TokensDesk
from relayd.reactor.workerpipe import Reactor
from relayd.rules.tables.userstable import UsersTable
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration
from relayd.service.rehearsal import rehearsed
from relayd.tls.files import CertificateFiles
from relayd.tls.renewal import Certificates
from relayd.web.api import Api
from relayd.web.console import Console
from relayd.web.entrance import Entrance
from relayd.web.forwards import ForwardsApi
from relayd.web.live import Sums
from relayd.web.site import SecuredFactory, SiteFactory

SOCKET_MODE = 0o660


class ConsoleService:
    """The ports, and what answers at them."""

    def __init__(
        self,
        reactor: Reactor,
        configuration: Configuration,
        log: MailLog,
        tokens: TokensDesk,
        sums: Sums = dict,
    ) -> None:
        """`sums`: what has been counted, for rates."""
        self._reactor = reactor
        self._configuration = configuration
        self._log = log
        self._tokens = tokens
        self._sums = sums
        self._accounts = AccountTables(reactor, lambda: configuration.settings.ruleset.tables)
        self._certificates = Certificates(reactor, log)
        self._entrances: dict[str, Entrance] = {}
        self._ports: list[IListeningPort] = []
        self.missing: list[str] = []  # where we do not listen, and why

    def start(self, commands: Operations, guesses: Guesses) -> None:
        """Listen. `guesses` are counted with those over SMTP."""
        settings = self._configuration.settings
        self._tokens.read()
        since = time.time()
        desk = ForwardsDesk(lambda: self._configuration.settings)
        forwards = ForwardsApi(desk, commands, self._log)
        api = Api(commands, self._tokens.find, guesses, forwards)

        def entrance(table: str) -> Entrance:
            if table not in self._entrances:
                self._entrances[table] = Entrance(
                    self._accounts.accounts(table), lambda: self._seats(table), guesses,
                    self._log, since=since,
                )  # fmt: skip
            return self._entrances[table]

        console = Console(
            commands, api, settings.hostname, entrance, self._seats,
            sums=self._sums, edits=settings.console_edits,
        )  # fmt: skip
        if any(each.place.path is None for each in settings.console_places):
            self._apply(settings)
            self._configuration.on_change(self._apply)
            self._certificates.start()
        for place in settings.console_places:
            site = SiteFactory(self._reactor, place, console.answer, self._log)
            self._listen(place, site)

    def _listen(self, place: ConsolePlace, site: SiteFactory) -> None:
        """Mail flows without it as well, so it is no reason not to start."""
        where = place.place
        try:
            if where.path is not None:
                port = listen(self._reactor, where.path, site, mode=SOCKET_MODE)
            else:
                secured = SecuredFactory(self._certificates.of(str(place)), site)
                port = self._reactor.listenTCP(where.port, secured, interface=where.host)
        except (ControlError, CannotListenError) as error:
            self.missing.append(f"console {place}: {error}")
            self._log.trouble("console not listening", place=str(place), why=str(error))
        else:
            self._ports.append(port)

    def _apply(self, settings: Settings) -> None:
        places = {str(each) for each in settings.console_places}
        self._certificates.apply(_for_places(settings.certificates, places), settings.tls_minimum)

    def _seats(self, table: str) -> Mapping[str, Seat]:
        found = self._configuration.settings.ruleset.tables.get(table)
        return found.users.seats if isinstance(found, UsersTable) else {}

    def ports(self) -> list[IListeningPort]:
        """To be stopped at the end."""
        return self._ports

    def stop(self) -> None:
        """Look at no certificate any more."""
        self._certificates.stop()
        self._accounts.close()


def rules_desk(
    reactor: Reactor,
    configuration: Configuration,
    config: Path,
    reload: Callable[[], Awaitable[str]],
    log: MailLog,
) -> RulesDesk:
    """For `console may edit`: changes the files of this configuration."""
    spool = configuration.settings.spool

    def rehearse(path: Path, octets: bytes) -> Awaitable[Settings]:
        fixed = configuration.settings.fixed
        return aside(reactor, lambda: load(config, fixed, DraftedTexts(path, octets)))()

    def replay(path: Path, text: str, since: float) -> Awaitable[Document]:
        return rehearsed(reactor, config.absolute(), spool, (path, text), since)

    return RulesDesk(
        lambda: configuration.settings,
        rehearse,
        reload,
        lambda: configuration.refused is not None,
        replay,
        lambda work: aside(reactor, work)(),
        KeptSources(spool / FOLDER),
        log,
    )


def _for_places(
    certificates: Iterable[CertificateFiles], places: Iterable[str]
) -> tuple[CertificateFiles, ...]:
    known = set(places)
    return tuple(each for each in certificates if not each.listeners or known & set(each.listeners))
