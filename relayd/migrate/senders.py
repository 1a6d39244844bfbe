"""Which senders a login may use: smtpd_sender_login_maps, where a restriction asks them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relayd.mail.address import AddressError
from relayd.migrate.draft import pattern
from relayd.migrate.maincf import MainCf
from relayd.migrate.moves import Closed, Gate, Move, Passed, Refuse, Scope
from relayd.migrate.tables import maps
from relayd.migrate.work import Work

SETTING = "smtpd_sender_login_maps"
_REPLY = '553 5.7.1 "Sender address rejected: not owned by user"'
_UNAUTHENTICATED = ("reject_sender_login_mismatch", "reject_unauthenticated_sender_login_mismatch")
_MOST_OWNERS = 60  # rules, one for each set of logins


@dataclass
class OwnSenders:
    """The owners of senders, as one gate has them."""

    work: Work
    gate: Gate
    main: MainCf
    asked: bool = False  # some restriction asks who owns a sender
    owners: dict[str, tuple[str, ...]] = field(default_factory=dict)  # key -> logins

    def moves(self, setting: str, word: str, scope: Scope) -> Sequence[Move]:
        """What a restriction about the owners of senders says; none: it cannot be told."""
        if not self.main.yes("smtpd_sasl_auth_enable"):
            self.work.report.same(setting, f"{word}: of no effect, for nobody logs in here")
            return [Passed(scope, word)]
        self.asked = True
        if not self._read():
            return []
        keys = [key for key in self.owners if not key.startswith("@")]
        domains = [key for key in self.owners if key.startswith("@")]
        tagged = self.work.tagged_senders(keys)
        listed = self.work.draft.list_of("sender-owners", [*keys, *domains], SETTING)
        listed = ", ".join([*([listed] if listed else []), *tagged])
        found: list[Move] = [Passed(scope, word)]
        if listed and word in _UNAUTHENTICATED:
            whom = (*scope, f"sender {listed}", "not login any")
            found.append(Refuse(whom, word, (), _REPLY))
        if word == "reject_known_sender_login_mismatch":
            return [*found, *self._known(word, scope, keys, domains)]
        if word != "reject_unauthenticated_sender_login_mismatch":
            whom = (*scope, "login any", "not sender null")
            whom += (f"not sender {listed}",) if listed else ()
            found.append(Refuse(whom, word, (), _REPLY))
            found += self._by_name(word, scope)
        return found

    def _by_name(self, word: str, scope: Scope) -> Iterator[Move]:
        """Everybody may use his own address with relayd; with Postfix only if he is its owner."""
        for key, logins in self.owners.items():
            names = {key, key.rpartition("@")[0]} - {each.lower() for each in logins} - {""}
            whom = ", ".join([key, *self.work.tagged_senders([key])])
            for name in sorted(names) if "@" in key[1:] else ():
                yield Refuse((*scope, f"sender {whom}", f"login {name}"), word, (), _REPLY)

    def _known(
        self, word: str, scope: Scope, keys: Sequence[str], domains: Sequence[str]
    ) -> Iterator[Move]:
        """A listed sender is for its owners; any other for every login."""
        groups: dict[tuple[bool, tuple[str, ...]], list[str]] = {}
        for key in (*keys, *domains):
            groups.setdefault((key.startswith("@"), self.owners[key]), []).append(key)
        if len(groups) > _MOST_OWNERS:
            yield Closed((*scope, "login any"), f"{word}: {len(groups)} sets of logins")
            return
        exact = self.work.draft.list_of("sender-owners-exact", keys, SETTING)
        for (wide, logins), members in groups.items():
            operand = self.work.draft.list_of("senders-of", members, SETTING)
            operand = ", ".join([operand, *self.work.tagged_senders(members)])
            whom = (*scope, f"sender {operand}", "login any")
            spared = tuple((f"login {login}",) for login in logins)
            spared += ((f"sender {exact}",),) if wide and exact else ()
            yield Refuse(whom, word, spared, _REPLY)

    def _read(self) -> bool:
        """Whether all of the map is understood."""
        report = self.work.report
        if self.owners:
            return True
        for spec in maps(self.main[SETTING], self.work.main["default_database_type"]):
            table = self.work.shelf.read(spec)
            trouble = table.trouble or ("expressions" if table.patterns else "")
            if trouble:
                report.lost(SETTING, f"{spec}: {trouble}: nobody can tell who may send as whom")
                return False
            for row in table.rows:
                if row.key == "<>":  # the null sender has no owner to ask for
                    continue
                keys = (
                    [row.key]
                    if "@" in row.key
                    else [f"{row.key}@{each}" for each in self.work.bare_domains]
                )
                for key in keys:
                    try:
                        pattern(key)
                    except AddressError as error:
                        report.lost(SETTING, f"{table.where(row.line)}: {key}: {error}")
                        return False
                    self.owners.setdefault(key, tuple(row.value.replace(",", " ").split()))
        return True


def may_send_as(work: Work, senders: Sequence[OwnSenders]) -> None:
    """The statements for all gates: any sender, but where a restriction asks for owners."""
    free = [each for each in senders if not each.asked or _only_known(each)]
    bound = [each for each in senders if each.asked]
    if not bound:
        work.draft.rule(
            "admission", "may-send-as any", "as in Postfix; without it, as one's own address"
        )
        if work.main.is_given(SETTING):
            work.report.lost(SETTING, "no restriction asks it (reject_sender_login_mismatch)")
        return
    elsewhere = [each.gate.base[0] for each in senders if each.gate.base]
    for each in free:
        tests = each.gate.base or tuple(f"not {one}" for one in elsewhere)
        end = f" when {' and '.join(tests)}" if tests else ""
        work.draft.rule("admission", f"may-send-as any{end}", "as in Postfix")
    lines = {
        f"{key} {', '.join(logins)}": None
        for each in bound
        if not _only_known(each)
        for key, logins in each.owners.items()
    }
    if lines:
        operand = work.draft.map_of("sender-logins", "virtual", list(lines), SETTING)
        work.draft.rule("admission", f"may-send-as {operand}", SETTING)
        work.report.translated(SETTING, f"may-send-as {operand}: {len(lines):,} senders")


def _only_known(senders: OwnSenders) -> bool:
    """Whether a sender that is not listed is for every login."""
    words = [
        word
        for name in ("smtpd_sender_restrictions", "smtpd_recipient_restrictions")
        for word in senders.main.words(name)
    ]
    strict = ("reject_sender_login_mismatch", "reject_authenticated_sender_login_mismatch")
    return bool(senders.asked) and not any(word in strict for word in words) and bool(words)
