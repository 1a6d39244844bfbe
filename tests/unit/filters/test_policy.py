"""Postfix's policy protocol: what is asked, and every action that may come back."""

from __future__ import annotations

import unittest

from relayd.filters.policy import MOST, PolicyAction, PolicyAnswers, PolicyError, request


class Policy(unittest.TestCase):
    def test_the_question(self) -> None:
        self.assertEqual(
            request({"protocol_state": "RCPT", "sender": "a@b.test", "helo_name": "x\ny=z"}),
            b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=a@b.test\nhelo_name=x?y=z\n\n",
        )

    def test_each_action(self) -> None:
        for answer, word, said in (
            (b"action=DUNNO", "DUNNO", ""),
            (b"action=dunno", "DUNNO", ""),
            (b"action=OK", "OK", ""),
            (b"action=REJECT", "REJECT", "554 5.7.1 Refused by policy"),
            (b"action=reject 5.7.1 Go away", "REJECT", "554 5.7.1 Go away"),
            (b"action=DEFER_IF_PERMIT Greylisted", "DEFER_IF_PERMIT", "450 4.7.1 Greylisted"),
            (b"action=554 5.7.1 No", "REJECT", "554 5.7.1 No"),
            (b"action=451", "REJECT", "451 4.7.1 "),
            (b"action=PREPEND X-A: b", "PREPEND", "X-A: b"),
            (b"x=y\naction=HOLD why", "HOLD", "why"),
        ):
            (action,) = PolicyAnswers().feed(answer + b"\n\n")
            self.assertEqual((action.word, action.text or str(action.reply or "")), (word, said))

    def test_however_it_is_cut(self) -> None:
        answers = PolicyAnswers()
        octets = b"action=OK\n\naction=HOLD\n\n"
        found = [action for each in octets for action in answers.feed(bytes([each]))]
        self.assertEqual(found, [PolicyAction("OK"), PolicyAction("HOLD")])

    def test_what_is_no_answer(self) -> None:
        for octets in (
            b"\n\n",
            b"hello\n\n",
            b"action=what\n\n",
            b"action=\n\n",
            b"x" * (MOST + 1),
        ):
            with self.subTest(octets[:20]), self.assertRaises(PolicyError):
                PolicyAnswers().feed(octets)
