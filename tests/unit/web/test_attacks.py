"""What strangers, other pages and those who may not try at the console; none of it works."""

from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import Deferred

from relayd.login.guesses import PER_ADDRESS
from relayd.login.totp import STEP, code_at
from relayd.mail.ident import ident_text
from relayd.mail.message import RecipientState
from relayd.web.exchange import WebAnswer
from relayd.web.sessions import COOKIE, IDLE, LONGEST, Sessions
from relayd.web.site import ANSWER_TIME, MAX_BODY, MOST, REQUEST_TIME
from tests.support import TestCase
from tests.unit.ops.test_control import reactor
from tests.unit.web.scene import PASSWORD, SECRET, Browser, Scene


def later(seconds: float = 0.0) -> Deferred[None]:
    """Let the sockets be heard."""
    waited: Deferred[None] = Deferred()
    reactor.callLater(seconds, waited.callback, None)
    return waited


class Attacks(Scene, TestCase):
    async def waits(self) -> tuple[str, Any]:
        """A message that waits, and how its recipient stands."""
        message, _ = await self.accept("bob@elsewhere.example")

        async def state() -> RecipientState:
            found = await self.spools[0].load(message.ident)
            assert found is not None
            return found[1][0].state

        return ident_text(message.ident), state

    async def held_by(self, browser: Browser, ident: str, **fields: Any) -> int:  # noqa: ANN401
        form = {"token": browser.token, "command": "hold", f"id.{ident}": "yes", "back": "/queue"}
        return (await browser.ask("/act", form, **fields)).status

    async def test_an_operator_acts_and_the_log_has_his_name(self) -> None:
        """What the others here are measured by."""
        ident, state = await self.waits()
        browser = self.browser()
        self.assertEqual((await browser.log_in("olga")).status, 303)
        self.assertIn(ident, (await browser.ask("/queue")).text)
        self.assertEqual(await self.held_by(browser, ident), 303)
        self.assertIs(await state(), RecipientState.HELD)
        event, facts = self.journal.notices[-1]
        self.assertEqual(
            (event, facts["command"], facts["by"]), ("operator", "hold", "console:olga")
        )

    async def test_a_foreign_origin_a_foreign_site_or_none_of_ours(self) -> None:
        ident, state = await self.waits()
        for name in ("people", "admin"):
            browser = self.browser(name)
            if name == "people":
                await browser.log_in("olga")
            await browser.ask("/queue")
            for fields in (
                {"origin": "https://evil.example"},
                {"origin": "null"},
                {"origin": "http://gw.example.com"},
                {"origin": "https://localhost.evil.example"},
                {"origin": "http://localhost:8080"},
                {"sec_fetch_site": "cross-site"},
                {"sec_fetch_site": "same-site"},
            ):
                with self.subTest(name=name, **fields):
                    self.assertEqual(await self.held_by(browser, ident, **fields), 403)
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_no_token_an_old_one_anothers_and_one_of_before_the_login(self) -> None:
        ident, state = await self.waits()
        browser, other = self.browser(), self.browser()
        before = (await browser.ask("/login")).token
        await browser.log_in("olga")
        await other.log_in("ada")
        await other.ask("/queue")
        await browser.ask("/queue")
        for token in ("", before, other.token, "0" * 64, "\u00e9"):
            with self.subTest(token=token):
                browser.token = token
                self.assertEqual(await self.held_by(browser, ident), 403)
        admin = self.browser("admin")  # no cookie there, but a token all the same
        admin.token = other.token
        self.assertEqual(await self.held_by(admin, ident), 403)
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_a_session_that_rested_too_long_or_lasts_too_long_is_over(self) -> None:
        ident, state = await self.waits()
        browser = self.browser()
        await browser.log_in("olga")
        await browser.ask("/queue")
        self.moment += IDLE + 1
        self.assertEqual(await self.held_by(browser, ident), 403)
        await browser.log_in("olga")
        for _ in range(int(LONGEST // IDLE) + 1):
            self.moment += IDLE - 1
            status = (await browser.ask("/queue")).status
        self.assertEqual(status, 303)  # to the login, although it never rested
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_two_tabs_at_the_login_take_each_other_nothing(self) -> None:
        browser = self.browser()
        first = (await browser.ask("/login")).token
        await browser.ask("/login")
        await browser.ask("/favicon.ico")
        form = {"token": first, "name": "viv", "password": PASSWORD}
        self.assertEqual((await browser.ask("/login", form)).status, 303)

    async def test_get_has_no_effect(self) -> None:
        ident, state = await self.waits()
        browser = self.browser("admin")
        token = (await browser.ask("/queue")).token
        for path in (
            f"/act?token={token}&command=hold&id.{ident}=yes",
            f"/queue?token={token}&command=remove&id.{ident}=yes&sure=yes",
            f"/message/{ident}?command=hold",
            "/logout",
        ):
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "get"):
                await browser.ask(path, method=method)
        shown = self.token_of("admin")
        for method in ("GET", "HEAD"):
            heard = await browser.ask(f"/api/1/hold?ids={ident}", method=method,
                                      authorization=f"Bearer {shown}")  # fmt: skip
            self.assertEqual((heard.status, heard.field("allow")), (405, "POST"))
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_no_page_can_be_framed_or_run_anything_and_nothing_comes_from_outside(
        self,
    ) -> None:
        browser = self.browser("admin")
        for path in ("/", "/queue", "/trace", "/health", "/nowhere", "/api/1/status"):
            heard = await browser.ask(path)
            policy = heard.field("content-security-policy")
            self.assertIn("frame-ancestors 'none'", policy)
            self.assertIn("default-src 'none'", policy)
            self.assertNotIn("unsafe", policy)
            for name, value in (
                ("x-frame-options", "DENY"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
                ("referrer-policy", "same-origin"),
                ("cross-origin-resource-policy", "same-origin"),
            ):
                self.assertEqual(heard.field(name), value, path)
            for word in ("javascript:", " style=", " on", "http://", "https://"):
                tags = "".join(each.partition(">")[0] for each in heard.text.split("<")[1:])
                self.assertNotIn(word, tags, path)
            for script in heard.text.split("<script")[1:]:
                self.assertRegex(script, r'^ src="/[a-z]+-[0-9a-f]{16}\.js" defer></script>')
            self.assertEqual(heard.field("server"), "")

    async def test_a_page_of_others_cannot_have_ours(self) -> None:
        browser = self.browser("admin")
        for mode, status in (("no-cors", 403), ("cors", 403), ("navigate", 200)):
            heard = await browser.ask("/queue", sec_fetch_site="cross-site", sec_fetch_mode=mode)
            self.assertEqual(heard.status, status)

    async def test_a_strangers_name_that_leads_to_the_socket_is_none_of_ours(self) -> None:
        """DNS rebinding, where no login is in the way."""
        browser = self.browser("admin")
        for host, status in (
            ("evil.example", 421), ("localhost.evil.example", 421), ("127.0.0.1.evil.example", 421),
            ("", 400), ("a b", 400), ("localhost@evil.example", 400), ("localhost:99999999", 400),
            ("localhost:8080", 200), ("[::1]:8080", 200), ("GW.example.com", 200),
        ):  # fmt: skip
            raw = await self.raw()
            raw.say(f"GET /queue HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            heard = await raw.ended
            self.assertIn(f" {status} ".encode(), heard[:20], host)
        raw = await self.raw()
        raw.say(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"
                            b"Connection: close\r\n\r\n")  # fmt: skip
        self.assertIn(b" 400 ", (await raw.ended)[:20])
        self.assertEqual((await browser.ask("/queue")).status, 200)

    async def test_a_session_that_was_planted_is_worth_nothing(self) -> None:
        planted = f"{COOKIE}=planted-by-somebody-0123456789"
        victim, thief = self.browser(), self.browser()
        victim.cookie = planted
        page = await victim.ask("/login", cookie=planted)
        own = victim.cookie
        self.assertNotEqual(own, planted)
        form = {"token": page.token, "name": "ada", "password": PASSWORD, "code": ""}
        self.assertEqual((await victim.ask("/login", form, cookie=planted)).status, 403)
        heard = await victim.ask("/login", form, cookie=own)
        self.assertEqual(heard.status, 303)
        self.assertNotIn(heard.cookie, (planted, own))
        for cookie in (planted, own):
            thief.cookie = ""
            self.assertEqual((await thief.ask("/queue", cookie=cookie)).status, 303)
        for word in ("__Host-", "; Path=/;", "Secure", "HttpOnly", "SameSite=Strict"):
            self.assertIn(word, heard.field("set-cookie"))
        self.assertNotIn("Domain", heard.field("set-cookie"))
        doubled = f"{heard.cookie}; {planted}"
        self.assertEqual((await thief.ask("/queue", cookie=doubled)).status, 303)

    async def test_two_tabs_act_and_the_second_finds_what_the_first_has_left(self) -> None:
        ident, _ = await self.waits()
        browser = self.browser()
        await browser.log_in("olga")
        token = (await browser.ask("/queue")).token
        await browser.ask("/queue")  # the other tab
        form = {"token": token, "command": "remove", f"id.{ident}": "yes", "back": "/queue",
                "sure": "yes"}  # fmt: skip
        first, second = [await browser.ask("/act", form) for _ in range(2)]
        self.assertEqual(first.field("location"), "/queue?done=remove&count=1")
        self.assertEqual(second.field("location"), "/queue?done=remove&count=0")

    async def test_after_a_restart_sessions_and_tokens_of_before_are_old(self) -> None:
        ident, state = await self.waits()
        browser, admin = self.browser(), self.browser("admin")
        await browser.log_in("olga")
        await browser.ask("/queue")
        await admin.ask("/queue")
        self.console._sessions = Sessions(lambda: self.moment)
        self.assertEqual((await browser.ask("/queue")).status, 303)
        for each in (browser, admin):
            self.assertEqual(await self.held_by(each, ident), 403)
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_who_has_logged_out_is_out_in_every_tab(self) -> None:
        browser = self.browser()
        await browser.log_in("ada")
        first = (await browser.ask("/queue")).token
        self.assertEqual((await browser.ask("/trace")).token, first)  # two tabs, both good
        kept = browser.cookie
        self.assertEqual((await browser.ask("/logout", {"token": first})).status, 303)
        self.assertEqual((await browser.ask("/queue", cookie=kept)).status, 303)
        form = {"token": first, "command": "reload", "back": "/health"}
        self.assertEqual((await browser.ask("/act", form, cookie=kept)).status, 403)

    async def test_guesses_are_slow_and_counted_with_those_over_smtp(self) -> None:
        browser = self.browser()
        for number in range(PER_ADDRESS - 2):
            heard = await browser.log_in("ada", f"guess {number}")
            self.assertEqual(heard.status, 403)
        self.guesses.begin("unix")  # two over SMTP
        self.guesses.begin("unix")
        for _ in range(2):
            heard = await browser.log_in("ada")  # the right one, too late
            self.assertEqual(heard.status, 429)
        client, command, reply, _ = self.journal.refusals[0]
        self.assertEqual((client.address, command), ("unix", "AUTH CONSOLE"))
        self.assertTrue(reply.startswith("535 5.7.8 "), reply)
        self.assertTrue(self.journal.refusals[-1][2].startswith("454 4.7.0 Too many"))
        heard = await browser.ask("/api/1/status", authorization="Bearer relayd_guessed")
        self.assertEqual((heard.status, heard.field("retry-after")), (429, "60"))
        good = self.token_of("viewer")
        heard = await browser.ask("/api/1/status", authorization=f"Bearer {good}")
        self.assertEqual(heard.status, 200)  # nobody locks out who has a token
        self.moment += 61
        self.assertEqual((await browser.log_in("ada")).status, 303)

    async def test_nobody_learns_which_names_there_are(self) -> None:
        browser = self.browser()
        texts = set()
        for name, password in (
            ("ada", "wrong"), ("nobody", PASSWORD), ("mailonly", PASSWORD), ("tom", PASSWORD),
            ("", ""), ("a b", "x"), ("ada:x", "x"),
        ):  # fmt: skip
            heard = await browser.log_in(name, password)
            texts.add((heard.status, heard.text.replace(heard.token, "")))
        self.assertEqual(len(texts), 1)

    async def test_a_code_is_asked_for_and_good_once(self) -> None:
        browser = self.browser()
        for code, status in (("", 403), ("287083", 403), ("287082", 303), ("287082", 403)):
            with self.subTest(code=code):
                self.assertEqual((await browser.log_in("tom", code=code)).status, status)

    async def test_a_code_of_before_a_restart_is_not_good_after_it(self) -> None:
        """Who has seen it typed may know the password as well."""
        self.assertEqual((await self.browser().log_in("tom", code="287082")).status, 303)
        self.entrance = self.made_entrance(since=self.wall)
        self.assertEqual((await self.browser().log_in("tom", code="287082")).status, 403)
        self.wall += STEP
        code = code_at(SECRET, int(self.wall // STEP))
        self.assertEqual((await self.browser().log_in("tom", code=code)).status, 303)

    async def test_a_viewer_may_not_act_nor_an_operator_reload(self) -> None:
        ident, state = await self.waits()
        viewer, operator = self.browser(), self.browser()
        await viewer.log_in("viv")
        await operator.log_in("olga")
        page = await viewer.ask("/queue")
        self.assertNotIn("/act", page.text)
        self.assertEqual(await self.held_by(viewer, ident), 403)
        await operator.ask("/health")
        form = {"token": operator.token, "command": "reload", "back": "/health"}
        self.assertEqual((await operator.ask("/act", form)).status, 403)
        for role, command, status in (
            ("viewer", "hold", 403), ("viewer", "remove", 403), ("operator", "reload", 403),
            ("operator", "hold", 200),
        ):  # fmt: skip
            shown = self.token_of(role, f"{role}-{command}")
            body = json.dumps({"ids": [ident]} if command != "reload" else {}).encode()
            heard = await viewer.ask(f"/api/1/{command}", body=body, kind="application/json",
                                     authorization=f"Bearer {shown}")  # fmt: skip
            self.assertEqual(heard.status, status, f"{role} {command}: {heard.text}")
        self.assertIs(await state(), RecipientState.HELD)

    async def test_who_loses_his_role_loses_it_at_once(self) -> None:
        browser = self.browser()
        await browser.log_in("ada")
        self.assertEqual((await browser.ask("/queue")).status, 200)
        del self.seats["ada"]
        self.assertEqual((await browser.ask("/queue")).status, 303)

    async def test_a_cookie_is_no_token_and_a_token_no_cookie(self) -> None:
        browser = self.browser()
        await browser.log_in("ada")
        self.assertEqual((await browser.ask("/api/1/status")).status, 401)
        shown = self.token_of("admin")
        stranger = self.browser()
        heard = await stranger.ask("/queue", authorization=f"Bearer {shown}")
        self.assertEqual((heard.status, heard.field("location")), (303, "/login"))
        self.tokens.answer({"action": "revoke", "name": "t"}, "uid=0")
        heard = await stranger.ask("/api/1/status", authorization=f"Bearer {shown}")
        self.assertEqual(heard.status, 401)

    async def test_a_form_cannot_speak_to_the_api(self) -> None:
        """What a browser sends without asking first: no JSON, and no token."""
        ident, state = await self.waits()
        shown = self.token_of("admin")
        browser = self.browser("admin")
        for kind in (
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/form-data; boundary=x",
        ):
            heard = await browser.ask(
                "/api/1/hold", body=json.dumps({"ids": [ident]}).encode(), kind=kind,
                authorization=f"Bearer {shown}",
            )  # fmt: skip
            self.assertEqual(heard.status, 415)
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_path_tricks(self) -> None:
        for path in (
            "/../etc/passwd", "/%2e%2e/etc/passwd", "/..%2f", "/.", "/..", "//", "//evil.example/",
            "/api/1/../../queue", "/api/1/%73tatus", "/style.css/../..", "/message/..", "/\\..\\",
            "/message/%00", "/queue/", "/queue;x", "http://evil.example/queue", "/message/1K7/x",
            "/api/1/messages/..", "/api/1/", "/api/1", "/api/2/status", "*", "queue", "/QUEUE",
            "/queue%00", "/queue%2f", "/%2fqueue", "/rules?file=/etc/passwd", "/queue\\", "/q\0",
            "http://@localhost/queue", "http://localhost?/queue", "http://localhost//queue",
            "/api/1/rules%2ftext", "/./queue",
            "/api//1/status", "/api/1//status", "/login/..", "/\xff", "/queue#x", "/message/",
        ):  # fmt: skip
            raw = await self.raw()
            raw.say(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            heard = await raw.ended
            status = heard.split(b" ")[1]
            refusals = (b"404", b"400", b"401", b"421")  # the last: of a host that is not ours
            self.assertIn(status, refusals, f"{path}: {heard[:40]!r}")
            self.assertNotIn(b"root:", heard)

    async def test_a_target_in_absolute_form_is_for_the_host_that_it_names(self) -> None:
        """RFC 9112 section 3.2.2; whatever stands in Host."""
        for target, host, same in (
            ("http://localhost/login", "localhost", True),
            ("HTTP://localhost/login", "evil.example", True),
            ("http://evil.example/login", "localhost", False),
            ("http://localhost@evil.example/login", "localhost", False),
        ):
            statuses = []
            for asked, named in ((target, host), ("/login", "localhost")):
                raw = await self.raw()
                lines = f"GET {asked} HTTP/1.1\r\nHost: {named}\r\nConnection: close\r\n\r\n"
                raw.say(lines.encode())
                statuses.append((await raw.ended).split(b" ")[1])
            self.assertEqual(statuses[0] == statuses[1], same, (target, statuses))
            if not same:
                self.assertIn(statuses[0], (b"400", b"404", b"421"))

    async def test_there_is_no_way_back_to_others(self) -> None:
        ident, _ = await self.waits()
        browser = self.browser("admin")
        await browser.ask("/queue")
        for back in ("https://evil.example/", "//evil.example", "/\\evil.example", "/login",
                     "/queue?a\r\nX: y", "/message/../x"):  # fmt: skip
            form = {"token": browser.token, "command": "hold", f"id.{ident}": "yes", "back": back}
            heard = await browser.ask("/act", form)
            self.assertEqual((heard.status, heard.field("location")), (400, ""), back)

    async def test_requests_that_are_too_large(self) -> None:
        head = b"POST /act HTTP/1.1\r\nHost: localhost\r\n"
        for rest, status in (
            (b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1), b"413"),
            (b"Content-Length: 99999999999999999999\r\n\r\n", b"413"),
            (b"Transfer-Encoding: chunked\r\n\r\n", b"411"),
            (b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef", b"400"),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"400"),
            (b"X: " + b"x" * 20_000 + b"\r\n\r\n", b"400"),
            (b"X: " + b"x" * 20_000, b"400"),
            (b"".join(b"X%d: y\r\n" % number for number in range(600)) + b"\r\n", b"400"),
        ):
            raw = await self.raw()
            raw.say(head + rest)
            heard = await raw.ended
            self.assertEqual(b"".join(heard.split(b" ")[1:2]), status, rest[:40])
        browser = self.browser("admin")
        token = (await browser.ask("/queue")).token
        many = {f"id.{number}": "yes" for number in range(2000)} | {"token": token}
        self.assertEqual((await browser.ask("/act", many)).status, 400)

    async def said(self, text: str, body: bytes = b"", fields: str = "") -> tuple[bytes, bytes]:
        """A request word for word; the answer's status line, and what follows it."""
        raw = await self.raw()
        raw.say(f"{text}\r\nConnection: close\r\n{fields}\r\n".encode() + body)
        status, _, rest = (await raw.ended).partition(b"\r\n")
        return status, rest

    async def test_no_field_makes_another_request_of_one(self) -> None:
        """Another method, place, host or range, another protocol, a token elsewhere."""
        ident, state = await self.waits()
        token = (await self.browser("admin").ask("/queue")).token
        shown = self.token_of("admin")
        form = f"token={token}&command=hold&id.{ident}=yes&back=/queue"
        length = (
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(form)}\r\n"
        )
        status = "GET /api/1/status HTTP/1.1\r\nHost: localhost\r\n"
        queue = "GET /queue HTTP/1.1\r\nHost: localhost\r\n"
        for text, code in (
            (f"GET /act?_method=POST HTTP/1.1\r\nHost: localhost\r\n{length}X-HTTP-Method: POST\r\n"
             "X-HTTP-Method-Override: POST\r\nX-Method-Override: POST", b"404"),
            (f"post /act HTTP/1.1\r\nHost: localhost\r\n{length}Origin: http://localhost", b"405"),
            ("GET /queue HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: localhost\r\n"
             "Forwarded: host=localhost", b"421"),
            ("GET /nowhere HTTP/1.1\r\nHost: localhost\r\nX-Original-URL: /queue\r\n"
             "X-Rewrite-URL: /queue", b"404"),
            ("GET /queue HTTP/1.0\r\nX: y", b"400"),
            *((f"GET /queue {version}\r\nHost: localhost", b"400")
              for version in ("HTTP/2.0", "HTTP/9.9", "HTTX/1.1", "http/1.1")),
            (f"{queue}X: a\0Host: evil.example", b"400"),
            ("GET /queue HTTP/1.1\r\nHost: localhost\r\n evil.example", b"400"),
            ("GET /queue HTTP/1.1\r\nHost : localhost", b"400"),
            (f"{queue}Range: bytes=0-1", b"200"),
            (f"{queue}If-None-Match: *\r\nIf-Modified-Since: Tue, 01 Jan 2030 00:00:00 GMT",
             b"200"),
            (f"{queue}Cookie: {'a=b; ' * 3500}", b"400"),
            (f"{queue}Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
             "Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example", b"200"),
            (f"{queue}Sec-Fetch-Mode: websocket\r\nSec-Fetch-Site: cross-site", b"403"),
            ("GET /now HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
             "Sec-Fetch-Mode: cors\r\nSec-Fetch-Site: same-site", b"403"),
            ("OPTIONS /api/1/hold HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n"
             "Access-Control-Request-Method: POST", b"405"),
            (f"GET /api/1/status?access_token={shown}&token={shown} HTTP/1.1\r\nHost: localhost",
             b"401"),
            (f"{status}Cookie: token={shown}; Authorization=Bearer {shown}", b"401"),
            (f"{status}X-Api-Key: {shown}\r\nProxy-Authorization: Bearer {shown}", b"401"),
            (f"{status}Authorization: Basic {shown}", b"401"),
            (f"{status}Authorization: Bearer x, Bearer {shown}", b"401"),
            (f"{status}Authorization: Bearer x\r\nAuthorization: Bearer {shown}", b"400"),
        ):  # fmt: skip
            first, rest = await self.said(text, form.encode() if length in text else b"")
            with self.subTest(text):
                self.assertEqual(first.split(b" ")[1:2], [code], first)
                self.assertTrue(first.startswith(b"HTTP/1."), first)
                self.assertIn(b"Cache-Control: no-store", rest)
                self.assertNotIn(b"Access-Control", rest)
                self.assertNotIn(b"Unknown", first)
        for octet in "\n\r":  # refused by newer Twisted; with an older one it is a blank
            for fields in (f"X: a{octet}Authorization: Bearer {shown}", f"Cookie: a{octet}X-Y: z"):
                first, _ = await self.said(f"{status}{fields}")
                self.assertIn(first.split(b" ")[1], (b"400", b"401"))
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_a_body_is_what_its_length_says_and_nothing_else(self) -> None:
        """What a proxy in front may read another way."""
        ident, state = await self.waits()
        token = (await self.browser("admin").ask("/queue")).token
        form = f"token={token}&command=hold&id.{ident}=yes&back=/queue".encode()
        post = "POST /act HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost"
        kind = "Content-Type: application/x-www-form-urlencoded\r\n"
        size = f"Content-Length: {len(form)}\r\n"
        for fields in (
            *(f"{size}Transfer-Encoding: {each}\r\n" for each in ("identity", "xchunked", "gzip")),
            f"{size}Transfer-Encoding : chunked\r\n",
            f"{size}Transfer-Encoding:\x0bchunked\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            f"{size}Content-Encoding: gzip\r\n",
            f"{size}{size}",
            *(f"Content-Length: {each}\r\n"
              for each in (f"{len(form)}, {len(form)}", f"+{len(form)}", "-5", "0x20", "1_0", "")),
            f"Content-Length : {len(form)}\r\n",
            f"{size}Content-Type: text/plain\r\n",
            f"{size}Sec-Fetch-Site: none\r\nSec-Fetch-Site: cross-site\r\n",
            f"{size}Origin: https://evil.example\r\n",
        ):  # fmt: skip
            first, _ = await self.said(post, form, f"{kind}{fields}")
            with self.subTest(fields):
                self.assertIn(first.split(b" ")[1], (b"400", b"411", b"415", b"501"))
        self.assertIs(await state(), RecipientState.QUEUED)
        first, _ = await self.said(post, form, f"{kind}{size}")  # what they are measured by
        self.assertIn(b" 303 ", first)
        self.assertIs(await state(), RecipientState.HELD)

    async def test_json_is_read_in_one_way_alone(self) -> None:
        ident, state = await self.waits()
        shown, browser = self.token_of("admin"), self.browser("admin")
        body = json.dumps({"ids": [ident]})
        for octets in (
            body.encode("utf-16"), body.encode("utf-16-le"), body.encode("utf-32"),
            b"\xef\xbb\xbf" + body.encode(), b'{"ids": [], "ids": ["%s"]}' % ident.encode(),
            b'{"ids": ["%s"], "note": "\xff"}' % ident.encode(), body.encode() + b"{}",
            b"[" * 100_000, b'{"ids": ["%s"], "older_than": NaN}' % ident.encode(),
            b'{"ids": ["%s"], "older_than": 1e999}' % ident.encode(),
        ):  # fmt: skip
            heard = await browser.ask("/api/1/hold", body=octets, kind="application/json",
                                      authorization=f"Bearer {shown}")  # fmt: skip
            self.assertEqual(heard.status, 400, octets[:60])
        self.assertIs(await state(), RecipientState.QUEUED)

    async def test_requests_that_are_too_slow(self) -> None:
        """An octet now and then does not help: the whole has its time."""
        slow = [await self.raw() for _ in range(2)]
        slow[0].say(b"GET / HTTP/1.1\r\n")
        slow[1].say(b"POST /act HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        await later()
        for _ in range(3):
            self.clock.advance(REQUEST_TIME / 3)
            for each in slow:
                each.say(b"x")
            await later()
        for each in slow:
            self.assertEqual(await each.ended, b"")

    async def test_who_does_not_hear_the_answer_is_not_waited_for(self) -> None:
        never: Deferred[WebAnswer] = Deferred()

        async def answers(asked: object) -> WebAnswer:
            return await never

        self.sites["admin"].answers = answers
        raw = await self.raw()
        raw.say(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await later(0.05)
        self.clock.advance(ANSWER_TIME)
        self.assertEqual(await raw.ended, b"")
        self.assertEqual(len(self.clock.getDelayedCalls()), 0)

    async def test_too_many_connections(self) -> None:
        many = [await self.raw() for _ in range(MOST)]
        await later(0.05)
        one_more = await self.raw()
        self.assertEqual(await one_more.ended, b"")
        for each in many:
            assert each.transport is not None
            each.transport.loseConnection()
            await each.ended
        await later()
        self.assertEqual((await self.browser("admin").ask("/queue")).status, 200)
