"""Spools of each format ever released, as the relayd of then wrote them (see make.py)."""

from __future__ import annotations

import tarfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def unpack(number: int, folder: Path) -> Path:
    """The spool of this format, in `folder`."""
    with tarfile.open(FOLDER / f"format-{number}.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)
    return folder / "spool"
