"""Postfix's transport(5) map as it stands, read into next hops."""

from __future__ import annotations

import re

from relayd.mail.address import AddressError, Mailbox, fold_domain
from relayd.mail.nexthop import LMTP, SMTP, HostPort, NextHop
from relayd.mail.reply import Reply
from relayd.rules.language.source import Complaint, Place, Problem, Source
from relayd.rules.language.words import domain_of, host_port
from relayd.rules.tables.table import MapTransport, TransportTable

_STATUS = re.compile(r"([45]\.\d{1,3}\.\d{1,3})\s*(.*)")
_SMTP = ("smtp", "relay", "esmtp")


def transport_table(name: str, source: Source, problems: list[Problem]) -> TransportTable:
    """The table that the file makes; complaints are collected."""
    table = TransportTable(name, source.name)
    for number, line in enumerate(source.lines, 1):
        text = line.strip()
        if not text or text[0] == "#":
            continue
        place = Place(source, number, len(line) - len(line.lstrip()) + 1, len(text))
        key, value = [*text.split(None, 1), ""][:2]
        try:
            probe, transport = _probe(key, place), _transport(value.strip(), place)
        except Complaint as complaint:
            problems.append(complaint.problem)
            continue
        first = table.entries.setdefault(probe, (number, transport))
        if first[0] != number:
            what = f'"{key}" has an entry already, in line {first[0]}'
            problems.append(Problem(place, what, "expected one for each"))
    return table


def _probe(key: str, place: Place) -> str:
    if key == "*":
        return key
    if "@" in key:
        try:
            return Mailbox.parse(key).key
        except AddressError as error:
            raise Complaint(place, f'"{key}" is no mailbox: {error}') from None
    if key.startswith("."):
        return "@." + fold_domain(domain_of(key[1:], place))
    return "@" + fold_domain(domain_of(key, place))


def _transport(value: str, place: Place) -> MapTransport | None:
    method, colon, where = value.partition(":")
    if not colon:
        raise Complaint(place, f'"{value}" is no transport', 'expected "method:nexthop"')
    if method in ("error", "retry"):
        return MapTransport(reply=_reply(method, where.strip()))
    if method == "discard":
        return MapTransport(discard=True)
    if " #" in where or "\t#" in where:
        raise Complaint(place, "here no comment begins", "expected it on a line of its own")
    if not where and not method:
        return None  # transport(5): do not change what would be done without this table
    if not where and method in _SMTP:
        return MapTransport()
    if method == LMTP:
        return MapTransport(_lmtp(value, where, place))
    if method not in ("", *_SMTP):
        raise Complaint(
            place, f'relayd has no transport "{method}"', "expected smtp, lmtp, error or discard"
        )
    # several are tried in order; a comma would end the name where next hops are listed
    words = [word for word in re.split(r"[,\s]+", where) if word]
    if len({word.startswith("[") for word in words}) > 1:
        raise Complaint(
            place, f'"{where}" mixes names with and without brackets', "expected one or the other"
        )
    hosts = tuple(_host(word, place) for word in words)
    # without brackets Postfix looks for the mail exchangers of the name
    return MapTransport(
        NextHop(f"smtp:{'|'.join(words)}", SMTP, hosts, mx=not where.startswith("["))
    )


def _host(text: str, place: Place) -> HostPort:
    bracketed = text.startswith("[")
    host, _, port = text[1:].partition("]") if bracketed else text.partition(":")
    port = port.lstrip(":") or "25"
    literal = f"[{host.removeprefix('IPv6:').removeprefix('ipv6:')}]"
    name = literal if ":" in host else host
    return host_port(f"{name}:{25 if port == 'smtp' else port}", place)


def _lmtp(value: str, where: str, place: Place) -> NextHop:
    name = re.sub(r"\s", "", value)
    if where.startswith("unix:"):
        path = where.removeprefix("unix:")
        if not path.startswith("/"):
            raise Complaint(
                place, f'"{path}" is relative to Postfix\'s queue', "expected an absolute path"
            )
        return NextHop(name, LMTP, unix=path)
    text = where.removeprefix("inet:")
    if text.startswith("[") and not text.count(":") > 1:
        text = text.replace("[", "").replace("]", "")
    return NextHop(name, LMTP, (host_port(text, place, 24),))


def _reply(method: str, text: str) -> Reply:
    code = 550 if method == "error" else 451
    match = _STATUS.match(text)
    status, words = (match.group(1), match.group(2)) if match else (f"{code // 100}.0.0", text)
    if status[0] == "4":
        code = 451
    words = words.encode("ascii", "replace").decode() or "Undeliverable"
    return Reply.of(code, status, words)
