"""The screens: each with real mail, without scripts, and whatever anybody wrote stays text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

from relayd.config import embedded
from relayd.login.roles import Role
from relayd.mail.ident import ident_text
from relayd.ops.documents import Request
from relayd.ops.explain import decide
from relayd.web import assets, pages, rulespages
from relayd.web.live import KINDS, Rates
from relayd.web.markup import Markup, element, is_writable, link, pairs
from relayd.web.parts import Parts, ShownPart
from relayd.web.sessions import Person
from tests.hostile import hostile
from tests.support import TestCase
from tests.unit.web.scene import Scene

ALLOWED = {
    *("html", "head", "meta", "title", "link", "body", "header", "nav", "ul", "li", "a", "main"),
    *("h1", "h2", "p", "dl", "dt", "dd", "div", "table", "caption", "thead", "tbody", "tr", "th"),
    *("figure", "figcaption", "script", "ol", "strong"),  # a script: only by its address
    *("td", "form", "input", "select", "option", "label", "button", "span", "pre", "textarea"),
}


class Reader(HTMLParser):
    """Which elements and attributes a page has, and all its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.values: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.values += [value for _, value in attrs if value]

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def read(html: bytes | str) -> Reader:
    reader = Reader()
    reader.feed(html.decode() if isinstance(html, bytes) else html)
    reader.close()
    return reader


