"""Tells systemd how we are: ready, reloading, stopping, alive (sd_notify(3)); nothing elsewhere."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

Later = Callable[[float, Callable[[], None]], object]


class Notices:
    """Speaks to the socket that systemd named; without one it is silent.

    `later(seconds, function)` is the reactor's: while it runs, it feeds the watchdog, so that a
    process that hangs is replaced.
    """

    def __init__(self, environment: Mapping[str, str], later: Later) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._later = later
        self._pause = _watchdog(environment) / 2
        self._alive = False

    def ready(self, status: str = "") -> None:
        """We serve (again). The first time the watchdog begins to be fed."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={status}")
        if not self._alive and self._pause and self._address:
            self._alive = True
            self._feed()

    def reloading(self) -> None:
        """The configuration is read; ready() ends it."""
        # systemd compares it with its own clock, CLOCK_MONOTONIC
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """We end; how long that may take is for the unit to say."""
        self._send("STOPPING=1")

    def _feed(self) -> None:
        self._send("WATCHDOG=1")
        self._later(self._pause, self._feed)

    def _send(self, words: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaker:
                speaker.setblocking(False)  # a busy systemd must not stop the mail
                speaker.connect(self._address)
                speaker.send(words.encode())
        except OSError:
            return  # it will ask for us another way


def _watchdog(environment: Mapping[str, str]) -> float:
    """Seconds of silence that systemd forgives; 0: it does not watch us."""
    try:
        if int(environment.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return 0.0
        return int(environment.get("WATCHDOG_USEC", "0")) / 1e6
    except ValueError:
        return 0.0
