"""Parameters that decide who is served, or where mail goes, and that relayd has no word for.

Mail that one of them would have decided about is asked to come later. `-o` of a listener counts for
that listener.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from relayd.migrate.copies import carried_over
from relayd.migrate.domains import network_of
from relayd.migrate.draft import good_entry
from relayd.migrate.maincf import MainCf
from relayd.migrate.moves import Scope
from relayd.migrate.tables import is_table, maps
from relayd.migrate.work import Work

Whom = Callable[[Work, str, MainCf], Iterator[Scope]]
_HARMLESS_OPTIONS = ("no_unknown_recipient_checks", "no_header_body_checks", "no_milters")
_HEADERS = ("header_checks", "mime_header_checks", "nested_header_checks", "body_checks")
_ELSEWHERE = ("filter", "redirect", "bcc")


def close(work: Work, main: MainCf) -> Iterator[tuple[Scope, str, str]]:
    """Scope, parameter and reason of all that `main` closes."""
    for name, (whom, why) in _CLOSING.items():
        value = main[name]
        if value and value.lower() != "no" and not carried_over(work, main, name):
            for scope in whom(work, name, main):
                yield scope, name, why
    for name in _HEADERS:
        for spec in maps(main[name], main["default_database_type"]):
            for row in work.shelf.read(spec).patterns:
                word = row.value.split(None, 1)[0].lower() if row.value else ""
                if word in _ELSEWHERE:
                    yield (), name, f"{spec}: {row.value}: what is in a message cannot lead it away"


def names() -> frozenset[str]:
    """The parameters that close."""
    return frozenset(_CLOSING)


def _all(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
    yield ()


def _options(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
    if any(word not in _HARMLESS_OPTIONS for word in main.words(name)):
        yield ()


def _filtered(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
    if "no_address_mappings" not in main.words("receive_override_options"):
        yield ()


def _keyed(*kinds: str) -> Whom:
    """Whoever has an entry in the map; all, where it cannot be read."""

    def whom(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
        entries: list[str] = []
        for spec in maps(main[name], main["default_database_type"]):
            table = work.shelf.read(spec)
            if table.trouble or table.patterns:
                yield ()
                return
            for row in table.rows:
                bare = [f"{row.key}@"]
                keys = [row.key] if "@" in row.key else [f"@{row.key}"] if "." in row.key else bare
                entries += keys
                if not all(map(good_entry, keys)):
                    yield ()
                    return
        operand = work.draft.list_of(name.replace("_", "-"), entries, name)
        for kind in kinds if operand else ():
            yield (f"{kind} {operand}",)

    return whom


def _hosts(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
    """Clients that would tell who the real client is."""
    for word in main.words(name):
        network = None if is_table(word) else network_of(word.lstrip("!"))
        yield (f"from {network}",) if network else ()


def _cleanup(work: Work, name: str, main: MainCf) -> Iterator[Scope]:
    """Another cleanup(8), with settings of its own."""
    value = main[name]
    known = ("syslog_name", *_HEADERS, "header_checks", "smtpd_milters", "non_smtpd_milters")
    for service in work.services:
        if service.name == value and value != "cleanup":
            if any(each not in known for each in service.overrides):
                yield ()
            return
    if value != "cleanup":
        yield ()


_THROUGH = (
    "mail goes through it and comes back: have its milter asked (`milter NAME ...`, `ask NAME`), or"
    " rspamd, or clamd"
)
_COPY = "it cannot be said as `copy` rules by itself: write them"
_CLOSING: dict[str, tuple[Whom, str]] = {
    "always_bcc": (_all, _COPY),
    "recipient_bcc_maps": (_keyed("to"), _COPY),
    "sender_bcc_maps": (_keyed("sender"), _COPY),
    "content_filter": (_filtered, _THROUGH),
    "receive_override_options": (_options, "addresses are mapped for every listener"),
    "smtpd_proxy_filter": (_all, _THROUGH),
    "smtpd_command_filter": (_all, "it changes what clients say"),
    "cleanup_service_name": (_cleanup, "it has settings of its own"),
    "smtpd_upstream_proxy_protocol": (
        _all,
        "the client's address comes from a proxy, which relayd would take for the client",
    ),
    "postscreen_upstream_proxy_protocol": (_all, "the client's address comes from a proxy"),
    "smtpd_authorized_xclient_hosts": (_hosts, "relayd knows no XCLIENT, so who it is is unknown"),
    "smtp_generic_maps": (
        _keyed("sender", "to"),
        "addresses become others on the way out: write `rewrite` rules",
    ),
}
