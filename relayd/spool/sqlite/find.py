"""Looking for mail in the ledger, the newest first, past all that its sieves say is not meant."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any, NamedTuple

from relayd.mail.ident import MAX_SHARDS, make_ident
from relayd.mail.message import RecipientState
from relayd.mail.naming import shown
from relayd.spool.condition import SQLITE, found_by, spelled
from relayd.spool.sqlite.rows import fold, outcome_of
from relayd.spool.sqlite.sieve import key, named, passes, words
from relayd.spool.view import FindFilter, FoundPage, FoundRecipient

LOOKED = 16  # blocks of the ledger that one answer looks into
PIECE = 1024  # rows of one where there are no sieves yet
SLACK = 3600.0  # seconds from a message's ident to its acceptance, or that a clock was set back

_ROWS = """
    SELECT a.message, f.at, f.size, f.sender, json_extract({facts}, '$[0][5]'),
        json_extract({facts}, '$[0][6]'), a.number, a.mailbox, ifnull(a.original, a.mailbox),
        a.next_hop, ifnull(e.state, r.state), ifnull(ifnull(e.attempts, r.attempts), 0),
        ifnull(e.at, 0.0), ifnull(e.outcome, r.outcome)
    FROM ledger AS a CROSS JOIN ledger AS f ON f.message = a.message AND f.number = 0
        AND f.ended = 0
    LEFT JOIN ledger AS e ON e.message = a.message AND e.number = a.number AND e.ended = 1
    LEFT JOIN recipient AS r ON r.message = a.message AND r.number = a.number
    WHERE a.message > :first AND a.message <= :last AND a.ended = 0 AND {terms}
    ORDER BY a.message DESC, a.number DESC"""
_FACTS = ("f.facts", "iif(json_valid(f.facts), f.facts, 'null')")  # the slow one for damaged rows
_TOLD = {"envid": "$[0][3]", "client": "$[1][0]", "login": "$[1][6]"}


class Piece(NamedTuple):
    """The messages after one and up to another, and their block's sieve if there is one."""

    first: int
    last: int
    block: int = 0
    sieve: bytes | None = None


def find(connection: sqlite3.Connection, wanted: FindFilter, before: int, limit: int) -> FoundPage:
    """See Store.find. Looks into a bounded part of the ledger and says how far it came."""
    terms, parameters = _condition(wanted)
    connection.create_function("has_words", 2, _has_words, deterministic=True)
    keys = _keys(wanted)
    floor = make_ident(max(int((wanted.since - SLACK) * 1e6), 0), 0)
    if wanted.until:
        before = min(before, make_ident(int((wanted.until + SLACK) * 1e6), MAX_SHARDS - 1))
    found: list[FoundRecipient] = []
    looked = 0
    for piece in _pieces(connection, before - 1, floor):
        if looked == LOOKED or len(found) >= limit:
            return FoundPage(found, piece.last + 1)
        if piece.sieve and not _may_hold(piece.sieve, keys):
            continue
        if wanted.states and not _may_stand(connection, wanted.states, piece):
            continue
        looked += 1
        within = {**parameters, "first": piece.first, "last": piece.last}
        for ident, rows in groupby(_rows(connection, terms, within), key=lambda row: row.ident):
            found += [*rows][::-1]
            if len(found) >= limit:
                return FoundPage(found, ident)
    return FoundPage(found, None)


def _pieces(connection: sqlite3.Connection, top: int, floor: int) -> Iterator[Piece]:
    """From the newest to the oldest, all that is not after `top`, nor before `floor`."""
    for first, last, sieve in connection.execute(
        "SELECT first, last, bits FROM sieve WHERE first < ? AND last > ? ORDER BY last DESC",
        (top, floor),
    ):
        if last < top:
            yield from _bare(connection, last, top)
        yield Piece(first, min(last, top), last, sieve)
        top = first
    if top > floor:
        yield from _bare(connection, floor, top)


