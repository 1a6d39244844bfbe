"""Next hops that take only so much at a time, and say 4xx to the rest; or want something of us.

How many attempts they have to refuse until everything is there is in the table.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections import deque

from tests.faults.names import NameServer
from tests.faults.run import Row, fault
from tests.faults.sink import HangUpError, Mood, Session, Sink
from tests.faults.stage import Stage, staged

_ATTEMPT = re.compile(r" attempt id=.* status=(sent|deferred|bounced|expired) ")


class Throttle(Mood):
    """Refuses what is more than it takes, and counts."""

    def __init__(self) -> None:
        self.refused = 0
        self.taken = 0

    def over(self, stage: str, session: Session) -> bytes | None:
        """The refusal that is due at this step, if any."""
        raise NotImplementedError

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Every transaction ends here or at the dot."""
        reply = self.over(stage, session)
        if reply is None:
            self.taken += stage == "content"
            return None
        self.refused += 1
        if reply.startswith(b"421"):
            await self.send(reply, session)
            raise HangUpError
        return reply

    @property
    def share(self) -> float:
        """Of all attempts, those that it refused."""
        return self.refused / max(self.refused + self.taken, 1)


class FewConnections(Throttle):
    """Two at a time; the others are greeted with 421."""

    def over(self, stage: str, session: Session) -> bytes | None:
        """At the greeting."""
        many = len(session.sink.sessions) > 2
        return b"421 4.7.0 Too many connections\r\n" if stage == "connect" and many else None


class FewMessages(Throttle):
    """Ten in a session."""

    def over(self, stage: str, session: Session) -> bytes | None:
        """At MAIL, or at DATA."""
        due = session.transactions > 10 and stage == ("mail", "data")[session.number % 2]
        return b"452 4.4.5 Too many messages\r\n" if due else None


class FewInTime(Throttle):
    """Ten in so many seconds, of those that were taken."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=10)

    def over(self, stage: str, session: Session) -> bytes | None:
        """At MAIL."""
        if stage != "mail":
            return None
        now, times = time.monotonic(), self._times
        if len(times) == 10 and now - times[0] < self._seconds:
            return b"421 4.7.28 Our system has detected an unusual rate of mail\r\n"
        times.append(now)
        return None


class Injects(Throttle):
    """Offers STARTTLS, and says more in the clear behind its 220 (as who sits on the wire does)."""

    def over(self, stage: str, session: Session) -> bytes | None:
        """At EHLO and STARTTLS."""
        if stage == "starttls":
            return b"220 2.0.0 Go ahead\r\n250 2.0.0 Ok\r\n"
        return None

    async def say(self, stage: str, session: Session) -> bytes | None:
        """With the offer."""
        if stage == "hello":
            return b"250-sink.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 STARTTLS\r\n"
        return await super().say(stage, session)


class Full(Throttle):
    """4xx to every transaction, at some step of it."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._random = random.Random(f"full {seed}")
        self._steps: dict[int, str] = {}

    def over(self, stage: str, session: Session) -> bytes | None:
        """At MAIL mostly."""
        if stage == "mail":
            step = self._random.choice(("mail", "mail", "rcpt", "data", "content"))
            self._steps[session.number] = step
        due = self._steps.get(session.number) == stage
        return b"452 4.3.1 Insufficient system storage\r\n" if due else None


class WantsLogin(Throttle):
    """530 and its like, until somebody has seen to it."""

    REPLIES = (
        b"530 5.7.0 Authentication required\r\n",
        b"530 5.7.0 Must issue a STARTTLS command first\r\n",
        b"535 5.7.8 Error: authentication failed\r\n",
        b"534 5.7.9 Authentication mechanism is too weak\r\n",
        b"538 5.7.11 Encryption required for requested authentication mechanism\r\n",
    )

    def __init__(self) -> None:
        super().__init__()
        self.mended = False
        self.reply = self.REPLIES[0]

    def over(self, stage: str, session: Session) -> bytes | None:
        """At MAIL."""
        return self.reply if stage == "mail" and not self.mended else None


def _attempts(stage: Stage) -> list[str]:
    """How each of relayd's attempts ended, by its own log."""
    return _ATTEMPT.findall(stage.relayd.log(10**7))


async def _waiting(stage: Stage, count: int) -> None:
    """So many messages are with relayd when its next hop comes."""
    await stage.sink.stop()
    await stage.start()
    injector = stage.inject(kinds=("ok", "no"), pause=0.0, large=0)
    await stage.until(lambda: injector.tally.acknowledged >= count, f"{count} messages wait")
    await injector.stop()
    await stage.sink.start()


async def _throttled(
    row: Row,
    seed: int,
    mood: Throttle,
    count: int,
    most: float,
    settings: str = "",
    patience: float = 60.0,
) -> None:
    """All arrives, though it never takes more; at most this share of attempts is refused."""
    async with staged(seed, mood=mood) as stage:
        stage.build(settings=settings)
        await _waiting(stage, count)
        began = time.monotonic()
        verdict = await stage.finish(patience)
        seconds = time.monotonic() - began
        row.runs = mood.refused
        row.add(verdict, stage)
        down = stage.relayd.log(10**7).count('event="next hop down"')
        attempts = _attempts(stage)
        row.remarks.append(
            f"refused {mood.refused} of {mood.refused + mood.taken} attempts ({mood.share:.0%});"
            f" {attempts.count('deferred')} recipients put off, {down} times next hop down,"
            f" all there after {seconds:.0f} s"
        )
        row.demand(mood.share <= most, f"{mood.share:.0%} of the attempts refused")


