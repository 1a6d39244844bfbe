"""Policy services, Postfix's protocol: names and values in lines, one action in answer.

A request is lines of `name=value` and an empty one; the answer is `action=...` and an empty line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from relayd.mail.reply import Reply

MOST = 65536  # octets of an answer
_UNSAFE = re.compile(r"[\x00\r\n]")
_CODE = re.compile(r"([45]\d\d)(?:\s+(.*))?\Z", re.DOTALL)
_REFUSALS = {"REJECT": 554, "DEFER": 450, "DEFER_IF_PERMIT": 450, "DEFER_IF_REJECT": 450}
_WORDS = (
    "OK", "DUNNO", "HOLD", "DISCARD", "PREPEND", "REDIRECT", "BCC", "FILTER", "WARN", "INFO",
)  # fmt: skip


class PolicyError(Exception):
    """The service breaks the protocol; nothing that it said counts."""


@dataclass(frozen=True, slots=True)
class PolicyAction:
    """What a service wants: one of Postfix's access(5) actions."""

    word: str  # REJECT and DEFER have a reply; also OK, DUNNO, HOLD, PREPEND, ...
    text: str = ""
    reply: Reply | None = None


def request(attributes: Mapping[str, str]) -> bytes:
    """The octets of one question, in the order given; no value ends its line."""
    lines = [f"{name}={_UNSAFE.sub('?', value)}\n" for name, value in attributes.items()]
    return ("request=smtpd_access_policy\n" + "".join(lines) + "\n").encode(
        "utf-8", "surrogateescape"
    )


class PolicyAnswers:
    """Reads what a service says on one connection."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[PolicyAction]:
        """The actions that are whole by now. Raises PolicyError: the connection is to be closed."""
        self._data += data
        found = []
        while (end := self._data.find(b"\n\n")) >= 0:
            found.append(_action(self._data[:end]))
            self._data = self._data[end + 2 :]
        if len(self._data) > MOST:
            raise PolicyError("an answer without an end")
        return found


def _action(answer: bytes) -> PolicyAction:
    values = dict(
        line.split("=", 1) for line in answer.decode("utf-8", "replace").split("\n") if "=" in line
    )
    if "action" not in values:
        raise PolicyError("an answer without an action")
    word, _, text = values["action"].strip().partition(" ")
    word, text = word.upper(), text.strip()
    code = _CODE.match(values["action"].strip())
    if code is not None:
        return PolicyAction("REJECT", reply=_refusal(int(code[1]), code[2] or ""))
    if word in _REFUSALS:
        reply = _refusal(_REFUSALS[word], text or "Refused by policy")
        return PolicyAction("REJECT" if word == "REJECT" else word, reply=reply)
    if word not in _WORDS:
        raise PolicyError(f"the action {word[:40]!r}, which nobody knows")
    return PolicyAction(word, text)


def _refusal(code: int, text: str) -> Reply:
    return Reply.received(code, (text,)).or_status(7, 1)
