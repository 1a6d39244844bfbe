"""transport_maps, relayhost and the like become `route` rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from relayd.mail.address import AddressError
from relayd.mail.nexthop import NextHop
from relayd.migrate.bysender import by_sender, own_nexthop
from relayd.migrate.domains import Names
from relayd.migrate.draft import RETRY, pattern
from relayd.migrate.nexthops import Where, to_hosts, where
from relayd.migrate.sending import has_source, onward
from relayd.migrate.tables import MapText, PatternRow, PostfixRow
from relayd.migrate.work import Work, when
from relayd.rules.language.lexer import string
from relayd.rules.language.source import Problem, Source
from relayd.rules.tables.transport import transport_table

UNMOVED = "4.3.0 This address has not moved to this relay yet, try again later"
_SOME_LOCAL = (
    "luser_relay",
    "fallback_transport",
    "fallback_transport_maps",
    "mailbox_transport_maps",
)
_NO_WAY = "nobody can tell here where its mail goes"
_NO_STORE = "relayd keeps no mailboxes, so nobody knows where its mail goes: name a next hop"
_CLOSED = {"local-class": _NO_STORE, "mailbox-class": _NO_STORE}
UNKNOWN = "5.1.1 User unknown in virtual alias table"


@dataclass
class Classes:
    """What becomes of mail for each class of destinations, where no transport map says more."""

    local: Where
    mailbox: Where
    relay: Where
    default: Where


def routing(work: Work) -> None:
    """All routes, in the order in which Postfix decides."""
    classes = _classes(work)
    _virtual_alias(work)
    _transport_maps(work, classes)
    _class_route(work, work.local, classes.local, "local")
    _class_route(work, work.mailbox, classes.mailbox, "mailbox")
    # a next hop in relay_transport itself is stronger than any relayhost
    if own_nexthop(work, "relay_transport"):
        _class_route(work, work.relay, classes.relay, "relay")
    unclear = by_sender(work)
    if unclear:
        close_routes(work, unclear)
        return
    default = onward(work, classes.default, _name(work, "default_transport"))
    relay = onward(work, classes.relay, _name(work, "relay_transport")) if work.relay else default
    if classes.relay.text != classes.default.text or relay != default:
        _class_route(work, work.relay, classes.relay, "relay", relay)
    _default(work, classes.default, default)


def _name(work: Work, setting: str) -> str:
    """The transport itself, without a next hop."""
    return work.main[setting].partition(":")[0]


def close_routes(work: Work, setting: str) -> None:
    """Whatever no route before has taken is asked to come later."""
    operand = work.draft.map_of("no-way-yet", "transport", [f"* {RETRY}"], "what is not understood")
    work.draft.rule("route", f"route {operand}", f"closed: {setting}: not all of it is understood")


def uses_aliases(work: Work) -> bool:
    """Whether local(8) delivers for the local domains."""
    return where(work, work.main["local_transport"], title="store").local


def _classes(work: Work) -> Classes:
    relayhost = _relayhost(work)
    return Classes(
        local=_local(work),
        mailbox=_mailbox(work),
        relay=_onward(work, "relay_transport", relayhost),
        default=_onward(work, "default_transport", relayhost),
    )


def _relayhost(work: Work) -> Where | None:
    value = work.main["relayhost"]
    if not value:
        work.report.same("relayhost", "none: mail goes by MX")
        return None
    found = to_hosts(work, value, "relayhost")
    if found.why:
        work.report.lost(
            "relayhost",
            f"{found.why}: write a next-hop and `route any via` it",
            "setting:relayhost",
        )
        return Where(refuse=UNMOVED, text=RETRY)
    how = "the addresses of its name" if "[" in value else "the mail exchangers of its name"
    work.report.translated("relayhost", f"next-hop {', '.join(found.hops)}, by {how}")
    return found


def _onward(work: Work, setting: str, relayhost: Where | None) -> Where:
    """relay_transport or default_transport: with a next hop of its own, or relayhost, or direct."""
    value = work.main[setting]
    found = where(work, value, title=setting.replace("_", "-"))
    if found.why or found.local:
        why = found.why or "it is local(8)"
        work.report.lost(
            setting, f"{why}; mail is asked to come later instead", f"setting:{setting}"
        )
        return Where(refuse=UNMOVED, text=RETRY)
    if found.direct and relayhost is not None:
        found = relayhost
    if work.main.is_given(setting):
        work.report.translated(setting, found.route or found.text)
    return found


def _local(work: Work) -> Where:
    """Where mail for the local domains goes once aliases are followed."""
    main, report = work.main, work.report
    unknown = [name for name in _SOME_LOCAL if main[name]]
    for name in unknown:
        report.lost(
            name,
            "it takes some names of the local domains, nobody can tell here which: they are asked"
            " to come later. Write `route to ... via` rules, or a catch-all",
        )
    if "alias_maps" in work.incomplete:
        unknown.append("alias_maps")
    for setting in ("local_transport", "mailbox_transport"):
        value = main[setting]
        found = where(work, value, title="store") if value else Where(local=True)
        if found.local:
            if main.is_given(setting) and (value or setting != "local_transport"):
                report.same(setting, "no other transport")
            continue
        if found.refuse or found.discard:
            report.translated(setting, f"local domains: {found.text}")
            return found
        if found.route and (setting == "local_transport" or not unknown):
            report.translated(setting, f"local domains: {found.route}")
            return found
        report.lost(
            setting, found.why or f"{', '.join(unknown)} may have another word", "class:local"
        )
        break
    if work.local:
        report.note(
            "Mailboxes on this machine: relayd has none. Names of the local domains that are no"
            " alias are refused with 451, so that nothing is lost. Give the mail store an LMTP"
            " socket and write `next-hop store lmtp unix:/path` and `route to <local-domains> via"
            " store`, or an alias for each name (root and postmaster first)",
            "class:local",
        )
    return Where(refuse=UNMOVED, text=RETRY)


def _mailbox(work: Work) -> Where:
    """virtual_transport, for virtual_mailbox_domains."""
    setting = "virtual_transport"
    found = where(work, work.main[setting], title="store")
    if not work.mailbox:
        if work.main.is_given(setting):
            work.report.unneeded(setting, "there are no virtual mailbox domains")
        return found
    if found.route or found.refuse or found.discard:
        work.report.translated(setting, f"virtual mailbox domains: {found.route or found.text}")
        return found
    work.report.lost(
        setting,
        "relayd keeps no mailboxes: give the mail store an LMTP socket (next-hop store lmtp"
        " unix:/path) and route these domains there; until then their mail is asked to come later",
        "class:mailbox",
    )
    return Where(refuse=UNMOVED, text=RETRY)


def _class_route(work: Work, names: Names, found: Where, title: str, route: str = "") -> None:
    """The route of one class of destinations."""
    if not names:
        return
    if found.route:
        work.draft.rule("route", f"route to {names.operand(work.draft)} {route or found.route}")
    else:
        _table_route(work, names, found.text, f"{title}-class")


def _table_route(work: Work, names: Names, text: str, title: str) -> None:
    """Only a transport table can refuse or discard."""
    lines = [f"{entry} {text}" for entry in names.entries]
    lines += ["* " + text] if names.everything else []
    if lines:
        operand = work.draft.map_of(title, "transport", lines, names.origin)
        why = f"closed: {names.origin}: {_CLOSED.get(title, _NO_WAY)}" if text == RETRY else ""
        work.draft.rule("route", f"route {operand}", why)
    for expression in names.expressions:
        status, _, words = text.partition(":")[2].partition(" ")
        code = "451" if status.startswith("4") else "550"
        known = when([f"not to {', '.join(work.listed)}"]) if work.listed else ""
        work.draft.rule(
            "admission",
            f"reject to regex {string(expression)} {code} {status} {string(words)}{known}",
            names.origin,
        )


def _virtual_alias(work: Work) -> None:
    """What is left at a virtual alias domain when the map is through is unknown."""
    if not work.virtual:
        return
    unknown = f"error:{UNKNOWN}"
    if "virtual_alias_maps" in work.incomplete:
        unknown = RETRY
        work.report.name(
            "virtual_alias_maps: a table is missing, so an unknown address is asked to come later",
            "class:virtual",
        )
    _table_route(work, work.virtual, unknown, "virtual-unknown")
    work.report.note(
        "What Postfix accepts and then bounces (an alias that leads to an unknown address, an error"
        " transport) relayd refuses at RCPT",
        "refused-earlier",
    )


def _transport_maps(work: Work, classes: Classes) -> None:
    """In Postfix's order: whole addresses and expressions of all tables first, then domains."""
    setting = "transport_maps"
    tables = work.tables(setting)
    parents = setting in work.main.words("parent_domain_matches_subdomains")
    complete = setting not in work.incomplete
    lines: dict[str, str] = {}
    stands = len(tables) == 1 and tables[0].plain and not tables[0].repeated
    stands = stands and not tables[0].continued and not parents and complete
    mixed = any(table.patterns for table in tables)
    if mixed and tables[0].rows:  # an expression is asked before anybody takes a sub-address away
        for table in tables:
            tagged = {
                key: text
                for key, text in _whole(work, table, classes, parents)
                if work.is_tagged(key)
            }
            _table(work, "transport-tagged", tagged, str(table.spec))
            for each in table.patterns if work.tagged else ():
                _pattern(work, table, classes, each, work.tagged)
    for table in tables:
        whole: dict[str, str] = {}
        for row in table.rows:
            text = _entry(work, table, row, classes, parents)
            for key in _keys(row.key, parents) if text else ():
                (whole if mixed and "@" in key else lines).setdefault(key, text)
            stands = stands and text == row.value
        if whole:
            _table(work, "transport-whole", whole, str(table.spec))
        for each in table.patterns:
            if not _pattern(work, table, classes, each):
                close_routes(work, setting)  # whatever is left may be what it is about
                return
    if not complete:
        whole = {key: text for key, text in lines.items() if "@" in key}
        _table(work, "transport-whole", whole, "what stands before the table that is missing")
        close_routes(work, setting)
        return
    if not tables and not work.main[setting]:
        work.report.same(setting, "none")
    if not lines:
        return
    first = tables[0]
    if stands and first.path:
        copied = first.path.read_text("utf-8").rstrip("\n").split("\n")
        operand = work.draft.map_of(
            first.path.name, "transport", copied, f"{first.spec}, as it stands", copied=True
        )
        work.draft.rule("route", f"route {operand}")
    else:
        _table(work, "transport", lines, ", ".join(str(table.spec) for table in tables))
    work.report.translated(setting, f"{len(lines):,} entries become a transport table")


