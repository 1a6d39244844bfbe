"""What the control socket shows, as JSON documents, and what a request's filters mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from relayd.mail.address import AddressError, Mailbox, path_text
from relayd.mail.client import Client
from relayd.mail.envelope import NOBODY, Envelope, is_direct
from relayd.mail.ident import ident_text, parse_ident
from relayd.mail.message import RecipientState, Record
from relayd.mail.naming import MessageNames, names_of, shown
from relayd.mail.outcome import Outcome
from relayd.mail.plan import FACT, Step
from relayd.ops.answers import FiguresAnswer, ProviderFigures
from relayd.spool.queue import LaneView, Standing
from relayd.spool.view import (
    Accepted,
    Counts,
    History,
    LedgerEntry,
    QueueFilter,
    RecipientSummary,
    Summary,
)

Document = dict[str, Any]
Request = Mapping[str, object]

MOST_REROUTED = 1000  # recipients that an answer names, of those that go another way

STATES = {state.name.lower(): state for state in RecipientState}

# What the places of a row in a listing mean, and those of a recipient inside it.
COLUMNS = {"columns": Summary._fields, "recipient_columns": RecipientSummary._fields}


class RequestError(Exception):
    """The request makes no sense; `str(error)` is for the one who typed it."""


class ConflictError(RequestError):
    """It would make sense if things were as the request takes them to be."""


class BusyError(RequestError):
    """It would make sense in a moment, or when somebody has seen to what is in trouble."""


class OffError(RequestError):
    """The configuration has not switched it on."""


def text_of(request: Request, name: str) -> str:
    """A field that is text; empty when absent."""
    found = request.get(name, "")
    if not isinstance(found, str):
        raise RequestError(f"{name}: text expected")
    if not found.isprintable() and not _is_text(found):
        raise RequestError(f"{name}: text in UTF-8 expected, without NUL")
    return found


def _is_text(found: str) -> bool:
    """Whether every store, log and page can take it; JSON and arguments can hold what is none."""
    try:
        return b"\0" not in found.encode()
    except UnicodeEncodeError:
        return False


def number_of(request: Request, name: str) -> float:
    """A field that is a number; 0 when absent."""
    found = request.get(name, 0)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        raise RequestError(f"{name}: number expected")
    return found


def ident_of(text: object) -> int:
    """A message ID."""
    try:
        return parse_ident(str(text))
    except ValueError as error:
        raise RequestError(str(error)) from None


def idents_of(request: Request) -> list[int]:
    """The message IDs that a request names."""
    found = request.get("ids", [])
    if not isinstance(found, list):
        raise RequestError("ids: a list expected")
    return [ident_of(each) for each in found]


def filter_of(request: Request, now: float) -> QueueFilter:
    """The filter that a request means; `now` in seconds since the epoch."""
    state = text_of(request, "state")
    if state and STATES.get(state, RecipientState.DELIVERED) not in (
        RecipientState.QUEUED,
        RecipientState.HELD,
    ):
        raise RequestError(f"no state {state!r}; expected queued or held")
    older_than = number_of(request, "older_than")
    return QueueFilter(
        state=STATES[state] if state else None,
        destination=text_of(request, "destination"),
        sender=raw_of(text_of(request, "sender")),
        recipient=raw_of(text_of(request, "recipient")),
        received_before=now - older_than if older_than else 0.0,
        domain=text_of(request, "domain"),
        rule=text_of(request, "rule"),
    )


def raw_of(text: str) -> str:
    """A mailbox as the spool has it, where somebody has it with quotes, from the log."""
    if '"' not in text:
        return text
    try:
        mailbox = Mailbox.parse(text)
    except AddressError:
        return text
    return f"{mailbox.local}@{mailbox.domain}"


def totals(counts: Iterable[Counts]) -> Document:
    """The sums over all shards."""
    total: Document = {"messages": 0, "octets": 0, "queued": 0, "held": 0, "damaged": 0}
    destinations: dict[str, int] = {}
    for count in counts:
        for name in total:
            total[name] += getattr(count, name)
        for destination, recipients in count.destinations.items():
            destinations[destination] = destinations.get(destination, 0) + recipients
    return {**total, "destinations": destinations}


def no_provider_figures() -> ProviderFigures:
    """Nothing is known."""
    return {"oldest": 0.0, "rate": 0.0, "slowed": False, "blocked": False}


def provider_figures(
    oldest: Mapping[str, float],
    provider_of: Callable[[str], str],
    sites: Iterable[Mapping[str, Any]],
) -> dict[str, ProviderFigures]:
    """Of one shard: since when mail waits, by queues; its sites, as for the operator."""
    found: dict[str, ProviderFigures] = {}
    for queue, at in oldest.items():
        provider = provider_of(queue)
        if provider:
            each = found.setdefault(provider, no_provider_figures())
            each["oldest"] = min(each["oldest"] or at, at)
    for site in sites:
        if site["provider"]:
            each = found.setdefault(site["provider"], no_provider_figures())
            each["rate"] += site["rate"] / 60
            each["slowed"] |= bool(site["trouble"])
            each["blocked"] |= bool(site["blocked_until"])
    return found


def no_figures() -> FiguresAnswer:
    """Those of nobody."""
    return {
        "messages": 0,
        "octets": 0,
        "oldest": {},
        "providers": {},
        "sessions": 0,
        "deliveries": 0,
        "healthy": True,
    }


def add_figures(total: FiguresAnswer, more: FiguresAnswer) -> None:
    """Those of one more store or process."""
    total["messages"] += more["messages"]
    total["octets"] += more["octets"]
    total["sessions"] += more["sessions"]
    total["deliveries"] += more["deliveries"]
    total["healthy"] = total["healthy"] and more["healthy"]
    for name, at in more["oldest"].items():
        total["oldest"][name] = min(total["oldest"].get(name, at), at)
    for name, each in more["providers"].items():
        known = total["providers"].setdefault(name, no_provider_figures())
        known["oldest"] = min(known["oldest"] or each["oldest"], each["oldest"] or known["oldest"])
        known["rate"] += each["rate"]
        known["slowed"] |= each["slowed"]
        known["blocked"] |= each["blocked"]


def lane_document(view: LaneView) -> Document:
    """One lane of the queue."""
    return {
        "destination": view.destination,
        "standing": view.standing.name.lower(),
        "in_flight": view.in_flight,
        "window": view.window,
        "interval": round(view.interval, 3),
        "failures": view.failures,
        "probe_at": view.probe_at,
        "trouble": str(view.trouble.reply) if view.trouble is not None else "",
    }


_AT_REST = (Standing.DOWN, Standing.PROBING, Standing.REFUSING)


def set_up_troubles(views: Iterable[LaneView]) -> list[Document]:
    """Next hops that wait for somebody here to mend how they are configured."""
    return [
        {"destination": view.destination, "trouble": str(view.trouble.reply)}
        for view in views
        if view.standing in _AT_REST
        and view.trouble is not None
        and view.trouble.of_our_set_up
        # what a domain's own exchangers want of us is theirs to say, but for what is missing here
        and not (is_direct(view.destination) and view.trouble.reply.subject == 7)
    ]


def once_each(documents: Iterable[Document]) -> list[Document]:
    """One for each destination, in their order."""
    found = {each["destination"]: each for each in documents}
    return [found[name] for name in sorted(found)]


def paces(sites: Iterable[Document]) -> list[Document]:
    """Sites as several processes see them, each as one: those in trouble first."""
    found: dict[str, Document] = {}
    for site in sites:
        known = found.setdefault(site["site"], site)
        if known is site:
            continue
        for name in ("rate", "in_flight", "taken", "refused"):
            known[name] = round(known[name] + site[name], 3)
        for name in ("resume_at", "blocked_until", "connections", "messages"):
            known[name] = max(known[name], site[name])
        known["trouble"] = known["trouble"] or site["trouble"]
    return sorted(found.values(), key=lambda site: (not site["trouble"], str(site["site"])))


def lost_addresses(found: Iterable[Document]) -> list[Document]:
    """Each once, whoever misses it, since the first did."""
    known: dict[tuple[str, str], Document] = {}
    for each in sorted(found, key=lambda each: float(each["since"])):
        known.setdefault((each["source"], each["address"]), each)
    return list(known.values())


def blamed(origins: Iterable[Document]) -> list[Document]:
    """Origins as several processes see them, each as one: the worst first."""
    found: dict[str, Document] = {}
    for origin in origins:
        known = found.setdefault(origin["origin"], origin)
        if known is not origin:
            for name in ("messages", "complaints", "rate"):
                known[name] = round(known[name] + origin[name], 3)
            known["share"] = round(known["complaints"] / max(known["messages"], 1), 3)
    return sorted(found.values(), key=lambda each: -float(each["share"]))


def rerouted(answers: Iterable[Document]) -> Document:
    """What several stores and processes tell of it as one."""
    total: Document = {"recipients": 0, "under_way": 0, "changed": {}, "left": {}, "changes": []}
    for answer in answers:
        for name in ("recipients", "under_way"):
            total[name] += answer[name]
        for name in ("changed", "left"):
            for kind, count in answer[name].items():
                total[name][kind] = total[name].get(kind, 0) + count
        total["changes"] += answer["changes"]
    total["changes"] = total["changes"][:MOST_REROUTED]
    return total


def down(views: Iterable[LaneView]) -> dict[str, LaneView]:
    """The lanes in which nothing is tried before a certain time, whenever its mail is due."""
    closed = (Standing.DOWN, Standing.SUSPENDED, Standing.BLOCKED)
    return {view.destination: view for view in views if view.standing in closed and view.probe_at}


def story(
    accepted: Accepted | None, history: History | None, lanes: Mapping[str, LaneView]
) -> Document | None:
    """All that is known of one message: from the spool while it waits, from the ledger for ever.

    `lanes`: those that are down. None: neither spool nor ledger knows it.
    """
    if history is not None:
        document = _message(history.ident, history.received_at, history.size)
        document |= _envelope(history.envelope) | _client(history.client)
        document |= _names(history.names)
        document["rules"] = history.rules
        document["facts"] = [step.rule for step in history.trail if step.stage == FACT]
        document["trail"] = [_step(step) for step in history.trail if step.stage != FACT]
        recipients = {entry.number: _entry(entry) for entry in history.entries}
    elif accepted is not None:
        message = accepted[0]
        document = _message(message.ident, message.received_at, message.content.size)
        document |= _envelope(message.envelope) | _client(message.client)
        document |= _names(names_of(message.content, message.header_size))
        recipients = {}
    else:
        return None
    for record in accepted[1] if accepted is not None else ():
        lane = lanes.get(record.recipient.destination)
        recipients[record.number] = recipients.get(record.number, {}) | _record(record, lane)
    document["recipients"] = [recipients[number] for number in sorted(recipients)]
    return document


def _message(ident: int, received_at: float, size: int) -> Document:
    return {"id": ident_text(ident), "received_at": received_at, "size": size}


def _names(names: MessageNames) -> Document:
    return {"message_id": names.message_id, "subject": shown(names.subject)}


def _envelope(envelope: Envelope) -> Document:
    return {
        "sender": path_text(envelope.reverse_path),
        "parameters": {
            name: found
            for name in ("body", "smtputf8", "ret", "envid", "require_tls")
            if (found := getattr(envelope, name))
        },
    }


def _client(client: Client) -> Document:
    return {
        "client": {
            name: found
            for name in (
                *("address", "port", "rdns", "listener", "helo", "protocol", "tls", "login"),
            )
            if (found := getattr(client, name))
        }
    }


def _step(step: Step) -> Document:
    return {"stage": step.stage, "place": step.place, "rule": step.rule, "note": step.note}


def _original(mailbox: Mailbox) -> str:
    """As the client named it; empty: it did not, a `copy` rule sent it there."""
    return "" if mailbox == NOBODY else str(mailbox)


def _entry(entry: LedgerEntry) -> Document:
    return {
        "number": entry.number,
        "mailbox": str(entry.mailbox),
        "original": _original(entry.original),
        "next_hop": entry.next_hop,
        "state": (entry.state or RecipientState.QUEUED).name.lower(),
        "attempts": entry.attempts,
        "ended_at": entry.ended_at,
        "note": entry.note,
        **_outcome(entry.outcome),
    }


def _record(record: Record, lane: LaneView | None) -> Document:
    recipient = record.recipient
    behind = record.state is RecipientState.QUEUED and lane is not None
    due = max(record.next_attempt, lane.probe_at) if behind and lane else record.next_attempt
    return {
        "number": record.number,
        "mailbox": str(recipient.mailbox),
        "original": _original(recipient.original),
        "next_hop": recipient.next_hop,
        "reverse_path": path_text(recipient.reverse_path),
        "notify": sorted(recipient.notify),
        "orcpt": recipient.orcpt,
        "state": record.state.name.lower(),
        "attempts": record.attempts,
        "next_attempt": due,
        "behind": str(lane.trouble.reply) if behind and lane and lane.trouble else "",
        "warned": record.warned,
        **_outcome(record.last),
    }


def _outcome(outcome: Outcome | None) -> Document:
    if outcome is None:
        return {"reply": "", "remote_mta": "", "remote_address": "", "why": ""}
    return {
        "reply": str(outcome.reply),
        "remote_mta": outcome.remote_mta,
        "remote_address": outcome.remote_address,
        "tls": outcome.tls,
        "why": outcome.why,
    }
