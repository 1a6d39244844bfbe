"""Webhooks: events of messages, signed, posted to whom the `hook` statements name.

Each process that moves mail gathers its events (HookRecorder) and a thread writes them to the one
queue on disk. The process that operators speak to posts from there (HookPoster): in order, one
request at a time for each receiver, again and again until a receiver has said 2xx.
"""

from __future__ import annotations

import base64
import hmac
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from relayd.config.hooks import Hook
from relayd.mail.client import Client
from relayd.mail.log import MailLog
from relayd.mail.message import Message, RecipientState, Record, Settlement
from relayd.ops.answers import EventAnswer, HookBodyAnswer, HookStatusAnswer
from relayd.ops.following import Tapped
from relayd.ops.hookqueue import HookCounts, HookQueue, WaitingEvent
from relayd.ops.telling import Telling
from relayd.reactor.coroutine import promise
from relayd.relay.https import HttpAnswer, HttpError

LOOK = 0.25  # seconds between two looks at the queue
BATCH = 100  # events in one request
BATCH_OCTETS = 256 * 1024  # of their documents
FIRST_DELAY, MOST_DELAY = 1.0, 60.0  # seconds until a receiver that failed is tried again
PATIENCE = 10.0  # seconds for one answer
MOST_GATHERED = 20_000  # events that wait for the disk, in each process
TOLD = 60.0  # seconds between two lines about dropped events


KINDS = {
    RecipientState.QUEUED.name.lower(): "deferred",
    RecipientState.HELD.name.lower(): "held",
    RecipientState.DELIVERED.name.lower(): "delivered",
    RecipientState.FAILED.name.lower(): "bounced",
    RecipientState.EXPIRED.name.lower(): "expired",
    RecipientState.DISCARDED.name.lower(): "discarded",
    RecipientState.REMOVED.name.lower(): "removed",
}

InThread = Callable[..., Deferred[object]]
Post = Callable[[str, bytes, Mapping[str, str]], Awaitable[HttpAnswer]]


