"""Tokens of OAuth2: what is asked, what an answer means, what is kept; never a secret in words."""

from __future__ import annotations

import base64
import json
import os
import stat
import unittest
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import parse_qs

from hypothesis import given
from hypothesis import strategies as st

from relayd.login.bearer import Bearer, bearer_initiator
from relayd.login.deviceflow import DeviceFlow
from relayd.login.oauth import (
    CLIENT,
    MOST_LIFETIME,
    DeviceCode,
    GrantedTokens,
    OauthError,
    Provider,
    ask_as_client,
    ask_device_code,
    ask_with_device_code,
    ask_with_refresh_token,
    read_device_code,
    read_tokens,
)
from relayd.login.tokenfile import Held, TokenFileError, TokenFiles, held

IDP = Provider(
    name="isp",
    user="ann@example.com",
    token_url="https://idp.example/token",
    device_url="https://idp.example/device",
    client="c:1",
    scope="mail offline_access",
)
SECRET = replace(IDP, secret="hunter 2/:", grant=CLIENT)
DEVICE = DeviceCode("dc-secret", "WDJB", "https://idp.example/enter", "", 600.0, 5.0)
NOW = 1_800_000_000.0


def answer(**fields: object) -> bytes:
    return json.dumps({"access_token": "at-1", "token_type": "Bearer", **fields}).encode()


class Questions(unittest.TestCase):
    def test_forms(self) -> None:
        for question, url, form in (
            (
                ask_device_code(IDP),
                IDP.device_url,
                {"client_id": ["c:1"], "scope": ["mail offline_access"]},
            ),
            (
                ask_with_device_code(IDP, DEVICE),
                IDP.token_url,
                {
                    "grant_type": ["urn:ietf:params:oauth:grant-type:device_code"],
                    "device_code": ["dc-secret"],
                    "client_id": ["c:1"],
                },
            ),
            (
                ask_with_refresh_token(IDP, "rt&1"),
                IDP.token_url,
                {"grant_type": ["refresh_token"], "refresh_token": ["rt&1"], "client_id": ["c:1"]},
            ),
        ):
            self.assertEqual((question.url, parse_qs(question.body.decode())), (url, form))
            self.assertEqual(question.authorization, "")
            self.assertNotIn("dc-secret", repr(question) + repr(DEVICE))
            self.assertNotIn("rt&1", repr(question))

    def test_a_client_that_proves_itself(self) -> None:
        question = ask_as_client(SECRET)
        self.assertEqual(parse_qs(question.body.decode())["grant_type"], ["client_credentials"])
        kind, _, value = question.authorization.partition(" ")
        # RFC 6749 section 2.3.1: each encoded as in a form, then Basic
        self.assertEqual((kind, base64.b64decode(value)), ("Basic", b"c%3A1:hunter+2%2F%3A"))
        self.assertNotIn("hunter", repr(SECRET) + repr(question) + question.body.decode())


