"""Names that are no name for a host that speaks to others: they refuse what greets them so."""

from __future__ import annotations

from relayd.rules.language.source import Place, Problem

_THIS_HOST = ("localhost", "localdomain")  # RFC 6761, and what distributions make of it


def hostname_cautions(name: str, place: Place, *, given: bool) -> list[Problem]:
    """A warning for a hostname that others would not take, `given` or the system's own."""
    wrong = _wrong(name)
    if not wrong:
        return []
    whose = f"the hostname {name}" if given else f"no hostname is set, and the system's, {name},"
    return [
        Problem(
            place,
            f"{whose} is {wrong}: many hosts take no mail from such",
            "expected the full name that this host's address leads to, as in "
            '"hostname gw.example.com"',
        )
    ]


def _wrong(name: str) -> str:
    text = name.rstrip(".").lower()
    if text.rpartition(".")[2] in _THIS_HOST:
        return "every host's name for itself"
    if text.replace(".", "").isdigit():
        return "an address"
    return "" if "." in text else "a bare word"
