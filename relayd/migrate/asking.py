"""Who is asked about a client or a message: lists in the DNS, policy services, milters."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from relayd.mail.address import AddressError, check_domain
from relayd.migrate.maincf import MainCf, split
from relayd.migrate.mastercf import Service
from relayd.migrate.moves import Scope, rule
from relayd.migrate.nexthops import port_of
from relayd.migrate.work import Work
from relayd.rules.dnslist import counts
from relayd.rules.language.filtering import MOST_PATIENCE
from relayd.rules.language.lexer import quote
from relayd.rules.language.source import Complaint, Place, Source
from relayd.rules.language.words import host_port

MOST_ANSWERS = 16  # of one list in the DNS
ANY_ANSWER = "127.0.0.0/8"  # what counts with Postfix where nothing is said
_OCTET = re.compile(r"\[([^\]]*)\]|([^.\[\]]+)")
_GENERAL = ("bl", "dnsbl", "dnswl", "list", "rbl", "b", "all", "ix", "combined")
_LONGEST_NAME = 12  # characters of what a list calls itself; keys are twice as long
_FAILURE = {
    "accept": "accept",
    "reject": "reject",
    "tempfail": "defer",
    "quarantine": "hold",
    "shutdown": "defer",
}
_KNOWN_PORTS = {8891: "opendkim", 8893: "opendmarc", 11332: "rspamd", 10023: "postgrey"}
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600}
_RATES = (
    ("smtpd_client_message_rate_limit", " messages", "client-messages"),
    ("smtpd_client_recipient_rate_limit", "", "client-recipients"),
)
_SPARED = "smtpd_client_event_limit_exceptions"
_TOO_MUCH = '450 4.7.1 "Too much mail from you, try again later"'
MILTERS = "smtpd_milters"
_OTHER_MILTERS = "non_smtpd_milters"
_OPTIONS = "receive_override_options"


# lists in the DNS


def dns_list(work: Work, text: str, kind: str) -> str:
    """`zone`, `zone=127.0.0.2`, `zone=127.0.0.[2..11;14]` as a list's name; empty: it is none."""
    zone, equals, answers = text.partition("=")
    zone = zone.lower().rstrip(".")
    try:
        check_domain(zone)
    except AddressError:
        return ""
    meant = _answers(answers) if equals else [ANY_ANSWER]
    if not zone or not meant:
        return ""
    labels = zone.split(".")
    keyed = len(labels[0]) > _LONGEST_NAME  # by which the list knows its subscriber
    first = labels[1] if (labels[0] in _GENERAL or keyed) and len(labels) > 2 else labels[0]
    return work.draft.definition(kind, first, f"{zone} {', '.join(meant)}")


def _answers(text: str) -> list[str]:
    """Postfix's pattern of an answer as relayd has them; empty: it is none, or too many."""
    octets: list[list[str]] = []
    for found in _OCTET.finditer(text):
        parts = (found[1] or found[2]).replace("..", "-").split(";")
        octets.append([part.strip() for part in parts])
    made = [".".join(each) for each in itertools.product(*octets)]
    if len(octets) != 4 or len(made) > MOST_ANSWERS:
        return []
    try:
        for each in made:
            counts(each)
    except ValueError:
        return []
    return made


# policy services and milters


@dataclass(frozen=True)
class Spoken:
    """`inet:host:port`, or `{ inet:host:port, name = value, ... }`."""

    where: str
    options: dict[str, str]

    @classmethod
    def of(cls, text: str) -> Spoken:
        """Take it apart."""
        if not text.startswith("{"):
            return cls(text, {})
        words = split(text[1:-1])
        pairs = (word.strip("{} ").partition("=") for word in words[1:])
        return cls(
            words[0] if words else "", {name.strip(): text.strip() for name, _, text in pairs}
        )


def place_of(work: Work, text: str) -> str:
    """`inet:host:port`, `unix:path`, `local:path` in relayd's words; empty: not understood."""
    kind, _, rest = text.partition(":")
    if kind in ("unix", "local") and rest:
        path = rest if rest.startswith("/") else f"{work.main['queue_directory']}/{rest}"
        return f"unix:{path}"
    if kind not in ("inet", "inet6") or not rest:
        return ""
    host, _, service = rest.rpartition(":")
    port = port_of(service)
    if port is None:
        return ""
    try:
        return str(host_port(f"{host}:{port}", Place(Source("", "", (rest,)), 1), 0))
    except Complaint:
        return ""


def _named(where: str, kind: str) -> str:
    if where.startswith("unix:"):
        parts = [part for part in where.removeprefix("unix:").split("/") if part]
        name = parts[-1].partition(".")[0]
        return (
            parts[-2]
            if name in ("milter", "socket", "policy", "milter-sock") and parts[1:]
            else name
        )
    port = int(where.rpartition(":")[2])
    return _KNOWN_PORTS.get(port, f"{kind}-{port}")


def _seconds(text: str) -> int:
    match = re.match(r"(\d+)([smh]?)\Z", text)
    return int(match[1]) * _UNITS[match[2]] if match is not None else 0


def _patience(text: str) -> str:
    span = _seconds(text)
    return f" timeout {min(span, MOST_PATIENCE)}s" if span else ""


