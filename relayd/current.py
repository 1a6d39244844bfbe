"""The configuration in force: replaced whole by a good one, kept when the new one is bad."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from relayd.config import ConfigErrors, Settings
from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.log import MailLog
from relayd.mail.outcome import Outcome
from relayd.ops.explain import explain
from relayd.relay.resolve import Directory
from relayd.relay.route import route

# read once, at the start
_FIXED = ("hostname", "spool", "control", "workers", "listeners", "resolver", "relay_port")


class Current:
    """The settings in force. `reread` reads them from disk again; it raises ConfigErrors."""

    def __init__(self, settings: Settings, reread: Callable[[], Settings], log: MailLog) -> None:
        self.settings = settings
        self._reread = reread
        self._log = log
        self._changed: list[Callable[[Settings], None]] = []

    def on_change(self, changed: Callable[[Settings], None]) -> None:
        """Call this with every new configuration."""
        self._changed.append(changed)

    def reload(self) -> str:
        """Put the configuration on disk in force; or keep the old one and say why not."""
        try:
            fresh = self._reread()
        except ConfigErrors as errors:
            self._log.trouble("reload refused", why=str(errors).replace("\n", " | "))
            return str(errors)
        for name in _FIXED:
            if getattr(fresh, name) != getattr(self.settings, name):
                self._log.trouble("restart needed", setting=name.replace("_", "-"))
        self.settings = fresh
        for changed in self._changed:
            changed(fresh)
        self._log.notice("reloaded", rules=fresh.ruleset.hash)
        return ""

    def check(self) -> str:
        """What a reload would complain about; empty when it is good."""
        try:
            self._reread()
        except ConfigErrors as errors:
            return str(errors)
        return ""


class Enquiry:
    """Answers `relayctl explain` from the rules in force and the DNS of now."""

    def __init__(self, current: Current, directory: Directory) -> None:
        self._current = current
        self._directory = directory

    def explain(self, question: Mapping[str, object]) -> Awaitable[dict[str, Any]]:
        """See relayd.ops.explain."""
        return explain(self._current.settings.ruleset, question, self._describe)

    async def _describe(self, next_hop: str, mailbox: Mailbox) -> Sequence[str]:
        hop = route(Recipient(mailbox, mailbox, next_hop), self._current.settings.next_hops)
        if isinstance(hop, Outcome):
            return [str(hop.reply)]
        lines: list[str] = []
        for where in hop.next_hops or (hop.domain,):
            lines += (await self._directory.survey(where)).lines()
        return lines
