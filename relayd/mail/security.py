"""How much TLS a connection to a next hop must have."""

from __future__ import annotations

import enum


class Level(enum.StrEnum):
    """What the administrator can say; nothing said is AUTO."""

    NONE = "none"  # in the clear, always
    OPTIONAL = "optional"  # TLS with anybody if there is any, else in the clear (RFC 7435)
    REQUIRED = "required"  # TLS, with whomever
    VERIFY = "verify"  # TLS with a certificate for this name from an authority we trust
    DANE = "dane"  # TLS as TLSA records demand, which must be there and signed (RFC 7672)
    AUTO = "auto"  # as the domain publishes it: DANE, else MTA-STS, else optional


LEVELS = tuple(level.value for level in Level)
IMPLICIT = "implicit"  # an option of next hops: TLS from the first octet (RFC 8314)
