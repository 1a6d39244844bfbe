"""A small identity provider over HTTPS: device codes, tokens that expire and rotate, and moods.

A refresh token is good once. Whoever shows an old one is taken for a thief, and the whole family
is revoked, as real providers do: so two processes that refresh against each other are found out.
"""

from __future__ import annotations

import base64
import http.server
import itertools
import json
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, unquote_plus, urlsplit

from tests.scenarios.harness import Scenario

CLIENT_ID, CLIENT_SECRET = "relay-1", "s3cr3t of the client"
USER = "alice"


@dataclass
class Code:
    """A device code, and what became of it."""

    device: str
    user: str
    state: str = "authorization_pending"  # or "granted", or an error


@dataclass
class Seen:
    """One question for a token."""

    grant: str
    error: str
    at: float = field(default_factory=time.monotonic)


class Provider:
    """The server in a thread, and what the test says to it."""

    def __init__(
        self, scenario: Scenario, chain: Path, key: Path, *, lifetime: float = 3600
    ) -> None:
        self.lifetime: float | None = 3600
        self.mood = ""  # "500", "garbage", "huge", "no refresh token"
        self.stillborn = False  # tokens that no next hop takes
        self.codes: list[Code] = []
        self.access: dict[str, float] = {}  # good until
        self.refresh: set[str] = set()
        self.used: set[str] = set()  # refresh tokens that were good once
        self.seen: list[Seen] = []
        self.secrets: list[str] = [CLIENT_SECRET]  # all that must not show up anywhere
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain, key)
        provider = self

        class Handler(_Handler):
            idp = provider

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.socket = context.wrap_socket(
            self.server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.1,), daemon=True).start()
        scenario.addCleanup(self.server.server_close)
        scenario.addCleanup(self.server.shutdown)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    def settle(self, user_code: str, state: str = "granted") -> None:
        """Somebody entered the code, and said yes or no."""
        [code] = [each for each in self.codes if each.user == user_code]
        code.state = state

    def revoke(self, *, refresh: bool = True) -> None:
        """No token is good any more."""
        with self._lock:
            self.access.clear()
            if refresh:
                self.refresh.clear()

    def count(self, grant: str, error: str = "") -> int:
        """How many questions ended so."""
        return sum(each.grant == grant and each.error == error for each in list(self.seen))

    # answers

    def device(self, form: dict[str, str]) -> dict[str, object]:
        with self._lock:
            code = Code(self._new("device"), f"WDJB-{next(self._numbers):04}")
            self.codes.append(code)
            return {
                "device_code": code.device,
                "user_code": code.user,
                "verification_uri": f"{self.url}/enter",
                "expires_in": 600,
                "interval": 1,
            }

    def token(self, form: dict[str, str]) -> tuple[int, dict[str, object]]:
        grant = form.get("grant_type", "").rpartition(":")[2]
        with self._lock:
            error = self._refusal(grant, form)
            self.seen.append(Seen(grant, error))
            if error:
                words = f"{error}, because of {form.get('refresh_token', 'it')}"
                return 400, {"error": error, "error_description": words}
            answer: dict[str, object] = {"token_type": "Bearer", "access_token": self._new("at")}
            if self.lifetime is not None:
                answer["expires_in"] = self.lifetime
            until = 0.0 if self.stillborn else time.monotonic() + float(self.lifetime or 3600)
            self.access[str(answer["access_token"])] = until
            if grant != "client_credentials" and self.mood != "no refresh token":
                answer["refresh_token"] = self._new("rt")
                self.refresh.add(str(answer["refresh_token"]))
            return 200, answer

    def _refusal(self, grant: str, form: dict[str, str]) -> str:
        if grant == "device_code":
            code = next(each for each in self.codes if each.device == form["device_code"])
            return "" if code.state == "granted" else code.state
        if grant == "refresh_token":
            shown = form["refresh_token"]
            if shown in self.refresh:
                self.refresh.discard(shown)
                self.used.add(shown)
                return ""
            if shown in self.used:
                self.refresh.clear()
            return "invalid_grant"
        return "" if grant == "client_credentials" else "unsupported_grant_type"

    def introspect(self, token: str) -> dict[str, object]:
        good = self.access.get(token, 0.0) > time.monotonic()
        return {"active": "true", "username": USER} if good else {"active": "false"}

    def _new(self, kind: str) -> str:
        secret = f"{kind}-{next(self._numbers)}-" + base64.b16encode(kind.encode() * 300).decode()
        self.secrets.append(secret)
        return secret


class _Handler(http.server.BaseHTTPRequestHandler):
    idp: Provider

    def do_GET(self) -> None:
        self._asked("")

    def do_POST(self) -> None:
        self._asked(self.rfile.read(int(self.headers.get("Content-Length", 0))).decode())

    def _asked(self, body: str) -> None:
        parts = urlsplit(self.path)
        form = {name: values[0] for name, values in parse_qs(body).items()}
        status: int = 200
        answer: object
        if parts.path == "/introspect":
            asked = form.get("token") or self.headers.get("Authorization", "").rpartition(" ")[2]
            answer = self.idp.introspect(asked)
        elif self.idp.mood == "500":
            status, answer = 500, {"error": "invalid_grant"}
        elif not self._known(form):
            status, answer = 401, {"error": "invalid_client"}
        elif parts.path == "/device":
            answer = self.idp.device(form)
        else:
            status, answer = self.idp.token(form)
        data = json.dumps(answer).encode()
        if parts.path != "/introspect":
            data = {"garbage": b"<html>\xff", "huge": b" " * 200_000}.get(self.idp.mood, data)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _known(self, form: dict[str, str]) -> bool:
        """The client proved itself (RFC 6749 section 2.3.1)."""
        kind, _, value = self.headers.get("Authorization", "").partition(" ")
        if kind != "Basic" or form.get("client_id") != CLIENT_ID:
            return False
        client, _, secret = base64.b64decode(value).decode().partition(":")
        return (unquote_plus(client), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)

    def log_message(self, format: str, *args: object) -> None:  # its own name
        pass
