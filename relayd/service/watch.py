"""Notices that configuration or table files have changed, and asks for them to be read again."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.config import Settings
from relayd.mail.log import MailLog

Look = tuple[tuple[str, int, int, int], ...]
"""Files as they were seen: path, inode, octets, time of change; -1s: not there."""

WHEN_OFF = 5.0  # seconds between two looks at whether a reload has switched it on
MOST_NAMED = 5  # files in a log line


def look(files: Iterable[Path], patterns: Iterable[str]) -> Look:
    """How these files are now, and those that the patterns of `include` find."""
    paths = {str(path) for path in files}
    for pattern in patterns:
        paths.update(glob.glob(pattern))  # noqa: PTH207 - as the configuration does
    return tuple(map(_seen, sorted(paths)))


def _seen(path: str) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - thousands of files, every few seconds
    except OSError:
        return path, -1, -1, -1
    return path, found.st_ino, found.st_size, found.st_mtime_ns


class ConfigurationWatch:
    """Looks every `watch` seconds; a change is taken up when two looks have found the same.

    `aside` runs a look where no session waits for it: it may be one at thousands of files.

    So a file is not read while somebody still writes it. What was refused is not tried again
    before it has changed once more: it is one complaint in the log, not one every few seconds.
    """

    def __init__(
        self,
        reactor: IReactorTime,
        settings: Callable[[], Settings],
        reload: Callable[[], Deferred[str]],
        log: MailLog,
        aside: Callable[[Callable[[], Look]], Deferred[Look]],
    ) -> None:
        self._reactor = reactor
        self._aside = aside
        self._settings = settings
        self._reload = reload
        self._log = log
        self._known: Look = ()  # as last taken up, or refused
        self._last: Look = ()
        self._call: IDelayedCall | None = None
        self._running = False

    def start(self) -> None:
        """From now on."""
        self._running = True
        if self._settings().watch:
            self._look(self._begun)
        else:
            self._later()

    def stop(self) -> None:
        """No more."""
        self._running = False
        if self._call is not None and self._call.active():
            self._call.cancel()
        self._call = None

    def _later(self) -> None:
        if self._running:
            self._call = self._reactor.callLater(self._settings().watch or WHEN_OFF, self._step)

    def _looker(self) -> Callable[[], Look]:
        settings = self._settings()
        return partial(look, settings.files, settings.patterns)

    def _step(self) -> None:
        self._call = None
        if not self._settings().watch:  # thousands of files are not looked at for nothing
            self._known = self._last = ()
            self._later()
            return
        self._look(self._looked)

    def _look(self, then: Callable[[Look], None]) -> None:
        """Look, and go on; whatever is wrong, there is a next time."""
        looked = self._aside(self._looker()).addCallback(then)
        looked.addErrback(self._failed)

    def _begun(self, now: Look) -> None:
        self._known = self._last = now
        self._later()

    def _failed(self, why: Failure) -> None:
        self._log.trouble("watch", why=why.getErrorMessage())
        self._later()

    def _looked(self, now: Look) -> None:
        settled, self._last = now == self._last, now
        if now == self._known or not settled or not self._running:
            self._later()
            return
        known, self._known = self._known, now
        if known:  # else it was off, and nobody knows what has changed since they were read
            changed = sorted({path for path, *_ in set(now) ^ set(known)})
            self._log.notice("files changed", files=" ".join(changed[:MOST_NAMED]))
        reloaded = self._reload()
        reloaded.addErrback(lambda why: self._log.trouble("reload", why=why.getErrorMessage()))
        reloaded.addBoth(lambda _: self._look(self._reloaded))

    def _reloaded(self, now: Look) -> None:
        """Other files may count now. What has changed while it was read is still to be found."""
        known = {each[0]: each for each in self._known}
        self._known = self._last = tuple(known.get(each[0], each) for each in now)
        self._later()
