"""What a report tells a human: what happened, to whom, in whose words, and what to do now."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable

from relayd.mail.outcome import Outcome
from relayd.mail.reply import Reply, printable
from relayd.report.bounce import Action, Report, ReportedRecipient
from relayd.report.fields import MAX_DIAGNOSTIC, remote_name, stamp

WIDTH = 76
MAX_NAMED = 20  # recipients that the human part names; the next part names them all

_SUBJECT = {
    Action.FAILED: "Your message could not be delivered",
    Action.DELAYED: "Your message is delayed",
    Action.DELIVERED: "Your message was delivered",
    Action.RELAYED: "Your message was passed on",
    Action.EXPANDED: "Your message was sent on to several addresses",
}

_OPENING = {
    Action.FAILED: "I am sorry: your message could not be delivered to {who}.",
    Action.DELAYED: (
        "Your message has not reached {who} yet. You need not send it again: I keep trying"
        " until {until}, and will tell you if it cannot be delivered."
    ),
    Action.DELIVERED: "As you asked to be told: your message was delivered to {who}.",
    Action.RELAYED: (
        "As you asked to be told: your message was passed on to a mail server that is nearer to"
        " {who}, but does not send confirmations. You may hear no more of it if all is well."
    ),
    Action.EXPANDED: (
        "As you asked to be told: {who} stands for several addresses, and your message is on"
        " its way to them. You will get no confirmation for each."
    ),
}

_LOST_SUBJECT = "A report could not be delivered"
_LOST_OPENING = (
    "To the postmaster: a report that this server wrote could not be delivered to {who}. Whoever"
    " sent the mail that it is about hears nothing of its fate, unless you tell them. The report"
    " is in the last part."
)

_COPY_SUBJECT = "A copy could not be delivered"
_COPY_OPENING = (
    "To the postmaster: a copy that your rules send (copy ...) could not be delivered to {who}."
    " Neither the sender nor the recipients of the message hear of it."
)

# By status code without its class (RFC 3463), the exact one first, then the subject alone.
_ADVICE = {
    "1.1": "There is no such mailbox there. Please check the address for typing mistakes, or ask"
    " the person for the current address by another way.",
    "1.2": "The domain, the part after the @, does not seem to exist. Please check it for typing"
    " mistakes.",
    "1.6": "The mailbox has moved. The server's words above may say where to.",
    "1.10": "The domain says of itself that it takes no mail. Please check the address for typing"
    " mistakes.",
    "2.2": "The mailbox is full. Please tell the person by another way, and send your message"
    " again later.",
    "2.3": "The message is larger than the mailbox accepts. Please send it in smaller parts, or"
    " share large attachments by another way.",
    "3.4": "The message is larger than the server accepts. Please send it in smaller parts, or"
    " share large attachments by another way.",
    "4.6": "The message went round in a circle between mail servers. Please tell the person, or"
    " the postmaster of that domain: the fault is in its settings.",
    "4.7": "The other side could not be reached, or put us off, for as long as I may try. Please"
    " tell the person by another way, or send your message again later.",
    "6.7": "The server cannot take international characters in an address. Please ask the person"
    " for an address without them.",
    "1": "Please check the address for typing mistakes.",
    "2": "The trouble is with the mailbox of the person you wrote to: only they, or their"
    " postmaster, can mend it.",
    "3": "The trouble is with the mail server of the person you wrote to: only its postmaster can"
    " mend it.",
    "4": "The other side could not be reached. Please try again later, or tell the person by"
    " another way.",
    "5": "The two mail servers did not understand each other. Please tell your postmaster.",
    "6": "The server cannot take the message in the form it was sent in.",
    "7": "The server refused your message by a rule of its own. Its words above say what it knows;"
    " its postmaster can say more.",
}
_ADVICE_FALLBACK = "The server's words above are all I know. Its postmaster can say more."


def subject(report: Report) -> str:
    """The Subject field."""
    if report.of_copy:
        return _COPY_SUBJECT
    return _LOST_SUBJECT if report.lost else _SUBJECT[report.action]


def human_text(report: Report, hostname: str, about: Iterable[tuple[str, str]]) -> str:
    """The first part of the report, lines ended by a newline.

    `about` holds names and values of header fields by which the sender knows the message.
    """
    who = (
        f"<{shown(report.entries[0])}>"
        if len(report.entries) == 1
        else f"{len(report.entries)} recipients"
    )
    until = stamp(report.retry_until)
    words = _LOST_OPENING if report.lost else _OPENING[report.action]
    if report.of_copy:
        words = _COPY_OPENING
    opening = words.format(who=who, until=until)
    paragraphs = [f"This is the mail server {hostname}.", _wrapped(opening)]
    paragraphs += _recipients(report)
    known = [f"    {name}: {value}" for name, value in about]
    when = "Written here" if report.lost and not report.of_copy else "Received here"
    known.append(f"    {when}: {stamp(report.about.received_at)}, as {report.about}")
    paragraphs.append("\n".join(["The message this is about:", *known]))
    paragraphs.append(_wrapped(_closing(report)))
    return "\n\n".join(paragraphs) + "\n"


def shown(entry: ReportedRecipient) -> str:
    """The recipient as the sender knows it."""
    recipient = entry.recipient
    return printable(str(recipient.mailbox if recipient.bcc else recipient.original))


def _recipients(report: Report) -> list[str]:
    """One paragraph for all recipients that got the same answer."""
    groups: dict[tuple[Outcome | None, bool], list[ReportedRecipient]] = {}
    for entry in report.entries[:MAX_NAMED]:
        outcome = entry.outcome and entry.outcome.but(passed_on=False, why="")
        groups.setdefault((outcome, entry.expired), []).append(entry)
    paragraphs = []
    for (outcome, expired), entries in groups.items():
        lines = []
        for entry in entries:
            mailbox, original = entry.recipient.mailbox, entry.recipient.original
            moved = mailbox != original and not entry.recipient.bcc
            by_way = f", forwarded to <{printable(str(mailbox))}>" if moved else ""
            lines.append(f"<{shown(entry)}>{by_way}")
        paragraphs.append("\n".join([*lines, *_story(report.action, outcome, expired)]))
    more = len(report.entries) - MAX_NAMED
    if more > 0:
        paragraphs.append(f"... and {more} more recipients: the next part names them all.")
    return paragraphs


def _story(action: Action, outcome: Outcome | None, expired: bool) -> list[str]:
    if outcome is None:
        if expired:
            return [_wrapped(_ADVICE["4.7"], "    ")]
        return []
    reply = outcome.reply
    host = remote_name(outcome)
    address = outcome.remote_address
    # a socket of ours is nobody's business, and an address that is the name is said already
    told = not host or host.startswith("[") or not address or address.startswith("unix:")
    where = "" if told else f" [{address}]"
    words = _wrapped(printable(str(reply), MAX_DIAGNOSTIC), "        ")
    if action in (Action.DELIVERED, Action.RELAYED):
        return [f"    {host or 'The next server'}{where} said:", words]
    said = f"{host}{where} said:" if host else "The reason:"
    if action is Action.DELAYED:
        return [f"    {said}", words]
    if expired:
        return [f"    I gave up after many tries. At the last one, {said}", words, "", _hint(None)]
    return [f"    {said}", words, "", _hint(reply)]


def _hint(reply: Reply | None) -> str:
    if reply is None:
        return _wrapped(_ADVICE["4.7"], "    ")
    subject, detail = str(reply.subject), f"{reply.subject}.{reply.detail}"
    return _wrapped(_ADVICE.get(detail) or _ADVICE.get(subject) or _ADVICE_FALLBACK, "    ")


def _closing(report: Report) -> str:
    if report.lost:
        return "This message is sent once: nobody hears of it if it is lost, too."
    if report.action is Action.FAILED:
        return (
            "What the mail servers need to know is in the next part, and your message, or its"
            " beginning, in the last one. Nobody reads answers to this message."
        )
    return "Nobody reads answers to this message."


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(
        text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
