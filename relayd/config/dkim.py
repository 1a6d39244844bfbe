"""Reads the private keys that `dkim` statements name: each once, when the configuration is."""

from __future__ import annotations

from pathlib import Path

from relayd.authentication.dkimsigning import PrivateKeyError, SigningKey, private_key
from relayd.config.files import require_private, similar_file
from relayd.rules.language.model import KeyFile
from relayd.rules.language.source import Complaint

_MOST = 64 * 1024  # octets; a file of another kind is not read whole


def read_key(domain: str, named: KeyFile, path: Path) -> SigningKey:
    """The key in this file; raises Complaint, which shows nothing of it."""
    try:
        require_private(path, named.file, named.place)
        with path.open("rb") as file:
            octets = file.read(_MOST)
    except OSError as error:
        what = f"cannot read {named.file}: {error.strerror or error}"
        hint = similar_file(path)
        if isinstance(error, FileNotFoundError):
            hint += '; "relayctl dkim make NAME" makes it'
        raise Complaint(named.place, what, hint) from None
    try:
        return SigningKey(domain, named.selector, private_key(octets))
    except PrivateKeyError as error:
        raise Complaint(
            named.place,
            f"{named.file}: {error}",
            "expected an RSA (2048 bits or more) or Ed25519 private key in PEM",
        ) from None
