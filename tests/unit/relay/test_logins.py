"""Our logins at next hops: which mechanism, what a refusal becomes, what is said of it."""

from __future__ import annotations

import itertools
from base64 import b64decode, b64encode
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from relayd.login.initiator import Secret
from relayd.login.mechanisms import (
    MECHANISMS,
    Challenge,
    Channel,
    CheckPassword,
    LoginError,
    Mechanism,
)
from relayd.login.oauth import Provider
from relayd.login.scram import Verifier
from relayd.mail.nexthop import HostPort, NextHop
from relayd.mail.reply import Reply
from relayd.relay.logins import Conversation, Login, Logins, NoToken
from relayd.relay.survey import Endpoint
from relayd.relay.trouble import SessionError
from relayd.smtp.client import SmtpClient
from relayd.smtp.events import ClientEvent, LoggedIn, LoginChallenge, LoginRefused, Ready
from tests.support import TestCase
from tests.unit.relay.fakes import Log

VERIFIER = Verifier.of("pencil", iterations=4096)
ENDPOINT = Endpoint("smtp.isp.example", "192.0.2.1", 587)


def hop(login: str = "", *, without_tls: bool = False) -> NextHop:
    hosts = (HostPort("smtp.isp.example", 587),)
    return NextHop("isp", hosts=hosts, login=login, login_without_tls=without_tls)


class Server:
    """The other side: our own mechanisms, or whatever the test wants it to say."""

    _machine: Mechanism

    def __init__(self, offered: str, answers: list[str] | None = None) -> None:
        self.core = SmtpClient("me.example")
        self.heard: list[str] = []
        self.answers = answers
        for line in ("220 hi", f"250-mx\r\n250 AUTH {offered}"):
            self.core.receive_data(f"{line}\r\n".encode())
            event = self.core.next_event()
            self.core.data_to_send()
        assert isinstance(event, Ready)

    def say(self, line: str) -> str:
        """The answer to one line of the client."""
        self.heard.append(line)
        if self.answers is not None:
            return self.answers.pop(0)
        try:
            if line.startswith("AUTH "):
                _, name, *initial = line.split()
                first = b64decode(initial[0]) if initial else None
                self._machine = MECHANISMS[name](first, Channel())
                question = next(self._machine)
            else:
                question = self._machine.send(b64decode(line))
            while not isinstance(question, Challenge):
                if isinstance(question, CheckPassword):
                    question = self._machine.send(VERIFIER.accepts(question.password))
                else:
                    question = self._machine.send(VERIFIER)
            return f"334 {b64encode(question.octets).decode()}"
        except StopIteration:
            return "235 2.7.0 welcome"
        except LoginError:
            return "535 5.7.8 wrong"


class FakeTokens:
    """Gives these, one after the other."""

    def __init__(self, *given: tuple[str, bool] | NoToken) -> None:
        self.given = list(given)
        self.refused: list[str] = []

    def provider(self, name: str) -> Provider | None:
        return Provider(name=name, user="ann", token_url="https://idp.example/token")

    async def token(self, provider: Provider) -> tuple[str, bool]:
        given = self.given.pop(0)
        if isinstance(given, NoToken):
            raise given
        return given

    def rejected(self, name: str, access: str) -> None:
        self.refused.append(access)


