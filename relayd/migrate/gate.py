"""What Postfix's smtpd(8) answers to RCPT: restrictions, access maps, unknown recipients."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from relayd.migrate.lookups import Lookups, parents_of
from relayd.migrate.tables import MapSpec

_UNAUTH = ("reject_unauth_destination", "defer_unauth_destination")


@dataclass
class GateAnswer:
    """A refusal with its class of reply, or none."""

    refused: int = 0  # 4 or 5; 0: accepted
    relaying: bool = False  # because the destination is none of ours
    discarded: bool = False


class Gate:
    """smtpd(8). Methods raise postmap.Missing."""

    def __init__(self, lookups: Lookups) -> None:
        self._look = lookups

    def judge(self, sender: str, recipient: str, *, inside: bool) -> GateAnswer:
        """What RCPT hears."""
        fate = GateAnswer()
        domain = recipient.rpartition("@")[2]
        ours = self._look.class_of(domain)
        for setting in (
            "smtpd_client_restrictions",
            "smtpd_helo_restrictions",
            "smtpd_sender_restrictions",
            "smtpd_relay_restrictions",
            "smtpd_recipient_restrictions",
        ):
            words = self._look.main.words(setting)
            self._restrictions(fate, words, sender, recipient, inside, bool(ours))
            if fate.refused or fate.discarded:
                return fate
        unlisted = self._look.main.yes("smtpd_reject_unlisted_recipient")
        if unlisted and not self._known(recipient, ours):
            fate.refused = 5
        return fate

    def _restrictions(
        self,
        fate: GateAnswer,
        words: Sequence[str],
        sender: str,
        recipient: str,
        inside: bool,
        ours: bool,
    ) -> None:
        at = 0
        while at < len(words):
            word, at = words[at], at + 1
            if (
                word == "permit"
                or (word == "permit_mynetworks" and inside)
                or (word == "permit_auth_destination" and ours)
            ):
                return
            if word == "warn_if_reject":
                at += 1
            elif word in ("reject", "defer"):
                fate.refused = 5 if word == "reject" else 4
                return
            elif word in _UNAUTH and not ours:
                fate.refused, fate.relaying = (5 if word == _UNAUTH[0] else 4), True
                return
            elif word in ("check_sender_access", "check_recipient_access") and at < len(words):
                address = sender if word == "check_sender_access" else recipient
                action = self._access(MapSpec.parse(words[at]), address)
                at += 1
                if self._act(fate, action):
                    return
            elif word.startswith(("check_", "reject_rbl", "reject_rhsbl", "permit_dnswl")):
                at += 1

    def _act(self, fate: GateAnswer, action: str) -> bool:
        """Whether an access map's answer ends the list."""
        word = action.split(None, 1)[0].upper() if action else "DUNNO"
        if word == "OK" or word == "PERMIT" or (word.isdigit() and word[0] not in "45"):
            return True
        if word == "DISCARD":
            fate.discarded = True
        elif word == "REJECT" or word.startswith("5"):
            fate.refused = 4 if re.match(r"\S+\s+4\.\d+\.\d+", action) else 5
        elif word.startswith(("4", "DEFER")):
            fate.refused = 4
        return bool(fate.refused or fate.discarded)

    def _access(self, spec: MapSpec, address: str) -> str:
        """access(5): the address, its domain and its parents, its local part."""
        if not address:
            return self._look.search([spec], "<>", full=True) or ""
        bare, _ = self._look.stripped(address)
        local, _, domain = address.rpartition("@")
        parents = "smtpd_access_maps" in self._look.main.words("parent_domain_matches_subdomains")
        keys = [bare, domain.lower(), *parents_of(domain.lower(), parents), f"{local}@"]
        keys += [bare.rpartition("@")[0] + "@"] if bare else []
        found = self._look.search([spec], address, full=True)
        for key in keys:
            if found is None and key:
                found = self._look.search([spec], key, full=False)
        return found or ""

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
        self._look.touched.add(f"unlisted:{setting}")
        if ours != "local":
            return self._look.find(setting, recipient) is not None
        local = recipient.rpartition("@")[0]
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
