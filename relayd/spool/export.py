"""A copy of a spool that nobody has open, in this format or an older one."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd.spool import formats
from relayd.spool.disk.content import os_trouble, sync_directory
from relayd.spool.disk.lock import Lock
from relayd.spool.disk.rights import rights_of
from relayd.spool.errors import SpoolError
from relayd.spool.sqlite import schema
from relayd.spool.sqlite.database import in_force

_CACHE = 16 << 20


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export has copied."""

    shards: int
    messages: int


def export(spool: Path, target: Path, wanted: int) -> Exported:
    """Copy all that waits, the ledger and what was set aside into `target`; raises SpoolError.

    `target` must not be there yet, or be empty. Its shards have the place that they have in
    the spool, and its owner; the spool stays as it is. Content files are linked where that is
    possible: nobody ever writes into one. Root makes the target, and does the rest as the
    spool's owner.
    """
    if not formats.OLDEST <= wanted <= formats.VERSION:
        raise SpoolError(
            f"there is no format {wanted}: this relayd knows {formats.OLDEST} to {formats.VERSION}"
        )
    try:
        if not spool.is_dir():
            raise SpoolError(f"there is no spool {spool}")
        owner = spool.stat()
        made = _made(target, owner)
        try:
            with rights_of(owner), _alone(spool):
                return _export(spool, target, wanted)
        except BaseException:
            if made:
                with contextlib.suppress(OSError):
                    target.rmdir()  # if there is nothing in it
            raise
    except sqlite3.Error as error:
        raise SpoolError(f"cannot read {spool}: {error}") from error
    except OSError as error:
        raise os_trouble(f"cannot write {error.filename or target}", error) from error


def _made(target: Path, owner: os.stat_result) -> bool:
    """The target is there, for the spool's owner; whether it was not before."""
    fresh = not target.is_dir()
    if fresh:
        target.mkdir(mode=0o700, parents=True)
    if os.geteuid() == 0:
        folder = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if not os.listdir(folder):  # noqa: PTH208 - of the descriptor
                os.fchown(folder, owner.st_uid, owner.st_gid)
        finally:
            os.close(folder)
    return fresh


@contextlib.contextmanager
def _alone(spool: Path) -> Iterator[None]:
    """No relayd has the spool or one of its shards; raises SpoolLocked."""
    with contextlib.ExitStack() as held:
        for path in (spool / "lock", *sorted(spool.glob("shard-*/lock"))):
            lock = Lock(path)
            lock.acquire()
            held.callback(lock.release)
        yield


def _export(spool: Path, target: Path, wanted: int) -> Exported:
    shards = [(shard, path) for shard in sorted(spool.glob("shard-*")) if (path := in_force(shard))]
    if not shards:
        raise SpoolError(f"there is no mail in {spool}")
    if any(target.iterdir()):
        raise SpoolError(f"{target} is not empty")
    messages = 0
    for shard, path in shards:
        copy = target / shard.name
        copy.mkdir(mode=0o700)
        for name in ("content", "damaged"):
            if (shard / name).is_dir():
                shutil.copytree(shard / name, copy / name, symlinks=True, copy_function=_link)
        messages += _copy_database(path, copy / path.name, wanted)
    _finish(target)
    return Exported(len(shards), messages)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


def _copy_database(path: Path, copy: Path, wanted: int) -> int:
    """Returns how many messages wait in it."""
    os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    with (
        contextlib.closing(schema.connect(path, cache=_CACHE)) as old,
        contextlib.closing(schema.connect(copy, cache=_CACHE)) as new,
    ):
        schema.refuse_newer(old)
        old.backup(new)
        formats.convert(new, wanted)
        schema.checkpoint(new, "TRUNCATE")
        count: int = new.execute("SELECT count(*) FROM message").fetchone()[0]
    return count


def _finish(target: Path) -> None:
    """All of it on the disk."""
    for folder, _, names in os.walk(target, topdown=False):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        sync_directory(Path(folder))
