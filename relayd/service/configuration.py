"""The configuration in force: replaced whole by a good one, kept when the new one is bad."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.config import ConfigErrors, Settings, contents
from relayd.dns.reverse import ReverseNames
from relayd.intake.gatheredfacts import Gatherer
from relayd.mail.address import Mailbox
from relayd.mail.envelope import Recipient
from relayd.mail.log import MailLog
from relayd.mail.outcome import Outcome
from relayd.ops.explain import explain
from relayd.ops.text import moment
from relayd.reactor.coroutine import log_bug, spawn
from relayd.relay.protection import Protection
from relayd.relay.resolve import Directory
from relayd.relay.route import route
from relayd.relay.tlsview import tls_lines
from relayd.rules.check.shrunk import shrunk
from relayd.rules.evaluate import Facts
from relayd.rules.fact import Fact
from relayd.rules.ruleset import Ruleset

TAKE_IT = '"relayctl reload" puts it in force'


@dataclass(frozen=True, slots=True)
class RefusedConfiguration:
    """A configuration on disk that is not in force."""

    since: float  # seconds since the epoch
    why: str  # as `reload` prints it
    last_good: float | None = None  # it was so at the start: since when what is in force was so


class Configuration:
    """The settings in force. `reread` reads them from disk again; it raises ConfigErrors.

    What holds until a restart is to stay as it is in what is read (see relayd.config.load).
    A setting takes effect in one of two ways: who needs it reads it from `settings` when it is
    needed, or is told of it with `keep_up`, at the start and with every reload alike.

    Only reading takes long, and only it is done off the reactor's thread: what is read is swapped
    in between two events, so no session ever sees half of it.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Awaitable[Settings]],
        log: MailLog,
        clock: Callable[[], float] = time.time,
        refused: RefusedConfiguration | None = None,
    ) -> None:
        """`refused`: what is on disk, where these settings are the last good ones."""
        self.settings = settings
        self.refused = refused
        self._reread = reread
        self._log = log
        self._read = settings  # the last good ones, in force or only checked
        self._changed: list[Callable[[Settings], None]] = []
        self._clock = clock
        # since when it is in force, seconds since the epoch
        self.since = (refused and refused.last_good) or clock()
        self._asked: list[Deferred[str]] = []
        self._wanted = False  # by somebody who asks, not by files that have changed
        self._reloading = False

    @property
    def restart(self) -> list[str]:
        """The settings on disk that are not in force before a restart."""
        return list(self.settings.waiting)

    def on_change(self, changed: Callable[[Settings], None]) -> None:
        """Call this with every new configuration."""
        self._changed.append(changed)

    def keep_up(self, changed: Callable[[Settings], None]) -> None:
        """Call this with the configuration now, and with every new one."""
        changed(self.settings)
        self.on_change(changed)

    def reload(self, *, by_itself: bool = False) -> Deferred[str]:
        """Put the configuration on disk in force; or keep the old one and say why not.

        `by_itself`: nobody has asked for it. Then a table that has lost most of its entries is a
        reason to keep the old one, too.

        Who asks while one is being read gets the answer of the next, which sees what changed
        meanwhile; however many ask, they share it.
        """
        answer: Deferred[str] = Deferred()
        self._asked.append(answer)
        self._wanted |= not by_itself
        if not self._reloading:
            self._reloading = True
            spawn(self._take_turns(), partial(log_bug, self._log, "bug"))
        return answer

    async def _take_turns(self) -> None:
        try:
            while self._asked:
                asked, self._asked = self._asked, []
                wanted, self._wanted = self._wanted, False
                complaint = await self._reload_once(wanted=wanted)
                for answer in asked:
                    answer.callback(complaint)
        finally:
            self._reloading = False

    async def _reload_once(self, *, wanted: bool) -> str:
        try:
            fresh = await self._reread()
        except ConfigErrors as errors:
            return self._refuse(str(errors))
        except Exception as error:  # a bug in reading it must not cost us the old one
            return self._refuse(f"the configuration cannot be read: {error!r}")
        less = [] if wanted else shrunk(self.settings.ruleset, fresh.ruleset)
        if less:
            return self._refuse("\n".join(f"{each}; {TAKE_IT}" for each in less))
        self.refused = None
        self.settings = self._read = fresh
        self.since = self._clock()
        for word in self.restart:
            self._log.trouble("restart needed", setting=word)
        self.warn()
        broken = [each for each in self._changed if not self._told(each, fresh)]
        self._log.notice("reloaded", rules=fresh.ruleset.hash)
        if broken:
            return "in force, but a fault of relayd's keeps parts of it back; see its log"
        return ""

    def _refuse(self, why: str) -> str:
        """Keep what is in force; for how long, and why, `status` tells."""
        self._log.trouble("reload refused", why=why.replace("\n", " | "))
        refused = self.refused or RefusedConfiguration(self._clock(), why)
        self.refused = replace(refused, why=why)
        return why

    def _told(self, changed: Callable[[Settings], None], fresh: Settings) -> bool:
        """Whether it took the new configuration; a bug in one keeps nothing from the others."""
        try:
            changed(fresh)
        except Exception:
            log_bug(self._log, "bug", Failure())  # type: ignore[no-untyped-call]
            return False
        return True

    def warn(self) -> None:
        """Log what is allowed but hardly meant, such as an open relay, and what is not in force."""
        if self.refused is not None:
            since = moment(self.refused.last_good or 0)
            self._log.trouble("started with the last good configuration", since=since)
            for line in self.refused.why.split("\n"):  # a line each: a value is cut, and so wide
                self._log.trouble("configuration refused", why=line)
        for warning in self.settings.warnings:
            self._log.trouble("configuration", why=str(warning).replace("\n", " | "))

    async def check(self) -> str:
        """What a reload would complain about; empty when it is good."""
        try:
            self._read = replace(await self._reread(), texts=None)
        except ConfigErrors as errors:
            return str(errors)
        return ""

    def said(self) -> dict[str, Any]:
        """What a good answer of `check` or `reload` says: warnings, and what was read."""
        warnings = [str(each) for each in self._read.warnings]
        return {**({"warnings": warnings} if warnings else {}), "read": contents(self._read)}


