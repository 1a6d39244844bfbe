"""The statements `reports` and `tls-reports`: who is told of mail, and who of TLS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from relayd.report.tlsrpt import TlsReports
from relayd.report.wishes import Wishes
from relayd.rules.language.source import Complaint, Place
from relayd.rules.language.words import Words

FOR = ("strangers", "trusted")
_NOTIFY = ("failures", "as-asked")
_RETURN = ("headers", "whole")


def reports(words: Words) -> tuple[str, Wishes]:
    """`for strangers|trusted failures|as-asked headers|whole`."""
    if not words.skip_word("for"):
        raise words.complain("reports does not say for whom", _expected(("for WHOM",)))
    who = _one_of(words, FOR)
    notify = _one_of(words, _NOTIFY)
    return who, Wishes(as_asked=notify == "as-asked", whole=_one_of(words, _RETURN) == "whole")


def _one_of(words: Words, known: tuple[str, ...]) -> str:
    for word in known:
        if words.skip_word(word):
            return word
    found = words.peek()
    what = "reports is not finished" if found is None else f"reports knows no {found.text}"
    raise words.complain(what, _expected(known))


def _expected(known: tuple[str, ...]) -> str:
    return "expected " + " or ".join(f'"{word}"' for word in known)


def tls_reports(words: Words) -> TlsReports:
    """`from ADDRESS [dkim SELECTOR FILE]`."""
    if not words.skip_word("from"):
        raise words.complain("tls-reports does not say from whom", 'expected "from ADDRESS"')
    address = words.mailbox()
    if not words.skip_word("dkim"):
        return TlsReports(address)
    selector = words.domain(words.word("a selector, as in SELECTOR._domainkey").text)
    return TlsReports(address, selector, Path(words.next("the file of a private key").text))


def checked(reports: TlsReports, folder: Path, place: Place) -> TlsReports:
    """With the key's whole path; raises Complaint when it cannot be read."""
    if reports.key is None:
        return reports
    path = folder / reports.key
    try:
        text = path.read_bytes()
    except OSError as error:
        what = f"cannot read {reports.key}: {error.strerror or error}"
        raise Complaint(place, what, "expected a private key in PEM") from None
    if b"PRIVATE KEY-----" not in text:
        raise Complaint(place, f"{reports.key} holds no private key", "expected one in PEM")
    return replace(reports, key=path)
