"""HTML out of texts and elements: whatever is not an element made here is escaped.

There is no way to put a text in as it is, so nobody can forget to escape one. What is not printable
(controls, marks that turn the direction of writing) is shown as its escape, as in the log.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from urllib.parse import urlencode

from relayd.ops.text import safe

_VOID = {"input", "meta", "link", "br", "hr"}
_ADDRESSES = {"href", "action", "hx-get", "hx-post"}
_OURS = re.compile(r"(?:/(?![/\\])|#[a-z])")  # a page of this very host, or a place in this one

_SCRIPT = re.compile(r"/[a-z]+-[0-9a-f]{16}\.js")
# nothing evaluated, no style of its own, nobody else asked: the policy that we send allows no more
_HTMX = (
    '{"includeIndicatorStyles":false,"allowEval":false,"allowScriptTags":false,'
    '"selfRequestsOnly":true,"historyEnabled":false}'
)


class Markup:
    """Elements, ready to be sent."""

    __slots__ = ("_text",)

    def __init__(self, *parts: object) -> None:
        self._text = "".join(map(_html, parts))

    def __str__(self) -> str:
        return self._text


def _html(part: object) -> str:
    if isinstance(part, Markup):
        return str(part)
    if isinstance(part, str):
        return escape(safe(part))
    if part is None or part is False:
        return ""
    if isinstance(part, int | float):
        return str(part)
    if isinstance(part, Iterable):
        return "".join(map(_html, part))
    raise TypeError(f"{type(part).__name__} is no part of a page")


def element(name: str, /, *children: object, **attributes: str | bool) -> Markup:
    """`element("a", "text", href="/")`; a trailing _ of a name is dropped, _ within is a hyphen."""
    made = Markup()
    said = "".join(
        _attribute(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()
    )
    inner = "" if name in _VOID else f"{''.join(map(_html, children))}</{name}>"
    made._text = f"<{name}{said}>{inner}"
    return made


def _attribute(name: str, value: str | bool) -> str:
    if name.startswith("on") or name in ("style", "srcdoc", "src"):
        raise ValueError(f"{name}: nothing of the kind stands in our pages")
    if isinstance(value, bool):
        return f" {name}" if value else ""
    if name in _ADDRESSES and not _OURS.match(value):
        raise ValueError(f"{name}: {value!r} is no page of ours")
    return f' {name}="{escape(safe(value))}"'


def preformatted(text: str) -> Markup:
    """Lines that stand as they were written, such as a complaint with its caret."""
    made = element("pre", tabindex="0")
    lines = "\n".join(_html(line) for line in text.split("\n"))
    made._text = made._text.replace("></pre>", f">{lines}</pre>")
    return made


def is_writable(text: str) -> bool:
    """Whether a browser shows all of it, and gives it back as it is."""
    return text.replace("\n", "").replace("\t", "").isprintable()


def editor(name: str, text: str, **attributes: str | bool) -> Markup:
    """Where a text is written: the only place that shows one as it is, with tabs and lines."""
    if not is_writable(text):
        raise ValueError("what is not printable would not come back as it is")
    made = element("textarea", name=name, spellcheck="false", autocomplete="off", **attributes)
    # the first line feed is the parser's
    made._text = made._text.replace("></textarea>", f">\n{escape(text)}</textarea>")
    return made


def link(path: str, **fields: str) -> str:
    """The address of a page of ours; fields that are empty are left out."""
    said = urlencode({name: value for name, value in fields.items() if value})
    return f"{path}?{said}" if said else path


def _script(path: str) -> Markup:
    if not _SCRIPT.fullmatch(path):
        raise ValueError(f"{path}: no script of ours")
    made = Markup()
    made._text = f'<script src="{path}" defer></script>'
    return made


def page(title: str, style: str, icon: str, *parts: object, scripts: Iterable[str] = ()) -> bytes:
    """A whole document; `style`, `icon` and `scripts` are addresses of ours."""
    loaded = [_script(path) for path in scripts]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("link", rel="stylesheet", href=style),
        # said, or browsers ask for /favicon.ico
        element("link", rel="icon", href=icon),
        element("meta", name="htmx-config", content=_HTMX) if loaded else None,
        loaded,
    )
    whole = element("html", head, element("body", *parts), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n".encode()


def table(
    caption: str, columns: Iterable[str], rows: Iterable[Iterable[object]], empty: str = ""
) -> Markup:
    """A table that may be wider than the screen; `empty` is said where there are no rows."""
    body = [element("tr", [element("td", cell) for cell in row]) for row in rows]
    if not body and empty:
        return Markup(element("h2", caption), element("p", empty))
    head = element("tr", [element("th", name, scope="col") for name in columns])
    whole = element(
        "table", element("caption", caption), element("thead", head), element("tbody", body)
    )
    # an ID, so that who stands in it with the keyboard still does when it has come anew
    place = "".join(each if each.isalnum() else "-" for each in caption.lower())
    return element("div", whole, id=place, role="region", aria_label=caption, tabindex="0")


def pairs(facts: Iterable[tuple[str, object]]) -> Markup:
    """Names and what stands behind them."""
    return element("dl", [Markup(element("dt", name), element("dd", fact)) for name, fact in facts])
