"""`relayctl suspend` and `resume` take what can be meant, and say what is wrong with the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from relayd.ops.documents import Document, RequestError
from relayd.ops.suspending import SuspendingDesk
from relayd.relay.suspensions import Suspensions
from relayd.spool.view import QueueFilter
from tests.support import TestCase
from tests.unit.relay.fakes import Log


class Desk(TestCase):
    def setUp(self) -> None:
        self.retried: list[QueueFilter] = []
        log = Log()
        suspensions = Suspensions(None, log, lambda: 1000.0)
        self.desk = SuspendingDesk(
            suspensions, lambda: ["google"], lambda: ["Isp", "lmtp1"], log, lambda: 1000.0
        )

    async def ask(self, command: str, **request: object) -> Mapping[str, Any]:
        async def retry(wanted: QueueFilter) -> int:
            self.retried.append(wanted)
            return 0

        answer: Document = await self.desk.run({"command": command, **request}, retry)
        return answer

    async def refused(self, command: str, **request: object) -> str:
        try:
            await self.ask(command, **request)
        except RequestError as error:
            return str(error)
        raise self.failureException("it was taken")

    async def test_a_destination_is_a_next_hop_or_a_domain(self) -> None:
        for whom in (
            "isp",
            "LMTP1",
            "a.example",
            "@a.example",
            "[192.0.2.1]",
            "[IPv6:2001:db8::1]",
        ):
            await self.ask("suspend", destination=whom, seconds=60)
        for whom, hint in (("ips", 'did you mean "Isp"?'), ("google", "known are: Isp, lmtp1")):
            said = await self.refused("suspend", destination=whom, seconds=60)
            self.assertEqual(said, f"{whom} is no domain, and no next hop; {hint}")

    async def test_a_sender_is_an_address_a_domain_or_nobody(self) -> None:
        for whom in ("ann@a.example", "<ann@a.example>", "@a.example", "<>"):
            await self.ask("suspend", sender=whom, seconds=60)
        said = await self.refused("suspend", sender="ann", seconds=60)
        self.assertEqual(said, "no sender is ann: give ADDRESS, @DOMAIN, or <>")

    async def test_one_thing_at_a_time_and_for_how_long(self) -> None:
        self.assertIn("name one", await self.refused("suspend", seconds=60))
        both = await self.refused("suspend", sender="<>", login="bob", seconds=60)
        self.assertEqual(both, "name one of --destination, --provider, --sender, --login")
        self.assertTrue((await self.refused("resume")).endswith("--login, or --all"))
        for seconds in (0, -5, 400 * 86400):
            said = await self.refused("suspend", login="bob", seconds=seconds)
            self.assertIn("at most a year", said)

    async def test_resume_of_one_is_not_resume_of_all(self) -> None:
        for login in ("ann", "bob"):
            await self.ask("suspend", login=login, seconds=60)
        said = await self.refused("resume", login="ann", all=True)
        self.assertEqual(said, "one of them, or --all?")
        self.assertEqual(len((await self.ask("suspended"))["suspended"]), 2)
        self.assertEqual(len((await self.ask("resume", login="Ann"))["resumed"]), 1)
        self.assertEqual((await self.ask("resume", login="ann"))["resumed"], [])
        self.assertIn("give ADDRESS", await self.refused("resume", sender="ann"))
        self.assertEqual(len((await self.ask("resume", all=True))["resumed"]), 1)
        self.assertEqual(len(self.retried), 2)
