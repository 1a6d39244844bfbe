"""Where a configuration says that the control socket is, read without loading the language."""

from __future__ import annotations

import re
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/relayd/relayd.conf")
DEFAULT_SPOOL = "/var/spool/relayd"
SOCKET_NAME = "control"  # in the spool directory, unless the `control` setting says otherwise

# The two settings that say where the socket is; the whole language takes longer to load.
_SETTING = re.compile(
    r"^(control|spool)[ \t]+"
    r'(?:postgresql[ \t]+"(?:[^"\\]|\\.)*"[ \t]+folder[ \t]+)?'
    r'(?:"((?:[^"\\]|\\.)*)"|([^\s#"]+))[ \t]*(?:#.*)?$'
)


class FailureError(Exception):
    """The command failed; `str(error)` goes to standard error."""


def socket_of(config: Path) -> Path:
    """The control socket that a configuration names; raises FailureError."""
    try:
        found = _said(config)
    except OSError as error:
        usual = Path(DEFAULT_SPOOL, SOCKET_NAME)
        if config == DEFAULT_CONFIG and usual.exists():  # it runs with the last good one
            return usual
        raise FailureError(
            f"{config}: {error.strerror}; say where relayd is with --config or --socket"
        ) from None
    if "control" in found:
        return config.parent / found["control"]
    return config.parent / found.get("spool", DEFAULT_SPOOL) / SOCKET_NAME


def spools_of(config: Path) -> list[Path]:
    """Where the spool of a configuration may be, however wrong it is: where it says, or usually."""
    try:
        named = _said(config).get("spool", DEFAULT_SPOOL)
    except OSError:
        named = DEFAULT_SPOOL
    return [*dict.fromkeys([config.parent / named, Path.cwd(), Path(DEFAULT_SPOOL)])]


def _said(config: Path) -> dict[str, str]:
    """What its own lines say of either setting; raises OSError."""
    found: dict[str, str] = {}
    with config.open(encoding="utf-8", errors="surrogateescape") as lines:
        for line in lines:
            match = _SETTING.match(line.rstrip())
            if match is not None:
                quoted = match.group(2)
                plain = match.group(3)
                found[match.group(1)] = plain or re.sub(r"\\(.)", r"\1", quoted)
    return found
