"""smtpd's restriction lists, word by word: what is not understood closes the list.

Each word has a reader; it returns moves. A word without a reader, and a reader that returns none,
make the list ask all who reach that word to come later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from relayd.migrate.access import AccessMap
from relayd.migrate.asking import dns_list, policy
from relayd.migrate.maincf import MainCf, split
from relayd.migrate.moves import (
    AskedOf,
    Closed,
    Doubt,
    Gate,
    ListState,
    Move,
    Passed,
    Permit,
    Refuse,
    Scope,
)
from relayd.migrate.restrictionwords import (
    ANYWAY,
    BY_NAME,
    ENDS,
    FILTERS,
    HELO_FORMS,
    LISTS,
    OLD,
    PERHAPS,
    RELAYING,
    SAME,
    UNAUTH,
    takes_argument,
)
from relayd.migrate.senders import OwnSenders
from relayd.migrate.tables import MapSpec, is_table
from relayd.migrate.verified import known_at
from relayd.migrate.work import Work
from relayd.rules.language.lexer import string

_LATER_THAN_RCPT = ("smtpd_data_restrictions", "smtpd_end_of_data_restrictions")
_DEPTH = 20  # classes in classes
_PROBED_ELSEWHERE = (  # where mail does not go by the domain of its recipient alone
    "relayhost",
    "transport_maps",
    "sender_dependent_relayhost_maps",
    "sender_dependent_default_transport_maps",
    "address_verify_relayhost",
    "address_verify_transport_maps",
)
_DENIED = '550 5.7.1 "Relay access denied"'
_BARE = 'regex "@[^.@]*$"'


class Restrictions:
    """Reads lists for one gate; `main` is what its listeners go by."""

    def __init__(self, work: Work, gate: Gate, main: MainCf, own: OwnSenders) -> None:
        self._work = work
        self._gate = gate
        self._main = main
        self._own = own
        self._setting = ""
        self._relay = False
        self._depth = 0
        self._in_entry = False  # of a map, where Postfix opens no tables
        self._classes = main.words("smtpd_restriction_classes")
        self._readers: dict[str, Callable[[str, Scope], Sequence[Move]]] = {
            "permit": lambda _, scope: [Permit(scope, "permit")],
            "reject": self._reject,
            "defer": self._reject,
            "defer_if_permit": self._reject,
            "reject_plaintext_session": self._plaintext,
            "permit_mynetworks": self.mynetworks,
            "permit_inet_interfaces": self._interfaces,
            "permit_sasl_authenticated": self._login,
            "permit_auth_destination": self._destination,
            "reject_unauth_destination": self._unauth,
            "defer_unauth_destination": self._unauth,
            "check_relay_domains": self._relay_domains,
            "reject_non_fqdn_sender": self._bare,
            "reject_non_fqdn_recipient": self._bare,
            "reject_unlisted_sender": self._unlisted_sender,
            "reject_unknown_client_hostname": self._nameless,
            "reject_unknown_reverse_client_hostname": self._nameless,
            "reject_unknown_sender_domain": self._unknown_domain,
            "reject_unknown_recipient_domain": self._unknown_domain,
            "reject_unknown_helo_hostname": self._unknown_helo,
            "reject_invalid_helo_hostname": self._helo_form,
            "reject_non_fqdn_helo_hostname": self._helo_form,
            "reject_maps_rbl": self._old_lists,
            "reject_unverified_recipient": self._unverified,
            "reject_unverified_sender": self._unverified_sender,
            "reject_sender_login_mismatch": self._mismatch,
            "reject_authenticated_sender_login_mismatch": self._mismatch,
            "reject_known_sender_login_mismatch": self._mismatch,
            "reject_unauthenticated_sender_login_mismatch": self._mismatch,
        }

    def read(self, setting: str, *, relay: bool) -> None:
        """Write the rules of one list; `relay`: it says who may send to foreign destinations."""
        self._setting, self._relay = setting, relay
        state = ListState(self._gate, setting)
        words = self._main.words(setting)
        if setting == RELAYING[1] and self._old():
            words = split(OLD)
        for move in self._moves(words, ()):
            if state.done:
                break
            if relay and isinstance(move, Refuse) and move.reply == _DENIED:
                # what no rule accepts is refused
                self._gate.relaying += [each for each in state.permits if each]
                self._gate.doubted += state.doubts
                relay = self._relay = False
                continue
            if relay and isinstance(move, Refuse) and not move.scope and not move.unless:
                self._gate.relaying += [each for each in state.permits if each]
            state.take(move)
        if not self._main.is_given(setting) and not words:
            self._work.report.same(setting, "none")

    def refuses_foreign(self, setting: str) -> bool:
        """Whether the list, as far as it can be told, refuses foreign destinations."""
        words = self._main.words(setting)
        if setting == RELAYING[1] and self._old():
            return True
        return any(word in ENDS for word in words)

    def _old(self) -> bool:
        """A main.cf of Postfix 2, which says nothing of relaying."""
        given = any(self._main.is_given(each) for each in RELAYING)
        return not given and not any(self._main.words(each) for each in RELAYING)

    def _moves(self, words: Sequence[str], scope: Scope) -> list[Move]:
        """All moves of a list, in order."""
        found: list[Move] = []
        at = 0
        while at < len(words):
            word, at = words[at].lower() if ":" not in words[at] else words[at], at + 1
            word, argument = SAME.get(word, word), ""
            if takes_argument(word) and at < len(words):
                argument, at = words[at], at + 1
            if word == "warn_if_reject":
                skipped = words[at : at + 1]
                at += 2 if skipped and takes_argument(skipped[0]) else 1
                self._work.report.lost(
                    self._setting, f"{word}: relayd has no warnings of this kind"
                )
                continue
            braced = argument.startswith("{") and not is_table(argument)  # { name, more }
            if braced and word != "check_policy_service":
                argument = split(argument[1:-1])[0] if argument[1:-1].strip() else ""
            moves = self._one(word, argument, scope)
            found += moves or [self._closed(word, argument, scope)]
        return found

    def _closed(self, word: str, argument: str, scope: Scope) -> Move:
        text = f"{word} {argument}".rstrip()
        what = "asked at RCPT only" if word == "check_policy_service" else "not understood"
        self._work.report.lost(
            self._setting,
            f"{text}: {what}. Whoever reaches it is asked to come later: write what it"
            " stands for as rules, and take out the one with this comment",
        )
        return Closed(scope, f"{text}: {what}")

    def _one(self, word: str, argument: str, scope: Scope) -> Sequence[Move]:
        report, setting = self._work.report, self._setting
        text = f"{word} {argument}".rstrip()
        reader = self._readers.get(word)
        if reader is not None:
            moves = reader(word, scope)
            if moves:
                report.translated(setting, word)
            return moves
        moves = self._asked(word, argument, scope)
        if moves:
            report.translated(setting, text)
            return moves
        if word in ANYWAY:
            report.same(setting, f"{word}: {ANYWAY[word]}")
            return [Passed(scope, word)]
        if word in FILTERS:
            report.lost(setting, f"{text}: {FILTERS[word]}")
            return [Passed(scope, word)]
        if word in PERHAPS:
            condition, why = PERHAPS[word]
            report.lost(
                setting, f"{text}: {why}. What is refused behind it is asked to come later instead"
            )
            return [Doubt((*scope, *([condition] if condition else [])), f"{text}: {why}")]
        if word in self._classes and self._depth < _DEPTH:
            return self._class(word, scope)
        if self._in_entry and (argument or is_table(word)):
            return []  # "do not specify lookup tables inside SMTPD access maps"
        if word.startswith("check_") and word.endswith("_access") and argument:
            return self._access(word, argument, scope)
        if is_table(word):  # an old way to name the list's own access map
            return self._access(f"check_{LISTS[setting]}_access", word, scope)
        return []

    def _asked(self, word: str, argument: str, scope: Scope) -> Sequence[Move]:
        """Words for which others are asked: lists in the DNS, and policy services at RCPT."""
        work = self._work
        if word == "reject_rbl_client":
            name = dns_list(work, argument, "dnsbl")
            return [self._listed_client(scope, name, word)] if name else []
        if word in BY_NAME:
            name = dns_list(work, argument, "dnsbl")
            whose, what = BY_NAME[word]
            reply = f'554 5.7.1 "Service unavailable; {what} blocked by {name}"'
            listed = f"listed {name} by {whose}"
            return [Refuse((*scope, listed), word, (), reply)] if name else []
        if word in ("permit_dnswl_client", "permit_rhswl_client"):
            name = dns_list(work, argument, "dnswl")
            listed = f"listed {name} by rdns" if word == "permit_rhswl_client" else f"listed {name}"
            ours = work.ours() if name else []  # never overrides reject_unauth_destination
            return [Permit((*scope, listed, *each), word) for each in ours]
        if word == "check_policy_service" and self._setting not in _LATER_THAN_RCPT:
            name = policy(work, self._main, argument)
            return [AskedOf(scope, f"{word} {argument}", (), name)] if name else []
        return []

    def _listed_client(self, scope: Scope, name: str, word: str) -> Move:
        reply = f'554 5.7.1 "Service unavailable; client host blocked by {name}"'
        return Refuse((*scope, f"listed {name}"), word, (), reply)

    def _old_lists(self, word: str, scope: Scope) -> Sequence[Move]:
        names = [
            dns_list(self._work, each, "dnsbl") for each in self._main.words("maps_rbl_domains")
        ]
        if not names or not all(names):
            self._work.report.lost(self._setting, f"{word}: {FILTERS[word]}")
            return [Passed(scope, word)]
        self._work.report.translated("maps_rbl_domains", ", ".join(names))
        return [self._listed_client(scope, name, word) for name in names]

    def _nameless(self, word: str, scope: Scope) -> Sequence[Move]:
        code = self._code("unknown_client_reject_code")
        nameless, what = "rdns none", "hostname"
        if word == "reject_unknown_reverse_client_hostname":  # it need not lead back
            nameless, what = "not resolves client", "reverse hostname"
        reply = f'{code} {code[0]}.7.25 "Client host rejected: cannot find your {what}"'
        return [Refuse((*scope, nameless), word, (), reply)]

    def _unknown_domain(self, word: str, scope: Scope) -> Sequence[Move]:
        """Postfix spares the domains whose mail ends with it."""
        code = self._code("unknown_address_reject_code")
        whose = word.split("_")[2]
        status, ours = "1.2", self._work.ours(final=True)
        if whose == "sender":
            status, ours = "1.8", self._work.senders_of_ours(final=True)
        reply = f'{code} {code[0]}.{status} "{whose.title()} address rejected: Domain not found"'
        return [Refuse((*scope, f"not resolves {whose}"), word, tuple(ours), reply)]

    def _unknown_helo(self, word: str, scope: Scope) -> Sequence[Move]:
        code = self._code("unknown_hostname_reject_code")
        reply = f'{code} {code[0]}.7.1 "Helo command rejected: Host not found"'
        return [Refuse((*scope, "not resolves helo"), word, (), reply)]

    def _code(self, name: str) -> str:
        """The setting's, or Postfix's own where it is none."""
        code = self._main[name]
        if self._main.is_given(name):
            self._work.report.translated(name, code)
        return code if re.match(r"[45]\d\d\Z", code) else "450"

    def _unverified(self, word: str, scope: Scope) -> Sequence[Move]:
        known, unclear = known_at(self._work)
        if unclear or not known:
            what = f"{word}: {unclear or 'no next hop is named'}: {FILTERS[word]}"
            self._work.report.lost(self._setting, what)
        code = self._main["unverified_recipient_reject_code"]
        code = code if re.match(r"[45]\d\d\Z", code) else "450"
        reply = f'{code} {code[0]}.1.1 "Recipient address rejected: undeliverable address"'
        if known and self._main.is_given("unverified_recipient_reject_code"):
            self._work.report.translated("unverified_recipient_reject_code", code)
        asked = [Refuse((*scope, *to, f"unknown at {hop}"), word, (), reply) for to, hop in known]
        return asked or [Passed(scope, word)]

    def _unverified_sender(self, word: str, scope: Scope) -> Sequence[Move]:
        """Of what Postfix asks for where a sender's mail would go: that it could go anywhere."""
        self._work.report.lost(self._setting, f"{word}: {FILTERS[word]}")
        if any(self._main[each] for each in _PROBED_ELSEWHERE):
            return [Passed(scope, word)]
        code = self._code("unverified_sender_reject_code")
        reply = f'{code} {code[0]}.1.7 "Sender address rejected: undeliverable address"'
        ours = tuple(self._work.senders_of_ours())
        return [Refuse((*scope, "not resolves sender"), word, ours, reply)]

    def _helo_form(self, word: str, scope: Scope) -> Sequence[Move]:
        expressions = ", ".join(f"regex {string(each)}" for each in HELO_FORMS[word])
        reply = '504 5.5.2 "Helo command rejected: need a fully-qualified hostname"'
        if word == "reject_invalid_helo_hostname":
            reply = '501 5.5.2 "Helo command rejected: invalid name"'
        return [Refuse((*scope, f"helo {expressions}"), word, (), reply)]

    def _class(self, word: str, scope: Scope) -> Sequence[Move]:
        self._depth += 1
        outside, self._in_entry = self._in_entry, False
        try:
            self._main.used.add(word)
            return self._moves(self._main.words(word), scope)
        finally:
            self._depth -= 1
            self._in_entry = outside

    def _access(self, check: str, argument: str, scope: Scope) -> Sequence[Move]:
        spec = MapSpec.parse(argument, self._main["default_database_type"])
        return AccessMap(self._work, self._setting, check, spec).moves(scope, self._listed)

    def _listed(self, text: str, scope: Scope) -> Sequence[Move]:
        """A list of restrictions as an entry of a map names it."""
        self._depth += 1
        outside, self._in_entry = self._in_entry, True
        try:
            if self._depth > _DEPTH:
                return [self._closed("a list in itself", text, scope)]
            words = split(text)
            return self._moves(words, scope) or [self._closed("an entry", text, scope)]
        finally:
            self._depth -= 1
            self._in_entry = outside

    # single words

    def _reject(self, word: str, scope: Scope) -> Sequence[Move]:
        code = "550 5.7.1" if word == "reject" else "450 4.7.1"
        return [Refuse(scope, word, (), f'{code} "Access denied"')]

    def _plaintext(self, word: str, scope: Scope) -> Sequence[Move]:
        return [Refuse((*scope, "not tls"), word, (), '450 4.7.1 "Session encryption is required"')]

    def mynetworks(self, word: str, scope: Scope) -> Sequence[Move]:
        """What permit_mynetworks says."""
        trusted = self._work.trusted
        draft = self._work.draft
        found: list[Move] = [Passed(scope, word)]
        if trusted:
            excepted = trusted.exception(draft)
            tests = [f"not from {excepted}"] if excepted else []
            found = [Permit((*scope, f"from {trusted.operand(draft)}", *tests), word)]
        if trusted.doubt:
            found.append(Doubt(scope, f"{word}: {trusted.doubt}"))
        return found

    def _interfaces(self, word: str, scope: Scope) -> Sequence[Move]:
        work = self._work
        operand = work.draft.list_of("this-host", work.interfaces, "this machine's addresses")
        return [Permit((*scope, f"from {operand}"), word)] if operand else []

    def _login(self, word: str, scope: Scope) -> Sequence[Move]:
        return [Permit((*scope, "login any"), word)]

    def _destination(self, word: str, scope: Scope) -> Sequence[Move]:
        return [Permit((*scope, *each), word) for each in self._work.ours()] or [
            Passed(scope, word)
        ]

    def _unauth(self, word: str, scope: Scope) -> Sequence[Move]:
        code = '450 4.7.1 "Relay access denied"' if word == UNAUTH[1] else _DENIED
        if self._relay and not scope:
            code = _DENIED  # both refuse to relay
        return [Refuse(scope, word, tuple(self._work.ours()), code)]

    def _relay_domains(self, word: str, scope: Scope) -> Sequence[Move]:
        self._work.report.lost(
            self._setting, f"{word}: clients with a name in relay_domains may not relay by it here"
        )
        return self._unauth(word, scope)

    def _bare(self, word: str, scope: Scope) -> Sequence[Move]:
        subject = "sender" if word.endswith("sender") else "to"
        reply = '504 5.5.2 "need fully-qualified address"'
        return [Refuse((*scope, f"{subject} {_BARE}"), word, (), reply)]

    def _unlisted_sender(self, word: str, scope: Scope) -> Sequence[Move]:
        self._work.report.lost(self._setting, f"{word}: relayd does not look senders up")
        why = f"{word}: relayd does not look senders up"
        return [Closed((*scope, *each), why) for each in self._work.senders_of_ours()] or [
            Passed(scope, word)
        ]

    def _mismatch(self, word: str, scope: Scope) -> Sequence[Move]:
        return self._own.moves(self._setting, word, scope)
