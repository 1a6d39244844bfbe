"""What the injector sends: letters made from a seed, each with a name that nobody could guess."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from hashlib import blake2b

NAMED = re.compile(rb"^X-Letter: ([0-9a-f]{32})\r$", re.MULTILINE)
SENDERS = "sender.test"  # where reports go: <name>@sender.test
KINDS = ("ok", "late", "no", "foreign")
"""What becomes of a recipient, by the first word of its local part.

ok: taken at once; late: 451 at first; no: 550 for ever, so that a report is owed; foreign: of a
domain that relayd's rules refuse, so that nothing may ever arrive there.
"""


@dataclass(frozen=True)
class Letter:
    """One message as it goes in; its content begins with the line that names it."""

    name: str
    recipients: tuple[str, ...]
    content: bytes  # CRLF line ends, dots not stuffed
    above: bytes = b""  # header fields before it: not in the digest, for rules may change them
    added: tuple[str, ...] = ()  # recipients that a filter adds
    removed: tuple[str, ...] = ()  # ... and that it takes away

    @property
    def sender(self) -> str:
        """An address of its own, so that each report tells what it is about."""
        return f"{self.name}@{SENDERS}"

    @property
    def digest(self) -> str:
        """Of the content, from its first octet to its last."""
        return digest_of(self.content)

    def owed(self, accepted: list[str]) -> list[str]:
        """To whom it goes if it is taken, these having been accepted."""
        return [*(each for each in accepted if each not in self.removed), *self.added]


def digest_of(content: bytes) -> str:
    """The fingerprint that journals hold instead of content."""
    return blake2b(content, digest_size=16).hexdigest()


def kind_of(mailbox: str) -> str:
    """See KINDS."""
    return mailbox.split("-", 1)[0]


def original(content: bytes) -> tuple[str, str] | None:
    """Name and digest of a letter as it arrived, trace fields above it; None: it is no letter."""
    found = NAMED.search(content)
    if found is None:
        return None
    return found.group(1).decode(), digest_of(content[found.start() :])


class Writer:
    """Makes letter after letter, the same ones for the same seed."""

    def __init__(
        self, seed: int, *, kinds: tuple[str, ...] = ("ok",), large: int = 20, domains: int = 0
    ) -> None:
        self._random = random.Random(f"letters {seed}")
        self._kinds = kinds
        self._domains = domains  # of the recipients; 0: only corp.test itself
        self._large = large  # one letter in so many is larger than what relayd keeps in memory

    def letter(self) -> Letter:
        """The next one."""
        draw = self._random
        name = f"{draw.getrandbits(128):032x}"
        mailboxes = []
        below = f"d{draw.randrange(self._domains)}." if self._domains else ""
        for number in range(draw.choice((1, 1, 1, 2, 5))):
            kind = "ok" if number == 0 else draw.choice(self._kinds)
            domain = "foreign.test" if kind == "foreign" else f"{below}corp.test"
            mailboxes.append(f"{kind}-{number}.{name}@{domain}")
        lines = [f"X-Letter: {name}", "Subject: =?utf-8?q?=E2=9C=89?=", ""]
        head = "".join(f"{line}\r\n" for line in lines).encode()
        large = self._large and draw.randrange(self._large) == 0
        size = draw.randrange(70_000, 200_000) if large else draw.randrange(0, 4000)
        return Letter(name, tuple(mailboxes), head + self._body(size))

    def _body(self, size: int) -> bytes:
        pieces: list[bytes] = []
        have = 0
        while have < size:
            piece = self._line() + b"\r\n"
            pieces.append(piece)
            have += len(piece)
        return b"".join(pieces)

    def _line(self) -> bytes:
        draw = self._random
        kind = draw.randrange(12)
        if kind < 3:
            return draw.choice((b".", b"..", b". ", b".x", b"...", b".\t", b""))
        if kind == 3:
            return b"x" * draw.choice((997, 998, 999, 2000))
        octets = draw.randbytes(draw.randrange(1, 200))
        if kind < 6:  # any octet but those that are no text
            return octets.translate(None, b"\0\r\n")
        return octets.hex().encode()
