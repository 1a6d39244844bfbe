"""`twistd relayd`: from the command line to the running service, built top to bottom."""

from __future__ import annotations

import atexit
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.application.service import IService, MultiService, Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory
from twisted.internet.threads import deferToThreadPool
from twisted.logger import ILogObserver
from twisted.python import usage
from twisted.python.components import Componentized
from twisted.python.failure import Failure

# before whatever imports Twisted's endpoints: see AT_START
from relayd.service.activation import AT_START, Handed, handed_over, place_of, unwanted

# isort: split
from relayd import __version__
from relayd.config import ConfigErrors, Settings, embedded, load
from relayd.config.fixed import statements_of
from relayd.config.lastgood import NAME as KEPT
from relayd.config.lastgood import LastGoodError, LastGoodFile, last_good
from relayd.config.texts import RecordedTexts, Texts
from relayd.ctl.socketpath import spools_of
from relayd.directories.live import LiveDirectories
from relayd.directories.refresher import Refresher
from relayd.dns.lookup import Lookup
from relayd.intake.counting import FOLDER, Limits
from relayd.intake.opening import ListenAddress, ListeningSockets
from relayd.login.guesses import Guesses
from relayd.mail.log import MailLog
from relayd.ops.backscatterdesk import BackscatterDesk, kept_back
from relayd.ops.commands import OperatorCommands
from relayd.ops.control import ControlError, ControlFactory, listen
from relayd.ops.dkimdesk import DkimDesk
from relayd.ops.following import Events
from relayd.ops.forward import ForwardedCommands
from relayd.ops.hooks import HookRecorder
from relayd.ops.lastcrash import keep_last_crash
from relayd.ops.limitsdesk import LimitsDesk
from relayd.ops.maillog import LineLog
from relayd.ops.mailq import MAX_SESSIONS as MOST_PUBLIC
from relayd.ops.mailq import PublicQueue
from relayd.ops.oauthdesk import OauthDesk
from relayd.ops.output import Output, journal_reads_us
from relayd.ops.publicpath import public_path
from relayd.ops.rerouting import ReroutingDesk
from relayd.ops.suspending import SuspendingDesk
from relayd.ops.systemd import Notices
from relayd.ops.tablesdesk import TablesDesk
from relayd.ops.text import moment
from relayd.ops.tokensdesk import FILE as TOKENS
from relayd.ops.tokensdesk import TokensDesk
from relayd.ops.twistedlog import TwistedLog, take_last_words
from relayd.reactor.coroutine import promise
from relayd.reactor.lean import own_reactor, soon
from relayd.reactor.workerpipe import Reactor
from relayd.relay.enrolment import Enrolment
from relayd.relay.keptreports import KeptReports
from relayd.relay.origins import begin_anew
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration, RefusedConfiguration
from relayd.service.gateway import (
    Gateway,
    enquiry_of,
    gatherer_of,
    keeper_of,
    own_verification_of,
    resolver_of,
    reverse_names_of,
    web_of,
)
from relayd.service.hooks import HookService, recorder_of
from relayd.service.metrics import Metrics
from relayd.service.supervisor import Orders, Supervisor
from relayd.service.tableorders import live_directories_of, snapshot_orders
from relayd.service.watch import ConfigurationWatch
from relayd.spool.disk.lock import Lock
from relayd.spool.errors import SpoolError, SpoolLocked
from relayd.tls.dates import CertificateDates

if TYPE_CHECKING:
    from relayd.ops.rulesdesk import RulesDesk
    from relayd.service.console import ConsoleService


CRASH = "crash"  # in the spool; of worker N crash-N


class Options(usage.Options):
    """The command line of `twistd relayd`."""

    synopsis = "[--config FILE]"
    longdesc = (
        "A mail forwarder and relay. Without a configuration it listens on 127.0.0.1:2525, keeps "
        "its spool below the working folder, and is good for a first look only."
    )
    optParameters = [  # noqa: RUF012 - twisted.python.usage reads it as it is
        ["config", "c", None, "the configuration file, e.g. /etc/relayd/relayd.conf"]
    ]

    def opt_version(self) -> NoReturn:
        """Print relayd's version and exit."""
        sys.stdout.write(f"relayd {__version__}\n")
        raise SystemExit(0)


