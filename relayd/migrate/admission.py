"""Who may send what to whom: a gate for each set of listeners, with the restrictions they have.

A gate is closed and opened by its last rules: refusals of all its lists come first, then whatever
could not be carried over is asked to come later, then it is said who is accepted. Nobody else is.
"""

from __future__ import annotations

from collections.abc import Iterator

from relayd.migrate import catalogue, closings
from relayd.migrate.asking import milters, rates
from relayd.migrate.defaults import DEFAULTS
from relayd.migrate.domains import Names
from relayd.migrate.draft import good_entry
from relayd.migrate.maincf import MainCf
from relayd.migrate.mastercf import Service
from relayd.migrate.moves import Gate, ListState, Scope
from relayd.migrate.postscreen import postscreen
from relayd.migrate.restrictions import Restrictions
from relayd.migrate.restrictionwords import LISTS, RELAYING
from relayd.migrate.senders import OwnSenders, may_send_as
from relayd.migrate.tables import MapSpec, MapText, maps
from relayd.migrate.work import Work
from relayd.rules.language.lexer import string

_USERS = MapSpec("unix", "passwd.byname")
ALWAYS_LOCAL = ("postmaster", "mailer-daemon")  # smtpd(8) asks no map for these, as they stand
_ALWAYS = f'regex "^(?:{"|".join(ALWAYS_LOCAL)})@"'
_GOES_BY = (
    *LISTS,
    "mynetworks",
    "smtpd_restriction_classes",
    "smtpd_sender_login_maps",
    "smtpd_tls_security_level",
    "smtpd_enforce_tls",
    "soft_bounce",
    "smtpd_reject_unlisted_sender",
    "smtpd_reject_unlisted_recipient",
)
"""What `-o` of a listener may say, and its gate goes by."""
_ELSEWHERE = (
    "smtpd_sasl_auth_enable",
    "smtpd_sasl_type",
    "smtpd_sasl_path",
    "smtpd_tls_wrappermode",
    "smtpd_tls_auth_only",
    "syslog_name",
    *(name for name in DEFAULTS if name.startswith("smtpd_client_connection")),
    "smtpd_hard_error_limit",
    "smtpd_recipient_limit",
    "smtpd_timeout",
    "message_size_limit",
    "line_length_limit",
    "hopcount_limit",
    "local_header_rewrite_clients",
    "remote_header_rewrite_domain",
)
"""What it may say besides: it decides neither who is served nor where mail goes."""


def admission(work: Work) -> None:
    """All rules that say who is served."""
    rates(work)
    senders: list[OwnSenders] = []
    own = [(service, where) for service, where in work.listeners if _has_own(work, service)]
    for service, where in own:
        base = (f"listener {', '.join(map(str, where))}",) if where else ()
        senders.append(_gate(work, service, base))
    apart = tuple(f"not listener {', '.join(map(str, where))}" for _, where in own if where)
    senders.append(_gate(work, None, (), apart))
    if any(" auth " in statement for statement, _ in work.draft.settings):
        may_send_as(work, senders)
    for each in senders:
        for text, comment in each.gate.rules:
            work.draft.rule("admission", text, comment)
        for text, comment in each.gate.asks:
            work.draft.rule("ask", text, comment)
    milters(work)


def _has_own(work: Work, service: Service) -> bool:
    """Whether a listener decides otherwise than main.cf says."""
    main, its = work.main, work.main.overlaid(service.overrides)
    names = [*_GOES_BY, *closings.names()]
    if its["smtpd_sender_login_maps"]:
        names.append("smtpd_sasl_auth_enable")
    return any(its[name] != main[name] for name in names) or any(
        _strange(work, name, value) for name, value in service.overrides.items()
    )


def _strange(work: Work, name: str, value: str) -> bool:
    """Whether it is a parameter that no gate can go by."""
    if name in (*_GOES_BY, *_ELSEWHERE, *closings.names()):
        return False
    return name in DEFAULTS and catalogue.about(name, value) is None


