"""A reload brings a process to where a start with the new settings would have brought it.

Two gateways are built, neither of them started: one with the old settings, which then hears of the
new ones by a reload, and one with the new settings from the beginning. Whatever they have made of
their settings must be the same, in every object that can be reached from them.
"""

from __future__ import annotations

import enum
import functools
import tempfile
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as the_reactor

from relayd.config import Settings, load_text
from relayd.config.fixed import fixed_of, statements_of
from relayd.config.settings import SPECS, Effect
from relayd.rules.ruleset import Ruleset
from relayd.service.configuration import Configuration
from relayd.service.gateway import Gateway
from tests.certs import Authority
from tests.support import TestCase
from tests.unit.intake.scene import FakeLog

reactor: Any = the_reactor

BASE = """\
table people users file people
listen 127.0.0.1:2525
listen 127.0.0.1:2587 auth people submission
auth-without-tls yes
accept from 127.0.0.1
"""

OTHER = {
    "hostname": "hostname other.example",
    "spool": "spool other",
    "node": "node other",
    "away": 'spool postgresql "service=relayd"\naway keep other',
    "control": "control other",
    "metrics": "metrics listen 127.0.0.1:9099\nmetrics listen unix:/run/relayd/metrics",
    "console": "console listen unix:/run/relayd/console.sock\n"
    "console listen unix:/run/relayd/people.sock auth people",
    "hook": "hook crm https://crm.example/mail events delivered secret file hook.key",
    "workers": "workers 7",
    "listen": "listen 127.0.0.1:2526",
    "retry": "retry 7m",
    "warn-after": "warn-after 7m",
    "give-up": "give-up 7d",
    "reports": "reports for strangers as-asked whole",
    "report-size": "report-size 7KiB",
    "resolver": "resolver 127.0.0.7",
    "client-names": "client-names no",
    "certificate": "certificate other.pem key other.key",
    "tls-minimum": "tls-minimum 1.3",
    "tls-authorities": "tls-authorities other.pem",
    "tls": "tls to @example.com required",
    "tls-reports": "tls-reports from postmaster@example.com",
    "auth-without-tls": "auth-without-tls no\ncertificate other.pem key other.key",
    "origin": "origin other.example",
    "secrets": "secrets secrets",
    "oauth": "oauth isp user a@b.example client 7 scope x token https://login.isp.example/token"
    " device https://login.isp.example/device",
    "message-size": "message-size 7MiB",
    "recipients": "recipients 7",
    "header-size": "header-size 7KiB",
    "hops": "hops 7",
    "command-length": "command-length 777",
    "errors-per-session": "errors-per-session 7",
    "sessions": "sessions 77",
    "cut-through-share": "cut-through-share 7",
    "sessions-per-client": "sessions-per-client 7",
    "new-sessions-per-minute": "new-sessions-per-minute 7",
    "bare-newlines": "bare-newlines normalise",
    "command-timeout": "command-timeout 7s",
    "session-timeout": "session-timeout 7s",
    "content-timeout": "content-timeout 7s",
    "relay-port": "relay-port 777",
    "internal-destinations": "internal-destinations 10.0.0.0/8",
    "deliveries": "deliveries 77",
    "deliveries-per-destination": "deliveries-per-destination 7",
    "connection-messages": "connection-messages 7",
    "connect-timeout": "connect-timeout 7s",
    "content-in-memory": "content-in-memory 7KiB",
    "free-space": "free-space 7KiB",
    "free-inodes": "free-inodes 7",
    "drop-files": "drop-files 7",
    "drop-size": "drop-size 7KiB",
    "ledger": "ledger 7h",
    "journal": "journal 7h",
    "journal-size": "journal-size 7MiB",
    "watch": "watch 7s",
}
"""Each setting with a value that is not its default, and what it cannot be without."""

