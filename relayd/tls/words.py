"""What OpenSSL says, in words for a log line."""

from __future__ import annotations

# OpenSSL's name for SSL_R_CERTIFICATE_VERIFY_FAILED: pyOpenSSL gives no number. It stands alone in
# its place, where nothing that a peer says ever stands.
_UNVERIFIED = "certificate verify failed"


def is_unverified(error: BaseException) -> bool:
    """Whether the peer's certificate leads to no authority that is trusted."""
    found = error.args[0] if error.args else None
    return isinstance(found, list) and bool(found) and found[-1][-1] == _UNVERIFIED


def reason(error: BaseException | None) -> str:
    """Why TLS failed, in OpenSSL's own words."""
    found = error.args[0] if error is not None and error.args else None
    if isinstance(found, list):
        return str(found[-1][-1]) if found else "the connection ended"
    return str(error) or type(error).__name__