def _bare(connection: sqlite3.Connection, floor: int, top: int) -> Iterator[Piece]:
    """Where there are no sieves."""
    while True:
        row = connection.execute(
            f"""SELECT message FROM ledger WHERE message > ? AND message <= ?
            ORDER BY message DESC LIMIT 1 OFFSET {PIECE}""",
            (floor, top),
        ).fetchone()
        if row is None:
            yield Piece(floor, top)
            return
        first = min(row[0], top - 1)
        yield Piece(first, top)
        top = first


def _may_stand(
    connection: sqlite3.Connection, states: frozenset[RecipientState], piece: Piece
) -> bool:
    """Whether a recipient of this part may be in one of these states."""
    asked: tuple[int, ...]
    for state in states:
        if state.waiting:
            text = "recipient WHERE state = ? AND message > ? AND message <= ?"
            asked = (int(state), piece.first, piece.last)
        elif state is RecipientState.DELIVERED or not piece.sieve:
            return True
        else:
            text, asked = "ending WHERE state = ? AND last = ?", (int(state), piece.block)
        if connection.execute(f"SELECT 1 FROM {text} LIMIT 1", asked).fetchone():
            return True
    return False


def _rows(
    connection: sqlite3.Connection, terms: str, parameters: dict[str, Any]
) -> Iterator[FoundRecipient]:
    facts, careful = _FACTS
    try:
        rows = connection.execute(_ROWS.format(facts=facts, terms=terms), parameters).fetchall()
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:
            raise
        terms = terms.replace(facts, careful)
        rows = connection.execute(_ROWS.format(facts=careful, terms=terms), parameters).fetchall()
    for row in rows:
        ident, at, size, sender, message_id, subject, *recipient, said = row
        outcome = outcome_of(said)
        reply = "" if outcome is None else str(outcome.reply)
        about = (ident, at, size, sender, message_id or "", shown(subject or ""))
        yield FoundRecipient._make((*about, *recipient, reply))


def _condition(wanted: FindFilter) -> tuple[str, dict[str, Any]]:
    """A filter as SQL over the tables of _ROWS, with its parameters."""
    columns, parameters = found_by(wanted, SQLITE)
    terms = ["ifnull(e.state, r.state) IS NOT NULL", *columns]
    if wanted.states:
        states = ", ".join(str(int(state)) for state in wanted.states)
        terms.append(f"ifnull(e.state, r.state) IN ({states})")
    for name, path in _TOLD.items():
        if getattr(wanted, name):
            parameters[name] = fold(getattr(wanted, name))
            terms.append(f"lower(json_extract(f.facts, '{path}')) = :{name}")
    if wanted.message_id:
        parameters["message_id"] = named(wanted.message_id)
        terms.append("lower(trim(json_extract(f.facts, '$[0][5]'), '<> ')) = :message_id")
    if wanted.subject:
        parameters["subject"] = wanted.subject
        said = "json_extract(f.facts, '$[0][6]')"
        ascii_words = [word for word in words(wanted.subject) if word.isascii()]
        parameters |= {f"word{number}": word for number, word in enumerate(ascii_words)}
        in_it = [f"instr(lower({said}), :word{number})" for number in range(len(ascii_words))]
        terms.append(f"(instr({said}, '=?') OR {' AND '.join(in_it) or '1'})")
        terms.append(f"has_words({said}, :subject)")
    return " AND ".join(terms), parameters


def _keys(wanted: FindFilter) -> list[list[int]]:
    """What a sieve has to let through: of each the one or the other (relayd.spool.sqlite.sieve)."""
    keys = [
        [key(kind + each) for each in spelled("" if mailbox == "<>" else mailbox)]
        for kind, mailbox in (("s", wanted.sender), ("r", wanted.recipient))
        if mailbox
    ]
    for kind, text in (
        ("e", fold(wanted.envid)),
        ("c", fold(wanted.client)),
        ("l", fold(wanted.login)),
        ("m", named(wanted.message_id)),
        *(("w", word) for word in words(wanted.subject)),
    ):
        if text:
            keys.append([key(kind + text)])
    return keys


def _may_hold(sieve: bytes, keys: Iterable[Iterable[int]]) -> bool:
    return all(any(passes(sieve, (each,)) for each in either) for either in keys)


def _has_words(subject: str | None, wanted: str) -> bool:
    return set(words(wanted)) <= set(words(subject or ""))
