"""The drop folder from the outside: where it is, who we are, and how a message gets into it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import re
import time
from dataclasses import dataclass

CONFIG = "/etc/relayd/relayd.conf"
MAILNAME = "/etc/mailname"
SPOOL = "/var/spool/relayd"

OVER_QUOTA = "drop-over-quota"  # in the spool: relayd names those who have left too much

_SETTING = re.compile(
    r"^(spool|hostname|message-size|header-size|free-space)"
    r'(?:[ \t]+postgresql[ \t]+"[^"\n]*"[ \t]+folder)?'
    r'[ \t]+"?([^\s#"]+)"?[ \t]*(?:#.*)?$',
    re.MULTILINE,
)
_SIZE = re.compile(r"([0-9]{1,15})(B|kB|MB|GB|KiB|MiB|GiB)?\Z", re.IGNORECASE)
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30}
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(?:\.{_LABEL})*\Z")
_USER = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*\Z")
_TRACE = 4096  # octets of a header section that relayd adds itself


@dataclass(frozen=True)
class Site:
    """Which host and which user we are, and what he may leave."""

    folder: str  # the drop folder
    domain: str  # of addresses without one
    user: str
    name: str
    message_size: int = 50 << 20  # octets of a message, as are the others
    header_size: int = 1 << 20
    free_space: int = 100 << 20

    @classmethod
    def here(cls) -> Site:
        """As the configuration and the system say."""
        settings = dict(_SETTING.findall(_read(CONFIG)))
        # Debian policy 11.6: the domain of mail from here
        names = [_read(MAILNAME).strip(), settings.get("hostname", ""), os.uname().nodename]
        domain = next((each for each in names if _DOMAIN.match(each)), "localhost")
        user, name = f"uid-{os.getuid()}", ""
        try:
            entry = pwd.getpwuid(os.getuid())
        except KeyError:
            pass
        else:
            name = entry.pw_gecos.split(",")[0]
            if _USER.match(entry.pw_name):  # a directory's DOMAIN\user is no local part
                user = entry.pw_name
        # as everything in it, the spool is named from where the configuration is
        spool = os.path.join(os.path.dirname(CONFIG), settings.get("spool", SPOOL))  # noqa: PTH118, PTH120 - as below
        return cls(
            f"{spool}/drop",
            domain,
            user,
            name,
            _octets(settings.get("message-size", ""), cls.message_size),
            _octets(settings.get("header-size", ""), cls.header_size),
            _octets(settings.get("free-space", ""), cls.free_space),
        )

    def qualified(self, address: str) -> str:
        """The address with our domain if it has none."""
        return address if "@" in address else f"{address}@{self.domain}"

    @property
    def section(self) -> int:
        """Octets that a header section may have, with what is added to it here."""
        return self.header_size - _TRACE

    def refusal(self) -> str:
        """Why this user may leave nothing for now, in words; empty if he may.

        Nobody may list the folder, so relayd tells who has left too much. The last of the disk,
        twice `free-space`, is not for local users, so that they cannot stop mail for others.
        """
        if os.getuid() == 0:
            return ""
        spool = os.path.dirname(self.folder)  # noqa: PTH120 - as above
        over = _read(f"{spool}/{OVER_QUOTA}")
        if str(os.getuid()) in over.split():
            return "too much of your mail waits already (drop-files and drop-size, relayd.conf(5))"
        disk = os.statvfs(spool)
        shared = os.stat(self.folder).st_dev == os.stat(spool).st_dev  # noqa: PTH116 - as above
        if shared and disk.f_bavail * disk.f_frsize < 2 * self.free_space:
            return "the disk is nearly full (less than twice free-space, relayd.conf(5))"
        return ""


def _octets(text: str, default: int) -> int:
    found = _SIZE.match(text)
    return int(found[1]) * _UNITS[(found[2] or "").lower()] if found else default


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
        # as long as somebody holds it, relayd removes it for nothing, however old it is
        with contextlib.suppress(OSError):
            fcntl.flock(self._file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        with contextlib.suppress(OSError):  # what it still holds may find no room
            self._file.close()
        if self._writing:
            os.unlink(self._writing)  # noqa: PTH108 - as above
            self._writing = ""
