"""The client's side of XOAUTH2 and OAUTHBEARER (RFC 7628): a login by a token."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from dataclasses import dataclass, field

OAUTHBEARER, XOAUTH2 = "OAUTHBEARER", "XOAUTH2"

# of the JSON that comes with a refusal: a status of RFC 6750 section 3.1, or of HTTP
_STATUS = re.compile(r"invalid_request|invalid_token|insufficient_scope|[1-5][0-9]{2}")


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token that is good now, and the host it is meant for."""

    user: str
    token: str = field(repr=False)
    host: str
    port: int


class BearerInitiator:
    """One login by a token; see `relayd.login.initiator.Initiator`.

    A server that refuses says so in a challenge first (RFC 7628 section 3.2.2), which wants an
    answer before the refusal comes; `note` is what stood in it.
    """

    def __init__(self, bearer: Bearer, mechanism: str) -> None:
        self.mechanism = mechanism
        self.note = ""
        self._bearer = bearer
        self._asked = False

    def initial(self) -> bytes | None:
        """The whole of the login."""
        bearer = self._bearer
        if self.mechanism == XOAUTH2:
            return f"user={bearer.user}\1auth=Bearer {bearer.token}\1\1".encode()
        user = bearer.user.replace("=", "=3D").replace(",", "=2C")  # saslname of RFC 5801
        where = f"host={bearer.host}\1port={bearer.port}"
        return f"n,a={user},\1{where}\1auth=Bearer {bearer.token}\1\1".encode()

    def respond(self, challenge: bytes) -> bytes:
        """What the server has against the token is heard; then it may say its 535."""
        if not self._asked:
            self._asked = True
            self.note = _told(challenge)
        return b"" if self.mechanism == XOAUTH2 else b"\1"

    def accepted(self) -> None:
        """A token proves nothing of the server: that is TLS's part."""


def bearer_initiator(bearer: Bearer, offered: Collection[str]) -> BearerInitiator | None:
    """The standard mechanism where it is offered, else the older one; None: neither."""
    for name in (OAUTHBEARER, XOAUTH2):
        if name in offered:
            return BearerInitiator(bearer, name)
    return None


def _told(challenge: bytes) -> str:
    """`status=invalid_token`: no more of a refusal, for the rest may be the token in any shape."""
    try:
        told = json.loads(challenge)
    except (ValueError, RecursionError):
        return ""
    status = str(told.get("status")) if isinstance(told, dict) else ""
    return f"status={status}" if _STATUS.fullmatch(status) else ""