@fault("next hop takes two connections")
async def connections(row: Row, seed: int, short: bool) -> None:
    """It takes 40 messages in a moment, over the two."""
    await _throttled(row, seed, FewConnections(), 40 if short else 400, 0.25)


@fault("next hop takes ten messages a session")
async def sessions(row: Row, seed: int, short: bool) -> None:
    """The eleventh goes over a fresh connection, at once."""
    few = "deliveries-per-destination 5"  # so that each connection comes to its eleventh
    await _throttled(row, seed, FewMessages(), 200 if short else 400, 0.15, few)


@fault("next hop takes ten messages in a while")
async def rate(row: Row, seed: int, short: bool) -> None:
    """Ten seconds are scaled to one, or two, and so is the schedule."""
    seconds = 1.0 if short else 2.0
    mood = FewInTime(seconds)
    # a relay that knows nothing of rates is refused two attempts of three
    await _throttled(row, seed, mood, 60 if short else 200, 0.22, "retry 1s*200", 180)


@fault("next hop injects behind STARTTLS")
async def injects(row: Row, seed: int, short: bool) -> None:
    """TLS is optional there: so it goes in the clear, over a fresh connection."""
    await _throttled(row, seed, Injects(), 20 if short else 200, 1.0)


SECOND_RULES = """next-hop both smtp {first}, {second}
next-hop one smtp {first}
next-hop two smtp {second}
accept to @.corp.test
route to @d0.corp.test via both
route to @d1.corp.test via one, two
route to @sender.test via two
route any direct
"""


class TwoExchangers(NameServer):
    """For which every domain has the full one first."""

    def records(self, name: str, rdtype: str) -> list[str]:
        """By the preference."""
        if rdtype == "MX":
            return ["10 full.test.", "20 roomy.test."]
        hosts = {"full.test.": "127.0.0.2", "roomy.test.": "127.0.0.3"}
        return [hosts[name]] if rdtype == "A" and name in hosts else []


@fault("first host of two is full")
async def second(row: Row, seed: int, short: bool) -> None:
    """Two hosts of one next hop, two next hops, two exchangers: the second one is asked at once."""
    mood, server = Full(seed), TwoExchangers(seed)
    port = await server.start()
    async with staged(seed, host="127.0.0.3") as stage:
        full = Sink(stage.journal, mood)
        full.host, full.port = "127.0.0.2", stage.sink.port
        await full.start()
        names = {"first": f"127.0.0.2:{full.port}", "second": f"127.0.0.3:{full.port}"}
        stage.build(
            rules=SECOND_RULES.format(**names),
            settings=f"resolver 127.0.0.1:{port}\nrelay-port {full.port}\n"
            "internal-destinations 127.0.0.0/8",
        )
        try:
            await stage.start()
            injector = stage.inject(kinds=("ok", "no"), domains=3, pause=0.1, large=0)
            await asyncio.sleep(3.0 if short else 20.0)
            await injector.stop()
            verdict = await stage.finish(20)
        finally:
            await full.stop()
        attempts = _attempts(stage)
        row.runs = mood.refused
        row.remarks.append(
            f"{mood.refused} refused by the first, {attempts.count('deferred')} of"
            f" {len(attempts)} recipients put off"
        )
        row.add(verdict, stage)
        row.demand(mood.refused > 0, "the first one was never asked")
        late = attempts.count("deferred")
        row.demand(late == 0, f"{late} recipients put off, though the second takes everything")


@fault("next hop wants a login")
async def login(row: Row, seed: int, short: bool) -> None:
    """It is our set-up that is wrong: mail waits, the operator hears of it, nothing bounces."""
    mood = WantsLogin()
    async with staged(seed, mood=mood) as stage:
        stage.build(settings="retry 1s*100")
        await stage.start()
        injector = stage.inject(pause=0.1)
        for reply in mood.REPLIES:
            mood.reply = reply
            refused = mood.refused
            await stage.until(lambda refused=refused: mood.refused > refused, "it is asked again")  # type: ignore[misc]
            await asyncio.sleep(0.3 if short else 3.0)
        status = (await asyncio.to_thread(stage.relayd.ctl, "status")).stdout
        row.demand(bool(re.search(r"\b5[0-9]{2}\b", status)), f"status says nothing:\n{status}")
        await injector.stop()
        mood.mended = True
        began = time.monotonic()
        row.recover = await stage.flows()
        verdict = await stage.finish()
        row.runs = mood.refused
        row.add(verdict, stage)
        row.remarks.append(
            f"{verdict.acknowledged} recipients waited, {mood.refused} attempts refused until it"
            f" was mended, all there {time.monotonic() - began:.0f} s later"
        )
        row.demand(verdict.reported == 0, f"{verdict.reported} recipients bounced")
