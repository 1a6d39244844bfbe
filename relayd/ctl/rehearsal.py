"""The command `relayctl replay`: reads the spool's files, shows how far it is, tells the result."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from relayd.config import ConfigErrors, Settings, load
from relayd.ops.replay import Replay
from relayd.spool.disk.rights import rights_of
from relayd.spool.envelopes import Dropped, Seen, accepted, noted, shard_folders
from relayd.spool.errors import SpoolError

_STEP = 500  # envelopes between two looks at the progress
_WIDTH = 40  # columns of the bar

Done = Callable[[float], float]


class RehearsalError(Exception):
    """It cannot be done; `str(error)` says why."""


def run(options: argparse.Namespace, default_config: Path) -> int:
    """Replay what was seen under the rules in force under those in `options.file`."""
    fresh = _loaded(options.file)
    config = options.config or default_config
    then = None
    if options.config or config.exists():
        try:
            then = load(config)
        except ConfigErrors:
            print(f"relayctl: {config} has errors; only what was decided then counts",
                  file=sys.stderr)  # fmt: skip
    spool = options.spool or (then or fresh).spool
    if not shard_folders(spool):
        raise RehearsalError(f"no spool in {spool}; say where with --config or --spool")
    replay = Replay(fresh.ruleset)
    if then is not None:
        replay.hops_then, replay.rules_then = then.next_hops, then.ruleset
    since = time.time() - options.since
    bar = sys.stderr.isatty() and not options.json
    try:
        with rights_of(spool.stat()):
            for number, (done, seen) in enumerate(envelopes(spool, since)):
                replay.feed(seen)
                if bar and number % _STEP == 0:
                    _draw(number, done(seen.at))
    except SpoolError as error:
        raise RehearsalError(str(error)) from None
    if bar:
        sys.stderr.write("\r\x1b[K")
    if options.json:
        print(json.dumps(replay.document(), indent=2))
    else:
        for line in replay.lines(None if options.all else 1):
            print(line)
    return replay.status


def _loaded(path: Path) -> Settings:
    try:
        return load(path)
    except ConfigErrors as errors:
        raise RehearsalError(f"{path} has errors\n{errors}") from None


def envelopes(spool: Path, since: float) -> Iterator[tuple[Done, Seen | Dropped]]:
    """Source by source; with each a function that makes a time a part of the whole."""
    shards = shard_folders(spool)
    begun, sources = time.time(), 2 * len(shards)
    for number, shard in enumerate(shards):
        for place, source in enumerate((accepted(shard, since), noted(shard, since))):
            before = 2 * number + place

            def done(at: float, before: int = before) -> float:
                return (before + (at - since) / (begun - since)) / sources

            for seen in source:
                yield done, seen


def _draw(count: int, part: float) -> None:
    part = min(max(part, 0.0), 1.0)
    filled = round(part * _WIDTH)
    sys.stderr.write(f"\r[{'#' * filled:{_WIDTH}}] {part:4.0%}  {count:,} envelopes")
    sys.stderr.flush()
