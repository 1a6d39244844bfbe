"""The last good configuration: its texts beside the mail, for a start with a mistake on disk.

What is kept is what was in force: relayd.conf, the rules and the tables that they name, as far as
they are text files. No secret is kept: logins, keys, certificates and tables of users are read
from where they are, so that a password which was taken back stays so; databases, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from relayd import __version__
from relayd.config.texts import RememberedTexts
from relayd.spool.disk.content import sync_directory

NAME = "last-good"  # in the spool directory


class LastGoodError(Exception):
    """There is one, and it cannot be used."""


@dataclass(frozen=True)
class LastGood:
    """A configuration that was in force."""

    since: float  # when it was first put in force
    digest: str
    texts: RememberedTexts


def last_good(spool: Path, config: Path, owner: int) -> LastGood | None:
    """What was kept of this configuration, if anything was; raises LastGoodError.

    `owner`: the number of relayd's user. What somebody else has put there is not believed.
    """
    path = spool / NAME
    try:
        with _opened(path) as fd:
            _require_ours(fd, owner)
            with os.fdopen(fd, "rb", closefd=False) as file:
                head, _, packed = file.read().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LastGoodError(error.strerror or str(error)) from None
    try:
        said = json.loads(head)
        digest = str(said["sha256"])
        if sha256(packed).hexdigest() != digest:
            raise ValueError("it is torn")
        if said["config"] != str(config):
            return None
        if said["relayd"] != __version__:
            raise LastGoodError(f"it was kept by relayd {said['relayd']}, this is {__version__}")
        return LastGood(float(said["since"]), digest, RememberedTexts(packed))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise LastGoodError("it is damaged") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _require_ours(fd: int, owner: int) -> None:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise LastGoodError("it is no file")
    if found.st_uid != owner:
        raise LastGoodError("it belongs to another user")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise LastGoodError(f"it is open to others (mode {stat.S_IMODE(found.st_mode):04o})")


class LastGoodFile:
    """Keeps the texts of a configuration whenever one is put in force; called from a thread."""

    def __init__(self, spool: Path, config: Path) -> None:
        self._spool = spool
        self._config = config
        self._digest = ""  # of what is kept; empty: not known

    def keep(self, packed: bytes, since: float) -> None:
        """Write what differs from what is kept, whole or not at all; raises OSError."""
        digest = sha256(packed).hexdigest()
        if digest == (self._digest or self._found()):
            self._digest = digest
            return
        self._digest = ""
        head = {
            "relayd": __version__,
            "config": str(self._config),
            "since": since,
            "sha256": digest,
        }
        path = self._spool / NAME
        beside = path.with_name(f"{NAME}.new")
        beside.unlink(missing_ok=True)  # of a relayd that died over it
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(json.dumps(head).encode() + b"\n")
                file.write(packed)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
        sync_directory(self._spool)
        self._digest = digest

    def _found(self) -> str:
        try:
            found = last_good(self._spool, self._config, os.geteuid())
        except LastGoodError:
            return ""
        return "" if found is None else found.digest
