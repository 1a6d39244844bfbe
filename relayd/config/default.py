"""The embedded default, for a first look: loopback only, with one example domain."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from relayd.config.load import load_text
from relayd.config.settings import Settings

DEFAULT = """\
spool    run/spool
listen   127.0.0.1:2525
workers  1

next-hop demo smtp 127.0.0.1:2626

accept   from 127.0.0.0/8, ::1

forward  info@example.com -> alice@example.com

route    to @example.com  via demo
route    any              direct

expect   from 127.0.0.1 to info@example.com -> alice@example.com via demo
expect   from 203.0.113.9 to info@example.com -> reject 550
"""
"""What `twistd -n relayd` runs without --config; nothing in it leaves the machine by itself."""


def embedded(folder: Path, fixed: Mapping[str, Any] | None = None) -> Settings:
    """The default's settings, with the spool below `folder`; `fixed` as for `load`."""
    return load_text(DEFAULT, folder, fixed=fixed)