def _gate(work: Work, service: Service | None, base: Scope, apart: Scope = ()) -> OwnSenders:
    main = work.main if service is None else work.main.overlaid(service.overrides)
    gate = Gate(base, main.yes("soft_bounce"), apart=apart)
    own = OwnSenders(work, gate, main)
    title = "" if service is None else f"master.cf {service.title} "
    for name, value in service.overrides.items() if service is not None else ():
        if _strange(work, name, value):
            why = f"-o {name}={value}: relayd has one setting for all listeners"
            work.report.lost(f"master.cf {service.title}", why)  # type: ignore[union-attr]
            gate.close((), f"{title}{why}")
    trusted = work.trusted
    if main["mynetworks"] != work.main["mynetworks"]:
        work.trusted = work.reader_of(main).networks("mynetworks", f"mynetworks-{service.name}")  # type: ignore[union-attr]
    try:
        _lists(work, gate, main, own, title, _screened(work, service, apart))
        _closed(work, gate, main, title)
        _unlisted(work, gate, main)
        _accept(work, gate)
    finally:
        work.trusted = trusted
    return own


def _screened(work: Work, service: Service | None, apart: Scope) -> Scope | None:
    """The clients of a gate that meet postscreen(8) first, as conditions; None: nobody does."""
    if service is not None:
        return () if service.command == "postscreen" else None
    others = [each for each in work.listeners if not _has_own(work, each[0])]
    behind = [where for each, where in others if each.command == "postscreen" and where]
    if not behind:
        return None
    at = ", ".join(str(place) for where in behind for place in where)
    return (f"listener {at}",) if apart or len(behind) < len(others) else ()


def _lists(
    work: Work, gate: Gate, main: MainCf, own: OwnSenders, title: str, screened: Scope | None
) -> None:
    if main["smtpd_tls_security_level"].lower() == "encrypt" or (
        main.yes("smtpd_enforce_tls") and not main["smtpd_tls_security_level"]
    ):
        reply = '530 5.7.0 "Must issue a STARTTLS command first"'
        gate.write("reject", ("not tls",), reply, f"{title}smtpd_tls_security_level = encrypt")
    lists = Restrictions(work, gate, main, own)
    relay = next((each for each in RELAYING if lists.refuses_foreign(each)), "")
    if not relay:
        work.report.lost(
            RELAYING[0],
            "nothing in it refuses foreign destinations: relayd refuses whatever no rule accepts",
            "restriction:relay",
        )
    if screened is not None:
        state = ListState(gate, "postscreen")
        postscreen(work, state, main, screened, lambda: lists.mynetworks("postscreen", screened))
    for setting in LISTS:
        lists.read(setting, relay=setting == relay)


def _closed(work: Work, gate: Gate, main: MainCf, title: str) -> None:
    """What could not be carried over, and so decides nothing: it is asked for again later."""
    for mark in gate.marked:
        if mark.verb == "later":
            gate.close(mark.scope, mark.why, mark.unless)
    for scope, name, why in closings.close(work, main):
        work.report.lost(name, f"{why}; until then its mail is asked to come later")
        gate.close(scope, f"{title}{name}: {why}")
    for scope, why in work.closed:
        gate.close(scope, why)
    if main.yes("smtpd_reject_unlisted_sender"):
        for scope in work.senders_of_ours():
            gate.close(scope, "smtpd_reject_unlisted_sender: relayd does not look senders up")
        work.report.lost(
            "smtpd_reject_unlisted_sender",
            "relayd does not look senders up: those of our domains are asked to come later",
        )
    doubts = [names.doubt for names in work.all_classes() if names.doubt]
    for doubt in doubts[:1]:
        gate.close((), f"{doubt}: nobody can tell which domains are ours", work.ours())


def _unlisted(work: Work, gate: Gate, main: MainCf) -> None:
    """Recipients that no map of their class lists."""
    report = work.report
    for setting, names, words in (
        ("local_recipient_maps", work.local, "local recipient table"),
        ("relay_recipient_maps", work.relay, "relay recipient table"),
        ("virtual_mailbox_maps", work.mailbox, "virtual mailbox table"),
    ):
        if not names or not main[setting]:
            if main.is_given(setting) or (names and setting != "virtual_mailbox_maps"):
                report.same(
                    setting, "every recipient of these domains is taken" if names else "none"
                )
            continue
        operands, why = _listed(work, setting)
        known = ", ".join(dict.fromkeys([*operands, *work.listed]))
        scope = (f"to {names.operand(work.draft)}",)
        spared = [(f"to {each}",) for each in (known, *_above(work, names)) if each]
        if not main.yes("smtpd_reject_unlisted_recipient"):
            why = (
                why or "others are taken, and then bounced or not (smtpd_reject_unlisted_recipient)"
            )
        if why:
            gate.close(scope, f"{setting}: {why}", spared)
        else:
            reply = f"550 5.1.1 {string(f'User unknown in {words}')}"
            gate.write("reject", scope, reply, setting, spared)
            report.translated(setting, "others are refused at RCPT with 550 5.1.1")
    if main.is_given("smtpd_reject_unlisted_recipient"):
        setting = "smtpd_reject_unlisted_recipient"
        if main.yes(setting):
            report.same(setting)
        else:
            report.lost(setting, "relayd takes no unknown recipients: they are asked to come later")


