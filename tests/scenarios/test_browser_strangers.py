"""What strangers write, and what their pages try, in Debian's Chromium: none of it works."""

from __future__ import annotations

import json
import re
import ssl
from email.header import Header
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any
from urllib.parse import quote
from urllib.request import Request, urlopen

from tests.hostile import hostile
from tests.scenarios.harness import wait_until
from tests.scenarios.test_browser import InChromium


def _line(text: str) -> str:
    """As it may stand in a line."""
    return text.replace("\r", " ").replace("\n", " ").replace("\0", " ")


class Strangers(InChromium):
    def test_200_hostile_strings_in_mail_are_text_on_every_screen_and_in_the_api(self) -> None:
        """What strangers write: HELO, addresses, Subject, names of parts, a next hop's replies."""
        strings = hostile()
        messages = [self.hostile_message(number, strings) for number in range(len(strings))]
        wait_until(lambda: len(self.relay.queue("--sender", "@evil.example")) == 200, "they wait")
        page = self.chromium.page()
        page.looks(1600)
        self.log_in(page)
        text = ""
        for path in (
            "/", "/queue?sender=@evil.example", "/trace?sender=@evil.example", "/providers",
            "/health", *(f"/message/{messages[number]}" for number in range(0, 200, 20)),
            *(f"/{screen}?recipient={quote(strings[n], errors='replace')}&sender=%22%3E%3Cb%3E"
              for n in range(0, 200, 40) for screen in ("queue", "trace", "explain")),
        ):  # fmt: skip
            page.open(self.url + path)
            ours = "[...document.scripts].every(s => s.src.startsWith(location.origin))"
            self.assertTrue(page.value(ours), path)
            theirs = "img, svg, iframe, base, b, h1 h1, main meta, form[action^='//']"
            self.assertEqual(page.value(f'document.querySelectorAll("{theirs}").length'), 0, path)
            text += page.value("document.body.textContent")
        token = self.relay.ctl("token", "make", "t", "--role", "viewer").stdout.split()[-1]
        found = self.api("/find?sender=@evil.example&limit=1000", token)["found"]
        self.assertEqual(len(found), 200)
        subjects = {each["subject"] for each in found}
        plain = [
            each for each in strings
            if each.isascii() and each.isprintable() and each.strip() == each and len(each) < 60
        ]  # fmt: skip
        self.assertEqual([each for each in plain if each not in text], [])
        self.assertEqual([each for each in plain if each not in subjects], [])
        self.assertEqual(page.complaints(), [])

    def test_a_page_of_others_frames_nothing_reads_nothing_and_posts_nothing(self) -> None:
        page = self.chromium.page()
        page.looks(1600)
        self.log_in(page)
        ident = self.idents[1]
        page.open(f"data:text/html,<title>evil</title><iframe src='{self.url}/queue'></iframe>")
        targets = self.chromium.call("Target.getTargets", filter=[{"type": "iframe"}])
        for target in targets["targetInfos"]:  # of the frame only an error of the browser is left
            session = self.chromium.call(
                "Target.attachToTarget", targetId=target["targetId"], flatten=True
            )["sessionId"]
            found = self.chromium.call("Runtime.evaluate", session, expression="location.href")
            self.assertEqual(found["result"]["value"], "chrome-error://chromewebdata/")
        got = (
            "fetch('%s/queue', {credentials: 'include', mode: '%s'}).then(r => r.text(), e => 'no')"
        )
        for mode in ("cors", "no-cors"):
            self.assertIn(page.value(got % (self.url, mode)), ("no", ""), mode)
        page.value(f"""(() => {{
            const form = document.createElement('form');
            form.method = 'post'; form.action = '{self.url}/act';
            form.innerHTML = "<input name=command value=remove><input name=sure value=yes>"
                + "<input name=back value=/queue><input name='id.{ident}' value=yes>";
            document.body.append(form); form.submit();
        }})()""")
        wait_until(lambda: "Not done" in str(page.value("document.title")), "it is turned away")
        self.assertIn(ident, self.relay.ctl("queue").stdout)
        page.open(f"{self.url}/queue")  # who is logged in still is
        text = "document.body ? document.body.innerText : ''"
        wait_until(lambda: ident in page.value(text), "it waits still")

    def hostile_message(self, number: int, strings: list[str]) -> str:
        """One string wherever it may stand, of every twentieth message 20 as names of its parts."""
        line = _line(strings[number])
        message = EmailMessage()
        message["From"] = "Ann <ann@evil.example>"
        message.set_content(strings[number].replace("\r", "").replace("\0", ""))
        for each in strings[number : number + 20] if number % 20 == 0 else ():
            message.add_attachment(b"x", "application", "octet-stream", filename=_line(each))
        plain = line.isascii() and line.isprintable() and len(line) < 60
        subject = line if plain else Header(line, "utf-8").encode(linesep="\r\n")
        content = b"Subject: %b\r\n%b" % (subject.encode(), message.as_bytes(policy=SMTP))
        quoted = "".join(f"\\{each}" if each in '"\\' else each for each in line)
        with self.relay.session() as session:
            session.command_encoding = "utf-8"
            if session.ehlo(line)[0] != 250:
                session.ehlo("client.example")
            sender = f'<"{quoted}"@evil.example>' if plain else "ann@evil.example"
            if session.mail(sender)[0] != 250:
                session.mail("ann@evil.example")
            session.rcpt(f"h{number}@busy.example")
            _, reply = session.data(content)
        found = re.search(rb"\b[0-9A-HJKMNP-TV-Z]{12}\b", reply)
        assert found is not None, reply
        return found[0].decode()

    def api(self, path: str, token: str) -> Any:  # noqa: ANN401 - JSON
        asked = Request(f"{self.url}/api/1{path}", headers={"Authorization": f"Bearer {token}"})
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with urlopen(asked, context=context) as answer:
            self.assertEqual(answer.headers["Content-Type"], "application/json")
            return json.load(answer)
