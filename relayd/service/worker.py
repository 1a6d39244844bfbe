"""One worker process: the whole gateway around its own shard, on sockets the master has opened."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from relayd.config import ConfigErrors, Settings
from relayd.config.fixed import fixed_of
from relayd.config.texts import RememberedTexts
from relayd.intake.accepting import AcceptBalancer
from relayd.ops.control import ControlError, ControlFactory, listen
from relayd.ops.counting import Counting
from relayd.ops.following import Events
from relayd.ops.maillog import LineLog
from relayd.ops.output import Output
from relayd.ops.twistedlog import TwistedLog, take_last_words
from relayd.reactor.coroutine import log_bug, promise
from relayd.reactor.lean import own_reactor, soon
from relayd.reactor.workerpipe import Reactor, WorkerPipe
from relayd.service.app import commands_of, mail_log, prepare_process, read_settings
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration
from relayd.service.gateway import Gateway
from relayd.service.hooks import recorder_of
from relayd.service.supervisor import DRAIN, FIRST_SOCKET_FD, PIPE_FD, READY, Orders
from relayd.shared.counters import SharedCounters
from relayd.shared.meters import Meters
from relayd.shared.sessioncounts import SessionCounts
from relayd.spool.errors import SpoolError

reactor: Reactor = own_reactor()


def _in_force(read: Callable[..., Settings], texts: int) -> Settings:
    """What the master has in force, from the texts that it remembers, or else from disk.

    So a worker that takes the place of another one has the same rules, whatever the files say by
    now. Raises ConfigErrors.
    """
    try:
        return read(texts=RememberedTexts(os.pread(texts, os.fstat(texts).st_size, 0)))
    except (ConfigErrors, OSError, ValueError):  # a key is gone, or it is just being replaced
        return read()


class Worker:
    """The life of the process: start, serve, and stop when the master says so or is gone."""

    def __init__(self, orders: Orders, log: LineLog, output: Output) -> None:
        self._log = log
        read = partial(read_settings, orders.config, fixed_of(orders.fixed))
        memory = FIRST_SOCKET_FD + len(orders.listeners)
        session_counts = range(memory + 2, memory + 3 + orders.workers)
        settings = _in_force(read, memory + 3 + orders.workers)
        self._configuration = Configuration(settings, aside(reactor, read), log)
        counting = None
        if orders.counts:
            meters = Meters(memory + 4 + orders.workers, orders.workers + 1, orders.number)
            pacing = lambda: self._configuration.settings.ruleset.pacing  # noqa: E731
            counting = Counting(meters, pacing, reloads=False)
            log.taps += (counting,)
            output.counted = counting.log_dropped
        self._configuration.on_change(lambda _: output.reopen())  # it may have been rotated
        sockets = [
            socket.socket(fileno=FIRST_SOCKET_FD + number)
            for number in range(len(orders.listeners))
        ]
        for listening in sockets:
            listening.setblocking(False)
        self._gateway = Gateway(
            reactor,
            self._configuration,
            log,
            shards=orders.shards,
            sockets=sockets,
            sessions=SharedCounters(memory, orders.workers, orders.number),
            guess_memory=memory + 1,
            accept_balancer=AcceptBalancer(reactor, SessionCounts(session_counts, orders.number)),
            workers=orders.workers,
            counting=counting,
        )
        self._hooks = recorder_of(reactor, self._configuration, log)
        self._output = output
        self._orders = orders
        self._stopping = False

    def start(self) -> None:
        """Serve."""
        self._gateway.startService()
        events = Events(reactor, self._log, soon(reactor))
        commands = commands_of(
            *(self._gateway, self._configuration, self._log), output=self._output, events=events
        )
        factory = ControlFactory(reactor, commands, self._log)
        listen(reactor, Path(self._orders.control), factory)
        pipe = WorkerPipe(
            reactor,
            socket.socket(fileno=PIPE_FD),
            self._heard,
            self._stop,
        )
        pipe.send(READY)
        gc.freeze()  # what was made at the start lives for ever: no need to look at it again

    def _heard(self, words: bytes) -> None:
        if DRAIN in words:
            promise(self._gateway.drain()).addBoth(self._stop)

    def _stop(self, _: object = None) -> None:
        if not self._stopping:
            self._stopping = True
            stopped = self._gateway.stopService()
            stopped.addErrback(self._bug)
            stopped.addBoth(self._end)

    def _bug(self, failure: Failure) -> None:
        log_bug(self._log, "bug while stopping", failure)

    def _end(self, _: object) -> None:
        self._hooks.finish()
        self._log.flush()
        reactor.stop()


def main() -> None:
    """Run one worker, as ordered on the command line."""
    orders = Orders.parse(sys.argv[1])
    prepare_process(reactor)
    reactor.send_together()
    output = Output(Path(orders.log) if orders.log else None)
    log = mail_log(reactor, output)
    output.start()
    # the master says when to stop: a Ctrl-C that reaches the whole group is its business
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    globalLogBeginner.beginLoggingTo([TwistedLog(log.line, output.write)])
    take_last_words(log.line, output.write)
    try:
        worker = Worker(orders, log, output)
        worker.start()
    except (ConfigErrors, SpoolError, ControlError, OSError) as error:
        log.trouble("worker not started", worker=orders.number, why=error)
        raise SystemExit(1) from None
    reactor.run(installSignalHandlers=False)


if __name__ == "__main__":
    main()
