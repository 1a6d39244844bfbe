"""The screen Rules: the files in force, and one of them as it is written, checked and replayed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from relayd.ops.text import moment, octets
from relayd.web import assets
from relayd.web.markup import Markup, editor, element, link, preformatted, table
from relayd.web.pages import Document, PageView, framed

RULES = "/rules"
CHECK = "/rules/check"  # asked by the page itself while somebody types
DAYS = {"86400": "the last day", "604800": "the last 7 days", "3600": "the last hour"}
MOST_SHOWN = 2000  # lines with what they did
COMMANDS = {"check": "Check", "replay": "Replay", "activate": "Activate"}


@dataclass(frozen=True, slots=True)
class RulesDraft:
    """A file as somebody writes it."""

    file: str
    text: str
    version: str  # of what is there
    kept: tuple[Mapping[str, Any], ...] = ()


def files(view: PageView, found: Document) -> bytes:
    """Those that are in force, in the order they are read."""
    rows = [
        (
            element("a", each["file"], href=link(RULES, file=each["file"])),
            octets(each["octets"]),
            moment(each["changed"]) if each["changed"] else "",
            f"{each['by']}, {moment(each['at'])}" if each["by"] else "",
            each["trouble"],
        )
        for each in found["files"]
    ]
    columns = ("File", "Size", "Changed", "Last changed here by", "Trouble")
    return framed(
        view,
        "Rules",
        element("p", "What is activated here is checked, written, and in force at once."),
        table("Files", columns, rows, "There are none."),
    )


def edited(view: PageView, draft: RulesDraft, said: Markup | None, since: str = "86400") -> bytes:
    """One of them, and what was found out about it."""
    file = element("input", type="hidden", name="file", value=draft.file)
    version = element("input", type="hidden", name="version", value=draft.version)
    days = [
        element("option", name, value=each, selected=each == since) for each, name in DAYS.items()
    ]
    buttons = [
        Markup(element("button", name, name="command", value=command), " ")
        for command, name in COMMANDS.items()
    ]
    form = view.form(
        RULES,
        file,
        version,
        element("label", draft.file, for_="text", class_="file"),
        editor(
            "text",
            draft.text,
            id="text",
            rows=str(min(max(draft.text.count("\n") + 2, 10), 40)),
            hx_post=CHECK,
            hx_trigger="input changed delay:300ms",
            hx_target="#said",
            hx_sync="this:replace",
        ),
        element("div", said or "", id="said", role="status", aria_label="What is said of it"),
        element("p", element("label", "Replay", element("select", days, name="since")), " ",
                buttons, class_="buttons"),
        class_="editor",
    )  # fmt: skip
    return framed(
        view,
        f"Rules: {draft.file}",
        element("p", element("a", "All files", href=RULES)),
        _done(view),
        form,
        _before(view, draft, file, version),
        scripts=(assets.HTMX,),
    )


def _done(view: PageView) -> Markup | None:
    words = {"activate": "It is in force.", "back": "The version before is in force again."}
    done = words.get(view.fields.get("done", ""))
    return element("p", done, class_="good", role="status") if done else None


def _before(view: PageView, draft: RulesDraft, file: Markup, version: Markup) -> Markup:
    rows = [
        (
            element("a", moment(each["at"]), href=link(RULES, file=draft.file, kept=each["id"])),
            each["by"],
            view.form(
                RULES,
                file,
                version,
                element("input", type="hidden", name="kept", value=each["id"]),
                element("button", "Go back", name="command", value="back",
                        aria_label=f"Go back to what was there until {moment(each['at'])}"),
            ) if each["version"] != draft.version else "as it is now",
        )
        for each in draft.kept
    ]  # fmt: skip
    columns = ("Until", "Replaced by", "Go back")
    return table("Versions before", columns, rows, "Nothing has been changed here yet.")


def checked(found: Document) -> Markup:
    """What `check` says: each complaint with its line and caret."""
    warnings = [preformatted(each) for each in found["warnings"]]
    if not found["complaint"]:
        return Markup(element("p", "This is good.", class_="good"), warnings)
    problems = [each for each in found["problems"] if each["file"] == found["file"]]
    first = f"line {problems[0]['line']}, column {problems[0]['column']}: " if problems else ""
    what = problems[0]["what"] if problems else "Another file would not fit this one."
    return Markup(
        element("p", first, what, class_="bad", role="alert"), preformatted(found["complaint"])
    )


def refused(why: str) -> Markup:
    """Why nothing was done."""
    return Markup(element("p", "Nothing was done.", class_="bad", role="alert"), preformatted(why))


def replayed(draft: RulesDraft, found: Document) -> Markup:
    """What it would have made of the mail that was seen, and what each of its rules had to say."""
    part = None if found["whole"] else element("p", "There was more than could be looked at.")
    hits = {
        int(line): count
        for place, count in found["hits"].items()
        for name, _, line in [place.rpartition(":")]
        if name == draft.file and line.isdecimal()
    }
    rows = [
        (str(number), f"{hits.get(number, 0):,}", line)
        for number, line in enumerate(draft.text.split("\n")[:MOST_SHOWN], 1)
        if number in hits or line[:1].strip() not in ("", "#")
    ]
    return Markup(
        element("p", found["summary"], class_="good"),
        part,
        preformatted("\n".join(found["lines"][1:])) if found["lines"][1:] else None,
        table("What each line had to say to", ("Line", "Recipients", "Rule"), rows, "Nothing."),
    )
