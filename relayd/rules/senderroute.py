"""Routes that a sender writes into a local part: `x%other.example@ours`, `other.example!x@ours`.

A server behind us that still reads them (Postfix does by default) would pass such mail on, for it
trusts us. So a rule that opens whole domains to strangers does not open them to these local
parts. A mailbox that is named as it stands is a mailbox like any other.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from relayd.rules.conditions.condition import Condition
from relayd.rules.language.model import AdmissionRule
from relayd.rules.language.pattern import Exact, InTable, LocalPart
from relayd.rules.subject import Subject
from relayd.rules.tables.table import Table
from relayd.rules.view import View

# the percent hack of RFC 1123 section 5.2.16, UUCP's `!` (RFC 976), and an @ in quotes
_ROUTE = re.compile("[%!@]")


has_route = _ROUTE.search
"""Whether some server might read another address in this local part."""


def names_route(rule: AdmissionRule) -> bool:
    """Whether the rule is about a mailbox with a route in it, which rules for domains leave it."""
    return any(
        (isinstance(one, Exact) and has_route(one.mailbox.local))
        or (isinstance(one, LocalPart) and has_route(one.local))
        for each in rule.tests
        for one in each.recipients
    )


def takes_route(rule: AdmissionRule, view: View, tables: Mapping[str, Table]) -> bool:
    """Whether an `accept` rule that holds takes a recipient whose local part has a route in it.

    It does for trusted clients, if it is this rule that names them; where it lets mail go
    everywhere, so that nobody needs a trick; and where it names this very mailbox.
    """
    about = [each for each in rule.tests if each.recipients]
    return (
        bool(view.client.login)
        or any(each.names_client for each in rule.tests)
        or all(each.everything for each in about)
        or any(_names(each, view.recipient, tables) for each in about)
    )


def _names(condition: Condition, recipient: Subject, tables: Mapping[str, Table]) -> bool:
    """Whether the mailbox stands there whole; that of which it is a tagged form does not count."""
    return not condition.negated and any(
        (isinstance(one, Exact) and one.probe == recipient.key)
        or (isinstance(one, LocalPart) and one.probe == recipient.local + "@")
        or (isinstance(one, InTable) and tables[one.name].owns(recipient.key))
        for one in condition.recipients
    )
