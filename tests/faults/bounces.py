"""Mail of which much fails: how many reports its senders get for it."""

from __future__ import annotations

import asyncio

from tests.faults.letters import Letter, Writer
from tests.faults.names import NameServer
from tests.faults.oracle import failures
from tests.faults.run import Row, fault
from tests.faults.sink import Sink
from tests.faults.stage import Stage, staged

RULES = """next-hop out smtp {host}:{port}
accept to @corp.test, @.corp.test
route to @corp.test, @sender.test via out
route any direct
"""
_MANY = 30  # recipients of a message, each at a domain of its own


class Widely(Writer):
    """To many domains: one takes it, the others refuse or are not there."""

    def letter(self) -> Letter:
        """The next one."""
        plain = super().letter()
        below = self._random.randrange(1000)
        mailboxes = [f"no-{each}.{plain.name}@d{below + each}.corp.test" for each in range(_MANY)]
        return Letter(plain.name, (f"ok-0.{plain.name}@corp.test", *mailboxes), plain.content)


class Scattered(NameServer):
    """Of the domains some do not exist, some take no mail (RFC 7505), some refuse by SMTP."""

    def records(self, name: str, rdtype: str) -> list[str]:
        """By the number in the name."""
        number = int("".join(each for each in name if each.isdigit()) or "0")
        if number % 3 == 0:
            return ["0 ."] if rdtype == "MX" else []
        if number % 3 == 1:
            return []  # neither MX nor address
        return super().records(name, rdtype)


def _reports(stage: Stage) -> dict[str, set[str]]:
    """The reports about each letter, by their Message-IDs."""
    found: dict[str, set[str]] = {}
    for entry in stage.journal.entries():
        if entry["kind"] == "report":
            ident, failed = failures(entry["text"])
            for mailbox in failed:
                found.setdefault(mailbox.partition(".")[2].partition("@")[0], set()).add(ident)
    return found


@fault("mail to many dead domains")
async def bounces(row: Row, seed: int, short: bool) -> None:
    """What fails together is told together: a report for a message, not one for a domain."""
    server = Scattered(seed)
    port = await server.start()
    async with staged(seed) as stage:
        there = Sink(stage.journal)
        there.host = "127.0.0.2"
        await there.start()
        stage.build(
            rules=RULES,
            settings=f"resolver 127.0.0.1:{port}\nrelay-port {there.port}\n"
            "internal-destinations 127.0.0.0/8",
        )
        try:
            await stage.start()
            injector = stage.inject(sessions=4, pause=0.2, large=0, made=Widely)
            await asyncio.sleep(3.0 if short else 20.0)
            await injector.stop()
            row.add(await stage.finish(), stage)
        finally:
            await there.stop()
        row.runs = injector.tally.acknowledged
        reports = _reports(stage)
        count = sum(map(len, reports.values()))
        row.remarks.append(
            f"{count} reports about {len(reports)} messages with {row.reported} failed recipients,"
            f" {max(map(len, reports.values()), default=0)} about one message at most"
        )
        row.demand(count <= 1.1 * len(reports), f"{count} reports about {len(reports)} messages")
