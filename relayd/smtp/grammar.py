"""The text of SMTP commands: paths, parameters, xtext (RFC 5321 section 4.1.2 and extensions)."""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Callable, Collection, Mapping

from relayd.mail.address import LOCAL_PART, AddressError, Mailbox, ReversePath, check_domain
from relayd.mail.reply import Reply, printable
from relayd.smtp.events import MailParams, RcptParams
from relayd.smtp.xtext import XtextError, decode_orcpt, decode_xtext

MAX_HELO = 255  # octets of a HELO argument that we keep; a domain has no more
MAX_ENVID = 100  # octets, RFC 3461 section 4.4
MAX_ORCPT = 500  # octets, RFC 3461 section 4.2
_KNOWN = 1024  # arguments of MAIL and of RCPT: most are said again all day, and so remembered

# C0 and C1 controls, DEL, and what else str.splitlines() would take for the end of a line
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
# esmtp-keyword = (ALPHA / DIGIT) *(ALPHA / DIGIT / "-")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9\-]*\Z")
# esmtp-value = 1*(%d33-60 / %d62-126); RFC 6531 section 3.3 adds UTF8-non-ascii
_VALUE = re.compile(r"[\x21-\x3c\x3e-\x7e\u0080-\U0010ffff]+\Z")
# size-value = 1*20DIGIT
_SIZE = re.compile(r"[0-9]{1,20}\Z")
# chunk-size [ SP "LAST" ]; int() has a limit of its own, far beyond what any line holds by default
_CHUNK = re.compile(rb" *([0-9]{1,2000})(?: +(LAST))? *\Z", re.IGNORECASE)
# addr-type = atom
_ADDRESS_TYPE = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~\-]+\Z")

# a tab is a blank, but not within quotes; what is never closed reaches to the end
_TAB = re.compile(r'"(?:[^"\\]|\\.)*(?:"|\Z)|\t')
# a path with blanks within its angle brackets, or with two of them, or without any
_PIECE = r'(?:"(?:[^"\\]|\\.)*"|\\.|[^\s"\\<>])'
_SLOPPY_PATH = re.compile(
    rf"(?:<(?: *(?P<within>{_PIECE}*) *|<(?P<inner>{_PIECE}+)>)>|(?P<bare>{_PIECE}+))(?= |\Z)"
)
# Reverse-path or Forward-path and what follows, as RFC 5321 sections 4.1.1.2 and 4.1.2 have them;
# domains are not looked at, but for a dot at their end
_LETTER = re.compile(
    rf"(?:FROM|TO):<(?:(?:@[^\s<>:]+:)?{LOCAL_PART}(?:@[^\s<>]*[^\s<>.])?)?>(?: \S+)* *\Z",
    re.IGNORECASE,
)
# a path that is a local part alone
_LONE_LOCAL = re.compile(r'<("(?:[^"\\]|\\.)*"|[^\s"@<>:,;]+)>')

EMPTY_MAIL_PARAMS = MailParams()
EMPTY_RCPT_PARAMS = RcptParams()


class RemoteProtocolError(Exception):
    """The peer broke the protocol; `reply` is what it should hear."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def _bad(status: str, text: str, code: int = 501) -> RemoteProtocolError:
    return RemoteProtocolError(Reply.of(code, status, printable(text, 200)))


def text_of(octets: bytes) -> str:
    """A command's argument as text; RFC 6531 section 3.3 has it in UTF-8 and in nothing else."""
    try:
        text = octets.decode("ascii" if octets.isascii() else "utf-8")
    except UnicodeDecodeError:
        raise _bad("5.5.2", "Command is not valid UTF-8") from None
    if not text.isprintable():
        if "\t" in text:
            text = _TAB.sub(lambda match: match[0] if match[0] != "\t" else " ", text)
        if _CONTROL.search(text):
            raise _bad("5.5.2", "Control character in command")
    return text.rstrip(" ")  # RFC 5321 section 4.1.1: tolerate trailing white space


# -- HELO, EHLO ------------------------------------------------------------------------------


def parse_hello(argument: bytes, *, strict: bool = False) -> str:
    """The name a client gives itself. Sloppy ones are common and harmless; none is refused.

    `strict`: it has to be a domain or an address literal (RFC 5321 section 4.1.1.1).
    """
    name = printable(text_of(argument), MAX_HELO)
    if not name:
        raise _bad("5.5.4", "HELO and EHLO need your host name")
    if strict:
        try:
            check_domain(name)
        except AddressError as error:
            raise _bad("5.5.4", f"Not a host name: {error}") from None
    return name


# -- MAIL, RCPT ------------------------------------------------------------------------------


@functools.lru_cache(_KNOWN)
def parse_mail(
    argument: bytes, keywords: frozenset[str], origin: str = ""
) -> tuple[ReversePath, MailParams]:
    """`FROM:<reverse-path> parameters`. `keywords` are the parameters on offer.

    `origin` completes a path without a domain, where that is wanted (RFC 6409).
    """
    text = _after(argument, b"FROM:", "MAIL FROM:<address>")
    path: ReversePath
    if text.startswith("<>"):
        path, rest = None, _behind(text[2:], "MAIL FROM:<address>")
    else:
        path, rest = _path(text, "5.1.7", "MAIL FROM:<address>", origin)
    if not rest:
        params = EMPTY_MAIL_PARAMS
    else:
        params = MailParams(**_parameters(rest, keywords, _MAIL_PARAMETERS))  # type: ignore[arg-type]  # readers and fields are paired in the table
    if not text.isascii() and path is not None and not params.smtputf8:
        _require_ascii(path)
    return path, params


