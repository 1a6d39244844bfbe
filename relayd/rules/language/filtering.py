"""The verbs for those who are asked: `milter`, `rspamd`, `clamd`, `policy`, and `ask` itself."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from relayd.rules.conditions.condition import Condition
from relayd.rules.conditions.registry import CONDITIONS, conditions, when
from relayd.rules.language.model import Ask, FilterDef
from relayd.rules.language.words import Words, host_port

FAILURES = ("accept", "defer", "reject", "hold")
"""What becomes of a message where a filter does not say."""
MOST_PATIENCE = 480  # seconds: no session waits longer for anybody
_PORTS = {"rspamd": 11333, "clamd": 3310, "milter": 0, "policy": 0}  # 0: it must be said
_EXAMPLES = {
    "milter": "unix:/run/opendkim/opendkim.sock or 127.0.0.1:8891",
    "policy": "unix:/run/postgrey/socket or 127.0.0.1:10023",
    "clamd": "unix:/run/clamav/clamd.ctl or 127.0.0.1:3310",
    "rspamd": "http://127.0.0.1:11333",
}
_TIME = re.compile(r"(\d{1,3})([sm])\Z")


def read_filter(words: Words) -> FilterDef:
    """`milter NAME WHERE [on failure WORD] [timeout TIME]`."""
    kind = words.verb.text.lower()
    name, place = words.name(f"the name of the {kind}"), words.last
    where = _url(words) if kind == "rspamd" else _where(words, kind)
    on_failure, timeout = "", 0
    while words.peek() is not None:
        if not on_failure and words.skip_word("on"):
            if not words.skip_word("failure"):
                raise words.missing('"failure"')
            on_failure = words.choice(FAILURES, "accept, defer, reject or hold")
        elif not timeout and words.skip_word("timeout"):
            timeout = _patience(words)
        else:
            raise words.missing('"on failure ...", "timeout ..." or the end of the line')
    return FilterDef(kind, name, where, on_failure, timeout, place=place)


def _where(words: Words, kind: str) -> str:
    text = words.next(_EXAMPLES[kind]).text
    if text.startswith("/"):
        raise words.complain(f'"{text}" is no host', f'did you mean "unix:{text}"?')
    for scheme, meant in (("inet:", _inet(text)), ("local:", f"unix:{text[6:]}")):
        if text.startswith(scheme):  # as others write it
            raise words.complain(f'"{text}" is no place', f'did you mean "{meant}"?')
    if text.startswith("unix:"):
        if not text.startswith("unix:/"):
            raise words.complain(f'"{text}" is no absolute path', 'expected "unix:/path"')
        return text
    if text.startswith(("http:", "https:")):
        raise words.complain(f'a {kind} speaks no HTTP: "{text}"', f"expected {_EXAMPLES[kind]}")
    return str(host_port(text, words.last, _PORTS[kind]))


def _inet(text: str) -> str:
    """`inet:PORT@HOST` and `inet:HOST:PORT` in our words."""
    port, at, host = text.removeprefix("inet:").partition("@")
    return f"{host}:{port}" if at else port


def _url(words: Words) -> str:
    text = words.next(_EXAMPLES["rspamd"]).text
    if not text.startswith("http://"):
        hint = f"expected {_EXAMPLES['rspamd']}"
        if not text.startswith(("https:", "unix:", "/")):
            hint = f'did you mean "http://{text}"?'
        raise words.complain(f'"{text}" is no URL with http', hint)
    parts = urlsplit(text)
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise words.complain(
            f'"{text}" says more than where rspamd is', f"expected {_EXAMPLES['rspamd']}"
        )
    return f"http://{host_port(parts.netloc, words.last, _PORTS['rspamd'])}"


def _patience(words: Words) -> int:
    text = words.word("a time such as 8s or 2m").text
    match = _TIME.match(text)
    if match is None:
        raise words.complain(f'"{text}" is no time', "expected e.g. 8s or 2m")
    seconds = int(match[1]) * (60 if match[2] == "m" else 1)
    if not 0 < seconds <= MOST_PATIENCE:
        raise words.complain(f"{text} is out of range", f"expected 1s to {MOST_PATIENCE // 60}m")
    return seconds


def read_ask(words: Words) -> Ask:
    """`ask NAME, NAME [conditions] [when ...]`."""
    start = words.place
    names = words.commas(lambda: words.name("the name of a milter, rspamd, clamd or policy"))
    a_condition = names[-1].lower() in CONDITIONS and words.peek() is not None
    if a_condition and not words.at_word(*CONDITIONS, "when"):
        raise words.complain("nobody is named", "expected the name of who is asked")
    for name in names:
        if names.count(name) > 1:
            raise words.complain(f"{name} is asked once", "expected each name once", start)
    tests: tuple[Condition, ...] = ()
    if words.at_word(*CONDITIONS):
        tests = conditions(words)
    return Ask(names, tests, when=when(words), place=words.verb.place)
