"""A client made of the served description alone drives every call, and believes no answer."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from twisted.internet.defer import Deferred

from relayd.config import Settings, embedded, load
from relayd.config.editing import version_of
from relayd.directories.refresher import Refresher
from relayd.intake.counting import Limits
from relayd.mail.ident import ident_text
from relayd.ops.documents import Request
from relayd.ops.explain import decide
from relayd.ops.forwardsdesk import ForwardsDesk
from relayd.ops.limitsdesk import LimitsDesk
from relayd.ops.replay import Replay
from relayd.ops.rerouting import ReroutingDesk
from relayd.ops.rulesdesk import RulesDesk
from relayd.ops.tablesdesk import TablesDesk
from relayd.service.app import about
from relayd.service.configthread import aside
from relayd.service.configuration import Configuration
from relayd.service.console import rules_desk
from relayd.tls.dates import CertificateDates
from relayd.web.forwards import ForwardsApi
from tests.support import TestCase
from tests.unit.web.scene import Browser, Scene, reactor

JSON = "application/json"
KINDS = {"string": str, "number": (int, float), "integer": int, "boolean": bool, "array": list,
         "object": dict}  # fmt: skip


class SchemaError(AssertionError):
    """What was answered is not what the description says."""


def valid(found: Any, schema: dict[str, Any], whole: dict[str, Any], at: str = "answer") -> None:  # noqa: ANN401
    """As much of JSON Schema as OpenAPI 3.0 and the description use."""
    if found is None and schema.get("nullable"):
        return
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        valid(found, whole["components"]["schemas"][name], whole, f"{at}:{name}")
        return
    for each in schema.get("allOf", ()):
        valid(found, each, whole, at)
    kind = schema.get("type")
    if kind is None:
        return
    wrong = isinstance(found, bool) and kind != "boolean"
    if wrong or not isinstance(found, KINDS[kind]):  # type: ignore[arg-type]
        raise SchemaError(f"{at}: {found!r} is no {kind}")
    if kind == "array":
        for number, each in enumerate(found):
            valid(each, schema["items"], whole, f"{at}[{number}]")
    if kind == "object":
        for name in schema.get("required", ()):
            if name not in found:
                raise SchemaError(f"{at}: no {name}")
        properties = schema.get("properties", {})
        for name, each in found.items():
            if name in properties:
                valid(each, properties[name], whole, f"{at}.{name}")
            elif "additionalProperties" in schema:
                valid(each, schema["additionalProperties"], whole, f"{at}.{name}")
            else:
                raise SchemaError(f"{at}: {name} is told of nowhere")


Operation = Callable[..., Awaitable[Any]]


class Client:
    """One method for each operation, by its operationId."""

    def __init__(self, browser: Browser, token: str, description: dict[str, Any]) -> None:
        self._browser = browser
        self._token = token
        self.operations: dict[str, Operation] = {
            each["operationId"]: self._made(path, method, each, description)
            for path, methods in description["paths"].items()
            for method, each in methods.items()
        }

    def _made(
        self, path: str, method: str, about: dict[str, Any], whole: dict[str, Any]
    ) -> Operation:
        async def operation(**said: object) -> Any:  # noqa: ANN401
            told = {each["name"]: each["in"] for each in about.get("parameters", ())}
            where, body, kind = path, None, JSON
            for name, place in told.items():
                if place == "path":
                    where = where.replace(f"{{{name}}}", str(said.pop(name)))
            if method in ("post", "put"):
                (kind,) = about["requestBody"]["content"]
                body = (json.dumps(said) if kind == JSON else str(said["text"])).encode()
            else:
                assert set(said) <= set(told), said
                where += f"?{urlencode(said)}" if said else ""
            heard = await self._browser.ask(
                where,
                method=method.upper(),
                body=body,
                kind=kind,
                authorization=f"Bearer {self._token}",
            )
            kind = heard.field("content-type").partition(";")[0]
            found = heard.text if kind == "text/plain" else json.loads(heard.text)
            answers = about["responses"]
            content = answers.get(str(heard.status), answers["default"])["content"]
            schema = content[kind]["schema"]
            valid(found, schema, whole, about["operationId"])
            return found if heard.status in (200, 201) else heard.status

        return operation


class GeneratedClient(Scene, TestCase):
    def setUp(self) -> None:
        """The desks of a running relayd, over the embedded configuration."""
        super().setUp()
        settings = embedded(self.folder)

        def wall() -> float:
            return 1e9

        async def explain(request: Request) -> dict[str, Any]:
            return decide(settings.ruleset, request)

        configuration = Configuration(settings, Deferred, self.journal)
        limits = LimitsDesk(Limits(self.folder, wall), lambda: settings, self.journal)
        tables = Refresher(reactor, self.journal, wall)
        self.commands._rerouting = ReroutingDesk(lambda: settings.ruleset, self.journal, wall)
        self.commands._about = lambda: about(
            configuration, 1.0, {}, CertificateDates(), limits, tables
        )
        self.commands._explain = explain
        self.commands._rules = self.rules()
        self.commands._limits = limits
        self.commands._tables = TablesDesk(tables, self.journal)

    def rules(self) -> RulesDesk:
        """Of files of their own; what was seen, nobody remembers here."""
        self.conf = self.folder / "relayd.conf"
        (self.folder / "customers").mkdir()
        self.conf.write_text(
            "hostname gw.example.com\nspool spool\ninclude customers/*.rules scoped\n"
        )

        def read() -> Settings:
            return load(self.conf)

        configuration = Configuration(read(), aside(reactor, read), self.journal)
        forwards = ForwardsDesk(lambda: configuration.settings)
        self.console._api._forwards = ForwardsApi(forwards, self.commands, self.journal)

        async def reload() -> str:
            return await configuration.reload()

        async def replay(path: Path, text: str, since: float) -> dict[str, Any]:
            found = Replay(load(path).ruleset)
            return {"envelopes": 0, "whole": True, "summary": found.summary(), "lines": [],
                    "hits": {}}  # fmt: skip

        desk = rules_desk(reactor, configuration, self.conf, reload, self.journal)
        desk._replay = replay
        return desk

    async def test_a_client_made_of_the_description_drives_every_call(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example")
        ident = ident_text(message.ident)
        token, browser = self.token_of("admin"), self.browser()
        served = await browser.ask("/api/1/openapi.json", authorization=f"Bearer {token}")
        client = Client(browser, token, json.loads(served.text))
        said: dict[str, dict[str, object]] = {
            "messages_by_id": {"id": ident},
            "find": {"sender": "@sender.example", "limit": 10},
            "queue": {"state": "held", "older_than": 0, "limit": 10},
            "explain": {"recipient": "x@y.example"},
            "suspend": {"destination": "exchange", "seconds": 60, "reason": "r"},
            "resume": {"all": True},
            **{
                name: {"ids": [ident]} for name in ("retry", "hold", "release", "reroute", "remove")
            },
        }
        text = self.conf.read_text()
        draft = f"{text}# more\n"
        file: dict[str, object] = {"file": "relayd.conf", "text": draft}
        said |= {
            "rules_text": {"file": "relayd.conf"}, "rules_check": file, "rules_replay": file,
            "rules_activate": {**file, "version": version_of(text.encode())},
            "rules_back": {"file": "relayd.conf", "version": version_of(draft.encode())},
        }  # fmt: skip
        order = sorted(client.operations, key=lambda name: (name == "remove", name))
        order.remove("suspended")
        order.insert(order.index("suspend") + 1, "suspended")
        of_domain: dict[str, object] = {"domain": "example.com"}
        name = {**of_domain, "name": "info"}
        for each in client.operations:
            if "domain_" in each:
                said[each] = name if "_forward" in each and "forwards" not in each else of_domain
                order.remove(each)
        said["put_domain_forward"] = {**name, "targets": ["ann@example.net"]}
        said["put_domain_rules"] = {**of_domain, "text": "accept to @example.com\n"}
        order += ["put_domain_rules", "domain_rules", "put_domain_forward", "domain_forward",
                  "domain_forwards", "delete_domain_forward", "delete_domain_rules"]  # fmt: skip
        order.remove("rules_back")
        order.insert(order.index("rules_activate") + 1, "rules_back")
        answers = {name: await client.operations[name](**said.get(name, {})) for name in order}
        refused = {name: each for name, each in answers.items() if isinstance(each, int)}
        self.assertEqual(refused, {})
        self.assertEqual([each["id"] for each in answers["find"]["found"]], [ident])
        self.assertEqual([each["id"] for each in answers["queue"]["messages"]], [ident])
        self.assertEqual(answers["remove"], {"recipients": 1})
        self.assertEqual(self.conf.read_text(), text)
        self.assertEqual(answers["domain_forward"], {"targets": ["ann@example.net"]})
        put = client.operations["put_domain_rules"]
        twice = [await put(domain="example.com", text="accept to @example.com\n") for _ in "12"]
        self.assertEqual(twice[0], twice[1])
        delete = client.operations["delete_domain_rules"]
        gone = [await delete(domain="example.com") for _ in "12"]
        self.assertEqual([*(self.folder / "customers").glob("*.rules")], [])
        self.assertIn(gone[1], (gone[0], 404))
        self.assertEqual(await client.operations["messages_by_id"](id="1K7QJ4V8Z0G0"), 404)
