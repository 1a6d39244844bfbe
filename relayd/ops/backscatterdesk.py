"""What `relayctl backscatter` asks of a running relayd: which reports strangers did not get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from relayd.config import Settings
from relayd.mail.ident import ident_text
from relayd.mail.log import MailLog
from relayd.ops.documents import Document, Request, RequestError
from relayd.relay.keptreports import KeptReports
from relayd.report.backscatter import KeptShare, KeptSummary


class BackscatterDesk:
    """One for all of relayd: what is kept is the same in every process."""

    def __init__(
        self,
        kept: KeptReports,
        settings: Callable[[], Settings],
        log: MailLog,
        now: Callable[[], float],
    ) -> None:
        self._kept = kept
        self._settings = settings
        self._log = log
        self._now = now

    def answer(self, request: Request, who: str) -> Document:
        """The answer to a request; raises RequestError."""
        answer: Document = {"budget": str(self._settings().report_budget)}
        try:
            if request.get("send") is True:
                answer["asked"] = self._kept.some and self._kept.ask(self._now())
                if answer["asked"]:
                    self._log.notice("operator", command="backscatter --send", by=who)
            found = self._kept.summaries() if self._kept.some else ()
        except OSError as error:
            raise RequestError(f"what is kept cannot be read: {error.strerror}") from None
        return {**answer, "kept": [_document(each) for each in found]}


def kept_back(kept: KeptReports) -> int:
    """How many reports the postmaster has not been told of; 0 where that cannot be read."""
    try:
        return kept.waiting() if kept.some else 0
    except OSError:
        return 0


def _document(kept: KeptSummary) -> Document:
    document = asdict(kept)
    document["told_at"] = max(kept.told_at, 0.0)
    for name in ("senders", "clients", "reasons"):
        document[name] = [_share(each) for each in getattr(kept, name)]
    return document


def _share(share: KeptShare) -> Document:
    return {**asdict(share), "message": ident_text(share.message)}
