"""`hook`: who gathers events of messages in each process, and who posts them in one."""

from __future__ import annotations

from relayd.config import Settings
from relayd.ops.answers import HookStatusAnswer
from relayd.ops.hookqueue import HookQueue
from relayd.ops.hooks import PATIENCE, HookPoster, HookRecorder
from relayd.ops.maillog import LineLog
from relayd.reactor.lean import soon
from relayd.reactor.workerpipe import Reactor, in_thread
from relayd.relay.hosts import Hosts
from relayd.relay.https import Https
from relayd.service.configuration import Configuration
from relayd.service.gateway import local_names, resolver_of


def recorder_of(reactor: Reactor, configuration: Configuration, log: LineLog) -> HookRecorder:
    """Of a process that moves mail. Without a hook it hears nothing and opens nothing."""
    queue = HookQueue(configuration.settings.spool)
    recorder = HookRecorder(queue, log, soon(reactor), in_thread(reactor))
    configuration.keep_up(lambda settings: recorder.apply(settings.hooks))
    return recorder


class HookService:
    """The one process's that posts."""

    def __init__(self, reactor: Reactor, configuration: Configuration, log: LineLog) -> None:
        self._reactor = reactor
        self._configuration = configuration
        queue = HookQueue(configuration.settings.spool)
        self._poster = HookPoster(reactor, queue, in_thread(reactor), log)
        self._started = False

    def start(self) -> None:
        """Post; from now on, and with every new configuration."""
        self._configuration.keep_up(self._apply)

    def _apply(self, settings: Settings) -> None:
        if not (settings.hooks or self._started):
            return  # who has none opens nothing
        self._started = True
        resolver = resolver_of(self._reactor, settings)
        hosts = Hosts(resolver, local=local_names(self._reactor, settings))
        web = Https(self._reactor, hosts, authorities=settings.tls_authorities, patience=PATIENCE)
        self._poster.apply(settings.hooks, web.hand)

    def stop(self) -> None:
        """Post no more."""
        self._poster.stop()

    def status(self) -> list[HookStatusAnswer]:
        """Each hook and how its receiver is."""
        return self._poster.status()

    def figures(self) -> list[HookStatusAnswer]:
        """The same for `metrics`: a counter never begins at 0 that is to go on."""
        return self._poster.status(counted=True)
