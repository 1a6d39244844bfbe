"""`metrics`: what is counted in all processes, and where it is fetched."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

from twisted.internet.interfaces import IListeningPort

from relayd import __version__
from relayd.config import Settings
from relayd.config.values import MetricsPlace
from relayd.ops.answers import FiguresAnswer, HookStatusAnswer
from relayd.ops.control import listen
from relayd.ops.counting import Counting
from relayd.ops.maillog import LineLog
from relayd.ops.metricsport import MetricsFactory
from relayd.ops.openmetrics import gauges_of, hook_figures, label_value, text_of_metrics
from relayd.reactor.workerpipe import Reactor
from relayd.service.configuration import Configuration
from relayd.shared.meters import Meters, shared_meters
from relayd.tls.dates import CertificateDates

SOCKET_MODE = 0o660


class Metrics:
    """The meters of this process and of its workers, and the ports that show them."""

    def __init__(
        self,
        reactor: Reactor,
        configuration: Configuration,
        log: LineLog,
        figures: Callable[[], Awaitable[FiguresAnswer]],
        about: Callable[[], Mapping[str, object]] = dict,
        hooks: Callable[[], Sequence[HookStatusAnswer]] = tuple,
    ) -> None:
        """`figures`: of all processes; `about`: of the workers, `hooks`: as `status` has them."""
        settings = configuration.settings
        workers = settings.workers if settings.workers > 1 else 0
        self.descriptor = shared_meters(workers + 1)
        self._meters = Meters(self.descriptor, workers + 1, workers)
        self.counting = Counting(self._meters, lambda: configuration.settings.ruleset.pacing)
        log.taps += (self.counting,)
        self._reactor = reactor
        self._configuration = configuration
        self._log = log
        self._figures = figures
        self._about = about
        self._hooks = hooks
        self._certificates = CertificateDates()
        self._started = time.time()
        self._ports: list[IListeningPort] = []

    def start(self) -> None:
        """Listen; raises what listening raises (CannotListenError, ControlError)."""
        factory = MetricsFactory(self._reactor, self.text, self._log)
        for place in self._configuration.settings.metrics:
            self._ports.append(self._listen(place, factory))

    def _listen(self, place: MetricsPlace, factory: MetricsFactory) -> IListeningPort:
        if place.path is not None:
            return listen(self._reactor, place.path, factory, mode=SOCKET_MODE)
        port: IListeningPort = self._reactor.listenTCP(place.port, factory, interface=place.host)
        return port

    def sums(self) -> dict[str, float]:
        """What has been counted, by name, over all processes."""
        return self._meters.sums()

    def ports(self) -> Sequence[IListeningPort]:
        """To be stopped at the end."""
        return self._ports

    async def text(self, openmetrics: bool) -> str:
        """All figures."""
        now = time.time()
        gauges = gauges_of(await self._figures(), now)
        configuration = self._configuration
        settings: Settings = configuration.settings
        gauges["relayd_disk_free_bytes"] = float(_free(settings.spool))
        gauges["relayd_configuration_refused"] = float(configuration.refused is not None)
        gauges["relayd_configuration_time_seconds"] = round(configuration.since, 3)
        gauges[f'relayd_rules_info{{rules="{settings.ruleset.hash}"}}'] = 1.0
        for each in self._certificates.of(settings.certificates):
            if each.until:
                label = label_value(str(each.file))
                gauges[f'relayd_certificate_expiry_seconds{{file="{label}"}}'] = each.until
        gauges |= hook_figures(self._hooks(), now)
        about = self._about()
        gauges["relayd_workers"] = float(settings.workers)
        gauges["relayd_workers_ready"] = float(str(about.get("workers_ready", settings.workers)))
        gauges["relayd_start_time_seconds"] = round(self._started, 3)
        gauges[f'relayd_build_info{{version="{__version__}"}}'] = 1.0
        return text_of_metrics(self._meters.sums(), gauges, openmetrics=openmetrics)


def _free(spool: Path) -> int:
    try:
        found = os.statvfs(spool)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize
