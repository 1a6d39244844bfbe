"""The values of settings: durations, sizes, numbers, addresses, each with its own complaint."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from relayd.config.logins import (
    AUTH,
    MECHANISMS,
    SUBMISSION,
    listener_auth,
    listener_mechanisms,
)
from relayd.config.peers import PROXY, XCLIENT, XCLIENT_LOGIN, Peers, listener_peers
from relayd.config.tls import listener_tls
from relayd.mail.nexthop import HostPort
from relayd.mail.value import dataclass
from relayd.rules.language.lexer import TokenKind, quote
from relayd.rules.language.pattern import Network
from relayd.rules.language.source import Complaint, did_you_mean, one_of
from relayd.rules.language.words import Words, host_port, network_of
from relayd.spool.schedule import Schedule

MAX_WORKERS = 64
HOSTS_FILE, DNS = "hosts", "dns"

STRICT = "strict"  # an option of listeners


def _alone(words: Words) -> str:
    """Nothing follows the option."""
    return "yes"


LISTEN_OPTIONS: Mapping[str, Callable[[Words], str | Peers]] = {
    "tls": listener_tls,
    AUTH: listener_auth,
    MECHANISMS: listener_mechanisms,
    SUBMISSION: _alone,
    STRICT: _alone,
    PROXY: listener_peers,
    XCLIENT: listener_peers,
    XCLIENT_LOGIN: _alone,
}
"""What may follow a listener's address, and how the words behind it are read."""

Options = tuple[tuple[str, "str | Peers"], ...]


def duration(least: float = 0) -> Callable[[Words], float]:
    """`90s`, `5m`, `4h`, `5d`, `1h30m` as seconds."""
    return lambda words: words.duration(least)


def or_off(read: Callable[[Words], float]) -> Callable[[Words], float]:
    """What `read` reads, or `off`: 0."""
    return lambda words: 0.0 if words.skip_word("off") else read(words)


def size(least: int) -> Callable[[Words], int]:
    """`50MiB`, `10MB`, `4096` as octets."""
    return lambda words: words.size(least)


def number(least: int, most: int) -> Callable[[Words], int]:
    """A whole number."""

    def read(words: Words) -> int:
        token = words.word(f"a number from {least} to {most}")
        if not re.fullmatch(r"[0-9]{1,12}", token.text):
            raise words.complain(f'"{token.text}" is no number', f"expected {least} to {most}")
        value = int(token.text)
        if not least <= value <= most:
            raise words.complain(f"{value} is out of range", f"expected {least} to {most}")
        return value

    return read


def choice(*known: str) -> Callable[[Words], str]:
    """One of these words."""
    return lambda words: words.choice(known, one_of(known))


def networks(words: Words) -> tuple[Network, ...]:
    """`10.0.0.0/8, ::1`, or `none`."""
    if words.skip_word("none"):
        return ()

    def network() -> Network:
        token = words.next("an IP address or network")
        return network_of(token.text, token.place)

    return words.commas(network)


def workers(words: Words) -> int:
    """A number of processes, or `auto` (0): one per core."""
    return 0 if words.skip_word("auto") else number(1, MAX_WORKERS)(words)


def path(words: Words) -> Path:
    """A path, as written."""
    token = words.next("a path")
    if not token.text:
        raise words.complain("an empty path", "expected e.g. /var/spool/relayd")
    return Path(token.text)


def domain(words: Words) -> str:
    """A host's own name."""
    token = words.word("a host name, e.g. gw.example.com")
    name = words.domain(token.text)
    if name.startswith("["):
        raise words.complain(f'"{name}" is no host name', "expected e.g. gw.example.com")
    return name


def schedule(words: Words) -> Schedule:
    """`1m 5m*2 15m*3 1h*6 4h`."""
    steps: list[int] = []
    while words.peek() is not None or not steps:
        token = words.word("a delay such as 5m or 15m*3")
        if token.text.partition("*")[0].isdecimal():
            number, star, count = token.text.partition("*")
            hint = f'did you mean "{number}m{star}{count}"?'
            raise words.complain(f'"{token.text}" names no unit', hint)
        try:
            steps += Schedule.parse(token.text).delays
        except ValueError as error:
            raise words.complain(str(error), "expected e.g. 1m 5m*2 15m*3 1h*6 4h") from None
    return Schedule(tuple(steps))


@dataclass(frozen=True, slots=True)
class NameOrder:
    """How the hosts of next hops are looked up."""

    hosts: bool  # in /etc/hosts first, and short names in the search domains

    @property
    def statement(self) -> str:
        """What stands behind `resolver`."""
        return f"{HOSTS_FILE} {DNS}" if self.hosts else DNS


def name_order(said: Iterable[object]) -> NameOrder:
    """What the `resolver` statements say of it; the last one counts."""
    orders = [each for each in said if isinstance(each, NameOrder)]
    return orders[-1] if orders else NameOrder(hosts=True)


def resolver(words: Words) -> HostPort | NameOrder:
    """A server to ask, or `hosts dns`, or `dns`."""
    if words.skip_word(DNS):
        return NameOrder(hosts=False)
    if words.skip_word(HOSTS_FILE):
        if not words.skip_word(DNS):
            raise words.complain(
                f'"{HOSTS_FILE}" alone finds no domain', f'expected "{HOSTS_FILE} {DNS}"'
            )
        return NameOrder(hosts=True)
    return address_port(words)