def _whole(
    work: Work, table: MapText, classes: Classes, parents: bool
) -> Iterator[tuple[str, str]]:
    for row in table.rows:
        if "@" in row.key and (text := _entry(work, table, row, classes, parents)):
            yield from ((key, text) for key in _keys(row.key, parents))


def _table(work: Work, name: str, lines: Mapping[str, str], origin: str) -> None:
    if lines:
        texts = [f"{key} {value}" for key, value in lines.items()]
        operand = work.draft.map_of(name, "transport", texts, origin)
        work.draft.rule("route", f"route {operand}")


def _keys(key: str, parents: bool) -> Iterator[str]:
    """With parent_domain_matches_subdomains a domain is all that is below it, too."""
    if parents and key.startswith("."):
        return  # is never looked up
    yield key
    if parents and "@" not in key and key != "*":
        yield f".{key}"


def _entry(work: Work, table: MapText, row: PostfixRow, classes: Classes, parents: bool) -> str:
    """The value as relayd's transport tables have it; empty: the key is of no use."""
    setting, mark = "transport_maps", f"entry:{table.spec} {row.key}"
    spot = table.where(row.line)
    if row.key != "*":
        try:
            pattern(row.key if "@" in row.key else f"@{row.key}")
        except AddressError as error:
            work.close((), setting, f'{spot}: "{row.key}": {error}')
            return ""
    name, colon, nexthop = row.value.partition(":")
    if not colon:
        name, nexthop = row.value, ""
    if not name and not nexthop and _leaves_alone():
        return row.value
    if not name and not nexthop:  # "do not change": what it would be without the entry
        kept = _class_of(work, row.key, classes).text
        if kept and work.main["sender_dependent_relayhost_maps"]:
            work.report.name(
                f'{spot}: "{row.value}" goes by relayhost, whoever the sender is', mark
            )
        if kept:
            return kept
    before = dict(work.draft.hops)
    found = where(work, row.value if colon else f"{row.value}:", title="")
    if not name and nexthop:  # only the next hop changes, the class's own transport carries it
        found = where(work, f"{_transport_of(work, row.key)}:{nexthop}", title="")
    work.draft.hops = before  # the table names its hosts itself
    if found.local:
        return classes.local.text
    if found.direct and name:
        kept_in = work.by_transport.setdefault(name, [])
        kept_in += [key for key in _keys(row.key, parents) if "@" not in key and key != "*"]
        if has_source(work, name):
            work.report.lost(
                setting,
                f"{spot}: {row.value}: it goes by MX from any address of ours: write `route to"
                f" @{row.key} direct from` a source",
            )
    if found.text:
        return row.value if _reads_alike(row.value, found) else found.text
    why = found.why or "hosts with and without brackets in one entry: write a next-hop for each"
    work.report.lost(
        setting,
        f"{spot}: {row.key} {row.value}: {why}; its mail is asked to come later instead",
        mark,
    )
    return RETRY


