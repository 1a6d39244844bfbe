"""Each truth of `relayctl status`, provoked, with one process and with two; typed all the same."""

from __future__ import annotations

import datetime
import json
from typing import Any

from relayd.ops.answers import StatusAnswer
from tests.certs import DAY, Authority
from tests.scenarios.harness import Scenario, wait_until
from tests.sink import Asked, Sink
from tests.unit.ops.test_answers import wrong

RULES = """\
next-hop other smtp 127.0.0.1:1
limit   few 2/1h per client
accept  to @open.example
reject  over few "450 4.7.1 enough for now"
accept  from 127.0.0.0/8
route   to @held.example via other
route   any via out
"""


class Truths(Scenario):
    workers = 1

    def test_all_that_is_amiss_is_told(self) -> None:
        def answer(asked: Asked) -> str | None:
            wants = asked.stage == "mail"
            return "530 5.7.0 Authentication required" if wants else None

        soon = Authority().issue("gw.example", end=datetime.timedelta(days=3))
        certificate, key = soon.write(self.folder, "soon")
        late = Authority().issue("late.example", end=90 * DAY)
        other, other_key = late.write(self.folder, "late")
        other_key.chmod(0o644)
        with Sink(answer) as sink:
            relay = self.relayd(
                f"next-hop out smtp 127.0.0.1:{sink.port}\n{RULES}",
                start=False,
                settings=f"certificate {certificate} key {key}\n"
                f"certificate {other} key {other_key} for late.example\n",
            )
            good = relay.config.read_text().replace("workers 1\n", f"workers {self.workers}\n")
            relay.config.write_text(good)
            relay.start()
            relay.ctl("suspend", "--destination", "other", "--for", "2h", "--reason", "it moves")
            for number in range(2):
                relay.send("ann@sender.example", [f"a{number}@b.example"])

            def status() -> dict[str, Any]:
                found = json.loads(relay.ctl("status", "--json").stdout)
                self.assertEqual(list(wrong(found, StatusAnswer)), [])
                return dict(found)

            wait_until(lambda: status()["set_up"], "the next hop wants a login")
            (mend,) = status()["set_up"]
            self.assertEqual(mend["destination"], "out")
            self.assertIn("give this next hop a login", mend["trouble"])
            # what somebody asked for before, perhaps at the start, is told again for a while
            (limit,) = wait_until(lambda: status()["limits"], "who is over a limit", 120)
            self.assertEqual((limit["name"], limit["over"]), ("few", 1))
            self.assertEqual(limit["keys"], ["127.0.0.1"])
            self.assertEqual([each["whom"] for each in status()["suspended"]], ["other"])
            dates = {each["file"]: each for each in status()["certificates"]}
            self.assertEqual(sorted(dates), sorted(map(str, (certificate, other))))
            self.assertEqual({each["trouble"] for each in dates.values()}, {""})
            told = relay.ctl("status").stdout
            self.assertRegex(told, r"MEND +out: 451 4\.7\.0 Next hop out .*give this next hop")
            self.assertRegex(told, rf"CERTIFICATE +{certificate} until .*, for 2d23h\n")
            self.assertRegex(told, rf"certificate +{other} until ")
            self.assertRegex(told, r"limit +few: 1 at 2 recipients in 1h per client: 127\.0\.0\.1")
            self.assertRegex(told, r"suspended +.*other.* it moves")
            self.assertRegex(told, r"in force +since 20")
            self.assertRegex(told, r"warning +.*late.*\(mode 0644\)")
            self.assertEqual(status()["log_dropped"], 0)

            certificate.write_text("nonsense")
            relay.config.write_text(f"{good}free-space 900000GiB\ncommand-timeout 4m\n")
            self.assertEqual(relay.ctl("reload", check=False).returncode, 1)
            found = status()
            self.assertIn("holds no certificate", found["refused"]["why"])
            self.assertIn("holds no certificate", "".join(
                each["trouble"] for each in found["certificates"]))  # fmt: skip
            soon.write(self.folder, "soon")
            relay.config.write_text(f"{good}free-space 900000GiB\nrelay-port 2526\n")
            relay.ctl("reload")
            self.assertIsNone(status()["refused"])
            self.assertEqual(status()["restart"], ["relay-port"])
            wait_until(lambda: status()["full"], "the disk is below its floor")
            self.assertEqual(len(status()["full"]), 1)
            self.assertIn("FULL           free-space, free-inodes", relay.ctl("status").stdout)

    def test_a_damaged_message_is_told(self) -> None:
        """What is set aside waits for somebody who looks at it."""
        settings = "content-in-memory 0\n"
        rules = "accept from 127.0.0.0/8\nroute any via out\nnext-hop out smtp 127.0.0.1:1\n"
        relay = self.relayd(rules, start=False, settings=settings)
        good = relay.config.read_text().replace("workers 1\n", f"workers {self.workers}\n")
        relay.config.write_text(good)
        relay.start()
        relay.send("a@sender.example", ["b@c.example"], b"Subject: x\r\n\r\n" + b"x\r\n" * 1000)
        relay.stop()
        spool = self.folder / "relayd" / "spool"
        (content,) = (each for each in spool.glob("shard-*/content/**/*") if each.is_file())
        content.write_bytes(b"something else")
        relay.start()

        def damaged() -> bool:
            relay.ctl("retry", "--all")
            found: dict[str, Any] = json.loads(relay.ctl("status", "--json").stdout)
            return bool(found["waiting"]["damaged"] == 1)

        wait_until(damaged, f"it is set aside: {relay.log()}")
        self.assertRegex(relay.ctl("status").stdout, r"damaged +1 message set aside")


class TruthsOfTwoWorkers(Truths):
    workers = 2
