"""The drop folder from the outside: where it is, who we are, and how a message gets into it."""

from __future__ import annotations

import json
import os
import pwd
import re
import time
from dataclasses import dataclass

CONFIG = "/etc/relayd/relayd.conf"
MAILNAME = "/etc/mailname"
SPOOL = "/var/spool/relayd"

_SETTING = re.compile(r'^(spool|hostname)[ \t]+"?([^\s#"]+)"?[ \t]*(?:#.*)?$', re.MULTILINE)


@dataclass(frozen=True)
class Site:
    """Which host and which user we are."""

    folder: str  # the drop folder
    domain: str  # of addresses without one
    user: str
    name: str

    @classmethod
    def here(cls) -> Site:
        """As the configuration and the system say."""
        settings = dict(_SETTING.findall(_read(CONFIG)))
        # Debian policy 11.6: the domain of mail from here
        domain = _read(MAILNAME).strip() or settings.get("hostname", "")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", domain):
            domain = os.uname().nodename
        try:
            entry = pwd.getpwuid(os.getuid())
            user, name = entry.pw_name, entry.pw_gecos.split(",")[0]
        except KeyError:
            user, name = f"uid-{os.getuid()}", ""
        return cls(f"{settings.get('spool', SPOOL)}/drop", domain, user, name)

    def qualified(self, address: str) -> str:
        """The address with our domain if it has none."""
        return address if "@" in address else f"{address}@{self.domain}"


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib takes half of the start time
            return file.read(1 << 20)
    except OSError:
        return ""


class Drop:
    """One file in the drop folder: an envelope as a line of JSON, and the content behind it."""

    def __init__(self, folder: str, slip: dict[str, object]) -> None:
        # nobody can list the folder, and nobody can guess the name
        self._stem = f"{folder}/{time.time_ns():x}-{os.urandom(12).hex()}"
        self._writing = self._stem + ".part"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._writing, flags, 0o640), "wb")
        os.fchmod(self._file.fileno(), 0o640)  # whatever the umask: relayd's group is to read it
        self.write(json.dumps(slip).encode() + b"\n")

    def write(self, data: bytes) -> None:
        """More of it."""
        self._file.write(data)

    def commit(self) -> None:
        """When this returns, the message survives a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())
        os.rename(self._writing, self._stem + ".mail")  # noqa: PTH104 - as above
        self._writing = ""
        # the folder itself, which we may not open, cannot be synced; but a file's new name is on
        # disk when the file is (ext4, XFS and btrfs write the rename with it)
        os.fsync(self._file.fileno())

    def rollback(self) -> None:
        """Without commit() it never was."""
        self._file.close()
        if self._writing:
            os.unlink(self._writing)  # noqa: PTH108 - as above
            self._writing = ""
