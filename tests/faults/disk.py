"""A disk to be broken: an ext4 in a loop file, small, and its power can be cut."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import os
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CLONE_NEWNS = 0x00020000
_SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
_WITHOUT_FLUSHING_THE_LOG = 2  # EXT4_GOING_FLAGS_NOLOGFLUSH: as if the power were cut


def missing() -> str:
    """Why no disk can be made here; empty if it can."""
    if os.geteuid() != 0:
        return "root, to mount disks"
    if not Path("/dev/loop-control").exists():
        return "loop devices"
    return ""


@functools.cache
def _mounts_of_our_own() -> None:
    """Make a mount namespace for this thread, and what is started from now on.

    Somebody else's namespace, made as a copy while our disk is mounted, would hold on to the disk
    after its power was cut: what we then mount again would be the same, dead file system.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    _run("mount", "--make-rprivate", "/")


class Disk:
    """An ext4 in a file, mounted in a folder."""

    def __init__(self, folder: Path, megabytes: int, *, inodes: int = 0) -> None:
        self.image = folder / "disk.img"
        self.mounted_at = folder / "disk"
        self.mounted_at.mkdir()
        with self.image.open("wb") as file:
            file.truncate(megabytes << 20)
        count = ["-N", str(inodes)] if inodes else []
        _run("mkfs.ext4", "-q", "-F", *count, str(self.image))

    def mount(self, *options: str) -> None:
        """Make it available; replays its log."""
        _run("mount", "-o", ",".join(["loop", *options]), str(self.image), str(self.mounted_at))

    def unmount(self) -> None:
        """Take it away; its users have been killed, and may take a moment to be gone."""
        until = time.monotonic() + 60
        while True:
            try:
                return _run("umount", str(self.mounted_at))
            except AssertionError as error:
                if "busy" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def cut_power(self) -> None:
        """What is not on the platter by now never gets there; every access fails from now on."""
        fd = os.open(self.mounted_at, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _WITHOUT_FLUSHING_THE_LOG))
        finally:
            os.close(fd)

    def fill(self) -> Path:
        """Use up all space with a file; to be removed by the caller."""
        path = self.mounted_at / "ballast"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        try:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        end = os.fstat(fd).st_size
                        os.posix_fallocate(fd, end, size)
        finally:
            os.close(fd)
        return path

    def use_up_inodes(self) -> Path:
        """Make files until there can be no more; to be removed by the caller."""
        folder = self.mounted_at / "many"
        folder.mkdir()
        with contextlib.suppress(OSError):
            number = 0
            while True:
                (folder / str(number)).touch()
                number += 1
        return folder


@contextmanager
def disk(folder: Path, megabytes: int, *, inodes: int = 0) -> Iterator[Disk]:
    """A mounted disk; unmounted at the end, whatever is open on it."""
    _mounts_of_our_own()
    made = Disk(folder, megabytes, inodes=inodes)
    made.mount()
    try:
        yield made
    finally:
        subprocess.run(["umount", "-l", str(made.mounted_at)], capture_output=True)


def _run(*command: str) -> None:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
