"""The users file: one `name:credentials` a line, and how it is changed without a moment's gap.

    # seed: 4fJ0...                        makes up salts for names that do not exist
    alice@example.com:SCRAM-SHA-256$100000:SALT$STOREDKEY:SERVERKEY

The credentials are those of RFC 5803 (as PostgreSQL and others write them): salt and keys in
base64. Names are compared without regard to case. Behind the credentials may stand what the name
may do at the console, and its secret for one-time codes: ` role=operator totp=JBSWY3DP...`.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import functools
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from relayd.login.mechanisms import MAX_NAME, folded
from relayd.login.roles import ROLES, Role
from relayd.login.saslprep import PrepareError
from relayd.login.scram import ITERATIONS, MAX_ITERATIONS, MECHANISM, SALT, Verifier
from relayd.login.totp import secret_of, secret_text

_SEED = "# seed: "
_CREDENTIALS = re.compile(
    r"SCRAM-SHA-256\$([1-9][0-9]{0,9}):([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+):([A-Za-z0-9+/=]+)\Z"
)


class UsersError(ValueError):
    """A line cannot be understood; it never shows credentials."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(what)
        self.line = line


@dataclass(frozen=True, slots=True)
class Seat:
    """What a login may do at the console."""

    role: Role
    totp: bytes = field(default=b"", repr=False)  # the secret of its codes; empty: none is asked


@dataclass(frozen=True)
class Users:
    """A snapshot of a users file."""

    verifiers: Mapping[str, Verifier] = field(default_factory=dict)  # by folded name
    seed: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    seats: Mapping[str, Seat] = field(default_factory=dict)  # of those that have one

    def verifier(self, name: str) -> Verifier:
        """Of this (folded) name. One who does not exist gets one that nothing fits.

        It is always the same and costs the same, so nobody learns who has an account here.
        """
        found = self.verifiers.get(name)
        if found is not None:
            return found
        made = hmac.digest(self.seed, name.encode(), "sha512")
        return Verifier(
            made[:SALT], self.usual_iterations, made[32:], hashlib.sha256(made).digest()
        )

    @functools.cached_property
    def usual_iterations(self) -> int:
        """What most of them have."""
        counts = Counter(each.iterations for each in self.verifiers.values())
        return counts.most_common(1)[0][0] if counts else ITERATIONS

    def accepts(self, name: str, password: str) -> bool:
        """Whether this is the (folded) name's password. Takes its time: call it in a thread."""
        right = self.verifier(name).accepts(password)
        return right and name in self.verifiers


def parse(lines: Iterable[str]) -> tuple[Users, list[UsersError]]:
    """What the lines hold, and every line that is wrong."""
    verifiers: dict[str, Verifier] = {}
    seats: dict[str, Seat] = {}
    problems: list[UsersError] = []
    seed = b""
    for number, line in enumerate(lines, 1):
        text = line.rstrip("\r\n")
        if text.startswith(_SEED):
            with contextlib.suppress(binascii.Error, ValueError):
                seed = base64.b64decode(text.removeprefix(_SEED).strip(), validate=True)
            continue
        if not text.strip() or text.startswith("#"):
            continue
        try:
            name, verifier, seat = _entry(text, number)
            if name in verifiers:
                raise UsersError(number, f"{name} has an entry already")
            verifiers[name] = verifier
            if seat is not None:
                seats[name] = seat
        except UsersError as error:
            problems.append(error)
    seed = seed if len(seed) >= 16 else secrets.token_bytes(32)
    return Users(verifiers, seed, seats), problems


