"""A folder with a Postfix configuration, and what its import makes."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from unittest import mock

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.mail.plan import Plan, Verdict
from relayd.migrate.convert import Machine, convert
from relayd.migrate.report import SettingFate
from relayd.migrate.work import Work
from relayd.migrate.write import WrittenFiles, settle
from relayd.rules.conditions.listing import listing
from relayd.rules.conditions.resolves import resolving
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact

MASTER = "smtp inet n - y - - smtpd\nuucp unix - n n - - pipe\n  flags=F user=uucp argv=uux\n"
MACHINE = Machine(lambda: "mx.example.com", lambda: ["127.0.0.1", "192.0.2.25", "::1"])
BASE = "compatibility_level = 3.6\nmyhostname = mx.example.com\nmydestination =\nalias_maps =\n"
OUTSIDE, INSIDE = "203.0.113.9", "127.0.0.1"


class Import(unittest.TestCase):
    """Imports texts; `self.work` and `self.written` are the last one's."""

    work: Work
    written: WrittenFiles
    folder: Path

    def setUp(self) -> None:
        kept = tempfile.TemporaryDirectory(prefix="relayd-test-")
        self.addCleanup(kept.cleanup)
        self.folder = Path(kept.name)
        # where the package is installed there is a user relayd, and our keys are closed to it
        readable = mock.patch("relayd.migrate.security.unreadable", return_value="")
        readable.start()
        self.addCleanup(readable.stop)

    def put(self, name: str, text: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)

    def bring(
        self,
        main: str,
        *,
        base: str = BASE,
        master: str = MASTER,
        machine: Machine = MACHINE,
        **tables: str | bytes,
    ) -> None:
        """Import main.cf with these tables beside it; `__` in a name is a dot."""
        self.put("main.cf", base + main)
        self.put("master.cf", master)
        for name, text in tables.items():
            self.put(name.replace("__", "."), text)
        self.work = convert(self.folder, machine)
        self.written = settle(self.work)

    def file(self, name: str) -> str:
        return "\n".join(self.written.files[Path(name)])

    @property
    def rules(self) -> str:
        return self.file("rules.d/50-postfix.rules")

    @property
    def conf(self) -> str:
        return self.file("relayd.conf")

    def plan(
        self, to: str, *, client: str = OUTSIDE, sender: str = "a@far.example", listed: str = "",
        name: str = "host.far.example", helo: str = "host.far.example",
        unresolved: str = "",
    ) -> Plan:  # fmt: skip
        """`listed`: the lists in the DNS that have the client, or `LIST/sender`: that name.

        `unresolved`: what the DNS has nothing of.
        """
        ruleset = self.written.settings.ruleset
        told: dict[Fact, object] = dict.fromkeys(map(resolving, unresolved.split()), False)
        told.update((listing(*each.split("/")), True) for each in listed.split())
        facts = Facts(
            Client(client, rdns=name, helo=helo),
            Mailbox.parse(sender),
            Mailbox.parse(to),
            gathered=ruleset.usual | told,
        )
        return evaluate(ruleset, facts)

    def goes(self, to: str, **of: str) -> str:
        """`bob@example.net relayhost, ...`, or the reply's code and status; `of` as for plan()."""
        plan = self.plan(to, **of)
        if plan.verdict is Verdict.DISCARD:
            return "discard"
        if plan.verdict is Verdict.REFUSE:
            return f"{plan.reply.code} {plan.reply.status}"
        return ", ".join(f"{each.mailbox} {each.next_hop}" for each in plan.destinations)

    def sender(self, sender: str, *, client: str = INSIDE) -> str:
        plan = self.plan("x@far.example", client=client, sender=sender)
        return str(plan.destinations[0].reverse_path)

    def fate(self, setting: str) -> SettingFate:
        return self.work.report.findings[setting].fate

    def said(self, setting: str) -> str:
        return " | ".join(part.text for part in self.work.report.findings[setting].parts)
