"""OAuth2 on the client's side: what a provider is asked for tokens, and what its answers mean.

RFC 6749 (client credentials and refresh token grants) and RFC 8628 (device codes), without socket
or clock.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus, urlencode

REFRESH, CLIENT = "refresh-token", "client-credentials"  # the grants, as `oauth ... grant` says it
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
PENDING, SLOW_DOWN = "authorization_pending", "slow_down"

MOST = 64 * 1024  # octets of an answer
MOST_TOKEN = 16 * 1024  # characters of a token
MOST_LIFETIME = 366 * 86400.0  # seconds
MOST_PATIENCE = 3600.0  # seconds for somebody to enter a code
MOST_INTERVAL = 300.0  # seconds between two questions whether he has

_VISIBLE = re.compile(r"[\x20-\x7e]+\Z")  # VSCHAR of RFC 6749 appendix A, and blanks
_UNSEEN = re.compile(r"[^\x20-\x7e]+")
_WIDE = 200  # characters of an error that are passed on
_LATER = ("server_error", "temporarily_unavailable", PENDING, SLOW_DOWN)


class OauthError(Exception):
    """There is no token to be had; the text says why and holds no secret.

    `code` is the provider's own word for it (RFC 6749 section 5.2), where it said one.
    """

    def __init__(self, why: str, code: str = "") -> None:
        super().__init__(why)
        self.code = code

    @property
    def final(self) -> bool:
        """The provider said no, and will until somebody does something about it."""
        return self.code != "" and self.code not in _LATER


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """An `oauth` statement: who gives tokens for a login, and to whom."""

    name: str
    user: str  # who we are at the next hop
    token_url: str
    device_url: str = ""
    client: str = ""
    secret: str = field(default="", repr=False)
    scope: str = ""
    grant: str = REFRESH

    @property
    def binding(self) -> list[str]:
        """What a stored token is good for: with another provider or client it is another's."""
        return [self.token_url, self.client, self.user, self.grant]


@dataclass(frozen=True, slots=True)
class Question:
    """A form to be posted."""

    url: str
    form: Mapping[str, str] = field(repr=False)
    authorization: str = field(default="", repr=False)  # the header field's value

    @property
    def body(self) -> bytes:
        """application/x-www-form-urlencoded."""
        return urlencode(self.form).encode("ascii")

    @property
    def secrets(self) -> list[str]:
        """What must not be shown, should an answer repeat it."""
        names = ("refresh_token", "device_code")
        return [self.form[name] for name in names if name in self.form]


@dataclass(frozen=True, slots=True)
class GrantedTokens:
    """What a provider gave. Times are of the wall clock."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)  # empty: it gave none
    obtained_at: float
    expires_at: float | None  # None: it did not say


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """The beginning of RFC 8628's flow: what to show, and what to ask with."""

    code: str = field(repr=False)
    user_code: str
    url: str
    whole_url: str  # with the code in it; may be empty
    expires_in: float
    interval: float


# questions


def ask_device_code(provider: Provider) -> Question:
    """RFC 8628 section 3.1."""
    return _question(provider, provider.device_url, {**_scope(provider)})


def ask_with_device_code(provider: Provider, device: DeviceCode) -> Question:
    """RFC 8628 section 3.4."""
    form = {"grant_type": DEVICE_CODE, "device_code": device.code}
    return _question(provider, provider.token_url, form)


def ask_with_refresh_token(provider: Provider, refresh: str) -> Question:
    """RFC 6749 section 6; without a scope it is that of the grant."""
    form = {"grant_type": "refresh_token", "refresh_token": refresh}
    return _question(provider, provider.token_url, form)


def ask_as_client(provider: Provider) -> Question:
    """RFC 6749 section 4.4."""
    form = {"grant_type": "client_credentials", **_scope(provider)}
    return _question(provider, provider.token_url, form)


