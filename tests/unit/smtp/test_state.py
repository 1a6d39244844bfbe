"""The table of moves: what every reader of it may rely on."""

from __future__ import annotations

import unittest

from relayd.smtp.state import (
    ALLOWED,
    IN_TRANSACTION,
    MOVES,
    REFUSAL,
    Command,
    SessionState,
)


class TestMoves(unittest.TestCase):
    def test_every_state_can_be_left_and_reached(self) -> None:
        reached = set(MOVES.values()) | {SessionState.NEW, SessionState.CLOSED}
        left = {state for state, _, _ in MOVES} | {SessionState.UNWELCOME, SessionState.CLOSED}
        self.assertEqual(reached, set(SessionState))
        self.assertEqual(left, set(SessionState))

    def test_every_command_moves_something(self) -> None:
        self.assertEqual({command for _, command in ALLOWED}, set(Command))

    def test_a_transaction_opens_by_mail_alone(self) -> None:
        for (state, command, _), target in MOVES.items():
            if target in IN_TRANSACTION and state not in IN_TRANSACTION:
                self.assertIs(command, Command.MAIL)

    def test_mail_is_accepted_only_outside_a_transaction(self) -> None:
        for state, command in ALLOWED:
            if command is Command.MAIL:
                self.assertNotIn(state, IN_TRANSACTION)

    def test_content_needs_a_recipient(self) -> None:
        for (state, command, digit), target in MOVES.items():
            if command in (Command.DATA, Command.BDAT, Command.LAST) and digit not in REFUSAL:
                self.assertIn(
                    state, (SessionState.ADDRESSED, SessionState.CHUNKING), (command, target)
                )

    def test_nothing_survives_the_handshake(self) -> None:
        moves = {key: target for key, target in MOVES.items() if key[0] is SessionState.HANDSHAKE}
        self.assertEqual(moves, {(SessionState.HANDSHAKE, Command.TLS, 2): SessionState.GREETED})
