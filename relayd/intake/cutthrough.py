"""Clients that wait for how the first attempt of their message ends, and what they hear then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol

from relayd.mail.message import Message, RecipientState, Record, Settlement, Submission
from relayd.mail.reply import Reply, printable

# what a next hop may say of a message (RFC 5321 sections 4.2.2 and 4.2.4, RFC 7504); other codes
# speak of its session with us, and would be misread in the client's
_OF_MESSAGES = frozenset({550, 552, 553, 554, 556})
_FAILED = 554
_MOST_TOLD = 10  # different refusals in one reply
_MOST_LINES = 50  # of a reply
_LONGEST = 400  # characters of a line: with code and status within RFC 5321 section 4.5.3.1.5


class AwaitedAttempt(Protocol):
    """One that its client waits for (see relayd.relay.firstattempt)."""

    @property
    def refusals(self) -> Sequence[Settlement]:
        """What was said, if it is refused by all."""

    def refused_by_all(self) -> Awaitable[bool]:
        """Whether it is; no later than the client's patience lasts."""

    def hurry(self) -> None:
        """Nobody waits any longer."""

    def refuse(self) -> Awaitable[bool]:
        """Record the refusals without a report; False: 5xx may not be said."""

    def report(self) -> Awaitable[None]:
        """After `refuse`: nobody was there to be told."""

    def take(self) -> None:
        """The client hears 250; the spool knows it."""

    def come_again(self) -> None:
        """The client hears 4xx, for the spool does not know it."""


class CutThrough:
    """Who may wait: `most` clients at a time, and for one destination half of what is left.

    So a slow one does not take all places.

    `attempt` begins, `prompt` says of a destination whether an attempt there would begin soon,
    `answered` tells the spool that a message's client is about to hear 250.
    """

    def __init__(
        self,
        attempt: Callable[[Message, Sequence[Record], float], AwaitedAttempt],
        prompt: Callable[[str], bool],
        answered: Callable[[int], Awaitable[None]],
        most: int = 0,
    ) -> None:
        self.most = most
        self.waiting = 0
        self.attempt = attempt
        self.answered = answered
        self._prompt = prompt
        self._at: dict[str, int] = {}

    def place(self, submission: Submission) -> frozenset[str] | None:
        """Let its client wait (`until`), at these destinations; None: not now, or not for it."""
        if submission.states or submission.state is not RecipientState.QUEUED:
            return None  # some are taken whatever becomes of the others
        left = self.most - self.waiting
        places = frozenset(each.destination for each in submission.recipients if not each.bcc)
        for each in places:
            if self._at.get(each, 0) >= left or not self._prompt(each):
                return None
        self.waiting += 1
        for each in places:
            self._at[each] = self._at.get(each, 0) + 1
        return places

    async def until(self, answer: Coroutine[Any, Any, Reply], places: Iterable[str]) -> Reply:
        """The answer; with it others may have his places."""
        try:
            return await answer
        finally:
            self._leave(places)

    def _leave(self, places: Iterable[str]) -> None:
        self.waiting -= 1
        for each in places:
            left = self._at.pop(each) - 1
            if left:
                self._at[each] = left


def refusal(settlements: Sequence[Settlement], *, utf8: bool) -> Reply:
    """One answer for all recipients, in the words of those who refused them.

    What differs is told recipient by recipient, each as the client has named him. `utf8`: the
    client may be told other characters than ASCII (RFC 6531 section 3.7.4.2).
    """
    said: dict[Reply, list[str]] = {}
    for each in sorted(settlements, key=lambda each: each.record.number):
        assert each.outcome is not None
        original = str(each.record.recipient.original)
        named = said.setdefault(each.outcome.reply, [])
        if original not in named:
            named.append(original)
    codes = {reply.code for reply in said}
    code = codes.pop() if len(codes) == 1 else _FAILED
    statuses = {(reply.subject, reply.detail) for reply in said}
    subject, detail = statuses.pop() if len(statuses) == 1 else (0, 0)
    if code not in _OF_MESSAGES:
        code = _FAILED
    lines: list[str] = []
    for reply, named in [*said.items()][:_MOST_TOLD]:
        words = reply.lines or ("",)
        if len(said) > 1:
            whom = named[0] if len(named) == 1 else f"{named[0]} and {len(named) - 1} more"
            status = f"{reply.status} " if reply.subject >= 0 else ""
            words = (f"<{whom}>: {reply.code} {status}{words[0]}", *words[1:])
        lines += words
    if len(said) > _MOST_TOLD:
        lines = [*lines[: _MOST_LINES - 1], f"and {len(said) - _MOST_TOLD} more refusals"]
    told = tuple(_line(each, utf8=utf8) for each in lines[:_MOST_LINES])
    if not any(told):
        told = ("Refused where it goes",)
    return Reply(code, max(subject, 0), max(detail, 0), told)


def _line(text: str, *, utf8: bool) -> str:
    text = printable(text)
    return text[:_LONGEST] if utf8 else text.encode("ascii", "replace").decode("ascii")[:_LONGEST]