def shown(text: str) -> str:
    """As a page has it: what is not printable as its escape."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


class HostileStrings(TestCase):
    def view(self, **fields: str) -> pages.PageView:
        return pages.PageView(Person("console:x", Role.ADMIN, ""), 1e9, "/queue", fields, "t", True)

    def screens(self, evil: str) -> Iterator[tuple[str, bytes]]:
        """Every screen, with this wherever somebody else's words may stand."""
        view = self.view(
            **dict.fromkeys(
                (*pages.QUEUE_FIELDS, *pages.TRACE_FIELDS, *pages.QUESTION_FIELDS), evil
            )
        )
        waiting = {"messages": 1, "octets": 1, "queued": 1, "held": 0}
        lane = {"destination": evil, "standing": evil, "waiting": 1, "oldest": 1.0, "trouble": evil}
        status = {
            "hostname": evil, "pid": 1, "config": evil, "waiting": waiting,
            "destinations": [lane], "refused": {"why": evil}, "warnings": [evil],
            "not_listening": [evil], "full": [evil], "restart": [evil],
            "set_up": [{"destination": evil, "trouble": evil}],
            "sites": [{"site": evil, "trouble": evil}],
            "lost_addresses": [{"address": evil, "source": evil}],
            "suspended": [
                {"kind": evil, "whom": evil, "until": 1.0, "reason": evil, "by": evil}
            ],
            "certificates": [{"file": evil, "until": 0.0, "trouble": evil}],
            "tables": [{"name": evil, "entries": None, "confirmed": None, "trouble": evil,
                        "asks": evil}],
            "shards": [{"shard": 0, "healthy": True}],
        }  # fmt: skip
        provider = {"oldest": 1.0, "rate": 0.0, "slowed": True, "blocked": False}
        figures = {"sessions": 1, "deliveries": 1, "healthy": False, "providers": {evil: provider}}
        recipient = {
            "mailbox": evil, "original": evil, "next_hop": evil, "destination": evil,
            "state": "held", "attempts": 1, "reply": evil, "last_reply": evil, "why": evil,
            "remote_mta": evil, "remote_address": evil, "next_attempt": 1.0, "number": 0,
        }  # fmt: skip
        story = {
            "id": "1K7QJ4V8Z0G0", "received_at": 1.0, "size": 1, "sender": evil, "subject": evil,
            "message_id": evil, "parameters": {"envid": evil}, "recipients": [recipient],
            "client": dict.fromkeys(("helo", "rdns", "login", "address"), evil),
            "trail": [dict.fromkeys(("stage", "place", "rule", "note"), evil)],
        }  # fmt: skip
        found = {**story, "recipient": evil, "state": evil, "reply": evil}
        yield "now", pages.now(view, pages.standing(view, figures, status, Rates(dict)))
        yield "queue", pages.queue(view, [story], {"done": evil, "count": evil})
        yield "trace", pages.trace(view, [found], evil)
        parts = Parts(evil, (ShownPart(0, evil, evil, 1, evil),), whole=True)
        yield "message", pages.message(view, story, {"done": "hold", "count": evil}, parts)
        yield "health", pages.health(view, status, {"done": evil})
        answer = {
            "verdict": evil, "reply": evil, "trail": story["trail"],
            "facts": [dict.fromkeys(("fact", "value", "source"), evil)],
            "destinations": [{"mailbox": evil, "next_hop": evil, "hosts": [evil],
                              "reverse_path": evil, "signed_by": [evil]}],
            "copies": [],
        }  # fmt: skip
        yield "explain", pages.explain(view, answer, evil)
        site = {**dict.fromkeys(("site", "provider", "trouble"), evil), "rate": 1.0, "pinned": True,
                "connections": 1, "in_flight": 1, "taken": 1, "refused": 1, "resume_at": 1.0,
                "blocked_until": 1.0}  # fmt: skip
        origin = {"origin": evil, "messages": 1.0, "complaints": 1.0, "share": 0.5, "rate": 0.0,
                  "last": evil}  # fmt: skip
        yield "providers", pages.providers(view, figures, [site], [origin])
        file = {"file": evil, "octets": 1, "changed": 1.0, "by": evil, "at": 1.0, "trouble": evil}
        yield "rules", rulespages.files(view, {"files": [file]})
        kept = {"id": "0" * 16, "at": 1.0, "by": evil, "version": "1"}
        text = evil if is_writable(evil) else shown(evil)
        draft = rulespages.RulesDraft(evil, text, "0", (kept,))
        problem = {"file": evil, "line": 1, "column": 1, "what": evil}
        found = {"file": evil, "complaint": evil, "warnings": [evil], "problems": [problem]}
        yield "check", rulespages.edited(view, draft, rulespages.checked(found))
        found = {"whole": False, "summary": evil, "lines": [evil, evil], "hits": {f"{evil}:1": 1}}
        yield "replay", rulespages.edited(view, draft, rulespages.replayed(draft, found))
        yield "not done", rulespages.edited(view, draft, rulespages.refused(evil))
        yield "login", pages.login("t", evil)
        yield "refused", pages.refused(400, evil)

    def test_200_hostile_strings_through_every_screen_are_shown_as_text(self) -> None:
        strings = hostile()
        self.assertEqual(len(set(strings)), 200)
        plain = {name: [tag for tag, _ in read(html).tags] for name, html in self.screens("plain")}
        for evil in strings:
            for name, html in self.screens(evil):
                with self.subTest(screen=name, evil=evil):
                    reader = read(html)
                    self.assertEqual([tag for tag, _ in reader.tags], plain[name])
                    words = [shown(evil), shown(evil).replace("\\n", "\n")]  # of lines as they are
                    self.assertTrue(any(each in reader.text for each in words))
                    for tag, attributes in reader.tags:
                        self.assertIn(tag, ALLOWED)
                        for key, value in attributes.items():
                            self.assertFalse(key.startswith("on") or key == "style", key)
                            if key in ("href", "action"):
                                self.assertRegex(str(value), r"\A(/[^/\\]|/\Z|#)")

    def test_there_is_no_way_to_put_a_text_in_as_it_is(self) -> None:
        self.assertEqual(str(Markup("<b>")), "&lt;b&gt;")
        self.assertEqual(str(Markup(str(Markup("<b>")))), "&amp;lt;b&amp;gt;")
        self.assertEqual(
            str(element("p", ["<", None, 3], title='"')), '<p title="&quot;">&lt;3</p>'
        )
        self.assertIn("&lt;", str(pairs([("<", "<")])))
        for wrong in (
            "javascript:x",
            "//evil.example",
            "https://evil.example",
            "/\\evil",
            "",
            " /",
        ):
            with self.assertRaises(ValueError):
                element("a", "x", href=wrong)
        for name in ("onclick", "style", "src", "srcdoc"):
            with self.assertRaises(ValueError):
                element("p", **{name: "x"})
        with self.assertRaises(TypeError):
            Markup(object())
        self.assertEqual(link("/queue", a="<&", b=""), "/queue?a=%3C%26")


