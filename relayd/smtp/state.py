"""Which command may follow which, on the server's side (RFC 5321 section 4.1.4), as data.

Theory of operation
===================

SMTP moves on *answers*, not on commands: a MAIL refused with 550 leaves us where we were. So the
key of a move is (state, command, first digit of our reply), and its value the next state. From
this follow two rules, and the server core has no others:

1. A (state, command) that has no move at all is out of order: 503, nothing changes.
2. A (state, command, digit) that has no move leaves the state as it is.

Commands that are answered alike in every state and change nothing (NOOP, HELP, VRFY, QUIT's
refusal) do not appear. CLOSED is entered by QUIT and by any 421, from everywhere.

The states between a MAIL and the end of its content are a transaction; a move from inside
(`IN_TRANSACTION`) to READY or GREETED ends it.

While content arrives, no command is read: RECEIVING knows only the end of the content. BDAT
(RFC 3030) brings its content with each command, so CHUNKING lies between two of them. When one is
refused, the client may have sent more of them already: SPOILED swallows these, each answered with
503, until the client has said LAST or RSET ("a RSET command MUST be sent to clear the
transaction", RFC 3030 section 2).
"""

from __future__ import annotations

import enum

SUCCESS, INTERMEDIATE, TRANSIENT, PERMANENT = 2, 3, 4, 5  # first digits, RFC 5321 section 4.2.1
ANY = (SUCCESS, INTERMEDIATE, TRANSIENT, PERMANENT)
REFUSAL = (TRANSIENT, PERMANENT)


class SessionState(enum.IntEnum):
    """Where a session stands; an IntEnum because its hash is on the hot path."""

    NEW = 0  # nothing sent yet; a client that speaks now is early
    UNWELCOME = 1  # greeted with a refusal: only QUIT is served (RFC 5321 section 3.1)
    GREETED = 2  # 220 is out
    READY = 3  # HELO or EHLO accepted, no transaction
    OPENED = 4  # MAIL accepted
    ADDRESSED = 5  # at least one RCPT accepted
    RECEIVING = 6  # DATA accepted: everything is content up to CRLF.CRLF
    CHUNKING = 7  # at least one BDAT accepted
    SPOILED = 8  # a BDAT refused, more may be on their way
    HANDSHAKE = 9  # 220 to STARTTLS: not a byte is read until TLS stands
    LOGIN = 10  # 334 sent: the next line is an AUTH response
    CLOSED = 11


class Command(enum.IntEnum):
    """What moves a session."""

    GREET = 0  # our own: the greeting
    HELO = 1  # or EHLO
    MAIL = 2
    RCPT = 3
    DATA = 4
    BDAT = 5  # without LAST
    LAST = 6  # BDAT LAST
    END = 7  # the end of the content by either way
    RSET = 8
    STARTTLS = 9
    TLS = 10  # the handshake is done
    AUTH = 11  # or a response to its challenge
    XCLIENT = 12


OPEN = (
    SessionState.READY,
    SessionState.OPENED,
    SessionState.ADDRESSED,
    SessionState.CHUNKING,
    SessionState.SPOILED,
)
IN_TRANSACTION = frozenset(
    {
        SessionState.OPENED,
        SessionState.ADDRESSED,
        SessionState.RECEIVING,
        SessionState.CHUNKING,
        SessionState.SPOILED,
    }
)

_S, _C = SessionState, Command
_MOVES: tuple[tuple[tuple[SessionState, ...], Command, tuple[int, ...], SessionState], ...] = (
    ((_S.NEW,), _C.GREET, (SUCCESS,), _S.GREETED),
    ((_S.NEW,), _C.GREET, REFUSAL, _S.UNWELCOME),
    ((_S.GREETED, *OPEN), _C.HELO, (SUCCESS,), _S.READY),
    # MAIL without HELO: old devices have none that is fit to be heard, or none at all
    ((_S.GREETED, _S.READY), _C.MAIL, (SUCCESS,), _S.OPENED),
    ((_S.OPENED, _S.ADDRESSED), _C.RCPT, (SUCCESS,), _S.ADDRESSED),
    ((_S.ADDRESSED,), _C.DATA, (INTERMEDIATE,), _S.RECEIVING),
    ((_S.RECEIVING,), _C.END, ANY, _S.READY),
    # BDAT: the answer that counts is the one after its octets
    ((_S.ADDRESSED, _S.CHUNKING), _C.BDAT, (SUCCESS,), _S.CHUNKING),
    ((_S.ADDRESSED, _S.CHUNKING), _C.BDAT, REFUSAL, _S.SPOILED),
    ((_S.ADDRESSED, _S.CHUNKING), _C.LAST, ANY, _S.READY),
    ((_S.SPOILED,), _C.LAST, REFUSAL, _S.READY),
    ((_S.OPENED,), _C.BDAT, REFUSAL, _S.SPOILED),  # no recipient was accepted
    ((_S.OPENED,), _C.LAST, REFUSAL, _S.READY),
    ((_S.GREETED,), _C.RSET, (SUCCESS,), _S.GREETED),
    (OPEN, _C.RSET, (SUCCESS,), _S.READY),
    ((_S.READY,), _C.STARTTLS, (SUCCESS,), _S.HANDSHAKE),
    # RFC 3207 section 4.2: all knowledge from before is discarded, a new EHLO is due
    ((_S.HANDSHAKE,), _C.TLS, (SUCCESS,), _S.GREETED),
    ((_S.NEW,), _C.TLS, (SUCCESS,), _S.NEW),  # TLS from the first byte
    ((_S.READY, _S.LOGIN), _C.AUTH, (INTERMEDIATE,), _S.LOGIN),
    ((_S.READY, _S.LOGIN), _C.AUTH, (SUCCESS, *REFUSAL), _S.READY),
    # Postfix's XCLIENT_README: never within a transaction, and a new EHLO is due
    ((_S.GREETED, _S.READY), _C.XCLIENT, (SUCCESS,), _S.GREETED),
    # a client who would not have been greeted is not, whoever speaks for him
    ((_S.GREETED, _S.READY), _C.XCLIENT, REFUSAL, _S.UNWELCOME),
)

MOVES: dict[tuple[SessionState, Command, int], SessionState] = {
    (state, command, digit): target
    for states, command, digits, target in _MOVES
    for state in states
    for digit in digits
}
ALLOWED: frozenset[tuple[SessionState, Command]] = frozenset(key[:2] for key in MOVES)
