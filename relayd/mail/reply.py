"""One SMTP reply as a value: its class is derived, so code and status cannot disagree."""

from __future__ import annotations

import enum
import functools
import re

from relayd.mail.value import dataclass

_STATUS = re.compile(r"([245])\.(\d{1,3})\.(\d{1,3})(?:\s+|\Z)")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


class Severity(enum.Enum):
    """The first digit of a reply code (RFC 5321 section 4.2.1)."""

    SUCCESS = 2
    INTERMEDIATE = 3
    TRANSIENT = 4
    PERMANENT = 5


_SEVERITY = {severity.value: severity for severity in Severity}


def printable(text: str, limit: int = 512) -> str:
    """A peer's text made safe for a log line, a header or a reply: one line, bounded."""
    return _UNSAFE.sub(" ", text).strip()[:limit]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply code, its enhanced status (RFC 3463; class taken from the code), and its lines.

    `subject` and `detail` below zero mean that the reply carries no enhanced status.
    """

    code: int
    subject: int
    detail: int
    lines: tuple[str, ...]

    @classmethod
    def of(cls, code: int, status: str, text: str) -> Reply:
        """`Reply.of(550, "5.7.1", "Relaying denied")`; the class digit of `status` is ignored."""
        _, subject, detail = status.split(".")
        return cls(code, int(subject), int(detail), (text,))

    @classmethod
    def bare(cls, code: int, *lines: str) -> Reply:
        """A reply without enhanced status: greeting, EHLO, 354 (RFC 2034 section 4)."""
        return cls(code, -1, -1, lines)

    @classmethod
    def received(cls, code: int, lines: tuple[str, ...]) -> Reply:
        """A remote server's reply, its text made printable and its status split off."""
        clean = tuple(printable(line) for line in lines)
        match = _STATUS.match(clean[0]) if clean else None
        if match is None or int(match.group(1)) != code // 100:
            return cls(code, -1, -1, clean)
        status = match.group(0).strip()
        rest = tuple(
            line[len(status) :].lstrip() if line.startswith(status) else line for line in clean
        )
        return cls(code, int(match.group(2)), int(match.group(3)), rest)

    @classmethod
    def parse(cls, text: str) -> Reply:
        """The inverse of str(); raises ValueError."""
        code, _, rest = text.partition(" ")
        if len(code) != 3 or not code.isdigit():
            raise ValueError(f"no reply code in {text!r}")
        return cls.received(int(code), (rest,))

    def or_status(self, subject: int, detail: int) -> Reply:
        """It with this enhanced status where it carries none (RFC 2034 wants one)."""
        if self.subject >= 0:
            return self
        return Reply(self.code, subject, detail, self.lines)

    @property
    def severity(self) -> Severity:
        """Success, intermediate, transient or permanent; a code out of range is transient."""
        return _SEVERITY.get(self.code // 100, Severity.TRANSIENT)

    @property
    def status(self) -> str:
        """The enhanced status code; `x.0.0` where the reply carried none."""
        return _status(self.code // 100, max(self.subject, 0), max(self.detail, 0))

    @property
    def text(self) -> str:
        """All lines as one."""
        return " ".join(self.lines)

    def wire(self) -> bytes:
        """The reply as sent (RFC 5321 section 4.2), status in front of every line (RFC 2034)."""
        prefix = f"{self.status} " if self.subject >= 0 else ""
        lines = self.lines or ("",)
        before = f"{self.code}-{prefix}"
        text = before + f"\r\n{before}".join(lines[:-1]) + "\r\n" if len(lines) > 1 else ""
        return f"{text}{self.code} {prefix}{lines[-1]}\r\n".encode()

    def __str__(self) -> str:
        status = f"{self.status} " if self.subject >= 0 else ""
        return f"{self.code} {status}{' '.join(self.lines)}"


@functools.lru_cache(256)
def _status(severity: int, subject: int, detail: int) -> str:
    return f"{severity}.{subject}.{detail}"
