"""Processes that run our own code."""

from __future__ import annotations

import os
import sys


def environment() -> dict[str, str]:
    """Ours, less what systemd meant for this process alone, plus where our own code is."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("LISTEN_") and name not in ("NOTIFY_SOCKET", "WATCHDOG_PID")
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return environment