def _leaves_alone() -> bool:
    """Whether relayd's transport tables know ":", which leaves things as they would be."""
    table = transport_table("", Source.of("a.example :", ""), [])
    return table.entries["@a.example"][1] is None


def _reads_alike(value: str, found: Where) -> bool:
    """Whether relayd reads the entry itself as what it was found to mean."""
    problems: list[Problem] = []
    source = Source.of(f"a.example {value}\nb.example {found.text}", "")
    table = transport_table("", source, problems)
    if problems:
        return False
    mine, wanted = (table.entries[probe][1] for probe in ("@a.example", "@b.example"))
    if mine is None or wanted is None:
        return mine is wanted
    same = (mine.reply, mine.discard) == (wanted.reply, wanted.discard)
    return same and _place(mine.next_hop) == _place(wanted.next_hop)


def _place(hop: NextHop | None) -> object:
    return hop and (hop.protocol, hop.hosts, hop.unix, hop.mx)


def _transport_of(work: Work, key: str) -> str:
    """The transport of the class that a key's domain is in."""
    domain = key.rpartition("@")[2]
    for names, setting in (
        (work.local, "local_transport"),
        (work.mailbox, "virtual_transport"),
        (work.relay, "relay_transport"),
    ):
        if domain in names.entries:
            return work.main[setting].partition(":")[0]
    return work.main["default_transport"].partition(":")[0]


