"""Authentication-Results (RFC 8601): what was checked, written down for who reads it later."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from typing import TYPE_CHECKING

from relayd.authentication.canonical import Field, without
from relayd.mail.address import AddressError, fold_domain

if TYPE_CHECKING:  # what verifies takes its time to load, and its memory
    from relayd.authentication.arc import ArcResult
    from relayd.authentication.dkim import DkimResult
    from relayd.authentication.dmarc import DmarcResult
    from relayd.authentication.spf import SpfResult

_TOKEN = re.compile(r"[!#$%&'*+.0-9A-Z^_`a-z{|}~/@-]+\Z")
_PIECE = re.compile(r'"(?:[^"\\]|\\.)*"|\\.|[();]|[^();"\\]+|.', re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_QUOTED_PAIR = re.compile(r"\\(.)")
_ENDS_VALUE = re.compile(r"[\s;]")
_BESIDE = " \t\v\f\N{ZERO WIDTH NO-BREAK SPACE}"  # what readers may pass over in front
_WORD = re.compile(r'[^" ]*"(?:[^"\\]|\\.)*"|[^ ]+')
_WIDTH = 78  # octets of a line, where it can be


class ResultsField:
    """One field in the making: our name, then a result after the other."""

    def __init__(self, authserv: str) -> None:
        self._parts: list[str] = [authserv]

    def spf(self, result: SpfResult, sender: str, helo: str) -> None:
        """Of MAIL, or of HELO where the reverse-path is null."""
        name, value = ("mailfrom", sender) if sender else ("helo", helo)
        self._add("spf", result.result, result.why, [(f"smtp.{name}", value)])

    def dkim(self, results: Iterable[DkimResult]) -> None:
        """Of each signature; without one, that there is none."""
        some = False
        for each in results:
            some = True
            properties = []
            if each.domain:
                properties = [
                    ("header.d", each.domain),
                    ("header.s", each.selector),
                    ("header.a", each.algorithm),
                    ("header.b", b64encode(each.signature[:6]).decode("ascii")),
                ]
            self._add("dkim", each.result, each.why, properties)
        if not some:
            self._add("dkim", "none", "", [])

    def dmarc(self, result: DmarcResult) -> None:
        """With the policy that the author's domain asks for."""
        comment = f"p={result.policy}" if result.published else result.why
        self._add("dmarc", result.result, comment, [("header.from", result.author)])

    def arc(self, result: ArcResult) -> None:
        """Of the chain that it came with (RFC 8617 section 10.2)."""
        self._add("arc", result.result, result.why, [("header.d", result.sealer)])

    def auth(self, login: str) -> None:
        """The client had logged in (RFC 8601 section 2.7.4)."""
        self._add("auth", "pass", "", [("smtp.auth", login)])

    def rdns(self, result: str, address: str, name: str) -> None:
        """The client's reverse name: `iprev` of RFC 8601 section 2.7.3."""
        self._add("iprev", result, name, [("policy.iprev", address)])

    def _add(self, method: str, result: str, why: str, properties: list[tuple[str, str]]) -> None:
        words = [f"{method}={result}"]
        if why:
            words.append(f"({_plain(why)})")
        words += [f"{name}={_value(value)}" for name, value in properties if value]
        self._parts.append(" ".join(words))

    def __bytes__(self) -> bytes:
        """The field, folded, with its final CRLF."""
        if len(self._parts) == 1:
            self._parts.append("none")
        lines = ["Authentication-Results: " + self._parts[0] + ";"]
        for number, part in enumerate(self._parts[1:], 2):
            end = ";" if number < len(self._parts) else ""
            line = " "
            for word in _words(part):
                if len(line) > 1 and len(line) + 1 + len(word) > _WIDTH:
                    lines.append(line)
                    line = "  "
                line += ("" if line.isspace() else " ") + word
            lines.append(line + end)
        return "\r\n".join(lines).encode("utf-8") + b"\r\n"


def _words(part: str) -> list[str]:
    """What may stand on a line of its own: a quoted string is one."""
    return _WORD.findall(part)


def _plain(text: str) -> str:
    """A comment's text: nothing in it ends it, or a line."""
    return "".join(each if " " <= each <= "~" and each not in "()\\" else " " for each in text)[
        :200
    ]


def _value(text: str) -> str:
    """A token as it is, all else as a quoted string."""
    if _TOKEN.match(text):
        return text
    clean = "".join(each if each.isprintable() else "?" for each in text)
    return '"' + clean.replace("\\", "\\\\").replace('"', '\\"') + '"'


def authserv_id(field: Field) -> str:
    """Whose results a field claims to be, folded; empty: nobody's (RFC 8601 section 2.2)."""
    text = field.body.decode("utf-8", "replace").replace("\r\n", "")
    return _first_value(without_comments(text, end=";"))


def _first_value(text: str) -> str:
    text = text.lstrip(_BESIDE)
    if text.startswith('"'):
        quoted = _QUOTED.match(text)
        return _folded(_QUOTED_PAIR.sub(r"\1", quoted[1]).strip()) if quoted is not None else ""
    return _folded(_ENDS_VALUE.split(text, maxsplit=1)[0])


def _folded(name: str) -> str:
    """A name as all its spellings are one: with U-labels it is the same as with A-labels."""
    name = name.rstrip(".")
    try:
        return fold_domain(name)
    except AddressError:
        return name.lower()


def _is_forged(field: Field, ours: str) -> bool:
    """Some reader may take it for ours."""
    if field.name != b"authentication-results":
        return False
    if authserv_id(field) == ours:
        return True
    text = field.body.decode("utf-8", "replace").replace("\r\n", "")
    joined = _first_value(without_comments(text, end=";", blank=""))
    # no token may be an encoded word (RFC 2047 section 5); who reads it decodes it perhaps
    return joined == ours or joined.startswith("=?")


def without_comments(text: str, end: str = "", blank: str = " ") -> str:
    """The text without its comments, however they nest; up to the first `end` outside of them.

    `blank`: what stands in the place of each, which is as good as one (RFC 5322 section 3.2.2).
    """
    kept: list[str] = []
    depth = 0
    for match in _PIECE.finditer(text):
        piece = match[0]
        if piece == "(":
            depth += 1
            kept.append(blank)
        elif piece == ")" and depth:
            depth -= 1
        elif piece == end and not depth:
            break
        elif not depth:
            kept.append(piece)
    return "".join(kept)


def without_forged(section: bytes, authserv: str) -> bytes:
    """A header section without fields that speak in our name (RFC 8601 section 5).

    The same octets where there is none.
    """
    if b"authentication-results" not in section.lower():
        return section
    ours = _folded(authserv)
    return without(section, lambda field: _is_forged(field, ours))
