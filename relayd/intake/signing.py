"""Signs copies that leave, in the names that rules give, with the keys that are in force."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from relayd.mail.log import MailLog

if TYPE_CHECKING:
    from relayd.authentication.arc import ArcResult
    from relayd.authentication.dkimsigning import SigningKey


class Signing:
    """One for all sessions of a process."""

    def __init__(
        self,
        keys: Callable[[], Mapping[str, tuple[SigningKey, ...]]],
        clock: Callable[[], float],
        log: MailLog,
    ) -> None:
        """`keys`: by the names of `dkim` statements; `clock`: seconds since the epoch."""
        self._keys = keys
        self._clock = clock
        self._log = log

    def fields(self, names: tuple[str, ...], section: bytes, body: bytes) -> bytes:
        """The signatures; none for what nobody should vouch for. `body` is its body_hash()."""
        # only who signs needs cryptography, which takes its time to load
        from relayd.authentication.dkimsigning import UnsignableError, signature_fields

        known = self._keys()
        keys = [key for name in names for key in known.get(name, ())]  # a reload may end one
        try:
            return signature_fields(section, body, keys, int(self._clock()))
        except UnsignableError as error:
            self._log.notice("not signed", names=",".join(names), why=str(error))
            return b""

    def seal(
        self, name: str, section: bytes, body: bytes, chain: ArcResult, results: bytes
    ) -> bytes:
        """One more set of a chain (RFC 8617), with our Authentication-Results; none likewise."""
        from relayd.authentication.arc import sealed
        from relayd.authentication.dkimsigning import UnsignableError

        keys = self._keys().get(name, ())
        try:
            return sealed(section, body, keys, int(self._clock()), chain, results)
        except UnsignableError as error:
            self._log.notice("not sealed", names=name, why=str(error))
            return b""