class Answers(unittest.TestCase):
    def refusal(self, status: int, body: bytes, *hide: str) -> OauthError:
        with self.assertRaises(OauthError) as caught:
            read_tokens(status, body, NOW, hide)
        return caught.exception

    def test_tokens(self) -> None:
        full = read_tokens(200, answer(expires_in=3600, refresh_token="rt-1"), NOW)
        self.assertEqual(full, GrantedTokens("at-1", "rt-1", NOW, NOW + 3600))
        self.assertNotIn("at-1", repr(full))
        for said, until in (
            ({}, None),
            ({"expires_in": "60"}, NOW + 60),  # as some say it
            ({"expires_in": 0.5}, NOW + 0.5),
            ({"expires_in": -5}, NOW),
            ({"expires_in": 10**12}, NOW + MOST_LIFETIME),
        ):
            self.assertEqual(read_tokens(200, answer(**said), NOW).expires_at, until)

    def test_what_is_no_token(self) -> None:
        for body in (
            b"",
            b"<html>",
            b"\xff",
            b"[]",
            b"[" * 100_000,
            b"{}",
            answer(token_type="mac"),
            answer(access_token=5),
            answer(access_token="a\1auth=Bearer b"),  # it would say more than it should
            answer(access_token="a\r\nb"),
            answer(access_token="a" * 20_000),
            answer(expires_in="soon"),
            answer(expires_in=True),
            b'{"access_token": "a", "expires_in": 1e999}',
            b'{"access_token": "a", "expires_in": NaN}',
        ):
            self.assertFalse(self.refusal(200, body).final, body[:50])

    def test_refusals(self) -> None:
        said = b'{"error": "invalid_grant", "error_description": "no rt-7\\r\\nhere\\u2028"}'
        error = self.refusal(400, said, "rt-7", "")
        self.assertEqual((str(error), error.final), ("invalid_grant: no *** here", True))
        for shape in ("rt%2F7", "cnQvNw", "cnQvNw=="):
            said = b'{"error": "invalid_grant", "error_description": "no %s"}' % shape.encode()
            self.assertNotIn(shape.rstrip("="), str(self.refusal(400, said, "rt/7")))
        for status, body, words in (
            (500, b'{"error": "invalid_grant"}', "it said 500 (invalid_grant)"),
            (503, b"", "it said 503"),
            (404, b"<html>", "it said 404"),
            (302, b"", "it said 302"),
            (400, b'{"error": 7}', "it said 400 (7)"),
            (400, b'{"error": "temporarily_unavailable"}', "temporarily_unavailable"),
        ):
            error = self.refusal(status, body)
            self.assertEqual((str(error), error.final), (words, False))

    @given(st.integers(100, 599), st.binary(max_size=200))
    def test_anything_else_is_an_error_of_its_own(self, status: int, body: bytes) -> None:
        self.assertNotEqual(str(self.refusal(status, body)), "")
        with self.assertRaises(OauthError):
            read_device_code(status, body)

    def test_device_codes(self) -> None:
        said = {"device_code": "dc", "user_code": "W", "verification_uri": "https://i/e"}
        for more, patience, interval in (
            ({"expires_in": 600}, 600.0, 5.0),
            ({"expires_in": 10**9, "interval": 0}, 3600.0, 1.0),
            ({"expires_in": "60", "interval": 10**9}, 60.0, 300.0),
        ):
            code = read_device_code(200, json.dumps({**said, **more}).encode())
            self.assertEqual((code.expires_in, code.interval), (patience, interval))
        old = {"device_code": "dc", "user_code": "W", "verification_url": "u", "expires_in": 5}
        self.assertEqual(read_device_code(200, json.dumps(old).encode()).url, "u")
        with self.assertRaises(OauthError):
            read_device_code(200, json.dumps(said).encode())  # without an end


class Flow(unittest.TestCase):
    def test_pending_slower_and_no_answer(self) -> None:
        flow = DeviceFlow(DEVICE, 0.0)
        waits = []
        for code in ("authorization_pending", "slow_down", "authorization_pending", "", ""):
            flow.heard(OauthError("words", code), 10.0)
            waits.append(flow.wait)
        self.assertEqual(waits, [5.0, 10.0, 10.0, 20.0, 40.0])

    def test_its_ends(self) -> None:
        for code, now, words in (
            ("access_denied", 1.0, "it was denied"),
            ("expired_token", 1.0, "the code has expired"),
            ("invalid_client", 1.0, "words"),
            ("authorization_pending", 599.0, "nobody entered the code in time"),
            ("", 599.0, "nobody entered the code in time (words)"),
        ):
            with self.assertRaisesRegex(OauthError, f"^{words[:30]}") as caught:
                DeviceFlow(DEVICE, 0.0).heard(OauthError("words", code), now)
            self.assertEqual(str(caught.exception), words)


class Mechanisms(unittest.TestCase):
    BEARER = Bearer("a=b,c@example.com", "at-1", "smtp.isp.example", 587)

    def test_what_is_said(self) -> None:
        standard = bearer_initiator(self.BEARER, ("PLAIN", "XOAUTH2", "OAUTHBEARER"))
        older = bearer_initiator(self.BEARER, ("PLAIN", "XOAUTH2"))
        assert standard is not None
        assert older is not None
        self.assertEqual(
            standard.initial(),
            b"n,a=a=3Db=2Cc@example.com,\1host=smtp.isp.example\1port=587\1auth=Bearer at-1\1\1",
        )
        self.assertEqual(older.initial(), b"user=a=b,c@example.com\1auth=Bearer at-1\1\1")
        self.assertIsNone(bearer_initiator(self.BEARER, ("PLAIN", "SCRAM-SHA-256")))
        self.assertNotIn("at-1", repr(self.BEARER))

    def test_the_challenge_that_is_an_error(self) -> None:
        for offered, closing in (("OAUTHBEARER", b"\1"), ("XOAUTH2", b"")):
            for challenge, note in (
                (b'{"status":"401","schemes":"bearer","scope":"at-1\\n x"}', "status=401"),
                (b'{"status":"invalid_token"}', "status=invalid_token"),
                (b'{"status":"YXQtMQ"}', ""),  # the token, in base64
                (b"not JSON", ""),
                (b"[1]", ""),
            ):
                speaker = bearer_initiator(self.BEARER, (offered,))
                assert speaker is not None
                self.assertEqual(speaker.respond(challenge), closing)
                self.assertEqual(speaker.note, note)


