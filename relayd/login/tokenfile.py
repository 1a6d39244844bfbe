"""The tokens we hold, each login's in a file of its own that only relayd's user can read.

A file is replaced whole, and on the disk before anybody relies on it: a provider that rotates
refresh tokens gives each one once. Room for the new one is there before the provider is asked.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from dataclasses import dataclass, replace
from pathlib import Path

from relayd.login.oauth import MOST, GrantedTokens, Provider

MARGIN = 300.0  # seconds before the end in which a token is refreshed; of a short life, a quarter
_LAST = 30.0  # seconds that a token must be good for to be used at all; of a short life, a tenth
_SKEW = 60.0  # seconds that the clock may go back without a token becoming suspect
_SIZE = 2 * MOST


class TokenFileError(Exception):
    """A file cannot be read or written; the text says which and why, not what is in it."""


@dataclass(frozen=True, slots=True)
class Held:
    """What is in a file."""

    binding: tuple[str, ...]
    tokens: GrantedTokens
    trouble: str = ""  # why the last attempt to refresh failed
    trouble_at: float = 0.0

    def fits(self, provider: Provider) -> bool:
        """Whether it was given for these settings."""
        return list(self.binding) == provider.binding

    def usable(self, now: float) -> bool:
        """Whether the access token is good, as far as one can know."""
        tokens = self.tokens
        if not tokens.access or now < tokens.obtained_at - _SKEW:  # the clock was set back
            return False
        if tokens.expires_at is None:
            return True
        return now < tokens.expires_at - min(_LAST, self._lifetime / 10)

    def refresh_at(self, jitter: float) -> float | None:
        """When to get a new one; `jitter`, 0 to 1, spreads those who share the file."""
        if self.tokens.expires_at is None:
            return None
        margin = min(MARGIN, self._lifetime / 4)
        return self.tokens.expires_at - margin * (1 + jitter / 2)

    @property
    def _lifetime(self) -> float:
        tokens = self.tokens
        assert tokens.expires_at is not None
        return max(tokens.expires_at - tokens.obtained_at, 0.0)

    def troubled(self, why: str, now: float) -> Held:
        """The same, but refreshing it failed."""
        return replace(self, trouble=why, trouble_at=now)


def held(provider: Provider, tokens: GrantedTokens, before: Held | None = None) -> Held:
    """What to keep of an answer: without a new refresh token the old one stays good."""
    if not tokens.refresh and before is not None:
        tokens = replace(tokens, refresh=before.tokens.refresh)
    return Held(tuple(provider.binding), tokens)


class ReservedFile:
    """Room on the disk for one file: made before there is anything to put into it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._new = path.with_name(f".{path.name}.{os.getpid()}")
        self._new.unlink(missing_ok=True)
        self._file = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.posix_fallocate(self._file, 0, _SIZE)
        except OSError:
            self.leave()
            raise

    def fill(self, data: bytes) -> None:
        """Replace the file by this; returns when that is on the disk. Raises OSError."""
        left = memoryview(data)
        while left:
            left = left[os.write(self._file, left) :]
        os.ftruncate(self._file, len(data))
        os.fsync(self._file)
        self._new.replace(self._path)
        sync_folder(self._path.parent)

    def leave(self) -> None:
        """Nothing (more) to put in."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self._new.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """What was renamed or removed in it is so for good."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class TokenFiles:
    """The folder. Reading is cheap where nothing has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, tuple[tuple[int, int, int], Held]] = {}

    def read(self, name: str) -> Held | None:
        """What is held for a login; raises TokenFileError."""
        path = self._path(name)
        try:
            status = path.stat()
            mark = (status.st_ino, status.st_mtime_ns, status.st_size)
            known = self._known.get(name)
            if known is not None and known[0] == mark:
                return known[1]
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise TokenFileError(f"{path} is open to others; expected mode 0600")
            if status.st_size > _SIZE:
                raise TokenFileError(f"{path} is damaged")
            found = _parsed(path.read_bytes())
        except FileNotFoundError:
            self._known.pop(name, None)
            return None
        except OSError as error:
            raise TokenFileError(f"cannot read {path}: {error.strerror}") from None
        except (ValueError, TypeError, KeyError, RecursionError):
            raise TokenFileError(f"{path} is damaged") from None
        self._known[name] = mark, found
        return found

    def place(self, name: str) -> ReservedFile:
        """Room for a new file; raises TokenFileError."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return ReservedFile(self._path(name))
        except OSError as error:
            raise TokenFileError(f"no room in {self._folder}: {error.strerror}") from None

    def save(self, name: str, what: Held, place: ReservedFile | None = None) -> None:
        """Replace the file; raises TokenFileError."""
        place = place or self.place(name)
        try:
            place.fill(_written(what))
        except OSError as error:
            raise TokenFileError(f"cannot write {self._path(name)}: {error.strerror}") from None
        finally:
            place.leave()

    def remove(self, name: str) -> bool:
        """Whether there was one; raises TokenFileError."""
        try:
            self._path(name).unlink()
            sync_folder(self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise TokenFileError(f"cannot remove {self._path(name)}: {error.strerror}") from None
        return True

    def lock(self, name: str) -> int | None:
        """A descriptor that holds the login's lock, over all processes; None: another has it.

        Closing it, also by dying, gives it back. Raises TokenFileError.
        """
        path = self._folder / f"{name}.lock"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise TokenFileError(f"cannot open {path}: {error.strerror}") from None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        os.close(descriptor)
        return None

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.json"


def _written(what: Held) -> bytes:
    tokens = what.tokens
    document = {
        "binding": what.binding,
        "access_token": tokens.access,
        "refresh_token": tokens.refresh,
        "obtained_at": tokens.obtained_at,
        "expires_at": tokens.expires_at,
        "trouble": what.trouble,
        "trouble_at": what.trouble_at,
    }
    return json.dumps(document, indent=1).encode("ascii") + b"\n"


def _parsed(data: bytes) -> Held:
    found = json.loads(data)
    until = found["expires_at"]
    tokens = GrantedTokens(
        _text(found["access_token"]),
        _text(found["refresh_token"]),
        float(found["obtained_at"]),
        None if until is None else float(until),
    )
    binding = tuple(map(_text, found["binding"]))
    return Held(binding, tokens, _text(found["trouble"]), float(found["trouble_at"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
