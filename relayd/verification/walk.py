"""What Postfix would do with a recipient, lookup by lookup, each one answered by postmap.

The order is that of its programs: smtpd's restrictions, cleanup's canonical and virtual maps,
trivial-rewrite's address classes and transport map, local's aliases (ADDRESS_REWRITING_README,
ADDRESS_CLASS_README, canonical(5), virtual(5), transport(5), access(5), aliases(5)).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from relayd.mail.nexthop import LMTP, SMTP
from relayd.migrate.follow import Masquerade
from relayd.migrate.mailboxes import ListError, addresses, items
from relayd.migrate.nexthops import hosts_of, port_of, program_of
from relayd.migrate.work import Work
from relayd.verification.gate import GateAnswer, Inquiry, Smtpd
from relayd.verification.lookups import Lookups, Unsure, parents_of
from relayd.verification.postmap import Answers

MAX_CANONICAL = 10  # rounds, as cleanup(8) has them
MAX_VIRTUAL = 1000  # addresses, virtual_alias_expansion_limit
_Goal = tuple[str, str, str]  # final recipient, how it goes there, reverse-path


@dataclass
class RecipientFate:
    """What becomes of a recipient: what RCPT hears, and where its mail goes."""

    answer: GateAnswer
    touched: set[str]  # marks, as Report.named has them
    goals: dict[str, str] = field(default_factory=dict)  # final recipient -> how it goes there
    senders: set[str] = field(default_factory=set)


class Walk:
    """Postfix's way for one configuration. Methods raise postmap.Missing."""

    def __init__(self, work: Work, answers: Answers) -> None:
        self._look = Lookups(work, answers)
        self._gate = Smtpd(self._look)

    def fate(self, asked: Inquiry) -> RecipientFate:
        """The whole way of one recipient."""
        touched: set[str] = set()
        self._look.touched = touched
        if self._look.stripped(asked.sender)[1]:
            touched.add("sender-extension")
        answer = self._gate.judge(asked)
        fate = RecipientFate(answer, touched)
        if answer.refused or answer.discarded or answer.unsure or answer.elsewhere:
            return fate
        try:
            sender = self._canonical(asked.sender, "sender") if asked.sender else ""
            address = self._canonical(asked.recipient, "recipient")
            for final in self._virtual(address):
                for goal, how, path in self._resolve(final, sender):
                    fate.goals[goal.lower()] = how
                    fate.senders.add(path.lower())
        except Unsure as why:
            answer.unsure = str(why)
        return fate

    # cleanup(8)

    def _canonical(self, address: str, kind: str) -> str:
        for setting, name in (
            (f"{kind}_canonical_maps", f"{kind}_canonical"),
            ("canonical_maps", "canonical"),
        ):
            if f"envelope_{kind}" not in self._look.main.words(f"{name}_classes"):
                continue
            for _ in range(MAX_CANONICAL):
                found = self._look.map(setting, address)
                if not found or found[0].lower() == address.lower():
                    break
                address = found[0]
        if f"envelope_{kind}" in self._look.main.words("masquerade_classes"):
            domains = tuple(word.lower() for word in self._look.main.words("masquerade_domains"))
            spared = tuple(word.lower() for word in self._look.main.words("masquerade_exceptions"))
            address = Masquerade(domains, spared).address(address)
        return address

    def _virtual(self, address: str) -> list[str]:
        """Every address expands once into itself, as in cleanup(8)."""
        pending, final = [address], []
        done: set[str] = set()
        while pending and len(done) < MAX_VIRTUAL:
            each = pending.pop(0)
            if each.lower() in done:
                continue
            found = self._look.map("virtual_alias_maps", each)
            if found is None:
                final.append(each)
                continue
            done.add(each.lower())
            if each.lower() in map(str.lower, found):
                final.append(each)
            pending += [one for one in found if one.lower() != each.lower()]
        return list(dict.fromkeys(final))

    # trivial-rewrite(8) and local(8)

    def _resolve(self, address: str, sender: str, depth: int = 0) -> Iterator[_Goal]:
        domain = address.rpartition("@")[2]
        ours = self._look.class_of(domain)
        self._look.touched |= {f"class:{ours}"} if ours in ("virtual", "mailbox") else set()
        moved = self._look.find("relocated_maps", address)
        if moved is not None:
            yield address, "error", sender
            return
        if ours == "virtual":
            yield address, "error", sender
            return
        transport, nexthop = self._way(ours, domain, sender)
        found = self._transport(address)
        if found is not None:
            name, _, host = found.partition(":")
            if name:
                transport, nexthop = name, host or domain
            else:
                nexthop = host or nexthop
        program = program_of(self._look.work.services, transport)
        if program == "local":
            yield from self._local(address, sender, depth)
            return
        yield address, _how(self._look.main["queue_directory"], transport, program, nexthop), sender

    def _way(self, ours: str, domain: str, sender: str) -> tuple[str, str]:
        """The transport and next hop of a class, before the transport map."""
        setting = {
            "local": "local_transport",
            "mailbox": "virtual_transport",
            "relay": "relay_transport",
        }.get(ours, "default_transport")
        value = self._look.main[setting]
        self._look.touched.add(f"setting:{setting}")
        key = sender or "<>"
        if ours == "":
            dependent = self._look.find("sender_dependent_default_transport_maps", key)
            if dependent is not None and dependent[0].upper() != "DUNNO":
                value = dependent[0]
        transport, _, nexthop = value.partition(":")
        if nexthop or ours in ("local", "mailbox"):
            return transport, nexthop or domain
        dependent = self._look.find("sender_dependent_relayhost_maps", key)
        if dependent is not None and dependent[0].upper() != "DUNNO":
            return transport, dependent[0]
        return transport, self._look.main["relayhost"] or domain

    def _transport(self, address: str) -> str | None:
        specs = self._look.main.maps("transport_maps")
        if not specs:
            return None
        domain = address.rpartition("@")[2].lower()
        parents = "transport_maps" in self._look.main.words("parent_domain_matches_subdomains")
        keys = [(address, True), (self._look.stripped(address)[0], False), (domain, False)]
        keys += [(key, False) for key in parents_of(domain, parents)]
        keys.append(("*", True))
        self._look.answers.expect(specs, keys)
        for key, full in keys:
            if key:
                value = self._look.search(specs, key, full=full)
                if value is not None:
                    return value
        return None

    def _local(self, address: str, sender: str, depth: int) -> Iterator[_Goal]:
        """local(8): the alias, and then mailbox_transport, or a mailbox of this machine."""
        local, _, domain = address.rpartition("@")
        specs = self._look.main.maps("alias_maps")
        bare = self._look.stripped(address)[0].rpartition("@")[0]
        value = self._look.search(specs, local.lower(), full=True, aliases=True)
        if value is None and bare:
            value = self._look.search(specs, bare.lower(), full=True, aliases=True)
            if value is not None:
                self._look.touched.add("alias-extension")
        if value is None or depth > 50:
            yield from self._stored(address, sender)
            return
        owner = f"owner-{(bare or local).lower()}"
        special = self._look.main.yes("owner_request_special")
        if special and self._look.search(specs, owner, full=True, aliases=True) is not None:
            sender = self._look.work.complete(owner)
            self._look.touched |= {"owner"} if domain.lower() != self._look.origin else set()
        for item in items(value):
            bare_item = item.strip('"').removeprefix("\\")
            if bare_item.startswith(":include:"):
                yield from self._included(bare_item, address, bare, sender, depth)
                continue
            if bare_item.startswith(("|", "/", ":include:")):
                yield f"{bare_item}@{domain}", "local", sender
                continue
            try:
                words = addresses(item.removeprefix("\\"))
            except ListError as error:
                raise Unsure(f"alias_maps: {error}") from None
            yield from self._aliased(words, address, bare, sender, depth)

    def _included(
        self, item: str, address: str, bare: str, sender: str, depth: int
    ) -> Iterator[_Goal]:
        """The members of a list, a line each; what else stands in it cannot be told."""
        for line in self._look.work.shelf.texts(item.removeprefix(":include:").strip()):
            for each in items(line):
                try:
                    words = addresses(each)
                except ListError as error:
                    raise Unsure(f"{item}: {error}") from None
                yield from self._aliased(words, address, bare, sender, depth)

    def _aliased(
        self, words: Sequence[str], address: str, bare: str, sender: str, depth: int
    ) -> Iterator[_Goal]:
        """The addresses of one item of an alias."""
        domain = address.rpartition("@")[2]
        for word in words:
            target = self._look.work.complete(word)
            if target.lower() in (address.lower(), f"{bare}@{domain}".lower()):
                yield from self._stored(target, sender)
            elif self._look.is_local(target.rpartition("@")[2]):
                yield from self._resolve(target, sender, depth + 1)
            else:
                for final in self._virtual(target):
                    yield from self._resolve(final, sender, depth + 1)

    def _stored(self, address: str, sender: str) -> Iterator[_Goal]:
        for setting in ("mailbox_transport_maps", "fallback_transport_maps", "luser_relay"):
            if self._look.main[setting]:
                raise Unsure(setting)
        for setting in ("mailbox_transport", "fallback_transport"):
            if setting == "fallback_transport" and self._look.main[setting]:
                raise Unsure(setting)
            transport, _, nexthop = self._look.main[setting].partition(":")
            program = program_of(self._look.work.services, transport) if transport else "local"
            if program != "local":
                yield (
                    address,
                    _how(self._look.main["queue_directory"], transport, program, nexthop),
                    sender,
                )
                return
        self._look.touched.add("class:local")
        yield address, "local", sender


def _how(queue: str, transport: str, program: str, nexthop: str) -> str:
    """A next hop as both sides write it for comparison."""
    if transport in ("error", "retry", "discard"):
        return "retry" if transport == "error" and re.match(r"4\.\d", nexthop) else transport
    if program == LMTP and nexthop.startswith("unix:"):
        path = nexthop.removeprefix("unix:")
        return f"lmtp unix:{path if path.startswith('/') else f'{queue}/{path}'}"
    found = hosts_of(nexthop.removeprefix("inet:")) if program in (SMTP, LMTP) else ""
    if isinstance(found, str):
        return f"{transport}:{nexthop}"
    if program == LMTP:
        named = nexthop.rpartition(":")[2]
        port = port_of(named) or 24
        return "lmtp " + ",".join(
            f"{host.host.lower()}:{port}" for each in found for host in each.hosts
        )
    return "smtp " + ",".join(
        f"{'mx:' if each.mx else ''}{host.host.lower()}:{host.port}"
        for each in found
        for host in each.hosts
    )
