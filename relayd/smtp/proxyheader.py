"""The PROXY protocol's header: whom a balancer speaks for, in version 1 and version 2.

It comes once, in front of everything else, TLS included (haproxy's doc/proxy-protocol.txt).
"""

from __future__ import annotations

import ipaddress
import re

from relayd.mail.value import dataclass

MAX_LINE = 107  # octets of version 1 with CRLF (section 2.1)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2 (section 2.2)

_LOCAL, _PROXY = 0, 1  # commands of version 2
_UNSPEC, _INET, _INET6, _UNIX = range(4)  # address families
_STREAM = 1  # transport
_ADDRESSES = {_INET: 4, _INET6: 16}  # octets of one address
_PORT = re.compile(r"(?:0|[1-9][0-9]{0,4})\Z")


class ProxyError(ValueError):
    """What came is no such header."""


@dataclass(frozen=True, slots=True)
class ProxiedClient:
    """The client that a balancer speaks for."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Header:
    """One header. Without a source the balancer speaks for itself, or for it knows not whom."""

    source: ProxiedClient | None
    size: int  # octets it took; what follows them is the client's


def read_header(octets: bytes) -> Header | None:
    """The header these octets begin with; None: there is more of it to come.

    Raises ProxyError, as soon as it is clear that there is none.
    """
    if octets[: len(SIGNATURE)] == SIGNATURE[: len(octets)]:
        return _version_2(octets)
    if octets[:6] == b"PROXY "[: len(octets)]:
        return _version_1(octets)
    raise ProxyError("no PROXY header")


def _version_1(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, MAX_LINE)
    if end < 0:
        if len(octets) >= MAX_LINE:
            raise ProxyError("the PROXY line does not end")
        return None
    words = octets[:end].decode("latin-1").split(" ")
    if words[1] == "UNKNOWN":
        return Header(None, end + 2)  # "ignore anything presented before the CRLF"
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise ProxyError("the PROXY line is malformed")
    version = int(words[1][3])
    _source(words[3], words[5], version)  # where the balancer was called: only to be well-formed
    return Header(_source(words[2], words[4], version), end + 2)


def _source(address: str, port: str, version: int) -> ProxiedClient:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        raise ProxyError("the PROXY line holds no IP address") from None
    if parsed.version != version or "%" in address:
        raise ProxyError("the PROXY line's addresses are not of its family")
    if not _PORT.match(port) or int(port) > 0xFFFF:
        raise ProxyError("the PROXY line holds no port")
    return ProxiedClient(_text(parsed), int(port))


def _version_2(octets: bytes) -> Header | None:
    if len(octets) < 16:
        return None
    version, command = octets[12] >> 4, octets[12] & 15
    family, transport = octets[13] >> 4, octets[13] & 15
    length = int.from_bytes(octets[14:16], "big")
    if version != 2 or command not in (_LOCAL, _PROXY):
        raise ProxyError("a PROXY header of unknown version or command")
    if len(octets) < 16 + length:
        return None
    source = None
    if command == _PROXY and family in _ADDRESSES:
        if transport != _STREAM:
            raise ProxyError("a PROXY header for something else than TCP")
        source = _binary(octets[16 : 16 + length], _ADDRESSES[family])
    elif command == _PROXY and family not in (_UNSPEC, _UNIX):
        raise ProxyError("a PROXY header of unknown address family")
    return Header(source, 16 + length)


def _binary(block: bytes, width: int) -> ProxiedClient:
    """Addresses, then ports; the TLVs behind them are not looked at (section 2.2.7)."""
    if len(block) < 2 * width + 4:
        raise ProxyError("a PROXY header too short for its addresses")
    port = int.from_bytes(block[2 * width : 2 * width + 2], "big")
    return ProxiedClient(_text(ipaddress.ip_address(block[:width])), port)


def _text(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As Client.address has it: an IPv4 address is one, whatever socket it came through."""
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(address)
