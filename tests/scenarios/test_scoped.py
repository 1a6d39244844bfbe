"""Files of many people, in a relayd that runs: a mistake, a restart, two workers, a watch."""

from __future__ import annotations

import json

from tests.scenarios.harness import Relayd, Scenario, wait_until

RULES = """\
next-hop sink smtp 127.0.0.1:1
include customers/*.rules scoped
route any via sink
"""


class ScopedFilesTest(Scenario):
    def begin(self, workers: int = 1) -> Relayd:
        relay = self.relayd(RULES, settings="watch 1s", start=False)
        text = relay.config.read_text("utf-8").replace("\nworkers 1\n", f"\nworkers {workers}\n")
        relay.config.write_text(text, "utf-8")
        self.customers = relay.config.parent / "customers"
        for folder in {relay.config.parent, relay.folder, relay.folder / "rules.d"}:
            if folder.is_dir():
                (folder / "customers").mkdir(exist_ok=True)
        self.relay = relay
        for each in ("a.example", "b.example"):
            self.write(each, f"accept to info@{each}\n")
        return relay.start()

    def write(self, domain: str, text: str) -> None:
        for each in {self.relay.config.parent, self.relay.folder, self.relay.folder / "rules.d"}:
            if (each / "customers").is_dir():
                (each / "customers" / f"{domain}.rules").write_text(text, "utf-8")

    def reply(self, recipient: str) -> int:
        with self.relay.session() as client:
            client.ehlo("client.example")
            client.mail("x@outside.example")
            return client.rcpt(recipient)[0]

    def put_through(self, workers: int) -> None:
        relay = self.begin(workers)
        self.assertEqual(self.reply("info@a.example"), 250)
        self.assertEqual(self.reply("new@b.example"), 550)
        self.write("a.example", "accept to info@b.example\n")
        self.write("b.example", "accept to info@b.example, new@b.example\n")
        wait_until(lambda: self.reply("new@b.example") == 250, f"the watch\n{relay.log()}")
        self.assertEqual(self.reply("info@a.example"), 250)  # its last good version
        told = json.loads(relay.ctl("status", "--json", check=False).stdout)["warnings"]
        self.assertTrue(any("a.example.rules:1:" in each for each in told), told)
        check = relay.ctl("check", check=False)
        self.assertIn("info@b.example is not in a.example", check.stdout + check.stderr)
        self.assertIn("a.example.rules:1", relay.ctl("explain", "info@a.example").stdout)
        relay.stop()
        relay.start()
        for _ in range(2 * workers):
            self.assertEqual(self.reply("info@a.example"), 250)
            self.assertEqual(self.reply("new@b.example"), 250)

    def test_one_broken_file_harms_nobody_and_keeps_its_last_good_version(self) -> None:
        self.put_through(1)

    def test_so_it_is_with_two_workers(self) -> None:
        self.put_through(2)
