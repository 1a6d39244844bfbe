"""Where everybody on this machine may ask, told apart for relayctl, which starts in a blink."""

from __future__ import annotations

from pathlib import Path


def public_path(control: Path) -> Path:
    """The socket for everybody, beside the operators' own."""
    return control.with_name(f"{control.name}.mailq")