class LoginTests(TestCase):
    def setUp(self) -> None:
        self.log = Log()
        self.secrets = {"isp": Secret("user", "pencil")}
        self.logins = Logins(lambda: self.secrets, self.log, self.in_thread)

    def in_thread(self, work: Callable[[], bytes]) -> Deferred[bytes]:
        done: Deferred[bytes] = Deferred()
        try:
            done.callback(work())
        except Exception as error:
            done.errback(error)
        return done

    def play(
        self,
        server: Server,
        *,
        without_tls: bool = False,
        tls: bool = True,
        login: Login | None = None,
    ) -> tuple[Reply | None, list[str]]:
        """Log in; the refusal, and what the server heard."""
        login = login or self.logins.of(hop("isp", without_tls=without_tls), ENDPOINT)
        assert login is not None
        ends: list[Reply | None] = []
        events: list[ClientEvent] = []

        def turn() -> None:
            for line in server.core.data_to_send().decode().splitlines():
                server.core.receive_data(server.say(line).encode() + b"\r\n")
            while (event := server.core.next_event()) is not None:
                events.append(event)

        talk = Conversation(login, server.core, turn, ends.append)
        talk.begin({}, tls=tls)
        while events:
            event = events.pop(0)
            assert isinstance(event, LoginChallenge | LoggedIn | LoginRefused), event
            self.successResultOf(Deferred.fromCoroutine(talk.take(event)))
        [end] = ends
        return end, server.heard

    def test_every_mechanism(self) -> None:
        for offered, chosen in (
            ("LOGIN PLAIN SCRAM-SHA-256", "SCRAM-SHA-256"),
            ("LOGIN PLAIN", "PLAIN"),
            ("LOGIN", "LOGIN"),
        ):
            end, heard = self.play(Server(offered))
            self.assertIsNone(end)
            self.assertTrue(heard[0].startswith(f"AUTH {chosen}"))

    def test_refused_is_said_once_loudly_and_its_end_once(self) -> None:
        for name in ("PLAIN", "LOGIN", "SCRAM-SHA-256"):
            self.secrets["isp"] = Secret("user", "wrong")
            end, _ = self.play(Server(name))
            self.assertEqual(
                str(end),
                "451 4.7.8 Login isp was refused by smtp.isp.example: "
                "535 5.7.8 authentication credentials invalid",
            )
        self.assertEqual(len(self.log.troubles), 1)
        self.secrets["isp"] = Secret("user", "pencil")
        for _ in range(2):
            self.assertIsNone(self.play(Server("PLAIN"))[0])
        self.assertEqual(len(self.log.notices), 1)

    def test_what_is_not_even_tried(self) -> None:
        for offered, tls, expected in (
            ("PLAIN", False, "451 4.7.11 "),
            ("GSSAPI CRAM-MD5", True, "451 4.7.9 "),
        ):
            end, heard = self.play(Server(offered), tls=tls)
            self.assertEqual(heard, [])
            self.assertTrue(str(end).startswith(expected), end)
        del self.secrets["isp"]
        self.assertTrue(str(self.play(Server("PLAIN"))[0]).startswith("451 4.3.5 "))

    def test_in_the_clear_where_it_is_said(self) -> None:
        self.assertIsNone(self.play(Server("PLAIN"), without_tls=True, tls=False)[0])

    def test_a_server_that_does_not_prove_itself(self) -> None:
        false = "334 " + b64encode(b"v=" + b64encode(b"x" * 32)).decode()

        class Impostor(Server):
            def say(self, line: str) -> str:
                said = super().say(line)
                if len(self.heard) == 2:
                    return false
                return "501 5.7.0 cancelled" if line == "*" else said

        end, heard = self.play(Impostor("SCRAM-SHA-256"))
        self.assertIn("wrong signature of the server", str(end))
        self.assertEqual(heard[-1], "*")
        end, _ = self.play(Server("SCRAM-SHA-256", ["235 2.7.0 come in"]))
        self.assertIn("did not prove", str(end))

    def test_a_server_that_repeats_what_it_refuses_gives_no_secret_away(self) -> None:
        """Not in the log, not to the sender: in whatever line, under whatever code."""
        secrets = [b"\0user\0pencil", b"user", b"pencil"]
        shapes = [*(b64encode(each).decode() for each in secrets), "pencil"]

        class Echo(Server):
            refuses = ""
            reply = ""

            def say(self, line: str) -> str:
                if line.startswith(self.refuses):
                    return self.reply.format(line)
                return {"AUTH LOGIN": "334 VXNlcm5hbWU6"}.get(line, "334 UGFzc3dvcmQ6")

        replies = (
            *("500 unrecognized command: {}", "535 5.7.8 bad: {}", "454 4.7.0 {}", "599 {}"),
            "501-5.5.2 cannot\r\n501 5.5.2 decode {}",
        )
        lines = ("AUTH PLAIN", "dXNlcg==", "cGVuY2ls")
        for refused, reply in itertools.product(lines, replies):
            with self.subTest(line=refused, reply=reply):
                self.log.troubles.clear()
                logins = Logins(lambda: self.secrets, self.log, self.in_thread)
                echo = Echo("PLAIN" if refused == "AUTH PLAIN" else "LOGIN")
                echo.refuses, echo.reply = refused, reply
                end, _ = self.play(echo, login=logins.of(hop("isp"), ENDPOINT))
                told = f"{end} {self.log.troubles}"
                self.assertIn(f"was refused by smtp.isp.example: {reply[:3]} ", told)
                for shape in shapes:
                    self.assertNotIn(shape, told)

    # by tokens

    def by_token(self, tokens: FakeTokens, *answers: str) -> tuple[Login, str, list[str]]:
        """One attempt at it; what the mail hears, and what the server heard."""
        self.logins.tokens = tokens
        login = self.logins.of(hop("isp"), ENDPOINT)
        assert login is not None
        end, heard = self.attempt(login, *answers)
        return login, end, heard

    def attempt(self, login: Login, *answers: str) -> tuple[str, list[str]]:
        prepared = Deferred.fromCoroutine(login.prepare())
        if isinstance(prepared.result, Failure):
            return str(self.failureResultOf(prepared, SessionError).value), []
        server = Server("OAUTHBEARER", list(answers))
        end, heard = self.play(server, login=login)
        return str(end), heard

    def test_a_token_that_is_over_is_renewed_and_tried_once_more(self) -> None:
        tokens = FakeTokens(("old", False), ("new", True))
        told = "334 " + b64encode(b'{"status":"invalid_token"}').decode()
        login, end, heard = self.by_token(tokens, told, "535 5.7.8 no")
        self.assertIn("535 5.7.8 authentication credentials invalid (status=invalid_token)", end)
        self.assertEqual(heard[1], b64encode(b"\1").decode())
        self.assertEqual((tokens.refused, self.log.troubles), (["old"], []))
        self.assertFalse(login.hopeless)
        self.assertTrue(login.renew())
        self.assertEqual(self.attempt(login, "235 2.7.0 welcome")[0], "None")
        self.assertFalse(login.renew())

    def test_but_not_for_ever(self) -> None:
        tokens = FakeTokens(("old", False), ("old", False))  # the provider has no other
        login, _, _ = self.by_token(tokens, "535 5.7.8 no")
        self.assertTrue(login.renew())
        self.assertIn("535 5.7.8 ", self.attempt(login, "535 5.7.8 no")[0])
        self.assertFalse(login.renew())
        self.assertTrue(login.hopeless)
        self.assertEqual(len(self.log.troubles), 1)

    def test_no_token(self) -> None:
        for final, status in ((True, "4.7.8"), (False, "4.7.0")):
            tokens = FakeTokens(NoToken("invalid_grant", final=final))
            login, end, heard = self.by_token(tokens)
            self.assertEqual((login.hopeless, login.renew(), heard), (True, False, []))
            self.assertEqual(
                end, f"451 {status} Login isp: no token from idp.example: invalid_grant"
            )

    def test_next_hops_without_a_login(self) -> None:
        self.assertIsNone(self.logins.of(hop(), ENDPOINT))
        self.assertIsNone(self.logins.of("example.com", ENDPOINT))