def makeService(options: Options) -> IService:
    """The whole of relayd as one service. A bad configuration ends the process: EX_CONFIG."""
    reactor = own_reactor()
    prepare_process(reactor)
    handed = handed_over(AT_START, os.getpid())
    read = partial(read_settings, options["config"] or "")
    refused = None
    try:
        settings = read({}, RecordedTexts())
    except ConfigErrors as errors:
        settings, refused = _last_good(options, str(errors))

    def reread() -> Settings:
        return read(settings.fixed, RecordedTexts())

    return Relayd(reactor, settings, reread, Output(_log_file(options)), handed, refused)


def _last_good(options: Options, why: str) -> tuple[Settings, RefusedConfiguration]:
    """What was in force before, in the place of what is refused; or relayd does not start."""
    config = Path(options["config"] or "").absolute()
    owner = (getattr(options, "parent", None) or {}).get("uid")
    told = why
    for spool in spools_of(config):
        try:
            kept = last_good(spool, config, os.geteuid() if owner is None else owner)
            if kept is None:
                continue
            settings = load(options["config"], {}, RecordedTexts(kept.texts))
        except (LastGoodError, ConfigErrors) as error:
            fault = "the same is wrong" if str(error) == why else error
            told += f"\nrelayd: the last good configuration cannot be used, {spool / KEPT}: {fault}"
            continue
        if _log_file(options) is not None:  # else the log, which says it too, is seen there
            since = moment(kept.since)
            told = f"{why}\nrelayd: starts with the last good configuration, in force since {since}"
            sys.stderr.write(f'{told}; mend the above, then "relayctl reload"\n')
            sys.stderr.flush()
        return settings, RefusedConfiguration(time.time(), why, kept.since)
    return _refuse(told, os.EX_CONFIG)


YOUNG = 10_000  # objects more than before, ere those are looked at for circles


def prepare_process(reactor: Reactor) -> None:
    """What every process of ours does first."""
    Factory.noisy = False  # Twisted would log that it speaks to our own workers, each time
    reactor.seconds = time.monotonic  # Twisted's timers would follow jumps of the wall clock
    gc.set_threshold(YOUNG)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def read_settings(config: str, fixed: Mapping[str, Any], texts: Texts | None = None) -> Settings:
    """The settings in this file, or the embedded default; raises ConfigErrors.

    `fixed`: what holds until a restart, whatever the file says; `texts`: see relayd.config.load.
    """
    return load(Path(config), fixed, texts) if config else embedded(Path.cwd(), fixed)


def mail_log(reactor: Reactor, output: Output) -> LineLog:
    """The mail log, on standard output or in a file; its last lines are written at our end."""
    log = LineLog(
        output.write,
        clock=time.time,
        later=soon(reactor),
        journal=output.path is None and journal_reads_us(),
    )
    output.told = log.dropped
    atexit.register(output.finish)
    return log


def _log_file(options: Options) -> Path | None:
    """Where twistd's own log goes; None: standard output."""
    twistd = getattr(options, "parent", None) or {}
    name = twistd.get("logfile")
    if name is None and not twistd.get("nodaemon", True):
        name = "twistd.log"
    return None if name in (None, "-") else Path(name).absolute()


def _refuse(why: str, status: int = 1) -> NoReturn:
    """Do not start. With EX_CONFIG (sysexits.h) it is of no use to try again as things are."""
    sys.stderr.write(why.rstrip("\n") + "\n")
    sys.stderr.flush()
    raise SystemExit(status)


