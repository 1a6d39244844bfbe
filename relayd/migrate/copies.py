"""always_bcc, recipient_bcc_maps and sender_bcc_maps: `copy` rules, where they say the same.

Postfix sends one copy by the most exact key of a map, relayd one by each rule that holds. So a map
in which a domain and mailboxes of it both have entries is not carried over.
"""

from __future__ import annotations

from relayd.mail.address import AddressError, Mailbox
from relayd.migrate.draft import is_mailbox, pattern
from relayd.migrate.maincf import MainCf
from relayd.migrate.tables import maps
from relayd.migrate.work import Work
from relayd.rules.language.pattern import Exact

COPIES = {"always_bcc": "", "recipient_bcc_maps": "to", "sender_bcc_maps": "sender"}


def copies(work: Work) -> None:
    """Say as rules what can be said so; of the others closings tells."""
    for name, kind in COPIES.items():
        rules = _rules(work, work.main, name) if work.main[name] else None
        for condition, target in rules or ():
            who = f"{kind} {condition}" if kind else "any"
            work.draft.rule("copy", f"copy {who} to {target}", name)
        if rules:
            work.report.translated(name, "`copy` rules")


def carried_over(work: Work, main: MainCf, name: str) -> bool:
    """Whether what `main`, be it a listener's, says of it became rules."""
    return name in COPIES and main[name] == work.main[name] and bool(_rules(work, main, name))


def _rules(work: Work, main: MainCf, name: str) -> list[tuple[str, str]] | None:
    """Whose mail, and where its copy goes; None: it cannot be said so."""
    if "no_address_mappings" in main.words("receive_override_options"):
        return None
    if name == "always_bcc":
        target = main[name].strip()
        return [("", str(Mailbox.parse(target)))] if is_mailbox(target) else None
    found: dict[str, str] = {}
    specs = maps(main[name], main["default_database_type"])
    for spec in specs:
        table = work.shelf.read(spec)
        if table.trouble or table.patterns:
            return None
        for row in table.rows:
            if "@" not in row.key or not is_mailbox(row.value):
                return None
            try:
                key = pattern(row.key)
            except AddressError:
                return None
            found.setdefault(key, str(Exact(Mailbox.parse(row.value))))
    domains = {key for key in found if key.startswith("@")}
    if any(not key.startswith("@") and f"@{key.rpartition('@')[2]}" in domains for key in found):
        return None
    return [*found.items()]
