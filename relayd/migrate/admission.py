"""Who may send what to whom: mynetworks, address classes, restrictions and access maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relayd.migrate.access import LISTS, rules_of
from relayd.migrate.domains import Names
from relayd.migrate.draft import good_entry
from relayd.migrate.tables import MapSpec, MapText, maps
from relayd.migrate.work import Work, when
from relayd.rules.language.lexer import string

RESTRICTIONS = (
    "smtpd_client_restrictions",
    "smtpd_helo_restrictions",
    "smtpd_sender_restrictions",
    "smtpd_relay_restrictions",
    "smtpd_recipient_restrictions",
)
_UNAUTH = ("reject_unauth_destination", "defer_unauth_destination")
_NO_SUCH = "relayd has no such check"
_NOT_CHECKED = {
    "reject_rbl_client": "relayd asks no blocklists; let a filter in front or behind do it",
    "reject_rhsbl_client": "relayd asks no blocklists",
    "reject_rhsbl_helo": "relayd asks no blocklists",
    "reject_rhsbl_sender": "relayd asks no blocklists",
    "reject_rhsbl_recipient": "relayd asks no blocklists",
    "reject_rhsbl_reverse_client": "relayd asks no blocklists",
    "check_policy_service": "relayd speaks no policy protocol",
    "reject_unknown_sender_domain": "relayd does not look up the sender's domain",
    "reject_unknown_recipient_domain": "an unknown domain is found out at delivery, and reported",
    "reject_unverified_recipient": "relayd does not probe addresses",
    "reject_unverified_sender": "relayd does not probe addresses",
}
_WITH_ARGUMENT = (
    "check_",
    "reject_rbl",
    "reject_rhsbl",
    "permit_dnswl",
    "permit_rhswl",
    "sleep",
    "reject_plaintext_session_",
)
_USERS = MapSpec("unix", "passwd.byname")
_OURS_ANYWAY = ("reject_unauth_pipelining",)


@dataclass
class _Walk:
    """One restriction list being read: what left it with a permit, and what is still to be said."""

    setting: str
    permits: list[str] = field(default_factory=list)
    done: bool = False

    @property
    def tests(self) -> list[str]:
        """For `when`: nothing before has let it pass."""
        return [f"not {each}" for each in self.permits]


def admission(work: Work) -> None:
    """All rules that say who is served."""
    ends = ("reject", "defer", *_UNAUTH)
    relay_list = next(
        (each for each in RESTRICTIONS[3:] if any(word in ends for word in work.main.words(each))),
        "",
    )
    if not relay_list:
        work.report.lost(
            RESTRICTIONS[3],
            "nothing in it refuses foreign destinations: relayd refuses whatever no rule accepts",
            "restriction:relay",
        )
    passes: list[str] = []
    for setting in RESTRICTIONS:
        walk = _Walk(setting)
        found = _walk_list(work, walk, is_relay=setting == relay_list)
        if setting == relay_list:
            passes = found
        if not work.main.is_given(setting) and not work.main.words(setting):
            work.report.same(setting, "none")
    _unlisted(work)
    _accept(work, passes)


def _walk_list(work: Work, walk: _Walk, *, is_relay: bool) -> list[str]:
    """The rules of one list; what it lets pass before it refuses foreign destinations."""
    passes: list[str] = []
    found = False
    words = work.main.words(walk.setting)
    at = 0
    while at < len(words) and not walk.done:
        word = words[at]
        argument = ""
        if word.startswith(_WITH_ARGUMENT) and at + 1 < len(words):
            at += 1
            argument = words[at]
        elif ":" in word:  # an old way to name the list's own access map
            word, argument = f"check_{LISTS.get(walk.setting, 'client')}_access", word
        at += 1
        if word == "warn_if_reject":
            at += 1
            work.report.lost(walk.setting, "warn_if_reject: relayd has no warnings of this kind")
            continue
        if word in _UNAUTH and is_relay:
            passes = list(walk.permits)
            work.report.translated(walk.setting, f"{word}: what no rule accepts is refused")
            found = True
            continue
        if word in ("reject", "defer") and is_relay and not found:
            passes = list(walk.permits)
        _one(work, walk, word, argument)
    return passes


def _ours(work: Work) -> str:
    """The operand for every destination that is ours."""
    return ", ".join(each.operand(work.draft) for each in work.classes())


def _one(work: Work, walk: _Walk, word: str, argument: str) -> None:
    report, setting = work.report, walk.setting
    if word == "permit_mynetworks":
        operand = work.trusted.operand(work.draft)
        if operand:
            walk.permits.append(f"from {operand}")
        report.translated(setting, "permit_mynetworks: from <mynetworks>")
    elif word == "permit_sasl_authenticated":
        walk.permits.append("login any")
        report.translated(
            setting, "permit_sasl_authenticated: `login any`, on listeners with `auth`"
        )
    elif word in ("reject_sender_login_mismatch", "reject_authenticated_sender_login_mismatch"):
        report.translated(setting, f"{word}: a login sends as its own, and as `may-send-as` says")
    elif word in ("permit_auth_destination",):
        if _ours(work):
            walk.permits.append(f"to {_ours(work)}")
        report.translated(setting, word)
    elif word == "permit":
        walk.done = True
        report.translated(setting, word)
    elif word in ("reject", "defer", *_UNAUTH):
        _refuse_rest(work, walk, word)
    elif word.startswith("check_") and word.endswith("_access"):
        walk.permits += rules_of(work, setting, word, argument, walk.tests)
    elif word in ("reject_unlisted_recipient", "check_recipient_maps"):
        report.translated(setting, f"{word}: unknown recipients are refused at RCPT in any case")
    elif word in _OURS_ANYWAY:
        report.same(setting, f"{word}: a client out of step is refused anyway")
    elif word in ("defer_if_permit", "sleep"):
        report.lost(setting, f"{word}: {_NO_SUCH}", f"restriction:{word}")
    else:
        text = f"{word} {argument}".rstrip()
        report.lost(setting, f"{text}: {_NOT_CHECKED.get(word, _NO_SUCH)}", f"restriction:{text}")


def _refuse_rest(work: Work, walk: _Walk, word: str) -> None:
    """`reject`, `defer`, or reject_unauth_destination in a second list: what is left."""
    tests = list(walk.tests)
    if word in _UNAUTH:
        tests += [f"not to {_ours(work)}"] if _ours(work) else []
        reply = '550 5.7.1 "Relay access denied"'
    else:
        code = "550 5.7.1" if word == "reject" else "450 4.7.1"
        reply = f'{code} "Access denied"'
        walk.done = True
    work.draft.rule("admission", f"reject any {reply}{when(tests)}", f"{walk.setting}: {word}")
    work.report.translated(walk.setting, f"{word}: whatever it has not permitted before")


def _unlisted(work: Work) -> None:
    """Recipients that no map of their class lists."""
    main, report = work.main, work.report
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
        operands = _listed(work, setting)
        if operands is None:
            continue
        if not operands and not work.listed:
            report.lost(
                setting,
                "no entry is left, so every recipient of these domains is taken",
                f"unlisted:{setting}",
            )
            continue
        known = ", ".join(dict.fromkeys([*operands, *work.listed]))
        reply = f"550 5.1.1 {string(f'User unknown in {words}')}"
        spared = [f"not to {each}" for each in (known, *_above(work, names)) if each]
        work.draft.rule(
            "admission", f"reject to {names.operand(work.draft)} {reply}{when(spared)}", setting
        )
        report.translated(setting, "others are refused at RCPT with 550 5.1.1")
    if main.is_given("smtpd_reject_unlisted_recipient"):
        setting = "smtpd_reject_unlisted_recipient"
        if main.yes(setting):
            report.same(setting)
        else:
            report.lost(setting, "relayd always refuses unknown recipients at RCPT", "unlisted")


def _above(work: Work, names: Names) -> list[str]:
    """Domains of an earlier class that lie below one of this class."""
    if not any(entry.startswith(".") for entry in names.entries) and not names.expressions:
        return []
    classes = work.classes()
    return [each.operand(work.draft) for each in classes[: classes.index(names)]]


def _listed(work: Work, setting: str) -> list[str] | None:
    """The operands of who is listed; None: that cannot be told, so all are taken."""
    entries: list[str] = []
    operands: list[str] = []
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
            _all_taken(work, setting, table)
            return None
        entries += _entries(work, setting, table)
        for pattern in table.patterns:
            found = work.condition(pattern, table.spec, "to")
            if isinstance(found, str) or found[1]:
                why = found if isinstance(found, str) else "`if` and `!` are not carried over here"
                work.report.lost(
                    setting,
                    f"{table.where(pattern.line)}: {why}; every recipient of"
                    " these domains is taken instead",
                    f"unlisted:{setting}",
                )
                return None
            operands.append(found[0])
    name = setting.removesuffix("_maps").replace("_", "-")
    table_operand = work.draft.list_of(name + "s", entries, setting)
    return [*operands, *([table_operand] if table_operand else [])]


def _all_taken(work: Work, setting: str, table: MapText) -> None:
    """Nobody can be told to be unknown."""
    if table.spec.type == "unix" and setting == "local_recipient_maps":
        why = (
            "relayd does not know the users of this system. Names of the local domains that are"
            " no alias get the answer of their route, below"
        )
        if work.main.is_given(setting):
            work.report.lost(setting, why, f"unlisted:{setting}", "class:local")
        else:
            work.report.note(f"local_recipient_maps: {why}", f"unlisted:{setting}", "class:local")
        return
    work.report.lost(
        setting,
        f"{table.spec}: {table.trouble}; every recipient of these domains is taken instead",
        f"unlisted:{setting}",
        f"map:{table.spec}",
    )


def _entries(work: Work, setting: str, table: MapText) -> Iterator[str]:
    for row in table.rows:
        entry = row.key if "@" in row.key else f"{row.key}@"
        if good_entry(entry):
            yield entry
        else:
            work.report.lost(
                setting,
                f"{table.where(row.line)}: {row.key} is no address",
                f"entry:{table.spec} {row.key}",
            )


def _accept(work: Work, passes: Sequence[str]) -> None:
    draft = work.draft
    for condition in passes:
        tests = []
        if work.trusted and condition == f"from {work.trusted.operand(draft)}":
            excepted = work.trusted.exception(draft)
            tests = [f"not from {excepted}"] if excepted else []
        draft.rule("admission", f"accept {condition}{when(tests)}")
    for names in work.classes():
        excepted = names.exception(draft)
        tests = [f"not to {excepted}"] if excepted else []
        draft.rule("admission", f"accept to {names.operand(draft)}{when(tests)}", names.origin)