def _scope(provider: Provider) -> dict[str, str]:
    return {"scope": provider.scope} if provider.scope else {}


def _question(provider: Provider, url: str, form: dict[str, str]) -> Question:
    """`client_id` goes along in any case: RFC 8628 wants it, and nobody minds."""
    authorization = ""
    if provider.secret:  # RFC 6749 section 2.3.1: both encoded as in a form, first
        pair = f"{quote_plus(provider.client)}:{quote_plus(provider.secret)}"
        authorization = "Basic " + base64.b64encode(pair.encode("ascii")).decode("ascii")
    return Question(url, {**form, "client_id": provider.client}, authorization)


# answers


def read_tokens(status: int, body: bytes, now: float, hide: Iterable[str] = ()) -> GrantedTokens:
    """RFC 6749 section 5; raises OauthError. `hide`: secrets that it must not repeat to anybody."""
    answer = _answer(status, body, hide)
    kind = answer.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise OauthError("its token is no bearer token")
    access = _token(answer, "access_token")
    if not access:
        raise OauthError("there is no access token in its answer")
    lifetime = _seconds(answer, "expires_in", MOST_LIFETIME)
    until = None if lifetime is None else now + lifetime
    return GrantedTokens(access, _token(answer, "refresh_token"), now, until)


def read_device_code(status: int, body: bytes) -> DeviceCode:
    """RFC 8628 section 3.2; raises OauthError."""
    answer = _answer(status, body)
    code, user_code = _token(answer, "device_code"), _token(answer, "user_code")
    # "verification_url" is how some said it before there was an RFC
    url = _token(answer, "verification_uri") or _token(answer, "verification_url")
    patience = _seconds(answer, "expires_in", MOST_PATIENCE)
    if not (code and user_code and url and patience):
        raise OauthError("its answer is no device code")
    interval = _seconds(answer, "interval", MOST_INTERVAL)
    interval = 5.0 if interval is None else max(interval, 1.0)
    whole = _token(answer, "verification_uri_complete")
    return DeviceCode(code, user_code, url, whole, patience, interval)


def _answer(status: int, body: bytes, hide: Iterable[str] = ()) -> dict[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    if status == 200 and isinstance(answer, dict):
        return answer
    if status == 200:
        raise OauthError("its answer is no JSON object")
    code = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(code, str) or status >= 500 or not _VISIBLE.match(code):
        raise OauthError(f"it said {status}" + (f" ({_shown(code, hide)})" if code else ""))
    assert isinstance(answer, dict)
    more = answer.get("error_description")
    words = f": {_shown(more, hide)}" if isinstance(more, str) and more else ""
    raise OauthError(f"{_shown(code, hide)}{words}", code[:_WIDE])


def _shown(text: object, hide: Iterable[str]) -> str:
    """Somebody else's words, one line of them, without our secrets."""
    words = str(text)
    for secret in hide:
        if secret:
            in_base64 = base64.b64encode(secret.encode()).decode().rstrip("=")
            for form in (secret, quote(secret, safe=""), quote_plus(secret), in_base64):
                words = words.replace(form, "***")
    words = _UNSEEN.sub(" ", words).strip()
    return words if len(words) <= _WIDE else words[:_WIDE] + "..."


def _token(answer: Mapping[str, object], name: str) -> str:
    value = answer.get(name)
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or len(value) > MOST_TOKEN or not _VISIBLE.match(value):
        raise OauthError(f"its {name} cannot be used")
    return value


def _seconds(answer: Mapping[str, object], name: str, most: float) -> float | None:
    """A number of seconds; None: it is not there. Some say it as text."""
    value = answer.get(name)
    if value is None:
        return None
    try:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError
        seconds = float(value)
    except (ValueError, OverflowError):
        raise OauthError(f"its {name} is no number") from None
    if not math.isfinite(seconds):
        raise OauthError(f"its {name} is no number")
    return min(max(seconds, 0.0), most)
