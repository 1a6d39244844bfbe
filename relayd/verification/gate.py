"""What Postfix's smtpd(8) answers to RCPT: restrictions, access maps, unknown recipients."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relayd.migrate.admission import ALWAYS_LOCAL
from relayd.migrate.maincf import split
from relayd.migrate.postscreen import SCREEN_ACTS
from relayd.migrate.restrictionwords import (
    ANYWAY,
    FILTERS,
    HELO_FORMS,
    LISTS,
    PERHAPS,
    RECORDS,
    SAME,
    UNAUTH,
    takes_argument,
)
from relayd.migrate.tables import MapSpec, is_table
from relayd.rules.language.regex import search
from relayd.rules.senderroute import has_route
from relayd.verification.lookups import Lookups, Unsure, Values, parents_of

_SEEN = {
    "check_client_access": "client",
    "check_helo_access": "helo",
    "check_sender_access": "sender",
    "check_recipient_access": "recipient",
    "check_sasl_access": "login",
}
_ELSEWHERE = ("FILTER", "REDIRECT", "BCC")
_MISMATCH = re.compile(r"reject_(|authenticated_|unauthenticated_|known_)sender_login_mismatch\Z")


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Who asks for what."""

    address: str  # the one it is about
    sender: str
    recipient: str
    client: str
    inside: bool = False
    helo: str = "client.invalid"
    name: str = "client.invalid"  # the client's own, confirmed; empty: it has none
    login: str = ""
    listener: str = ""  # as relayd has it
    service: str = ""  # as master.cf has it: submission/inet

    @property
    def tls(self) -> bool:
        """Logins are taken under TLS only."""
        return bool(self.login)


@dataclass
class GateAnswer:
    """A refusal with its class of reply, or none."""

    refused: int = 0  # 4 or 5; 0: accepted
    relaying: bool = False  # because the destination is none of ours
    discarded: bool = False
    elsewhere: str = ""  # taken, but its mail goes where an access map says
    unsure: str = ""  # why it cannot be told
    deferring: bool = False  # a refusal behind is not for good


@dataclass
class _State:
    """One RCPT on its way through the lists."""

    asked: Inquiry
    ours: bool
    answer: GateAnswer = field(default_factory=GateAnswer)
    depth: int = 0
    in_entry: bool = False  # of a map, where smtpd(8) opens no tables