class HookRecorder(Telling):
    """Hears what the log hears while there are hooks; mail never waits for it."""

    def __init__(
        self,
        queue: HookQueue,
        log: Tapped,
        later: Callable[[Callable[[], None]], object],
        in_thread: InThread,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`later`: calls at the turn's end (relayd.reactor.lean.soon)."""
        super().__init__(now)
        self._queue = queue
        self._log = log
        self._later = later
        self._in_thread = in_thread
        self._hooks: tuple[Hook, ...] = ()
        self._wanted: frozenset[str] = frozenset()
        self._keep: Mapping[str, int] = {}
        self._events: list[tuple[str, float, str, object]] = []
        self._lost: dict[str, int] = {}  # by hook: what found no room here, or no disk
        self._writing = False
        self._due = False

    def apply(self, hooks: Sequence[Hook]) -> None:
        """These are the hooks from now on."""
        self._hooks = tuple(hooks)
        self._wanted = frozenset(event for each in hooks for event in each.events)
        self._keep = {each.name: each.keep for each in hooks}
        others = tuple(tap for tap in self._log.taps if tap is not self)
        self._log.taps = (*others, self) if hooks else others

    def tell(self, event: EventAnswer) -> None:
        """See Telling."""
        kind = KINDS[event["state"]] if event["event"] == "attempt" else event["event"]
        for each in self._hooks:
            if kind not in each.events:
                continue
            if len(self._events) >= MOST_GATHERED:
                self._lost[each.name] = self._lost.get(each.name, 0) + 1
            else:
                self._events.append((each.name, event["at"], kind, event))
            if not self._due and not self._writing:
                self._due = True
                self._later(self._write)

    def _write(self) -> None:
        self._due = False
        if self._writing or not (self._events or self._lost):
            return
        events, self._events = self._events, []
        lost, self._lost = self._lost, {}
        self._writing = True

        def written(result: object) -> None:
            self._writing = False
            if isinstance(result, Failure):  # the disk does not take them: no mail waits for that
                for name, *_ in events:
                    lost[name] = lost.get(name, 0) + 1
                for name, count in lost.items():
                    self._lost[name] = self._lost.get(name, 0) + count
            if self._events:
                self._write()

        self._in_thread(self._queue.add, events, self._room, [*lost.items()]).addBoth(written)

    def _room(self, name: str) -> int:
        return self._keep.get(name, 0)

    def finish(self) -> None:
        """Write what is left, at once: the process ends."""
        events, self._events = self._events, []
        try:
            if events or self._lost:
                self._queue.add(events, self._room, [*self._lost.items()])
        except OSError:
            return  # its poster tells that the disk is in trouble
        finally:
            self._queue.close()

    # what no hook may want is made no document of

    def refused(self, client: Client, command: str, reply: str, why: str = "") -> None:
        """Not told: strangers would fill the queue."""

    def notice(self, event: str, **facts: object) -> None:
        """Not told: it is no event of a message."""

    def trouble(self, event: str, **facts: object) -> None:
        """Likewise."""

    def accepted(self, message: Message, records: Sequence[Record], seconds: float) -> None:
        """A message is on stable storage."""
        if "accepted" in self._wanted:
            super().accepted(message, records, seconds)

    def attempted(
        self, message: Message, settlements: Sequence[Settlement], seconds: float
    ) -> None:
        """What an attempt, the operator or age made of recipients."""
        wanted = [each for each in settlements if KINDS[each.state.name.lower()] in self._wanted]
        if wanted:
            super().attempted(message, wanted, seconds)


@dataclass(slots=True)
class _Target:
    """One hook, and how its receiver is."""

    hook: Hook
    busy: Deferred[None] | None = None
    failures: int = 0  # since the last success
    retries: int = 0  # ... and all those before
    next_try: float = 0.0  # of the reactor's clock
    trouble: str = ""
    since: float = 0.0
    told: float = -TOLD  # when dropped events were, of the reactor's clock
    told_dropped: int | None = None
    counts: HookCounts = field(default_factory=HookCounts)


class HookPoster:
    """Posts what the queue holds. `post` makes one request (relayd.relay.https.Https.hand)."""

    def __init__(
        self,
        clock: IReactorTime,
        queue: HookQueue,
        in_thread: InThread,
        log: MailLog,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._clock = clock
        self._queue = queue
        self._in_thread = in_thread
        self._log = log
        self._now = now
        self._post: Post | None = None
        self._targets: dict[str, _Target] = {}
        self._look: IDelayedCall | None = None
        self._looking = False
        self._disk = ""  # what is wrong with the queue itself
        self._stopped = False

    def apply(self, hooks: Sequence[Hook], post: Post) -> None:
        """These are the hooks from now on; a receiver that is new is tried at once."""
        self._post = post
        before, self._targets = self._targets, {}
        for each in hooks:
            known = before.get(each.name)
            target = _Target(each) if known is None else known
            if target.hook != each:
                target.hook, target.failures, target.next_try = each, 0, 0.0
                target.trouble, target.since = "", 0.0
                if target.busy is not None:
                    target.busy.cancel()
            self._targets[each.name] = target
        for name, gone in before.items():
            if name not in self._targets and gone.busy is not None:
                gone.busy.cancel()
        if self._look is None and not self._looking and not self._stopped:
            self._look = self._clock.callLater(0, self._begin)

    def stop(self) -> None:
        """Post no more; what waits is posted after the next start."""
        self._stopped = True
        if self._look is not None:
            self._look.cancel()
            self._look = None
        for each in self._targets.values():
            if each.busy is not None:
                each.busy.cancel()
        self._queue.close()

    def status(self, *, counted: bool = False) -> list[HookStatusAnswer]:
        """For `relayctl status`; for `metrics` those alone that are `counted` by now."""
        now = self._clock.seconds()
        return [
            {
                "name": name,
                "receiver": each.hook.receiver,
                "events": [*each.hook.events],
                "waiting": each.counts.waiting,
                "oldest": each.counts.oldest,
                "sent": each.counts.sent,
                "dropped": each.counts.dropped,
                "retries": each.retries,
                "trouble": each.trouble or self._disk,
                "since": each.since,
                "next_try": self._now() + max(each.next_try - now, 0.0) if each.trouble else 0.0,
            }
            for name, each in self._targets.items()
            if each.told_dropped is not None or not counted
        ]

    def _begin(self) -> None:
        self._look = None
        self._looking = True
        looked = promise(self._look_at_all())

        def done(_: object) -> None:
            self._looking = False
            if self._targets and not self._stopped:
                self._look = self._clock.callLater(LOOK, self._begin)

        looked.addErrback(self._wrong_disk)
        looked.addBoth(done)

    def _wrong_disk(self, failure: Failure) -> None:
        why = failure.getErrorMessage()
        if why != self._disk:
            self._log.trouble("hook events cannot be kept", why=why)
        self._disk = why

    async def _look_at_all(self) -> None:
        """What waits for whom, what is too old or nobody's any more, and who is due."""
        counts = await self._counted()
        for name, target in [*self._targets.items()]:
            if target.busy is None and counts.get(name, HookCounts()).waiting:
                before = self._now() - target.hook.age
                if 0 < counts[name].oldest < before:
                    await self._in_thread(self._queue.forget, name, before)
        for name, known in counts.items():
            if name not in self._targets and known.waiting:
                gone = await self._in_thread(self._queue.forget, name, float("inf"))
                self._log.notice("hook gone", hook=name, dropped=gone)
        counts = await self._counted()
        self._disk = ""
        for name, target in self._targets.items():
            target.counts = counts.get(name, HookCounts())
            self._tell_dropped(target)
            due = target.next_try <= self._clock.seconds()
            if target.busy is None and target.counts.waiting and due and not self._stopped:
                target.busy = promise(self._send(target))
                target.busy.addErrback(self._given_up)
                target.busy.addBoth(self._finished, target)

    async def _counted(self) -> dict[str, HookCounts]:
        counts = await self._in_thread(self._queue.counts)
        assert isinstance(counts, dict)
        return counts

    def _given_up(self, failure: Failure) -> None:
        if not failure.check(CancelledError):  # type: ignore[no-untyped-call]  # Twisted's own
            self._wrong_disk(failure)

    def _finished(self, _: object, target: _Target) -> None:
        target.busy = None

    def _tell_dropped(self, target: _Target) -> None:
        now, dropped = self._clock.seconds(), target.counts.dropped
        if target.told_dropped is None:
            target.told_dropped = dropped  # what was dropped before we started was told then
        if dropped > target.told_dropped and now - target.told >= TOLD:
            self._log.trouble(
                "hook events dropped",
                hook=target.hook.name,
                events=dropped - target.told_dropped,
                waiting=target.counts.waiting,
            )
            target.told, target.told_dropped = now, dropped

    async def _send(self, target: _Target) -> None:
        """What waits, request after request, until nothing does or the receiver fails."""
        while not self._stopped:
            hook = target.hook
            events = await self._in_thread(self._queue.next, hook.name, BATCH, BATCH_OCTETS)
            assert isinstance(events, list) and self._post is not None
            if not events:
                return
            body, fields = request_of(hook, events, self._queue.mark, self._now())
            try:
                answer = await self._post(hook.url, body, fields)
            except HttpError as error:
                self._failed(target, str(error))
                return
            if answer.status // 100 != 2:
                self._failed(target, _said(answer.status))
                return
            if target.trouble:
                self._log.notice("hook works again", hook=hook.name, tries=target.failures + 1)
            target.failures, target.trouble, target.since = 0, "", 0.0
            await self._in_thread(self._queue.sent, hook.name, events)

    def _failed(self, target: _Target, why: str) -> None:
        if not target.trouble:
            target.since = self._now()
            receiver = target.hook.receiver
            self._log.trouble("hook fails", hook=target.hook.name, receiver=receiver, why=why)
        target.trouble = why
        delay = min(FIRST_DELAY * 2 ** min(target.failures, 16), MOST_DELAY)
        target.failures += 1
        target.retries += 1
        target.next_try = self._clock.seconds() + delay


def _said(status: int) -> str:
    more = ", and no redirect is followed" if status // 100 == 3 else ""
    return f"it answered {status}{more}; expected 2xx"


def request_of(
    hook: Hook, events: Sequence[WaitingEvent], mark: str, now: float
) -> tuple[bytes, dict[str, str]]:
    """The body, and the fields that sign it: those of standardwebhooks.com.

    The same ID always stands for the same events, whenever they are posted again.
    """
    ident = f"{mark}.{events[0].number}-{events[-1].number}"
    body: HookBodyAnswer = {
        "hook": hook.name,
        "events": [
            {"id": f"{mark}.{each.number}", "type": each.kind, "data": json.loads(each.document)}
            for each in events
        ],
    }
    text = json.dumps(body).encode()
    stamp = str(int(now))
    signed = b"%b.%b.%b" % (ident.encode(), stamp.encode(), text)
    return text, {
        "Content-Type": "application/json",
        "webhook-id": ident,
        "webhook-timestamp": stamp,
        "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in hook.keys),
    }


def _signature(key: bytes, text: bytes) -> str:
    return base64.b64encode(hmac.digest(key, text, "sha256")).decode()
