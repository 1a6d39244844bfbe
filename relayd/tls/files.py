"""Which certificate stands in which files, and for whom: one `certificate` statement."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate chain and its key, both PEM, read again whenever they change."""

    certificate: Path
    key: Path
    names: tuple[str, ...] = ()  # server names (SNI), folded, "*.example.com" too; empty: any
    listeners: tuple[str, ...] = ()  # as "0.0.0.0:465"; empty: every listener

    def __str__(self) -> str:
        """The statement that names it."""
        words = f"certificate {self.certificate} key {self.key}"
        words += f" for {', '.join(self.names)}" if self.names else ""
        return words + (f" on {', '.join(self.listeners)}" if self.listeners else "")


def open_key(key: Path) -> str:
    """What is wrong with the mode of a private key's file, if others may open it; else empty."""
    try:
        mode = stat.S_IMODE(key.stat().st_mode)
    except OSError:
        return ""  # who reads it says so
    if not mode & stat.S_IRWXO:
        return ""
    return f"the private key {key} is open to every user of this machine (mode {mode:04o})"
