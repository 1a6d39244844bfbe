"""Tokens at next hops: refreshed once for all, in time, and never lost; what trouble looks like."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import Clock

from relayd.login.oauth import CLIENT, Provider
from relayd.login.oauth import GrantedTokens as Given
from relayd.login.tokenfile import TokenFileError, TokenFiles, held
from relayd.ops.answers import OauthLoginAnswer
from relayd.relay.enrolment import Enrolment
from relayd.relay.https import HttpAnswer, HttpError, Https
from relayd.relay.logins import NoToken
from relayd.relay.tokenkeeper import Keeper
from relayd.relay.tokens import Token, Tokens
from tests.support import TestCase
from tests.unit.ops.test_answers import wrong
from tests.unit.relay.fakes import Log

START = 1_800_000_000.0
IDP = Provider(
    name="isp",
    user="ann@example.com",
    token_url="https://idp.example/token",
    device_url="https://idp.example/device",
    client="c",
)


def at_once(work: Callable[[], Any]) -> Deferred[Any]:
    done: Deferred[Any] = Deferred()
    try:
        done.callback(work())
    except Exception as error:
        done.errback(error)
    return done


class Web:
    """A provider that says what the test wants, when it wants."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answers: list[HttpAnswer | HttpError] = []
        self.later: Deferred[None] | None = None

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> HttpAnswer:
        self.asked.append(body)
        if self.later is not None:
            await self.later
        answer = self.answers.pop(0)
        if isinstance(answer, HttpError):
            raise answer
        return answer

    def says(self, status: int, **fields: object) -> None:
        body = json.dumps(fields).encode()
        self.answers.append(HttpAnswer(status, "application/json", body))

    def gives(self, access: str, refresh: str = "", lifetime: float = 3600.0) -> None:
        more = {"refresh_token": refresh} if refresh else {}
        self.says(200, access_token=access, expires_in=lifetime, **more)


