"""A relayd of today on a spool of each format ever released: it starts, and all of it goes out."""

from __future__ import annotations

from tests.golden.spools import unpack
from tests.ports import free_port
from tests.scenarios.harness import Scenario, wait_until
from tests.sink import Sink

LONGEST = "366d"  # after that time they go back to their senders: empty it is all the same


class GoldenSpool(Scenario):
    def check(self, number: int) -> None:
        sink = Sink()
        self.addCleanup(sink.stop)
        relay = self.relayd(
            f"next-hop down smtp 127.0.0.1:{sink.port}\n"
            f"next-hop spare smtp 127.0.0.1:{sink.port}\n"
            "accept from 127.0.0.0/8\nroute any via down\n",
            settings=f"give-up {LONGEST}\nwarn-after 365d\nresolver 127.0.0.1:{free_port()}",
            start=False,
        )
        unpack(number, relay.folder)
        relay.start()
        relay.ctl("retry", "--all")
        relay.ctl("release", "--all")
        left = {"two@direct.example"}  # there is no DNS to go direct by
        wait_until(
            lambda: (
                {one["mailbox"] for each in relay.queue() for one in each["recipients"]} <= left
            ),
            "all that has a next hop goes out",
        )
        relay.ctl("remove", "--all", "--note", "its domain is no more", check=False)
        relay.wait_empty()
        audit = relay.ctl("audit").stdout
        self.assertIn("clean: all", audit)
        self.assertEqual(relay.stop(), 0)
        self.assertNotIn("damaged", relay.log(1000))

    def test_format_1(self) -> None:
        self.check(1)

    def test_format_2(self) -> None:
        self.check(2)
