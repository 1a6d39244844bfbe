"""Makes relayd's system calls fail, and its clock jump: a small library preloaded into it."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("shim.c")
_LAYOUT = struct.Struct("=iiiiq")  # struct control in shim.c

EIO, ENOSPC, EROFS = errno.EIO, errno.ENOSPC, errno.EROFS


def missing() -> str:
    """Why it cannot be used here; empty if it can."""
    return "" if shutil.which("gcc") else "gcc, to build the library that makes system calls fail"


class Shim:
    """One relayd's system calls, for files below `root`."""

    def __init__(self, folder: Path, root: Path) -> None:
        library = folder / "shim.so"
        subprocess.run(
            ["gcc", "-O1", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"],
            check=True,
        )
        control = folder / "shim.control"
        control.write_bytes(bytes(_LAYOUT.size))
        with control.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), _LAYOUT.size)
        self.environment = {
            "LD_PRELOAD": str(library),
            "SHIM_CONTROL": str(control),
            "SHIM_ROOT": os.path.realpath(root),
        }

    def set(
        self, *, write: int = 0, open_: int = 0, sync: int = 0, one_in: int = 1, clock: int = 0
    ) -> None:
        """Fail with these errors, one call in so many; run `clock` seconds ahead."""
        _LAYOUT.pack_into(self._memory, 0, write, open_, sync, one_in, clock)

    def clear(self) -> None:
        """All is well again."""
        self.set()
