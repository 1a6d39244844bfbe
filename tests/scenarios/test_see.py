"""What an operator sees of a relayd with two workers: find, follow; also when one is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from relayd.mail.ident import parse_ident, shard_of
from tests.ports import free_port
from tests.scenarios.harness import Relayd, Scenario, program, wait_until, workers_of
from tests.sink import Asked, Sink

MONITORING = Path(__file__).resolve().parents[2] / "packaging" / "prometheus"
RULES = """\
accept  to @example.com
accept  to @nobody.example
route   any via out
"""
SENDER = "ann@sender.example"


class Follower:
    """`relayctl follow --json`, read to its end."""

    def __init__(self, relay: Relayd, *arguments: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "relayd.ctl.relayctl", "--config", str(relay.config)),
                *("follow", "--json", *arguments),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()
        wait_until(lambda: self.events, "follow says that it is there")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.events.append(json.loads(line))

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()

    def counts(self) -> Counter[str]:
        return Counter(each["event"] for each in self.events if each["event"] != "alive")


def scrape(place: str, accept: str = "application/openmetrics-text") -> tuple[str, str]:
    """The kind of the figures' text, and the text."""
    request = urllib.request.Request(f"http://{place}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=60) as reply:
        return reply.headers["Content-Type"], reply.read().decode()


def samples(text: str) -> dict[str, float]:
    """As Prometheus's own parser reads them; each name with its labels."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    return {
        f"{each.name}{sorted(each.labels.items())}": each.value
        for family in text_string_to_metric_families(text)
        for each in family.samples
    }


def total(found: dict[str, float], name: str, **labels: str) -> float:
    """The sum of all samples of a name with these labels."""
    return sum(
        value
        for sample, value in found.items()
        if sample.startswith(f"{name}[")
        and all(f"('{label}', '{value}')" in sample for label, value in labels.items())
    )


def _plain(question: str) -> str:
    """As Prometheus hears it, once Grafana has put in what stands for its own."""
    return question.replace("$__rate_interval", "5m").replace("$instance", ".*")


class TwoWorkers(Scenario):
    def gateway(self, port: int, more: str = "") -> Relayd:
        relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{port}\n{RULES}", start=False, settings=more
        )
        text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
        relay.config.write_text(text)
        return relay.start()

    def send(self, relay: Relayd, count: int, first: int = 0) -> list[str]:
        """So many messages, each over a session of its own, each third one refused later."""
        idents = []
        for n in range(first, first + count):
            domain = "nobody.example" if n % 3 == 2 else "example.com"
            head = f"Message-ID: <{n}@sender.example>\r\nSubject: order {n}\r\n\r\nx\r\n"
            idents.append(relay.send(SENDER, [f"to{n}@{domain}"], head.encode()))
        return idents

    def kill_one(self, relay: Relayd) -> None:
        victim, *_ = workers_of(relay)
        os.kill(victim, signal.SIGKILL)

        def replaced() -> bool:
            told = relay.ctl("status", "--json", check=False).stdout
            return victim not in workers_of(relay) and json.loads(told).get("workers_ready") == 2

        wait_until(replaced, "the worker is replaced")

    def found(self, relay: Relayd, *filters: str) -> list[dict[str, Any]]:
        lines = relay.ctl("find", "--json", *filters, check=False).stdout.splitlines()
        return [json.loads(line) for line in lines]


class See(TwoWorkers):
    def test_what_two_workers_do_is_followed_over_a_kill_and_found_afterwards(self) -> None:
        def answer(asked: Asked) -> str | None:
            no = asked.stage == "rcpt" and asked.argument.endswith("@nobody.example")
            return "550 5.1.1 nobody of that name" if no else None

        with Sink(answer) as sink:
            relay = self.gateway(sink.port, "reports strangers any\n")
            follower = Follower(relay)
            self.addCleanup(follower.close)
            idents = self.send(relay, 12)
            relay.wait_empty()
            wait_until(lambda: follower.counts()["attempt"] == 16, "all is told")
            counts = follower.counts()
            # four fail: each report is delivered, too
            self.assertEqual((counts["accepted"], counts["report"]), (12, 4), counts)
            self.assertNotIn("missed", counts)
            self.kill_one(relay)
            wait_until(lambda: follower.counts()["missed"] >= 2, "the new worker is followed")
            idents += self.send(relay, 6, 12)
            relay.wait_empty()
            wait_until(lambda: follower.counts()["attempt"] == 24, "what it does is told, too")
            cursor = follower.events[-1]["cursor"]
            follower.close()
            idents += self.send(relay, 3, 18)
            relay.wait_empty()
            again = Follower(relay, "--cursor", cursor, "--event", "accepted")
            self.addCleanup(again.close)
            wait_until(lambda: again.counts()["accepted"] == 3, "what happened meanwhile")
            self.assertNotIn("missed", again.counts())
            again.close()

            found = self.found(relay, "--sender", SENDER)
            self.assertEqual([each["id"] for each in found], idents[::-1])
            self.assertEqual({shard_of(parse_ident(each)) for each in idents}, {0, 1})
            bounced = self.found(relay, "--state", "bounced")
            self.assertEqual(len(bounced), 7)
            self.assertEqual({each["reply"] for each in bounced}, {"550 5.1.1 nobody of that name"})
            self.assertEqual(len(self.found(relay, "--recipient", "@nobody.example")), 7)
            (one,) = self.found(relay, "--message-id", "<7@sender.example>")
            self.assertEqual((one["id"], one["subject"]), (idents[7], "order 7"))
            self.assertEqual(self.found(relay, "--subject", "order 5", "--limit", "1")[0]["id"],
                             idents[5])  # fmt: skip
            self.assertEqual(self.found(relay, "--subject", "orders"), [])
            told = relay.ctl("show", "<7@sender.example>").stdout
            self.assertIn(f"message       {idents[7]}\n", told)
            self.assertIn("Subject       order 7\n", told)


class Figures(TwoWorkers):
    needs = ("promtool",)

    def test_the_figures_are_those_of_what_was_sent_over_a_kill_and_a_reload(self) -> None:
        def answer(asked: Asked) -> str | None:
            no = asked.stage == "rcpt" and asked.argument.endswith("@nobody.example")
            return "550 5.1.1 nobody of that name" if no else None

        place = f"127.0.0.1:{free_port()}"
        with Sink(answer) as sink:
            relay = self.gateway(sink.port, f"metrics listen {place}\nreports strangers any\n")
            seen: dict[str, float] = {}

            def failures(found: dict[str, float]) -> float:
                """Those of which the sender is told, and those of which a stranger is not."""
                told = total(found, "relayd_reports_total")
                return told + total(found, "relayd_reports_kept_total")

            def look() -> dict[str, float]:
                """The figures; no counter ever goes back."""
                kind, text = scrape(place)
                self.assertTrue(kind.startswith("application/openmetrics-text"))
                found = samples(text)
                for name, value in seen.items():
                    if "_total[" in name or "_count[" in name or "_bucket[" in name:
                        self.assertGreaterEqual(found[name], value, name)
                seen.update(found)
                return found

            sent = 0
            for count in (9, 6, 6):
                self.send(relay, count, sent)
                sent += count
                relay.wait_empty()
                failed = sent // 3
                wait_until(
                    lambda failed=failed: failures(look()) == failed,  # type: ignore[misc]
                    "all is counted",
                )
                found = look()
                done = sent - total(found, "relayd_reports_kept_total")
                self.assertEqual(total(found, "relayd_accepted_messages_total"), sent)
                self.assertEqual(total(found, "relayd_accepted_recipients_total"), sent)
                by = {"next_hop": "out", "provider": ""}
                self.assertEqual(
                    total(found, "relayd_attempts_total", state="sent", reply="2xx", **by), done
                )
                self.assertEqual(
                    total(found, "relayd_attempts_total", state="bounced", reply="5xx", **by),
                    failed,
                )
                self.assertEqual(total(found, "relayd_delivery_seconds_count"), done)
                self.assertEqual(total(found, "relayd_waiting_messages"), 0)
                self.assertEqual(total(found, "relayd_workers_ready"), 2)
                self.assertEqual(total(found, "relayd_rules_info"), 1)
                self.assertGreaterEqual(total(found, "relayd_commit_writes_total"), sent)
                self.assertGreater(total(found, "relayd_commit_seconds_count"), 0)
                if sent == 9:
                    self.kill_one(relay)
                elif sent == 15:
                    relay.config.write_text(relay.config.read_text() + "warn-after 3h\n")
                    relay.ctl("reload")
            self.assertEqual(total(found, "relayd_reloads_total"), 1)
            self.assertEqual(total(found, "relayd_troubles_total", event="worker died"), 1)
            sink.stop()
            relay.send(SENDER, ["late@example.com"])
            wait_until(lambda: total(look(), "relayd_attempts_total", state="deferred"), "it waits")
            found = look()
            self.assertEqual(total(found, "relayd_waiting_messages"), 1)
            self.assertGreater(total(found, "relayd_oldest_seconds", next_hop="out"), 0)
            kind, text = scrape(place, "text/plain")
            self.assertEqual(kind, "text/plain; version=0.0.4; charset=utf-8")
            self.assertEqual(self.promtool("check", "metrics", text=text), "")

    def test_the_alerts_are_good_rules(self) -> None:
        done = subprocess.run(
            [program("promtool"), "check", "rules", str(MONITORING / "alerts.yml")],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("SUCCESS: 14 rules found", done.stdout)

    def test_dropped_events_and_a_receiver_in_vain_raise_their_alarms_and_nothing_else_does(
        self,
    ) -> None:
        """By what `metrics` says minute after minute: of two webhooks one is well."""
        series = {
            'relayd_hook_events_total{hook="crm",result="dropped"}': "0x30 7+0x60",
            'relayd_hook_retries_total{hook="crm"}': "0+1x90",
            'relayd_hook_events_total{hook="well",result="dropped"}': "5+0x90",
            'relayd_hook_events_total{hook="well",result="sent"}': "0+9x90",
            'relayd_hook_retries_total{hook="well"}': "1+0x90",
        }
        file = self.folder / "tried.yml"
        given = [{"series": name, "values": values} for name, values in series.items()]
        tried = {
            "rule_files": [str(MONITORING / "alerts.yml")],
            "tests": [{
                "interval": "1m",
                "input_series": given,
                "promql_expr_test": [
                    {
                        "expr": f'sum(ALERTS{{alertname="{name}",alertstate="firing"}}) by (hook)',
                        "eval_time": "1h",
                        "exp_samples": [{"labels": '{hook="crm"}', "value": 1}],
                    }
                    for name in ("RelaydHookDrops", "RelaydHookFails")
                ],
            }],
        }  # fmt: skip
        file.write_text(json.dumps(tried))
        self.promtool("test", "rules", str(file))

    def test_the_dashboard_asks_what_prometheus_understands(self) -> None:
        """Its questions as rules, for promtool to look at."""
        board = json.loads((MONITORING / "dashboard.json").read_text())
        asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
        rules = "".join(
            f"      - {{record: 'r:{number}', expr: {json.dumps(_plain(expr))}}}\n"
            for number, expr in enumerate(asked)
        )
        file = self.folder / "asked.yml"
        file.write_text(f"groups:\n  - name: asked\n    rules:\n{rules}")
        self.promtool("check", "rules", str(file))

    def promtool(self, *words: str, text: str = "") -> str:
        """What Prometheus's own tool, which is content, has to say."""
        done = subprocess.run(
            [program("promtool"), *words], input=text, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout + done.stderr