def _above(work: Work, names: Names) -> list[str]:
    """Domains of an earlier class that lie below one of this class."""
    if not any(entry.startswith(".") for entry in names.entries) and not names.expressions:
        return []
    classes = work.classes()
    return [each.operand(work.draft) for each in classes[: classes.index(names)]]


def _listed(work: Work, setting: str) -> tuple[list[str], str]:
    """The operands of who is listed; and why that is not all of them."""
    entries: list[str] = []
    operands = [_ALWAYS] if setting == "local_recipient_maps" else []
    unread = ""
    for spec in maps(work.main[setting], work.main["default_database_type"]):
        if spec == _USERS and work.users is not None:
            entries += [f"{name}@" for name in work.users]
            work.report.note(
                "the users of this system were read once: tables/local-recipients has to"
                " be kept in step with them"
            )
            continue
        as_aliases = str(spec) in work.main["alias_maps"]
        table = work.shelf.read(spec, aliases=as_aliases)
        if table.trouble:
            unread = unread or _unread(work, setting, table)
            continue
        entries += _entries(work, setting, table)
        for pattern in table.patterns:
            found = work.condition(pattern, table.spec, "to")
            if isinstance(found, str) or found[1]:
                why = found if isinstance(found, str) else "`if` and `!` are not carried over here"
                unread = unread or f"{table.where(pattern.line)}: {why}"
                work.report.lost(
                    setting,
                    f"{unread}; whom nothing else lists is asked to come later",
                    f"unlisted:{setting}",
                )
            else:
                operands.append(found[0])
    name = setting.removesuffix("_maps").replace("_", "-")
    table_operand = work.draft.list_of(name + "s", entries, setting)
    return [*operands, *([table_operand] if table_operand else [])], unread


def _unread(work: Work, setting: str, table: MapText) -> str:
    """Nobody can be told to be unknown."""
    if table.spec.type == "unix" and setting == "local_recipient_maps":
        why = (
            "relayd does not know the users of this system. Names of the local domains that are"
            " no alias are asked to come later"
        )
        if work.main.is_given(setting):
            work.report.lost(setting, why)
        else:
            work.report.note(f"local_recipient_maps: {why}")
        return "the users of this system are not known"
    work.report.lost(
        setting, f"{table.spec}: {table.trouble}; whom nothing else lists is asked to come later"
    )
    return f"{table.spec}: {table.trouble}"


def _entries(work: Work, setting: str, table: MapText) -> Iterator[str]:
    local = setting == "local_recipient_maps"
    for row in table.rows:
        names = [""] if local else work.bare_domains  # elsewhere no name stands alone
        entries = [row.key] if "@" in row.key else [f"{row.key}@{each}" for each in names]
        if all(map(good_entry, entries)):
            yield from entries
        else:
            work.report.lost(
                setting,
                f"{table.where(row.line)}: {row.key} is no address",
                f"entry:{table.spec} {row.key}",
            )


def _accept(work: Work, gate: Gate) -> None:
    """Who is taken: those who may relay, and everybody who writes to us; what is thrown away."""
    accepted: list[tuple[Scope, str]] = [(scope, "") for scope in gate.relaying]
    for names in work.classes():
        excepted = names.exception(work.draft)
        tests = (f"not to {excepted}",) if excepted else ()
        accepted.append(((f"to {names.operand(work.draft)}", *tests), names.origin))
    for mark in gate.marked:
        if mark.verb == "hold":
            gate.write("hold", mark.scope, string(mark.reason), mark.why, mark.unless)
        elif mark.verb == "discard":
            for scope, _ in accepted:
                whom = (*mark.scope, *scope)
                gate.write("discard", whom, string(mark.reason), mark.why, mark.unless)
    for scope, comment in accepted:
        gate.write("accept", scope, "", comment)
    for doubt in gate.doubted:
        gate.close(doubt.scope, f"who may relay: {doubt.why}")
    if gate.base or gate.soft:
        gate.write("reject", (), '550 5.7.1 "Relay access denied"', "nobody else")
