"""The live screen: it fits, it says what is amiss, and its rates are those of what happened."""

from __future__ import annotations

import unittest
from typing import Any, cast

from relayd.ctl.client import Daemon
from relayd.ctl.top import FollowedRates, screen

NOW = 1e9


def status(**more: Any) -> dict[str, Any]:  # noqa: ANN401
    lanes = [
        {
            "destination": f"d{n}.example",
            "standing": "down",
            "waiting": 10_000 - n,
            "oldest": NOW - 7200,
            "trouble": "451 4.4.1 " + "no answer " * 20,
        }
        for n in range(100)
    ]
    return {
        "hostname": "gw.example",
        "started": NOW - 86400,
        "waiting": {"messages": 12_345, "octets": 5_000_000, "queued": 20_000, "held": 3},
        "shards": [{"shard": 0, "healthy": True, "sessions": 4, "deliveries": 2}],
        "destinations": lanes,
        **more,
    }


class Screens(unittest.TestCase):
    def test_it_fits_whatever_there_is_to_say(self) -> None:
        much = status(
            set_up=[{"destination": f"hop{n}", "trouble": "a login " * 19} for n in range(50)],
            refused={"why": "x"},
        )
        for columns, rows in ((80, 24), (40, 10), (200, 60), (1, 1)):
            for each in (status(), much):
                lines = screen(each, {}, columns, rows, NOW)
                self.assertLessEqual(len(lines), rows)
                self.assertLessEqual(max(map(len, lines)), columns)

    def test_what_is_amiss_stands_before_the_destinations(self) -> None:
        lines = screen(
            status(hooks=[{"name": "crm", "trouble": "answered 503"}]),
            {"sent": 12.3},
            80,
            24,
            NOW,
        )
        text = "\n".join(lines)
        self.assertIn("relayd at gw.example, up 1d", lines[0])
        self.assertIn("q ends", lines[0])
        self.assertIn("sent 12.3/s", text)
        self.assertIn("12,345 messages", text)
        self.assertLess(text.index("HOOK  crm: answered 503"), text.index("DESTINATION"))
        self.assertIn("d0.example", text)

    def test_one_is_one(self) -> None:
        waiting = {"messages": 1, "octets": 5, "queued": 1, "held": 0}
        text = "\n".join(screen(status(waiting=waiting), {}, 80, 24, NOW))
        self.assertIn("waiting 1 message (5B), 1 recipient, 0 held", text)

    def test_no_word_of_a_stranger_moves_the_cursor(self) -> None:
        lane = {"destination": "a\x1b[2Jb", "standing": "down", "waiting": 1, "trouble": "\x1b]0;x"}
        text = "".join(screen(status(destinations=[lane]), {}, 80, 24, NOW))
        self.assertTrue(text.isprintable())

    def test_rates_are_events_a_second(self) -> None:
        now = [0.0]
        rates = FollowedRates(cast(Daemon, None), lambda: now[0])
        for event in (
            {"event": "accepted"},
            *[{"event": "attempt", "state": "delivered"}] * 4,
            {"event": "attempt", "state": "failed"},
            {"event": "attempt", "state": "queued"},
            {"event": "alive"},
        ):
            rates.hear(event)
        now[0] = 2.0
        expected = {"accepted": 0.5, "sent": 2.0, "deferred": 0.5, "bounced": 0.5, "refused": 0.0}
        self.assertEqual(rates.look(), expected)
        now[0] = 4.0
        self.assertEqual(set(rates.look().values()), {0.0})


if __name__ == "__main__":
    unittest.main()
