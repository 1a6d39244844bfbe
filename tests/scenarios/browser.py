"""Debian's Chromium, driven over its DevTools protocol: what it draws, and what it complains of."""

from __future__ import annotations

import base64
import itertools
import json
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.scenarios.harness import MAILAUTH, program, wait_until

AXE = Path(MAILAUTH, "node_modules", "axe-core", "axe.min.js")
_KEYS = {"Backspace": 8, "Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}
_PAINTS = "performance.getEntriesByName('first-paint')"
_COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Chromium:
    """One process, headless, with a profile of its own."""

    def __init__(self, folder: Path) -> None:
        import websocket

        self._process = subprocess.Popen(
            [
                # ends with us, also where we are killed
                *(program("setpriv"), "--pdeathsig", "KILL"),
                *(program("chromium"), "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--remote-debugging-port=0", f"--user-data-dir={folder}", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-dev-shm-usage", "--ignore-certificate-errors", "about:blank"),
            ],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        said = next(each for each in self._process.stderr if "DevTools listening on" in each)
        # who does not read what it says would stop it one day
        threading.Thread(target=self._process.stderr.read, daemon=True).start()
        self._socket = websocket.create_connection(
            said.split()[-1], suppress_origin=True, timeout=60
        )
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []
        self._context = ""

    def begin_anew(self) -> None:
        """From now on pages know nothing of those before, as if it had just been started."""
        if self._context:
            self.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._context = self.call("Target.createBrowserContext")["browserContextId"]
        self.events.clear()

    def call(self, method: str, session: str = "", **parameters: object) -> dict[str, Any]:
        """The answer; events that come before it are kept."""
        number = next(self._numbers)
        asked: dict[str, object] = {"id": number, "method": method, "params": parameters}
        if session:
            asked["sessionId"] = session
        self._socket.send(json.dumps(asked))
        while True:
            heard = self._hear()
            if heard.get("id") == number:
                if "error" in heard:
                    raise AssertionError(f"{method}: {heard['error']}")
                answer: dict[str, Any] = heard["result"]
                return answer

    def _hear(self) -> dict[str, Any]:
        heard: dict[str, Any] = json.loads(self._socket.recv())
        if "method" in heard:
            self.events.append(heard)
        return heard

    def wait_for(self, method: str, session: str, since: int) -> None:
        """Until such an event has come, after the first `since` of all."""
        until = time.monotonic() + 60
        while not any(
            each["method"] == method and each.get("sessionId") == session
            for each in self.events[since:]
        ):
            if time.monotonic() > until:
                raise AssertionError(f"no {method}")
            self._hear()

    def page(self) -> Page:
        """A new one, empty."""
        made = self.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        target = made["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        return Page(self, found["sessionId"], target)

    def close(self) -> None:
        """End it."""
        self.call("Browser.close")
        self._socket.close()
        self._process.wait(60)
        if self._process.stderr is not None:
            self._process.stderr.close()


class Page:
    """One tab."""

    def __init__(self, browser: Chromium, session: str, target: str) -> None:
        self._browser = browser
        self._session = session
        self._target = target
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Of the protocol."""
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Load it to its end."""
        self._loading(lambda: self.call("Page.navigate", url=url))

    def painted(self, url: str) -> float:
        """Load it; milliseconds from there to its first paint, as the browser has them."""
        self.open(url)
        wait_until(lambda: self.value(f"{_PAINTS}.length"), "it is painted")
        return float(self.value(f"{_PAINTS}[0].startTime"))

    def _loading(self, act: Callable[[], object]) -> None:
        since = len(self._browser.events)
        act()
        self._browser.wait_for("Page.loadEventFired", self._session, since)

    def value(self, script: str) -> Any:  # noqa: ANN401 - whatever it is
        """What an expression is in the page."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise AssertionError(found["exceptionDetails"])
        return found["result"].get("value")

    def looks(self, width: int, *, dark: bool = False, scripts: bool = True) -> None:
        """From the next page on."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900,
                  deviceScaleFactor=1, mobile=False)  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)

    def press(self, key: str, *, loads: bool = False) -> None:
        """A key; `loads`: another page comes by it."""

        def act() -> None:
            text = {"Enter": "\r", " ": " "}.get(key, "")
            for kind in ("keyDown", "keyUp"):
                self.call(
                    "Input.dispatchKeyEvent", type=kind, key=key, code=key.strip() or "Space",
                    windowsVirtualKeyCode=_KEYS[key], **({"text": text} if text else {}),
                )  # fmt: skip

        if loads:
            self._loading(act)
        else:
            act()

    def write(self, text: str) -> None:
        """Where the focus is."""
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """The whole page, as PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(found["data"])

    def complaints(self) -> list[str]:
        """What stands in the browser's log, of this page since it is there."""
        return [
            json.dumps(each["params"])
            for each in self._browser.events
            if each["method"] in _COMPLAINTS and each.get("sessionId") == self._session
        ]

    def violations(self) -> list[str]:
        """What axe-core has against it."""
        if not self.value("typeof axe === 'object'"):
            self.value(AXE.read_text() + "; 0")
        found = self.value("axe.run().then(r => r.violations.map(v => [v.id, v.nodes[0].html]))")
        return [f"{ident}: {html}" for ident, html in found]

    def close(self) -> None:
        """Leave it."""
        self._browser.call("Target.closeTarget", targetId=self._target)
