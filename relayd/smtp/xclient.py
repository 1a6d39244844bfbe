"""The argument of XCLIENT: what a named peer says of the client it speaks for.

Postfix's extension (XCLIENT_README): `attribute=value ...`, the values in xtext.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from relayd.dns.hostname import host_name
from relayd.mail.reply import Reply, printable
from relayd.smtp.events import XClient
from relayd.smtp.grammar import MAX_HELO, RemoteProtocolError, text_of
from relayd.smtp.xtext import XtextError, decode_xtext

ATTRIBUTES = ("NAME", "ADDR", "PORT", "PROTO", "HELO", "DESTADDR", "DESTPORT")
LOGIN = "LOGIN"  # offered, and believed, only where a listener says so

NO_ADDRESS = "0.0.0.0"  # nobody's: a client whose address the peer does not know
_TEMPORARILY = "[TEMPUNAVAIL]"
_UNKNOWN = ("[UNAVAILABLE]", _TEMPORARILY)
_HEX = re.compile(rb"\+([0-9A-F]{2})")
_MAX_VALUE = 255  # octets


def parse_xclient(argument: bytes, offered: tuple[str, ...]) -> XClient:
    """Read what the peer says; raises RemoteProtocolError: 501, or 550 for LOGIN not offered."""
    facts: dict[str, str | int] = {}
    seen = set()
    for word in text_of(argument).split(" "):
        if not word:
            continue
        name, equals, encoded = word.partition("=")
        name = name.upper()
        if name == LOGIN and name not in offered and encoded.upper() not in _UNKNOWN:
            raise RemoteProtocolError(Reply.of(550, "5.7.1", "LOGIN is not trusted here"))
        if not equals or name not in (*ATTRIBUTES, LOGIN):
            raise _bad(f"Unknown XCLIENT attribute {name[:40]}")
        if name in seen:
            raise _bad(f"XCLIENT attribute {name} given twice")
        seen.add(name)
        field, read = _READERS[name]
        value = _helo(encoded) if name == "HELO" else read(_decoded(name, encoded))
        if name == "NAME" and encoded.upper() == _TEMPORARILY:
            continue  # as if it had not been said: we may find it
        if field:
            facts[field] = value
    if not seen:
        raise _bad("Syntax: XCLIENT attribute=value ...")
    return XClient(**facts)  # type: ignore[arg-type]  # readers and fields are paired in the table


def _bad(text: str) -> RemoteProtocolError:
    return RemoteProtocolError(Reply.of(501, "5.5.4", printable(text, 200)))


def _decoded(name: str, encoded: str) -> str:
    """The value; empty where the peer does not know it."""
    if encoded.upper() in _UNKNOWN:
        return ""
    try:
        text = decode_xtext(encoded)
    except XtextError as error:
        raise _bad(f"XCLIENT {name} is not xtext: {error}") from None
    if not text or len(text) > _MAX_VALUE or not text.isprintable():
        raise _bad(f"Bad XCLIENT {name} value")
    return text


def _address(text: str) -> str:
    if not text:
        return NO_ADDRESS
    bare = text[5:] if text[:5].upper() == "IPV6:" else text
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        raise _bad("Bad XCLIENT ADDR value") from None
    if "%" in bare:
        raise _bad("Bad XCLIENT ADDR value")
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)


def _port(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()) or int(text) > 0xFFFF:
        raise _bad("Bad XCLIENT PORT value")
    return int(text)


def _protocol(text: str) -> str:
    if text.upper() not in ("", "SMTP", "ESMTP"):
        raise _bad("Bad XCLIENT PROTO value")
    return text


def _helo(encoded: str) -> str:
    """What the client called itself, which may be anything: what cannot be shown is a `?`."""
    if encoded.upper() in _UNKNOWN:
        return ""
    octets = _HEX.sub(lambda match: bytes.fromhex(match[1].decode()), encoded.encode())
    text = octets.decode("utf-8", "replace").replace("\ufffd", "?")
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return printable(shown, MAX_HELO)


def _name(text: str) -> str:
    """The name that the peer has looked up."""
    if text and not host_name(text):
        raise _bad("Bad XCLIENT NAME value")
    return host_name(text)


_Reader = Callable[[str], "str | int"]
_READERS: Mapping[str, tuple[str, _Reader]] = {
    "ADDR": ("address", _address),
    "PORT": ("port", _port),
    "HELO": ("helo", str),
    "LOGIN": ("login", str),
    "NAME": ("name", _name),
    # checked, and of no use here: EHLO or HELO follows
    "PROTO": ("", _protocol),
    "DESTADDR": ("", _address),
    "DESTPORT": ("", _port),
}
