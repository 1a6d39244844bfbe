"""The reactor's turn without what nobody here needs of Twisted's.

`twisted.python.log.callWithLogger` sets up a context for each readable socket, so that Twisted's
own log could say whose event it was. A session has some ten of them, and it cost a tenth of the
CPU of a message. What is to be done at the turn's end is no timer, and needs none's place among
them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from select import EPOLLIN
from socket import AF_INET, AF_INET6, AddressFamily
from time import monotonic
from typing import Any, Protocol, cast

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import UnsupportedAddressFamily
from twisted.internet.interfaces import IListeningPort
from twisted.internet.main import CONNECTION_LOST, installReactor
from twisted.internet.protocol import BaseProtocol, Factory
from twisted.internet.tcp import Connection

from relayd.reactor.accept import DONE, MOST_UNENDED, LeanPort, tell

_FOR_EVER = -1


class Leaving(Protocol):
    """Something to be sent at a turn's end."""

    def flush(self) -> None:
        """Send it; raises nothing."""


class LeanReactor(EPollReactor):
    """Twisted's epoll reactor, but that it calls what an event is for straight away."""

    leaving: list[Leaving] | None = None  # what goes at the turn's end; None: all goes at once
    turn_began = 0.0  # by time.monotonic; 0: it waits for events
    long_turn: tuple[float, Callable[[float], None]] | None = None  # seconds; who hears of longer

    def __init__(self) -> None:
        self._soon: list[tuple[Callable[..., object], tuple[object, ...]]] = []
        self.ending: list[object] = [None] * MOST_UNENDED  # room that needs no memory any more
        self.unended = 0  # of them
        super().__init__()  # type: ignore[no-untyped-call]

    def call_soon(self, function: Callable[..., object], *args: object) -> None:
        """Call it when the events of this turn were seen to, and its timers; in order.

        It may ask for more, which has its turn at once: nothing that goes on for ever.
        """
        self._soon.append((function, args))

    def adoptStreamPort(self, fd: int, family: AddressFamily, factory: Factory) -> IListeningPort:
        """Serve a socket that listens (see relayd.reactor.accept)."""
        if family not in (AF_INET, AF_INET6):
            raise UnsupportedAddressFamily(family)
        kind: Any = LeanPort  # Twisted has no types for it
        port: IListeningPort = kind._fromListeningDescriptor(self, fd, family, factory)
        port.startListening()
        return port

    def wakeUp(self) -> None:
        """From any thread, or a handler of signals: the turn begins, if it has not."""
        waker: Any = self.waker
        if waker:
            try:
                os.write(waker.o, b"x")
            except (BlockingIOError, MemoryError):
                return  # there is something to read for it, or no memory to say so

    def runUntilCurrent(self) -> None:
        """What other threads want, timers that are due, and what is to be done soon."""
        queue: Any = self.threadCallQueue
        for _ in range(len(queue)):  # with what is added meanwhile in the next turn
            # forgotten first: Twisted's calls all of them again, where there is no memory to tell
            # of one that broke
            function, args, named = queue.pop(0)
            try:
                function(*args, **named)
            except Exception:
                tell()
        if queue:
            self.wakeUp()
        super().runUntilCurrent()
        soon = self._soon
        if soon:
            try:
                for function, args in soon:  # with what is added meanwhile
                    try:
                        function(*args)
                    except Exception:
                        tell()
            finally:
                soon.clear()

    def send_together(self) -> None:
        """What is written in a turn shall leave at its end.

        For one of several workers, when every core has work: a peer that is woken by each reply
        takes the core from who sent it, and comes back with one command instead of many. Where
        the peer has a core for itself it had better begin at once.
        """
        self.leaving = []

    def doPoll(self, timeout: float | None) -> None:
        """Wait up to so many seconds (None: for ever) for events, and see to each of them."""
        if self.leaving:
            try:
                for each in self.leaving:
                    try:
                        each.flush()
                    except Exception:
                        tell()
            finally:
                self.leaving.clear()  # the list is known to those who put themselves there
        if self.unended:
            self._end_the_broken()
        if self.long_turn is not None and self.turn_began:
            limit, hears = self.long_turn
            try:
                if (took := monotonic() - self.turn_began) > limit:
                    hears(took)
            except Exception:
                tell()
        reactor: Any = self  # Twisted has no types for its insides
        selectables = reactor._selectables
        self.turn_began = 0.0
        events = reactor._poller.poll(_FOR_EVER if timeout is None else timeout, len(selectables))
        self.turn_began = monotonic()
        for fd, event in events:
            selectable = selectables.get(fd)  # None: it went while others had their turn
            if selectable is None:
                continue
            try:
                if event != EPOLLIN:
                    reactor._doReadOrWrite(selectable, fd, event)
                    continue
                try:
                    over = selectable.doRead()
                except Exception as error:
                    tell()
                    over = None if self._stays(selectable, error) else error
                if over:
                    reactor._disconnectSelectable(selectable, over, True)
            except Exception:
                # to end it broke, too: once more in the next turn. Nothing is called or made here
                count = self.unended
                if count < MOST_UNENDED:
                    self.ending[count] = selectable
                    self.unended = count + 1
                tell()

    doIteration = doPoll

    def mainLoop(self) -> None:
        """Turn after turn until it is stopped: it does not end for want of memory.

        Twisted's ends where it finds none to say what went wrong, and leaves a process behind
        that waits for its threads for ever: it serves nobody, and nobody starts another.
        """
        while self._started:
            # Python says SystemError where it found no memory for a MemoryError; no `suppress`,
            # for there may be none for that either
            try:  # noqa: SIM105
                super().mainLoop()
            except Exception:
                pass

    def _add(
        self,
        xer: Any,  # noqa: ANN401 - likewise
        primary: set[int],
        other: set[int],
        selectables: dict[int, object],
        event: int,
        antievent: int,
    ) -> None:
        """Watch a descriptor, or leave no trace of it.

        Twisted's notes that it is watched before it notes whose it is. Where there is no memory
        for that its number stays behind, and nobody hears what comes to the next who gets it.
        """
        fd = xer.fileno()
        if fd in primary:
            return
        known = fd in other
        poller: Any = self._poller
        try:
            primary.add(fd)
            selectables[fd] = xer
            if known:
                poller.modify(fd, event | antievent)
            else:
                poller.register(fd, event)
        except BaseException:
            primary.discard(fd)
            if not known:
                selectables.pop(fd, None)
            raise

    def _end_the_broken(self) -> None:
        """Connections that could not be ended when they broke; else their peers wait in vain."""
        reactor: Any = self
        while self.unended:
            try:
                broken = self.ending[self.unended - 1]
                if isinstance(broken, Connection):
                    reactor._disconnectSelectable(broken, CONNECTION_LOST, False)
                elif isinstance(broken, BaseProtocol):
                    cast("Any", broken).connectionLost(DONE)  # it never had a transport
            except (MemoryError, SystemError):
                tell()
                return  # in the next turn
            except Exception:
                tell()
            self.unended -= 1
            self.ending[self.unended] = None

    def _stays(self, selectable: object, error: Exception) -> bool:
        """Who waits at a door, or has woken us, still does in the next turn: for want of memory
        neither is closed. A connection is: nobody knows what of its input was seen to.
        """
        if not isinstance(error, (MemoryError, SystemError)):
            return False
        return selectable is self.waker or IListeningPort.providedBy(selectable)


def soon(reactor: Any) -> Callable[..., object]:  # noqa: ANN401 - as below
    """What calls a function at the turn's end: ours, or a timer of a reactor that is not."""
    return getattr(reactor, "call_soon", None) or partial(reactor.callLater, 0)


def own_reactor() -> Any:  # noqa: ANN401 - it is more than one interface
    """The reactor of this process: ours, unless somebody (`twistd --reactor`) chose another."""
    if "twisted.internet.reactor" not in sys.modules:
        installReactor(LeanReactor())  # type: ignore[no-untyped-call]  # Twisted's own
    from twisted.internet import reactor

    return reactor
