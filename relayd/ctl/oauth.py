"""`relayctl oauth`: enrols logins at next hops, and tells how they stand."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

from relayd.ctl.client import Daemon
from relayd.ops.text import coarse, moment, safe


def run(options: argparse.Namespace, daemon: Daemon) -> int:
    """One command; the exit status. Raises DaemonError."""
    if options.action == "enroll":
        return _enroll(options, daemon)
    if options.action == "forget":
        return _forget(options, daemon)
    return _status(options, daemon)


def _enroll(options: argparse.Namespace, daemon: Daemon) -> int:
    answer: dict[str, Any] = {}
    for document in daemon.ask("oauth", action="enroll", name=options.name):
        if "code" in document:
            _say(options, document, _invitation(document))
        answer = document.get("answer", answer)
    _say(options, answer, _enrolled(answer))
    return 0


def _invitation(document: dict[str, Any]) -> Iterator[str]:
    yield f"Open {safe(document['url'])} in a browser"
    yield f"and enter the code {safe(document['code'])} (within {coarse(document['expires_in'])})."
    if document["whole_url"]:
        yield f"Or open {safe(document['whole_url'])}"
    yield "Waiting ..."


def _enrolled(answer: dict[str, Any]) -> Iterator[str]:
    yield safe(f"{answer['login']} is enrolled: {answer['user']} at {answer['provider']}.")
    if not answer["renewable"]:
        until = "for some time" if answer["seconds"] is None else coarse(answer["seconds"])
        yield (
            f"But there is no refresh token, so this lasts {until} only; does the scope need"
            " something like offline_access?"
        )
    if answer["next_hops"]:
        yield f"Mail for {safe(', '.join(answer['next_hops']))} is tried again now."


def _forget(options: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.answer("oauth", action="forget", name=options.name)
    said = "is forgotten here; revoke it at the provider, too" if answer["forgotten"] else (
        "was not enrolled"
    )  # fmt: skip
    _say(options, answer, [f"{answer['login']} {said}"])
    return 0 if answer["forgotten"] else 1


def _status(options: argparse.Namespace, daemon: Daemon) -> int:
    answer = daemon.answer("oauth", action="status", name=options.name or "")
    if options.json:
        print(json.dumps(answer, indent=2))
    else:
        now = time.time()
        for login in answer["logins"]:
            for line in _lines(login, now):
                print(line)
        if not answer["logins"]:
            print('no "oauth" statement in the configuration in force')
    return 0 if all(each["state"] in ("good", "not used yet") for each in answer["logins"]) else 1


def _lines(login: dict[str, Any], now: float) -> Iterator[str]:
    yield safe(f"{login['login']}  {login['user']} at {login['provider']}: {login['state']}")
    if login.get("trouble"):
        at = login.get("trouble_at")
        yield safe(f"    {login['trouble']}" + (f" (since {moment(at)})" if at else ""))
    until = login.get("expires_at")
    if until:
        left = until - now
        when = f"in {coarse(left)}" if left > 0 else f"{coarse(-left)} ago"
        more = "refreshed before" if login["renewable"] else "there is no refresh token"
        yield f"    expires {moment(until)} ({when}), {more}"
    hops = ", ".join(login["next_hops"])
    yield safe(f"    next hops: {hops or 'none'}")


def _say(options: argparse.Namespace, document: dict[str, Any], lines: Any) -> None:  # noqa: ANN401
    if options.json:
        print(json.dumps(document))
    else:
        for line in lines:
            print(line)
    sys.stdout.flush()