def _heed_once() -> None:
    """One SIGINT or SIGTERM ends us; another, as from Ctrl-C and a parent, says the same again."""
    ending = (signal.SIGINT, signal.SIGTERM)
    stops = {number: signal.getsignal(number) for number in ending}

    def heard(number: int, frame: FrameType | None) -> None:
        """Once is enough. SIG_IGN would be: one that came with the first is an error to Python."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in ending:
            signal.signal(each, heard)
        handler = stops[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number in ending:
        signal.signal(number, stop)


def shards_of(spool: Path, number: int, workers: int) -> tuple[int, ...]:
    """The shards of this worker: its own, and those left by workers that are no more."""
    found = sorted(
        int(folder.name.removeprefix("shard-"))
        for folder in spool.glob("shard-*")
        if folder.name.removeprefix("shard-").isdigit() and folder.is_dir()
    )
    return (number, *(each for each in found if each >= workers and each % workers == number))


class Relayd(MultiService):
    """The process that twistd runs: the gateway itself, or the master of several workers."""

    def __init__(
        self,
        reactor: Reactor,
        settings: Settings,
        reread: Callable[[], Settings],
        output: Output,
        handed: Sequence[Handed] = (),
        refused: RefusedConfiguration | None = None,
    ) -> None:
        """`refused`: see Configuration."""
        super().__init__()  # type: ignore[no-untyped-call]  # Twisted's own
        self._reactor = reactor
        self._output = output
        log = mail_log(reactor, output)
        self._log = log
        self._events = Events(reactor, log, soon(reactor))
        self._settings = settings
        self._serving = False
        self._handed = handed
        places = [place_of(each.address, each.port) for each in settings.listeners]
        for name, place in unwanted(handed, places):
            log.trouble("no listener for a socket of systemd's", name=name, address=place)
        self._configuration = Configuration(settings, aside(reactor, reread), log, refused=refused)
        self._configuration.warn()
        self._notices = Notices(os.environ, reactor.callLater)
        self._watch = ConfigurationWatch(
            reactor,
            lambda: self._configuration.settings,
            lambda: self._reload(by_itself=True),
            log,
            lambda look: deferToThreadPool(reactor, reactor.getThreadPool(), look),
        )
        self._refresher = Refresher(reactor, log, time.time)
        self._lock = Lock(settings.spool / "lock")
        self._control: IListeningPort | None = None
        self._public: IListeningPort | None = None
        self._commands: OperatorCommands | ForwardedCommands
        self._mover: Service
        self._supervisor: Supervisor | None = None
        self._hooks = HookService(reactor, self._configuration, log)
        self._recorder: HookRecorder | None = None
        self._live: LiveDirectories | None = None
        self._metrics: Metrics | None = None
        if settings.metrics or settings.console:  # the console shows rates
            self._metrics = Metrics(
                reactor,
                self._configuration,
                log,
                lambda: self._commands.figures(),
                lambda: self._supervisor.figures() if self._supervisor else {},
                self._hooks.figures,
            )
        self._console: ConsoleService | None = None
        self._tokens: TokensDesk | None = None
        self._rules: RulesDesk | None = None
        if settings.console:
            # only who has a console loads what makes its pages
            from relayd.service.console import ConsoleService

            assert self._metrics is not None
            self._tokens = TokensDesk(settings.spool / TOKENS, log)
            self._console = ConsoleService(
                reactor, self._configuration, log, self._tokens, self._metrics.sums
            )
            if settings.console_edits and settings.path is not None:
                from relayd.service.console import rules_desk

                self._rules = rules_desk(
                    reactor, self._configuration, settings.path, self._reload, log
                )
        self._kept = (
            LastGoodFile(settings.spool, settings.path.absolute()) if settings.path else None
        )
        self._good: RecordedTexts | None = None  # to be kept as soon as we serve
        if settings.workers == 1:
            self._alone()
        else:
            self._with_workers()
        self._configuration.keep_up(self._remember)
        self._configuration.keep_up(lambda fresh: self._refresher.apply(snapshot_orders(fresh)))
        self._mover.setServiceParent(self)

    def _alone(self) -> None:
        settings = self._settings
        oauth = self._oauth()
        if self._metrics is not None:
            self._output.counted = self._metrics.counting.log_dropped
        gateway = Gateway(
            self._reactor,
            self._configuration,
            self._log,
            shards=shards_of(settings.spool, 0, 1),
            ready=self._handed_for,
            counting=None if self._metrics is None else self._metrics.counting,
        )
        self._mover = gateway
        self._recorder = recorder_of(self._reactor, self._configuration, self._log)
        self._commands = commands_of(
            *(gateway, self._configuration, self._log),
            oauth=oauth,
            limits=self._limits(),
            backscatter=self._backscatter(),
            dkim=self._dkim(),
            tables=self._refresher,
            tokens=self._tokens,
            rules=self._rules,
            console=self._console,
            hooks=self._hooks,
            output=self._output,
            events=self._events,
        )

    def _with_workers(self) -> None:
        settings = self._settings
        orders = [
            Orders(
                config=str(settings.path.absolute()) if settings.path else "",
                number=number,
                workers=settings.workers,
                shards=shards_of(settings.spool, number, settings.workers),
                listeners=tuple((each.address, each.port) for each in settings.listeners),
                fixed=statements_of(settings.fixed),
                control=str(settings.spool / f"shard-{number}" / "control"),
                log=str(self._output.path or ""),
                counts=self._metrics is not None,
            )
            for number in range(settings.workers)
        ]
        addresses = [ListenAddress(each.address, each.port) for each in settings.listeners]
        sockets = ListeningSockets(self._reactor, self._log, addresses, self._handed_for)
        meters = None if self._metrics is None else self._metrics.descriptor
        supervisor = Supervisor(self._reactor, self._log, orders, sockets, meters)
        self._mover = self._supervisor = supervisor
        resolver = resolver_of(self._reactor, settings)
        names = reverse_names_of(self._reactor, self._configuration)
        gatherer = gatherer_of(
            self._reactor,
            self._configuration,
            self._log,
            names,
            own_verification_of(self._reactor, self._configuration, self._log, resolver),
        )
        # for explain; `status` has what the workers say of theirs
        self._live = live_directories_of(self._reactor, self._configuration, self._log)
        enquiry = enquiry_of(
            self._reactor, self._configuration, self._log, resolver, names, gatherer
        )
        started, dates, limits = time.time(), CertificateDates(), self._limits()
        oauth = self._oauth()
        if self._metrics is not None:
            self._output.counted = self._metrics.counting.log_dropped
        self._commands = ForwardedCommands(
            self._reactor,
            supervisor.controls,
            about=lambda: {
                **about(
                    self._configuration,
                    started,
                    sockets.missing,
                    dates,
                    limits,
                    self._refresher,
                    self._console,
                    self._hooks,
                    oauth,
                    self._output,
                ),
                **supervisor.figures(),
            },
            explain=enquiry.explain,
            check=self._configuration.check,
            reload=self._reload_all,
            restart=self._restart_workers,
            log=self._log,
            oauth=oauth,
            limits=limits,
            backscatter=self._backscatter(),
            dkim=self._dkim().answer,
            tables=TablesDesk(self._refresher, self._log),
            tokens=self._tokens,
            rules=self._rules,
            events=self._events,
            said=self._configuration.said,
        )

    def _remember(self, settings: Settings) -> None:
        """What a worker that is started again is to read; or relayd, with a mistake on disk."""
        texts = settings.texts
        if not isinstance(texts, RecordedTexts):
            return
        if self._kept is not None:
            self._good = copy(texts)
            if self._serving:
                self._keep()
        if self._supervisor is not None:
            self._supervisor.remember(texts.taken())
        texts.forget()

    def _keep(self) -> None:
        """In a thread: it packs what may be thousands of files, and waits for the disk."""
        good, self._good = self._good, None
        kept = self._kept
        if kept is None or good is None:
            return

        def not_kept(why: Failure) -> None:
            self._log.trouble("last good configuration not kept", why=why.getErrorMessage())

        now = time.time()
        keep = aside(self._reactor, lambda: kept.keep(good.without_secrets(), now))
        keep().addErrback(not_kept)

    def _oauth(self) -> OauthDesk:
        """Enrolment is one process's business, of several that of the master."""
        resolver = resolver_of(self._reactor, self._settings)
        keeper = keeper_of(self._reactor, self._settings, resolver)

        def reloaded(fresh: Settings) -> None:
            keeper.web = web_of(self._reactor, fresh, resolver)

        self._configuration.on_change(reloaded)
        return OauthDesk(Enrolment(keeper), lambda: self._configuration.settings, self._log)

    def _dkim(self) -> DkimDesk:
        lookup = Lookup(self._reactor, self._settings.dns_servers)
        return DkimDesk(lambda: self._configuration.settings, lookup.ask)

    def _limits(self) -> LimitsDesk:
        limits = Limits(self._settings.spool / FOLDER, time.time)
        if database := self._settings.place.database:
            limits.forget_everywhere = lambda name, key: self._reactor.callInThread(
                self._forget, database, name, key
            )
        return LimitsDesk(limits, lambda: self._configuration.settings, self._log)

    def _forget(self, database: str, name: str, key: str) -> None:
        # loads psycopg, which only a cluster needs
        from relayd.spool.postgresql.tally import forget_in

        try:
            forget_in(database, name, key)
        except SpoolError as error:
            why = error.reason
            self._reactor.callFromThread(
                lambda: self._log.trouble("not forgotten in all nodes", key=key, why=why)
            )

    def _backscatter(self) -> BackscatterDesk:
        kept = KeptReports(self._settings.spool)
        return BackscatterDesk(kept, lambda: self._configuration.settings, self._log, time.time)

    def _handed_for(self, address: ListenAddress) -> socket.socket | None:
        """Systemd's socket for this address, if there is one."""
        place = place_of(address.host, address.port)
        found = next((each for each in self._handed if each.place == place), None)
        return None if found is None else found.listening.dup()

    def _reload(self, *, by_itself: bool = False) -> Deferred[str]:
        """See Configuration.reload."""
        if isinstance(self._commands, ForwardedCommands):
            return promise(self._reload_all(by_itself=by_itself))
        return self._configuration.reload(by_itself=by_itself)

    async def _reload_all(self, *, by_itself: bool = False) -> str:
        """Ours first: a bad configuration never reaches the workers."""
        assert isinstance(self._commands, ForwardedCommands)
        return (
            await self._configuration.reload(by_itself=by_itself)
            or await self._commands.reload_workers()
        )

    async def _restart_workers(self) -> str:
        """One after the other; none is stopped while what it would start with is wrong."""
        complaint = await self._reload_all()
        if not complaint and self._supervisor is not None:
            await self._supervisor.restart()
        return complaint

    def setServiceParent(self, parent: object) -> None:
        """Into twistd's application, whose own log lines then go the way of ours, in our form.

        Twisted would write them itself, and wait for whoever does not read them.
        """
        if isinstance(parent, Componentized):
            observer = TwistedLog(self._log.line, self._output.write)
            parent.setComponent(ILogObserver, observer)  # type: ignore[no-untyped-call]  # Twisted's own
            take_last_words(self._log.line, self._output.write)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]  # Twisted's own

    def privilegedStartService(self) -> None:
        """Open the sockets. What cannot be had ends the process with status 1."""
        try:
            super().privilegedStartService()  # type: ignore[no-untyped-call]  # Twisted's own
        except OSError as error:
            _refuse(f"relayd: {error.strerror or error}{self._held()}")

    def _held(self) -> str:
        """Who has the spool, if that is why we cannot have the sockets; empty if nobody has."""
        try:
            if self._lock.path.exists():
                self._lock.acquire()
                self._lock.release()
        except SpoolLocked as error:
            return f" ({error})"
        except SpoolError:
            pass
        return ""

    def startService(self) -> None:
        """Take the spool, start what moves mail, and listen to the operator."""
        self._output.start()  # not before: twistd has forked since we were made
        # twistd ends by the signal that it got, and so without what Python does at exit
        self._reactor.addSystemEventTrigger("after", "shutdown", self._output.finish)
        spool = self._settings.spool
        try:
            spool.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock.acquire()
            keep_last_crash(spool / CRASH, self._log.trouble)
            begin_anew(spool)
            super().startService()  # type: ignore[no-untyped-call]  # Twisted's own
            factory = ControlFactory(self._reactor, self._commands, self._log)
            self._control = listen(self._reactor, self._settings.control, factory)
            self._listen_to_everybody()
            if self._metrics is not None:
                self._metrics.start()
            if self._console is not None:
                self._console.start(self._commands, self._guesses())
            self._hooks.start()
        except CannotListenError as error:
            _refuse(f"relayd: metrics: {error}")
        except SpoolError as error:
            _refuse(f"relayd: {error}")
        except ControlError as error:
            _refuse(f"relayd: {error}")
        except OSError as error:
            _refuse(f"relayd: {spool}: {error.strerror or error}")
        signal.signal(signal.SIGHUP, self._hang_up)
        self._reactor.callWhenRunning(_heed_once)  # Twisted's own handlers are there by then
        self._watch.start()
        self._refresher.start()
        self._serving = True
        self._keep()
        self._ready()
        gc.freeze()  # as in relayd.service.worker

    def _guesses(self) -> Guesses:
        """Counted with those over SMTP."""
        if isinstance(self._mover, Gateway):
            return self._mover.guesses
        assert self._supervisor is not None
        return Guesses(self._reactor.seconds, self._supervisor.guess_memory)

    def _listen_to_everybody(self) -> None:
        """For `mailq` of users; without it mail flows as well."""
        everybody = PublicQueue(self._commands)
        factory = ControlFactory(self._reactor, everybody, self._log, MOST_PUBLIC)
        try:
            path = public_path(self._settings.control)
            self._public = listen(self._reactor, path, factory, mode=0o666)
        except ControlError as error:
            self._log.trouble("mailq is for root only", why=str(error))

    def stopService(self) -> Deferred[None]:
        """Everything ends in good order; fires when it has."""
        return promise(self._stop())

    async def _stop(self) -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self._notices.stopping()
        self._watch.stop()
        self._refresher.stop()
        figures = self._metrics.ports() if self._metrics is not None else ()
        console: Sequence[IListeningPort] = ()
        if self._console is not None:
            console = self._console.ports()
            self._console.stop()
        for port in (self._control, self._public, *figures, *console):
            stopped = port.stopListening() if port is not None else None
            if isinstance(stopped, Deferred):
                await stopped
        self._hooks.stop()
        if self._live is not None:
            self._live.stop()
        await super().stopService()  # type: ignore[no-untyped-call]  # Twisted's own
        if self._recorder is not None:
            self._recorder.finish()
        self._lock.release()
        self._log.flush()

    def _hang_up(self, *_: object) -> None:
        """SIGHUP: read the configuration again, and open the log anew, which may be rotated.

        Twisted itself would die of it.
        """
        self._reactor.callFromThread(self._reload_now)

    def _reopen(self) -> None:
        self._log.flush()
        try:
            self._output.reopen()
        except OSError as error:
            self._log.trouble("log file", why=str(error))

    def _reload_now(self) -> None:
        self._reopen()
        self._notices.reloading()
        reloaded = self._reload()
        reloaded.addErrback(lambda why: self._log.trouble("reload", why=why.getErrorMessage()))
        reloaded.addBoth(lambda _: self._ready())

    def _ready(self) -> None:
        refused = self._configuration.refused
        last_good = refused is not None and refused.last_good is not None
        how = ", with the last good configuration: see relayctl status" if last_good else ""
        self._notices.ready(f"serving{how}")


