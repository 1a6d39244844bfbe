"""Prints relayd.conf(5) out of etc/relayd/relayd.conf, whose comments explain every setting.

python3 packaging/manpage.py etc/relayd/relayd.conf
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

_SECTION = re.compile(r"### (.+?) #+\Z")
_SETTING = re.compile(r"#?([a-z][a-z-]+ .*|[a-z][a-z-]+)\Z")
_FACT = re.compile(r"(Example|Default): (.*)\Z")

_SENTENCE = re.compile(r"""(?<=[.!?]) +|(?<=[.!?][)"]) +""")

_HEAD = """\
.Dd November 22, 2026
.Dt RELAYD.CONF 5
.Os
.Sh NAME
.Nm relayd.conf
.Nd settings of the mail relay relayd
.Sh DESCRIPTION
.Xr relayd 8
reads
.Pa /etc/relayd/relayd.conf
and the files that it includes.
They hold one statement a line; a line that begins with a blank continues the one before.
A
.Ql #
where a word could begin starts a comment, and double quotes keep a word with blanks together.
These are the settings;
.Xr relayd-rules 5
has the rules and the definitions that stand beside them.
.Pp
Times are such as 90s, 5m, 4h, 1h30m, 5d; sizes such as 4096, 10MB, 50MiB.
Other files' paths are relative to the file they stand in.
.Pp
.Dl relayctl check
tells every mistake with its place;
.Dl relayctl reload
puts the settings in force, but for those that take a restart:
.Ic hostname , spool , node , away , control , metrics , console , workers , listen ,
.Ic resolver , relay-port .
Of
.Ic listen
that is its address; options of one that stays hold for the next session."""

_TAIL = """\
.Sh FILES
.Bl -tag -width Ds
.It Pa /etc/relayd/relayd.conf
.It Pa /etc/relayd/rules.d/*.rules
.El
.Sh SEE ALSO
.Xr relayd-rules 5 ,
.Xr relayctl 8 ,
.Xr relayd 8"""


def escaped(text: str) -> str:
    """As troff prints it, one sentence a line."""
    lines = _SENTENCE.split(text.replace("\\", "\\e").replace("-", "\\-"))
    lines = [line.replace('"', "\\(dq") for line in lines]
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in lines)


def blocks(text: str) -> Iterator[list[str]]:
    """Lines that stand together."""
    for blank, lines in groupby(text.splitlines(), lambda line: not line.strip()):
        if not blank:
            yield list(lines)


def body(lines: list[str]) -> Iterator[str]:
    """A block: what is said of it, and the settings it is about."""
    settings = [match[1] for line in lines if (match := _SETTING.match(line))]
    said = [line.removeprefix("#").strip() for line in lines if not _SETTING.match(line)]
    for setting in settings:
        name, _, value = setting.partition(" ")
        # `include` and what is like it are no settings, but stand beside them
        yield f".It Ic {name}" + (f" No {escaped(value)}" if value else "")
    if not settings:
        yield ".Pp"
    facts: list[tuple[str, str]] = []
    prose: list[str] = []
    for line in said:
        if match := _FACT.match(line):
            facts.append((match[1], match[2]))
        elif facts:  # a default that takes more than one line
            facts[-1] = (facts[-1][0], f"{facts[-1][1]} {line}")
        else:
            prose.append(line)
    yield escaped(" ".join(prose))
    for name, value in facts:
        yield f".br\n{name}: {escaped(value)}"


def page(text: str) -> str:
    """The manual page of a relayd.conf that explains itself."""
    parts = [_HEAD]
    inside = False
    for lines in blocks(text):
        if match := _SECTION.match(lines[0]):
            if inside:
                parts.append(".El")
            parts.append(f".Sh {match[1].upper()}\n.Bl -tag -width Ds")
            inside = True
        elif inside:
            parts.extend(body(lines))
    if inside:
        parts.append(".El")
    return "\n".join([*parts, _TAIL, ""])


if __name__ == "__main__":
    print(page(Path(sys.argv[1]).read_text("utf-8")), end="")
