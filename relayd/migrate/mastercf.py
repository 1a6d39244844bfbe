"""Postfix's master.cf: which services listen, and which transports have which program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from relayd.migrate.maincf import logical_lines, split

_COLUMNS = 8  # service type private unpriv chroot wakeup maxproc command


@dataclass(frozen=True, slots=True)
class Service:
    """One line of master.cf."""

    name: str  # of an inet service: [HOST:]PORT
    type: str  # inet, unix, fifo, pass
    command: str  # smtpd, smtp, pipe ...
    line: int
    overrides: dict[str, str] = field(default_factory=dict)  # -o name=value
    arguments: str = ""

    @property
    def title(self) -> str:
        """How a report names it."""
        return f"{self.name}/{self.type}"


def behind(service: Service, services: Sequence[Service]) -> Service:
    """Whose settings clients meet: with postscreen those of the smtpd that it passes them to."""
    found = answering(service, services)
    if found is service:
        return service
    return replace(service, overrides=service.overrides | found.overrides)


def answering(service: Service, services: Sequence[Service]) -> Service:
    """The smtpd(8) that decides about the clients of a service: behind postscreen another one."""
    if service.command != "postscreen":
        return service
    pairs = (each for each in services if (each.type, each.command) == ("pass", "smtpd"))
    return next(pairs, service)


def read_services(folder: Path) -> list[Service]:
    """All services of `folder`/master.cf; none where there is no such file."""
    path = folder / "master.cf"
    try:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return []
    services = []
    for line, logical in logical_lines(text):
        columns = logical.split(None, _COLUMNS)
        if len(columns) < _COLUMNS:
            continue
        arguments = columns[_COLUMNS] if len(columns) > _COLUMNS else ""
        services.append(
            Service(columns[0], columns[1], columns[7], line, _overrides(arguments), arguments)
        )
    return services


def _overrides(arguments: str) -> dict[str, str]:
    """`-o name=value` and `-o { name = value }`."""
    found: dict[str, str] = {}
    words = [word for word in _words(arguments) if word]
    for at, word in enumerate(words):
        if word == "-o" and at + 1 < len(words):
            word = words[at + 1]
            inner = word[1:-1] if word.startswith("{") and word.endswith("}") else word
            name, _, value = inner.partition("=")
            found[name.strip()] = value.strip()
        elif word.startswith("-o") and "=" in word:
            name, _, value = word[2:].partition("=")
            found[name.strip()] = value.strip()
    return found


def _words(text: str) -> list[str]:
    # commas belong to a value here, so they are put out of split()'s way
    return [word.replace("\x00", ",") for word in split(text.replace(",", "\x00"))]
