"""One-time codes, against RFC 6238's own examples."""

from __future__ import annotations

import unittest

from relayd.login.roles import Role
from relayd.login.scram import Verifier
from relayd.login.totp import address_of, code_at, new_secret, secret_of, secret_text, step_of
from relayd.login.users import Seat, line_of, parse, with_user

SECRET = b"12345678901234567890"


class Codes(unittest.TestCase):
    def test_the_examples_of_rfc_6238(self) -> None:
        """Appendix B, SHA-1."""
        for moment, code in (
            (59, "94287082"), (1111111109, "07081804"), (1111111111, "14050471"),
            (1234567890, "89005924"), (2000000000, "69279037"), (20000000000, "65353130"),
        ):  # fmt: skip
            self.assertEqual(code_at(SECRET, moment // 30, 8), code)

    def test_a_code_is_good_a_step_early_and_a_step_late(self) -> None:
        code = code_at(SECRET, 100)
        found = [step_of(SECRET, code, 30 * step) for step in range(97, 104)]
        self.assertEqual(found, [None, None, 100, 100, 100, None, None])
        self.assertEqual(step_of(SECRET, f"{code[:3]} {code[3:]}", 3000), 100)
        for wrong in ("", "12345", "x" * 6, "\u0661" * 6):
            self.assertIsNone(step_of(SECRET, wrong, 3000))

    def test_secrets_are_written_in_base32(self) -> None:
        secret = new_secret()
        self.assertEqual(secret_of(secret_text(secret)), secret)
        self.assertEqual(secret_of("gezd gnbv gy3t qojq gezd gnbv gy3t qojq"), SECRET)
        for wrong in ("", "AAAA", "0189"):
            with self.assertRaises(ValueError):
                secret_of(wrong)
        self.assertEqual(
            address_of(SECRET, "a@b.example", "relayd"),
            "otpauth://totp/relayd%3Aa%40b.example?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"
            "&issuer=relayd",
        )


class Seats(unittest.TestCase):
    def test_a_role_and_a_secret_stand_behind_the_credentials(self) -> None:
        verifier = Verifier.of("secret", iterations=4096)
        for seat in (None, Seat(Role.VIEWER), Seat(Role.ADMIN, SECRET)):
            lines = with_user([], "ann", verifier, seat)
            users, problems = parse(lines)
            self.assertEqual(problems, [])
            self.assertEqual(users.seats.get("ann"), seat)
            self.assertTrue(users.accepts("ann", "secret"))
        self.assertNotIn("GEZDGN", repr(seat))

    def test_what_is_wrong_behind_them_is_said_without_the_secret(self) -> None:
        line = line_of("ann", Verifier.of("secret", iterations=4096))
        for words, what in (
            ("role=root", "no role out of viewer, operator, admin"), ("totp=GEZDGN", "no role"),
            ("role=admin totp=AAAA", "128 bits"), ("role=admin totp=0", "base32"),
            ("role=admin x=y", "only role= and totp="),
        ):  # fmt: skip
            users, problems = parse([f"{line} {words}"])
            self.assertEqual(len(users.verifiers), 0)
            self.assertIn(what, str(problems[0]))
            self.assertNotIn("AAAA", str(problems[0]))
