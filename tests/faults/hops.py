"""Next hops that stall, drip, hang up, talk nonsense, answer twice, too early, or without end."""

from __future__ import annotations

import asyncio
import random

from tests.faults.run import Row, fault
from tests.faults.sink import HangUpError, Mood, Session
from tests.faults.stage import staged

# short deadlines are relayd's own business; a stalled session must not hold up the others
_GOOD_AFTER = 6.0  # seconds of bad behaviour, in the short form


class Wicked(Mood):
    """Misbehaves in one way, now and then, until it is told to be good."""

    exact = True  # it says 5xx only of recipients that it means

    def __init__(self, seed: int, one_in: int = 4) -> None:
        self.better = asyncio.Event()
        self.times = 0
        self._random = random.Random(f"mood {seed}")
        self._one_in = one_in

    @property
    def good(self) -> bool:
        """It behaves from now on."""
        return self.better.is_set()

    def now(self) -> bool:
        """Whether to misbehave this time."""
        bad = not self.good and self._random.randrange(self._one_in) == 0
        self.times += bad
        return bad


class Stalls(Wicked):
    """Never answers, at any stage."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Nothing."""
        while self.now():
            await self.better.wait()
            raise HangUpError
        return None


class Drips(Wicked):
    """Sends its replies octet by octet."""

    async def send(self, reply: bytes, session: Session) -> None:
        """Slowly."""
        if not self.now():
            await super().send(reply, session)
            return
        for at in range(len(reply)):
            await super().send(reply[at : at + 1], session)
            await asyncio.sleep(0.02)


class HangsUp(Wicked):
    """Resets the connection, at any stage."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Nothing."""
        if stage != "content" and self.now():
            raise HangUpError
        return None


class TakesAndHangsUp(Wicked):
    """Takes the message and resets before it says so: the duplicate that nobody can avoid."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Nothing."""
        if stage == "content" and self.now():
            session.take(said=False)
            raise HangUpError
        return None


class AnswersTwice(Wicked):
    """Says everything once more: a 5xx, too, which then is taken for the next recipient's."""

    exact = False

    async def send(self, reply: bytes, session: Session) -> None:
        """Twice."""
        await super().send(reply * 2 if self.now() else reply, session)


class AnswersEarly(Wicked):
    """Says 250 to content that it has not seen, and then nothing."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """A reply too many at DATA, one too few after the dot."""
        if stage == "data" and session.recipients and self.now():
            await self.send(b"354 Go ahead\r\n250 2.0.0 Taken, I am sure\r\n", session)
            raise HangUpError
        return None


class TalksNonsense(Wicked):
    """Octets that are no reply."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """Any of a few kinds."""
        if self.now():
            if stage == "content":
                session.take(said=False)
            draw = self._random
            kinds = (
                draw.randbytes(200),
                b"\r\n",
                b"2\r\n",
                b"999 ?\r\n",
                b"250",
                b"HTTP/1.1 200\r\n",
            )
            await self.send(draw.choice(kinds), session)
            raise HangUpError
        return None


class NeverEnds(Wicked):
    """Continuation lines for ever."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """As fast as they are taken."""
        if self.now():
            if stage == "content":
                session.take(said=False)
            while not self.good:
                await self.send(b"250-and so on and so on\r\n" * 100, session)
            raise HangUpError
        return None


class Says421(Wicked):
    """421, anywhere, then the connection is closed (RFC 5321 section 3.8)."""

    async def say(self, stage: str, session: Session) -> bytes | None:
        """421."""
        if self.now():
            await self.send(b"421 4.3.2 Shutting down\r\n", session)
            raise HangUpError
        return None


async def _with(row: Row, seed: int, short: bool, mood: Wicked) -> None:
    async with staged(seed, mood=mood) as stage:
        stage.build(settings="retry 1s*100\nconnect-timeout 5s")
        await stage.start()
        injector = stage.inject(kinds=("ok", "no", "late"), pause=0.05)
        await asyncio.sleep(_GOOD_AFTER if short else 20.0)
        row.demand(mood.times > 0, "it never misbehaved")
        row.runs += mood.times
        memory = stage.relayd.memory() >> 20
        row.remarks.append(f"{memory} MiB of memory, {stage.sink.taken} taken before it was good")
        row.demand(memory < 300, f"{memory} MiB of memory")
        row.demand(stage.sink.taken > 0, "nothing got through while it misbehaved")
        mood.better.set()
        await injector.stop()
        row.add(await stage.finish(exact=mood.exact), stage)
        wrong = set(injector.tally.codes) - {250}
        row.demand(not wrong, f"clients heard {sorted(wrong)}")


def _name(name: str, mood: type[Wicked]) -> None:
    async def named(row: Row, seed: int, short: bool) -> None:
        await _with(row, seed, short, mood(seed, 40 if mood in (Stalls, NeverEnds) else 10))

    fault(f"next hop {name}")(named)


_name("stalls", Stalls)
_name("drips", Drips)
_name("resets anywhere", HangsUp)
_name("resets after the dot", TakesAndHangsUp)
_name("answers twice", AnswersTwice)
_name("answers early", AnswersEarly)
_name("talks nonsense", TalksNonsense)
_name("sends endless continuation lines", NeverEnds)
_name("says 421 anywhere", Says421)
