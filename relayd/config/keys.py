"""Files with keys: what is read of one, and those of sender rewriting, as PostSRSd has them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from relayd.config.files import is_there, similar_file
from relayd.rules.language.source import Complaint, Place
from relayd.rules.srs import HASH_LENGTH, MAX_HASH_LENGTH, length_of
from relayd.rules.srsrule import SrsDomain

MAX_SIZE = 64 * 1024  # octets; a file of another kind is not read whole


def keys_path(name: str, place: Place, folder: Path) -> Path:
    """Beside the file that names it, at `place`, else beside relayd.conf, which is in `folder`."""
    beside = Path(place.source.path).parent / name
    return beside if is_there(beside) else folder / name


def read_key_file(
    name: str, path: Path, place: Place, *, most: int, danger: str, expected: str
) -> bytes:
    """What is in it; raises Complaint, which never shows a line of the file.

    `name`: as the statement has it; `danger`: what it means that any user of this machine may read
    it; `expected`: what stands in it where it is larger than `most` octets.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(most + 1)
    except OSError as error:
        what = f"cannot read {name}: {error.strerror or error}"
        raise Complaint(place, what, similar_file(path)) from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        may = "readable" if mode & stat.S_IROTH else "writable"
        what = f"{name} is world-{may} (mode {stat.S_IMODE(mode):04o}): {danger}"
        raise Complaint(place, what, f"expected e.g. chmod 640 {path}")
    if len(data) > most:
        raise Complaint(place, f"{name} is larger than {most} octets", expected)
    return data


def read_keys(statement: SrsDomain, path: Path) -> tuple[bytes, ...]:
    """The keys, the one that signs first; raises Complaint, which never shows a line of the file.

    Everything but the line's end belongs to a key, as with PostSRSd: so blanks count.
    """
    name, place = statement.keys_file, statement.keys_place
    data = read_key_file(
        *(name, path, place),
        most=MAX_SIZE,
        danger="with its keys any user of this machine could make relayd relay for him",
        expected="expected one key a line",
    )
    keys = []
    for number, line in enumerate(data.split(b"\n"), 1):
        key = line.rstrip(b"\r")
        if key.startswith(b"#"):
            raise Complaint(
                place,
                f"line {number} of {name} begins with #, but there are no comments in a keys file",
                "expected one key a line, the one that signs first",
            )
        if key.strip() and not HASH_LENGTH <= length_of(key) <= MAX_HASH_LENGTH:
            raise Complaint(
                place,
                f"line {number} of {name} asks for hashes of {length_of(key)} characters",
                f"expected hash-length-{HASH_LENGTH}: to hash-length-{MAX_HASH_LENGTH}:",
            )
        if key.strip():
            keys.append(key)
    if not keys:
        raise Complaint(
            place,
            f"{name} holds no key",
            "expected one key a line, e.g. from: "
            f"(printf hash-length-8:; head -c 18 /dev/urandom | base64) > {path}",
        )
    return tuple(keys)
