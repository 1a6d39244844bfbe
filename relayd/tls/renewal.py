"""Keeps the certificates of all listeners as the files have them, which change by themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relayd.mail.log import MailLog
from relayd.tls.files import CertificateFiles, open_key
from relayd.tls.pair import CertificateError, Pair, load
from relayd.tls.server import ServerTls
from relayd.tls.strength import DEFAULT_MINIMUM

LOOK = 3.0  # seconds between two looks: a renewed pair shows after at most two of them

Stamp = tuple[int, int, int]
Stamps = tuple[Stamp, ...]


class Certificates:
    """The pairs now in force, and the listeners that serve them."""

    def __init__(
        self,
        clock: IReactorTime,
        log: MailLog,
        *,
        wants_certificate: Callable[[], bool] = lambda: False,
    ) -> None:
        self._clock = clock
        self._log = log
        self._wants_certificate = wants_certificate
        self._wanted: tuple[CertificateFiles, ...] = ()
        self._minimum = DEFAULT_MINIMUM
        self._pairs: dict[CertificateFiles, Pair] = {}
        self._served: dict[str, ServerTls] = {}
        self._stamps: dict[CertificateFiles, Stamps] = {}  # of what was loaded, or tried
        self._seen: dict[CertificateFiles, Stamps] = {}  # at the last look
        self._timer: IDelayedCall | None = None

    def apply(self, wanted: Sequence[CertificateFiles], minimum: str) -> None:
        """New settings; a pair that cannot be loaded stays as it was, if it was there."""
        self._wanted = tuple(wanted)
        self._minimum = minimum
        self._pairs = {each: self._pairs[each] for each in wanted if each in self._pairs}
        for each in wanted:
            self._load(each, stamps(each))
        self._renew()

    def of(self, listener: str) -> ServerTls:
        """What this listener serves: always the same one; it may be (or become) not ready."""
        served = self._served.get(listener)
        if served is None:
            served = self._served[listener] = ServerTls(self._wants_certificate)
            self._replace(listener, served)
        return served

    def start(self) -> None:
        """Look at the files from now on."""
        self._timer = self._clock.callLater(LOOK, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = self._clock.callLater(LOOK, self._look)
        changed = False
        for each in self._wanted:
            now = stamps(each)
            # not while it is being written: certificate and key change one after the other
            if now != self._stamps.get(each) and now == self._seen.get(each):
                changed |= self._load(each, now)
            self._seen[each] = now
        if changed:
            self._renew()

    def _load(self, files: CertificateFiles, now: Stamps) -> bool:
        """Whether there is a pair anew. Trouble is said once for each state of the files."""
        if self._stamps.get(files) == now and files in self._pairs:
            return False
        self._stamps[files] = now
        try:
            pair = load(files)
        except CertificateError as error:
            kept = "the old one stays" if files in self._pairs else "not served"
            self._log.trouble("certificate", why=str(error), consequence=kept)
            return False
        # what the configuration names at a start or reload is looked at there
        if files in self._pairs and (why := open_key(files.key)):
            self._log.trouble("certificate", why=why, expected=f"chmod 640 {files.key}")
        self._pairs[files] = pair
        facts = {"file": str(files.certificate), "kind": pair.kind, "until": f"{pair.expires}Z"}
        if pair.expired:
            self._log.trouble("certificate expired", **facts)
        else:
            self._log.notice("certificate", **facts, sha256=pair.fingerprint)
        return True

    def _renew(self) -> None:
        for listener, served in self._served.items():
            self._replace(listener, served)

    def _replace(self, listener: str, served: ServerTls) -> None:
        try:
            served.replace(self._for(listener), self._minimum)
        except CertificateError as error:
            kept = "the old ones stay" if served.ready else "not served"
            self._log.trouble("certificate", why=str(error), consequence=kept, listener=listener)

    def _for(self, listener: str) -> Iterable[Pair]:
        """Those that name the listener, else those for every listener."""
        named = [each for each in self._wanted if listener in each.listeners]
        chosen = named or [each for each in self._wanted if not each.listeners]
        return [self._pairs[each] for each in chosen if each in self._pairs]


def stamps(files: CertificateFiles) -> Stamps:
    """Changes when one of the files does, also when another takes its place."""
    return (_stamp(files.certificate), _stamp(files.key))


def _stamp(path: Path) -> Stamp:
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_mtime_ns, status.st_ino, status.st_size)