def _entry(text: str, number: int) -> tuple[str, Verifier, Seat | None]:
    written, colon, credentials = text.rpartition(":SCRAM-SHA-256$")
    if not colon:
        raise UsersError(number, "no line of the form name:SCRAM-SHA-256$...")
    try:
        name = checked_name(written)
    except ValueError as error:
        raise UsersError(number, str(error)) from None
    credentials, _, words = credentials.partition(" ")
    match = _CREDENTIALS.match("SCRAM-SHA-256$" + credentials)
    if match is None:
        raise UsersError(number, f"the credentials of {name} are malformed")
    try:
        salt, stored, server = (base64.b64decode(match[n], validate=True) for n in (2, 3, 4))
    except binascii.Error:
        raise UsersError(number, f"the credentials of {name} are not base64") from None
    iterations = int(match[1])
    if len(stored) != 32 or len(server) != 32 or not salt or iterations > MAX_ITERATIONS:
        raise UsersError(number, f"the credentials of {name} are malformed")
    return name, Verifier(salt, iterations, stored, server), _seat(name, words, number)


def _seat(name: str, words: str, number: int) -> Seat | None:
    said = dict(word.partition("=")[::2] for word in words.split())
    role = ROLES.get(said.pop("role", ""))
    if not words.strip():
        return None
    if role is None:
        raise UsersError(number, f"{name} has no role out of {', '.join(ROLES)}")
    try:
        totp = secret_of(said.pop("totp")) if "totp" in said else b""
    except ValueError as error:
        raise UsersError(number, f"the codes of {name}: {error}") from None
    if said:
        raise UsersError(number, f"behind the credentials of {name}: only role= and totp=")
    return Seat(role, totp)


def checked_name(text: str) -> str:
    """The name as it is compared; raises ValueError."""
    try:
        name = folded(text)
    except PrepareError as error:
        raise ValueError(f"a name with {error}") from None
    if ":" in name or name.startswith("#") or len(name.encode()) > MAX_NAME:
        raise ValueError(f"{name[:80]!r} cannot be a login")
    return name


def line_of(name: str, verifier: Verifier, seat: Seat | None = None) -> str:
    """The entry as the file has it."""
    salt, stored, server = (
        base64.b64encode(each).decode("ascii")
        for each in (verifier.salt, verifier.stored_key, verifier.server_key)
    )
    words = "" if seat is None else f" role={seat.role}"
    words += f" totp={secret_text(seat.totp)}" if seat is not None and seat.totp else ""
    return f"{name}:{MECHANISM}${verifier.iterations}:{salt}${stored}:{server}{words}"


def read(path: Path) -> list[str]:
    """The file's lines; none when there is no file. Raises OSError."""
    try:
        return path.read_text("utf-8").splitlines()
    except FileNotFoundError:
        return []


def with_user(
    lines: list[str], name: str, verifier: Verifier | None, seat: Seat | None = None
) -> list[str]:
    """The lines with this (folded) name's entry put in, replaced, or (None) taken out."""
    kept = []
    done = verifier is None
    for line in lines:
        if _name_of(line) != name:
            kept.append(line)
        elif not done and verifier is not None:
            kept.append(line_of(name, verifier, seat))
            done = True
    if not done and verifier is not None:
        kept.append(line_of(name, verifier, seat))
    if not any(line.startswith(_SEED) for line in kept):
        kept.insert(0, _SEED + base64.b64encode(secrets.token_bytes(32)).decode("ascii"))
    return kept


def _name_of(line: str) -> str:
    try:
        return _entry(line, 0)[0]
    except UsersError:
        return ""


def write(path: Path, lines: Iterable[str], owner: tuple[int, int] | None = None) -> None:
    """Replace the file whole, for its owner's eyes only; raises OSError.

    `owner` (uid, gid) is for a file that is new; one that is there keeps its own.
    """
    with contextlib.suppress(FileNotFoundError):
        status = path.stat()
        owner = status.st_uid, status.st_gid
    real = path.resolve()
    handle, name = tempfile.mkstemp(prefix=f".{real.name}.", dir=real.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o600)
            if owner is not None and owner != (os.geteuid(), os.getegid()):
                with contextlib.suppress(PermissionError):
                    os.fchown(file.fileno(), *owner)
        Path(name).replace(real)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(real.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
