"""One-time codes by time (RFC 6238), as every authenticator application makes them.

HMAC-SHA-1, six digits, steps of 30 seconds: what all of them can. It is the standard library's
`hmac` and a modulus; what a library would not do is to take each code once only (section 5.2).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
import struct
from urllib.parse import quote

STEP = 30  # seconds
DIGITS = 6
SECRET = 20  # octets: as long as the hash (RFC 4226 section 4, R6)
DRIFT = 1  # steps to either side: clocks differ, and people type slowly (section 5.2)


def new_secret() -> bytes:
    """A secret for one account."""
    return secrets.token_bytes(SECRET)


def secret_of(text: str) -> bytes:
    """A secret in base32, as it is written; raises ValueError."""
    bare = text.replace(" ", "").upper().rstrip("=")
    try:
        found = base64.b32decode(bare + "=" * (-len(bare) % 8))
    except binascii.Error:
        raise ValueError("the secret is not base32") from None
    if len(found) < 16:
        raise ValueError("the secret is shorter than 128 bits")  # RFC 4226 section 4, R6
    return found


def secret_text(secret: bytes) -> str:
    """The secret in base32, without padding."""
    return base64.b32encode(secret).decode("ascii").rstrip("=")


def code_at(secret: bytes, step: int, digits: int = DIGITS) -> str:
    """The code of a step: HOTP (RFC 4226 section 5.3) with the time as its counter."""
    made = hmac.digest(secret, struct.pack(">Q", step), "sha1")
    at = made[-1] & 0xF
    number: int = struct.unpack_from(">I", made, at)[0] & 0x7FFFFFFF
    return f"{number % 10**digits:0{digits}}"


def step_of(secret: bytes, code: str, now: float) -> int | None:
    """The step that this is the code of, around `now` (seconds since the epoch); None: of none."""
    typed = code.replace(" ", "").encode()
    middle = int(now // STEP)
    found = None
    for step in range(middle - DRIFT, middle + DRIFT + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), typed):
            found = step
    return found


def address_of(secret: bytes, name: str, issuer: str) -> str:
    """The otpauth: address that an authenticator takes, mostly as a QR code."""
    label = quote(f"{issuer}:{name}", safe="")
    return f"otpauth://totp/{label}?secret={secret_text(secret)}&issuer={quote(issuer, safe='')}"
