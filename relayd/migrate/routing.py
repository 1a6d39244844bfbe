"""transport_maps, relayhost and the like become `route` rules."""

from __future__ import annotations

from dataclasses import dataclass

from relayd.mail.address import AddressError
from relayd.mail.nexthop import NextHop
from relayd.migrate.bysender import by_sender, own_nexthop
from relayd.migrate.domains import Names
from relayd.migrate.draft import pattern
from relayd.migrate.nexthops import Where, to_hosts, where
from relayd.migrate.tables import MapText, PatternRow, PostfixRow
from relayd.migrate.work import Work, when
from relayd.rules.language.lexer import string
from relayd.rules.language.source import Problem, Source
from relayd.rules.tables.transport import transport_table

UNMOVED = "4.3.0 This mailbox has not moved to this relay yet"
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
    by_sender(work)
    if classes.relay.text != classes.default.text or classes.relay.hops != classes.default.hops:
        _class_route(work, work.relay, classes.relay, "relay")
    _default(work, classes.default)


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
        return Where(
            refuse="4.3.0 relayhost is not set up", text="retry:4.3.0 relayhost is not set up"
        )
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
        text = f"4.3.0 {setting} is not set up"
        return Where(refuse=text, text=f"retry:{text}")
    if found.direct and relayhost is not None:
        found = relayhost
    if work.main.is_given(setting):
        work.report.translated(setting, found.route or found.text)
    return found


def _local(work: Work) -> Where:
    """Where mail for the local domains goes once aliases are followed."""
    main, report = work.main, work.report
    for setting in ("local_transport", "mailbox_transport", "fallback_transport"):
        value = main[setting]
        found = where(work, value, title="store") if value else Where(local=True)
        if found.local:
            if main.is_given(setting) and (value or setting != "local_transport"):
                report.same(setting, "no other transport")
            continue
        if found.route:
            report.translated(setting, f"local domains: {found.route}")
            if setting == "fallback_transport":
                report.note(
                    "fallback_transport takes only names that are no system users; relayd"
                    " sends all of the local domains there",
                    "class:local",
                )
            return found
        report.lost(setting, found.why or found.text, "class:local")
    if work.local:
        report.note(
            "Mailboxes on this machine: relayd has none. Names of the local domains that are no"
            " alias are refused with 451, so that nothing is lost. Give the mail store an LMTP"
            " socket and write `next-hop store lmtp unix:/path` and `route to <local-domains> via"
            " store`, or an alias for each name (root and postmaster first)",
            "class:local",
        )
    return Where(refuse=UNMOVED, text=f"retry:{UNMOVED}")


def _mailbox(work: Work) -> Where:
    """virtual_transport, for virtual_mailbox_domains."""
    setting = "virtual_transport"
    found = where(work, work.main[setting], title="store")
    if not work.mailbox:
        if work.main.is_given(setting):
            work.report.unneeded(setting, "there are no virtual mailbox domains")
        return found
    if found.route:
        work.report.translated(setting, f"virtual mailbox domains: {found.route}")
        return found
    work.report.lost(
        setting,
        "relayd keeps no mailboxes: give the mail store an LMTP socket (next-hop store lmtp"
        " unix:/path) and route these domains there; until then their mail is asked to come later",
        "class:mailbox",
    )
    return Where(refuse=UNMOVED, text=f"retry:{UNMOVED}")


def _class_route(work: Work, names: Names, found: Where, title: str) -> None:
    """The route of one class of destinations."""
    if not names:
        return
    if found.route:
        work.draft.rule("route", f"route to {names.operand(work.draft)} {found.route}")
    else:
        _table_route(work, names, found.text, f"{title}-class")


def _table_route(work: Work, names: Names, text: str, title: str) -> None:
    """Only a transport table can refuse or discard."""
    lines = [f"{entry} {text}" for entry in names.entries]
    lines += ["* " + text] if names.everything else []
    if lines:
        operand = work.draft.map_of(title, "transport", lines, names.origin)
        work.draft.rule("route", f"route {operand}")
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
        unknown = "retry:4.3.0 Not every table of this relay could be read"
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
    setting = "transport_maps"
    tables = work.tables(setting)
    if not tables:
        if not work.main[setting]:
            work.report.same(setting, "none")
        return
    lines: dict[str, str] = {}
    stands = len(tables) == 1 and tables[0].plain and not tables[0].repeated
    stands = stands and not tables[0].continued
    for table in tables:
        for each in table.patterns:
            _pattern(work, table, classes, each)
        for row in table.rows:
            text = _entry(work, table, row, classes)
            if text:
                lines.setdefault(row.key, text)
            stands = stands and text == row.value
    if not lines:
        return
    first = tables[0]
    if stands and first.path:
        whole = first.path.read_text("utf-8").rstrip("\n").split("\n")
        operand = work.draft.map_of(
            first.path.name, "transport", whole, f"{first.spec}, as it stands", copied=True
        )
    else:
        origin = ", ".join(str(table.spec) for table in tables)
        operand = work.draft.map_of(
            "transport", "transport", [f"{k} {v}" for k, v in lines.items()], origin
        )
    work.draft.rule("route", f"route {operand}")
    work.report.translated(setting, f"{len(lines):,} entries become a transport table")
    if "transport_maps" in work.main.words("parent_domain_matches_subdomains"):
        work.report.lost(
            setting,
            "parent_domain_matches_subdomains names transport_maps: write"
            " .example.com for sub-domains",
            f"setting:{setting}",
        )


def _entry(work: Work, table: MapText, row: PostfixRow, classes: Classes) -> str:
    """The value as relayd's transport tables have it; empty: the key is of no use."""
    setting, mark = "transport_maps", f"entry:{table.spec} {row.key}"
    spot = table.where(row.line)
    if row.key != "*":
        try:
            pattern(row.key if "@" in row.key else f"@{row.key}")
        except AddressError as error:
            work.report.lost(setting, f'{spot}: "{row.key}": {error}', mark)
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
        found = to_hosts(work, nexthop, "")
    work.draft.hops = before  # the table names its hosts itself
    if found.local:
        return classes.local.text
    if found.text:
        return row.value if _reads_alike(row.value, found) else found.text
    why = found.why or "hosts with and without brackets in one entry: write a next-hop for each"
    work.report.lost(
        setting,
        f"{spot}: {row.key} {row.value}: {why}; its mail is asked to come later instead",
        mark,
    )
    return "retry:4.3.0 The way to this address is not set up yet"


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


def _pattern(work: Work, table: MapText, classes: Classes, row: PatternRow) -> None:
    setting, mark = "transport_maps", f"map:{table.spec}"
    found = work.condition(row, table.spec, "to")
    if isinstance(found, str):
        work.report.lost(setting, f"{table.where(row.line)}: {found}", mark)
        return
    operand, tests = found
    goal = where(work, row.value, title="")
    goal = classes.local if goal.local else goal
    head = "route any" if operand == "any" else f"route to {operand}"
    if goal.route:
        work.draft.rule("route", f"{head} {goal.route}{when(tests)}", table.where(row.line))
        return
    why = goal.why or "a route by expression cannot refuse: write a `reject to regex` rule"
    work.report.lost(setting, f"{table.where(row.line)}: {row.value}: {why}", mark)


def _default(work: Work, found: Where) -> None:
    if found.direct:
        work.draft.rule("route", "route any direct", "by MX")
    elif found.route:
        work.draft.rule("route", f"route any {found.route}")
    else:
        operand = work.draft.map_of(
            "default", "transport", [f"* {found.text}"], "default_transport"
        )
        work.draft.rule("route", f"route {operand}")
