"""The console of a relayd with two workers: logins, roles, actions and their authors, attacks."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import re
import smtplib
import socket
import ssl
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from relayd.login import users
from relayd.login.roles import Role
from relayd.login.scram import Verifier
from relayd.login.totp import code_at
from relayd.login.users import Seat
from tests.certs import Authority
from tests.ports import free_port
from tests.scenarios.harness import Scenario, wait_until

RULES = """\
accept  to @example.com
route   any via out
"""
PASSWORD = "correct horse"
ROLES = ("viewer", "operator", "admin")
SECRET = b"12345678901234567890"
SEATS = {
    "viewer": Seat(Role.VIEWER),
    "operator": Seat(Role.OPERATOR),
    "admin": Seat(Role.ADMIN, SECRET),
}
TOKEN = re.compile(r'name="token" value="([^"]+)"')


class _AtSocket(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Answer:
    """What came back."""

    def __init__(self, heard: http.client.HTTPResponse) -> None:
        self.status = heard.status
        self.headers = heard.headers
        self.text = heard.read().decode()

    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.text)


class Visitor:
    """A browser without scripts: keeps its cookie, and the token of the last form."""

    def __init__(self, place: Path | int, trusted: ssl.SSLContext | None = None) -> None:
        self._place = place
        self._trusted = trusted
        self.cookie = ""
        self.token = ""
        self.origin = "http://localhost" if trusted is None else f"https://127.0.0.1:{place}"

    def ask(
        self, path: str, form: dict[str, str] | None = None, *, method: str = "",
        body: bytes | None = None, **fields: str,
    ) -> Answer:  # fmt: skip
        connection: http.client.HTTPConnection
        if isinstance(self._place, Path):
            connection = _AtSocket(self._place)
        else:
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self._place, timeout=60, context=self._trusted
            )
        usual = {"Cookie": self.cookie}
        if form is not None:
            body = urlencode(form).encode()
            usual |= {"Origin": self.origin, "Sec-Fetch-Site": "same-origin",
                      "Content-Type": "application/x-www-form-urlencoded"}  # fmt: skip
        usual |= {name.replace("_", "-"): each for name, each in fields.items()}
        try:
            connection.request(
                method or ("GET" if body is None else "POST"), path, body,
                {name: each for name, each in usual.items() if each},
            )  # fmt: skip
            answer = Answer(connection.getresponse())
        finally:
            connection.close()
        said = answer.headers.get("Set-Cookie", "")
        self.cookie = said.partition(";")[0] or self.cookie
        found = TOKEN.search(answer.text)
        self.token = found[1] if found else self.token
        return answer

    def log_in(self, name: str, code: str = "") -> Answer:
        self.ask("/login")
        form = {"token": self.token, "name": name, "password": PASSWORD, "code": code}
        return self.ask("/login", form)

    def act(self, command: str, ident: str = "", **said: str) -> Answer:
        """By the form of the Queue."""
        self.ask("/queue")
        chosen = {f"id.{ident}": "yes"} if ident else {}
        form = {"token": self.token, "command": command, "back": "/queue", **chosen, **said}
        return self.ask("/act", form)

    def call(self, path: str, token: str, said: object = None, method: str = "") -> Answer:
        """The HTTP API."""
        body = None if said is None else json.dumps(said).encode()
        return self.ask(
            f"/api/1{path}", body=body, method=method, Authorization=f"Bearer {token}",
            Content_Type="application/json" if said is not None else "",
        )  # fmt: skip


class ConsoleScenario(Scenario):
    """Two workers, a next hop that is not there, and the three kinds of places."""

    def setUp(self) -> None:
        super().setUp()
        self.relay = relay = self.relayd(
            f"next-hop out smtp 127.0.0.1:{free_port()}\n{RULES}",
            start=False,
            settings="retry 1h*10 2h",
        )
        folder = relay.folder
        authority = Authority()
        chain, key = authority.issue("127.0.0.1").write(folder, "tls")
        self.port, self.socket, self.people = (
            free_port(),
            folder / "console",
            folder / "people.sock",
        )
        text = relay.config.read_text().replace("workers 1\n", "workers 2\n")
        relay.config.write_text(
            f"{text}console listen unix:{self.socket}\n"
            f"console listen unix:{self.people} auth people\n"
            f"console listen 127.0.0.1:{self.port} auth people\n"
            f"certificate {chain} key {key}\ntable people users file {folder / 'users'}\n"
        )
        lines: list[str] = []
        for name, seat in SEATS.items():
            verifier = Verifier.of(PASSWORD, iterations=4096)
            lines = users.with_user(lines, name, verifier, seat)
        users.write(folder / "users", lines)
        self.prepare()
        relay.start()
        self.trusted = ssl.create_default_context(cadata=authority.pem.decode())

    def prepare(self) -> None:
        """What else is to be there before it starts."""

    def visitor(self, kind: str = "tls") -> Visitor:
        if kind == "tls":
            return Visitor(self.port, self.trusted)
        return Visitor(self.socket if kind == "socket" else self.people)

    def state(self, ident: str) -> str:
        return str(self.relay.show(ident)["recipients"][0]["state"])

    def becomes(self, ident: str, state: str) -> None:
        """What an operator asks for waits for an attempt that is under way."""
        wait_until(lambda: self.state(ident) == state, f"{ident} is {state}")

    def operators(self) -> list[str]:
        """The log's lines of what operators did."""
        lines = self.relay.log(400).splitlines()
        return [each for each in lines if "by=console:" in each or "by=token:" in each]


