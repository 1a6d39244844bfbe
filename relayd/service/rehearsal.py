"""A process that replays what was seen under a draft of one file.

In a process of its own, for it takes seconds that no session is to wait for. It hears one line of
JSON, the order, and answers with one: what relayd.ops.answers calls RulesReplayAnswer, or `error`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

from relayd.config import ConfigErrors, load
from relayd.config.texts import DraftedTexts
from relayd.ctl.rehearsal import envelopes
from relayd.ops.documents import BusyError, Document, RequestError
from relayd.ops.replay import Replay
from relayd.reactor.ownprocess import environment
from relayd.reactor.workerpipe import Reactor
from relayd.spool.envelopes import shard_folders
from relayd.spool.errors import SpoolError

LONGEST = 25.0  # seconds of looking; then it is told how far it came
PATIENCE = 50.0  # seconds until it is ended, whatever it does
MOST_TOLD = 10  # examples of each kind


class Rehearsal(ProcessProtocol):
    """The process, as relayd sees it."""

    def __init__(self, order: bytes) -> None:
        self._order = order
        self._heard = bytearray()
        self.ended: Deferred[bytes] = Deferred()

    def connectionMade(self) -> None:
        """Tell it what to do."""
        assert self.transport is not None
        self.transport.write(self._order)
        self.transport.closeStdin()

    def outReceived(self, data: bytes) -> None:
        """Of its answer."""
        self._heard += data

    def processEnded(self, reason: Failure) -> None:
        """It has said all."""
        self.ended.callback(bytes(self._heard))


async def rehearsed(
    reactor: Reactor, config: Path, spool: Path, draft: tuple[Path, str], since: float
) -> Document:
    """What a text in the place of a file would have made of so many seconds of mail.

    Raises RequestError.
    """
    path, text = draft
    order = {"config": str(config), "spool": str(spool), "path": str(path), "text": text,
             "since": since}  # fmt: skip
    rehearsal = Rehearsal(json.dumps(order).encode() + b"\n")
    command = [sys.executable, "-m", "relayd.service.rehearsal"]
    process = reactor.spawnProcess(
        rehearsal, sys.executable, command, env=environment(), childFDs={0: "w", 1: "r", 2: 2}
    )
    limit = reactor.callLater(PATIENCE, process.signalProcess, "KILL")
    try:
        heard = await rehearsal.ended
    finally:
        if limit.active():
            limit.cancel()
    try:
        found: Document = json.loads(heard)
    except ValueError:
        raise BusyError("the replay did not come to its end; try fewer days") from None
    if "error" in found:
        raise RequestError(str(found["error"]))
    return found


def _answer(order: Mapping[str, Any]) -> Document:
    config, spool = Path(order["config"]), Path(order["spool"])
    texts = DraftedTexts(Path(order["path"]), order["text"].encode())
    try:
        fresh = load(config, None, texts)
    except ConfigErrors as errors:
        return {"error": str(errors)}
    if not shard_folders(spool):
        return {"error": "there is no mail in files here that could be replayed"}
    replay = Replay(fresh.ruleset)
    try:
        then = load(config)
        replay.hops_then, replay.rules_then = then.next_hops, then.ruleset
    except ConfigErrors:
        pass  # only what was decided then counts
    whole, until = True, time.monotonic() + LONGEST
    try:
        for number, (_, seen) in enumerate(envelopes(spool, time.time() - order["since"])):
            replay.feed(seen)
            if number % 100 == 0 and time.monotonic() > until:
                whole = False
                break
    except SpoolError as error:
        return {"error": str(error)}
    return {
        "envelopes": replay.envelopes,
        "whole": whole,
        "summary": replay.summary(),
        "lines": [*replay.lines(MOST_TOLD)][:2000],
        "hits": dict(replay.hits),
    }


def main() -> None:
    """Hear, replay, and tell."""
    os.nice(10)
    json.dump(_answer(json.loads(sys.stdin.buffer.readline())), sys.stdout)


if __name__ == "__main__":
    main()