def policy(work: Work, main: MainCf, text: str) -> str:
    """The name of a policy service; empty: it is not understood."""
    spoken = Spoken.of(text)
    where = place_of(work, spoken.where)
    if not where:
        return ""
    default = "smtpd_policy_service_default_action"
    word = spoken.options.get("default_action", main[default]).upper().partition(" ")[0]
    failure = "defer"
    if word in ("DUNNO", "OK", "PERMIT"):
        failure = "accept"
    elif word == "REJECT" or re.match(r"5\d\d\Z", word):
        failure = "reject"
    timeout = spoken.options.get("timeout", "")
    if not timeout and main.is_given("smtpd_policy_service_timeout"):
        timeout = main["smtpd_policy_service_timeout"]
    rest = quote(where) + (f" on failure {failure}" if failure != "defer" else "")
    return work.draft.definition("policy", _named(where, "policy"), rest + _patience(timeout))


def milters(work: Work) -> None:
    """smtpd_milters of main.cf and of each listener become `ask` rules."""
    main, report = work.main, work.report
    sets = {
        service.title: _milters_of(work, main.overlaid(service.overrides), service)
        for service, _ in work.listeners
    }
    common = _milters_of(work, main, None)
    for service, where in work.listeners:
        names = sets[service.title]
        if names and where and names != common:
            at = f"listener {', '.join(map(str, where))}"
            _ask(work, names, (at,), f"master.cf {service.title} {MILTERS}")
    elsewhere = [
        f"not listener {', '.join(map(str, where))}"
        for service, where in work.listeners
        if where and sets[service.title] != common
    ]
    if common and len(elsewhere) < len(work.listeners):
        _ask(work, common, tuple(elsewhere), MILTERS)
    asked = sorted({name for names in (common, *sets.values()) for name in names})
    if asked and main.is_given(MILTERS):
        report.translated(MILTERS, f"ask {', '.join(asked)}")
    if asked and main.is_given("milter_default_action"):
        report.translated("milter_default_action", "`on failure` of each milter")
    others = main.words(_OTHER_MILTERS)
    if others and others != main.words(MILTERS):
        report.lost(
            _OTHER_MILTERS,
            "mail of the sendmail program is asked about as what comes in by SMTP: write `ask`"
            " rules if these are others",
        )
    elif others:
        report.translated(_OTHER_MILTERS, "the same are asked about mail of the sendmail program")


def _milters_of(work: Work, main: MainCf, service: Service | None) -> list[str]:
    """The milters of one listener; those that are not understood are reported."""
    if "no_milters" in main.words(_OPTIONS):
        return []
    names = []
    title = MILTERS if service is None else f"master.cf {service.title}"
    for text in main.words(MILTERS):
        spoken = Spoken.of(text)
        where = place_of(work, spoken.where)
        failure = _FAILURE.get(
            spoken.options.get("default_action", main["milter_default_action"]).lower()
        )
        if not where or failure is None:
            work.report.lost(title, f"{text}: not understood: write `milter NAME WHERE` and `ask`")
            continue
        timeout = _patience(spoken.options.get("content_timeout", ""))
        rest = quote(where) + (f" on failure {failure}" if failure != "defer" else "") + timeout
        names.append(work.draft.definition("milter", _named(where, "milter"), rest))
    return names


def _ask(work: Work, names: Sequence[str], scope: Scope, comment: str) -> None:
    work.draft.rule("ask", rule(f"ask {', '.join(names)}", scope), comment)


# anvil(8)


def rates(work: Work) -> None:
    """What a client may send in a time, but for those that smtpd spares: `limit`, and `defer`."""
    main, report = work.main, work.report
    for setting, what, name in _RATES:
        most, unit = main[setting], _seconds(main["anvil_rate_time_unit"])
        if not main.is_given(setting) or most == "0":
            continue
        if not most.isdigit() or not unit or main.is_given(_SPARED):
            report.lost(
                setting, f"write `limit NAME N/TIME{what} per client`, `defer when over NAME`"
            )
            continue
        work.draft.definition("limit", name, f"{most}/{unit}s{what} per client")
        spared = work.trusted.operand(work.draft) if work.trusted else ""
        tests = (f"over {name}", *([f"not from {spared}"] if spared else []))
        text = rule("defer", ("any",), _TOO_MUCH) + f" when {' and '.join(tests)}"
        work.draft.rule("admission", text, setting)
        report.translated(setting, f"limit {name} {most}/{unit}s{what} per client")
        if main.is_given("anvil_rate_time_unit"):
            report.translated("anvil_rate_time_unit", "the time of the limits")


# postscreen(8)


def combinations(sites: Sequence[tuple[str, int]], threshold: int) -> Iterator[tuple[str, ...]]:
    """The least sets of `listed X` and `not listed Y` with which weights reach the threshold.

    A negative weight counts by what its list leaves out: so all weights are positive.
    """
    literals = [(f"listed {name}" if weight > 0 else f"not listed {name}", abs(weight))
                for name, weight in sites if weight]  # fmt: skip
    wanted = threshold + sum(-weight for _, weight in sites if weight < 0)
    found: list[frozenset[str]] = []
    for count in range(1, len(literals) + 1):
        for some in itertools.combinations(literals, count):
            names = frozenset(text for text, _ in some)
            enough = sum(weight for _, weight in some) >= wanted
            if enough and not any(known <= names for known in found):
                found.append(names)
                yield tuple(text for text, _ in some)
