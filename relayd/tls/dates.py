"""Until when certificates hold, as their files say now."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from relayd.tls.files import CertificateFiles
from relayd.tls.pair import CertificateError, load
from relayd.tls.renewal import Stamps, stamps


@dataclass(frozen=True, slots=True)
class CertificateDate:
    """One certificate with its key."""

    file: Path
    until: float  # seconds since the epoch; 0: not known
    trouble: str  # why what is in the files cannot be served; empty: it can


class CertificateDates:
    """Looks into files that have changed since it was asked last, and into no others."""

    def __init__(self) -> None:
        self._known: dict[CertificateFiles, tuple[Stamps, CertificateDate]] = {}

    def of(self, wanted: Iterable[CertificateFiles]) -> Iterator[CertificateDate]:
        """Each of these, once."""
        known, self._known = self._known, {}
        for files in wanted:
            now = stamps(files)
            seen = self._known.get(files) or known.get(files)
            if seen is None or seen[0] != now:
                seen = (now, _date(files))
            self._known[files] = seen
        yield from {date.file: date for _, date in self._known.values()}.values()


def _date(files: CertificateFiles) -> CertificateDate:
    try:
        expires = load(files).expires
    except CertificateError as error:
        return CertificateDate(files.certificate, 0.0, str(error))
    until = expires.replace(tzinfo=datetime.UTC).timestamp()
    return CertificateDate(files.certificate, until, "")
