"""PostSRSd, which Postfix asks through two tables, becomes `srs` with the same keys."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from relayd.mail.address import AddressError, check_domain
from relayd.migrate.draft import KEYS
from relayd.migrate.tables import MapSpec, decoded, maps
from relayd.migrate.work import Work

SENDERS, RECIPIENTS = "sender_canonical_maps", "recipient_canonical_maps"
_FORWARD = re.compile(r"(?:socketmap:.*:forward|tcp:.*:10001)\Z")
_REVERSE = re.compile(r"(?:socketmap:.*:reverse|tcp:.*:10002)\Z")
_OLD = re.compile(r"^\s*(SRS_\w+)=[\"']?([^\"'\n]*)", re.MULTILINE)
_NEW = re.compile(r"^\s*([a-z-]+)\s*=\s*(\{[^}]*\}|\"[^\"]*\"|\S+)", re.MULTILINE)
_QUOTED = re.compile(r'"([^"]*)"')
_ADDRESS = 'regex "^srs[01][-+=]"'
_BY_HAND = "write `srs domain DOMAIN keys file srs.keys`, with the keys of PostSRSd: docs/srs.md"


@dataclass
class _PostSrsd:
    """Its own settings."""

    domain: str = ""
    ours: Sequence[str] = ()
    secrets: str = "/etc/postsrsd.secret"


def srs(work: Work) -> None:
    """Take PostSRSd's tables out of the canonical maps, and write what stands for them."""
    found: list[MapSpec] = []
    for setting, shape in ((SENDERS, _FORWARD), (RECIPIENTS, _REVERSE)):
        specs = maps(work.main[setting], work.main["default_database_type"])
        found += [spec for spec in specs if shape.match(str(spec))]
    if not found:
        return
    work.elsewhere |= set(found)
    told = _settings(work)
    keys = _keys(work, told.secrets) if told is not None else []
    settings = [each for each in (SENDERS, RECIPIENTS) if work.main[each]]
    if told is None or not keys or not _good(told.domain):
        why = "PostSRSd's settings or its keys cannot be read here"
        for setting in settings:
            work.report.lost(setting, f"{why}: {_BY_HAND}")
        work.close((f"to {_ADDRESS}",), settings[-1], f"{why}, so its addresses lead nowhere")
        return
    work.draft.keys = keys
    work.draft.setting(f"srs domain {told.domain} keys file {KEYS}", "PostSRSd's keys, mode 0600")
    for domain in told.ours:
        if _good(domain.lstrip(".")):
            work.draft.setting(f"srs except sender @{domain}")
    for setting in settings:
        work.report.translated(
            setting,
            f"PostSRSd: srs domain {told.domain}, with its keys. Only what is forwarded gets such"
            " a sender, not all mail",
        )


def _good(domain: str) -> bool:
    try:
        check_domain(domain)
    except AddressError:
        return False
    return bool(domain)


def _settings(work: Work) -> _PostSrsd | None:
    """postsrsd.conf of version 2, or the file of Debian's init script of version 1."""
    for name in ("postsrsd.conf", "default/postsrsd", "postsrsd"):
        text = _text(work, name)
        if text is None:
            continue
        old, new = dict(_OLD.findall(text)), dict(_NEW.findall(text))
        if old:
            return _PostSrsd(
                old.get("SRS_DOMAIN", ""),
                old.get("SRS_EXCLUDE_DOMAINS", "").replace(",", " ").split(),
                old.get("SRS_SECRET", _PostSrsd.secrets),
            )
        if new:
            ours = _QUOTED.findall(new.get("domains", ""))
            domain = new.get("srs-domain", "").strip('"') or (ours[0] if ours else "")
            secrets = new.get("secrets-file", "").strip('"') or _PostSrsd.secrets
            return _PostSrsd(domain, ours, secrets)
    return None


def _keys(work: Work, name: str) -> list[str]:
    text = _text(work, Path(name).name)
    return [line.strip() for line in (text or "").splitlines() if line.strip()]


def _text(work: Work, name: str) -> str | None:
    """A file of /etc, beside the folder or, with its last name, in it."""
    for path in (work.main.folder / Path(name).name, work.main.folder.parent / name):
        try:
            return decoded(path.read_bytes())
        except OSError:
            continue
    return None
