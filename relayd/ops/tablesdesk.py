"""What `relayctl table` asks of a running relayd: how directories are, and to believe one."""

from __future__ import annotations

from relayd.directories.refresher import NoSuchTableError, Refresher
from relayd.mail.log import MailLog
from relayd.ops.documents import Document, Request, RequestError, text_of
from relayd.rules.language.source import did_you_mean


class TablesDesk:
    """One for all of relayd: one process reads what all look up."""

    def __init__(self, refresher: Refresher, log: MailLog) -> None:
        self._refresher = refresher
        self._log = log

    def answer(self, request: Request, who: str) -> Document:
        """The answer to a request; raises RequestError."""
        name = text_of(request, "accept")
        if not name:
            return {"tables": self._refresher.figures()}
        try:
            entries = self._refresher.accept(name)
        except NoSuchTableError:
            known = self._refresher.names
            if name in known:
                raise RequestError(f"nothing of table {name} waits to be accepted") from None
            hint = did_you_mean(name, known) or "no directory is read into such a table"
            raise RequestError(f"there is no table {name}; {hint}") from None
        except OSError as error:
            raise RequestError(f"table {name}: {error.strerror or error}") from None
        self._log.notice("operator", command="table accept", by=who, table=name, entries=entries)
        return {"accepted": name, "entries": entries}