def commands_of(
    gateway: Gateway,
    configuration: Configuration,
    log: MailLog,
    oauth: OauthDesk | None = None,
    limits: LimitsDesk | None = None,
    dkim: DkimDesk | None = None,
    tables: Refresher | None = None,
    backscatter: BackscatterDesk | None = None,
    tokens: TokensDesk | None = None,
    rules: RulesDesk | None = None,
    console: ConsoleService | None = None,
    hooks: HookService | None = None,
    output: Output | None = None,
    *,
    events: Events,
) -> OperatorCommands:
    """What operators can ask of one process that moves mail."""
    started, dates = time.time(), CertificateDates()
    return OperatorCommands(
        gateway.backends(),
        about=lambda: about(
            *(configuration, started, gateway.missing, dates, limits, tables, console, hooks),
            *(oauth, output, gateway.live),
        ),
        explain=gateway.explain,
        check=configuration.check,
        reload=configuration.reload,
        log=log,
        oauth=oauth,
        suspending=SuspendingDesk(
            gateway.suspensions,
            lambda: sorted(configuration.settings.ruleset.pacing.providers),
            lambda: sorted(configuration.settings.ruleset.next_hops),
            log,
            time.time,
        ),
        rerouting=ReroutingDesk(lambda: configuration.settings.ruleset, log, time.time),
        limits=limits,
        backscatter=backscatter,
        dkim=None if dkim is None else dkim.answer,
        tables=None if tables is None else TablesDesk(tables, log),
        tokens=tokens,
        rules=rules,
        events=events,
        said=configuration.said,
        filters=gateway.filters.view,
    )