READ_IN_TIME = {
    "reports",
    "report-size",
    "tls-reports",
    "secrets",
    "oauth",
    "internal-destinations",
    "watch",
    "hook",
}
"""Those that nothing is made of: who needs them reads them from the configuration in force."""

OPTIONS = {
    "tls": "listen 127.0.0.1:2525 tls none",
    "submission": "listen 127.0.0.1:2525 submission",
    "auth": "listen 127.0.0.1:2525 auth people",
    "proxy": "listen 127.0.0.1:2525 proxy 10.0.0.7",
    "xclient": "listen 127.0.0.1:2525 xclient 10.0.0.7 xclient-login",
}
"""Each option of a listener that stays."""

_NOT_MADE = (
    Configuration,
    Settings,
    Ruleset,
    FakeLog,
    type,
    types.ModuleType,
    types.BuiltinFunctionType,
)
_CALLABLES = (types.FunctionType, types.MethodType, functools.partial)


def made(
    what: object, at: str = "", seen: dict[int, str] | None = None
) -> Iterator[tuple[str, object]]:
    """Every plain value that can be reached, by where it is; not the settings themselves."""
    seen = {} if seen is None else seen
    if what is None or isinstance(what, (bool, int, float, str, bytes, Path, enum.Enum)):
        yield at, what
        return
    if what is reactor or isinstance(what, _NOT_MADE):
        return
    if id(what) in seen:
        yield at, f"see {seen[id(what)]}"
        return
    seen[id(what)] = at
    for name, part in parts(what):
        yield from made(part, f"{at}.{name}", seen)


def parts(what: Any) -> Iterator[tuple[str, object]]:  # noqa: ANN401
    """What it consists of, by name."""
    if isinstance(what, Mapping):
        yield from ((str(key), value) for key, value in what.items())
        yield "keys", " ".join(map(str, what))
    elif isinstance(what, (list, tuple)):
        yield from ((str(number), each) for number, each in enumerate(what))
    elif isinstance(what, (set, frozenset)):
        yield "members", " ".join(sorted(map(str, what)))
    elif isinstance(what, _CALLABLES):
        if isinstance(what, types.MethodType):
            yield "self", what.__self__
        if isinstance(what, functools.partial):
            yield from (("func", what.func), ("args", what.args), ("keywords", what.keywords))
        for number, cell in enumerate(getattr(what, "__closure__", None) or ()):
            yield f"cell{number}", cell.cell_contents
        yield "defaults", getattr(what, "__defaults__", None)
    else:
        slots = [name for kind in type(what).__mro__ for name in getattr(kind, "__slots__", ())]
        for name in slots:
            if hasattr(what, name):
                yield name, getattr(what, name)
        yield from getattr(what, "__dict__", {}).items()


def differing(one: dict[str, object], other: dict[str, object]) -> dict[str, object]:
    """What is not the same in both, by where it is."""
    return {
        at: (one.get(at), other.get(at))
        for at in one.keys() | other.keys()
        if one.get(at) != other.get(at)
    }


