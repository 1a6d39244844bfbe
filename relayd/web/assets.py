"""What pages load besides their text. Each name has its hash in it, so browsers keep it for good.

What others have made stands in vendor/ as they made it, with its hash and its licence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_HERE = Path(__file__).parent
_VENDOR = _HERE / "vendor"
CSS, JAVASCRIPT = "text/css; charset=utf-8", "text/javascript; charset=utf-8"

ASSETS: dict[str, tuple[str, bytes]] = {}
"""Kind and content by path."""


def _asset(name: str, kind: str, *files: Path) -> str:
    content = b"\n".join(file.read_bytes() for file in files)
    stem, _, suffix = name.rpartition(".")
    path = f"/{stem}-{hashlib.sha256(content).hexdigest()[:16]}.{suffix}"
    ASSETS[path] = kind, content
    return path


STYLE = _asset("style.css", CSS, _VENDOR / "uPlot.min.css", _HERE / "style.css")
ICON = _asset("icon.svg", "image/svg+xml", _HERE / "icon.svg")
HTMX = _asset("htmx.js", JAVASCRIPT, _VENDOR / "htmx.min.js")
LIVE = _asset("live.js", JAVASCRIPT, _VENDOR / "uPlot.iife.min.js", _HERE / "live.js")
