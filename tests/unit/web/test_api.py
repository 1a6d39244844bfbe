"""The HTTP API: the answers of the control socket, errors as documents, and its description."""

from __future__ import annotations

import json
import stat
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from relayd.login import apitokens
from relayd.login.guesses import PER_ADDRESS
from relayd.mail.ident import ident_text
from relayd.ops.answers import VERSION
from relayd.ops.documents import BusyError, ConflictError, RequestError
from relayd.ops.tokensdesk import TokensDesk
from relayd.web.catalogue import API, CALLS, MOST
from relayd.web.openapi import described
from tests.support import TestCase
from tests.unit.web.scene import Heard, Scene


class ApiTests(Scene, TestCase):
    async def call(
        self, path: str, body: object = None, role: str = "admin", **fields: str
    ) -> Heard:
        if role not in self.tokens._tokens:
            setattr(self, role, self.token_of(role, role))
        octets = None if body is None else json.dumps(body).encode()
        return await self.browser().ask(
            f"{API}{path}", body=octets, kind="application/json",
            authorization=fields.get("authorization", f"Bearer {getattr(self, role)}"),
        )  # fmt: skip

    async def document(self, path: str, body: object = None, role: str = "admin") -> Any:  # noqa: ANN401 - JSON
        heard = await self.call(path, body, role)
        self.assertEqual(heard.status, 200, heard.text)
        self.assertEqual(heard.field("content-type"), "application/json")
        return json.loads(heard.text)

    async def test_what_is_answered_is_what_the_control_socket_answers(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example", "eve@elsewhere.example")
        ident = ident_text(message.ident)
        for path, command in (
            ("/status", "status"), ("/figures", "figures"), ("/pace", "pace"), ("/blame", "blame"),
            ("/filters", "filters"),
        ):  # fmt: skip
            self.assertEqual(await self.document(path, role="viewer"), self.answer(command), path)
        self.assertEqual(await self.document("/check"), self.answer("check"))
        story = await self.document(f"/messages/{ident}")
        self.assertEqual(story, self.answer("show", id=ident))
        found = await self.document("/find?recipient=eve@elsewhere.example")
        self.assertEqual(
            found["found"], self.ask("find", recipient="eve@elsewhere.example")[0]["found"]
        )
        (queued,) = (await self.document("/queue?sender=alice@sender.example"))["messages"]
        self.assertEqual((queued["id"], queued["size"]), (ident, 22))
        self.assertEqual([each["state"] for each in queued["recipients"]], ["queued", "queued"])

    async def test_actions_say_what_they_met_and_who_did_it_stands_in_the_log(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example")
        ident = ident_text(message.ident)
        for _ in range(2):  # holding what is held changes nothing more
            answer = await self.document("/hold", {"ids": [ident], "note": "why"}, "operator")
        self.assertEqual(answer["recipients"], self.answer("hold", ids=[ident])["recipients"])
        self.assertEqual(await self.document("/release", {"ids": [ident]}), {"recipients": 1})
        self.assertEqual(await self.document("/reload", {}), self.answer("reload"))
        by = [facts["by"] for event, facts in self.journal.notices if event == "operator"]
        self.assertIn("token:operator", by)
        self.assertIn("token:admin", by)
        answer = await self.document("/explain", {"recipient": "x@y.example"}, "viewer")
        self.assertEqual(answer["verdict"], "accept")

    async def test_errors_are_documents(self) -> None:
        for path, body, status in (
            ("/nowhere", None, 404), ("/messages/1K7QJ4V8Z0G0", None, 404),
            ("/messages/x%20y", None, 404), ("/find?limit=0", None, 400),
            (f"/find?limit={MOST + 1}", None, 400), ("/find?limit=x", None, 400),
            ("/find?limit=nan", None, 400), ("/find?nonsense=1", None, 400),
            ("/find?sender=ann", None, 400), ("/find?sender=a@b&sender=c@d", None, 400),
            ("/hold", {"ids": "x"}, 400), ("/hold", {"by": "somebody else"}, 400),
            ("/hold", {"command": "remove", "all": True}, 400), ("/hold", {}, 400),
            ("/hold", {"all": 1}, 400), ("/hold", [1], 400), ("/hold", "x", 400),
            ("/hold", {"older_than": True}, 400), ("/status", {}, 405),
            ("/explain", {"recipient": "nonsense"}, 400), ("/token", {"action": "make"}, 404),
            ("/oauth", {}, 404), ("/content", None, 404),
        ):  # fmt: skip
            heard = await self.call(path, body)
            self.assertEqual(heard.status, status, f"{path} {body}: {heard.text}")
            self.assertEqual(heard.field("content-type"), "application/problem+json")
            found = json.loads(heard.text)
            self.assertEqual(list(found), ["title", "status", "detail", "error"])
            self.assertEqual((found["status"], found["detail"]), (status, found["error"]))
        for octets in (b"{", b"\xff", b"[" * 100_000):
            heard = await self.browser().ask(
                f"{API}/hold", body=octets, kind="application/json",
                authorization=f"Bearer {self.admin}",  # type: ignore[attr-defined]
            )  # fmt: skip
            self.assertEqual((heard.status, json.loads(heard.text)["status"]), (400, 400))
        heard = await self.call("/status", authorization="Basic eDp5")
        self.assertEqual(heard.status, 401)
        self.assertTrue(heard.field("www-authenticate").startswith("Bearer"))

    async def test_the_description_is_served_and_whole(self) -> None:
        found = await self.document("/openapi.json", role="viewer")
        self.assertEqual(found, json.loads(json.dumps(described())))
        self.assertEqual(found["info"]["version"], str(VERSION))
        said = {(path, method) for path, each in found["paths"].items() for method in each}
        of_domains = {each for each in said if each[0].startswith(f"{API}/domains/")}
        self.assertEqual(len(of_domains), 7)
        self.assertEqual(
            said - of_domains, {(API + call.path, call.method.lower()) for call in CALLS}
        )
        schemas = found["components"]["schemas"]
        named = json.dumps(found).split('"#/components/schemas/')[1:]
        self.assertEqual({each.partition('"')[0] for each in named} - schemas.keys(), set())
        self.assertEqual([name for name, each in schemas.items() if not each], [])
        ids = [each["operationId"] for path in found["paths"].values() for each in path.values()]
        self.assertEqual(len(ids), len(set(ids)))


class EveryRefusal(Scene, TestCase):
    """Whatever the status: a document of RFC 9457 with what is wrong, and nothing is done."""

    async def heard(self, octets: bytes) -> tuple[int, dict[str, str], Any]:
        raw = await self.raw()
        raw.say(octets)
        head, _, body = (await raw.ended).partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        fields = {
            name.lower(): value for name, _, value in (each.partition(": ") for each in lines)
        }
        return int(first.split()[1]), fields, json.loads(body)

    async def test_each_status_is_told_by_a_document(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example")
        ident = ident_text(message.ident)
        admin, viewer = self.token_of("admin", "a"), self.token_of("viewer", "v")

        async def busy(request: dict[str, object], who: str) -> dict[str, Any]:
            raise {"1": ConflictError, "2": BusyError}[str(request.get("file"))]("not now")

        self.commands._rules = type("Desk", (), {"answer": staticmethod(busy)})()

        def bug() -> dict[str, object]:
            raise ZeroDivisionError

        self.commands._about = bug
        self.addCleanup(self.flushLoggedErrors, ZeroDivisionError)
        hold = json.dumps({"ids": [ident]})
        json_ = "Content-Type: application/json"
        for status, method, path, token, fields, body in (
            (400, "GET", "/find?limit=x", admin, "", ""),
            (400, "POST", "/hold", admin, json_, "{"),
            (400, "GET", "/queue", admin, "Authorization: Bearer x", ""),
            (401, "GET", "/status", "", "", ""),
            (401, "GET", "/status", "relayd_guessed", "", ""),
            (403, "POST", "/hold", viewer, json_, hold),
            (403, "POST", "/hold", admin, f"{json_}\r\nOrigin: https://evil.example", hold),
            (404, "GET", "/nowhere", admin, "", ""),
            (404, "GET", "/../1/queue", admin, "", ""),
            (404, "GET", "", admin, "", ""),
            (400, "GET", f"/find?subject={'x' * 20_000}", admin, "", ""),
            (404, "GET", "/rules%2f..%2fqueue", admin, "", ""),
            (405, "GET", "/hold", admin, "", ""),
            (405, "POST", "/queue", admin, json_, "{}"),
            (405, "PUT", "/hold", admin, json_, hold),
            (405, "DELETE", f"/messages/{ident}", admin, "", ""),
            (405, "PATCH", f"/messages/{ident}", admin, json_, "{}"),
            (406, "GET", "/queue", admin, "Accept: text/csv, application/json;q=0", ""),
            (406, "GET", "/queue", admin, "Accept: application/json; q=0.0", ""),
            (406, "GET", "/queue", admin, "Accept: application/json;v=1; Q=0.000 ,x/y", ""),
            (409, "GET", "/rules/text?file=1", admin, "", ""),
            (411, "POST", "/hold", admin, f"{json_}\r\nTransfer-Encoding: chunked", ""),
            (413, "POST", "/hold", admin, f"{json_}\r\nContent-Length: {2 << 20}", ""),
            (415, "POST", "/hold", admin, "Content-Type: text/plain", hold),
            (421, "GET", "/queue", admin, "Host: evil.example", ""),
            (500, "GET", "/status", admin, "", ""),
            (503, "GET", "/rules/text?file=2", admin, "", ""),
        ):  # fmt: skip
            lines = [f"{method} {API}{path} HTTP/1.1", "Connection: close"]
            lines += [] if "Host:" in fields else ["Host: localhost"]
            lines += [f"Authorization: Bearer {token}"] if token else []
            lines += [fields] if fields else []
            lines += [f"Content-Length: {len(body)}"] if body else []
            with self.subTest(status=status, method=method, path=path):
                found, head, said = await self.heard("\r\n".join([*lines, "", body]).encode())
                self.assertEqual(found, status, said)
                self.assertEqual(head["content-type"], "application/problem+json")
                self.assertEqual([*said], ["title", "status", "detail", "error"])
                self.assertEqual(said["status"], status)
                self.assertTrue(said["detail"])
                self.assertEqual("allow" in head, status == 405)
                self.assertEqual("www-authenticate" in head, status == 401)
        for _ in range(PER_ADDRESS):
            found, head, said = await self.heard(
                f"GET {API}/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
                "Authorization: Bearer relayd_guessed\r\n\r\n".encode()
            )
        self.assertEqual((found, said["status"], head["retry-after"]), (429, 429, "60"))
        _, records = (await self.spools[0].load(message.ident)) or (None, ())
        self.assertEqual([str(each.state.name) for each in records], ["QUEUED"])

    async def test_what_is_no_request_at_all_hears_a_document_too(self) -> None:
        for octets in (
            b"nonsense\r\n\r\n",
            b"GET /\0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"GET  / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nbad field\r\n\r\n",
        ):
            raw = await self.raw()
            raw.say(octets + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
            heard = await raw.ended
            self.assertIn(heard.split(b" ")[1], (b"400", b"404"), octets)


class OfOneDomain(Scene, TestCase):
    """A token for example.com: what is there besides is not there for it."""

    async def call(self, path: str, body: object = None, role: str = "admin") -> Heard:
        if role not in self.tokens._tokens:
            made = self.tokens.answer(
                {"action": "make", "name": role, "role": role, "domain": "Example.COM"}, "uid=0"
            )
            setattr(self, role, made["token"])
        octets = None if body is None else json.dumps(body).encode()
        return await self.browser().ask(
            f"{API}{path}", body=octets, kind="application/json",
            authorization=f"Bearer {getattr(self, role)}",
        )  # fmt: skip

    async def setting(self) -> tuple[str, str, str]:
        """Messages for it alone, for it and others, and for others with names like its own."""
        found = []
        for recipients in (
            ("bob@example.com",),
            ("ann@EXAMPLE.com", "eve@elsewhere.example"),
            ("x@example.com.evil.org", "y@sub.example.com", '"z@example.com"@other.org',
             "w@notexample.com"),
        ):  # fmt: skip
            message, _ = await self.accept(*recipients, sender="boss@example.com")
            found.append(ident_text(message.ident))
        return found[0], found[1], found[2]

    async def states(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for piece in self.ask("find"):
            found |= {each["recipient"]: each["state"] for each in piece.get("found", ())}
        return found

    async def test_it_sees_mail_for_its_domain_alone_wherever_it_looks(self) -> None:
        own, shared, others = await self.setting()
        for role in ("viewer", "admin"):
            queued = json.loads((await self.call("/queue", role=role)).text)["messages"]
            self.assertEqual(
                [(each["id"], [to["mailbox"] for to in each["recipients"]]) for each in queued],
                [(own, ["bob@example.com"]), (shared, ["ann@EXAMPLE.com"])],
            )
            for query in (
                "",
                "?recipient=@example.com",
                "?sender=boss@example.com",
                "?state=waiting",
            ):
                found = json.loads((await self.call(f"/find{query}", role=role)).text)["found"]
                self.assertEqual({each["recipient"] for each in found},
                                 {"bob@example.com", "ann@EXAMPLE.com"}, query)  # fmt: skip
            whole = await self.call(f"/messages/{own}", role=role)
            self.assertTrue(json.loads(whole.text)["trail"])
            story = json.loads((await self.call(f"/messages/{shared}", role=role)).text)
            self.assertEqual([each["mailbox"] for each in story["recipients"]], ["ann@EXAMPLE.com"])
            self.assertNotIn("elsewhere", json.dumps(story))
            figures = json.loads((await self.call("/figures", role=role)).text)
            self.assertEqual((figures["messages"], [*figures["oldest"]]), (2, ["exchange"]))
            unknown = await self.call("/messages/1K7QJ4V8Z0G0", role=role)
            hidden = await self.call(f"/messages/{others}", role=role)
            self.assertEqual((hidden.status, unknown.status), (404, 404))
            self.assertEqual(
                hidden.text.replace(others, ""), unknown.text.replace("1K7QJ4V8Z0G0", "")
            )

    async def test_a_domain_is_one_in_either_spelling(self) -> None:
        """Mail is kept as the client named its recipient; a token has A-labels (RFC 5890)."""
        spelled = ("b\u00fccher.example", "xn--bcher-kva.example", "B\u00dcCHER.example")
        idents = []
        for domain in spelled:
            message, _ = await self.accept(f"bob@{domain}", "eve@elsewhere.example")
            idents.append(ident_text(message.ident))
        await self.accept("bob@bucher.example")
        for domain in spelled:
            self.admin = self.token_of("operator", "admin", domain)
            await self.seen_and_changed(idents, spelled)
            self.tokens.answer({"action": "revoke", "name": "admin"}, "uid=0")

    async def seen_and_changed(self, idents: Sequence[str], spelled: Sequence[str]) -> None:
        for ident in idents:
            story = json.loads((await self.call(f"/messages/{ident}")).text)
            self.assertEqual(len(story["recipients"]), 1)
        queued = json.loads((await self.call("/queue")).text)["messages"]
        self.assertEqual([(each["id"], len(each["recipients"])) for each in queued],
                         [(each, 1) for each in idents])  # fmt: skip
        self.assertEqual(json.loads((await self.call("/figures")).text)["messages"], 3)
        queries = [f"?recipient={quote(whom + each)}" for each in spelled for whom in ("bob@", "@")]
        for query in ("", *queries):
            found = json.loads((await self.call(f"/find{query}")).text)["found"]
            self.assertEqual([each["id"] for each in found], idents[::-1], query)
        for domain in spelled:
            for body in (
                {"all": True},
                {"recipient": f"bob@{domain}"},
                {"recipient": f"@{domain}"},
            ):
                for action in ("/hold", "/release", "/retry"):
                    heard = await self.call(action, body)
                    self.assertEqual(json.loads(heard.text), {"recipients": 3}, (action, body))
            heard = await self.call("/explain", {"recipient": f"bob@{domain}"})
            self.assertNotEqual(heard.status, 403, heard.text)
        for path in ("/find?recipient=bob@bucher.example", "/find?recipient=@example"):
            self.assertEqual((await self.call(path)).status, 403)
        heard = await self.call("/explain", {"recipient": "bob@bucher.example"})
        self.assertEqual(heard.status, 403)

    async def test_it_acts_on_mail_for_its_domain_alone(self) -> None:
        own, shared, others = await self.setting()
        heard = await self.call("/hold", {}, "operator")
        self.assertEqual(heard.status, 400)  # nothing is named
        bodies: tuple[dict[str, object], ...] = (
            {"ids": [own, shared, others]},
            {"all": True},
            {"sender": "boss"},
            {"recipient": "example.com"},
        )
        for body in bodies:
            heard = await self.call("/hold", body, "operator")
            self.assertEqual(json.loads(heard.text), {"recipients": 2}, heard.text)
            states = await self.states()
            held = {name for name, state in states.items() if state == "held"}
            self.assertEqual(held, {"bob@example.com", "ann@EXAMPLE.com"})
            heard = await self.call("/release", {"all": True}, "operator")
            self.assertEqual(json.loads(heard.text), {"recipients": 2})
        heard = await self.call("/remove", {"ids": [others]}, "operator")
        self.assertEqual(json.loads(heard.text), {"recipients": 0})
        heard = await self.call("/remove", {"ids": [shared]}, "operator")
        self.assertEqual(json.loads(heard.text), {"recipients": 1})
        self.assertEqual((await self.states())["eve@elsewhere.example"], "queued")
        self.assertEqual((await self.call("/hold", {"all": True}, "viewer")).status, 403)

    async def test_what_is_about_all_of_relayd_is_not_for_it(self) -> None:
        open_ones = {"queue", "find", "figures", "messages_by_id", "explain", "retry", "hold",
                     "release", "remove", "reroute"}  # fmt: skip
        for call in CALLS:
            if call.name not in open_ones:
                heard = await self.call(call.path, {} if call.method == "POST" else None)
                self.assertEqual(heard.status, 403, call.path)
                self.assertEqual(heard.field("content-type"), "application/problem+json")
        for recipient in ("eve@elsewhere.example", "x@example.com.evil.org", "@elsewhere.example"):
            self.assertEqual((await self.call(f"/find?recipient={recipient}")).status, 403)
            heard = await self.call("/explain", {"recipient": recipient})
            self.assertEqual(heard.status, 403)
        heard = await self.call("/explain", {"recipient": "bob@example.com"})
        self.assertEqual(heard.status, 200)
        heard = await self.call("/hold", {"all": True, "domain": "elsewhere.example"})
        self.assertEqual(heard.status, 400)

    def test_its_domain_is_kept_with_it(self) -> None:
        self.tokens.answer(
            {"action": "make", "name": "a", "role": "viewer", "domain": "Example.com"}, "uid=0"
        )
        again = TokensDesk(self.folder / "api-tokens", self.journal)
        again.read()
        (told,) = again.answer({"action": "list"}, "")["tokens"]
        self.assertEqual(told["domain"], "example.com")
        for domain in ("a b", "x@y", "-", "a..b"):
            with self.assertRaises(RequestError, msg=domain):
                self.tokens.answer(
                    {"action": "make", "name": "b", "role": "viewer", "domain": domain}, "uid=0"
                )


class TokenTests(Scene, TestCase):
    def test_a_token_is_kept_as_its_hash_for_our_own_eyes(self) -> None:
        token = self.token_of("operator", "monitoring")
        path = self.folder / "api-tokens"
        text = path.read_text()
        self.assertNotIn(token, text)
        self.assertNotIn(token.removeprefix(apitokens.PREFIX), text)
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        again = TokensDesk(path, self.journal)
        again.read()
        found = again.find(token)
        self.assertEqual(found and (found.name, str(found.role)), ("monitoring", "operator"))
        self.assertEqual(
            self.tokens.answer({"action": "list"}, "")["tokens"],
            [{"name": "monitoring", "role": "operator", "since": 1e9, "domain": ""}],
        )
        self.assertEqual(self.journal.notices[-1][1]["command"], "token make")

    def test_a_token_of_a_domain_is_for_that_and_nothing_else(self) -> None:
        token = self.token_of("operator", "panel", "Bücher.EXAMPLE")
        again = TokensDesk(self.folder / "api-tokens", self.journal)
        again.read()
        found = again.find(token)
        assert found is not None
        self.assertEqual(found.domain, "xn--bcher-kva.example")
        self.assertTrue(found.about("xn--bcher-kva.example"))
        for other in ("other.example", "sub.xn--bcher-kva.example", "example", ""):
            self.assertFalse(found.about(other), other)
        self.assertTrue(apitokens.ApiToken("a", found.role, "", 0).about("other.example"))
        for text in ("a..b", "a@b.example", " "):
            with self.assertRaises(RequestError):
                self.tokens.answer(
                    {"action": "make", "name": "x", "role": "viewer", "domain": text}, ""
                )
        line = f"a operator {found.digest} 1 @"
        with self.assertRaises(apitokens.ApiTokensError):  # never more than was meant
            apitokens.parse([line])

    def test_what_makes_no_sense_is_refused(self) -> None:
        self.token_of("viewer", "a")
        for request in (
            {"action": "make", "name": "a", "role": "viewer"},
            {"action": "make", "name": "b c", "role": "viewer"},
            {"action": "make", "name": "b\nc", "role": "viewer"},
            {"action": "make", "name": "b", "role": "root"},
            {"action": "make", "name": "", "role": "viewer"},
            {"action": "revoke", "name": "b"},
            {"action": ""},
        ):
            with self.assertRaises(RequestError, msg=str(request)):
                self.tokens.answer(request, "uid=0")

    def test_with_a_file_that_is_wrong_no_token_is_taken_and_it_is_said(self) -> None:
        token = self.token_of("viewer", "a")
        path = self.folder / "api-tokens"
        path.write_text(path.read_text() + "nonsense\n")
        self.tokens.read()
        self.assertIsNone(self.tokens.find(token))
        self.assertEqual(self.journal.troubles[-1][0], "api tokens")
