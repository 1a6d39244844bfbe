"""`relayctl import postfix DIR`: converts, writes, reports, and verifies."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from shlex import quote

from relayd.mail.address import AddressError, Mailbox
from relayd.migrate.convert import convert
from relayd.migrate.maincf import MainCfError
from relayd.migrate.work import Work
from relayd.migrate.write import WriteError, publish, settle
from relayd.verification.postmap import PostmapError
from relayd.verification.samples import samples
from relayd.verification.verify import Verification, verify

OK, FAILED = 0, 1
ALL = "all"
_REMARKABLE = re.compile(r"\b(listed \S+(?: by \w+)?|over \S+|unknown at \S+)(?= |$)", re.M)
_USUAL = re.compile(r"\bresolves \w+(?= |$)", re.M)


class ImportFailure(Exception):  # noqa: N818 - one for all that can go wrong here
    """Nothing was made; `str()` is for the one who asked."""


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit status. Raises ImportFailure."""
    try:
        work = convert(options.folder)
        written = settle(work)
        if not options.dry_run:
            work.report.wrote += publish(options.output, written, force=options.force)
        outcome = None
        if options.verify:
            outcome = verify(
                work,
                written,
                _addresses(work, options.verify),
                clients_too=ALL in options.verify,
            )
    except (MainCfError, WriteError) as error:
        raise ImportFailure(str(error)) from None
    except PostmapError as error:
        why = f"not verified: {error}"
        _tell(work, None, options, why)
        if options.json:  # one document tells all
            return FAILED
        raise ImportFailure(why) from None
    _tell(work, outcome, options)
    return FAILED if outcome is not None and outcome.unnamed else OK


def _tell(
    work: Work, outcome: Verification | None, options: argparse.Namespace, error: str = ""
) -> None:
    if options.json:
        document = work.report.document()
        if error:
            document["error"] = error
        if outcome is not None:
            document["verified"] = outcome.document()
        json.dump(document, sys.stdout, indent=2)
        print()
        return
    for line in work.report.lines():
        print(line)
    if not work.report.wrote:
        print("\nNothing was written.")
    for line in outcome.lines() if outcome is not None else ():
        print(line)
    for line in _next(work, options, verified=outcome is not None):
        print(line)


def _next(work: Work, options: argparse.Namespace, *, verified: bool) -> Iterator[str]:
    """What to do with what was made."""
    again = f"relayctl import postfix {quote(str(options.folder))}"
    if not work.report.wrote:
        yield f"\nNext: {again} --output DIR --verify all"
        return
    output = quote(str(options.output))
    whom = next((f"somebody@{name}" for names in work.classes() for name in names.entries), "")
    yield "\nNext"
    if not verified:
        yield f"  {again} --output {output} --verify all    # is it what Postfix does?"
    yield f"  relayctl --config {output}/relayd.conf check"
    said = "".join(f' --with "{fact}"' for fact in unremarkable(work))
    ask = f"relayctl --config {output}/relayd.conf explain --offline"
    yield f"  {ask}{said} {whom or 'a@b.example'}"
    yield f"  then what is in {output} goes to /etc/relayd: docs/migrate-postfix.md, The whole way"


def unremarkable(work: Work) -> Iterator[str]:
    """What others would say of a client and a mailbox that nothing is wrong with."""
    rules = "\n".join(rule for rules in work.draft.rules.values() for rule, _ in rules)
    for fact in dict.fromkeys(_REMARKABLE.findall(rules)):
        yield f"not {fact}"
    for fact in dict.fromkeys(_USUAL.findall(rules)):
        yield fact
    if " rdns " in rules:
        yield "rdns mail.example.com"


def _addresses(work: Work, wanted: Sequence[str]) -> list[str]:
    """What `--verify` names."""
    found: list[str] = []
    for each in wanted:
        path = Path(each)
        if each == ALL:
            found += samples(work)
        elif path.is_file():
            lines = path.read_text("utf-8", "replace").splitlines()
            found += [line.strip() for line in lines if line.strip() and line.strip()[0] != "#"]
        elif "@" in each:
            found += [_address(text) for text in each.replace(",", " ").split()]
        else:
            raise ImportFailure(f'--verify {each}: expected "all", a file, or addresses')
    return found


def _address(text: str) -> str:
    try:
        return str(Mailbox.parse(text))
    except AddressError as error:
        raise ImportFailure(f"--verify {text}: {error}") from None
