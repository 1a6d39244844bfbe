"""What OpenSSL says, in words for a log line."""

from __future__ import annotations


def reason(error: BaseException | None) -> str:
    """Why TLS failed, in OpenSSL's own words."""
    found = error.args[0] if error is not None and error.args else None
    if isinstance(found, list):
        return str(found[-1][-1]) if found else "the connection ended"
    return str(error) or type(error).__name__
