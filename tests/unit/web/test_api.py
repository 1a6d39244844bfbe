"""The HTTP API: the answers of the control socket, errors as documents, and its description."""

from __future__ import annotations

import json
import stat
from typing import Any

from relayd.login import apitokens
from relayd.mail.ident import ident_text
from relayd.ops.answers import VERSION
from relayd.ops.documents import RequestError
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
        self.assertEqual(said, {(API + call.path, call.method.lower()) for call in CALLS})
        schemas = found["components"]["schemas"]
        named = json.dumps(found).split('"#/components/schemas/')[1:]
        self.assertEqual({each.partition('"')[0] for each in named} - schemas.keys(), set())
        self.assertEqual([name for name, each in schemas.items() if not each], [])
        ids = [each["operationId"] for path in found["paths"].values() for each in path.values()]
        self.assertEqual(len(ids), len(set(ids)))


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
            [{"name": "monitoring", "role": "operator", "since": 1e9, "domains": []}],
        )
        self.assertEqual(self.journal.notices[-1][1]["command"], "token make")

    def test_a_token_of_domains_is_for_them_and_nothing_else(self) -> None:
        token = self.token_of("operator", "panel", "Example.COM,bücher.example")
        again = TokensDesk(self.folder / "api-tokens", self.journal)
        again.read()
        found = again.find(token)
        assert found is not None
        self.assertEqual(found.domains, ("example.com", "xn--bcher-kva.example"))
        self.assertTrue(found.about("example.com"))
        for other in ("other.example", "sub.example.com", "com", ""):
            self.assertFalse(found.about(other), other)
        self.assertTrue(apitokens.ApiToken("a", found.role, "", 0).about("other.example"))
        for text in ("a..b", "a@b.example", " "):
            with self.assertRaises(RequestError):
                self.tokens.answer(
                    {"action": "make", "name": "x", "role": "viewer", "domains": text}, ""
                )
        line = f"a operator {found.digest} 1 ,"
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
