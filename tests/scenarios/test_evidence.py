"""A failed scenario says why: all that its servers said stands in the failure."""

from __future__ import annotations

import unittest

from twisted.trial.reporter import TestResult

from tests.scenarios import peers
from tests.scenarios.harness import Scenario, greets, wait_until
from tests.sink import CLOSE, Sink


def scenarios() -> type[Scenario]:
    """Hidden from trial, which would run them."""

    class Failing(Scenario):
        def test_mail_that_does_not_arrive(self) -> None:
            sink = Sink(lambda asked: CLOSE)
            self.addCleanup(sink.stop)
            self.launch(["sh", "-c", "echo some words; exit 7"], "other").popen.wait()
            relay = self.relayd(
                f"next-hop sink smtp 127.0.0.1:{sink.port}\n"
                "accept from 127.0.0.0/8\nroute any via sink\n"
            )
            relay.settled(relay.send("ann@example.net", ["bob@example.org"]))
            relay.logged("status=deferred")
            wait_until(lambda: sink.arrived, "it arrives", 0.1)

        def test_skipped(self) -> None:
            raise unittest.SkipTest("for a reason")

    return Failing


class Evidence(unittest.TestCase):
    def test_a_failure_carries_logs_queues_and_processes(self) -> None:
        result = TestResult()
        case = scenarios()("test_mail_that_does_not_arrive")
        case.run(result)
        [(_, failure)] = result.failures
        text = str(failure)
        self.assertIn("in test_mail_that_does_not_arrive\n", text)
        self.assertIn("not within 0.1 s: it arrives\n", text)
        self.assertIn("ended with 7: sh -c echo some words", text)
        self.assertIn("--- other.out\nsome words\n", text)
        self.assertRegex(text, "(?m)^runs: .* relayd --config ")
        self.assertRegex(text, r"(?m)^process [0-9]+ [RSD] in relayd: .*python")
        self.assertRegex(text, r"--- relayctl queue\nID(?s:.)*<bob@example\.org>")
        self.assertRegex(text, "--- relayd/log\n(?s:.)*status=deferred")
        self.assertFalse(case.folder.exists())

    def test_a_skip_stays_a_skip(self) -> None:
        result = TestResult()
        scenarios()("test_skipped").run(result)
        self.assertEqual(len(result.skips), 1)


class Doubles(Scenario):
    needs = ("postfix",)

    def test_postfix_starts_with_parameters_said_many_times(self) -> None:
        # its postlogd, warning of them, would wait for itself, and all others for it
        extra = "smtpd_peername_lookup = no\nrelayhost =\n  [a.example]\n" * 20
        postfix = peers.Postfix(self, extra=extra)
        self.assertTrue(greets((postfix.address, postfix.port)))
        self.assertNotIn("overriding", postfix.log())
