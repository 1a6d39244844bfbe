"""What `metrics` counts and shows: bounded series, both forms, nobody's address in it."""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.parser import text_string_to_metric_families as plain_families
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from relayd.config.fixed import statements_of
from relayd.config.values import MetricsPlace, metrics
from relayd.mail.address import Mailbox
from relayd.mail.content import BytesContent
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.mail.pacing import MailProvider, Pacing
from relayd.ops.answers import ProviderFigures
from relayd.ops.counting import Counting
from relayd.ops.documents import add_figures, no_figures, provider_figures
from relayd.ops.metricsport import MOST, TIME, MetricsFactory
from relayd.ops.openmetrics import FAMILIES, gauges_of, text_of_metrics
from relayd.rules.language.lexer import lex
from relayd.rules.language.source import Source
from relayd.rules.language.words import Words
from relayd.shared.meters import SLOTS, Meters, shared_meters
from tests.bench.scrape_bench import measured
from tests.spooling import CLIENT, DONE, LATER, recipient, submission
from tests.support import TestCase
from tests.unit.ops.journal import Journal

MONITORING = Path(__file__).resolve().parents[3] / "packaging" / "prometheus"
PACING = Pacing(providers={"google": MailProvider("google", (".google.example",))})


def counted(text: str) -> dict[str, float]:
    return {
        f"{each.name}{sorted(each.labels.items())}": each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


class MetersTests(TestCase):
    def test_who_takes_a_dead_ones_place_goes_on_with_its_row(self) -> None:
        memory = shared_meters(3)
        first, second = Meters(memory, 3, 0), Meters(memory, 3, 1)
        for meters in (first, second):
            meters.cells[meters.slot("a_total")] += 2
        first.cells[first.slot("b_total")] += 0.5
        again = Meters(memory, 3, 0)
        again.cells[again.slot("b_total")] += 1
        again.cells[again.slot("c_total")] += 1
        self.assertEqual(
            Meters(memory, 3, 2).sums(), {"a_total": 4.0, "b_total": 1.5, "c_total": 1.0}
        )

    def test_names_without_a_place_share_one_and_harm_nobody(self) -> None:
        meters = Meters(shared_meters(1), 1, 0)
        slots = [meters.slot(f"n{number}_total") for number in range(SLOTS + 100)]
        self.assertEqual(len(set(slots)), SLOTS)
        self.assertEqual(meters.slot("x" * 500), SLOTS - 1)
        self.assertEqual(len(meters.sums()), SLOTS - 1)


class CountingTests(TestCase):
    def setUp(self) -> None:
        self.meters = Meters(shared_meters(1), 1, 0)
        self.counting = Counting(self.meters, lambda: PACING, lambda: 1e9)

    def message(self, hop: str = "inside") -> tuple[Message, Record]:
        sent = submission(replace(recipient(), next_hop=hop))
        content = BytesContent(b"x" * 100)
        message = Message(7, 1e9 - 2.0, sent.envelope, CLIENT, content, 0, False, False)
        return message, Record(7, 0, sent.recipients[0])

    def text(self, *, openmetrics: bool = True) -> str:
        known: ProviderFigures = {"oldest": 6.0, "rate": 0.25, "slowed": True, "blocked": False}
        gauges = gauges_of(
            {**no_figures(), "oldest": {'a"\\b': 5.0}, "providers": {"google": known}}, 6.5
        )
        return text_of_metrics(self.meters.sums(), gauges, openmetrics=openmetrics)

    def test_each_event_is_counted(self) -> None:
        message, record = self.message()
        self.counting.accepted(message, [record, record], 0.02)
        self.counting.refused(CLIENT, "RCPT", '550 5.7.1 no, <b\nad> "x"', "")
        self.counting.attempted(message, [Settlement(record, RecipientState.DELIVERED, DONE)], 1)
        google = replace(LATER, remote_mta="mx1.Google.example")
        direct, to = self.message("direct")
        self.counting.attempted(direct, [Settlement(to, RecipientState.QUEUED, google)], 1)
        self.counting.report(message, "8", "a@b", "failed")
        self.counting.session(CLIENT, messages=1, refused=0, seconds=1.0, end="421 bye")
        self.counting.notice("reloaded")
        self.counting.trouble("next hop down", destination="x")
        self.counting.notice("report kept back", id="7", to="<a@b>")
        for right in (True, True, False):
            self.counting.forecast(right)
        self.counting.committed(12, 0.004)
        found = counted(self.text())
        for name, value in (
            ("relayd_accepted_messages_total[]", 1),
            ("relayd_accepted_recipients_total[]", 2),
            ("relayd_accepted_bytes_total[]", 100),
            ("relayd_refused_total[('reply', '550 5.7.1')]", 1),
            ("relayd_attempts_total[('next_hop', 'inside'), ('provider', ''),"
             " ('reply', '2xx'), ('state', 'sent')]", 1),
            ("relayd_attempts_total[('next_hop', 'direct'), ('provider', 'google'),"
             " ('reply', '4xx'), ('state', 'deferred')]", 1),
            ("relayd_sent_total[('tls', 'none')]", 1),
            ("relayd_reports_total[('kind', 'failed')]", 1),
            ("relayd_sessions_total[('end', '421'), ('tls', 'TLSv1.3')]", 1),
            ("relayd_troubles_total[('event', 'next hop down')]", 1),
            ("relayd_accept_seconds_bucket[('le', '0.01')]", 0),
            ("relayd_accept_seconds_bucket[('le', '0.025')]", 1),
            ("relayd_accept_seconds_bucket[('le', '+Inf')]", 1),
            ("relayd_delivery_seconds_sum[]", 2),
            ("relayd_delivery_seconds_bucket[('le', '1.0')]", 0),
            ("relayd_delivery_seconds_bucket[('le', '5.0')]", 1),
            ("relayd_reports_kept_total[]", 1),
            ("relayd_forecasts_total[('verdict', 'right')]", 2),
            ("relayd_forecasts_total[('verdict', 'wrong')]", 1),
            ("relayd_commit_writes_total[]", 12),
            ("relayd_commit_seconds_sum[]", 0.004),
            ("relayd_commit_seconds_bucket[('le', '0.0025')]", 0),
            ("relayd_commit_seconds_bucket[('le', '0.005')]", 1),
            ("relayd_provider_oldest_seconds[('provider', 'google')]", 0.5),
            ("relayd_provider_rate[('provider', 'google')]", 0.25),
            ("relayd_provider_slowed[('provider', 'google')]", 1),
            ("relayd_provider_blocked[('provider', 'google')]", 0),
            ("relayd_oldest_seconds[('next_hop', 'a\"\\\\b')]", 1.5),
        ):  # fmt: skip
            self.assertEqual(found.get(name), value, f"{name} of {sorted(found)}")

    def test_strangers_make_no_series(self) -> None:
        """5,000 domains, hosts, replies and words of theirs: fewer than 2,000 series."""
        rest = random.Random(1)
        for number in range(5000):
            domain = f"d{number}-{rest.randrange(10**6)}.example"
            message, record = self.message("direct" if number % 2 else f"hop{number}")
            to = replace(record.recipient, mailbox=Mailbox("x", domain))
            outcome = replace(LATER, remote_mta=f"mx.{domain}", tls=f"TLSv1.{number} x")
            state = rest.choice(list(RecipientState))
            self.counting.attempted(
                message, [Settlement(replace(record, recipient=to), state, outcome)], 1.0
            )
            self.counting.refused(CLIENT, domain, f"5{number % 60:02} 5.{number % 9}.{number} no")
            self.counting.trouble(f"event {number}", domain=domain)
            self.counting.session(
                replace(CLIENT, tls=f"TLS{number}"), messages=0, refused=0, seconds=0, end=domain
            )
        text = self.text()
        self.assertNotIn(".example", text)
        self.assertLess(sum(not line.startswith("#") for line in text.splitlines()), 2000)
        found = counted(text)
        attempts = sum(n for name, n in found.items() if name.startswith("relayd_attempts"))
        self.assertEqual(attempts, 5000)  # those that are too many are "other"

    def test_providers_over_sites_and_processes(self) -> None:
        def site(provider: str, rate: float, blocked: float = 0.0) -> dict[str, Any]:
            told = {"provider": provider, "rate": rate, "blocked_until": blocked}
            return {**told, "trouble": "450 slower" if blocked or rate else ""}

        whose = {"direct a.example": "google", "direct b.example": "google", "x": ""}
        one = provider_figures(
            {"direct a.example": 9.0, "direct b.example": 5.0, "x": 1.0},
            whose.__getitem__,
            [site("google", 30), site("google", 30), site("", 6), site("yahoo", 0, 99.0)],
        )
        total = no_figures()
        add_figures(total, {**no_figures(), "providers": one})
        add_figures(total, {**no_figures(), "providers": provider_figures({}, str, [])})
        more = provider_figures({}, str, [site("google", 60)])
        add_figures(total, {**no_figures(), "providers": more})
        self.assertEqual(
            total["providers"],
            {
                "google": {"oldest": 5.0, "rate": 2.0, "slowed": True, "blocked": False},
                "yahoo": {"oldest": 0.0, "rate": 0.0, "slowed": True, "blocked": True},
            },
        )

    def test_both_forms_are_read_by_prometheus(self) -> None:
        self.test_each_event_is_counted()
        plain = list(plain_families(self.text(openmetrics=False)))
        open_ = list(text_string_to_metric_families(self.text()))
        kinds = {name: kind for name, kind, _ in FAMILIES}
        for families in (plain, open_):
            self.assertGreater(len(families), 10)
            for family in families:
                self.assertEqual(family.type, kinds[family.name])
                self.assertTrue(family.documentation)

    def test_a_message_costs_some_microseconds(self) -> None:
        message, record = self.message()
        ends = [Settlement(record, RecipientState.DELIVERED, DONE)]
        began = time.process_time()
        for _ in range(10_000):
            self.counting.accepted(message, [record], 0.02)
            self.counting.attempted(message, ends, 1.0)
        self.assertLess((time.process_time() - began) / 10_000, 60e-6)


class PlaceTests(TestCase):
    def test_a_worker_is_told_the_places_that_hold_until_a_restart(self) -> None:
        places = (
            MetricsPlace("127.0.0.1", 9099),
            MetricsPlace("::1", 9099),
            MetricsPlace(path=Path("/run/relayd/metrics of relayd")),
        )
        told = statements_of({"metrics": places})
        self.assertIn("metrics listen", told)
        self.assertEqual(tuple(map(str, places)), tuple(
            str(metrics(Words(each))) for each in lex(Source.of(told, "x")).statements
        ))  # fmt: skip


class ScrapeTests(TestCase):
    def test_a_scrape_costs_some_milliseconds_however_many_wait(self) -> None:
        """Scaled: `python -m tests.bench.scrape_bench` has a million."""
        with TemporaryDirectory() as folder:
            costs = measured(Path(folder), 10_000)
        self.assertEqual(costs.waiting, 10_000)
        self.assertLess(costs.seconds, 0.01)


class MonitoringTests(TestCase):
    def test_alerts_and_dashboard_speak_of_figures_that_there_are(self) -> None:
        known = set()
        for name, kind, _ in FAMILIES:
            if kind == "histogram":
                known |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"}
            known.add(f"{name}_total" if kind == "counter" else name)
        for name in ("alerts.yml", "dashboard.json"):
            text = (MONITORING / name).read_text()
            asked = set(re.findall(r"relayd_[a-z_]+", text))
            self.assertGreater(len(asked), 7)
            self.assertEqual(asked - known, set(), name)


class PortTests(TestCase):
    def setUp(self) -> None:
        self.clock, self.log = Clock(), Journal()

        async def figures(openmetrics: bool) -> str:
            return f"openmetrics {openmetrics}\n"

        self.factory = MetricsFactory(self.clock, figures, self.log)

    def session(self) -> tuple[Any, StringTransport]:
        session = self.factory.buildProtocol(None)
        assert session is not None
        transport = StringTransport()
        transport.abortConnection = transport.loseConnection  # type: ignore[method-assign]
        session.makeConnection(transport)
        return session, transport

    def ask(self, request: bytes) -> bytes:
        session, transport = self.session()
        for at in range(0, len(request), 100):
            session.dataReceived(request[at : at + 100])
        session.connectionLost()
        self.assertTrue(transport.disconnecting)
        return bytes(transport.value())

    def test_a_get_is_answered_in_the_form_that_is_asked_for(self) -> None:
        plain = self.ask(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4", plain)
        self.assertTrue(plain.endswith(b"\r\n\r\nopenmetrics False\n"))
        accept = b"Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n"
        asked = self.ask(b"GET /metrics?x=1 HTTP/1.1\r\n" + accept + b"\r\n")
        self.assertIn(b"Content-Type: application/openmetrics-text; version=1.0.0", asked)
        self.assertTrue(asked.endswith(b"openmetrics True\n"))
        head = self.ask(b"HEAD / HTTP/1.0\r\n\r\n")
        self.assertTrue(head.endswith(b"\r\n\r\n"))

    def test_everything_else_is_refused(self) -> None:
        for request, status in (
            (b"POST /metrics HTTP/1.1\r\n\r\n", b"405 "),
            (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", b"404 "),
            (b"nonsense\r\n\r\n", b"405 "),
            (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, b"431 "),
        ):
            self.assertTrue(self.ask(request).startswith(b"HTTP/1.1 " + status), request[:40])

    def test_who_says_nothing_is_dropped_and_few_are_served_at_a_time(self) -> None:
        held = [self.session() for _ in range(MOST)]
        self.assertIsNone(self.factory.buildProtocol(None))
        self.clock.advance(TIME)
        for session, transport in held:
            self.assertTrue(transport.disconnecting)
            session.connectionLost()
        self.assertIsNotNone(self.factory.buildProtocol(None))