@functools.lru_cache(_KNOWN)
def parse_rcpt(
    argument: bytes, keywords: frozenset[str], smtputf8: bool, origin: str = ""
) -> tuple[Mailbox, RcptParams]:
    """`TO:<forward-path> parameters`; `smtputf8` says that MAIL asked for it."""
    text = _after(argument, b"TO:", "RCPT TO:<address>")
    if text[:12].lower() == "<postmaster>":  # RFC 5321 section 4.1.1.3
        path, rest = Mailbox(text[1:11], ""), _behind(text[12:], "RCPT TO:<address>")
    else:
        path, rest = _path(text, "5.1.3", "RCPT TO:<address>", origin)
    if not text.isascii() and not smtputf8:
        _require_ascii(path)
    if not rest:
        return path, EMPTY_RCPT_PARAMS
    params = RcptParams(**_parameters(rest, keywords, _RCPT_PARAMETERS))  # type: ignore[arg-type]  # readers and fields are paired in the table
    return path, params


def require_letter(argument: bytes) -> None:
    """Refuse the argument of MAIL or RCPT unless it is spelled as RFC 5321 has it."""
    if not _LETTER.match(argument.decode("utf-8", "replace")):
        raise _bad("5.5.4", "Not as RFC 5321 spells it, and this listener is strict")


def _after(argument: bytes, keyword: bytes, usage: str) -> str:
    """The path behind `FROM:` or `TO:`, and all that follows.

    Blanks around the keyword and within the brackets, and paths without any brackets, are against
    the book, and everywhere.
    """
    if argument[: len(keyword)].upper() != keyword:
        argument = argument.lstrip(b" \t")
        if argument[: len(keyword)].upper() != keyword:
            raise _bad("5.5.4", f"Syntax: {usage}")
    text = text_of(argument[len(keyword) :]).lstrip(" ")
    if text[:1] != "<" or text[1:2] == " ":
        text = _tidied(text)
    if text[:1] != "<":
        raise _bad("5.5.4", f"Syntax: {usage}")
    return text


def _tidied(text: str) -> str:
    """The path as it should have been written, and what follows; what is no path as it is."""
    match = _SLOPPY_PATH.match(text)
    if match is None:
        return text
    return f"<{match['within'] or match['inner'] or match['bare'] or ''}>{text[match.end() :]}"


def _completed(text: str, origin: str) -> str:
    """`<alice>` as `<alice@origin>`; everything else as it is."""
    match = _LONE_LOCAL.match(text) if origin else None
    return text if match is None else f"<{match[1]}@{origin}>{text[match.end() :]}"


def _path(text: str, status: str, usage: str, origin: str) -> tuple[Mailbox, str]:
    """Read `<mailbox>`; returns it and the text behind it. `origin` completes one without a domain.

    Path = "<" [ A-d-l ":" ] Mailbox ">"; the source route A-d-l is accepted and ignored
    (RFC 5321 appendix C).
    """
    start = 1
    if text[1:2] == "@":
        start = text.find(":") + 1
        if not start:
            raise _bad(status, "Source route without a mailbox")
    try:
        mailbox, rest = Mailbox.parse_prefix(text[start:])
    except AddressError as error:
        for meant in (_tidied(text), _completed(text, origin)):  # a blank before the bracket?
            if meant != text:
                return _path(meant, status, usage, origin)
        raise _bad(status, f"Bad address: {error}") from None
    if not rest:
        raise _bad("5.5.4", f"Syntax: {usage}, closing angle bracket missing")
    return mailbox, rest[1:] and _behind(rest[1:], usage)


def _behind(rest: str, usage: str) -> str:
    """What follows the closing angle bracket: nothing, or a blank and parameters."""
    if rest and rest[0] != " ":
        raise _bad("5.5.4", f"Syntax: {usage}")
    return rest


def _require_ascii(mailbox: Mailbox) -> None:
    if not (mailbox.local.isascii() and mailbox.domain.isascii()):
        # RFC 6531 section 3.5
        raise _bad("5.6.7", "Non-ASCII address needs the SMTPUTF8 parameter", 553)


_Reader = Callable[[str], object]


def _parameters(
    text: str, keywords: Collection[str], table: Mapping[str, tuple[str, _Reader | None]]
) -> dict[str, object]:
    """Read ` KEY=value KEY ...` into field values; each key once, and only known ones."""
    values: dict[str, object] = {}
    for word in text.split(" "):
        if not word:
            continue
        key, equals, value = word.partition("=")
        upper = key.upper()
        if upper not in keywords:
            if not _KEYWORD.match(key):
                raise _bad("5.5.4", f"Malformed parameter {word[:40]}")
            raise _bad("5.5.4", f"Parameter {key[:40]} is not supported", 555)
        field, reader = table[upper]
        if field in values:
            raise _bad("5.5.4", f"Parameter {upper} given twice")
        if reader is None:
            if equals:
                raise _bad("5.5.4", f"Parameter {upper} takes no value")
            values[field] = True
            continue
        if not _VALUE.match(value):
            raise _bad("5.5.4", f"Parameter {upper} needs a value")
        values[field] = reader(value)
    return values


