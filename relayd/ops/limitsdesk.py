"""What `relayctl limits` asks of a running relayd: who is near a limit, and to count one anew."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from relayd.config import Settings
from relayd.intake.counting import Limits
from relayd.mail.address import AddressError
from relayd.mail.log import MailLog
from relayd.ops.documents import Document, Request, RequestError, text_of
from relayd.rules.language.model import LimitDef
from relayd.rules.language.source import name_hint

NAMED = 5  # keys of a limit that `status` names
MOST = 1000  # keys told of one limit, those that were counted most first


class LimitsDesk:
    """One for all of relayd: the counts are the same in every process."""

    def __init__(self, limits: Limits, settings: Callable[[], Settings], log: MailLog) -> None:
        self._limits = limits
        self._settings = settings
        self._log = log

    def answer(self, request: Request, who: str) -> Document:
        """The answer to a request; raises RequestError."""
        self._limits.keep(self._settings().ruleset.limits)
        chosen = self._chosen(text_of(request, "name"))
        key = text_of(request, "forget")
        try:
            if not key:
                return {"limits": [self._told(each) for each in chosen]}
            forgotten = [each.name for each in chosen if self._limits.forget(each, key)]
        except OSError as error:
            raise RequestError(f"the counts cannot be read: {error.strerror or error}") from None
        except AddressError as error:
            raise RequestError(f"{key!r} is nobody who is counted: {error}") from None
        if forgotten:
            named = ",".join(forgotten)
            self._log.notice("operator", command="limits forget", by=who, key=key, limits=named)
        return {"key": key, "forgotten": forgotten}

    def reached(self) -> list[Document]:
        """Limits that somebody has reached now, for `status`; none where that cannot be read."""
        self._limits.keep(self._settings().ruleset.limits)
        try:
            told = [self._told(each) for each in self._chosen("")]
        except OSError:
            return []
        found = []
        for each in told:
            over = [key["key"] for key in each.pop("near") if key["over"]]
            more = each.pop("more")
            if over:
                # whoever is counted most comes first, so what was cut off is over only if all are
                in_all = len(over) + (more if len(over) == MOST else 0)
                found.append({**each, "over": in_all, "keys": over[:NAMED]})
        return found

    def _chosen(self, name: str) -> Iterable[LimitDef]:
        known = self._settings().ruleset.limits
        if not name:
            return known.values()
        if name not in known:
            hint = name_hint(name, known)
            raise RequestError(f"there is no limit {name}; {hint}")
        return (known[name],)

    def _told(self, limit: LimitDef) -> Document:
        near = sorted(self._limits.near(limit), key=lambda each: (-each[1], each[0]))
        return {
            "name": limit.name,
            "most": limit.most,
            "seconds": limit.seconds,
            "counts": limit.what,
            "per": limit.per.value,
            "near": [
                {"key": key, "count": count, "over": count >= limit.most}
                for key, count in near[:MOST]
            ],
            "more": max(len(near) - MOST, 0),
        }
