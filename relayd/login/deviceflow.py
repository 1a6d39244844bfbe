"""How long to wait for somebody who is to enter a code, and when to ask again (RFC 8628 3.5)."""

from __future__ import annotations

from relayd.login.oauth import MOST_INTERVAL, PENDING, SLOW_DOWN, DeviceCode, OauthError

_SLOWER = 5.0  # seconds: what `slow_down` means


class DeviceFlow:
    """`wait` seconds, ask, tell `heard` what went wrong: until it raises, or there are tokens.

    Times are of a clock that does not jump.
    """

    def __init__(self, device: DeviceCode, now: float) -> None:
        self.wait = device.interval
        self._until = now + device.expires_in

    def heard(self, error: OauthError, now: float) -> None:
        """Raises OauthError when it makes no sense to ask again."""
        if error.final:
            words = {"access_denied": "it was denied", "expired_token": "the code has expired"}
            raise OauthError(words.get(error.code, str(error)), error.code) from None
        if error.code == SLOW_DOWN:
            self.wait += _SLOWER
        elif error.code != PENDING:
            self.wait *= 2  # no answer, or nonsense: perhaps we are too much for it
        self.wait = min(self.wait, MOST_INTERVAL)
        if now + self.wait >= self._until:
            why = "" if error.code in (PENDING, SLOW_DOWN) else f" ({error})"
            raise OauthError(f"nobody entered the code in time{why}", "expired_token")
