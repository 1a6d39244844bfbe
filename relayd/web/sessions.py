"""Who is at the console: sessions by cookie, and the tokens of our forms.

A session begins with a login, under an ID that nobody had before: one that was planted in a browser
beforehand is worth nothing. IDs are kept as hashes, so that who sees our memory has no cookie. A
form's token is bound to the cookie, so there is none to keep, and one of another session, or of
before the login, fits nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from relayd.login.roles import Role

COOKIE = "__Host-relayd"  # RFC 6265bis section 4.1.3: by TLS, of this very host, for all of it
IDLE = 30 * 60.0  # seconds
LONGEST = 12 * 3600.0  # seconds from the login on
MOST = 1000  # in all
MOST_EACH = 10  # of one login; the one that rests longest ends

Clock = Callable[[], float]


@dataclass(slots=True)
class _Session:
    name: str
    began: float
    used: float


@dataclass(frozen=True, slots=True)
class Person:
    """Who is at the other end: his name for the log, and what he may do."""

    name: str
    role: Role
    ticket: str  # what his forms' tokens are bound to


class Sessions:
    """Those of one process; `clock` in seconds, whatever their beginning."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(32)
        self._sessions: dict[str, _Session] = {}  # in the order of their last use

    def begin(self, name: str) -> str:
        """Somebody has logged in; the cookie's value."""
        self._forget_old()
        own = [key for key, each in self._sessions.items() if each.name == name]
        for key in own[: len(own) - MOST_EACH + 1]:
            del self._sessions[key]
        if len(self._sessions) >= MOST:
            del self._sessions[next(iter(self._sessions))]
        cookie = secrets.token_urlsafe(32)
        now = self._clock()
        self._sessions[_hashed(cookie)] = _Session(name, now, now)
        return cookie

    def find(self, cookie: str, *, rests: bool = False) -> str:
        """The name of who has this session, which rests on or begins to anew; empty: nobody."""
        key = _hashed(cookie)
        session = self._sessions.get(key)
        now = self._clock()
        if session is None or _over(session, now):
            self._sessions.pop(key, None)
            return ""
        if rests:
            return session.name
        del self._sessions[key]
        session.used = now
        self._sessions[key] = session
        return session.name

    def end(self, cookie: str) -> None:
        """Somebody leaves."""
        self._sessions.pop(_hashed(cookie), None)

    def ticket(self, before: str) -> str:
        """The cookie of who has not logged in yet: the one he has, if we have made it."""
        own, _, proof = before.partition(".")
        if own and hmac.compare_digest(proof.encode(), self.form_token(f"ticket {own}").encode()):
            return before
        own = secrets.token_urlsafe(32)
        return f"{own}.{self.form_token(f'ticket {own}')}"

    def form_token(self, ticket: str) -> str:
        """What a form of ours has to show."""
        return hmac.new(self._key, ticket.encode(), "sha256").hexdigest()

    def fits(self, token: str, ticket: str) -> bool:
        """Whether it is that."""
        return hmac.compare_digest(token.encode(), self.form_token(ticket).encode())

    def _forget_old(self) -> None:
        now = self._clock()
        for key in [key for key, each in self._sessions.items() if _over(each, now)]:
            del self._sessions[key]


def _over(session: _Session, now: float) -> bool:
    return now - session.used > IDLE or now - session.began > LONGEST


def _hashed(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()


def cookie_field(value: str) -> tuple[str, str]:
    """The field that sets it; an empty value takes it away."""
    rest = "Path=/; Secure; HttpOnly; SameSite=Strict"
    return "Set-Cookie", f"{COOKIE}={value}; {rest}{'' if value else '; Max-Age=0'}"
