"""Results of several workers in one ledger, and reports until they are told or too late."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from relayd.dns.answer import Answer as DnsAnswer
from relayd.dns.answer import DnsError, DnsTrouble, NxDomain
from relayd.dns.resolver import Resolver
from relayd.mail.address import Mailbox
from relayd.relay import tlsledger, tlsresults
from relayd.relay.https import HttpAnswer, HttpError
from relayd.relay.tlsledger import MOST_WHY, TlsLedger
from relayd.relay.tlsreporter import FIRST, LATEST, PERIOD, TlsReporter
from relayd.relay.tlsresults import BATCH, TlsResults, day_of
from relayd.report.tlsrpt import TlsReport, TlsReports, mailbox_of, uris
from relayd.tls.flaw import Failure, Flaw, Policy, PolicyKind
from tests.support import TestCase
from tests.unit.service.test_supervisor import Log

DAY = 86_400.0
BAD = Failure(Flaw.EXPIRED, "certificate has expired", "mx.example.com", "192.0.2.1", "192.0.2.9")


def at_once(function: Callable[..., Any], *arguments: object) -> Deferred[Any]:
    return succeed(function(*arguments))


class Case(TestCase):
    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(tempfile.mkdtemp(prefix="relayd-tlsrpt-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.ledger = TlsLedger(self.folder)
        self.clock = Clock()
        self.clock.advance(20_000 * DAY + 12 * 3600)  # noon
        self.setting: TlsReports | None = TlsReports(Mailbox.parse("tls@gw.example"))
        self.log: Any = Log()
        self.results = self.worker()

    def worker(self) -> TlsResults:
        now = self.clock.seconds
        return TlsResults(self.clock, self.ledger, at_once, self.log, lambda: self.setting, now)

    @property
    def day(self) -> str:
        return day_of(self.clock.seconds())


class Counting(Case):
    def test_workers_add_up_and_a_batch_is_one_write(self) -> None:
        other = self.worker()
        for _ in range(3):
            self.results.note(Policy("a.example"), None)
            other.note(Policy("a.example"), None)
            other.note(Policy("a.example", PolicyKind.STS, ("version: STSv1",), ("mx",)), BAD)
        self.assertEqual(self.ledger.domains_of(self.day), [])
        self.clock.advance(BATCH)
        rows = self.ledger.rows(self.day, "a.example")
        self.assertEqual([(row.kind, row.flaw, row.sessions) for row in rows], [
            ("no-policy-found", "", 6),
            ("sts", "certificate-expired", 3),
        ])  # fmt: skip
        self.assertEqual((rows[1].host, rows[1].sender), ("mx.example.com", "192.0.2.9"))
        report = TlsReport("a.example", self.day, "gw.example", "tls@gw.example", rows)
        self.assertNotIn("domain", json.dumps(report.document()["organization-name"]))
        self.assertEqual(report.compressed(), report.compressed())

    def test_a_long_policy_is_kept_once_for_all_its_results(self) -> None:
        mx = tuple(f"mx{number}.{'x' * 50}.example" for number in range(1000))
        for number in range(50):
            policy = Policy("a.example", PolicyKind.STS, tuple(f"mx: {each}" for each in mx), mx)
            self.results.note(policy, Failure(Flaw.EXPIRED, "w" * 5000, f"mx{number}.example"))
        self.assertEqual(len({id(policy) for _, policy, _ in self.results._counts}), 1)
        self.assertEqual({len(f.why) for _, _, f in self.results._counts if f}, {MOST_WHY})
        self.clock.advance(BATCH)
        self.assertLess((self.folder / "tls-results.db").stat().st_size, 300_000)
        rows = self.ledger.rows(self.day, "a.example")
        self.assertEqual(len(rows), 50)
        self.assertEqual({row.mx for row in rows}, {mx})
        self.assertEqual(len({id(row.mx) for row in rows}), 1)
        self.ledger.forget([(self.day, "a.example")])
        with closing(sqlite3.connect(self.folder / "tls-results.db")) as database:
            self.assertEqual(database.execute("SELECT * FROM published").fetchall(), [])

    def test_many_long_policies_are_counted_without_their_text_in_the_end(self) -> None:
        self.patch(tlsresults, "MOST_OCTETS", 50_000)
        self.patch(tlsledger, "MOST_OCTETS", 100_000)
        for turn in range(8):
            for number in range(20):
                strings = ("x" * 9000, f"{turn}-{number}")
                self.results.note(Policy("a.example", PolicyKind.STS, strings), BAD)
            kept = sum(
                len(each) for _, policy, _ in self.results._counts for each in policy.strings
            )
            self.assertLess(kept, 50_000)
            self.clock.advance(BATCH)
        rows = self.ledger.rows(self.day, "a.example")
        self.assertEqual(sum(row.sessions for row in rows), 160)
        self.assertLess(sum(len(each) for row in rows for each in row.strings), 100_000)

    def test_what_an_older_relayd_counted_is_still_told(self) -> None:
        policy = Policy("a.example", PolicyKind.STS, ("version: STSv1",), ("mx",))
        self.results.note(policy, None)
        self.clock.advance(BATCH)
        with closing(sqlite3.connect(self.folder / "tls-results.db")) as database, database:
            database.execute("UPDATE result SET policy = (SELECT text FROM published)")
            database.execute("DROP TABLE published")
        self.results.note(policy, None)
        self.clock.advance(BATCH)
        rows = self.ledger.rows(self.day, "a.example")
        self.assertEqual([(row.strings, row.mx) for row in rows], [(policy.strings, policy.mx)] * 2)
        report = TlsReport("a.example", self.day, "gw.example", "tls@gw.example", rows)
        told: Any = report.document()["policies"]
        self.assertEqual([each["summary"]["total-successful-session-count"] for each in told], [2])

    def test_nothing_is_counted_without_the_setting(self) -> None:
        self.setting = None
        self.results.note(Policy("a.example"), None)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_ledger_that_cannot_be_written_is_told(self) -> None:
        (self.folder / "tls-results.db").mkdir()
        self.results.note(Policy("a.example"), None)
        self.clock.advance(BATCH)
        self.assertIn("TLS results not kept", self.log.events)


class Sending(Case):
    def setUp(self) -> None:
        super().setUp()
        self.answers: dict[str, str | DnsError] = {}
        self.posted: list[str] = []
        self.mailed: list[tuple[Mailbox, Mailbox, bytes]] = []
        self.down = False
        self.reporter = TlsReporter(
            self.clock,
            self.ledger,
            self.results,
            Resolver(self.clock, ask=self.ask),
            lambda: self,
            self.submit,
            at_once,
            self.log,
            lambda: self.setting,
            "gw.example",
            self.clock.seconds,
        )

    async def ask(self, name: str, rdtype: str) -> DnsAnswer[Any]:
        found = self.answers.get(name, NxDomain(name, rdtype, "no such name"))
        if isinstance(found, DnsError):
            raise found
        return DnsAnswer(name, name, (found,), False, 0)

    async def hand(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        if self.down:
            raise HttpError("down")
        self.posted.append(url)
        return HttpAnswer(200, "", b"")

    async def submit(self, sender: Mailbox, to: Mailbox, content: bytes) -> None:
        self.mailed.append((sender, to, content))

    async def a_day_passes(self, domain: str = "a.example", record: str = "") -> None:
        if record:
            self.answers[f"_smtp._tls.{domain}"] = f"v=TLSRPTv1; rua={record}"
        self.results.note(Policy(domain), None)
        await self.results.flush()
        self.clock.advance(DAY)
        await self.reporter.send_due()

    async def test_each_gets_what_it_asks_for_once(self) -> None:
        await self.a_day_passes(record="mailto:x@b.example,https://c.example/r")
        await self.reporter.send_due()
        self.assertEqual(self.posted, ["https://c.example/r"])
        [(sender, to, content)] = self.mailed
        self.assertEqual((str(sender), str(to)), ("tls@gw.example", "x@b.example"))
        self.assertIn(b"\r\nTLS-Report-Domain: a.example\r\n", content)
        self.assertLessEqual(max(map(len, content.split(b"\r\n"))), 100)

    async def test_who_does_not_ask_gets_nothing(self) -> None:
        await self.a_day_passes()
        self.assertEqual(self.ledger.domains("9999"), [])

    async def test_not_today(self) -> None:
        self.results.note(Policy("a.example"), None)
        await self.results.flush()
        await self.reporter.send_due()
        self.assertEqual(self.ledger.domains_of(self.day), ["a.example"])

    async def test_what_fails_is_tried_for_a_day_and_only_that(self) -> None:
        self.down = True
        await self.a_day_passes(record="mailto:x@b.example,https://c.example/r")
        await self.reporter.send_due()
        self.assertEqual((len(self.mailed), self.posted), (1, []))
        self.down = False
        await self.reporter.send_due()
        self.assertEqual((len(self.mailed), len(self.posted)), (1, 1))
        self.assertEqual(self.ledger.domains("9999"), [])
        self.down = True
        await self.a_day_passes()
        self.assertEqual(len(self.ledger.domains("9999")), 1)
        self.clock.advance(LATEST)
        await self.reporter.send_due()
        self.assertEqual(self.ledger.domains("9999"), [])

    async def test_what_has_expired_is_looked_after_also_when_nothing_is_counted(self) -> None:
        self.setting = None
        pruned: list[int] = []
        self.reporter._prune = lambda: pruned.append(1)
        self.reporter.start()
        self.clock.advance(FIRST)
        self.clock.advance(PERIOD)
        self.assertEqual(pruned, [1, 1])
        await self.reporter.stop()

    async def test_silent_name_servers_are_asked_again(self) -> None:
        self.answers["_smtp._tls.a.example"] = DnsTrouble("x", "TXT", "SERVFAIL")
        await self.a_day_passes()
        self.assertEqual(len(self.ledger.domains("9999")), 1)


class Records(TestCase):
    def test_where_reports_are_wanted(self) -> None:
        for texts, wanted in (
            (("v=TLSRPTv1; rua=mailto:a@b.example",), ("mailto:a@b.example",)),
            (
                ("v=TLSRPTv1;rua=https://x.example/ , mailto:a@b",),
                ("https://x.example/", "mailto:a@b"),
            ),
            (("v=TLSRPTv1; rua=http://x.example/,ftp://y/,https://",), ()),
            (("v=TLSRPTv1; rua=mailto:a@b", "v=TLSRPTv1; rua=mailto:c@d"), ()),
            (("v=spf1 -all", "v=TLSRPTv1; x=y; rua=mailto:a@b"), ("mailto:a@b",)),
            (("v=TLSRPTv1",), ()),
            (("v=TLSRPTv1; rua=mailto:a\r\nb@c",), ()),
        ):
            self.assertEqual(uris(texts), wanted, texts)
        self.assertEqual(mailbox_of("mailto:a%2Bb@c.example?subject=x"), "a+b@c.example")
