"""The statements `reports` and `tls-reports`: who is told of mail, and who of TLS."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from relayd.config.peers import Peers, listener_peers
from relayd.mail.pacing import Rate
from relayd.report.backscatter import ReportBudget
from relayd.report.tlsrpt import TlsReports
from relayd.report.wishes import Wishes
from relayd.rules.language.source import Complaint, Place
from relayd.rules.language.words import Words

FOR = ("strangers", "trusted")
BUDGET, SUCCESS = "strangers", "success"  # the words of the other two forms
OF_BUDGET, OF_SUCCESS = "budget", "wishes from"  # ... and the names of what they say
_NOTIFY = ("failures", "as-asked")
_RETURN = ("headers", "whole")


def reports(words: Words) -> tuple[str, Wishes | ReportBudget | Peers]:
    """`for strangers|trusted failures|as-asked headers|whole`, or one of the two below."""
    if words.skip_word(BUDGET):
        return OF_BUDGET, _budget(words)
    if words.skip_word(SUCCESS):
        if not words.skip_word("from"):
            raise words.complain("reports success does not say from whom", _expected(("from",)))
        return OF_SUCCESS, listener_peers(words)
    if not words.skip_word("for"):
        forms = ("for WHOM", f"{BUDGET} 100/1h", f"{SUCCESS} from WHOM")
        raise words.complain("reports does not say for whom", _expected(forms))
    who = _one_of(words, FOR)
    notify = _one_of(words, _NOTIFY)
    return who, Wishes(as_asked=notify == "as-asked", whole=_one_of(words, _RETURN) == "whole")


def _budget(words: Words) -> ReportBudget:
    """`strangers 100/1h, 3/1d per address`; one of the two, or `any`, or `none`."""
    if words.skip_word("any"):
        return ReportBudget()
    if words.skip_word("none"):
        return ReportBudget(never=True)
    given: dict[str, Rate] = {}
    for what, rate in words.commas(lambda: _share(words)):
        if what in given:
            raise words.complain("one budget is given twice", 'expected "100/1h, 3/1d per address"')
        given[what] = rate
    return ReportBudget(given.get("in_all"), given.get("each"))


def _share(words: Words) -> tuple[str, Rate]:
    text = words.word("how many reports, e.g. 100/1h").text
    try:
        rate = Rate.parse(text)
    except ValueError:
        what = f'"{text}" is no number of reports in a time'
        raise words.complain(what, "expected e.g. 100/1h, any or none") from None
    if not words.skip_word("per"):
        return "in_all", rate
    words.choice(("address",), "address")
    return "each", rate


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
