"""What rules look at about a recipient: what we count and remember ourselves, and next hops say.

It is asked for where a rule is about to decide by it, and nowhere else: so a limit counts, and a
first sight is one, only of what such a rule is about.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from relayd.intake.counting import FOLDER, Everywhere, Limits, Tally, key_of
from relayd.mail.address import Mailbox, ReversePath, path_text
from relayd.mail.client import Client
from relayd.mail.nexthop import NextHop
from relayd.mail.plan import Verdict
from relayd.rules.conditions.senderpolicy import SENDER_POLICY
from relayd.rules.evaluate import Facts, evaluate
from relayd.rules.fact import Fact
from relayd.rules.language.model import LimitDef
from relayd.rules.language.words import seconds_of
from relayd.rules.ruleset import Ruleset
from relayd.rules.view import Unasked
from relayd.shared.firstsights import FirstSights

SIGHTS = "greylist"  # a folder below the spool
_SECOND_LEVEL = re.compile(r"[a-z]{2,3}\.[a-z]{2}\Z")  # co.uk, com.au, ...


class Mailboxes(Protocol):
    """Who asks next hops whether they know mailboxes; relayd.relay.recipientprobe is the one."""

    def exists(self, hop: NextHop, mailbox: Mailbox) -> Coroutine[Any, Any, bool | None]:
        """None: it does not say."""


class RecipientFacts:
    """Answers for all sessions of a process. What it raises is trouble of our own: OSError.

    Or AddressError: an address that nobody can be counted by.
    """

    def __init__(
        self,
        spool: Path,
        clock: Callable[[], float],
        mailboxes: Mailboxes | None = None,
    ) -> None:
        """`mailboxes`: without, no mailbox is known to exist or not to."""
        self.limits = Limits(spool / FOLDER, clock)
        self._folder = spool / SIGHTS
        self._sights: FirstSights | None = None
        self._clock = clock  # seconds since the epoch
        self._mailboxes = mailboxes

    def ask(self, ruleset: Ruleset, fact: Fact, facts: Facts, tally: Tally | None) -> object:
        """Its value, a coroutine that will have it, or None: nobody can say.

        Without a tally it is only a question: nothing is counted, and nobody is noted.
        """
        match fact.spelled:
            case "over":
                return self._over(ruleset.limits[fact.of], facts, tally)
            case "first-seen":
                sights = self._first_sights()
                errand = _errand(fact, facts, self._clock())
                if tally is None:
                    return sights.seems_new(*errand)
                everywhere = self.limits.everywhere
                if everywhere is None:
                    return sights.new(*errand)
                return self._new_everywhere(everywhere, sights, *errand)
            case _:
                return self._unknown(ruleset, fact, facts)

    async def _new_everywhere(
        self,
        everywhere: Everywhere,
        sights: FirstSights,
        client: str,
        errand: str,
        now: float,
        patience: float,
    ) -> bool:
        if sights.knows(client, now):
            return False
        new = await everywhere.meet(client, errand, patience)
        here = sights.new(client, errand, now, patience)
        if new is False:
            sights.know(client, now)
        return here if new is None else new

    def _over(self, limit: LimitDef, facts: Facts, tally: Tally | None) -> object:
        key = key_of(limit.per, facts.client, facts.sender, facts.recipient)
        if not key:
            return False
        if tally is None:
            return self.limits.over(limit, key)
        return tally.over(self.limits, limit, key)

    def _first_sights(self) -> FirstSights:
        if self._sights is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._sights = FirstSights(self._folder)
        return self._sights

    def _unknown(self, ruleset: Ruleset, fact: Fact, facts: Facts) -> object:
        hop = ruleset.next_hops.get(fact.of)
        if self._mailboxes is None or hop is None:
            return None
        mailbox = Mailbox.parse(fact.about)
        if not facts.recipient.domain or not would_be_taken(ruleset, fact, facts):
            return False  # nobody asks for what is refused in any case, such as others' domains
        return self._asked(self._mailboxes, hop, mailbox)

    async def _asked(self, mailboxes: Mailboxes, hop: NextHop, mailbox: Mailbox) -> bool | None:
        exists = await mailboxes.exists(hop, mailbox)
        return None if exists is None else not exists


def would_be_taken(ruleset: Ruleset, fact: Fact, facts: Facts) -> bool:
    """Whether a recipient is taken if the next hop knows the mailbox."""
    known = {**(facts.gathered or {}), fact: False}
    try:
        return evaluate(ruleset, replace(facts, gathered=known)).verdict is not Verdict.REFUSE
    except Unasked:
        return True


def _errand(fact: Fact, facts: Facts, now: float) -> tuple[str, str, float, float]:
    """What first sights are asked."""
    policy = (facts.gathered or {}).get(SENDER_POLICY)
    sender = path_text(facts.sender) if facts.sender is None else facts.sender.key
    errand = f"<{sender}> <{facts.recipient.key}>"
    return who(facts.client, facts.sender, policy), errand, now, seconds_of(fact.of) or 0.0


def who(client: Client, sender: ReversePath, policy: object) -> str:
    """As whom a client is remembered: by what vouches for a domain, or else by its network.

    What SPF lets send for a domain is that domain, from however many addresses it tries. So is
    what has a confirmed name, by the domain that the name is in, unless its address stands in the
    name: that is a line of somebody's, and not his mail server.
    """
    if policy == "pass":
        domain = client.helo.lower() if sender is None else sender.domain_key
        if domain:
            return f"@{domain}"
    if client.rdns and not _tells_address(client.rdns, client.address):
        return f".{_domain_of(client.rdns)}"
    return _network(client.address)


def _domain_of(name: str) -> str:
    """The domain that a host's name is in; no public suffix, as far as one can tell."""
    parent = name.partition(".")[2]
    return name if "." not in parent or _SECOND_LEVEL.match(parent) else parent


def _tells_address(name: str, address: str) -> bool:
    host = _host(address)
    if host.version == 6:
        digits = host.exploded.replace(":", "")
        return digits[16:] in name.replace("-", "").replace(".", "")
    octets = str(host).split(".")
    numbers = [part.lstrip("0") or "0" for part in re.findall(r"\d+", name)]
    spelled = f"{int(host):08x}" in name
    return spelled or any(
        numbers[at : at + 4] in (octets, octets[::-1]) for at in range(len(numbers) - 3)
    )


def _network(address: str) -> str:
    """The /24 or the /64."""
    host = _host(address)
    return str(ipaddress.ip_network((host, 24 if host.version == 4 else 64), strict=False))


def _host(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    host = ipaddress.ip_address(address.partition("%")[0])
    return host if host.version == 4 else host.ipv4_mapped or host
