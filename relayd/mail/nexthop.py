"""A next hop: the named place where a recipient goes next, as the rules define it."""

from __future__ import annotations

from relayd.mail.security import IMPLICIT, Level
from relayd.mail.value import dataclass

SMTP = "smtp"
LMTP = "lmtp"
WITHOUT_TLS = "without-tls"  # the word for it: log in even in the clear
NO_CONVERSION = "no-conversion"


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
    means by a next hop without brackets.
    """

    name: str
    protocol: str = SMTP  # SMTP or LMTP
    hosts: tuple[HostPort, ...] = ()
    unix: str = ""  # path of a unix socket, only for LMTP; then there are no hosts
    mx: bool = False
    level: Level | None = None  # of TLS, as it is written; None: nothing is said of it
    implicit_tls: bool = False  # TLS from the first octet
    login: str = ""  # the name of the secret we log in with; empty: we do not
    login_without_tls: bool = False  # ... even in the clear
    conversion: bool = True  # 8-bit content is put in 7 bits where it takes no other

    @property
    def tls(self) -> Level | None:
        """How much TLS its hosts must have; None: nothing is said of it.

        A password is for the host it is meant for: where there is a login, it is verified.
        """
        if self.level is None and self.login and not self.login_without_tls:
            return Level.VERIFY
        return self.level

    def __str__(self) -> str:
        """The statement that defines it."""
        where = f"unix:{self.unix}" if self.unix else ", ".join(map(str, self.hosts))
        words = ["next-hop", self.name, self.protocol, where, *(["mx"] if self.mx else [])]
        if self.level is not None:
            words += ["tls", self.level, *([IMPLICIT] if self.implicit_tls else [])]
        if self.login:
            words += ["login", self.login, *([WITHOUT_TLS] if self.login_without_tls else [])]
        if not self.conversion:
            words.append(NO_CONVERSION)
        return " ".join(words)
