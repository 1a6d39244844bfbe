"""Plays dialogues: what a client says, what it must hear, and what content must arrive.

A dialogue is a file of lines:

    # text            a comment; the first one says what the dialogue shows
    # set: k k=v      how the server is set up: size=N line=N errors=N refusals=N idle=N
                      recipients=N normalise starttls auth auth-in-clear no-chunking no-smtputf8
                      no-dsn tls strict
    C: text           the client sends the text and CRLF; lines in a row are one write
    C> text           the client sends just the text, in which \\r \\n \\0 \\xNN \\\\ are escapes;
                      `{x*1000}` is a thousand times x
    S: text           the server's next reply; `*` stands for anything. Of a longer reply this is
                      the last line, unless the lines before it are spelled out (`S: 250-DSN`)
    S: (closed)       the server has closed the connection
    M: text           the next message accepted has this content (escapes as in C>)
    T:                TLS is established

The house that the dialogues are played in: recipients `@elsewhere.example` are refused with 550,
`later@` with 451, `refused@` is no welcome reverse-path, `lost@` fails after the content with 452.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

DIALOGUES = Path(__file__).parent
_ESCAPE = re.compile(r"\\(r|n|0|\\|x[0-9a-f]{2})|\{(.)\*(\d+)\}")
_PLAIN = {"r": "\r", "n": "\n", "0": "\0", "\\": "\\"}


@dataclass(frozen=True)
class Step:
    number: int  # line of the file
    kind: str  # C, S, M or T
    text: str
    octets: bytes = b""


@dataclass(frozen=True)
class Dialogue:
    name: str
    settings: dict[str, str]
    steps: tuple[Step, ...]

    @classmethod
    def read(cls, path: Path) -> Dialogue:
        settings: dict[str, str] = {}
        steps = []
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if line.startswith("# set:"):
                settings |= dict(word.partition("=")[::2] for word in line[6:].split())
            elif line and not line.startswith("#"):
                steps.append(_step(path, number, line))
        return cls(path.stem, settings, tuple(steps))


def _step(path: Path, number: int, line: str) -> Step:
    kind, mark, text = line[0], line[1:2], line[3:]
    if kind == "C" and mark == ":":
        return Step(number, "C", text, text.encode() + b"\r\n")
    if (kind == "C" and mark == ">") or (kind == "M" and mark == ":"):
        return Step(number, kind, text, unescape(text))
    if kind in "ST" and mark == ":":
        return Step(number, kind, text)
    raise ValueError(f"{path}:{number}: no line of a dialogue: {line!r}")


def unescape(text: str) -> bytes:
    r"""`a\r\n` as octets; `\x85` is that one octet, other characters are UTF-8."""
    octets = b""
    at = 0
    for match in _ESCAPE.finditer(text):
        octets += text[at : match.start()].encode()
        escape = match.group(1)
        if escape is None:
            octets += (match.group(2) * int(match.group(3))).encode()
        elif escape[0] == "x":
            octets += bytes([int(escape[1:], 16)])
        else:
            octets += _PLAIN[escape].encode()
        at = match.end()
    return octets + text[at:].encode()


def dialogues() -> list[Path]:
    """All dialogue files."""
    return sorted(DIALOGUES.glob("*.smtp"))


class Peer(Protocol):
    """The server a dialogue is played against."""

    messages: list[bytes]  # the contents accepted so far

    @property
    def closed(self) -> bool: ...
    def send(self, data: bytes) -> None: ...
    def receive(self) -> bytes:
        """What the server has said since the last call, all of it."""

    def start_tls(self) -> None: ...


def play(dialogue: Dialogue, peer: Peer, *, cut: int = 0) -> None:
    """Play it whole; `cut` is how many octets go into one write (0: as many as there are)."""
    heard: list[str] = peer.receive().decode().split("\r\n")[:-1]
    wanted: list[bytes] = []
    for turn in _turns(dialogue.steps):
        step = turn[0]
        where = f"{dialogue.name}.smtp:{step.number}"
        if step.kind == "S":
            _hear(where, step.text, heard, peer)
            continue
        if step.kind == "M":
            wanted.append(step.octets)
            continue
        if heard:
            raise AssertionError(f"{where}: the server also said {heard}")
        if step.kind == "T":
            peer.start_tls()
            continue
        octets = b"".join(said.octets for said in turn)
        for start in range(0, len(octets), cut or len(octets)):
            peer.send(octets[start : start + (cut or len(octets))])
        answer = peer.receive()
        assert answer.count(b"\n") == answer.count(b"\r\n") == answer.count(b"\r"), where
        heard += answer.decode().split("\r\n")[:-1]
    if heard:
        raise AssertionError(f"{dialogue.name}: the server also said {heard}")
    if peer.messages != wanted:
        raise AssertionError(f"{dialogue.name}: accepted {peer.messages}, not {wanted}")


def _turns(steps: Iterable[Step]) -> Iterator[list[Step]]:
    """Lines of the client in a row belong together; every other line is for itself."""
    said: list[Step] = []
    for step in steps:
        if step.kind == "C":
            said.append(step)
            continue
        if said:
            yield said
            said = []
        yield [step]
    if said:
        yield said


def _hear(where: str, text: str, heard: list[str], peer: Peer) -> None:
    if text == "(closed)":
        assert not heard, f"{where}: the server also said {heard}"
        assert peer.closed, f"{where}: the server is still there"
        return
    if text[3:4] != "-":
        while heard and heard[0][3:4] == "-":
            del heard[0]
    if not heard:
        raise AssertionError(f"{where}: the server said nothing, not {text!r}")
    line = heard.pop(0)
    pattern = ".*".join(re.escape(part) for part in text.split("*"))
    if not re.fullmatch(pattern, line):
        raise AssertionError(f"{where}: the server said {line!r}, not {text!r}")