class TokenTests(TestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.jump = 0.0
        self.web = Web()
        self.folder = Path(self.mktemp())
        self.providers = {"isp": IDP}
        self.log = Log()
        self.files, self.tokens = self.process()

    def process(self) -> tuple[TokenFiles, Tokens]:
        """Another process of the same relayd."""
        files = TokenFiles(self.folder)
        self.keeper = Keeper(self.clock, files, cast(Https, self.web), at_once, self.now)
        tokens = Tokens(self.keeper, lambda: self.providers, self.log, lambda: 0.0)
        self.addCleanup(self.stop, tokens)
        return files, tokens

    def stop(self, tokens: Tokens) -> None:
        stopped = Deferred.fromCoroutine(tokens.stop(1.0))
        self.clock.advance(2.0)
        self.successResultOf(stopped)

    def now(self) -> float:
        return START + self.clock.seconds() + self.jump

    def enrolled(self, access: str = "at-1", lifetime: float | None = 3600.0) -> None:
        until = None if lifetime is None else self.now() + lifetime
        self.files.save("isp", held(IDP, Given(access, "rt-1", self.now(), until)))

    def token(self, tokens: Tokens | None = None) -> Deferred[Token]:
        return Deferred.fromCoroutine((tokens or self.tokens).token(self.providers["isp"]))

    def access(self) -> str:
        return self.successResultOf(self.token()).access

    def refusal(self) -> NoToken:
        error = self.failureResultOf(self.token()).value
        assert isinstance(error, NoToken)
        return error

    def run_for(self, seconds: float) -> None:
        self.clock.pump([0.5] * int(seconds * 2))

    # in demand

    def test_a_good_one_is_not_asked_for(self) -> None:
        self.enrolled()
        self.assertEqual(self.successResultOf(self.token()), Token("at-1", fresh=False))
        self.assertEqual(self.web.asked, [])

    def test_all_who_wait_get_the_same(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        self.web.later = Deferred()
        self.web.gives("at-2", "rt-2")
        waiting = [self.token() for _ in range(3)]
        waiting[0].cancel()  # its delivery was cut off; the others', and the answer, are not
        self.failureResultOf(waiting[0], CancelledError)
        self.web.later.callback(None)
        for each in waiting[1:]:
            self.assertEqual(self.successResultOf(each), Token("at-2", fresh=True))
        self.assertEqual(len(self.web.asked), 1)

    def test_another_process_waits_and_reads(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        _, other = self.process()
        self.web.later = Deferred()
        self.web.gives("at-2", "rt-2")
        ours, theirs = self.token(), self.token(other)
        self.run_for(5)
        self.assertNoResult(theirs)
        self.web.later.callback(None)
        self.assertEqual(self.successResultOf(ours), Token("at-2", fresh=True))
        self.run_for(1)
        self.assertEqual(self.successResultOf(theirs), Token("at-2", fresh=False))
        self.assertEqual(len(self.web.asked), 1)

    def test_a_lock_that_is_never_free(self) -> None:
        lock = self.files.lock("isp")
        assert lock is not None
        waiting = self.token()
        self.run_for(160)
        self.assertIn("locked by another process", str(self.failureResultOf(waiting).value))

    def test_one_that_a_next_hop_rejects(self) -> None:
        self.enrolled(lifetime=None)
        self.tokens.rejected("isp", "at-1")
        self.web.gives("at-2", "rt-2")
        self.assertEqual(self.successResultOf(self.token()), Token("at-2", fresh=True))
        self.assertEqual(self.access(), "at-2")
        self.assertEqual(len(self.web.asked), 1)

    def test_the_clock_jumps(self) -> None:
        self.enrolled()
        for jump, access in ((-7200.0, "at-2"), (+9000.0, "at-3")):
            self.jump += jump
            self.web.gives(access)
            self.assertEqual(self.access(), access)
            self.assertEqual(self.access(), access)
        self.assertEqual(len(self.web.asked), 2)

    def test_a_client_of_its_own(self) -> None:
        self.providers["isp"] = replace(IDP, grant=CLIENT, secret="x", device_url="")
        self.web.answers.append(HttpError("idp.example: timed out"))
        self.assertEqual(str(self.refusal()), "idp.example: timed out")
        self.web.gives("at-1")
        self.assertEqual(self.access(), "at-1")

    # trouble

    def test_not_enrolled(self) -> None:
        for _ in range(2):
            error = self.refusal()
            self.assertTrue(error.final)
            self.assertIn("relayctl oauth enroll isp", str(error))
        self.assertEqual(len(self.log.troubles), 1)
        self.enrolled()
        self.assertEqual(self.access(), "at-1")  # noticed by itself

    def test_refused_is_said_once_and_asked_again_and_an_enrolment_mends_it(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        for number in range(3):
            self.web.says(400, error="invalid_grant", error_description="rt-1 is revoked")
            error = self.refusal()
            self.assertEqual((str(error), error.final), ("invalid_grant: *** is revoked", True))
            self.assertEqual(len(self.web.asked), number + 1)
        self.assertEqual(len(self.log.troubles), 1)
        self.assertNotIn("rt-1", str(self.log.troubles))
        status = Enrolment(self.keeper).status(IDP)
        self.assertEqual(list(wrong({**status, "next_hops": ["out"]}, OauthLoginAnswer)), [])
        self.assertEqual((status["state"], status["trouble"]), ("trouble", str(error)))
        self.enrolled("at-2")
        self.assertEqual(self.access(), "at-2")

    def test_no_refresh_token(self) -> None:
        self.files.save("isp", held(IDP, Given("at-1", "", START, START + 60)))
        self.clock.advance(61)
        self.assertIn("there is no refresh token", str(self.refusal()))
        self.assertEqual(self.web.asked, [])

    def test_tokens_of_other_settings_are_shown_to_nobody(self) -> None:
        self.enrolled()
        self.providers["isp"] = replace(IDP, token_url="https://evil.example/token")
        self.assertIn("not enrolled", str(self.refusal()))
        self.assertEqual(self.web.asked, [])

    def test_a_disk_that_is_full(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        self.patch(TokenFiles, "place", _full)  # before the provider is asked
        self.assertIn("no room", str(self.refusal()))
        self.assertEqual(self.web.asked, [])

    def test_an_answer_that_cannot_be_saved_is_not_used_and_not_lost(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        self.web.gives("at-2", "rt-2")
        save = TokenFiles.save
        self.patch(TokenFiles, "save", _full)
        self.assertIn("no room", str(self.refusal()))
        self.assertIn("no room", str(self.refusal()))
        self.patch(TokenFiles, "save", save)
        self.assertEqual(self.access(), "at-2")
        self.assertEqual(len(self.web.asked), 1)  # rt-1 was good only once
        found = TokenFiles(self.folder).read("isp")
        assert found is not None
        self.assertEqual(found.tokens.refresh, "rt-2")

    # in advance

    def test_refreshed_before_it_expires(self) -> None:
        self.enrolled()
        self.tokens.start()
        self.run_for(3290)
        self.assertEqual(self.web.asked, [])
        self.web.gives("at-2", "rt-2")
        self.run_for(15)
        self.assertEqual(len(self.web.asked), 1)
        self.assertEqual(self.access(), "at-2")

    def test_a_short_life_found_in_demand_is_seen_in_time(self) -> None:
        self.tokens.start()
        self.run_for(5)  # and looks again in 20 seconds
        self.enrolled(lifetime=8.0)
        self.assertEqual(self.access(), "at-1")
        self.web.gives("at-2", "rt-2", 8.0)
        self.run_for(7)
        self.assertEqual(len(self.web.asked), 1)

    def test_a_provider_that_is_down_is_asked_less_and_less_while_the_old_one_is_good(self) -> None:
        self.enrolled()
        self.tokens.start()
        self.web.answers += [HttpError("down")] * 9
        self.run_for(3500)
        self.assertEqual(self.access(), "at-1")
        self.assertEqual(len(self.log.troubles), 1)
        self.assertGreaterEqual(len(self.web.asked), 3)
        self.assertLessEqual(len(self.web.asked), 6)

    def test_a_final_no_is_not_asked_for_in_advance_again(self) -> None:
        self.enrolled()
        self.tokens.start()
        self.web.says(400, error="invalid_grant")
        self.run_for(9000)
        self.assertEqual(len(self.web.asked), 1)
        self.enrolled("at-2")
        self.web.gives("at-3", "rt-3")
        self.run_for(3500)
        self.assertEqual(self.access(), "at-3")

    def test_stopping_waits_for_an_answer_that_comes_only_once(self) -> None:
        self.enrolled()
        self.clock.advance(4000)
        self.web.later = Deferred()
        self.web.gives("at-2", "rt-2")
        waiting = self.token()
        stopped = Deferred.fromCoroutine(self.tokens.stop(5.0))
        self.assertNoResult(stopped)
        self.web.later.callback(None)
        self.successResultOf(stopped)
        self.assertEqual(self.successResultOf(waiting).access, "at-2")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    # enrolment

    def test_shows_and_asks_until_somebody_has_entered_the_code(self) -> None:
        shown: list[dict[str, object]] = []

        def show(document: dict[str, object]) -> Deferred[None]:
            shown.append(document)
            return succeed(None)

        self.web.says(
            200, device_code="dc-1", user_code="W", verification_uri="https://i/", expires_in=99
        )
        self.web.says(400, error="authorization_pending")
        self.web.answers.append(HttpError("timed out"))
        self.web.gives("at-1", "rt-1")
        done = Deferred.fromCoroutine(Enrolment(self.keeper).enroll(IDP, show))
        self.run_for(19.5)
        self.assertNoResult(done)
        self.run_for(1)
        self.assertEqual(self.successResultOf(done).tokens.access, "at-1")
        self.assertEqual(shown[0]["code"], "W")
        self.assertNotIn("dc-1", str(shown))
        self.assertEqual(self.access(), "at-1")


def _full(*_: object) -> None:
    raise TokenFileError("no room on the disk")