class Screens(Scene, TestCase):
    async def test_each_screen_shows_what_there_is(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example", sender='"<b>"@sender.example')
        ident = ident_text(message.ident)
        browser = self.browser("admin")
        about = {"version": "1", "hostname": "gw.example.com", "pid": 42}
        self.commands._about = lambda: about
        ruleset = embedded(self.folder).ruleset

        async def explain(request: Request) -> dict[str, object]:
            return decide(ruleset, request)

        self.commands._explain = explain
        for path, words in (
            ("/", ["1 message,", "exchange"]),
            ("/queue", [ident, "<bob@elsewhere.example>", "exchange"]),
            ("/queue?state=held", ["Nothing waits that fits."]),
            ("/trace", ["Find"]),
            ("/trace?recipient=" + quote("bob@elsewhere.example"), [ident, "one"]),
            ("/trace?recipient=bob", ["is no address"]),
            (
                f"/message/{ident}",
                ["rules.d/10-site.rules:14", "accept to <ours>", "client.example"],
            ),
            ("/explain", ["Explain"]),
            ("/explain?recipient=bob", ["bob"]),
            ("/explain?recipient=bob@y.example&from=127.0.0.1", ["accept", "<bob@y.example>"]),
            ("/health", ["gw.example.com", "Can record"]),
        ):
            heard = await browser.ask(path)
            self.assertEqual(heard.status, 200, path)
            reader = read(heard.text)
            for word in words:
                self.assertIn(word, reader.text, path)
            places = [each["id"] for _, each in reader.tags if "id" in each]
            self.assertEqual(len(places), len(set(places)), "an ID is one element's")
            for tag, attributes in reader.tags:
                if tag == "script":
                    self.assertIn(attributes["src"], assets.ASSETS)
            for tag, attributes in reader.tags:  # every control has a name (WCAG 4.1.2)
                if tag in ("input", "select") and attributes.get("type") != "hidden":
                    labelled = "aria-label" in attributes or f'name="{attributes["name"]}"' in (
                        "".join(each.partition("</label>")[0]
                                for each in heard.text.split("<label>")[1:])
                    )  # fmt: skip
                    self.assertTrue(labelled, attributes)

    async def test_what_cannot_be_taken_back_is_asked_for_once_more(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example")
        ident = ident_text(message.ident)
        browser = self.browser("admin")
        await browser.ask("/queue")
        form = {"token": browser.token, "command": "remove", f"id.{ident}": "yes", "back": "/queue"}
        heard = await browser.ask("/act", form)
        self.assertIn("Remove 1 message?", heard.text)
        self.assertIsNotNone(await self.spools[0].load(message.ident))
        heard = await browser.ask("/act", {**form, "sure": "yes"})
        self.assertEqual((heard.status, heard.field("location")),
                         (303, "/queue?done=remove&count=1"))  # fmt: skip
        self.assertIn("1 recipient removed", (await browser.ask("/queue?done=remove&count=1")).text)
        self.assertIsNone(await self.spools[0].load(message.ident))

    def test_where_nothing_waits_nothing_of_it_is_old(self) -> None:
        view = pages.PageView(Person("console:x", Role.ADMIN, ""), 1e9, "/", {}, "t", True)
        lane = {
            "destination": "exchange",
            "standing": "open",
            "oldest": 1e9 - 60,
        }  # of what is held
        waiting = {"messages": 1, "octets": 1, "queued": 1, "held": 1}
        figures = {"sessions": 0, "deliveries": 0, "healthy": True, "providers": {}}
        for count, age in ((1, "1m"), (0, "")):
            status = {"waiting": waiting, "destinations": [{**lane, "waiting": count}]}
            text = str(pages.standing(view, figures, status, Rates(dict)))
            self.assertIn(f"<td>open</td><td>{count}</td><td>{age}</td>", text)

    async def test_a_message_says_that_it_is_still_held_and_that_it_has_ended(self) -> None:
        message, _ = await self.accept("bob@elsewhere.example")
        ident = ident_text(message.ident)
        browser = self.browser("admin")
        await browser.ask("/queue")
        form = {"token": browser.token, f"id.{ident}": "yes", "back": "/queue", "sure": "yes"}
        await browser.ask("/act", {**form, "command": "hold"})
        self.assertIn("bob@elsewhere.example>: still held",
                      read((await browser.ask(f"/message/{ident}")).text).text)  # fmt: skip
        await browser.ask("/act", {**form, "command": "remove"})
        shown_ = read((await browser.ask(f"/message/{ident}")).text).text
        self.assertIn("Nothing of it waits any more, and its content went with it.", shown_)
        self.assertNotIn("no message", shown_)

    async def test_a_configuration_that_is_refused_is_shown_with_its_caret(self) -> None:
        browser = self.browser("admin")
        await browser.ask("/health")
        self.complaint = "relayd.conf:1:1: unknown\n    x\n    ^"
        form = {"token": browser.token, "command": "reload", "back": "/health"}
        heard = await browser.ask("/act", form)
        self.assertEqual(heard.status, 409)
        self.assertIn("relayd.conf:1:1: unknown", heard.text)

    async def test_the_style_sheet_is_ours_and_may_be_kept(self) -> None:
        heard = await self.browser("people").ask(assets.STYLE)
        self.assertEqual(
            (heard.status, heard.field("content-type")), (200, "text/css; charset=utf-8")
        )
        self.assertIn("immutable", heard.field("cache-control"))
        self.assertNotIn("url(", heard.text)
        self.assertNotIn("@import", heard.text)
        self.assertLess(len(heard.text), 10000)

    async def test_what_others_have_made_is_what_they_have_made_and_small(self) -> None:
        folder = Path(assets.__file__).parent / "vendor"
        for line in (folder / "SHA256SUMS").read_text().splitlines():
            digest, name = line.split()
            self.assertEqual(hashlib.sha256((folder / name).read_bytes()).hexdigest(), digest)
            self.assertTrue((folder / f"{name.partition('.')[0]}.LICENSE").is_file(), name)
        total = 0
        for path, (kind, content) in assets.ASSETS.items():
            heard = await self.browser("people").ask(path)
            self.assertEqual((heard.status, heard.field("content-type")), (200, kind))
            total += len(content)
        self.assertLess(total, 200_000)

    def test_colours_have_the_contrast_of_wcag_aa(self) -> None:
        css = assets.ASSETS[assets.STYLE][1].decode()
        light, dark = (part.partition("}")[0] for part in css.split(":root {")[1:])
        for part in (light, dark):
            colours = dict(
                each.strip().removeprefix("--").split(": ")
                for each in part.split(";") if each.strip().startswith("--")
            )  # fmt: skip
            for ink, paper in (("ink", "paper"), ("faint", "paper"), ("link", "paper"),
                               ("ink", "bar"), ("good", "bar"), ("bad", "bar"), ("bad", "paper"),
                               ("label", "button"),
                               *((kind, "paper") for kind in KINDS)):  # fmt: skip
                self.assertGreaterEqual(
                    _contrast(colours[ink], colours[paper]), 4.5, f"{ink} {paper}"
                )
            self.assertGreaterEqual(_contrast(colours["link"], colours["paper"]), 3)  # focus


def _contrast(one: str, other: str) -> float:
    """WCAG 2.2, "contrast ratio"."""
    bright, dark = sorted(map(_luminance, (one, other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