class ReloadTest(TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        issued = Authority().issue("gw.example")
        (self.folder / "people").touch(mode=0o600)
        (self.folder / "secrets").touch(mode=0o600)
        (self.folder / "hook.key").touch(mode=0o600)
        (self.folder / "hook.key").write_bytes(b"0123456789abcdef")
        (self.folder / "other.pem").write_bytes(issued.chain_pem)
        (self.folder / "other.key").touch(mode=0o600)
        (self.folder / "other.key").write_bytes(issued.key_pem)
        self.before = self.made_of()
        self.assertGreater(len(self.before), 300)
        self.by_itself = differing(self.before, self.made_of()).keys()  # clocks, and chance
        self.assertLess(len(self.by_itself), 20)

    def settings(self, changed: str = "", running: Settings | None = None) -> Settings:
        """BASE, but what is `changed` in it."""
        verbs = {line.split()[0] for line in changed.splitlines()}
        kept = [line for line in BASE.splitlines() if line.split()[0] not in verbs - {"listen"}]
        addresses = {line.split()[1] for line in changed.splitlines() if line.startswith("listen")}
        kept = [line for line in kept if line.split()[1] not in addresses]
        if "hostname" not in verbs:
            kept.append("hostname gw.example")
        if "spool" not in verbs:
            kept.append(f"spool {self.folder / 'spool'}")
        text = "\n".join([changed, *kept, ""])
        return load_text(text, self.folder, fixed=running.fixed if running else None)

    def gateway(self, settings: Settings) -> tuple[Gateway, Configuration, list[str]]:
        """One that reads what is in the list when it reloads."""
        texts = [""]

        async def reread() -> Settings:
            return self.settings(texts[0], configuration.settings)

        configuration = Configuration(settings, reread, FakeLog())
        return Gateway(reactor, configuration, FakeLog()), configuration, texts

    def made_of(self, changed: str = "") -> dict[str, object]:
        """What a start with these settings makes of them."""
        return dict(made(self.gateway(self.settings(changed))[0]))

    async def in_force(self, changed: str) -> bool:
        """Whether anything is made of it; after a reload it is as if relayd had begun so."""
        reloaded, configuration, texts = self.gateway(self.settings())
        texts[0] = changed
        self.assertEqual(await configuration.reload(), "", changed)
        self.assertEqual(configuration.restart, [], changed)
        wanted = self.made_of(changed)
        late = differing(dict(made(reloaded)), wanted)
        self.assertEqual(late.keys() - self.by_itself, set(), f"{changed}: {late}")
        return bool(differing(self.before, wanted).keys() - self.by_itself)

    def test_every_setting_has_its_line(self) -> None:
        self.assertEqual(OTHER.keys(), SPECS.keys())
        for name, changed in OTHER.items():
            attribute = SPECS[name].attribute
            before, after = self.settings(), self.settings(changed)
            self.assertNotEqual(getattr(before, attribute), getattr(after, attribute), name)

    async def test_a_reload_puts_each_setting_in_force(self) -> None:
        unmade = {
            name
            for name, changed in OTHER.items()
            if SPECS[name].effect is Effect.RELOAD and not await self.in_force(changed)
        }
        self.assertEqual(unmade, READ_IN_TIME)

    async def test_a_reload_puts_the_options_of_a_listener_in_force(self) -> None:
        for changed in OPTIONS.values():
            self.assertTrue(await self.in_force(changed), changed)

    async def test_what_takes_a_restart_is_said_and_changes_nothing(self) -> None:
        for name, changed in OTHER.items():
            if SPECS[name].effect is not Effect.RESTART:
                continue
            gateway, configuration, texts = self.gateway(self.settings())
            before = dict(made(gateway))
            texts[0] = changed
            self.assertEqual(await configuration.reload(), "")
            self.assertIn(name, configuration.restart)
            self.assertEqual(differing(before, dict(made(gateway))), {}, name)
            texts[0] = ""
            await configuration.reload()
            self.assertEqual(configuration.restart, [], name)

    async def test_a_listener_that_is_gone_goes_on_as_it_was(self) -> None:
        before = self.settings()
        after = self.settings("listen 127.0.0.1:2525 tls none\nlisten 127.0.0.1:2587", before)
        self.assertEqual(after.waiting, ())
        gone = load_text(
            "hostname gw.example\nlisten 127.0.0.1:99", self.folder, fixed=before.fixed
        )
        self.assertEqual(gone.listeners, before.listeners)
        self.assertIn("listen", gone.waiting)

    def test_a_worker_starts_with_what_its_master_started_with(self) -> None:
        for changed in ("", *(OTHER[name] for name in SPECS), *OPTIONS.values()):
            fixed = self.settings(changed).fixed
            self.assertEqual(fixed_of(statements_of(fixed)), fixed, changed)
        self.assertEqual(fixed_of(""), {})
