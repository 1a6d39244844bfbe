"""AUTH in the client core: what it says, and what it makes of every answer."""

from __future__ import annotations

import base64
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from relayd.login.initiator import RefusedError, Secret, initiator
from relayd.login.mechanisms import (
    MECHANISMS,
    Challenge,
    Channel,
    CheckPassword,
    FetchVerifier,
    LoginError,
)
from relayd.login.scram import Verifier
from relayd.smtp.client import SmtpClient
from relayd.smtp.events import (
    LoggedIn,
    LoginChallenge,
    LoginRefused,
    ProtocolTrouble,
    TransactionStage,
    Unwelcome,
)
from tests.unit.smtp.test_client import A, Talk, transaction

SECRET = Secret("user", "pencil")


class Commands(unittest.TestCase):
    def begin(self, mechanism: str = "PLAIN", initial: bytes | None = b"x") -> Talk:
        self.talk = Talk(more="AUTH PLAIN")
        self.talk.client.login(mechanism, initial)
        self.said = self.talk.client.data_to_send()
        return self.talk

    def test_with_an_initial_response(self) -> None:
        talk = self.begin(initial=b"\0user\0pencil")
        self.assertEqual(self.said, b"AUTH PLAIN AHVzZXIAcGVuY2ls\r\n")
        self.assertEqual(talk.client.waiting_for, TransactionStage.AUTH)
        talk.hear("235 2.7.0 yes")
        self.assertEqual(talk.take(), LoggedIn())
        self.assertTrue(talk.send(transaction(A)).startswith(b"MAIL FROM"))

    def test_an_empty_one(self) -> None:
        self.begin(initial=b"")
        self.assertEqual(self.said, b"AUTH PLAIN =\r\n")

    def test_one_too_long_for_its_line_waits_for_a_challenge(self) -> None:
        talk = self.begin(initial=b"x" * 400)
        self.assertEqual(self.said, b"AUTH PLAIN\r\n")
        self.assertEqual(talk.hear("334 "), base64.b64encode(b"x" * 400) + b"\r\n")
        self.assertEqual(talk.events, [])

    def test_challenge_and_cancel(self) -> None:
        talk = self.begin("LOGIN", None)
        self.assertEqual(talk.hear("334 VXNlcm5hbWU6"), b"")
        self.assertEqual(talk.take(), LoginChallenge(b"Username:"))
        talk.client.cancel_login()
        self.assertEqual(talk.client.data_to_send(), b"*\r\n")
        talk.hear("501 5.7.0 cancelled")
        self.assertIsInstance(talk.take(), LoginRefused)
        self.assertFalse(talk.client.closed)

    def test_refused(self) -> None:
        for line in ("535 5.7.8 no", "454 4.7.0 later", "504 5.5.4 what", "538 5.7.11 tls"):
            talk = self.begin()
            talk.hear(line)
            event = talk.take()
            assert isinstance(event, LoginRefused)
            self.assertEqual(str(event.reply)[:10], line[:10])
            self.assertNotIn(line[10:], event.reply.text.split())

    def test_nonsense(self) -> None:
        for line in ("334 not!base64", "250 fine", "354 go"):
            talk = self.begin()
            talk.hear(line)
            self.assertIsInstance(talk.take(), ProtocolTrouble)

    def test_421(self) -> None:
        talk = self.begin()
        talk.hear("421 4.7.0 enough")
        event = talk.take()
        assert isinstance(event, Unwelcome)
        self.assertEqual(event.stage, TransactionStage.AUTH)
        self.assertEqual(str(event.reply), "421 4.7.0 service not available")

    def test_421_that_repeats_our_secret_unasked(self) -> None:
        for first in ("334 ", "500 what", "235 yes"):
            talk = self.begin(initial=b"\0user\0pencil")
            talk.hear(first, "421 4.7.0 enough of AUTH PLAIN AHVzZXIAcGVuY2ls")
            self.assertNotIn("AHVzZXIAcGVuY2ls", str(talk.events))
            if first != "334 ":
                self.assertIsInstance(talk.events[-1], Unwelcome)

    def test_the_challenge_does_not_show_in_a_log(self) -> None:
        self.assertNotIn("secret", repr(LoginChallenge(b"secret")))
        self.assertNotIn("pencil", repr(SECRET))