class Files(unittest.TestCase):
    def setUp(self) -> None:
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "oauth"
        self.files = TokenFiles(self.folder)
        self.held = held(IDP, GrantedTokens("at-1", "rt-1", NOW, NOW + 3600))

    def test_kept_read_and_removed(self) -> None:
        self.assertIsNone(self.files.read("isp"))
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        self.files.save("isp", self.held)
        path = self.folder / "isp.json"
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(stat.S_IMODE(self.folder.stat().st_mode), 0o700)
        self.assertEqual(TokenFiles(self.folder).read("isp"), self.held)
        newer = held(IDP, GrantedTokens("at-2", "", NOW, None), self.held)
        self.files.save("isp", newer)
        found = self.files.read("isp")
        assert found is not None
        self.assertEqual((found.tokens.access, found.tokens.refresh), ("at-2", "rt-1"))
        self.assertTrue(self.files.remove("isp"))
        self.assertFalse(self.files.remove("isp"))
        self.assertIsNone(self.files.read("isp"))
        self.assertEqual(list(self.folder.iterdir()), [])

    def test_room_that_is_not_used_leaves_the_old_file(self) -> None:
        self.files.save("isp", self.held)
        self.files.place("isp").leave()
        self.assertEqual(TokenFiles(self.folder).read("isp"), self.held)
        self.assertEqual([path.name for path in self.folder.iterdir()], ["isp.json"])

    def test_what_cannot_be_used(self) -> None:
        self.files.save("isp", self.held)
        path = self.folder / "isp.json"
        for text in ("", "[]", "{}", "\x00", '{"binding": 5}', "[" * 100_000):
            path.write_text(text)
            with self.assertRaisesRegex(TokenFileError, "is damaged"):
                self.files.read("isp")
        path.chmod(0o640)
        with self.assertRaisesRegex(TokenFileError, "open to others"):
            self.files.read("isp")
        (self.folder.parent / "file").touch()
        with self.assertRaisesRegex(TokenFileError, "no room in"):
            TokenFiles(self.folder.parent / "file").place("isp")

    def test_one_at_a_time(self) -> None:
        lock = self.files.lock("isp")
        assert lock is not None
        self.assertIsNone(TokenFiles(self.folder).lock("isp"))
        other = self.files.lock("other")
        assert other is not None
        os.close(other)
        os.close(lock)
        again = self.files.lock("isp")
        assert again is not None
        os.close(again)

    def test_another_client_or_provider_gets_no_token_of_this_one(self) -> None:
        self.assertTrue(self.held.fits(replace(IDP, scope="less", device_url="https://x/")))
        for other in (
            replace(IDP, token_url="https://evil.example/token"),
            replace(IDP, client="other"),
            replace(IDP, user="bob@example.com"),
            SECRET,
        ):
            self.assertFalse(self.held.fits(other))


class Lives(unittest.TestCase):
    def held(self, lifetime: float | None) -> Held:
        until = None if lifetime is None else NOW + lifetime
        return held(IDP, GrantedTokens("at-1", "rt-1", NOW, until))

    def test_an_hour(self) -> None:
        one = self.held(3600)
        self.assertEqual(one.refresh_at(0.0), NOW + 3300)
        self.assertEqual(one.refresh_at(1.0), NOW + 3150)
        for later, good in ((0, True), (3569, True), (3571, False), (-59, True), (-61, False)):
            self.assertEqual(one.usable(NOW + later), good, later)

    def test_a_short_one_and_one_without_end(self) -> None:
        short = self.held(4)
        self.assertEqual(short.refresh_at(0.0), NOW + 3)
        self.assertTrue(short.usable(NOW + 3.5))
        self.assertFalse(short.usable(NOW + 3.7))
        endless = self.held(None)
        self.assertIsNone(endless.refresh_at(0.0))
        self.assertTrue(endless.usable(NOW + 10**9))
        self.assertFalse(endless.usable(NOW - 3600))  # the clock was set back

    def test_one_that_was_never_given(self) -> None:
        self.assertFalse(held(IDP, GrantedTokens("", "", NOW, NOW)).usable(NOW))