class Enquiry:
    """Answers `relayctl explain` from the rules in force and the DNS of now."""

    def __init__(
        self,
        configuration: Configuration,
        directory: Directory,
        protection: Callable[[], Protection] | None = None,
        names: ReverseNames | None = None,
        gatherer: Gatherer | None = None,
    ) -> None:
        """`protection`: by the settings of now; without, nothing is said of TLS.

        `names`: of clients; without, they are not known. `gatherer`: who asks for what rules look
        at; without, that is not known.
        """
        self._configuration = configuration
        self._directory = directory
        self._names = names
        self._gatherer = gatherer
        self._protection = protection

    def explain(self, question: Mapping[str, object]) -> Awaitable[dict[str, Any]]:
        """See relayd.ops.explain."""
        return explain(
            self._configuration.settings.ruleset,
            question,
            self._describe,
            self._reverse_name,
            self._gather,
            None if self._gatherer is None else self._gatherer.supposing,
        )

    async def _gather(self, ruleset: Ruleset, fact: Fact, facts: Facts) -> object:
        if self._gatherer is None:
            return None
        value = self._gatherer.look(ruleset, fact, facts)
        return await value if isinstance(value, Deferred) else value

    async def _reverse_name(self, address: str) -> str | None:
        if self._names is None:
            return None
        lookup = self._names.look_up(address)
        await lookup.wait()
        lookup.cancel()
        return lookup.name

    async def _describe(self, next_hop: str, mailbox: Mailbox) -> Sequence[str]:
        settings = self._configuration.settings
        recipient = Recipient(mailbox, mailbox, next_hop)
        hop = route(recipient, settings.next_hops, settings.ruleset.pacing.sources)
        if isinstance(hop, Outcome):
            return [str(hop.reply)]
        lines: list[str] = []
        protection = self._protection and self._protection()
        if hop.source is not None:
            lines.append(str(hop.source))
        for where in hop.targets:
            survey = await self._directory.survey(where)
            lines += survey.lines()
            if protection is not None:
                lines += await tls_lines(protection, where, survey)
        return lines
