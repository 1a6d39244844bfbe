"""`relayctl check --live`: asks the DNS and our own listeners, whether relayd runs or not."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from relayd.ops.text import safe


def run(options: argparse.Namespace, path: Path) -> int:
    """1: something is wrong with our names, or with the configuration."""
    from relayd.config import ConfigErrors, load
    from relayd.ops.livecheck import look
    from relayd.ops.observation import Grade, counted
    from relayd.reactor.alone import run as run_alone

    try:
        settings = load(path)
    except ConfigErrors as errors:
        if options.json:
            print(json.dumps({"complaint": str(errors), "findings": [], "counts": {}}))
        else:
            print(errors, file=sys.stderr)
        return 1
    findings = run_alone(lambda reactor: look(reactor, settings))
    counts = counted(findings)
    if options.json:
        documents = [each.document for each in findings]
        print(json.dumps({"complaint": "", "findings": documents, "counts": counts}, indent=2))
    else:
        for each in findings:
            print(safe(str(each)))
        print(", ".join(_many(count, grade) for grade, count in counts.items()))
    return 1 if counts[Grade.ERROR.value] else 0


def _many(count: int, grade: str) -> str:
    return f"{count} {grade}{'s' if grade in ('warning', 'error') and count != 1 else ''}"
