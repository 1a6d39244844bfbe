"""The command line of sendmail(8), whose options are its own and not getopt's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

# sysexits.h
OK, USAGE, DATA_ERROR, NO_INPUT, UNAVAILABLE = 0, 64, 65, 66, 69
SOFTWARE, CANNOT_CREATE, TRY_AGAIN = 70, 73, 75
MAX_NAME = 250  # characters of a full name

# as getopt(3) would be told, by sendmail 8 and by Postfix
_WITH_VALUE = "ABbCDeFfhLMNOopQRrVX"
_ATTACHED = "dq"  # a value only if it is attached
_ALONE = "GimntUvIxJ"
_RET = {"full": "FULL", "hdrs": "HDRS"}
_NOTIFY = {"never": "NEVER", "success": "SUCCESS", "failure": "FAILURE", "delay": "DELAY"}
# line ends and their like, and octets that were no UTF-8
_UNFIT = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENVID = re.compile(r"[ -~]{1,100}\Z")


class UsageError(Exception):
    """What was asked cannot be done; `status` is the exit status."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass
class Order:
    """The command line."""

    mode: str = "m"  # m: a message; p: the queue; s: SMTP; i: newaliases; d, q, v ...
    every: str = ""  # how often to look into the queue (-q30m)
    sender: str | None = None
    name: str = ""  # full name, -F
    from_header: bool = False  # -t
    dots: bool = True  # a line with a dot alone ends the message
    recipients: list[str] = field(default_factory=list)
    body: str = ""
    ret: str = ""
    envid: str = ""
    notify: list[str] = field(default_factory=list)


def read_order(arguments: list[str]) -> Order:
    """What the command line asks for; raises UsageError."""
    order = Order()
    words = iter(arguments)
    for word in words:
        if word == "--":
            order.recipients += words
        elif len(word) > 1 and word[0] == "-":
            _options(order, word[1:], words)
        else:
            order.recipients.append(word)
    return order


def _options(order: Order, letters: str, words: Iterator[str]) -> None:
    """A word of options: any that stand alone, and one that takes the rest or the next word."""
    for number, letter in enumerate(letters, 1):
        rest = letters[number:]
        if letter in _ALONE:
            _flag(order, letter)
        elif letter in _ATTACHED:
            if letter == "q":
                order.mode, order.every = "q", rest
            return
        elif letter in _WITH_VALUE:
            value = rest or next(words, None)
            if value is None:
                raise UsageError(USAGE, f"option -{letter} wants a value")
            _valued(order, letter, value)
            return
        else:
            raise UsageError(USAGE, f"unknown option -{letter}")


def _flag(order: Order, letter: str) -> None:
    if letter == "t":
        order.from_header = True
    elif letter == "i":
        order.dots = False
    elif letter == "I":
        order.mode = "i"


def _valued(order: Order, letter: str, value: str) -> None:
    if letter == "b":
        order.mode = value[:1] or "m"
    elif letter == "o":  # -oi, -oem and the like; of all of them only -oi matters
        order.dots = order.dots and value != "i"
    elif letter in "fr":
        order.sender = value
    elif letter == "F":
        if _UNFIT.search(value) or len(value) > MAX_NAME:
            raise UsageError(USAGE, f"-F wants a name of up to {MAX_NAME} characters in one line")
        order.name = value
    elif letter == "B":
        order.body = value.upper()
        if order.body not in ("7BIT", "8BITMIME"):
            raise UsageError(USAGE, f"-B wants 7BIT or 8BITMIME, not {value!a}")
    elif letter == "R":
        order.ret = _RET.get(value.lower(), "")
        if not order.ret:
            raise UsageError(USAGE, f"-R wants full or hdrs, not {value!a}")
    elif letter == "V":
        if not _ENVID.match(value):
            raise UsageError(USAGE, "-V wants 1 to 100 printable ASCII characters")
        order.envid = value
    elif letter == "N":
        order.notify = [_NOTIFY.get(each, "") for each in value.lower().split(",")]
        if not all(order.notify) or ("NEVER" in order.notify and len(order.notify) > 1):
            what = "never, or some of failure, delay and success"
            raise UsageError(USAGE, f"-N wants {what}, not {value!a}")


def fit(name: str) -> str:
    """The system's idea of a full name, as a header field can hold it."""
    return _UNFIT.sub(" ", name)[:MAX_NAME]