def _size(value: str) -> int:
    if not _SIZE.match(value):
        raise _bad("5.5.4", "SIZE needs a number of octets")
    return int(value)


def _body(value: str) -> str:
    body = value.upper()
    if body not in ("7BIT", "8BITMIME"):
        raise _bad("5.5.4", "BODY must be 7BIT or 8BITMIME", 555)
    return body


def _ret(value: str) -> str:
    ret = value.upper()
    if ret not in ("FULL", "HDRS"):
        raise _bad("5.5.4", "RET must be FULL or HDRS")
    return ret


def _envid(value: str) -> str:
    envid = _xtext(value, "ENVID", MAX_ENVID)
    # RFC 3461 section 4.4: graphic characters and blanks of US-ASCII once decoded
    if not (envid.isascii() and envid.isprintable()):
        raise _bad("5.5.4", "ENVID must be printable ASCII")
    return envid


def _auth(value: str) -> str:
    if value == "<>":
        return ""
    address = _xtext(value, "AUTH", MAX_ORCPT)
    if _CONTROL.search(address):
        raise _bad("5.5.4", "Control character in AUTH")
    return address


def _xtext(value: str, key: str, limit: int) -> str:
    if len(value) > limit:
        raise _bad("5.5.4", f"{key} is too long")
    try:
        return decode_xtext(value)
    except XtextError as error:
        raise _bad("5.5.4", f"{key} is not xtext: {error}") from None


def _notify(value: str) -> frozenset[str]:
    words = value.upper().split(",")
    notify = frozenset(words)
    # notify-esmtp-value = "NEVER" / 1#notify-list-element
    known = notify <= {"SUCCESS", "FAILURE", "DELAY"} or notify == {"NEVER"}
    if not known or len(words) != len(notify):
        raise _bad("5.5.4", "NOTIFY must be NEVER, or some of SUCCESS,FAILURE,DELAY")
    return notify


def _orcpt(value: str) -> str:
    """`addr-type;address`, decoded: RFC 3461 section 4.2, for type utf-8 RFC 6533 section 3."""
    kind, semicolon, encoded = value.partition(";")
    if not (semicolon and encoded and _ADDRESS_TYPE.match(kind)):
        raise _bad("5.5.4", "ORCPT must be type;address")
    if len(value) > MAX_ORCPT:
        raise _bad("5.5.4", "ORCPT is too long")
    try:
        orcpt = decode_orcpt(kind, encoded)
    except XtextError as error:
        raise _bad("5.5.4", f"ORCPT is not xtext: {error}") from None
    if _CONTROL.search(orcpt):
        raise _bad("5.5.4", "Control character in ORCPT")
    return orcpt


_MAIL_PARAMETERS: Mapping[str, tuple[str, _Reader | None]] = {
    "SIZE": ("size", _size),
    "BODY": ("body", _body),
    "SMTPUTF8": ("smtputf8", None),
    "RET": ("ret", _ret),
    "ENVID": ("envid", _envid),
    "AUTH": ("auth", _auth),
    "REQUIRETLS": ("require_tls", None),
}
_RCPT_PARAMETERS: Mapping[str, tuple[str, _Reader | None]] = {
    "NOTIFY": ("notify", _notify),
    "ORCPT": ("orcpt", _orcpt),
}


# -- BDAT, AUTH ------------------------------------------------------------------------------


def parse_bdat(argument: bytes) -> tuple[int, bool] | None:
    """`chunk-size [ SP "LAST" ]` (RFC 3030 section 2); None: unreadable.

    The number may be as large as the line allows: it must be counted down even when it is
    far too large, for what follows is content and not commands.
    """
    match = _CHUNK.match(argument)
    return None if match is None else (int(match[1]), match[2] is not None)


def parse_auth(argument: bytes) -> tuple[str, bytes | None]:
    """`mechanism [ SP initial-response ]` (RFC 4954 section 4)."""
    words = [word for word in text_of(argument).split(" ") if word]
    if not 0 < len(words) <= 2:
        raise _bad("5.5.4", "Syntax: AUTH mechanism [initial-response]")
    if len(words) == 1:
        return words[0].upper(), None
    return words[0].upper(), b"" if words[1] == "=" else parse_base64(words[1].encode())


def parse_base64(line: bytes) -> bytes:
    """A line of SASL, in the one spelling that its octets have (RFC 4648 section 3.5)."""
    try:
        octets = base64.b64decode(line, validate=True)
    except binascii.Error:
        raise _bad("5.5.2", "Not base64") from None
    if base64.b64encode(octets) != line:  # the decoder overlooks needless padding
        raise _bad("5.5.2", "Not base64")
    return octets
