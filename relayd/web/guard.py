"""Whether a request can be meant: what a page of somebody else makes a browser send is not.

Three things are looked at, each enough by itself in a browser of today: Sec-Fetch-Site and Origin
here, and the token of our own forms (relayd.web.sessions). At a unix socket without a login there
is a fourth: the name in Host. A stranger's name may lead to 127.0.0.1, where somebody's tunnel to
the socket ends, and then his page were of the same origin as ours.
"""

from __future__ import annotations

import re
from http import HTTPStatus

from relayd.web.exchange import TurnedAwayError, WebRequest

SAFE = ("GET", "HEAD")
METHODS = (*SAFE, "POST")
WRITING = (*SAFE, "PUT", "DELETE")  # of what lies below _WRITTEN
_OURS = ("same-origin", "none")  # none: typed, or a bookmark
_LOCAL = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::[0-9]{1,5})?\Z")
_PATH = re.compile(r"/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*/?)*\Z")

# a domain's file, or a name in it, which may be any local part; of the domain only what is not
# ASCII may be encoded
_LETTER = "(?:[A-Za-z0-9]|%[89A-Fa-f][0-9A-Fa-f])"
_WRITTEN = re.compile(
    rf"/api/1/domains/{_LETTER}(?:{_LETTER}|[._-])*/(?:rules|forwards(?:/[!-.0-~]+)?)\Z"
)


def check(asked: WebRequest, hostname: str) -> None:
    """Raises TurnedAwayError; `hostname` is our own."""
    methods = WRITING if _WRITTEN.match(asked.path) else METHODS
    if asked.method not in methods:
        allowed = ("Allow", ", ".join(methods))
        raise TurnedAwayError(HTTPStatus.METHOD_NOT_ALLOWED, "no such method here", [allowed])
    if not is_path(asked.path):
        raise TurnedAwayError(HTTPStatus.NOT_FOUND, "there is no such page")
    if asked.header("transfer-encoding"):  # beside a length: which of both counts?
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "bodies come with their length")
    if asked.header("content-encoding").lower() not in ("", "identity"):
        raise TurnedAwayError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "bodies come as they are")
    host = _HOST.match(asked.header("host"))
    if host is None:
        raise TurnedAwayError(HTTPStatus.BAD_REQUEST, "the request names no host")
    if not asked.place.table and host[1].lower() not in (*_LOCAL, hostname.lower()):
        raise TurnedAwayError(
            HTTPStatus.MISDIRECTED_REQUEST, f"here is localhost or {hostname}, and nobody else"
        )
    site, origin = asked.header("sec-fetch-site"), asked.header("origin")
    if asked.method not in SAFE:
        if (site and site not in _OURS) or (origin and origin not in _ours(asked, host)):
            raise TurnedAwayError(HTTPStatus.FORBIDDEN, "that came from a page that is not ours")
    elif site and site not in _OURS and asked.header("sec-fetch-mode") != "navigate":
        raise TurnedAwayError(HTTPStatus.FORBIDDEN, "this is not for other pages to have")


def _ours(asked: WebRequest, host: re.Match[str]) -> tuple[str, ...]:
    """The origins of our own pages: with TLS, be it a proxy's; without it where a tunnel ends."""
    tunnel = not asked.secure and host[1].lower() in _LOCAL
    return (f"https://{host[0]}", *((f"http://{host[0]}",) if tunnel else ()))


def is_path(text: str) -> bool:
    """Whether this can be a path of ours: nothing to decode, no dots that lead upwards."""
    return _PATH.match(text) is not None or _WRITTEN.match(text) is not None