class Smtpd:
    """smtpd(8). Methods raise postmap.Missing."""

    def __init__(self, lookups: Lookups) -> None:
        self._look = lookups

    def judge(self, asked: Inquiry) -> GateAnswer:
        """What RCPT hears."""
        answer = self._judged(asked)
        soft = self._look.of_service(asked.service).yes("soft_bounce") or answer.deferring
        if answer.refused and soft:
            answer.refused = 4
        return answer

    def _judged(self, asked: Inquiry) -> GateAnswer:
        main = self._look.of_service(asked.service)
        state = _State(asked, False)
        answer = state.answer
        try:
            ours = self._look.class_of(asked.recipient.rpartition("@")[2])
            # nobody relays by a route in a local part: user%host@ours, host!user@ours
            state.ours = bool(ours) and not has_route(asked.recipient.rpartition("@")[0])
            if self._screened(asked, main):
                answer.refused = 5
                return answer
            if main["smtpd_tls_security_level"] == "encrypt" and not asked.tls:
                answer.refused = 5
                return answer
            for setting in LISTS:
                self._list(state, main.words(setting), setting)
                if answer.refused:
                    return answer
            for name in ("content_filter", "smtpd_proxy_filter"):
                if main[name]:
                    answer.elsewhere = f"{name} = {main[name]}"
            listed = not main.yes("smtpd_reject_unlisted_recipient")
            if not listed and not self._known(asked.recipient, ours):
                answer.refused = 5
        except Unsure as why:
            answer.unsure = str(why)
            return answer
        return answer

    def _screened(self, asked: Inquiry, main: Values) -> bool:
        """Whether postscreen(8) has the client on its list."""
        found = (each for each in self._look.work.services if each.title == asked.service)
        service = next(found, None)
        screens = service is not None and service.command == "postscreen"
        if not screens or main["postscreen_denylist_action"] not in SCREEN_ACTS:
            return False
        for word in main.words("postscreen_access_list"):
            if word == "permit_mynetworks":
                value = "permit" if self._trusted(asked) else ""
            else:
                value = self._look.search([MapSpec.parse(word)], asked.client, full=True) or ""
            if value.lower() in ("permit", "reject"):
                return value.lower() == "reject"
        return False

    def _list(self, state: _State, words: Sequence[str], setting: str) -> bool:
        """Whether it ends with a word; the answer is in the state."""
        at = 0
        while at < len(words):
            word, at = words[at], at + 1
            lower = word.lower() if ":" not in word else word
            argument = ""
            if takes_argument(lower) and at < len(words):
                argument, at = words[at], at + 1
            if lower == "warn_if_reject":
                at += 2 if at < len(words) and takes_argument(words[at]) else 1
                continue
            if is_table(lower):
                lower, argument = f"check_{LISTS[setting]}_access", lower
            if self._one(state, lower, argument, setting):
                return True
        return False

    def _one(self, state: _State, word: str, argument: str, setting: str) -> bool:
        asked, answer, main = state.asked, state.answer, self._look.of_service(state.asked.service)
        if word in ("permit", "reject", "defer", "defer_if_permit"):
            if word != "permit":
                answer.refused = 5 if word == "reject" else 4
            return True
        if word in ("permit_mynetworks", "permit_inet_interfaces"):
            if word == "permit_inet_interfaces" and asked.client not in self._look.work.interfaces:
                return False
            return self._trusted(asked) if word == "permit_mynetworks" else True
        if word == "permit_sasl_authenticated":
            return bool(asked.login)
        if word == "permit_auth_destination":
            return state.ours
        if word in UNAUTH:
            if not state.ours:
                answer.refused, answer.relaying = (4 if word == UNAUTH[1] else 5), True
            return not state.ours
        if word in ("reject_non_fqdn_sender", "reject_non_fqdn_recipient"):
            text = asked.sender if word.endswith("sender") else asked.recipient
            if text and "." not in text.rpartition("@")[2]:
                answer.refused = 5
            return bool(answer.refused)
        if word == "reject_plaintext_session":
            answer.refused = 0 if asked.tls else 4
            return not asked.tls
        if _MISMATCH.match(word):
            return self._mismatch(state, word)
        if word in main.words("smtpd_restriction_classes"):
            return self._inner(state, main.words(word), setting, entry=False)
        if argument and state.in_entry:
            raise Unsure(f"{setting}: an entry with the table {argument}")
        if word in _SEEN and argument:
            action = self._access(
                MapSpec.parse(argument, main["default_database_type"]), word, asked
            )
            return self._act(state, action, setting)
        word = SAME.get(word, word)
        if word == "reject_unknown_client_hostname":
            code = main["unknown_client_reject_code"]
            answer.refused = 0 if asked.name else int(code[:1] or 4)
            return not asked.name
        if word in RECORDS:
            return False  # who is asked about has records
        if word in HELO_FORMS:
            bad = any(search(each, asked.helo.lower()) for each in HELO_FORMS[word])
            answer.refused = 5 if bad else answer.refused
            return bad
        if word == "check_policy_service":
            return False  # which has nothing against it
        if word in FILTERS or word in ANYWAY or word in PERHAPS:
            return False  # nobody here has a certificate, or stands in a list in the DNS
        raise Unsure(f"{setting}: {word} {argument}".rstrip())

    def _trusted(self, asked: Inquiry) -> bool:
        main = self._look.of_service(asked.service)
        if asked.service and main["mynetworks"] != self._look.main["mynetworks"]:
            names = self._look.work.reader.networks("mynetworks", "x", main.words("mynetworks"))
            address = ipaddress.ip_address(asked.client)
            return any(
                address in network
                for network in map(ipaddress.ip_network, names.entries)
                if network.version == address.version
            )
        return asked.inside

    def _mismatch(self, state: _State, word: str) -> bool:
        asked, kind = state.asked, word.removeprefix("reject_")
        if not asked.sender or not self._look.of_service(asked.service).yes(
            "smtpd_sasl_auth_enable"
        ):
            return False
        found = self._look.find("smtpd_sender_login_maps", asked.sender)
        owners = [] if found is None else [each.lower() for each in split(found[0])]
        bad = False
        if asked.login and not kind.startswith("unauthenticated"):
            known = kind.startswith("known")
            bad = asked.login.lower() not in owners and (bool(owners) or not known)
        elif not asked.login and kind.startswith(("sender", "unauthenticated")):
            bad = bool(owners)
        state.answer.refused = 5 if bad else state.answer.refused
        return bad

    def _act(self, state: _State, action: str, setting: str) -> bool:
        """Whether an access map's answer ends the list."""
        answer = state.answer
        word, _, text = action.partition(" ")
        upper = word.upper()
        if not action or upper in ("DUNNO", "INFO", "WARN", "PREPEND", "HOLD"):
            return False
        if upper in _ELSEWHERE:
            answer.elsewhere = action
            return False
        if upper in ("OK", "RELAY") or (word.isdigit() and not re.match(r"[45]\d\d\Z", word)):
            return True
        if upper == "DISCARD":
            answer.discarded = True
            return True
        status = re.match(r"([45])\.\d+\.\d+", text.strip())
        if upper == "REJECT" or re.match(r"5\d\d\Z", word):
            answer.refused = int(status.group(1)) if status else 5
            return True
        if upper in ("DEFER", "DEFER_IF_PERMIT") or re.match(r"4\d\d\Z", word):
            answer.refused = int(status.group(1)) if status else 4
            return True
        if upper == "DEFER_IF_REJECT":
            answer.deferring = True
            return False
        return self._inner(state, split(action), setting, entry=True)

    def _inner(self, state: _State, words: Sequence[str], setting: str, *, entry: bool) -> bool:
        """A list in a list: a class, or what an entry names."""
        if state.depth > 20:
            raise Unsure(f"{setting}: {' '.join(words)}")
        outside, state.in_entry = state.in_entry, entry
        state.depth += 1
        ended = self._list(state, words, setting)
        state.depth -= 1
        state.in_entry = outside
        return ended

    def _access(self, spec: MapSpec, check: str, asked: Inquiry) -> str:
        """access(5): what a map says, from the most exact key to the least."""
        subject = str(getattr(asked, _SEEN[check]))
        parents = "smtpd_access_maps" in self._look.main.words("parent_domain_matches_subdomains")
        kind = _SEEN[check]
        if kind == "client":
            name = asked.name.lower() or "unknown"
            keys = [(name, True), *((key, False) for key in parents_of(name, parents))]
            keys += [(subject, True), *((key, False) for key in _nets(subject))]
        elif kind == "helo":
            name = subject.lower()
            keys = [(name, True), *((key, False) for key in parents_of(name, parents))]
        elif kind == "login":
            keys = [(subject, True)] if subject else []
        else:
            keys = list(self._mailbox(subject, parents))
        for key, full in keys:
            found = self._look.search([spec], key, full=full)
            if found is not None:
                return found
        return ""

    def _mailbox(self, address: str, parents: bool) -> Iterator[tuple[str, bool]]:
        """The address, its domain and its parents, its local part."""
        if not address:
            yield self._look.main["smtpd_null_access_lookup_key"], True
            return
        bare, _ = self._look.stripped(address)
        local, _, domain = address.rpartition("@")
        yield address, True
        keys = [bare, domain.lower(), *parents_of(domain.lower(), parents), f"{local}@"]
        keys += [bare.rpartition("@")[0] + "@"] if bare else []
        yield from ((key, False) for key in keys if key)

    def _known(self, recipient: str, ours: str) -> bool:
        for setting in ("recipient_canonical_maps", "canonical_maps", "virtual_alias_maps"):
            if self._look.find(setting, recipient) is not None:
                return True
        if ours == "virtual":
            return False
        setting = {
            "local": "local_recipient_maps",
            "mailbox": "virtual_mailbox_maps",
            "relay": "relay_recipient_maps",
        }.get(ours, "")
        if not setting or not self._look.main[setting]:
            return True
        if ours != "local":
            return self._look.find(setting, recipient) is not None
        local = recipient.rpartition("@")[0]
        if local.lower() in ALWAYS_LOCAL:
            return True
        aliases = self._look.main["alias_maps"]
        for spec in self._look.main.maps(setting):
            for key in (
                recipient,
                self._look.stripped(recipient)[0],
                local,
                self._look.stripped(recipient)[0].rpartition("@")[0],
            ):
                if key and self._look.ask(spec, key, aliases=str(spec) in aliases) is not None:
                    return True
        return False


def _nets(address: str) -> Iterator[str]:
    """`192.0.2`, `192.0` and `192`; `2001:db8:1` and so on."""
    mark = ":" if ":" in address else "."
    while mark in address:
        address = address.rpartition(mark)[0]
        if address.strip(mark):
            yield address
