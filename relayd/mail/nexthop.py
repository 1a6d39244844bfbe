"""A next hop: the named place where a recipient goes next, as the rules define it."""

from __future__ import annotations

from relayd.mail.security import IMPLICIT, Level
from relayd.mail.value import dataclass

SMTP = "smtp"
LMTP = "lmtp"
WITHOUT_TLS = "without-tls"  # an option: log in even in the clear


@dataclass(frozen=True, slots=True)
class HostPort:
    """A host name or IP address (without brackets) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class NextHop:
    """Hosts are tried in order, the next one when one is down or says 4xx; or it is a unix socket.

    `mx` asks for the mail exchangers of each host's name instead of its addresses: what Postfix
    means by a next hop without brackets. `options` are the words behind the hosts, in order.
    """

    name: str
    protocol: str = SMTP  # SMTP or LMTP
    hosts: tuple[HostPort, ...] = ()
    unix: str = ""  # path of a unix socket, only for LMTP; then there are no hosts
    mx: bool = False
    options: tuple[str, ...] = ()

    @property
    def tls(self) -> Level | None:
        """How much TLS its hosts must have; None: nothing is said of it.

        A password is for the host it is meant for: where there is a login, it is verified.
        """
        options = self.options
        if "tls" in options:
            return Level(options[options.index("tls") + 1])
        return Level.VERIFY if self.login and not self.login_without_tls else None

    @property
    def implicit_tls(self) -> bool:
        """TLS from the first octet."""
        options = self.options
        return "tls" in options and options[options.index("tls") + 2 :][:1] == (IMPLICIT,)

    @property
    def login(self) -> str:
        """The name of the secret we log in with; empty: we do not."""
        options = self.options
        return options[options.index("login") + 1] if "login" in options else ""

    @property
    def login_without_tls(self) -> bool:
        """We log in even in the clear."""
        return WITHOUT_TLS in self.options

    def __str__(self) -> str:
        """The statement that defines it."""
        where = f"unix:{self.unix}" if self.unix else ", ".join(map(str, self.hosts))
        words = ["next-hop", self.name, self.protocol, where, *(["mx"] if self.mx else [])]
        return " ".join([*words, *self.options])
