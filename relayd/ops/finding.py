"""`relayctl find`: what its request means, and one answer out of those of many shards."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing
from ipaddress import ip_address

from relayd.mail.ident import ident_text
from relayd.mail.message import RecipientState
from relayd.ops.answers import FoundAnswer
from relayd.ops.documents import STATES, Request, RequestError, number_of, raw_of, text_of
from relayd.ops.text import COPY
from relayd.spool.interface import Store
from relayd.spool.view import FindFilter, FoundRecipient

LATEST = 1e10  # seconds since the epoch: the year 2286
PAGE = 200  # recipients in one piece
_SEVERAL = {
    "waiting": (RecipientState.QUEUED, RecipientState.HELD),
    "bounced": (RecipientState.FAILED, RecipientState.EXPIRED),
}

FoundPieces = AsyncGenerator[list[FoundAnswer], None]


def find_filter_of(request: Request) -> FindFilter:
    """What is looked for; raises RequestError."""
    return FindFilter(
        sender=_address(request, "sender"),
        recipient=_address(request, "recipient"),
        message_id=text_of(request, "message_id"),
        envid=text_of(request, "envid"),
        client=_client(request),
        login=text_of(request, "login"),
        subject=text_of(request, "subject"),
        states=_states(text_of(request, "state")),
        since=max(_time(request, "since"), 0.0),
        until=_until(request),
    )


def _time(request: Request, name: str) -> float:
    at = number_of(request, name)
    if not at < LATEST:
        raise RequestError(f"{name}: seconds since the epoch expected, fewer than {LATEST:.0f}")
    return at


def _until(request: Request) -> float:
    at = _time(request, "until")
    if at < 0:
        raise RequestError("until: there was no mail before 1970")
    return at


def _address(request: Request, name: str) -> str:
    text = raw_of(text_of(request, name))
    if text and "@" not in text and text != "<>":
        raise RequestError(
            f"{name}: {text!r} is no address: write {text}@example.com, or @example.com for all"
            " of a domain"
        )
    return text


def _client(request: Request) -> str:
    text = text_of(request, "client")
    try:
        return str(ip_address(text)) if text else ""
    except ValueError:
        raise RequestError(f"client: {text!r} is no IP address") from None


def _states(text: str) -> frozenset[RecipientState]:
    states: set[RecipientState] = set()
    for name in filter(None, text.split(",")):
        if name not in STATES and name not in _SEVERAL:
            known = ", ".join([*STATES, *_SEVERAL])
            raise RequestError(f"no state {name!r}; expected {known}")
        states.update(_SEVERAL.get(name) or [STATES[name]])
    return frozenset(states)


async def found_in(store: Store, wanted: FindFilter, most: int) -> FoundPieces:
    """All that one store has of it, piece by piece; no more than about `most`, if that is not 0."""
    before: int | None = 1 << 62
    left = most or PAGE
    while before is not None and left > 0:
        page = await store.find(wanted, before, min(PAGE, left))
        before = page.before
        left -= len(page.found) if most else 0
        if page.found:
            yield [_answer(each) for each in page.found]


def _answer(found: FoundRecipient) -> FoundAnswer:
    return {
        "id": ident_text(found.ident),
        "received_at": found.received_at,
        "size": found.size,
        "sender": found.sender,
        "message_id": found.message_id,
        "subject": found.subject,
        "number": found.number,
        "recipient": found.mailbox,
        "original": found.original if found.original != COPY else "",
        "next_hop": found.next_hop,
        "state": RecipientState(found.state).name.lower(),
        "attempts": found.attempts,
        "ended_at": found.ended_at,
        "reply": found.last_reply,
    }


async def newest_first(
    sources: Sequence[FoundPieces], most: int
) -> AsyncIterator[list[FoundAnswer]]:
    """Several answers as one, each with the newest first; `most` recipients, 0: all."""
    async with AsyncExitStack() as open_ones:
        for source in sources:
            await open_ones.enter_async_context(aclosing(source))
        heads = [(deque[FoundAnswer](), source) for source in sources]
        merged: list[FoundAnswer] = []
        left = most or -1
        while heads and left:
            for head, source in [each for each in heads if not each[0]]:
                if merged:  # before anybody is waited for
                    yield merged
                    merged = []
                try:
                    while not head:
                        head.extend(await source.__anext__())
                except StopAsyncIteration:
                    heads.remove((head, source))
            if heads:
                newest = max(heads, key=lambda each: each[0][0]["id"])[0]
                merged.append(newest.popleft())
                left -= 1
        if merged:
            yield merged