class ConsoleOfTwoWorkers(ConsoleScenario):
    def test_a_login_with_a_code_over_tls_and_by_the_socket(self) -> None:
        wrong = self.visitor().log_in("admin", "000000")
        self.assertEqual((wrong.status, "wrong" in wrong.text), (403, True))
        visitor = self.visitor()
        code = code_at(SECRET, int(time.time() // 30) + 1)  # none of before we started is good
        self.assertEqual(visitor.log_in("admin", code).status, 303)
        self.assertTrue(visitor.cookie.startswith("__Host-relayd="))
        self.assertIn(">admin (admin)", visitor.ask("/").text)
        self.assertEqual(self.visitor().log_in("admin", code).status, 403)  # good once
        behind = self.visitor("people")
        self.assertEqual(behind.log_in("viewer").status, 303)
        self.assertIn(">viewer (viewer)", behind.ask("/").text)
        self.assertIn("(admin)", self.visitor("socket").ask("/").text)

    def test_every_action_on_the_queue_and_its_author_over_a_reload(self) -> None:
        ident = self.relay.send("ann@sender.example", ["bob@example.com"])
        operator, viewer = self.visitor(), self.visitor()
        self.assertEqual(operator.log_in("operator").status, 303)
        self.assertEqual(viewer.log_in("viewer").status, 303)
        self.assertIn(ident, operator.ask("/queue").text)
        for command in ("hold", "remove", "reroute", "retry", "release"):
            self.assertEqual(viewer.act(command, ident).status, 403, command)
        whom = {"kind": "destination", "whom": "out", "seconds": "900", "reason": "repair"}
        self.assertEqual(viewer.act("suspend", **whom).status, 403)
        done: list[str] = []

        def act(command: str, *chosen: str, **said: str) -> None:
            answer = operator.act(command, *chosen, **said)
            self.assertEqual(answer.status, 303, f"{command}: {answer.text}")
            done.append(command)

        act("hold", ident)
        self.becomes(ident, "held")
        self.relay.ctl("reload")
        act("release", ident)  # in the session of before
        self.becomes(ident, "queued")
        act("retry", ident)
        act("suspend", **whom)
        self.assertIn("repair", operator.ask("/queue").text)
        self.assertIn('"whom": "out"', self.relay.ctl("suspended", "--json").stdout)
        act("resume", kind="destination", whom="out")
        text = self.relay.config.read_text()
        other = text.replace(
            "route   any via out",
            f"next-hop other smtp 127.0.0.1:{free_port()}\nroute any via other",
        )
        self.relay.config.write_text(other)
        self.relay.ctl("reload")
        act("hold", ident)

        def rerouted() -> bool:
            act("reroute", ident)  # an attempt that is under way is left alone
            return bool(self.relay.show(ident)["recipients"][0]["next_hop"] == "other")

        wait_until(rerouted, "it goes the other way")
        asked = operator.act("remove", ident)
        self.assertIn("Remove 1 message?", asked.text)
        self.becomes(ident, "held")
        act("remove", ident, sure="yes")
        self.assertNotIn(ident, operator.ask("/queue").text)
        # a worker's line comes into the log by way of the master
        wait_until(lambda: "command=remove" in "".join(self.operators()), "all is in the log")
        log = "\n".join(self.operators())
        for word in ("hold", "release", "retry", "reroute", "remove"):
            self.assertRegex(log, f"command={word} .*by=console:operator")
        self.assertRegex(log, "suspended .*by=console:operator")
        self.assertRegex(log, "resumed .*by=console:operator")
        self.assertNotIn("console:viewer", log)

    def test_none_of_the_attacks_works_against_two_workers(self) -> None:
        ident = self.relay.send("ann@sender.example", ["bob@example.com"])
        one, other = self.visitor(), self.visitor()
        one.log_in("operator")
        other.log_in("operator")
        form = {"command": "remove", f"id.{ident}": "yes", "back": "/queue", "sure": "yes"}
        one.ask("/queue")
        mine = {**form, "token": one.token}
        other.ask("/queue")
        tried = {
            "foreign Origin": one.ask("/act", mine, Origin="https://evil.example"),
            "foreign site": one.ask("/act", mine, Sec_Fetch_Site="cross-site"),
            "no token": one.ask("/act", form),
            "another's token": one.ask("/act", {**form, "token": other.token}),
            "GET with effect": one.ask(f"/act?{urlencode(mine)}"),
            "PUT": one.ask("/act", mine, method="PUT"),
            "planted session": one.ask("/act", mine, Cookie="__Host-relayd=planted"),
            "two cookies": one.ask("/act", mine, Cookie=f"{one.cookie}; {one.cookie}"),
            "upwards": one.ask("/queue/../act", mine),
            "encoded": one.ask("/%61ct", mine),
            "at the API": one.ask("/api/1/remove", mine),
            "way out": one.ask("/act", {**mine, "back": "//evil.example"}),
            "huge": one.ask("/act", {**mine, "note": "x" * (1 << 20)}),
        }
        for name, answer in tried.items():
            with self.subTest(name):
                self.assertIn(answer.status, (400, 401, 403, 404, 405, 413, 415), name)
                self.assertEqual(answer.headers["X-Frame-Options"], "DENY")
        self.assertEqual(self.state(ident), "queued")
        # two tabs: what one logs out the other has lost
        one.ask("/logout", {"token": one.token})
        self.assertEqual(one.ask("/act", mine).status, 403)
        self.assertEqual(self.state(ident), "queued")

    def test_guesses_at_the_console_are_slowed_down(self) -> None:
        statuses = []
        for _ in range(40):
            statuses.append(self.visitor().log_in("nobody", "1").status)
            if statuses[-1] == 429:
                break
        self.assertEqual(statuses[-1], 429, statuses)
        self.assertEqual(self.visitor().log_in("operator").status, 429)

    def prepare(self) -> None:
        text = self.relay.config.read_text()
        host, port = self.relay.address
        text = text.replace(f"listen {host}:{port}\n", f"listen {host}:{port} auth people\n")
        self.relay.config.write_text(f"auth-without-tls yes\n{text}")

    def test_guesses_over_smtp_and_at_the_console_are_counted_together(self) -> None:
        self.assertEqual(self.visitor().log_in("viewer").status, 303)
        for number in range(40):
            with contextlib.suppress(smtplib.SMTPException), self.relay.session() as session:
                session.ehlo("client.example")
                said = base64.b64encode(f"\0user{number}\0wrong".encode()).decode()
                if session.docmd("AUTH", f"PLAIN {said}")[0] == 454:
                    break
        else:
            self.fail("nobody was slowed down")
        self.assertEqual(self.visitor().log_in("viewer").status, 429)
        wrong = self.visitor().call("/status", "relayd_guessed")
        self.assertEqual((wrong.status, wrong.json()["status"]), (429, 429))

    def test_the_api_by_tokens_of_three_roles(self) -> None:
        ident = self.relay.send("ann@sender.example", ["bob@example.com"])
        tokens = {
            role: self.relay.ctl("token", "make", "--role", role, role).stdout.split()[-1]
            for role in ROLES
        }
        visitor = self.visitor("people")
        for path, role, said, status in (
            ("/status", "viewer", None, 200), ("/hold", "viewer", {"ids": [ident]}, 403),
            ("/hold", "operator", {"ids": [ident]}, 200), ("/reload", "operator", {}, 403),
            ("/reload", "admin", {}, 200), ("/nowhere", "admin", None, 404),
            ("/status", "admin", {}, 405), ("/hold", "admin", {"ids": 1}, 400),
        ):  # fmt: skip
            answer = visitor.call(path, tokens[role], said)
            self.assertEqual(answer.status, status, f"{path} {role}: {answer.text}")
            if status != 200:
                self.assertEqual(answer.headers["Content-Type"], "application/problem+json")
                self.assertEqual(answer.json()["status"], status)
        self.becomes(ident, "held")
        self.relay.ctl("token", "revoke", "operator")
        self.assertEqual(visitor.call("/status", tokens["operator"]).status, 401)
        wait_until(  # a worker's line comes into the log by way of the master
            lambda: re.search("command=hold .*by=token:operator", "\n".join(self.operators())),
            "it is in the log",
        )
