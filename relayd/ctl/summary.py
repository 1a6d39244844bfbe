"""`relayctl digest`: reads the spool's files, beside a running relayd or without one."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from relayd.config import ConfigErrors, load
from relayd.ops.digest import Digest, digest_lines
from relayd.spool.disk.rights import rights_of
from relayd.spool.envelopes import happened, noted, shard_folders
from relayd.spool.errors import SpoolError


class SummaryError(Exception):
    """It cannot be done; `str(error)` says why."""


def run(options: argparse.Namespace, config: Path) -> int:
    """Print what happened since `options.since`."""
    try:
        spool = options.spool or load(config).spool
    except ConfigErrors as errors:
        raise SummaryError(f"{config} has errors; say where the spool is with --spool\n{errors}"
                           ) from None  # fmt: skip
    shards = shard_folders(spool)
    if not shards:
        raise SummaryError(f"no spool in {spool}; say where with --config or --spool")
    digest = Digest(options.since, time.time())
    try:
        with rights_of(spool.stat()):
            for shard in shards:
                for row in happened(shard, options.since):
                    digest.feed(row)
                for entry in noted(shard, options.since):
                    digest.feed_journal(entry)
    except SpoolError as error:
        raise SummaryError(str(error)) from None
    answer = digest.answer(options.top)
    if options.json:
        print(json.dumps(answer, indent=2))
        return 0
    for line in digest_lines(answer):
        print(line)
    return 0
