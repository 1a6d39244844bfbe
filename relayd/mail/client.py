"""Who is speaking to us: the facts about an SMTP client that rules, trace fields and logs use."""

from __future__ import annotations

from dataclasses import replace

from relayd.mail.value import dataclass


@dataclass(frozen=True, slots=True)
class Client:
    """One client of one session; replaced whole when a fact changes (HELO, TLS, login)."""

    address: str  # IP address as text, without a port or brackets
    port: int = 0
    listener: str = ""  # the `listen` setting that accepted it, e.g. "127.0.0.1:2525"
    helo: str = ""  # argument of HELO or EHLO, made printable
    protocol: str = "SMTP"  # RFC 3848 and RFC 6531 keyword: SMTP ESMTP ESMTPS ESMTPA UTF8SMTP ...
    tls: str = ""  # "TLSv1.3 TLS_AES_256_GCM_SHA384", empty in the clear
    login: str = ""  # authenticated identity
    certificate: str = ""  # fingerprint of a verified client certificate
    rdns: str | None = (
        None  # its confirmed reverse name, folded; "": there is none; None: not known
    )

    def with_(self, **changes: str | int | None) -> Client:
        """A copy with these facts changed."""
        return replace(self, **changes)  # type: ignore[arg-type]  # names are checked by replace
