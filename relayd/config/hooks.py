"""The statement `hook`: where events of messages are posted, and what signs them."""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from relayd.config.keys import read_key_file
from relayd.rules.language.source import Complaint, Place
from relayd.rules.language.words import Words

EVENTS = (
    *("accepted", "delivered", "deferred", "held", "bounced"),
    *("expired", "discarded", "removed", "report"),
)
ANY = "any"
KEEP = 100_000  # events that wait for one receiver
AGE = 3 * 86400.0  # seconds that one waits
MOST_KEYS = 5
LEAST_OCTETS = 16  # of a key
_MOST_WAITING = 10_000_000
_MAX_SIZE = 4096  # octets of a file with keys
_LIBRARY = "whsec_"  # how a key in base64 begins


@dataclass(frozen=True, slots=True)
class Hook:
    """One `hook` statement."""

    name: str
    url: str = field(repr=False)  # its path may be a secret of the receiver's
    events: tuple[str, ...]
    secret: Path  # as written, then whole
    keep: int = KEEP
    age: float = AGE  # seconds
    keys: tuple[bytes, ...] = field(default=(), repr=False)  # the first one is the current one

    @property
    def receiver(self) -> str:
        """Scheme and host: what may be shown of the URL."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"


def hook(words: Words) -> Hook:
    """`NAME URL events EVENT, ... secret file FILE [keep NUMBER] [for TIME]`."""
    name = words.name("the name of a hook")
    url = _url(words)
    if not words.skip_word("events"):
        raise words.missing(f'"events" and some of {", ".join(EVENTS)}')
    known = (ANY, *EVENTS)
    events = dict.fromkeys(words.commas(lambda: words.choice(known, "an event, e.g. delivered")))
    if not words.skip_word("secret") or not words.skip_word("file"):
        raise words.missing('"secret file FILE", which has the key that signs')
    secret = Path(words.next("the file with the key that signs").text)
    keep, age = KEEP, AGE
    if words.skip_word("keep"):
        keep = _events(words)
    if words.skip_word("for"):
        age = words.duration(1)
    return Hook(name, url, EVENTS if ANY in events else tuple(events), secret, keep, age)


def _url(words: Words) -> str:
    text = words.next("a URL, https://HOST/PATH").text
    example = "expected e.g. https://crm.example.com/mail"
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise words.complain(f'"{text}" is no URL: {error}', example) from None
    if parts.scheme not in ("https", "http") or not host or not text.isascii():
        raise words.complain(f'"{text}" is no URL of a receiver', example)
    if "@" in parts.netloc:
        what = "a URL with a password in it would show it"
        raise words.complain(what, "expected one without: events are signed")
    if parts.scheme == "http" and not _loopback(host):
        what = "what is said of mail would be in the clear on its way"
        raise words.complain(what, 'expected "https://", or "http://" to 127.0.0.1')
    return text


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _events(words: Words) -> int:
    text = words.word("how many events may wait, e.g. 100000").text
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:12]) <= _MOST_WAITING):
        what = f'"{text}" is no number of events'
        raise words.complain(what, f"expected 1 to {_MOST_WAITING}")
    return int(text)


def with_keys(given: Hook, path: Path, place: Place) -> Hook:
    """The same with its keys; raises Complaint, which never shows a line of the file."""
    shown = given.secret
    expected = f"expected one key a line, e.g. from: openssl rand -base64 32 > {shown}"
    data = read_key_file(
        *(str(shown), path, place),
        most=_MAX_SIZE,
        danger="it has the key that signs",
        expected=expected,
    )
    lines = [line.strip() for line in data.split(b"\n") if line.strip()]
    if not lines:
        raise Complaint(place, f"{shown} holds no key", expected)
    if len(lines) > MOST_KEYS:
        what = f"{shown} holds {len(lines)} keys"
        raise Complaint(place, what, f"expected {MOST_KEYS} at most: the new one, then old ones")
    keys = []
    for number, line in enumerate(lines, 1):
        try:
            key = _key(line)
        except ValueError as error:
            what = f"key {number} in {shown} {error}"
            raise Complaint(place, what, expected) from None
        keys.append(key)
    return replace(given, secret=path, keys=tuple(keys))


def _key(line: bytes) -> bytes:
    """As it is, or what stands in base64 behind `whsec_`, as libraries for receivers write it."""
    key = line
    if line.startswith(_LIBRARY.encode()):
        try:
            key = base64.b64decode(line[len(_LIBRARY) :], validate=True)
        except binascii.Error:
            raise ValueError(f"begins with {_LIBRARY}, but what follows is no base64") from None
    if len(key) < LEAST_OCTETS:
        raise ValueError(f"is shorter than {LEAST_OCTETS} octets")
    return key
