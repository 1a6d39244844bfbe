"""The API for forwards: the examples of the documents, writers side by side, a crash, thieves."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import threading
from pathlib import Path
from typing import Any

from tests.scenarios.harness import Relayd, Scenario

DOCUMENT = Path(__file__).parents[2] / "docs" / "directories.md"
RULES = """\
next-hop sink smtp 127.0.0.1:1
include customers/*.rules scoped
route any via sink
"""


class ForwardsApiTest(Scenario):
    def begin(self) -> Relayd:
        self.socket = self.folder / "console.sock"
        relay = self.relayd(RULES, settings=f"console listen unix:{self.socket}", start=False)
        for folder in {relay.config.parent, relay.folder, relay.folder / "rules.d"}:
            if folder.is_dir():
                (folder / "customers").mkdir(exist_ok=True)
        self.relay = relay
        relay.start()
        self.token = self.token_of("panel", "--role", "operator", "--domain", "example.com")
        return relay

    def token_of(self, name: str, *options: str) -> str:
        said = self.relay.ctl("token", "make", name, *options, "--json").stdout
        return str(json.loads(said)["token"])

    def ask(
        self, method: str, path: str, body: object = None, token: str = "", **fields: str
    ) -> tuple[int, Any, str]:
        """Status, document or text, and ETag."""
        words = ["curl", "-s", "-i", "--unix-socket", str(self.socket), "-X", method]
        words += ["-H", f"Authorization: Bearer {token or self.token}"]
        kind = "text/plain" if isinstance(body, str) else "application/json"
        if body is not None:
            words += ["-H", f"Content-Type: {kind}", "--data-binary"]
            words.append(body if isinstance(body, str) else json.dumps(body))
        for name, value in fields.items():
            words += ["-H", f"{name.replace('_', '-')}: {value}"]
        said = subprocess.run(
            [*words, f"http://localhost/api/1/domains/{path}"],
            capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        head, _, text = said.partition("\n\n")
        status = int(head.split(" ", 2)[1])
        tag = re.search(r"(?im)^etag: (.*)$", head)
        return status, json.loads(text) if text[:1] == "{" else text, tag[1].strip() if tag else ""

    def reply(self, recipient: str) -> int:
        with self.relay.session() as client:
            client.ehlo("client.example")
            client.mail("x@outside.example")
            return client.rcpt(recipient)[0]

    def file(self, domain: str = "example.com") -> Path:
        found = [
            *self.relay.folder.rglob(f"{domain}.rules"),
            *self.relay.config.parent.rglob(f"{domain}.rules"),
        ]
        return found[0]

    def becomes(self, recipient: str) -> str:
        return self.relay.ctl("explain", recipient, check=False).stdout

    def test_the_examples_of_the_documents(self) -> None:
        self.begin()
        examples = [line for line in DOCUMENT.read_text().split("\n") if line.startswith("curl ")]
        self.assertEqual(len(examples), 7)
        said: list[str] = []
        for line in examples:
            line = line.replace("/run/relayd/console.sock", str(self.socket))
            words = [word.replace("$TOKEN", self.token) for word in shlex.split(line)]
            done = subprocess.run([*words, "-sf"], capture_output=True, text=True, timeout=60)
            self.assertEqual(done.returncode, 0, f"{line}\n{done}")
            said.append(done.stdout)
            if len(said) == 1:
                self.assertEqual(self.reply("sales@example.com"), 250)
                self.assertIn("bob@example.net", self.becomes("sales@example.com"))
            if len(said) == 4:
                self.assertEqual(self.reply("sales@example.com"), 550)
        targets = ["ann@example.net", "bob@example.net"]
        self.assertEqual(json.loads(said[0])["targets"], targets)
        self.assertEqual(json.loads(said[1])["targets"], targets)
        self.assertEqual(json.loads(said[2])["forwards"], {"sales": targets})
        self.assertEqual(self.ask("GET", "example.com/rules")[1], "accept to @example.com")
        done = subprocess.run([*words, "-sf"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 22)  # it is there already

    def test_writers_side_by_side_a_crash_and_a_reload_by_hand(self) -> None:
        relay = self.begin()
        self.assertEqual(
            self.ask("PUT", "example.com/rules", "# by hand\naccept to @example.com\n")[0], 201
        )
        wrong: list[object] = []

        def write(number: int) -> None:
            status, said, _ = self.ask(
                "PUT", f"example.com/forwards/user{number}", [f"u{number}@example.net"]
            )
            if status != 201:
                wrong.append(said)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        self.assertEqual(wrong, [])
        _, said, _ = self.ask("GET", "example.com/forwards")
        self.assertEqual(len(said["forwards"]), 8)  # nobody has lost anything
        text = self.file().read_text()
        self.assertTrue(text.startswith("# by hand\naccept to @example.com\n"), text)

        # who has not seen what there is now is told so
        _, _, tag = self.ask("GET", "example.com/forwards/user1")
        first = self.ask("PUT", "example.com/forwards/user1", ["new@example.net"], if_match=tag)
        self.assertEqual(first[0], 200)
        for path, body in (
            ("forwards/user1", ["x@example.net"]),
            ("rules", "accept to @example.com\n"),
        ):
            self.assertEqual(self.ask("PUT", f"example.com/{path}", body, if_match=tag)[0], 412)
        self.assertEqual(self.ask("DELETE", "example.com/forwards/user1", if_match=tag)[0], 412)
        found = self.file()
        self.assertTrue(found.with_name(f"{found.name}~").exists())

        # what was answered is there after a crash, and nothing is half
        last = self.ask("PUT", "example.com/forwards/user2", ["last@example.net"])
        self.assertEqual(last[0], 200)
        thread = threading.Thread(
            target=lambda: self.ask_quietly(
                "PUT", "example.com/forwards/user3", ["late@example.net"]
            )
        )
        thread.start()
        relay.kill()
        thread.join()
        relay.start()
        self.assertIn("last@example.net", self.becomes("user2@example.com"))
        self.assertEqual(relay.ctl("check", check=False).returncode, 0)

        # by hand, and a reload: both are there
        found.write_text(found.read_text() + "forward hand@example.com -> hand@example.net\n")
        relay.ctl("reload")
        self.assertIn("hand@example.net", self.becomes("hand@example.com"))
        self.assertEqual(self.ask("PUT", "example.com/forwards/more", ["more@example.net"])[0], 201)
        self.assertIn("hand@example.net", self.becomes("hand@example.com"))
        self.assertIn("more@example.net", self.becomes("more@example.com"))

    def ask_quietly(self, method: str, path: str, body: object) -> None:
        with contextlib.suppress(ValueError, IndexError):  # it was killed meanwhile
            self.ask(method, path, body)

    def test_thieves_and_mistakes(self) -> None:
        self.begin()
        viewer = self.token_of("look", "--domain", "example.com")
        admin = self.token_of("root", "--role", "admin")
        general = self.token_of("ops", "--role", "operator")
        other = self.token_of("other", "--role", "operator", "--domain", "other.example")
        info = "example.com/forwards/info"
        self.assertEqual(self.ask("PUT", info, ["a@example.net"])[0], 201)
        for token, status in (("wrong", 401), (viewer, 403), (general, 403), (other, 403)):
            self.assertEqual(self.ask("PUT", info, ["evil@evil.example"], token)[0], status, token)
            self.assertEqual(self.ask("DELETE", "example.com/rules", None, token)[0], status)
        for token, why in (
            (viewer, "that is for operator here; the token look is viewer's"),
            (general, "that is for admin of a token without a domain; the token ops is operator's"),
            (other, "the token other is for other.example alone"),
        ):
            self.assertEqual(self.ask("PUT", info, ["a@b.example"], token)[1]["detail"], why)
        self.assertEqual(self.ask("GET", info, None, viewer)[0], 200)
        self.assertEqual(self.ask("GET", info, None, other)[0], 403)
        self.assertEqual(
            self.ask("PUT", "other.example/forwards/x", ["a@b.example"], admin)[0], 201
        )
        for domain in ("other.example", "sub.example.com", "com", "EXAMPLE.org", "example.com."):
            status = self.ask("PUT", f"{domain}/forwards/info", ["a@example.net"])[0]
            self.assertIn(status, (400, 403), domain)
        for domain in ("..", "%2e%2e", "example.com%2f..%2fother.example"):
            self.assertIn(
                self.ask("PUT", f"{domain}/rules", "accept to @example.com")[0], (400, 404, 405)
            )
        said = subprocess.run(
            ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket",
             str(self.socket), "-H", f"Authorization: Bearer {self.token}",
             "http://localhost/api/1/status"],
            capture_output=True, text=True, timeout=60,
        ).stdout  # fmt: skip
        self.assertEqual(said, "403")  # for forwards, and nothing else
        before = self.file().read_bytes()
        for path, body, status in (
            ("rules", "accept to @other.example\n", 422),
            ("rules", "include /etc/passwd\n", 422),
            ("rules", "acept\n", 422),
            ("rules", {"x": 1}, 415),
            ("forwards/info", [], 400),
            ("forwards/info", ["no address"], 400),
            ("forwards/info", ["a@b.example\nlisten 0.0.0.0:26"], 400),
            ("forwards/info", {"targets": "a@b.example"}, 400),
            ("forwards/a%0aaccept", ["a@b.example"], 400),
            ("forwards/x@other.example", ["a@b.example"], 400),
            ("forwards/%ff", ["a@b.example"], 400),
            ("forwards/info", ["info@example.com", "a@" + "b" * 70 + ".example"], 400),
        ):
            answer = self.ask("PUT", f"example.com/{path}", body)
            self.assertEqual(answer[0], status, f"{path} {body} {answer}")
        self.assertIn("^", self.ask("PUT", "example.com/rules", "acept\n")[1]["detail"])
        self.assertEqual(self.file().read_bytes(), before)
        for local in ("first.last", "o'neil", "a+b", "a%2Bc", "%22x%20y%22", "a=b"):
            status, said, _ = self.ask("PUT", f"example.com/forwards/{local}", ["a@example.net"])
            self.assertEqual(status, 201, f"{local} {said}")
        token = self.token_of("idn", "--role", "operator", "--domain", "b\u00fccher.example")
        for spelled in ("b%C3%BCcher.example", "xn--bcher-kva.example", "B%C3%9CCHER.example"):
            self.assertEqual(self.ask("PUT", f"{spelled}/forwards/x", ["a@b.example"], token)[0],
                             201 if spelled.startswith("b") else 200)  # fmt: skip
            self.assertEqual(self.ask("GET", f"{spelled}/forwards", None, token)[0], 200)
            self.assertEqual(self.ask("GET", f"{spelled}/forwards")[0], 403)
        for spelled in ("%ff.example", "b%C3%BC%2fcher.example", "%E2%80%AE.example", "%C2%AD"):
            self.assertIn(self.ask("PUT", f"{spelled}/rules", "", token)[0], (400, 403, 404, 405))
        self.assertEqual(self.reply('"x y"@example.com'), 250)
        self.assertEqual(self.reply("info@other.example"), 550)
        self.relay.logged("by=token:panel")