def address_port(words: Words) -> HostPort:
    """An IP address with a port, 53 by default."""
    token = words.word("an address and port such as 127.0.0.1:53")
    return _numeric(host_port(token.text, token.place, 53), words)


def listener(words: Words) -> tuple[str, int, Options]:
    """Address, port (0: any) and the options of a `listen` statement: each name with its value."""
    token = words.word("ADDRESS:PORT, e.g. 127.0.0.1:2525 or [::1]:2525")
    text = token.text
    if text.isdecimal() or re.match(r"\*?:[^:]*\Z", text):
        port = text.rpartition(":")[2]
        raise words.complain(
            f'"{text}" names no address', f'did you mean "0.0.0.0:{port}" (and "[::]:{port}")?'
        )
    any_port = text.endswith(":0")
    place = _numeric(host_port(text[:-1] + "1" if any_port else text, token.place), words)
    options: dict[str, str | Peers] = {}
    while (token_ := words.peek()) is not None and token_.kind is TokenKind.WORD:
        if token_.text.lower() not in LISTEN_OPTIONS:
            hint = did_you_mean(token_.text, LISTEN_OPTIONS) or "expected the end of the line"
            raise Complaint(token_.place, f'"listen" knows no option "{token_.text}"', hint)
        name = words.word("an option").text.lower()
        if name in options:
            raise words.complain(f'"{name}" was said already', "expected it once")
        options[name] = LISTEN_OPTIONS[name](words)
    if MECHANISMS in options and AUTH not in options:
        raise words.complain(f'"{MECHANISMS}" without a login', 'expected "auth TABLE" as well')
    if XCLIENT_LOGIN in options and XCLIENT not in options:
        raise words.complain(f'"{XCLIENT_LOGIN}" trusts nobody', 'expected "xclient PEERS" as well')
    return place.host, 0 if any_port else place.port, tuple(options.items())


def _numeric(place: HostPort, words: Words) -> HostPort:
    try:
        ipaddress.ip_address(place.host)
    except ValueError:
        raise words.complain(
            f'"{place.host}" is no IP address', "expected numbers, as in 127.0.0.1 or [::1]"
        ) from None
    return place


@dataclass(frozen=True, slots=True)
class MetricsPlace:
    """Where figures are fetched: a TCP address, or a unix socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"{_UNIX}{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def statement(self) -> str:
        """What the file says behind `metrics`."""
        return f"{_LISTEN} {quote(str(self))}"


_LISTEN = "listen"
_UNIX = "unix:"


def metrics(words: Words) -> MetricsPlace:
    """`listen` and where the figures are fetched."""
    return _http_place(words, "ADDRESS:PORT, e.g. 127.0.0.1:9099, or unix:/run/relayd/metrics")


def _http_place(words: Words, expected: str) -> MetricsPlace:
    if not words.skip_word(_LISTEN):
        raise words.missing(f'"{_LISTEN}" and {expected}')
    token = words.next(expected)
    if token.text.startswith(_UNIX):
        socket = Path(token.text.removeprefix(_UNIX))
        if not socket.is_absolute():
            raise words.complain(f'"{token.text}" names no whole path', f'expected "{_UNIX}/..."')
        return MetricsPlace(path=socket)
    if token.text.isdecimal():
        raise words.complain(
            f'"{token.text}" names no address', f'did you mean "127.0.0.1:{token.text}"?'
        )
    place = _numeric(host_port(token.text, token.place), words)
    return MetricsPlace(place.host, place.port)


@dataclass(frozen=True, slots=True)
class ConsolePlace:
    """Where the console is: a unix socket, or a TCP address, there always with TLS and login."""

    place: MetricsPlace
    table: str = ""  # of those who log in; empty: whoever may open the socket is the administrator

    def __str__(self) -> str:
        return str(self.place)

    @property
    def statement(self) -> str:
        """What the file says behind `console`."""
        return f"{self.place.statement}{f' {AUTH} {self.table}' if self.table else ''}"


@dataclass(frozen=True, slots=True)
class MayEdit:
    """At the console its administrators may change the files with the rules."""

    def __str__(self) -> str:
        return self.statement

    @property
    def statement(self) -> str:
        """What the file says behind `console`."""
        return f"{_MAY} {_EDIT}"


_MAY, _EDIT = "may", "edit"


def console(words: Words) -> ConsolePlace | MayEdit:
    """`listen`, where the console is, and who logs in; or `may edit`."""
    expected = "unix:/run/relayd/console.sock, or ADDRESS:PORT auth TABLE"
    if words.skip_word(_MAY):
        if not words.skip_word(_EDIT):
            raise words.missing(f'"{_EDIT}"')
        return MayEdit()
    place = _http_place(words, expected)
    if not words.skip_word(AUTH):
        if place.path is None:
            raise words.missing(f'"{AUTH} TABLE": over TCP somebody logs in, and with TLS')
        return ConsolePlace(place)
    return ConsolePlace(place, words.name("the name of a table of users"))