def play(offered: tuple[str, ...], secret: Secret, bindings: dict[str, bytes]) -> tuple[str, str]:
    """Our two sides against each other, over the client core; mechanism and result."""
    verifier = Verifier.of("pencil", iterations=4096)
    speaker = initiator(secret, offered, bindings, tls=True)
    assert speaker is not None
    core = SmtpClient("me.example")
    for reply in (b"220 hi\r\n", b"250 mx\r\n"):
        core.receive_data(reply)
        core.next_event()
    core.data_to_send()
    core.login(speaker.mechanism, speaker.initial())
    line = core.data_to_send().split()
    initial = None if len(line) == 2 else base64.b64decode(line[2])
    machine = MECHANISMS[line[1].decode()](initial, Channel(bindings))
    question = next(machine)
    try:
        while True:
            if isinstance(question, Challenge):
                core.receive_data(b"334 " + base64.b64encode(question.octets) + b"\r\n")
                event = core.next_event()
                if isinstance(event, LoginChallenge):
                    core.respond(speaker.respond(event.octets))
                question = machine.send(base64.b64decode(core.data_to_send()))
            elif isinstance(question, CheckPassword):
                question = machine.send(verifier.accepts(question.password))
            elif isinstance(question, FetchVerifier):
                question = machine.send(verifier)
    except StopIteration as end:
        speaker.accepted()
        return speaker.mechanism, f"welcome {end.value}"
    except LoginError as error:
        return speaker.mechanism, str(error)


class BothSides(unittest.TestCase):
    @settings(deadline=None, max_examples=40)
    @given(st.sets(st.sampled_from(sorted(MECHANISMS)), min_size=1), st.booleans())
    def test_every_mechanism(self, offered: set[str], bound: bool) -> None:
        bindings = {"tls-exporter": b"x" * 32} if bound else {}
        if not bound:
            offered.discard("SCRAM-SHA-256-PLUS")
        elif "SCRAM-SHA-256" in offered:
            offered.add("SCRAM-SHA-256-PLUS")  # as our server does
        if not offered:
            return
        names = tuple(sorted(offered))
        mechanism, result = play(names, SECRET, bindings)
        self.assertEqual(result, "welcome user")
        best = next(name for name in MECHANISMS if name in offered)
        self.assertEqual(mechanism, best)
        _, result = play(names, Secret("USER", "pencil"), bindings)
        self.assertEqual(result, "welcome user")
        _, result = play(names, Secret("user", "Pencil"), bindings)
        self.assertIn("wrong password", result)

    def test_nothing_in_common(self) -> None:
        self.assertIsNone(initiator(SECRET, ("GSSAPI", "CRAM-MD5"), {}, tls=True))

    def test_a_server_that_skips_its_proof_is_not_believed(self) -> None:
        speaker = initiator(SECRET, ("SCRAM-SHA-256",), {}, tls=True)
        assert speaker is not None
        with self.assertRaises(RefusedError):
            speaker.accepted()


class Questions(unittest.TestCase):
    @given(st.binary(max_size=300), st.lists(st.binary(max_size=300), max_size=3))
    def test_no_input_gets_in_or_raises(self, initial: bytes, more: list[bytes]) -> None:
        for make in MECHANISMS.values():
            machine = make(initial, Channel({"tls-exporter": b"x" * 32}))
            answers = list(more)
            try:
                question = next(machine)
                while True:
                    if isinstance(question, CheckPassword):
                        question = machine.send(False)
                    elif isinstance(question, FetchVerifier):
                        question = machine.send(Verifier(b"salt", 4096, b"s" * 32, b"k" * 32))
                    elif answers:
                        question = machine.send(answers.pop())
                    else:
                        break
            except LoginError:
                pass

    def test_acting_as_somebody_else(self) -> None:
        for message in (b"root\0user\0pencil", b"a\0b", b"", b"\0\0x", b"\0user\0", b"\0\xff\0x"):
            with self.assertRaises(LoginError):
                next(MECHANISMS["PLAIN"](message, Channel()))
        self.assertEqual(
            next(MECHANISMS["PLAIN"](b"User\0user\0pencil", Channel())),
            CheckPassword("user", "pencil"),
        )
