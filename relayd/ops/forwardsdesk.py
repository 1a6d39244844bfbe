"""Scoped files, written for those whose they are: checked as they are read, whole or not at all.

A file that is replaced stays beside it, with a `~` behind its name.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.config import Settings
from relayd.config.forwardlines import forwards, with_accept, with_forward, without_forward
from relayd.config.scopedfiles import MOST_OCTETS, examine
from relayd.mail.address import AddressError, Mailbox, check_domain, fold_domain
from relayd.mail.client import Client
from relayd.mail.plan import Verdict
from relayd.rules.check.expect import OUTSIDER, SOMEBODY
from relayd.rules.check.scope import domain_of_file
from relayd.rules.conditions.reversename import REVERSE_NAME
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.language.model import Include
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset
from relayd.spool.disk.content import sync_directory

STRANGER = Client(OUTSIDER, helo="outside.invalid", rdns=str(REVERSE_NAME.usual))


class ForwardsError(Exception):
    """It is not done; the text says why."""


class NoSuchForwardsError(ForwardsError):
    """There is no such file, or no such forward in it."""


class WrongRulesError(ForwardsError):
    """What `check` would say of it."""


class ChangedError(ForwardsError):
    """Somebody else has changed it."""


@dataclass(frozen=True)
class CustomerFile:
    """A file as it stands there."""

    path: Path
    octets: bytes | None  # None: there is none

    @property
    def text(self) -> str:
        """What stands in it; a comment may be in any code, and stays so."""
        return (self.octets or b"").decode("utf-8-sig", "surrogateescape")

    @property
    def tag(self) -> str:
        """What tells this state from others; empty: there is no file."""
        return "" if self.octets is None else tag_of(self.octets)


def tag_of(octets: bytes) -> str:
    """What tells this state from others."""
    return hashlib.sha256(octets).hexdigest()[:32]


class ForwardsDesk:
    """All of one relayd. Whoever writes does so one at a time."""

    def __init__(self, settings: Callable[[], Settings]) -> None:
        self._settings = settings

    def find(self, domain: str) -> CustomerFile:
        """The file of a domain, folded; raises ForwardsError."""
        places = self._places(domain)
        if not any(map(os.path.lexists, places)):
            places = [*self._spelled(places, domain), *places]
        for path in places:
            if path.is_symlink():
                raise ForwardsError(f"{path.name} is a link, which is left alone")
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise ForwardsError(f"{path.name}: {error.strerror}") from None
            with open(fd, "rb") as file:  # noqa: PTH123 - opened so that no pipe is waited for
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise ForwardsError(f"{path.name} is no file")
                return CustomerFile(path, file.read(MOST_OCTETS + 1))
        return CustomerFile(places[0], None)

    def _spelled(self, places: Sequence[Path], domain: str) -> Iterator[Path]:
        """Files of the domain under another spelling of its name."""
        for place in places:
            for each in place.parent.glob(f"*{place.suffix}"):
                with contextlib.suppress(AddressError):
                    if domain_of_file(each) == domain:
                        yield each

    def _places(self, domain: str) -> list[Path]:
        """Where it may be, the likeliest first."""
        found = []
        for item in self._settings().ruleset.items:
            if isinstance(item, Include) and item.scoped:
                folder = Path(item.place.source.path).absolute().parent
                pattern = folder / item.pattern
                if pattern.name.startswith("*.") and "*" not in str(pattern.parent):
                    found.append(pattern.parent / f"{domain}{pattern.name[1:]}")
        if not found:
            raise NoSuchForwardsError('there is no "include FOLDER/*.rules scoped"')
        return found

    def replace(self, file: CustomerFile, text: str) -> None:
        """Write it, if it is good, and still as it was found; raises ForwardsError."""
        octets = _octets(text)
        if len(octets) > MOST_OCTETS:
            raise ForwardsError(f"more than {MOST_OCTETS:,} octets")
        self._checked(file, text)
        if self.find(domain_of_file(file.path)).octets != file.octets:
            raise ChangedError("somebody else has changed it just now")
        self._put(file, octets)

    def _checked(self, file: CustomerFile, text: str) -> None:
        _, problems = self._examined(file, text)
        if problems:
            raise WrongRulesError("\n".join(map(str, problems)))

    def _examined(self, file: CustomerFile, text: str) -> tuple[Ruleset | None, list[Problem]]:
        path = self._settings().path
        assert path is not None
        return examine(path.parent, file.path, _octets(text))

    def remove(self, file: CustomerFile) -> None:
        """Let nothing be in force of it; raises ForwardsError."""
        if file.octets is None:
            raise NoSuchForwardsError("there is no such file")
        try:
            self._keep(file)
            file.path.unlink()
            sync_directory(file.path.parent)
        except OSError as error:
            raise ForwardsError(f"cannot remove {file.path}: {error.strerror}") from None

    def set(self, file: CustomerFile, mailbox: Mailbox, targets: Sequence[Mailbox]) -> None:
        """Let the mailbox become these; raises ForwardsError."""
        text = with_forward(file.text, mailbox, targets)
        rules, _ = self._examined(file, text)
        if rules is not None and not _takes(rules, mailbox):
            accepting = with_accept(text, mailbox)
            # one that would never be reached is of no use: rules above refuse him
            text = accepting if self._examined(file, accepting)[0] is not None else text
        self.replace(file, text)

    def unset(self, file: CustomerFile, mailbox: Mailbox) -> None:
        """Let it become nothing else any more; raises ForwardsError."""
        text = without_forward(file.text, mailbox)
        if text == file.text:
            raise NoSuchForwardsError(f"no line is about {mailbox}")
        self.replace(file, text)

    def _put(self, file: CustomerFile, octets: bytes) -> None:
        path = file.path
        try:
            self._keep(file)
            self._write(path, octets)
        except OSError as error:
            raise ForwardsError(f"cannot write {path}: {error.strerror}") from None

    def _keep(self, file: CustomerFile) -> None:
        if file.octets is not None:
            self._write(file.path.with_name(f"{file.path.name}~"), file.octets)

    def _write(self, path: Path, octets: bytes) -> None:
        """Whole or not at all, and there when this returns."""
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(octets)
                file.flush()
                os.fchmod(file.fileno(), 0o640)
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise
        sync_directory(path.parent)


def _takes(rules: Ruleset, mailbox: Mailbox) -> bool:
    """Whether mail for him is taken, from a stranger of whom nobody says anything bad."""
    facts = Facts(STRANGER, SOMEBODY, mailbox, gathered=rules.usual)
    return evaluate(rules, facts).verdict is not Verdict.REFUSE


def _octets(text: str) -> bytes:
    """As it is written; raises ForwardsError."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ForwardsError("it has characters that are none") from None


def domain_in(text: str) -> str:
    """A domain as files are named after it, folded; raises ForwardsError."""
    try:
        check_domain(text)
        folded = fold_domain(text)
    except AddressError as error:
        raise ForwardsError(str(error)) from None
    if "." not in folded or folded.startswith(("[", ".")) or "/" in folded:
        raise ForwardsError(f"{text} is no domain of anybody's")
    return folded


def mailbox_in(text: str) -> Mailbox:
    """A mailbox; raises ForwardsError."""
    try:
        return Mailbox.parse(text)
    except AddressError as error:
        raise ForwardsError(f"{text}: {error}") from None


def told(file: CustomerFile) -> dict[str, list[str]]:
    """The forwards of a file, by local part."""
    return {each.local: targets for each, targets in forwards(file.text).items()}