def about(
    configuration: Configuration,
    started: float,
    missing: Mapping[ListenAddress, str],
    dates: CertificateDates,
    limits: LimitsDesk | None,
    tables: Refresher | None = None,
    console: ConsoleService | None = None,
    hooks: HookService | None = None,
    oauth: OauthDesk | None = None,
    output: Output | None = None,
    live: LiveDirectories | None = None,
) -> dict[str, object]:
    """What `relayctl status` tells of the process."""
    settings = configuration.settings
    return {
        "version": __version__,
        "pid": os.getpid(),
        "hostname": settings.hostname,
        "started": started,
        "config": str(settings.path or "(embedded default)"),
        "rules": settings.ruleset.hash,
        "workers": settings.workers,
        "restart": configuration.restart,
        "in_force_since": configuration.since,
        "refused": configuration.refused and asdict(configuration.refused),
        "warnings": [each.headline for each in settings.warnings],
        "not_listening": [
            *(f"{address}: {why}" for address, why in missing.items()),
            *(console.missing if console is not None else ()),
        ],
        "tables": [] if tables is None else tables.figures(),
        "logins": oauth.status() if oauth is not None else [],
        "log_dropped": output.lost if output is not None else 0,
        "hooks": hooks.status() if hooks is not None else [],
        **({} if live is None else {"live_tables": live.figures()}),
        "certificates": [
            {"file": str(each.file), "until": each.until, "trouble": each.trouble}
            for each in dates.of(settings.certificates)
        ],
        "limits": limits.reached() if limits is not None else [],
        "reports_kept": kept_back(KeptReports(settings.spool)),
    }
