"""`relayctl tls-report`: what domains would be told of a day, out of the spool's own counts."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path


class TlsReportFailure(Exception):  # noqa: N818 - as the others of relayctl
    """The command failed; `str(error)` goes to standard error."""


def add_options(to: argparse.ArgumentParser) -> None:
    """What follows `relayctl tls-report`."""
    to.add_argument("domain", nargs="?", default="", metavar="DOMAIN")
    to.add_argument("--day", metavar="DAY", help="as 2026-11-22, in UTC; default: today")


def run(options: argparse.Namespace, config: Path) -> int:
    """One JSON document a domain; raises TlsReportFailure."""
    # what they load takes its time, and no other command needs it
    from relayd.config import ConfigErrors, load
    from relayd.relay.tlsledger import NAME, TlsLedger
    from relayd.report.tlsrpt import TlsReport
    from relayd.spool.disk.rights import rights_of

    try:
        settings = load(config)
    except ConfigErrors as errors:
        raise TlsReportFailure(str(errors)) from None
    day = options.day or time.strftime("%Y-%m-%d", time.gmtime())
    try:
        time.strptime(day, "%Y-%m-%d")
    except ValueError:
        raise TlsReportFailure(f"{day} is no day; expected e.g. 2026-11-22") from None
    if not (settings.spool / NAME).exists():
        if settings.tls_reports is None:
            raise TlsReportFailure('nothing is counted without the setting "tls-reports"')
        return 0
    contact = settings.tls_reports.address if settings.tls_reports else ""
    ledger = TlsLedger(settings.spool)
    try:
        with rights_of(settings.spool.stat()):
            for domain in [options.domain] if options.domain else ledger.domains_of(day):
                rows = ledger.rows(day, domain)
                if rows:
                    report = TlsReport(domain, day, settings.hostname, str(contact), rows)
                    print(json.dumps(report.document(), indent=None if options.json else 2))
    except OSError as error:
        raise TlsReportFailure(f"{error.filename}: {error.strerror}") from None
    return 0