def _class_of(work: Work, key: str, classes: Classes) -> Where:
    domain = key.rpartition("@")[2]
    for names, found in (
        (work.local, classes.local),
        (work.mailbox, classes.mailbox),
        (work.relay, classes.relay),
    ):
        if domain in names.entries:
            return found
    return classes.default


def _pattern(
    work: Work, table: MapText, classes: Classes, row: PatternRow, only: Sequence[str] = ()
) -> bool:
    """Write the route of one expression, perhaps only for some; whether it could be done."""
    setting, mark = "transport_maps", f"map:{table.spec}"
    found = work.condition(row, table.spec, "to")
    if isinstance(found, str):
        work.report.lost(
            setting,
            f"{table.where(row.line)}: {found}. What nothing before it routes is asked to come"
            " later: write it as a `route` rule, and take out the table that closes",
            mark,
        )
        return False
    operand, tests = found
    goal = where(work, row.value if ":" in row.value else f"{row.value}:", title="")
    goal = classes.local if goal.local else goal
    head = "route any" if operand == "any" else f"route to {operand}"
    if goal.route and row.value.partition(":")[0]:
        work.draft.rule(
            "route", f"{head} {goal.route}{when([*tests, *only])}", table.where(row.line)
        )
        return True
    if operand == "any" and not tests and goal.text and not only:
        _table(work, "transport-any", {"*": goal.text}, table.where(row.line))
        return True
    why = goal.why or "a route by expression cannot refuse: write a `reject to regex` rule"
    work.report.lost(
        setting,
        f"{table.where(row.line)}: {row.value}: {why}. What nothing before it routes is asked to"
        " come later",
        mark,
    )
    return False


def _default(work: Work, found: Where, route: str) -> None:
    if route:
        work.draft.rule("route", f"route any {route}", "by MX" if found.direct else "")
    else:
        operand = work.draft.map_of(
            "default", "transport", [f"* {found.text}"], "default_transport"
        )
        why = f"closed: default_transport, relayhost: {_NO_WAY}" if found.text == RETRY else ""
        work.draft.rule("route", f"route {operand}", why)
