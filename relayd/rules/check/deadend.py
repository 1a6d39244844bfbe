"""Forwards to where we ourselves would refuse the mail: allowed, but hardly meant."""

from __future__ import annotations

from collections.abc import Iterator

from relayd.mail.address import Mailbox
from relayd.mail.client import Client
from relayd.rules.language.model import Forward
from relayd.rules.language.pattern import Domain, Exact, Final, MailboxPattern, Replacement
from relayd.rules.language.source import Problem
from relayd.rules.ruleset import Ruleset
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Unknown
from relayd.rules.view import View

_NOBODY = Client("192.0.2.1")


def dead_ends(ruleset: Ruleset) -> list[Problem]:
    """A warning for each target in a `forward` statement that a `reject to` speaks of."""
    return [
        Problem(
            entry.rule.place,
            f"this forwards to {target}, which is refused here, at {place}",
            "expected a target that we would take mail for, or none of ours",
        )
        for entry in ruleset.forward.entries
        for target in entry.rule.targets
        if (place := _refused_at(ruleset, entry.rule, target))
    ]


def _refused_at(ruleset: Ruleset, rule: Forward, target: Replacement | Final) -> str:
    """Where the target is refused, whoever the client may be; empty if nowhere."""
    for mailbox in _mailboxes(rule.patterns, target):
        view = View(_NOBODY, None, Subject(mailbox, ruleset.subaddress))
        for entry in ruleset.admission.candidates(view):
            if not all(condition.recipients for condition in entry.rule.tests):
                continue  # it may say otherwise for another client or sender
            try:
                if not entry.holds(view):
                    continue
            except Unknown:
                break
            if entry.rule.verb in ("reject", "defer"):
                return str(entry.rule.place)
            break
    return ""


def _mailboxes(
    patterns: tuple[MailboxPattern, ...], target: Replacement | Final
) -> Iterator[Mailbox]:
    """What the target stands for; a whole domain by a mailbox that has no rule of its own."""
    if isinstance(target, Exact | Final):
        yield target.mailbox
    elif isinstance(target, Domain):
        locals_ = [each.mailbox.local for each in patterns if isinstance(each, Exact)]
        yield Mailbox(locals_[0] if locals_ else "no-such-mailbox", target.domain)
